"""The reward model: a policy's trunk, a linear head, and a score read at the last real token.

What was decided, and where others differ:

* The trunk is that of the policy it will judge, so tokenizer, chat template and retrieval template
  are the policy's and travel with it: `model/` in a reward model's folder is an ordinary policy
  folder. The query (passages included) and the response are read together.
* The score stands at the last real token of each row, found from the mask that padding wrote.
  transformers' classification head searches for the last id that is not the pad id, which reads
  one token early where pad and end-of-text are the same id.
* An answer that ended by itself is followed by the terminal token, in training and in PPO alike; an
  answer cut by its token limit is not, since the policy never said that it was done. The rule is
  recorded (`append_terminal`), and every row is made by `RewardModel.encode`.
* The head starts at N(0, 1 / sqrt(d + 1)) with bias 0 (Stiennon et al. 2020, arXiv:2009.01325; the
  square root follows their code) and works in float32 (float64 for a float64 trunk).
* With `uses_token_logprobs` the score has a second part: over the response's tokens, the sum of g
  times (1 - p), where p is the probability that the model, as it is trained, gives a token where it
  stands, and g a linear function of the hidden state there, -1 at first. A last token's state must
  hold what was said beside what should have been said, and a small model has no layers left to
  compare the two; its own output layer does compare them. What such a head learns is where a
  surprise counts: at a value, and not at the choice of a courtesy. Rafailov et al. 2023
  (arXiv:2305.18290) read a reward from nothing but such probabilities. An output layer that is not
  tied to the embeddings stays as it is.
* Dropout is off, in training too: a policy's dropout is switched off for good where it is loaded.
* A loss on pairs leaves the zero and the unit of scores open. `RewardStats` fixes them afterwards:
  mean 0 and variance 1 on answers of the policy that PPO will start from.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plumbrule.data.records import Message
from plumbrule.errors import ArtifactError, DataError, TrainingError
from plumbrule.lm.frozen_layers import KeptStates
from plumbrule.lm.loading import Policy, load_policy, resolve_device, save_policy
from plumbrule.lm.logprobs import (
    causal_lm,
    hidden_states,
    hidden_width,
    logprobs,
    output_embeddings,
    trunk,
)
from plumbrule.lm.randomness import generator
from plumbrule.protocols import Episode, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import HEAD, MODEL, REWARD_STATS
from plumbrule.store.json_files import read_json, write_json
from rlhf.reward_model.reward_stats import RewardStats
from rlhf.reward_model.rows import TokenizedAnswer, by_prompt, collate, last_real


class RewardModel(nn.Module):
    """Scores of whole responses. `trunk` and heads are its parameters; `policy` encodes text.

    Args: policy: what it starts from; its trunk is used in place, not copied. seed: of the head.
    """

    def __init__(self, policy: Policy, stats: RewardStats | None = None, *, seed: int = 0):
        super().__init__()
        self.policy = policy
        self.stats = stats or RewardStats()
        self.trunk = trunk(policy.model)
        self._kept: KeptStates | None = None
        lm = causal_lm(policy.model)
        if output_embeddings(lm).weight is not lm.get_input_embeddings().weight:
            output_embeddings(lm).requires_grad_(False)
        width = hidden_width(lm)
        draws = generator("reward head", seed).normal(0.0, 1.0 / math.sqrt(width + 1), (1, width))
        self.head = nn.Linear(width, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(draws))
            self.head.bias.zero_()
        self.surprise_head = nn.Linear(width, 1) if self.stats.uses_token_logprobs else None
        if self.surprise_head is not None:
            nn.init.zeros_(self.surprise_head.weight)
            nn.init.constant_(self.surprise_head.bias, -1.0)
        dtype = torch.promote_types(policy.model.dtype, torch.float32)
        for head in (self.head, self.surprise_head):
            if head is not None:
                head.to(policy.model.device, dtype)

    @property
    def append_terminal(self) -> bool:
        """Whether a finished answer is scored with the terminal token behind it."""
        return self.stats.append_terminal

    def encode(
        self,
        messages: Sequence[Message],
        passages: Sequence[str],
        response: str,
        finished: bool = True,
    ) -> TokenizedAnswer:
        """Return the row that is scored: prompt, response, terminal token if due."""
        terminal = finished and self.append_terminal
        prompt = self.policy.encode(messages, passages)
        answer = self.policy.encode_response(response, terminal=terminal)
        return TokenizedAnswer((*prompt, *answer), len(prompt))

    def scores(
        self,
        tokens: Tensor,
        real_mask: Tensor,
        response_mask: Tensor,
        shared: Tensor | None = None,
    ) -> Tensor:
        """Return raw scores (b,) of rows padded on either side, in the head's dtype.

        Args: tokens: (b, l) int64. real_mask: (b, l) bool, True = real token. response_mask:
            (b, l) bool, True = token of the response, its terminal token counted. shared: (b,)
            int64, as in `RowBatch`; None: no row shares its prompt.
        Raises: ValueError: a row of `real_mask` holds no real token.
        """
        last = last_real(real_mask)
        device = tokens.device
        rows = torch.arange(len(tokens), device=device)
        wanted = torch.zeros_like(real_mask)
        wanted[rows, last] = True
        if self.surprise_head is not None:
            wanted[:, :-1] |= response_mask[:, 1:]
        with torch.autocast(device.type, torch.bfloat16, self.stats.precision == "bfloat16"):
            hidden = self._hidden_states(tokens, real_mask, shared, wanted)
        with torch.autocast(device.type, enabled=False):
            hidden = hidden.to(self.head.weight.dtype)
            scores = self.head(hidden[rows, last]).squeeze(-1)
            if self.surprise_head is None:
                return scores
            lm = self.policy.model
            found = logprobs(lm, tokens, real_mask, response_mask, hidden=hidden).logprobs
            owners, columns = response_mask.nonzero(as_tuple=True)
            weights = self.surprise_head(hidden[owners, columns - 1]).squeeze(-1)
            surprise = 1 - found[owners, columns].exp()
            return scores.index_add(0, owners, weights * surprise.to(scores.dtype))

    def keep_states(self, kept: KeptStates | None) -> None:
        """Read rows that `kept` holds from there, from now on, instead of running frozen layers."""
        self._kept = kept

    def _hidden_states(
        self, tokens: Tensor, real_mask: Tensor, shared: Tensor | None, wanted: Tensor
    ) -> Tensor:
        if self._kept is not None:
            states = self._kept.of(tokens, real_mask)
            if states is not None:
                return hidden_states(self._kept.split.top, tokens, real_mask, states, wanted=wanted)
        return hidden_states(self.trunk, tokens, real_mask, shared=shared, wanted=wanted)

    def normalised_head(self) -> nn.Linear:
        """Return a new head that gives normalised scores: what a value model starts from."""
        head = copy.deepcopy(self.head)
        with torch.no_grad():
            head.weight /= self.stats.std
            head.bias.sub_(self.stats.mean).div_(self.stats.std)
        return head

    def heads(self) -> nn.ModuleDict:
        """Return the heads under the names that they have in the file."""
        surprise = {} if self.surprise_head is None else {"surprise": self.surprise_head}
        return nn.ModuleDict({"score": self.head, **surprise})

    def save(self, folder: Path) -> None:
        """Write `model/`, `head.safetensors` and `reward_stats.json` into `folder`."""
        save_policy(self.policy, folder / MODEL)
        heads = self.heads().state_dict()
        save_file({name: t.detach().cpu().contiguous() for name, t in heads.items()}, folder / HEAD)
        write_json(folder / REWARD_STATS, dataclasses.asdict(self.stats))


def load_reward_model(folder: Path, *, device: str | torch.device = "cpu") -> RewardModel:
    """Return the reward model that `RewardModel.save` wrote, on `device`.

    Raises: ArtifactError: a file is missing or holds something else.
    """
    folder = Path(folder)
    try:
        stats = RewardStats(**read_json(folder / REWARD_STATS))
        heads = load_file(folder / HEAD)
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} must hold a reward model ({REWARD_STATS}, {HEAD}, {MODEL}/): {error}; "
            "remove the folder and run again."
        ) from None
    model = RewardModel(load_policy(folder / MODEL, device=device), stats)
    try:
        model.heads().load_state_dict(heads)
    except RuntimeError as error:
        raise ArtifactError(
            f"{folder / HEAD} must hold the heads that {REWARD_STATS} names: {error}; remove the "
            "folder and run again."
        ) from None
    return model


def reward_model_of(artifact: Artifact, device: str | torch.device) -> RewardModel:
    """Return the reward model of an rm artifact, on `device`, as it was published.

    Raises: ArtifactError: a file of it is missing, damaged or holds something else.
    """
    for name in (REWARD_STATS, HEAD, MODEL):
        artifact.file(name)
    return load_reward_model(artifact.path, device=device)


def open_reward(artifact: Artifact, runtime: RuntimeConfig) -> RewardScorer:
    """Return the Scorer of an rm artifact, ready on the runtime's device."""
    model = reward_model_of(artifact, resolve_device(runtime))
    return RewardScorer(model, runtime.micro_batch_size)


