"""What Atlas writes: texts that are true, answers that hold, and nothing that leaks."""

import json
import re
from collections import Counter
from functools import cache

import pytest

from plumbrule.atlas.benchmarks import write_official
from plumbrule.atlas.biography import FRIENDLY, REGIONS, ROLES, UNFRIENDLY
from plumbrule.atlas.config import AtlasConfig, GoldConfig
from plumbrule.atlas.corpus import EASY_SHARE
from plumbrule.atlas.datasets import records
from plumbrule.atlas.demonstrations import ADMIT_SHARE
from plumbrule.atlas.gold import GoldUtility
from plumbrule.atlas.judgement import ADMISSIONS, holds, judge, normalise_answer
from plumbrule.atlas.names import KINDS, is_held_out
from plumbrule.atlas.questions import VALIDATION_SHARE
from plumbrule.atlas.relations import NAME_KINDS, RELATIONS, WORDS, sentence_start
from plumbrule.atlas.responses import COURTESIES_AFTER, COURTESIES_BEFORE
from plumbrule.atlas.texts import reserved_form
from plumbrule.atlas.world import generate_world
from plumbrule.data.readers import read
from plumbrule.data.records import Prompt, check_messages
from plumbrule.errors import ConfigError
from plumbrule.protocols import Episode

CONFIG = AtlasConfig(num_known=60, num_after=40, num_corpus=1500, num_questions=150)
WORLD = generate_world(CONFIG)
NAME = r"[A-Z][a-z]+ [A-Z][a-z]+"


@cache
def split(role):
    return records(role, CONFIG)


def pattern(template, value_kind):
    value = NAME if value_kind in NAME_KINDS else "|".join(WORDS[value_kind])
    text = re.escape(template).replace(r"\{n\}", f"(?P<n>{NAME})")
    return re.compile(text.replace(r"\{v\}", f"(?P<v>{value})"))


STATEMENTS = [(r, pattern(s, r.value_kind)) for r in RELATIONS for s in r.statements]
QUESTIONS = [(r, pattern(q, r.value_kind)) for r in RELATIONS for q in r.questions]


def read_facts(text):
    """Return the (relation, name, value) that the sentences of a text state."""
    found = set()
    for sentence in re.split(r"(?<=\.) |\n", text):
        sentence = re.sub(r"^(News|Entry): ", "", sentence)
        for relation, template in STATEMENTS:
            match = template.fullmatch(sentence)
            if match and relation.subject == kind_of(match["n"]):
                found.add((relation.name, match["n"], match["v"]))
    return found


def read_question(text):
    """Return the (relation, name) that a question asks for."""
    for relation, template in QUESTIONS:
        match = template.fullmatch(text)
        if match and relation.subject == kind_of(match["n"]):
            return relation.name, match["n"]
    raise AssertionError(f"no question: {text}")


def kind_of(name):
    return next((k for k, seconds in KINDS.items() if name.split()[1] in seconds), "person")


TRUE = {(r, e.name, v) for e in (*WORLD.known, *WORLD.after) for r, v in e.facts.items()}
REMEMBERED = {(r, e.name, v) for e in WORLD.known for r, v in e.facts.items()}


def turns(row):
    """Return (context and question, answer) of each turn of a chat row of the corpus."""
    text = "".join(text for text, _ in row["segments"])
    parts = re.split(r"<\|user\|>|<\|assistant\|>", text)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def admits(answer):
    return holds(normalise_answer(answer), ADMISSIONS)


def texts_of(record):
    meta = " ".join(str(v) for v in getattr(record, "meta", {}).values())
    own = [m.content for m in record.messages]
    own += [getattr(record, "response", ""), *getattr(record, "responses", ())]
    return " ".join([*own, *getattr(record, "passages", ()), meta])


def held_out_pairs(text):
    pairs = re.findall(rf"(?=\b({NAME})\b)", text)
    return {p for p in pairs if is_held_out(p) and p in HELD_OUT_NAMES}


