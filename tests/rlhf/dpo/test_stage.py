"""The stage: metrics, resuming, what is left out, refused, said and left behind."""

import dataclasses
import json
import math
import re
import signal
import subprocess
import sys

import pytest
import torch
from places import process_environment
from torch.optim import AdamW
from worlds.rankings import WORDS, chat, rankings_of, saved_rankings
from worlds.stages import run_stage, weights
from worlds.stages import small_dpo as small
from worlds.trackers import Stopped, StoppingTracker

from plumbrule.cli import verbs
from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Preference, read_records, write_records
from plumbrule.errors import ConfigError, DataError, TrainingError
from plumbrule.lm import adapters
from plumbrule.lm.adapters import with_adapter
from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.loading import load_policy, save_policy
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import PICKLES, Artifact
from plumbrule.store.checkpoints import newest
from rlhf.dpo import stage as dpo
from rlhf.dpo.pairs import encode_split

CPU = RuntimeConfig(device="cpu", micro_batch_size=8)


def build(config, given, out, runtime=CPU, tracker=None):
    return run_stage(dpo.run, config, given, out, runtime, tracker)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return rankings_of(tmp_path_factory.mktemp("dpo-inputs"), 8, 4)


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    """8 rankings, 24 pairs, 4 a step: 6 steps, checkpoints behind 3 and 6."""
    out, tracker = tmp_path_factory.mktemp("whole"), StoppingTracker()
    return out, build(small(), given, out, tracker=tracker), tracker.rows


def rewrite(given, change, name="records.jsonl"):
    """Let `change` edit the rows of a file of the rankings."""
    path = given["preferences"].file(name)
    rows = [row for _, row in read_rows(path)]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def samples(out):
    return [row for _, row in read_rows(out / "samples.jsonl")]


def notes(out):
    return json.loads((out / "notes.json").read_text("utf-8"))


# Training and what it came to


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_learns_a_separable_world(tmp_path, seed):
    given = rankings_of(tmp_path, num_train=60, num_held_out=40, seed=seed)
    config = small(seed=seed, num_train_epochs=3.0, batch_size=8, save_every=1000)
    metrics = build(config, given, tmp_path / "out")
    assert metrics["dpo/accuracy"] > 0.85
    assert metrics["dpo/accuracy_low"] > 0.75
    assert metrics["dpo/loss"] < 0.55  # log 2 = 0.69 before
    assert metrics["dpo/pairs"] == 180
    assert metrics["dpo/margin"] == pytest.approx(
        metrics["dpo/rewards_chosen"] - metrics["dpo/rewards_rejected"]
    )
    card = json.loads((tmp_path / "out" / "report_card.json").read_text("utf-8"))
    assert card["accuracy"]["n"] == 120
    rows = samples(tmp_path / "out")
    assert [row["id"] for row in rows] == ["p60", "p61", "p62"]
    good = [sum("good" in row[name] for row in rows) for name in ("response_before", "response")]
    assert good[1] > good[0]
    assert all("good" in row["best"] for row in rows)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"loss": "sigmoid", "label_smoothing": 0.1}, marks=pytest.mark.slow),
        {"loss": "robust", "label_smoothing": 0.1},
        pytest.param({"loss": "hinge"}, marks=pytest.mark.slow),
        pytest.param({"loss": "ipo", "beta": 0.5}, marks=pytest.mark.slow),
        {"pairs": "best_worst", "num_train_epochs": 6.0},
    ],
)
def test_the_other_settings_learn_too(tmp_path, changes):
    given = rankings_of(tmp_path, num_train=30, num_held_out=20)
    config = small(**{"num_train_epochs": 2.0, "save_every": 1000, "num_samples": 0, **changes})
    metrics = build(config, given, tmp_path / "out")
    assert metrics["dpo/accuracy"] > 0.75
    assert metrics["dpo/pairs"] == (30 if "pairs" in changes else 90)
    assert {p.dtype for p in load_policy(tmp_path / "out" / "model").model.parameters()} == {
        torch.float32
    }


def test_bfloat16_computes_and_float32_is_kept(tmp_path):
    """Two steps on a few pairs: emulated, one takes up to ninety times as long as in float32."""
    given = rankings_of(tmp_path, num_train=4, num_held_out=4)
    few = {"num_train_epochs": 0.6, "batch_size": 4, "num_samples": 0, "num_kl_prompts": 0}
    build(small(**few), given, tmp_path / "exact")
    build(small(**few, precision="bfloat16"), given, tmp_path / "out")
    exact, found = (
        load_policy(tmp_path / name / "model").model.state_dict() for name in ("exact", "out")
    )
    assert {p.dtype for p in found.values()} == {torch.float32}
    assert any(not torch.equal(found[name], exact[name]) for name in exact)


