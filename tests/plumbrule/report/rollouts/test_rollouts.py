"""What a rollout page is made of: files read, the gap, which rollouts are taken, packed tokens."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_rollouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from plumbrule.cli import verbs
from plumbrule.cli.verbs.rollouts import wanted_updates
from plumbrule.errors import ArtifactError, ConfigError, DataError, PlumbruleError
from plumbrule.report.rollouts.choice import choose
from plumbrule.report.rollouts.files import Ragged, count_rollouts, find_rollouts, read_responses
from plumbrule.report.rollouts.gap import find_gold, read_prompts, standardise
from plumbrule.report.rollouts.of_a_run import write_pages
from plumbrule.report.rollouts.packing import Vocabulary, pack_tokens, token_columns
from plumbrule.report.rollouts.page import render_rollouts
from plumbrule.store.artifacts import Artifact, Store
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.trajectory import Trajectory, padded


def small(**columns: Any) -> dict[str, Any]:
    """Return the columns of a file of two responses, some of them changed; None: without it."""
    whole = made_rollouts.columns_of([" One.", " Two."], ["a", "b"], 1)
    return {k: v for k, v in {**whole, **columns}.items() if v is not None}


def unpacked(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


def test_what_ppo_writes_is_read_with_a_step_behind_each_response(tmp_path: Path) -> None:
    """`ppo.score_at=after`: lists are one longer than responses; sums are over action tokens."""
    mask, steps = padded([[1, 1, 0], [1, 0]], torch.bool), padded([[1, 1, 1], [1, 1]], torch.bool)
    numbers = padded([[0.5, -1.0, 0.0], [0.25, 0.0]], torch.float32)
    trajectory = Trajectory(
        ["a", "b"], [("p", "q"), ()], [[1, 2], [3]], [[4, 5], [6]], ["x", "y"], mask, steps,
        torch.tensor([True, False]), numbers,
    )  # fmt: skip
    scores = torch.tensor([1.0, 2.0], dtype=torch.float64)
    tokens = dict.fromkeys(parquet.TOKEN_COLUMNS, numbers)
    rollout = parquet.Rollout(
        trajectory, terms={"rm": scores}, raw_scores=scores, scores=scores, **tokens
    )
    for update in (1, 2):
        parquet.write(rollout, parquet.path_of(tmp_path / "rollouts", update), "vllm 1", update - 1)
    files = find_rollouts(Artifact.of(tmp_path, "ppo"))
    found = read_responses(files.paths)
    assert found.updates.tolist() == [1, 1, 2, 2]
    assert found.places.tolist() == [0, 1, 0, 1]
    assert found.passages[:2] == [("p", "q"), ()]
    assert found.numbers["kl"].tolist() == [-0.5, 0.25] * 2
    assert found.numbers["length"].tolist() == [2, 1] * 2
    assert found.numbers["term:rm"].tolist() == [1.0, 2.0] * 2
    assert found.about == {1: {"sampler": "vllm 1"}, 2: {"sampler": "vllm 1", "staleness": "1"}}
    assert found.absent == {}
    assert render_rollouts(Artifact.of(tmp_path, "ppo"), "t").total == 4


def test_packed_tokens_are_those_of_the_responses() -> None:
    ids = Ragged(np.array([7, 9, 7]), np.array([2, 1]))
    numbers = np.array([0.1, -2.0, 0.0, 1e-4, np.nan], dtype=np.float32)
    lengths = np.array([3, 2])  # a step behind each response
    columns = {
        "response": ids,
        "action_mask": Ragged(np.array([True, False, False, True, False]), lengths),
        "step_mask": Ragged(np.array([True, False, True, True, True]), lengths),
        "kl": Ragged(numbers, lengths),
        "logprobs": Ragged(np.log(np.array([0.5, 1, 1, 0.25, 1])), lengths),
        "rollout_logprobs": Ragged(np.log(np.array([0.25, 1, 1, 0.5, 1])), lengths),
    }
    names = token_columns(columns)
    assert names == ["kl", "ratio", "logprobs", "rollout_logprobs"]
    vocabulary = Vocabulary(Path("/nowhere"))
    packed, positions = pack_tokens(columns, names, vocabulary)
    raw = unpacked(packed)
    assert positions == [3, 2]
    assert np.frombuffer(raw[:20], "<i4").tolist() == [0, 1, -1, 0, -1]
    assert vocabulary.texts() == ["#7", "#9"]
    kl = np.frombuffer(raw[20:40], "<f4")
    assert kl[:4] == pytest.approx(numbers[:4], rel=2e-4)
    assert np.isnan(kl[4])
    ratio = np.frombuffer(raw[40:60], "<f4")  # 0.5 / 0.25 and 0.25 / 0.5
    assert ratio == pytest.approx([2, 1, 1, 0.5, 1], rel=2e-4)
    assert list(raw[-5:]) == [3, 0, 2, 3, 2]  # 1: sampled, 2: a step


def test_tokens_are_decoded_one_by_one_and_bytes_that_are_no_text_have_their_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(made_rollouts.TOKENIZER.read_bytes())
    vocabulary = Vocabulary(tmp_path)
    ids = vocabulary.tokenizer.encode(" Rome é", add_special_tokens=False).ids
    vocabulary.place(np.array([*ids, 10**6]))
    shown = dict(zip(vocabulary.places, vocabulary.texts(), strict=True))
    plain = "".join(shown[i] for i in ids if not shown[i].startswith("\u27e8"))
    assert plain.startswith(" Rome")
    assert all("\ufffd" not in text for text in shown.values())
    assert shown[10**6] == "#1000000"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "shown as ids" in Vocabulary(tmp_path).note


def test_the_gap_by_hand(tmp_path: Path) -> None:
    """At the first update rewards 1, 3 (mean 2, sd 1) and gold 10, 30 (mean 20, sd 10)."""
    first = small(raw_scores=[1.0, 3.0], **{"term:gold": [10.0, 30.0]})
    later = small(raw_scores=[5.0, 2.0], **{"term:gold": [0.0, 25.0]})
    artifact = made_rollouts.publish(Store(tmp_path), {1: first, 2: later})
    found = read_responses(find_rollouts(artifact).paths)
    gold = find_gold(found, {}, {})
    gap = standardise(found, gold.values)
    assert gap is not None
    assert gap.proxy.tolist() == [-1, 1, 3, 0]
    assert gap.gold.tolist() == [-1, 1, -2, 0.5]
    assert gap.gap.tolist() == [0, 0, 5, -0.5]
    assert standardise(found, np.ones(4)) is None
    assert standardise(found, None) is None


def test_gold_is_judged_where_prompts_say_what_is_right_and_unknown_elsewhere(
    tmp_path: Path,
) -> None:
    columns = small(text=[" It is Rome.", " I do not know."], **{"term:gold": None})
    meta = {"answer": "Rome", "aliases": [], "answerable": "memory", "value_kind": "place"}
    known = made_rollouts.publish(
        Store(tmp_path / "a"), {1: columns}, prompts={"a": meta, "b": meta}
    )
    found = read_responses(find_rollouts(known).paths)
    gold = find_gold(found, read_prompts(known), {})
    assert gold.values is not None
    assert gold.values[0] > gold.values[1]
    assert "judged when this page was made" in gold.note
    for prompts in ({"a": {}, "b": {}}, {"a": meta}, None):
        folder = tmp_path / f"b{prompts and len(prompts)}{'answer' in str(prompts)}"
        other = made_rollouts.publish(Store(folder), {1: columns}, prompts=prompts)
        unknown = find_gold(found, read_prompts(other), {})
        assert unknown.values is None
        assert "is not known" in unknown.note


def test_a_prompt_is_taken_with_all_its_rollouts_or_not_at_all() -> None:
    prompts = ["a", "b", "c", "a", "b", "c", "a"]
    assert choose(prompts, 7).note == ""
    found = choose(prompts, 5)
    taken = [prompts[row] for row in found.rows]
    assert len(taken) <= 5
    assert all(taken.count(prompt) == prompts.count(prompt) for prompt in set(taken))
    assert found.rows.tolist() == sorted(found.rows)
    assert f"{len(taken)} of 7 rollouts" in found.note
    gaps = np.array([0.0, 1.0, 9.0, 0.0, np.nan, 0.0, 3.0])
    assert [prompts[row] for row in choose(prompts, 2, "gap", gaps).rows] == ["c", "c"]
    assert "by the largest gap" in choose(prompts, 2, "gap", gaps).note
    lone = choose(["a"] * 9, 4)
    assert lone.rows.tolist() == [0, 1, 2, 3]
    assert "the first of the responses to one prompt" in lone.note
    with pytest.raises(ConfigError, match=r"--pick \(=gap\) must be random"):
        choose(prompts, 5, "gap", None)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no Parquet": (lambda p: p.write_bytes(b"PAR1 no"), "must be a Parquet file of a rollout"),
    "no rows": (lambda p: pq.write_table(pa.table(small()).slice(0, 0), p), "not 0 rows"),
    "no texts": (lambda p: pq.write_table(pa.table(small(text=None)), p), "text .=missing."),
    "numbers as text": (
        lambda p: pq.write_table(pa.table(small(text=[1, 2])), p),
        "text .=int64. must hold text",
    ),
    "text as scores": (
        lambda p: pq.write_table(pa.table(small(scores=["a", "b"])), p),
        "scores .=string. must hold numbers",
    ),
    "no lists": (
        lambda p: pq.write_table(pa.table(small(response=[1, 2])), p),
        "response .=int64. must hold lists",
    ),
    "lists of text": (
        lambda p: pq.write_table(pa.table(small(kl=[["a"], ["b"]])), p),
        "kl .* must hold lists of numbers",
    ),
    "passages as numbers": (
        lambda p: pq.write_table(pa.table(small(passages=[[1], [2]])), p),
        "passages .* must hold list<item: string>",
    ),
    "ends as text": (
        lambda p: pq.write_table(pa.table(small(finished=["a", "b"])), p),
        "finished .=string. must hold bool",
    ),
    "ids below 0": (
        lambda p: pq.write_table(pa.table(small(query=[[-1], [2]])), p),
        "query must hold token ids from 0 on",
    ),
    "ids that are no whole numbers": (
        lambda p: pq.write_table(pa.table(small(query=[[1.5], [2.0]])), p),
        "query must hold token ids from 0 on",
    ),
    "a column twice": (
        lambda p: pq.write_table(
            pa.table([*map(pa.array, small().values()), pa.array([1.0, 2.0])], [*small(), "kl"]), p
        ),
        "must be a Parquet file of a rollout",  # and the reason, in the words of pyarrow's version
    ),
    "shorter lists": (
        lambda p: pq.write_table(pa.table(small(values=[[0.5], [0.5]])), p),
        "must fit the responses",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_no_run_wrote_is_refused_with_its_name(tmp_path: Path, case: str) -> None:
    write, message = BAD[case]
    path = tmp_path / "rollouts" / "update-00001.parquet"
    path.parent.mkdir()
    write(path)
    with pytest.raises(DataError, match=message) as error:
        render_rollouts(Artifact.of(tmp_path, "ppo"), "t")
    assert str(path) in str(error.value)


def test_rollouts_that_were_removed_or_changed_are_said(tmp_path: Path) -> None:
    artifact = made_rollouts.publish(Store(tmp_path), {1: small(), 2: small()})
    assert count_rollouts(artifact) == 4
    (artifact.path / "rollouts/update-00001.parquet").unlink()
    found = find_rollouts(artifact)
    assert (list(found.paths), found.removed) == ([2], [1])
    with pytest.raises(ArtifactError, match=r"update \(=7\) must be one of 1 to 2"):
        find_rollouts(artifact, [7])
    (artifact.path / "rollouts/update-00002.parquet").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is damaged"):
        find_rollouts(artifact)
    (artifact.path / "rollouts/update-00002.parquet").unlink()
    with pytest.raises(
        ArtifactError, match=r"rollouts of ppo artifact .* were removed \(2 files\)"
    ):
        find_rollouts(artifact)
    assert count_rollouts(artifact) == 0


def test_the_verb_writes_a_page_for_each_ppo_beside_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    one = made_rollouts.publish(store, {1: small(), 2: small()}, "00000000000000a1")
    two = made_rollouts.publish(store, {1: small()}, "00000000000000a2")
    run = made_rollouts.write_run(store, {"ppo": one, "ppo@seed=1": two})
    verbs.main(["rollouts", run.name, "--store", str(tmp_path)])
    printed = capsys.readouterr().out.split()
    assert printed == [str(run / "rollouts-ppo.html"), str(run / "rollouts-ppo-seed-1.html")]
    given = ["--update", "2", "--limit", "1", "--to", str(tmp_path / "out")]
    verbs.main(["rollouts", "ppo/00000000000000a1", "--store", str(tmp_path), *given])
    told = capsys.readouterr()
    assert told.out.split() == [str(tmp_path / "out" / "rollouts.html")]
    assert "This page holds 1 of 2 rollouts" in told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "nothing is called 'gone'"),
        (["RUN", "--node", "rm"], r"--node \(=rm\) must be a node of kind ppo \(=ppo\)"),
        (["RUN", "--update", "3-1"], r"--update \(=3-1\) must be an update or a range"),
        (["RUN", "--update", "0-999999999"], "must be an update or a range"),
        (["RUN", "--update", "9"], r"update \(=9\) must be one of 1 to 1"),
        (["RUN", "--limit", "0"], r"--limit \(=0 rollouts\) must be at least 1"),
        (["EMPTY"], "must have a finished node of kind ppo"),
        (["REMOVED"], "is not in .* any more; run the same command"),
    ],
)
def test_what_the_verb_cannot_do_is_said(tmp_path: Path, words: list[str], message: str) -> None:
    from made_runs import write_run

    store = Store(tmp_path)
    artifact = made_rollouts.publish(store, {1: small()})
    run = made_rollouts.write_run(store, {"ppo": artifact})
    empty = write_run(store, 2, [], {})
    gone = {"ppo": {"kind": "ppo", "state": "built", "artifact": "artifacts/ppo/00000000000000cc"}}
    removed = write_run(store, 3, [], {}, nodes=gone)
    names = {"RUN": run.name, "EMPTY": empty.name, "REMOVED": removed.name}
    with pytest.raises(PlumbruleError, match=message):
        verbs.main(["rollouts", *(names.get(w, w) for w in words), "--store", str(tmp_path)])


def test_updates_are_named_singly_and_in_ranges() -> None:
    assert wanted_updates([]) is None
    assert wanted_updates(["7", "2-4", "3"]) == [2, 3, 4, 7]


def test_a_run_writes_the_pages_of_what_it_built_up_to_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    one = made_rollouts.publish(store, {1: small()}, "00000000000000a1")
    two = made_rollouts.publish(store, {1: small()}, "00000000000000a2")
    folders = {"ppo": one.path, "ppo_2": two.path, "other": tmp_path}
    record = {
        "name": "try",
        "id": "1",
        "nodes": {
            "ppo": {"kind": "ppo", "state": "built"},
            "ppo_2": {"kind": "ppo", "state": "cached"},
            "other": {"kind": "data", "state": "built"},
        },
    }
    assert write_pages(record, folders, tmp_path) == {"ppo": "rollouts-ppo.html", "ppo_2": None}
    assert "try/1 · ppo" in (tmp_path / "rollouts-ppo.html").read_text("utf-8")
    monkeypatch.setattr("plumbrule.report.rollouts.of_a_run.OF_A_RUN", 1)
    assert write_pages(record, {"ppo": one.path}, tmp_path) == {"ppo": None}
    monkeypatch.undo()
    (one.path / "rollouts" / "update-00001.parquet").write_bytes(b"damaged")
    assert write_pages(record, {"ppo": one.path}, tmp_path) == {"ppo": None}


def test_the_rows_of_a_page_are_json_that_a_browser_reads(tmp_path: Path) -> None:
    """NaN is no JSON: an unknown number is null."""
    columns = small(scores=[float("nan"), 2.0], raw_scores=[float("inf"), 2.0])
    artifact = made_rollouts.publish(Store(tmp_path), {1: columns})
    html = render_rollouts(artifact, "t").html
    packed = html.split('id="facts">')[1].split("<")[0]
    rows = json.loads(unpacked(packed))
    assert rows["numbers"]["score"] == [None, 2.0]
    assert rows["finished"] == [False, True]
