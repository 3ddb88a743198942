"""Chat templates as they come: what they refuse, and that they come to an end.

A template is a program from elsewhere. transformers runs it in jinja's immutable sandbox, which
keeps it from Python, files and processes, but not from taking forever. So a template that is not
ours is tried once in a process of its own, with limits on time and memory, before anything is
encoded with it; and each text that it makes must be made in time and be of a sensible length.

Many templates refuse chats that are none to them: a system turn, or two user turns in a row. Their
own words come in a DataError with the roles. `check_chats` finds such records of a data set without
any model; `arrange` is what `model.system_turns` may do about system turns.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from plumbrule.data.records import Message
from plumbrule.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10
"""That a template may take, for one chat and in the trial."""
PATIENCE_SECONDS = 120
"""For the trial on a busy machine, where `SECONDS` of work take longer."""
MEMORY_MIB = 1024
"""Address space of the trial."""
LONGEST = 10**6
"""Characters that a template may add to what the messages say."""
_TRIAL = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
from datetime import datetime
import jinja2, jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)
def refuse(message):
    raise jinja2.TemplateError(message)
env = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = lambda value, **_: json.dumps(value)
env.globals |= {"raise_exception": refuse, "strftime_now": datetime(2025, 1, 1).strftime}
given = json.load(sys.stdin)
for chat in given["chats"]:
    for prompt in (True, False):
        try:
            text = env.from_string(given["template"]).render(
                messages=chat, add_generation_prompt=prompt, **given["special"])
        except (MemoryError, OverflowError) as error:
            sys.exit(f"takes too much memory ({type(error).__name__})")
        except Exception:
            continue
        if len(text) > LONGEST:
            sys.exit(f"makes {len(text)} characters of {len(chat)} short messages")
"""
"""The trial: what the template says does not matter, only that it comes to an end."""
_TURNS: list[list[tuple[str, str]]] = [
    [("user", "a")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")],
]


def check_chats(
    tokenizer: PreTrainedTokenizerBase,
    chats: Iterable[tuple[str, Sequence[Message]]],
    system_turns: str = "keep",
) -> None:
    """Raise DataError, which names the first, if the template refuses any of the (id, messages).

    Needs a tokenizer and no model. Args: system_turns: as `model.system_turns`.
    """
    from plumbrule.lm.chat import is_ours, render_chat

    if system_turns == "keep" and is_ours(tokenizer):
        return  # it refuses nothing
    first, number, total = None, 0, 0
    for name, messages in chats:
        total += 1
        try:
            render_chat(tokenizer, arrange(messages, system_turns))
        except DataError as error:
            number += 1
            first = first or (name, error)
    if first is not None:
        raise DataError(f"{number} of {total} records, the first is {first[0]!r}: {first[1]}")


def settled_turns(asked: str, saved: str) -> str:
    """Return what becomes of system turns: `asked`, as `model.system_turns` has it, or where that
    is keep, its default, what the model that training starts from had `saved`.
    """
    return saved if asked == "keep" else asked


def arrange(messages: Sequence[Message], system_turns: str) -> Sequence[Message]:
    """Return a chat with its system turns as `model.system_turns` has them: keep, fold or refuse.

    fold: what a system turn says stands before what the next user turn says, an empty line between.
    Raises: DataError: a system turn under refuse, or one under fold that no user turn follows.
    """
    if system_turns == "keep" or all(message.role != "system" for message in messages):
        return messages
    if system_turns == "refuse":
        raise DataError(
            f"the chat (roles={roles(messages)}) must hold no system turn under "
            "model.system_turns=refuse; use fold or keep, or take it out of the data."
        )
    folded, waiting = [], []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user" and waiting:
            folded.append(Message("user", "\n\n".join([*waiting, message.content])))
            waiting = []
        else:
            folded.append(message)
    if waiting:
        raise DataError(
            f"the chat (roles={roles(messages)}) must have a user turn behind each system turn "
            "under model.system_turns=fold; add one, or take the system turn out."
        )
    return folded


def roles(messages: Sequence[Message]) -> str:
    """Return the roles of a chat as they are shown in errors."""
    return ", ".join(message.role for message in messages)


@contextmanager
def bounded(messages: Sequence[Message]) -> Iterator[None]:
    """Let a template run on a chat for `SECONDS`; what it refuses is a DataError with its words.

    Only the main thread has an alarm; in others the trial alone bounds a template.
    """
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError

    try:
        with _alarm():
            yield
    except SecurityError as error:
        raise _unusable(f"tries what the sandbox forbids ({error})") from None
    except (MemoryError, OverflowError, TimeoutError) as error:
        raise _unusable(f"takes too much time or memory ({type(error).__name__})") from None
    # Beside its own errors a template may run into those of any expression.
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
            RecursionError) as error:  # fmt: skip
        raise DataError(
            f"the chat (roles={roles(messages)}) must suit the tokenizer's chat template, which "
            f"says: {str(error).strip()[:200] or type(error).__name__}; change the data"
            + (", or set model.system_turns=fold." if "system" in roles(messages) else ".")
        ) from None


def require_length(length: int, messages: Sequence[Message]) -> None:
    """Raise ConfigError if a template made far more characters or tokens than the messages hold."""
    if length > LONGEST + 4 * sum(len(message.content) for message in messages):
        raise _unusable(f"makes {length} characters or tokens of {len(messages)} messages")


def _unusable(reason: str) -> ConfigError:
    return ConfigError(
        f"the tokenizer's chat template must come to an end, but {reason}; use another model, or "
        "edit its chat_template.jinja."
    )


@contextmanager
def _alarm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)


@lru_cache(maxsize=64)
def try_template(template: str, special: tuple[tuple[str, str], ...]) -> None:
    """Raise ConfigError if a template does not come to an end on a few short chats.

    Args: special: names and texts of the special tokens that it may use.
    """
    chats = [[{"role": r, "content": c} for r, c in turns] for turns in _TURNS]
    given = {"template": template, "special": dict(special), "chats": chats}
    code = _TRIAL.replace("SECONDS", str(math.ceil(SECONDS))).replace("LONGEST", str(LONGEST))
    code = code.replace("MEMORY", str(MEMORY_MIB * 2**20))
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            input=json.dumps(given),
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _unusable(f"is not done after {PATIENCE_SECONDS} seconds") from None
    if done.returncode < 0:
        raise _unusable(f"is not done after {SECONDS} seconds")
    if done.returncode > 0:
        reason = (done.stderr.strip().splitlines() or ["fails"])[-1]
        raise _unusable(reason)
