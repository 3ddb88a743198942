"""Fine-tuning on demonstrations with search calls: a mask in the loss, the sampler's tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from worlds.stages import run_stage
from worlds.towns import MODEL, RIVERS, TOWNS, base, demonstration, demonstrations

from plumbrule.data.records import DemonstratedSearch, Demonstration
from plumbrule.lm.config import SamplingConfig, SearchConfig, SearchFormConfig
from plumbrule.lm.demonstrations import encode_demonstrations
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.loading import load_policy
from plumbrule.protocols import Passage
from plumbrule.runtime_config import RuntimeConfig
from sft.fine_tune import trl_trainer
from sft.fine_tune.config import SFTConfig
from sft.fine_tune.stage import run

CPU = RuntimeConfig(device="cpu", micro_batch_size=8)
FORM = SearchFormConfig("<s>", "</s>", "\n({passages})\n")
SEARCH = SearchConfig(
    max_turns=2, budget_tokens=40, open=FORM.open, close=FORM.close, template=FORM.template
)
SHAPE = dataclasses.replace(MODEL, context=160)
CONFIG = SFTConfig(
    model=SHAPE,
    num_train_epochs=400,
    batch_size=4,
    learning_rate=1e-2,
    save_every=1000,
    num_samples=2,
    search=FORM,
)


def passage(town: str) -> str:
    return f"{town} lies on the {RIVERS[TOWNS.index(town) % 4]}."


def searching(number: int) -> Demonstration:
    town = TOWNS[number]
    found = (passage(TOWNS[number - 1]), passage(town))
    return dataclasses.replace(
        demonstration(number, f"{town} lies on the {RIVERS[number % 4]} [2]."),
        searches=(DemonstratedSearch(town, found),),
    )


class Towns:
    """Finds what the demonstrations were shown."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def search(self, queries, k):
        self.asked += queries
        found = [
            searching(TOWNS.index(q)).searches[0].passages if q in TOWNS else () for q in queries
        ]
        return [[Passage(text, text, 1.0, "d", 0, 4) for text in texts] for texts in found]


def test_answers_to_calls_have_no_label(tmp_path: Path) -> None:
    policy = load_policy(base(tmp_path / "base", shape=SHAPE).file("model"))
    row = encode_demonstrations(policy, [searching(0)]).rows[0]
    assert row.action_mask is not None
    labels = trl_trainer.dataset([row], [0])[0]["labels"][len(row.prompt) :]
    for label, token, mine in zip(labels, row.response, row.action_mask, strict=True):
        assert label == (token if mine else trl_trainer.IGNORED)
    assert 0 < labels.count(trl_trainer.IGNORED) < len(labels)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("searching")
    rows = [searching(n) for n in range(4)]
    inputs = {
        "base": base(folder / "base", shape=SHAPE),
        "demonstrations": demonstrations(folder / "data", rows, rows[:2]),
    }
    metrics = run_stage(run, CONFIG, inputs, folder / "out", CPU)
    return rows, load_policy(folder / "out" / "model"), metrics


def test_a_policy_that_learned_a_row_writes_its_very_tokens(learned) -> None:
    """Sampled in turns with the same passages: token for token and mask for mask the row that SFT
    trained on, so nothing was encoded in another way there than it is sampled here.
    """
    rows, policy, metrics = learned
    assert metrics["sft/rows_with_searches"] == 4
    assert metrics["sft/loss"] < 0.005  # no token is undecided, which rounding would settle
    expected = encode_demonstrations(policy, rows).rows
    towns = Towns()
    found = Searcher(towns, SEARCH).answer(
        policy,
        [row.prompt for row in expected],
        sampling=SamplingConfig(temperature=0.0, max_new_tokens=40),
        keys=[1] * len(rows),
    )
    assert towns.asked == list(TOWNS[:4])
    for row, sampled in zip(expected, found, strict=True):
        assert sampled.sample.tokens == list(row.response)
        assert sampled.action_mask == list(row.action_mask or ())


def test_what_answers_say_is_not_learned(learned) -> None:
    """They are in the context of all that follows and in no loss: likelihoods of their tokens stay
    those of noise while those of the policy's own are near 1.
    """
    from plumbrule.lm.response_logprobs import mean_nll

    rows, policy, _ = learned
    encoded = encode_demonstrations(policy, rows).rows
    others = [
        row._replace(action_mask=tuple(not m for m in row.action_mask or ())) for row in encoded
    ]
    assert mean_nll(policy, encoded, 4) < 0.1
    assert mean_nll(policy, others, 4) > 4.0  # log 320 is 5.8


def test_the_report_shows_the_first_turn_beside_queries_and_response(learned, tmp_path) -> None:
    from sft.fine_tune.stage import sample_responses

    rows, policy, _ = learned
    shown = sample_responses(policy, encode_demonstrations(policy, rows), CONFIG, 4)
    assert [row["response"] for row in shown] == [f"<s> {town} </s>" for town in TOWNS[:2]]
    assert shown[0]["reference"] == "(searches: Velm) Velm lies on the Ash [2]."


@pytest.mark.parametrize("why", ["too long", "held out alone"])
def test_a_policy_that_was_shown_no_call_was_taught_no_form(why: str, tmp_path: Path) -> None:
    """Calls that are measured, of held-out demonstrations, are in the form of the settings."""
    plain = demonstration(0, "Velm lies on the Ash.")
    shown = searching(1)
    if why == "too long":
        found = (passage(TOWNS[1]) * 40,)
        shown = dataclasses.replace(shown, searches=(DemonstratedSearch("Ash", found),))
    inputs = {
        "base": base(tmp_path / "base", shape=SHAPE),
        "demonstrations": demonstrations(
            tmp_path / "data", [plain, shown] if why == "too long" else [plain], [searching(2)]
        ),
    }
    losses = []
    for place, form in enumerate((FORM, SearchFormConfig("<<", ">>", " {passages} "))):
        config = dataclasses.replace(CONFIG, num_train_epochs=0, num_samples=0, search=form)
        out = tmp_path / str(place)
        losses.append(run_stage(run, config, inputs, out, CPU)["sft/loss"])
        assert load_policy(out / "model").spec.search_form is None
    assert abs(losses[0] - losses[1]) > 1e-4
