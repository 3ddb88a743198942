"""The command line as a user meets it: real processes, offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import plumbrule
from places import ROOT


def record(store: Path) -> dict:
    """Return the newest run's record."""
    newest = max((store / "runs").glob("*/*/run.json"), key=lambda p: p.stat().st_mtime)
    return json.loads(newest.read_text())


def record_id(store: Path) -> str:
    """Return the id of the newest run."""
    return str(record(store)["id"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the fast chain has been built once, by a process started anew."""
    folder = tmp_path_factory.mktemp("store")
    done = plumbrule(folder, "debug=fast", anew=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_first_run_builds_the_whole_chain(store: Path) -> None:
    whole = record(store)
    assert whole["state"] == "done"
    assert {n["state"] for n in whole["nodes"].values()} == {"built"}
    assert {n["kind"] for n in whole["nodes"].values()} >= {"base", "sft", "rm", "ppo", "eval"}
    for name in ("ppo/gold_gain", "ppo/gold_gain_low", "rm/accuracy", "objective/kl"):
        assert name in whole["metrics"], name
    # the configured reward before and after, paired, is a headline of the node that compared
    assert whole["headline_nodes"]["ppo/reward_gain"] == "compare"
    assert whole["notes"][0].startswith("No result: debug=fast")
    for name in ("ppo/reward_gain_low", "eval/reward_ppo_closed", "ppo/proxy_change"):
        assert name in whole["metrics"], name


def test_the_report_stands_alone(store: Path) -> None:
    page = next((store / "runs").glob("*/*/report.html")).read_text()
    assert "<svg" in page
    assert not re.findall(r"(?:src|href)=[\"']?http", page)
    assert "ppo/gold_gain" in page.replace("<wbr>", "")  # where a long name may break
    assert "quickstart" in page
    markdown = next((store / "runs").glob("*/*/report.md")).read_text()
    assert "| ppo | ppo |" in markdown


SHOUTING = """
from rlhf.rewards.functions import register

@register("shouting")
def shouting(episodes):
    return [-float(e.response.isupper()) for e in episodes]
"""


def test_a_plug_ins_reward_is_trained_against_and_belongs_to_the_artifact(store: Path) -> None:
    plugin = store / "shout.py"
    plugin.write_text(SHOUTING, encoding="utf-8")
    words = ["debug=fast", "reward.terms=[{name: shouting}]", "run.only=ppo", "run.name=shouts"]
    without = plumbrule(store, *words, "run.dry=true")
    assert without.returncode == 2
    assert "shouting" in without.stderr
    done = plumbrule(store, "--plugin", str(plugin), *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "reward/shouting" in record(store)["metrics"]
    again = plumbrule(store, "--plugin", str(plugin), *words, "run.dry=true")
    assert "ppo             cached" in again.stderr + again.stdout
    plugin.write_text(SHOUTING + "# edited\n", encoding="utf-8")
    edited = plumbrule(store, *words, "run.dry=true", PLUMBRULE_PLUGINS=str(plugin))
    assert "ppo             build" in edited.stderr + edited.stdout


def test_records_hold_no_machine_path(store: Path) -> None:
    for path in [*store.glob("runs/*/*/run.json"), *store.glob("artifacts/*/*/manifest.json")]:
        assert str(store) not in path.read_text(), path


def test_published_artifacts_hold_no_working_state(store: Path) -> None:
    for folder in store.glob("artifacts/*/*"):
        names = {p.name for p in folder.iterdir()}
        assert "manifest.json" in names
        assert not names & {"checkpoints", "claim.json", "stage.json"}


def test_a_run_that_waits_for_people_says_how_and_goes_on(store: Path) -> None:
    arguments = ["debug=fast", "run.only=feedback", "feedback.labeller=person"]
    done = plumbrule(store, *arguments)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert re.search(r"run `plumbrule label \w+`\.\nRun the same command again", done.stderr)
    whole = record(store)
    assert whole["state"] == "waiting"
    labels = store / whole["awaits"]
    rows = [json.loads(line) for line in (labels / "questions.jsonl").open()]
    judged = [
        {
            "question": r["question"],
            "annotator": "anna",
            "ranks": [1] + [2] * (len(r["answers"]) - 1),
        }
        for r in rows
    ]
    (labels / "people" / "anna.jsonl").write_text("\n".join(map(json.dumps, judged)))
    done = plumbrule(store, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert record(store)["nodes"]["feedback"]["state"] == "resumed"


def test_the_second_run_is_all_cache_and_imports_no_torch(store: Path) -> None:
    began = time.monotonic()
    done = plumbrule(store, "debug=fast", anew=True, PYTHONPROFILEIMPORTTIME="1")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr[-2000:]
    assert {n["state"] for n in record(store)["nodes"].values()} == {"cached"}
    imported = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)
    assert "plumbrule.pipeline.execute" in imported
    assert not {"torch", "transformers", "wandb"} & set(imported)
    assert seconds < 30  # about 1.3 s on a quiet machine; this catches a hang only


def test_a_dry_run_says_what_would_be_built_and_why(store: Path) -> None:
    done = plumbrule(store, "debug=fast", "ppo.kl.coef=0.9", "run.dry=true")
    assert done.returncode == 0
    states = dict(re.findall(r"^  (\w+) +(cached|build|resume)", done.stdout, re.MULTILINE))
    assert {n for n, s in states.items() if s == "build"} == {"ppo", "eval", "compare"}
    fresh = store / "fresh"
    assert plumbrule(store, "run.dry=true", f"run.store={fresh}").returncode == 0
    assert not fresh.exists()  # a dry run makes no folder
    assert re.search(r"ppo +build .* ~\d+ \w+  \(changed: kl\.coef\)", done.stdout)
    assert re.search(r"eval +build .*\(changed: input policy\)", done.stdout)
    assert re.search(r"to build: 3 of \d+ nodes, about \d+ \w+", done.stdout)
    assert "Atlas (generated): demonstrations, " in done.stdout
    assert done.stderr == ""


def test_ctrl_c_while_the_command_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import builtins

    from plumbrule.cli import entry

    real = builtins.__import__

    def stopped(name: str, *rest: object, **named: object) -> object:
        if name == "plumbrule.cli":
            raise KeyboardInterrupt
        return real(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", stopped)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped.\n"


def test_an_error_of_a_process_is_one_line_and_exits_with_2(tmp_path: Path) -> None:
    done = plumbrule(tmp_path, "ppo.kl.coeff=1", anew=True)
    assert done.returncode == 2
    assert "did you mean ppo.kl.coef?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plumbrule_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Here]:
    """Run the command line in this process, in an empty folder: exit code, output and errors."""
    from plumbrule.cli import main as command_line
    from plumbrule.cli.composition import SWEEP_FOLDERS
    from plumbrule.cli.sweeps.cell_files import SWEEP

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plumbrule", *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLUMBRULE_STORE", str(tmp_path))
    for set_by_a_sweep in (SWEEP, SWEEP_FOLDERS):
        monkeypatch.setenv(set_by_a_sweep, "")
    ours = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, ours)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ppo.kl.coef=-1"], "must be at least 0"),
        (["show", "nothing"], "nothing is called 'nothing'"),
        (["experiment=null"], "experiment (=null) must name a file"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(
    plumbrule_here: Here, arguments: list[str], says: str
) -> None:
    code, _, errors = plumbrule_here(*arguments)
    assert code == 2
    assert says in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize("dry", ["false", "true"])
def test_a_sweep_with_a_bad_cell_starts_none(
    tmp_path: Path, plumbrule_here: Here, dry: str
) -> None:
    arguments = ["run.only=prompts", "-m", "atlas.num_prompts=-1,20,many", "tracking=jsonl"]
    code, said, errors = plumbrule_here(*arguments, f"run.dry={dry}")
    assert code == 2
    assert "2 of 3 cells can't run, so none was started" in errors
    assert "(atlas.num_prompts=-1) atlas.num_prompts (=-1 rows) must lie in" in errors
    assert "atlas.num_prompts (=many) must be a whole number" in errors
    assert said == ""
    assert not list(tmp_path.iterdir())


def test_a_cell_that_fails_leaves_its_failure_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": 3}\n')
    rows = "".join(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(20))
    (tmp_path / "good.jsonl").write_text(rows)
    files = ",".join(str(tmp_path / name) for name in ("bad.jsonl", "good.jsonl"))
    arguments = ["run.only=prompts", "dataset=jsonl", "-m", f"dataset.path={files}"]
    done = plumbrule(tmp_path, *arguments, "tracking=jsonl")
    assert done.returncode == 1
    assert "1 cell(s) failed" in done.stderr
    cells = sorted(p for p in (tmp_path / "runs" / "quickstart" / "sweep").iterdir() if p.is_dir())
    failures = [p for p in cells if (p / "failure.json").is_file()]
    assert len(cells) == 2
    assert len(failures) == 1
    assert "bad.jsonl, row 1" in json.loads((failures[0] / "failure.json").read_text())["error"]


def test_a_dry_sweep_plans_every_cell_and_leaves_nothing(store: Path, tmp_path: Path) -> None:
    arguments = ["debug=fast", "run.dry=true", "-m", "ppo.kl.coef=0.2,0.3", f"run.store={store}"]
    before = sorted(store.rglob("*"))
    done = plumbrule(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "all metrics of the sweep" not in done.stderr
    assert re.search(r"ppo +build .*changed: kl\.coef", done.stdout)
    assert re.findall(r"^cell .*ppo\.kl\.coef=(\S+) ", done.stdout, re.MULTILINE) == ["0.2", "0.3"]
    assert sorted(store.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_a_bad_row_stops_the_plan(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"')
    arguments = ["dataset=jsonl", f"dataset.path={bad}", "run.only=prompts", "tracking=jsonl"]
    done = plumbrule(tmp_path, *arguments)
    assert done.returncode == 2
    assert re.search(r"bad\.jsonl, row 1: not valid JSON", done.stderr)
    assert '{"prompt": "a"' in done.stderr.replace("\\", "")
    assert not (tmp_path / "runs" / "quickstart").exists()  # the plan found it; nothing ran
    with open(bad, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(20))
    broken = plumbrule(tmp_path, *arguments, "run.objective=nothing")
    assert broken.returncode == 2
    assert "run.objective (=nothing) must be a metric of this run" in broken.stderr


def test_ls_and_show(store: Path) -> None:
    listed = plumbrule(store, "ls", "--json")
    runs = json.loads(listed.stdout)
    assert runs[0]["state"] == "done"
    assert "config" not in runs[0]  # run.json holds it
    shown = plumbrule(store, "show", runs[0]["id"]).stdout
    for line in ("state    done, ", "command  plumbrule debug=fast", "goals    compare, eval_base"):
        assert line in shown
    assert re.search(r"ppo/gold_gain +\S+", shown)
    policies = re.findall(r"^policy +(\w+) +(.+)$", shown, re.MULTILINE)
    assert [name for name, _ in policies] == ["base", "sft", "ppo"]
    assert all((Path(folder) / "policy.json").is_file() for _, folder in policies)
    assert str(store / runs[0]["folder"] / "report.html") in shown
    assert len(shown.splitlines()) < 60
    whole = plumbrule(store, "show", runs[0]["id"], "--full", "--verify")
    assert whole.stdout.startswith("# quickstart")
    assert re.search(r"verified: \d+ files of the run's 18 artifacts", whole.stderr)


def test_artifacts_are_told_apart_and_found_by_the_beginning_of_their_name(store: Path) -> None:
    lines = plumbrule(store, "ls", "--artifacts", "--kind", "ppo").stdout.splitlines()
    assert re.match(r"artifact +node +built \(UTC\) +size +time +what tells it apart", lines[0])
    assert len(lines) > 1
    assert all(line.startswith("ppo/") for line in lines[1:])
    artifacts = json.loads(plumbrule(store, "ls", "--artifacts", "--json").stdout)
    ppo = next(a for a in artifacts if a["node"] == "ppo")
    begins = ppo["fingerprint"][:10]
    for what in (begins, f"ppo/{begins}", f"artifacts/ppo/{begins}"):
        whole = json.loads(plumbrule(store, "show", what).stdout)
        assert whole["node"] == "ppo"
        assert "objective/kl" in whole["metrics"]
        assert whole["code"].endswith("--full lists them")
    full = plumbrule(store, "show", ppo["fingerprint"], "--verify", "--full")
    assert "rlhf.ppo.stage" in full.stdout or "rlhf/ppo/stage.py" in full.stdout
    assert "verified: " in full.stderr


def test_a_damaged_artifact_is_named(store: Path) -> None:
    samples = next(store.glob("artifacts/sft/*/samples.jsonl"))
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-3])
    try:
        done = plumbrule(store, "debug=fast", "run.dry=true")
        assert done.returncode == 2
        assert re.search(r"sft artifact artifacts/sft/\w+ is damaged: samples\.jsonl", done.stderr)
    finally:
        samples.write_bytes(whole)


def test_secrets_never_reach_a_run_folder(tmp_path: Path) -> None:
    done = plumbrule(
        tmp_path,
        "debug=fast",
        "run.only=documents",
        WANDB_API_KEY="s3cret" * 7,
        WANDB_MODE="offline",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"s3crets3cret" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "Groups (group=choice)"),
        (["-h"], 0, "experiment=own dataset.path=<file> model=<folder>"),
        (["--version"], 0, "plumbrule "),
        (["doc", "ppo.kl.coef"], 0, "Reward (or loss) per nat"),
        (["doc", "ppo.lr"], 2, "did you mean ppo.learning_rate?"),
        (["shw"], 2, "did you mean show?"),
        (["dataset.path=~/x"], 2, "must be quoted twice"),
        (["'dataset.path=/x'"], 2, "must not be in quotes that reach Hydra; write dataset.path=/x"),
        (["datset.path=x"], 2, "datset.path must be a known key; did you mean dataset.path?"),
        (["reward.terms=[brief]"], 2, "reward.terms[0] (=brief) must be a mapping"),
        (["ls", "--jsn"], 2, "unknown arguments: --jsn"),
        (["doc", "ppo.kl.coef"], 0, "= 0.6 in experiment=quickstart; 0.05 by itself"),
        (["doc", "ppo.kl.coef", "ppo.kl.coef=0.7"], 0, "= 0.7 in ppo.kl.coef=0.7; 0.05 by itself"),
        (["--dry-run"], 2, "write run.dry=true"),
        (["--ppo.kl.coef=1"], 2, "write ppo.kl.coef=1"),
        (["ppo.kl.coef=0.02,0.1"], 2, "add -m for a sweep"),
        (["--resolve", "run.dry=true"], 2, "--resolve must stand beside --cfg job"),
        (["--config-name=nope"], 2, "--config-name (=nope) must name a file of conf/"),
        (
            ["--experimental-rerun", "gone.pickle"],
            2,
            "--experimental-rerun (=gone.pickle) must be left out, since it would run what a "
            "pickle holds; repeat a recorded run with plumbrule rerun <run>.",
        ),
        (["--experimental-rerun=gone.pickle"], 2, "--experimental-rerun (=gone.pickle) must be"),
        (["paper"], 2, "plumbrule paper must be given: action; see plumbrule paper --help."),
        (["paper", "chek"], 2, "paper (=chek) must be one of check, docs, list, run"),
        (["paper", "check"], 2, "paper must be named; there are"),
        (
            ["paper", "run", "gao2022", "--jason"],
            2,
            "unknown arguments: --jason; did you mean --json",
        ),
        (["paper", "run", "huang2024", "arm=eso"], 2, "arm of huang2024 (=eso) must be one of"),
        (["paper", "run", "lewis2020", "seed=7"], 2, "seed (=7) must be one of 0, 1, 2"),
        (["rerun"], 2, "plumbrule rerun must be given: what; see plumbrule rerun --help."),
        (["rerun", "x", "--drye"], 2, "unknown arguments: --drye; did you mean --dry"),
        (["rerun", "nothing"], 2, "nothing"),
        (["rerun", "x", "ppo.lam=1"], 2, "rerun (=ppo.lam=1) must take only words that change no"),
        (["check", "x", "--most-gib", "a"], 2, "argument --most-gib: invalid float value: 'a'"),
    ],
)
def test_what_is_asked_of_the_command_itself(
    tmp_path: Path, plumbrule_here: Here, arguments: list[str], code: int, says: str
) -> None:
    ended, said, errors = plumbrule_here(*arguments)
    assert ended == code
    assert says in (said if code == 0 else errors)
    assert len(errors.splitlines()) == int(code == 2)
    assert not list(tmp_path.iterdir())


def test_hydras_own_word_for_a_sweep_is_that_of_the_command(plumbrule_here: Here) -> None:
    """Cells of a sweep are found by its id, which the command gives it."""
    from plumbrule.cli.sweeps.cell_files import SWEEP

    code, said, _ = plumbrule_here("seed=1,2", "hydra.mode=MULTIRUN", "run.dry=true")
    assert code == 0
    assert "plan of the sweep: 2 cells" in said
    assert os.environ[SWEEP]


def test_a_file_that_makes_every_run_a_sweep_is_told_of(
    tmp_path: Path, plumbrule_here: Here
) -> None:
    """Whether it is a sweep decides how the command ends, so it is asked for before composing."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "sweeping.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n", encoding="utf-8"
    )
    folder = f"hydra.searchpath=[file://{tmp_path}/own]"
    code, _, errors = plumbrule_here(folder, "experiment=sweeping", "run.dry=true")
    assert code == 2
    assert "hydra.mode (=MULTIRUN) must be asked for by the command" in errors


def test_replay_takes_flags_and_settings_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plumbrule.cli import verbs
    from plumbrule.cli.verbs import replay
    from plumbrule.errors import ConfigError

    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(replay, "replayed", lambda store, *given: seen.append(given) or [])
    words = ["ppo.gamma=0.9", "--reward", "gold", "ppo.lam=1", "--json", "--update", "1"]
    orders = (["replay", "run1", *words], ["replay", *words[1:], "run1", words[0]])
    for order in orders:
        assert verbs.main([*order, "--store", str(tmp_path)]) == 0
    assert len(seen) == 2
    for what, settings, *others in seen:
        assert what == "run1"
        assert set(settings) == {"ppo.gamma=0.9", "ppo.lam=1"}
        assert others == ["gold", [1]]
    with pytest.raises(ConfigError, match=r"one run or artifact, not 2 \(run1, run2\)"):
        verbs.main(["replay", "run1", "run2", "--store", str(tmp_path)])
    with pytest.raises(ConfigError, match=r"unknown arguments: ppo\.lam=1"):
        verbs.main(["show", "x", "ppo.lam=1"])


def test_a_waiting_node_is_not_failed_for_its_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plumbrule.errors import NeedsInput
    from plumbrule.pipeline import execute as pipeline
    from plumbrule.pipeline.graph import Node
    from plumbrule.pipeline.plan import make_plan
    from plumbrule.runtime_config import RuntimeConfig
    from plumbrule.store.artifacts import Store
    from sft.data.config import DataConfig, DatasetConfig

    ends = []

    class Tracker:
        def finish(self, metrics: dict, failed: bool = False) -> None:
            ends.append(failed)

    path = tmp_path / "x.jsonl"
    path.write_text("{}")
    config = DataConfig("prompts", DatasetConfig("jsonl", str(path)))
    store = Store(tmp_path)
    context = pipeline.RunContext("r/1", tmp_path, store, RuntimeConfig())
    monkeypatch.setattr(pipeline, "_tracker", lambda *a: Tracker())
    for error in (NeedsInput(path, "rank"), ValueError("x")):

        def fails(*a: object, raised: BaseException = error) -> dict:
            raise raised

        monkeypatch.setattr(pipeline, "stage_function", lambda kind, run=fails: run)
        plan = make_plan([Node("prompts", "data", {}, config)], store)
        with pytest.raises(type(error)):
            pipeline.execute(plan, context, lambda line: None)
    assert ends == [False, True]


def test_a_sweep_ends_with_its_table(tmp_path):
    arguments = ("-m", "run.only=prompts", "atlas.num_prompts=20,30", "seed=0,1")
    done = plumbrule(tmp_path, *arguments, "run.objective=data/rows", "tracking=jsonl")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/quickstart/sweep/*.csv")
    header, *rows = path.read_text().splitlines()
    assert header == "cell,metric,mean,low,high,over,n"
    cells = [row.split(",")[0] for row in rows]
    assert cells == ["atlas.num_prompts=20", "atlas.num_prompts=30"]
    assert all(row.endswith("seeds,2") for row in rows)
    assert "best by data/rows (highest): atlas.num_prompts=30" in done.stdout


def test_every_verb_parses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from plumbrule.cli import verbs

    for verb in verbs.VERBS:
        with pytest.raises(SystemExit, match="0"):
            verbs.main([verb, "--help"])
    assert verbs.main(["ls", "--store", str(tmp_path)]) == 0
    assert "no runs under" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        {"metrics": {"time/total_seconds": 10**400}},
        {"metrics": {"time/total_seconds": "long"}},
        {"metrics": []},
        {"state": 1},
        {"overrides": [1]},
        {"headline": "x"},
        {"config": {"run": {"goals": [None]}}},
        {"nodes": {"sft": {"kind": "sft", "state": "built", "artifact": "../sft/a1"}}},
    ],
)
def test_a_damaged_record_of_a_run_is_not_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: dict[str, Any]
) -> None:
    from plumbrule.cli import verbs
    from plumbrule.store.json_files import write_json

    whole = {"name": "r", "state": "done", "metrics": {"time/total_seconds": 1.0}}
    for number, record in enumerate((whole, {**whole, **damage})):
        (tmp_path / "runs" / "r" / f"run{number}").mkdir(parents=True)
        write_json(tmp_path / "runs" / "r" / f"run{number}" / "run.json", record)
    assert verbs.main(["ls", "--store", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "runs/r/run0" in listed
    assert "runs/r/run1" not in listed


@pytest.mark.parametrize("name", ["a fingerprint", "a run"])
def test_merge_reads_only_what_was_published(tmp_path: Path, name: str) -> None:
    from plumbrule.cli.verbs.merge import adapter_in
    from plumbrule.errors import ArtifactError
    from plumbrule.store.artifacts import Store
    from plumbrule.store.json_files import write_json
    from plumbrule.store.manifests import Manifest

    store = Store(tmp_path)
    folder = store.folder("sft", "f" * 16)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "adapter_config.json").write_text("{}")
    store.publish(Manifest("sft", "sft", "f" * 16, {}, {}))
    run = tmp_path / "runs" / "r" / "1"
    run.mkdir(parents=True)
    about = {"kind": "sft", "state": "built", "artifact": str(folder.relative_to(store.root))}
    write_json(run / "run.json", {"state": "done", "nodes": {"sft": about}})
    what = "f" * 16 if name == "a fingerprint" else "1"
    assert adapter_in(store, what, None) == folder / "model"
    (folder / "model" / "adapter_config.json").write_text("[]")
    with pytest.raises(ArtifactError, match="has other content"):
        adapter_in(store, what, None)


def test_a_sweep_is_found_wherever_its_store_is_said(tmp_path: Path) -> None:
    """And a cell that ends without its objective keeps what it has measured, also when a dry
    sweep comes after.
    """
    arguments = ["-m", "run.only=prompts", "atlas.num_prompts=20", "tracking=jsonl"]
    arguments += ["run.objective=data/none", f"++run.store={tmp_path / 'there'}"]
    done = plumbrule(tmp_path, *arguments)
    assert done.returncode == 1, done.stderr
    assert "; choose one of them" in done.stdout
    assert "1 cell(s) failed" in done.stderr
    (path,) = tmp_path.glob("there/runs/quickstart/sweep/*/cell.json")
    cell = json.loads(path.read_text())
    assert cell["metrics"]["data/rows"] > 0
    assert cell["error"]
    assert plumbrule(tmp_path, *arguments, "run.dry=true").returncode == 0
    assert json.loads(path.read_text()) == cell


@pytest.mark.parametrize("fails", ["start_tracker", "write_reports"])
def test_a_run_that_fails_beside_its_nodes_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from plumbrule.cli import main, runs
    from plumbrule.tracking.trackers import FilesOnly

    finished = []

    class Tracker(FilesOnly):
        def finish(self, record: object, report: object, failed: bool = False) -> None:
            finished.append((record, failed, state()))

    def state() -> str:
        (path,) = tmp_path.glob("runs/*/*/run.json")
        return json.loads(path.read_text())["state"]

    def refuses(*a: object) -> None:
        raise OSError("no")

    main.register()
    GlobalHydra.instance().clear()
    overrides = ["run.only=prompts", "tracking=jsonl", f"run.store={tmp_path}"]
    with initialize_config_dir(str(main.CONF), **main.VERSION_BASE):
        cfg = compose("config", overrides=[*overrides, "atlas.num_prompts=20"])
    monkeypatch.setattr(runs, "start_tracker", lambda *a: Tracker())
    owner = runs if fails == "start_tracker" else runs.run_record
    monkeypatch.setattr(owner, fails, refuses)
    with pytest.raises(OSError, match="no"):
        main.run(cfg, overrides)
    assert state() == "failed"
    (record,) = tmp_path.glob("runs/*/*/run.json")
    assert json.loads(record.read_text())["planned"][-1].startswith("data/")
    (trace,) = tmp_path.glob("runs/*/*/failure.txt")
    assert "Traceback" in trace.read_text()
    assert "OSError: no" in trace.read_text()
    assert finished == ([] if fails == "start_tracker" else [(None, True, "failed")])


def test_only_what_is_built_needs_a_device_and_every_run_is_tracked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from types import SimpleNamespace

    from plumbrule.cli import runs as run

    asked: list[str] = []
    monkeypatch.setattr(run, "require_device", lambda runtime: asked.append("device"))
    monkeypatch.setattr(run, "check_wandb", lambda tracking: asked.append("wandb"))
    config = SimpleNamespace(runtime=None, tracking=None)
    for state, wanted in (
        ("build", ["device", "wandb"]),
        ("copy", ["wandb"]),
        ("cached", ["wandb"]),
    ):
        asked.clear()
        run.require_ready(config, [SimpleNamespace(state=state)])
        assert asked == wanted, state


def test_a_run_that_is_all_cached_is_a_wandb_run_with_metrics_and_report(tmp_path: Path) -> None:
    words = ["run.only=prompts", "atlas.num_prompts=20"]
    for name in ("built", "cached"):
        done = plumbrule(tmp_path, *words, f"run.name={name}", WANDB_MODE="offline")
        assert done.returncode == 0, done.stderr
        assert "tracking: one W&B run, offline" in done.stdout
        assert "[INFO]" not in done.stdout
        (folder,) = tmp_path.glob(f"runs/{name}/*/wandb/offline-run-*")
        written = b"".join(path.read_bytes() for path in folder.glob("run-*.wandb"))
        assert b"data/rows" in written, name
        assert list(folder.glob("files/media/html/report*")), name


def test_the_plan_says_what_turned_wandb_off(composed) -> None:
    from plumbrule.cli.plan_page import tracking_line

    config, _ = composed("debug=fast")
    line = "tracking: files only, no W&B run"
    assert tracking_line(config, ["debug=fast"]) == f"{line}: debug=fast sets tracking=jsonl"
    assert tracking_line(config, ["debug=fast", "tracking=jsonl"]) == line


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@pytest.mark.parametrize(
    ("typed", "some", "others"),
    [
        ("debug=fast ppo.kl.c", ["ppo.kl.coef="], ["ppo.kl.where="]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("label x", [], ["experiment="]),  # a verb's words are not Hydra's
                ("exp", ["experiment="], ["ppo."]),
                ("-m experiment=q", ["experiment=quickstart"], ["experiment=own"]),
                ("sh", ["show"], ["seed="]),
                ("--pl", ["--plugin"], ["--cfg"]),
                ("--plugin x.py debug=f", ["debug=fast"], ["debug=overfit"]),
                ("model=", ["model=gpt2"], ["model=schema"]),
                ("experiment=none ppo.k", [], ["ppo.kl."]),
            ]
        ),
    ],
)
def test_bash_completes_as_the_docs_say(tmp_path: Path, typed, some, others) -> None:
    command = tmp_path / "plumbrule"  # as an installer writes it
    command.write_text(f"#!{sys.executable}\nfrom plumbrule.cli.main import main\nmain()\n")
    command.chmod(0o755)
    (installs,) = re.findall(
        r"^ +(eval .*install=bash\)\")", (ROOT / "docs" / "commands.md").read_text(), re.M
    )
    script = f"""
        {installs}
        [[ $(complete -p plumbrule) =~ -F\\ ([a-z_]+) ]] || exit 9
        COMP_WORDS=(plumbrule {typed}) COMP_LINE="plumbrule {typed}"
        COMP_POINT=${{#COMP_LINE}} COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        ${{BASH_REMATCH[1]}}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    offered = done.stdout.split()
    assert set(some) <= set(offered)
    assert not set(others) & set(offered)
    assert done.stderr == ""  # it would stand in the middle of what is typed
