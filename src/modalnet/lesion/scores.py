"""Scores of a task under interventions, in groups that share the encoding of the task, each kept in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from modalnet.results.cache import CacheLike, cached_parts
from modalnet.tasks.base import LikelihoodTask, Task, TaskScores

if TYPE_CHECKING:
    from modalnet.interventions.operations import Intervention
    from modalnet.model import Model

# Lesions that share one encoding of a task: the most that an interrupted study loses.
TOGETHER = 8


def scores_under(
    model: Model,
    task: Task,
    variants: Sequence[Sequence[Intervention]],
    *,
    batch_size: int | Literal["auto"] = "auto",
    cache: CacheLike = True,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the number of each variant with what a task measures under its interventions, those in the store first.

    That is ``"scores"`` [item], and of tasks that parse generated answers ``"unparsed"`` [item].

    Parameters
    ----------
    model, task
        What is scored.
    variants
        Interventions that act together; an empty list is the intact model.
    batch_size, cache
        As for :func:`modalnet.lesion_study`.
    """

    def compute(missing: list[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for start in range(0, len(missing), TOGETHER):
            group = missing[start : start + TOGETHER]
            scored = _scores(model, task, [list(variants[number]) for number in group], batch_size)
            yield from zip(group, scored, strict=True)

    found = cached_parts(
        model,
        "lesion",
        {"task": task.identity()},
        [{"interventions": [one.digest for one in edits]} for edits in variants],
        compute,
        cache=cache,
    )
    for number, arrays in found:
        yield number, dict(arrays)


def _scores(
    model: Model, task: Task, variants: Sequence[list[Intervention]], batch_size: int | Literal["auto"]
) -> Iterator[dict[str, np.ndarray]]:
    if isinstance(task, LikelihoodTask):
        for found in model._executor.likelihoods_under(task.requests(), variants, batch_size=batch_size):
            yield _arrays(task.scores(task.grade(found)))
    else:
        for edits in variants:
            yield _arrays(task.run(model, *edits, batch_size=batch_size))


def _arrays(found: TaskScores) -> dict[str, np.ndarray]:
    arrays = {"scores": np.asarray(found.scores, dtype=np.float64)}
    return arrays if found.unparsed is None else arrays | {"unparsed": found.unparsed.astype(np.float64)}
