"""`plumbrule convert`: a GGUF read (`gguf.py`) and a plain folder written (`convert.py`)."""
