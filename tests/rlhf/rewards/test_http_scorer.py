"""A scorer behind a URL, asked over a real socket."""

import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from scorer_server import lengths, served

from plumbrule.data.records import Message, Prompt
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.endpoints import patient_post
from plumbrule.lm.endpoints.bounded_post import post
from plumbrule.protocols import Episode
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.rewards import http_scorer
from rlhf.rewards.config import HTTPConfig
from rlhf.rewards.http_scorer import HTTPScorer


def said(*texts):
    prompt = Prompt("p", (Message("user", "who?"),))
    return [Episode(prompt, ("a passage",), text, True) for text in texts]


def config(url, **settings):
    return HTTPConfig(url=url, version="7", **{"patience_seconds": 0.5, **settings})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patient_post, "LONGEST_PAUSE", 0.05)
    pause = time.sleep
    monkeypatch.setattr(patient_post.time, "sleep", lambda seconds: pause(min(seconds, 0.05)))


def test_scores_come_in_order_and_in_batches(tmp_path):
    with served(lengths) as (url, seen):
        scorer = HTTPScorer(config(url, batch_size=2))
        assert scorer.score(said("a", "bbb", "cc"))["score"].tolist() == [1.0, 3.0, 2.0]
    assert [len(body["episodes"]) for body, _ in seen] == [2, 1]
    assert seen[0][0]["episodes"][0] == {
        "messages": [{"role": "user", "content": "who?"}],
        "passages": ["a passage"],
        "response": "a",
        "finished": True,
    }


def test_replies_are_kept_and_nobody_is_asked_twice(tmp_path):
    kept = tmp_path / "replies" / "0.jsonl"
    with served(lengths) as (url, seen):
        HTTPScorer(config(url), kept).score(said("a", "bb"))
        with open(kept, "a", encoding="utf-8") as file:
            file.write('{"key": "torn')  # killed while it wrote
        found = HTTPScorer(config(url), kept).score(said("bb", "ccc", "a"))["score"]
        again = HTTPScorer(config(url), kept).score(said("ccc"))["score"]
    assert found.tolist() == [2.0, 3.0, 1.0]
    assert again.tolist() == [3.0]
    assert [[e["response"] for e in body["episodes"]] for body, _ in seen] == [["a", "bb"], ["ccc"]]


def test_another_version_does_not_read_the_replies_of_this_one(tmp_path):
    kept = tmp_path / "0.jsonl"
    with served(lengths) as (url, _):
        HTTPScorer(config(url), kept).score(said("a"))
    scorer = HTTPScorer(HTTPConfig(url=url, version="8", patience_seconds=0.0), kept)
    with pytest.raises(TrainingError, match=r"gave no answer"):
        scorer.score(said("a"))


def test_a_scorer_that_is_down_for_a_while_is_asked_again():
    def busy(body, number):
        return (503, b"") if number < 3 else lengths(body, number)

    with served(busy) as (url, seen):
        scores = HTTPScorer(config(url, patience_seconds=30)).score(said("abc"))["score"]
    assert scores.tolist() == [3.0]
    assert len(seen) == 3


def test_a_scorer_that_is_not_there_yet_is_waited_for():
    with served(lengths) as (url, _):
        port = int(url.split(":")[2].split("/")[0])
    late = threading.Event()

    def start():
        threading.Event().wait(0.3)
        with served(lengths, port):
            late.wait(10)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        scores = HTTPScorer(config(url, patience_seconds=60)).score(said("abcd"))["score"]
    finally:
        late.set()
        thread.join()
    assert scores.tolist() == [4.0]


def test_a_scorer_that_stays_away_stops_the_run():
    with served(lengths) as (url, _):
        pass
    with pytest.raises(TrainingError, match=r"gave no answer.*same command again"):
        HTTPScorer(config(url)).score(said("a"))


