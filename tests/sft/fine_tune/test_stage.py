import dataclasses
import json
import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load
from worlds.stages import run_stage, weights
from worlds.towns import MODEL, TOWNS, base, demonstration, demonstrations
from worlds.trackers import Stopped, StoppingTracker

from plumbrule.data.records import Message
from plumbrule.errors import ConfigError, DataError, TrainingError
from plumbrule.lm import hf_trainer
from plumbrule.lm.config import AdapterConfig, ModelConfig, RetrievalConfig
from plumbrule.lm.demonstrations import encode_demonstrations
from plumbrule.lm.loading import load_policy
from plumbrule.lm.response_logprobs import mean_nll
from plumbrule.protocols import Passage
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import PICKLES, Artifact
from plumbrule.store.checkpoints import newest
from sft.fine_tune import trl_trainer
from sft.fine_tune.config import SFTConfig
from sft.fine_tune.stage import run

CPU = RuntimeConfig(device="cpu", micro_batch_size=2)
CONFIG = SFTConfig(
    model=MODEL,
    num_train_epochs=2.5,
    batch_size=4,
    learning_rate=1e-2,
    save_every=3,
    num_samples=3,
    max_new_tokens=24,
)
PASSAGE = "Velm lies on the Cole since 1901."
ROWS = [demonstration(n, passages=(PASSAGE,) if n % 3 == 0 else ()) for n in range(12)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    data = demonstrations(folder / "data", ROWS[:10], ROWS[10:])
    return {"base": base(folder / "base"), "demonstrations": data}


def train(inputs, out, tracker=None, config=CONFIG, runtime=CPU):
    return run_stage(run, config, inputs, out, runtime, tracker)


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    out, tracker = tmp_path_factory.mktemp("whole"), StoppingTracker()
    return out, train(inputs, out, tracker), tracker.rows


def test_gradient_checkpointing_saves_memory_and_changes_no_weight(inputs, whole, tmp_path):
    kept = []
    for on in (False, True):
        size = 0

        def count(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        runtime = dataclasses.replace(CPU, gradient_checkpointing=on)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            train(inputs, tmp_path / str(on), runtime=runtime)
        kept.append(size)
    assert kept[1] < 0.7 * kept[0]
    plain, again = (load(weights(out)) for out in (whole[0], tmp_path / "True"))
    for name, weight in plain.items():
        assert torch.allclose(weight, again[name], atol=1e-5)  # float32, summed in another order


# Tokens and labels


def test_the_loss_is_on_the_response_and_its_terminal_token(inputs):
    policy = load_policy(inputs["base"].file("model"))
    policy.tokenizer.pad_token = policy.tokenizer.eos_token  # as in GPT-2, Llama and others
    policy.pad_id = policy.terminal_id
    examples = encode_demonstrations(policy, ROWS[:2]).rows
    rows = list(trl_trainer.dataset(examples, [1, 0]))
    batch = trl_trainer.DataCollatorForLanguageModeling(pad_token_id=policy.pad_id)(rows)
    for i, example in enumerate(reversed(examples)):
        labels = batch["labels"][i].tolist()
        end = len(example.prompt) + len(example.response)
        assert labels[: len(example.prompt)] == [-100] * len(example.prompt)
        assert labels[len(example.prompt) : end] == list(example.response)
        assert example.response[-1] == policy.terminal_id
        assert labels[end:] == [-100] * (len(labels) - end)
        assert batch["attention_mask"][i].sum() == end


def test_passages_enter_through_the_template(inputs, tmp_path):
    config = dataclasses.replace(
        CONFIG, retrieval_template="Read: {passages} Then: {question}", num_train_epochs=0.0
    )
    train(inputs, tmp_path / "out", config=config)
    policy = load_policy(tmp_path / "out" / "model")
    assert policy.spec.retrieval_template == config.retrieval_template
    prompt = encode_demonstrations(policy, [ROWS[0]]).rows[0].prompt
    assert f"Read: {PASSAGE} Then: Which river" in policy.tokenizer.decode(prompt)


def test_order_is_epoch_by_epoch():
    rows = hf_trainer.order(10, 2.5, 0, "sft rows")
    assert len(rows) == 25
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10))
    assert rows[:10] != rows[10:20]
    assert rows == hf_trainer.order(10, 2.5, 0, "sft rows")
    assert rows != hf_trainer.order(10, 2.5, 1, "sft rows")
    assert len(hf_trainer.order(3, 0.1 * 10, 0, "sft rows")) == 3  # no row from rounding error


