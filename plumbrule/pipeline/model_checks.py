"""What can be known of a model while planning: from its files' names and two of its JSON files.

Loading a model takes minutes and torch; most of what stops it stands in `config.json` and
`tokenizer_config.json`, or is the want of a file. What is not known to be wrong passes: loading
says the rest (`plumbrule/lm/loading.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.errors import ConfigError
from plumbrule.lm.config import ModelConfig
from plumbrule.overrides import as_override
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.plan import Lookups, Planned
from plumbrule.pipeline.stages import STAGES
from plumbrule.store.adapter_files import is_adapter_folder
from plumbrule.store.model_files import PICKLES, conversion_note
from plumbrule.store.packaged_files import located

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
"""Of which a folder with a tokenizer has one."""
TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes without special tokens of their own."""
WITHOUT_PAD = (
    *TOKENIZERS,
    *("GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast"),
)
"""Classes that name no pad token by themselves."""
LEARNED_POSITIONS = ("gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt", "opt", "biogpt", "xglm")
"""Model types with a table of positions, beyond which there is nothing."""
YES = ("1", "on", "yes", "true")


class Named(NamedTuple):
    """A model that a node will load. setting: what names it. context: tokens; None: any."""

    setting: str
    name: str
    revision: str | None
    pad_token: str | None
    context: int | None


def check_models(
    plan: list[Planned], *, dry: bool = False, lookups: Lookups | None = None
) -> list[str]:
    """Return what is worth knowing of the models that nodes to be built will load, as sentences.

    Args: dry: nothing will be built, so a model that is yet to be fetched is such a sentence.
    lookups: of plans that are made together, whose models are looked at once.
    Raises: ConfigError: some can't be loaded; one message lists all that is wrong.
    """
    models = dict.fromkeys(model for planned in plan for model in _models_of(planned))
    lookups = lookups or Lookups()
    found = [lookups.once(("model", m, dry), partial(_look_at, m, dry)) for m in models]
    wrong = [problem for problems_of, _ in found for problem in problems_of]
    notes = [note for _, notes_of in found for note in notes_of]
    if len(wrong) == 1:
        raise ConfigError(f"{wrong[0]}.")
    if wrong:
        listed = " ".join(f"({i}) {problem}." for i, problem in enumerate(wrong, 1))
        raise ConfigError(f"{len(wrong)} things are wrong with models: {listed}")
    return notes


def _look_at(model: Named, dry: bool) -> tuple[list[str], list[str]]:
    """Return what is wrong with a model, and what is worth knowing of it."""
    folder = _folder(model)
    if isinstance(folder, str):
        return ([], [folder]) if dry else ([folder], [])
    if folder is None or is_adapter_folder(folder):
        return [], []
    notes = _beyond_positions(folder, model)
    if said := conversion_note(folder):
        notes.append(f"{model.name}: {said}")
    return problems(folder, model), notes


def _models_of(planned: Planned) -> list[Named]:
    """Return the models that a node loads by name, where it is to be built."""
    node = planned.node
    if isinstance(node.config, Given) or planned.state not in ("build", "resume"):
        return []
    model: ModelConfig | None = STAGES[node.kind].model(node.config, node.inputs)
    if model is not None and model.name_or_path is not None:
        name = model.name_or_path
        return [Named("model.name_or_path", name, model.revision, model.pad_token, model.context)]
    others = {}
    if node.kind == "feedback":
        others["feedback.judge"] = node.config.judge
    if node.kind == "ppo":
        others["ppo.distill"] = node.config.distill
    reward = STAGES[node.kind].reward(node.config)
    if reward is not None and reward.asks_judge:
        others["reward.judge_model"] = reward.judge_model
    return [
        Named(f"{section}.name_or_path", of.name_or_path, of.revision, of.pad_token, None)
        for section, of in others.items()
        if of.name_or_path is not None
    ]


def _folder(model: Named) -> Path | str | None:
    """Return where a model's files lie; what is wrong where it can't be had; None: not known."""
    where = Path(located(model.name))
    if where.is_dir():
        return where
    from huggingface_hub import try_to_load_from_cache  # no torch

    found = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    if isinstance(found, str):
        return Path(found).parent
    offline = [v for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(v)]
    if not offline:
        return None
    return (
        f"{model.setting} (={model.name}) must be in Hugging Face's cache while {offline[0]} is "
        f"set; unset it, or fetch it while online: hf download {model.name}"
        + (f" --revision {model.revision}" if model.revision else "")
    )


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in YES


def problems(folder: Path, model: Named) -> list[str]:
    """Return what is known to be wrong with a model's folder, as clauses without a full stop."""
    head = f"{model.setting} (={model.name})"
    if not (folder / "config.json").is_file():
        holds = "is empty" if not any(folder.iterdir()) else "has no config.json"
        return [f"{head} must be a folder of a causal language model, but {holds}; check the path"]
    found = []
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(f.name for f in folder.glob("*") if f.suffix in PICKLES)
        has = f"{pickled[0]}, a pickle that could run code" if pickled else "no weights"
        fix = "load it with transformers where you trust it and save_pretrained it"
        found.append(
            f"{head} must hold *.safetensors, but has {has}; {fix if pickled else 'download them'}"
        )
    tokenizer = _json(folder / "tokenizer_config.json")
    kind = str(tokenizer.get("tokenizer_class", ""))
    if not any((folder / name).is_file() for name in VOCABULARIES):
        found.append(
            f"{head} must hold a tokenizer ({', '.join(VOCABULARIES[:2])} or the like); copy the "
            "files of the model's tokenizer there"
        )
    elif model.pad_token is None and kind in WITHOUT_PAD and not _names(folder, tokenizer, "pad"):
        setting = model.setting.replace("name_or_path", "pad_token")
        eos = _names(folder, tokenizer, "eos")
        fix = as_override(setting, eos) if eos else f"{setting}=<a token of its vocabulary>"
        found.append(
            f"{setting} (=None) must name a token, since the tokenizer of {model.name} has no pad "
            f"token; add {fix}"
        )
    if kind in TOKENIZERS and tokenizer and not _names(folder, tokenizer, "eos"):
        found.append(f"{head} must have a tokenizer that names an eos_token: it ends responses")
    config = _json(folder / "config.json")
    positions = _positions(config)
    learned = config.get("model_type") in LEARNED_POSITIONS
    if learned and model.context is not None and positions and model.context > positions:
        found.append(
            f"model.context (={model.context} tokens) must be at most {positions}, the learned "
            f"positions of {model.name}; add model.context={positions}"
        )
    return found


def _beyond_positions(folder: Path, model: Named) -> list[str]:
    """Return a sentence where a context is beyond the positions that a model was made for."""
    config = _json(folder / "config.json")
    positions = _positions(config)
    scaled = (config.get("rope_scaling") or config.get("rope_parameters") or {}).get("factor")
    if model.context is None or positions is None or scaled or model.context <= positions:
        return []
    return [
        f"model.context (={model.context} tokens) is beyond the {positions} positions that "
        f"{model.name} was made for"
    ]


def _positions(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        if isinstance(inner, Mapping) and type(inner.get(name)) is int:
            return int(inner[name])
    return None


def _names(folder: Path, tokenizer: Mapping[str, Any], which: str) -> str:
    """Return the special token that a tokenizer's files name, as text; "" for none."""
    for about in (tokenizer, _json(folder / "special_tokens_map.json")):
        token = about.get(f"{which}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token:
            return str(token)
    return ""


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; {} where there is none that can be read: loading says why."""
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
