"""Settings of stage ppo. No torch here.

Fields keep TRL's spelling where TRL has them. What each option does, and whose code has it so,
stands in `rlhf/ppo/README.md` under the number of its detail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import NOT_HASHED, PRECISIONS, require, require_choice, require_range
from plumbrule.lm.config import AdapterConfig, RetrievalConfig, SamplingConfig, SearchConfig
from plumbrule.stage_kind import POLICIES, PlacedNode, Slot, StageKind, own_precision
from rlhf.ppo.options import (
    ADVANTAGES,
    IMPORTANCE_LEVELS,
    KL_ESTIMATORS,
    LOSS_AGGREGATIONS,
    OUTSIDE_RULES,
    OWN_SAMPLER,
    POLICY_LOSSES,
    SAMPLERS,
    SCHEDULES,
    sampler_code,
)
from rlhf.ppo.settings.option_groups import (
    DistillConfig,
    EarlyStopConfig,
    EntropyConfig,
    KLConfig,
    PTXConfig,
)
from rlhf.rewards.config import RequireConfig, RewardConfig


@dataclass
class PPOConfig:
    """Stage `ppo`: clipped-objective PPO from the SFT policy against a reward."""

    seed: int = 0
    total_episodes: int = 4096
    """Responses that the whole run trains on; the last rollout is whole, so this is rounded up."""
    batch_size: int = 256
    """Episodes per rollout (update)."""
    samples_per_prompt: int = 1
    """Responses to each prompt of a rollout; they stand one behind the other."""
    dynamic_sampling_max_draws: int = 1
    """Above 1: prompts whose responses all have one score, and so no advantage, are replaced by \
further ones until the rollout is full of others, or was drawn so often (DAPO, arXiv:2503.14476, \
section 3.2). 1: none is replaced. Not of gae."""
    num_ppo_epochs: int = 4
    num_mini_batches: int = 4
    """Optimizer steps per rollout = num_ppo_epochs * num_mini_batches, always."""
    learning_rate: float = 3e-4
    """Of the policy, at its highest."""
    value_learning_rate: float = 1e-3
    """Of the value model, at its highest."""
    lr_scheduler_type: str = "linear"
    """How both run after warm-up: linear or cosine to 0 over the run, constant, or one of a \
plug-in."""
    warmup_share: float = 0.0
    """Share of the updates over which both rise linearly to their highest."""
    adam: str = "torch"
    """torch, or tf: epsilon is added before the bias correction, as in TensorFlow and so in \
OpenAI's first code."""
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0
    """Longest gradient of the policy, and of the value model; they are clipped apart."""
    advantage: str = "gae"
    """gae (with a value model), or one number per response from the others to its prompt: rloo \
(less the mean of the others), grpo (less the mean, over the deviation), reinforce_baseline (less \
the mean, then whitened over the rollout); none: 0, where ppo.distill alone trains; or one of a \
plug-in."""
    gamma: float = 1.0
    lam: float = 0.95
    lam_value: float | None = None
    """Lambda of the returns that the value model learns; None: lam. Of gae only."""
    lam_alpha: float | None = None
    """The advantages' lambda is 1 - 1 / (alpha * steps of the response), not below 0, in place of \
lam. None: it is lam for every length. Of gae only."""
    policy_loss: str = "clip"
    """clip: the clipped surrogate of each token's ratio; gspo: of the response's, which needs a \
far smaller cliprange (its paper: 3e-4 and 4e-4); cispo: the clipped ratio is a weight that leaves \
every token a gradient; or one of a plug-in. Sources and whole commands: docs/methods.md."""
    loss_aggregation: str = "token"
    """token: mean over the action tokens of a mini-batch; sequence: over those of each response, \
then over responses (GRPO, GSPO); constant: sum, over responses times sampling.max_new_tokens \
(Dr. GRPO, arXiv:2503.20783)."""
    mask_unfinished: bool = False
    """Whether responses without their terminal token are left out of the policy's loss."""
    cliprange: float = 0.2
    cliprange_high: float | None = None
    """How far above 1 the ratio may go; None: as far as below, cliprange."""
    dual_clip: float | None = None
    """c above 1: a token of negative advantage loses at most c times it. None: no such bound."""
    cliprange_value: float = 0.2
    vf_coef: float = 0.5
    """Weight of the value loss; 0 leaves the value model as it began."""
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    """Of gae only: over the action tokens of the rollout."""
    score_clip: float | None = None
    """Scores are cut to +- this, before the penalty for a missing EOS. None: they are not."""
    score_at: str = "last"
    """last: the score is the reward of the last action token. after: it comes one step later, on \
the state behind it, whose value is then learnt as well."""
    missing_eos_penalty: float = 1.0
    """Subtracted once from the score of a response that never gave its terminal token."""
    overlong_buffer: int = 0
    """Last tokens before sampling.max_new_tokens in which a longer response costs more; 0: none."""
    overlong_penalty: float = 1.0
    """Subtracted at the limit; half of it in the middle of the buffer."""
    value_init: str = "policy"
    """policy: trunk of the SFT policy and a zero head; rm: trunk and head of the reward model."""
    value_trunk: str = "own"
    """Of gae only. own: a whole model. branch: layers of its own on the frozen ones of \
ppo.unfrozen_layers. policy: a head on the policy's hidden states, which its gradient moves too."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    unfrozen_layers: int | None = None
    """Top layers of the policy that are trained; those below and the embeddings stay \
