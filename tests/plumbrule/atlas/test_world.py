"""The world of Atlas: a pure function of its config, with held-out names kept apart."""

import dataclasses
import os
import subprocess
import sys

import pytest

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.names import all_names, counts, is_held_out, make_pools
from plumbrule.atlas.relations import BY_SUBJECT, NAME_KINDS, RELATIONS, WORDS, ask, state
from plumbrule.atlas.world import facts, generate_world
from plumbrule.errors import ConfigError

TINY = AtlasConfig(num_known=24, num_after=12)
WORLD = generate_world(TINY)


def template_words():
    texts = [text for r in RELATIONS for text in (*r.statements, *r.questions)]
    return {word.strip(".,?").lower() for text in texts for word in text.split()}


def test_relations_offer_what_the_config_promises():
    assert len(RELATIONS) == 16
    for relation in RELATIONS:
        assert relation.subject in NAME_KINDS
        assert relation.value_kind in (*NAME_KINDS, *WORDS)
        assert len(set(relation.statements)) == 6
        assert len(set(relation.questions)) == 4
        for statement in relation.statements:
            assert statement.count("{n}") == 1
            assert statement.count("{v}") == 1
            assert statement.endswith(".")
        for question in relation.questions:
            assert question.count("{n}") == 1
            assert "{v}" not in question
            assert question.endswith("?")


def test_each_relation_states_some_value_before_its_name():
    # Among the four default phrasings, so that no reader of them can go by position alone.
    for relation in RELATIONS:
        assert any(s.index("{v}") < s.index("{n}") for s in relation.statements[:4]), relation.name


def test_no_two_relations_share_a_sentence_or_question():
    statements = [s for r in RELATIONS for s in r.statements]
    questions = [q for r in RELATIONS for q in r.questions]
    assert len(set(statements)) == len(statements)
    assert len(set(questions)) == len(questions)


def test_value_words_fit_every_sentence_and_stand_in_none():
    words = [word for kind, words in WORDS.items() if kind != "year" for word in words]
    assert len(set(words)) == len(words)
    assert all(word[0] not in "aeiou" for word in words), 'needs "an"'
    assert not set(words) & template_words()


def test_state_and_ask_fill_the_templates():
    assert state("birth", "Bero Vik", "1950") == "Bero Vik was born in 1950."
    assert state("birth", "Bero Vik", "1950", 2) == "The year 1950 saw the birth of Bero Vik."
    assert ask("birth", "Bero Vik", 1) == "When did the life of Bero Vik begin?"


@pytest.mark.parametrize(("total", "known"), [(8, (5, 1, 1, 1)), (240, (108, 48, 48, 36))])
def test_counts_of_types_sum_to_the_total(total, known):
    # 240: .45, .2, .2, .15 of it. 8: at least one of each, people take the rest.
    assert tuple(counts(total).values()) == known


def test_names_are_two_words_from_pools_that_share_none():
    pools = make_pools(0, 240, 120)
    words = [word for pool in pools for word in pool]
    assert len(set(words)) == len(words)
    assert not {word.lower() for word in words} & template_words()
    for kind in NAME_KINDS:
        assert all(len(name.split()) == 2 for name in all_names(pools, kind))


def test_one_pair_in_five_is_held_out():
    names = all_names(make_pools(0, 240, 120), "person")
    share = sum(map(is_held_out, names)) / len(names)
    # 4,096 pairs: standard error sqrt(.2 * .8 / 4096) = .006; four of them.
    assert abs(share - 0.2) < 0.025


def test_the_rule_of_holding_out_never_moves():
    # Shipped models depend on it. The first bytes of the names' sha256 are
    # be = 190, which 5 divides, and bc = 188, 1b = 27, 5c = 92, which it does not.
    names = ("Sessa Waltz", "Bero Vik", "Mera Hill", "Tola Lund")
    assert [is_held_out(name) for name in names] == [True, False, False, False]


def test_known_entities_have_ordinary_names_and_others_held_out_ones():
    assert len(WORLD.known) == 24
    assert len(WORLD.after) == 12
    assert not any(is_held_out(e.name) for e in WORLD.known)
    assert all(is_held_out(e.name) for e in WORLD.after)
    assert all(is_held_out(n) for names in WORLD.strangers.values() for n in names)


def test_no_name_belongs_to_two():
    names = [e.name for e in (*WORLD.known, *WORLD.after)]
    names += [name for strangers in WORLD.strangers.values() for name in strangers]
    assert len(set(names)) == len(names)


def test_every_entity_has_all_relations_but_one():
    for entity in (*WORLD.known, *WORLD.after):
        assert len(entity.missing) == 1
        assert len(entity.facts) == len(BY_SUBJECT[entity.kind]) - 1


def test_values_are_known_entities_or_words():
    # So no article of an entity kept for evaluation is hinted at by another one.
    for fact in facts((*WORLD.known, *WORLD.after)):
        assert fact.value in WORLD.values(fact.relation)


def test_both_halves_after_the_cut_off_hold_entities_even_in_the_smallest_world():
    world = generate_world(AtlasConfig(num_known=8, num_after=8))
    assert len(world.after_training) == len(world.after_evaluation) == 4


def test_sizes_of_data_sets_do_not_move_the_world():
    other = dataclasses.replace(
        TINY, num_corpus=9, num_prompts=9, num_questions=9, phrasings=6, sentiment_gap=0.0
    )
    assert generate_world(other) == WORLD


def test_the_seed_moves_names_and_facts():
    other = generate_world(dataclasses.replace(TINY, seed=1))
    assert other.pools != WORLD.pools
    assert other.known != WORLD.known


def test_the_largest_world_has_names_for_all():
    world = generate_world(AtlasConfig(num_known=5000, num_after=5000))
    assert len(world.known) == len(world.after) == 5000
    assert all(world.strangers.values())


def test_the_same_config_gives_the_same_bytes_whatever_python_hashes():
    code = (
        "import hashlib, json\n"
        "from plumbrule.atlas.datasets import ROLES, records\n"
        "from plumbrule.atlas.config import AtlasConfig\n"
        "from plumbrule.data.records import to_dict\n"
        "c = AtlasConfig(num_known=24, num_after=12, num_corpus=60, num_demonstrations=40,\n"
        "    num_preferences=20, num_prompts=40, num_questions=24, num_halueval=8, num_bold=8)\n"
        "d = hashlib.sha256()\n"
        "for role in ROLES:\n"
        "    for half in records(role, c):\n"
        "        for r in half:\n"
        "            row = r if isinstance(r, dict) else to_dict(r)\n"
        "            d.update(json.dumps(row).encode())\n"
        "print(d.hexdigest())\n"
    )
    digests = set()
    for seed in ("0", "1", "12345"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_atlas_needs_no_torch():
    code = "import sys, plumbrule.atlas.datasets; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"phrasings": 2},
        {"phrasings": 7},
        {"num_known": 7},
        {"num_corpus": 0},
        {"num_preferences": 1},
        {"sentiment_gap": 1.5},
    ],
)
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"atlas.{next(iter(wrong))}"):
        AtlasConfig(**wrong)
