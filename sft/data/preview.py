"""What stage `data` will make of a source, counted while planning: nothing is written.

The same reader, limits and split as the stage's, so what stops it there stops the plan already, and
not a run that has fine-tuned for an hour. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from plumbrule.data.records import Demonstration, Preference, Prompt
from plumbrule.errors import DataError
from sft.data.config import DataConfig
from sft.data.selection import Item, check_split, collect, divide, merge_rankings
from sft.data.stage import source_rows


class Preview(NamedTuple):
    """rows, held_out: records. left_out: rows that give none. too_long: of all records, those that
    exceed a model's context.
    """

    rows: int
    held_out: int
    left_out: int
    too_long: int

    def __str__(self) -> str:
        """Return it as the plan says it."""
        parts = [f"{self.rows} rows"]
        parts += [f"{self.held_out} held out"] if self.held_out else []
        parts += [f"{self.left_out} left out"] if self.left_out else []
        parts += [f"{self.too_long} too long"] if self.too_long else []
        return ", ".join(parts)


def preview(
    config: DataConfig,
    num_tokens: Callable[[str], int] | None,
    max_prompt_tokens: int,
    context: int,
) -> Preview:
    """Return what a data node will hold.

    Args: num_tokens: of a text; None where no tokenizer is known. max_prompt_tokens: of
    a prompt that is answered. context: most tokens of a prompt with its answer.
    Raises: DataError: what the stage would raise; or, of a role that is answered or learned from,
    all records are too long.
    """
    dataset = config.dataset
    kept = collect(source_rows(config), dataset.max_rows, unique=config.items is None)
    kept = merge_rankings(kept, dataset.annotators, dataset.ties)
    train: Sequence[Item] = [*kept.train, *kept.validation]
    held_out: Sequence[Item] = []
    if not train:
        reasons = ", ".join(f"{n} because {why}" for why, n in kept.dropped.items()) or "no rows"
        raise DataError(
            f"no row of format {dataset.format} is left for role {config.role} ({reasons}).",
            dataset.path,
        )
    if config.is_split:
        train, held_out = divide(
            kept, dataset.validation_share, dataset.split_seed, config.held_out_fold
        )
        check_split(train, held_out)
    items = [*train, *held_out]
    too_long = 0
    if num_tokens is not None:
        too_long = sum(_exceeds(item, num_tokens, max_prompt_tokens, context) for item in items)
    if too_long == len(items):
        most = max_prompt_tokens if config.role == "prompts" else context
        raise DataError(
            f"records of role {config.role} (={len(items)}, all longer) must fit {most} "
            "tokens; raise model.context, lower sampling.max_new_tokens, or shorten them.",
            dataset.path,
        )
    return Preview(len(train), len(held_out), kept.dropped.total() + kept.duplicates, too_long)


def _exceeds(
    item: Item, num_tokens: Callable[[str], int], max_prompt_tokens: int, context: int
) -> bool:
    """Return whether a record's texts alone, without a template's tokens, are too long."""
    match item:
        case Prompt():
            answers, most = [""], max_prompt_tokens
        case Demonstration():
            answers, most = [item.response], context
        case Preference():
            answers, most = list(item.responses), context
        case _:
            return False
    prompt = sum(num_tokens(message.content) for message in item.messages)
    return prompt + min(num_tokens(answer) if answer else 0 for answer in answers) > most
