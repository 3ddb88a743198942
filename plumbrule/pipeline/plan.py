"""The plan of a run: what the store holds of each node, and why the rest is built.

`make_plan` fingerprints every node, inputs first, and looks each up in the store: *cached* has a
manifest, *resume* has unfinished work, *build* has nothing, and for the last two the plan says
which config key, input or source file differs from the most alike artifact of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.machine import environment
from plumbrule.pipeline.given_inputs import Given, read_given
from plumbrule.pipeline.graph import Node
from plumbrule.pipeline.planning.accepted import accepted_fingerprints, read_accepted
from plumbrule.pipeline.planning.shared_digests import Hashed, digest_of_texts, hashed_text
from plumbrule.pipeline.stages import STAGES
from plumbrule.store import attempts
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import (
    changed_settings,
    code_hashes,
    differences,
    forget,
    hashed_config,
)
from plumbrule.store.json_files import as_read_back
from plumbrule.store.manifests import Manifest


@dataclass(frozen=True)
class Planned:
    """A node as the plan sees it. state: cached, resume, build, or copy (of an artifact that lies
    elsewhere).
    """

    node: Node
    fingerprint: str
    config: Mapping[str, Any]
    """All of it that changes a number, as the manifest shows it."""
    code: Mapping[str, str]
    inputs: Mapping[str, tuple[str, str]]
    """Slot -> (kind, fingerprint)."""
    state: str
    reason: str
    """Why it is not cached, or which fingerprint its artifact was accepted for."""
    versions: Mapping[str, tuple[str, str]]
    """Library -> (version that made the artifact, version here), where they differ."""


class Lookups:
    """What plans that are made together need to look up once: source files, artifacts, settings,
    and what files say of models and data.
    """

    def __init__(self) -> None:
        self._manifests: dict[str, list[Manifest]] = {}
        self._accepted: dict[str, set[tuple[str, str]]] = {}
        self._published: dict[tuple[str, str, str], Manifest | None] = {}
        self._code: dict[tuple[str, ...], Hashed] = {}
        self.planned: dict[tuple[Any, ...], tuple[Node, Planned]] = {}
        """Node and inputs -> its plan; the node is kept, so that no other config gets its id."""
        self._settings: dict[int, tuple[Any, dict[str, Any], Hashed]] = {}
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, find: Callable[[], Any]) -> Any:
        """Return what `find` returns; it is called once for a key, unless it raises."""
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]

    def known(self, store: Store) -> list[Manifest]:
        """Return all manifests of a store."""
        root = str(store.root)
        if root not in self._manifests:
            self._manifests[root] = store.manifests()
        return self._manifests[root]

    def published(self, store: Store, kind: str, fingerprint: str) -> Manifest | None:
        """Return an artifact's manifest. Raises: ArtifactError: it is damaged."""
        key = (str(store.root), kind, fingerprint)
        if key not in self._published:
            self._published[key] = store.manifest(kind, fingerprint)
        return self._published[key]

    def accepted(self, store: Store, kind: str, fingerprint: str) -> Manifest | None:
        """Return the manifest of the artifact that was accepted for a fingerprint, if one was.

        Raises: ArtifactError: it is damaged, or what was recorded of it.
        """
        root = str(store.root)
        if root not in self._accepted:
            self._accepted[root] = accepted_fingerprints(store.root)
        if (kind, fingerprint) not in self._accepted[root]:
            return None
        return self.published(store, kind, read_accepted(store.root, kind, fingerprint))

    def code(self, modules: Sequence[str]) -> Hashed:
        """Return the hashes of the files that modules reach."""
        key = tuple(modules)
        if key not in self._code:
            self._code[key] = Hashed.of(code_hashes(list(modules)))
        return self._code[key]

    def settings(self, config: Any) -> tuple[dict[str, Any], Hashed]:
        """Return all of a config that changes a number, and those of its settings that are hashed.

        Raises: ConfigError: as `hashed_config`.
        """
        if id(config) not in self._settings:  # which is kept, so that no other gets its id
            whole = hashed_config(config)
            changed = Hashed.of(changed_settings(config))
            self._settings[id(config)] = (config, whole, changed)
        return self._settings[id(config)][1:]


def make_plan(
    nodes: list[Node], store: Store, *, strict: bool = False, lookups: Lookups | None = None
) -> list[Planned]:
    """Return the plan of `nodes` (inputs before users) against what the store holds.

    Args: lookups: of plans that are made together; None: all is looked up anew.
    Raises: ArtifactError: a damaged artifact; or, when strict, one made with other versions.
    """
    planned: dict[str, Planned] = {}
    lookups = lookups or Lookups()
    for node in nodes:
        if isinstance(node.config, Given):
            planned[node.name] = _plan_given(node, store, strict)
            continue
        inputs = {
            slot: (planned[source].node.kind, planned[source].fingerprint)
            for slot, source in node.inputs.items()
        }
        key = (str(store.root), node.name, node.kind, id(node.config), *sorted(inputs.items()))
        key = (*key, *sorted(node.inputs.items()), strict)
        if key not in lookups.planned:
            lookups.planned[key] = (node, _plan_node(node, inputs, store, strict, lookups))
        planned[node.name] = lookups.planned[key][1]
    return list(planned.values())


