"""`plumbrule bundle` and `plumbrule check`: what an archive holds, and which changes are found."""

from __future__ import annotations

import json
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_evaluations
import pytest
from made_archives import contents, forged

from plumbrule.bundles import archive
from plumbrule.bundles.archive import INDEX, Limits, is_safe, unpack
from plumbrule.bundles.scrub import Scrubber, require_no_secret
from plumbrule.bundles.verify import check_archive
from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store.json_files import read_json, write_json

EVAL, PPO = "artifacts/eval/" + "2" * 16, "artifacts/ppo/" + "4" * 16
RUN = f"runs/quickstart/{made_evaluations.RUN}"
Change = Callable[[dict[str, bytes]], Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_evaluations.write_run(tmp_path / "store")


@pytest.fixture
def made(tmp_path: Path, run: Path) -> Path:
    """The archive of that run."""
    to = tmp_path / "run.zip"
    verbs.main(["bundle", "quickstart", "--to", str(to), "--store", str(tmp_path / "store")])
    return to


def edited(files: dict[str, bytes], name: str, old: str, new: str) -> None:
    text = files[name].decode()
    assert text.count(old) >= 1
    files[name] = text.replace(old, new, 1).encode()


def test_an_archive_holds_what_is_checked_and_no_weights_or_places_of_this_machine(
    tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = contents(made)
    assert {f"{RUN}/run.json", f"{RUN}/report.html", f"{RUN}/report.md"} <= set(files)
    assert {f"{EVAL}/items/questions.jsonl", f"{EVAL}/metrics.json", f"{PPO}/metrics.jsonl"} <= set(
        files
    )
    assert not any("log" in name or "model" in name or "parquet" in name for name in files)
    text = b"".join(files.values()).decode()
    for place in (str(tmp_path), "/home/someone", "workstation", str(Path.home()) + "/"):
        assert place not in text
    assert "data.prompts.path=<path>/prompts.jsonl" in files["commands.txt"].decode()
    assert json.loads(files["environment.json"])["versions"] == {"torch": "2"}
    left_out = json.loads(files[INDEX])["left_out"]
    assert {name: about["sort"] for name, about in left_out.items()} == {
        f"{PPO}/model/model.safetensors": "weights",
        f"{PPO}/rollouts/0001.parquet": "data",
    }
    verbs.main(["check", str(made)])
    said = capsys.readouterr().out
    assert "left out by whoever wrote it: 1 of data, 1 of weights" in said
    assert f"{EVAL}: " in said
    assert "all agree" in said
    assert f"{PPO}: 1 numbers (objective/kl)" in said  # there are no items of a training
    assert "report.html and report.md, written again: the same to the byte" in said
    assert "wrong: nothing" in said


def test_weights_and_data_go_along_on_request(tmp_path: Path, run: Path) -> None:
    to, store = tmp_path / "all.zip", str(tmp_path / "store")
    words = ["bundle", str(run), "--to", str(to), "--weights", "--data", "--store", store]
    verbs.main(words)
    files = contents(to)
    assert {f"{PPO}/model/model.safetensors", f"{PPO}/rollouts/0001.parquet"} <= set(files)
    assert json.loads(files[INDEX])["left_out"] == {}
    assert not check_archive(to).every_wrong
    with pytest.raises(ArtifactError, match="must not be there yet"):
        verbs.main(words)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, run: Path, made: Path) -> None:
    for path in (tmp_path / "store").rglob("*"):
        path.touch()
    other = tmp_path / "elsewhere" / "other.zip"
    other.parent.mkdir()
    verbs.main(["bundle", "quickstart", "--to", str(other), "--store", str(tmp_path / "store")])
    assert other.read_bytes() == made.read_bytes()


def test_every_number_of_an_evaluation_and_a_comparison_is_computed_again(made: Path) -> None:
    found = check_archive(made)
    by_kind = {one.artifact.split("/")[1]: one for one in found.nodes}
    for kind in ("eval", "compare"):
        assert by_kind[kind].unknown == []
        assert by_kind[kind].wrong == []
    leaves = json.loads(contents(made)[f"{EVAL}/metrics.json"])["questions"]
    numbers = sum(
        isinstance(one.get(part), int | float)
        for metrics in leaves.values()
        for one in metrics.values()
        for part in ("value", "low", "high", "n", "groups")
    )
    assert by_kind["eval"].recomputed > numbers > 20
    assert by_kind["ppo"].recomputed == 0


def change_metric(files: dict[str, bytes]) -> None:
    name = f"{EVAL}/metrics.json"
    line = next(line for line in files[name].decode().splitlines() if '"value": 0.' in line)
    edited(files, name, line, '"value": 0.9,')


def change_item(files: dict[str, bytes]) -> None:
    edited(files, f"{EVAL}/items/questions.jsonl", '"correct": 0', '"correct": 1')


def change_difference(files: dict[str, bytes]) -> None:
    name = "artifacts/compare/" + "3" * 16 + "/comparisons.json"
    line = next(line for line in files[name].decode().splitlines() if '"difference"' in line)
    edited(files, name, line, '  "difference": 0.77,')


def change_headline(files: dict[str, bytes]) -> None:
    name = f"{EVAL}/manifest.json"
    line = next(line for line in files[name].decode().splitlines() if '"eval/known_acc' in line)
    edited(files, name, line, f"{line.split(':')[0]}: 0.123,")


def change_run(files: dict[str, bytes]) -> None:
    edited(files, f"{RUN}/run.json", '"objective/kl": 0.5', '"objective/kl": 0.1')


def change_report(files: dict[str, bytes]) -> None:
    text = files[f"{RUN}/report.md"].decode()
    row = next(line for line in text.splitlines() if line.startswith("| known_accuracy_change"))
    cells = row.split(" | ")
    cells[-1] = "0.99 |"
    edited(files, f"{RUN}/report.md", row, " | ".join(cells))


def change_page(files: dict[str, bytes]) -> None:
    edited(files, f"{RUN}/report.html", "</h1>", " improved</h1>")


def drop_metric(files: dict[str, bytes]) -> None:
    edited(files, f"{EVAL}/metrics.json", '"accuracy"', '"renamed"')


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_metric, r"metrics\.json questions > closed > \S+ > value is 0\.9; its items give"),
        (change_item, r"metrics\.json questions > closed .*its items give"),
        (change_difference, r"comparisons\.json 0 > difference is 0\.77; its items give"),
        (change_headline, r"metrics eval/known_accuracy_ppo_closed is 0\.123; its items give"),
        (change_run, r"run\.json metrics objective/kl is 0\.1; its artifact has 0\.5"),
        (change_report, r"report\.md known_accuracy_change\S* is 0\.99.*its artifacts give"),
        (change_page, r"report\.html is not what its artifacts give"),
        (drop_metric, r"metrics\.json questions > closed > accuracy > value is missing"),
    ],
)
def test_a_changed_number_is_found_also_where_all_digests_were_made_to_fit(
    made: Path, change: Change, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not check_archive(forged(made, lambda files: None)).every_wrong
    path = forged(made, change)
    wrong = check_archive(path).every_wrong
    assert any(re.search(said, one) for one in wrong), wrong
    with pytest.raises(ArtifactError, match=rf"{len(wrong)} things in .* are wrong: "):
        verbs.main(["check", str(path)])
    assert wrong[0] in capsys.readouterr().out


def test_a_number_that_no_item_gives_is_listed_and_not_passed_over(made: Path) -> None:
    def add(files: dict[str, bytes]) -> None:
        edited(
            files, f"{EVAL}/metrics.json", '"closed": {', '"closed": {"made_up": {"value": 0.9},'
        )

    found = check_archive(forged(made, add))
    unknown = {one.artifact: one.unknown for one in found.nodes}[EVAL]
    assert unknown == ["metrics.json questions > closed > made_up > value"]


def test_a_missing_file_and_one_that_was_added_are_found(made: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        del files[f"{EVAL}/notes.json"]
        files[f"{EVAL}/extra.json"] = b"{}"

    wrong = check_archive(forged(made, change)).every_wrong
    assert f"{EVAL}/notes.json is missing, and is not said to be left out" in wrong
    assert f"{EVAL}/extra.json is in no manifest" in wrong


def rewritten(path: Path, change: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> Path:
    """Return a ZIP file that `change` writes of the content of another."""
    to = path.with_name("rewritten.zip")
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as opened:
        change(opened, contents(path))
    return to


def write_all(opened: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        opened.writestr(name, content)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_an_archive_that_was_cut_short_is_refused(made: Path, share: float) -> None:
    whole = made.read_bytes()
    made.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArtifactError, match="it is no whole ZIP file"):
        check_archive(made)


def test_a_changed_byte_is_refused_wherever_it_lies(made: Path) -> None:
    whole = made.read_bytes()
    places = range(0, len(whole), max(1, len(whole) // 60))
    num_refused = 0
    for at in places:
        made.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            found = check_archive(made)
        except ArtifactError:
            num_refused += 1
            continue
        assert not found.every_wrong  # a byte of a time or of padding, which no file is made of
    assert num_refused > 0.8 * len(places)


NAMES = {
    "absolute": "/etc/passwd",
    "above": "../outside.json",
    "above_inside": "artifacts/../../outside.json",
    "backslash": "..\\outside.json",
    "drive": "C:/outside.json",
    "control": "a\nb.json",
    "two_spellings": "artifacts/./x.json",
    "long": "x" * 400,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_that_leads_outside_is_refused_and_nothing_written(
    tmp_path: Path, made: Path, name: str
) -> None:
    def change(opened: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        write_all(opened, files)
        opened.writestr(zipfile.ZipInfo(name), b"outside")

    assert not is_safe(name)
    before = {*tmp_path.rglob("*")}
    with pytest.raises(ArtifactError, match="leads outside, or is no plain file's"):
        check_archive(rewritten(made, change))
    assert {path.name for path in {*tmp_path.rglob("*")} - before} == {"rewritten.zip"}


def test_links_and_folders_are_refused(made: Path) -> None:
    for mode in (stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o644, stat.S_IFDIR | 0o755):

        def change(opened: zipfile.ZipFile, files: dict[str, bytes], mode: int = mode) -> None:
            write_all(opened, files)
            entry = zipfile.ZipInfo("link")
            entry.external_attr = mode << 16
            opened.writestr(entry, b"/etc/passwd")

        with pytest.raises(ArtifactError, match="link is a link or no file"):
            check_archive(rewritten(made, change))


def test_two_files_of_one_name_are_refused(made: Path) -> None:
    def change(opened: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        write_all(opened, files)
        opened.writestr("README.TXT", b"other")

    with pytest.raises(ArtifactError, match=r"two files are called 'README\.TXT'"):
        check_archive(rewritten(made, change))


def test_more_than_the_limits_is_refused_before_anything_is_unpacked(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bomb(opened: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        write_all(opened, files)
        opened.writestr("zeros", bytes(50_000_000))

    path = rewritten(made, bomb)
    assert path.stat().st_size < 300_000
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ArtifactError, match=r"unpacked it has .* GiB, more than .*--most-gib"):
        unpack(path, out, Limits(num_bytes=40_000_000))
    with pytest.raises(ArtifactError, match=r"holds \d+ files, more than 3"):
        unpack(path, out, Limits(num_files=3))
    with pytest.raises(ArtifactError, match=r"zeros is not listed in bundle\.json"):
        unpack(path, out)
    assert not list(out.iterdir())
    with pytest.raises(ConfigError, match=r"--most-gib \(=0\.0\) must be above 0"):
        verbs.main(["check", str(path), "--most-gib", "0"])
    monkeypatch.setattr(archive, "MOST_INDEX", 10)
    with pytest.raises(ArtifactError, match=r"bundle\.json is larger"):
        check_archive(made)


def test_an_entry_that_unpacks_to_more_than_it_declares_is_refused(made: Path) -> None:
    files = contents(made)
    with zipfile.ZipFile(made) as opened:
        entry = opened.getinfo(f"{EVAL}/metrics.json")
    whole = bytearray(made.read_bytes())
    # the size is in the local header and in the central directory, both little-endian
    size, small = (n.to_bytes(4, "little") for n in (entry.file_size, 10))
    place = whole.rindex(size)
    while place > 0:
        whole[place : place + 4] = small
        place = whole.rfind(size, 0, place)
    made.write_bytes(bytes(whole))
    assert len(files[f"{EVAL}/metrics.json"]) > 10
    with pytest.raises(ArtifactError, match=r"has 10 bytes where bundle\.json says|no whole ZIP"):
        check_archive(made)


INDEXES = {
    "later": (lambda about: about | {"version": 2}, r"its version is 2 and this program reads 1"),
    "other": (lambda about: about | {"format": "x"}, "is not that of a plumbrule bundle"),
    "list": (lambda about: [about], "is not that of a plumbrule bundle"),
    "no_run": (lambda about: {**about, "run": None}, "lacks the run, or size and sha256"),
    "no_size": (lambda about: {**about, "files": {"a": {}}}, "lacks the run, or size and sha256"),
    "run_outside": (lambda about: {**about, "run": "runs/../.."}, "no whole record of a run"),
}


@pytest.mark.parametrize(("change", "said"), INDEXES.values(), ids=INDEXES.keys())
def test_an_index_that_is_not_as_it_must_be_is_refused(
    made: Path, change: Callable[[Any], Any], said: str
) -> None:
    def write(opened: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        write_all(opened, {**files, INDEX: json.dumps(change(json.loads(files[INDEX]))).encode()})

    with pytest.raises(ArtifactError, match=said):
        check_archive(rewritten(made, write))


def test_what_is_no_archive_of_ours_is_refused(tmp_path: Path, made: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no such file"):
        check_archive(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ArtifactError, match="no whole ZIP file"):
        check_archive(tmp_path / "text.zip")

    def without_index(opened: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        write_all(opened, {name: one for name, one in files.items() if name != INDEX})

    with pytest.raises(ArtifactError, match=r"has no bundle\.json"):
        check_archive(rewritten(made, without_index))

    def changed(opened: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        write_all(opened, {**files, "commands.txt": files["commands.txt"][::-1]})

    with pytest.raises(ArtifactError, match=r"commands\.txt has other content than bundle"):
        check_archive(rewritten(made, changed))


def test_a_run_that_can_not_be_bundled_is_refused(tmp_path: Path, run: Path) -> None:
    words = ["bundle", "quickstart", "--to", str(tmp_path / "a.zip")]
    words += ["--store", str(tmp_path / "store")]
    record = read_json(run / "run.json")
    write_json(run / "run.json", record | {"state": "failed"})
    with pytest.raises(ArtifactError, match="must be done to be bundled, and is failed"):
        verbs.main(words)
    write_json(run / "run.json", record)
    items = tmp_path / "store" / EVAL / "items" / "questions.jsonl"
    whole = items.read_bytes()
    items.write_bytes(whole[::-1])
    with pytest.raises(ArtifactError, match=r"is damaged: items/questions\.jsonl"):
        verbs.main(words)
    items.write_bytes(whole)
    (tmp_path / "store" / EVAL / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="must be in the store, and is gone"):
        verbs.main(words)
    assert not list(tmp_path.glob("*.zip"))


SECRETS = [
    "hf_" + "a1B2" * 8,
    "sk-" + "a1B2" * 8,
    "ghp_" + "a1B2" * 9,
    "AKIA" + "A1B2" * 4,
    "-----BEGIN RSA PRIVATE KEY-----",
    "https://me:pa55word@example.org/x",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_anywhere_stops_the_writing_and_is_not_shown(
    tmp_path: Path, run: Path, secret: str
) -> None:
    path = run / "report.md"
    path.write_text(path.read_text() + f"\n{secret}\n")
    words = ["bundle", "quickstart", "--to", str(tmp_path / "a.zip")]
    words += ["--store", str(tmp_path / "store")]
    with pytest.raises(ArtifactError, match=r"report\.md holds what looks like") as refused:
        verbs.main(words)
    assert secret not in str(refused.value)
    assert not (tmp_path / "a.zip").exists()


def test_values_of_secret_variables_and_settings_do_not_go_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORER_TOKEN", "a-long-enough-value")
    with pytest.raises(ArtifactError, match="the value of SCORER_TOKEN"):
        require_no_secret("run.json", b'{"x": "a-long-enough-value"}')
    scrubber = Scrubber(tmp_path)
    assert scrubber.value({"api_key": "abc", "token_env": "SCORER_TOKEN", "tokens": "few"}) == {
        "api_key": "<left out>",
        "token_env": "SCORER_TOKEN",
        "tokens": "few",
    }
    assert scrubber.word("reward.own.token=abc") == "reward.own.token=<left out>"
    assert scrubber.word(f'a.path="{tmp_path}/x y"') == 'a.path="<store>/x y"'
    assert (
        scrubber.text(f"in {tmp_path}/runs and {tmp_path}2") == f"in <store>/runs and {tmp_path}2"
    )
