"""The instrument: how often a test rejects and an interval covers, over simulations whose truth is known.

A *quantity* is a function that simulates one data set (or one without and one with an effect), gives it to modalnet,
and yields what came of it. The instrument calls it many times and averages.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np

Column = Literal["false_positive_rate", "coverage", "power"]
#: Name, column, and what is averaged: 0 or 1, or a share (of units, of targets); NaN counts as no observation.
Observed = tuple[str, Column, float]
NULL: Column = "false_positive_rate"
COVERS: Column = "coverage"
EFFECT: Column = "power"

NOMINAL = 0.05  # the level of every test of modalnet, and one minus that of its intervals
SEED = 18
SHORT = 0.015  # of the simulations of a full run
FEWEST = 10


class Row(TypedDict):
    """One line of the table; None where a column does not apply."""

    name: str
    nominal: float
    false_positive_rate: float | None
    coverage: float | None
    power: float | None
    simulations: int


@dataclass(frozen=True)
class Quantity:
    """A function that simulates, its settings by label, and how many simulations a full run has."""

    measure: Callable[..., Iterable[Observed]]
    settings: Mapping[str, Mapping[str, Any]]
    simulations: int

    def rows(self, label: str, simulations: int) -> list[Row]:
        """Simulate one setting, and return a line for each name that the function yields."""
        # Depends on the function and the setting alone, so that no other line changes these numbers.
        seed = zlib.crc32(f"{self.measure.__module__}.{self.measure.__qualname__}: {label}".encode())
        rng = np.random.Generator(np.random.PCG64([SEED, seed]))
        seen: dict[str, dict[str, list[float]]] = {}
        for _ in range(simulations):
            for name, column, value in self.measure(rng, **self.settings[label]):
                seen.setdefault(name, {}).setdefault(column, []).append(float(value))
        return [_row(f"{name} ({label})" if label else name, columns) for name, columns in seen.items()]


QUANTITIES: list[Quantity] = []


def quantity(
    settings: Mapping[str, Mapping[str, Any]] | None = None, *, simulations: int
) -> Callable[[Callable[..., Iterable[Observed]]], Callable[..., Iterable[Observed]]]:
    """Register a function of a random generator and the settings as a quantity."""

    def register(measure: Callable[..., Iterable[Observed]]) -> Callable[..., Iterable[Observed]]:
        QUANTITIES.append(Quantity(measure, settings or {"": {}}, simulations))
        return measure

    return register


def rejects(p: float) -> bool:
    """Whether a p value is significant; one that could not be computed is not."""
    return bool(p <= NOMINAL)


def covers(low: float, high: float, truth: float) -> float:
    """Whether an interval holds the true value; NaN where there is no interval."""
    return float(low <= truth <= high) if np.isfinite([low, high]).all() else np.nan


def _row(name: str, columns: Mapping[str, Sequence[float]]) -> Row:
    def mean(column: Column) -> float | None:
        values = np.array(columns.get(column, []))
        values = values[np.isfinite(values)]
        return round(float(values.mean()), 4) if values.size else None

    return {
        "name": name,
        "nominal": NOMINAL,
        NULL: mean(NULL),
        COVERS: mean(COVERS),
        EFFECT: mean(EFFECT),
        "simulations": max(map(len, columns.values())),
    }