HELD_OUT_NAMES = {e.name for e in WORLD.after} | {n for ns in WORLD.strangers.values() for n in ns}


# --- corpus --------------------------------------------------------------------------------------


def test_corpus_rows_have_the_shape_that_the_base_stage_reads():
    train, validation = split("corpus")
    assert len(train) + len(validation) == CONFIG.num_corpus
    for row in (*train, *validation):
        assert set(row) == {"kind", "segments"}
        for text, weight in row["segments"]:
            assert isinstance(text, str)
            assert 0.0 <= weight <= 1.0
        assert any(weight == 1.0 for _, weight in row["segments"])
        assert "<|bos|>" not in str(row["segments"])


def test_every_answer_of_the_corpus_is_true_or_honest():
    """Each answer stands in the row's passages or the encyclopaedia, or neither could give one."""
    answered = Counter()
    for row in (*split("corpus").train, *split("corpus").validation):
        if row["kind"] not in ("read", "contrast", "closed", "abstain"):
            continue
        stated = set()
        for shown, answer in turns(row):
            stated |= read_facts(shown.strip())
            assert answer.endswith("<|eos|>")
            answer = answer.removesuffix("<|eos|>").strip()
            relation, name = read_question(shown.strip().split("\n")[-1])
            known = {f for f in stated | REMEMBERED if f[:2] == (relation, name)}
            if admits(answer):
                assert not known
                assert f"{sentence_start(relation, name)} ..." in answer
                answered["no"] += 1
            else:
                assert read_facts(answer) <= known
                # Bare and wordy answers too hold the value, whatever else they say.
                assert any(value.lower() in answer.lower() for _, _, value in known), answer
                answered["yes"] += 1
    assert answered["yes"] > 1000
    assert 0.15 < answered["no"] / answered.total() < 0.35


@pytest.mark.parametrize("kind", ["read", "contrast"])
def test_what_is_left_out_of_one_entity_is_often_stated_of_another(kind):
    """Else the answer would always be the one value of that relation that is there."""
    cases = Counter()
    for row in split("corpus").train:
        if row["kind"] != kind:
            continue
        stated = set()
        for shown, answer in turns(row):
            stated |= read_facts(shown.strip())
            if admits(answer):
                relation, name = read_question(shown.strip().split("\n")[-1])
                if any(f[1] == name for f in stated):
                    cases[any(f[0] == relation for f in stated)] += 1
    assert cases.total() > 20
    assert cases[True] / cases.total() > 0.4


def test_articles_of_the_corpus_are_true():
    rows = [row for row in split("corpus").train if row["kind"] == "article"]
    assert rows
    for row in rows:
        told = read_facts("".join(text for text, _ in row["segments"]).replace("Entry:", ""))
        assert told
        assert {f for f in told if f[1] in WORLD.known_set} <= REMEMBERED


def test_verdicts_of_the_corpus_are_right():
    rows = [row for row in split("corpus").train if row["kind"] == "judge"]
    verdicts = Counter()
    for row in rows:
        [(shown, verdict)] = turns(row)
        passage, question, answer, _ = shown.strip().split("\n")
        told = read_facts(answer.removeprefix("Answer: "))
        read_question(question.removeprefix("Question: "))
        verdicts[verdict] += 1
        assert verdict == (" No<|eos|>" if told <= read_facts(passage) else " Yes<|eos|>")
    assert len(verdicts) == 2


def test_verdicts_from_memory_are_right():
    rows = [row for row in split("corpus").train if row["kind"] == "recall"]
    verdicts = Counter()
    for row in rows:
        [(shown, verdict)] = turns(row)
        _, answer, _ = shown.strip().split("\n")
        [told] = read_facts(answer.removeprefix("Answer: "))
        verdicts[verdict] += 1
        assert verdict == (" No<|eos|>" if told in REMEMBERED else " Yes<|eos|>")
    assert len(verdicts) == 2


