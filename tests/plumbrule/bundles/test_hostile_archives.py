"""`plumbrule check` of archives made to mislead, and what `plumbrule bundle` must not give away."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_evaluations
import pytest
from made_archives import contents, forged

from plumbrule.bundles.archive import INDEX
from plumbrule.bundles.reports import changed_rows
from plumbrule.bundles.scrub import Scrubber, require_no_secret
from plumbrule.bundles.verify import check_archive
from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError
from plumbrule.store.json_files import read_json
from plumbrule.store.manifests import signed

EVAL, PPO = "artifacts/eval/" + "2" * 16, "artifacts/ppo/" + "4" * 16
RUN = f"runs/quickstart/{made_evaluations.RUN}"
RECORD = f"{RUN}/run.json"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    made_evaluations.write_run(tmp_path / "store")
    to = tmp_path / "run.zip"
    verbs.main(["bundle", "quickstart", "--to", str(to), "--store", str(tmp_path / "store")])
    return to


def checked(made: Path, name: str, change: Callable[[Any], Any]) -> list[str]:
    """Return what is wrong where a JSON file holds something else, or why it was refused."""

    def edit(files: dict[str, bytes]) -> None:
        value = json.loads(files[name])
        change(value)
        files[name] = json.dumps(value).encode()

    try:
        found = check_archive(forged(made, edit))
    except ArtifactError as error:
        return [str(error)]
    return [*found.every_wrong, *found.reports.notes]


RECORDS: dict[str, Callable[[Any], Any]] = {
    "no name": lambda record: record.pop("name"),
    "git": lambda record: record.update(git=3),
    "versions": lambda record: record.update(versions=None),
    "no metrics": lambda record: record.pop("metrics"),
    "metrics of nothing": lambda record: record.update(metrics={}),
    "node without why": lambda record: record["nodes"]["eval"].pop("why"),
    "node's metrics": lambda record: record["nodes"]["eval"].update(metrics="x"),
    "node's hardware": lambda record: record["nodes"]["eval"].update(hardware="x"),
}


@pytest.mark.parametrize("change", RECORDS.values(), ids=RECORDS.keys())
def test_a_record_of_another_form_is_told_and_no_traceback(
    made: Path, change: Callable[[Any], Any]
) -> None:
    assert checked(made, RECORD, change)


@pytest.mark.parametrize("content", [b"", b"\xff", b"3", b"[" * 5000, b'["a"]'])
@pytest.mark.parametrize("name", ["intervals.json", "metrics.json", "items/questions.jsonl"])
def test_files_of_an_evaluation_of_another_form_are_told_and_no_traceback(
    made: Path, name: str, content: bytes
) -> None:
    found = check_archive(forged(made, lambda files: files.update({f"{EVAL}/{name}": content})))
    assert any(EVAL in line for line in found.every_wrong)


def test_what_was_left_out_must_be_described(made: Path) -> None:
    files = contents(made)
    index = json.loads(files[INDEX])
    index["left_out"]["a"] = 3
    with zipfile.ZipFile(made, "w") as opened:
        for name, content in {**files, INDEX: json.dumps(index).encode()}.items():
            opened.writestr(name, content)
    with pytest.raises(ArtifactError, match=r"bundle\.json lacks the run"):
        check_archive(made)


def test_an_index_is_not_unpacked_beyond_the_size_that_it_declares(tmp_path: Path) -> None:
    path, size = tmp_path / "bomb.zip", 100_000_000
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(INDEX, bytes(size), compresslevel=1)
    told, small = (n.to_bytes(4, "little") for n in (size, 10))
    path.write_bytes(path.read_bytes().replace(told, small))
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="can't be used"):
        check_archive(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_page_that_was_not_compared_is_said(made: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        page = files[f"{RUN}/report.html"].decode()
        files[f"{RUN}/report.html"] = page.replace("0.", "9.").encode()
        files[f"{RUN}/report.md"] += b"\nanother line\n"
        files[f"{RUN}/rollouts.html"] = b"<p>made up"

    notes = check_archive(forged(made, change)).reports.notes
    assert "report.html is not what this version writes, and was not compared" in notes
    assert "rollouts.html was not compared" in notes


def test_a_changed_row_is_found_beside_an_added_line() -> None:
    told = ["# a", "added", "| kl | 0.5 |", "| gold | 9.9 |", "end"]
    again = ["# a", "| kl | 0.4 |", "| gold | 1.0 |", "end"]
    assert changed_rows(told, again) == [
        "kl is 0.5; its artifacts give 0.4",
        "gold is 9.9; its artifacts give 1.0",
    ]
    assert changed_rows(["a", "| x | 1 |", "| x | 2 |", "b"], ["a", "| x | 3 |", "b"]) == []


def test_files_of_no_artifact_and_another_environment_are_wrong(made: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["notes.html"] = b"<script>"
        files["artifacts/eval/" + "9" * 16 + "/metrics.json"] = b"{}"
        about = json.loads(files["environment.json"])
        files["environment.json"] = json.dumps(about | {"git": {"commit": "b" * 40}}).encode()

    wrong = check_archive(forged(made, change)).wrong
    assert wrong == [
        "artifacts/eval/9999999999999999/metrics.json belongs to no artifact of the run",
        "notes.html belongs to no artifact of the run",
        "environment.json is not what run.json gives",
    ]


@pytest.mark.parametrize(
    "secret",
    [
        "github_pat_" + "a1B2" * 8,
        "AIza" + "a1B2c" * 7,
        "ASIA" + "A1B2" * 4,
        "Authorization: Bearer " + "a1B2" * 8,
    ],
)
@pytest.mark.parametrize("name", ["metrics.csv", "chat_template.jinja", "notes.json"])
def test_a_secret_is_looked_for_in_every_file_of_text(
    tmp_path: Path, secret: str, name: str
) -> None:
    made_evaluations.write_run(tmp_path / "store")
    folder = tmp_path / "store" / PPO
    manifest = read_json(folder / "manifest.json")
    before = folder / "metrics.jsonl"
    before.write_text(before.read_text() + json.dumps({"update": 2, "said": secret}) + "\n")
    before.rename(folder / name)
    manifest["files"][name] = {
        "size": (folder / name).stat().st_size,
        "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
    }
    manifest["files"].pop("metrics.jsonl")
    manifest.pop("digest")
    (folder / "manifest.json").write_text(signed(manifest))
    words = ["bundle", "quickstart", "--to", str(tmp_path / "a.zip")]
    with pytest.raises(ArtifactError, match=f"{name} holds what looks like") as refused:
        verbs.main([*words, "--store", str(tmp_path / "store")])
    assert secret not in str(refused.value)
    assert not (tmp_path / "a.zip").exists()


def test_tokens_of_a_vocabulary_go_along_and_secrets_in_a_mapping_do_not(tmp_path: Path) -> None:
    scrubber = Scrubber(tmp_path)
    own = {"pad_token": "<pad>", "ppo.pad_token": "<pad>", "stop_token": "eos"}
    assert scrubber.value(own) == own
    assert scrubber.word("model.pad_token=<pad>") == "model.pad_token=<pad>"
    hidden = {"hf_token": "a", "secret_key": "b", "api-key": "c", "credentials": "d", "token": "e"}
    assert set(scrubber.value(hidden).values()) == {"<left out>"}
    assert scrubber.word("a.b={api_key: abc, pad_token: x, n: 3}") == (
        "a.b={api_key:<left out>, pad_token: x, n: 3}"
    )
    assert scrubber.word(f"a.b=[/mnt/ann/x.jsonl,{tmp_path}/y,/mnt/bob/z]") == (
        "a.b=[<path>/x.jsonl,<store>/y,<path>/z]"
    )
    assert scrubber.word("+a.b={path:/mnt/ann/x.jsonl,share:0.5}") == (
        "+a.b={path:<path>/x.jsonl,share:0.5}"
    )
    require_no_secret("a", b"the bearer of bad news")