@pytest.mark.parametrize(("batch_size", "most", "rows"), [(32, 32, 32), (12, 8, 6), (7, 4, 1)])
def test_micro_batches_divide_the_batch(batch_size, most, rows):
    assert hf_trainer.micro_batch(batch_size, most) == rows


# Training


@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_the_form_of_an_answer_and_to_stop(inputs, tmp_path, seed):
    # Two thousand weights learn the sentence in 60 steps; who lies where takes them far longer.
    config = dataclasses.replace(CONFIG, num_train_epochs=40.0, seed=seed, save_every=1000)
    known = {**inputs, "demonstrations": demonstrations(tmp_path / "data", ROWS[:6], ROWS[:6])}
    metrics = train(known, tmp_path / "out", config=config)
    assert metrics["sft/loss"] < 1.0  # log 320 = 5.8 before
    text = (tmp_path / "out" / "samples.jsonl").read_text(encoding="utf-8")
    samples = [json.loads(line) for line in text.splitlines()]
    assert [s["id"] for s in samples] == ["d0", "d1", "d2"]
    assert all(s["finished"] for s in samples)
    assert all(re.fullmatch(r"\w+ lies on the \w+\.", s["response"]) for s in samples)
    assert [s["reference"] for s in samples] == [row.response for row in ROWS[:3]]
    assert samples[0]["passages"] == [PASSAGE]
    assert samples[0]["prompt"] == f"user: Which river is at {TOWNS[0]}?"