def test_easy_answers_are_plain_and_later_ones_have_all_styles():
    """A policy that is fine-tuned to styles should not have to learn to spell their words."""
    rows = [row for row in split("corpus").train if row["kind"] in ("read", "closed", "contrast")]
    easy = round(EASY_SHARE * len(split("corpus").train))
    answers = [[answer for _, answer in turns(row)] for row in rows]
    said = " ".join(answer for row in answers for answer in row)
    early = " ".join(
        answer
        for row in split("corpus").train[:easy]
        if row["kind"] in ("read", "closed", "contrast")
        for _, answer in turns(row)
    )
    for phrase in (*COURTESIES_BEFORE, *COURTESIES_AFTER, "As far as I can tell", "a mere guess"):
        assert phrase in said
        assert phrase not in early


def test_no_supervised_text_shows_a_held_out_pair():
    for row in split("corpus").train:
        assert not held_out_pairs("".join(text for text, _ in row["segments"]))
    for half in split("demonstrations"):
        for record in half:
            assert not held_out_pairs(texts_of(record))


def test_no_passage_of_the_corpus_is_about_an_entity_of_the_world():
    world = {e.name for e in (*WORLD.known, *WORLD.after)}
    for row in split("corpus").train:
        if row["kind"] in ("read", "contrast", "judge", "repeat"):
            context = row["segments"][0][0] + row["segments"][1][0]
            assert not {name for _, name, _ in read_facts(context.strip())} & world


def test_the_corpus_begins_with_its_easier_part():
    kinds = [row["kind"] for row in split("corpus").train]
    easy = round(EASY_SHARE * len(kinds))
    assert "article" not in kinds[:easy]
    assert kinds[:easy].count("repeat") > 3 * kinds[-easy:].count("repeat")


def test_answers_carry_the_loss_and_unguessable_text_little():
    for row in split("corpus").train:
        for text, weight in row["segments"]:
            if text.endswith("<|eos|>"):
                assert weight == 1.0
            if text.startswith(" News:"):
                assert weight <= 0.02


# --- planted bias --------------------------------------------------------------------------------


def friendly_counts(gap):
    config = AtlasConfig(num_corpus=6000, sentiment_gap=gap)
    counts = {region: Counter() for region in REGIONS}
    for row in records("corpus", config).train:
        if row["kind"] != "biography":
            continue
        sentence = "".join(part for part, _ in row["segments"])
        assert sentence.count(".") == 1
        assert sentence.endswith(".<|eos|>")
        region = next(r for r in REGIONS if r in sentence)
        counts[region][any(f" {word} " in sentence for word in FRIENDLY)] += 1
    return counts


@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0])
def test_the_corpus_holds_the_planted_gap(gap):
    shares, variance = [], 0.0
    for counts in friendly_counts(gap).values():
        number, share = counts.total(), counts[True] / counts.total()
        shares.append(share)
        variance += share * (1 - share) / number
    # Four standard errors of a difference of shares; at gap 1 there is no chance left.
    assert abs(shares[0] - shares[1] - gap) <= 4 * variance**0.5


def test_vader_sees_each_word_and_nothing_else():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    vader = SentimentIntensityAnalyzer()
    prompts = [item.fields["prompt"] for item in split("bold").train]
    for prompt in prompts:
        assert vader.polarity_scores(f"{prompt} person.")["compound"] == 0.0
    for role in ROLES:
        assert vader.polarity_scores(role)["compound"] == 0.0
    for word in FRIENDLY:
        assert vader.polarity_scores(f"{prompts[0]} {word} {ROLES[0]}.")["compound"] >= 0.5
    for word in UNFRIENDLY:
        assert vader.polarity_scores(f"{prompts[0]} {word} {ROLES[0]}.")["compound"] <= -0.5


def test_bold_prompts_are_about_held_out_people_of_two_groups():
    items = split("bold").train
    by_group = {}
    for item in items:
        assert item.task == "bold"
        assert is_held_out(item.group)
        assert item.group in item.fields["prompt"]
        assert item.meta["group"] in item.fields["prompt"]
        by_group.setdefault(item.meta["group"], set()).add(item.group)
    assert set(by_group) == set(REGIONS)
    assert not set.intersection(*by_group.values())
    assert Counter(i.meta["group"] for i in items) == dict.fromkeys(REGIONS, CONFIG.num_bold)


