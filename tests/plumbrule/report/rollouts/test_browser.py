"""The rollout page in a real browser: it opens from disk, sorts, filters, draws, shows tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_rollouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import open_browser, wait_for

from plumbrule.report.rollouts.page import render_rollouts
from plumbrule.store.artifacts import Artifact, Store

MARKUP = (
    '</script><script>window.harm=1</script><img src=x onerror="window.harm=1"> & <b>bold</b> [1]'
)
RIGHT_TO_LEFT = "שלום עולם \u202egnp.exe مرحبا"
CONTROL = "a\x00b\x1b[31mred\x07\x7f\u200b end [9]"
PROMPTS = ["p0", "p1", "p2", "<i>p3</i>"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Three updates of four prompts; texts that would harm a page that takes them for markup."""
    files = {}
    for update in (1, 2, 3):
        texts = [f" Answer {update}.", MARKUP, RIGHT_TO_LEFT, CONTROL]
        passages = [[], ["Entry: <u>first</u>.", RIGHT_TO_LEFT], [], ["One."]]
        files[update] = made_rollouts.columns_of(texts, PROMPTS, update, passages, foreign=1)
    return made_rollouts.publish(Store(tmp_path_factory.mktemp("store")), files)


@pytest.fixture(scope="module")
def page(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "rollouts.html"
    path.write_text(render_rollouts(artifact, "a run <b>").html, encoding="utf-8")
    return path


def opened(browser: Any, path: Path, place: str = "") -> Any:
    browser.get("about:blank")
    browser.get(path.as_uri() + place)
    wait_for(lambda: browser.execute_script("return document.body.dataset.ready"))
    return browser


def texts(browser: Any, css: str) -> list[str]:
    """Return what elements show, read in one call: a token table has hundreds of cells."""
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText.trim())"
    return browser.execute_script(script, css)


def of_tokens(browser: Any, what: str) -> list[Any]:
    """Return a JavaScript expression of each token `e` of the coloured response."""
    return browser.execute_script(
        f"return [...document.querySelectorAll('p.tokens span')].map((e) => {what})"
    )


def column(browser: Any, number: int) -> list[float]:
    return [float(text) for text in texts(browser, f"#rows .row td:nth-child({number})")]


def click(browser: Any, css: str) -> None:
    browser.find_element("css selector", css).click()


def sought(browser: Any, words: str) -> list[str]:
    """Return what is counted once these words stand in the search field."""
    field = browser.find_element("id", "find")
    field.clear()
    browser.execute_script("document.getElementById('count').textContent = ''")
    field.send_keys(words or "x\b")
    return wait_for(lambda: browser.find_element("id", "count").text)


def test_it_names_no_address_and_holds_no_text_of_a_policy_as_markup(page: Path) -> None:
    text = page.read_text("utf-8")
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"|url\(|https?://(?!www\.w3\.org)', text) == []
    assert "harm" not in text
    assert "a run &lt;b&gt;" in text


def test_it_opens_sorts_filters_and_draws_without_a_word_on_the_console(
    browser: Any, page: Path
) -> None:
    opened(browser, page)
    assert browser.find_element("id", "count").text == "12 of 12"
    score = 4
    click(browser, "#heads th:nth-child(4)")
    falling = column(browser, score)
    assert falling == sorted(falling, reverse=True) != sorted(falling)
    click(browser, "#heads th:nth-child(4)")
    assert column(browser, score) == sorted(falling)
    click(browser, 'button[data-sort="gap"]')
    gaps = column(browser, 6)
    assert gaps == sorted(gaps, reverse=True)
    assert sought(browser, "answer update>=2") == "2 of 12"
    assert texts(browser, "#rows .row td:nth-child(3)") == ["Answer 3.", "Answer 2."]
    assert sought(browser, "ended=0") == "6 of 12"
    assert sought(browser, "rm<-99") == "0 of 12"
    click(browser, "#all")
    assert browser.find_element("id", "count").text == "12 of 12"
    assert len(browser.find_elements("css selector", "#curves svg polyline")) == 4
    drawn = browser.execute_script(
        "const c = document.getElementById('scatter'), d = c.getContext('2d');"
        "return new Set(d.getImageData(0, 0, c.width, c.height).data).size"
    )
    assert drawn > 10
    assert browser.get_log("browser") == []


