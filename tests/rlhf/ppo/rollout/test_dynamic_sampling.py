"""Dynamic sampling: which groups stay, what is drawn again, and that all of it is counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import ppo as world

from plumbrule.errors import ConfigError
from plumbrule.lm.config import RetrievalConfig, SamplingConfig
from plumbrule.lm.generation import generate
from plumbrule.protocols import Episode
from plumbrule.store.metric_rows import read_metrics
from plumbrule.timing import Stopwatch
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.batches import Batch, draw_batch, load_batch, save_batch
from rlhf.ppo.rollout.dynamic_sampling import Draws, fill_rollout, groups_that_vary
from rlhf.ppo.rollout.prompts import ask, batch_of, further_prompts
from rlhf.ppo.rollout.trajectory import sampling_keys
from rlhf.ppo.stage import run
from rlhf.ppo.update_settings import draw_settings
from rlhf.rewards.config import RewardConfig, RewardTermConfig


def settings(**changes: Any) -> PPOConfig:
    return world.config(
        **{
            "advantage": "rloo",
            "samples_per_prompt": 4,
            "dynamic_sampling_max_draws": 4,
            "missing_eos_penalty": 0.0,
            **changes,
        }
    )


class Scores:
    """A reward that is a function of the episode."""

    def __init__(self, score: Any):
        self.function = score

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        return {"score": np.array([float(self.function(e)) for e in episodes])}


def draw(config: PPOConfig, score: Any, update: int = 1) -> Batch:
    """A batch of 12 prompts' world, each response scored by a function of its episode."""
    policy, prompts = world.tiny_policy(spread=0.5), world.prompts()
    return draw_batch(
        policy,
        prompts,
        update,
        rows_of=partial(batch_of, 12, batch_size=16, samples_per_prompt=4, seed=config.seed),
        queries_of=partial(
            ask,
            policy,
            retriever=None,
            retrieval=RetrievalConfig(),
            seed=config.seed,
            max_new_tokens=5,
        ),
        scorers={"rm": Scores(score)},
        sampler=generate,
        settings=draw_settings(config),
        watch=Stopwatch(),
    )


def train(
    folder: Path, config: PPOConfig, **runtime: Any
) -> tuple[list[dict[str, Any]], Path, Any]:
    inputs = world.build(folder, spread=0.5)
    out = folder / "out"
    out.mkdir(parents=True)
    headlines = run(config, inputs, world.runtime(**runtime), out, FileTracker(out))
    return read_metrics(out), out, headlines


@pytest.mark.detail(63)
def test_groups_that_differ_by_rounding_do_not_vary() -> None:
    # 0.1 in float32 and the next number up are 7e-9 apart: rounding. 0.1 and 0.1001 are not.
    near = float(np.nextafter(np.float32(0.1), np.float32(1)))
    scores = [0.0, 0.0, 0.1, near, 0.1, 0.1001, -3.0, 2.0, 1e6, 1e6 + 0.1]
    found = groups_that_vary(torch.tensor(scores, dtype=torch.float64), 2)
    assert found == [False, False, True, True, False]


@pytest.mark.detail(63)
def test_a_rollout_is_filled_by_hand() -> None:
    assert fill_rollout([True, True], 2) == [0, 1]
    assert fill_rollout([False, True, False, True], 2) == [1, 3]
    assert fill_rollout([False, True, False, False, False], 3) == [1, 0, 2]
    assert fill_rollout([False, False, False], 2) == [0, 1]


@pytest.mark.detail(63)
def test_further_prompts_are_those_that_were_not_asked() -> None:
    """A function of (seed, update); in one order, however it is cut into draws."""
    first = [3, 7, 1]
    every = further_prompts(8, 5, first, 5, seed=2)
    assert sorted(every) == [0, 2, 4, 5, 6]
    two = further_prompts(8, 5, first, 2, seed=2)
    assert [*two, *further_prompts(8, 5, [*first, *two], 3, seed=2)] == every
    assert every not in (
        further_prompts(8, 6, first, 5, seed=2),
        further_prompts(8, 5, first, 5, seed=3),
    )
    # All were asked: from the beginning, those first that were asked least.
    assert sorted(further_prompts(3, 1, [0, 1, 1], 6)) == [0, 0, 1, 2, 2, 2]
    assert set(further_prompts(3, 1, [0, 1, 1], 2)) == {0, 2}


