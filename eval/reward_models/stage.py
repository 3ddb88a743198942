"""Stage `eval_rm`: what a reward model, a classifier or a judge makes of rankings whose order is
known.

1. Read the sets: files that the config names, whole, and the held-out rows of inputs `preferences`.
2. Open what is tested: a reward model, a configured reward (which may be a classifier of the hub,
   or a scorer behind a URL), or a policy as a judge of pairs (`judge.py`).
3. Score each set, and pairs of it after rewrites that keep the meaning, with a checkpoint after
   each set.
4. Item rows to metrics with intervals over prompts, each beside the rules "the longer wins" and
   "the first wins".
5. Write.

A stage that was killed goes on behind the last set that it finished; scores depend on nothing that
was scored before.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from eval.intervals import Intervals, Metrics, publish
from eval.reward_models.config import ROLE, RewardEvalConfig, RewardSetConfig
from eval.reward_models.item_rows import item_rows
from eval.reward_models.judge import PairwiseJudge
from eval.reward_models.rankings import PAIRS, PROTOCOLS, Tested, rankings_of
from eval.reward_models.rewrites import REWRITES, rewrite_row, rewritten, summarise_rewrites
from eval.reward_models.summary import agreement_rows, summarise
from plumbrule.data.annotators import item_of
from plumbrule.data.readers import read
from plumbrule.data.records import Preference, Prompt, read_records
from plumbrule.errors import DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.loading import load_policy, resolve_device
from plumbrule.protocols import Episode, Scorer, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    CHECKPOINTS,
    ITEMS,
    METRICS,
    MODEL,
    NOTES,
    SAMPLES,
    VALIDATION,
)
from plumbrule.store.json_files import read_json, write_json, write_jsonl

Scored = Callable[[Sequence[Tested]], list[list[float]]]
"""Scores of the answers of rankings."""
NUM_SHOWN = 4
"""Rankings of each set whose scores are written to samples.jsonl."""


class SetScores(NamedTuple):
    """What scoring one set gave; all of it is JSON. people: of items that several ranked."""

    items: list[dict[str, Any]]
    rewrites: list[dict[str, Any]]
    people: list[dict[str, Any]]
    orders: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    notes: list[str]


def run(
    config: RewardEvalConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Score all sets; return the headline metrics `eval_rm/<set>_<metric>`.

    Writes `items/<set>.jsonl`, `items/<set>_rewrites.jsonl`, `metrics.json` (set -> metric ->
    value, low, high, n, groups), `samples.jsonl` and `notes.json`.

    Raises: DataError: a set without a ranking, or one that its protocol can't use; before any work.
    """
    # 1
    sets = read_sets(config, inputs)
    # 2
    judge = scorer = None
    if "judge" in inputs:
        policy = load_policy(inputs["judge"].file(MODEL), device=resolve_device(runtime))
        judge = PairwiseJudge(policy, runtime.micro_batch_size, tracker)
    else:
        scorer = Inputs(inputs).scorer("rm", runtime)
    # 3
    done = score_all(sets, scorer, judge, config, out)
    # 4
    intervals = Intervals(config.confidence, seed=config.seed)
    metrics = {name: metrics_of(found, intervals) for name, found in done.items()}
    # 5
    write(out, done, metrics)
    flat = {
        f"eval_rm/{name}_{metric}": interval
        for name, found in metrics.items()
        for metric, interval in found.items()
        if is_headline(metric)
    }
    return publish(flat, out)


