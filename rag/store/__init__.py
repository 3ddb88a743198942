"""The live store: a named database of documents that is searched while it changes."""
