"""The policy under test, and what a benchmark may ask of it: answers, continuations, odds, a KL.

All that a benchmark samples is sampled here, so that what fits the context, what the random numbers
depend on and what passages are shown is the same for all. A sample depends on (seed, item id)
alone, never on the other items or on the batch, and both conditions draw the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from eval.benchmarks.answers import Answered, left_out
from eval.benchmarks.divergence import log_ratios
from eval.benchmarks.journal import Journal
from eval.config import EvalConfig
from eval.few_shot import NONE, Shot, Shots
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.errors import ConfigError
from plumbrule.lm.chat import PLAIN_TEMPLATE, encode_text
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation import Sample, generate
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.generation.shared_prefixes import log_odds
from plumbrule.lm.policy import Policy, with_passages
from plumbrule.lm.randomness import row_key
from plumbrule.lm.response_logprobs import score_batches
from plumbrule.lm.retrieval_prompts import passages_for
from plumbrule.lm.token_rows import TokenRow
from plumbrule.protocols import Episode, ProgressLine, Retriever, Scorer, Tracker
from plumbrule.runtime_config import RuntimeConfig

if TYPE_CHECKING:
    from eval.benchmarks.bold_classifiers import TextClassifier


class Continued(NamedTuple):
    """A text with what was sampled behind it, and the latter alone."""

    whole: str
    continuation: str

    def scored(self, which: str) -> str:
        """Return the whole text, or of `continuation` what was sampled."""
        return self.continuation if which == "continuation" else self.whole


@dataclass(frozen=True)
class Subject:
    """The policy under test and what it may use.

    retriever: None where the node has no index. reward_model: None where it has no rm. reference:
    what its KL is measured to, None where the node has none. reward: what training maximises, all
    terms of it, None where the node has none. chats: whether the policy was made for chats: its
    tokenizer brought a chat template, and it is no base model of ours. journal: what was
    asked of it so far. shots: benchmark -> the examples in front of its questions. searcher:
    answers in turns with the policy's own search calls; None where it may make none.
    """

    policy: Policy
    retriever: Retriever | None
    reward_model: Scorer | None
    config: EvalConfig
    runtime: RuntimeConfig
    tracker: Tracker
    reference: Policy | None = None
    reward: Scorer | None = None
    chats: bool = True
    journal: Journal = field(default_factory=Journal)
    shots: Mapping[str, Shots] = field(default_factory=dict)
    searcher: Searcher | None = None

    def asks_in_chat(self, form: str, *, plain: bool) -> bool:
        """Return whether a judge is asked through the chat template.

        Args: form: auto, chat or completion. plain: whether auto takes plain text for a policy that
        was not made for chats.
        Raises: ConfigError: form is chat and the policy has no template of its own.
        """
        if form == "chat" and not has_own_template(self.policy.tokenizer):
            raise ConfigError(
                "eval.halueval.form (=chat) must be completion for a tokenizer without a chat "
                "template; set it, or leave it at auto."
            )
        return form == "chat" or (form == "auto" and (self.chats or not plain))

    def examples(self, benchmark: str, items: Sequence[BenchmarkItem]) -> list[list[Shot]]:
        """Return the examples that the question of each item is shown."""
        shots = self.shots.get(benchmark, NONE)
        return [shots.of(item) for item in items]

    def with_passages(
        self, messages: Sequence[Message], passages: Sequence[str]
    ) -> Sequence[Message]:
        """Return a chat with passages in its last turn, as the policy is shown them."""
        return with_passages(messages, passages, self.policy.spec)

    def encode_plain(self, text: str) -> list[int]:
        """Return the token ids of plain text, behind the beginning-of-text token if any."""
        return plain_tokens(self.policy, text)

    def encode_word(self, word: str, chat: bool) -> list[int]:
        """Return the token ids of a judge's word behind a chat, or behind text and a space."""
        if chat:
            return self.policy.encode_response(word, terminal=False)
        return encode_text(self.policy.tokenizer, f" {word}")

    def retrieve(self, queries: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the passages for each query, best first, whole, at most
        `eval.retrieval.budget_tokens` of them.

        Raises: ConfigError: the node has no index.
        """
        if self.retriever is None:
            raise ConfigError(
                "eval.halueval.knowledge (=retrieved) needs an index; give the node an `index` "
                "input and name rag among eval.conditions, or choose given."
            )
        config, found = self.config.retrieval, []
        for passages in self.retriever.search(list(queries), config.num_passages):
            shown: list[str] = []
            left = config.budget_tokens
            for text in (passage.text for passage in passages):
                length = len(encode_text(self.policy.tokenizer, text))
                if length <= left:
                    shown.append(text)
                    left -= length
            found.append(tuple(shown))
        return found

    def say(
        self, encoded: Sequence[list[int]], ids: Sequence[str], what: str, max_new_tokens: int
    ) -> list[str]:
        """Return the greedy answer to each of the encoded prompts, all of which fit the context."""
        sampling = SamplingConfig(0.0, max_new_tokens, self.config.sampling.batch_size)
        keys = [row_key("eval", self.config.seed, id) for id in ids]
        answers, _ = self._generate(encoded, keys, sampling, what, "judgements")
        return [self.policy.decode(answers[i][0]) for i in range(len(encoded))]

    def respond(
        self,
        prompts: Sequence[Prompt],
        what: str,
        *,
        condition: str = "closed",
        passages: Sequence[tuple[str, ...]] | None = None,
        greedy: bool = False,
    ) -> tuple[list[Answered], list[str]]:
        """Return one response per prompt that fits, in order, and notes on those that do not.

        Args: what: name of the work, for progress and notes. condition: under `rag` passages are
        retrieved, under `search` the policy searches itself. passages: of each prompt, in place of
        retrieved ones. greedy: take the likeliest token, whatever eval.sampling.temperature.
        """
        sampling = self.config.sampling
        if greedy:
            sampling = replace(sampling, temperature=0.0)
        if passages is None and condition == "search":
            return self._search(prompts, what, sampling)
        if passages is None:
            passages = self._passages(prompts, condition, sampling)
        encoded = [
            self.policy.encode(prompt.messages, own)
            for prompt, own in zip(prompts, passages, strict=True)
        ]
        keys = [row_key("eval", self.config.seed, prompt.id) for prompt in prompts]
        answers, notes = self._generate(encoded, keys, sampling, what, "responses")
        answered = [
            Answered(
                Episode(prompts[i], passages[i], self.policy.decode(tokens), finished),
                TokenRow(tuple(encoded[i]), tuple(tokens)),
            )
            for i, (tokens, finished) in answers.items()
        ]
        return answered, notes

    def _search(
        self, prompts: Sequence[Prompt], what: str, sampling: SamplingConfig
    ) -> tuple[list[Answered], list[str]]:
        """Return what `respond` does, of a policy that searches itself.

        Raises: ConfigError: it may make no search calls.
        """
        if self.searcher is None:
            raise ConfigError(
                "eval.conditions (=search) needs an index; give the node an `index` input."
            )
        results = self.searcher.search.most_result_tokens
        most = self.policy.spec.context - sampling.max_new_tokens - results
        encoded = [self.policy.encode(prompt.messages) for prompt in prompts]
        kept = [i for i, tokens in enumerate(encoded) if len(tokens) <= most]
        with self.tracker.progress(len(kept), what, "responses") as line:
            found = self.searcher.answer(
                self.policy,
                [encoded[i] for i in kept],
                sampling=sampling,
                keys=[row_key("eval", self.config.seed, prompts[i].id) for i in kept],
            )
            line.advance(len(kept))
        answered = []
        for i, one in zip(kept, found, strict=True):
            shown = tuple(text for call in one.searching.calls for text in call.passages)
            text, ended = self.policy.decode(one.last_turn), one.sample.finished
            episode = Episode(prompts[i], shown, text, ended, one.searching)
            row = TokenRow(tuple(encoded[i]), tuple(one.sample.tokens))
            answered.append(Answered(episode, row))
        return answered, left_out(what, len(encoded) - len(kept), len(encoded), most)

    def continue_texts(
        self, texts: Sequence[str], ids: Sequence[str], benchmark: str, max_new_tokens: int
    ) -> tuple[dict[int, Continued], list[str]]:
        """Return text and sampled continuation, by place, of those that fit; and notes.

        The text is given as it is, without a chat template.
        """
        config = self.config
        sampling = SamplingConfig(
            config.sampling.temperature, max_new_tokens, config.sampling.batch_size
        )
        encoded = [plain_tokens(self.policy, text) for text in texts]
        keys = [row_key(benchmark, config.seed, id) for id in ids]
        answers, notes = self._generate(
            encoded, keys, sampling, f"{benchmark} closed", "continuations"
        )
        whole = {i: [*encoded[i], *tokens] for i, (tokens, _) in answers.items()}
        decode = self.policy.decode
        found = {i: Continued(decode(tokens), decode(answers[i][0])) for i, tokens in whole.items()}
        return found, notes

    def classifier(self, setting: str, name: str, revision: str | None) -> TextClassifier:
        """Return a sequence classifier on the policy's device. Raises: ConfigError: as `load`."""
        from eval.benchmarks.bold_classifiers import TextClassifier

        rows = self.runtime.micro_batch_size
        return TextClassifier.load(setting, name, revision, self.policy.model.device, rows)

    def log_odds(
        self,
        encoded: Sequence[list[int]],
        yes: list[int],
        no: list[int],
        what: str,
        families: Sequence[str] | None = None,
    ) -> list[float]:
        """Return log p(yes) - log p(no), nats, after each of the encoded prompts.

        Args: encoded: token ids of each prompt; neighbours that begin alike are read together.
        yes, no: of the two answers. families: of each prompt, the name of those that have an
        instruction in common; None: they all have.
        """
        named = families or [""] * len(encoded)
        odds = [0.0] * len(encoded)
        with self.tracker.progress(len(encoded), what, "texts") as line:
            for family in dict.fromkeys(named):
                places = [i for i, own in enumerate(named) if own == family]
                found = self._odds([encoded[i] for i in places], yes, no, line.advance)
                for i, value in zip(places, found, strict=True):
                    odds[i] = float(value)
        return odds

    def _odds(
        self,
        encoded: Sequence[list[int]],
        yes: list[int],
        no: list[int],
        advance: Callable[[int], None],
    ) -> list[float]:
        """Return the log-odds of one family, those of whole chunks from the journal if there."""
        keys = [self.journal.key("odds", tokens, yes, no) for tokens in encoded]

        def compute(places: Sequence[int]) -> list[float]:
            some, rows = [encoded[i] for i in places], self.runtime.micro_batch_size
            return log_odds(self.policy, some, yes, no, max_rows=rows, advance=advance).tolist()

        return self.journal.each(keys, compute, advance)

    def response_nats(self, rows: Sequence[tuple[list[int], list[int]]], what: str) -> list[float]:
        """Return log p(response | prompt) of each row, nats, summed in float64.

        Args: rows: token ids of prompt and response. what: name of the work, for progress.
        """
        encoded = [TokenRow(tuple(prompt), tuple(response)) for prompt, response in rows]
        keys = [self.journal.key("nats", prompt, response) for prompt, response in rows]
        with torch.inference_mode(), self.tracker.progress(len(rows), what, "texts") as line:

            def compute(places: Sequence[int]) -> list[float]:
                some, size = [encoded[i] for i in places], self.runtime.micro_batch_size
                found = [0.0] * len(some)
                for own, nats in score_batches(self.policy, some, size):
                    for k, value in zip(own, nats.double().sum(1).tolist(), strict=True):
                        found[k] = value
                    line.advance(len(own))
                return found

            return self.journal.each(keys, compute, line.advance)

    def log_ratios(self, answered: Sequence[Answered]) -> list[float] | None:
        """Return log p - log p_reference of each sampled answer, nats.

        None without a reference, and of a policy that searches, whose rows hold what it was told.
        Raises: ConfigError: the two have different tokenizers.
        """
        if self.reference is None or any(one.episode.searching for one in answered):
            return None
        temperature, rows_per_pass = self.config.sampling.temperature, self.runtime.micro_batch_size
        return log_ratios(self.policy, self.reference, answered, temperature, rows_per_pass)

    def _passages(
        self, prompts: Sequence[Prompt], condition: str, sampling: SamplingConfig
    ) -> Sequence[tuple[str, ...]]:
        if condition != "rag":
            return [()] * len(prompts)
        return passages_for(
            prompts,
            self.policy,
            self.retriever,
            self.config.retrieval,
            seed=self.config.seed,
            max_new_tokens=sampling.max_new_tokens,
        )

    def _generate(
        self,
        encoded: Sequence[list[int]],
        keys: Sequence[int],
        sampling: SamplingConfig,
        what: str,
        unit: str,
    ) -> tuple[dict[int, tuple[list[int], bool]], list[str]]:
        """Return (sampled tokens, whether they end) by place of the prompts that fit, and notes."""
        most = self.policy.spec.context - sampling.max_new_tokens
        kept = [i for i, tokens in enumerate(encoded) if len(tokens) <= most]
        settings = asdict(sampling)
        settings.pop("batch_size")
        # Longest first, as the sampler takes them, so that a chunk's prompts are of like length.
        order = sorted(kept, key=lambda i: -len(encoded[i]))
        of_all = sampling.max_new_tokens + (len(encoded[order[0]]) if order else 0)
        named = [self.journal.key("answer", encoded[i], settings, int(keys[i])) for i in order]
        with self.tracker.progress(len(kept), what, unit) as line:

            def compute(places: Sequence[int]) -> list[Any]:
                some = [order[place] for place in places]
                prompts, own = [encoded[i] for i in some], [keys[i] for i in some]
                longest = len(prompts[0]) + sampling.max_new_tokens
                rows = fitting_rows(sampling.batch_size, of_all, longest)
                sized = replace(sampling, batch_size=rows)
                answers = generate_fitting(self.policy, prompts, sized, own, line)
                return [[list(answer.tokens), bool(answer.finished)] for answer in answers]

            answers = self.journal.each(named, compute, line.advance)
        by_place = dict(zip(order, answers, strict=True))
        found = {i: (by_place[i][0], by_place[i][1]) for i in kept}
        return found, left_out(what, len(encoded) - len(kept), len(encoded), most)


def fitting_rows(batch_size: int, of_all: int, longest: int) -> int:
    """Return how many rows of at most `longest` tokens take the memory of `batch_size` rows of
    `of_all` tokens, the longest ones of the work.
    """
    return batch_size * of_all // longest


def generate_fitting(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    keys: Sequence[int],
    progress: ProgressLine,
) -> list[Sample]:
    """Return what `generate` does, in halves of the batch where it does not fit the memory.

    Raises: torch.OutOfMemoryError: a batch of one does not fit.
    """
    try:
        return generate(policy, prompts, sampling=sampling, keys=keys, progress=progress)
    except torch.OutOfMemoryError:
        if sampling.batch_size == 1:
            raise
    smaller = replace(sampling, batch_size=max(1, sampling.batch_size // 2))
    return generate_fitting(policy, prompts, smaller, keys, progress)


def has_own_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer brought a chat template of its own."""
    return not str(tokenizer.chat_template).endswith(PLAIN_TEMPLATE)


def plain_tokens(policy: Policy, text: str) -> list[int]:
    """Return the tokens of plain text, after the tokenizer's beginning-of-text token if any."""
    tokens = policy.tokenizer.encode(text, add_special_tokens=False)
    first = policy.tokenizer.bos_token_id
    return tokens if first is None else [first, *tokens]
