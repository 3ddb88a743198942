"""Find the packages: pyproject.toml can not find some and map `conf` to a name beside them.

Every folder of ours that holds a Python file is one; Hydra finds the launcher under
`hydra_plugins`, a namespace that other packages share. All else stands in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup

OURS = ("eval", "hydra_plugins", "plumbrule", "rag", "rlhf", "sft")

here = Path(__file__).parent
found = {path.parent.relative_to(here) for top in OURS for path in (here / top).rglob("*.py")}
setup(packages=["plumbrule.conf", *sorted(".".join(folder.parts) for folder in found)])
