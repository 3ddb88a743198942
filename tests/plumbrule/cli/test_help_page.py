"""What `plumbrule --help` says is what the config holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest

from plumbrule.cli import help_page
from plumbrule.cli.composition import CONF
from plumbrule.cli.verbs import VERBS
from plumbrule.pipeline.experiment import RunConfig


@pytest.fixture(scope="module")
def page() -> str:
    """The help page."""
    return help_page.page(VERBS, CONF, RunConfig)


def value_of(config: Any, name: str) -> Any:
    """Return the value of a dotted setting."""
    return reduce(getattr, name.split("."), config)


def written(value: Any) -> str:
    """Return a value as the page must write it."""
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return "null" if value is None else str(value)


def test_help_names_every_verb_and_ten_settings(page: str) -> None:
    assert all(re.search(rf"^  {verb} ", page, re.MULTILINE) for verb in VERBS)
    assert len(help_page.MOST_USED) == 10


def test_help_gives_the_defaults_of_the_config_and_what_the_default_command_composes(
    page: str, composed: Callable[..., tuple[RunConfig, list[Any]]]
) -> None:
    config, _ = composed()
    for name in help_page.MOST_USED:
        shown = re.search(rf"^  {re.escape(name)}=(\S+)(?: \((\S+)\))?  +\S", page, re.MULTILINE)
        assert shown is not None, name
        assert shown[1] == written(value_of(RunConfig(), name))
        assert (shown[2] or shown[1]) == written(value_of(config, name))
