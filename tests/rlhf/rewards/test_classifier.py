"""Ready-made sequence classifiers as rewards: decoders and encoders, with and without a pad."""

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
)
from worlds.rankings import chat, tiny_policy

from plumbrule.config import RuntimeConfig
from plumbrule.data.records import Prompt
from plumbrule.errors import ConfigError, DataError
from plumbrule.protocols import Episode
from rlhf.rewards.classifier import open_classifier
from rlhf.rewards.config import ClassifierConfig

RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=4)
TEXTS = ["red", "red round flat tall", "good", "bad green"]


def said(*texts, passages=()):
    return [Episode(Prompt("p", chat("what is it?")), passages, text, True) for text in texts]


def saved(folder, pad_is_eos=False, labels=1):
    """A small decoder with a classification head and our tokenizer."""
    policy = tiny_policy()
    config = policy.model.config
    config.num_labels = labels
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    if pad_is_eos:
        policy.tokenizer.pad_token = policy.tokenizer.eos_token
    policy.tokenizer.save_pretrained(folder)
    return ClassifierConfig(name_or_path=str(folder)), policy


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_scores_are_read_at_the_last_token_whatever_the_pad_is(tmp_path, pad_is_eos):
    config, _ = saved(tmp_path, pad_is_eos)
    scorer = open_classifier(config, RUNTIME)
    found = scorer.score(said(*TEXTS))["score"]
    wanted = []
    for episode in said(*TEXTS):
        ids = torch.tensor([scorer.tokenizer(scorer.text(episode))["input_ids"]])
        with torch.no_grad():
            hidden = scorer.model.model(ids).last_hidden_state[0, -1]
            wanted.append(scorer.model.score(hidden).item())
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert found.dtype == np.float64


def test_question_passages_and_response_are_all_read(tmp_path):
    scorer = open_classifier(saved(tmp_path)[0], RUNTIME)
    text = scorer.text(said("red", passages=("It is green.",))[0])
    assert text.index("It is green.") < text.index("what is it?") < text.index("red")
    plain = scorer.score(said("red"))["score"]
    assert scorer.score(said("red", passages=("It is green.",)))["score"] != plain


def test_a_tokenizer_without_a_template_reads_lines(tmp_path):
    config, _ = saved(tmp_path)
    scorer = open_classifier(config, RUNTIME)
    scorer.tokenizer.chat_template = None
    assert scorer.text(said("red")[0]) == "user: what is it?\nassistant: red"


def test_an_encoder_with_two_labels(tmp_path):
    policy = tiny_policy()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(policy.tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=2,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    both = [
        open_classifier(ClassifierConfig(name_or_path=str(tmp_path), label=label), RUNTIME)
        for label in (0, 1)
    ]
    one, other = (scorer.score(said(*TEXTS))["score"] for scorer in both)
    assert not np.allclose(one, other)
    alone = [both[0].score(said(text))["score"][0] for text in TEXTS]
    assert one.tolist() == pytest.approx(alone, abs=1e-5)


def test_a_label_that_is_not_there_is_refused(tmp_path):
    config, _ = saved(tmp_path)
    config.label = 1
    with pytest.raises(ConfigError, match=r"reward.classifier.label .=1. must be below"):
        open_classifier(config, RUNTIME)


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"reward.classifier.name_or_path"):
        open_classifier(ClassifierConfig(name_or_path=str(tmp_path)), RUNTIME)


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    """Transformers would make one up at random, another in every process."""
    policy = tiny_policy()
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"score.weight.*made up at random"):
        open_classifier(ClassifierConfig(name_or_path=str(tmp_path)), RUNTIME)


def test_a_template_writes_its_own_special_tokens(tmp_path):
    config, policy = saved(tmp_path)
    scorer = open_classifier(config, RUNTIME)
    adds = policy.tokenizer.backend_tokenizer
    eos = policy.tokenizer.eos_token
    adds.post_processor = TemplateProcessing(
        single=f"{eos} $A", special_tokens=[(eos, policy.tokenizer.eos_token_id)]
    )
    scorer.tokenizer = policy.tokenizer
    read = []
    scorer.model.register_forward_pre_hook(
        lambda model, args, given: read.append(given["input_ids"][0, 0].item()), with_kwargs=True
    )
    scorer.score(said("red"))
    scorer.tokenizer.chat_template = None
    scorer.score(said("red"))
    with_template, without = read
    assert without == policy.tokenizer.eos_token_id != with_template


def test_what_is_longer_than_the_classifier_reads_is_refused(tmp_path):
    scorer = open_classifier(saved(tmp_path)[0], RUNTIME)
    with pytest.raises(DataError, match=r"'p' with its response \(=.* tokens\) must fit"):
        scorer.score(said(" ".join(["red"] * 200)))


def test_pickled_weights_are_not_loaded(tmp_path):
    config, _ = saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save({}, tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigError, match=r"safetensors"):
        open_classifier(config, RUNTIME)


def test_a_hub_name_needs_its_commit():
    with pytest.raises(ConfigError, match=r"reward.classifier.revision"):
        ClassifierConfig(name_or_path="someone/reward")
