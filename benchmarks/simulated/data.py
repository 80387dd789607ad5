"""Item scores that look like those of lesioned models, and lesion studies made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from modalnet.lesion.lesion import Lesion
from modalnet.lesion.result import LesionStudy
from modalnet.tasks.base import TaskScores

MEAN, SPREAD = 0.5, 0.3  # of the impairment by a random set of units, in SDs of the items
SHARED = 0.5  # of the variance between sets that all tasks, sizes and operations have in common
NATS = 0.4  # nats per token that an impairment of 1 costs
PER_PARADIGM = 5
_ITEM, _PARADIGM, _NOISE = 1.0, 0.7, 0.5  # SDs of an item's margin: of its own, of its paradigm, of each run


@dataclass(frozen=True)
class Scores:
    """How items are scored: 0 or 1 with a margin above 0, or in nats with heavy tails.

    Attributes
    ----------
    n
        Number of items.
    level
        Expected accuracy of the intact model; None for nats per token.
    paradigms
        Whether items are nested in paradigms of five, which share part of their margin.
    """

    n: int
    level: float | None = 0.75
    paradigms: bool = False

    @property
    def groups(self) -> tuple[str, ...] | None:
        """The paradigm of each item; None without paradigms."""
        return tuple(f"paradigm {i // PER_PARADIGM}" for i in range(self.n)) if self.paradigms else None

    def described(self, values: np.ndarray, task: str = "a") -> TaskScores:
        """Return one score per item as those of a task."""
        measure, chance = ("nats per token", math.nan) if self.level is None else ("accuracy", 0.5)
        items = tuple(f"item {i}" for i in range(self.n))
        return TaskScores(task, items, values, measure, chance, self.groups)  # type: ignore[arg-type]

    @property
    def spread(self) -> float:
        """Standard deviation of the margin over items and runs."""
        return math.sqrt(_ITEM**2 + self.paradigms * _PARADIGM**2 + _NOISE**2)

    def draw(self, rng: np.random.Generator, impairments: np.ndarray) -> np.ndarray:
        """Return scores ``[item, 1 + lesion]`` of the same items, the first of the intact model."""
        shifts = np.concatenate([[0.0], impairments])
        of_paradigm = rng.standard_normal(-(-self.n // PER_PARADIGM)).repeat(PER_PARADIGM)[: self.n]
        if self.level is None:
            base = -3 + 0.6 * rng.standard_t(4, self.n) + self.paradigms * _PARADIGM * of_paradigm
            # Some items, or paradigms, lose several times what others lose; 1 on average.
            loss = rng.exponential(size=self.n)
            if self.paradigms:
                loss = (
                    0.5 * loss + 0.5 * rng.exponential(size=-(-self.n // PER_PARADIGM)).repeat(PER_PARADIGM)[: self.n]
                )
            noise = 0.1 * rng.standard_t(4, (self.n, len(shifts)))
            return base[:, None] - NATS * loss[:, None] * shifts + noise
        margin = self.spread * ndtri(self.level) + _ITEM * rng.standard_normal(self.n)
        margin += self.paradigms * _PARADIGM * of_paradigm
        noise = _NOISE * rng.standard_normal((self.n, len(shifts)))
        return (margin[:, None] + noise - shifts > 0).astype(float)

    def expected(self, impairment: float, sd: float = 0.0) -> float:
        """Return the mean score of all items that there could be, for an impairment that varies over sets."""
        if self.level is None:
            return -3 - NATS * impairment
        return float(ndtr((self.spread * ndtri(self.level) - impairment) / math.hypot(self.spread, sd)))


@dataclass(frozen=True)
class SimulatedStudy:
    """A lesion study, and the true impairment by each lesion on each task."""

    study: LesionStudy
    impairments: dict[tuple[Lesion, str], float]


def lesion_study(
    rng: np.random.Generator,
    tasks: Mapping[str, Scores],
    networks: Mapping[str, Mapping[str, float]],
    draws: int,
    *,
    kinds: Sequence[str] = ("activation",),
    sizes: Sequence[float] = (1.0,),
    operations: Sequence[str] = ("zero",),
) -> SimulatedStudy:
    """Simulate a lesion study in which a network is one more random set of units, but for a stated effect.

    Parameters
    ----------
    rng
        Source of randomness.
    tasks
        How the items of each task are scored.
    networks
        By network and task, what its impairment has in excess of that of random sets; tasks that are missing have 0.
    draws
        Controls of each kind.
    kinds, sizes, operations
        Kinds of controls; sizes, to which impairments are proportional; and operations.
    """
    impairments: dict[tuple[Lesion, str], float] = {}
    for network, effects in networks.items():
        for control, draw in [("", 0), *((kind, draw) for kind in kinds for draw in range(draws))]:
            common = math.sqrt(SHARED) * rng.standard_normal()
            for size in sizes:
                for operation in operations:
                    for task in tasks:
                        deviation = common + math.sqrt(1 - SHARED) * rng.standard_normal()
                        effect = 0.0 if control else effects.get(task, 0.0)
                        lesion = Lesion(network, size / 100, operation, control, draw)  # type: ignore[arg-type]
                        impairments[lesion, task] = size * (MEAN + SPREAD * deviation + effect)
    base, cells = {}, {}
    for task, scores in tasks.items():
        lesions = [lesion for lesion, name in impairments if name == task]
        values = scores.draw(rng, np.array([impairments[lesion, task] for lesion in lesions]))
        base[task] = scores.described(values[:, 0], task)
        cells |= {(lesion, task): values[:, place] for place, lesion in enumerate(lesions, start=1)}
    every = dict.fromkeys(lesion for lesion, _ in cells)
    study = LesionStudy(
        model="simulated",
        base=base,
        cells=cells,
        counts=dict.fromkeys(every, 10),
        magnitudes=dict.fromkeys(every, 1.0),
        failures={},
        spare_first=0,
        seed=int(rng.integers(2**31)),
        settings={},
    )
    return SimulatedStudy(study, impairments)
