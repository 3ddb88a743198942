r"""A reward of your own: minus 1 for a response in capitals, else 0.

Train against it, beside the reward model:
    plumbrule --plugin docs/examples/reward_function.py \
        'reward.terms=[{name: rm}, {name: shouting, weight: 0.1}]'

`python docs/examples/reward_function.py` scores two responses.
"""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.data.records import Message, Prompt
from plumbrule.protocols import Episode
from rlhf.rewards.functions import register


@register("shouting")
def shouting(episodes: Sequence[Episode]) -> list[float]:
    """Return -1 for each response in capitals, else 0.

    A number may depend on its own episode only: the function is given the distinct episodes of one
    process, or some of them.
    """
    return [-float(episode.response.isupper()) for episode in episodes]


if __name__ == "__main__":
    prompt = Prompt("1", (Message("user", "Who wrote it?"),))
    loud = Episode(prompt, passages=(), response="ADA LOVELACE.", finished=True)
    quiet = loud._replace(response="Ada Lovelace.")
    print(shouting([loud, quiet]))  # [-1.0, -0.0]
