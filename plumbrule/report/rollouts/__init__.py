"""The rollout browser: one HTML page over the rollouts that a PPO kept.

`files.py` reads `rollouts/*.parquet` of an artifact, of earlier versions too; `gap.py` sets the
reward beside the gold utility; `choice.py` says which rollouts a page holds where there are too
many; `packing.py` makes compressed bytes of them; `page.py` fills the template. `page.html` opens
from disk: data, style and scripts (`list.js`, `detail.js`, `draw.js`) stand in the one file, and it
asks for nothing else.
"""
