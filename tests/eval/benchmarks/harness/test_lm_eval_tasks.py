"""Tasks of lm-evaluation-harness: really run where it is installed; and its numbers by hand."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest
import torch
from worlds.evaluation import read_lines, small_config, small_inputs
from worlds.rankings import tiny_policy

from eval.benchmarks.harness import lm_eval_tasks
from eval.benchmarks.harness.lm_eval_tasks import check_installed, data_digest, summarise
from eval.config import LmEvalConfig
from eval.intervals import Intervals
from eval.stage import run
from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker

INTERVALS = Intervals(confidence=0.95, num_resamples=100, seed=0)
NEEDS_LM_EVAL = pytest.mark.skipif(
    find_spec("lm_eval") is None,
    reason="needs the extra lm-eval: pip install 'plumbrule[lm-eval]'",
)
CHOICES = """\
task: towns
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Where was {{{{name}}}} born?"
doc_to_choice: ["Arlen", "Bosk"]
doc_to_target: right
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
GENERATED = """\
task: said
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Where was {{{{name}}}} born?"
doc_to_target: "Arlen"
generation_kwargs: {{until: ["."], max_gen_toks: 4}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
  - {{metric: bleu, aggregation: bleu, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of two tasks on a file of twelve documents."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"name": f"Person {i}", "right": i % 2} for i in range(12)]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, text in (("towns", CHOICES), ("said", GENERATED)):
        (folder / f"{name}.yaml").write_text(text.format(file=file), encoding="utf-8")
    return folder


def evaluated(folder, include, **settings):
    inputs = small_inputs(folder, "questions")
    out = folder / "out"
    out.mkdir(exist_ok=True)
    given = LmEvalConfig(include_path=str(include), **settings)
    runtime = RuntimeConfig(device="cpu", micro_batch_size=4)
    flat = run(small_config(lm_eval=given), inputs, runtime, out, NullTracker())
    return flat, out


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tasks):
    return evaluated(tmp_path_factory.mktemp("whole"), tasks, tasks=["towns", "said"])


@NEEDS_LM_EVAL
def test_a_task_is_run_and_recorded_as_any_benchmark(whole):
    flat, out = whole
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics) == {"questions", "lm_eval"}
    number = metrics["lm_eval"]["closed"]["towns_acc"]
    rows = [r for r in read_lines(out / "items/lm_eval.jsonl") if r["task"] == "towns"]
    documents = [r for r in rows if "total" not in r]
    assert len(documents) == number["n"] == 12
    assert number["value"] == pytest.approx(sum(r["acc"] for r in documents) / 12)
    assert (number["unit"], number["method"]) == ("documents", "wilson")
    assert number["low"] < number["value"] < number["high"]
    assert f"|lm-eval:{lm_eval_tasks.installed()}|" in number["signature"]
    assert len(number["data"]) == 16
    assert flat["eval/lm_eval_towns_acc_sft"] == number["value"]


@NEEDS_LM_EVAL
def test_a_metric_that_is_no_mean_says_whose_interval_it_has(whole):
    _, out = whole
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["lm_eval"]["closed"]
    assert metrics["said_bleu"]["method"].startswith("lm-eval")
    assert metrics["said_bleu"]["n"] == 12
    assert metrics["said_exact_match"]["method"] == "wilson"
    notes = json.loads((out / "notes.json").read_text(encoding="utf-8"))
    assert any(
        n.startswith("lm_eval: towns version 2.0, said version 1.0, by lm-ev") for n in notes
    )
    facts = json.loads((out / "benchmarks.json").read_text(encoding="utf-8"))["lm_eval"]
    paired = {one["name"]: one["better"] for one in facts["quantities"]}
    assert paired == {"lm_eval_towns_acc_change": 1, "lm_eval_said_exact_match_change": 1}
    shown = [r for r in read_lines(out / "samples.jsonl") if r["benchmark"] == "lm_eval"]
    assert {r["id"].partition("/")[0] for r in shown} == {"towns", "said"}
    assert shown[0]["prompt"].endswith("Where was Person 0 born?")


@NEEDS_LM_EVAL
def test_other_documents_are_other_data_and_a_chat_is_another_prompt(whole, tasks, tmp_path):
    before = json.loads((whole[1] / "metrics.json").read_text(encoding="utf-8"))
    _, out = evaluated(tmp_path, tasks, tasks=["towns"], limit=4, chat=True, num_fewshot=0)
    after = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    old, new = (m["lm_eval"]["closed"]["towns_acc"] for m in (before, after))
    assert new["n"] == 4
    assert old["data"] != new["data"]
    assert new["signature"].endswith("|shots:0|limit:4|chat:True")
    shown = [r for r in read_lines(out / "samples.jsonl") if r["benchmark"] == "lm_eval"]
    assert shown[0]["prompt"] == "<|bos|><|user|> Where was Person 0 born?<|assistant|>"


@NEEDS_LM_EVAL
def test_a_killed_evaluation_reads_what_it_asked_and_gives_the_same_numbers(
    whole, tasks, tmp_path, monkeypatch
):
    from lm_eval.models.huggingface import HFLM

    asked = []
    generate, score = HFLM.generate_until, HFLM.loglikelihood

    def count(self, requests, **more):
        asked.append(len(requests))
        return score(self, requests, **more)

    def killed(self, requests, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(HFLM, "loglikelihood", count)
    monkeypatch.setattr(HFLM, "generate_until", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, tasks, tasks=["towns", "said"])
    monkeypatch.setattr(HFLM, "generate_until", generate)
    flat, out = evaluated(tmp_path, tasks, tasks=["towns", "said"])
    assert asked == [24]  # twelve documents of two choices, once
    assert flat == whole[0]
    for name in ("items/lm_eval.jsonl", "metrics.json"):
        assert (out / name).read_bytes() == (whole[1] / name).read_bytes()
    assert not (out / "asked.jsonl").exists()


@NEEDS_LM_EVAL
def test_repeats_of_a_sampled_answer_stay_repeats_and_do_not_hang_on_what_was_read(tmp_path):
    from lm_eval.api.instance import Instance

    from eval.benchmarks.harness.kept_requests import KeptRequests
    from eval.benchmarks.journal import Journal

    policy = tiny_policy()
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 5.0}

    def answers(path, number, seed):
        torch.manual_seed(seed)
        model = KeptRequests(
            Journal(path, "p"), "1", pretrained=policy.model, tokenizer=policy.tokenizer
        )
        one = Instance("generate_until", {}, ("red", settings), 0)
        return model.generate_until([one] * number, disable_tqdm=True)

    path = tmp_path / "asked.jsonl"
    first = answers(path, 4, 0)
    assert len(set(first)) > 1
    assert answers(path, 4, 1) == first
    assert answers(tmp_path / "other.jsonl", 4, 2) == first


@NEEDS_LM_EVAL
def test_an_unknown_task_is_refused(tmp_path, tasks):
    with pytest.raises(
        ConfigError, match=r"eval.lm_eval.tasks \(=villages\) must be tasks or groups"
    ):
        evaluated(tmp_path, tasks, tasks=["towns", "villages"])


def total(metric, value, stderr=None, **more):
    known = {"id": f"t/{metric}", "group": f"t/{metric}", "condition": "closed", "task": "t"}
    own = {"metric": metric, "total": value, "stderr": stderr, "documents": 10, "better": 1}
    return {**known, **own, "version": "1", **more}


def document(number, **values):
    known = {"id": f"t/{number}", "group": f"t/{number}", "condition": "closed", "task": "t"}
    return {**known, "document": f"hash {number}", **values}


def test_intervals_are_over_documents_where_a_metric_is_their_mean():
    rows = [document(i, acc=float(i < 5), loss=i * 1.0) for i in range(10)]
    rows += [total("acc", 0.5), total("loss", 4.5)]
    found = summarise(rows, INTERVALS)
    assert (found["t_acc"].value, found["t_acc"].method, found["t_acc"].n) == (0.5, "wilson", 10)
    assert (found["t_loss"].value, found["t_loss"].method) == (4.5, "student")


def test_any_other_metric_has_the_bounds_of_its_standard_error_or_none():
    rows = [document(i, acc=float(i < 5)) for i in range(10)]
    rows += [total("acc", 0.6, 0.1), total("bleu", 20.0)]  # 0.6 is not the mean of these
    found = summarise(rows, INTERVALS)
    assert found["t_acc"].method == "lm-eval's standard error"
    assert (found["t_acc"].low, found["t_acc"].high) == pytest.approx((0.404, 0.796), abs=1e-3)
    assert not found["t_bleu"].is_bounded
    assert found["t_bleu"].reason == "lm-evaluation-harness gives no standard error"


def test_data_are_the_documents_and_the_versions_of_their_tasks():
    rows = [document(0), document(1), total("acc", 0.5)]
    assert data_digest(rows) == data_digest(rows[::-1])
    assert data_digest(rows) != data_digest(rows[1:])
    assert data_digest(rows) != data_digest([*rows[:2], total("acc", 0.5, version="2")])


def test_tasks_without_the_library_are_refused(monkeypatch):
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: None)
    config = small_config(lm_eval=LmEvalConfig(tasks=["arc_easy"]))
    with pytest.raises(ConfigError, match=r"\(=arc_easy\) must have .*plumbrule\[lm-eval\]"):
        check_installed(config)
    check_installed(small_config())
    assert "lm_eval" not in sys.modules or find_spec("lm_eval") is not None


def test_a_folder_of_tasks_that_names_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: object())
    (tmp_path / "own.yaml").write_text("task: own\ndoc_to_text: !function u.f\n", encoding="utf-8")
    config = small_config(lm_eval=LmEvalConfig(["own"], str(tmp_path)))
    with pytest.raises(ConfigError, match=r"include_path .* must name no code, and own.yaml holds"):
        check_installed(config)
    missing = small_config(lm_eval=LmEvalConfig(["own"], str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="must be a folder of task files"):
        check_installed(missing)


@NEEDS_LM_EVAL
@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            'doc_to_text: "{{ cycler.__init__.__globals__.os.getcwd() }}"',
            "'__init__' of 'type' obj",
        ),
        ("metric_list: [{metric: ./own.py, aggregation: mean}]", "has the metric ./own.py, which"),
    ],
)
def test_code_that_shows_when_a_task_is_run_is_refused(line, says, tmp_path, tasks):
    (tmp_path / "tasks").mkdir()
    text = CHOICES.format(file=tasks / "rows.jsonl").split("\n")
    kept = [old for old in text if not old.startswith((line.partition(":")[0], "  -"))]
    (tmp_path / "tasks" / "own.yaml").write_text("\n".join([*kept, line]), encoding="utf-8")
    with pytest.raises(ConfigError, match="must name no code") as caught:
        evaluated(tmp_path, tmp_path / "tasks", tasks=["towns"])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tasks": ["a", "a"]}, "eval.lm_eval.tasks .* must name each task once"),
        ({"tasks": ["a"], "limit": 0}, r"eval.lm_eval.limit \(=0 documents\)"),
        ({"tasks": ["a"], "num_fewshot": -1}, r"eval.lm_eval.num_fewshot \(=-1 examples\)"),
        ({"include_path": "b"}, r"eval.lm_eval.include_path \(=b\) must be null without"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        LmEvalConfig(**settings)
