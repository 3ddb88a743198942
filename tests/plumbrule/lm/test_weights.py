"""Weights are read whole or named: policies, classifiers, and files that are damaged."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from worlds import tiny_families, tiny_models

from plumbrule.data.records import Message, Prompt
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.loading import load_policy, make_policy, save_policy, usable_positions
from plumbrule.lm.logprobs import hidden_width
from plumbrule.lm.policy import Policy
from plumbrule.protocols import Episode
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.model_files import model_damage
from rlhf.feedback.config import JudgeConfig
from rlhf.feedback.judge import open_judge
from rlhf.ppo.value_model import value_from_policy
from rlhf.reward_model.model import RewardModel, load_reward_model, score_rows
from rlhf.rewards.classifier import open_classifier
from rlhf.rewards.config import ClassifierConfig

WEIGHTS = "model.safetensors"
CPU = RuntimeConfig(device="cpu")


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """A Llama whose output layer is not tied, as any other tool saves it."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    tiny_families.model("Llama").save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def changed(source, folder, change):
    """Write a copy of a model whose dictionary of weights went through `change`."""
    shutil.copytree(source, folder)
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    return folder


def renamed(weights):
    for name in list(weights):
        weights[f"transformer.{name}"] = weights.pop(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("lm_head.weight"), r"but lacks lm_head\.weight; what is missing"),
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), r"lacks model\.layers\.1\.mlp\.up"),
        (lambda w: w.update(extra=torch.ones(2)), r"LlamaForCausalLM, no more.*also holds extra;"),
        (lambda w: w.update({"v_head.summary.weight": torch.ones(2)}), r"also holds v_head"),
        (renamed, r"lacks .* and 1\d more and also holds transformer\.lm_head\.weight"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(31)}),
            r"has as another shape model\.norm\.weight \[31\] for \[32\]",
        ),
    ],
    ids=["no head", "no layer", "extra", "value head", "prefix", "shape"],
)
def test_missing_and_unread_weights_are_named(untied, tmp_path, change, said):
    with pytest.raises(ConfigError, match=rf"model\.name_or_path .*{said}"):
        load_policy(changed(untied, tmp_path / "m", change))


def test_whole_models_load_and_are_the_same_each_time(untied, tmp_path):
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.position_ids": torch.arange(4),
        "model.layers.0.attn.masked_bias": torch.ones(1),
        "model.layers.0.attn.bias": torch.ones(1),
    }
    folder = changed(untied, tmp_path / "old", lambda w: w.update(buffers))
    one, other = (dict(load_policy(f).model.named_parameters()) for f in (folder, untied))
    assert all(torch.equal(one[name], other[name]) for name in other)
    # An output layer that is tied to the embeddings is in no file, and that is fine.
    save_policy(tiny_models.policy(), tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / WEIGHTS)
    load_policy(tmp_path / "tied")


@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_as_a_policy_is_refused_by_name(tmp_path, tied):
    """A tied one lacks nothing, and would be a policy that was never trained as one."""
    config = tiny_families.model("Llama", tie_word_embeddings=tied, num_labels=1).config
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    said = r"a LlamaForSequenceClassification\) must.*also holds score\.weight"
    with pytest.raises(ConfigError, match=said):
        load_policy(tmp_path)


def test_judges_and_reward_models_are_read_whole_too(untied, tmp_path):
    folder = changed(untied, tmp_path / "m", lambda w: w.pop("lm_head.weight"))
    with pytest.raises(ConfigError, match=r"feedback\.judge\.name_or_path.*lacks lm_head"):
        open_judge(JudgeConfig(name_or_path=str(folder)), {}, CPU)
    RewardModel(load_policy(untied)).save(tmp_path / "rm")
    load_reward_model(tmp_path / "rm")
    weights = load_file(tmp_path / "rm" / "model" / WEIGHTS)
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "rm" / "model" / WEIGHTS, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks model\.norm\.weight"):
        load_reward_model(tmp_path / "rm")


def test_a_classifier_is_read_whole_but_for_what_its_class_has_not(tmp_path):
    config = tiny_families.model("Llama", num_labels=1).config
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "m")
    tiny_models.tokenizer().save_pretrained(tmp_path / "m")
    spare = {"lm_head.weight": torch.ones(2), "pooler.dense.weight": torch.ones(2)}
    folder = changed(tmp_path / "m", tmp_path / "spare", lambda w: w.update(spare))
    open_classifier(ClassifierConfig(name_or_path=str(folder)), CPU)
    folder = changed(tmp_path / "m", tmp_path / "more", lambda w: w.update(extra=torch.ones(2)))
    with pytest.raises(ConfigError, match=r"reward\.classifier\.name_or_path.*also holds extra"):
        open_classifier(ClassifierConfig(name_or_path=str(folder)), CPU)


def point(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"more")


def scribble(path):
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"]" + data[9:])