def response_nats(model, prompt, response):
    """Log p(response | prompt) by a plain loop in float64."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].detach()
    chances = torch.softmax(logits, -1)
    places = range(len(prompt), len(prompt) + len(response))
    said = zip(places, response, strict=True)
    return sum(math.log(chances[t - 1, token]) for t, token in said)


def test_measured_rewards_are_those_of_the_published_policy(given, whole):
    out, metrics, _ = whole
    start, end = load_policy(given["policy"].file("model")), load_policy(out / "model")
    start.model.double()
    end.model.double()
    held_out = read_records(Preference, given["preferences"].file("validation.jsonl"))
    split = encode_split(end, held_out, 96, "all", 0)
    rewards = [
        [
            0.1 * (response_nats(end.model, *answer[:2]) - response_nats(start.model, *answer[:2]))
            for answer in answers
        ]
        for answers in split.answers
    ]
    pairs = [(rewards[i][k], rewards[i][m]) for (i, k), (_, m) in split.pairs]
    assert len(pairs) == 12
    number = len(pairs)
    wanted = {
        "accuracy": sum(better > worse for better, worse in pairs) / number,
        "loss": sum(math.log1p(math.exp(worse - better)) for better, worse in pairs) / number,
        "margin": sum(better - worse for better, worse in pairs) / number,
        "rewards_chosen": sum(better for better, _ in pairs) / number,
        "rewards_rejected": sum(worse for _, worse in pairs) / number,
    }
    for name, value in wanted.items():
        assert metrics[f"dpo/{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_the_kl_is_that_of_the_answers_that_the_policy_samples(given, whole):
    out, metrics, _ = whole
    start, end = load_policy(given["policy"].file("model")), load_policy(out / "model")
    held_out = read_records(Preference, given["preferences"].file("validation.jsonl"))
    settings = {"max_new_tokens": small().max_new_tokens, "seed": small().seed, "rows_per_pass": 8}
    said = dpo.answers_to(end, held_out, **settings, temperature=1.0)
    start.model.double()
    end.model.double()
    gaps = []
    for p, sample in zip(held_out, said, strict=True):
        prompt = end.encode(p.messages)
        nats = [response_nats(policy.model, prompt, sample.tokens) for policy in (end, start)]
        gaps.append(nats[0] - nats[1])
    assert metrics["dpo/kl"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    assert "dpo/kl_low" not in metrics  # four held-out prompts are too few for bounds
    assert dpo.answers_to(end, held_out, **settings) != said  # those are greedy


def test_the_first_batch_is_logged_as_it_was_before_the_step(whole):
    rows = whole[2]
    assert sorted(rows) == list(range(1, 7))
    assert rows[1]["dpo/train_loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_dropout_in_the_models_config_changes_nothing(given, whole, tmp_path):
    policy = load_policy(given["policy"].file("model"))
    save_policy(policy, tmp_path / "policy" / "model")
    path = tmp_path / "policy" / "model" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    assert "attention_dropout" in config
    path.write_text(json.dumps(config | {"attention_dropout": 0.5}), "utf-8")
    with_dropout = {**given, "policy": Artifact.of(tmp_path / "policy", "sft")}
    assert build(small(), with_dropout, tmp_path / "out") == whole[1]
    assert weights(tmp_path / "out") == weights(whole[0])


def test_the_micro_batch_changes_rounding_only(given, whole, tmp_path):
    metrics = build(small(), given, tmp_path, RuntimeConfig(device="cpu", micro_batch_size=1))
    assert metrics["dpo/loss"] == pytest.approx(whole[1]["dpo/loss"], abs=1e-4)


def test_activations_that_are_computed_again_change_rounding_only(given, whole, tmp_path):
    runtime = dataclasses.replace(CPU, gradient_checkpointing=True)
    metrics = build(small(), given, tmp_path, runtime)
    assert metrics["dpo/loss"] == pytest.approx(whole[1]["dpo/loss"], abs=1e-4)


@pytest.mark.parametrize("stop_at", [2, 5, 6])
def test_stopped_and_resumed_gives_the_same_bytes(given, whole, tmp_path, stop_at):
    out, tracker = tmp_path / "out", StoppingTracker()
    with pytest.raises(Stopped):
        build(small(), given, out, tracker=StoppingTracker(stop_at))
    begun = newest(out / "checkpoints")
    assert (begun[0] if begun else 0) == (stop_at - 1) // 3 * 3
    broken = out / "checkpoints" / f"checkpoint-{stop_at}"
    broken.mkdir(exist_ok=True)
    (broken / "model.safetensors").write_bytes(b"half a file")
    torch.manual_seed(1234)  # another process has other random numbers
    metrics = build(small(), given, out, tracker=tracker)
    assert metrics == whole[1]
    same_files(out, whole[0])
    assert all(row == whole[2][step] for step, row in tracker.rows.items())
    assert min(tracker.rows) == (stop_at - 1) // 3 * 3 + 1


def same_files(out, other):
    assert weights(out) == weights(other)
    for name in ("samples.jsonl", "report_card.json", "notes.json"):
        assert (out / name).read_bytes() == (other / name).read_bytes()


KILLED = """
import os, signal
from pathlib import Path
from worlds.stages import run_stage, small_dpo as small
from worlds.trackers import StoppingTracker
from rlhf.dpo.stage import run
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact

