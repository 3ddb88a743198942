"""Stage `win_rate`: which of two policies' answers to the same prompts a judge prefers.

1. Read the answers that two evaluations sampled, and the prompts that they are to.
2. Ask a language model as the judge, in both orders: a policy (`eval/reward_models/judge.py`), or a
   model behind an endpoint (`endpoint_judge.py`). Ask a reward model or reward, as far as the node
   has one.
3. Verdicts to win rates, with intervals over prompts.
4. Write.

A judge that prefers one answer in one order and the other one in the other has no verdict: a tie.
A pair of which the judge did not answer both orders is left out of the win rate, and
`judge_failure_rate` counts it.

`judge_first_share` is how often it prefers the answer that stands first, 0.5 without a position
bias, `judge_contradicts` the share of prompts whose two orders disagree. Equal answers are a tie
that nobody is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.benchmarks.quantity import items_file
from eval.comparisons.compare import pair
from eval.comparisons.config import WinRateConfig
from eval.comparisons.endpoint_judge import PairwiseEndpointJudge
from eval.comparisons.win_rates import (
    FAILED,
    ORDERS,
    PROMPTS,
    WinRate,
    as_row,
    conditions_of,
    judge_verdict,
    metrics_of,
    verdict,
    verdict_row,
    win_rates,
)
from eval.intervals import Intervals, Row, publish
from eval.reward_models.judge import PairwiseJudge
from eval.reward_models.rankings import Tested
from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Preference, Prompt, read_records
from plumbrule.errors import DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.loading import load_policy, resolve_device
from plumbrule.protocols import Episode, Scorer, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import Interval
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    EVALUATED,
    ITEMS,
    MODEL,
    NOTES,
    REPLIES,
    SAMPLES,
    VALIDATION,
    WIN_RATES,
)
from plumbrule.store.json_files import read_json, write_json, write_jsonl


class Answers(NamedTuple):
    """Two answers to one prompt. baseline, policy: item rows of the two evaluations."""

    prompt: Prompt
    baseline: Row
    policy: Row

    @property
    def equal(self) -> bool:
        """Whether there is nothing to choose between them."""
        return bool(self.baseline["response"] == self.policy["response"])

    @property
    def passages(self) -> tuple[str, ...]:
        """What both policies were shown; nothing where they were shown different passages."""
        old, new = (tuple(row.get("passages", ())) for row in (self.baseline, self.policy))
        return old if old == new else ()


def run(
    config: WinRateConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Return `<policy kind>/judge_win_rate`, `.../rm_win_rate`, ties, and the judge's orders.

    Writes `win_rates.json`, `items/<judge|rm>.jsonl`, `samples.jsonl` (answers side by side) and
    `notes.json`.

    Raises: DataError: an evaluation without answers, other prompts, or no answers that fit.
        TrainingError: an endpoint that answers nothing.
    """
    # 1
    answers = read_answers(inputs, config.max_prompts)
    kind = str(read_json(inputs["policy"].file(EVALUATED))["kind"])
    notes = notes_on(answers)
    intervals = Intervals(config.confidence)
    # 2
    verdicts: dict[str, list[dict[str, Any]]] = {}
    orders: list[dict[str, Any]] = []
    if "judge" in inputs:
        policy = load_policy(inputs["judge"].file(MODEL), device=resolve_device(runtime))
        judge: PairwiseJudge | PairwiseEndpointJudge = PairwiseJudge(
            policy, runtime.micro_batch_size, tracker
        )
        verdicts["judge"], orders, said = judged(answers, judge)
        notes += said
    elif config.endpoint.url is not None:
        judge = PairwiseEndpointJudge(config.endpoint, out / REPLIES, tracker)
        verdicts["judge"], orders, said = judged(answers, judge)
        notes += [*said, *judge.notes()]
    scorer = Inputs(inputs).scorer("rm", runtime)
    if scorer is not None:
        verdicts["rm"] = scored(answers, scorer)
    # 3
    rates: list[WinRate] = []
    for name, rows in verdicts.items():
        rates += win_rates(f"{name}_win_rate", PROMPTS, rows, conditions_of(verdicts), intervals)
    metrics: dict[str, Interval] = metrics_of(kind, rates)
    for name, column in (*((one, one) for one in ORDERS), ("failure_rate", FAILED)):
        share = intervals.share(orders, column)
        if share is not None:
            metrics[f"{kind}/judge_{name}"] = share
    # 4
    (out / ITEMS).mkdir(exist_ok=True)
    for name, rows in verdicts.items():
        write_jsonl(out / ITEMS / f"{name}.jsonl", rows)
    write_json(out / WIN_RATES, [as_row(one) for one in rates])
    write_jsonl(out / SAMPLES, samples(answers, verdicts, config.num_samples))
    write_json(out / NOTES, notes)
    return publish(metrics, out)


