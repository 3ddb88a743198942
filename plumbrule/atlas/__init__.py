"""Atlas, the generated world that the default experiment lives in, and the gold utility.

- `datasets.records(role, config)`: every data set, as training and validation records;
- `benchmarks.write_official(config, folder)`: its benchmarks in HaluEval's and BOLD's own files;
- `gold.GoldUtility(config)`: the known human who judges responses.

Nothing here imports torch. This file imports nothing at all: a stage's fingerprint follows imports,
and a stage that is judged by the gold utility should not be rebuilt for a new kind of corpus row.
"""
