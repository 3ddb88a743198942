"""`plumbrule rerun`: compose a recorded run again, say what differs, and run it."""

from __future__ import annotations

import argparse

from plumbrule.cli.main import carry
from plumbrule.cli.messages import say
from plumbrule.cli.reruns.changes import changes_of, lines, missing_data
from plumbrule.cli.reruns.recompose import as_value, recompose, require_own
from plumbrule.cli.runs import plan_run
from plumbrule.cli.verbs import add_store, store_of
from plumbrule.errors import ConfigError, DataError, listed
from plumbrule.results.store_names import one_run


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("what", help="a run's id, the beginning of one, or its folder")
    parser.add_argument(
        "words", nargs="*", help="that change no number, as run.store=<another> or tracking=none"
    )
    parser.add_argument("--dry", action="store_true", help="say what differs, print the plan, stop")
    parser.add_argument(
        "--without-missing", action="store_true", help="run without settings that no longer exist"
    )
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Print what differs from the recorded run, then run it.

    Raises: ArtifactError: no run, several, or a record that is damaged or of a version that kept
    too little. ConfigError: its settings can't be had again, or its data are gone. Whatever a run
    raises.
    """
    require_own(options.words)
    store = store_of(options)
    folder, record = one_run(store, options.what)
    own = list(options.words)
    if not any(word.startswith("run.store=") for word in own):
        own.append(f"run.store={as_value(str(store.root))}")
    if options.dry:
        own.append("run.dry=true")
    try:
        again = recompose(record, own)
        planned = plan_run(again.cfg, again.words)
    except (ConfigError, DataError) as error:
        if told := missing_data(store, record):
            raise ConfigError(f"{error} {told}") from None
        raise
    name = f"{folder.parent.name}/{folder.name}"
    print(f"rerun of {name}, which is {record['state']}")
    print("\n".join(lines(changes_of(store, record, again, planned.plan))), flush=True)
    if again.lost and not options.without_missing and not planned.config.run.dry:
        told = listed([one.setting for one in again.lost], 6)
        raise ConfigError(
            f"rerun of {name} must have the settings that it had, and {told} can't be had; check "
            "out the commit above, or run without them: --without-missing."
        )
    carry(planned)
    if planned.error is not None:
        raise planned.error
    if not planned.config.run.dry:
        say(f"compare: plumbrule diff {folder.name} {planned.run_id}")