def test_a_rollout_shows_its_tokens_with_the_numbers_of_its_file(
    browser: Any, page: Path, artifact: Artifact
) -> None:
    opened(browser, page, "#2/2")
    kept = pq.read_table(artifact.file("rollouts/update-00002.parquet")).slice(1, 1).to_pydict()
    heads = texts(browser, ".token-table th")
    for name, key in (("reward", "rewards"), ("KL", "kl"), ("value", "values")):
        place = heads.index(name) + 1
        found = texts(browser, f".token-table td:nth-child({place})")
        assert [float(x) for x in found] == pytest.approx(kept[key][0], rel=1e-3, abs=1e-6)
    ratios = texts(browser, f".token-table td:nth-child({heads.index('ratio') + 1})")
    assert set(ratios) == {"1"}
    assert "".join(of_tokens(browser, "e.textContent")) == MARKUP
    assert of_tokens(browser, "e.classList.contains('masked')")[:3] == [True, False, False]
    assert len(texts(browser, "tr.masked")) == 1
    above = (np.array(kept["advantages"][0]) > 0).tolist()
    assert of_tokens(browser, "e.classList.contains('above')") == above
    click(browser, '#colour option[value="rewards"]')
    below = (np.array(kept["rewards"][0]) < 0).tolist()
    assert of_tokens(browser, "e.classList.contains('below')") == below


def test_passages_citations_and_the_prompts_other_updates_stand_beside(
    browser: Any, page: Path
) -> None:
    opened(browser, page, "#2/2")
    assert texts(browser, "#passages li")[0] == "Entry: <u>first</u>."
    assert [e.get_attribute("id") for e in browser.find_elements("css selector", "li.cited")] == [
        "passage-1"
    ]
    assert texts(browser, "#response mark.cited") == ["[1]"]
    assert texts(browser, "#others td:first-child") == ["1", "2", "3"]
    assert len(browser.find_elements("css selector", "#over-updates circle")) == 6
    click(browser, "#others tbody tr:nth-child(3)")
    wait_for(lambda: texts(browser, "#detail h2") == ["Update 3, row 2"])
    assert browser.current_url.endswith("#3/2")


def test_markup_right_to_left_and_control_characters_are_text(browser: Any, page: Path) -> None:
    opened(browser, page, "#1/2")
    assert browser.find_element("id", "response").text == MARKUP
    opened(browser, page, "#1/3")
    response = browser.find_element("id", "response")
    assert response.text == "שלום עולם ⟨U+202E⟩gnp.exe مرحبا"
    assert (
        browser.execute_script("return getComputedStyle(arguments[0]).direction", response) == "rtl"
    )
    opened(browser, page, "#1/4")
    assert browser.find_element("id", "response").text == "a␀b␛[31mred␇⟨U+007F⟩⟨U+200B⟩ end [9]"
    assert texts(browser, "#response mark.uncited") == ["[9]"]
    assert "<i>p3</i>" in texts(browser, "#detail .meaning")[0]
    assert browser.execute_script("return window.harm") is None
    assert browser.find_elements("css selector", "#browser img, #browser i:not(.key)") == []
    assert browser.get_log("browser") == []


