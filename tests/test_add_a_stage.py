"""A kind of stage is three files and a node: KTO (docs/examples/kto), added as its page says."""

from __future__ import annotations

import dataclasses
import filecmp
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from places import ROOT, process_environment
from worlds.rankings import rankings_of, saved_policy
from worlds.stages import run_stage, weights
from worlds.trackers import Stopped, StoppingTracker

import rlhf
from plumbrule.data.records import Preference, read_records, write_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.plan import entry_modules, make_plan
from plumbrule.pipeline.stages import STAGES
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.checkpoints import newest
from plumbrule.store.fingerprint import code_hashes

EXAMPLE = ROOT / "docs" / "examples" / "kto"
PAGE = (ROOT / "docs" / "add_a_stage.md").read_text(encoding="utf-8")
CODE = ("plumbrule", "sft", "rlhf", "rag", "eval")
PARTS = (*CODE, "hydra_plugins", "conf", "pyproject.toml", "setup.py")
CPU = RuntimeConfig(device="cpu", micro_batch_size=8)
CODE_OF_ALL = """
import json
from plumbrule.pipeline.plan import entry_modules, make_plan
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.stages import STAGES
from plumbrule.store.fingerprint import code_hashes
print(json.dumps({kind: code_hashes(entry_modules(kind, {})) for kind in STAGES}))
"""


# The files as the page says: copied into the tree, and the command


def node_of_the_page() -> str:
    """Return the line that the page adds to conf/config.yaml."""
    (line,) = re.findall(r"^```yaml\n(  kto: .*\n)```$", PAGE, re.MULTILINE)
    return line


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the example added."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, folder / part)
    shutil.copytree(EXAMPLE, folder / "rlhf" / "kto", ignore=shutil.ignore_patterns("__pycache__"))
    config = folder / "conf" / "config.yaml"
    text = config.read_text(encoding="utf-8")
    begin = text.index("  eval_dpo:")
    config.write_text(text[:begin] + node_of_the_page() + text[begin:], encoding="utf-8")
    return folder


