"""What a PPO checkpoint holds, so that a killed run ends with the very bytes of one that was not.

Weights of policy and value model, Adam's moments, and the metrics of the last update. There is no
random state: every random number is keyed by (seed, update, prompt, sample, token) or by (seed,
update, epoch). There is no data cursor: it follows from the update. There is no learning
rate: it is set anew for each update.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model

from rlhf.ppo_step import Learner


def save_state(folder: Path, learner: Learner, metrics: dict[str, float]) -> None:
    """Write the learner and the last update's metrics into `folder`."""
    for name, model in learner.models.items():
        save_model(model, str(folder / f"{name.replace(' ', '_')}.safetensors"))
    torch.save(learner.optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def load_state(folder: Path, learner: Learner) -> dict[str, float]:
    """Put what `save_state` wrote into `learner`; return the metrics."""
    for name, model in learner.models.items():
        load_model(model, str(folder / f"{name.replace(' ', '_')}.safetensors"))
    state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    learner.optimizer.load_state_dict(state)
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
