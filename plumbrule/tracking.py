"""Where a stage's metrics, tables and progress go, and what each metric means.

Every stage gets one `Tracker`. Metrics are always appended to the artifact's `metrics.jsonl`, one
row per update, so the curves of a cached stage can be drawn again. With `tracking=wandb` they go to
Weights & Biases as well: online where a key is set up, else offline into the run folder; it never
asks. W&B's own step only moves forward and a resumed run repeats updates, so everything is logged
against an axis of our own, `update`.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from plumbrule.config import TrackingConfig
from plumbrule.progress import Progress

METRICS: dict[str, tuple[str, str]] = {
    "data/rows": ("rows", "kept to train on, or to measure with"),
    "data/validation_rows": ("rows", "held out"),
    "data/duplicates": ("rows", "that repeated another and were removed"),
    "data/dropped": ("rows", "that the reader left out; the data card says why"),
    "feedback/prompts": ("prompts", "whose answers were ranked"),
    "feedback/prompts_all_equal": ("prompts", "not ranked: all their sampled answers are equal"),
    "feedback/answers": ("answers", "sampled, repeats included"),
    "feedback/duplicates": ("share of answers", "that repeat another answer to the same prompt"),
    "feedback/pairs": ("pairs", "ordered strictly by the rankings"),
    "feedback/tie_rate": ("share of pairs", "of different answers that tie"),
    "feedback/agreement": (
        "share of pairs",
        "ordered as without label noise and bias",
    ),
    "feedback/utility": ("utility per answer", "of the labeller, without noise"),
    "feedback/finished": ("share of answers", "that ended with their terminal token"),
    "feedback/with_passages": ("share of prompts", "ranked ones that were shown passages"),
    "rm/accuracy": ("share of pairs", "held-out pairs whose better answer scores higher"),
    "rm/ece": ("", "expected calibration error of the reward model's pair probabilities"),
    "rm/length_correlation": ("", "Spearman correlation of held-out scores with words"),
    "rm/loss": ("nats per pair", "Bradley-Terry loss on held-out pairs"),
    "rm/pairs": ("pairs", "trained on"),
    "rm/pairs_too_long": ("pairs", "left out of training or measurement: too many tokens"),
    "rm/train_loss": ("nats per pair", "Bradley-Terry loss of the step's pairs"),
    "rm/train_accuracy": ("share of pairs", "of the step, before it, ordered rightly"),
    "rm/train_grad_norm": ("", "of the step's gradient, before clipping"),
    "base/loss": ("nats per token", "held-out, tokens weighted as in training"),
    "base/perplexity": ("", "exponential of base/loss"),
    "base/bits_per_byte": ("bits per byte", "held-out, all tokens alike; compares tokenizers"),
    "base/epochs": ("epochs", "passes over the corpus"),
    "base/documents_split": ("documents", "longer than a row, cut into several"),
    "base/padding_share": ("share of tokens", "of packed rows that is padding"),
    "base/train_loss": ("nats per token", "weighted mean of one optimizer step"),
    "base/grad_norm": ("", "of the whole gradient, before clipping"),
    "base/learning_rate": ("", "of this step"),
    "sft/loss": ("nats per token", "held-out, mean over response tokens, terminal token included"),
    "sft/perplexity": ("", "exponential of sft/loss"),
    "sft/rows": ("demonstrations", "trained on"),
    "sft/rows_too_long": ("demonstrations", "left out because they did not fit the context"),
    "sft/train_loss": ("nats per token", "mean over the response tokens of one optimizer step"),
    "sft/grad_norm": ("", "of the whole gradient, before clipping"),
    "sft/learning_rate": ("", "of this step"),
    "rag/documents": ("documents", "indexed"),
    "rag/chunks": ("chunks", "that the documents were cut into"),
    "rag/build_seconds": ("seconds", "to cut, encode and index; not to measure"),
    "rag/recall_at_1": ("share of questions", "whose document gave the first passage, hybrid"),
    "rag/recall_at_5": ("share of questions", "whose document is among 5 passages, hybrid"),
    "rag/mrr": ("", "mean of 1 / rank of the first passage from the right document, hybrid"),
    "objective/kl": ("nats per response", "KL of the policy to its reference, k1 estimate"),
    "objective/entropy": ("nats per token", "of the next-token distributions at action tokens"),
    "objective/scores_raw": ("reward per response", "weighted sum of the reward terms"),
    "objective/scores": ("reward per response", "score after every transform"),
    "objective/non_score_reward": ("reward per response", "the KL penalty"),
    "objective/rlhf_reward": ("reward per response", "score and KL penalty together"),
    "objective/grad_norm": ("", "of the policy's gradient before clipping, mean over steps"),
    "objective/value_grad_norm": ("", "of the value model's gradient before clipping"),
    "reward/rm_raw": ("reward per response", "the reward models' mean, before its weight"),
    "reward/rm": ("reward per response", "the reward models' mean, after its weight"),
    "reward/gold_raw": ("reward per response", "the gold utility, before its weight"),
    "reward/gold": ("reward per response", "the gold utility, after its weight"),
    "policy/approxkl_avg": ("nats per token", "half the mean squared log-ratio of the update"),
    "policy/clipfrac_avg": ("share of tokens", "where the policy's clip was the larger loss"),
    "loss/policy_avg": ("", "clipped policy loss, mean over action tokens"),
    "loss/value_avg": ("", "clipped value loss, mean over action tokens"),
    "val/clipfrac_avg": ("share of tokens", "where the value's clip was the larger loss"),
    "val/ratio": ("", "mean probability ratio of new to old policy"),
    "val/ratio_var": ("", "variance of that ratio over action tokens"),
    "val/first_ratio_error": ("", "largest |ratio - 1| before any step: 0 up to rounding"),
    "val/num_eos_tokens": ("responses", "that ended with their terminal token"),
    "val/response_length_tokens": ("tokens per response", "that the policy sampled"),
    "val/logprob_gap_max": ("nats per token", "sampler against training pass, largest"),
    "val/logprob_gap_mean": ("nats per token", "sampler against training pass, mean"),
    "lr/policy": ("", "learning rate of the policy"),
    "lr/value": ("", "learning rate of the value model"),
    "ppo/updates": ("updates", "rollouts trained on"),
    "ppo/episodes": ("episodes", "responses sampled"),
    "ppo/episodes_per_second": ("episodes per second", "over the whole run"),
    "ppo/optimizer_steps": ("steps", "of one update"),
    "time/generate_seconds": ("seconds", "of an update, sampling"),
    "time/score_seconds": ("seconds", "of an update, in reward terms"),
    "time/forward_seconds": ("seconds", "of an update, log-probs and values"),
    "time/update_seconds": ("seconds", "of an update, training"),
    "time/episodes_per_second": ("episodes per second", "of an update"),
    "time/ppo_seconds": ("seconds", "of all updates so far"),
}
"""Metric -> (unit, meaning). Keys are TRL's where TRL has one. The report prints the meaning."""


