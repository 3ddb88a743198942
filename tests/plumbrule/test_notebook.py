"""The page on notebooks: its blocks run, one after the other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from places import ROOT

from plumbrule.errors import ConfigError
from plumbrule.notebook import compose_run

PAGE = ROOT / "docs" / "notebook.md"
NOTEBOOK = ROOT / "docs" / "examples" / "notebook.ipynb"


def test_the_page_on_notebooks_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.rstrip("\n") for block in blocks]
    names: dict[str, object] = {"__name__": "notebook"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    said = capsys.readouterr().out
    assert "documents build new" in said
    assert "[[1.0, 1.0, 1.0]]" in said
    assert "atlas.num_prompts\n20    17.0\n30    26.0" in said
    assert "index 1" in said


@pytest.mark.parametrize("override", ["ppo.kl.coeff=1", "experiment=quickstat", "ppo.kl.coef=much"])
def test_a_slip_in_a_notebook_is_one_line_of_ours(override: str) -> None:
    with pytest.raises(ConfigError, match="must be") as caught:
        compose_run(override)
    assert "\n" not in str(caught.value)
