"""Starting a Weights & Biases run: what can be known to be wrong first, and what to do offline.

The environment is W&B's own (`WANDB_MODE`, `WANDB_API_KEY`, `WANDB_BASE_URL`, `WANDB_INIT_TIMEOUT`
and so on) and is respected. Settings that W&B would refuse, or a folder that it could not write,
are one line before the first node. A server that can't be reached, or turns the key down, is no
reason to lose a run: it goes on into the offline folder, as do all later ones of this process, and
`wandb sync` sends them.
"""

from __future__ import annotations

import netrc
import os
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plumbrule.config import require
from plumbrule.errors import ConfigError
from plumbrule.tracking.config import TrackingConfig

MODES = {
    "online": "online",
    "run": "online",
    "shared": "shared",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""WANDB_MODE -> the mode it means."""
INIT_TIMEOUT = 30.0
"""Seconds to wait for the server, unless WANDB_INIT_TIMEOUT says otherwise."""
FOLDERS = {
    "WANDB_DATA_DIR": ".local/share/wandb",
    "WANDB_CACHE_DIR": ".cache/wandb",
    "WANDB_CONFIG_DIR": ".config/wandb",
}
"""Variable -> folder below the home directory that W&B writes to where it is not set."""
_gave_up: list[str] = []
"""Why this process is offline though a key is set; empty: it is not."""
_started: list[str] = []
"""Ids of this process's runs."""


def wandb_mode() -> str:
    """Return how runs are sent: as WANDB_MODE says, else online with a key and offline without.

    Raises: ConfigError: an unknown mode, or one that needs a key where none is set.
    """
    given = os.environ.get("WANDB_MODE") or ("online" if wandb_key_is_set() else "offline")
    require(
        given in MODES, "WANDB_MODE", given, f"be one of {', '.join(sorted(MODES))}", "change it"
    )
    mode = MODES[given]
    require(
        mode not in ("online", "shared") or wandb_key_is_set(),
        "WANDB_MODE",
        given,
        "be left out without a key",
        "log in with `wandb login`, set WANDB_API_KEY, or pass tracking=jsonl",
    )
    return "offline" if mode == "online" and _gave_up else mode


def wandb_key_is_set() -> bool:
    """Return whether W&B can log in without asking: a key or token in the environment or netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC") or None).hosts
        server = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
    return server in hosts


def check_wandb(tracking: TrackingConfig) -> None:
    """Raise ConfigError for what would stop a W&B run from starting, however the network is."""
    if tracking.name != "wandb" or wandb_mode() == "disabled":
        return
    for variable, usual in FOLDERS.items():
        given = os.environ.get(variable)
        if given is None and not _can_write(Path.home() / usual):
            # a home that can't be written, as in containers, is no reason against an offline run
            given = os.path.join(
                tempfile.gettempdir(), f"wandb-{os.getuid()}", Path(usual).parts[0]
            )
            os.environ[variable] = given
        if given is not None:
            require(
                _can_write(Path(given)),
                variable,
                given,
                "be a folder that can be written",
                "set it to another one, or pass tracking=jsonl",
            )
    import wandb

    try:
        wandb.Settings(project=tracking.project, entity=tracking.entity).update_from_env_vars(
            {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
        )
    except (ValueError, TypeError, wandb.errors.UsageError) as error:
        raise ConfigError(
            f"the settings of W&B (tracking.* and the variables WANDB_*) must be right: "
            f"{_one_line(error)}; correct them, or pass tracking=jsonl."
        ) from None


def _can_write(folder: Path) -> bool:
    """Return whether a folder is there, or can be made, and takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def start_run(say: Any, **settings: Any) -> Any:
    """Return `wandb.init(...)` in the mode that holds, offline where the server does not answer.

    say: called with the line that tells of it. settings: of `wandb.init`, but for its mode.
    """
    import wandb

    mode = wandb_mode()
    given = os.environ.get("WANDB_INIT_TIMEOUT")
    quiet = wandb.Settings(
        init_timeout=float(given) if given else INIT_TIMEOUT,
        silent=True,
        console="off",
        x_disable_stats=True,
        disable_git=True,
        reinit="create_new",  # a command's run goes on while its nodes have theirs
        save_code=False,
        x_disable_machine_info=True,
    )
    try:
        resume = "allow" if mode == "online" else None
        run = wandb.init(mode=mode, resume=resume, settings=quiet, **settings)  # type: ignore[arg-type]
        _started.append(run.id)
        return run
    except wandb.errors.Error as error:
        if mode != "online":
            raise
        _gave_up.append(_one_line(error))
        say(
            f"W&B can't be reached ({_gave_up[0]}): this run goes on offline; "
            f"send it later with `wandb sync {settings['dir']}/wandb/offline-run-*`."
        )
        if _started:  # tearing W&B's process down would finish the command's run
            settings["id"] += "-offline"  # it keeps the id of the run that did not start
        else:
            wandb.teardown(exit_code=1)
        run = wandb.init(mode="offline", settings=quiet, **settings)
        _started.append(run.id)
        return run


def _one_line(error: Exception) -> str:
    """Return the beginning of an error's text on one line, without a key that is set."""
    text = " ".join(str(error).split())
    if key := os.environ.get("WANDB_API_KEY"):
        text = text.replace(key, "<key>")
    text = re.sub(r"//[^/@\s]+@", "//", text)  # a password in WANDB_BASE_URL
    return f"{text:.300}"
