"""The launcher of `plumbrule -m`: all cells of a sweep as one graph."""