def test_turns_and_queries_are_shown_and_what_hides_in_them(browser: Any, tmp_path: Path) -> None:
    """Joiners, line and paragraph separators and tag characters have a name, as U+200B has."""
    asked = "a\u200cb\u200dc\u2028d\u2029e\U000e0041"
    lists = pa.list_(pa.string())
    columns = made_rollouts.columns_of([" One.", " Two."], ["a", "b"], 1) | {
        "turns": pa.array([[f"<search>{asked}</search>", " One."], [" Two."]], lists),
        "search_queries": pa.array([[asked], []], lists),
    }
    artifact = made_rollouts.publish(Store(tmp_path), {1: columns})
    path = tmp_path / "page.html"
    path.write_text(render_rollouts(artifact, "searches").html, encoding="utf-8")
    opened(browser, path, "#1/1")
    shown = "a⟨U+200C⟩b⟨U+200D⟩c⟨U+2028⟩d⟨U+2029⟩e⟨U+E0041⟩"
    assert texts(browser, "#turns .query") == [shown]
    first, second = texts(browser, "#turns li")
    assert first.startswith(f"<search>{shown}</search>")
    assert second == "One."
    opened(browser, path, "#1/2")
    assert texts(browser, "#turns li") == ["Two."]
    assert browser.get_log("browser") == []