class Tracker(Protocol):
    """What a stage may do with its metrics."""

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Record numbers of one update (optimizer step, PPO update or item count)."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table of samples."""

    def progress(self, total: int, what: str, unit: str) -> Any:
        """Return a context manager whose `advance(n=1, **shown)` moves a line with rate and ETA."""

    def rewind(self, update: int) -> None:
        """Forget rows of updates after `update`: a resumed stage will log them again."""


class NullTracker:
    """Tracks nothing; for processes of rank above 0, and for tests."""

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""

    @contextmanager
    def progress(self, total: int, what: str, unit: str) -> Iterator[Progress]:
        """Yield a progress line that is not shown."""
        with Progress(total, what, unit, stream=None) as line:
            yield line

    def rewind(self, update: int) -> None:
        """Do nothing."""


class FileTracker:
    """Appends to `<out>/metrics.jsonl` and shows progress on standard error."""

    def __init__(self, out: Path):
        self.path = out / "metrics.jsonl"

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Append one row; NaN and infinity are written as text, since JSON has neither."""
        row: dict[str, Any] = {"update": int(update)}
        for name, value in metrics.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else str(number)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing: a stage's tables are files of its artifact already."""

    @contextmanager
    def progress(self, total: int, what: str, unit: str) -> Iterator[Progress]:
        """Yield a progress line on standard error."""
        with Progress(total, what, unit, stream=sys.stderr) as line:
            yield line

    def rewind(self, update: int) -> None:
        """Drop rows after `update`, and a last row that a killed process left half-written."""
        rows = read_metrics(self.path.parent)
        kept = [row for row in rows if row["update"] <= update]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(partial, self.path)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Do nothing: headline metrics stand in the manifest."""


class WandbTracker(FileTracker):
    """A FileTracker that mirrors everything to one W&B run per node.

    The run's id is derived from the artifact's fingerprint and the run folder's name, so a resumed
    node goes on in the same W&B run. Runs of one command share a group.
    """

    def __init__(
        self,
        out: Path,
        tracking: TrackingConfig,
        *,
        node: str,
        kind: str,
        group: str,
        run_id: str,
        folder: Path,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
    ):
        super().__init__(out)
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.run_id = run_id
        self._wandb = wandb
        folder.mkdir(parents=True, exist_ok=True)
        mode = "online" if wandb_key_is_set() else "offline"
        self._run = wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            id=run_id,
            name=node,
            group=group,
            job_type=kind,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", mode),  # type: ignore[arg-type]
            resume="allow" if mode == "online" else None,
            config={"node": node, "inputs": dict(inputs), **config},
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                disable_git=True,
                save_code=False,
                x_disable_machine_info=True,
            ),
        )
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        """Append one row and mirror it."""
        super().log(metrics, update)
        self._run.log({**{k: float(v) for k, v in metrics.items()}, "update": int(update)})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Mirror a table of samples."""
        data = [[_cell(value) for value in row] for row in rows]
        self._run.log({name: self._wandb.Table(columns=list(columns), data=data)})

    def mirror(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send rows that another process appended to metrics.jsonl."""
        for row in rows:
            self._run.log(dict(row))

    def lineage(self, uses: Mapping[str, tuple[str, str]], makes: tuple[str, str]) -> None:
        """Record which artifacts the node read and made: slot -> (kind, fingerprint)."""
        self._run.summary["uses"] = {slot: f"{k}/{f}" for slot, (k, f) in uses.items()}
        made = self._wandb.Artifact(f"{makes[0]}-{makes[1]}", type=makes[0])
        made.metadata["uses"] = {slot: f"{k}-{f}" for slot, (k, f) in uses.items()}
        self._run.log_artifact(made)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Write headline metrics into the summary and close the run."""
        for name, value in metrics.items():
            self._run.summary[name] = float(value)
        self._run.finish()


def wandb_key_is_set() -> bool:
    """Return whether W&B can log in without asking: WANDB_API_KEY or a netrc entry."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any(host.endswith("wandb.ai") for host in hosts)


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Return the rows of an artifact's metrics.jsonl; a half-written last row is dropped."""
    path = out / "metrics.jsonl"
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _cell(value: Any) -> Any:
    simple = isinstance(value, str | int | float | bool) or value is None
    return value if simple else json.dumps(value, ensure_ascii=False, default=str)
