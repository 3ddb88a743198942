"""A run as one archive for a reviewer, and its check: every hash, every number that items give."""
