"""Held-out prompts: gold utility, reward model's score and reward of one sampled response each.

The gold score stands for the truth that the reward model only approximates, as in Gao et al. 2023
(arXiv:2210.10760): where training raises `proxy` and not `gold`, the policy has overoptimised its
reward model. Both are given per prompt, so the rank correlation between them is measured on the
very responses that the policy gives. Only prompts whose `meta` names an answer (the empty one where
nothing can answer) have a gold score.

`reward` is what training maximises, summed as it sums it, and `reward_<term>` each term as it is:
reward models, classifiers, scorers behind a URL, functions of a plug-in.

How varied the responses are stands beside them (`eval/diversity.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import diversity
from eval.benchmarks.answers import sample_row
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.quantity import Quantity
from eval.benchmarks.retrieved.columns import (
    metric_names,
    retrieval_columns,
    retrieval_metrics,
    retrieval_quantities,
)
from eval.config import EvalConfig
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.atlas.gold import GoldUtility
from plumbrule.data.records import Prompt
from plumbrule.data.splits import bootstrap_cluster
from plumbrule.protocols import Episode, Scorer

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

RESPONSES = "response_"
"""In front of what is measured of a response beside the passages it was shown."""
CORRECTNESS = ("right", "supported", "admits", "wrong")
"""The gold utility's terms that are not about form."""


def asked(prompts: Sequence[Prompt], config: EvalConfig) -> Sequence[Prompt]:
    """Return the prompts that the policy is asked."""
    return prompts[: config.max_prompts]


def measure(prompts: Sequence[Prompt], condition: str, subject: Subject) -> Measured:
    """Return rows with `gold`, each `gold_<term>`, `proxy`, `reward`, each `reward_<term>`, `kl`,
    `words`, `finished`, the `response`, of the first ones its `self_bleu`, and under `rag` the
    `passages` and `retrieved/columns.py`'s.
    """
    config = subject.config
    chosen, what = asked(prompts, config), f"prompts {condition}"
    answered, notes = subject.respond(chosen, what, condition=condition)
    episodes = [one.episode for one in answered]
    gold = GoldUtility(config.gold)
    items = judged(episodes, condition, gold, subject.reward_model, subject.reward)
    kl = subject.log_ratios(answered)
    if kl is not None:
        items = [{**item, "kl": value} for item, value in zip(items, kl, strict=True)]
    for item, columns in zip(items, retrieval_columns(answered, condition, subject), strict=True):
        item.update(columns)
    for item, episode in zip(items, episodes, strict=True):
        item["response"] = episode.response
        if episode.passages:
            item["passages"] = list(episode.passages)
    alike = diversity.self_bleu([episode.response for episode in episodes])
    for item, value in zip(items, alike, strict=False):
        item["self_bleu"] = value
    samples = [
        sample_row("prompts", condition, episode, **shown(item))
        for episode, item in zip(episodes, items, strict=True)
    ]
    return Measured(items, samples[: config.num_samples], notes)


def shown(item: Row) -> dict[str, Any]:
    """Return the scores that stand beside a sample."""
    return {"gold": item.get("gold"), "proxy": item.get("proxy"), "reward": item.get("reward")}


def judged(
    episodes: Sequence[Episode],
    condition: str,
    gold: Scorer,
    reward_model: Scorer | None,
    reward: Scorer | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of episodes; gold's terms are those after their weights, which add up.

    `gold_correctness` is the sum of those that ask whether a response is right and honest, not how
    it is said.
    """
    rows: list[dict[str, Any]] = [
        {
            "id": episode.prompt.id,
            "group": bootstrap_cluster(episode.prompt.id, episode.prompt.meta),
            "condition": condition,
            "words": len(episode.response.split()),
            "finished": int(episode.finished),
        }
        for episode in episodes
    ]
    answered = [i for i, episode in enumerate(episodes) if "answer" in episode.prompt.meta]
    for name, column in score([episodes[i] for i in answered], gold).items():
        for i, value in zip(answered, column, strict=True):
            rows[i]["gold" if name == "score" else f"gold_{name}"] = float(value)
    for i in answered:
        rows[i]["gold_correctness"] = sum(rows[i].get(f"gold_{term}", 0.0) for term in CORRECTNESS)
    if reward_model is not None:
        for row, value in zip(rows, score(episodes, reward_model).get("score", ()), strict=True):
            row["proxy"] = float(value)
    for name, column in (score(episodes, reward) if reward is not None else {}).items():
        for row, value in zip(rows, column, strict=True):
            row["reward" if name == "score" else f"reward_{name}"] = float(value)
    if reward_model is None:  # then it is the reward's term rm, if anything is
        for row in rows:
            if "reward_rm" in row:
                row["proxy"] = row["reward_rm"]
    return rows


def score(episodes: Sequence[Episode], scorer: Scorer) -> dict[str, np.ndarray]:
    """Return what a scorer says of the episodes; nothing of none."""
    return dict(scorer.score(episodes)) if episodes else {}


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return mean gold, reward, their terms, proxy, KL and length, gold's and proxy's rank
    agreement, and how varied the responses are.
    """
    columns = dict.fromkeys(n for row in rows for n in row if n.startswith(("gold", "reward")))
    metrics = {name: intervals.mean(rows, name) for name in [*columns, "proxy", "kl", "words"]}
    metrics["finished"] = intervals.share(rows, "finished")
    metrics["gold_proxy_spearman"] = intervals.agreement(rows, "gold", "proxy")
    metrics |= diversity.summarise(rows, intervals)
    return known(metrics) | retrieval_metrics(rows, intervals, RESPONSES)


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return gold and reward, each with its terms, the reward model's score, length, self-BLEU."""
    gold = dict.fromkeys(name for row in rows for name in row if name.startswith("gold_"))
    rewards = dict.fromkeys(name for row in rows for name in row if name.startswith("reward_"))
    if len(rewards) == 1 and all(row.get("reward") == row[next(iter(rewards))] for row in rows):
        rewards = {}  # one term alone, at weight 1, is the reward, and is reported once
    return [
        Quantity("gold_gain", "gold", better=1, wins="gold_win_rate"),
        *(Quantity(f"gold_gain_{t.removeprefix('gold_')}", t, better=1) for t in gold),
        Quantity("reward_gain", "reward", better=1, wins="reward_win_rate"),
        *(Quantity(f"reward_gain_{t.removeprefix('reward_')}", t, better=1) for t in rewards),
        Quantity("proxy_change", "proxy", wins="proxy_win_rate"),
        Quantity("words_change", "words"),
        Quantity("self_bleu_change", "self_bleu"),
        *retrieval_quantities(RESPONSES),
    ]


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/<metric>_<kind>_<condition>`."""
    return [f"eval/{metric}_{kind}_{condition}"]


BENCHMARK = Benchmark(
    name="prompts",
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=(
        "gold",
        "gold_proxy_spearman",
        "gold_*",
        "proxy",
        "reward",
        "reward_*",
        "kl",
        "words",
        "finished",
        *(f"distinct_{n}" for n in diversity.DISTINCT),
        "self_bleu",
        *metric_names(RESPONSES),
    ),
    headline=headline,
    unit="entities",
    no_shots="it shows what the policy does with a plain question",
    both_conditions=True,
    signature=lambda config: diversity.signature(),
)
