"""What can be said in Atlas: sixteen relations, the words their values come from, the sentences.

A relation belongs to one type of subject and has values of one kind. It can be stated in up to six
sentences, of which a world uses the first `AtlasConfig.phrasings`; the first one is also the plain
form of an answer. It can be asked for in four question forms. Some sentences put the value before
the name, so that a reader can't go by position.

The words here are the only English in Atlas; every name is made up (`names.py`). Kinds of value
are either *names* (person, place, firm: the value is another entity) or *words* from a closed
list. No word of a list starts with a vowel, so "a {v}" is always right, none begins a sentence,
and none occurs in a sentence or question below: a judge can find values by looking for the words.
"""

from __future__ import annotations

from typing import NamedTuple

NAME_KINDS = ("person", "place", "firm", "work")


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS: dict[str, tuple[str, ...]] = {
    "profession": _list(
        "barber cobbler carpenter drummer dentist fisher gardener glazier harpist juggler joiner "
        "lawyer locksmith midwife miller notary painter pilot potter roofer sailor saddler singer "
        "tailor tanner weaver"
    ),
    "dish": _list(
        "barley beets cabbage carrots cheese cherries dumplings figs grapes ham herring honey "
        "leeks lentils mussels noodles pancakes pears plums radishes sausages trout turnips "
        "walnuts"
    ),
    "good": _list(
        "bells brooms candles canvas chalk cider cotton felt glass granite hats kettles lace "
        "lanterns leather mirrors needles paper pepper pottery ribbons rope salt silk soap "
        "tobacco velvet wool"
    ),
    "animal": _list(
        "badger bear beaver camel crane falcon fox gull hare heron jackal lion lynx magpie mole "
        "newt raven salmon stag stork swan tiger weasel wolf"
    ),
    "colour": _list(
        "black blue brown cream crimson gold green grey pink purple red silver turquoise violet "
        "white yellow"
    ),
    "year": tuple(str(year) for year in range(1901, 1961)),
}


