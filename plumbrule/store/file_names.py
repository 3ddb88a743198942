"""The names of files and folders inside artifacts, and inside an attempt while it is being built.

Every name that a second module writes, reads or shows stands here, and nowhere else as a literal. A
name that one module alone uses, such as the files of its own checkpoints, is a constant of that
module: every stage reaches this module, so a new name here rebuilds all artifacts. Where artifacts
themselves lie says `layout.py`.
"""

# Records.
RECORDS = "records.jsonl"
"""Records to learn from: of data, rankings of feedback, chosen answers of reject."""
VALIDATION = "validation.jsonl"
"""Held-out records."""
SPLITS = {"train": RECORDS, "validation": VALIDATION}
"""Split -> its file."""
CARD = "card.json"
"""Data card of a data artifact."""

# Models.
MODEL = "model"
"""Folder of a policy or of a reward model's backbone, as Hugging Face writes it."""
POLICY_FILE = "policy.json"
"""What is known of a policy beside its weights; in `MODEL`."""
WEIGHTS = "model.safetensors"
"""Weights in a folder of a model."""
HEAD = "head.safetensors"
"""A reward model's scalar head."""
REWARD_STATS = "reward_stats.json"
"""How a reward model's scores are normalised."""
REPORT_CARD = "report_card.json"
"""What is known of a reward model, or of a policy's implicit rewards."""
REWARD = "reward.json"
"""The configured reward that an artifact of kind reward holds."""
VALUE = "value"
"""Folder of PPO's value model."""
STATE = "state"
"""Folder of what a later PPO run goes on from."""
ROLLOUTS = "rollouts"
"""Folder of PPO's rollouts, one Parquet file an update."""
REPLIES = "replies"
"""Folder of what scorers behind URLs replied."""

# Feedback.
QUESTIONS = "questions.jsonl"
"""What people were asked."""
PEOPLES_LABELS = "labels.jsonl"
"""What people said."""
JUDGEMENTS = "judgements.jsonl"
"""What a judge said."""
LABELLING = "labelling.json"
"""Where the questions lie that a feedback artifact asks of people."""

# Measurements.
PROMPTS = "prompts.jsonl"
"""What a method made of each prompt."""
CURVE = "curve.json"
"""Mean reward by n of best-of-n."""
METRICS = "metrics.json"
"""Metrics of an evaluation with their intervals."""
ITEMS = "items"
"""Folder of what an evaluation measured of each item, `<benchmark>.jsonl`."""
BENCHMARK_FACTS = "benchmarks.json"
"""Of an evaluation: benchmark -> `quantities`: what a comparison pairs; `metrics`: of a plug-in\'s,
metric -> what it measures."""
EVALUATED = "evaluated.json"
"""Which policy an evaluation measured, and on what."""
COMPARISONS = "comparisons.json"
WIN_RATES = "win_rates.json"
"""Of a comparison: shares of prompts on which one policy's answer is the better one."""
SUMMARY = "summary.json"
METHODS = "methods.json"
BEST_OF_N = "best_of_n.json"
"""Best-of-n's curve beside the methods that are compared with it."""
FITS = "fits.json"
"""Fitted curves of an overoptimisation study."""

# What any stage may leave for the report.
METRIC_ROWS = "metrics.jsonl"
"""Metrics that a stage logged, one row an update."""
INTERVALS = "intervals.json"
"""Headline metric -> value, low, high, n, groups and perhaps reason, as `Interval.as_json` gives
them; of each stage whose headline has intervals."""
SAMPLES = "samples.jsonl"
"""Rows that the report shows; of feedback, all sampled answers."""
NOTES = "notes.json"
"""Sentences that the report must show."""
TABLES = "tables.json"
FIGURES = "figures.json"

# Of an attempt alone; never published.
CHECKPOINTS = "checkpoints"
"""Folder of a stage's checkpoints."""
STAGE = "stage.json"
"""What torchrun's workers are to build."""
RESULT = "result.json"
"""Metrics that those workers return."""
WANDB_RUN = f"{CHECKPOINTS}/wandb.json"
"""The W&B run that a resumed stage goes on with."""
