"""Papers as configs: their sweeps, and their claims, which are checked against what was run.

`paper.py` says what a paper is, `paper_files.py` reads one from conf/paper, `sweep_words.py` makes
its commands, `expressions.py` is the language of claims, `outcomes.py` tells whether they hold.
"""
