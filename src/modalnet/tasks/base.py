"""Tasks: items that a model is tested on, with one score per item.

A task states what it needs from the model, the likelihoods of continuations or generated texts, and how these become
scores, of which higher is better. It never runs a model itself: a lesion study evaluates the same items under any
number of lesions, so that differences between lesions are paired by item.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from modalnet._validation import check_batch_size, check_shared
from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request
from modalnet.model import as_model
from modalnet.stats.proportions import score_interval
from modalnet.stats.resampling import LEVEL, block_values, item_groups, mean_intervals

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from modalnet.interventions.operations import Intervention
    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

N_RESAMPLES = 2_000

Measure = Literal["accuracy", "nats per token"]


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Scores of a model on a task.

    Attributes
    ----------
    task
        Name of the task.
    items
        Names of the items.
    scores
        One score per item, higher is better: 0 or 1 (or a fraction) for ``"accuracy"``; the mean log-probability per
        token of a text for ``"nats per token"``.
    measure
        ``"accuracy"`` or ``"nats per token"``.
    chance
        Expected score of guessing; NaN where there is none.
    groups
        The group (paradigm, suite) of each item; None where items have none.
    unparsed
        Whether no answer could be read from the text that the model generated for an item, which then scores 0; None
        where no text is parsed.
    """

    task: str
    items: tuple[str, ...]
    scores: Float[np.ndarray, " item"]
    measure: Measure
    chance: float
    groups: tuple[str, ...] | None = None
    unparsed: Bool[np.ndarray, " item"] | None = None

    @property
    def mean(self) -> float:
        """Mean score over items."""
        return float(self.scores.mean())

    @property
    def share_unparsed(self) -> float:
        """Share of items whose generated text holds no answer; NaN where no text is parsed.

        Output that a lesion has broken scores as low as a wrong answer; this tells the two apart.
        """
        return float("nan") if self.unparsed is None else float(self.unparsed.mean())

    @property
    def perplexity(self) -> float:
        """exp of the negative mean score; texts weigh equally, whatever their length.

        Raises
        ------
        InputError
            The measure is not ``"nats per token"``.
        """
        if self.measure != "nats per token":
            raise InputError(
                f"Perplexity is defined for 'nats per token'; the task {self.task!r} measures {self.measure}."
            )
        return float(np.exp(-self.mean))

    def interval(self, level: float = LEVEL, *, seed: int = 0) -> tuple[float, float]:
        """Return an interval of the mean score: for other items, and where items have groups for other groups.

        Accuracy has the Wilson score interval, with the effective number of items where they are nested in groups (see
        :func:`modalnet.stats.proportions.score_interval`). Other measures have the symmetric bootstrap-t interval of
        2,000 resamples of items, or of groups. With fewer than 5 groups, items count as independent, with a
        warning, and the interval is about these groups only.

        Parameters
        ----------
        level
            Nominal coverage.
        seed
            Seed of the resamples.

        Returns
        -------
        tuple of float
            Lower and upper end; NaN where a score is not finite.

        References
        ----------
        Wilson (1927), Journal of the American Statistical Association 22(158):209-212; Brown, Cai & DasGupta (2001),
        Statistical Science 16(2):101-133. Hall (1988), Journal of the Royal Statistical Society B 50(1):35-45.
        """
        check_shared(seed=seed)
        groups = item_groups(self.groups, f"The items of {self.task!r}")
        if self.measure == "accuracy":
            return score_interval(self.scores, groups, level)
        values = block_values(np.asarray(self.scores, dtype=np.float64)[:, None], groups)
        low, high = mean_intervals(values, N_RESAMPLES, np.random.default_rng(seed), level)[:, 0]
        return float(low), float(high)

    def __repr__(self) -> str:
        chance = "" if np.isnan(self.chance) else f", chance {self.chance:.3f}"
        unparsed = "" if self.unparsed is None else f", {self.share_unparsed:.1%} unparsed"
        return f"TaskScores({self.task}: {self.mean:.3f} {self.measure}, {len(self.items)} items{chance}{unparsed})"