def _plan_node(
    node: Node,
    inputs: Mapping[str, tuple[str, str]],
    store: Store,
    strict: bool,
    lookups: Lookups,
) -> Planned:
    """Return the plan of a node, given kind and fingerprint of its inputs by slot."""
    links = {slot: fingerprint for slot, (_, fingerprint) in inputs.items()}
    code = lookups.code(entry_modules(node.kind, inputs))
    try:
        config, settings = lookups.settings(node.config)
    except ConfigError as error:
        raise ConfigError(f"{node.name}: {error}") from None
    parts = (hashed_text(node.kind), code.text, settings.text, hashed_text(links))
    fingerprint, state, reason = digest_of_texts(parts), "cached", ""
    manifest = lookups.accepted(store, node.kind, fingerprint)
    if manifest is not None:
        reason = f"accepted for {fingerprint}"
        fingerprint = manifest.fingerprint
    else:
        manifest = lookups.published(store, node.kind, fingerprint)
    changed: dict[str, tuple[str, str]] = {}
    if manifest is not None:
        changed = _changed_versions(node, manifest, strict)
    else:
        begun = attempts.begun(store.folder(node.kind, fingerprint))
        state = "build" if begun is None else "resume"
        reason = f"from step {begun}"
        if begun is None:
            known = lookups.known(store)
            reason = _why(node, config, settings.value, code.value, links, known)
    return Planned(node, fingerprint, config, code.value, inputs, state, reason, changed)


def _plan_given(node: Node, store: Store, strict: bool) -> Planned:
    """Return the plan of a node that stands for an artifact which is there."""
    given = node.config
    manifest = store.manifest(node.kind, given.fingerprint)
    state, reason = ("copy", "from another store") if manifest is None else ("cached", "")
    changed = _changed_versions(node, manifest or read_given(given), strict)
    return Planned(node, given.fingerprint, {}, {}, {}, state, reason, changed)


def _changed_versions(node: Node, manifest: Manifest, strict: bool) -> dict[str, tuple[str, str]]:
    """Return the libraries whose versions differ from those that made a node's artifact.

    Raises: ArtifactError: one does, and strict.
    """
    changed = environment.changed_versions(manifest.versions)
    if changed and strict:
        name, (then, now) = next(iter(changed.items()))
        raise ArtifactError(
            f"{node.name} ({manifest.fingerprint}) was made with {name} {then}, here is {now}, and "
            "run.versions is strict; install that version, or pass run.versions=show."
        )
    return changed


def entry_modules(kind: str, inputs: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return the modules that a node's code is reached from: its stage, its inputs' openers."""
    entries = [STAGES[kind].run, *(STAGES[source].opener for source, _ in inputs.values())]
    return [entry.split(":")[0] for entry in entries if entry is not None]


def require_unchanged_code(planned: Planned) -> None:
    """Raise ConfigError if a source file that the node reaches was edited after the plan was made.

    Its artifact would else be named after code that did not make it.
    """
    forget()
    now = code_hashes(entry_modules(planned.node.kind, planned.inputs))
    edited = differences(planned.code, now)
    if edited:
        raise ConfigError(
            f"{planned.node.name}: {', '.join(edited[:4])} must not change between the plan and "
            "the building; run the same command again."
        )


def _why(
    node: Node,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    code: Mapping[str, str],
    links: Mapping[str, str],
    known: list[Manifest],
) -> str:
    """Return what differs from the most alike artifact of this node, newest first."""
    same = [m for m in reversed(known) if m.kind == node.kind and m.node == node.name]
    if not same:
        return "new"
    whole = as_read_back(config)
    left_off = settings_left_off(config, settings)
    candidates = []
    for age, manifest in enumerate(same):
        keys = changed_keys(manifest, whole, left_off)
        files = differences(dict(manifest.code), dict(code))
        inputs = [f"input {slot}" for slot in differences(dict(manifest.inputs), dict(links))]
        candidates.append((len(keys) + len(files) + len(inputs), age, keys, files, inputs))
    _, _, keys, files, inputs = min(candidates, key=lambda c: c[:2])
    changed = keys + files + inputs
    shown = ", ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
    return f"changed: {shown}"


def settings_left_off(config: Mapping[str, Any], settings: Mapping[str, Any]) -> set[str]:
    """Return the dotted settings at their first default.

    Args: config: all of a node's that changes a number. settings: those that are hashed.
    """
    return set(differences(as_read_back(config), as_read_back(settings)))


def changed_keys(manifest: Manifest, whole: Mapping[str, Any], left_off: set[str]) -> list[str]:
    """Return the settings in which a node differs from an artifact of it.

    A setting that is newer than the artifact and left at its first default is no difference.

    Args: whole: the node's, as they read back from JSON. left_off: those at their first default.
    """
    keys = differences(dict(manifest.config), whole)
    return [key for key in keys if key not in left_off or _holds(manifest.config, key)]


def _holds(config: Mapping[str, Any], key: str) -> bool:
    """Return whether a nested mapping has a dotted key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True
