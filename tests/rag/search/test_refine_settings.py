"""`rag.refine`: each setting changes what a run's retriever finds, and is checked beforehand."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from places import ROOT
from worlds.articles import CPU, build_measured, documents
from worlds.small_encoders import save_classifier

from plumbrule.data.records import Document
from plumbrule.errors import ArtifactError, ConfigError, DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.generation.sampler import generate
from plumbrule.lm.loading import load_policy
from plumbrule.notebook import build, compose_run
from plumbrule.protocols import Passage
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.fingerprint import hashed_config
from plumbrule.store.packaged_files import SHIPPED
from rag.config import IndexConfig, check_inputs
from rag.options import RERANKERS, REWRITERS, SUMMARIES
from rag.search import language_model
from rag.search.answer_journal import AnswerJournal
from rag.search.config import AskedModelConfig, RefineConfig
from rag.search.language_model import AskedModel
from rag.search.refining import ANSWERS
from rag.search.reranking import CrossEncoder

POLICY = SHIPPED["plumbrule/atlas-base"]
"""As the folder of an artifact that is asked: its `model/` says words to any prompt."""
QUERIES = ["Where was Ada Quill born?", "profession of Bo Marsh", "Lima"]
REWRITES = list(REWRITERS)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    words = " ".join(f"{d.title} {d.text}" for d in documents()).split()
    return save_classifier(tmp_path_factory.mktemp("classifier"), tuple(dict.fromkeys(words)))


def refined(folder: Path, policy: Path | None = None, **settings: Any) -> Artifact:
    """Return the index of the small world with those settings of `rag.refine`."""
    asked = AskedModelConfig(max_new_tokens=6)
    config = RefineConfig(**{"language_model": asked, **settings})
    return build_measured(folder, policy=policy, refine=config)[0]


def found(index: Artifact, method: str = "bm25", k: int = 3) -> list[list[Passage]]:
    """Return what a run's retriever finds."""
    retriever = Inputs({"index": index}).retriever("index", method, CPU)
    assert retriever is not None
    return retriever.search(QUERIES, k)


def ids(passages: Sequence[Sequence[Passage]]) -> list[list[str]]:
    return [[passage.id for passage in some] for some in passages]


def unrefined(index: Artifact, method: str = "bm25", k: int = 3) -> list[list[Passage]]:
    return index.open(CPU).retriever(method, refined=False).search(QUERIES, k)


