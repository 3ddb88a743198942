"""Stage `reject`: the best of each prompt's sampled answers, as demonstrations to fine-tune on.

Rejection sampling (Dong et al. 2023, arXiv:2304.06767; Touvron et al. 2023, arXiv:2307.09288,
section 3.2.3): sample K answers (a feedback artifact has them), keep the one that the reward likes
best, fine-tune on it, and do it again if wanted; each round is a pair of nodes. Answers that were
cut by their limit are never kept, nor those with a search call that did not work. Those with calls
become demonstrations with searches, from whose loss what was found is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from plumbrule.data.records import Demonstration, write_records
from plumbrule.errors import DataError
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import NOTES, REPLIES, SAMPLES, SPLITS
from plumbrule.store.json_files import write_json
from rlhf.best_of_n.config import RejectConfig
from rlhf.rewards.scored_answers import AnsweredPrompt, read_answers, score_answers
from rlhf.rewards.terms import open_terms


def run(
    config: RejectConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Score, choose and write demonstrations; return the headline metrics `reject/*`.

    Raises: DataError: no prompt of a split has a finished answer.
    """
    scorers = open_terms(config.reward, inputs, runtime, out / REPLIES)
    metrics: dict[str, float] = {}
    for split, name in SPLITS.items():
        prompts = read_answers(inputs["samples"].file(SAMPLES), split)
        rewards = score_answers(prompts, scorers, config.reward, tracker)
        kept = [chosen(p, r, config.keep) for p, r in zip(prompts, rewards, strict=True)]
        demonstrations = [
            Demonstration(
                f"{p.prompt.id}/{place}",
                p.prompt.messages,
                p.responses[place],
                p.passages,
                searches=() if p.searches is None else p.searches[place] or (),
            )
            for p, places in zip(prompts, kept, strict=True)
            for place in places
        ]
        if not demonstrations:
            raise DataError(
                f"split {split} must hold a finished answer that is not blank; raise "
                "feedback.sampling.max_new_tokens.",
                inputs["samples"].file(SAMPLES),
            )
        write_records(demonstrations, out / name)
        if split == "train":
            gains = [
                r[places].mean() - r[list(p.finished)].mean()
                for p, r, places in zip(prompts, rewards, kept, strict=True)
                if places
            ]
            metrics = {
                "reject/demonstrations": float(len(demonstrations)),
                "reject/prompts_left_out": float(sum(not places for places in kept)),
                "reject/reward_gain": float(np.mean(gains)),
            }
    write_json(out / NOTES, config.reward.notes())
    return metrics


def chosen(prompt: AnsweredPrompt, rewards: np.ndarray, keep: int) -> list[int]:
    """Return the places of the `keep` best distinct answers that ended by themselves."""
    places: list[int] = []
    texts: set[str] = set()
    order: Sequence[int] = np.argsort(-rewards, kind="stable").tolist()
    for place in order:
        text = prompt.responses[place]
        worked = prompt.searches is None or prompt.searches[place] is not None
        ended = prompt.finished[place] and worked
        if ended and text.strip() and text not in texts and len(places) < keep:
            places.append(place)
            texts.add(text)
    return places
