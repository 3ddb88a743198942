"""`plumbrule rerun`: a recorded run composed again, what differs said before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from plumbrule.cli import main, verbs
from plumbrule.cli.composition import composed_config
from plumbrule.cli.reruns.changes import RerunChanges, lines
from plumbrule.cli.reruns.recompose import DEFAULT, NEW, SettingChange, as_value
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.store.json_files import read_json, write_json

Edit = Callable[[Callable[[dict[str, Any]], Any]], None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"id": f"p{n}", "messages": [{"role": "user", "content": f"What is {n}?"}]}
        for n in range(40)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def run_folder(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that prepared the prompts of a file."""
    monkeypatch.setenv("PLUMBRULE_STORE", str(tmp_path / "store"))
    words = ["run.goals=[prompts]", "tracking=none"]
    words += ["dataset@data.prompts=jsonl", f"data.prompts.path={data}"]
    main.run(composed_config(words), words)
    (folder,) = (tmp_path / "store" / "runs" / "quickstart").iterdir()
    return folder


@pytest.fixture
def edit(run_folder: Path) -> Edit:
    """Change the record of that run."""

    def change(how: Callable[[dict[str, Any]], Any]) -> None:
        record = read_json(run_folder / "run.json")
        how(record)
        write_json(run_folder / "run.json", record)

    return change


def newest(folder: Path) -> dict[str, Any]:
    others = [path for path in folder.parent.iterdir() if path != folder]
    assert len(others) == 1
    return read_json(others[0] / "run.json")