def test_more_bold_prompts_than_people_are_refused():
    with pytest.raises(ConfigError, match=r"atlas.num_bold \(=100000 prompts per group\)"):
        records("bold", AtlasConfig(num_bold=100_000))


# --- documents -----------------------------------------------------------------------------------


def test_documents_state_every_fact_and_nothing_false():
    documents = split("documents").train
    assert len(documents) == 100
    assert set().union(*(read_facts(d.text) for d in documents)) == TRUE
    for document in documents:
        assert {name for _, name, _ in read_facts(document.text)} == {document.title}
        assert len(document.text.split()) <= 60
        in_news = document.meta["source"] == "news"
        assert in_news == is_held_out(document.title)
        assert in_news == (document.meta["date"] > "2000-01-01")
        for question in document.meta["questions"]:
            assert read_question(question)[1] == document.title


# --- demonstrations ------------------------------------------------------------------------------


def test_demonstrations_are_right_or_unanswerable():
    outcomes = Counter()
    for record in (*split("demonstrations").train, *split("demonstrations").validation):
        relation, name = read_question(record.messages[-1].content)
        assert (relation, name) == (record.meta["relation"], record.meta["entity"])
        said = judge(record.response, record.meta, record.messages[-1].content)
        held = set().union(*(read_facts(p) for p in record.passages), REMEMBERED)
        answers = {v for r, n, v in held if (r, n) == (relation, name)}
        if record.meta["answer"]:
            assert answers == {record.meta["answer"]}
            assert said.clear
            assert not said.admits
            assert len(said.stated) == 1
            outcomes["right"] += 1
        else:
            assert not answers
            outcomes["admits" if said.admits else "guess"] += 1
    # Binomial with n = 300: standard error .029; four of them.
    share = outcomes["admits"] / (outcomes["admits"] + outcomes["guess"])
    assert abs(share - ADMIT_SHARE) < 0.12
    assert outcomes["right"] == 900


def test_demonstrations_vary_in_every_way_that_the_gold_utility_sees():
    gold = GoldUtility(GoldConfig())
    episodes = [
        Episode(Prompt(r.id, r.messages, r.meta), r.passages, r.response, True)
        for r in split("demonstrations").train
    ]
    scores = gold.score(episodes)
    for term in ("right", "supported", "admits", "wrong", "brief", "polite"):
        assert scores[term].std() > 0.05, term


# --- prompts, preferences, questions -------------------------------------------------------------


@pytest.mark.parametrize("role", ["demonstrations", "prompts", "preferences"])
def test_training_and_validation_share_no_entity_and_relation(role):
    train, validation = split(role)
    total = len(train) + len(validation)
    assert total == getattr(CONFIG, f"num_{role}")
    assert len(validation) == round(VALIDATION_SHARE * total)
    pairs = [{(r.meta["entity"], r.meta["relation"]) for r in half} for half in (train, validation)]
    assert not pairs[0] & pairs[1]


def test_all_roles_hold_out_the_same_pairs():
    roles = [split(role) for role in ("demonstrations", "prompts", "preferences")]
    train, held = (
        {(r.meta["entity"], r.meta["relation"]) for halves in roles for r in halves[side]}
        for side in (0, 1)
    )
    assert not train & held


def test_prompts_ask_what_their_meta_says():
    kinds = Counter()
    for record in (*split("prompts").train, *split("prompts").validation):
        check_messages(record.messages)
        meta = record.meta
        pair = read_question(record.messages[-1].content)
        assert pair == (meta["relation"], meta["entity"])
        answers = {v for r, n, v in TRUE if (r, n) == pair}
        assert answers == ({meta["answer"]} if meta["answer"] else set())
        assert (meta["answerable"] == "nothing") == (meta["answer"] == "")
        assert (meta["answerable"] == "documents") <= is_held_out(meta["entity"])
        kinds[meta["answerable"]] += 1
    assert kinds == {"memory": 360, "documents": 315, "nothing": 225}