class RewardScorer:
    """A reward model as a Scorer: normalised scores of episodes.

    Text is encoded anew with the reward model's own tokenizer and templates, so it may judge a
    policy of another family. A response that this makes too long for the context (half characters
    take more tokens when they are encoded again) is read up to its end, as a cut answer, and said.
    """

    def __init__(self, model: RewardModel, micro_batch_size: int):
        self.model, self.micro_batch_size = model, micro_batch_size

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return {"score": (n,) float64}, normalised, in the order of `episodes`.

        Raises: DataError: a prompt and its passages alone fill the model's context.
        """
        rows = [self._row(episode) for episode in episodes]
        cut = sum(is_cut for _, is_cut in rows)
        if cut:
            warnings.warn(
                f"{cut} of {len(rows)} responses were scored up to the reward model's context "
                f"(={self.model.policy.spec.context} tokens).",
                stacklevel=2,
            )
        raw = score_rows(self.model, [row for row, _ in rows], self.micro_batch_size)
        stats = self.model.stats
        return {"score": (raw.numpy().astype(np.float64) - stats.mean) / stats.std}

    def _row(self, episode: Episode) -> tuple[TokenizedAnswer, bool]:
        messages, context = episode.prompt.messages, self.model.policy.spec.context
        row = self.model.encode(messages, episode.passages, episode.response, episode.finished)
        if len(row) <= context:
            return row, False
        if row.begin >= context:
            raise DataError(
                f"prompt {episode.prompt.id!r} (={row.begin} tokens with its passages) must be "
                f"shorter than the reward model's context (={context} tokens); lower "
                "retrieval.budget_tokens or use a model with a longer context."
            )
        return TokenizedAnswer(row.tokens[:context], row.begin), True


def score_rows(
    model: RewardModel,
    rows: Iterable[TokenizedAnswer],
    micro_batch_size: int,
    tracker: Tracker | None = None,
    what: str = "",
) -> Tensor:
    """Return raw scores (n,) float32, on the CPU and without gradient, in the order of `rows`.

    Equal rows go through the model once, and so does a prompt with all its answers of one pass.
    Args: tracker: shows how far it is, with `what` as the line's name; None: nothing is shown.
    Raises: TrainingError: a score is NaN or Inf.
    """
    index: dict[TokenizedAnswer, int] = {}
    places = [index.setdefault(row, len(index)) for row in rows]
    distinct = list(index)
    scores = torch.zeros(len(distinct))
    device = model.head.weight.device
    progress = tracker.progress(len(distinct), what, "answers") if tracker else nullcontext()
    with torch.no_grad(), progress as line:
        for group in by_prompt(distinct, micro_batch_size):
            batch = collate([distinct[i] for i in group], model.policy.pad_id)
            scores[group] = model.scores(*batch.to(device)).cpu()
            if line is not None:
                line.advance(len(group))
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise TrainingError(
            f"{bad} of {len(scores)} reward scores are NaN or Inf; lower rm.learning_rate or use "
            "rm.precision=float32."
        )
    return scores[places]
