"""What a model generated: a text, its tokens, and what the model gave at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int


class Continued(NamedTuple):
    """New tokens of one stimulus, with logits and scores of each step where these were wanted."""

    tokens: list[int]
    logits: Float[torch.Tensor, "step vocab"] | None = None
    scores: Float[torch.Tensor, "step vocab"] | None = None


@dataclass(frozen=True, eq=False)
class Generated:
    """A text that a model generated; what :meth:`modalnet.Model.generate` gives with ``details=True``.

    Attributes
    ----------
    text
        The new text, without special tokens.
    ids
        ``[step]`` int64: the new tokens, an end token included.
    tokens
        What each of them reads.
    logits
        ``[step, vocab]`` float32: the logits from which each token was chosen, under the interventions.
    scores
        The same as transformers' logits processors left them, as in its ``output_scores``: ``-inf`` for tokens that
        were ruled out.
    """

    text: str
    ids: Int[torch.Tensor, " step"]
    tokens: tuple[str, ...]
    logits: Float[torch.Tensor, "step vocab"]
    scores: Float[torch.Tensor, "step vocab"]

    @property
    def logprob(self) -> Float[torch.Tensor, " step"]:
        """Natural-log probability that the model gives each token that it generated."""
        return self.logits.log_softmax(-1).gather(1, self.ids[:, None])[:, 0]

    def __str__(self) -> str:
        return self.text


def generated(text: str, made: Continued, tokenizer: Any) -> Generated:
    """What was generated, with its tokens by name."""
    import torch

    assert made.logits is not None
    assert made.scores is not None
    names = tuple(tokenizer.decode([token]) for token in made.tokens)
    return Generated(text, torch.tensor(made.tokens), names, made.logits, made.scores)
