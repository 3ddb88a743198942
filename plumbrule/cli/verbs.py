"""Verbs: what is asked of a store rather than composed by Hydra.

`plumbrule ls` lists runs and artifacts, `plumbrule show <run or artifact>` prints one,
`plumbrule replay <run or artifact> [setting=value ...]` computes a PPO's kept rollouts again under
another reward or other settings, `plumbrule label <run or artifact>` asks people to rank the
answers that a feedback node awaits, and `plumbrule merge <artifact, run or folder> --to <folder>`
writes a policy with an adapter as a plain Hugging Face model. `plumbrule convert <GGUF or folder>
<out>` writes a GGUF, or a model in another dtype, as one. `plumbrule doc <setting>` says what a
setting is. `plumbrule power --effect=<difference> --deviation=<of a seed>` (or `--share`) says how
many seeds or prompts would show it.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli import help_page
from plumbrule.cli.composition import composed_config
from plumbrule.cli.explain import explain
from plumbrule.cli.listing import list_artifacts, list_runs
from plumbrule.cli.messages import say
from plumbrule.cli.show import show_what
from plumbrule.cli.store_names import find_artifact, find_run, runs
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.machine import environment
from plumbrule.machine.precision import resolved
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.stages import POLICY_KINDS, STAGES
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.adapter_files import is_adapter_folder
from plumbrule.store.artifacts import Artifact, Store
from plumbrule.store.claims import BUILD
from plumbrule.store.file_names import LABELLING, MODEL
from plumbrule.store.json_files import read_json
from plumbrule.store.layout import VARIABLE, kind_folder, kind_of, store_root
from plumbrule.store.manifests import Manifest, is_inside
from plumbrule.store.packaged_models import (
    PACKAGED,
    by_word,
    converted_folder,
    packaged_file,
)

VERBS = {
    "ls": "list runs, newest last, or artifacts with --artifacts",
    "show": "print a run or an artifact",
    "replay": "compute a PPO's kept rollouts again, offline",
    "label": "rank answers on a local web page",
    "merge": "write a policy with an adapter as a plain model",
    "convert": "write a GGUF, or a model in another dtype, as a plain model",
    "doc": "say what a setting is, or a group of them",
    "power": "say how many seeds or prompts would show an effect",
}
"""Verb -> what it does."""


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit code."""
    parser = argparse.ArgumentParser(prog="plumbrule", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    ls, show, again, label, merge, convert, doc, power = (
        verbs.add_parser(name, help=VERBS[name]) for name in VERBS
    )
    ls.add_argument("text", nargs="*", help="only lines that hold each of these")
    ls.add_argument("--artifacts", action="store_true")
    ls.add_argument("--kind", help="only artifacts of this kind, such as ppo")
    show.add_argument("what", help="a run's folder or id, or the beginning of a fingerprint")
    show.add_argument("--full", action="store_true", help="the whole report, or all code hashes")
    show.add_argument("--verify", action="store_true", help="check every file's sha256")
    again.add_argument("what", help="a run with a node ppo, or a ppo artifact's fingerprint")
    again.epilog = "setting=value ... may stand anywhere behind it, as ppo.cliprange=0.1"
    again.add_argument("--reward", help="score again: rm, gold, constant, or rm+0.5*gold")
    again.add_argument("--update", type=int, action="append", help="one update; default: all")
    label.add_argument("what", help="a run that waits for labels, or a feedback's fingerprint")
    label.add_argument("--annotator", help="one plain word; default: the page asks")
    label.add_argument("--host", default="127.0.0.1", help="others than this machine need a token")
    label.add_argument("--port", type=int, default=0, help="0: any that is free")
    merge.add_argument("what", help="an artifact's fingerprint, a run, or a model's folder")
    merge.add_argument("--to", required=True, help="a folder that is new or empty")
    merge.add_argument("--node", help="of a run; default: its only one that has an adapter")
    convert.add_argument("source", help=f"a GGUF, a model's folder, or {_packaged_words()}")
    convert.add_argument("out", nargs="?", help="a folder that is new or empty")
    convert.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    for sub in (ls, show, again):
        sub.add_argument("--json", action="store_true", help="print JSON")
    for sub in (ls, show, again, label, merge):
        sub.add_argument("--store", default=None, help=f"default: ${VARIABLE}, else here")
    doc.add_argument("setting", nargs="?", default="", help="as ppo.kl or ppo.kl.coef")
    doc.add_argument("overrides", nargs="*", help="as experiment=own; default: the quickstart")
    _power_arguments(power)
    words, settings = apart(arguments) if arguments[0] == "replay" else (list(arguments), [])
    options, rest = parser.parse_known_args(words)
    options.settings = settings
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}; see plumbrule --help")
    if options.verb == "doc":
        print(help_page.describe(options.setting, RunConfig, _composed(options.overrides)))
        return 0
    if options.verb == "power":
        print(
            json.dumps(importlib.import_module("plumbrule.cli.power").describe(**_given(options)))
        )
        return 0
    if options.verb == "convert":
        print(_convert(options))
        return 0
    store = Store(store_root(options.store))
    if options.verb == "replay":
        _replay(store, options)
    elif options.verb == "label":
        _label(store, options)
    elif options.verb == "merge":
        importlib.import_module("plumbrule.cli.merge").merge(
            adapter_in(store, options.what, options.node), Path(options.to)
        )
        print(options.to)
    elif options.verb == "show":
        show_what(store, options.what, options.json, options.verify, options.full)
    elif options.artifacts or options.kind:
        list_artifacts(store, options.json, options.kind, options.text)
    else:
        list_runs(store, options.json, options.text)
    return 0


