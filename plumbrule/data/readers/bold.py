"""Format `bold`: the prompts of BOLD (arXiv:2101.11718)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plumbrule.data.json_lines import numbered_lines
from plumbrule.data.readers.registry import Format, SourceRow, register_format
from plumbrule.data.records import BenchmarkItem
from plumbrule.data.strict_json import parse_json
from plumbrule.errors import DataError
from plumbrule.store.source_files import files_under


def read_bold(path: Path) -> Iterator[SourceRow]:
    """Yield the prompts of BOLD (arXiv:2101.11718), stripped: most end with a space.

    A file `<domain>_prompt.json` is one object {group: {entity: [prompt, ...]}}. Prompts that
    repeat an earlier one stay, as in the published protocol.
    Raises: DataError: no such file, or one of another form.
    """
    files = [path]
    if path.is_dir():
        files = [file for file in files_under(path) if file.name.endswith("_prompt.json")]
    if not files:
        raise DataError("no <domain>_prompt.json below this folder; check the path.", path)
    for file in files:
        domain = file.name.removesuffix("_prompt.json")
        for group, entities in _bold_groups(file).items():
            for entity, prompts in entities.items():
                for number, prompt in enumerate(prompts):
                    if not prompt.strip():
                        yield SourceRow(None, "the prompt is empty")
                        continue
                    id = f"{domain}/{group}/{entity}/{number}"
                    meta = {"domain": domain, "group": group}
                    yield SourceRow(
                        BenchmarkItem(id, "bold", {"prompt": prompt.strip()}, entity, meta)
                    )


def _bold_groups(file: Path) -> dict[str, dict[str, list[str]]]:
    text = "".join(line for _, line in numbered_lines(file))
    try:
        groups = parse_json(text)
    except ValueError as error:
        raise DataError(f"{error}.", file, text=text) from None
    fits = isinstance(groups, dict) and all(
        isinstance(entities, dict)
        and all(
            isinstance(prompts, list) and all(isinstance(p, str) for p in prompts)
            for prompts in entities.values()
        )
        for entities in groups.values()
    )
    if not fits:
        raise DataError("must be {group: {entity: [prompt, ...]}}.", file, text=text)
    return groups


register_format(
    Format(
        name="bold",
        readers={"bold": read_bold},
        columns="no rows: one object {group: {entity: [prompt, ...]}} per domain",
        examples={"bold": {"profession_prompt.json": '{"arts": {"Dancer": ["A dancer is "]}}'}},
        unread_settings=("validation_share", "split_seed", "annotators"),
    )
)
