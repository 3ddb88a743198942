"""A demonstration with search calls as a token row: the tokens that the sampler would put down.

    prompt | turn 1 ... </search> | answer to the call | turn 2 ... | ... | response, terminal token
             True                   False                True               True

Each turn is encoded by itself, as a response begins, and so is each answer
(`plumbrule/lm/search_calls/results.py`), so no token joins a turn and an answer, and a policy that
has learned a row and is sampled in turns (`plumbrule/lm/generation/search_turns.py`) writes its
very tokens. The mask leaves answers out of the loss: a policy need not learn to write documents,
and one that does would invent them.
"""

from __future__ import annotations

from plumbrule.data.records import Demonstration
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.config import SearchConfig
from plumbrule.lm.policy import Policy, SearchForm
from plumbrule.lm.search_calls.calls import CallEnd, FoundCall, count_malformed, first_call
from plumbrule.lm.search_calls.results import ResultWriter
from plumbrule.lm.token_rows import TokenRow

UNBOUNDED_TOKENS = 10**9
"""Of an answer: a demonstration keeps all its passages, or is too long as a whole."""


class SearchedRows:
    """Writes demonstrations with search calls in a policy's tokens.

    The form is the policy's own (`PolicySpec.search_form`), else the one by default.
    Raises: ConfigError: no call could be told in the policy's tokens (`CallEnd`).
    """

    def __init__(self, policy: Policy):
        form = policy.spec.search_form or SearchForm()
        self._policy = policy
        self._form = SearchConfig(budget_tokens=UNBOUNDED_TOKENS, **form._asdict())
        self._end = CallEnd(policy.tokenizer, self._form, policy.spec.stop_token_ids)
        self._writer = ResultWriter(policy.tokenizer, self._form)

    def write(self, demonstration: Demonstration) -> TokenRow:
        """Return the row of a demonstration with at least one search.

        Raises: DataError: a turn does not read as one call at its end, or the response holds one;
        the chat template refuses the chat.
        """
        policy, form = self._policy, self._form
        tokens: list[int] = []
        mask: list[bool] = []
        num_shown = len(demonstration.passages)
        for number, search in enumerate(demonstration.searches, 1):
            query = search.query.strip()
            said = f"{search.before.strip()} {form.open} {query} {form.close}".strip()
            turn = policy.encode_response(said, terminal=False)
            text = self._end.text(turn)
            # The tokenizer may write letters in another way, but must leave the call one.
            written, read = first_call(said, form), first_call(text, form)
            if (
                written != FoundCall(query, len(said))
                or count_malformed(said, form)
                or read is None
                or read.end != len(text)
            ):
                raise DataError(
                    f"{demonstration.id}: search {number} must be one call at the end of its turn; "
                    f"take the markers {form.open} and {form.close} out of query and before.",
                    text=said,
                )
            results = self._writer.write(search.passages, num_shown + 1)
            num_shown += len(results.passages)
            tokens += [*turn, *results.tokens]
            mask += [*[True] * len(turn), *[False] * len(results.tokens)]
        if first_call(demonstration.response, form) is not None:
            raise DataError(
                f"{demonstration.id}: response must hold no search call, which would not be "
                "answered; give it as one of the searches.",
                text=demonstration.response,
            )
        last = policy.encode_response(demonstration.response)
        prompt = policy.encode(demonstration.messages, demonstration.passages)
        return TokenRow(tuple(prompt), (*tokens, *last), (*mask, *[True] * len(last)))


def require_form(policy: Policy, search: SearchConfig) -> None:
    """Raise ConfigError if a policy was shown calls of another form than it is asked for.

    One that was shown none may be asked in any.
    """
    form = policy.spec.search_form
    for name, taught in ({} if form is None else form._asdict()).items():
        given = getattr(search, name)
        if given != taught:
            raise ConfigError(
                f"search.{name} (={given!r}) must be {taught!r}, as in the demonstrations that the "
                "policy learned from (policy.json); set it so."
            )