def test_measured_loss_is_the_mean_over_response_tokens(inputs, whole):
    out, metrics, _ = whole
    policy = load_policy(out / "model")
    nats = count = 0
    for row in ROWS[10:]:
        prompt = policy.encode(row.messages, row.passages)
        response = policy.encode_response(row.response)
        logits = policy.model(input_ids=torch.tensor([prompt + response])).logits[0].double()
        for t, token in enumerate(response, len(prompt)):
            nats -= logits[t - 1].log_softmax(-1)[token].item()
            count += 1
    assert metrics["sft/loss"] == pytest.approx(nats / count, rel=1e-5)
    assert metrics["sft/perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert metrics["sft/rows"] == 10


def test_first_logged_loss_is_that_of_the_first_batch(inputs, whole):
    policy = load_policy(inputs["base"].file("model"))
    examples = encode_demonstrations(policy, ROWS[:10]).rows
    first = [examples[i] for i in hf_trainer.order(10, 2.5, 0, "sft rows")[:4]]
    loss = mean_nll(policy, first, 4)
    assert whole[2][1]["sft/train_loss"] == pytest.approx(loss, rel=1e-5)


def test_loss_and_gradient_are_those_of_trl(inputs, tmp_path):
    policy = load_policy(inputs["base"].file("model"))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(4.0)  # so that predictions differ
    examples = encode_demonstrations(policy, ROWS).rows
    collate = trl_trainer.DataCollatorForLanguageModeling(pad_token_id=policy.pad_id)
    data = trl_trainer.dataset(examples, range(12))
    trainer = trl_trainer._Trainer(
        model=policy.model,
        args=trl_trainer.arguments(CONFIG, 1, 12, torch.device("cpu"), tmp_path),
        train_dataset=data,
        data_collator=collate,
        processing_class=policy.tokenizer,
    )
    batch = collate(list(data))
    count = (batch["labels"] != -100).sum()
    found = []
    for kind in (trl_trainer._Trainer, trl_trainer.trl.SFTTrainer):
        policy.model.zero_grad()
        loss = kind.compute_loss(trainer, policy.model, {**batch}, num_items_in_batch=count)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in policy.model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_steps_are_batches_over_all_epochs(whole):
    # 10 rows x 2.5 epochs = 25 rows, 4 a step
    assert sorted(whole[2]) == list(range(1, 8))


def test_the_micro_batch_changes_rounding_only(inputs, whole, tmp_path):
    runtime = dataclasses.replace(CPU, micro_batch_size=4)
    metrics = train(inputs, tmp_path / "out", runtime=runtime)
    assert metrics["sft/loss"] == pytest.approx(whole[1]["sft/loss"], rel=1e-4)


@pytest.mark.parametrize("stop_at", [2, 5, 7])
def test_stopped_and_resumed_gives_the_same_bytes(inputs, whole, tmp_path, stop_at):
    out, tracker = tmp_path / "out", StoppingTracker()
    with pytest.raises(Stopped):
        train(inputs, out, StoppingTracker(stop_at))
    begun = newest(out / "checkpoints")
    assert (begun[0] if begun else 0) == (stop_at - 1) // 3 * 3
    broken = out / "checkpoints" / f"checkpoint-{stop_at}"
    broken.mkdir(exist_ok=True)
    (broken / "model.safetensors").write_bytes(b"half a file")
    torch.manual_seed(1234)  # another process has other random numbers
    metrics = train(inputs, out, tracker)
    assert weights(out) == weights(whole[0])
    assert metrics == whole[1]
    assert all(row == whole[2][step] for step, row in tracker.rows.items())
    assert min(tracker.rows, default=8) == (stop_at - 1) // 3 * 3 + 1


def test_a_finished_training_is_not_trained_further(inputs, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    shutil.rmtree(out / "model")
    assert newest(out / "checkpoints")[0] == 7
    assert train(inputs, out) == whole[1]
    assert weights(out) == weights(whole[0])


def test_bfloat16_computes_and_float32_is_kept(inputs, tmp_path):
    config = dataclasses.replace(CONFIG, num_train_epochs=0.6, num_samples=0)  # two steps: emulated
    exact = train(inputs, tmp_path / "exact", config=config)
    config = dataclasses.replace(config, precision="bfloat16")
    metrics = train(inputs, tmp_path / "out", config=config)
    assert metrics["sft/loss"] == pytest.approx(exact["sft/loss"], rel=0.1)  # 8 bits of mantissa
    assert metrics["sft/loss"] != exact["sft/loss"]
    model = load_policy(tmp_path / "out" / "model").model
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# What is left out, refused, and published


def test_rows_that_do_not_fit_are_counted_and_never_cut(inputs, tmp_path):
    long = demonstration(3, response="Velm lies on the Ash. " * 20)
    rows = demonstrations(tmp_path / "data", [*ROWS[:4], long], [long])
    config = dataclasses.replace(CONFIG, num_train_epochs=1.0)
    tracker = StoppingTracker()
    metrics = train({**inputs, "demonstrations": rows}, tmp_path / "out", tracker, config)
    assert tracker.said[0].startswith("sft  6 demonstrations of ")
    assert "; 2 left out, longer than " in tracker.said[0]
    assert (metrics["sft/rows"], metrics["sft/rows_too_long"]) == (4, 1)
    assert "sft/loss" not in metrics
    notes = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert notes[0].startswith("1 training and 1 held-out demonstrations did not fit")
    assert "96 tokens" in notes[0]
    assert len(notes) == 2


def test_a_row_that_fits_to_the_token_is_kept(inputs):
    policy = load_policy(inputs["base"].file("model"))
    row = ROWS[0]
    length = len(policy.encode(row.messages, row.passages))
    length += len(policy.encode_response(row.response))
    for context, kept in ((length, 1), (length - 1, 0)):
        policy.spec = dataclasses.replace(policy.spec, context=context)
        assert len(encode_demonstrations(policy, [row]).rows) == kept


def test_none_that_fits_is_refused(inputs, tmp_path):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, context=8))
    with pytest.raises(DataError, match="none of 10 demonstrations fits the context"):
        train(inputs, tmp_path / "out", config=config)