@pytest.mark.detail(63)
def test_a_further_draw_has_random_numbers_of_its_own() -> None:
    keys = [sampling_keys(["a", "a", "b"], 0, 1, number) for number in (1, 2, 3)]
    assert keys[0] == sampling_keys(["a", "a", "b"], 0, 1)
    assert len({key for some in keys for key in some}) == 9


@pytest.mark.detail(63)
def test_a_batch_is_drawn_until_all_its_groups_vary() -> None:
    """Prompts with an odd number pay by response, those with an even one all the same."""

    def odd(episode: Episode) -> bool:
        return bool(int(episode.prompt.id[1:]) % 2)

    def score(episode: Episode) -> float:
        return len(episode.response) if odd(episode) else 1.0

    config = settings()
    batch = draw(config, score)
    ids, draws = list(batch.trajectory.prompt_ids), batch.draws
    assert draws is not None
    assert len(ids) == 16
    assert all(len(set(ids[i : i + 4])) == 1 for i in range(0, 16, 4))
    # By hand: the groups in the order drawn, of which the first four odd ones stay.
    asked = batch_of(12, 1, batch_size=16, samples_per_prompt=4)[::4]
    drawn, wanted = list(asked), [n for n in asked if n % 2]
    num_draws = 1
    while len(wanted) < 4:
        more = further_prompts(12, 1, drawn, 4 - len(wanted))
        drawn, wanted = [*drawn, *more], [*wanted, *(n for n in more if n % 2)]
        num_draws += 1
    assert num_draws > 1
    assert ids[::4] == [f"p{n}" for n in wanted]
    assert draws[:4] == (num_draws, len(drawn), 4, 4)
    found = draws.metrics(4)
    assert found["rollout/groups_left_out"] == len(drawn) - 4
    assert found["rollout/groups_filled_up"] == 0
    # Terms belong to their rows, and what is left out is counted in tokens.
    texts = batch.trajectory.texts
    assert batch.terms["rm"].tolist() == [len(text) for text in texts]
    everything = draw(settings(dynamic_sampling_max_draws=1), score)
    assert everything.draws is None
    policy = world.tiny_policy(spread=0.5)
    left = [world.prompts()[n] for n in drawn if n % 2 == 0]
    prompt_tokens = 4 * sum(len(policy.encode(p.messages)) for p in left)
    assert draws.prompt_tokens_left_out == prompt_tokens
    assert 4 * len(left) <= draws.response_tokens_left_out <= 5 * 4 * len(left)


@pytest.mark.detail(63)
def test_at_the_last_draw_the_groups_left_out_fill_the_rollout() -> None:
    """One score for all: the rollout is the first draw, as without the option."""
    batch = draw(settings(dynamic_sampling_max_draws=3), lambda e: 0.5)
    plain = draw(settings(dynamic_sampling_max_draws=1), lambda e: 0.5)
    assert batch.draws is not None
    assert batch.trajectory.responses == plain.trajectory.responses
    assert torch.equal(batch.trajectory.rollout_logprobs, plain.trajectory.rollout_logprobs)
    assert batch.draws[:3] == (3, 12, 0)
    assert batch.draws.metrics(4)["rollout/groups_filled_up"] == 4
    assert batch.draws.metrics(4)["rollout/groups_left_out"] == 8


@pytest.mark.detail(63)
def test_the_score_after_its_transforms_decides() -> None:
    """Raw scores are all equal; with a penalty for a missing end those of a group may not be."""
    free = draw(settings(dynamic_sampling_max_draws=2), lambda e: 0.5)
    assert free.draws is not None
    assert free.draws.with_variance == 0
    charged = draw(settings(dynamic_sampling_max_draws=2, missing_eos_penalty=1.0), lambda e: 0.5)
    assert charged.draws is not None
    ended = charged.trajectory.finished.view(4, 4)
    mixed = (ended.any(1) & ~ended.all(1)).tolist()
    assert sum(mixed) == min(4, charged.draws.with_variance) > 0
    assert mixed == sorted(mixed, reverse=True)


