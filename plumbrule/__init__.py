"""Plumbrule: RLHF alignment research from one command. Start at `plumbrule/run.py`."""

__version__ = "0.1.0"