def test_no_model_to_start_from_is_refused(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"sft\.model\.name_or_path \(=None\) must name a model"):
        train({"demonstrations": inputs["demonstrations"]}, tmp_path / "out")


def test_a_configured_model_is_a_start_too(inputs, whole, tmp_path):
    model = dataclasses.replace(MODEL, name_or_path=str(inputs["base"].file("model")))
    config = dataclasses.replace(CONFIG, model=model)
    train({"demonstrations": inputs["demonstrations"]}, tmp_path / "out", config=config)
    assert weights(tmp_path / "out") == weights(whole[0])


def test_the_published_context_is_the_shorter_one(inputs, tmp_path):
    config = dataclasses.replace(CONFIG, model=ModelConfig(context=72), num_train_epochs=0.0)
    train(inputs, tmp_path / "out", config=config)
    assert load_policy(tmp_path / "out" / "model").spec.context == 72


def test_a_loss_that_is_not_finite_stops_the_stage(inputs, tmp_path):
    broken = load_policy(inputs["base"].file("model"))
    with torch.no_grad():
        next(broken.model.parameters())[5, 0] = math.nan
        broken.model.get_input_embeddings().weight.fill_(math.nan)
    broken.model.save_pretrained(tmp_path / "base" / "model")
    broken.tokenizer.save_pretrained(tmp_path / "base" / "model")
    inputs = {**inputs, "base": Artifact.of(tmp_path / "base", "base")}
    with pytest.raises(TrainingError, match="at step 1 must be finite"):
        train(inputs, tmp_path / "out")


def test_what_it_leaves_holds_no_pickle_and_prints_nothing(inputs, tmp_path, capfd):
    train(inputs, tmp_path / "out")
    assert capfd.readouterr() == (
        "",
        "",
    )  # as stages run: see plumbrule.machine.environment.prepare
    out = tmp_path / "out"
    files = [p for p in out.rglob("*") if p.is_file() and "checkpoints" not in p.parts]
    assert {p.name for p in files} >= {"policy.json", "model.safetensors", "samples.jsonl"}
    assert not [p for p in files if p.name.endswith(PICKLES)]
    assert len(list((out / "checkpoints").glob("checkpoint-*"))) == 2


# Adapters


@pytest.mark.parametrize(
    "adapter", [{}, {"inherited": "merge"}, {"inherited": "merge", "rank": 3}], ids=str
)
def test_an_adapter_as_base_is_trained_on_or_merged(inputs, tmp_path, adapted, adapter):
    start = adapted(inputs["base"].file("model"), tmp_path / "start" / "model")
    inputs = {**inputs, "base": Artifact.of(start.parent, "sft")}
    config = dataclasses.replace(
        CONFIG, adapter=AdapterConfig(**adapter), num_train_epochs=1.5, save_every=2, num_samples=1
    )
    metrics = train(inputs, tmp_path / "out", config=config)
    untrained = dataclasses.replace(config, num_train_epochs=0.0)
    assert metrics["sft/loss"] < train(inputs, tmp_path / "none", config=untrained)["sft/loss"]
    before, after = (load_policy(tmp_path / name / "model") for name in ("none", "out"))
    weights = dict(before.model.named_parameters())
    moved = {n for n, w in after.model.named_parameters() if not torch.equal(weights[n], w)}
    whole = adapter == {"inherited": "merge"}
    assert moved == {name for name in weights if whole or "lora_" in name}
    assert (tmp_path / "out" / "model" / "model.safetensors").exists() == whole
    if not adapter:
        with pytest.raises(Stopped):
            train(inputs, tmp_path / "again", StoppingTracker(3), config)
        assert train(inputs, tmp_path / "again", config=config) == metrics
        name = "model/adapter_model.safetensors"
        files = [(tmp_path / out / name).read_bytes() for out in ("out", "again")]
        assert files[0] == files[1]