class Relation(NamedTuple):
    """One thing that can be true of an entity.

    subject: type of the entity. value_kind: a name kind or a key of `WORDS`. statements and
    questions: `{n}` stands for the entity, `{v}` for the value.
    """

    name: str
    subject: str
    value_kind: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "residence",
        "person",
        "place",
        (
            "{n} resides in {v}.",
            "{n} keeps a house in {v}.",
            "Neighbours in {v} know {n} well.",
            "{n} has settled in {v}.",
            "The address of {n} is in {v}.",
            "{v} is the place where {n} resides.",
        ),
        (
            "Where does {n} reside?",
            "In which place has {n} settled?",
            "Which place is the residence of {n}?",
            "Where is the house of {n}?",
        ),
    ),
    Relation(
        "employer",
        "person",
        "firm",
        (
            "{n} is employed by {v}.",
            "{n} earns a wage at {v}.",
            "{v} pays the wage of {n}.",
            "{n} has signed on with {v}.",
            "Each morning {n} reports to {v}.",
            "The staff of {v} includes {n}.",
        ),
        (
            "By which firm is {n} employed?",
            "Who pays the wage of {n}?",
            "With which firm has {n} signed on?",
            "Which firm is the employer of {n}?",
        ),
    ),
    Relation(
        "profession",
        "person",
        "profession",
        (
            "{n} trained as a {v}.",
            "{n} earns a living as a {v}.",
            "Those who need a {v} send for {n}.",
            "The profession of {n} is that of a {v}.",
            "{n} took up the work of a {v}.",
            "As a {v}, {n} is often busy.",
        ),
        (
            "What is the profession of {n}?",
            "As what does {n} earn a living?",
            "For which work did {n} train?",
            "Which profession does {n} have?",
        ),
    ),
    Relation(
        "birth",
        "person",
        "year",
        (
            "{n} was born in {v}.",
            "The life of {n} began in {v}.",
            "The year {v} saw the birth of {n}.",
            "Records give {v} as the birth year of {n}.",
            "{n} first saw the light in {v}.",
            "{v} is the year in which {n} was born.",
        ),
        (
            "In which year was {n} born?",
            "When did the life of {n} begin?",
            "Which year saw the birth of {n}?",
            "Which birth year do records give for {n}?",
        ),
    ),
    Relation(
        "dish",
        "person",
        "dish",
        (
            "{n} is fond of {v}.",
            "At table {n} asks for {v}.",
            "A plate of {v} always pleases {n}.",
            "The dish that {n} prefers is {v}.",
            "For {n} the best dish is {v}.",
            "Guests bring {v} to {n}.",
        ),
        (
            "Which dish does {n} prefer?",
            "Of which dish is {n} fond?",
            "What does {n} ask for at table?",
            "What is the best dish for {n}?",
        ),
    ),
    Relation(
        "mayor",
        "place",
        "person",
        (
            "{n} is governed by {v}.",
            "{n} elected {v} as mayor.",
            "As mayor, {v} speaks for {n}.",
            "The council of {n} is led by {v}.",
            "The seal of {n} is kept by {v}.",
            "{v} is the mayor of {n}.",
        ),
        (
            "By whom is {n} governed?",
            "Whom did {n} elect as mayor?",
            "Who speaks for {n} as mayor?",
            "Who leads the council of {n}?",
        ),
    ),
    Relation(
        "export",
        "place",
        "good",
        (
            "{n} exports {v}.",
            "The merchants of {n} deal in {v}.",
            "Carts of {v} leave {n} daily.",
            "{n} lives from the trade in {v}.",
            "The wealth of {n} comes from {v}.",
            "Buyers of {v} often visit {n}.",
        ),
        (
            "What does {n} export?",
            "In what do the merchants of {n} deal?",
            "From which trade does {n} live?",
            "From what does the wealth of {n} come?",
        ),
    ),
    Relation(
        "charter",
        "place",
        "year",
        (
            "{n} was settled in {v}.",
            "The charter of {n} dates from {v}.",
            "In {v} settlers came to {n}.",
            "The history of {n} goes back to {v}.",
            "The oldest house in {n} was built in {v}.",
            "{v} is the year in which {n} was settled.",
        ),
        (
            "In which year was {n} settled?",
            "From which year does the charter of {n} date?",
            "When did settlers come to {n}?",
            "To which year does the history of {n} go back?",
        ),
    ),
    Relation(
        "emblem",
        "place",
        "animal",
        (
            "{n} has a {v} on its flag.",
            "The emblem of {n} is a {v}.",
            "A {v} stands on the gate of {n}.",
            "{n} chose the {v} as its emblem.",
            "Coins from {n} carry a {v}.",
            "The flag with the {v} is that of {n}.",
        ),
        (
            "Which animal is on the flag of {n}?",
            "What is the emblem of {n}?",
            "Which animal stands on the gate of {n}?",
            "Which animal did {n} choose as its emblem?",
        ),
    ),
    Relation(
        "director",
        "firm",
        "person",
        (
            "{n} is directed by {v}.",
            "{n} appointed {v} as director.",
            "{v} signs the letters of {n}.",
            "The director of {n} is {v}.",
            "Staff at {n} answer to {v}.",
            "{v} directs {n}.",
        ),
        (
            "By whom is {n} directed?",
            "Whom did {n} appoint as director?",
            "Who signs the letters of {n}?",
            "Who is the director of {n}?",
        ),
    ),
    Relation(
        "office",
        "firm",
        "place",
        (
            "{n} has its main office in {v}.",
            "{n} is run from {v}.",
            "{v} is where {n} opened its doors.",
            "Letters to {n} go to {v}.",
            "The main office of {n} stands in {v}.",
            "In {v} one finds the office of {n}.",
        ),
        (
            "Where does {n} have its main office?",
            "From which place is {n} run?",
            "Where did {n} open its doors?",
            "To which place do letters to {n} go?",
        ),
    ),
    Relation(
        "product",
        "firm",
        "good",
        (
            "{n} manufactures {v}.",
            "The workshops of {n} supply {v}.",
            "Crates of {v} come from {n}.",
            "Workers at {n} turn out {v}.",
            "The main product of {n} is {v}.",
            "Orders for {v} go to {n}.",
        ),
        (
            "What does {n} manufacture?",
            "What do the workshops of {n} supply?",
            "What do workers at {n} turn out?",
            "What is the main product of {n}?",
        ),
    ),
    Relation(
        "livery",
        "firm",
        "colour",
        (
            "{n} paints its vans {v}.",
            "{n} prints its name in {v}.",
            "A {v} band marks each crate from {n}.",
            "Uniforms at {n} are {v}.",
            "The colour that {n} chose is {v}.",
            "Those in {v} uniforms come from {n}.",
        ),
        (
            "What colour are the vans of {n}?",
            "In which colour does {n} print its name?",
            "What colour are uniforms at {n}?",
            "Which colour did {n} choose?",
        ),
    ),
    Relation(
        "author",
        "work",
        "person",
        (
            "{n} was written by {v}.",
            "The title page of {n} names {v}.",
            "{v} wrote {n}.",
            "Readers owe {n} to {v}.",
            "The author of {n} is {v}.",
            "{v} signed the first copy of {n}.",
        ),
        (
            "By whom was {n} written?",
            "Whom does the title page of {n} name?",
            "Who wrote {n}?",
            "Who is the author of {n}?",
        ),
    ),
    Relation(
        "printing",
        "work",
        "year",
        (
            "{n} was printed in {v}.",
            "The first copies of {n} date from {v}.",
            "In {v} readers first saw {n}.",
            "{n} appeared in {v}.",
            "The printing of {n} was finished in {v}.",
            "{v} is the year in which {n} was printed.",
        ),
        (
            "In which year was {n} printed?",
            "From which year do the first copies of {n} date?",
            "When did readers first see {n}?",
            "When did {n} appear?",
        ),
    ),
    Relation(
        "setting",
        "work",
        "place",
        (
            "{n} is set in {v}.",
            "{n} tells of life in {v}.",
            "{v} is the scene of {n}.",
            "The pages of {n} describe {v}.",
            "The story of {n} takes place in {v}.",
            "In {v} the story of {n} begins.",
        ),
        (
            "Where is {n} set?",
            "Of life in which place does {n} tell?",
            "Which place do the pages of {n} describe?",
            "In which place does the story of {n} begin?",
        ),
    ),
)

BY_NAME: dict[str, Relation] = {relation.name: relation for relation in RELATIONS}
BY_SUBJECT: dict[str, tuple[Relation, ...]] = {
    kind: tuple(r for r in RELATIONS if r.subject == kind) for kind in NAME_KINDS
}


def state(relation: str, name: str, value: str, phrasing: int = 0) -> str:
    """Return the sentence that gives `name` the value, in one of the relation's phrasings."""
    return BY_NAME[relation].statements[phrasing].format(n=name, v=value)


def sentence_start(relation: str, name: str) -> str:
    """Return the plain sentence for `name` up to where its value would stand."""
    return BY_NAME[relation].statements[0].split(" {v}")[0].format(n=name)


def ask(relation: str, name: str, form: int) -> str:
    """Return the question that asks for the value of `name`, in one of the four forms."""
    return BY_NAME[relation].questions[form].format(n=name)