def test_a_cross_encoder_orders_what_runs_find(classifier: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    shutil.copytree(classifier, given)
    index = refined(tmp_path, rerank="cross_encoder", rerank_model=str(given), depth=12)
    shutil.rmtree(given)  # the index holds a copy
    scorer = CrossEncoder(classifier)
    for query, some, first in zip(QUERIES, found(index), unrefined(index, k=12), strict=True):
        texts = [(query, _searched(index, passage)) for passage in first]
        scores = scorer.score(texts)
        order = np.argsort(-scores, kind="stable")[:3]
        assert [p.id for p in some] == [first[i].id for i in order]
        assert [p.score for p in some] == pytest.approx(scores[order].tolist(), abs=1e-5)
    assert ids(found(index)) != ids(unrefined(index))


def _searched(index: Artifact, passage: Passage) -> str:
    lines = index.file("passages.jsonl").read_text().splitlines()
    row = next(row for row in map(json.loads, lines) if row["id"] == passage.id)
    return f"{row['title']}\n{row['text']}"


def test_grades_that_say_nothing_leave_the_order(tmp_path: Path) -> None:
    """A policy that grades nothing gives every passage the lowest grade."""
    index = refined(tmp_path, POLICY, rerank="language_model")
    assert ids(found(index)) == ids(unrefined(index))
    assert {p.score for some in found(index) for p in some} <= {-1.0, 0.0, 1.0, 2.0, 3.0}
    assert (index.path / "language_model" / "policy.json").is_file()


def test_marginal_relevance_compares_vectors_whatever_the_method(tmp_path: Path) -> None:
    alike = [Document(f"{i}", "rain in Lima today") for i in range(3)]
    index, _ = build_measured(
        tmp_path,
        [*alike, Document("other", "A city is called Lima")],
        refine=RefineConfig(mmr=0.4),
    )
    for method in ("bm25", "dense", "hybrid"):
        assert "other#0" in ids(found(index, method, 2))[2]  # of three that are alike, one
    assert "other#0" not in ids(unrefined(index, "dense", 2))[2]


def test_neighbours_come_as_one_text_of_the_document(tmp_path: Path) -> None:
    index = refined(tmp_path, neighbours=1)
    texts = {document.id: document.text for document in documents()}
    for some in found(index):
        assert len({p.document for p in some}) == len(some)
        assert all(p.text == texts[p.document][p.start : p.end] for p in some)
    assert found(index)[0][0].text == texts["doc-0"]


def test_summaries_are_searched_in_place_of_chunks(tmp_path: Path) -> None:
    """The second chunk says nothing of Rome, and is found by the summary that does."""
    index = refined(tmp_path / "lead", summaries="lead")
    lines = (index.path / "summaries" / "summaries.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"text": "Ada Quill was born in Rome.", "rows": [0, 1]}
    for method in ("bm25", "dense", "hybrid"):
        assert ids(found(index, method, 2))[0] == ["doc-0#0", "doc-0#1"]
        assert ids(found(index, method, 1))[2] == ["doc-2#0"]
    own = [Document("a", "One text.", "", {"summary": "about Lima"}), Document("b", "Another.")]
    with pytest.raises(DataError, match=r"1 documents \(b\) must have a text in meta\.summary"):
        build_measured(tmp_path / "lacking", own, refine=RefineConfig(summaries="field"))
    own[1] = Document("b", "Another Lima.", "", {"summary": "nothing"})
    index, _ = build_measured(tmp_path / "field", own, refine=RefineConfig(summaries="field"))
    assert ids(found(index))[2] == ["a#0"]
    index = refined(tmp_path / "written", POLICY, summaries="written")
    texts = [json.loads(line)["text"] for line in _lines(index)]
    assert len(texts) == 6
    assert all(texts)
    assert not (index.path / "language_model").exists()  # no search asks it


def _lines(index: Artifact) -> list[str]:
    return (index.path / "summaries" / "summaries.jsonl").read_text().splitlines()


def test_damaged_summaries_are_refused(tmp_path: Path) -> None:
    index = refined(tmp_path, summaries="lead")
    path = index.path / "summaries" / "summaries.jsonl"
    path.write_text("\n".join(_lines(index)[:-1]) + "\n")
    with pytest.raises(ArtifactError, match=r"=10 rows\) must stand for each passage \(=12\) once"):
        found(index)


def test_a_written_context_stands_before_its_chunk_when_it_is_indexed(tmp_path: Path) -> None:
    given = [Document("a", "It rains.", "Rome"), Document("b", "It rains.", "", {"context": "own"})]
    asked = AskedModelConfig(max_new_tokens=6)
    config = RefineConfig(context=True, language_model=asked)
    index, _ = build_measured(tmp_path, given, POLICY, refine=config)
    first, second = (json.loads(x) for x in index.file("passages.jsonl").read_text().splitlines())
    written = first["metadata"]["context"]
    assert second["metadata"]["context"] == "own"
    assert json.loads(index.file("fingerprint.json").read_text())["header"] == ["title", "context"]
    retriever = index.open(CPU).retriever("bm25")
    assert [p.id for p in retriever.search([written], 1)[0]] == ["a#0"]
    assert [p.text for p in retriever.search(["own"], 1)[0]] == ["It rains."]


def test_a_filter_may_name_a_context_that_is_to_be_written(tmp_path: Path) -> None:
    """Other fields are told before the language model is asked."""
    given = [Document("a", "It rains.", "Rome"), Document("b", "It rains.", "", {"context": "own"})]
    asked = AskedModelConfig(max_new_tokens=6)
    config = RefineConfig(context=True, language_model=asked)
    wanted: dict[str, Any] = {"context": {"exists": True}, "not": {"context": "own"}}
    index, _ = build_measured(tmp_path, given[:1], POLICY, refine=config, filter=wanted)
    assert [p.id for p in index.open(CPU).retriever("bm25").search(["rains"], 2)[0]] == ["a#0"]
    with pytest.raises(ConfigError, match=r"a field of rag\.filter \(=contexts\)"):
        build_measured(tmp_path, given, refine=config, filter={"contexts": "own"})


KILLED = """
import os, signal, sys
from pathlib import Path
from rag.search.answer_journal import AnswerJournal
sys.path.insert(0, sys.argv[2])
import test_refine_settings as here

keep, kept = AnswerJournal.keep, []
def keep_and_die(self, answers):
    keep(self, answers)
    kept.append(answers)
    if len(kept) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
AnswerJournal.keep = keep_and_die
here.written_by_a_model(Path(sys.argv[1]))
"""


def written_by_a_model(folder: Path) -> Artifact:
    """Return an index of 12 contexts and 6 summaries, 4 of which are kept together."""
    asked = AskedModelConfig(max_new_tokens=4, batch_size=1)
    config = RefineConfig(context=True, summaries="written", language_model=asked)
    return build_measured(folder, policy=POLICY, refine=config)[0]


def test_answers_that_were_given_before_a_kill_are_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed when all contexts and four of six summaries are written."""
    here = Path(__file__).parent
    words = ["-c", KILLED, str(tmp_path / "killed"), str(here)]
    with forked.Forked(words) as process:
        assert process.wait() == -signal.SIGKILL
    journal = tmp_path / "killed" / "index" / ANSWERS
    assert sum(len(json.loads(line)) for line in journal.read_text().splitlines()) == 16
    asked: list[int] = []

    def counted(policy: Any, prompts: Sequence[Any], **given: Any) -> Any:
        asked.append(len(prompts))
        return generate(policy, prompts, **given)

    monkeypatch.setattr(language_model, "generate", counted)
    index = written_by_a_model(tmp_path / "killed")
    assert sum(asked) == 2
    assert not journal.exists()
    never_killed = written_by_a_model(tmp_path / "fresh")
    for name in ("passages.jsonl", "summaries/summaries.jsonl", "index.faiss"):
        assert index.file(name).read_bytes() == never_killed.file(name).read_bytes()


def test_a_line_of_the_journal_that_was_cut_off_counts_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / ANSWERS
    AnswerJournal(path).keep({"one?": "1", "two?": "2"})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-20])
    again = AnswerJournal(path)
    assert path.read_bytes() == whole
    assert ("two?" in again, "three?" in again, again.answer("one?")) == (True, False, "1")
    again.keep({"three?": "3"})
    assert AnswerJournal(path).answer("three?") == "3"


@pytest.mark.parametrize("rewrite", REWRITES)
def test_queries_are_written_anew_by_the_policy(rewrite: str, tmp_path: Path) -> None:
    """What is found is what the rewriter's texts find, fused; the policy's copy writes them."""
    index = refined(tmp_path, POLICY, rewrite=rewrite, num_rewrites=2)
    asked = AskedModel(load_policy(POLICY / "model"), 6, 16)
    texts = REWRITERS[rewrite](asked, 2).rewrite(QUERIES)
    plain = index.open(CPU).retriever("bm25", refined=False)
    for query, written, some in zip(QUERIES, texts, found(index, k=20), strict=True):
        every = {p.id for text in written for p in plain.search([text], 20)[0]}
        assert {p.id for p in some} == every
        assert (query in written) == (rewrite != "rephrase")


def test_the_hybrid_is_fused_as_the_settings_say(tmp_path: Path) -> None:
    index = refined(tmp_path, fusion="ranks")
    (first, *_), *_ = found(index, "hybrid")
    assert first.score == pytest.approx(2 / 61)  # first of both rankings: 1 / (60 + 1) twice


def test_recall_is_measured_with_what_runs_do(classifier: Path, tmp_path: Path) -> None:
    plain = build_measured(tmp_path / "plain")[1]
    settings = {"rerank": "cross_encoder", "rerank_model": str(classifier)}
    config = RefineConfig(**settings)
    metrics = build_measured(tmp_path / "refined", refine=config)[1]
    assert set(metrics) - set(plain) == {
        f"rag/{name}_refined" for name in ("recall_at_1", "recall_at_5", "mrr")
    }
    assert metrics["rag/recall_at_1"] == plain["rag/recall_at_1"] == 1.0
    assert metrics["rag/recall_at_1_refined"] < 1.0  # a model of random weights


def test_a_prompt_that_is_too_long_loses_its_middle() -> None:
    asked = AskedModel(load_policy(POLICY / "model"), 6, 4)
    long = "what is it? " * 300 + "say it again."
    first = asked([long, "how?"])
    assert asked(["how?", long]) == first[::-1]
    assert len(asked._encoded(long)) <= asked._policy.spec.context - 6
    most = asked._policy.spec.context - 1
    with pytest.raises(ConfigError, match=rf"max_new_tokens \(={most} tokens\) must leave room"):
        AskedModel(asked._policy, most, 4)(["how?"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rerank": "cross"},
            r"rag\.refine\.rerank \(=cross\) must be one of cross_encoder",
        ),
        ({"rewrite": "hide"}, r"rag\.refine\.rewrite \(=hide\) .*nearest is hyde"),
        ({"summaries": "leads"}, r"rag\.refine\.summaries \(=leads\) .*nearest is lead"),
        ({"fusion": "rank"}, r"rag\.refine\.fusion \(=rank\) .*nearest is ranks"),
        ({"rerank": "cross_encoder"}, r"rag\.refine\.rerank_model \(=None\) must name"),
        ({"rerank_model": "here"}, r"rag\.refine\.rerank_model \(=here\) must be null"),
        (
            {"rerank": "cross_encoder", "rerank_model": "/nowhere"},
            r"rag\.refine\.rerank_model \(=/nowhere\) must be a folder that exists",
        ),
        (
            {"rerank": "cross_encoder", "rerank_model": str(ROOT)},
            r"rag\.refine\.rerank_model .*it holds no safetensors",
        ),
        ({"mmr": 1.5}, r"rag\.refine\.mmr \(=1\.5\) must lie in \[0, 1\]"),
        ({"depth": 0}, r"rag\.refine\.depth \(=0 passages\)"),
        ({"neighbours": -1}, r"rag\.refine\.neighbours \(=-1 chunks\)"),
        ({"num_rewrites": 0}, r"rag\.refine\.num_rewrites \(=0 texts\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RefineConfig(**settings)


@pytest.mark.parametrize(
    "asks",
    [
        {"rewrite": "hyde"},
        {"rerank": "language_model"},
        {"summaries": "written"},
        {"context": True},
    ],
)
def test_a_language_model_is_there_if_and_only_if_it_is_asked(asks: dict[str, Any]) -> None:
    """Before anything is built, and so before a model loads."""
    name = r"rag\.refine\.language_model\.name_or_path"

    def checked(given: bool, named: bool, **settings: Any) -> None:
        asked = AskedModelConfig("plumbrule/atlas-base" if named else None)
        config = IndexConfig(refine=RefineConfig(language_model=asked, **settings))
        inputs = {"policy": PlacedNode("sft", "sft", {})} if given else {}
        check_inputs(PlacedNode("index", "index", inputs, config), CPU)

    with pytest.raises(ConfigError, match=rf"{name} \(=None\) must name a model .*policy=sft"):
        checked(False, False, **asks)
    checked(True, False, **asks)
    checked(False, True, **asks)
    with pytest.raises(ConfigError, match=r"take one of the two out"):
        checked(True, True, **asks)
    with pytest.raises(ConfigError, match=rf"{name} .*must be null where nothing asks"):
        checked(False, True)


def test_an_unknown_reranker_is_told_once() -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run("run.only=index", "rag.refine.rerank=cross")
    assert str(caught.value).startswith("rag.refine.rerank (=cross) must be one of cross_encoder")


def test_a_plan_refuses_a_rewriter_that_nobody_asks_for() -> None:
    with pytest.raises(ConfigError, match=r"since rag\.refine\.rewrite \(=hyde\) asks one"):
        compose_run("run.only=index", "rag.refine.rewrite=hyde")


def test_each_setting_is_hashed_and_none_at_its_default() -> None:
    changed = {"rewrite": "hyde", "summaries": "lead", "context": True, "mmr": 0.5, "neighbours": 1}
    plain = hashed_config(IndexConfig())
    for name, value in (changed | {"fusion": "ranks", "rerank": "language_model"}).items():
        assert hashed_config(IndexConfig(refine=RefineConfig(**{name: value}))) != plain
    asked = AskedModelConfig(batch_size=3)
    assert hashed_config(IndexConfig(refine=RefineConfig(language_model=asked))) == plain


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("setting", "table"),
    [("rewrite", REWRITERS), ("summaries", SUMMARIES), ("rerank", RERANKERS)],
)
def test_the_page_has_a_row_for_every_entry_and_none_beside_them(
    setting: str, table: Any, page: str
) -> None:
    rows = re.findall(rf"^\| `rag\.refine\.{setting}=(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(table)


def test_a_small_run_trains_and_evaluates_with_everything_on(tmp_path: Path) -> None:
    """A graph from the command line's words: passages reach a policy through every refinement."""
    rows = [{"id": d.id, "title": d.title, "text": d.text} for d in documents()]
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    classifier = save_classifier(tmp_path / "classifier")
    config, nodes = compose_run(
        "run.only=feedback",
        "nodes.feedback.inputs.policy=base",
        "nodes.index.inputs.policy=base",
        "dataset@data.documents=jsonl",
        f"data.documents.path={path}",
        "atlas.num_prompts=8",
        "feedback.retrieval.share=1",
        "feedback.sampling.max_new_tokens=4",
        "rag.chunk_words=8",
        "rag.refine.rewrite=multi_query",
        "rag.refine.rerank=cross_encoder",
        f"rag.refine.rerank_model={classifier}",
        "rag.refine.neighbours=1",
        "rag.refine.summaries=written",
        "rag.refine.mmr=0.5",
        "rag.refine.context=true",
        "rag.refine.language_model.max_new_tokens=6",
    )
    built = build(config, nodes, Store(tmp_path / "store"))
    about = json.loads(built["index"].file("fingerprint.json").read_text())
    assert about["refine"]["rewrite"] == "multi_query"
    shown = [
        json.loads(x) for x in built["feedback"].file("records.jsonl").read_text().splitlines()
    ]
    texts = {document.text for document in documents()}
    passages = [p for row in shown for p in row.get("passages", [])]
    assert passages
    assert set(passages) <= texts  # whole documents: both chunks, merged