def test_a_fresh_adapter_beside_another_is_refused(inputs, tmp_path, adapted):
    start = adapted(inputs["base"].file("model"), tmp_path / "start" / "model")
    inputs = {**inputs, "base": Artifact.of(start.parent, "sft")}
    config = dataclasses.replace(CONFIG, adapter=AdapterConfig(rank=2))
    with pytest.raises(ConfigError, match=r"sft\.adapter\.rank \(=2\) must be 0 to train"):
        train(inputs, tmp_path / "out", config=config)


STRICT = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
)


def test_what_the_template_refuses_is_said_before_a_model_is_loaded(inputs, tmp_path, monkeypatch):
    shutil.copytree(inputs["base"].path, tmp_path / "base")
    model = tmp_path / "base" / "model"
    (model / "chat_template.jinja").write_text(STRICT)
    (model / "policy.json").unlink()
    rows = [demonstration(number) for number in range(6)]
    rows[4] = dataclasses.replace(rows[4], messages=(Message("system", "Hm."), *rows[4].messages))
    given = {
        "base": Artifact.of(tmp_path / "base", "base"),
        "demonstrations": demonstrations(tmp_path / "data", rows, rows[:1]),
    }
    with monkeypatch.context() as patched:
        patched.setattr("sft.fine_tune.stage.load_policy", lambda *_, **__: pytest.fail("loaded"))
        said = r"^1 of 6 records, the first is 'd4': .*roles=system, user.*no system turns here"
        with pytest.raises(DataError, match=said):
            train(given, tmp_path / "out")
    config = dataclasses.replace(CONFIG, model=ModelConfig(system_turns="fold"))
    train(given, tmp_path / "out", config=dataclasses.replace(config, num_train_epochs=0.0))
    assert load_policy(tmp_path / "out" / "model").spec.system_turns == "fold"
    # for good: training that starts there, and is told nothing, folds too
    given["base"] = Artifact.of(tmp_path / "out", "sft")
    train(given, tmp_path / "more", config=dataclasses.replace(CONFIG, num_train_epochs=0.0))
    assert load_policy(tmp_path / "more" / "model").spec.system_turns == "fold"


class OneText:
    """An index that finds one passage for any query."""

    def retriever(self, method):
        return self

    def search(self, queries, k):
        return [[Passage("a", PASSAGE, 1.0, "d", 0, 3)] for _ in queries]


def open_one_text(artifact, runtime):
    return OneText()


def test_demonstrations_are_shown_numbered_passages_of_an_index(inputs, tmp_path):
    """All twelve have one: those that bring none get it from the index; the template is kept."""
    index = Artifact.of(inputs["base"].path, "index", opener=f"{__name__}:open_one_text")
    config = dataclasses.replace(
        CONFIG,
        num_train_epochs=0.0,
        passage_template="[{n}] {passage}",
        retrieval=RetrievalConfig(share=1.0),
    )
    train({**inputs, "index": index}, tmp_path, config=config)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["passages"] for row in rows] == [[PASSAGE]] * len(rows)
    policy = load_policy(tmp_path / "model")
    assert policy.spec.passage_template == "[{n}] {passage}"
    shown = policy.tokenizer.decode(policy.encode([Message("user", "Q?")], [PASSAGE]))
    assert f"[1] {PASSAGE}\nQ?" in shown


def test_a_passage_template_without_the_passage_is_refused():
    with pytest.raises(ConfigError, match=r"sft.passage_template \(='\[\{n\}\]'\) must hold"):
        SFTConfig(passage_template="[{n}]")
