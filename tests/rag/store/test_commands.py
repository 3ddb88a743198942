"""`plumbrule store` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import process_environment

from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError, ConfigError, DataError


def call(root: Path, *words: str) -> None:
    """Run the verb in this process."""
    verbs.main(["store", *words, "--store", str(root)])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with files that can be read and one that can't."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.md").write_text("# Italy\n\nAda Quill lived in Rome.", encoding="utf-8")
    (folder / "b.txt").write_text("Bo Marsh lived in Cairo.", encoding="utf-8")
    (folder / "c.xyz").write_bytes(b"?")
    return folder


def test_files_are_added_searched_updated_and_deleted(
    tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(tmp_path, "add", "notes", str(files), "--readers", "ann", "staff", "--dimensions", "64")
    out, err = capsys.readouterr()
    assert out == (
        "commit 1: add of 2 documents from 2 of 3 files; 2 documents in 2 chunks; "
        "2 may be read by ann, staff\n"
    )
    assert f"skipped {files / 'c.xyz'}: no parser reads files that end in .xyz" in err
    call(tmp_path, "search", "notes", "who", "lived", "in", "Rome", "--as", "ann", "-k", "1")
    assert "a.md#0  (Italy)" in capsys.readouterr().out
    call(tmp_path, "search", "notes", "Rome", "--as", "bob")
    assert capsys.readouterr().out == "no passage\n"
    words = ("--as", "bob", "--groups", "staff", "--method", "bm25", "--json")
    call(tmp_path, "search", "notes", "Rome", *words)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["number"], row["section"], row["metadata"]) == (
        1,
        "Italy",
        {"source": "a.md", "format": "markdown"},
    )
    assert "readers" not in row
    call(tmp_path, "search", "notes", "in", "--as", "ann", "--filter", "{format: markdown}")
    out, err = capsys.readouterr()
    assert "b.txt" not in out
    assert err == "1 passages that may be read pass the filter, fewer than k (=5)\n"
    (files / "b.txt").write_text("Bo Marsh moved to Lima.", encoding="utf-8")
    call(tmp_path, "update", "notes", str(files / "b.txt"))
    out, err = capsys.readouterr()
    assert "commit 2: update of 1 documents" in out
    assert "1 documents have no access rule, so nobody can find them" in err
    call(tmp_path, "search", "notes", "Lima", "--as", "ann", "--method", "bm25")
    assert capsys.readouterr().out == "no passage\n"
    call(tmp_path, "delete", "notes", "b.txt")
    call(tmp_path, "compact", "notes")
    call(tmp_path, "stats", "notes", "--json")
    *lines, about = capsys.readouterr().out.splitlines()
    assert lines == [
        "commit 3: 1 documents in 1 chunks",
        "2 removed documents and earlier versions were purged",
    ]
    assert {k: json.loads(about)[k] for k in ("commit", "documents", "last_chunk_number")} == {
        "commit": 3,
        "documents": 1,
        "last_chunk_number": 3,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add", "notes"), r"store add \(=0 words behind the name\) must have files or folders"),
        (("search", "notes", "x"), r"--as \(=None\) must name the principal"),
        (("stats", "notes", "--filter", "{a: 1}"), r"--filter \(=\{a: 1\}\) must stand with store"),
        (
            ("search", "notes", "x", "--as", "ann", "--filter", "{page: {least: 1}}"),
            r"--filter",
        ),
        (("delete", "notes", "x", "--as", "ann"), r"--as \(=ann\) must name"),
        (("stats", "notes", "x"), r"store stats \(=1 words behind the name\) must have none"),
        (("stats", "absent"), r"store \(=absent\) must be one of those in .*plumbrule store add"),
        (("update", "absent", "FILES"), r"store \(=absent\) must be one of"),
        (("add", "a/b", "FILES"), "must be a name of letters"),
        (("add", "new", "FILES", "--chunk-words", "2"), r"--chunk-words \(=2 words\)"),
        (("add", "new", "FILES", "--encoder", "no/such/folder"), r"--encoder \(=no/such/folder\)"),
        (
            ("add", "new", "FILES", "--by", "tokens"),
            r"--tokenizer \(=None\) must be .* for --by=tokens",
        ),
    ],
)
def test_what_is_asked_wrongly_is_said(
    tmp_path: Path, files: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        call(tmp_path, *(str(files) if word == "FILES" else word for word in words))
    assert not (tmp_path / "stores" / "new").exists()


def test_a_second_add_must_agree_with_the_store_and_bring_new_documents(
    tmp_path: Path, files: Path
) -> None:
    call(tmp_path, "add", "notes", str(files), "--chunk-words", "20", "--by", "structure")
    with pytest.raises(DataError, match=r"documents \(=a\.md, b\.txt\) must be new; update them"):
        call(tmp_path, "add", "notes", str(files), "--chunk-words", "20")
    with pytest.raises(ConfigError, match=r"--chunk-words \(=30\) must be that .* \(=20\)"):
        call(tmp_path, "update", "notes", str(files), "--chunk-words", "30")
    with pytest.raises(ConfigError, match=r"--by \(=words\) must be that .* \(=structure\)"):
        call(tmp_path, "update", "notes", str(files), "--by", "words")
    (files / "only").mkdir()
    (files / "only" / "d.xyz").write_bytes(b"?")
    with pytest.raises(DataError, match="none of 1 files holds a document"):
        call(tmp_path, "update", "notes", str(files / "only"))


def test_the_command_itself_needs_no_torch(tmp_path: Path, files: Path) -> None:
    code = (
        "import sys; from plumbrule.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "print('torch' in sys.modules, code)"
    )
    words = ("store", "add", "notes", str(files), "--readers", "*", "--store", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=True,
        env=process_environment(),
    )
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr


def test_a_first_add_that_fails_makes_no_store(tmp_path: Path, files: Path) -> None:
    absent, bad = files / "absent", files / "bad.jsonl"
    bad.write_text('{"id": "", "text": "x"}', encoding="utf-8")
    for path in (absent, bad):
        with pytest.raises(DataError):
            call(tmp_path, "add", "new", str(path))
        assert not (tmp_path / "stores" / "new").exists()


def test_a_file_that_readers_swallowed_is_refused(
    tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = str(files / "a.md"), str(files / "b.txt")
    with pytest.raises(ConfigError, match=r"--readers \(=.*b\.txt\) must be names of principals"):
        call(tmp_path, "add", "notes", one, "--readers", "ann", other)
    rows = [{"id": "x", "text": "X.", "meta": {"readers": ["bo"]}}, {"id": "y", "text": "Y."}]
    path = files / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    call(tmp_path, "add", "notes", str(path), "--readers", "ann")
    assert capsys.readouterr().out.endswith("; 1 may be read by ann; 1 kept a rule of their own\n")


def test_a_bad_rule_leaves_out_its_row_and_no_other(
    tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "x", "text": "X.", "meta": {"readers": "ann"}},
        {"id": "", "text": "Y."},
        {"id": "z", "text": "Z."},
    ]
    path = files / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    call(tmp_path, "add", "notes", str(path), "--readers", "ann")
    out, err = capsys.readouterr()
    assert "add of 1 documents from 1 of 1 files" in out
    assert "rows.jsonl: left out its document 1: document 'x': readers (='ann')" in err
    assert "rows.jsonl: left out its document 2: document '' must have an id" in err


def test_a_query_that_is_no_utf_8_is_refused(tmp_path: Path, files: Path) -> None:
    call(tmp_path, "add", "notes", str(files))
    with pytest.raises(ConfigError, match=r"query \(='caf\\udce9'\) must be text in UTF-8"):
        call(tmp_path, "search", "notes", "caf\udce9", "--as", "ann")


def test_a_store_keeps_its_tokenizer(
    tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    words = ("--by", "tokens", "--tokenizer", str(folder), "--tokens", "4", "--readers", "ann")
    call(tmp_path, "add", "notes", str(files / "a.md"), *words)
    (folder / "tokenizer.json").unlink()
    call(tmp_path, "add", "notes", str(files / "b.txt"), "--by", "tokens", "--readers", "ann")
    kept = tmp_path / "stores" / "notes" / "tokenizer" / "tokenizer.json"
    kept.write_text(kept.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(ArtifactError, match="must hold the tokenizer that the store was made with"):
        call(tmp_path, "update", "notes", str(files / "b.txt"))
    kept.unlink()
    capsys.readouterr()
    call(tmp_path, "search", "notes", "Cairo", "--as", "ann", "--method", "bm25")
    assert "b.txt#1" in capsys.readouterr().out
    call(tmp_path, "stats", "notes")
    call(tmp_path, "delete", "notes", "b.txt")


def test_an_unreadable_tokenizer_is_told_by_its_option(tmp_path: Path, files: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    words = ("--by", "tokens", "--tokenizer", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^--tokenizer \(="):
        call(tmp_path, "add", "new", str(files), *words)
    assert not (tmp_path / "stores" / "new").exists()
