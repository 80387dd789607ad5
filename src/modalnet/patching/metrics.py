"""Metrics of patched runs: one number per run, from the logits at the position of the answer.

A metric is defined without a model (:func:`logit_difference`, :func:`log_probability`, :func:`kl_divergence`, or any
function of logits). Before any run it is bound to a model and its pairs, which tokenizes the answers. All metrics are
functions of the logits, so that activation patching, which evaluates them, and attribution patching, which
differentiates them, measure the same quantity.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_option, check_shared
from modalnet.errors import InputError
from modalnet.execution.cells import Outcome, State
from modalnet.model import as_model
from modalnet.patching.estimates import SIGNED, Method, estimates, refuse_inference_mode
from modalnet.patching.pairs import as_pairs, lay_out

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

Texts = str | Sequence[str]


@dataclass(frozen=True)
class Metric:
    """A metric of patched runs; made by :func:`logit_difference` and the like.

    Attributes
    ----------
    kind
        The kind of metric.
    answers, distractors
        One text for all pairs, or one per pair; None if the kind does not use them.
    function
        The function of a custom metric.
    """

    kind: Literal["logit difference", "log-probability", "KL divergence", "custom"]
    answers: str | tuple[str, ...] | None = None
    distractors: str | tuple[str, ...] | None = None
    function: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """Name for tables and axes."""
        if self.function is not None:
            return getattr(self.function, "__name__", "custom").strip("<>")
        return self.kind

    def bind(self, model: Model, clean: Sequence[Stimulus], corrupt: Sequence[Stimulus]) -> Measure:
        """Bind the metric to pairs of a model, tokenizing its answers.

        Raises
        ------
        InputError
            If the numbers of answers and pairs differ, an answer is not a single token where the metric requires one,
            or an answer is the same token as its distractor.
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
                        f"`answers` and `distractors` must be different tokens, but {right!r} and {wrong!r} are the "
                        f"same token after stimulus {stimulus.label}."
                    )
            return Measure(self, Outcome("columns", columns))
        if self.kind == "log-probability":
            for one, other, text in zip(clean, corrupt, answers, strict=True):
                for stimulus in (one, other):
                    model._executor.next_tokens(stimulus, text)
            return Measure(self, Outcome("logprob"), tuple(answers))
        return Measure(self, Outcome("logits"))

    def unit_effects(
        self,
        model: Model,
        clean: Any,
        corrupt: Any,
        *,
        sites: Any = "residual",
        align: Any = None,
        method: Literal["gradient", "integrated"] = "gradient",
        steps: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, dict[str, Float[np.ndarray, "layer dim"]]]]:
        """Estimate the effect of each unit on the metric, pair by pair.

        Parameters
        ----------
        model, clean, corrupt, sites, align, method, steps, batch_size
            As for :func:`modalnet.attribution_patching`.

        Returns
        -------
        iterator of (int, dict)
            The index of each pair, not in order, and per space ``[layer, dim]``: the estimated change of the metric
            when the unit's clean activations are patched into the corrupt run, at all aligned tokens.

        Raises
        ------
        InputError
            As for :func:`modalnet.attribution_patching`, before any pass.
        """
        check_shared(batch_size=batch_size)
        check_option("method", method, SIGNED)
        refuse_inference_mode()
        how = Method.checked(method, steps)
        model = as_model(model)
        pairs = as_pairs(clean, corrupt)
        measure = self.bind(model, *pairs)
        layout = lay_out(model, pairs, measure, sites=sites, towers=None, tokens=None, align=align)
        found = estimates(model, measure, layout, "denoise", how, batch_size)
        return ((one.pair, one.units) for one in found)


