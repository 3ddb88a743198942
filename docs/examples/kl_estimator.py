"""A KL estimator of your own: the absolute log-ratio of each token.

Use it in place of k1:
    plumbrule --plugin docs/examples/kl_estimator.py ppo.kl.estimator=absolute

`python docs/examples/kl_estimator.py` evaluates it on three tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.ppo.options import KL_ESTIMATORS


@KL_ESTIMATORS.register("absolute")
def absolute(log_ratio: Tensor) -> Tensor:
    """Return |log p/q| of each token, in nats; biased, never negative.

    Args: log_ratio: (b, t) log-probs under the policy less those under the reference; 0 where the
    action mask is False.
    """
    return log_ratio.abs()


if __name__ == "__main__":
    print(absolute(torch.tensor([[0.5, -0.25, 0.0]])).tolist())  # [[0.5, 0.25, 0.0]]