as they are and are shared with reference and value branch. None: all are trained."""
    value_warmup_updates: int = 0
    """First updates that train the value model alone."""
    sampler: str = "own"
    """Who answers the rollouts' prompts. own: the policy itself; transformers: its \
continuous batching; vllm: an engine in an environment of its own (`make install-vllm`); or a \
plug-in's. Samples after training are own's. What they cost and where they differ: \
docs/machines.md."""
    old_logprobs: str = "recompute"
    """recompute: from the pass that training differentiates. rollout: from the sampler."""
    staleness: int = 0
    """1: each rollout but the first is sampled before the update ahead of it, as beside a trainer \
that does not wait (one-step off-policy); a schedule only, nothing runs at the same time. 0: after \
it. What corrects for the older policy: old_logprobs=rollout, or importance_cap."""
    importance_cap: float | None = None
    """Each token's loss is weighted by training over sampling probability, at most this: for a \
sampler that is not quite the policy. None: not weighted."""
    importance_floor: float = 0.0
    """The least such weight."""
    importance_level: str = "token"
    """token: each token's own ratio; sequence: the product over its response; geometric: the mean \
per token of that."""
    importance_outside: str = "clip"
    """clip: a ratio beyond cap or floor counts as it; mask: the token, or response, counts 0."""
    ema_decay: float | None = None
    """The published policy is the average of its weights after each update, that of u updates \
ago weighing ema_decay^u. None: the last one."""
    precision: str = "float32"
    """float32, bfloat16, or auto: what is native; of forward and backward passes and of sampling. \
Weights, the value head and the log-softmax are float32 in all."""
    kl: KLConfig = field(default_factory=KLConfig)
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    stop_at: str | None = None
    """predicted_peak: the run ends once its KL passes the peak of gold that the node's input \
`overoptimisation` predicts. None: early_stop alone decides."""
    stop_series: str | None = None
    """Which series of that study predicts it; None: its only one of PPO."""
    ptx: PTXConfig = field(default_factory=PTXConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    require_rm: RequireConfig = field(default_factory=RequireConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    save_every: int = field(default=2, metadata=NOT_HASHED)
    """Updates between checkpoints."""
    num_samples: int = 16
    """Validation prompts whose greedy responses are written before and after training."""
    keep_state: bool = False
    """Whether the artifact keeps what another run needs to go on exactly (input `continues`): \
Adam's moments and the trained weights, three times their size on disk."""
    source: str = ""
    """Digests of the plug-ins that hold what is chosen by name; filled in, whatever is given."""

    def __post_init__(self) -> None:
        require_range("ppo.total_episodes", self.total_episodes, 1, unit="episodes")
        require_range("ppo.batch_size", self.batch_size, 2, unit="episodes")
        require_range("ppo.samples_per_prompt", self.samples_per_prompt, 1, unit="responses")
        require_range(
            "ppo.dynamic_sampling_max_draws", self.dynamic_sampling_max_draws, 1, unit="draws"
        )
        require_range("ppo.staleness", self.staleness, 0, 1, "updates")
        require_range("ppo.num_ppo_epochs", self.num_ppo_epochs, 1)
        require_range("ppo.num_mini_batches", self.num_mini_batches, 1)
        for name in ("num_mini_batches", "samples_per_prompt"):
            require(
                self.batch_size % getattr(self, name) == 0,
                "ppo.batch_size",
                f"{self.batch_size} episodes",
                f"divide by ppo.{name} (={getattr(self, name)})",
                "use a multiple of it",
            )
        for name in ("learning_rate", "value_learning_rate", "adam_epsilon", "vf_coef"):
            require_range(f"ppo.{name}", getattr(self, name), 0.0, 100.0)
        require_range("ppo.max_grad_norm", self.max_grad_norm, 1e-9)
        for name in ("gamma", "lam", "lam_value"):
            if getattr(self, name) is not None:
                require_range(f"ppo.{name}", getattr(self, name), 0.0, 1.0)
        if self.lam_alpha is not None:
            require_range("ppo.lam_alpha", self.lam_alpha, 1e-6)
        for name in ("cliprange", "cliprange_high", "cliprange_value"):
            if getattr(self, name) is not None:
                require_range(f"ppo.{name}", getattr(self, name), 1e-6, 1e6)
        require_range("ppo.overlong_penalty", self.overlong_penalty, 0.0)
        require_range(
            "ppo.overlong_buffer",
            self.overlong_buffer,
            0,
            self.sampling.max_new_tokens,
            "tokens",
        )
        require_range("ppo.missing_eos_penalty", self.missing_eos_penalty, 0.0)
        if self.stop_at is not None:
            require_choice("ppo.stop_at", self.stop_at, ("predicted_peak",))
        require(
            self.stop_series is None or self.stop_at is not None,
            "ppo.stop_series",
            self.stop_series,
            "be null without ppo.stop_at",
            "set both or neither",
        )
        require_choice("ppo.adam", self.adam, ("torch", "tf"))
        require_choice("ppo.advantage", self.advantage, ADVANTAGES)
        require_choice("ppo.policy_loss", self.policy_loss, POLICY_LOSSES)
        require_choice("ppo.loss_aggregation", self.loss_aggregation, LOSS_AGGREGATIONS)
        require_choice("ppo.importance_level", self.importance_level, IMPORTANCE_LEVELS)
        require_choice("ppo.importance_outside", self.importance_outside, OUTSIDE_RULES)
        require_choice("ppo.lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        require_range("ppo.warmup_share", self.warmup_share, 0.0, 1.0)
        require_choice("ppo.score_at", self.score_at, ("last", "after"))
        require_choice("ppo.sampler", self.sampler, SAMPLERS)
        require_choice("ppo.old_logprobs", self.old_logprobs, ("recompute", "rollout"))
        require_choice("ppo.value_init", self.value_init, ("policy", "rm"))
        require_choice("ppo.value_trunk", self.value_trunk, ("own", "branch", "policy"))
        if self.unfrozen_layers is not None:
            require_range("ppo.unfrozen_layers", self.unfrozen_layers, 1, unit="layers")
        require_choice("ppo.precision", self.precision, PRECISIONS)
        require_range("ppo.value_warmup_updates", self.value_warmup_updates, 0, unit="updates")
        require_range("ppo.save_every", self.save_every, 1, unit="updates")
        require_range("ppo.num_samples", self.num_samples, 0, unit="prompts")
        if self.dual_clip is not None:
            require_range("ppo.dual_clip", self.dual_clip, 1.0)
        if self.score_clip is not None:
            require_range("ppo.score_clip", self.score_clip, 1e-6)
        if self.importance_cap is not None:
            require_range("ppo.importance_cap", self.importance_cap, 1e-6)
            require_range("ppo.importance_floor", self.importance_floor, 0.0, self.importance_cap)
        if self.ema_decay is not None:
            require_range("ppo.ema_decay", self.ema_decay, 0.0, 1.0)
        require(
            self.sampling.temperature > 0,
            "ppo.sampling.temperature",
            self.sampling.temperature,
            "be above 0",
            "greedy decoding has no log-probs to take a ratio of",
        )
        self._check_together()
        sources = {
            "advantage": ADVANTAGES.source(self.advantage),
            "policy_loss": POLICY_LOSSES.source(self.policy_loss),
            "kl.estimator": KL_ESTIMATORS.source(self.kl.estimator),
            "lr_scheduler_type": SCHEDULES.source(self.lr_scheduler_type),
            "sampler": sampler_code(self.sampler),
        }
        self.source = " ".join(f"{name}:{digest}" for name, digest in sources.items() if digest)

    def _check_together(self) -> None:
        """Raise ConfigError for options that exclude each other."""
        require(
            self.kl.target is None or 5 * self.kl.horizon > self.batch_size,
            "ppo.kl.horizon",
            f"{self.kl.horizon} episodes",
            f"be above a fifth of ppo.batch_size (={self.batch_size} episodes), or one update "
            "could take the coefficient to 0 and below",
            "raise it, or drop ppo.kl.target",
        )
        self._check_sampling()
        require(
            self.samples_per_prompt >= 2
            or "groups" not in ADVANTAGES.option(self.advantage).traits,
            "ppo.samples_per_prompt",
            self.samples_per_prompt,
            f"be at least 2 for ppo.advantage={self.advantage}, which compares them",
            "raise it or use gae",
        )
        if self.advantage == "none":
            require(
                self.distill.coef > 0,
                "ppo.advantage",
                self.advantage,
                "be another without ppo.distill.coef, for then nothing says what is better",
                "set that, or use gae",
            )
            require(
                not self.kl.coef or self.kl.where == "loss",
                "ppo.kl.coef",
                self.kl.coef,
                "be 0 with ppo.advantage=none, which reads no reward and so no KL in it",
                "set it to 0, or ppo.kl.where=loss",
            )
        if not self.has_value_model:
            require(
                self.score_at == "last" and not self.value_warmup_updates,
                "ppo.advantage",
                self.advantage,
                "be gae for ppo.score_at=after and ppo.value_warmup_updates, which need values",
                "change one of them",
            )
        require(
            self.unfrozen_layers is None or not self.adapter.rank,
            "ppo.unfrozen_layers",
            self.unfrozen_layers,
            f"be left out with ppo.adapter.rank (={self.adapter.rank}): adapters freeze all layers",
            "choose one of them",
        )
        require(
            self.value_trunk != "branch" or self.unfrozen_layers is not None,
            "ppo.value_trunk",
            self.value_trunk,
            "be own or policy without ppo.unfrozen_layers, which says what a branch stands on",
            "set both or neither",
        )
        require(
            self.value_trunk == "own" or self.value_init == "policy",
            "ppo.value_init",
            self.value_init,
            f"be policy with ppo.value_trunk={self.value_trunk}: it stands on the policy's layers",
            "change one of them",
        )
        require(
            self.importance_cap is None or self.old_logprobs == "recompute",
            "ppo.importance_cap",
            self.importance_cap,
            "go with ppo.old_logprobs=recompute",
            "the sampler's own log-probs leave nothing to weigh",
        )
        plain = self.importance_level == "token" and self.importance_outside == "clip"
        require(
            self.importance_cap is not None or (plain and not self.importance_floor),
            "ppo.importance_cap",
            self.importance_cap,
            "be set with ppo.importance_floor, ppo.importance_level or ppo.importance_outside",
            "set it, or leave those out",
        )
        if not self.has_value_model:
            require(
                self.lam_value is None and self.lam_alpha is None,
                "ppo.advantage",
                self.advantage,
                "be gae for ppo.lam_value and ppo.lam_alpha, which are of its lambda",
                "change one of them",
            )
        require(
            self.value_warmup_updates < self.num_updates,
            "ppo.value_warmup_updates",
            f"{self.value_warmup_updates} updates",
            f"be fewer than the run's {self.num_updates}",
            "lower it or raise ppo.total_episodes",
        )

    def _check_sampling(self) -> None:
        """Raise ConfigError where the rollouts' prompts or policy can't be chosen as asked."""
        if self.dynamic_sampling_max_draws > 1:
            require(
                self.samples_per_prompt >= 2,
                "ppo.samples_per_prompt",
                self.samples_per_prompt,
                "be at least 2 with ppo.dynamic_sampling_max_draws, which compares scores of one "
                "prompt's responses",
                "raise it, or leave ppo.dynamic_sampling_max_draws at 1",
            )
            require(
                "groups" in ADVANTAGES.option(self.advantage).traits,
                "ppo.advantage",
                self.advantage,
                "compare the responses to a prompt with ppo.dynamic_sampling_max_draws: where "
                "values say what was to be expected, equal scores still teach",
                "use rloo, grpo or reinforce_baseline",
            )
            whole = [term.name for term in self.reward.terms if term.normalise != "none"]
            require(
                not whole,
                "reward.terms",
                f"{', '.join(whole)} normalised over the rollout",
                "have normalise=none with ppo.dynamic_sampling_max_draws: which prompts stay in a "
                "rollout is decided by scores, so these can't depend on it",
                "drop one of them",
            )
        require(
            not self.search.is_on or self.sampler == OWN_SAMPLER,
            "ppo.sampler",
            self.sampler,
            "be own with ppo.search.max_turns above 1: an engine does not stop at search calls yet",
            "set ppo.sampler=own, or ppo.search.max_turns=1",
        )
        require(
            not self.staleness or self.old_logprobs == "rollout" or self.importance_cap is not None,
            "ppo.staleness",
            f"{self.staleness} update",
            "go with what corrects for the older policy that sampled",
            "set ppo.importance_cap, or ppo.old_logprobs=rollout",
        )

    @property
    def num_updates(self) -> int:
        """Rollouts in the run."""
        return -(-self.total_episodes // self.batch_size)

    @property
    def most_response_tokens(self) -> int:
        """Tokens of a response and of the answers to its search calls, at most."""
        return self.sampling.max_new_tokens + self.search.most_result_tokens

    @property
    def has_value_model(self) -> bool:
        """Whether advantages come from values."""
        return "values" in ADVANTAGES.option(self.advantage).traits


def _lacks_gold(node: PlacedNode) -> tuple[str, str] | None:
    if "gold" in node.config.reward.weights:
        return None
    return (
        "have the gold utility in its reward, at weight 0 where it shall not count",
        "add {name: gold, weight: 0} to reward.terms",
    )


STAGE = StageKind(
    "ppo",
    PPOConfig,
    "rlhf.ppo.stage:run",
    {
        "policy": Slot(POLICIES),
        "continues": Slot(("ppo",), required=False),
        "rm": Slot(
            ("rm",),
            required=False,
            many=True,
            read_if=lambda config: "rm" in config.reward.weights or config.value_init == "rm",
        ),
        "judge": Slot(POLICIES, required=False, read_if=lambda config: config.reward.asks_judge),
        "prompts": Slot(("data",)),
        "index": Slot(
            ("index",),
            required=False,
            read_if=lambda config: config.retrieval.share > 0 or config.search.is_on,
        ),
        "demonstrations": Slot(
            ("data",), required=False, read_if=lambda config: config.ptx.coef > 0
        ),
        "teacher": Slot(POLICIES, required=False, read_if=lambda config: config.distill.coef > 0),
        "overoptimisation": Slot(
            ("overoptimisation",),
            required=False,
            read_if=lambda config: config.stop_at is not None,
        ),
    },
    links={"seed": "${seed}", "reward": "${reward}"},
    makes_policy=True,
    measured=True,
    headline=("objective/kl",),
    parallel=True,
    lacks_gold=_lacks_gold,
    check="rlhf.ppo.graph_checks:check",
    reward=lambda config: config.reward,
    precision=own_precision,
    result_tokens=lambda config: config.search.most_result_tokens,
)
