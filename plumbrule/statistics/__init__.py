"""How sure a number is: one interval for each kind of estimate, made for it.

Answers to three paraphrases of one question, or continuations of six prompts about one actress, are
not independent, so every interval counts *groups* (clusters); items without groups are groups of
one. A percentile bootstrap, which would serve for all, is too narrow where groups are few or values
skewed, and has no width where a sample happens to hold no spread (docs/statistics.md has the
coverage of each by simulation). So:

* shares: Wilson's score interval at the effective sample size (`shares`);
* differences of paired shares: Tango's score interval at the effective sample size; sums of shares,
  such as balanced accuracy, by variance estimates recovered from each share's bounds (`shares`);
* means and paired differences: Student's t on group totals, wider where skewness asks for it
  (`means`); over seeds, Student's t; over the folds of a cross-validation, Student's t corrected
  for the rows that their trainings share (`folds`);
* AUROC, correlations and slopes: a jackknife over groups (`ranks`, `jackknife`);
* the gap between the highest and lowest of several classes: a bootstrap (`spread`);
* calibration: what a calibrated model would show stands beside the error (`calibration`);
* runs of several seeds beside one another: interquartile means, profiles and the probability of
  improvement by a bootstrap over seeds, paired p-values that Holm corrects (`seeds`).

Bounds are NaN, and `reason` says why, where too few groups, or no spread in them, allow none that
would cover. P-values stand beside the interval of a difference in `plumbrule gather` alone, where
many cells are held against one baseline; elsewhere the interval says as much and how much.
"""

from plumbrule.statistics.calibration import (
    Calibration,
    CalibrationBin,
    calibration,
    calibration_bins,
    calibration_error,
)
from plumbrule.statistics.folds import fold_interval, fold_p_value
from plumbrule.statistics.intervals import (
    CONFIDENCE,
    MIN_GROUPS,
    NUM_RESAMPLES,
    Interval,
    point,
    sampled_bounds,
    too_few,
    unknown,
)
from plumbrule.statistics.jackknife import jackknife_interval
from plumbrule.statistics.means import mean_interval, paired_interval, seed_interval
from plumbrule.statistics.ranks import (
    auroc,
    auroc_interval,
    correlation_interval,
    spearman,
    spearman_interval,
)
from plumbrule.statistics.seeds import (
    bootstrap_interval,
    holm,
    improvement_interval,
    improvement_probability,
    interquartile_mean,
    paired_p_value,
    performance_profile,
)
from plumbrule.statistics.shares import (
    paired_share_interval,
    share_interval,
    stratified_share_interval,
    wilson,
)
from plumbrule.statistics.spread import chance_spread, spread_interval

__all__ = [
    "CONFIDENCE",
    "MIN_GROUPS",
    "NUM_RESAMPLES",
    "Calibration",
    "CalibrationBin",
    "Interval",
    "auroc",
    "auroc_interval",
    "bootstrap_interval",
    "calibration",
    "calibration_bins",
    "calibration_error",
    "chance_spread",
    "correlation_interval",
    "fold_interval",
    "fold_p_value",
    "holm",
    "improvement_interval",
    "improvement_probability",
    "interquartile_mean",
    "jackknife_interval",
    "mean_interval",
    "paired_interval",
    "paired_p_value",
    "paired_share_interval",
    "performance_profile",
    "point",
    "sampled_bounds",
    "seed_interval",
    "share_interval",
    "spearman",
    "spearman_interval",
    "spread_interval",
    "stratified_share_interval",
    "too_few",
    "unknown",
    "wilson",
]
