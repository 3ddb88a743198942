"""`python -m eval`: what it makes of its arguments, and a model evaluated alone."""

from __future__ import annotations

import json

import forked
import pytest
from worlds.evaluation import small_policy

from eval.__main__ import as_command
from plumbrule.lm.loading import save_policy


def test_the_policy_becomes_the_model_of_an_experiment():
    assert as_command(["policy.path=a/b", "eval.seed=3", "policy.revision=c"]) == [
        "experiment=evaluate",
        "model=a/b",
        "eval.seed=3",
        "model.revision=c",
    ]


@pytest.mark.parametrize("given", [[], ["policy.path="], ["policy.path=a", "policy.path=b"]])
def test_no_policy_and_several_are_refused(given):
    with pytest.raises(ValueError, match=r"policy.path \(=.*must name one"):
        as_command(given)


def test_a_folder_is_evaluated_alone(tmp_path):
    save_policy(small_policy(), tmp_path / "model")
    small = ["atlas.num_halueval=4", "atlas.num_bold=4", "eval.num_resamples=100"]
    command = ["-m", "eval", f"policy.path={tmp_path / 'model'}", *small]
    command += ["tracking=jsonl", f"run.store={tmp_path}", "model.context=96"]
    done = forked.run(command, None, tmp_path, timeout=600.0)
    assert done.returncode == 0, done.stderr + done.stdout
    (metrics,) = tmp_path.glob("artifacts/eval/*/metrics.json")
    found = json.loads(metrics.read_text())
    assert set(found) == {"halueval", "bold"}
    assert not list(tmp_path.glob("artifacts/eval/*/asked.jsonl"))
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} <= {"base", "data", "eval"}