def _power_arguments(power: argparse.ArgumentParser) -> None:
    power.add_argument("--effect", type=float, required=True, help="true difference to be seen")
    power.add_argument("--deviation", type=float, help="of one seed's paired difference: seeds")
    power.add_argument("--share", type=float, help="of the baseline, as 0.5: prompts")
    power.add_argument("--power", type=float, default=0.8, help="chance that it is seen")
    power.add_argument("--confidence", type=float, default=0.95, help="of the interval")
    power.add_argument("--correlation", type=float, default=0.0, help="of a prompt's two outcomes")
    power.add_argument("--per-group", type=float, default=1.0, help="prompts of one source")
    power.add_argument("--within", type=float, default=0.0, help="their correlation")


def _given(options: argparse.Namespace) -> dict[str, Any]:
    return {
        name: value for name, value in vars(options).items() if name not in ("verb", "settings")
    }


def _packaged_words() -> str:
    return " or ".join(model.word for model in PACKAGED.values())


def _convert(options: argparse.Namespace) -> Path:
    """Write a plain model and return its folder; a packaged one goes where configs find it.

    Raises: ConfigError: a source that can't be converted, or no folder to write it to.
    """
    name = by_word(options.source)
    given = Path(options.source)
    source = packaged_file(PACKAGED[name]) if name and not given.exists() else given
    if options.out is None and name is None:
        raise ConfigError("out (=None) must name a new folder; add it behind the source.")
    out = Path(options.out) if options.out else converted_folder(str(name))
    importlib.import_module("plumbrule.lm.conversion.convert").convert(
        source, out, options.dtype, say
    )
    return out


def _composed(overrides: Sequence[str]) -> help_page.Composed:
    """Return what a command composes to. Raises: ConfigError."""
    try:
        cfg = composed_config(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides)) from None
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return help_page.Composed(" ".join(overrides) or "experiment=quickstart", config)


def apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of a replay without its `setting=value` words, and these."""
    words: list[str] = []
    settings: list[str] = []
    for before, word in itertools.pairwise(["", *arguments]):
        value = before in ("--store", "--reward", "--update")
        (settings if "=" in word and word[0] != "-" and not value else words).append(word)
    return words, settings


def _replay(store: Store, options: argparse.Namespace) -> None:
    """Print, for each update, what the run logged beside what its rollouts give now.

    Raises: ArtifactError: `what` is no PPO, or an input of it is gone. ConfigError: a setting.
    """
    run = find_run(store, options.what)
    what = options.what
    if run is not None:
        node = run[1].get("nodes", {}).get("ppo")  # a run that has not ended names no nodes
        if node is None:
            raise ArtifactError(
                f"run {what!r} must have a finished node ppo to be replayed; name another, or the "
                "ppo artifact itself (plumbrule ls --artifacts)."
            )
        what = node["artifact"].removeprefix("artifacts/")
    manifest = find_artifact(store, what)
    if manifest.kind != "ppo":
        raise ArtifactError(f"{what!r} (={manifest.kind}) must be a ppo artifact; name one.")
    inputs = inputs_of(store, manifest)
    runtime = RuntimeConfig(**{"device": "cpu", **_known_runtime(manifest.runtime)})
    changed = changed_config(manifest, options.settings, options.reward)
    config = resolved(changed, runtime.device)
    environment.prepare(runtime)
    folder = store.folder("ppo", manifest.fingerprint)
    replay = importlib.import_module("rlhf.ppo.replay").replay
    rows = replay(config, inputs, runtime, folder, options.update, options.reward is not None)
    if options.json:
        print(json.dumps([{"update": u, "logged": dict(b), "replayed": a} for u, b, a in rows]))
        return
    for update, before, after in rows:
        print(f"update {update}" + " " * 26 + "      logged     replayed")
        for name in sorted(after):
            was = f"{before[name]:12.6g}" if name in before else " " * 12
            print(f"  {name:<32}{was} {after[name]:12.6g}")


def _label(store: Store, options: argparse.Namespace) -> None:
    """Serve the page until it is stopped.

    Raises: ArtifactError: `what` awaits no labels. ConfigError: an option, or no web server here.
    """
    folder = labels_of(store, options.what)
    serve = importlib.import_module("rlhf.feedback.people.server").serve
    serve(folder, options.annotator, options.host, options.port, command_awaiting(store, folder))


def labels_of(store: Store, what: str) -> Path:
    """Return the folder of questions that a run, or a feedback artifact, finished or not, asks.

    Raises: ArtifactError: `what` is neither, or asks no one, or asks several folders.
    """
    run = find_run(store, what)
    if run is None:
        name = what.removeprefix("artifacts/").removeprefix("feedback/")
        folders = _feedback(store, name) if name else []
    else:
        nodes = run[1].get("nodes", {}).values()
        folders = [store.root / n["artifact"] for n in nodes if n["kind"] == "feedback"]
    asking = [artifact for artifact in map(Artifact.at, folders) if artifact.has(LABELLING)]
    found = {store.root / _labels(artifact.file(LABELLING)) for artifact in asking}
    if run is not None and "awaits" in run[1]:
        found.add(store.root / run[1]["awaits"])
    if len(found) != 1:
        raise ArtifactError(
            f"{what!r} must ask people for labels in one folder of {store.root}, not {len(found)}; "
            "give a run that ended with feedback.labeller=person, or its feedback's fingerprint."
        )
    return found.pop()


def adapter_in(store: Store, what: str, node: str | None) -> Path:
    """Return the folder of the adapter that a folder, an artifact or a run's node is.

    Raises: ArtifactError: `what` names none, or several; one that is no policy, is whole, or has
        changed since it was published.
    """
    given, published = Path(what), False
    run = find_run(store, what)
    if run is not None:
        nodes = run[1].get("nodes", {})
        folders = {
            name: store.root / about["artifact"] / MODEL
            for name, about in nodes.items()
            if about["kind"] in POLICY_KINDS and node in (None, name)
        }
        folders = {n: f for n, f in folders.items() if node or is_adapter_folder(f)}
        if len(folders) != 1:
            raise ArtifactError(
                f"run {what!r} must have one policy with an adapter, not {len(folders)}; give "
                f"--node, one of {', '.join(folders or nodes)}."
            )
        [folder] = folders.values()
        published = True
    elif given.is_dir():
        folder = given if is_adapter_folder(given) else given / MODEL
    else:
        manifest = find_artifact(store, what)
        if manifest.kind not in POLICY_KINDS:
            raise ArtifactError(
                f"{what!r} (={manifest.kind}) must be a policy ({', '.join(POLICY_KINDS)}); "
                "name one."
            )
        folder = store.folder(manifest.kind, manifest.fingerprint) / MODEL
        published = True
    if not is_adapter_folder(folder):
        raise ArtifactError(
            f"{what!r} must hold an adapter to be merged; {folder} "
            + ("is a whole model already." if folder.is_dir() else "is not there.")
        )
    return Artifact.at(folder.parent).file(MODEL) if published else folder


def _feedback(store: Store, name: str) -> list[Path]:
    """Return the folders of feedback, finished or not, whose fingerprint begins with `name`."""
    kind = kind_folder(store.root, "feedback")
    unfinished = kind.glob(f"{name}*{BUILD}/*/")
    finished = [path for path in kind.glob(f"{name}*/") if not path.name.endswith(BUILD)]
    return [*finished, *(path for path in unfinished if not path.name.startswith("."))]


def _labels(path: Path) -> str:
    """Return where, from the store, the questions of a feedback lie.

    Raises: ArtifactError: its pointer is damaged.
    """
    try:
        folder = read_json(path)["labels"]
        if is_inside(folder):
            return folder
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ArtifactError(
        f"{path} must say where the questions of its artifact lie, as labels/<name>; run the same "
        "command again."
    )


def command_awaiting(store: Store, folder: Path) -> str | None:
    """Return the command of the newest run that waits for labels in `folder`, None if none does."""
    awaits = str(folder.relative_to(store.root))
    for _, record in reversed(runs(store)):
        if record.get("awaits") == awaits:
            usual = Store(store_root(None)).root
            where = [] if usual == store.root else [f"run.store={store.root}"]
            return shlex.join(["plumbrule", *record["overrides"], *where])
    return None


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
