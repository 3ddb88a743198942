"""People as labellers: what they are asked, what they said, and the page they say it on.

The feedback stage writes questions into the store, `labels/<digest of the questions>/`, and stops
until they are judged. `plumbrule label` serves them (`server.py`), one person at a time or several,
and appends every judgement to that person's file before it answers. The stage then reads the files.
They share this folder and nothing else: neither knows how the other is run, and no judgement is
ever changed or removed by the stage.

A question is known by a digest of what is read on the page, and so is the folder. Labels therefore
belong to texts and not to a stage: another seed, code or config that asks the same finds them.

This file imports nothing, and the stage imports no server: a change of the page rebuilds no stage.
"""
