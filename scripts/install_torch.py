"""Install torch at the version that constraints.txt pins, as the first step of `make install`.

Installed first and alone, torch comes as the build that the index offers for this machine. Where
there is no accelerator and the index would send a CUDA build all the same, this says what is about
to be downloaded before it goes on. `--index` names another index (of CPU builds, say).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"


def pinned() -> str:
    """Return `torch==<version>` as constraints.txt pins it."""
    found = re.search(r"^torch==\S+$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{CONSTRAINTS.name} must pin torch; add a line torch==<version>.")
    return found.group()


def has_accelerator() -> bool:
    """Return whether an NVIDIA driver answers on this machine."""
    try:
        return (
            subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


def announce(command: list[str]) -> None:
    """Say which CUDA packages an install would download onto a machine without an accelerator."""
    dry = [*command, "--dry-run", "--report", "-"]
    done = subprocess.run(dry, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        return  # the install itself will say what is wrong
    report = json.loads(done.stdout[done.stdout.index("{") :])
    names = [item["metadata"]["name"] for item in report["install"]]
    cuda = [name for name in names if name.startswith(("nvidia-", "triton", "cuda-"))]
    if cuda:
        print(
            f"No accelerator answers here, and the index offers no CPU build of {pinned()}: about "
            f"to download {len(cuda)} CUDA packages with it, several gigabytes in all "
            f"({', '.join(cuda[:4])}, ...). To avoid that, stop now and run\n"
            "  make install TORCH_INDEX=<index of CPU builds>",
            flush=True,
        )


def main() -> None:
    """Install torch unless the pinned version is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", help="package index to take torch from")
    options = parser.parse_args()
    probe = "import importlib.metadata as m; print(m.version('torch'))"
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, encoding="utf-8", check=False
    )
    if found.stdout.strip().split("+")[0] == pinned().split("==")[1]:
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", pinned()]
    if options.index:
        command += ["--index-url", options.index]
    elif not has_accelerator():
        announce(command)
    raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
