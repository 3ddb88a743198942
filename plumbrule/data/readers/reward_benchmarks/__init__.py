"""Formats of rankings on which reward models and judges are tested; nothing of them trains."""