@pytest.mark.detail(63)
def test_a_run_counts_what_it_trains_on_and_what_it_samples(tmp_path: Path) -> None:
    rows, out, headlines = train(tmp_path, settings(dynamic_sampling_max_draws=2))
    assert headlines["ppo/episodes"] == 96
    drawn = [row["rollout/groups_drawn"] for row in rows]
    assert headlines["ppo/episodes_sampled"] == 4 * sum(drawn) > 96
    assert [row["ppo/episodes_sampled"] for row in rows] == (4 * np.cumsum(drawn)).tolist()
    filled = 0
    for update, row in enumerate(rows, 1):
        rollout = parquet.read(parquet.path_of(out / "rollouts", update))
        varies = groups_that_vary(rollout.scores, 4)
        assert sum(varies) == min(4, row["rollout/groups_with_variance"])
        assert row["rollout/groups_filled_up"] == 4 - sum(varies)
        assert row["rollout/draws"] == (1 if row["rollout/groups_drawn"] == 4 else 2)
        assert row["rollout/groups_drawn"] - row["rollout/groups_left_out"] == 4
        filled += 4 - sum(varies)
    trained = sum(row["val/response_length_tokens"] for row in rows) * 16
    left = sum(row["rollout/response_tokens_left_out"] for row in rows)
    assert headlines["cost/generated_tokens"] == pytest.approx(trained + left)
    assert left > 0
    notes = json.loads((out / "notes.json").read_text())
    assert filled > 0
    assert any(f"{filled} of 24 groups that were trained on have no variance" in n for n in notes)


@pytest.mark.detail(63)
@pytest.mark.parametrize("changes", [{"micro_batch_size": 3}, {"sampler_batch": 3}])
def test_no_batch_depends_on_how_it_is_cut(changes: dict[str, int], tmp_path: Path) -> None:
    plain, _, _ = train(tmp_path / "one", settings())
    batch = changes.pop("sampler_batch", 8)
    cut = settings(sampling=SamplingConfig(max_new_tokens=5, batch_size=batch))
    rows, out, _ = train(tmp_path / "other", cut, **changes)
    counted = [name for name in rows[0] if name.startswith("rollout/")]
    assert len(counted) == 7
    assert [[r[name] for name in counted] for r in rows] == [
        [r[name] for name in counted] for r in plain
    ]
    for path in sorted((out / "rollouts").iterdir()):
        before = parquet.read(tmp_path / "one" / "out" / "rollouts" / path.name)
        assert parquet.read(path).trajectory.responses == before.trajectory.responses


def test_groups_without_variance_cost_no_learning(tmp_path: Path) -> None:
    """The word that pays is said within 12 updates of 64, and groups that vary fill them."""
    config = settings(
        total_episodes=64 * 12,
        batch_size=64,
        num_mini_batches=1,
        learning_rate=2e-2,
        sampling=SamplingConfig(max_new_tokens=5, batch_size=64),
        save_every=100,
        num_samples=0,
    )
    rows, _, _ = train(tmp_path, config, micro_batch_size=64)
    assert rows[0]["rollout/groups_left_out"] > 2
    assert rows[0]["objective/scores_raw"] < 0.2
    assert sum(row["objective/scores_raw"] for row in rows[-3:]) / 3 >= 0.5


def test_a_batch_is_read_as_it_was_written(tmp_path: Path) -> None:
    for batch in (
        draw(settings(), lambda e: len(e.response)),
        draw(settings(dynamic_sampling_max_draws=1, score_at="last"), lambda e: 0.5),
    ):
        save_batch(batch, tmp_path)
        again = load_batch(tmp_path, torch.device("cpu"))
        assert again is not None
        assert again.draws == batch.draws
        assert again.draws is None or isinstance(again.draws, Draws)
        for name, value in vars(batch.trajectory).items():
            read = getattr(again.trajectory, name)
            if isinstance(value, torch.Tensor):
                assert torch.equal(read, value)
                assert read.dtype == value.dtype
            else:
                assert list(read or ()) == list(value or ()), name
        assert again.terms.keys() == batch.terms.keys()
        assert all(torch.equal(again.terms[name], batch.terms[name]) for name in batch.terms)
    assert load_batch(tmp_path / "absent", torch.device("cpu")) is None


BATCH_NORMALISED = RewardConfig([RewardTermConfig("rm", normalise="batch")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dynamic_sampling_max_draws": 0}, r"ppo.dynamic_sampling_max_draws \(=0 draws\)"),
        ({"samples_per_prompt": 1}, r"ppo.samples_per_prompt \(=1\) must be at least 2"),
        ({"advantage": "gae"}, r"ppo.advantage \(=gae\) must compare the responses"),
        ({"reward": BATCH_NORMALISED}, r"reward.terms \(=rm normalised over the rollout\)"),
    ],
)
def test_what_dynamic_sampling_can_not_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)