def test_an_unchanged_run_is_composed_again_with_the_artifacts_that_it_had(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.main(["rerun", run_folder.name, "--dry"])
    said = capsys.readouterr().out
    for part in ("settings", "data", "versions", "machine"):
        assert f"{part}: the same" in said
    assert "1 of 1 nodes are the artifacts that the run had" in said
    assert len(list(run_folder.parent.iterdir())) == 1  # nothing was run
    verbs.main(["rerun", run_folder.name[:15], "runtime.threads=1"])
    record, again = read_json(run_folder / "run.json"), newest(run_folder)
    assert again["nodes"]["prompts"]["artifact"] == record["nodes"]["prompts"]["artifact"]
    assert again["nodes"]["prompts"]["state"] == "cached"
    assert again["overrides"] == [*record["overrides"], "runtime.threads=1"]


def test_a_changed_default_is_said_and_set_to_what_it_was(
    run_folder: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: dict[str, Any]) -> None:
        record["config"]["ppo"]["kl"]["coef"] = 0.125
        record["config"]["run"]["goals"] = ["prompts", "demonstrations"]
        record["config"]["ppo"]["save_every"] = 7  # in no fingerprint

    now = read_json(run_folder / "run.json")["config"]["ppo"]["kl"]["coef"]
    edit(change)
    verbs.main(["rerun", "quickstart"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"ppo.kl.coef 0.125 -> {now} its default changed; the rerun has it as then" in said
    assert "save_every" not in said
    again = newest(run_folder)
    assert again["config"]["ppo"]["kl"]["coef"] == 0.125
    assert again["config"]["run"]["goals"] == ["prompts", "demonstrations"]
    assert set(again["nodes"]) == {"prompts", "demonstrations"}
    assert "++ppo.kl.coef=0.125" in again["overrides"]


def test_a_setting_that_is_gone_is_said_and_stops_the_run_unless_it_is_done_without(
    run_folder: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: dict[str, Any]) -> None:
        record["config"]["ppo"]["kl"]["once"] = 3
        record["overrides"] += ["ppo.kl.once=3", "recipe=no_such_recipe"]
        del record["config"]["ppo"]["lam"]

    edit(change)
    verbs.main(["rerun", "quickstart", "--dry"])
    said = " ".join(capsys.readouterr().out.split())
    assert "ppo.kl.once 3 -> none it no longer exists" in said
    assert "recipe=no_such_recipe chosen -> none the file of conf/ is gone" in said
    assert "ppo.lam none -> 0.95 it is new" in said
    with pytest.raises(ConfigError, match=r"recipe=no_such_.*can't be had.*--without-missing"):
        verbs.main(["rerun", "quickstart"])
    assert len(list(run_folder.parent.iterdir())) == 1
    verbs.main(["rerun", "quickstart", "--without-missing"])
    assert newest(run_folder)["state"] == "done"


def test_changed_data_are_told_by_the_digest_of_their_files_and_missing_ones_refused(
    run_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from plumbrule.store.fingerprint import forget

    data.write_text(data.read_text().replace("What is 7?", "What is 70?"))
    forget()
    verbs.main(["rerun", "quickstart", "--dry"])
    said = " ".join(capsys.readouterr().out.split())
    old = read_json(run_folder / "run.json")["nodes"]["prompts"]["artifact"]
    assert f"data prompts {old.removeprefix('artifacts/')} -> data/" in said
    assert said.count("content:") == 2
    assert "0 of 1 nodes" in said
    data.unlink()
    forget()
    with pytest.raises(ConfigError, match=r"prompts\.jsonl.*read content:[0-9a-f]{16} \(prompts\)"):
        verbs.main(["rerun", "quickstart"])


def test_code_versions_and_processor_are_compared(
    run_folder: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: dict[str, Any]) -> None:
        record["git"] = {"commit": "f" * 40, "dirty": True}
        record["versions"]["torch"] = "0.1"
        record["nodes"]["prompts"]["hardware"]["processor"] = "Abacus 3000"

    edit(change)
    verbs.main(["rerun", "quickstart", "--dry"])
    said = " ".join(capsys.readouterr().out.split())
    assert "commit ffffffffffff with uncommitted changes ->" in said
    assert "torch 0.1 ->" in said
    assert "processor Abacus 3000 ->" in said


def test_a_run_that_was_not_done_is_run_again_and_what_is_unknown_said(
    run_folder: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: dict[str, Any]) -> None:
        for name in ("config", "nodes", "metrics"):
            del record[name]
        record["state"] = "failed"

    edit(change)
    verbs.main(["rerun", "quickstart"])
    said = capsys.readouterr().out
    assert "the run is failed, so its record names no artifacts" in said
    assert "holds no settings" in said
    assert newest(run_folder)["state"] == "done"


def test_records_that_cannot_be_used_are_refused_with_what_to_do(
    run_folder: Path, edit: Edit
) -> None:
    with pytest.raises(ArtifactError, match=r"'quickstrat' must be a run.*did you mean quickstart"):
        verbs.main(["rerun", "quickstrat"])
    with pytest.raises(ConfigError, match=r"rerun \(=ppo.lam=1\) must take only words"):
        verbs.main(["rerun", "quickstart", "ppo.lam=1"])
    other = run_folder.with_name("20200101-000000-aaaaaa")
    other.mkdir()
    whole = (run_folder / "run.json").read_text()
    (other / "run.json").write_text(whole)
    with pytest.raises(ArtifactError, match=rf"must name one run, and 2 .*{run_folder.name}, "):
        verbs.main(["rerun", "quickstart"])
    (other / "run.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"run\.json is damaged.*put it back"):
        verbs.main(["rerun", "20200101"])
    (other / "run.json").unlink()
    with pytest.raises(ArtifactError, match=r"must hold run\.json, and holds none"):
        verbs.main(["rerun", str(other)])
    edit(lambda record: record.pop("config"))
    with pytest.raises(ArtifactError, match=r"an earlier version wrote it.*plumbrule .*goals"):
        verbs.main(["rerun", "quickstart"])


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 3, -0.25, 1e-5, "plain", "1e-5", "null", "true", ""),
        *("with space", 'a "quote"', "back\\slash", "a\\", "[x]", "${ppo.lam}", "a=b, c", "é#~"),
        *([1, "two", None], {"a": [1.5, "x y"], "b": {"c": True}}, [{"name": "rm", "weight": 1.0}]),
    ],
)
def test_a_value_reads_back_as_it_was(value: Any) -> None:
    read = OverridesParser.create().parse_override(f"++a.b={as_value(value)}").value()
    plain = json.loads(json.dumps(read, default=lambda quoted: quoted.text))
    assert plain == value
    assert type(plain) is type(value)


def test_a_key_that_hydra_does_not_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the recorded key 'a b' must be a word"):
        as_value([{"a b": 1}])


def test_many_new_settings_are_counted_and_a_value_stays_on_its_line() -> None:
    new = [SettingChange(f"encoder.x{n}", "none", "1", NEW, False) for n in range(9)]
    changed = SettingChange("sft.template", "\na", "b\nc", DEFAULT, True)
    found = RerunChanges([*new, changed], [], [], [], [], 0, 1, [])
    said = lines(found)
    assert "  9 are new and have their defaults: encoder 9" in said
    (row,) = [line for line in said if "sft.template" in line]
    assert "\\na" in row
    assert "b\\nc" in row
    assert not any("encoder.x" in line or "\n" in line for line in said)
    assert any("encoder.x0" in line for line in lines(found._replace(settings=new[:8])))


def test_a_value_that_no_word_can_say_is_lost_and_not_an_error(
    run_folder: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(lambda record: record["config"]["rag"].update(principal=[{"a key": 1}]))
    verbs.main(["rerun", "quickstart", "--dry"])
    assert "rag.principal" in capsys.readouterr().out
