"""`rm.unfrozen_layers`: as training with frozen lower layers that run in every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from worlds import tiny_models
from worlds.rankings import rankings_of
from worlds.stages import CPU, run_stage
from worlds.stages import small_rm as small
from worlds.trackers import Stopped, StoppingTracker

from plumbrule.errors import ConfigError
from plumbrule.lm import frozen_layers
from plumbrule.lm.cost_metrics import READ, TRAINED, num_weights
from plumbrule.lm.frozen_layers import FrozenLayers, KeptStates, freeze_lower_layers
from plumbrule.lm.loading import load_policy, make_policy, save_policy
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.reward_model import stage as rm
from rlhf.reward_model.model import load_reward_model

build = partial(run_stage, rm.run)
FILES = ("model/model.safetensors", "head.safetensors")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return rankings_of(tmp_path_factory.mktemp("rm-inputs"))


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeze the lower layers by hand: they run in every step, and nothing is kept."""

    def freeze(model, top):
        layers = model.trunk.layers
        model.policy.model.requires_grad_(False)
        for module in (*layers[len(layers) - top :], model.trunk.norm):
            module.requires_grad_(True)

    monkeypatch.setattr(rm, "freeze_below", freeze)
    monkeypatch.setattr(rm, "training_cost", lambda *arguments, frozen: {})


def tensors(out: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in FILES for name, weight in load_file(out / file).items()}


@pytest.mark.parametrize("token_logprobs", [False, True])
def test_it_trains_as_frozen_layers_that_run_in_every_step(
    given: dict[str, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token_logprobs: bool,
) -> None:
    config = small(uses_token_logprobs=token_logprobs, unfrozen_layers=1)
    kept_metrics = build(config, given, tmp_path / "kept")
    plain(monkeypatch)
    metrics = build(config, given, tmp_path / "plain")
    kept, run_each_time = tensors(tmp_path / "kept"), tensors(tmp_path / "plain")
    for name, weight in run_each_time.items():  # float32, summed in another order
        # The bias cancels in every pair: its gradient is rounding, which Adam divides by itself.
        atol = 1e-4 if name == "score.bias" else 2e-6
        assert torch.allclose(kept[name], weight, atol=atol), name
    for name, value in metrics.items():
        assert kept_metrics[name] == pytest.approx(value, abs=1e-4), name
    start = load_file(given["policy"].path / FILES[0])
    moved = {name for name in start if not torch.equal(start[name], kept[name])}
    assert moved == {name for name in start if name.startswith(("model.layers.1.", "model.norm."))}


def test_frozen_layers_read_each_answer_once_whatever_the_epochs(
    given: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    read = FrozenLayers.read

    def count(self, rows: Sequence[tuple[int, ...]], micro_batch_size: int):
        seen.update(map(tuple, rows))
        return read(self, rows, micro_batch_size)

    monkeypatch.setattr(FrozenLayers, "read", count)
    config = small(unfrozen_layers=1, num_train_epochs=3.0)
    metrics = build(config, given, tmp_path / "out")
    assert len(seen) > 50  # 20 rankings of 3 answers, and the row that the split is tried on
    assert set(Counter(seen.values())) == {1, 2}
    assert sum(n == 2 for n in seen.values()) == 1  # whose width was asked for first
    model = load_reward_model(tmp_path / "out")
    lower = num_weights(model.trunk.layers[0])
    upper = num_weights(model.trunk) - lower
    tokens = sum(len(row) for row in tokens_of(model, given))
    assert metrics["cost/training_tokens"] == 3 * tokens
    assert metrics["cost/training_flops"] == tokens * (3 * TRAINED * upper + READ * lower)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    build(small(), given, tmp_path / "usual")
    assert left == {path.name for path in (tmp_path / "usual").iterdir()}  # no file of states


def tokens_of(model, given: dict[str, Artifact]) -> list[tuple[int, ...]]:
    training = rm.read_split(model, [given["preferences"].file("records.jsonl")], 96, small())
    return [row.tokens for ranking in training.rankings for row in ranking.rows]


def test_resumed_equals_uninterrupted(given: dict[str, Artifact], tmp_path: Path) -> None:
    config = small(unfrozen_layers=1, num_train_epochs=3.0, save_every=4)
    metrics = build(config, given, tmp_path / "whole")
    with pytest.raises(Stopped):
        build(config, given, tmp_path / "killed", tracker=StoppingTracker(6))
    assert build(config, given, tmp_path / "killed") == metrics
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rows_that_are_not_kept_run_through_the_whole_trunk(tmp_path: Path) -> None:
    policy = make_policy(tiny_models.model("llama", seed=11), tiny_models.tokenizer())
    split = freeze_lower_layers(policy.model, 1, policy.pad_id, "rm.unfrozen_layers", None)
    rows = [(4, 5, 6, 7), (8, 9), (4, 5, 6, 7)]
    kept = KeptStates(split, rows, 2, tmp_path, NullTracker())
    tokens = torch.tensor([[0, 0, 8, 9], [4, 5, 6, 7]])
    real = tokens > 0
    states = kept.of(tokens, real)
    assert states is not None
    wanted = split.frozen.read([(8, 9), (4, 5, 6, 7)], 1)
    assert torch.allclose(states, torch.cat(wanted), atol=2e-5)  # of values up to 10
    assert kept.of(tokens[:, :3], real[:, :3]) is None
    assert kept.of(torch.tensor([[5, 5]]), torch.ones(1, 2, dtype=torch.bool)) is None
    assert list(tmp_path.iterdir()) == []


class Room(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


def test_a_full_disk_is_said_before_anything_is_computed(
    given: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_layers.shutil, "disk_usage", lambda path: Room(1, 1, 1000))
    with pytest.raises(ConfigError, match=r"GiB free\) must have room for the hidden states of"):
        build(small(unfrozen_layers=1), given, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"unfrozen_layers": 0}, r"unfrozen_layers \(=0 layers\) must be at least 1"),
        ({"unfrozen_layers": 1, "frozen_trunk": True}, "be left out with rm.frozen_trunk"),
    ],
)
def test_settings_that_contradict_it_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        small(**settings)


def test_models_that_can_not_be_split_are_refused(
    given: dict[str, Artifact], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"\(=2\) must be fewer than the model's 2 layers"):
        build(small(unfrozen_layers=2), given, tmp_path / "out", CPU)
    windows = make_policy(tiny_models.model("gemma2"), tiny_models.tokenizer())
    save_policy(windows, tmp_path / "gemma" / "model")
    other = {**given, "policy": Artifact.of(tmp_path / "gemma", "sft")}
    with pytest.raises(ConfigError, match=r"rm\.unfrozen_layers .*Gemma2ForCausalLM: not all"):
        build(small(unfrozen_layers=1), other, tmp_path / "out")
    assert load_policy(tmp_path / "gemma" / "model")
