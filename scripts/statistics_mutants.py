"""Mutants of statistics, comparisons and reports: one wrong line each, for `scripts/mutate.py`.

Each is (area, name, file, old text, new text, tests of which one must fail).
"""

from __future__ import annotations

STATISTICS = "plumbrule/test_statistics.py"
COMPARE = "eval/test_eval_compare.py"
CARD = "rlhf/test_report_card.py"

Patch = tuple[str, str, str, str, str, tuple[str, ...]]

MUTANTS: list[Patch] = [
    (
        "statistics",
        "compare resamples items and not their groups",
        "eval/intervals.py",
        "return statistics.paired_interval(a, b, groups(before), confidence=self.confidence)",
        "return statistics.paired_interval(a, b, confidence=self.confidence)",
        (f"{COMPARE}::test_items_of_one_group_count_together",),
    ),
    (
        "statistics",
        "an item without a group has that of all others without",
        "eval/intervals.py",
        'return [row["group"] or row["id"] for row in rows]',
        'return [row["group"] for row in rows]',
        ("eval/test_eval_rewards.py::test_items_without_a_group_are_groups_of_one",),
    ),
    (
        "statistics",
        "a share interval without its cap at the number of items",
        "plumbrule/statistics/shares.py",
        "design_effect = max(1.0, (between + size**2 * ends) / alone)",
        "design_effect = (between + size**2 * ends) / alone",
        (f"{STATISTICS}::test_a_share_is_never_surer_than_its_items",),
    ),
    (
        "statistics",
        "no hit at all is less sure than one",
        "plumbrule/statistics/shares.py",
        "if p in (0.0, 1.0) and num_groups < n:",
        "if p in (0.0, 1.0) and num_groups > n:",
        (f"{STATISTICS}::test_no_hit_is_no_wider_than_one_and_both_count_groups",),
    ),
    (
        "statistics",
        "Wilson's interval stays next to 0 and 1",
        "plumbrule/statistics/shares.py",
        "low = min(found.low, _poisson_low(p * effective, effective, confidence))",
        "low = found.low",
        (f"{STATISTICS}::test_next_to_its_ends_a_share_has_poissons_bound",),
    ),
    (
        "statistics",
        "Tango's nuisance share is that of the sample",
        "plumbrule/statistics/shares.py",
        "q = (math.sqrt(root) - b) / (4 * n)",
        "q = lost / n",
        (f"{STATISTICS}::test_paired_shares_equal_tangos_interval_searched_for",),
    ),
    (
        "statistics",
        "paired shares are taken for a mean",
        "plumbrule/statistics/means.py",
        "    if set(kinds) <= {0.0, 1.0}:\n        return paired_share_interval(",
        "    if len(kinds) > 2:\n        return paired_share_interval(",
        (f"{STATISTICS}::test_no_change_leaves_tangos_doubt",),
    ),
    (
        "statistics",
        "a score that is equal throughout is taken for a share",
        "eval/intervals.py",
        "if isinstance(before[0][column], float) and",
        "if isinstance(before[0][column], str) and",
        (f"{COMPARE}::test_a_score_that_is_equal_throughout_has_no_interval",),
    ),
    (
        "statistics",
        "balanced accuracy takes its labels for unrelated",
        "plumbrule/statistics/shares.py",
        "correlation = rows @ rows.T / np.outer(spread, spread)",
        "correlation = np.zeros((len(rows), len(rows)))",
        (f"{STATISTICS}::test_two_sides_of_a_row_that_pull_against_each_other_are_surer_together",),
    ),
    (
        "statistics",
        "balanced accuracy is weighted by the labels' sizes",
        "plumbrule/statistics/shares.py",
        "weights.append(1 / num_strata if equal else own.mean())",
        "weights.append(own.mean())",
        (f"{STATISTICS}::test_balanced_accuracy_weighs_labels_and_is_as_wide_as_its_parts_say",),
    ),
    (
        "statistics",
        "a long tail widens the wrong side",
        "plumbrule/statistics/means.py",
        "return float(below) * scale, float(above) * scale",
        "return float(above) * scale, float(below) * scale",
        (f"{STATISTICS}::test_mean_interval_reaches_further_on_the_side_of_the_tail",),
    ),
    (
        "statistics",
        "normal quantiles where groups are few",
        "plumbrule/statistics/shares.py",
        "return float(stdtrit(degrees, 0.5 + checked_confidence(confidence) / 2))",
        "return float(stdtrit(1e9 + degrees, 0.5 + checked_confidence(confidence) / 2))",
        (f"{STATISTICS}::test_mean_interval_is_students_where_nothing_is_skewed",),
    ),
    (
        "statistics",
        "a large group counts as much as a small one",
        "plumbrule/statistics/means.py",
        "errors = (totals.sums - value * totals.counts) / (1 - totals.counts / n)",
        "errors = totals.sums - value * totals.counts",
        (f"{STATISTICS}::test_groups_of_uneven_size_are_left_out_one_by_one",),
    ),
    (
        "statistics",
        "an interval of no width is printed",
        "plumbrule/statistics/intervals.py",
        "if not low < high:",
        "if low > high:",
        (f"{STATISTICS}::test_where_nothing_would_cover_there_is_a_reason_and_no_interval",),
    ),
    (
        "statistics",
        "four groups are enough",
        "plumbrule/statistics/intervals.py",
        "MIN_GROUPS = 5\n",
        "MIN_GROUPS = 4\n",
        (f"{STATISTICS}::test_where_nothing_would_cover_there_is_a_reason_and_no_interval",),
    ),
    (
        "statistics",
        "the jackknife is averaged, not added up",
        "plumbrule/statistics/jackknife.py",
        "error = math.sqrt(float(rest @ rest) * (num_blocks - 1) / num_blocks)",
        "error = math.sqrt(float(rest @ rest) / num_blocks)",
        (f"{STATISTICS}::test_auroc_interval_is_a_jackknife_of_log_odds",),
    ),
    (
        "statistics",
        "the debiased calibration error has its bias",
        "plumbrule/statistics/calibration.py",
        "debiased = math.sqrt(max(0.0, value**2 - float(np.square(errors).mean())))",
        "debiased = value",
        (
            f"{STATISTICS}::test_the_error_of_a_calibrated_model_is_what_stands_beside_it",
            f"{STATISTICS}::test_a_planted_calibration_error_is_found_without_its_bias",
        ),
    ),
    (
        "statistics",
        "a calibrated model is one of independent outcomes",
        "plumbrule/statistics/calibration.py",
        "    if int(together.max()) + 1 in (1, len(rest)):\n",
        "    if int(together.max()) >= 0:\n",
        (f"{STATISTICS}::test_outcomes_that_go_together_widen_what_chance_explains",),
    ),
    (
        "statistics",
        "an unknown benchmark compares nothing",
        "eval/compare.py",
        '    raise DataError(\n        f"benchmark (=items/{benchmark}.jsonl)',
        "    if rows:\n        return []\n"
        '    raise DataError(\n        f"benchmark (=items/{benchmark}.jsonl)',
        (f"{COMPARE}::test_an_unknown_benchmark_is_refused",),
    ),
    (
        "statistics",
        "a reward model without an interval beats the rules",
        "rlhf/gate.py",
        "        if low is None:\n",
        '        if low is None and accuracy["n"] == 0:\n',
        ("rlhf/test_gate.py::test_an_accuracy_without_an_interval_beats_no_rule",),
    ),
    (
        "statistics",
        "the report leaves out how many groups there are",
        "plumbrule/report/contents.py",
        'parts = (f"n {n}" if n else "", f"groups {groups}" if groups else "")',
        'parts = (f"n {n}" if n else "", "")',
        ("plumbrule/test_report.py::test_items_and_groups_stand_beside_every_interval",),
    ),
]