def inflate(path):
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (point, r"model\.safetensors is a Git LFS pointer.*git lfs pull"),
        (cut, r"model\.safetensors is cut short or torn \(=\d+ of \d+ bytes\): copy"),
        (lengthen, r"model\.safetensors is cut short or torn"),
        (scribble, r"model\.safetensors has a damaged header"),
        (inflate, r"model\.safetensors .*damaged header"),
        (lambda path: path.write_bytes(b""), r"model\.safetensors is cut short"),
    ],
)
def test_damaged_files_say_so(untied, tmp_path, hurt, said):
    assert model_damage(untied) is None
    shutil.copytree(untied, tmp_path / "m")
    hurt(tmp_path / "m" / WEIGHTS)
    with pytest.raises(ConfigError, match=rf"model\.name_or_path .*{said}"):
        load_policy(tmp_path / "m")
    with pytest.raises(ConfigError, match=said):
        open_classifier(ClassifierConfig(name_or_path=str(tmp_path / "m")), CPU)


def test_a_tokenizer_or_config_that_is_a_pointer_says_so(untied, tmp_path):
    for name in ("tokenizer.json", "config.json"):
        shutil.copytree(untied, tmp_path / name)
        point(tmp_path / name / name)
        with pytest.raises(ConfigError, match=f"{name} is a Git LFS pointer"):
            load_policy(tmp_path / name)


# Shapes and positions


def test_heads_are_as_wide_as_the_last_hidden_states():
    """OPT-350m's layers are wider than what they give to the output layer."""
    policy = make_policy(tiny_families.model("OPT"), tiny_models.tokenizer())
    assert (policy.model.config.hidden_size, hidden_width(policy.model)) == (32, 16)
    model = RewardModel(policy)
    row = model.encode([Message("user", "Who?")], (), "Mara")
    assert score_rows(model, [row], 1).isfinite().all()
    model.scores(*(x[None] for x in tensors(row))).sum().backward()
    assert model.head.weight.grad.abs().sum() > 0
    tokens, real, _ = tensors(row)
    assert value_from_policy(policy)(tokens[None], real[None]).shape == (1, len(row))


def tensors(row):
    real = torch.ones(len(row), dtype=torch.bool)
    return torch.tensor(row.tokens), real, torch.arange(len(row)) >= row.begin


def test_positions_behind_a_padding_row_are_counted(tmp_path):
    """RoBERTa's table has 66 rows for 64 tokens; a row of 65 would run out of it."""
    config = RobertaConfig(**{**tiny_families.SIZE, "max_position_embeddings": 66}, num_labels=1)
    config.pad_token_id = 1
    torch.manual_seed(0)
    model = RobertaForSequenceClassification(config).eval()
    assert usable_positions(model) == 64
    model(input_ids=torch.full((1, 64), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 65), 7))
    model.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    scorer = open_classifier(ClassifierConfig(name_or_path=str(tmp_path)), CPU)
    scorer.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    texts = [" Tarn" * number for number in (64, 65)]
    rows = [scorer.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert [len(row) for row in rows] == [64, 65]
    episodes = [Episode(Prompt("p", (Message("user", "?"),)), (), text, True) for text in texts]
    assert len(scorer.score(episodes[:1])["score"]) == 1
    with pytest.raises(DataError, match=r"'p' .*=65 tokens.*must fit the classifier's 64 tokens"):
        scorer.score(episodes[1:])


def notes(policy: Policy) -> str:
    return " ".join(policy.notes)


def test_what_should_be_told_of_a_model_stands_in_its_notes():
    def policy(family, context=None, **changes):
        model = tiny_families.model(family, **changes)
        return make_policy(model, tiny_models.tokenizer(), context)

    assert policy("Llama").notes == policy("Llama", 64).notes == ()
    assert "model.context (=65 tokens) is beyond the 64 positions" in notes(policy("Llama", 65))
    stretched = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    assert "beyond the 64" in notes(policy("Llama", 128, rope_parameters=stretched))
    far = {**stretched, "rope_type": "yarn", "original_max_position_embeddings": 64}
    assert policy("Llama", 128, rope_parameters=far).notes == ()
    assert "beyond the 128" in notes(policy("Llama", 129, rope_parameters=far))
    assert "Bart" in notes(policy("Bart"))
    assert "without a KV cache" in notes(policy("Bart"))
    with pytest.raises(ConfigError, match="at most 64, the learned positions"):
        policy("GPT2", 65)


def test_scores_that_a_model_caps_are_capped_once_it_is_loaded(tmp_path):
    """Transformers 5.17 would choose a form of attention for Gemma 2 that knows no cap."""
    tiny_families.model("Gemma2").save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    model, row = load_policy(tmp_path).model, torch.tensor([[5, 9, 7, 11, 8, 6]])
    capped = model(row, use_cache=False).logits
    for layer in model.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert (capped - model(row, use_cache=False).logits).abs().max() > 1e-3
