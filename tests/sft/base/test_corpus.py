import json

import numpy as np
import pytest

from plumbrule.errors import DataError
from plumbrule.lm.loading import train_tokenizer
from sft.base.corpus import CorpusText, encode, plain_parts, read_corpus

TOKENIZER = train_tokenizer(["the river rises near the sea"] * 9, 300)


def read(tmp_path, row):
    path = tmp_path / "records.jsonl"
    path.write_text('{"text": "fine"}\n' + json.dumps(row) + "\n", encoding="utf-8")
    return read_corpus(path)[1]


def test_texts_and_segments(tmp_path):
    assert read(tmp_path, {"text": "abc"}) == CorpusText("abc", (3,), (1.0,))
    segments = {"segments": [["Who?", 0], [" Mara.", 1.5]]}
    assert read(tmp_path, segments) == CorpusText("Who? Mara.", (4, 10), (0.0, 1.5))


@pytest.mark.parametrize(
    "row",
    [
        {"txt": "abc"},
        {"text": 3},
        {"text": ""},
        {"segments": "abc"},
        {"segments": []},
        {"segments": [["", 1.0]]},
        {"segments": [["abc"]]},
        {"segments": [["abc", -0.1]]},
        {"segments": [["abc", "1"]]},
        {"segments": [["abc", True]]},
        {"segments": [["abc", float("nan")]]},
        {"segments": [["abc", float("inf")]]},
    ],
)
def test_bad_rows_are_named(tmp_path, row):
    with pytest.raises(
        DataError, match=r"records\.jsonl, row 2: a (corpus row must be|number \(=)"
    ):
        read(tmp_path, row)


def test_tokens_stand_between_begin_and_end():
    (encoded,) = encode(TOKENIZER, [CorpusText("the sea", (7,), (0.5,))])
    begin, *middle, end = encoded.tokens.tolist()
    assert (begin, end) == (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id)
    assert TOKENIZER.decode(middle) == "the sea"
    assert encoded.weights.tolist() == [0.0] + [0.5] * (len(middle) + 1)


def test_special_tokens_that_the_text_spells_are_not_doubled():
    text = "<|bos|><|user|> the sea<|assistant|> the river<|eos|>"
    (encoded,) = encode(TOKENIZER, [CorpusText(text, (len(text),), (1.0,))])
    assert encoded.tokens.tolist() == TOKENIZER(text).input_ids
    assert list(plain_parts([CorpusText(text, (len(text),), (1.0,))])) == [
        "", "", " the sea", " the river", "",
    ]  # fmt: skip


def test_a_segment_boundary_changes_weights_and_no_token():
    whole = "the river rises near the sea"
    cut = CorpusText(whole, (9, len(whole)), (0.25, 1.0))
    weighted, plain = encode(TOKENIZER, [cut, CorpusText(whole, (len(whole),), (1.0,))])
    assert weighted.tokens.tolist() == plain.tokens.tolist()
    # "the river" has 9 characters: tokens that end at or before character 9 weigh 0.25
    shown = [TOKENIZER.decode([t]) for t in weighted.tokens[1:-1]]
    ends = np.cumsum([len(piece) for piece in shown])
    expected = [0.25 if end <= 9 else 1.0 for end in ends]
    assert weighted.weights[1:-1].tolist() == expected


def test_letters_of_several_bytes_keep_the_weight_of_their_segment():
    (encoded,) = encode(TOKENIZER, [CorpusText("é中🙂" + "X", (3, 4), (0.0, 1.0))])
    num_bytes = len("é中🙂".encode())
    assert encoded.weights[1 : 1 + num_bytes].tolist() == [0.0] * num_bytes
    assert (encoded.weights[1 + num_bytes :] == 1.0).all()