def run(source: Path, store: Path, *words: str) -> str:
    """Return what a Python process prints that finds the project in `source`."""
    variables = process_environment(PLUMBRULE_STORE=str(store), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=store,
        env={**variables, "PYTHONPATH": str(source), "WANDB_MODE": "offline"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_three_files_and_a_node_are_all_that_is_added(source: Path) -> None:
    def files(root: Path) -> set[Path]:
        found = (path for part in PARTS for path in [root / part, *(root / part).rglob("*")])
        return {
            path.relative_to(root)
            for path in found
            if path.is_file() and "__pycache__" not in path.parts
        }

    ours, theirs = files(ROOT), files(source)
    added = theirs - ours
    assert {path.as_posix() for path in added} == {
        f"rlhf/kto/{name}" for name in ("config.py", "stage.py", "metrics.toml")
    }
    assert not ours - theirs
    changed = [path for path in ours if not filecmp.cmp(ROOT / path, source / path, shallow=False)]
    assert [path.as_posix() for path in changed] == ["conf/config.yaml"]
    lengths = [
        len((source / "rlhf" / "kto" / name).read_text("utf-8").splitlines())
        for name in ("config.py", "stage.py", "metrics.toml")
    ]
    counted = "{} + {} + {} lines".format(*lengths)
    assert f"3 new files ({counted}), 1 edited file (1 line)" in PAGE


def test_the_page_shows_the_files_as_they_are() -> None:
    sources = [path.read_text("utf-8") for path in EXAMPLE.iterdir() if path.is_file()]
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 2
    for block in blocks:
        for part in block.split("\n...\n"):
            assert any(part.strip("\n") in text for text in sources), part
    for name in ("config.py", "stage.py", "metrics.toml"):
        assert f"(examples/kto/{name})" in PAGE


def test_it_rebuilds_no_other_stage(source: Path, tmp_path: Path) -> None:
    found = json.loads(run(source, tmp_path, "-c", CODE_OF_ALL))
    assert set(found) == {*STAGES, "kto"}
    assert "rlhf/kto/stage.py" in found.pop("kto")
    assert found == {kind: code_hashes(entry_modules(kind, {})) for kind in STAGES}


def test_the_command_trains_reports_and_is_cached(
    source: Path, tmp_path: Path, composed: Callable[..., tuple[RunConfig, list[Node]]]
) -> None:
    """What comes before it has the names that it has without it. Nothing is asked of SFT."""
    words = ["debug=fast", "nodes.feedback.inputs.policy=base", "feedback.num_prompts=12"]
    words += ["nodes.feedback.inputs.index=null", "feedback.retrieval.share=0"]
    _, nodes = composed(*words, "run.only=feedback")
    command = ["-m", "plumbrule", *words, "nodes.kto.inputs.policy=base", "run.only=kto"]
    said = run(source, tmp_path, *command, "kto.batch_size=4")
    for planned in make_plan(nodes, Store(tmp_path)):
        assert planned.state == "cached", planned.node.name
    (folder,) = (tmp_path / "artifacts" / "kto").iterdir()
    assert f"kto: building kto/{folder.name}" in said
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [row["update"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > 2
    (page,) = (tmp_path / "runs").glob("*/*/report.html")
    report = page.read_text(encoding="utf-8").replace("<wbr>", "")
    assert "held-out, whose desirable answer has the higher reward" in report
    assert "kto/train_loss" in report
    again = run(source, tmp_path, *command, "kto.batch_size=4")
    assert re.search(rf"kto +cached +kto/{folder.name}", again)
    assert "0 built" in again


# The stage itself, in this process


@pytest.fixture(scope="module")
def kto() -> Iterator[ModuleType]:
    """The module rlhf.kto.stage, found in the folder of the example."""
    rlhf.__path__.append(str(EXAMPLE.parent))
    try:
        yield importlib.import_module("rlhf.kto.stage")
    finally:
        rlhf.__path__.remove(str(EXAMPLE.parent))
        for name in [name for name in sys.modules if name.startswith("rlhf.kto")]:
            del sys.modules[name]


def small(kto: ModuleType, **settings: Any) -> Any:
    given = {"batch_size": 8, "learning_rate": 3e-3, "save_every": 2, **settings}
    return kto.KTOConfig(**given)


def test_the_loss_by_hand(kto: ModuleType) -> None:
    # beta 0.5, lambda_D 2, lambda_U 3, z = 1; s(x) = 1 / (1 + exp(-x))
    # desirable, r = 3:   2 - 2 s(0.5 * (3 - 1)) = 2 (1 - s(1))    = 2 * 0.268941 = 0.537883
    # undesirable, r = 3: 3 - 3 s(0.5 * (1 - 3)) = 3 (1 - s(-1))   = 3 * 0.731059 = 2.193176
    # desirable, r = 1:   2 - 2 s(0)                               = 1
    # undesirable, r = -1: 3 - 3 s(0.5 * (1 + 1)) = 3 (1 - s(1))   = 0.806824
    config = kto.KTOConfig(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    logratios = torch.tensor([3.0, 3.0, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    desirable = torch.tensor([True, False, True, False])
    losses = kto.kto_losses(logratios, desirable, torch.tensor(1.0), config)
    assert losses.tolist() == pytest.approx([0.537883, 2.193176, 1.0, 0.806824], abs=1e-6)
    # d/dr of lambda s(-x): -lambda beta s(x) s(-x), times -1 where undesirable:
    # s(1) s(-1) = 0.196612: -2 * 0.5 * 0.196612, 3 * 0.5 * 0.196612, -2 * 0.5 / 4, as the second
    losses.sum().backward()
    wanted = [-0.196612, 0.294918, -0.25, 0.294918]
    assert logratios.grad.tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return rankings_of(tmp_path_factory.mktemp("kto-inputs"), 16, 8)


@pytest.fixture(scope="module")
def whole(
    kto: ModuleType, given: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, dict[int, dict[str, float]]]:
    """16 rankings, 32 answers, 8 a step: 4 steps, checkpoints behind 2 and 4."""
    out, tracker = tmp_path_factory.mktemp("kto-whole"), StoppingTracker()
    return out, run_stage(kto.run, small(kto), given, out, CPU, tracker), tracker.rows


@pytest.mark.parametrize("seed", [0, 1])
def test_learns_a_separable_world(kto: ModuleType, tmp_path: Path, seed: int) -> None:
    given = rankings_of(tmp_path, num_train=60, num_held_out=40, seed=seed)
    config = small(kto, seed=seed, num_train_epochs=6.0, batch_size=16, save_every=1000)
    metrics = run_stage(kto.run, config, given, tmp_path / "out", CPU)
    assert metrics["kto/accuracy"] > 0.85
    assert metrics["kto/rewards_desirable"] > metrics["kto/rewards_undesirable"]
    assert metrics["kto/answers"] == 120


def test_the_first_step_is_at_the_reference(whole: tuple) -> None:
    """Every log-ratio is 0, and so is the KL: each loss is 1 - s(0)."""
    out, metrics, rows = whole
    assert sorted(rows) == [1, 2, 3, 4]
    assert rows[1]["kto/train_loss"] == pytest.approx(0.5, abs=1e-6)
    assert rows[1]["kto/train_kl"] == pytest.approx(0.0, abs=1e-6)
    assert rows[4]["kto/train_loss"] < 0.5
    assert json.loads((out / "notes.json").read_text()) == []
    assert metrics["kto/answers_left_out"] == 0


@pytest.mark.parametrize("stop_at", [2, 4])
def test_stopped_and_resumed_gives_the_same_bytes(
    kto: ModuleType, given: dict, whole: tuple, tmp_path: Path, stop_at: int
) -> None:
    with pytest.raises(Stopped):
        run_stage(kto.run, small(kto), given, tmp_path, CPU, StoppingTracker(stop_at))
    begun = newest(tmp_path / "checkpoints")
    assert (begun[0] if begun else 0) == (stop_at - 1) // 2 * 2
    torch.manual_seed(1234)  # another process has other random numbers
    tracker = StoppingTracker()
    assert run_stage(kto.run, small(kto), given, tmp_path, CPU, tracker) == whole[1]
    assert weights(tmp_path) == weights(whole[0])
    assert tracker.rows == {step: whole[2][step] for step in tracker.rows}
    assert min(tracker.rows) == (stop_at - 1) // 2 * 2 + 1


def test_micro_batches_and_recomputed_activations_change_rounding_only(
    kto: ModuleType, given: dict, whole: tuple, tmp_path: Path
) -> None:
    runtime = dataclasses.replace(CPU, micro_batch_size=3, gradient_checkpointing=True)
    tracker = StoppingTracker()
    run_stage(kto.run, small(kto), given, tmp_path, runtime, tracker)
    for step, row in tracker.rows.items():
        assert row == pytest.approx(whole[2][step], rel=1e-3, abs=1e-4)


def test_answers_that_do_not_fit_are_left_out_and_the_others_stay(
    kto: ModuleType, given: dict, tmp_path: Path
) -> None:
    """A ranking of which only the worst answer fits still says that this one is undesirable."""
    rows = list(read_records(Preference, given["preferences"].file("records.jsonl")))
    best = rows[0].ranks.index(1)
    long = tuple(" ".join([r] * 40) if i == best else r for i, r in enumerate(rows[0].responses))
    (tmp_path / "rankings").mkdir()
    changed = [dataclasses.replace(rows[0], responses=long), *rows[1:]]
    write_records(changed, tmp_path / "rankings" / "records.jsonl")
    write_records([], tmp_path / "rankings" / "validation.jsonl")
    inputs = {**given, "preferences": Artifact.of(tmp_path / "rankings", "data")}
    metrics = run_stage(kto.run, small(kto), inputs, tmp_path / "out", CPU)
    assert (metrics["kto/answers"], metrics["kto/answers_left_out"]) == (31, 1)
    assert "1 training and 0 held-out answers" in (tmp_path / "out" / "notes.json").read_text()
    assert "kto/accuracy" not in metrics


def test_what_can_not_be_trained_is_refused(kto: ModuleType, given: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kto\.batch_size \(=1 answers\)"):
        small(kto, batch_size=1)
    short = {**given, "policy": Artifact.of(saved_policy(tmp_path / "policy", context=8), "sft")}
    with pytest.raises(DataError, match=r"answers to train on \(=0\) must be at least 2"):
        run_stage(kto.run, small(kto), short, tmp_path / "out", CPU)
