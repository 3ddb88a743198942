"""A policy: a language model, its tokenizer, and what one must know to speak with it.

Two numbers measured on two prompts that differ by a newline are not comparable. So what turns a
question into tokens travels with the weights, in `policy.json`: the chat template (by its hash),
how passages enter a prompt, which tokens end a response, the context and the sampling temperature.
Every stage encodes through `Policy`, and none of them guesses.
"""

from __future__ import annotations

import dataclasses
import json
import re
from array import array
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from plumbrule.data.records import Demonstration, Message, Preference, Prompt
from plumbrule.errors import ArtifactError, DataError
from plumbrule.lm.chat import encode_chat, encode_text
from plumbrule.lm.config import RESULTS_TEMPLATE
from plumbrule.lm.templates import arrange, check_chats

RETRIEVAL_TEMPLATE = "{passages}\n{question}"
PASSAGE_TEMPLATE = "{passage}"
MAX_KEPT_PROMPTS = 65_536
"""Encoded prompts that a policy remembers: those of an update, of a ranking, of a search. 4 bytes a
token, and the texts."""


class SearchForm(NamedTuple):
    """How a policy's search calls and the answers to them are written (`SearchFormConfig`)."""

    open: str = "<search>"
    close: str = "</search>"
    template: str = RESULTS_TEMPLATE