class Task(ABC):
    """Base class of tasks: items and how they are scored.

    Attributes
    ----------
    name
        Name of the task.
    measure, chance
        As in :class:`TaskScores`.
    """

    name: str
    measure: Measure = "accuracy"
    chance: float = float("nan")

    @property
    @abstractmethod
    def items(self) -> tuple[str, ...]:
        """Names of the items, in order."""

    @property
    def groups(self) -> dict[str, str] | None:
        """Item -> the group of items (paradigm, suite) that it belongs to; None where items have none.

        Items of a group are alike, so that intervals are over groups: see :meth:`TaskScores.interval`.
        """
        return None

    @abstractmethod
    def run(
        self,
        model: Model,
        *interventions: Intervention | Sequence[Intervention],
        batch_size: int | Literal["auto"] = "auto",
    ) -> TaskScores:
        """Score a model on every item, with or without interventions.

        Parameters
        ----------
        model
            The model, or a view of it under interventions (:meth:`modalnet.Model.with_`).
        *interventions
            As for :meth:`modalnet.Model.run`.
        batch_size
            Stimuli per forward pass. Tasks that generate text run one stimulus at a time.
        """

    @abstractmethod
    def identity(self) -> str:
        """Hash of everything that the scores depend on besides the model."""

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {len(self)} items)"

    def scores(
        self, values: Float[np.ndarray, " item"], unparsed: Bool[np.ndarray, " item"] | None = None
    ) -> TaskScores:
        """Combine item scores with the description of the task."""
        by_item = self.groups
        groups = None if by_item is None else tuple(by_item[item] for item in self.items)
        values = np.asarray(values, dtype=np.float64)
        return TaskScores(self.name, self.items, values, self.measure, self.chance, groups, unparsed)


class LikelihoodTask(Task):
    """Base class of tasks that are scored by the likelihood of continuations."""

    @abstractmethod
    def requests(self) -> Sequence[Request]:
        """The continuations to score, for all items in order."""

    @abstractmethod
    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        """Compute one score per item from the likelihoods of :meth:`requests`, in their order."""

    def run(
        self,
        model: Model,
        *interventions: Intervention | Sequence[Intervention],
        batch_size: int | Literal["auto"] = "auto",
    ) -> TaskScores:
        check_batch_size(batch_size)
        model = as_model(model)
        return self.scores(
            self.grade(model._executor.likelihoods(self.requests(), *interventions, batch_size=batch_size))
        )

    def identity(self) -> str:
        requests = [
            [request.stimulus and request.stimulus.inspect().digest, request.continuation, list(request.cuts)]
            for request in self.requests()
        ]
        return digest([type(self).__name__, self.name, list(self.items), requests])


class GenerationTask(Task):
    """Base class of tasks that are scored by the text that the model generates.

    Attributes
    ----------
    max_new_tokens
        Maximum length of an answer in tokens.
    """

    max_new_tokens: int = 16

    @abstractmethod
    def stimuli(self) -> Sequence[Stimulus]:
        """The prompts, one per item."""

    @abstractmethod
    def grade(self, texts: Sequence[str]) -> Float[np.ndarray, " item"]:
        """Compute one score per item from the generated texts."""

    def unparsed(self, texts: Sequence[str]) -> Bool[np.ndarray, " item"] | None:
        """Tell from which generated texts no answer can be read; None for a task that takes texts as they are."""
        return None

    def run(
        self,
        model: Model,
        *interventions: Intervention | Sequence[Intervention],
        batch_size: int | Literal["auto"] = "auto",
    ) -> TaskScores:
        check_batch_size(batch_size)  # generation runs one stimulus at a time, whatever the batch size
        model = as_model(model)
        texts = model.generate(list(self.stimuli()), *interventions, max_new_tokens=self.max_new_tokens)
        return self.scores(self.grade(texts), self.unparsed(texts))

    def identity(self) -> str:
        digests = [stimulus.inspect().digest for stimulus in self.stimuli()]
        return digest([type(self).__name__, self.name, self.max_new_tokens, list(self.items), digests])


def digest(description: object) -> str:
    """Hash a JSON value."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]
