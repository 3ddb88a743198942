"""vLLM as the sampler: a process in an environment of its own, spoken to over pipes.

`engine_script.py` runs there and imports vLLM; everything else runs here and imports none of it.
"""
