"""Whole runs against a plain float64 trainer: who samples what, and what is learnt from it.

The trainer below is written from the papers: a loop over updates and responses, one response at a
time, on the model's own softmax. Of ours it takes the tokens that a policy samples under a key, and
which prompts an epoch's order gives.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_reference import group_baseline
from torch import Tensor
from worlds import ppo as world

from plumbrule.lm.generation import generate
from plumbrule.lm.loading import Policy, load_policy
from plumbrule.lm.randomness import generator, row_key
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo import models as ppo_models
from rlhf.ppo.config import KLConfig, PPOConfig
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.prompts import batch_of
from rlhf.ppo.stage import run

GROUP, COEF, UPDATES = 4, 0.05, 5
BASE: dict[str, Any] = {
    "advantage": "rloo",
    "samples_per_prompt": GROUP,
    "num_mini_batches": 1,
    "num_ppo_epochs": 2,
    "total_episodes": 16 * UPDATES,
    "learning_rate": 1e-2,
    "missing_eos_penalty": 0.0,
    "kl": KLConfig(coef=COEF),
    "num_samples": 0,
}
CASES: dict[str, dict[str, Any]] = {
    "rollout": {"staleness": 1, "old_logprobs": "rollout"},
    "recompute": {"staleness": 1, "importance_cap": 1.05, "importance_floor": 0.9},
    "draws": {"dynamic_sampling_max_draws": 3},
    "both": {"staleness": 1, "old_logprobs": "rollout", "dynamic_sampling_max_draws": 2},
}


def token_logprobs(policy: Policy, prompt: list[int], response: list[int]) -> Tensor:
    """The log-prob of each token of a response, from the model's own softmax."""
    logits = policy.model(torch.tensor([[*prompt, *response]])).logits[0]
    table = logits.log_softmax(-1)
    return torch.stack([table[len(prompt) - 1 + j, token] for j, token in enumerate(response)])


def one_draw(policy: Policy, numbers: list[int], update: int, draw: int) -> list[Any]:
    """(prompt's tokens, sample, score) of GROUP responses to each prompt."""
    found = []
    for number in numbers:
        prompt = world.prompts()[number]
        tokens = policy.encode(prompt.messages)
        for i in range(GROUP):
            place = (0, update) if draw == 1 else (0, update, draw)
            key = row_key("ppo", *place, prompt.id, i)
            sampling = world.config().sampling
            (sample,) = generate(policy, [tokens], sampling=sampling, keys=[key])
            score = policy.decode(sample.tokens).split().count(world.GOOD) / 5
            found.append((tokens, sample, score))
    return found


def sampled(policy: Policy, update: int, max_draws: int) -> list[Any]:
    """DAPO, section 3.2: draw until every group's scores differ, or fill up with the others."""
    asked = batch_of(12, update, batch_size=16, samples_per_prompt=GROUP)[::GROUP]
    order = generator("ppo further prompts", 0, update).permutation(12).tolist()
    rest = [number for number in order if number not in asked]
    varied, equal = [], []
    for draw in range(1, max_draws + 1):
        rows = one_draw(policy, asked, update, draw)
        for start in range(0, len(rows), GROUP):
            group = rows[start : start + GROUP]
            (varied if max_draws == 1 or len({r[2] for r in group}) > 1 else equal).append(group)
        missing = 4 - len(varied)
        asked, rest = rest[:missing], rest[missing:]
    return [row for group in [*varied, *equal][:4] for row in group]


def reference_run(start: Path, case: dict[str, Any]) -> tuple[list[list[Any]], dict[str, Tensor]]:
    """Return each update's responses, and the weights at the end."""
    policy = load_policy(start, dtype=torch.float64)
    reference, behind = copy.deepcopy(policy), copy.deepcopy(policy)  # behind: one update older
    parameters = list(policy.model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-2, eps=1e-5)
    rollouts = []
    for update in range(1, UPDATES + 1):
        sampler = behind if case.get("staleness") else policy
        rows = sampled(sampler, update, case.get("dynamic_sampling_max_draws", 1))
        rollouts.append([row[1].tokens for row in rows])
        with torch.no_grad():
            mine = [token_logprobs(policy, p, s.tokens) for p, s, _ in rows]
            theirs = [token_logprobs(reference, p, s.tokens) for p, s, _ in rows]
        drawn_with = [torch.tensor(s.logprobs, dtype=torch.float32).double() for _, s, _ in rows]
        old = drawn_with if case.get("old_logprobs") == "rollout" else mine
        returns = [
            score - COEF * float((o - r).sum())
            for (_, _, score), o, r in zip(rows, old, theirs, strict=True)
        ]
        advantages = group_baseline(returns, GROUP, "rloo")
        behind.model.load_state_dict(policy.model.state_dict())
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - (update - 1) / UPDATES)
        for _ in range(2):
            total = torch.zeros((), dtype=torch.float64)
            for (prompt, sample, _), o, m, mu, a in zip(
                rows, old, mine, drawn_with, advantages, strict=True
            ):
                ratio = (token_logprobs(policy, prompt, sample.tokens) - o).exp()
                gain = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
                if "importance_cap" in case:
                    gain = (m - mu).exp().clamp(0.9, 1.05) * gain
                total = total - gain.sum()
            loss = total / sum(len(row[1].tokens) for row in rows)
            optimizer.zero_grad()
            loss.backward()
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
            for p in parameters:
                p.grad *= min(1.0, 1.0 / (norm + 1e-6))
            optimizer.step()
    return rollouts, {name: p.detach() for name, p in policy.model.named_parameters()}


@pytest.mark.detail(63)
@pytest.mark.detail(64)
@pytest.mark.parametrize("name", CASES)
def test_a_run_equals_the_plain_trainer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens in every update, and the same weights at the end, to 1e-8.

    The sampler's log-probs are float32, and Adam divides by gradients as small as its epsilon.
    """
    monkeypatch.setattr(ppo_models, "load_policy", partial(load_policy, dtype=torch.float64))
    inputs, out = world.build(tmp_path, exact=True), tmp_path / "out"
    out.mkdir()
    config: PPOConfig = world.config(**BASE, **CASES[name])
    run(config, inputs, world.runtime(), out, FileTracker(out))
    rollouts, weights = reference_run(tmp_path / "sft" / "model", CASES[name])
    for update, responses in enumerate(rollouts, 1):
        rollout = parquet.read(parquet.path_of(out / "rollouts", update))
        assert rollout.trajectory.responses == responses, update
    found = dict(load_policy(out / "model", dtype=torch.float64).model.named_parameters())
    assert found.keys() == weights.keys()
    for key, expected in weights.items():
        assert torch.allclose(found[key], expected, rtol=0, atol=1e-8), key
    start = dict(
        load_policy(tmp_path / "sft" / "model", dtype=torch.float64).model.named_parameters()
    )
    assert max(float((found[key] - start[key]).detach().abs().max()) for key in found) > 1e-2
