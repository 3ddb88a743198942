"""A process that changes a store is killed with SIGKILL, again and again; no commit is lost."""

from __future__ import annotations

import random
import time
from pathlib import Path

import forked
import pytest
from worlds.live_stores import PRINCIPALS, WORDS, Model, model_at

from rag.index.bm25 import KeywordIndex
from rag.index.dense import VectorIndex
from rag.options import PRESET_NAMES
from rag.store.live import LiveStore
from rag.store.opening import open_store
from rag.store.ranking import positive

CHILD = """
import random, sys
from pathlib import Path
from plumbrule.errors import ConfigError
from rag.store import derived
from rag.store.opening import make_store, open_store
from rag.store.settings import StoreSettings
from worlds.live_stores import Model, model_at, random_change

derived.TAIL_MOST, derived.BULK = 6, 20
root, kind = Path(sys.argv[1]), sys.argv[2]
try:
    store = open_store(root, "notes", approximate_from=20)
except ConfigError:  # there is none yet
    settings = StoreSettings(chunk_words=5, dimensions=32, dense_index=kind)
    store = make_store(root, "notes", settings, approximate_from=20)
print("open", flush=True)
while True:
    done = store.commit.number
    change = random_change(random.Random(f"change {done}"), model_at(done))
    print("did", change.apply(store), flush=True)
    if random.Random(f"compact {done}").random() < 0.15:
        store.compact()
"""


KINDS = ("flat", *PRESET_NAMES)
"""Every type that a live store may have; segments are of it from 20 chunks on."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind != "flat" else ()) for kind in KINDS]
)
def test_after_kills_the_store_stands_at_its_last_commit(tmp_path: Path, kind: str) -> None:
    kill_and_check(tmp_path, random.Random(kind), 3 if kind == "flat" else 8, kind)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_after_many_kills_the_store_stands_at_its_last_commit(tmp_path: Path, seed: int) -> None:
    kill_and_check(tmp_path, random.Random(seed), 25, "flat")


def kill_and_check(root: Path, draw: random.Random, kills: int, kind: str) -> None:
    """Kill a process that changes a store at random moments, and check the store each time."""
    reported = 0
    for _ in range(kills):
        reported = max(reported, killed(root, kind, draw.uniform(0.0, 0.4)))
        with open_store(root, "notes", approximate_from=20) as store:
            number = store.commit.number
            assert number >= reported  # what was reported is there
            check(store, model_at(number), draw)


def killed(root: Path, kind: str, seconds: float) -> int:
    """Start the process, kill it that long after its first change; the last commit it told of."""
    child = forked.Forked(["-c", CHILD, str(root), kind])
    lines = [child.stdout.readline(), child.stdout.readline()]
    assert lines[1].startswith("did"), lines
    time.sleep(seconds)
    child.kill()
    rest, _ = child.communicate()
    whole = [line for line in (lines[1] + rest).split("\n")[:-1] if line.startswith("did ")]
    return int(whole[-1].split()[1])


def check(store: LiveStore, model: Model, draw: random.Random) -> None:
    """Fail unless the store holds what the model does, and both searches find it."""
    assert [d.id for d in store.documents()] == sorted(model.documents)
    assert {d.id: d.text for d in store.documents()} == {
        id: document.text for id, document in model.documents.items()
    }
    encoder = store._encoder
    for principal in PRINCIPALS:
        chunks = model.readable(principal, 5)
        query = " ".join(draw.choices(WORDS, k=2))
        texts = [chunk.searched for chunk in chunks]
        for method in ("bm25", "dense"):
            if not texts:
                assert store.search([query], 5, principal, method) == [[]]
                continue
            # with a filter, one that passes everything, a search is exact on every type
            every = {"words": {"exists": True}}
            (found,) = store.search([query], 5, principal, method, filter=every)
            (plain,) = store.search([query], 5, principal, method)
            assert store.settings.dense_index != "flat" or plain == found
            if method == "bm25":
                (hits,) = KeywordIndex.build(texts).search([query], 5)
            else:
                index = VectorIndex.build(encoder.encode_passages(texts))
                hits = positive(index.search(encoder.encode_queries([query]), 5)[0])
            assert [one.chunk.id for one in found] == [chunks[row].id for row in hits.rows]
            assert [one.score for one in found] == [float(score) for score in hits.scores]
