"""Settings of stage data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.atlas.config import AtlasConfig
from plumbrule.config import CONTENT, require, require_choice, require_range
from plumbrule.data.annotators import MERGES
from plumbrule.data.benchmark_items import BENCHMARK, ItemFormat
from plumbrule.data.readers import READERS, has_reader, source_digest
from plumbrule.data.splits import MOST_FOLDS
from plumbrule.stage_kind import StageKind
from plumbrule.store.hub import hub_data, is_commit
from plumbrule.store.source_files import is_hub_data
from sft.data.selection import TIES, Fold

ROLES = ("corpus", "demonstrations", "new_facts", "preferences", "prompts", "documents")
"""Beside which each benchmark is a role of its own (`eval/benchmarks/registry.py`)."""


@dataclass
class DatasetConfig:
    """One source of records."""

    format: str = "atlas"
    """atlas (generated), hh_rlhf, jsonl (ours, chat, TRL's and others, told apart by their \
columns) or that of a benchmark's files (docs/bring_data.md)."""
    path: str | None = field(default=None, metadata=CONTENT)
    """File or folder; None only for atlas. Hashed by the content of the files, not by name. Or
    hf://datasets/<owner>/<name>@<commit>/<folder> on the hub, hashed by that."""
    validation_share: float = 0.1
    """Share of conversations held out, by a hash of their first user turn; 0: none. A source with \
its own held-out rows keeps them."""
    split_seed: int = 0
    """Enters that hash."""
    max_rows: int | None = None
    """Keep the first rows only, of each side where the source brings its own split; None: all. \
Rankings of several annotators count one by one."""
    annotators: str = "majority"
    """Preferences that several named annotators judged: majority (one ranking, by Borda's count), \
soft (the same, with the mean utility of each answer as its score) or separate (a row for each)."""
    ties: str = "drop"
    """Rankings in which all answers tie: drop (left out and counted), half (two rankings, one in \
each order) or keep (for `rm.ties`). Ties beside ordered pairs stay."""
    source: str = ""
    """Digest of the plug-in's file that reads the format; filled in, whatever is given."""

    def __post_init__(self) -> None:
        require_choice("dataset.format", self.format, {"atlas", *(name for name, _ in READERS)})
        if is_hub_data(self.path):
            data = hub_data(str(self.path))
            require(
                is_commit(data.revision),
                "dataset.path",
                self.path,
                "name a commit of 40 hex digits",
                "give one (branches move)",
            )
        require_choice("dataset.annotators", self.annotators, MERGES)
        require_choice("dataset.ties", self.ties, TIES)
        self.source = source_digest(self.format)
        require_range("dataset.validation_share", self.validation_share, 0.0, 0.9)
        if self.max_rows is not None:
            require_range("dataset.max_rows", self.max_rows, 2, unit="rows")


@dataclass
class DataConfig:
    """Stage `data`: one node per role, each a cleaned, split set of records and a data card."""

    role: str = "demonstrations"
    """What the records are for; it fixes their type."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    atlas: AtlasConfig | None = None
    """The world, for format atlas; None for any other, so that they never depend on it."""
    items: ItemFormat | None = None
    """Benchmarks: what each row must hold, as the benchmark of that name declares it; None: the
    role is none."""
    per_group: int | None = None
    """Benchmarks: rows kept per group (BOLD) or per task (HaluEval), spread evenly; None: all."""
    folds: int | None = None
    """Equal parts that the conversations are cut into, by the same hash as a held-out share; None:
    `dataset.validation_share` says what is held out."""
    fold: int | None = None
    """Which of them is held out, from 0; None: as `folds`."""

    @property
    def is_split(self) -> bool:
        """Whether a share of the rows is held out; documents and benchmarks are used whole."""
        return self.items is None and self.role != "documents"

    @property
    def held_out_fold(self) -> Fold | None:
        """What is held out; None: a share."""
        return None if self.fold is None or self.folds is None else Fold(self.fold, self.folds)

    def __post_init__(self) -> None:
        require_folds(self.folds, self.fold)
        if self.items is None:
            require_choice("data.role", self.role, ROLES)
        if self.dataset.format == "atlas":
            require(
                self.atlas is not None, "data.atlas", None, "be given for format atlas", "set it"
            )
        else:
            require(
                self.dataset.path is not None,
                f"{self.role}: dataset.path",
                None,
                f"name a file or folder of format {self.dataset.format}",
                "pass dataset.path=<folder>",
            )
            own = (self.role, BENCHMARK) if self.items is not None else (self.role,)
            require(
                has_reader(self.dataset.format, self.role, self.items),
                f"{self.role}: dataset.format",
                self.dataset.format,
                f"be one that feeds role {self.role} "
                f"({', '.join(dict.fromkeys(f for f, role in READERS if role in own))})",
                f"give that role a data set of its own with dataset@data.{self.role}=<name>",
            )
        if self.per_group is not None:
            require_range("data.per_group", self.per_group, 1, unit="rows")
            require(
                self.items is not None,
                "data.per_group",
                self.per_group,
                f"be None for role {self.role}",
                "it thins benchmarks; use dataset.max_rows",
            )


def require_folds(folds: int | None, fold: int | None) -> None:
    """Raise ConfigError unless both are None, or `fold` is one of `folds`."""
    if folds is not None:
        require_range("folds", folds, 2, MOST_FOLDS)
    require(
        (folds is None) == (fold is None),
        "fold",
        fold,
        f"be given with folds (={folds}), and only then",
        "for all folds pass -m data.folds=5, for one of them folds=5 fold=0",
    )
    if folds is not None and fold is not None:
        require_range("fold", fold, 0, folds - 1)


STAGE = StageKind(
    "data",
    DataConfig,
    "sft.data.stage:run",
    section=None,  # a node's config is made of `dataset`, `data.<role>` and `atlas`
    preview="sft.data.preview:preview",
    prepares_data=True,
)
