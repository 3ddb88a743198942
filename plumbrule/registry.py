"""Functions by name: ours, and those that plug-ins register.

A config chooses a name, its check reads the table's names, and no config names code. Ours stand in
the table as `module:function`, which is imported when it is asked for, so a table needs no torch.
A plug-in (`plumbrule --plugin file.py`) enters its own:

    from rlhf.ppo.options import KL_ESTIMATORS

    @KL_ESTIMATORS.register("absolute")
    def absolute(log_ratio):
        return log_ratio.abs()

`source` gives the digest of a plug-in's file. The digest is in the config, and so in the
fingerprint, only of runs that choose the name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from plumbrule.config import require, require_choice
from plumbrule.errors import ConfigError
from plumbrule.store.fingerprint import plugin_digest

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option(Generic[F]):
    """One entry of a table."""

    where: str | F
    """`module:function` of ours, or a plug-in's function."""
    traits: frozenset[str] = frozenset()
    file: Path | None = None
    """Of the plug-in; None: ours."""
    source: str = ""
    """Digest of the plug-in's file as it was then; "" for ours, which stages' code holds."""
    settings: type | None = None
    """Dataclass of a plug-in's own settings; None: it has none."""

    def load(self) -> F:
        """Return the function."""
        if not isinstance(self.where, str):
            return self.where
        module, _, name = self.where.partition(":")
        return cast(F, getattr(importlib.import_module(module), name))


class Registry(Collection[str], Generic[F]):
    """Names and their functions, for the setting that chooses among them.

    Args: setting: dotted, for error messages. ours: name -> (`module:function`, *traits). traits:
    what may be said of an entry beside its name.
    """

    def __init__(
        self, setting: str, ours: Mapping[str, tuple[str, ...]], traits: Collection[str] = ()
    ):
        self.setting, self.traits = setting, tuple(traits)
        self._options: dict[str, Option[F]] = {}
        for name, (where, *own_traits) in ours.items():
            self._options[name] = Option(where, frozenset(own_traits))

    def __contains__(self, name: object) -> bool:
        """Return whether there is such an entry."""
        return name in self._options

    def __iter__(self) -> Iterator[str]:
        """Yield the names, ours first."""
        return iter(self._options)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._options)

    def __getitem__(self, name: str) -> F:
        """Return the function of a name. Raises: ConfigError: there is none."""
        return self.option(name).load()

    def option(self, name: str) -> Option[F]:
        """Return the entry of a name. Raises: ConfigError: there is none."""
        otherwise = "choose one, or load the file that registers it: --plugin <file>"
        require_choice(self.setting, name, self, otherwise)
        return self._options[name]

    def source(self, name: str) -> str:
        """Return the digest of the plug-in's file that holds a name; "" for one of ours."""
        return self.option(name).source

    def register(self, name: str, *traits: str, settings: type | None = None) -> Callable[[F], F]:
        """Return a decorator that enters a plug-in's function.

        Args: settings: dataclass of its own settings, where the table's setting takes such.
        Raises: ConfigError: the name is taken or can't stand in a config, or an unknown trait.
        """
        require(
            name.isidentifier(),
            f"an entry of {self.setting}",
            repr(name),
            "have a name of letters, digits and _",
            "choose another",
        )
        for trait in traits:
            require_choice(f"trait of {name} for {self.setting}", trait, self.traits)
        file = Path(sys._getframe(1).f_globals["__file__"])

        def enter(function: F) -> F:
            known = self._options.get(name)
            if known is not None and known.file != file:
                holder = "Plumbrule" if known.file is None else known.file.name
                raise ConfigError(
                    f"{self.setting} (={name}) must be registered once; {holder} and {file.name} "
                    "both do. Rename one."
                )
            digest = plugin_digest(str(file))
            self._options[name] = Option(function, frozenset(traits), file, digest, settings)
            return function

        return enter
