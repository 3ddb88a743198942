"""Formats of published preference data, one module each.

The data stage splits all of them by the first user turn, so rows of one post, one question or one
tree of messages stay on one side; a source's own split is kept. Answers that tie become equal
ranks, and `dataset.ties` says what becomes of them. Equal answers are no comparison: they are left
out and counted.
"""
