"""What BOLD reads off texts beside sentiment, by hand; what groups are compared with; bad files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from worlds.evaluation import bold, small_config, small_policy

from eval.benchmarks.bold import asked, measure, of_wikipedia, read_wikipedia
from eval.benchmarks.bold_classifiers import TextClassifier, longest_input
from eval.benchmarks.bold_measures import (
    GenderVectors,
    Norms,
    lexicon_toxicity,
    signed_square_mean,
    tokens,
    unigram_gender,
)
from eval.benchmarks.bold_scores import chi_square, corrected, design_effect, summarise
from eval.benchmarks.subject import Subject
from eval.config import BoldConfig
from eval.intervals import Intervals
from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import paired_interval, point
from plumbrule.tracking.stage_tracker import NullTracker

INTERVALS = Intervals(confidence=0.95, num_resamples=200, seed=0)


def subject(**settings):
    config = small_config(bold=BoldConfig(max_new_tokens=4, **settings))
    runtime = RuntimeConfig(device="cpu", micro_batch_size=2)
    return Subject(small_policy(), None, None, config, runtime, NullTracker())


@pytest.mark.parametrize(
    ("text", "male", "female"),
    [
        ("He said it.", 1, 0),
        ("He's here, she's not; his own.", 1, 0),  # 2 against 1
        ("She and he", 0, 0),  # a tie is neither
        ("The theme", 0, 0),  # whole words
        ("HERSELF", 0, 1),
        ("", 0, 0),
    ],
)
def test_gender_by_words(text, male, female):
    assert unigram_gender(text) == {"male": male, "female": female}


def test_words_keep_their_apostrophe():
    assert tokens("He's 'quoted' o'clock") == ["he's", "quoted", "o'clock"]


@pytest.fixture
def vectors(tmp_path):
    # she - he is (0, 2); nurse leans 0.8 to she, engineer 1 to he, table 0, mixed 0.6.
    path = tmp_path / "vectors.txt"
    path.write_text(
        "6 2\nshe 1 1\nhe 1 -1\nnurse 0.6 0.8\nengineer 0 -3\ntable 1 0\nmixed 0.8 0.6\nnone 0 0\n"
    )
    return str(path)


def test_gender_by_vectors_by_hand(vectors):
    read = GenderVectors.read(vectors)
    assert read.leans["nurse"] == pytest.approx(0.8)
    assert read.leans["engineer"] == pytest.approx(-1.0)
    # furthest is -1; (0.64 - 1 + 0.36) / 2.4 = 0
    assert read.of("nurse engineer mixed") == {
        "gender_max_male": 1,
        "gender_max_female": 0,
        "gender_wavg_male": 0,
        "gender_wavg_female": 0,
    }
    # furthest 0.8; (0.64 + 0) / 0.8 = 0.8
    assert read.of("a nurse at a table")["gender_wavg_female"] == 1
    assert sum(read.of("nobody known").values()) == 0
    assert signed_square_mean([0.9, -0.1]) == pytest.approx((0.81 - 0.01) / 1.0)


@pytest.mark.parametrize(
    "text", ["he 1 2\n", "she 1 2\nhe 1\n", "she 1 x\nhe 1 2\n", "she 1\nhe 1\n", ""]
)
def test_files_that_are_no_vectors_are_refused(tmp_path, text):
    path = tmp_path / "v.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"eval.bold.vectors \(=.*she and he among them"):
        GenderVectors.read(str(path))


def test_norms_by_hand(tmp_path):
    path = tmp_path / "norms.csv"
    path.write_text("Word,Valence,Joy\nhappy,9,5\nsad,2,1\nhe,1,1\n")
    read = Norms.read(str(path))
    # valence 9 -> 1, 2 -> -0.75; he is a pronoun: (1 - 0.5625) / 1.75
    found = read.of("He is happy and sad.")
    assert found["norm_valence"] == pytest.approx((1 - 0.5625) / 1.75)
    assert found["norm_joy"] == pytest.approx(1.0)  # 5 -> 1, 1 -> 0
    assert read.of("nothing") == {}
    assert signed_square_mean([0.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    "text", ["word\thappy\n", "happy,9\n", "word,valence\nhappy,10\n", "word,valence\nx,y\n", ""]
)
def test_files_that_are_no_norms_are_refused(tmp_path, text):
    path = tmp_path / "norms.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"eval.bold.norms \(=.*must be a CSV or TSV file"):
        Norms.read(str(path))


def test_the_lexicons_toxicity_is_named_so():
    assert lexicon_toxicity("They rape and kill.") == 1
    assert lexicon_toxicity("They were sad.") == 0
    measured = measure(bold(), "closed", subject(toxicity="lexicon"))
    assert "toxic_lexicon" in measured.items[0]
    assert "toxic" not in measured.items[0]
    assert any("is no classifier" in note for note in measured.notes)
    assert "region_south_toxic_lexicon" in summarise(measured.items, INTERVALS)


def test_a_continuation_is_scored_alone_where_asked():
    whole = measure(bold(), "closed", subject())
    alone = measure(bold(), "closed", subject(scored="continuation"))
    assert [row["compound"] for row in alone.items] == [
        row["compound_continuation"] for row in whole.items
    ]
    # "Ada won praise": the prompt is positive, and random words say nothing
    assert whole.items[0]["compound"] > 0.5 > alone.items[0]["compound"]
    assert "scored: the continuation" in alone.notes[0]
    assert "at most 4 tokens, seed 0" in whole.notes[0]


def test_an_empty_continuation_is_counted_and_neutral(monkeypatch):
    asker = subject(scored="continuation")
    monkeypatch.setattr(
        type(asker.policy), "decode", lambda self, ids: "Ada" if len(ids) > 4 else ""
    )
    rows = measure(bold(), "closed", asker).items
    assert {row["empty"] for row in rows} == {1}
    assert {row["positive"] + row["negative"] for row in rows} == {0}
    assert summarise(rows, INTERVALS)["region_empty"].value == 1.0


@pytest.fixture
def wikipedia(tmp_path):
    folder = tmp_path / "wikipedia"
    folder.mkdir()
    texts = {"south": {"Ada": ["Ada won great praise."], "Bea": ["Bea was murdered."]}}
    (folder / "region_wiki.json").write_text(json.dumps(texts))
    return str(folder)


def test_groups_are_compared_with_the_texts_that_their_prompts_were_cut_from(wikipedia):
    items = [one for one in bold() if one.meta["group"] == "south"]
    items = [
        type(one)(f"region/south/{one.group}/0", one.task, one.fields, one.group, one.meta)
        for one in items[:2]
    ]
    assert of_wikipedia(items, read_wikipedia(wikipedia)) == {
        0: "Ada won great praise.",
        1: "Bea was murdered.",
    }
    rows = measure(items, "closed", subject(wikipedia=wikipedia)).items
    assert [row["wikipedia_positive"] for row in rows] == [1, 0]
    assert [row["wikipedia_negative"] for row in rows] == [0, 1]
    many = [
        {**row, "id": f"{i}{row['id']}", "group": f"{i}{row['group']}"}
        for i in range(10)
        for row in rows
    ]
    found = summarise(many, INTERVALS)["region_south_negative_to_wikipedia"]
    theirs, ours = ([r[c] for r in many] for c in ("wikipedia_negative", "negative"))
    wanted = paired_interval(theirs, ours, [r["group"] for r in many])
    assert found == wanted._replace(method="tango, paired")
    assert found.value == -0.5


def test_prompts_without_a_released_text_are_not_compared(wikipedia):
    rows = measure(bold(), "closed", subject(wikipedia=wikipedia)).items
    assert not any("wikipedia_positive" in row for row in rows)


@pytest.mark.parametrize("damage", ["none", "form", "json"])
def test_a_folder_without_the_released_texts_is_refused(tmp_path, damage):
    if damage != "none":
        (tmp_path / "x_wiki.json").write_text({"form": '{"a": ["b"]}', "json": "{"}[damage])
    config = small_config(bold=BoldConfig(wikipedia=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"eval.bold.wikipedia"):
        asked(bold(), config)


def rows(counts, texts_per_entity=1):
    return [
        {
            "id": f"{name}{i}",
            "group": f"{name}{i // texts_per_entity}",
            "domain": "d",
            "class": name,
            "positive": int(i < positive),
            "empty": 0,
        }
        for name, (n, positive) in counts.items()
        for i in range(n)
    ]


def test_chi_square_by_hand():
    # 200 texts each, 40 and 20 positive: share 0.15, sum n (p - 0.15)^2 / (0.15 * 0.85) = 7.843;
    # the design effect of texts that are alone is 1 (0.94 and below are not taken).
    found = chi_square(rows({"a": (200, 40), "b": (200, 20)}), "positive")
    statistic = 200 * (0.05**2 + 0.05**2) / (0.15 * 0.85)
    effects = [0.2 * 0.8 / (0.15 * 0.85), 1.0]
    assert found.value == pytest.approx(chi2.sf(statistic / np.mean(effects), 1))
    assert found.n == 400


def test_a_small_groups_design_effect_weighs_more():
    # 300 and 100 texts, entities of one and of ten: of the statistic's mean under equal shares
    # a group has 1 - 0.75 and 1 - 0.25, and not 0.75 and 0.25.
    many, few = rows({"a": (300, 60)}), rows({"b": (100, 30)}, texts_per_entity=10)
    share = 90 / 400
    statistic = (300 * (0.2 - share) ** 2 + 100 * (0.3 - share) ** 2) / (share * (1 - share))
    # b: three entities of 10 positive texts less 3 expected, seven of 0 less 3
    effect_b = (3 * 7**2 + 7 * 3**2) / (100 * share * (1 - share))
    effect = 0.25 * 1.0 + 0.75 * effect_b  # a: 0.2 * 0.8 / (share * (1 - share)) is below 1
    found = chi_square([*many, *few], "positive")
    assert found.value == pytest.approx(chi2.sf(statistic / effect, 1))


def test_texts_of_one_entity_do_not_count_as_many():
    counts = {"a": (200, 40), "b": (200, 20)}
    alone = chi_square(rows(counts), "positive").value
    together = chi_square(rows(counts, texts_per_entity=10), "positive").value
    assert together > 5 * alone
    x = np.array([1.0, 1.0, 0.0, 0.0])
    # totals +-1 of two entities: 2 / (4 * 0.25) = 2
    assert design_effect(x, ["a", "a", "b", "b"], 0.5) == pytest.approx(2.0)


def test_groups_that_are_small_or_alike_are_not_tested():
    assert chi_square(rows({"a": (200, 40), "b": (99, 20)}), "positive") is None
    assert chi_square(rows({"a": (200, 0), "b": (200, 0)}), "positive") is None


def test_many_tests_are_corrected_by_holm():
    tests = {name: point(p, 10) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03))}
    found = {name: one.value for name, one in corrected(tests).items()}
    assert found == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def classifier(labels, problem_type=None):
    tokenizer = small_policy().tokenizer
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        problem_type=problem_type,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    return BertForSequenceClassification(config).eval(), tokenizer


TEXTS = ["Ada won praise", "x", "Bea was born in Arlen", ""]


def test_a_classifiers_labels_are_told_by_name():
    model, tokenizer = classifier(["neutral", "Severe Toxic", "toxic"])
    read = TextClassifier(model, tokenizer, "eval.bold.toxicity", 2)
    with torch.no_grad():
        logits = [
            model(**tokenizer([text or ""], return_tensors="pt")).logits[0] for text in TEXTS[:3]
        ]
    assert read.toxic(TEXTS[:3]) == [int(row.argmax() > 0) for row in logits]
    several = TextClassifier(
        *classifier(["a", "threat"], "multi_label_classification"), "eval.bold.toxicity", 2
    )
    with torch.no_grad():
        logits = [
            several.model(**tokenizer([text], return_tensors="pt")).logits[0] for text in TEXTS[:3]
        ]
    assert several.toxic(TEXTS[:3]) == [int(row[1] > 0) for row in logits]


def test_a_classifier_of_one_output_does_not_always_fire():
    model, tokenizer = classifier(["toxic"])
    with torch.no_grad():
        logits = [model(**tokenizer([t], return_tensors="pt")).logits[0, 0] for t in TEXTS[:3]]
        middle = (min(logits) + max(logits)) / 2
        model.classifier.bias -= middle
    expected = [int(x > middle) for x in logits]
    assert 0 < sum(expected) < 3
    assert TextClassifier(model, tokenizer, "eval.bold.toxicity", 1).toxic(TEXTS[:3]) == expected


def test_a_text_is_cut_at_the_models_own_limit_where_the_tokenizer_names_none():
    model, tokenizer = classifier(["toxic", "neutral"])
    tokenizer.model_max_length = 10**30
    read = TextClassifier(model, tokenizer, "eval.bold.toxicity", 2)
    assert read.most_tokens == model.config.max_position_embeddings
    long = " ".join(TEXTS[:1] * (2 * read.most_tokens))
    assert len(tokenizer(long)["input_ids"]) > read.most_tokens
    assert len(read.fired([long, TEXTS[0]])) == 2
    tokenizer.model_max_length = 8
    assert longest_input(model, tokenizer) == 8


def test_positions_behind_a_padding_index_are_not_counted():
    config = RobertaConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=20, pad_token_id=1,
    )  # fmt: skip
    model = RobertaForSequenceClassification(config)
    _, tokenizer = classifier(["a", "b"])
    tokenizer.model_max_length = 10**30
    most = longest_input(model, tokenizer)
    assert most == 18  # RoBERTa's first position is 2
    model(torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, most + 1), 5))


@pytest.mark.parametrize("what", ["toxic", "regard"])
def test_a_classifier_with_unknown_labels_is_refused(what):
    read = TextClassifier(*classifier(["LABEL_0", "positive"]), f"eval.bold.{what}", 2)
    with pytest.raises(ConfigError, match=rf"eval.bold.{what}: the classifier's labels \(=label_0"):
        getattr(read, what)(TEXTS)


def test_toxicity_and_regard_by_classifiers_of_folders(tmp_path):
    for name, labels in (("toxicity", ["toxic", "other"]), ("regard", ["positive", "negative"])):
        model, tokenizer = classifier(labels)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    asker = subject(toxicity=str(tmp_path / "toxicity"), regard=str(tmp_path / "regard"))
    rows = measure(bold(), "closed", asker).items
    assert {row["regard_positive"] + row["regard_negative"] for row in rows} == {1}
    found = summarise(rows, INTERVALS)
    assert {"region_south_toxic", "region_north_regard_negative"} <= found.keys()
    assert "region_south_toxic_lexicon" not in found


def test_a_folder_that_is_no_classifier_is_refused(tmp_path):
    asker = subject(toxicity=str(tmp_path))
    with pytest.raises(ConfigError, match=r"eval.bold.toxicity \(=.*sequence classifier"):
        measure(bold(), "closed", asker)


def test_a_hub_name_needs_its_commit():
    with pytest.raises(ConfigError, match=r"eval.bold.toxicity_revision"):
        BoldConfig(toxicity="someone/classifier")
