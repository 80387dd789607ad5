"""How likely a model finds continuations of its stimuli.

The log-probability of a continuation is the sum over its tokens of log p(token | stimulus, tokens before). Where the
text of a stimulus ends inside a token of the whole (a space that belongs to the next word), the tokens from there on
count as the continuation's, as in the evaluation harness of EleutherAI.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli import Stimulus

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int

    from modalnet.inputs.batch import Prepared


@dataclass(frozen=True)
class Request:
    """How likely is this continuation of this stimulus?

    Attributes
    ----------
    stimulus
        What comes before; None for nothing but the token that the tokenizer begins with. Where it begins with none,
        the continuation's first token has nothing to follow and does not count.
    continuation
        Written straight after it, so it brings its own space.
    cuts
        Ascending places in the continuation, in characters, at which a new segment begins: then each segment gets a
        log-probability of its own. A token counts to the segment of its first character that is no space.
    needed
        Which of the segments are wanted, counted from 0; None for all. For others no logits are computed, and with
        ``()`` the continuation's tokens are counted and nothing runs.
    """

    stimulus: Stimulus | None
    continuation: str
    cuts: tuple[int, ...] = ()
    needed: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The answer to a :class:`Request`.

    Attributes
    ----------
    segments
        Natural-log probability of each segment (one where nothing is cut); 0 for a segment without a token, NaN for
        one that the request does not need.
    n_tokens
        How many tokens the continuation has.
    greedy
        Whether the model would write the continuation itself, the most likely token at each place; what the request
        does not need is left out of account.
    """

    segments: Float[np.ndarray, " segment"]
    n_tokens: int
    greedy: bool

    @property
    def logprob(self) -> float:
        """Natural-log probability of the whole continuation."""
        return float(self.segments.sum())


@dataclass(frozen=True)
class Scores:
    """What :meth:`modalnet.Model.score` gives: one entry per stimulus, each with one value per continuation.

    Attributes
    ----------
    logprob
        Natural-log probability of each continuation.
    n_tokens
        How many tokens each continuation has; ``logprob / n_tokens`` compares continuations of different lengths.
    greedy
        Whether the model would write the continuation itself, the most likely token at each place.
    """

    logprob: list[Float[np.ndarray, " continuation"]]
    n_tokens: list[Int[np.ndarray, " continuation"]]
    greedy: list[Bool[np.ndarray, " continuation"]]

    def best(self, *, per_token: bool = False) -> Int[np.ndarray, " stimulus"]:
        """Which continuation of each stimulus is the most likely, in all or per token; ties go to the first."""
        scores = (
            logprob / count if per_token else logprob
            for logprob, count in zip(self.logprob, self.n_tokens, strict=True)
        )
        return np.array([int(np.argmax(values)) for values in scores])


def pairs(stimuli: Sequence[Stimulus], continuations: Any) -> list[tuple[int, str]]:
    """(stimulus, continuation) for all of them, from one continuation or several per stimulus.

    Raises
    ------
    InputError
        Not one entry per stimulus; an entry that is no text and no list of texts; an empty text.
    """
    if isinstance(continuations, str) or not isinstance(continuations, list | tuple):
        raise InputError(
            f"continuations is a list with one entry per stimulus, each a text or a list of texts; this is a "
            f"{type(continuations).__name__}."
        )
    if len(continuations) != len(stimuli):
        raise InputError(f"There are {len(stimuli)} stimuli and {len(continuations)} entries of continuations.")
    made = []
    for index, (stimulus, entry) in enumerate(zip(stimuli, continuations, strict=True)):
        texts = [entry] if isinstance(entry, str) else entry
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(t, str) and t for t in texts):
            raise InputError(
                f"The continuations of stimulus {stimulus.label} are one text or several, none of them empty; these "
                f"are {entry!r}."
            )
        made += [(index, text) for text in texts]
    return made


def check_requests(requests: Sequence[Request]) -> None:
    """Raise an InputError for something else than requests, an empty continuation, or cuts that are out of order."""
    if not requests:
        raise InputError("There are no requests: the list is empty.")
    for one in requests:
        if not isinstance(one, Request):
            raise InputError(f"Requests are expected; this is a {type(one).__name__}.")
        if not one.continuation:
            label = one.stimulus.label if one.stimulus else "None"
            raise InputError(f"The continuation of stimulus {label} is empty.")
        places = [0, *one.cuts, len(one.continuation)]
        if any(before >= after for before, after in itertools.pairwise(places)):
            raise InputError(
                f"The cuts of {one.continuation!r} must ascend between 0 and {len(one.continuation)}, both left out; "
                f"these are {list(one.cuts)}."
            )
        outside = [place for place in one.needed or () if not 0 <= place <= len(one.cuts)]
        if outside:
            raise InputError(f"{one.continuation!r} has {len(one.cuts) + 1} segments; segment {outside[0]} is needed.")


@dataclass(frozen=True)
class Row:
    """What runs as one row of a batch, and the requests that it answers.

    Attributes
    ----------
    item
        The first request's stimulus with its continuation; the other requests' last tokens are its ``endings``.
    members
        The places of the requests.
    """

    item: Prepared
    members: tuple[int, ...]


def rows_of(requests: Sequence[Request], prepared: Sequence[Prepared], owners: Sequence[int] | None) -> list[Row]:
    """Requests in rows, one for all that differ in their last token alone.

    The probability of a token may not depend on the token itself, so wherever it can be scored, the logits before it
    serve every token that could stand there.

    Parameters
    ----------
    requests, prepared
        Each with its encoding.
    owners
        Requests of different owners are kept apart; None where that does not matter.
    """
    groups: dict[Any, list[Prepared]] = {}
    for index, (request, item) in enumerate(zip(requests, prepared, strict=True)):
        shareable = request.needed is None and item.n_scored
        key = (owners and owners[index], item.but_last) if shareable else index
        groups.setdefault(key, []).append(replace(item, asked=_asked(request, item)))
    return [
        Row(
            replace(first, endings=tuple(item.ids[-1] for item in others)),
            tuple(item.index for item in (first, *others)),
        )
        for first, *others in groups.values()
    ]


def _asked(request: Request, item: Prepared) -> tuple[int, ...] | None:
    """Which tokens of a continuation belong to segments that are needed."""
    if request.needed is None:
        return None
    return tuple(place for place, segment in enumerate(_segments(item)) if segment in request.needed)


def _segments(item: Prepared) -> tuple[int, ...]:
    return item.segments or (0,) * item.n_scored


def answers(
    row: Row,
    requests: Sequence[Request],
    prepared: Sequence[Prepared],
    logprob: Float[torch.Tensor, " target"],
    likeliest: Bool[torch.Tensor, " target"],
) -> Iterator[tuple[int, Likelihood]]:
    """(place, answer) of each request of a row, from its tokens and then the other endings."""
    places = row.item.places
    for number, index in enumerate(row.members):
        # All but the last token are the same for every member.
        own = [*range(len(places) - 1), len(places) - 1 + number] if places else []
        request, segments = requests[index], _segments(prepared[index])
        whose = np.array([segments[place] for place in places], dtype=np.int64)
        values = logprob[own].double().numpy()
        # Of no tokens at all, bincount gives whole numbers.
        sums = np.bincount(whose, values, minlength=len(request.cuts) + 1).astype(np.float64)
        if request.needed is not None:
            sums[~np.isin(np.arange(len(sums)), request.needed)] = np.nan
        yield index, Likelihood(sums, prepared[index].n_scored, bool(likeliest[own].all()))