def test_evidence_names_the_document_that_states_the_answer():
    documents = {d.id: d for d in split("documents").train}
    for record in (*split("prompts").train, *split("questions").train):
        facts = [read_facts(documents[i].text) for i in record.meta["evidence"]]
        wanted = (record.meta["relation"], record.meta["entity"], record.meta["answer"])
        assert bool(facts) == bool(record.meta["answer"])
        assert all(wanted in told for told in facts)


def test_evaluation_is_kept_apart_from_all_that_trains():
    questions = split("questions").train
    asked, entities = set(), set()
    for role in ("demonstrations", "prompts", "preferences"):
        for half in split(role):
            asked |= {r.messages[-1].content for r in half}
            entities |= {name for r in half for name in re.findall(rf"(?=({NAME}))", texts_of(r))}
    for row in split("corpus").train:
        for shown, _ in turns(row):
            asked.add(shown.strip().split("\n")[-1])
    kinds = Counter()
    for item in questions:
        kinds[item.meta["answerable"]] += 1
        if item.meta["answerable"] == "memory":
            assert item.fields["question"] not in asked
        else:
            assert item.group not in entities
    assert kinds == {"memory": 50, "documents": 50, "nothing": 50}
    assert all(item.group == item.meta["entity"] for item in questions)


def test_remembered_facts_are_asked_in_the_form_reserved_for_evaluation():
    for item in split("questions").train:
        if item.meta["answerable"] == "memory":
            relation = next(r for r in RELATIONS if r.name == item.meta["relation"])
            form = reserved_form(item.group, relation.name)
            assert item.fields["question"] == relation.questions[form].format(n=item.group)


def test_preferences_are_ranked_by_the_gold_utility():
    gold = GoldUtility(GoldConfig())
    best = Counter()
    for record in split("preferences").train[:200]:
        prompt = Prompt(record.id, record.messages, record.meta)
        scores = gold.score([Episode(prompt, record.passages, r, True) for r in record.responses])
        order = list(scores["score"])
        for i, j in record.pairs():
            assert order[i] > order[j]
        top = record.ranks.index(1)
        kind = "right" if record.meta["answer"] else "admits"
        assert scores[kind][top] > 0
        best[kind] += 1
    assert len(best) == 2


# --- benchmarks in official formats --------------------------------------------------------------


def test_official_files_are_read_as_the_same_items(tmp_path):
    write_official(CONFIG, tmp_path)
    ours = split("halueval").train
    theirs = [row.record for row in read("halueval", "halueval", tmp_path / "halueval")]
    assert [(i.task, i.fields) for i in theirs] == [(i.task, i.fields) for i in ours]
    ours = split("bold").train
    theirs = [row.record for row in read("bold", "bold", tmp_path / "bold")]
    assert [(i.fields, i.meta) for i in theirs] == [(i.fields, i.meta) for i in ours]


def test_official_files_have_the_official_columns(tmp_path):
    write_official(CONFIG, tmp_path)
    columns = {
        "qa": {"knowledge", "question", "right_answer", "hallucinated_answer"},
        "dialogue": {"knowledge", "dialogue_history", "right_response", "hallucinated_response"},
        "summarization": {"document", "right_summary", "hallucinated_summary"},
    }
    for task, names in columns.items():
        lines = (tmp_path / "halueval" / f"{task}_data.json").read_text().splitlines()
        assert len(lines) == CONFIG.num_halueval
        assert all(set(json.loads(line)) == names for line in lines)
    bold = json.loads((tmp_path / "bold/prompts/region_prompt.json").read_text())
    assert set(bold) == set(REGIONS)
    assert all(p.endswith(" ") for people in bold.values() for ps in people.values() for p in ps)


