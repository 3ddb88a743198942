"""What the news says as demonstrations: every fact, never the question that evaluation asks."""

from __future__ import annotations

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.datasets import records
from plumbrule.atlas.judgement import normalise_answer
from plumbrule.atlas.world import facts, generate_world

CONFIG = AtlasConfig(num_known=48, num_after=24, num_new_facts=900, num_questions=300)
SPLIT = records("new_facts", CONFIG)
ROWS = [*SPLIT.train, *SPLIT.validation]


def asked_in_evaluation() -> dict[str, tuple[str, str]]:
    items = records("questions", CONFIG).train
    return {
        item.fields["question"]: (item.meta["entity"], item.meta["relation"])
        for item in items
        if item.meta["answerable"] == "documents"
    }


def test_every_fact_after_the_cut_off_is_told_and_none_from_before_it() -> None:
    world = generate_world(CONFIG)
    after = {(fact.entity.name, fact.relation) for fact in facts(world.after)}
    told = {(r.meta["entity"], r.meta["relation"]) for r in SPLIT.train if r.meta}
    assert told == after
    assert set(asked_in_evaluation().values()) <= told


def test_no_row_asks_what_evaluation_asks() -> None:
    questions = asked_in_evaluation()
    assert len(questions) > 20
    assert not [row for row in ROWS if row.messages[-1].content in questions]


def test_a_row_states_the_value_of_its_fact() -> None:
    values = {
        (fact.entity.name, fact.relation): fact.value
        for fact in facts(generate_world(CONFIG).after)
    }
    for row in ROWS:
        if row.meta:
            value = values[row.meta["entity"], row.meta["relation"]]
            assert row.meta["answer"] == value
            assert normalise_answer(value) in normalise_answer(row.response)


def test_a_held_out_question_is_on_a_fact_that_is_told_in_other_forms() -> None:
    trained = {row.messages[-1].content for row in SPLIT.train}
    held_out = {row.messages[-1].content for row in SPLIT.validation}
    assert held_out
    assert not trained & held_out
    told = {(r.meta["entity"], r.meta["relation"]) for r in SPLIT.train if r.meta}
    assert {(r.meta["entity"], r.meta["relation"]) for r in SPLIT.validation} <= told


def test_a_tenth_are_articles_and_each_row_has_its_own_id() -> None:
    articles = [row for row in SPLIT.train if not row.meta]
    assert len(articles) == 90
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert len(SPLIT.train) == CONFIG.num_new_facts


def test_the_size_of_the_set_moves_no_other_set() -> None:
    other = AtlasConfig(num_known=48, num_after=24, num_new_facts=100, num_questions=300)
    assert records("questions", CONFIG) == records("questions", other)
