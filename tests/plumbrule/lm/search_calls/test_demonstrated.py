"""Demonstrations with search calls as token rows: the sampler's tokens, and what is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import normalizers
from worlds import tiny_models

from plumbrule.data.records import (
    DemonstratedSearch,
    Demonstration,
    Message,
    read_records,
    write_records,
)
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.config import RetrievalConfig, SamplingConfig, SearchConfig
from plumbrule.lm.demonstrations import encode_demonstrations, with_retrieved
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.policy import PolicySpec, SearchForm
from plumbrule.lm.response_logprobs import mean_nll, pad_token_rows, token_logprobs
from plumbrule.lm.search_calls.results import ResultWriter
from plumbrule.protocols import Passage

FORM = SearchForm("<<", ">>", " ({passages})")
ASKED = (Message("user", "Who?"),)
SEARCHED = Demonstration(
    "d0",
    ASKED,
    "Mara [2].",
    searches=(
        DemonstratedSearch("book", ("rain", "Mara")),
        DemonstratedSearch("river", ("sun",), "Once more:"),
    ),
)


def policy(form: SearchForm | None = FORM):
    made = tiny_models.policy()
    made.spec = replace(made.spec, search_form=form, context=200)
    return made


def test_a_row_is_turn_by_turn_what_the_sampler_would_put_down() -> None:
    own = policy()
    row = encode_demonstrations(own, [SEARCHED]).rows[0]
    writer = ResultWriter(own.tokenizer, SearchConfig(budget_tokens=99, **FORM._asdict()))
    parts = [
        (own.encode_response("<< book >>", terminal=False), True),
        (writer.write(["rain", "Mara"], 1).tokens, False),
        (own.encode_response("Once more: << river >>", terminal=False), True),
        (writer.write(["sun"], 3).tokens, False),
        (own.encode_response("Mara [2]."), True),
    ]
    assert list(row.response) == [token for tokens, _ in parts for token in tokens]
    assert row.action_mask is not None
    assert list(row.action_mask) == [mine for tokens, mine in parts for _ in tokens]
    assert list(row.prompt) == own.encode(ASKED)
    assert row.num_actions == sum(len(tokens) for tokens, mine in parts if mine)


def test_passages_of_the_prompt_count_first() -> None:
    own = policy()
    shown = replace(SEARCHED, passages=("sun",))
    text = own.tokenizer.decode(encode_demonstrations(own, [shown]).rows[0].response)
    assert "([2] rain\n[3] Mara\n)" in text


def test_no_number_depends_on_what_stands_at_an_answer() -> None:
    """Of a row's loss, each action token counts once and the tokens of answers not at all."""
    own = policy()
    row = encode_demonstrations(own, [SEARCHED]).rows[0]
    assert row.action_mask is not None
    mask = torch.tensor(row.action_mask)
    batch = pad_token_rows([row], own.pad_id, torch.device("cpu"))
    begin = len(row.prompt)
    assert torch.equal(batch.response_mask[0, begin : begin + len(mask)], mask)
    with torch.no_grad():
        nats = token_logprobs(own, [row])[0, begin : begin + len(mask)]
        whole = token_logprobs(own, [row._replace(action_mask=None)])[0, begin : begin + len(mask)]
    assert not nats[~mask].any()
    assert torch.equal(nats[mask], whole[mask])
    assert whole[~mask].abs().min() > 0.1  # so counting them would show
    expected = -float(whole[mask].double().sum()) / int(mask.sum())
    assert mean_nll(own, [row], 4) == pytest.approx(expected, rel=1e-6)


def test_files_keep_searches(tmp_path: Path) -> None:
    write_records([SEARCHED], tmp_path / "records.jsonl")
    assert read_records(Demonstration, tmp_path / "records.jsonl") == [SEARCHED]


@pytest.mark.parametrize(
    ("searches", "told"),
    [
        ("[1]", "a search (=1) must be an object with query"),
        ('[{"query": "a", "found": []}]', "must be an object with query"),
        ('[{"query": 3}]', "query and before"),
        ('[{"query": " "}]', "must each hold a query"),
        ('[{"query": "a", "passages": [1]}]', "must be a list of texts"),
        ('"a"', "must be a list of turns"),
    ],
)
def test_searches_that_are_none_are_refused(searches: str, told: str, tmp_path: Path) -> None:
    row = (
        '{"id": "a", "messages": [{"role": "user", "content": "Q"}], "response": "R", "searches": '
    )
    (tmp_path / "records.jsonl").write_text(row + searches + "}\n", encoding="utf-8")
    with pytest.raises(DataError) as refused:
        read_records(Demonstration, tmp_path / "records.jsonl")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"searches": (DemonstratedSearch("a >> b"),)}, "search 1 must be one call at the end"),
        ({"searches": (DemonstratedSearch("a", (), "<< b >>"),)}, "search 1 must be one call"),
        ({"searches": (DemonstratedSearch("a", (), "I << ask"),)}, "search 1 must be one call"),
        ({"searches": (DemonstratedSearch("a", (), "so >>"),)}, "search 1 must be one call"),
        ({"response": "It is << a >>"}, "response must hold no search call"),
    ],
)
def test_a_turn_that_reads_as_another_call_is_refused(change: dict, told: str) -> None:
    with pytest.raises(DataError, match=told):
        encode_demonstrations(policy(), [replace(SEARCHED, **change)])


def test_a_query_that_the_tokenizer_writes_in_another_way_is_still_one() -> None:
    """Tokenizers may normalise letters (NFC) or know none of them."""
    own = policy()
    assert own.tokenizer.backend_tokenizer.normalizer is None
    own.tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    composed, apart = (
        replace(SEARCHED, searches=(DemonstratedSearch(query),))
        for query in ("caf\u00e9", "cafe\u0301")
    )
    rows = encode_demonstrations(own, [composed, apart]).rows
    assert rows[0].response == rows[1].response


def test_a_demonstration_that_searches_gets_no_passages_with_its_prompt() -> None:
    class Rain:
        def search(self, queries, k):
            return [[Passage("p", "rain", 1.0, "d", 0, 4)] for _ in queries]

    plain = replace(SEARCHED, id="d1", searches=(), response="Mara.")
    shown = with_retrieved(
        policy(), [SEARCHED, plain], Rain(), RetrievalConfig(share=1.0, budget_tokens=30), 0
    )
    assert [d.passages for d in shown] == [(), ("rain",)]


def test_a_policy_is_asked_in_the_form_that_it_was_taught(tmp_path: Path) -> None:
    spec = policy().spec
    spec.write(tmp_path / "policy.json")
    assert PolicySpec.read(tmp_path / "policy.json") == spec
    policy(None).spec.write(tmp_path / "plain.json")
    assert "search_form" not in (tmp_path / "plain.json").read_text(encoding="utf-8")
    search = SearchConfig(max_turns=2, budget_tokens=20, **FORM._asdict())
    for own, asked in ((policy(), replace(search, open="<s>")), (policy(), SearchConfig())):
        with pytest.raises(ConfigError, match=r"search.open \(=.*\) must be '<<', as in the demon"):
            Searcher(None, asked).answer(own, [[1]], sampling=SamplingConfig(), keys=[1])  # type: ignore[arg-type]
    found = Searcher(None, search).answer(  # type: ignore[arg-type]
        policy(), [[1, 7]], sampling=SamplingConfig(max_new_tokens=2), keys=[1]
    )
    assert len(found) == 1