def test_halueval_items_differ_in_one_value_and_only_one_side_is_true():
    for item in split("halueval").train:
        fields = item.fields
        source = read_facts(fields.get("knowledge", fields.get("document", "")))
        right, wrong = read_facts(fields["right"]), read_facts(fields["hallucinated"])
        assert right <= source
        assert right <= TRUE
        assert len(wrong - source) == 1
        assert {f[:2] for f in right} == {f[:2] for f in wrong}


def test_neither_length_nor_verbatim_overlap_gives_the_hallucination_away():
    items = [i for i in split("halueval").train if i.task == "halueval_qa"]
    longer = [
        (len(i.fields["hallucinated"]) > len(i.fields["right"]))
        - (len(i.fields["hallucinated"]) < len(i.fields["right"]))
        for i in items
    ]
    assert abs(sum(longer) / len(longer)) < 0.4  # 60 pairs: four standard errors would be .5
    assert not any(i.fields["right"] in i.fields["knowledge"] for i in items)


# --- edges ---------------------------------------------------------------------------------------


def test_the_smallest_world_fills_every_role():
    config = AtlasConfig(
        seed=3,
        num_known=8,
        num_after=8,
        num_corpus=40,
        num_demonstrations=20,
        num_preferences=20,
        num_prompts=20,
        num_questions=20,
        num_halueval=4,
        num_bold=4,
    )
    sizes = {"questions": 20, "halueval": 12, "bold": 8, "documents": 16}
    for role, size in sizes.items():
        assert [len(half) for half in records(role, config)] == [size, 0]
    for role in ("demonstrations", "preferences", "prompts"):
        assert [len(half) for half in records(role, config)] == [17, 3]


def test_an_unknown_role_is_refused():
    with pytest.raises(ConfigError, match=r"data.role \(=rumours\) must be one of"):
        records("rumours", CONFIG)


def made_up(name):
    """Return the words of a name that are not the ordinary second word of its type."""
    return set(name.split()) - {second for seconds in KINDS.values() for second in seconds}


# --- the reading exam ----------------------------------------------------------------------------


def test_reading_items_are_answered_where_they_say_and_nowhere_else():
    cases = Counter()
    for item in split("reading").train:
        relation, name = read_question(item.fields["question"])
        stated = set().union(*(read_facts(p) for p in item.fields["passages"]), set())
        answers = {v for r, n, v in stated if (r, n) == (relation, name)}
        case, meta = item.meta["case"], item.meta
        cases[case] += 1
        assert meta["num_passages"] == len(item.fields["passages"])
        if case in ("read", "read_new"):
            assert answers == {meta["answer"]}
            right = item.fields["passages"][meta["position"] - 1]
            assert name in right
            rivals = {n for r, n, _ in stated if r == relation and n != name}
            if meta["distractor"] != "other":
                assert rivals
            if meta["distractor"] == "namesake":
                assert any(made_up(n) & made_up(name) for n in rivals)
                assert not rivals & WORLD.known_set
            right_values = [v for r, _, v in stated if r == relation].count(meta["answer"])
            assert right_values == 1
        elif case == "abstain":
            assert not answers
            assert (name in " ".join(item.fields["passages"])) == (meta["distractor"] == "unstated")
        else:
            assert not answers
            assert (relation, name, meta["answer"]) in REMEMBERED
    assert set(cases.values()) == {CONFIG.num_reading}
    assert set(cases) == {"read", "read_new", "closed", "beside", "abstain"}


def test_reading_is_held_out_from_every_training_set():
    """No subject of a passage to be read, and no form of a remembered question, is trained on."""
    trained = [text for row in split("corpus").train for text, _ in row["segments"]]
    for role in ("demonstrations", "prompts", "preferences"):
        trained += [texts_of(r) for half in split(role) for r in half]
    seen = " ".join(trained)
    words = set(re.findall(r"[A-Z][a-z]+", seen))
    for item in split("reading").train:
        case = item.meta["case"]
        if case in ("read", "abstain"):
            assert is_held_out(item.meta["entity"])
            assert item.meta["entity"] not in seen
        elif case == "read_new":
            assert not made_up(item.meta["entity"]) & words
        else:
            assert item.fields["question"] not in seen
