"""Stage `best_of_n`: what the best of n answers by a reward would give, for every n at once.

From one set of N sampled answers per prompt (a feedback artifact has them), the mean over all
subsets of n answers, not over a few that are drawn, is known exactly: sorted by reward, answer i is
the best of C(i - 1, n - 1) of the C(N, n) subsets (Nakano et al. 2021, arXiv:2112.09332, appendix
I). So the curve from 1 to N is unbiased at every n and its points share their samples.

1. Score every held-out answer by the reward.
2. For each prompt and n, the expected reward and the expected utility of the best answer, and their
   gain over n = 1; means and intervals over prompts.
3. Write `curve.json`, `prompts.jsonl` (the curve of each prompt), the table of the report, and the
   best and worst answers to a few prompts.

`kl_bound` is log n - (n - 1) / n, an upper bound of the KL of best-of-n from its policy, exact only
where no two answers are alike (Beirami et al. 2024, arXiv:2401.01879); where they repeat the KL is
lower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.data.splits import bootstrap_cluster
from plumbrule.errors import ConfigError
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import Interval, mean_interval
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import CURVE, NOTES, PROMPTS, REPLIES, SAMPLES, TABLES
from plumbrule.store.headline import publish
from plumbrule.store.json_files import write_json, write_jsonl
from rlhf.best_of_n.config import BestOfNConfig
from rlhf.rewards.scored_answers import AnsweredPrompt, read_answers, score_answers
from rlhf.rewards.terms import open_terms

NUM_SHOWN = 8
"""Prompts whose answers are written to samples.jsonl."""


def run(
    config: BestOfNConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Score, estimate and write; return the headline metrics `best_of_n/*`.

    Raises: ConfigError: the reward has no reward model, or a size is more than there are answers.
    DataError: no prompt has answers. TrainingError: a term raises, or gives NaN or Inf.
    """
    # 1 score
    scorers = open_terms(config.reward, inputs, runtime, out / REPLIES)
    prompts = read_answers(inputs["samples"].file(SAMPLES), config.split)
    wanted = sizes(config.sizes, min(len(p.responses) for p in prompts))
    rewards = score_answers(prompts, scorers, config.reward, tracker)
    # 2 the curve
    curve = [point(n, prompts, rewards) for n in wanted]
    # 3 write
    write_prompts(out / PROMPTS, wanted, prompts, rewards)
    write_json(out / CURVE, curve)
    write_json(out / NOTES, config.reward.notes())
    write_json(out / TABLES, [table(curve)])
    write_samples(out / SAMPLES, prompts[:NUM_SHOWN], rewards[:NUM_SHOWN])
    last = curve[-1]
    metrics = {
        "best_of_n/n": float(last["n"]),
        "best_of_n/prompts": float(len(prompts)),
        "best_of_n/kl_bound": last["kl_bound"],
    }
    gains = [name for name in ("reward_gain", "utility_gain") if name in last]
    return metrics | publish({f"best_of_n/{name}": last[name] for name in gains}, out)


def sizes(given: Sequence[int] | None, most: int) -> list[int]:
    """Return the n of the curve: 1, those given (None: powers of 2), and `most`.

    Raises: ConfigError: one given is more than there are answers.
    """
    if given is not None and max(given, default=1) > most:
        raise ConfigError(
            f"best_of_n.sizes (={max(given)}) must be at most the number of answers to each prompt "
            f"(={most}); sample more."
        )
    wanted = given if given is not None else [2**k for k in range(most.bit_length())]
    return sorted({1, most, *(n for n in wanted if n <= most)})


def point(
    n: int, prompts: Sequence[AnsweredPrompt], rewards: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return the curve at n: means over prompts with intervals.

    Args: rewards: of each prompt's answers.
    """
    found: dict[str, Any] = {"n": n, "kl_bound": math.log(n) - (n - 1) / n}
    groups = [bootstrap_cluster(p.prompt.id, p.prompt.meta) for p in prompts]
    columns = {"reward": list(rewards)}
    if all(p.utilities is not None for p in prompts):
        columns["utility"] = [np.array(p.utilities) for p in prompts]
    for name, values in columns.items():
        best = [best_of(n, r, v) for r, v in zip(rewards, values, strict=True)]
        found[name] = mean_interval(best, groups).as_json()
        gains = [b - float(v.mean()) for b, v in zip(best, values, strict=True)]
        found[f"{name}_gain"] = mean_interval(gains, groups).as_json()
    return found


def best_of(n: int, rewards: np.ndarray, values: np.ndarray) -> float:
    """Return the expected value of the answer with the highest reward among n of N at random.

    Of answers with equal rewards each is as likely to be taken, so their values are averaged.

    Args: rewards, values: (N,). n: from 1 to N.
    Raises: ValueError: n is out of that range.
    """
    total = len(rewards)
    if not 1 <= n <= total:
        raise ValueError(f"n (={n}) must lie between 1 and the number of answers (={total}).")
    order = np.argsort(rewards, kind="stable")
    _, where, counts = np.unique(rewards[order], return_inverse=True, return_counts=True)
    fair = (np.bincount(where, values[order]) / counts)[where]
    subsets = math.comb(total, n)
    shares = [math.comb(i, n - 1) / subsets for i in range(total)]
    return float(np.dot(shares, fair))


def table(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the curve as a table of the report."""

    def cell(number: Mapping[str, Any] | None) -> str:
        return "" if number is None else Interval.from_json(number).text(3)

    names = [name for name in ("reward", "utility", "utility_gain") if name in curve[0]]
    return {
        "title": "best of n, over all subsets of the answers",
        "columns": ["n", "KL, at most (nats)", *(name.replace("_", " ") for name in names)],
        "rows": [
            [p["n"], f"{p['kl_bound']:.3f}", *(cell(p.get(name)) for name in names)] for p in curve
        ],
    }


def write_prompts(
    path: Path,
    wanted: Sequence[int],
    prompts: Sequence[AnsweredPrompt],
    rewards: Sequence[np.ndarray],
) -> None:
    """Write each prompt's expected reward, and utility where known, of its best of n answers."""
    rows = []
    for prompt, scores in zip(prompts, rewards, strict=True):
        columns = {"reward": scores}
        if prompt.utilities is not None:
            columns["utility"] = np.array(prompt.utilities)
        curves = {k: [best_of(n, scores, v) for n in wanted] for k, v in columns.items()}
        group = bootstrap_cluster(prompt.prompt.id, prompt.prompt.meta)
        rows.append({"id": prompt.prompt.id, "group": group, "n": list(wanted), **curves})
    write_jsonl(path, rows)


def write_samples(
    path: Path, prompts: Sequence[AnsweredPrompt], rewards: Sequence[np.ndarray]
) -> None:
    """Write each prompt's best and worst answer."""
    rows = []
    for prompt, scores in zip(prompts, rewards, strict=True):
        best, worst = int(np.argmax(scores)), int(np.argmin(scores))
        rows.append(
            {
                "prompt": prompt.prompt.messages[-1].content,
                "passages": list(prompt.passages),
                "best": prompt.responses[best],
                "best_reward": float(scores[best]),
                "worst": prompt.responses[worst],
                "worst_reward": float(scores[worst]),
            }
        )
    write_jsonl(path, rows)
