"""Early stopping: the KL above which a run ends, and why one did."""

from __future__ import annotations

import json
from typing import NamedTuple

from plumbrule.errors import ConfigError
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import FITS


class KLLimit(NamedTuple):
    """The KL (nats per response) above which a run ends, and which setting gave it."""

    kl: float
    setting: str


def kl_limit(
    run_kl: float | None, study: Artifact | None = None, series: str | None = None
) -> KLLimit | None:
    """Return the lower of the limits that are set; None: there is none.

    Args: run_kl: `ppo.early_stop.run_kl`. study: of over-optimisation, whose predicted peak is a
    limit; None: it is none. series: of the study; None: its only one of PPO.
    Raises: ConfigError: the study predicts no peak for the series.
    """
    limits = []
    if run_kl is not None:
        limits.append(KLLimit(run_kl, "ppo.early_stop.run_kl"))
    if study is not None:
        limits.append(KLLimit(predicted_peak(study, series), "the peak that ppo.stop_at predicts"))
    return min(limits) if limits else None


def predicted_peak(study: Artifact, series: str | None) -> float:
    """Return the KL at which a study predicts the highest gold score.

    Raises: ConfigError: no such series of PPO, several to choose from, or one without a peak, or
    with one that most resamples put beyond what the study saw.
    """
    fits = json.loads(study.file(FITS).read_text(encoding="utf-8"))
    known = {row["series"]: row for row in fits if row["method"] == "ppo"}
    if series is None and len(known) == 1:
        series = next(iter(known))
    if series not in known:
        raise ConfigError(
            f"ppo.stop_series (={series}) must name one of the study's series of PPO: "
            f"{', '.join(known) or 'it has none'}."
        )
    peak = known[series].get("peak_kl", {}).get("value")
    if peak is None:
        raise ConfigError(
            f"ppo.stop_at (=predicted_peak) must be null for the series {series!r}: its fit has no "
            "peak. Choose another series, or ppo.early_stop.run_kl."
        )
    if known[series]["turns"] < 0.5:
        raise ConfigError(
            f"ppo.stop_at (=predicted_peak) must be null for the series {series!r}: the study saw "
            f"no decline, its peak at {peak:.3g} nats is extrapolated. Use ppo.early_stop.run_kl "
            "to stop there all the same."
        )
    return float(peak)


def stop_reason(kl: float, limit: KLLimit | None, num_done: int, num_updates: int) -> str:
    """Return why no update follows one whose KL was `kl` nats per response; "": one does.

    Args: num_done, num_updates: updates done, and of the whole run, for the words.
    """
    if limit is None or kl <= limit.kl:
        return ""
    return (
        f"The run ended after {num_done} of {num_updates} updates: its KL ({kl:.3g} nats per "
        f"response) had passed {limit.setting} (={limit.kl:.3g})."
    )
