"""Log-probabilities of continuations given stimuli.

The log-probability of a continuation is the sum over its tokens of log p(token | stimulus, preceding tokens). If the
text of a stimulus ends inside a token of the concatenated text (such as a space that belongs to the next word), that
token and those after it count as the continuation's, as in EleutherAI's lm-evaluation-harness.
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
    """A continuation of a stimulus, to be scored.

    Attributes
    ----------
    stimulus
        The context; None for an empty context, which is the tokenizer's beginning-of-sequence token. If the tokenizer
        adds none, the first token of the continuation has no context and is not scored.
    continuation
        Appended to the text as it is, so it must include a leading space where one is needed.
    cuts
        Increasing character offsets in the continuation at which new segments start; each segment gets its own
        log-probability. A token belongs to the segment of its first character that is not a space.
    needed
        Indices of the segments to score; None for all. No logits are computed for the others; with ``()`` the
        continuation's tokens are counted without running the model.
    """

    stimulus: Stimulus | None
    continuation: str
    cuts: tuple[int, ...] = ()
    needed: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The score of a :class:`Request`.

    Attributes
    ----------
    segments
        Natural-log probability of each segment (a single one without cuts); 0 for a segment without tokens, NaN for
        a segment that was not requested.
    n_tokens
        Number of tokens of the continuation.
    greedy
        Whether greedy decoding would produce the continuation: each of its tokens is the most likely one. Segments
        that were not requested are ignored.
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
    """The result of :meth:`modalnet.Model.score`: one entry per stimulus, each with one value per continuation.

    Attributes
    ----------
    logprob
        Natural-log probability of each continuation.
    n_tokens
        Number of tokens of each continuation; ``logprob / n_tokens`` compares continuations of different lengths.
    greedy
        Whether greedy decoding would produce the continuation: each of its tokens is the most likely one.
    """

    logprob: list[Float[np.ndarray, " continuation"]]
    n_tokens: list[Int[np.ndarray, " continuation"]]
    greedy: list[Bool[np.ndarray, " continuation"]]

    def best(self, *, per_token: bool = False) -> Int[np.ndarray, " stimulus"]:
        """Index of the most likely continuation of each stimulus, by total or per-token log-probability.

        Ties go to the first continuation.
        """
        scores = (
            logprob / count if per_token else logprob
            for logprob, count in zip(self.logprob, self.n_tokens, strict=True)
        )
        return np.array([int(np.argmax(values)) for values in scores])


def pairs(stimuli: Sequence[Stimulus], continuations: Any) -> list[tuple[int, str]]:
    """Pairs of (index of a stimulus, continuation), from one or several continuations per stimulus.

    Raises
    ------
    InputError
        If there is not one entry per stimulus, or an entry is not a non-empty string or a list of these.
    """
    if isinstance(continuations, str) or not isinstance(continuations, list | tuple):
        raise InputError(
            "`continuations` must be a list with one entry per stimulus, each a string or a list of strings, got a "
            f"{type(continuations).__name__}."
        )
    if len(continuations) != len(stimuli):
        raise InputError(
            f"`continuations` must have one entry per stimulus, got {len(continuations)} for {len(stimuli)} stimuli."
        )
    made = []
    for index, (stimulus, entry) in enumerate(zip(stimuli, continuations, strict=True)):
        texts = [entry] if isinstance(entry, str) else entry
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(t, str) and t for t in texts):
            raise InputError(
                f"The continuations of stimulus {stimulus.label} must be a non-empty string or a list of these, got "
                f"{entry!r}."
            )
        made += [(index, text) for text in texts]
    return made


def check_requests(requests: Sequence[Request]) -> None:
    """Raise an InputError for entries that are not requests, an empty continuation, or cuts that do not increase."""
    if not requests:
        raise InputError("`requests` must not be empty.")
    for one in requests:
        if not isinstance(one, Request):
            raise InputError(f"`requests` must hold Request objects, got a {type(one).__name__}.")
        if not one.continuation:
            label = one.stimulus.label if one.stimulus else "None"
            raise InputError(f"The continuation of stimulus {label} is empty.")
        places = [0, *one.cuts, len(one.continuation)]
        if any(before >= after for before, after in itertools.pairwise(places)):
            raise InputError(
                f"The cuts of {one.continuation!r} must increase and lie strictly between 0 and "
                f"{len(one.continuation)}, got {list(one.cuts)}."
            )
        outside = [place for place in one.needed or () if not 0 <= place <= len(one.cuts)]
        if outside:
            raise InputError(
                f"`needed` must be segments of {one.continuation!r}, which are 0 to {len(one.cuts)}, got {outside[0]}."
            )


@dataclass(frozen=True)
class Row:
    """One row of a batch, and the requests that it scores.

    Attributes
    ----------
    item
        The first request's stimulus with its continuation; the last tokens of the other requests are its ``endings``.
    members
        Indices of the requests.
    """

    item: Prepared
    members: tuple[int, ...]


def rows_of(requests: Sequence[Request], prepared: Sequence[Prepared], owners: Sequence[int] | None) -> list[Row]:
    """Group requests into rows; requests that differ only in their last token share one.

    With causal attention the logits at the preceding position give the probability of every possible last token.

    Parameters
    ----------
    requests, prepared
        The requests and their encodings.
    owners
        Requests of different owners do not share rows; None if all may.
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
    """Which tokens of a continuation belong to requested segments; None for all."""
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
    """Pairs of (index of a request, its score) for a row, whose targets are its tokens and then the other endings."""
    places = row.item.places
    for number, index in enumerate(row.members):
        # All tokens but the last are shared by the members.
        own = [*range(len(places) - 1), len(places) - 1 + number] if places else []
        request, segments = requests[index], _segments(prepared[index])
        whose = np.array([segments[place] for place in places], dtype=np.int64)
        values = logprob[own].double().numpy()
        # Without any tokens, bincount returns integers.
        sums = np.bincount(whose, values, minlength=len(request.cuts) + 1).astype(np.float64)
        if request.needed is not None:
            sums[~np.isin(np.arange(len(sums)), request.needed)] = np.nan
        yield index, Likelihood(sums, prepared[index].n_scored, bool(likeliest[own].all()))
