"""What a path of data may be, and which files below it count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbrule.data.readers import read
from plumbrule.errors import ConfigError, DataError
from plumbrule.store import fingerprint
from plumbrule.store.source_files import files_under

ROW = '{"prompt": "Hi"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.jsonl").write_text(ROW)
    return tmp_path / "own"


def digest(path: Path) -> str:
    fingerprint.forget()
    return fingerprint.content_digest(str(path))


@pytest.mark.parametrize(
    "name", [".DS_Store", "._train.jsonl", ".git/config", "Thumbs.db", "__MACOSX/a", "desktop.ini"]
)
def test_litter_changes_no_fingerprint_and_is_not_read(name, folder):
    before = digest(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\xff\0")
    assert digest(folder) == before
    assert files_under(folder) == [folder / "train.jsonl"]
    assert len(list(read("jsonl", "prompts", folder))) == 1
    (folder / "validation.jsonl").write_text(ROW)
    assert digest(folder) != before


@pytest.mark.parametrize("name", ["._train.jsonl.gz", "._race_prompt.json", "._qa_data.json"])
def test_readers_of_folders_pass_litter_over(name, tmp_path):
    (tmp_path / name).write_bytes(b"\xff\0")
    for format, role in (("hh_rlhf", "prompts"), ("bold", "bold"), ("halueval", "halueval")):
        with pytest.raises(DataError, match=r"none of|no <domain>|no \*"):
            list(read(format, role, tmp_path))


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def dangling(path: Path) -> Path:
    path.symlink_to("nowhere")
    return path


UNREADABLE = [
    (lambda tmp: fifo(tmp / "x.jsonl"), "a FIFO"),
    (lambda tmp: Path("/dev/zero"), "a device"),
    (lambda tmp: dangling(tmp / "x.jsonl"), "link to nowhere"),
    (lambda tmp: tmp / "absent", "no such file or folder"),
    (lambda tmp: Path("~/absent"), r"write \$HOME"),
    (lambda tmp: Path("a\0b"), "can't be opened"),
    (lambda tmp: tmp / ("x" * 5000), "can't be opened"),
]


@pytest.mark.parametrize(("make", "says"), UNREADABLE)
def test_what_can_not_be_read_is_refused_by_reader_and_fingerprint(make, says, tmp_path):
    path = make(tmp_path)
    with pytest.raises(DataError, match=says):
        list(read("jsonl", "prompts", path))
    with pytest.raises(ConfigError, match=says):
        digest(path)


def test_inside_a_folder_too(folder):
    fifo(folder / "train-2.jsonl")
    with pytest.raises(ConfigError, match="a FIFO"):
        digest(folder)
    with pytest.raises(DataError, match="a FIFO"):
        list(read("jsonl", "prompts", folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, which only root can become")
@pytest.mark.parametrize("closed", ["inner", "inner/train.jsonl"])
def test_what_this_user_may_not_read(closed, tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from plumbrule.store.source_files import files_under\n"
        "from plumbrule.errors import DataError\n"
        "os.setuid(65534)\n"
        "try: files_under(Path(sys.argv[1]))\n"
        "except DataError as error: print(error)"
    )
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "train.jsonl").write_text(ROW)
    for above in (tmp_path, *tmp_path.parents):
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o055)
    (tmp_path / closed).chmod(0)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    (tmp_path / closed).chmod(0o755)
    assert "read" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["a=b", "~x", "a#b", "a b", "überall", "a[b],{c}", "a'b\"c"])
def test_any_name_will_do(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "train.jsonl").write_text(ROW)
    assert len(list(read("jsonl", "prompts", tmp_path / name))) == 1
    assert digest(tmp_path / name) == digest(tmp_path / name)
