"""The page of a gathered sweep in a browser: it sorts, filters, and asks for nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import made_runs
import pytest
from made_runs import SWEEP

from plumbrule.cli import verbs
from plumbrule.store.artifacts import Store

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1200,900")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("store"))
    made_runs.write_sweep(store, ["0.05", "0.2", "0.1"], [0, 1])
    out = tmp_path_factory.mktemp("out")
    given = ["--store", str(store.root), "--to", str(out), "--baseline", "ppo.kl.coef=0.05"]
    verbs.main(["gather", SWEEP, *given])
    return out / "index.html"


def test_it_holds_every_part_and_names_no_address(page: Path) -> None:
    text = page.read_text("utf-8")
    parts = ("groups", "swept", "against-kl", "parallel", "profiles", "curves", "samples", "cells")
    assert [part for part in parts if f'id="{part}"' not in text] == []
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"|url\(|https?://', text) == []
    assert "Say 0 &lt;b&gt;" in text


def test_it_sorts_by_number_and_hides_what_is_not_asked_for(page: Path, tmp_path: Path) -> None:
    for program in (CHROMIUM, DRIVER):
        if not program.exists():
            pytest.skip(f"{program} is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        browser.get(page.as_uri())

        def shown(css: str) -> list[str]:
            return [e.text for e in browser.find_elements(By.CSS_SELECTOR, css) if e.is_displayed()]

        first = "#cells td:nth-child(5)"
        browser.find_element(By.CSS_SELECTOR, "#cells th:nth-child(5)").click()
        values = [float(text) for text in shown(first)]
        assert values == sorted(values) != sorted(values, reverse=True)
        browser.find_element(By.CSS_SELECTOR, "#cells th:nth-child(5)").click()
        assert [float(text) for text in shown(first)] == sorted(values, reverse=True)
        browser.find_element(By.ID, "filter").send_keys("0.05 GOLD")
        assert shown("#groups tbody td:nth-child(2)") == ["ppo/gold_gain"]
        assert browser.get_log("browser") == []
        before = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        after = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert before != after
    finally:
        browser.quit()
