"""What runs of a store measured: their cells found again, gathered into tables, and compared.

Everything is read from the run folders, so a sweep can be gathered by whoever has the store. The
verbs of `plumbrule/cli/verbs/` print what is made here, and `import plumbrule` has it in Python.
"""