def read_sets(
    config: RewardEvalConfig, inputs: Mapping[str, Artifact]
) -> dict[str, tuple[list[Tested], list[str]]]:
    """Return the rankings of each set by its name, and notes on what was left out.

    Raises: DataError: a set is called as an input is, no ranking is left, an unknown protocol, or
        what the reader raises.
    """
    sets: dict[str, tuple[list[Tested], list[str]]] = {}
    for one in config.sets:
        preferences, notes = read_set(one)
        sets[one.called] = (rankings_of(one.called, preferences), notes)
    for slot, artifact in Inputs(inputs).many(ROLE).items():
        if slot in sets:
            raise DataError(
                f"a set of eval_rm.sets must not be called {slot}, as an input of the node is; "
                "give it another name."
            )
        found = read_records(Preference, artifact.file(VALIDATION))
        sets[slot] = (rankings_of(slot, found), [])
    for name, (rankings, _) in sets.items():
        kept = [one for one in rankings if len(set(one.preference.ranks)) > 1]
        if not kept:
            raise DataError(f"set {name} must hold a ranking that orders two answers; add one.")
        for ranking in kept:
            if ranking.protocol not in PROTOCOLS:
                raise DataError(
                    f"ranking {ranking.preference.id!r}: meta.protocol (={ranking.protocol!r:.40}) "
                    f"must be one of {', '.join(PROTOCOLS)}."
                )
            item_rows(ranking, [0.0] * len(ranking.preference.responses), config.seed)
        tied = len(rankings) - len(kept)
        notes = [f"{name}: {tied} rankings order no pair and are left out."] if tied else []
        sets[name] = (kept, sets[name][1] + notes)
    return sets


def read_set(one: RewardSetConfig) -> tuple[list[Preference], list[str]]:
    """Return the rankings of a file and notes on the rows that gave none."""
    found: list[Preference] = []
    dropped: Counter[str] = Counter()
    for row in read(one.format, ROLE, one.path):
        if isinstance(row.record, Preference):
            found.append(row.record)
        else:
            dropped[row.dropped] += 1
    notes = [f"{one.called}: {n} rows left out: {why}." for why, n in dropped.items()]
    return found[: one.max_rows], notes


def score_all(
    sets: Mapping[str, tuple[list[Tested], list[str]]],
    scorer: Scorer | None,
    judge: PairwiseJudge | None,
    config: RewardEvalConfig,
    out: Path,
) -> dict[str, SetScores]:
    """Return what each set gave; those that a checkpoint holds are not scored again."""
    folder = out / CHECKPOINTS
    newest = checkpoints.newest(folder)
    done: dict[str, SetScores] = {}
    if newest is not None:
        files = {name: newest[1] / f"{name}.json" for name in sets}
        done = {n: SetScores(**read_json(path)) for n, path in files.items() if path.is_file()}
    for name, (rankings, notes) in sets.items():
        if name in done:
            continue
        done[name] = score_set(name, rankings, notes, scorer, judge, config)
        checkpoints.save(folder, len(done), lambda to: _save(to, done), keep=1)
    return {name: done[name] for name in sets}


def _save(folder: Path, done: Mapping[str, SetScores]) -> None:
    for name, found in done.items():
        write_json(folder / f"{name}.json", found._asdict())


def score_set(
    name: str,
    rankings: Sequence[Tested],
    notes: Sequence[str],
    scorer: Scorer | None,
    judge: PairwiseJudge | None,
    config: RewardEvalConfig,
) -> SetScores:
    """Return the rows of one set."""
    said = list(notes)
    orders: list[dict[str, Any]] = []
    score: Scored
    if judge is not None:
        kept = [one for one in rankings if judge.fits(one)]
        if len(kept) < len(rankings):
            said.append(
                f"{name}: {len(rankings) - len(kept)} of {len(rankings)} rankings hold two answers "
                "that do not fit the judge's context; they are left out."
            )
        rankings = kept
        scores, orders = judge.scores(rankings)
        score = judge.scores_alone
    else:
        assert scorer is not None
        score = partial(score_rankings, scorer)
        scores = score(rankings)
    items = [
        row
        for one, values in zip(rankings, scores, strict=True)
        for row in item_rows(one, values, config.seed)
    ]
    changed = rewrite_rows(rankings, scores, score, config) if config.rewrites else []
    samples = [
        {
            "id": one.preference.id,
            "benchmark": name,
            "condition": "closed",
            "prompt": one.preference.messages[-1].content,
            "responses": list(one.preference.responses),
            "ranks": list(one.preference.ranks),
            "scores": values,
        }
        for one, values in zip(rankings[:NUM_SHOWN], scores, strict=False)
    ]
    return SetScores(items, changed, people_rows(rankings, scores), orders, samples, said)


