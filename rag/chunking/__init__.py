"""Chunkers: where a document is cut. Each is a module; `rag/options.py` names them."""
