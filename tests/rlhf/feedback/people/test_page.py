"""The labelling page in a real browser, from a run that waits to a reward model of its labels."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
pytest.importorskip("starlette", reason="the extra `label` is not installed")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from plumbrule.data.records import Message, Preference, read_records
from rlhf.feedback.people import store_folder
from rlhf.feedback.people.judgements import AnnotatorJudgement, append, read_journal
from rlhf.feedback.people.questions import in_asking_order, question_of

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --window-size=1280,1000"""


class Page:
    """The page as a person has it: keys, a mouse, and what can be read."""

    def __init__(self, profile: Path):
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.browser = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(str(DRIVER))
        )

    def find(self, css: str):
        return self.browser.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str):
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return self.find(css).text

    def keys(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def shift(self, key: str) -> None:
        chain = webdriver.ActionChains(self.browser)
        chain.key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()

    def until(self, holds, what: str = "") -> None:
        WebDriverWait(self.browser, 20, 0.05).until(lambda _: holds(), what)

    def answers(self) -> list[str]:
        """The answers, top card first."""
        return [card.text for card in self.all(".card .text")]

    def ranks(self) -> list[str]:
        return [badge.text for badge in self.all(".card .rank")]

    def drag(self, card: int, onto: int) -> None:
        """Drag a card by its grip beyond the middle of another."""
        grips = self.all(".card .grip")
        target = self.all(".card")[onto]
        actions = webdriver.ActionChains(self.browser, duration=20)
        actions.click_and_hold(grips[card])
        start = grips[card].rect
        end = target.rect["y"] + target.rect["height"] * (0.9 if onto > card else 0.1)
        way = end - (start["y"] + start["height"] / 2)
        for _ in range(10):
            actions.move_by_offset(0, round(way / 10))
        actions.release().perform()

    def count(self) -> int:
        return int(self.text("#count").split()[0])

    def save(self) -> None:
        """Press Enter and wait until the judgement is counted."""
        before = self.count()
        self.keys(Keys.ENTER)
        self.until(lambda: self.count() == before + 1, "the judgement is not counted")

    def start(self, url: str, name: str) -> None:
        self.browser.get(url)
        self.until(lambda: self.find("#name").is_displayed() or self.all(".card"))
        if self.find("#name").is_displayed():
            self.keys(name, Keys.ENTER)
        self.until(lambda: self.all(".card") or self.find("#end").is_displayed())

    def complaints(self) -> list[str]:
        """What the browser's console holds, but for answers that the server refused on purpose."""
        return [
            row["message"]
            for row in self.browser.get_log("browser")
            if not re.search(r"status of 409|ERR_CONNECTION", row["message"])
        ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    for program in (CHROMIUM, DRIVER):
        if not program.exists():
            pytest.skip(f"{program} is not installed")
    opened = Page(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.browser.quit()


def plumbrule(*words: str, store: Path, **popen) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "plumbrule", *words],
        text=True,
        cwd=store,
        env={**os.environ, "PLUMBRULE_STORE": str(store), "OMP_NUM_THREADS": "1"},
        **popen,
    )


RUNNING: list[Server] = []
"""Servers that a test may have left."""


@pytest.fixture(autouse=True)
def no_server_is_left():
    yield
    while RUNNING:
        RUNNING.pop().kill()


class Server:
    """`plumbrule label` as a process; always at the same port, where the page looks for it."""

    def __init__(self, words: list[str], store: Path, port: int = 0):
        options = ["--port", str(port)] if port else []
        self.process = plumbrule(*words, *options, store=store, stdout=subprocess.PIPE)
        RUNNING.append(self)
        self.url = self.process.stdout.readline().strip()
        self.port = int(re.search(r":(\d+)/", self.url).group(1))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


ANSWERS = ("first", "<b>second</b> &amp; <script>document.title='taken'</script>", "third", "")


@pytest.fixture
def labels(tmp_path) -> Path:
    out = tmp_path / "artifacts" / "feedback" / "f1"
    out.mkdir(parents=True)
    chats = [(Message("user", f"what is <i>{i}</i>?"),) for i in range(3)]
    questions = [question_of(chat, ("<u>seen</u>",), ANSWERS) for chat in chats]
    return store_folder.prepare(in_asking_order(questions, 0.0), out)


@pytest.fixture
def served(labels, tmp_path, page):
    server = Server(["label", "f1"], tmp_path)
    page.start(server.url, "anna")
    yield server
    server.kill()
    assert page.complaints() == []


def kept(labels: Path, question: int = 0, name: str = "anna") -> AnnotatorJudgement:
    return read_journal(store_folder.journal(labels, name))[
        store_folder.questions_in(labels)[question].id
    ]


def ranks_by_text(labels: Path, question: int = 0) -> dict[str, int]:
    return dict(zip(ANSWERS, kept(labels, question).ranks, strict=True))


def shown_texts(page) -> list[str]:
    return ["" if text == "(an empty answer)" else text for text in page.answers()]


def test_texts_are_shown_as_they_are(page, served):
    assert sorted(shown_texts(page)) == sorted(ANSWERS)
    assert "what is <i>" in page.text("#messages")
    assert page.browser.title == "Plumbrule: rank answers"
    page.keys("p")
    assert page.text("#passages-list") == "<u>seen</u>"


def test_numbers_give_ranks_and_equal_numbers_tie(page, served, labels):
    one, two, three, four = shown_texts(page)
    page.keys("2", "4", "2")
    assert page.ranks() == ["2", "4", "2", ""]
    page.keys(Keys.ENTER)  # one has no rank yet: nothing happens
    assert "1 still without a rank" in page.text("#state")
    page.keys("1")
    assert page.ranks() == ["1", "2", "2", "3"]
    assert shown_texts(page) == [four, one, three, two]
    page.save()
    assert ranks_by_text(labels) == {four: 1, one: 2, three: 2, two: 3}


def test_arrows_move_and_t_ties(page, served, labels):
    one, two, three, four = shown_texts(page)
    page.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    page.shift(Keys.ARROW_UP)
    assert shown_texts(page) == [one, three, two, four]
    page.keys(Keys.ARROW_DOWN, "t")
    assert page.ranks() == ["1", "2", "2", "3"]
    page.keys("t")
    assert page.ranks() == ["1", "2", "3", "4"]
    page.keys("t")
    page.save()
    assert ranks_by_text(labels) == {one: 1, three: 2, two: 2, four: 3}


def test_what_moves_into_a_tie_joins_it_and_what_leaves_it_leaves_a_tie_behind(page, served):
    one, two, three, four = shown_texts(page)
    page.keys("1", "2", "2", "2")
    page.keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_UP)
    page.shift(Keys.ARROW_DOWN)  # one, between two and three
    assert (shown_texts(page), page.ranks()) == ([two, one, three, four], ["1", "1", "1", "1"])
    page.keys("t", Keys.ARROW_UP)  # two alone at the top, the others tied; back to two
    assert page.ranks() == ["1", "2", "2", "2"]
    page.keys(Keys.ARROW_DOWN)
    page.shift(Keys.ARROW_UP)  # one, which led the tie, goes to the top
    assert (shown_texts(page), page.ranks()) == ([one, two, three, four], ["1", "2", "3", "3"])


