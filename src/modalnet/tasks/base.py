"""What a task is: items with a question to the model each, and a score for each item.

A task says what it wants to know of the model (how likely continuations are, or what it writes) and how the answers
become one score per item, where higher is better. It never runs a model by itself, so a study can put the questions
under as many lesions as it likes in one go, and differences between them are paired by item.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.execution.likelihood import Likelihood, Request

if TYPE_CHECKING:
    from jaxtyping import Float

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

Measure = Literal["accuracy", "nats per token"]


@dataclass(frozen=True, eq=False)
class TaskScores:
    """How a model did on a task.

    Attributes
    ----------
    task
        Its name.
    items
        An identifier for each item.
    scores
        One per item, higher is better: 0 or 1 (or a share between) for ``"accuracy"``; the mean log-probability of a
        text's tokens for ``"nats per token"``.
    measure
        Which of the two.
    chance
        The expected score of guessing; NaN where there is none.
    """

    task: str
    items: tuple[str, ...]
    scores: Float[np.ndarray, " item"]
    measure: Measure
    chance: float

    @property
    def mean(self) -> float:
        """Mean score over items."""
        return float(self.scores.mean())

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability per token, a mean over texts; for ``"nats per token"`` only."""
        if self.measure != "nats per token":
            raise InputError(f"Task {self.task!r} measures {self.measure}; a perplexity is of texts.")
        return float(np.exp(-self.mean))

    def __repr__(self) -> str:
        chance = "" if np.isnan(self.chance) else f", chance {self.chance:.3f}"
        return f"TaskScores({self.task}: {self.mean:.3f} {self.measure}, {len(self.items)} items{chance})"


class Task(ABC):
    """Items and how they are scored; the kinds of task are its subclasses.

    Attributes
    ----------
    name
        A readable name.
    measure, chance
        As in :class:`TaskScores`.
    """

    name: str
    measure: Measure = "accuracy"
    chance: float = float("nan")

    @property
    @abstractmethod
    def items(self) -> tuple[str, ...]:
        """An identifier for each item, in order."""

    @abstractmethod
    def run(self, model: Model, *interventions: Any, batch_size: int | Literal["auto"] = "auto") -> TaskScores:
        """Score every item on a model, under interventions or none.

        Parameters
        ----------
        model
            The model, or a view of it under interventions (:meth:`modalnet.Model.with_`).
        *interventions
            As for :meth:`modalnet.Model.run`.
        batch_size
            Stimuli per forward pass.
        """

    @abstractmethod
    def identity(self) -> str:
        """A hash of everything that the scores depend on besides the model."""

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {len(self)} items)"

    def scores(self, values: Float[np.ndarray, " item"]) -> TaskScores:
        """Put item scores and the task's description together."""
        return TaskScores(self.name, self.items, np.asarray(values, dtype=np.float64), self.measure, self.chance)


class LikelihoodTask(Task):
    """A task whose items are decided by how likely the model finds continuations."""

    @abstractmethod
    def requests(self) -> Sequence[Request]:
        """What the model is asked, for all items."""

    @abstractmethod
    def grade(self, likelihoods: Sequence[Likelihood]) -> Float[np.ndarray, " item"]:
        """One score per item, from the answers to :meth:`requests` in their order."""

    def run(self, model: Model, *interventions: Any, batch_size: int | Literal["auto"] = "auto") -> TaskScores:
        return self.scores(
            self.grade(model._executor.likelihoods(self.requests(), *interventions, batch_size=batch_size))
        )

    def identity(self) -> str:
        asked = [
            [one.stimulus and one.stimulus.inspect().digest, one.continuation, list(one.cuts)]
            for one in self.requests()
        ]
        return digest([type(self).__name__, self.name, list(self.items), asked])


class GenerationTask(Task):
    """A task whose items are decided by what the model writes.

    Attributes
    ----------
    max_new_tokens
        How long an answer may be.
    """

    max_new_tokens: int = 16

    @abstractmethod
    def stimuli(self) -> Sequence[Stimulus]:
        """What the model continues, one per item."""

    @abstractmethod
    def grade(self, texts: Sequence[str]) -> Float[np.ndarray, " item"]:
        """One score per item, from what the model wrote."""

    def run(self, model: Model, *interventions: Any, batch_size: int | Literal["auto"] = "auto") -> TaskScores:
        written = [
            model.generate(stimulus, *interventions, max_new_tokens=self.max_new_tokens) for stimulus in self.stimuli()
        ]
        return self.scores(self.grade(written))

    def identity(self) -> str:
        asked = [one.inspect().digest for one in self.stimuli()]
        return digest([type(self).__name__, self.name, self.max_new_tokens, list(self.items), asked])


def digest(description: Any) -> str:
    """Hash of JSON values."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]
