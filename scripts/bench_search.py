"""Exact search and encoding: vectors compared and tokens read per second, on a device.

    python scripts/bench_search.py                             # a CPU
    python scripts/bench_search.py --shape 1b --device cuda    # 1M and 200k vectors of 384 numbers

Search: the 10 nearest of all vectors, by inner product, for a batch of 256 queries, as one matrix
product and a top-k in torch, in float32; beside it, where FAISS is installed, the exact index of
`rag.dense_index=flat` on the CPU. Both are compared with a float64 product on some queries: a
place counts as the same where its row, or its score to 1e-6, is. Encoding: an encoder of
all-MiniLM-L6's shape with random weights, as `rag.encoder` loads one; useful FLOPs are 2 per weight
of its layers and token, over the rate of a matrix product. The last line is a JSON object.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from device_rates import device_name, matmul_rate, seconds_of

DIMENSIONS, QUERIES, DEPTH = 384, 256, 10
SHAPE = {
    "small": {"vectors": (50_000, 10_000), "texts": 64, "layers": 2},
    "1b": {"vectors": (1_000_000, 200_000), "texts": 4096, "layers": 6},
}
"""vectors: of the indexes. texts, layers: of the encoder. Named as those of bench_ppo.py are."""
CHECKED = 16
"""Queries that are compared with float64."""
VOCABULARY, WORDS, HEADS, WIDTH = 30522, 100, 12, 1536
"""Of the encoder, words of a text among them."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPE, default="small")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    found: dict[str, Any] = {"device": device_name(given.device), "repeats": given.repeats}
    for number in SHAPE[given.shape]["vectors"]:
        found[f"search_{number}"] = search(number, given)
        print(json.dumps(found), flush=True)
    found["encode"] = encode(given)
    print(json.dumps(found))


def search(number: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return queries per second of torch on the device and of FAISS, and how right they are."""
    import torch

    draw = torch.Generator().manual_seed(number)
    vectors = torch.nn.functional.normalize(torch.randn(number, DIMENSIONS, generator=draw), dim=1)
    queries = torch.nn.functional.normalize(torch.randn(QUERIES, DIMENSIONS, generator=draw), dim=1)
    held, asked = vectors.to(given.device), queries.to(given.device)
    seconds = seconds_of(lambda: nearest(held, asked), given.device, given.repeats)
    flops = 2.0 * number * DIMENSIONS * QUERIES / seconds
    right = (queries[:CHECKED].double() @ vectors.double().T).topk(DEPTH)
    rows = nearest(held, asked)[1][:CHECKED].cpu()
    told: dict[str, Any] = {
        "queries_per_second": round(QUERIES / seconds, 1),
        "flops_share": round(flops / matmul_rate(torch.float32, given.device), 3),
        "same_results": same(rows, right, queries, vectors),
        "faiss_queries_per_second": None,
    }
    index = faiss_index(vectors.numpy())
    if index is not None:
        few = queries[:CHECKED].numpy()
        seconds = seconds_of(lambda: index.search(few, DEPTH), "cpu", 1) * QUERIES / CHECKED
        rows = torch.from_numpy(np.stack([hits.rows for hits in index.search(few, DEPTH)]))
        told["faiss_queries_per_second"] = round(QUERIES / seconds, 1)
        told["faiss_same_results"] = same(rows, right, queries, vectors)
    return told


def nearest(vectors: Any, queries: Any) -> Any:
    """Return (scores, rows), both (q, DEPTH), of the vectors nearest to each query."""
    import torch

    step = max(1, 2**31 // (4 * len(queries)))  # 2 GiB of scores at a time
    parts = []
    for first in range(0, len(vectors), step):
        scores, rows = (queries @ vectors[first : first + step].T).topk(DEPTH)
        parts.append((scores, rows + first))
    scores, rows = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    best = scores.topk(DEPTH)
    return best.values, rows.gather(1, best.indices)


def same(rows: Any, right: Any, queries: Any, vectors: Any) -> float:
    """Return the share of places with the right row, or with another of the same score."""
    scores = (queries[: len(rows), None].double() * vectors[rows].double()).sum(-1)
    equal = (rows == right.indices) | ((scores - right.values).abs() <= 1e-6)
    return float(equal.double().mean())


def faiss_index(vectors: np.ndarray) -> Any:
    """Return FAISS's exact index of the vectors; None where FAISS is not installed."""
    from plumbrule.errors import ConfigError
    from rag.index.dense import VectorIndex

    try:
        return VectorIndex.build(vectors)
    except (ConfigError, ImportError) as error:
        print(f"without FAISS: {error}", file=sys.stderr, flush=True)
        return None


def encode(given: argparse.Namespace) -> dict[str, Any]:
    """Return tokens per second of an encoder with random weights, as an index loads it."""
    import torch

    from rag.index.encoders import NEURAL, load_encoder

    size = SHAPE[given.shape]
    draw = np.random.default_rng(0)
    texts = [
        " ".join(f"w{word}" for word in draw.integers(VOCABULARY - 10, size=WORDS))
        for _ in range(size["texts"])
    ]
    with tempfile.TemporaryDirectory() as scratch:
        write_encoder(Path(scratch), size["layers"])
        encoder = load_encoder(NEURAL, Path(scratch), given.device)
    seconds = seconds_of(lambda: encoder.encode_queries(texts), given.device, given.repeats)
    tokens = len(texts) * (WORDS + 2)
    weights = size["layers"] * (4 * DIMENSIONS**2 + 2 * DIMENSIONS * WIDTH)
    rate = matmul_rate(torch.float32, given.device)
    return {
        "tokens_per_second": round(tokens / seconds),
        "useful_share": round(2.0 * weights * tokens / seconds / rate, 3),
        "layers": size["layers"],
    }


def write_encoder(folder: Path, layers: int) -> None:
    """Write an encoder with random weights, and a tokenizer of a word a token."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(VOCABULARY - 4))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=DIMENSIONS,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=WIDTH,
    )
    plain = folder / "plain"
    BertModel(config).save_pretrained(plain)
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(plain)
    parts = [Transformer(str(plain), max_seq_length=WORDS + 2), Pooling(DIMENSIONS)]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )


if __name__ == "__main__":
    main()
