"""Lesion studies with planted effects, without any model."""

from __future__ import annotations

import math

import numpy as np

from modalnet.lesion.result import Lesion, LesionStudy
from modalnet.tasks.base import TaskScores

N = 240
SIZE = 0.01
CHANCE = {"blimp": 0.5, "images": 0.25}


def rng(*seed):
    return np.random.default_rng(seed)


def study_of(
    costs, *, sizes=(SIZE,), draws=20, magnitudes=None, n=N, seed=0, level=0.85, tasks=tuple(CHANCE), chance=CHANCE
):
    """A study in which every lesion makes a share of the items wrong.

    costs: (network, operation) -> {control: {task: cost in accuracy}}; controls that are absent were not run.
    """
    source = rng(seed)
    luck = {task: source.random(n) for task in tasks}
    base = {
        task: TaskScores(
            task, tuple(f"{i}" for i in range(n)), (luck[task] < level) * 1.0, "accuracy", chance.get(task, 0.5)
        )
        for task in tasks
    }
    cells, counts, mean_abs = {}, {}, {}
    for (network, operation), kinds in costs.items():
        for size in sizes:
            for control, per_task in kinds.items():
                for draw in range(draws if control in ("layer", "activation") else 1):
                    lesion = Lesion(network, size, operation, control, draw)
                    counts[lesion] = round(size * 10_000)
                    mean_abs[lesion] = (magnitudes or {}).get((network, control), 1.0)
                    for task, cost in per_task.items():
                        # Some items change for no reason, so that nothing is exactly alike.
                        noise = source.random(n) < 0.02
                        cells[lesion, task] = np.abs((luck[task] < level - cost) * 1.0 - noise)
    return LesionStudy("toy", base, cells, counts, mean_abs, {}, 1, seed, {"sizes": list(sizes)})


def effect(blimp, images, *, layer=(0.01, 0.01), norm=(0.02, 0.02), least=(0.0, 0.0)):
    kinds = {"": (blimp, images), "layer": layer, "activation": norm, "least": least}
    return {kind: dict(zip(("blimp", "images"), one, strict=True)) for kind, one in kinds.items() if one is not None}


LANGUAGE, VISION = effect(0.3, 0.02), effect(0.02, 0.4)
BOTH = ("zero", "mean")


def graded_study(drops, *, draws=20, n=120, seed=0):
    """A study with doses 0.25, 0.5, 0.75 and 1, under which scores in nats drop by the slope times the dose."""
    source = rng(seed)
    base = TaskScores("texts", tuple(map(str, range(n))), source.normal(-3, 0.5, n), "nats per token", math.nan)
    cells = {}
    for control, count in (("", 1), ("activation", draws)):
        for draw in range(count):
            slope = drops[0] if not control else source.normal(drops[1], 0.05)
            for factor in (0.0, 0.25, 0.5, 0.75):
                operation = "zero" if factor == 0 else f"scale {factor:g}"
                lesion = Lesion("language", SIZE, operation, control, draw)
                cells[lesion, "texts"] = base.scores - (1 - factor) * slope + source.normal(0, 0.05, n)
    lesions = dict.fromkeys((lesion for lesion, _ in cells), 1.0)
    return LesionStudy("toy", {"texts": base}, cells, {}, lesions, {}, 0, seed, {})
