"""`plumbrule replay`: a PPO's kept rollouts under another reward or other settings, offline."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.machine import environment
from plumbrule.machine.precision import resolved
from plumbrule.pipeline.stages import STAGES
from plumbrule.results.store_names import find_artifact, find_run
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.layout import kind_of
from plumbrule.store.manifests import Manifest


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="what",
        help="a run with a node ppo, or a ppo artifact's fingerprint; setting=value ... may stand "
        "before and behind it, as ppo.cliprange=0.1",
    )
    parser.add_argument("--reward", help="score again: rm, gold, constant, or rm+0.5*gold")
    parser.add_argument("--update", type=int, action="append", help="one update; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Print, for each update, what the run logged beside what its rollouts give now.

    Raises: ConfigError: not one word names the run or artifact. As `replayed`.
    """
    named, settings = apart(options.words)
    if len(named) != 1:
        raise ConfigError(
            f"replay must be given one run or artifact, not {len(named)} ({', '.join(named)}); "
            "settings are written setting=value."
        )
    rows = replayed(store_of(options), named[0], settings, options.reward, options.update)
    if options.json:
        print(json.dumps([{"update": u, "logged": dict(b), "replayed": a} for u, b, a in rows]))
        return
    for update, before, after in rows:
        print(f"update {update}" + " " * 26 + "      logged     replayed")
        for name in sorted(after):
            was = f"{before[name]:12.6g}" if name in before else " " * 12
            print(f"  {name:<32}{was} {after[name]:12.6g}")


def apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of a replay that name something, and its `setting=value` words."""
    return [w for w in words if "=" not in w], [w for w in words if "=" in w]


def replayed(
    store: Store,
    what: str,
    settings: Sequence[str] = (),
    reward: str | None = None,
    updates: Sequence[int] | None = None,
) -> Any:
    """Return (update, what was logged, what its rollouts give now) of each update of a PPO.

    Raises: ArtifactError: `what` is no PPO, or an input of it is gone. ConfigError: a setting.
    """
    found = find_run(store, what)
    name = what
    if found is not None:
        node = found[1].get("nodes", {}).get("ppo")  # a run that has not ended names no nodes
        if node is None:
            raise ArtifactError(
                f"run {what!r} must have a finished node ppo to be replayed; name another, or the "
                "ppo artifact itself (plumbrule ls --artifacts)."
            )
        name = node["artifact"].removeprefix("artifacts/")
    manifest = find_artifact(store, name)
    if manifest.kind != "ppo":
        raise ArtifactError(f"{name!r} (={manifest.kind}) must be a ppo artifact; name one.")
    inputs = inputs_of(store, manifest)
    runtime = RuntimeConfig(**{"device": "cpu", **_known_runtime(manifest.runtime)})
    config = resolved(changed_config(manifest, settings, reward), runtime.device)
    environment.prepare(runtime)
    folder = store.folder("ppo", manifest.fingerprint)
    replay = importlib.import_module("rlhf.ppo.replay").replay
    return replay(config, inputs, runtime, folder, updates, reward is not None)


def inputs_of(store: Store, manifest: Manifest) -> dict[str, Artifact]:
    """Return the artifacts that a published one was made from, by slot.

    Raises: ArtifactError: one is not in the store any more.
    """
    inputs = {}
    for slot, fingerprint in manifest.inputs.items():
        found = store.find(fingerprint)
        if found is None:
            raise ArtifactError(
                f"{manifest.kind}/{manifest.fingerprint} needs its input {slot} ({fingerprint}), "
                f"which is not in {store.root}; run the experiment again."
            )
        opener = STAGES[kind_of(found)].opener
        inputs[slot] = replace(Artifact.at(found, opener), node=slot)
    return inputs


def changed_config(manifest: Manifest, settings: Sequence[str], reward: str | None) -> Any:
    """Return the config of a PPO artifact with `ppo.field=value` settings and another reward.

    Raises: ConfigError: a setting is none of stage ppo, or out of its range.
    """
    merged = OmegaConf.merge(OmegaConf.structured(STAGES["ppo"].config), dict(manifest.config))
    for setting in settings:
        name, equals, _ = setting.partition("=")
        if not equals or not name.startswith("ppo."):
            raise ConfigError(
                f"setting (={setting}) must be ppo.<field>=<value>; others changed the rollouts."
            )
    changes = [OmegaConf.from_dotlist([s.removeprefix("ppo.") for s in settings])]
    if reward is not None:
        changes.append(OmegaConf.create({"reward": {"terms": reward_terms(reward)}}))
    try:
        return OmegaConf.to_object(OmegaConf.merge(merged, *changes))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def reward_terms(text: str) -> list[dict[str, Any]]:
    """Return the terms of a reward written as `rm+0.5*gold`.

    Raises: ConfigError: a weight is no number.
    """
    terms = []
    for part in text.split("+"):
        weight, star, name = part.strip().rpartition("*")
        try:
            terms.append({"name": name, "weight": float(weight) if star else 1.0})
        except ValueError:
            raise ConfigError(
                f"--reward (={text}) must be terms with weights, as rm+0.5*gold."
            ) from None
    return terms


def _known_runtime(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a manifest's runtime that decide how rows are cut."""
    return {k: v for k, v in runtime.items() if k in ("device", "micro_batch_size", "threads")}
