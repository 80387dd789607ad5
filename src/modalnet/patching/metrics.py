"""What is measured of a patched run: one number per pair, from the logits where the answer is due.

A metric is made without a model (:func:`logit_difference`, :func:`log_probability`, :func:`kl_divergence`, or any
function of logits) and bound to a model and its pairs before anything runs, which is when its answers become tokens.
All of them can be computed from the same logits, so that activation patching, which runs them on numbers that come
back, and attribution patching, which differentiates them, measure the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.cells import Outcome, State

if TYPE_CHECKING:
    import torch

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

Texts = str | Sequence[str]


@dataclass(frozen=True)
class Metric:
    """What to measure; made by :func:`logit_difference` and its like.

    Attributes
    ----------
    kind
        Which of them.
    answers, distractors
        One text for all pairs, or one per pair; None where the kind needs none.
    function
        Of a custom metric.
    """

    kind: Literal["logit difference", "log-probability", "KL divergence", "custom"]
    answers: str | tuple[str, ...] | None = None
    distractors: str | tuple[str, ...] | None = None
    function: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """For tables and axes."""
        if self.function is not None:
            return getattr(self.function, "__name__", "custom").strip("<>")
        return self.kind

    def bind(self, model: Model, clean: Sequence[Stimulus], corrupt: Sequence[Stimulus]) -> Measure:
        """Turn answers into tokens of a model.

        Raises
        ------
        InputError
            Another number of answers than of pairs; an answer that is not one token, where one is needed; an answer
            that is the same token as its distractor.
        """
        answers = _one_each(self.answers, len(clean), "answers")
        if self.kind == "logit difference":
            distractors = _one_each(self.distractors, len(clean), "distractors")
            columns = tuple(
                (_token(model, one, other, right), _token(model, one, other, wrong))
                for one, other, right, wrong in zip(clean, corrupt, answers, distractors, strict=True)
            )
            for stimulus, pair, right, wrong in zip(clean, columns, answers, distractors, strict=True):
                if pair[0] == pair[1]:
                    raise InputError(
                        f"after stimulus {stimulus.label}, {right!r} and {wrong!r} are the same token, so their logits "
                        "never differ."
                    )
            return Measure(self, Outcome("columns", columns))
        if self.kind == "log-probability":
            for one, other, text in zip(clean, corrupt, answers, strict=True):
                for stimulus in (one, other):
                    model._executor.next_tokens(stimulus, text)
            return Measure(self, Outcome("logprob"), tuple(answers))
        return Measure(self, Outcome("logits"))


@dataclass
class Measure:
    """A metric on the pairs of one model.

    Attributes
    ----------
    metric
        What it measures.
    outcome
        What of the logits it needs.
    continuations
        Answers that are written after each stimulus; None where the logits after the stimulus itself are enough.
    reference
        Per pair, the logits of the clean run ``[vocab]``, for what is measured against them.
    """

    metric: Metric
    outcome: Outcome
    continuations: tuple[str, ...] | None = None
    reference: dict[int, Any] = field(default_factory=dict)

    @property
    def needs_clean(self) -> bool:
        """Whether the clean run comes first, because others are measured against it."""
        return self.metric.kind == "KL divergence"

    def outcome_of(self, pairs: Sequence[int]) -> Outcome:
        """The outcome of some of the pairs, as a list of their states wants it."""
        return replace(
            self.outcome, columns=tuple(self.outcome.columns[pair] for pair in pairs if self.outcome.columns)
        )

    def refer(self, pairs: Sequence[int], clean: Sequence[State]) -> None:
        """Take in the clean runs of some pairs, where others are measured against them."""
        if self.needs_clean:
            for pair, state in zip(pairs, clean, strict=True):
                assert state.outcome is not None
                self.reference[pair] = state.outcome[-1].double()

    def value(self, outcome: Any, pair: int) -> float:
        """The measure of one run of a pair, from what its outcome is (see ``Outcome``)."""
        kind = self.metric.kind
        if kind == "log-probability":
            return float(outcome.double().sum())
        if kind == "logit difference":
            return float(outcome[0, 0].double() - outcome[0, 1].double())
        return float(self._of_logits(outcome[-1:].double(), [pair])[0])

    def of_logits(self, logits: torch.Tensor, pairs: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """The same of the logits of several pairs, so that it can be differentiated.

        Parameters
        ----------
        logits
            ``[row, vocab]``: for each pair the rows that predict its answer.
        pairs
            Which pairs.
        tokens
            Of each pair, the tokens of its answer; used by the log-probability.
        """
        import torch

        kind = self.metric.kind
        if kind == "log-probability":
            parts = logits.log_softmax(1).split([len(own) for own in tokens])
            chosen = [
                part.gather(1, torch.tensor(own, device=part.device)[:, None]).sum()
                for part, own in zip(parts, tokens, strict=True)
            ]
            return torch.stack(chosen)
        if kind == "logit difference":
            columns = torch.tensor([self.outcome.columns[pair] for pair in pairs], device=logits.device)
            both = logits.gather(1, columns)
            return both[:, 0] - both[:, 1]
        return self._of_logits(logits, pairs)

    def _of_logits(self, logits: torch.Tensor, pairs: Sequence[int]) -> torch.Tensor:
        import torch

        if self.metric.kind == "KL divergence":
            clean = torch.stack([self.reference[pair] for pair in pairs]).to(logits).log_softmax(1)
            return (clean.exp() * (clean - logits.log_softmax(1))).sum(1)
        function = self.metric.function
        assert function is not None
        takes_pairs = _positional(function) > 1
        found = function(logits, torch.tensor(pairs)) if takes_pairs else function(logits)
        values = torch.as_tensor(found)
        if values.shape != (len(pairs),):
            raise InputError(
                f"The metric {self.metric.name} got logits [{len(pairs)}, {logits.shape[1]}] and gave something of "
                f"shape {tuple(values.shape)}. It must give one value per row, [{len(pairs)}]."
            )
        return values


def logit_difference(answers: Texts, distractors: Texts) -> Metric:
    """The logit of the right answer's token less that of a wrong one's.

    Parameters
    ----------
    answers, distractors
        One text for all pairs, or one per pair, written straight after the stimulus (mostly with a space in front);
        each must be one token. The answer is right for the clean stimulus.

    References
    ----------
    Wang, Variengien, Conmy, Shlegeris & Steinhardt (2023). Interpretability in the wild. ICLR. Zhang & Nanda (2024).
    Towards best practices of activation patching. ICLR: logit differences show also components that work against
    the answer.
    """
    return Metric("logit difference", _texts(answers, "answers"), _texts(distractors, "distractors"))


def log_probability(answers: Texts) -> Metric:
    """The natural-log probability of an answer, of one token or several.

    Parameters
    ----------
    answers
        One text for all pairs, or one per pair, written straight after the stimulus.
    """
    return Metric("log-probability", _texts(answers, "answers"))


def kl_divergence() -> Metric:
    """How far the next-token distribution is from that of the clean run: KL(clean || run), in nats."""
    return Metric("KL divergence")


def custom(function: Callable[..., Any]) -> Metric:
    """A function of logits.

    Parameters
    ----------
    function
        Takes the logits of the token after each stimulus, ``[run, vocab]``, and, if it has a second parameter without
        a default, the number of the pair that each run is of, ``[run]``. Gives one value per run. For attribution
        patching it must be differentiable (torch operations only).
    """
    if not callable(function):
        raise InputError(f"A metric is one of modalnet.patching or a function of logits; got {function!r:.100}.")
    return Metric("custom", function=function)


def as_metric(metric: Any) -> Metric:
    """A metric from a metric or a function."""
    return metric if isinstance(metric, Metric) else custom(metric)


def _positional(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is inspect.Parameter.empty for one in parameters)


def _texts(given: Any, name: str) -> str | tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given
    if isinstance(listed, np.ndarray):
        listed = listed.tolist()
    if not isinstance(listed, list | tuple) or not all(isinstance(one, str) and one for one in listed) or not listed:
        raise InputError(f"{name} is a text or a list of texts, one per pair, none of them empty; got {given!r:.100}.")
    return given if isinstance(given, str) else tuple(listed)


def _one_each(texts: str | tuple[str, ...] | None, n: int, name: str) -> list[str]:
    if texts is None:
        return []
    listed = [texts] * n if isinstance(texts, str) else list(texts)
    if len(listed) != n:
        raise InputError(f"There are {n} pairs and {len(listed)} {name}.")
    return listed


def _token(model: Model, clean: Stimulus, corrupt: Stimulus, text: str) -> int:
    found = {model._executor.next_tokens(stimulus, text) for stimulus in (clean, corrupt)}
    for tokens in found:
        if len(tokens) != 1:
            shown = ", ".join(repr(model.tokenizer.decode([token])) for token in tokens)
            raise InputError(
                f"after stimulus {clean.label}, {text!r} is {len(tokens)} tokens ({shown}); a logit difference "
                "compares single ones. Choose another answer, or use log_probability, which takes any."
            )
    if len(found) != 1:
        raise InputError(f"{text!r} is another token after {clean.label} than after {corrupt.label}.")
    return found.pop()[0]
