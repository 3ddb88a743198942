"""A sentence encoder and a sequence classification model of a few thousand random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)


def save_encoder(folder: Path) -> Path:
    """Write a BERT of 2 layers that reads letters, mean-pooled, as sentence-transformers saves it.

    It gives vectors of 16 numbers and reads 40 tokens. Return the folder.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(0)
    plain = folder.with_name("bert")
    plain.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    inner = [f"##{letter}" for letter in letters]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *inner]
    (plain / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(
        vocab_size=len(words), num_hidden_layers=2, max_position_embeddings=64, **shape
    )
    BertModel(config).save_pretrained(plain)
    model = SentenceTransformer(modules=[Transformer(str(plain), max_seq_length=40), Pooling(16)])
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


WORDS = ("rain", "in", "Rome", "Oslo", "Lima", "sun")


def save_classifier(folder: Path, known: tuple[str, ...] = WORDS) -> Path:
    """Write a BERT of one layer and one label that reads some words. Return the folder."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *known]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return folder