def test_dragging_ranks(page, served, labels):
    one, two, three, four = shown_texts(page)
    page.drag(3, onto=0)
    assert shown_texts(page) == [four, one, two, three]
    page.drag(0, onto=2)
    assert shown_texts(page) == [one, two, four, three]
    page.save()
    assert ranks_by_text(labels) == {one: 1, two: 2, four: 3, three: 4}


def test_an_order_that_nobody_touched_is_saved_only_at_the_second_press(page, served, labels):
    before = shown_texts(page)
    page.keys(Keys.ENTER)
    assert page.ranks() == ["1", "2", "3", "4"]
    assert page.count() == 0
    page.save()
    assert ranks_by_text(labels) == {text: rank for rank, text in enumerate(before, 1)}


def test_cant_say_comment_and_undo(page, served, labels):
    page.keys("c")
    page.keys("which one?", Keys.ESCAPE)
    page.keys("x")
    page.until(lambda: page.count() == 1)
    assert (kept(labels).ranks, kept(labels).comment) == (None, "which one?")
    second = page.text("#messages")
    page.keys("u")
    page.until(lambda: page.text("#messages") != second)
    assert "You said “can’t say”" in page.text("#state")
    assert page.find("#comment").get_property("value") == "which one?"
    page.keys("1", "1", "1", "2", Keys.ENTER)
    page.until(lambda: page.text("#messages") == second)
    assert sorted(kept(labels).ranks) == [1, 1, 1, 2]
    assert kept(labels).revision == 2
    assert page.count() == 1


