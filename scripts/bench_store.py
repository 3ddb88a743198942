"""A live store of many chunks: how soon one more document is found by both searches.

    python scripts/bench_store.py                       # 100,000 chunks of 384 numbers, flat
    python scripts/bench_store.py --chunks 1000000

Chunks are 40 words of a Zipf-like vocabulary with random unit vectors; the encoder is left out (its
vectors are drawn beforehand). Timed, in an open store: `add` of one document of one chunk, from the
call until the store would answer with it from either search, which is when `add` returns: the row
is on the disk and the index has caught up. Segments are made beforehand and not while it is timed.
Each added document is then looked for by keyword and by vector, and must be the first found. The
searches are timed too, at batch 1: the plain ones, and by keyword with a filter (the first one
reads the fields of every chunk). At the end the store is opened again: `open_ms` as it is, and
`open_reading_ms` where the list of segments knows no file, so that each is read and checked, as a
copied store is. The last line is a JSON object.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before faiss is  # isort: skip

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from plumbrule.data.records import Document
from plumbrule.store.json_files import read_json, write_json
from rag.chunks import chunks_of
from rag.options import DENSE_INDEXES
from rag.store.database import DATABASE, Database, Entry
from rag.store.derived import BULK, LIST, STAMPS
from rag.store.live import DERIVED, LiveStore
from rag.store.settings import StoreSettings

DIMENSIONS, WORDS, VOCABULARY, BATCH = 384, 40, 50_000, 20_000


class Drawn:
    """An encoder whose vectors are drawn at random from a text's hash: it takes no time."""

    dimensions = DIMENSIONS

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, DIMENSIONS) float32 of unit length."""
        if not texts:
            return np.empty((0, DIMENSIONS), dtype=np.float32)
        return np.stack([vector_of(text) for text in texts])

    encode_queries = encode_passages

    def num_cut(self, texts: Sequence[str]) -> int:
        """Return 0."""
        return 0

    def save(self, folder: Path) -> None:
        """Write nothing."""


def vector_of(text: str) -> np.ndarray:
    """Return a unit vector that depends on the text alone, (DIMENSIONS,) float32."""
    import xxhash

    drawn = np.random.default_rng(xxhash.xxh64_intdigest(text.encode())).standard_normal(DIMENSIONS)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def entries(number: int, draw: np.random.Generator) -> Iterator[Entry]:
    """Yield documents of one chunk each, with vectors."""
    vectors = draw.standard_normal((number, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ranks = (VOCABULARY ** draw.random((number, WORDS))).astype(int)
    for n in range(number):
        text = " ".join(f"w{rank}" for rank in ranks[n])
        meta = {"readers": ["*"], "year": 1900 + n % 100}
        document = Document(f"d{draw.integers(2**62)}", text, meta=meta)
        yield Entry(document, chunks_of(document, WORDS, 0), [vectors[n].tobytes()])


def filled(folder: Path, chunks: int, dense_index: str) -> LiveStore:
    """Return a store of so many chunks, all in one segment."""
    settings = StoreSettings(chunk_words=WORDS, dimensions=DIMENSIONS, dense_index=dense_index)
    about = {"settings": settings.as_json(), "encoder": "drawn"}
    database = Database.create(folder / DATABASE, about)
    draw = np.random.default_rng(0)
    for start in range(0, chunks, BATCH):
        database.change(list(entries(min(BATCH, chunks - start), draw)), [], "add")
        print(f"{start + BATCH} chunks are in the database", flush=True)
    store = LiveStore(folder, database, settings, Drawn())
    if chunks <= BULK:
        store.compact()
    return store


def add_visible(chunks: int, dense_index: str = "flat", repeats: int = 15) -> dict[str, Any]:
    """Return the milliseconds until one more document is visible, and those of a search."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        store = filled(Path(folder), chunks, dense_index)
        build = time.perf_counter() - started
        added, searched = [], {"bm25": [], "dense": []}
        for n in range(repeats):
            text = f"novelty{n} " + " ".join(f"w{n + i}" for i in range(WORDS - 1))
            document = Document(f"new{n}", text, meta={"readers": ["ann"]})
            vector_of(text)
            started = time.perf_counter()
            store.add([document])
            added.append(time.perf_counter() - started)
            for method, query in (("bm25", f"novelty{n}"), ("dense", text)):
                started = time.perf_counter()
                ((found,),) = store.search([query], 1, "ann", method)
                searched[method].append(time.perf_counter() - started)
                if found.chunk.document != document.id:
                    raise ValueError(f"{method} did not find what was added")
        filtered = []
        for _ in range(3):
            started = time.perf_counter()
            store.search(["w1 w20 w300"], 10, "ann", "bm25", filter={"year": {"min": 1990}})
            filtered.append(time.perf_counter() - started)
        store.close()
        reopened = opening(Path(folder), store.settings, repeats)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "chunks": chunks,
        "dense_index": dense_index,
        "add_visible_ms": round(1000 * median(added), 2),
        "add_visible_ms_most": round(1000 * max(added), 2),
        "search_ms": {m: round(1000 * median(seconds), 2) for m, seconds in searched.items()},
        "filtered_search_ms": [round(1000 * seconds, 1) for seconds in filtered],
        **reopened,
        "build_seconds": round(build, 1),
        "bytes": size,
        "repeats": repeats,
    }


def opening(folder: Path, settings: StoreSettings, repeats: int) -> dict[str, float]:
    """Return the milliseconds to open a store, with and without reading its files whole."""
    path = folder / DERIVED / LIST
    seconds: dict[str, list[float]] = {"open_ms": [], "open_reading_ms": []}
    for name, times in seconds.items():
        for _ in range(repeats):
            if name == "open_reading_ms":
                write_json(path, {k: v for k, v in read_json(path).items() if k != STAMPS})
            started = time.perf_counter()
            LiveStore(folder, Database(folder / DATABASE), settings, Drawn()).close()
            times.append(time.perf_counter() - started)
    return {name: round(1000 * median(times), 2) for name, times in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--dense-index", choices=list(DENSE_INDEXES), default="flat")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    print(json.dumps(add_visible(given.chunks, given.dense_index, given.repeats)))


if __name__ == "__main__":
    main()