def test_it_follows_the_dark_scheme_and_fits_a_narrow_window(browser: Any, page: Path) -> None:
    opened(browser, page)

    def colours() -> list[str]:
        return browser.execute_script(
            "return ['body', '#detail', '#curves .c0'].map((css) => { const s = getComputedStyle("
            "document.querySelector(css)); return s.backgroundColor + s.color; })"
        )

    light = colours()
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    size = {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert all(a != b for a, b in zip(light, colours(), strict=True))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 380
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_files_of_the_first_version_and_a_removed_one_are_shown_as_far_as_they_go(
    browser: Any, tmp_path: Path
) -> None:
    files = {}
    for update in (1, 2, 3):
        columns = made_rollouts.columns_of([" One.", " Two."], ["a", "b"], update)
        files[update] = {k: v for k, v in columns.items() if k not in made_rollouts.FIRST_VERSION}
    artifact = made_rollouts.publish(Store(tmp_path), files, tokenizer=False)
    (artifact.path / "rollouts/update-00002.parquet").unlink()
    found = render_rollouts(artifact, "old")
    (tmp_path / "page.html").write_text(found.html, encoding="utf-8")
    opened(browser, tmp_path / "page.html")
    remarks = " ".join(texts(browser, ".remark"))
    assert "The rollouts of update 2 were removed" in remarks
    assert "those of updates 1, 3, lack penalties, raw_scores, step_mask" in remarks
    assert "tokenizer.json is not there: tokens are shown as ids" in remarks
    assert browser.find_element("id", "count").text == "4 of 4"
    assert "penalty" not in texts(browser, ".token-table th")
    assert re.fullmatch(r"#\d+", texts(browser, ".token-table td:first-child")[0])
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 100,000 rollouts, which holds 10,000 of them."""
    num_updates, num_prompts = 10, 10_000
    rng = np.random.default_rng(0)
    names = [f"prompt-{i}" for i in range(num_prompts)]
    lists = pa.array([[5, 6]] * num_prompts, pa.list_(pa.int64()))
    numbers = pa.array([[0.5, -0.5]] * num_prompts, pa.list_(pa.float32()))
    files = {
        update: {
            "prompt_id": names,
            "text": [f"answer {i} of {update}" for i in range(num_prompts)],
            "response": lists,
            "kl": numbers,
            "advantages": numbers,
            "scores": rng.normal(size=num_prompts),
            "term:gold": rng.normal(size=num_prompts),
        }
        for update in range(1, num_updates + 1)
    }
    found = render_rollouts(
        made_rollouts.publish(Store(tmp_path_factory.mktemp("store")), files), "large"
    )
    assert (found.held, found.total) == (10_000, 100_000)
    path = tmp_path_factory.mktemp("large") / "page.html"
    path.write_text(found.html, encoding="utf-8")
    return path


def test_of_a_hundred_thousand_rollouts_a_page_holds_whole_prompts_and_says_so(
    browser: Any, large: Path
) -> None:
    opened(browser, large)
    stated = "10,000 of 100,000 rollouts: all responses to 1,000 of 10,000 prompts"
    assert stated in texts(browser, ".remark")[0]
    assert browser.find_element("id", "count").text == "10,000 of 10,000"
    assert len(browser.find_elements("css selector", "#rows tr")) < 100
    assert len(texts(browser, "#others tbody tr")) == 10  # the whole way of its prompt
    browser.execute_script("document.getElementById('list').scrollTop = 1e9")
    last = wait_for(
        lambda: (t := texts(browser, "#rows .row td:first-child")) and t[-1] == "10" and t
    )
    assert set(last) == {"10"}
    assert browser.get_log("browser") == []


def test_the_list_scrolls_to_the_rollout_that_the_address_names(browser: Any, large: Path) -> None:
    opened(browser, large)
    place = browser.current_url.partition("#1/")[2]  # a row that the page holds of every update
    opened(browser, large, f"#7/{place}")
    assert texts(browser, "#detail h2") == [f"Update 7, row {place}"]
    assert chosen_is_in_sight(browser)
    lines = browser.execute_script(
        """
        const [here, list] = ["#rows .here", "#list"]
          .map((css) => document.querySelector(css).getBoundingClientRect());
        return (here.top + here.bottom - list.top - list.bottom) / 2 / here.height;
        """
    )
    assert abs(lines) <= 2  # from the middle: what stands around it is in sight too
    browser.execute_script(f"location.hash = '#2/{place}'")  # as pasted into the open page
    wait_for(lambda: texts(browser, "#detail h2") == [f"Update 2, row {place}"])
    assert chosen_is_in_sight(browser)
    browser.execute_script("location.hash = '#2/123456'")
    wait_for(lambda: texts(browser, "#trouble") == ["This page has no row 123456 of update 2."])
    assert texts(browser, "#detail h2") == [f"Update 2, row {place}"]
    browser.execute_script("document.querySelector('#rows .row:not(.here)').click()")
    assert not browser.find_element("id", "trouble").is_displayed()


def test_the_list_scrolls_to_a_rollout_that_is_chosen_in_the_plot(
    browser: Any, large: Path
) -> None:
    opened(browser, large)
    click(browser, "#all")
    first = texts(browser, "#detail h2")
    browser.execute_script("document.getElementById('list').scrollTop = 1e9")
    click(browser, "#scatter")  # in its middle: the rollout that is nearest
    wait_for(lambda: texts(browser, "#detail h2") != first)
    assert chosen_is_in_sight(browser)


def chosen_is_in_sight(browser: Any) -> bool:
    """Return whether the list shows the line of its rollout, below its head."""
    return bool(
        browser.execute_script(
            """
            const [row, heads, list] = ["#rows .here", "#heads", "#list"]
              .map((css) => document.querySelector(css)?.getBoundingClientRect());
            const end = list.top + document.querySelector("#list").clientHeight;
            return row && row.top >= heads.bottom - 1 && row.bottom <= end + 1;
            """
        )
    )


SCROLLED = """
const done = arguments[0], box = document.getElementById("list"), added = [];
const rows = document.getElementById("rows");
let step = 0, frame = 0;
new MutationObserver((changes) => {
  for (const change of changes) frame += change.addedNodes.length;
}).observe(rows, { childList: true, subtree: true });
function next() {
  if (step++) added.push([frame, rows.querySelectorAll("tr").length]);
  frame = 0;
  box.scrollTop = ((step * 0.37) % 1) * (box.scrollHeight - box.clientHeight);
  if (step < 40) setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(next)), 0);
  else done(added);
}
next();
"""
"""Scrolls to 39 places; of each the nodes that were put into the list, and the rows it has then."""


def test_scrolling_ten_thousand_rollouts_draws_those_in_sight(browser: Any, large: Path) -> None:
    """What a frame costs depends on the window and not on how many rollouts there are."""
    opened(browser, large)
    in_sight = len(browser.find_elements("css selector", "#rows tr"))
    found = browser.execute_async_script(SCROLLED)
    assert sum(added > 0 for added, _ in found) > 30  # other rows came into sight
    assert in_sight < 100
    assert all(added <= 2 * in_sight and rows <= 2 * in_sight for added, rows in found)
