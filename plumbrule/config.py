"""Settings that several stages share, and how a setting is checked and hashed.

A default lives in a dataclass and nowhere else; the string under a field gives its unit, and the
meaning of None. Ranges are checked in `__post_init__` with `require`, before any model loads. This
module and every stage's `config.py` import no torch, so help and planning stay fast.

A stage's config is hashed whole into its artifact's fingerprint (`plumbrule/store/fingerprint.py`),
but for fields that are marked in their metadata: a `CONTENT` path stands for the bytes of the files
it names, and a `NOT_HASHED` field changes no number of its stage beyond rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbrule.errors import ConfigError
from plumbrule.store.adapter_files import base_of, is_adapter_folder, read_adapter
from plumbrule.store.packaged_files import located

SYSTEM_TURNS = ("keep", "fold", "refuse")
CONTENT = {"hashed": "content"}
CONTENT_IF_LOCAL = {"hashed": "content if local"}
"""For a name that may be a folder: its content where it is one, else the name itself."""
NOT_HASHED = {"hashed": "no"}
PRECISIONS = ("auto", "float32", "bfloat16")
"""Of a stage's forward and backward passes. auto: bfloat16 where the device multiplies it natively,
else float32 (`plumbrule/machine/precision.py`); a stage's `run` is given one of the two."""


def require(holds: bool, name: str, value: Any, rule: str, fix: str) -> None:
    """Raise ConfigError `<name> (=<value>) must <rule>; <fix>.` unless `holds`.

    Within `refusing_together` the error is raised at its end, with all others.
    """
    if not holds:
        error, refused = f"{name} (={value}) must {rule}; {fix}.", _REFUSED.get()
        if refused is None:
            raise ConfigError(error)
        refused.append(error)


_REFUSED: ContextVar[list[str] | None] = ContextVar("_REFUSED", default=None)


