"""Plumbrule: RLHF alignment research from one command. Start at `plumbrule/cli/main.py`."""

__version__ = "0.1.0"
