"""Which settings a sweep's value reaches."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from plumbrule.pipeline.planning.value_cells import references_in, settings_reached


@pytest.mark.parametrize(
    ("raw", "reached"),
    [
        ("${ppo.a}", True),
        ("${ppo}", True),
        ("${.a}", True),
        ("${..ppo.a}", True),
        ("${oc.select:ppo.a}", True),
        ("${oc.env:HOME}", False),
        ("${ppo.other}", False),
        ("plain", False),
    ],
)
def test_what_interpolates_a_changed_setting_is_reached(raw: str, reached: bool) -> None:
    """A reference that does not say the whole name is taken for one to every setting."""
    cfg = OmegaConf.create({"ppo": {"a": 1, "other": 2, "b": raw, "c": "${ppo.b}"}})
    expected = {"ppo.a", "ppo.b", "ppo.c"} if reached else {"ppo.a"}
    assert settings_reached(dict(references_in(cfg)), {"ppo.a"}) == expected