def test_a_scorer_that_is_too_slow_is_given_up():
    """It answers when it has been given up, or after a minute: whoever waits for it gets scores."""
    given_up = threading.Event()

    def slow(body, number):
        given_up.wait(60)
        return lengths(body, number)

    with served(slow) as (url, _):
        try:
            # on a busy machine the socket's own timeout may come before the timer's
            with pytest.raises(
                TrainingError, match=r"gave no answer.*(not whole after 1 s|timed out)"
            ):
                HTTPScorer(config(url, timeout_seconds=1.0, patience_seconds=0.0)).score(said("a"))
        finally:
            given_up.set()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((404, b""), "refused .status 404"),
        ((200, b"<html>"), "must answer .*it answered: '<html>'"),
        ((200, {"scores": [1.0]}), "must answer"),
        ((200, {"version": "6", "scores": [1.0]}), "is version '6' and must be '7'"),
        ((200, {"version": "7", "scores": [1.0, 2.0]}), "must answer 1 finite scores"),
        ((200, {"version": "7", "scores": [float("nan")]}), "must be finite"),
        ((200, b'{"version": "7", "scores": [1e999]}'), "must be finite"),
        ((200, b'{"version": "7", "scores": [1e300]}'), "must answer 1 finite scores"),
        ((200, {"version": "7", "scores": ["good"]}), "must answer 1 finite scores"),
        ((200, {"version": "7", "scores": ["1.5"]}), "must answer 1 finite scores"),
        ((200, {"version": "7", "scores": [True]}), "must answer 1 finite scores"),
        ((200, {"version": "7", "scores": [None]}), "must answer 1 finite scores"),
        ((200, {"version": "7", "scores": {"0": 1.0}}), "must answer 1 finite scores"),
        ((200, {"version": "7", "scores": "3"}), "must answer 1 finite scores"),
        ((200, {"version": "7", "scores": 1.0}), "must answer 1 finite scores"),
        ((200, b"[" * 100_000), r"nest at most 64 deep\); it answered: '\[\[\["),
        ((200, b'{"version": "7", "scores": [' + b"9" * 5000), "at most 300 digits.*'{\"version"),
        ((200, b"3"), "must answer.*it answered: '3'"),
        ((200, b'["a"]'), "must answer"),
        ((200, b"\xff\xfe"), "must answer"),
        ((200, b""), "must answer"),
        ((200, b" " * 2**21), "at most 1048832 bytes to 1 response"),
    ],
)
def test_replies_of_another_form_stop_at_once(reply, message):
    with served(lambda body, number: reply) as (url, seen):
        with pytest.raises(TrainingError, match=message):
            HTTPScorer(config(url, patience_seconds=30)).score(said("a"))
        assert len(seen) == 1


