"""Numbers made again of published item rows: each stage's are those that it wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import made_studies
import pytest
from comparisons_world import inputs, row
from scorer_server import served
from worlds.evaluation import small_config, small_inputs

from eval import recompute
from eval.comparisons.config import JudgeEndpointConfig, WinRateConfig
from eval.comparisons.judged_answers import run as run_win_rate
from eval.ibem.config import IbemEvalConfig
from eval.ibem.stage import run as run_ibem
from eval.knowledge.config import KnowledgeConfig
from eval.reward_models.config import RewardEvalConfig, RewardSetConfig
from eval.reward_models.stage import run as run_rewards
from eval.stage import run as evaluate
from eval.support.config import SupportEvalConfig
from eval.support.stage import run as run_support
from eval.votes.config import VoteConfig
from eval.votes.stage import run as run_vote
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.attempts import is_working
from plumbrule.store.fingerprint import hashed_config
from plumbrule.store.json_files import as_read_back
from plumbrule.store.manifests import Manifest
from plumbrule.tracking.stage_tracker import NullTracker

RUNTIME = RuntimeConfig(device="cpu", micro_batch_size=3)
Inputs = Mapping[str, Artifact]


def published(
    store: Store,
    kind: str,
    run: Callable[..., Mapping[str, float]],
    config: Any,
    inputs: Inputs,
    fingerprint: str = "a" * 16,
) -> Artifact:
    """Run a stage and publish what it wrote."""
    folder = store.folder(kind, fingerprint)
    folder.mkdir(parents=True)
    flat = run(config, inputs, RUNTIME, folder, NullTracker())
    for path in list(folder.iterdir()):
        if is_working(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    taken = {slot: one.fingerprint or "0" * 16 for slot, one in inputs.items()}
    about = as_read_back(hashed_config(config))
    store.publish(Manifest(kind, kind, fingerprint, about, taken, metrics=dict(flat)))
    return Artifact.at(folder)


def require_alike(
    artifact: Artifact,
    again: Mapping[str, float],
    out: Path,
    names: Sequence[str] = ("intervals.json", "metrics.json"),
) -> dict[str, Any]:
    """Hold all that was made again against what was published; return the last file of `names`."""
    numbers = {name: n for name, n in artifact.metrics.items() if not name.startswith("time/")}
    assert dict(again) == numbers
    told: Any = {}
    for name in names:
        told = json.loads(artifact.file(name).read_text())
        require_part(json.loads((out / name).read_text()), told)
    return told


def require_part(part: Any, whole: Any) -> None:
    """Raise AssertionError unless all of a nested mapping stands in another."""
    if not isinstance(part, dict) or not part:
        assert part == whole
        return
    for name, value in part.items():
        require_part(value, whole[name])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "again"
    folder.mkdir()
    return folder


def test_an_evaluation(tmp_path: Path, out: Path) -> None:
    names = ("prompts", "questions", "halueval", "bold", "index", "rm")
    inputs = small_inputs(tmp_path / "world", *names)
    artifact = published(Store(tmp_path / "store"), "eval", evaluate, small_config(seed=3), inputs)
    again = recompute.evaluation(artifact, {}, out)
    told = require_alike(artifact, again, out)
    assert set(told) == {"prompts", "questions", "halueval", "bold"}
    assert {**json.loads((out / "metrics.json").read_text())}.keys() == told.keys()


def test_a_vote(tmp_path: Path, out: Path) -> None:
    def evaluation(number: int, nats: list[float]) -> Artifact:
        folder = tmp_path / str(number)
        (folder / "items").mkdir(parents=True)
        rows = [
            {
                "id": f"m{n}",
                "group": f"g{n}",
                "condition": "closed",
                "correct": 1.0,
                "answer": n % 2,
                "nats": nats,
                "bytes": [1, 2],
            }
            for n in range(4)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "items" / "multiple_choice.jsonl").write_text(text)
        about = {"multiple_choice": {"closed": {"accuracy": {"value": 1.0, "signature": "s"}}}}
        (folder / "metrics.json").write_text(json.dumps(about))
        return Artifact.of(folder, "eval")

    inputs = {
        f"policy@seed={n}": evaluation(n, nats)
        for n, nats in enumerate([[-1.0, -2.0], [-3.0, -1.0], [-1.0, -1.5]])
    }
    artifact = published(Store(tmp_path / "store"), "vote", run_vote, VoteConfig(), inputs)
    require_alike(artifact, recompute.vote(artifact, inputs, out), out)
    assert recompute.vote(artifact, {}, out) == {}  # of an archive without the evaluations


@pytest.mark.parametrize("fails", [True, False])
def test_answers_judged_by_an_endpoint(tmp_path: Path, out: Path, fails: bool) -> None:
    def reply(text: str) -> Any:
        usage = {"prompt_tokens": 7, "completion_tokens": 2}
        return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}

    def answer(body: Any, number: int) -> tuple[int, Any]:
        a, b = body["messages"][0]["content"].split("Answer A:\n")[1].split("\n\nAnswer B:\n")
        if " 1" in a + b and fails:
            return 200, reply("Both are fine.")
        return 200, reply("A" if "Bosk" in a or " 2" in a + b else "B")

    before = [row(n, f"no {n}") for n in range(5)]
    after = [row(n, f"in Bosk {n}") for n in range(5)]
    after[3] = before[3]  # nobody is asked about equal answers
    given = inputs(tmp_path / "world", before, after, num_prompts=5)
    with served(answer) as (url, _):
        base = f"{url.rpartition('/')[0]}/v1"
        config = WinRateConfig(endpoint=JudgeEndpointConfig(base, "m", patience_seconds=0.0))
        artifact = published(Store(tmp_path / "store"), "win_rate", run_win_rate, config, given)
    again = recompute.win_rate(artifact, given, out)
    require_alike(artifact, again, out, ("intervals.json", "win_rates.json"))
    assert again["ppo/judge_failure_rate"] == (0.25 if fails else 0.0)
    assert again["ppo/judge_contradicts"] == pytest.approx(1 / 3 if fails else 1 / 4)
    assert recompute.win_rate(artifact, {}, out) == {}  # the evaluation says the policy's kind


def test_a_comparison_of_arms_without_the_evaluations(tmp_path: Path, out: Path) -> None:
    made_studies.write_run(tmp_path / "store")
    (folder,) = (tmp_path / "store" / "artifacts" / "knowledge").iterdir()
    artifact = Artifact.at(folder)
    again = recompute.knowledge(artifact, {}, out)
    require_alike(artifact, again, out, ("intervals.json", "metrics.json", "tables.json"))
    assert recompute.recorded(artifact, KnowledgeConfig).prices.source == "made up"


def test_a_test_of_a_reward_model(tmp_path: Path, out: Path) -> None:
    rows = [
        {
            "id": str(i),
            "prompt": f"Where was {i}?",
            "chosen": ["born in Bosk town"],
            "rejected": ["Arlen", "no", "Bosk" if i % 3 else "in the town of Bosk it was"],
            "subset": "Math",
        }
        for i in range(8)
    ]
    file = tmp_path / "rb2.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RewardEvalConfig(sets=[RewardSetConfig("rewardbench2", str(file))], seed=5)
    inputs = {"rm": Artifact.of(tmp_path, "rm", "worlds.evaluation:open_reward")}
    artifact = published(Store(tmp_path / "store"), "eval_rm", run_rewards, config, inputs)
    told = require_alike(artifact, recompute.reward_evaluation(artifact, {}, out), out)
    assert any(name.startswith("rewrite_") for name in told["rewardbench2"])


def test_a_test_of_the_support_measure(tmp_path: Path, out: Path) -> None:
    source = {"source_id": "1", "task_type": "Summary", "source_info": "Ada was born in Arlen."}
    texts = ("Ada was born in Arlen.", "She won a prize for Bosk.", "Ada lives in Corvane.")
    rows = [
        {
            "id": str(n),
            "source_id": "1",
            "response": text,
            "split": "test",
            "quality": "good",
            "model": "m",
            "labels": [],
        }
        for n, text in enumerate(texts)
    ]
    rows[1]["labels"] = [{"start": 0, "end": 25, "text": texts[1], "label_type": "Evident"}]
    folder = tmp_path / "ragtruth"
    folder.mkdir()
    for name, some in (("source_info", [source]), ("response", rows)):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(text)
    config = SupportEvalConfig(ragtruth=str(folder))
    artifact = published(Store(tmp_path / "store"), "eval_support", run_support, config, {})
    require_alike(artifact, recompute.support_evaluation(artifact, {}, out), out)


@pytest.mark.parametrize("match", ["box", "number"])
def test_a_test_on_expressions(tmp_path: Path, out: Path, match: str) -> None:
    def entry(latex: str, left: float) -> dict[str, Any]:
        box = {"x_min": left, "y_min": 5.0, "x_max": left + 10, "y_max": 10.0}
        return {**box, "split": 0, "latex": latex, "latex_expand": latex, "latex_norm": latex}

    pages = {
        f"99{d:02d}-page{p:02d}": {
            "preamble": "",
            "embedded": {"0": entry("x", 10.0), "1": entry(f"v _ {{ {d} }} w _ {{ {p} }}", 30.0)},
            "displayed": {"0": entry(rf"\sum _ {{ {p} }} v _ {{ {d} }}", 50.0)},
        }
        for d in range(5)
        for p in range(2)
    }
    for name in ("IBEM.json", "found.json"):
        (tmp_path / name).write_text(json.dumps(pages))
        pages["9900-page00"]["embedded"]["1"]["latex_norm"] = "v"
    files = [str(tmp_path / name) for name in ("IBEM.json", "found.json")]
    config = IbemEvalConfig(*files, match=match)
    artifact = published(Store(tmp_path / "store"), "eval_ibem", run_ibem, config, {})
    require_alike(artifact, recompute.ibem_evaluation(artifact, {}, out), out)


def test_a_setting_that_a_manifest_does_not_hold_is_its_first_default(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.folder("eval", "b" * 16).mkdir(parents=True)
    store.publish(Manifest("eval", "eval", "b" * 16, {"confidence": 0.9}, {}))
    found = recompute.intervals_of(Artifact.at(store.folder("eval", "b" * 16)), "EvalConfig")
    assert (found.confidence, found.num_resamples, found.seed) == (0.9, 2000, 0)