def test_a_stale_page_says_so_and_shows_what_stands(page, served, labels):
    question = store_folder.questions_in(labels)[0].id
    append(
        store_folder.journal(labels, "anna"),
        AnnotatorJudgement(question, "anna", (1, 2, 3, 3)),
        seen=0,
    )
    page.keys("1", "1", "1", "1", Keys.ENTER)
    page.until(lambda: page.find("#problem").is_displayed())
    assert "Your ranking was not saved" in page.text("#problem")
    by_text = dict(zip(ANSWERS, ("1", "2", "3", "3"), strict=True))
    assert page.ranks() == [by_text[text] for text in shown_texts(page)]
    assert kept(labels).ranks == (1, 2, 3, 3)
    page.save()
    assert kept(labels).revision == 2


def test_while_the_server_is_away_the_page_keeps_the_ranking(page, served, labels, tmp_path):
    page.keys("1", "2", "3", "4")
    served.kill()
    page.keys(Keys.ENTER)
    page.until(lambda: "does not answer" in page.text("#problem"))
    Server(["label", "f1"], tmp_path, served.port)
    page.save()
    assert not page.find("#problem").is_displayed()
    assert sorted(kept(labels).ranks) == [1, 2, 3, 4]


@pytest.mark.slow
def test_from_a_run_that_waits_to_a_reward_model(page, tmp_path):
    """22 prompts of the generated world; the longer answer is the better one."""
    command = shlex.split(
        "debug=fast run.only=rm feedback.labeller=person feedback.num_prompts=14 "
        "feedback.num_held_out=8 feedback.sampling.temperature=1.3"
    )
    waiting = plumbrule(*command, store=tmp_path, stderr=subprocess.PIPE)
    said = waiting.communicate(timeout=300)[1]
    assert waiting.returncode == 3, said[-2000:]
    label = shlex.split(re.search(r"run `plumbrule (label \w+)`", said).group(1))
    record = json.loads(next(tmp_path.glob("runs/*/*/run.json")).read_text())
    assert (record["state"], record["awaits"].split("/")[0]) == ("waiting", "labels")
    assert str(tmp_path) not in json.dumps(record)

    server = Server(label, tmp_path)
    page.start(server.url, "anna")
    total = len(store_folder.questions_in(tmp_path / record["awaits"]))
    assert total >= 20
    for number in range(total):
        if number == total // 2:
            server.kill()
            server = Server(label, tmp_path, server.port)
            page.start(server.url, "anna")  # remembered, so it goes on at once
            assert page.count() == number
        lengths = [len(text) for text in page.answers()]
        places = sorted(set(lengths), reverse=True)
        if number % 2:  # by keys
            page.keys(*(str(places.index(n) + 1) for n in lengths))
        else:  # by mouse: the longest to the top, and so on
            for place in range(len(lengths)):
                now = [len(text) for text in page.answers()]
                longest = max(range(place, len(now)), key=lambda k: now[k])
                if longest != place:
                    page.drag(longest, onto=place)
            now = [len(text) for text in page.answers()]
            assert now == sorted(now, reverse=True)
            if page.ranks()[0] == "":
                page.keys(Keys.ENTER)  # it was in order; take it
        page.save()
    assert "All is judged" in page.text("#end")
    assert page.text("#command") == shlex.join(["plumbrule", *command])
    server.kill()
    assert page.complaints() == []

    done = plumbrule(*command, store=tmp_path, stderr=subprocess.PIPE)
    said = done.communicate(timeout=300)[1]
    assert done.returncode == 0, said[-2000:]
    assert "feedback: resuming" in said
    artifact = next(tmp_path.glob("artifacts/feedback/*/manifest.json")).parent
    rankings = read_records(Preference, artifact / "records.jsonl")
    assert {p.annotator for p in rankings} == {"anna"}
    for ranking in rankings:
        for better, worse in ranking.pairs():
            assert len(ranking.responses[better]) >= len(ranking.responses[worse])
    card = next(tmp_path.glob("artifacts/rm/*/report_card.json"))
    assert json.loads(card.read_text())["rules"]["longer"]["value"] > 0.7