@dataclass(frozen=True)
class PolicySpec:
    """What `policy.json` holds."""

    chat_template_sha256: str
    """Hash of the tokenizer's chat template; a folder whose template differs is refused."""
    stop_token_ids: tuple[int, ...]
    """Tokens that end a response; the first is the terminal token, which training appends."""
    context: int
    """Longest prompt and response together, tokens."""
    retrieval_template: str = RETRIEVAL_TEMPLATE
    """How passages enter the last user turn; holds {passages} and {question}."""
    passage_template: str = PASSAGE_TEMPLATE
    """How each of them is written; holds {passage} and perhaps {n}, its number from 1."""
    response_prefix: str = ""
    """Text between the generation prompt and a response."""
    temperature: float = 1.0
    """Temperature at which the policy is meant to be sampled."""
    base: str | None = None
    """Adapters: the folder of their model, seen from their own; None: a whole model."""
    system_turns: str = "keep"
    """What becomes of system turns, as `model.system_turns` has it."""
    search_form: SearchForm | None = None
    """How search calls were written in the demonstrations that it learned from; None: it saw
    none."""

    @classmethod
    def read(cls, path: Path) -> PolicySpec:
        """Return the spec in the file `path`.

        Raises: ArtifactError: the file is not JSON, a field is unknown or missing, or no token ends
            a response.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["stop_token_ids"] = tuple(values["stop_token_ids"])
            if values.get("search_form") is not None:
                values["search_form"] = SearchForm(**values["search_form"])
            if not values["stop_token_ids"]:
                raise ValueError("stop_token_ids is empty")
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"{path} must be a policy.json ({error}); save it again.") from None

    def write(self, path: Path) -> None:
        """Write the spec as JSON; a passage template that adds nothing is left out, and so is how a
        policy searches that was never shown it.
        """
        values = dataclasses.asdict(self)
        if self.passage_template == PASSAGE_TEMPLATE:
            del values["passage_template"]
        del values["search_form"]
        if self.search_form is not None:
            values["search_form"] = self.search_form._asdict()
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


@dataclass
class Policy:
    """A causal language model that answers chats."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: PolicySpec
    source: str | None = None
    """Folder or hub name that it was loaded from, for messages; None: no such holds it."""
    pad_id: int = field(init=False)
    """Fills slots that no mask calls real; never compared with anything."""
    notes: tuple[str, ...] = ()
    """What whoever brings the model in should be told of it."""
    _encoded: dict[Hashable, array[int]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        pad = self.tokenizer.pad_token_id
        self.pad_id = self.terminal_id if pad is None else pad

    @property
    def terminal_id(self) -> int:
        """The token that ends every training response."""
        return self.spec.stop_token_ids[0]

    def encode(self, messages: Sequence[Message], passages: Sequence[str] = ()) -> list[int]:
        """Return the prompt's token ids: the chat, ending where the response begins.

        Passages, one a line, enter the last user turn through the retrieval template; without any
        the chat stays as it is. The same prompt is tokenised once, as long as it is remembered.

        Raises: DataError: the chat template refuses the chat, in its own words.
        """
        template = str(self.tokenizer.chat_template)
        spec = self.spec
        words = (spec.system_turns, spec.retrieval_template, spec.passage_template, template)
        key = (tuple(messages), tuple(passages), words)
        known = self._encoded.pop(key, None)
        if known is None:
            arranged = arrange(messages, self.spec.system_turns)
            known = array(
                "i", encode_chat(self.tokenizer, with_passages(arranged, passages, self.spec))
            )
            if len(self._encoded) >= MAX_KEPT_PROMPTS:
                del self._encoded[next(iter(self._encoded))]  # used longest ago
        self._encoded[key] = known
        return list(known)

    def check_chats(self, records: Iterable[Prompt | Demonstration | Preference]) -> None:
        """Raise DataError, which names the first, if the chat template refuses a record."""
        chats = ((record.id, record.messages) for record in records)
        check_chats(self.tokenizer, chats, self.spec.system_turns)

    def encode_response(self, text: str, terminal: bool = True) -> list[int]:
        """Return the token ids of a response, with the terminal token unless told otherwise."""
        ids = encode_text(self.tokenizer, self.spec.response_prefix + text.strip())
        return [*ids, self.terminal_id] if terminal else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a response: no special or stop tokens, no space around it."""
        stops = self.spec.stop_token_ids
        kept = [i for i in ids if i not in stops]
        text = self.tokenizer.decode(
            kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return cast(str, text).strip()


def with_passages(
    messages: Sequence[Message], passages: Sequence[str], spec: PolicySpec
) -> Sequence[Message]:
    """Return the chat with passages put into its last turn; the same chat if there are none.

    Raises: DataError: the last turn is not the user's.
    """
    if not passages:
        return messages
    *earlier, last = messages
    if last.role != "user":
        raise DataError(f"the last message (role={last.role}) must be the user's.")
    lines = [written(passage, n, spec.passage_template) for n, passage in enumerate(passages, 1)]
    filled = {"passages": "\n".join(lines), "question": last.content}
    # One pass, so that braces inside a passage are text.
    content = re.sub(
        r"\{(passages|question)\}", lambda hit: filled[hit[1]], spec.retrieval_template
    )
    return [*earlier, Message("user", content)]


def written(passage: str, number: int, template: str) -> str:
    """Return a passage as the passage template has it."""
    filled = {"passage": passage, "n": str(number)}
    return re.sub(r"\{(passage|n)\}", lambda hit: filled[hit[1]], template)


def fits(
    policy: Policy, messages: Sequence[Message], passages: Sequence[str], max_new_tokens: int
) -> bool:
    """Return whether the prompt and a response of `max_new_tokens` fit the policy's context."""
    return len(policy.encode(messages, passages)) + max_new_tokens <= policy.spec.context


def select_passages(
    policy: Policy, messages: Sequence[Message], passages: Sequence[str], budget_tokens: int
) -> tuple[str, ...]:
    """Return the passages, whole and in order, whose tokens fit the budget together.

    One that does not fit is left out, and a shorter one after it may still be shown. What the
    retrieval template adds counts too.
    """
    return show_passages(policy, messages, policy.encode(messages), passages, budget_tokens)[0]


def show_passages(
    policy: Policy,
    messages: Sequence[Message],
    plain: Sequence[int],
    passages: Sequence[str],
    budget_tokens: int,
) -> tuple[tuple[str, ...], list[int]]:
    """Return the passages of `select_passages`, and the token ids of the prompt that shows them.

    Args: plain: token ids of the prompt without passages.
    """
    if passages:  # most often all fit, and one tokenisation is enough; if not, it is one more
        whole = policy.encode(messages, passages)
        if len(whole) - len(plain) <= budget_tokens:
            return tuple(passages), whole
    shown: tuple[str, ...] = ()
    tokens = list(plain)
    for passage in passages:
        longer = policy.encode(messages, (*shown, passage))
        if len(longer) - len(plain) <= budget_tokens:
            shown, tokens = (*shown, passage), longer
    return shown, tokens
