"""What a plan tells beside its nodes: rows of the data that it reads.

Data that no artifact holds yet are read to the end while planning, so that a bad row, an empty
split or prompts that are all too long stop the command before anything is trained. Of a plan that
is all cached only the first rows of each source are read, to know which nodes it can fill
(`data_sources.py`). No torch here: lengths are counted by the tokenizer alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.plan import Lookups, Planned
from plumbrule.pipeline.stages import STAGES, answers_prompts
from plumbrule.store.hub import folder_here, hub_data
from plumbrule.store.packaged_files import located
from plumbrule.store.source_files import is_hub_data


def preview_data(
    config: RunConfig, plan: list[Planned], lookups: Lookups | None = None
) -> dict[str, str]:
    """Return what is known of the rows of each data node that is read from a path.

    Args: lookups: of plans that are made together, whose data are read once.
    Raises: DataError: the source can't be read, or gives no rows that can be used.
    """
    found: dict[str, str] = {}
    lookups = lookups or Lookups()
    for planned in plan:
        node = planned.node
        entry = STAGES[node.kind].preview
        if entry is None or isinstance(node.config, Given) or node.config.dataset.path is None:
            continue
        if planned.state == "cached":
            continue
        path = node.config.dataset.path
        if is_hub_data(path) and folder_here(hub_data(path)) is None:
            found[node.name] = "not counted before it is downloaded"
            continue
        model, context = config.model.name_or_path, config.model.context
        count = lookups.once(("tokenizer", model), partial(token_counter, model))
        module, name = entry.split(":")
        preview = getattr(importlib.import_module(module), name)
        answer = max((_answer_tokens(p) for p in plan), default=0)
        found[node.name] = lookups.once(
            ("rows", entry, repr(node.config), model, context, answer),
            partial(_preview, preview, node.config, count, context - answer, context),
        )
    return found


def _preview(preview: Callable[..., Any], *about: Any) -> str:
    return str(preview(*about))


def _answer_tokens(planned: Planned) -> int:
    """Return the longest response that a node samples for the prompts of the run, in tokens."""
    if not answers_prompts(planned.node.kind) or isinstance(planned.node.config, Given):
        return 0
    config = planned.node.config
    return int(config.sampling.max_new_tokens + STAGES[planned.node.kind].result_tokens(config))


def token_counter(name: str | None) -> Callable[[str], int] | None:
    """Return the number of tokens of a text as a named model counts them.

    None for a model from scratch, one that is not in a folder here, or one whose tokenizer is not
    in `tokenizer.json`.
    """
    if name is None:
        return None
    file = Path(located(name)) / "tokenizer.json"
    if not file.is_file():
        return None
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library's own errors are plain Exceptions
        raise ConfigError(
            f"model.name_or_path (={name}) must hold a tokenizer.json that can be read "
            f"({str(error)[:80]}); download it again."
        ) from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
