"""Responses of a policy that may search: turns that it writes, and answers to its calls between.

    query | turn 1 ... </search> | answer to the call | turn 2 ... | ... | last turn, stop token
            sampled                not sampled          sampled              sampled

Token in, token out: what was sampled is never decoded and encoded again. A turn is decoded to see
whether it calls (`plumbrule/lm/search_calls/calls.py`), its tokens go on into the next turn's
context as they are, and the answer is encoded once (`plumbrule/lm/search_calls/results.py`).
`action_mask` is written here, as tokens are put down: True for a token that came from the sampler,
False for one of an answer. Nobody makes it again from ids, lengths or text.

(Search-R1's rollouts decode each turn, cut the text behind `</search>` and encode it again, so the
policy is trained on tokens that it did not sample; its mask is made of those ids.)

The rows of a batch take their turn together, so their calls are one batch of queries to the
retriever, each distinct one asked once; and each goes on from what was read of it in earlier turns
(`continued_rows.py`), so a conversation is read once. A batch is done before the next begins, which
bounds the caches that are kept. Token i of turn k is picked by the random number of (the
response's key, k, i); the first turn's key is the response's own, so a policy that does not search
samples what it would have sampled anyway. Lengths: sampled tokens count against
`sampling.max_new_tokens` over all turns, an answer against `search.budget_tokens`, and a call whose
answer would leave no token to sample is not answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from plumbrule.lm.config import SamplingConfig, SearchConfig
from plumbrule.lm.generation.continued_rows import RowCache
from plumbrule.lm.generation.sampler import Sample, check_lengths, generate
from plumbrule.lm.logprobs import buckets
from plumbrule.lm.policy import Policy
from plumbrule.lm.randomness import row_key
from plumbrule.lm.search_calls.cache import CachedRetriever
from plumbrule.lm.search_calls.calls import CallEnd, count_calls, count_malformed, first_call
from plumbrule.lm.search_calls.demonstrated import require_form
from plumbrule.lm.search_calls.results import ResultWriter
from plumbrule.protocols import Retriever, SearchCall, Searching
from plumbrule.timing import timed


class SearchedSample(NamedTuple):
    """A response in turns."""

    sample: Sample
    """All its tokens, answers to calls included, whose log-probs are 0."""
    action_mask: list[bool]
    """Of each token, True = the policy sampled it."""
    last_turn: list[int]
    """Tokens of the last turn: the answer to the prompt."""
    searching: Searching


@dataclass
class _Growing:
    """A response while it is made."""

    prompt: list[int]
    key: int
    num_shown: int
    """Passages that it was shown so far."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    action_mask: list[bool] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    """Tokens of the newest turn."""
    texts: list[str] = field(default_factory=list)
    calls: list[SearchCall] = field(default_factory=list)
    finished: bool = False
    cache: RowCache = field(default_factory=RowCache)

    @property
    def num_sampled(self) -> int:
        return sum(self.action_mask)

    def add_turn(self, sample: Sample, text: str) -> None:
        """Put down what the policy sampled."""
        self.tokens += sample.tokens
        self.logprobs += sample.logprobs
        self.action_mask += [True] * len(sample.tokens)
        self.turn, self.finished = sample.tokens, sample.finished
        self.texts.append(text)

    def add_results(self, query: str, passages: tuple[str, ...], tokens: Sequence[int]) -> None:
        """Put down the answer to a call."""
        self.tokens += tokens
        self.logprobs += [0.0] * len(tokens)
        self.action_mask += [False] * len(tokens)
        self.num_shown += len(passages)
        self.calls.append(SearchCall(query, passages))


class Searcher:
    """Answers prompts in turns.

    Args: retriever: whom calls ask; what it said is remembered. search: settings.
    """

    def __init__(self, retriever: Retriever, search: SearchConfig):
        self.search = search
        self._retriever = CachedRetriever(retriever, search.cache_megabytes)

    def answer(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: SamplingConfig,
        keys: Sequence[int],
        num_shown: Sequence[int] | None = None,
    ) -> list[SearchedSample]:
        """Return one response per prompt, in the order of the prompts.

        Args: prompts, keys: as in `generate`. num_shown: passages that each prompt shows already;
        None: none. Those of calls are numbered behind them.
        Raises: ConfigError: a prompt is empty, or too long for the policy's context with a response
        and the answers to all calls; the template is longer than the budget; the policy was taught
        another form of calls. TrainingError: the policy gives NaN.
        """
        search = self.search
        require_form(policy, search)
        most = sampling.max_new_tokens + search.most_result_tokens
        named = (
            f"sampling.max_new_tokens (={sampling.max_new_tokens} tokens) and, for each of "
            f"search.max_turns (={search.max_turns} turns) but the last, search.budget_tokens "
            f"(={search.budget_tokens} tokens)"
        )
        check_lengths(policy, prompts, most, named)
        end = CallEnd(policy.tokenizer, search, policy.spec.stop_token_ids)
        writer = ResultWriter(policy.tokenizer, search)
        shown = num_shown or [0] * len(prompts)
        rows = [_Growing(list(p), k, n) for p, k, n in zip(prompts, keys, shown, strict=True)]
        for batch in buckets([len(prompt) for prompt in prompts], sampling.batch_size):
            self._take_turns(policy, [rows[i] for i in batch], sampling, end, writer)
        return [self._done(row) for row in rows]

    def _take_turns(
        self,
        policy: Policy,
        live: list[_Growing],
        sampling: SamplingConfig,
        end: CallEnd,
        writer: ResultWriter,
    ) -> None:
        """Sample and answer all turns of a batch of rows."""
        for turn in range(self.search.max_turns):
            last = turn + 1 == self.search.max_turns
            samples = generate(
                policy,
                [[*row.prompt, *row.tokens] for row in live],
                sampling=sampling,
                keys=[row_key("turn", row.key, turn) if turn else row.key for row in live],
                until=None if last else end,
                limits=[sampling.max_new_tokens - row.num_sampled for row in live],
                caches=[row.cache for row in live],
            )
            for row, sample in zip(live, samples, strict=True):
                row.add_turn(sample, end.text(sample.tokens))
            if last:
                break
            live = [row for row in live if self._calls(row, sampling)]
            if not live:
                break
            with timed("retrieve"):
                self._answer_calls(live, writer)

    def _calls(self, row: _Growing, sampling: SamplingConfig) -> bool:
        """Return whether a row's newest turn is a call that can be answered."""
        more = not row.finished and row.num_sampled < sampling.max_new_tokens
        return more and first_call(row.texts[-1], self.search) is not None

    def _answer_calls(self, rows: Sequence[_Growing], writer: ResultWriter) -> None:
        """Ask the retriever for all rows at once; a call without a query finds nothing."""
        queries = []
        for row in rows:
            call = first_call(row.texts[-1], self.search)
            assert call is not None  # else the row would not be here
            queries.append(call.query)
        asked = [query for query in queries if query]
        found = self._retriever.search(asked, self.search.num_passages) if asked else []
        answers = iter(found)
        for row, query in zip(rows, queries, strict=True):
            passages = [passage.text for passage in next(answers)] if query else []
            results = writer.write(passages, row.num_shown + 1)
            row.add_results(query, results.passages, results.tokens)

    def _done(self, row: _Growing) -> SearchedSample:
        malformed = sum(count_malformed(text, self.search) for text in row.texts)
        called = sum(count_calls(text, self.search) for text in row.texts)
        return SearchedSample(
            Sample(row.tokens, row.logprobs, row.finished),
            row.action_mask,
            row.turn,
            Searching(tuple(row.texts), tuple(row.calls), malformed, called - len(row.calls)),
        )
