"""Whatever a scorer replies or a labelling page posts: the project's own errors, and status 400."""

from __future__ import annotations

import json
import math

import pytest
from effort import efforts, search
from hypothesis import strategies as st
from outside import ANY_CELL, NUMBERS, TEXTS, VALUES, as_lines, changed, damaged, require_short

from plumbrule.data.records import Message, Prompt
from plumbrule.data.strict_json import parse_json
from plumbrule.errors import DataError, TrainingError
from plumbrule.protocols import Episode
from rlhf.feedback.people import store_folder
from rlhf.feedback.people.judgements import AnnotatorJudgement, from_row, read_journal, to_row
from rlhf.feedback.people.questions import question_of, read_questions
from rlhf.feedback.people.questions import to_row as question_to_row
from rlhf.rewards.config import HTTPConfig
from rlhf.rewards.http_scorer import HTTPScorer, read_replies

GOOD = json.dumps({"version": "7", "scores": [0.5, -1, 2e3]}).encode()


@efforts
def test_json_of_any_bytes(effort):
    def check(text):
        try:
            value = parse_json(text)
        except ValueError as error:
            require_short(error)
        else:
            assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value

    texts = damaged(GOOD) | VALUES.map(lambda value: json.dumps(value).encode())
    search(effort, 150, check, text=texts)


@efforts
def test_replies_of_a_scorer(effort, monkeypatch):
    config = HTTPConfig(url="http://127.0.0.1:1/", version="7")
    prompt = Prompt("p", (Message("user", "who?"),))
    episodes = [Episode(prompt, (), text, True) for text in "abc"]

    def check(reply):
        monkeypatch.setattr(
            "plumbrule.lm.endpoints.patient_post.post", lambda *args, **limits: reply
        )
        try:
            scores = HTTPScorer(config).score(episodes)["score"]
        except TrainingError as error:
            require_short(error)
        else:
            assert len(scores) == 3
            assert all(map(math.isfinite, scores))

    reply = st.fixed_dictionaries(
        {"version": st.just("7") | VALUES, "scores": st.lists(NUMBERS, max_size=4) | ANY_CELL}
    ).map(lambda value: json.dumps(value).encode())
    near = changed(json.loads(GOOD)).map(lambda value: json.dumps(value).encode())
    search(effort, 150, check, reply=reply | near | damaged(GOOD))


@efforts
def test_kept_replies(effort, tmp_path):
    row = json.dumps({"key": "a", "score": 1.5}).encode() + b"\n"

    def check(content):
        (tmp_path / "0.jsonl").write_bytes(content)
        assert all(map(math.isfinite, read_replies(tmp_path / "0.jsonl").values()))

    rows = st.lists(st.fixed_dictionaries({"key": VALUES, "score": ANY_CELL})).map(as_lines)
    search(effort, 60, check, content=damaged(row * 3) | rows)


QUESTION = question_of((Message("user", "which?"),), (), ("a", "b", "c"))
JUDGEMENT = AnnotatorJudgement(QUESTION.id, "anna", (1, 2, 2), "fine", 1, "now")


@pytest.fixture
def labels(tmp_path):
    """A folder of one question."""
    out = tmp_path / "artifacts" / "feedback" / "f"
    out.mkdir(parents=True)
    return store_folder.prepare([QUESTION], out)


@efforts
def test_posts_of_a_labelling_page(effort, labels):
    pytest.importorskip("starlette", reason="the extra `label` is not installed")
    from starlette.testclient import TestClient

    from rlhf.feedback.people.server import application

    client = TestClient(application(labels), base_url="http://127.0.0.1:8000")

    def check(body):
        headers = {"Content-Type": "application/json"}
        answer = client.post(f"/api/question/{QUESTION.id}", content=body, headers=headers)
        assert answer.status_code in (200, 400, 409)
        client.get("/api/session?annotator=anna").json()  # what was kept reads back

    posts = st.fixed_dictionaries(
        {
            "annotator": st.just("anna") | VALUES,
            "revision": st.integers(0, 2) | VALUES,
            "ranks": st.just([1, 2, 2]) | st.none() | ANY_CELL,
        },
        optional={"comment": TEXTS | VALUES, "x": VALUES},
    ).map(lambda value: json.dumps(value).encode())
    whole = {"annotator": "anna", "revision": 0, "ranks": [1, 2, 3], "comment": "so"}
    good = json.dumps(whole).encode()
    near = changed(whole).map(lambda value: json.dumps(value).encode())
    search(effort, 80, check, body=posts | near | damaged(good))


@efforts
def test_headers_of_a_labelling_page(effort, labels):
    pytest.importorskip("starlette", reason="the extra `label` is not installed")
    from starlette.testclient import TestClient

    from rlhf.feedback.people.server import application

    clients = [
        TestClient(application(labels, token=token), base_url="http://127.0.0.1:8000")
        for token in (None, "s3cret")
    ]

    def check(header, text):
        for client in clients:
            answer = client.get("/api/session?token=s3cret", headers={header: text.encode()})
            assert answer.status_code in (200, 400, 403)

    odd = st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=12)
    parts = st.sampled_from(
        ["127.0.0.1", "localhost", ":", "[", "]", "::1", "http://", "@", "8000"]
    )
    texts = odd | st.lists(parts, max_size=4).map("".join)
    search(effort, 60, check, header=st.sampled_from(["Host", "Origin", "X-Token"]), text=texts)


@efforts
def test_files_of_questions_and_judgements(effort, tmp_path):
    questions = as_lines([question_to_row(QUESTION)] * 2)
    journal = as_lines([to_row(JUDGEMENT)] * 2)

    def check(content, read):
        (tmp_path / "a.jsonl").write_bytes(content)
        try:
            read(tmp_path / "a.jsonl")
        except DataError as error:
            require_short(error)

    contents = damaged(questions) | damaged(journal)
    contents |= st.lists(
        st.fixed_dictionaries(
            dict.fromkeys(("question", "messages", "passages", "answers"), ANY_CELL),
            optional={"repeats": VALUES},
        )
        | st.fixed_dictionaries(
            {"question": TEXTS, "ranks": ANY_CELL}, optional={"annotator": VALUES, "at": VALUES}
        )
        | VALUES,
        max_size=2,
    ).map(as_lines)
    reads = st.sampled_from([read_questions, read_journal])
    search(effort, 80, check, content=contents, read=reads)


@efforts
def test_judgements_of_any_value(effort):
    def check(row):
        try:
            from_row(row)
        except DataError as error:
            require_short(error)

    fields = dict.fromkeys(("question", "ranks"), ANY_CELL)
    more = dict.fromkeys(("annotator", "comment", "revision", "at"), VALUES)
    search(effort, 60, check, row=st.fixed_dictionaries(fields, optional=more) | VALUES)
