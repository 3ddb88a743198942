import dataclasses
import json
import math
import signal

import forked
import numpy as np
import pytest
import torch
from worlds.stages import run_stage, weights
from worlds.towns import MODEL, SENTENCES, base, corpus
from worlds.trackers import Stopped, StoppingTracker

from plumbrule.errors import DataError, TrainingError
from plumbrule.lm.config import ModelConfig
from plumbrule.lm.loading import load_policy, new_model, train_tokenizer
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import PICKLES, Artifact
from plumbrule.store.checkpoints import newest
from plumbrule.tracking.stage_tracker import NullTracker
from sft.base.config import BaseConfig
from sft.base.corpus import CorpusText
from sft.base.held_out import HeldOutEvaluation
from sft.base.packed_rows import block_diagonal, token_nll
from sft.base.packing import Encoded, batch, pack
from sft.base.stage import make_optimizers, run, trapezoid
from sft.base.stage import train as train_rows

CONFIG = BaseConfig(
    model=MODEL, steps=12, batch_tokens=256, sequence_tokens=64, save_every=4, learning_rate=1e-2
)
CPU = RuntimeConfig(device="cpu")


def train(folder, tracker=None, config=CONFIG, runtime=CPU, data=None):
    data = data or (
        Artifact.of(folder / "data", "data")
        if (folder / "data").is_dir()
        else corpus(folder / "data")
    )
    out = folder / "out"
    return out, run_stage(run, config, {"corpus": data}, out, runtime, tracker)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder, metrics and logged rows."""
    tracker = StoppingTracker()
    out, metrics = train(tmp_path_factory.mktemp("whole"), tracker)
    return out, metrics, tracker.rows


# The learning rate


def test_trapezoid_by_hand():
    # 10 steps, 20 % warm-up: 1/2, 1; 40 % decay: 4/4, 3/4, 2/4, 1/4
    factors = [trapezoid(step, 10, 0.2, 0.4) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_trapezoid_without_slopes_and_with_overlapping_ones():
    assert [trapezoid(s, 3, 0.0, 0.0) for s in range(3)] == [1.0, 1.0, 1.0]
    # both shares 1 of 4 steps: rising 1/4..4/4 against falling 4/4..1/4
    assert [trapezoid(s, 4, 1.0, 1.0) for s in range(4)] == [0.25, 0.5, 0.5, 0.25]


# Packed rows


def test_attention_and_positions_by_hand():
    attention, positions = block_diagonal(torch.tensor([[0, 0, 1, 1, 1, -1]]))
    assert positions.tolist() == [[0, 1, 0, 1, 2, 0]]
    assert attention[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def packed_and_alone(attention):
    """Return the losses of three documents in one packed row, and of each alone."""
    model = new_model(MODEL, train_tokenizer(SENTENCES, 320), seed=0)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # so that predictions differ
    rng = np.random.default_rng(0)
    documents = [
        Encoded(rng.integers(6, 300, n).astype(np.int32), np.ones(n, np.float32))
        for n in (30, 20, 10)
    ]
    rows = pack(documents, 64, 0)
    assert len(rows.tokens) == 1
    together = token_nll(
        model,
        torch.from_numpy(rows.tokens).long(),
        torch.from_numpy(rows.documents),
        torch.from_numpy(rows.weights > 0),
    )
    alone = []
    for document in documents:  # transformers' own loss, one document a row
        tokens = torch.from_numpy(document.tokens).long()[None]
        logits = model(input_ids=tokens).logits[0, :-1].double()
        alone.append(-logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0])
    return together, torch.cat(alone)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_have_the_losses_that_they_have_alone(attention):
    together, alone = packed_and_alone(attention)
    assert alone.std() > 0.5
    torch.testing.assert_close(together.double(), alone, rtol=1e-4, atol=1e-4)


# The stage


def test_it_learns(whole, tmp_path):
    _, metrics, _ = whole
    untrained = dataclasses.replace(CONFIG, learning_rate=0.0, steps=1)
    _, before = train(tmp_path, config=untrained)
    assert metrics["base/loss"] < before["base/loss"] - 1.0


def test_what_it_leaves(whole):
    out, metrics, rows = whole
    policy = load_policy(out / "model")
    assert policy.spec.context == MODEL.context
    assert json.loads((out / "notes.json").read_text()) == []
    assert sorted(rows) == list(range(1, 13))
    assert set(rows[1]) == {"base/train_loss", "base/grad_norm", "base/learning_rate"}
    published = [p for p in out.rglob("*") if p.is_file() and "checkpoints" not in p.parts]
    assert not [p for p in published if p.name.endswith(PICKLES)]
    assert metrics["base/documents_split"] == 0
    assert 0 <= metrics["base/padding_share"] < 0.5


def test_measured_loss_is_that_of_the_held_out_texts(whole):
    out, metrics, _ = whole
    policy = load_policy(out / "model")
    nats = tokens = 0
    for text in SENTENCES[::5]:
        ids = policy.tokenizer(f"<|bos|>{text}<|eos|>", return_tensors="pt").input_ids
        logits = policy.model(input_ids=ids).logits[0, :-1].double()
        nats -= logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).sum().item()
        tokens += ids.shape[1] - 1
    num_bytes = sum(len(text.encode()) for text in SENTENCES[::5])
    assert metrics["base/loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert metrics["base/perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert metrics["base/bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


@pytest.mark.parametrize("stop_at", [3, 6, 12])
def test_stopped_and_resumed_gives_the_same_bytes(whole, tmp_path, stop_at):
    whole_out, whole_metrics, whole_rows = whole
    with pytest.raises(Stopped):
        train(tmp_path, StoppingTracker(stop_at))
    out, tracker = tmp_path / "out", StoppingTracker()
    begun = newest(out / "checkpoints")
    assert (begun[0] if begun else 0) == (stop_at - 1) // 4 * 4
    _, metrics = train(tmp_path, tracker)
    assert weights(out) == weights(whole_out)
    assert metrics == whole_metrics
    assert all(whole_rows[step] == row for step, row in tracker.rows.items())


KILLED = """
import importlib.util, sys
from pathlib import Path
from worlds.trackers import Pausing
spec = importlib.util.spec_from_file_location("test_base", sys.argv[2])
test_base = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_base)
folder = Path(sys.argv[1])
(folder / "out").mkdir()
test_base.train(folder, Pausing(folder / "out", 7))
"""


def test_killed_and_resumed_gives_the_same_bytes(whole, tmp_path):
    words = ["-c", KILLED, str(tmp_path), __file__]
    with forked.Forked(words) as process:
        assert process.stdout.readline() == "paused\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    (tmp_path / "out" / "checkpoints" / "checkpoint-8").mkdir()  # begun and never finished
    out, metrics = train(tmp_path)
    assert weights(out) == weights(whole[0])
    assert metrics == whole[1]


def test_the_micro_batch_changes_rounding_only(whole, tmp_path):
    _, metrics = train(tmp_path, runtime=RuntimeConfig(device="cpu", micro_batch_size=1))
    assert metrics["base/loss"] == pytest.approx(whole[1]["base/loss"], rel=1e-3)


def test_adamw_learns_too(whole, tmp_path):
    config = dataclasses.replace(CONFIG, optimizer="adamw")
    assert train(tmp_path, config=config)[1]["base/loss"] < 5.0


def test_bfloat16_computes_and_float32_is_kept(tmp_path):
    """Two steps: emulated, a step takes up to ninety times as long as in float32."""
    one, two = (tmp_path / name for name in ("one", "two"))
    config = dataclasses.replace(CONFIG, steps=2)
    _, exact = train(one, config=config)
    out, metrics = train(two, config=dataclasses.replace(config, precision="bfloat16"))
    assert metrics["base/loss"] == pytest.approx(exact["base/loss"], rel=0.02)  # 8 bits of mantissa
    assert metrics["base/loss"] != exact["base/loss"]
    assert {p.dtype for p in load_policy(out / "model").model.parameters()} == {torch.float32}


def test_muon_has_the_layers_matrices_and_adamw_the_rest():
    model = new_model(MODEL, train_tokenizer(SENTENCES, 320), seed=0)
    optimizers = make_optimizers(model, CONFIG)
    names = {id(p): name for name, p in model.named_parameters()}
    held = {
        kind: {names[id(p)] for group in o.param_groups for p in group["params"]}
        for kind, o in optimizers.items()
    }
    assert held["muon"] | held["adamw"] == set(names.values())
    assert not held["muon"] & held["adamw"]
    assert all("proj" in name for name in held["muon"])
    assert all("norm" in name or "embed" in name for name in held["adamw"])


def first_steps(folder, documents, steps=2):
    """Return a model after `steps` of two rows each, and what was logged."""
    model = new_model(MODEL, train_tokenizer(SENTENCES, 320), seed=0)
    config = dataclasses.replace(CONFIG, steps=steps, batch_tokens=128)
    tracker = StoppingTracker()
    train_rows(model, pack(documents, 64, 0), config, 1, folder, tracker)
    return model, tracker.rows


def long_documents(num_weighted):
    rng = np.random.default_rng(0)
    documents = [rng.integers(6, 300, 60).astype(np.int32) for _ in range(4)]
    weight = np.linspace(0.1, 2.0, 60, dtype=np.float32)
    weight[num_weighted:] = 0
    return [Encoded(tokens, weight) for tokens in documents]


def test_the_loss_is_the_weighted_mean_over_the_whole_step(tmp_path):
    documents = long_documents(50)
    _, logged = first_steps(tmp_path, documents, steps=1)
    untrained = new_model(MODEL, train_tokenizer(SENTENCES, 320), seed=0)
    nats = weight = 0.0
    for row in batch(CONFIG.seed, 0, 4, 2):
        tokens, weights = documents[row]
        ids = torch.from_numpy(tokens).long()[None]
        logits = untrained(input_ids=ids).logits[0].double().log_softmax(-1)
        for t in range(1, 60):
            nats -= weights[t] * logits[t - 1, tokens[t]].item()
            weight += weights[t]
    assert logged[1]["base/train_loss"] == pytest.approx(nats / weight, rel=1e-5)


def test_tokens_without_weight_teach_nothing(tmp_path):
    # Dropping the tokens behind the last weighted one changes no gradient.
    documents = long_documents(50)
    cut = [Encoded(d.tokens[:50], d.weights[:50]) for d in documents]
    whole, _ = first_steps(tmp_path / "whole", documents)
    shorter, _ = first_steps(tmp_path / "cut", cut)
    for a, b in zip(whole.parameters(), shorter.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_long_context_and_a_split_document_are_reported(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(MODEL, context=2048),
        sequence_tokens=2048,
        batch_tokens=2048,
        steps=1,
    )
    data = corpus(tmp_path / "data", [{"text": " ".join(SENTENCES * 4)}, {"text": SENTENCES[0]}])
    out, metrics = train(tmp_path, config=config, data=data)
    assert metrics["base/documents_split"] == 0
    short = dataclasses.replace(config, sequence_tokens=64, batch_tokens=64)
    out, metrics = train(tmp_path, config=dataclasses.replace(short, steps=2), data=data)
    assert metrics["base/documents_split"] == 1
    notes = json.loads((out / "notes.json").read_text())
    assert notes[0] == "1 of 2 documents were longer than a row of 64 tokens and were split."
    assert "no held-out texts" in notes[1]
    assert "base/loss" not in metrics


def test_a_corpus_without_weight_is_refused(tmp_path):
    data = corpus(tmp_path / "data", [{"segments": [["The town of Velm", 0.0]]}])
    with pytest.raises(DataError, match="no token with a weight above 0"):
        train(tmp_path, data=data)


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path):
    data = corpus(tmp_path / "huge", [{"segments": [["The town of Velm lies on Ash.", 3e38]]}] * 9)
    with pytest.raises(TrainingError, match="at step 0 must be finite"):
        train(tmp_path, data=data)


def test_exact_counts_texts_whose_full_weight_tokens_are_all_likeliest():
    """A model that always repeats the last token, by construction of its texts alone."""
    tokenizer = train_tokenizer(SENTENCES, 320)
    model = new_model(MODEL, tokenizer, seed=0)
    with torch.no_grad():  # attention and feed-forward say nothing: the likeliest token is the last
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    one = CorpusText("a" * 6, (3, 6), (0.0, 1.0), "same")  # hold: bytes of one letter repeat
    word = tokenizer.encode("a" * 6, add_special_tokens=False)
    same = len(set(word)) == 1
    texts = [
        one,
        CorpusText("ab", (2,), (1.0,), "same"),
        CorpusText("xyz", (3,), (0.5,), "light"),
    ]
    found = HeldOutEvaluation(tokenizer, texts, 64, 8).run(model)
    assert "base/exact_light" not in found  # nothing of full weight: nothing to be right about
    # "<bos>aaaaaa<eos>": the end token has full weight too and is never the likeliest here.
    assert found["base/exact_same"] == 0.0
    assert same


def test_a_named_model_is_taken_as_it_is(tmp_path):
    first = base(tmp_path / "first")
    config = BaseConfig(model=ModelConfig(name_or_path=str(first.path / "model"), context=64))
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(config, {}, CPU, out, NullTracker())
    assert weights(out) == weights(first.path)
    policy = load_policy(out / "model")
    assert policy.spec.context == 64
    assert metrics == {"base/parameters": sum(p.numel() for p in policy.model.parameters())}


@pytest.mark.parametrize("changes", [{"measure_every": 3}, {"measure_every": 5}])
def test_measuring_on_the_way_changes_no_byte(whole, tmp_path, changes):
    out, _, _ = whole
    tracker = StoppingTracker()
    measured, _ = train(tmp_path, tracker, dataclasses.replace(CONFIG, **changes))
    assert weights(measured) == weights(out)
    assert any("base/loss" in row for row in tracker.rows.values())


def test_a_curriculum_from_a_constructed_start_resumes_to_the_same_bytes(tmp_path):
    config = dataclasses.replace(CONFIG, start="induction", order="file")
    whole_out, _ = train(tmp_path / "whole", config=config)
    with pytest.raises(Stopped):
        train(tmp_path / "cut", StoppingTracker(stop_at=7), config)
    cut_out, _ = train(tmp_path / "cut", config=config)
    assert weights(cut_out) == weights(whole_out)
    shuffled, _ = train(tmp_path / "shuffled", config=dataclasses.replace(config, order="shuffled"))
    assert weights(shuffled) != weights(whole_out)
