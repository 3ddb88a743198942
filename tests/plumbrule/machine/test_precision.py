"""precision=auto: what it becomes, that it is planned without torch, and what is said of it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT

from plumbrule.cli.composition import CONF
from plumbrule.cli.plan_page import print_plan
from plumbrule.config import PRECISIONS
from plumbrule.errors import ConfigError
from plumbrule.machine import cpus, environment, precision
from plumbrule.pipeline.compose import Composed
from plumbrule.pipeline.execute import RunContext, execute
from plumbrule.pipeline.plan import make_plan
from plumbrule.pipeline.stages import STAGES
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Store

AUTO = [
    *("base.precision=auto", "sft.precision=auto", "rm.precision=auto", "ppo.precision=auto"),
    *("dpo.precision=auto", "feedback.judge.precision=auto", "feedback.labeller=judge"),
    *("nodes.feedback.inputs.judge=sft", "model=micro", "run.goals=[compare,compare_dpo]"),
]


def with_instructions(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(cpus, "instructions", lambda: ["avx2", *names])


@pytest.mark.parametrize(
    ("instructions", "becomes"),
    [
        ((), "float32"),
        (("avx512f", "avx512_vnni"), "float32"),
        (("avx512_bf16",), "bfloat16"),
        (("amx_bf16",), "bfloat16"),
    ],
)
def test_which_cpus_are_native(
    monkeypatch: pytest.MonkeyPatch, instructions: tuple, becomes: str
) -> None:
    with_instructions(monkeypatch, *instructions)
    assert precision.native("cpu").precision == becomes


@pytest.mark.parametrize(
    ("instructions", "becomes"), [((), "float32"), (("amx_bf16",), "bfloat16")]
)
def test_auto_is_what_the_cpu_computes_natively(
    composed: Callable, monkeypatch: pytest.MonkeyPatch, instructions: tuple, becomes: str
) -> None:
    """In every stage that has a precision, and in what is hashed of it."""
    with_instructions(monkeypatch, *instructions)
    _, nodes = composed(*AUTO)
    used = {node.kind: STAGES[node.kind].precision(node.config) for node in nodes}
    found = {kind: value[1] for kind, value in used.items() if value is not None}
    assert found == dict.fromkeys(("base", "sft", "feedback", "rm", "ppo", "dpo"), becomes)
    named = [word.replace("=auto", f"={becomes}") if "precision" in word else word for word in AUTO]
    plain = composed(*named)[1]
    assert [node.config for node in nodes] == [node.config for node in plain]


def test_every_precision_of_a_stage_is_known_to_the_table() -> None:
    """A stage with a field `precision` says which it computes in; else no line would name it."""
    for kind, stage in STAGES.items():
        config = stage.config
        inner = [f.type for f in config.__dataclass_fields__.values()]
        has = "precision" in config.__dataclass_fields__ or any(
            "Judge" in t and "Endpoint" not in t for t in map(str, inner)
        )
        assert has == (stage.precision is not STAGES["data"].precision), kind


def test_nothing_that_ships_asks_for_bfloat16(composed: Callable) -> None:
    """What ships is for CPUs, few of which compute it natively."""
    for path in sorted(CONF.rglob("*.yaml")):
        assert "bfloat16" not in path.read_text(encoding="utf-8"), path
    for stage in STAGES.values():
        fields = stage.config.__dataclass_fields__
        if "precision" in fields:
            assert fields["precision"].default == "float32"
    with pytest.raises(ConfigError, match=f"be one of {', '.join(sorted(PRECISIONS))}"):
        composed("sft.precision=float16")


def smi(folder: Path, text: str, code: int = 0) -> None:
    """Write an nvidia-smi that answers `text`, and notes what it was asked."""
    path = folder / "nvidia-smi"
    asked = folder / "asked"
    path.write_text(f"#!/bin/sh\necho \"$@\" > '{asked}'\nprintf '{text}'\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("answer", "visible", "becomes"),
    [
        ("9.0\\n", None, "bfloat16"),
        ("8.0\\n", "0", "bfloat16"),
        ("10.3\\n", None, "bfloat16"),
        ("7.5\\n", None, "float32"),
        ("9.0\\n7.0\\n", None, "float32"),
        ("No devices were found\\n", None, "float32"),
        ("[N/A]\\n", None, "float32"),
    ],
)
def test_auto_on_a_gpu_asks_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, visible: str | None, becomes: str
) -> None:
    smi(tmp_path, answer)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    precision.cuda_capability.cache_clear()
    assert precision.native("cuda").precision == becomes
    asked = (tmp_path / "asked").read_text()
    assert ("-i 0" in asked) == (visible == "0")
    precision.cuda_capability.cache_clear()


@pytest.mark.parametrize(("number", "device"), [(0, "cpu"), (1, "cuda")])
def test_auto_takes_the_gpu_that_torch_can_use(
    monkeypatch: pytest.MonkeyPatch, number: int, device: str
) -> None:
    """Whether nvidia-smi is there or not: it is asked for the capability alone."""
    monkeypatch.setattr(precision, "num_accelerators", lambda: number)
    monkeypatch.setenv("PATH", "")
    assert precision.planned_device("auto") == device


def test_planning_auto_imports_no_torch() -> None:
    code = (
        "import sys; from plumbrule.machine import precision; "
        "precision.native('auto'); precision.native('cuda'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


def test_the_plan_says_it_in_one_line(
    composed: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    with_instructions(monkeypatch)
    config, nodes = composed("sft.precision=auto", "ppo.precision=bfloat16")
    print_plan(Composed(config, nodes, [], []), make_plan(nodes, Store(tmp_path)), {}, {})
    lines = [line for line in capsys.readouterr().out.splitlines() if "precision" in line]
    assert lines == [
        "  precision: float32 (sft, rm), bfloat16 (ppo); auto is float32 here: "
        "this CPU has neither avx512_bf16 nor amx_bf16"
    ]
    config, nodes = composed("run.goals=[documents]")
    print_plan(Composed(config, nodes, [], []), make_plan(nodes, Store(tmp_path)), {}, {})
    assert "precision" not in capsys.readouterr().out


def test_emulated_bfloat16_runs_after_one_line_with_the_measured_ratio(
    composed: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, nodes = composed("ppo.precision=bfloat16", "rm.precision=bfloat16")
    with_instructions(monkeypatch)
    rates = {"float32_gflops": 33.0, "bfloat16_gflops": 0.5}
    monkeypatch.setattr(environment, "hardware", lambda runtime: rates)
    monkeypatch.setattr(environment, "prepare", lambda runtime: None)
    store = Store(tmp_path)
    context = RunContext("t/1", tmp_path, store, RuntimeConfig())

    class Began(Exception):
        """The first node is about to be built."""

    def begin(*_: object) -> None:
        raise Began

    monkeypatch.setattr("plumbrule.pipeline.execute.resolve", begin)
    said: list[str] = []
    with pytest.raises(Began):
        execute(make_plan(nodes, store), context, said.append)
    assert said == [
        "rm.precision, ppo.precision (=bfloat16) will be emulated: this CPU has neither "
        "avx512_bf16 nor amx_bf16. A matrix product takes 66 times as long as in float32 here "
        "(0.5 against 33 GFLOP/s); set rm.precision=auto or float32."
    ]
    with_instructions(monkeypatch, "amx_bf16")
    said.clear()
    with pytest.raises(Began):
        execute(make_plan(nodes, store), context, said.append)
    assert said == []


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"sft": {"precision": "auto"}}, True),
        ({"nodes": {"rm": {"set": {"precision": "auto"}}}}, True),
        ({"nodes": {"f": {"set": {"judge": {"precision": "auto"}}}}}, True),
        ({"nodes": {"rm": {"each": {"judge.precision": ["float32", "auto"]}}}}, True),
        ({"sft": {"precision": "float32"}, "runtime": {"device": "auto"}}, False),
    ],
)
def test_where_auto_may_stand(settings: dict, asked: bool) -> None:
    assert precision.asks_for_auto(settings) is asked
