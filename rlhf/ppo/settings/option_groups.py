"""Groups of settings of stage ppo: KL, entropy, early stopping, PPO-ptx, teacher. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import (
    CONTENT_IF_LOCAL,
    require,
    require_choice,
    require_named,
    require_range,
)
from rlhf.ppo.options import KL_ESTIMATORS


@dataclass
class KLConfig:
    """The penalty that keeps the policy near its reference."""

    coef: float = 0.05
    """Reward (or loss) per nat; with a target, that of the first update."""
    estimator: str = "k1"
    """k1 log(p/q), k2 half its square, k3 q/p - 1 - log(q/p) cut at 20 nats, of each sampled \
token; or one of a plug-in."""
    where: str = "reward"
    """reward: subtracted at each action token. loss: added to the policy loss; whatever the \
estimator, its gradient is k2's, the only one that is the KL's, weighted by the ratio."""
    target: float | None = None
    """KL per response (nats) that the coefficient is steered to; None: it stays what it is."""
    horizon: int = 10_000
    """Episodes over which the coefficient follows an error of 100 %; above a fifth of a batch."""

    def __post_init__(self) -> None:
        require_range("ppo.kl.coef", self.coef, 0.0, unit="per nat")
        require_choice("ppo.kl.estimator", self.estimator, KL_ESTIMATORS)
        require_choice("ppo.kl.where", self.where, ("reward", "loss"))
        require_range("ppo.kl.horizon", self.horizon, 1, unit="episodes")
        if self.target is not None:
            require_range("ppo.kl.target", self.target, 1e-6, unit="nats")
            require(
                self.coef > 0,
                "ppo.kl.coef",
                self.coef,
                "be above 0 with ppo.kl.target, which multiplies it",
                "raise it or drop the target",
            )


@dataclass
class EntropyConfig:
    """A bonus that keeps the policy from growing too sure. Off by default."""

    coef: float = 0.0
    """Subtracted from the loss per nat of the policy's mean entropy; with a target, at the start; \
0: none. Costs memory in the backward pass: some arrays over the vocabulary, for a slice of tokens \
at a time."""
    target: float | None = None
    """Nats per token: the coefficient grows by `step` after an update whose entropy was lower and \
falls by it, not below 0, after one whose entropy was higher; it counts only while the entropy is \
not above the target (Skywork-OR1, arXiv:2505.22312). None: the coefficient stays what it is."""
    step: float = 0.005
    """By which an update moves the coefficient."""

    def __post_init__(self) -> None:
        require_range("ppo.entropy.coef", self.coef, 0.0, 100.0, unit="per nat")
        require_range("ppo.entropy.step", self.step, 0.0, 100.0)
        if self.target is not None:
            require_range("ppo.entropy.target", self.target, 0.0, unit="nats per token")


@dataclass
class EarlyStopConfig:
    """When to leave off. Both are off by default."""

    step_kl: float | None = None
    """Nats per token: the rest of an update is left out as soon as a mini-batch's approxkl, \
measured before its step, is larger. None: every step is taken."""
    run_kl: float | None = None
    """Nats per response: the run ends after the update whose `objective/kl` is larger. None: \
after `total_episodes`."""

    def __post_init__(self) -> None:
        for name in ("step_kl", "run_kl"):
            if getattr(self, name) is not None:
                require_range(f"ppo.early_stop.{name}", getattr(self, name), 1e-9, unit="nats")


@dataclass
class PTXConfig:
    """PPO-ptx: demonstrations in between, so that the policy does not forget them."""

    coef: float = 0.0
    """Weight of their loss (mean nats per response token) in every optimizer step; 0: none. \
Above 0 the node needs an input `demonstrations`."""
    batch_size: int = 16
    """Demonstrations per optimizer step."""

    def __post_init__(self) -> None:
        require_range("ppo.ptx.coef", self.coef, 0.0)
        require_range("ppo.ptx.batch_size", self.batch_size, 1, unit="demonstrations")


@dataclass
class DistillConfig:
    """A teacher that says of each sampled token how likely it finds it. Off by default."""

    coef: float = 0.0
    """Added to a token's advantage per nat by which the teacher finds it likelier; 0: no teacher. \
Above 0 the node needs an input `teacher`, or a model that is named here."""
    name_or_path: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder or hub name of a causal language model with the policy's tokenizer; None: the node's \
`teacher` input."""
    revision: str | None = None
    """40-hex commit of a hub model; None for a folder."""
    pad_token: str | None = None
    """Pad token to use where the tokenizer names none; None: refuse such a tokenizer."""
    precision: str = "float32"
    """Of the teacher's weights: float32 or bfloat16. Its log-softmax is float32 in both."""

    def __post_init__(self) -> None:
        require_range("ppo.distill.coef", self.coef, 0.0, 1e6, "per nat")
        require_choice("ppo.distill.precision", self.precision, ("float32", "bfloat16"))
        require_named("ppo.distill", self.name_or_path, self.revision, self.pad_token)
        require(
            self.name_or_path is None or self.coef > 0,
            "ppo.distill.coef",
            self.coef,
            f"be above 0 with ppo.distill.name_or_path (={self.name_or_path})",
            "raise it, or take the teacher out",
        )
