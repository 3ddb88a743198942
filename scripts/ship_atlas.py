"""Make a base model from the store the shipped one.

    plumbrule experiment=atlas_base
    python scripts/ship_atlas.py artifacts/base/<fingerprint> artifacts/eval/<fingerprint>

Copies weights, tokenizer and policy.json to `plumbrule/atlas/base/model/`, and writes beside it
`manifest.json` (what it was made of, on what hardware, in how many seconds, and its held-out
evaluation) and `curve.jsonl` (what was logged while it trained). Weights are the artifact's, byte
for byte.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from plumbrule.atlas.config import ATLAS_WORLD
from plumbrule.store.layout import artifacts_of
from plumbrule.store.manifests import Manifest, read_manifest
from plumbrule.store.metric_rows import read_metrics
from plumbrule.store.packaged_files import SHIPPED

LARGEST_BYTES = 10_000_000
"""A repository is no place for more."""


def main() -> None:
    """Copy the model and write what is known of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", type=Path, help="folder of a base artifact")
    parser.add_argument("eval", type=Path, help="folder of the eval artifact that examined it")
    given = parser.parse_args()

    weights = given.base / "model" / "model.safetensors"
    size = weights.stat().st_size
    if size > LARGEST_BYTES:
        raise SystemExit(f"{weights} ({size} bytes) must be at most {LARGEST_BYTES}; train less.")
    base, exam = manifest_of(given.base), manifest_of(given.eval)
    if base.fingerprint not in exam.inputs.values():
        raise SystemExit(f"{given.eval} must be an evaluation of {given.base}; name that one.")
    corpus = manifest_of(artifacts_of(given.base) / "data" / base.inputs["corpus"])
    manifest = {
        "world": {name: corpus.config["atlas"][name] for name in (*ATLAS_WORLD, "sentiment_gap")},
        "corpus": corpus.config,
        "fingerprint": base.fingerprint,
        "config": base.config,
        "seed": base.seed,
        "metrics": {**base.metrics, **exam.metrics},
        "exam": json.loads((given.eval / "metrics.json").read_text(encoding="utf-8")),
        "versions": base.versions,
        "hardware": base.hardware,
        "wall_seconds": base.wall_seconds,
    }
    target = SHIPPED["plumbrule/atlas-base"]
    new = target.with_name("base.new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(given.base / "model", new / "model")
    (new / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    rows = [row for row in read_metrics(given.base) if "base/loss" in row]
    (new / "curve.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    print(f"shipped {base.fingerprint}: {size:,} bytes of weights in {target}")


def manifest_of(folder: Path) -> Manifest:
    """Return the manifest of a published artifact."""
    return read_manifest(folder)


if __name__ == "__main__":
    main()