@dataclass
class Measure:
    """A metric on the pairs of one model.

    Attributes
    ----------
    metric
        The metric.
    outcome
        The part of the logits that it requires.
    continuations
        Answers that follow each stimulus; None if the logits after the stimulus suffice.
    reference
        Logits of the clean run of each pair ``[vocab]``, for metrics relative to it.
    """

    metric: Metric
    outcome: Outcome
    continuations: tuple[str, ...] | None = None
    reference: dict[int, Any] = field(default_factory=dict)

    @property
    def needs_clean(self) -> bool:
        """Whether the metric is relative to the clean run, which must then come first."""
        return self.metric.kind == "KL divergence"

    def outcome_of(self, pairs: Sequence[int]) -> Outcome:
        """Return the outcome restricted to some pairs."""
        return replace(
            self.outcome, columns=tuple(self.outcome.columns[pair] for pair in pairs if self.outcome.columns)
        )

    def refer(self, pairs: Sequence[int], clean: Sequence[State]) -> None:
        """Store the clean runs of some pairs as the reference, if the metric is relative to them."""
        if self.needs_clean:
            for pair, state in zip(pairs, clean, strict=True):
                assert state.outcome is not None
                self.reference[pair] = state.outcome[-1].double()

    def value(self, outcome: Any, pair: int) -> float:
        """Return the value of the metric for one run of a pair, from its outcome (see ``Outcome``)."""
        kind = self.metric.kind
        if kind == "log-probability":
            return float(outcome.double().sum())
        if kind == "logit difference":
            return float(outcome[0, 0].double() - outcome[0, 1].double())
        return float(self._of_logits(outcome[-1:].double(), [pair])[0])

    def of_logits(self, logits: torch.Tensor, pairs: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the differentiable value of the metric ``[pair]`` from the logits of several pairs.

        Parameters
        ----------
        logits
            ``[row, vocab]``: for each pair, the rows that predict its answer.
        pairs
            Indices of the pairs.
        tokens
            Tokens of the answer of each pair; used by the log-probability.
        """
        import torch

        kind = self.metric.kind
        if kind == "log-probability":
            parts = logits.log_softmax(1).split([len(answer) for answer in tokens])
            chosen = [
                part.gather(1, torch.tensor(answer, device=part.device)[:, None]).sum()
                for part, answer in zip(parts, tokens, strict=True)
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
                f"`metric` {self.metric.name} must return one value per row of logits, [{len(pairs)}] for logits "
                f"[{len(pairs)}, {logits.shape[1]}], got shape {tuple(values.shape)}."
            )
        if logits.requires_grad and not values.requires_grad:
            raise InputError(
                f"`metric` {self.metric.name} returned values without a gradient, which estimates are made of. Use "
                "torch operations alone, such as logits[:, 5] - logits[:, 9], or exact patching."
            )
        return values


def logit_difference(answers: Texts, distractors: Texts) -> Metric:
    """Logit of the token of the correct answer minus logit of the token of a wrong answer.

    Parameters
    ----------
    answers, distractors
        One text for all pairs, or one per pair, which follows the stimulus directly (usually with a leading space).
        Each must be a single token. The answer is correct for the clean stimulus.

    Raises
    ------
    InputError
        If a text is empty or not a string.

    References
    ----------
    Wang, Variengien, Conmy, Shlegeris & Steinhardt (2023). Interpretability in the wild. ICLR. Zhang & Nanda (2024).
    Towards best practices of activation patching. ICLR: logit differences also reveal components that suppress the
    answer.
    """
    return Metric("logit difference", _texts(answers, "answers"), _texts(distractors, "distractors"))


def log_probability(answers: Texts) -> Metric:
    """Natural-log probability of an answer of one or several tokens.

    Parameters
    ----------
    answers
        One text for all pairs, or one per pair, which follows the stimulus directly.

    Raises
    ------
    InputError
        If a text is empty or not a string.
    """
    return Metric("log-probability", _texts(answers, "answers"))


def kl_divergence() -> Metric:
    """Kullback-Leibler divergence KL(clean || run) of the next-token distributions, in nats."""
    return Metric("KL divergence")


def custom(function: Callable[..., Any]) -> Metric:
    """Make a metric of a function of logits.

    Parameters
    ----------
    function
        Takes the next-token logits after each stimulus, ``[run, vocab]``, and, if it has a second parameter without a
        default, the index of the pair of each run, ``[run]``. Returns one value per run. For attribution patching it
        must be differentiable (torch operations only).

    Raises
    ------
    InputError
        If ``function`` is not callable.
    """
    if not callable(function):
        raise InputError(
            f"`metric` must be a metric of modalnet.patching or a function of logits, got {function!r:.100}."
        )
    return Metric("custom", function=function)


def as_metric(metric: Any) -> Metric:
    """Return a metric from a metric or a function of logits."""
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
        raise InputError(f"`{name}` must be a non-empty text, or a list of one such text per pair, got {given!r:.100}.")
    return given if isinstance(given, str) else tuple(listed)


def _one_each(texts: str | tuple[str, ...] | None, n: int, name: str) -> list[str]:
    if texts is None:
        return []
    listed = [texts] * n if isinstance(texts, str) else list(texts)
    if len(listed) != n:
        raise InputError(f"`{name}` must have one entry per pair, got {len(listed)} for {n} pairs.")
    return listed


def _token(model: Model, clean: Stimulus, corrupt: Stimulus, text: str) -> int:
    found = {model._executor.next_tokens(stimulus, text) for stimulus in (clean, corrupt)}
    for tokens in found:
        if len(tokens) != 1:
            shown = ", ".join(repr(model.tokenizer.decode([token])) for token in tokens)
            raise InputError(
                f"`answers` and `distractors` of a logit difference must be single tokens, but {text!r} is "
                f"{len(tokens)} tokens after stimulus {clean.label} ({shown}). Use another answer, or log_probability."
            )
    if len(found) != 1:
        raise InputError(
            f"{text!r} must be the same token after both stimuli of a pair, but differs between {clean.label} and "
            f"{corrupt.label}."
        )
    return found.pop()[0]
