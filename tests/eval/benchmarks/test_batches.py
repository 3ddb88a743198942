"""How many answers are sampled together: by real lengths, with the same answers whatever it is."""

from __future__ import annotations

import pytest
from worlds.evaluation import small_config, small_policy

from eval.benchmarks import subject as subjects
from eval.benchmarks.journal import Journal
from eval.benchmarks.subject import Subject, fitting_rows
from plumbrule.data.records import Message, Prompt
from plumbrule.lm.config import SamplingConfig
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.tracking.stage_tracker import NullTracker

PROMPTS = [Prompt(f"p{i}", (Message("user", "Where? " * (1 + 6 * (i < 6))),)) for i in range(12)]


@pytest.mark.parametrize(
    ("batch_size", "longest", "rows"),
    [
        (4, 96, 4),  # of the longest, as many as the setting says
        (4, 48, 8),
        (4, 40, 9),  # 4 x 96 // 40
        (1, 96, 1),
    ],
)
def test_shorter_rows_share_a_batch_of_the_same_memory(batch_size, longest, rows):
    assert fitting_rows(batch_size, 96, longest) == rows


def answers(batch_size, monkeypatch):
    sizes = []
    generate = subjects.generate

    def noted(policy, prompts, *, sampling, keys, progress):
        sizes.append((sampling.batch_size, max(len(prompt) for prompt in prompts)))
        return generate(policy, prompts, sampling=sampling, keys=keys, progress=progress)

    monkeypatch.setattr(subjects, "generate", noted)
    config = small_config(sampling=SamplingConfig(max_new_tokens=6, batch_size=batch_size))
    asked = Subject(small_policy(), None, None, config, RuntimeConfig(device="cpu"), NullTracker())
    found, _ = asked.respond(PROMPTS, "prompts")
    return [(one.episode.prompt.id, one.episode.response) for one in found], sizes


def test_answers_are_the_same_whatever_the_batch(monkeypatch):
    advance, _ = Journal.each.__defaults__
    monkeypatch.setattr(Journal.each, "__defaults__", (advance, 6))  # two chunks
    one, sizes = answers(1, monkeypatch)
    several, _ = answers(5, monkeypatch)
    assert one == several
    assert [id for id, _ in one] == [prompt.id for prompt in PROMPTS]
    first, second = sizes[:2]
    assert first[0] == 1
    assert second[0] == (first[1] + 6) // (second[1] + 6) > 1
