"""Print the requirements of a set of versions: lowest, pinned or newest.

lowest: every dependency of pyproject.toml at its lower bound, in the newest patch release of it, so
that each bound is one that was tried. pinned: constraints.txt. newest: as pyproject.toml has it,
with Hydra's newest release candidate, which pip takes only where it is named. `--installed` prints
what an environment holds, in one line.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETS = ("lowest", "pinned", "newest")
SHOWN = ("torch", "transformers", "trl", "peft", "hydra-core", "omegaconf", "numpy")
EXTRAS = ("cpu", "dev")
HYDRA_CANDIDATE = "hydra-core>=1.4.0rc1"


def dependencies() -> list[str]:
    """Return the requirements of the project and of the extras that `make install` takes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    more = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return list(dict.fromkeys([*project["dependencies"], *more]))


def lowest(requirement: str) -> str:
    """Return a requirement held to its lower bound: `torch>=2.11` is `torch==2.11.*`."""
    found = re.match(r"([\w.-]+)(?:\[[^\]]*\])?>=([\d.]+)", requirement)
    return f"{found[1]}=={found[2]}.*" if found else requirement


def requirements(name: str) -> list[str]:
    """Return the lines of a set. Raises: ValueError: there is no set of that name."""
    if name == "lowest":
        return [lowest(line) for line in dependencies()]
    if name == "newest":
        return [*dependencies(), HYDRA_CANDIDATE]
    if name == "pinned":
        return (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    raise ValueError(f"set (={name}) must be one of {', '.join(SETS)}.")


def installed() -> str:
    """Return the versions that matter of the environment that this runs in."""
    named = [f"{name} {importlib.metadata.version(name)}" for name in SHOWN]
    return ", ".join([f"Python {platform.python_version()}", *named])


def main() -> None:
    """Print a set's requirements, one a line, or what is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", nargs="?", choices=SETS)
    parser.add_argument("--installed", action="store_true")
    given = parser.parse_args()
    if given.installed:
        print(installed())
    else:
        print("\n".join(requirements(given.set or "newest")))


if __name__ == "__main__":
    main()