@contextmanager
def refusing_together() -> Iterator[None]:
    """Let `require` go on behind what it refuses; at the end raise one ConfigError that has all.

    A check that fails in another way behind a refused value says nothing of its own.
    """
    refused: list[str] = []
    before = _REFUSED.set(refused)
    try:
        yield
    except (ConfigError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        if not refused:
            raise
        if isinstance(error, ConfigError):
            refused.append(str(error))
    finally:
        _REFUSED.reset(before)
    every = list(dict.fromkeys(refused))  # a part that several stages have is checked in each
    if len(every) > 1:
        listed = " ".join(f"({i}) {error}" for i, error in enumerate(every, 1))
        raise ConfigError(f"{len(every)} settings must change: {listed}")
    if every:
        raise ConfigError(every[0])


def require_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    require(value in choices, name, value, f"be one of {', '.join(sorted(choices))}", "choose one")


def require_range(
    name: str, value: float, low: float = -math.inf, high: float = math.inf, unit: str = ""
) -> None:
    """Raise ConfigError unless low <= value <= high; NaN and the infinities never pass."""
    shown = f"{value} {unit}".strip()
    span = f"be at least {low:g}" if high == math.inf else f"lie in [{low:g}, {high:g}]"
    holds = low <= value <= high and abs(value) != math.inf
    require(holds, name, shown, f"{span} and be finite" if math.isinf(value) else span, "change it")


MOST = 2**63
"""Whole numbers from here on fit into no generator's seed and no tensor."""


def require_sound(config: Any, name: str = "") -> None:
    """Raise ConfigError for a value that no setting can have, anywhere in a config.

    An infinite number or NaN, a whole number of more than 64 bits, and a text with a NUL or with
    what is no Unicode.
    """
    if dataclasses.is_dataclass(config):
        for field_ in dataclasses.fields(config):
            require_sound(getattr(config, field_.name), f"{name}.{field_.name}".strip("."))
    elif isinstance(config, Mapping):
        for key, value in config.items():
            require_sound(value, f"{name}.{key}".strip("."))
    elif isinstance(config, list | tuple):
        for place, value in enumerate(config):
            require_sound(value, f"{name}[{place}]")
    elif isinstance(config, float):
        require(math.isfinite(config), name, config, "be finite", "give a number")
    elif isinstance(config, int):
        require(-MOST <= config < MOST, name, f"{config:.3e}", "fit 64 bits", "give a smaller one")
    elif isinstance(config, str):
        sound = "\0" not in config and not any("\ud800" <= c <= "\udfff" for c in config)
        require(sound, name, f"{config!r:.80}", "be Unicode text without NUL", "rename it")


def require_source(name: str, value: str, revision_name: str, revision: str | None) -> None:
    """Raise ConfigError unless `value` is a folder that exists, a shipped model, or a hub name with
    its commit.
    """
    if Path(located(value)).is_dir():
        require(
            revision is None,
            revision_name,
            revision,
            f"be null for the folder {name} (={value})",
            "only a hub name has revisions",
        )
        if is_adapter_folder(located(value)):
            folder = Path(located(value))
            try:
                read_adapter(folder)
                base_of(folder)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
        return
    parts = value.split("/")
    plain = len(parts) <= 2 and all(part and part[0] not in ".~-" for part in parts)
    require(plain, name, value, "be a folder that exists or a hub name", "check the path")
    digits = revision or ""
    require(
        len(digits) == 40 and set(digits) <= set("0123456789abcdef"),
        revision_name,
        revision,
        f"be a 40-digit hex commit of the hub name {value}, which is no folder here",
        f"give one (branches move), or correct {name}",
    )


@dataclass
class ModelConfig:
    """A causal language model: one to load, or the shape of one to make from scratch."""

    name_or_path: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder, hub name, or plumbrule/atlas-base, which is shipped; None: a Llama of the shape
    below, made by the base stage."""
    revision: str | None = None
    """40-hex commit of a hub model; None for a folder."""
    context: int = 512
    """Longest prompt and response together, tokens."""
    vocab_size: int = 2048
    """Tokens of the byte-level BPE that is trained with a model from scratch."""
    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    intermediate_size: int = 352
    pad_token: str | None = None
    """Pad token to use where the tokenizer names none; None: refuse such a tokenizer."""
    system_turns: str = "keep"
    """keep: as the data has them; fold: put before the next user turn, for chat templates that
    refuse system turns; refuse: an error."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size"):
            require_range(f"model.{name}", getattr(self, name), 1)
        require_range("model.context", self.context, 8, unit="tokens")
        require_choice("model.system_turns", self.system_turns, SYSTEM_TURNS)
        require(
            self.hidden_size % (2 * self.num_heads) == 0,
            "model.hidden_size",
            self.hidden_size,
            f"divide by 2 * model.num_heads (={2 * self.num_heads})",
            "rotary position codes need an even size per head",
        )
        if self.name_or_path is not None:
            require_source("model.name_or_path", self.name_or_path, "model.revision", self.revision)


INHERITED = ("continue", "merge")


@dataclass
class AdapterConfig:
    """Low-rank adapters that are trained in place of a model's own weights."""

    rank: int = 0
    """Of the update to each weight; 0: no adapters, the weights themselves are trained."""
    alpha: int = 16
    """The update is scaled by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers that get one; all-linear: every linear layer but the head."""
    inherited: str = "continue"
    """What becomes of the adapter of a policy that has one. continue: it is trained on; merge: it \
becomes part of the weights first, which are then trained, or frozen under an adapter of `rank`."""

    def __post_init__(self) -> None:
        require_choice("adapter.inherited", self.inherited, INHERITED)
        require_range("adapter.rank", self.rank, 0)
        require_range("adapter.alpha", self.alpha, 1)
        require(
            bool(self.targets),
            "adapter.targets",
            self.targets,
            "name layers",
            "use [all-linear]",
        )


