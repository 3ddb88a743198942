"""Files in, documents out: one module for each format.

A parser is a function `(path, id) -> Parsed` that `PARSERS` (`reading.py`) names by the ending of
the files that it reads. It raises `DataError`, or whatever its library raises, for a file that it
can't read; `read_files` reports that and goes on with the next one.
"""
