"""PPO artifacts with rollouts, written without running anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from places import ROOT
from tokenizers import Tokenizer

from plumbrule.data.records import Message, Prompt, write_records
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.json_files import write_jsonl
from plumbrule.store.manifests import Manifest

TOKENIZER = ROOT / "plumbrule" / "atlas" / "base" / "model" / "tokenizer.json"
FIRST_VERSION = ("step_mask", "penalties", "raw_scores")
"""Columns that the first files of rollouts did not have."""


def columns_of(
    texts: Sequence[str],
    prompts: Sequence[str],
    seed: int,
    passages: Sequence[Sequence[str]] | None = None,
    foreign: int = 0,
) -> dict[str, Any]:
    """Return the columns of one update's file.

    Args: foreign: tokens at the beginning of each response that the policy did not sample.
    """
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    rng = np.random.default_rng(seed)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]

    def numbers() -> pa.Array:
        return pa.array([rng.normal(size=len(row)).tolist() for row in ids], pa.list_(pa.float32()))

    mask = [[n >= foreign for n in range(len(row))] for row in ids]
    scores = rng.normal(size=len(ids)) + seed
    logprobs = numbers()
    return {
        "prompt_id": list(prompts),
        "passages": pa.array(passages or [[] for _ in ids], pa.list_(pa.string())),
        "text": list(texts),
        "finished": [n % 3 != 0 for n in range(len(ids))],
        "query": pa.array([[1, 5, 6] for _ in ids], pa.list_(pa.int64())),
        "response": pa.array(ids, pa.list_(pa.int64())),
        "action_mask": mask,
        "step_mask": mask,
        "rollout_logprobs": logprobs,
        "logprobs": logprobs,
        **{
            name: numbers()
            for name in (
                "ref_logprobs", "values", "entropy", "kl", "penalties", "rewards", "advantages",
                "returns",
            )
        },
        "raw_scores": scores,
        "scores": scores,
        "term:rm": scores,
        "term:gold": rng.normal(size=len(ids)) - seed,
    }  # fmt: skip


def publish(
    store: Store,
    files: Mapping[int, Mapping[str, Any]],
    fingerprint: str = "00000000000000aa",
    tokenizer: bool = True,
    prompts: Mapping[str, Mapping[str, Any]] | None = None,
) -> Artifact:
    """Publish a PPO artifact with these rollouts, and its prompts (id -> meta) where given."""
    folder = store.folder("ppo", fingerprint)
    (folder / "rollouts").mkdir(parents=True)
    for update, columns in files.items():
        pq.write_table(pa.table(dict(columns)), folder / f"rollouts/update-{update:05d}.parquet")
    if tokenizer:
        (folder / "model").mkdir()
        (folder / "model" / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    write_jsonl(folder / "metrics.jsonl", [{"update": u, "objective/kl": 0.1 * u} for u in files])
    inputs = {}
    if prompts is not None:
        inputs["prompts"] = "00000000000000bb"
        data = store.folder("data", inputs["prompts"])
        data.mkdir(parents=True)
        rows = [
            Prompt(name, (Message("user", f"What of {name}?"),), meta)
            for name, meta in prompts.items()
        ]
        write_records(rows, data / "records.jsonl")
        store.publish(Manifest("prompts", "data", inputs["prompts"], {}, {}))
    store.publish(Manifest("ppo", "ppo", fingerprint, {}, inputs))
    return Artifact.at(folder)


def write_run(store: Store, artifacts: Mapping[str, Artifact]) -> Path:
    """Write the record of a run of these PPO nodes and return its folder."""
    from made_runs import write_run as write_record

    nodes = {
        name: {"kind": "ppo", "state": "built", "artifact": f"artifacts/ppo/{a.fingerprint}"}
        for name, a in artifacts.items()
    }
    return write_record(store, 1, [], {}, nodes=nodes)