@contextmanager
def talking(speak):
    """Serve raw bytes: `speak(connection)` answers each request, in a thread of its own."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def talk(connection):
        with connection, suppress(OSError):
            connection.recv(65536)
            speak(connection, ended)

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=listening.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/score"
    finally:
        ended.set()
        listening.close()


def drip(connection, ended, first, rest):
    connection.sendall(first)
    while not ended.wait(0.02):
        connection.sendall(rest)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("first", "rest", "says"),
    [
        (OK + b"\r\n{", b" ", "it began: '{"),
        (OK + b"Content-Length: 900\r\n\r\n{", b" ", "it began: '{"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n \r\n", "it began: '{"),
        (OK, b"X", ""),  # a header without end
        (b"", b"H", ""),
    ],
)
def test_a_reply_that_drips_is_given_up_in_time(first, rest, says):
    began = time.monotonic()
    with (
        talking(lambda *given: drip(*given, first, rest)) as url,
        pytest.raises(TrainingError, match=f"not whole after 0.4 s.*{says}"),
    ):
        HTTPScorer(config(url, timeout_seconds=0.4, patience_seconds=0.0)).score(said("a"))
    assert time.monotonic() - began < 5.0  # a socket's own timeout would never come


def test_many_addresses_share_the_time(monkeypatch):
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # its queue is full from here on: nobody else gets an answer
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        places = socket.getaddrinfo(*full.getsockname(), type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places * 8)
        began = time.monotonic()
        with pytest.raises(OSError, match=r"timed out|not whole"):
            post("http://many/", b"", {}, seconds=0.3, most_bytes=1)
    assert time.monotonic() - began < 1.5  # 8 times 0.3 s, each address for itself


def test_a_reply_without_end_is_refused_at_its_bound():
    def flood(connection, ended):
        connection.sendall(OK + b"\r\n")
        while not ended.is_set():
            connection.sendall(b"abc" * 2**16)

    with talking(flood) as url, pytest.raises(TrainingError, match=r"1048832 bytes.*'abcabc"):
        HTTPScorer(config(url, patience_seconds=30)).score(said("a"))


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://h:x/", "http://h/ü", "http://h/a b"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match=r"reward.http.url"):
        config(url)


def test_a_token_of_two_lines_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("SCORER_TOKEN", "very\r\nsecret")
    with pytest.raises(ConfigError, match="SCORER_TOKEN") as caught:
        HTTPScorer(config("http://127.0.0.1:1/", token_env="SCORER_TOKEN"))
    assert "secret" not in str(caught.value)


def test_a_kept_reply_that_changed_is_asked_for_again(tmp_path):
    kept = tmp_path / "0.jsonl"
    with served(lengths) as (url, seen):
        HTTPScorer(config(url), kept).score(said("a", "bb"))
        text = kept.read_text()
        assert '"score": 2.0' in text
        kept.write_text(text.replace('"score": 2.0', '"score": 3.0'))
        found = HTTPScorer(config(url), kept).score(said("a", "bb"))["score"]
    assert found.tolist() == [1.0, 2.0]
    assert [[e["response"] for e in body["episodes"]] for body, _ in seen] == [["a", "bb"], ["bb"]]


def test_kept_replies_of_another_form_are_asked_for_again(tmp_path):
    lines = [
        '{"key": "a", "score": 1}',
        '{"key": "b", "score": "2"}',
        '{"key": 3, "score": 1}',
        "7",
        '{"key": "c", "score": NaN}',
        "[" * 5000,
        '{"key": "d"}',
        '{"key": "e", "score": 2.5}',
    ]
    (tmp_path / "0.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff")
    assert http_scorer.read_replies(tmp_path / "0.jsonl") == {"a": 1.0, "e": 2.5}


def test_a_token_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("SCORER_TOKEN", "very secret")
    with served(lengths) as (url, seen):
        HTTPScorer(config(url, token_env="SCORER_TOKEN")).score(said("a"))
    assert seen[0][1]["Authorization"] == "Bearer very secret"
    with pytest.raises(TrainingError) as caught:
        HTTPScorer(config(url, token_env="SCORER_TOKEN")).score(said("a"))
    assert "secret" not in str(caught.value)


def test_a_redirect_is_refused_and_the_token_stays_here(monkeypatch):
    monkeypatch.setenv("SCORER_TOKEN", "very secret")
    with served(lengths) as (elsewhere, seen_elsewhere):

        class Away(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(302)
                self.send_header("Location", elsewhere)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Away)
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with pytest.raises(TrainingError, match=r"refused \(status 302\)"):
            HTTPScorer(config(url, token_env="SCORER_TOKEN")).score(said("a"))
        server.shutdown()
        server.server_close()
    assert seen_elsewhere == []


def test_a_reply_that_is_cut_off_is_asked_for_again():
    tries = []

    class Cut(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = json.dumps(lengths(body, 1)[1]).encode()
            tries.append(body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if len(tries) > 1 else data[:5])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cut)
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        scores = HTTPScorer(config(url, patience_seconds=30)).score(said("abc"))["score"]
    finally:
        server.shutdown()
        server.server_close()
    assert scores.tolist() == [3.0]
    assert len(tries) == 2


def test_replies_of_processes_that_are_no_more_are_read_too(tmp_path):
    with served(lengths) as (url, seen):
        HTTPScorer(config(url), tmp_path / "1.jsonl").score(said("a", "bb"))
        scores = HTTPScorer(config(url), tmp_path / "0.jsonl").score(said("bb"))["score"]
    assert scores.tolist() == [2.0]
    assert len(seen) == 1


def test_a_token_that_is_not_set_is_refused(monkeypatch):
    monkeypatch.delenv("SCORER_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"SCORER_TOKEN.*must name an environment variable"):
        HTTPScorer(config("http://127.0.0.1:1/", token_env="SCORER_TOKEN"))


def test_a_run_says_that_its_config_does_not_tell_the_reward(tmp_path):
    from worlds import ppo as world

    from rlhf.ppo.stage import run
    from rlhf.rewards.config import RewardConfig, RewardTermConfig

    inputs = world.build(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with served(lengths) as (url, seen):
        reward = RewardConfig([RewardTermConfig("http", 0.1)], http=config(url))
        settings = world.config(total_episodes=32, reward=reward)
        run(settings, inputs, world.runtime(), out, FileTracker(out))
    notes = json.loads((out / "notes.json").read_text("utf-8"))
    assert any("not reproducible from its config" in note for note in notes)
    assert len((out / "replies" / "0.jsonl").read_text("utf-8").split()) > 0
    assert 1 <= len(seen) <= 2
