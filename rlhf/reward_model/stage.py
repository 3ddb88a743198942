"""Stage `rm`: a reward model from rankings, started from the policy that it will judge.

1. Rows: every answer becomes prompt, answer and terminal token. An answer that is too long is left
   out of its ranking; the pairs that it would have made are counted, in the metrics and in a note.
   Rankings may come from several inputs (`preferences`, `preferences_1`, ...: rounds of feedback);
   the last one's answers are those of step 2.
2. First answers of the policy are set aside for step 4, before training moves its weights.
3. Training (`training.py`).
4. Normalisation: mean and variance of the scores on the answers of step 2.
5. The report card: all held-out pairs (`report_card.py`), perturbed worse answers
   (`perturbations.py`) and rankings from elsewhere, scores of the policy's own answers; then
   everything is written.

The annotator's confidence is not used: a ranking counts in full or is left out of the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Message, Preference, read_records
from plumbrule.errors import DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.adapters import has_adapter, prepare_training
from plumbrule.lm.cost_metrics import ADAPTED, READ, TRAINED, cost_metrics, num_weights
from plumbrule.lm.frozen_layers import KeptStates, SplitTrunk, freeze_lower_layers
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import fits, load_policy, resolve_device
from plumbrule.lm.randomness import row_key
from plumbrule.lm.sizes.lengths import describe_lengths
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    CHECKPOINTS,
    MODEL,
    NOTES,
    REPORT_CARD,
    SAMPLES,
    SPLITS,
    VALIDATION,
)
from plumbrule.store.headline import publish
from plumbrule.store.json_files import write_json, write_jsonl
from rlhf.reward_model.config import RMConfig
from rlhf.reward_model.label_audit import audit
from rlhf.reward_model.losses import normalisation
from rlhf.reward_model.model import RewardModel, score_rows
from rlhf.reward_model.perturbations import adversarial, pairs_to_perturb
from rlhf.reward_model.preferences import refuse_leaks
from rlhf.reward_model.report_card import ScoredRanking, report_card
from rlhf.reward_model.reward_stats import RewardStats
from rlhf.reward_model.rows import TokenizedAnswer
from rlhf.reward_model.training import Ranking, pair, train

NUM_SHOWN = 8
"""Held-out rankings whose scored answers are written to samples.jsonl."""


class RankingSplit(NamedTuple):
    """The rankings of one split; rows[i][k]: answer k of ranking i."""

    preferences: list[Preference]
    rows: list[list[TokenizedAnswer]]
    rankings: list[Ranking]
    """What is trained on, answers that do not fit left out."""
    num_pairs: int
    num_too_long: int
    """Pairs that are left out with them."""


def run(
    config: RMConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Train, normalise, measure and write a reward model; return the headline metrics `rm/*`.

    Raises: DataError: a split without a pair that fits, or answers that can not normalise.
    TrainingError: a loss or score that is NaN or Inf.
    """
    policy = load_policy(inputs["policy"].file(MODEL), device=resolve_device(runtime))
    stats = RewardStats(config.append_terminal, config.precision, config.uses_token_logprobs)
    policy = prepare_training(policy, config.adapter, config.seed, "rm.adapter")
    model = RewardModel(policy, stats, seed=config.seed)
    if config.frozen_trunk:
        model.trunk.requires_grad_(False)
    split = freeze_below(model, config.unfrozen_layers)
    sources = list(Inputs(inputs).many("preferences").values())
    limit = min(config.max_tokens or policy.spec.context, policy.spec.context)
    # 1 rows and pairs
    training, held_out = (
        read_split(model, [source.file(name) for source in sources], limit, config, most)
        for name, most in zip(SPLITS.values(), (config.num_rankings, None), strict=True)
    )
    refuse_leaks(training.preferences, held_out.preferences)
    others = {
        slot: read_split(model, [source.file(VALIDATION)], limit, config)
        for slot, source in Inputs(inputs).many("ood").items()
    }
    too_long = training.num_too_long + held_out.num_too_long
    lengths = [len(row) for split in (training, held_out) for rows in split.rows for row in rows]
    said = describe_lengths("answers with their prompts", lengths, limit, too_long, "pairs")
    tracker.say(f"rm  {said}")
    # 2 answers of the policy as it is
    asked = [*held_out.preferences, *training.preferences]
    calibration = first_answers(model, sources[-1], asked, config)
    # 3 training
    if split is not None and config.num_train_epochs > 0:
        keep_states(model, split, training, runtime, out, tracker)
    train(model, training.rankings, config, runtime, out / CHECKPOINTS, tracker)
    model.keep_states(None)
    # 4 normalisation
    own = score_rows(model, calibration, runtime.micro_batch_size, tracker, "rm own answers")
    model.stats = normalised(model.stats, own)
    # 5 report card
    rankings = score_split(model, held_out, limit, runtime, tracker, "rm held out")
    scorer = text_scorer(model, limit, runtime, tracker)
    card = report_card(rankings)
    labels = audit([*training.preferences, *held_out.preferences])
    card |= {
        "labels": {name: interval.as_json() for name, interval in labels.items()},
        "adversarial": adversarial(pairs_to_perturb(rankings), scorer),
        "elsewhere": out_of_distribution_metrics(model, others, limit, runtime, tracker),
        "own_answers": distribution(model.stats, own),
    }
    model.save(out)
    write_json(out / REPORT_CARD, card)
    write_json(out / NOTES, notes(too_long, limit))
    write_jsonl(out / SAMPLES, sample_rows(rankings[:NUM_SHOWN], model.stats))
    metrics = {
        **publish({"rm/accuracy": card["accuracy"], **noise_free(card)}, out),
        "rm/ece": card["ece"]["value"],
        "rm/length_correlation": card["length_correlation"]["value"],
        **{f"rm/adversarial_{name}": x["value"] for name, x in card["adversarial"].items()},
        **{f"rm/accuracy_{slot}": x["accuracy"]["value"] for slot, x in card["elsewhere"].items()},
        **training_cost(
            model, training, config.num_train_epochs, split, frozen=config.frozen_trunk
        ),
        "rm/loss": card["loss"]["value"],
        "rm/pairs": float(training.num_pairs),
        "rm/pairs_too_long": float(too_long),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def freeze_below(model: RewardModel, top: int | None) -> SplitTrunk | None:
    """Freeze a reward model's trunk but its `top` upper layers; None: all of it learns.

    Raises: ConfigError: the model can't be split there.
    """
    if top is None:
        return None
    policy = model.policy
    return freeze_lower_layers(
        policy.model, top, policy.pad_id, "rm.unfrozen_layers", policy.source
    )


def keep_states(
    model: RewardModel,
    split: SplitTrunk,
    training: RankingSplit,
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> None:
    """Compute once what the frozen layers make of every training answer.

    Raises: ConfigError: the disk of `out` has too little space.
    """
    rows = [row.tokens for ranking in training.rankings for row in ranking.rows]
    device, precision = model.head.weight.device.type, model.stats.precision
    with torch.autocast(device, torch.bfloat16, precision == "bfloat16"):
        model.keep_states(KeptStates(split, rows, runtime.micro_batch_size, out, tracker))


def training_cost(
    model: RewardModel,
    training: RankingSplit,
    num_train_epochs: float,
    split: SplitTrunk | None = None,
    *,
    frozen: bool,
) -> dict[str, float]:
    """Return the tokens and FLOPs of training, and the rankings, as headline metrics.

    Frozen lower layers are read once, whatever the number of epochs.
    """
    each = READ if frozen else ADAPTED if has_adapter(model.policy) else TRAINED
    tokens = sum(len(row) for ranking in training.rankings for row in ranking.rows)
    below = 0 if split is None else num_weights(split.frozen.trunk)
    flops = each * (num_weights(model.trunk) - below) * tokens * num_train_epochs
    if num_train_epochs > 0:
        flops += READ * below * tokens
    trained, labels = tokens * num_train_epochs, len(training.preferences)
    return cost_metrics(training_tokens=trained, training_flops=flops, labels=labels)


def text_scorer(
    model: RewardModel, limit: int, runtime: RuntimeConfig, tracker: Tracker
) -> Callable[[Sequence[tuple[Preference, int, str]]], np.ndarray]:
    """Return a function from (preference, answer's place, other text) to raw scores (n,).

    A text that is too long is read as far as the limit goes.
    """

    def score(texts: Sequence[tuple[Preference, int, str]]) -> np.ndarray:
        rows = []
        for preference, place, text in texts:
            finished = preference.which_finished()[place]
            row = model.encode(preference.messages, preference.passages, text, finished)
            rows.append(TokenizedAnswer(row.tokens[:limit], row.begin))
        scores = score_rows(model, rows, runtime.micro_batch_size, tracker, "rm perturbed")
        return scores.numpy().astype(np.float64)

    return score


def out_of_distribution_metrics(
    model: RewardModel,
    others: Mapping[str, RankingSplit],
    limit: int,
    runtime: RuntimeConfig,
    tracker: Tracker,
) -> dict[str, Any]:
    """Return accuracy, calibration and correlation with length on each input `ood`, `ood_1`, ..."""
    found = {}
    for slot, split in others.items():
        card = report_card(score_split(model, split, limit, runtime, tracker, f"rm {slot}"))
        found[slot] = {name: card[name] for name in ("accuracy", "ece", "length_correlation")}
    return found


def distribution(stats: RewardStats, raw: Tensor) -> dict[str, float]:
    """Return quantiles and skewness of the policy's own answers' scores, normalised from `raw`."""
    scores = (raw.numpy().astype(np.float64) - stats.mean) / stats.std
    shares = {"lowest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "highest": 1.0}
    quantiles = {name: float(np.quantile(scores, share)) for name, share in shares.items()}
    return {**quantiles, "skewness": float(np.mean(scores**3)), "answers": len(scores)}


def noise_free(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the numbers of a card against utilities without noise by metric, if it has any."""
    if "noise_free" not in card:
        return {}
    found = card["noise_free"]
    numbers = {
        "accuracy_noise_free": found["accuracy"],
        "best_rule_accuracy": found["best_rule"],
        **{f"accuracy_noise_free_{k}": v for k, v in found["by_difference"].items()},
        **{f"labels_{k}": v for k, v in card["labels"].items()},
    }
    return {f"rm/{name}": number for name, number in numbers.items()}


def read_split(
    model: RewardModel,
    paths: Sequence[Path],
    limit: int,
    config: RMConfig,
    most: int | None = None,
) -> RankingSplit:
    """Return the rankings in the files `paths`, the first `most` of them all, encoded.

    Raises: DataError: a row that breaks the format, or no pair whose rows fit `limit` tokens.
    """
    preferences = [p for path in paths for p in read_records(Preference, path)][:most]
    model.policy.check_chats(preferences)
    rows = [encode_answers(model, preference) for preference in preferences]
    with_ties = config.ties != "ignore"
    fits_in = [fitting(p, own, limit, with_ties) for p, own in zip(preferences, rows, strict=True)]
    rankings = [ranking for ranking in fits_in if ranking is not None]
    if not any(ranking.pairs for ranking in rankings):
        raise DataError(
            f"at least one pair of ranked answers must fit {limit} tokens; raise rm.max_tokens or "
            "the policy's context, or give rankings that are not all ties.",
            paths[0],
        )
    num_all = sum(len(preference.pairs()) for preference in preferences)
    num_pairs = sum(len(ranking.pairs) for ranking in rankings)
    if config.loss == "pairs":
        rankings = [single for ranking in rankings for single in split_up(ranking)]
    return RankingSplit(preferences, rows, rankings, num_pairs, num_all - num_pairs)


def encode_answers(model: RewardModel, preference: Preference) -> list[TokenizedAnswer]:
    """Return the row of each answer."""
    return [
        model.encode(preference.messages, preference.passages, response, ended)
        for response, ended in zip(preference.responses, preference.which_finished(), strict=True)
    ]


def fitting(
    preference: Preference, answers: Sequence[TokenizedAnswer], limit: int, with_ties: bool = False
) -> Ranking | None:
    """Return the ranking of the answers of at most `limit` tokens, None if it says nothing.

    It does if it has an ordered pair or, `with_ties`, a tie. A stated margin is that of rank 1 over
    rank 2; other pairs have none.
    """
    kept = [k for k, row in enumerate(answers) if len(row) <= limit]
    place = {k: new for new, k in enumerate(kept)}
    ranks = preference.ranks
    pairs = [(i, j) for i, j in preference.pairs() if i in place and j in place]
    ties = [(i, j) for i in kept for j in kept if with_ties and i < j and ranks[i] == ranks[j]]
    if not pairs and not ties:
        return None
    first = {(i, j) for i, j in pairs if (ranks[i], ranks[j]) == (1, 2)}
    dense = {rank: place for place, rank in enumerate(sorted({ranks[k] for k in kept}), start=1)}
    return Ranking(
        rows=tuple(answers[k] for k in kept),
        ranks=tuple(dense[ranks[k]] for k in kept),
        pairs=tuple((place[i], place[j]) for i, j in pairs),
        margins=tuple((preference.margin or 0.0) if p in first else 0.0 for p in pairs),
        ties=tuple((place[i], place[j]) for i, j in ties),
    )


def split_up(ranking: Ranking) -> list[Ranking]:
    """Return each pair of a ranking as one of its own."""
    rows = ranking.rows
    ordered = [
        pair(rows[i], rows[j], margin)
        for (i, j), margin in zip(ranking.pairs, ranking.margins, strict=True)
    ]
    return ordered + [
        Ranking((rows[i], rows[j]), (1, 1), (), (), ((0, 1),)) for i, j in ranking.ties
    ]


def score_split(
    model: RewardModel,
    split: RankingSplit,
    limit: int,
    runtime: RuntimeConfig,
    tracker: Tracker,
    what: str,
) -> list[ScoredRanking]:
    """Return every ranking of the split with raw scores; None for rows beyond `limit` tokens."""
    flat = [row for rows in split.rows for row in rows if len(row) <= limit]
    scores = iter(score_rows(model, flat, runtime.micro_batch_size, tracker, what).tolist())
    return [
        ScoredRanking(p, tuple(next(scores) if len(row) <= limit else None for row in rows))
        for p, rows in zip(split.preferences, split.rows, strict=True)
    ]


def first_answers(
    model: RewardModel, source: Artifact, preferences: Sequence[Preference], config: RMConfig
) -> list[TokenizedAnswer]:
    """Return rows of the policy's first answers to at most `num_calibration_prompts` prompts.

    Held-out prompts come first, since training changes their scores least. A feedback artifact
    brings the answers; where the preferences are a data set they are sampled here, so call this
    before training moves the policy's weights. Rows that outrun the context are left out.
    """
    policy, most = model.policy, config.num_calibration_prompts
    if source.kind == "feedback":
        samples = [row for _, row in read_rows(source.file(SAMPLES)) if row["sample"] == 0]
        samples.sort(key=lambda row: row["split"] != "validation")
        rows = [
            model.encode(
                [Message(**m) for m in row["messages"]],
                row["passages"],
                row["response"],
                row["finished"],
            )
            for row in samples[:most]
        ]
    else:
        chats: dict[tuple, Preference] = {}
        for p in preferences:
            if len(chats) == most:
                break
            if fits(policy, p.messages, p.passages, config.sampling.max_new_tokens):
                chats.setdefault((p.messages, p.passages), p)
        asked = list(chats.values())
        answers = generate(
            policy,
            [policy.encode(p.messages, p.passages) for p in asked],
            sampling=config.sampling,
            keys=[row_key("reward calibration", config.seed, p.id) for p in asked],
        )
        rows = [
            model.encode(p.messages, p.passages, policy.decode(a.tokens), a.finished)
            for p, a in zip(asked, answers, strict=True)
        ]
    return [row for row in rows if len(row) <= policy.spec.context]


def normalised(stats: RewardStats, scores: Tensor) -> RewardStats:
    """Return the stats with mean and deviation of raw scores (n,) of the policy's own answers.

    Raises: DataError: fewer than two answers, or all score the same.
    """
    try:
        mean, std = normalisation(scores)
    except ValueError as error:
        raise DataError(
            f"the policy's answers (={len(scores)}) can not normalise the reward: {error} Give "
            "more prompts, or sample at a higher temperature."
        ) from None
    return dataclasses.replace(stats, mean=mean, std=std, num_samples=len(scores))


def notes(num_too_long: int, limit: int) -> list[str]:
    """Return the sentences that a report must show: what was left out."""
    if num_too_long == 0:
        return []
    return [f"{num_too_long} pairs were left out: a prompt with its answer exceeds {limit} tokens."]


def sample_rows(rankings: Sequence[ScoredRanking], stats: RewardStats) -> Iterator[dict[str, Any]]:
    """Yield one row per scored answer: its normalised score and the rank the annotator gave it."""
    for preference, scores in rankings:
        answers = zip(preference.responses, preference.ranks, scores, strict=True)
        for response, rank, score in answers:
            if score is not None:
                yield {
                    "id": preference.id,
                    "prompt": preference.messages[-1].content,
                    "passages": list(preference.passages),
                    "response": response,
                    "rank": rank,
                    "score": (score - stats.mean) / stats.std,
                }