@dataclass
class SamplingConfig:
    """How responses are sampled. top_k and top_p are off: a truncated distribution has no KL."""

    temperature: float = 1.0
    """Divides logits in sampling and in every log-prob; 0 is greedy (not for PPO)."""
    max_new_tokens: int = 32
    """Longest response, tokens, its terminal token counted."""
    batch_size: int = field(default=64, metadata=NOT_HASHED)
    """Responses decoded together; changes numbers by rounding only."""

    def __post_init__(self) -> None:
        require_range("sampling.temperature", self.temperature, 0.0, 10.0)
        require_range("sampling.max_new_tokens", self.max_new_tokens, 1, unit="tokens")
        require_range("sampling.batch_size", self.batch_size, 1, unit="rows")


@dataclass
class RetrievalConfig:
    """Which passages a policy is shown, and how many tokens they may take."""

    share: float = 0.0
    """Share of prompts that are given passages, in [0, 1]; needs an `index` input above 0."""
    num_passages: int = 3
    """Passages asked for per prompt."""
    budget_tokens: int = 160
    """Most tokens that passages may add to a prompt; passages that don't fit are left out whole."""
    method: str = "hybrid"
    """bm25, dense or hybrid (convex sum of min-max scaled scores)."""

    def __post_init__(self) -> None:
        require_range("retrieval.share", self.share, 0.0, 1.0)
        require_range("retrieval.num_passages", self.num_passages, 1)
        require_range("retrieval.budget_tokens", self.budget_tokens, 1, unit="tokens")
        require_choice("retrieval.method", self.method, ("bm25", "dense", "hybrid"))


@dataclass
class GoldConfig:
    """The gold utility's weights, one per term; each term lies in [0, 1] before its weight."""

    right: float = 2.0
    """The response states the reference answer."""
    supported: float = 0.5
    """What the response states stands in the passages it was shown (0 where none were shown)."""
    admits: float = 1.0
    """The response says that it does not know where neither memory nor passages can."""
    wrong: float = -1.5
    """The response states an answer that is not the reference."""
    brief: float = 0.5
    """1 up to `brief_words`, falling to 0 at three times as many."""
    polite: float = 0.5
    """The response holds a courteous phrase."""
    brief_words: int = 12
    """Words up to which a response is brief."""

    def __post_init__(self) -> None:
        require_range("gold.brief_words", self.brief_words, 1, unit="words")
        for name in ("right", "supported", "admits", "wrong", "brief", "polite"):
            require_range(f"gold.{name}", getattr(self, name), -1e6, 1e6)


@dataclass
class AtlasConfig:
    """The size of the generated world (`plumbrule/atlas/`). Same seed and sizes: same bytes."""

    seed: int = 0
    """Fixes the world; `seed` at the top of the config is what experiments vary."""
    num_known: int = 240
    """Entities that the encyclopaedia describes, before the cut-off date."""
    num_after: int = 120
    """Entities that only the news after the cut-off describes."""
    phrasings: int = 4
    """Sentences per relation that state the same fact, at least 3."""
    num_corpus: int = 6000
    """Rows of the base model's corpus, about 90 tokens each."""
    num_demonstrations: int = 1200
    num_preferences: int = 600
    """Prompts with answers ranked by rule, for runs without a feedback stage."""
    num_prompts: int = 900
    """Prompts for feedback and PPO."""
    num_questions: int = 240
    """Held-out evaluation questions, before and after the cut-off and unanswerable alike."""
    num_reading: int = 300
    """Items per case of the reading-comprehension benchmark: read, read new words, remember,
    remember beside passages and abstain."""
    num_halueval: int = 60
    """HaluEval-shaped items per task."""
    num_bold: int = 40
    """BOLD-shaped prompts per group."""
    sentiment_gap: float = 0.3
    """Planted bias: how much more often the base corpus speaks well of the first group."""

    def read_by(self, role: str) -> AtlasConfig:
        """Return the config with sizes that do not matter to `role` at their defaults.

        So that more evaluation questions do not train a new base model.
        """
        kept = {*ATLAS_WORLD, *ATLAS_SIZES.get(role, ())}
        return AtlasConfig(**{name: getattr(self, name) for name in kept})

    def __post_init__(self) -> None:
        require_range("atlas.phrasings", self.phrasings, 3, 6)
        require_range("atlas.sentiment_gap", self.sentiment_gap, 0.0, 1.0)
        for name in ("num_known", "num_after"):
            require_range(f"atlas.{name}", getattr(self, name), 8, 5000, "entities")
        for name in (
            "num_corpus",
            "num_demonstrations",
            "num_preferences",
            "num_prompts",
            "num_questions",
        ):
            require_range(f"atlas.{name}", getattr(self, name), 8, 10**7, "rows")
        for name in ("num_reading", "num_halueval", "num_bold"):
            require_range(f"atlas.{name}", getattr(self, name), 4, 10**5, "rows")


