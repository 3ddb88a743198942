"""How a chat becomes tokens: the tokenizer of new models, and chat templates that never move.

A new model gets a byte-level BPE: no text is outside its vocabulary, and a frequent word with the
space before it is one token. Its chat reads `<|bos|><|user|> Who wrote it?<|assistant|>`, and the
response ` Mara Lind.<|eos|>`: the response begins with the space, so its words are the tokens that
they are inside a sentence, and a chat tokenised whole equals prompt tokens + response tokens (no
merge crosses a special token).

Templates from elsewhere may print today's date; they are shown one fixed date, since a prompt that
changes overnight is another experiment. A tokenizer without a template gets `PLAIN_TEMPLATE`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from plumbrule.data.records import Message
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm import control_tokens
from plumbrule.lm.templates import bounded, require_length, try_template
from plumbrule.overrides import as_override
from plumbrule.store.model_files import require_undamaged

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>")
TEMPLATE = (
    "{{ '<|bos|>' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ '<|eos|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim }}"
    "{{ eos_token if message['role'] == 'assistant' else '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""`User: ...`, an empty line, `Assistant:`; for a tokenizer that brings no chat template."""
RESPONSE_PREFIX = " "
"""What both templates above put between the generation prompt and a response."""
_TODAY = datetime(2025, 1, 1)
_DATE = re.compile(r"""strftime_now\(\s*(["'])(?P<format>.*?)\1\s*\)""")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of at most `vocab_size` tokens, with the chat template above.

    Raises: ConfigError: vocab_size is used up by the 256 bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise ConfigError(
            f"model.vocab_size (={vocab_size} tokens) must be at least {least}: 256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens; raise it."
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    pad, bos, eos, *roles = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=roles,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of the tokenizer's chat template, in hex."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generation_prompt: bool = True
) -> str:
    """Return a chat as text, ending where the response begins if `generation_prompt`.

    Raises: DataError: the template refuses the chat. ConfigError: it computes the format of today's
        date, or does not come to an end.
    """
    template = _ending(tokenizer)
    with bounded(messages):
        text = tokenizer.apply_chat_template(
            _turns(messages),
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
    require_length(len(text), messages)
    return cast(str, text)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generation_prompt: bool = True
) -> list[int]:
    """Return the token ids of a chat, as `render_chat` shows it.

    What a turn says is text: a special token spelt out in a question or a passage is encoded
    letter by letter, so no document can end a turn or speak as the user.

    Raises: as `render_chat`.
    """
    template, turns = _ending(tokenizer), _turns(messages)
    with bounded(messages):
        if control_tokens.is_built_in(tokenizer):
            ids = tokenizer.apply_chat_template(
                turns,
                chat_template=template,
                add_generation_prompt=generation_prompt,
                return_dict=False,
                sanitize_control_tokens=True,
            )
        else:
            ids = control_tokens.encode(tokenizer, turns, template, generation_prompt)
    require_length(len(ids), messages)
    return cast(list[int], ids)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of text, special tokens spelt out in it letter by letter."""
    spelt_out = any(token in text for token in tokenizer.all_special_tokens)
    return tokenizer(text, add_special_tokens=False, split_special_tokens=spelt_out).input_ids


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the special token with which the chat template ends a response; None: there is none.

    Instruction models have one (`<|im_end|>`, `<|eot_id|>`) beside the tokenizer's eos.
    """
    said = "It said so"
    try:
        text = render_chat(tokenizer, [Message("user", "Why"), Message("assistant", said)], False)
    except DataError:
        return None
    behind = tokenizer(text.rpartition(said)[2], add_special_tokens=False).input_ids
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((i for i in behind if i in special), None) if said in text else None


def is_ours(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer's chat template is one of the two above."""
    template = tokenizer.chat_template
    return isinstance(template, str) and template.endswith((TEMPLATE, PLAIN_TEMPLATE))


def _ending(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template with its date fixed, once it has been seen to come to an end."""
    template = _dated(tokenizer)
    if not is_ours(tokenizer):
        try_template(template, tuple(sorted(tokenizer.special_tokens_map.items())))
    return template


def _dated(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template with `_TODAY` written where it asks for today's date."""
    template = _DATE.sub(
        lambda call: repr(_TODAY.strftime(call["format"])), tokenizer.get_chat_template()
    )
    if "strftime_now(" in template:
        raise ConfigError(
            "the tokenizer's chat template (=strftime_now of a variable) must name its date format "
            "as text, so that the date can be fixed; edit chat_template.jinja."
        )
    return template


def load_tokenizer(
    path: str | Path, *, revision: str | None = None, pad_token: str | None = None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or hub name, with a chat template and a pad token.

    Raises: ConfigError: no tokenizer there; damaged files; no pad token; `pad_token` is not in the
        vocabulary.
    """
    require_undamaged(path, "model.name_or_path")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error
    if pad_token is not None:
        known = tokenizer.get_vocab()
        if pad_token not in known:
            raise ConfigError(
                f"model.pad_token (={pad_token!r}) must be a token of the vocabulary; masks never "
                f"come from ids, so an existing token such as {tokenizer.eos_token!r} will do."
            )
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            f"model.pad_token (=None) must name a token, since the tokenizer of {path} has no pad "
            f"token; set {as_override('model.pad_token', str(tokenizer.eos_token))}."
        )
    if tokenizer.chat_template is None:
        begins = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + PLAIN_TEMPLATE
    return tokenizer


def unreachable(path: str | Path, error: Exception) -> ConfigError:
    """Return the error for a model or tokenizer that could not be read from `path`."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = "folder" if Path(path).is_dir() else "name"
    fix = (
        "the folder must hold config.json, *.safetensors and tokenizer files"
        if kind == "folder"
        else "check the spelling, or download it first while online"
    )
    return ConfigError(
        f"model.name_or_path (={path}) must be a folder of a causal language model or a hub name "
        f"that is cached or within reach; {fix} ({first[:200]})."
    )
