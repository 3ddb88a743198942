"""The verb `merge`: a policy with an adapter written as a plain Hugging Face model.

The weights are float32, since an adapter's update may be smaller than what a base in bfloat16 can
hold. What Plumbrule needs beside (`policy.json`) is written too; other programs do not look at it.
"""

from __future__ import annotations

from pathlib import Path

from plumbrule.errors import ConfigError
from plumbrule.lm.adapters import is_same, merged, probe
from plumbrule.lm.loading import load_policy, save_policy
from plumbrule.store.attempts import written_whole


def merge(source: Path, target: Path) -> None:
    """Write the adapter in `source`, merged into its base, to `target`, all of it or nothing.

    Raises: ConfigError: something is in `target`, or another process writes it; an adapter that
        can't be loaded or merged.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--to (={target}) must be a new or an empty folder; name another.")
    policy = merged(load_policy(source))
    expected = probe(policy.model)
    with written_whole(target, "--to") as partial:
        save_policy(policy, partial)
        del policy
        if not is_same(probe(load_policy(partial).model), expected):
            raise ConfigError(
                f"adapter {source} must not be merged: its kind of model does not read back what "
                "it writes; use it as it is."
            )