class Killed(StoppingTracker):
    def log(self, metrics, update):
        if update == 5:
            os.kill(os.getpid(), signal.SIGKILL)

given = {{"policy": Artifact.of({policy!r}, "sft"),
          "preferences": Artifact.of({preferences!r}, "data")}}
runtime = RuntimeConfig(device="cpu", micro_batch_size=8)
run_stage(run, small(), given, Path({out!r}), runtime, Killed())
"""


@pytest.mark.slow
def test_killed_for_real_and_resumed_gives_the_same_bytes(given, whole, tmp_path):
    out = tmp_path / "out"
    places = {name: str(artifact.path) for name, artifact in given.items()}
    code = KILLED.format(out=str(out), **places)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=process_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert newest(out / "checkpoints")[0] == 3
    assert not (out / "model").exists()
    assert build(small(), given, out) == whole[1]
    same_files(out, whole[0])


def test_an_adapter_is_published_without_its_base_and_resumes_too(given, tmp_path):
    config = small(adapter=AdapterConfig(rank=2), learning_rate=1e-2)
    metrics = build(config, given, tmp_path / "whole")
    with pytest.raises(Stopped):
        build(config, given, tmp_path / "out", tracker=StoppingTracker(5))
    assert build(config, given, tmp_path / "out") == metrics
    names = ("whole", "out")
    files = [tmp_path / name / "model" / "adapter_model.safetensors" for name in names]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "out" / "model" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "model" / "ref").exists()
    policy = load_policy(tmp_path / "out" / "model")
    for row in samples(tmp_path / "out"):
        prompt = policy.encode(chat(row["prompt"].removeprefix("user: ")))
        ids = policy.encode_response(row["best"])
        start = load_policy(given["policy"].file("model"))
        after, before = (response_nats(p.model, prompt, ids) for p in (policy, start))
        assert after != pytest.approx(before, abs=1e-3)  # the adapter is loaded, and does something


def test_no_epochs_leave_the_policy_as_it_was(given, tmp_path):
    metrics = build(small(num_train_epochs=0.0), given, tmp_path)
    assert metrics["dpo/accuracy"] == 0.5
    assert metrics["dpo/loss"] == pytest.approx(math.log(2))
    assert metrics["dpo/rewards_chosen"] == metrics["dpo/rewards_rejected"] == 0.0
    assert metrics["dpo/kl"] == pytest.approx(0.0, abs=1e-5)
    start = (given["policy"].path / "model" / "model.safetensors").read_bytes()
    assert weights(tmp_path) == start
    assert all(row["response"] == row["response_before"] for row in samples(tmp_path))


def test_rounds_of_feedback_are_learned_from_together(tmp_path):
    given = rankings_of(tmp_path, 4, 2)
    more = saved_rankings(tmp_path / "more", 10, 4)
    fresh = [r for r in read_records(Preference, more / "records.jsonl") if int(r.id[1:]) >= 6]
    write_records(fresh, more / "records.jsonl")
    given["preferences_1"] = Artifact.of(more, "data")
    metrics = build(small(), given, tmp_path / "out")
    assert metrics["dpo/pairs"] == 3 * (4 + 4)
    card = json.loads((tmp_path / "out" / "report_card.json").read_text("utf-8"))
    assert card["num_prompts"] == 6


# What is left out, refused, said and published


def test_pairs_that_are_too_long_are_counted_and_said(tmp_path):
    given = rankings_of(tmp_path, 6, 3)
    long = " ".join(WORDS * 30)
    rewrite(given, lambda rows: rows[0]["responses"].__setitem__(0, long))  # 2 of 3 pairs
    rewrite(given, lambda rows: rows[1]["responses"].__setitem__(0, long), "validation.jsonl")
    tracker = StoppingTracker()
    metrics = build(small(), given, tmp_path / "out", tracker=tracker)
    assert tracker.said[0].startswith("dpo  27 answers with their prompts of ")
    assert tracker.said[0].endswith("; 4 pairs left out, longer than 96")
    assert metrics["dpo/pairs"] == 3 * 6 - 2
    assert metrics["dpo/pairs_too_long"] == 4
    assert notes(tmp_path / "out")[0] == (
        "4 pairs were left out: a prompt with its answer exceeds 96 tokens."
    )
    card = json.loads((tmp_path / "out" / "report_card.json").read_text("utf-8"))
    assert card["accuracy"]["n"] == 7


def test_everything_too_long_is_refused_with_the_limit(given, tmp_path):
    with pytest.raises(DataError, match=r"at least one pair must fit 9 tokens.*\(24 are longer"):
        build(small(max_tokens=9), given, tmp_path)


def test_ties_alone_are_refused_before_a_model_loads(tmp_path):
    given = rankings_of(tmp_path, 6, 3)
    rewrite(given, lambda rows: [row.update(ranks=[1, 1, 1], scores=None) for row in rows])
    rewrite(given, lambda rows: [row.pop("scores") for row in rows])
    absent = {**given, "policy": Artifact.of(tmp_path / "nowhere", "sft")}
    with pytest.raises(DataError, match=r"rankings \(=6\) must hold an answer that is ranked"):
        build(small(), absent, tmp_path / "out")


def test_no_rankings_are_refused(tmp_path):
    given = rankings_of(tmp_path, 2, 3)
    given["preferences"].file("records.jsonl").write_text("", "utf-8")
    with pytest.raises(DataError, match=r"records.jsonl.*rankings \(=0\) must hold"):
        build(small(), given, tmp_path / "out")


def test_without_held_out_pairs_it_trains_and_says_what_is_not_known(tmp_path):
    given = rankings_of(tmp_path, 4, 2)
    given["preferences"].file("validation.jsonl").write_text("", "utf-8")
    metrics = build(small(), given, tmp_path / "out")
    costs = {f"cost/{name}" for name in ("training_tokens", "training_flops", "labels")}
    assert set(metrics) == {"dpo/pairs", "dpo/pairs_too_long", *costs}
    assert metrics["cost/training_flops"] > metrics["cost/training_tokens"] > 0
    assert samples(tmp_path / "out") == []
    assert notes(tmp_path / "out") == [
        "No held-out pair was there to measure, so the accuracy is not known."
    ]


def test_a_held_out_prompt_that_is_trained_on_is_refused(tmp_path):
    given = rankings_of(tmp_path, 6, 4)
    given["preferences_1"] = Artifact.of(saved_rankings(tmp_path / "more", 8, 2), "data")
    with pytest.raises(DataError, match=r"2 held-out prompt\(s\), such as p6, must not be"):
        build(small(), given, tmp_path / "out")


def test_that_better_answers_became_less_likely_is_said():
    means = {"dpo/rewards_chosen": -0.4, "dpo/rewards_rejected": -1.23}
    both_fell = {"dpo/accuracy": 0.9, "dpo/pairs_too_long": 0.0, **means}
    (said,) = dpo.notes(both_fell, 0, 96)
    assert "mean reward is -0.4, that of the worse ones -1.23" in said
    assert dpo.notes({**both_fell, "dpo/rewards_chosen": 0.1}, 0, 96) == []
    assert dpo.notes({**both_fell, "dpo/rewards_chosen": 0.1}, 2, 96) == [
        "2 pairs were left out: an answer was cut before its first token."
    ]


def test_a_training_that_ends_in_nan_stops_the_stage(given, tmp_path, monkeypatch):
    """The last step itself may do it, whose loss was still a number."""
    taken = AdamW.step

    def ruin(self, closure=None):
        found = taken(self, closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(math.nan)
        return found

    monkeypatch.setattr(AdamW, "step", ruin)
    config = small(batch_size=24)  # one step
    with pytest.raises(TrainingError, match=r"log-probs of 12 answers must be finite; lower dpo"):
        build(config, given, tmp_path / "out")


def test_a_model_of_nans_stops_the_stage(given, tmp_path):
    broken = load_policy(given["policy"].file("model"))
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(math.nan)
    save_policy(broken, tmp_path / "policy" / "model")
    given = {**given, "policy": Artifact.of(tmp_path / "policy", "sft")}
    with pytest.raises(TrainingError, match=r"log-probs of 24 answers must be finite"):
        build(small(), given, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "dpo.beta (=0.0) must lie in"),
        ({"beta": math.nan}, "dpo.beta (=nan)"),
        ({"loss": "kto"}, "dpo.loss (=kto) must be one of hinge, ipo, robust, sigmoid"),
        ({"pairs": "some"}, "dpo.pairs (=some) must be one of all, best_worst"),
        ({"label_smoothing": 0.5}, "dpo.label_smoothing (=0.5)"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "dpo.label_smoothing (=0.1) must be 0 with"),
        ({"num_train_epochs": -1.0}, "dpo.num_train_epochs (=-1.0 epochs)"),
        ({"batch_size": 0}, "dpo.batch_size (=0 pairs)"),
        ({"learning_rate": 11.0}, "dpo.learning_rate"),
        ({"warmup_share": 1.1}, "dpo.warmup_share"),
        ({"adam_epsilon": -1.0}, "dpo.adam_epsilon"),
        ({"max_grad_norm": 0.0}, "dpo.max_grad_norm"),
        ({"precision": "float16"}, "dpo.precision (=float16)"),
        ({"max_tokens": 7}, "dpo.max_tokens (=7 tokens)"),
        ({"num_samples": -1}, "dpo.num_samples"),
        ({"num_kl_prompts": -1}, "dpo.num_kl_prompts"),
        ({"max_new_tokens": 0}, "dpo.max_new_tokens"),
        ({"save_every": 0}, "dpo.save_every (=0 steps)"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        small(**changes)


def test_what_it_leaves_holds_no_pickle_and_prints_nothing(given, tmp_path, capfd):
    build(small(), given, tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    out = tmp_path / "out"
    files = [p for p in out.rglob("*") if p.is_file() and "checkpoints" not in p.parts]
    assert {p.name for p in files} >= {
        "policy.json",
        "model.safetensors",
        "samples.jsonl",
        "report_card.json",
        "notes.json",
    }
    assert not [p for p in files if p.name.endswith(PICKLES)]
    assert len(list((out / "checkpoints").glob("checkpoint-*"))) == 2


@pytest.mark.parametrize("inherited", ["continue", "merge"])
def test_an_adapter_policy_is_trained_on_or_merged(given, tmp_path, adapted, inherited):
    start = adapted(given["policy"].file("model"), tmp_path / "policy" / "model")
    given = {**given, "policy": Artifact.of(start.parent, "dpo")}
    config = small(adapter=AdapterConfig(inherited=inherited))
    metrics = build(config, given, tmp_path / "out")
    assert metrics["dpo/kl"] > 0
    before, after = load_policy(start), load_policy(tmp_path / "out" / "model")
    assert (tmp_path / "out" / "model" / "model.safetensors").exists() == (inherited == "merge")
    if inherited == "merge":
        before = adapters.merged(before)
    weights = dict(before.model.named_parameters())
    moved = {n for n, w in after.model.named_parameters() if not torch.equal(weights[n], w)}
    assert moved == {n for n in weights if inherited == "merge" or "lora_" in n}
    same = build(small(adapter=config.adapter, num_train_epochs=0.0), given, tmp_path / "none")
    assert same["dpo/loss"] == pytest.approx(
        math.log(2)
    )  # the reference is the adapter, not its base


def test_an_adapter_on_the_output_layer_is_refused_with_a_command_that_works(
    given, tmp_path, monkeypatch
):
    policy = load_policy(given["policy"].file("model"))
    head = AdapterConfig(rank=2, targets=["lm_head", "q_proj"])
    save_policy(with_adapter(policy, head, 0, "x"), tmp_path / "policy" / "model")
    given = {**given, "policy": Artifact.of(tmp_path / "policy", "dpo")}
    with pytest.raises(ConfigError, match="must have no adapter on its output layer") as error:
        build(small(), given, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    found = re.search(r"plumbrule (merge \S+ --to [\w-]+)", str(error.value))
    assert verbs.main(found[1].split()) == 0
    given["policy"] = Artifact.of(tmp_path / "whole", "dpo")
    (tmp_path / "whole").mkdir()
    (tmp_path / "merged-policy").rename(tmp_path / "whole" / "model")
    build(small(num_train_epochs=0.0), given, tmp_path / "out")
