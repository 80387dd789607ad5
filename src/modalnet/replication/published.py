"""The scores of a protocol's tasks as it was published: its lesion, its random units, its scoring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from modalnet.stats.proportions import score_interval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class PublishedScores:
    """Scores of one task without a lesion, under that of a network, and under those of random units.

    Attributes
    ----------
    network, fraction, task, operation
        What was lesioned, at which size, what was asked, and what was done (see
        :class:`modalnet.protocols.ProtocolLesion`).
    units
        Number of units.
    measure, chance
        Of the task.
    intact, lesioned
        Scores [item].
    draws
        Scores under the lesion of random units [draw, item].
    unparsed
        Share of generated answers that could not be parsed, intact, lesioned and of each draw [2 + draw]; NaN where
        answers are not generated.
    """

    network: str
    fraction: float
    task: str
    operation: str
    units: int
    measure: str
    chance: float
    intact: Float[np.ndarray, " item"]
    lesioned: Float[np.ndarray, " item"]
    draws: Float[np.ndarray, "draw item"]
    unparsed: Float[np.ndarray, " run"] = field(default_factory=lambda: np.zeros(0))

    @property
    def drop(self) -> float:
        """Mean score without the lesion minus that with it."""
        return float(self.intact.mean() - self.lesioned.mean())

    @property
    def random_drops(self) -> Float[np.ndarray, " draw"]:
        """The same of each draw of random units."""
        drops: Float[np.ndarray, " draw"] = self.intact.mean() - self.draws.mean(axis=1)
        return drops

    @property
    def at_chance(self) -> bool:
        """Whether the intact model cannot be told from one that guesses: there is nothing that a lesion could take."""
        if self.measure != "accuracy" or not math.isfinite(self.chance):
            return False
        return score_interval(self.intact)[0] <= self.chance

    @property
    def costs_more(self) -> bool | None:
        """Whether the network costs more than random units on average; None without random units."""
        if not len(self.draws):
            return None
        return bool(self.drop > max(float(self.random_drops.mean()), 0.0))

    @property
    def below_interval(self) -> bool | None:
        """Whether the score lies below the 95% t interval of the mean over draws; None with fewer than two."""
        from scipy import stats

        if len(self.draws) < 2:
            return None
        scores = self.draws.mean(axis=1)
        error = float(scores.std(ddof=1)) / math.sqrt(len(scores))
        return bool(self.lesioned.mean() < scores.mean() - float(stats.t.ppf(0.975, len(scores) - 1)) * error)

    def row(self) -> dict[str, Any]:
        """The scores as a row of a table."""
        random = self.draws.mean(axis=1) if len(self.draws) else np.array([np.nan])
        shares = self.unparsed if len(self.unparsed) else np.full(3, np.nan)
        return {
            "network": self.network,
            "fraction": self.fraction,
            "units": self.units,
            "task": self.task,
            "operation": self.operation,
            "measure": self.measure,
            "chance": self.chance,
            "items": len(self.intact),
            "intact": float(self.intact.mean()),
            "lesioned": float(self.lesioned.mean()),
            "random": float(random.mean()),
            "random_low": float(random.min()),
            "random_high": float(random.max()),
            "n_draws": len(self.draws),
            "drop": self.drop,
            "random_drop": float(self.random_drops.mean()) if len(self.draws) else math.nan,
            "unparsed_intact": float(shares[0]),
            "unparsed_lesioned": float(shares[1]),
            "unparsed_random": float(shares[2:].mean()) if len(shares) > 2 else math.nan,
        }


def published_table(scores: Sequence[PublishedScores]) -> pd.DataFrame:
    """One row per network, size, task and operation."""
    import pandas as pd

    return pd.DataFrame([each.row() for each in scores])


def to_arrays(scores: Sequence[PublishedScores]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Scores as arrays and a JSON document, for files."""
    names = ("intact", "lesioned", "draws", "unparsed")
    arrays = {f"published/{i}/{name}": getattr(each, name) for i, each in enumerate(scores) for name in names}
    about = ("network", "fraction", "task", "operation", "units", "measure", "chance")
    return arrays, [
        {name: None if (value := getattr(each, name)) != value else value for name in about} for each in scores
    ]


def from_arrays(arrays: Mapping[str, np.ndarray], document: Sequence[Mapping[str, Any]]) -> list[PublishedScores]:
    """The inverse of :func:`to_arrays`."""
    names = ("intact", "lesioned", "draws", "unparsed")
    made = []
    for i, about in enumerate(document):
        fields: dict[str, Any] = {name: math.nan if value is None else value for name, value in about.items()}
        fields |= {name: arrays[f"published/{i}/{name}"] for name in names}
        made.append(PublishedScores(**fields))
    return made
