"""How likely a model finds continuations of its stimuli.

The log-probability of a continuation is the sum over its tokens of log p(token | stimulus, tokens before). Where the
text of a stimulus ends inside a token of the whole (a space that belongs to the next word), the tokens from there on
count as the continuation's, as in the evaluation harness of EleutherAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.stimuli import Stimulus

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


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
