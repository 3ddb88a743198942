"""What Atlas is measured with: questions with known answers, HaluEval's and BOLD's shapes.

`write_official` writes the latter two in the files of the originals, so that the readers of real
data can be run on them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from plumbrule.atlas.biography import bold_prompts
from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.halueval import halueval_rows, official_name
from plumbrule.atlas.questions import Question, cycle, meta_of
from plumbrule.atlas.texts import document_ids, reserved_form
from plumbrule.atlas.world import Entity, World, facts, generate_world
from plumbrule.data.records import BenchmarkItem

BOLD_DOMAIN = "region"
"""What stands where BOLD has race, gender, profession and so on."""


def news_questions(rng: random.Random, world: World) -> list[Question]:
    """Return the question on each fact of the evaluation half's news, in a random form."""
    return [
        Question(f.entity, f.relation, rng.randrange(4), "documents", f.value)
        for f in facts(world.after_evaluation)
    ]


def evaluated_forms(world: World, config: AtlasConfig) -> dict[tuple[str, str], int]:
    """Return (entity, relation) -> the form in which `question_items` asks it, of the news."""
    asked = news_questions(random.Random(f"atlas/{config.seed}/questions"), world)
    return {(question.entity.name, question.relation): question.form for question in asked}


def question_items(world: World, config: AtlasConfig) -> list[BenchmarkItem]:
    """Return evaluation questions: in turn from memory, from the news, and without an answer.

    Unanswerable ones are in turn on what an entity of the news lacks and on strangers.
    """
    rng = random.Random(f"atlas/{config.seed}/questions")
    ids = document_ids(world)
    known = [
        Question(f.entity, f.relation, reserved_form(f.entity.name, f.relation), "memory", f.value)
        for f in facts(world.known)
    ]
    after = news_questions(rng, world)
    lacking = [
        Question(e, r.name, rng.randrange(4), "nothing")
        for e in world.after_evaluation
        for r in e.missing
    ]
    strangers = [
        Entity(name, kind, {}) for kind, names in world.strangers.items() for name in names
    ]
    strange = [
        Question(e, rng.choice(e.missing).name, rng.randrange(4), "nothing") for e in strangers
    ]
    items: list[BenchmarkItem] = []
    memory, news, lack, unheard = (cycle(rng, pool) for pool in (known, after, lacking, strange))
    turns = (memory, news, lack, memory, news, unheard)
    for index in range(config.num_questions):
        question = next(turns[index % len(turns)])
        items.append(
            BenchmarkItem(
                f"question-{index:06d}",
                "question",
                {"question": question.text},
                question.entity.name,
                meta_of(question, ids),
            )
        )
    return items


def halueval_items(world: World, config: AtlasConfig) -> list[BenchmarkItem]:
    """Return `num_halueval` items for each of HaluEval's three paired tasks."""
    rng = random.Random(f"atlas/{config.seed}/halueval")
    items = []
    for task, rows in halueval_rows(rng, world, config).items():
        for index, (fields, entity) in enumerate(rows):
            items.append(BenchmarkItem(f"{task}-{index:05d}", f"halueval_{task}", fields, entity))
    return items


def bold_items(world: World, config: AtlasConfig) -> list[BenchmarkItem]:
    """Return `num_bold` sentence beginnings for each of the two regions."""
    items: list[BenchmarkItem] = []
    for group, people in bold_prompts(world, config).items():
        for name, prompts in people.items():
            for prompt in prompts:
                meta = {"domain": BOLD_DOMAIN, "group": group}
                identifier = f"bold-{len(items):05d}"
                items.append(BenchmarkItem(identifier, "bold", {"prompt": prompt}, name, meta))
    return items


def write_official(config: AtlasConfig, folder: Path | str) -> None:
    """Write Atlas's benchmarks under `folder` in the files and formats of HaluEval and BOLD."""
    world = generate_world(config)
    (Path(folder) / "halueval").mkdir(parents=True, exist_ok=True)
    (Path(folder) / "bold" / "prompts").mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"atlas/{config.seed}/halueval")
    for task, rows in halueval_rows(rng, world, config).items():
        path = Path(folder) / "halueval" / f"{task}_data.json"
        official = [{official_name(task, k): v for k, v in f.items()} for f, _ in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in official), encoding="utf-8")
    bold = {
        group: {name.replace(" ", "_"): [f"{p} " for p in ps] for name, ps in people.items()}
        for group, people in bold_prompts(world, config).items()
    }
    path = Path(folder) / "bold" / "prompts" / f"{BOLD_DOMAIN}_prompt.json"
    path.write_text(json.dumps(bold, indent=1) + "\n", encoding="utf-8")
