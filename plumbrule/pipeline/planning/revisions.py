"""Branches and tags of the hub become commits before a config is typed, so that commits are hashed.

`model.revision=main` and `hf://datasets/<owner>/<name>@main` are what people know; what they name
moves. While composing the hub says which commit it is (offline: the cache), and the run continues
as if that had been given: it is what fingerprints hash, `run.json` records and the plan shows.
Where nobody can say, a run is refused; a dry one is planned with `UNKNOWN` in the commit's place.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from plumbrule.errors import ConfigError
from plumbrule.store.hub import commit_of, hub_data, is_commit
from plumbrule.store.packaged_files import located
from plumbrule.store.source_files import is_hub_data

UNKNOWN = "0" * 40
"""Stands in a dry run's plan for a commit that can't be resolved here."""


def settle_revisions(cfg: DictConfig) -> list[str]:
    """Put commits in the place of branches and tags; return what was resolved, as sentences.

    Raises: ConfigError: one that can't be resolved, unless the run is dry.
    """
    found = []
    dry = bool(cfg.run.dry)
    name, revision = cfg.model.name_or_path, cfg.model.revision
    is_name = isinstance(name, str) and name.count("/") == 1 and not Path(located(name)).is_dir()
    if is_name and isinstance(revision, str) and revision and not is_commit(revision):
        word = "model.revision=<40 digits>."
        commit, why = _resolved("model.revision", name, revision, "model", word, dry)
        cfg.model.revision = commit
        kept = f"model.revision={commit}"
        found.append(why or _sentence("model.revision", revision, name, kept))
    for setting in ["dataset.path", *(f"data.{role}.path" for role in cfg.data)]:
        path = OmegaConf.select(cfg, setting)
        if not is_hub_data(path) or is_commit(hub_data(path).revision):
            continue
        data = hub_data(path)
        word = f"{setting}={data._replace(revision='<40 digits>')}, or {setting}=<your copy>."
        commit, why = _resolved(setting, data.name, data.revision, "dataset", word, dry)
        settled = data._replace(revision=commit)
        OmegaConf.update(cfg, setting, str(settled))
        found.append(why or _sentence(setting, data.revision, data.name, f"{setting}={settled}"))
    return found


def _resolved(
    setting: str, name: str, revision: str, kind: str, word: str, dry: bool
) -> tuple[str, str]:
    """Return the commit of a revision, and "" or, where a dry run does without it, why.

    Args: word: what an error tells the user to write. Raises: ConfigError: it can't be known.
    """
    try:
        return commit_of(name, revision, kind), ""
    except ConfigError as error:
        if dry:
            return UNKNOWN, (
                f"{setting}: {error} The run itself can't begin without; fingerprints below that "
                f"depend on it are not those that it will have. Write {word}"
            )
        raise ConfigError(f"{setting}: {error} Write {word}") from None


def _sentence(setting: str, revision: str, name: str, kept: str) -> str:
    return f"{setting}: {revision} of {name} is resolved to its commit; to keep it, add {kept}"