def score_rankings(scorer: Scorer, rankings: Sequence[Tested]) -> list[list[float]]:
    """Return a scorer's scores of the answers of each ranking.

    Raises: DataError: the scorer has no total, since a term of it is normalised over a batch.
    """
    episodes = [
        Episode(
            Prompt(one.preference.id, one.preference.messages, one.preference.meta),
            one.preference.passages,
            text,
            finished,
        )
        for one in rankings
        for text, finished in zip(
            one.preference.responses, one.preference.which_finished(), strict=True
        )
    ]
    if not episodes:
        return []
    found = scorer.score(episodes)
    if "score" not in found:
        raise DataError(
            "the reward must have a score of a single response; take normalise=batch out of its "
            "terms."
        )
    values = iter(float(x) for x in found["score"])
    return [[next(values) for _ in one.preference.responses] for one in rankings]


def rewrite_rows(
    rankings: Sequence[Tested],
    scores: Sequence[Sequence[float]],
    score: Scored,
    config: RewardEvalConfig,
) -> list[dict[str, Any]]:
    """Return a row for each rewrite of the first pairs: the verdict before and after."""
    pairs = [
        (one, i, j, (values[i], values[j]))
        for one, values in zip(rankings, scores, strict=True)
        for i, j in one.preference.pairs()[:1]
    ][: config.num_rewritten]
    rows = []
    for name in REWRITES:
        changed, before = [], []
        for one, i, j, old in pairs:
            preference = one.preference
            texts = tuple(rewritten(name, preference.responses[k], config.seed) for k in (i, j))
            if texts == (preference.responses[i], preference.responses[j]) or len(set(texts)) < 2:
                continue
            finished = preference.which_finished()
            pair = dataclasses.replace(
                preference,
                responses=texts,
                ranks=(1, 2),
                scores=None,
                finished=(finished[i], finished[j]),
                utilities=None,
                terms=None,
            )
            changed.append(one._replace(preference=pair))
            before.append(old)
        for one, old, new in zip(changed, before, score(changed), strict=True):
            rows.append(rewrite_row(name, one.preference.id, one.group, old, (new[0], new[1])))
    return rows


def people_rows(
    rankings: Sequence[Tested], scores: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    """Return a row for each item that several named annotators ranked."""
    by_item: dict[Any, list[Tested]] = {}
    verdicts: dict[str, float] = {}
    for one, values in zip(rankings, scores, strict=True):
        if one.preference.annotator and one.protocol == PAIRS:
            by_item.setdefault(item_of(one.preference), []).append(one)
            for text, value in zip(one.preference.responses, values, strict=True):
                verdicts[f"{one.group}\n{text}"] = value
    several = [
        labels
        for labels in by_item.values()
        if len({one.preference.annotator for one in labels}) > 1
    ]
    return agreement_rows(several, verdicts)


def metrics_of(found: SetScores, intervals: Intervals) -> Metrics:
    """Return a set's metrics: its own, those of rewrites, of people and of a judge's orders."""
    metrics = summarise(found.items, intervals)
    metrics |= {
        f"rewrite_{name}": one
        for name, one in summarise_rewrites(found.rewrites, intervals).items()
    }
    for rows, names in (
        (found.people, ("with_people", "among_people")),
        (found.orders, ("first_share", "contradicts")),
    ):
        for name in names:
            share = intervals.share(rows, name)
            if share is not None:
                metrics[name] = share
    return metrics


def is_headline(metric: str) -> bool:
    """Return whether a metric stands among those of the run; the others are in metrics.json."""
    return metric in (
        *("accuracy", "accuracy_longer", "accuracy_first", "score", "ties_score"),
        *("hard", "normal", "easy", "rewrite_flips", "with_people", "among_people"),
        *("first_share", "contradicts"),
    )


def write(out: Path, done: Mapping[str, SetScores], metrics: Mapping[str, Metrics]) -> None:
    """Write item rows, metrics, samples and notes."""
    (out / ITEMS).mkdir(exist_ok=True)
    for name, found in done.items():
        write_jsonl(out / ITEMS / f"{name}.jsonl", found.items)
        if found.rewrites:
            write_jsonl(out / ITEMS / f"{name}_rewrites.jsonl", found.rewrites)
    shown = {n: {m: one.as_json() for m, one in own.items()} for n, own in metrics.items()}
    write_json(out / METRICS, shown)
    write_jsonl(out / SAMPLES, (row for found in done.values() for row in found.samples))
    write_json(out / NOTES, [note for found in done.values() for note in found.notes])
