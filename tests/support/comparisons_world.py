"""Two evaluations of the same prompts, as a comparison reads them."""

from __future__ import annotations

import json

from plumbrule.data.records import Message, Prompt, write_records
from plumbrule.store.artifacts import Artifact


def row(number, response, condition="closed", **more):
    known = {"id": f"p{number}", "group": f"g{number}", "condition": condition}
    return {**known, "response": response, "finished": 1, **more}


def prompt(number):
    return Prompt(f"p{number}", (Message("user", f"Where was {number} born?"),))


def evaluation(folder, rows, kind):
    (folder / "items").mkdir(parents=True)
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (folder / "items" / "prompts.jsonl").write_text(text)
    (folder / "evaluated.json").write_text(json.dumps({"kind": kind, "settings": {}}))
    return Artifact.of(folder, "eval")


def inputs(tmp_path, before, after, num_prompts=4, **more):
    (tmp_path / "prompts").mkdir(parents=True)
    write_records([prompt(i) for i in range(num_prompts)], tmp_path / "prompts/validation.jsonl")
    return {
        "baseline": evaluation(tmp_path / "a", before, "sft"),
        "policy": evaluation(tmp_path / "b", after, "ppo"),
        "prompts": Artifact.of(tmp_path / "prompts", "data"),
        **more,
    }
