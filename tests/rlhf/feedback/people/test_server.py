"""The labelling server: its requests in process, and as the process that `plumbrule label` is."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `label` is not installed")
from starlette.testclient import TestClient

from plumbrule.cli.verbs.label import command_awaiting, labels_of
from plumbrule.data.records import Message
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store.artifacts import Store
from rlhf.feedback.people import store_folder
from rlhf.feedback.people.judgements import AnnotatorJudgement, append, read_journal
from rlhf.feedback.people.questions import LabellingQuestion, in_asking_order, question_of
from rlhf.feedback.people.server import MOST_BYTES, application, is_loopback, listen

ANSWERS = ("plain", "<img src=x onerror=alert(1)>", "third & last")
HERE = "http://127.0.0.1:8000"


def asked(number: int = 4, repeats: float = 0.25) -> list[LabellingQuestion]:
    chats = [(Message("user", f"what is {i}?"),) for i in range(number)]
    questions = [question_of(chat, ("a passage",), ANSWERS) for chat in chats]
    return in_asking_order(questions, repeats)


@pytest.fixture
def labels(tmp_path) -> Path:
    """A folder of 4 questions, one asked twice, that the feedback artifact `f1` awaits."""
    out = tmp_path / "artifacts" / "feedback" / "f1"
    out.mkdir(parents=True)
    return store_folder.prepare(asked(), out)


@pytest.fixture
def client(labels) -> TestClient:
    return TestClient(application(labels), base_url=HERE)


def judge(client, question: str, ranks, annotator="anna", revision=0, **more):
    body = {"annotator": annotator, "revision": revision, "ranks": ranks, **more}
    return client.post(f"/api/question/{question}", json=body)


# Requests


def test_a_session_from_the_first_question_to_the_last(client, labels):
    session = client.get("/api/session?annotator=anna").json()
    assert session["questions"] == [q.id for q in asked()]
    assert session["judged"] == []
    for number, name in enumerate(session["questions"], 1):
        shown = client.get(f"/api/question/{name}?annotator=anna").json()
        assert shown["messages"][0]["role"] == "user"
        assert shown["passages"] == ["a passage"]
        assert dict(shown["answers"]) == dict(enumerate(ANSWERS))
        assert (shown["revision"], shown["ranks"], shown["cant_say"]) == (0, None, False)
        now = judge(client, name, [2, 1, 1], comment="fine")
        assert now.status_code == 200
        assert len(now.json()["judged"]) == number
    again = client.get(f"/api/question/{session['questions'][0]}?annotator=anna").json()
    assert (again["revision"], again["ranks"], again["comment"]) == (1, [2, 1, 1], "fine")
    kept = read_journal(store_folder.journal(labels, "anna"))
    assert {j.ranks for j in kept.values()} == {(2, 1, 1)}
    assert all(j.at for j in kept.values())


def test_nothing_shown_says_where_an_answer_comes_from(client):
    shown = client.get(f"/api/question/{asked()[-1].id}?annotator=anna").json()
    assert set(shown) == {
        *("id", "messages", "passages", "answers"),
        *("revision", "ranks", "cant_say", "comment"),
    }


def test_a_judgement_is_on_the_disk_when_it_is_answered(client, labels, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    judge(client, asked()[0].id, None)
    kept = store_folder.journal(labels, "anna").stat()
    assert (kept.st_ino, kept.st_size) in synced  # whole
    assert labels.joinpath("people").stat().st_ino in {inode for inode, _ in synced}  # its name
    assert read_journal(store_folder.journal(labels, "anna"))[asked()[0].id].ranks is None


def test_a_stale_judgement_gets_409_and_changes_nothing(client, labels):
    name = asked()[0].id
    assert judge(client, name, [1, 2, 3]).status_code == 200  # two tabs have seen revision 0
    second = judge(client, name, [3, 2, 1])
    assert second.status_code == 409
    assert "meanwhile" in second.json()["error"]
    assert read_journal(store_folder.journal(labels, "anna"))[name].ranks == (1, 2, 3)
    assert judge(client, name, None, revision=1).status_code == 200
    assert judge(client, name, [3, 2, 1], annotator="ben").status_code == 200  # another's file


@pytest.mark.parametrize(
    ("ranks", "more", "says"),
    [
        ([1, 2], {}, "must number as many"),
        ([1, 2, 4], {}, "no hole"),
        ("best", {}, "list of whole numbers"),
        ([1, 2, 3], {"annotator": "../../x"}, "plain word"),
        ([1, 2, 3], {"annotator": ""}, "plain word"),
        ([1, 2, 3], {"revision": None}, "revision"),
        ([1, 2, 3], {"comment": 7}, "comment"),
        ([1, 2, 3], {"comment": "x" * MOST_BYTES}, "at most"),
    ],
)
def test_what_is_no_judgement_gets_400_and_leaves_no_file(client, labels, ranks, more, says):
    answer = judge(client, asked()[0].id, ranks, **more)
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert list((labels / "people").iterdir()) == []


def test_unknown_questions(client):
    assert client.get("/api/question/none?annotator=anna").status_code == 404
    assert judge(client, "none", [1, 2, 3]).status_code == 400
    assert client.get("/api/question/%2e%2e%2fx?annotator=anna").status_code == 404


def test_agreement_once_two_people_have_judged_the_same(client):
    first, second, *_ = (q.id for q in asked())
    assert judge(client, first, [1, 2, 3]).json()["agreement"] is None
    assert judge(client, second, [1, 2, 3]).json()["agreement"] is None
    # pairs 0-1 and 0-2 alike, 1-2 the other way round
    assert judge(client, first, [1, 3, 2], annotator="ben").json()["agreement"] == 2 / 3
    assert judge(client, second, None, annotator="ben").json()["agreement"] == 2 / 3
    assert client.get("/api/session?annotator=cleo").json()["agreement"] is None


# Who may ask


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_a_rebound_name_is_refused(client, labels, host):
    assert client.get("/api/session", headers={"Host": host}).status_code == 403
    assert client.get("/", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:9000", "[::1]:8000"])
def test_names_of_this_machine_are_served(client, host):
    assert client.get("/api/session", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:3000", "null"])
def test_another_site_is_refused(client, labels, origin):
    body = {"annotator": "anna", "revision": 0, "ranks": [1, 2, 3]}
    path = f"/api/question/{asked()[0].id}"
    assert client.post(path, json=body, headers={"Origin": origin}).status_code == 403
    assert list((labels / "people").iterdir()) == []
    assert client.post(path, json=body, headers={"Origin": HERE}).status_code == 200


@pytest.mark.parametrize("header", ["Host", "Origin"])
@pytest.mark.parametrize("text", ["[::1", "]", "http://[::1", "h:port", "127.0.0.1:99999", "[x]"])
@pytest.mark.parametrize("token", [None, "s3cret"])
def test_an_address_that_is_none_is_refused_and_no_fault(labels, header, text, token):
    client = TestClient(application(labels, token=token), base_url=HERE)
    if header == "Origin" and "//" not in text:
        text = f"http://{text}"
    for path in ("/", "/api/session", f"/api/session?token={token}"):
        answer = client.get(path, headers={header: text})
        assert answer.status_code in (400, 403)
        assert header in answer.json()["error"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"ranks":' + "[" * 30_000, "nest at most"),
        ('{"ranks":' * 80 + "1" + "}" * 80, "nest at most"),
        (r'{"annotator": "anna", "revision": 0, "ranks": null, "comment": "\ud83d"}', "surrogate"),
        (r'{"annotator": "\udcff", "revision": 0, "ranks": null}', "surrogate"),
        ('{"annotator": "anna", "revision": ' + "9" * 5000 + ', "ranks": null}', "300 digits"),
        ('{"annotator": "anna", "revision": NaN, "ranks": null}', "finite"),
        ('{"annotator": "anna", "revision": 0, "ranks": [1e999]}', "finite"),
        ('{"annotator": ["anna"], "revision": 0, "ranks": null}', "plain word"),
        ('{"annotator": "anna", "revision": 0, "ranks": {"0": 1}}', "list of whole numbers"),
        ('{"annotator": "anna", "annotator": "ben", "revision": 0, "ranks": null}', "once"),
        ("[1]", "JSON object"),
        ("", "JSON object"),
        (b"\xff", "JSON object"),
    ],
)
def test_a_body_that_breaks_parsers_is_refused_and_no_fault(client, labels, body, says):
    headers = {"Content-Type": "application/json"}
    answer = client.post(f"/api/question/{asked()[0].id}", content=body, headers=headers)
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert list((labels / "people").iterdir()) == []


def test_a_form_of_another_site_could_not_even_be_sent(client):
    text = json.dumps({"annotator": "anna", "revision": 0, "ranks": [1, 2, 3]})
    path = f"/api/question/{asked()[0].id}"
    answer = client.post(path, content=text, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]


def test_beyond_this_machine_a_token_is_needed(labels):
    client = TestClient(application(labels, token="s3cret"), base_url="http://box.example:8000")
    assert client.get("/").status_code == 403
    assert client.get("/?token=wrong").status_code == 403
    assert client.get("/?token=s3cret").status_code == 200
    assert client.get("/api/session").status_code == 403
    assert client.get("/api/session", headers={"X-Token": "s3cret"}).status_code == 200
    other = {"X-Token": "s3cret", "Origin": "http://evil.example"}
    assert client.get("/api/session", headers=other).status_code == 403


def test_addresses_of_this_machine_alone():
    assert all(map(is_loopback, ["127.0.0.1", "127.0.0.2", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "box", "localhost.evil.example"]))


def test_a_taken_port_is_said():
    with (
        listen("127.0.0.1", 0) as first,
        pytest.raises(ConfigError, match="must be a free address"),
    ):
        listen("127.0.0.1", first.getsockname()[1])


def test_with_one_annotator_named_no_other_may_judge(labels):
    client = TestClient(application(labels, only="anna"), base_url=HERE)
    assert client.get("/api/session").json()["annotator"] == "anna"
    assert judge(client, asked()[0].id, None, annotator="ben").status_code == 400
    assert judge(client, asked()[0].id, None, annotator="Anna").status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client):
    for path in ("/", "/page.css", "/page.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert not re.findall(r"https?://|@import", answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
    assert "innerHTML" not in client.get("/page.js").text
    assert not re.findall(r"<script(?! src)|<style|\bon\w+=", client.get("/").text)


# The verb


def write_run(store: Path, name: str, **record) -> None:
    path = store / "runs" / "quickstart" / name / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"overrides": ["seed=1", "feedback.labeller=person"], **record}))


def test_questions_are_found_by_run_or_fingerprint(labels, tmp_path, monkeypatch):
    store = Store(tmp_path)
    awaits = str(labels.relative_to(tmp_path))
    write_run(tmp_path, "r1", state="waiting", awaits=awaits)
    node = {"kind": "feedback", "state": "built", "artifact": "artifacts/feedback/f1"}
    write_run(tmp_path, "r2", state="done", nodes={"feedback": node})
    write_run(tmp_path, "r3", state="failed", error="no")
    for what in ("r1", "quickstart/r1", "r2", "f1", "feedback/f1"):
        what = f"runs/{what}" if "/r" in what else what
        assert labels_of(store, what) == labels
    for what in ("r3", "f2", ""):
        with pytest.raises(ArtifactError, match="must ask people for labels"):
            labels_of(store, what)
    command = "plumbrule seed=1 feedback.labeller=person"
    assert command_awaiting(store, labels) == f"{command} run.store={tmp_path}"
    monkeypatch.setenv("PLUMBRULE_STORE", str(tmp_path))
    assert command_awaiting(store, labels) == command
    assert command_awaiting(store, tmp_path / "labels" / "others") is None


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "rlhf.feedback.people.server")
    with pytest.raises(ConfigError, match="install the extra `label`"):
        importlib.import_module("rlhf.feedback.people.server")


class Served:
    """`plumbrule label` as a process of its own; `kill` gives it no chance to say goodbye."""

    def __init__(self, store: Path, *options: str, **environment: str):
        self.errors = store / "stderr.txt"
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "plumbrule", "label", "f1", *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PLUMBRULE_STORE": str(store), **environment},
                # a shell's background job, and so this suite in one, ignores Ctrl-C
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.url = self.process.stdout.readline().strip()

    def post(self, question: str, ranks) -> int:
        body = {"annotator": "anna", "revision": 0, "ranks": ranks}
        request = urllib.request.Request(
            f"{self.url}api/question/{question}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status

    def session(self) -> dict:
        with urllib.request.urlopen(f"{self.url}api/session?annotator=anna", timeout=30) as answer:
            return json.load(answer)

    def kill(self) -> str:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        return self.errors.read_text()


def test_a_killed_server_loses_nothing_and_needs_no_torch(labels, tmp_path):
    first, second, third, *_ = (q.id for q in asked())
    served = Served(tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", served.url)
    for question in (first, second):
        assert served.post(question, [1, 2, 3]) == 200
    said = served.kill()
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", said, re.MULTILINE))
    assert {"uvicorn", "rlhf.feedback.people.store_folder"} <= imported
    assert not {"torch", "transformers", "wandb", "nltk"} & imported
    # a row that the disk had half of when the process died
    path = store_folder.journal(labels, "anna")
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[0][:30])
    served = Served(tmp_path)
    try:
        assert served.session()["judged"] == [first, second]
        assert served.post(third, None) == 200
        assert served.session()["judged"] == [first, second, third]
    finally:
        served.kill()
    assert path.read_bytes().startswith(whole)


def test_ctrl_c_ends_the_server_kindly(labels, tmp_path):
    served = Served(tmp_path, "--annotator", "anna")
    assert served.session()["only"] == "anna"
    served.process.send_signal(signal.SIGINT)
    out, _ = served.process.communicate(timeout=30)
    assert "stopped; every judgement is kept." in out
    assert served.errors.read_text() == ""
    assert served.process.returncode == 0


def test_beyond_this_machine_the_url_holds_a_token(labels, tmp_path):
    served = Served(tmp_path, "--host", "0.0.0.0")
    try:
        port, token = re.search(r":(\d+)/\?token=([\w-]{20,})$", served.url).groups()
        served.url = f"http://127.0.0.1:{port}/"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            served.session()
        with urllib.request.urlopen(f"{served.url}?token={token}", timeout=30) as answer:
            assert answer.status == 200
    finally:
        served.kill()


def test_the_stage_does_not_reach_the_server_by_import():
    from plumbrule.store.fingerprint import code_hashes

    reached = code_hashes(["rlhf.feedback.stage"])
    assert "rlhf/feedback/people/judgements.py" in reached
    assert "rlhf/feedback/people/server.py" not in reached


def test_an_append_of_another_server_is_seen_at_once(client, labels):
    name = asked()[0].id
    append(
        store_folder.journal(labels, "anna"), AnnotatorJudgement(name, "anna", (1, 1, 2)), seen=0
    )
    assert client.get(f"/api/question/{name}?annotator=anna").json()["ranks"] == [1, 1, 2]
    assert judge(client, name, [1, 2, 3]).status_code == 409