def read_answers(inputs: Mapping[str, Artifact], most: int | None) -> list[Answers]:
    """Return the two answers to each of the first `most` prompts, under each condition.

    Raises: DataError: an evaluation has no answers to held-out prompts, they are to different ones,
        or the prompts are not those.
    """
    rows = []
    for slot in ("baseline", "policy"):
        artifact = inputs[slot]
        if not artifact.has(items_file(PROMPTS)):
            raise DataError(
                f"input {slot} must hold answers to held-out prompts; give its evaluation an input "
                "prompts.",
                artifact.path,
            )
        path = artifact.file(items_file(PROMPTS))
        rows.append([row for _, row in read_rows(path)])
        if any("response" not in row for row in rows[-1]):
            raise DataError("rows must hold the response; evaluate the policy again.", path)
    file = inputs["prompts"].file(VALIDATION)
    records = {prompt.id: prompt for prompt in read_records(Prompt, file)}
    both = pair(rows[0], rows[1])
    lost = [old["id"] for old, _ in both if old["id"] not in records]
    if lost:
        raise DataError(
            f"prompt {lost[0]!r} and {len(lost) - 1} others were answered and are missing; give "
            "the node the prompts of both evaluations.",
            file,
        )
    chosen = set(list(dict.fromkeys(old["id"] for old, _ in both))[:most])
    found = [Answers(records[old["id"]], old, new) for old, new in both if old["id"] in chosen]
    if not found:
        raise DataError("the evaluations must hold an answer; raise eval.max_prompts.", file)
    return found


def notes_on(answers: Sequence[Answers]) -> list[str]:
    """Return sentences on equal answers and on passages that differ."""
    notes = []
    equal = sum(one.equal for one in answers)
    if equal:
        notes.append(f"{equal} of {len(answers)} pairs of answers are equal: ties.")
    differ = sum(
        one.baseline.get("passages", []) != one.policy.get("passages", []) for one in answers
    )
    if differ:
        notes.append(
            f"{differ} of {len(answers)} pairs were given different passages; the judge is shown "
            "none of them."
        )
    return notes


def judged(
    answers: Sequence[Answers], judge: PairwiseJudge | PairwiseEndpointJudge
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Return the judge's verdict rows, what is known of its orders, and notes.

    Raises: DataError: no pair of different answers fits the judge's context.
    """
    rankings = {i: as_ranking(one) for i, one in enumerate(answers) if not one.equal}
    fitting = {i: ranking for i, ranking in rankings.items() if judge.fits(ranking)}
    unfit = len(rankings) - len(fitting)
    if unfit and not fitting:
        raise DataError(
            f"none of {unfit} pairs of answers fits the judge's context; take a judge with a "
            "longer one, or shorter answers."
        )
    rows = {i: verdict_row(one.policy, 0.5) for i, one in enumerate(answers) if one.equal}
    scores, orders = judge.scores(list(fitting.values())) if fitting else ([], [])
    for i, values, order in zip(fitting, scores, orders, strict=True):
        if order.get(FAILED):
            kept = {name: answers[i].policy[name] for name in ("id", "group", "condition")}
            rows[i] = {**kept, FAILED: 1}
            continue
        win = judge_verdict(values[0], order["contradicts"])
        rows[i] = {**verdict_row(answers[i].policy, win), "preference": values[0]}
        rows[i] |= {name: order[name] for name in ORDERS}
    notes = []
    if unfit:
        notes.append(
            f"{unfit} of {len(answers)} pairs do not fit the judge's context; they are left out."
        )
    return [rows[i] for i in sorted(rows)], orders, notes


def as_ranking(answers: Answers) -> Tested:
    """Return what a judge is asked: the policy's answer and the baseline's, in that order."""
    prompt, row = answers.prompt, answers.policy
    preference = Preference(
        f"{row['id']} ({row['condition']})",
        prompt.messages,
        (str(row["response"]), str(answers.baseline["response"])),
        (1, 1),
        answers.passages,
    )
    return Tested(PROMPTS, preference, str(row["group"] or row["id"]))


def scored(answers: Sequence[Answers], scorer: Scorer) -> list[dict[str, Any]]:
    """Return verdict rows by a scorer, with both scores.

    Raises: DataError: the scorer has no total, since a term of it is normalised over a batch.
    """
    episodes = [
        Episode(
            one.prompt,
            tuple(row.get("passages", ())),
            str(row["response"]),
            bool(row["finished"]),
        )
        for one in answers
        for row in (one.baseline, one.policy)
    ]
    found = scorer.score(episodes)
    if "score" not in found:
        raise DataError(
            "the reward must have a score of a single response; take normalise=batch out of its "
            "terms."
        )
    numbers = [float(x) for x in found["score"]]
    return [
        {
            **verdict_row(one.policy, verdict(old, new)),
            "baseline": old,
            "policy": new,
        }
        for one, old, new in zip(answers, numbers[::2], numbers[1::2], strict=True)
    ]


def samples(
    answers: Sequence[Answers], verdicts: Mapping[str, Sequence[Row]], most: int
) -> list[dict[str, Any]]:
    """Return answers side by side with who preferred which: 1 the policy's, 0 the baseline's."""
    wins = {
        name: {(row["id"], row["condition"]): row.get("win") for row in rows}
        for name, rows in verdicts.items()
    }
    return [
        {
            "id": one.prompt.id,
            "benchmark": PROMPTS,
            "condition": one.policy["condition"],
            "prompt": one.prompt.messages[-1].content,
            "passages": list(one.passages),
            "baseline": one.baseline["response"],
            "response": one.policy["response"],
            **{
                f"{name}_win": own.get((one.prompt.id, one.policy["condition"]))
                for name, own in wins.items()
            },
        }
        for one in answers[:most]
    ]