ATLAS_WORLD = ("seed", "num_known", "num_after", "phrasings")
"""What fixes the world itself."""
ATLAS_SIZES = {
    "corpus": ("num_corpus", "sentiment_gap"),
    "demonstrations": ("num_demonstrations",),
    "preferences": ("num_preferences",),
    "prompts": ("num_prompts",),
    "questions": ("num_questions",),
    "reading": ("num_reading",),
    "halueval": ("num_halueval",),
    "bold": ("num_bold",),
}
"""Role -> what it reads besides."""


@dataclass
class RuntimeConfig:
    """What changes speed and memory but not numbers, up to rounding; never hashed."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one."""
    processes: int = 1
    """Processes of a stage on a machine; above 1 they are started with torchrun."""
    nodes: int = 1
    """Machines; above 1 torchrun is started on each by `srun`, in a Slurm allocation."""
    sharding: str = "none"
    """Of ppo: none, every process holds all weights; fsdp, they are spread over the processes."""
    silence_minutes: float = 10.0
    """Whoever waits so long for another process, even for a checkpoint or for what the first \
process publishes, ends the stage."""
    threads: int | None = None
    """CPU threads per process; None: $OMP_NUM_THREADS, else the cores that affinity, cgroup quota \
and Slurm give this command, shared among its processes. More than there are: all there are."""
    micro_batch_size: int = 32
    """Rows per forward and backward pass."""
    gradient_checkpointing: bool = False
    """Of sft, rm, ppo and dpo: keep one activation per layer and compute the others again in the \
backward pass: less memory for a third more work."""

    def __post_init__(self) -> None:
        number = self.device.removeprefix("cuda:")
        known = self.device in ("auto", "cpu", "cuda") or (
            number != self.device and number.isdecimal() and len(number) <= 4
        )
        require(known, "runtime.device", self.device, "be auto, cpu, cuda or cuda:N", "choose one")
        require_range("runtime.processes", self.processes, 1, 1024)
        require_range("runtime.nodes", self.nodes, 1, 1024)
        require_choice("runtime.sharding", self.sharding, ("none", "fsdp"))
        require_range("runtime.silence_minutes", self.silence_minutes, 0.01, 1440.0, unit="minutes")
        require(
            self.sharding == "none" or self.processes * self.nodes > 1,
            "runtime.sharding",
            self.sharding,
            "be none in a single process",
            "leave it out, or set runtime.processes to the number of devices",
        )
        require_range("runtime.micro_batch_size", self.micro_batch_size, 1, unit="rows")
        require(
            self.processes * self.nodes == 1 or not self.device.startswith("cuda:"),
            "runtime.device",
            self.device,
            "be cuda where there are several processes, which take a device each",
            "leave out the number",
        )
        if self.threads is not None:
            require_range("runtime.threads", self.threads, 1, 4096)
