"""Do networks cost their own tasks more than those of the other networks? The interaction over a whole matrix.

Rows are networks, columns the tasks of which each network has its own (the face network and naming faces, the place
network and naming places ...). With drops relative to the score above chance D[network, task], the statistic is

    diagonal - off-diagonal = mean over networks of D[i, i] - mean over i != j of D[i, j].

Under the null hypothesis that which task is a network's own does not matter, every assignment of tasks to networks is
equally likely. Since each task is assigned once, that some networks cost more, and that some tasks are more fragile, is
the same in all of them: what is tested is the interaction alone. With n networks p is at least 1 / n!, so that three
networks cannot be tested in this way and four can.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from modalnet.errors import InputError
from modalnet.lesion.dissociation import check_control, chosen_operations
from modalnet.lesion.lesion import Control, Lesion
from modalnet.stats.new_draw import ALPHA, LEAST_DRAWS, beside_draws
from modalnet.stats.permutation import p_in_words
from modalnet.stats.resampling import TIE

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

FEWEST_NETWORKS = 4  # 1 / 4! is below 0.05
EXACT = 8  # networks up to which all assignments are taken; 8! are 40,320
N_ASSIGNMENTS = 9_999
COLUMNS = (
    *("fraction", "operation", "control", "networks", "diagonal", "off_diagonal", "interaction"),
    *("p", "p_new_draw", "verdict", "sentence"),
)


def selectivity(
    study: LesionStudy,
    own: Mapping[str, str | Sequence[str]],
    *,
    fraction: float | None = None,
    operation: str | None = None,
    control: Control = "activation",
) -> pd.DataFrame:
    """Test whether networks cost their own tasks more than those of the others.

    Parameters
    ----------
    study
        The lesion study.
    own
        Network → its own task, or several, of which the mean is taken. At least two networks.
    fraction
        The size of the lesions; None for every size that all of the networks have.
    operation
        None for each that was run.
    control
        The kind of random control.

    Returns
    -------
    DataFrame
        One row per size and operation: fraction, operation, control; networks: their number; diagonal, off_diagonal:
        mean drop on own tasks and on those of others, relative to the score above chance (in the tasks' measure, where
        a task has no chance level and all share a measure); interaction: their difference; p: one-sided, over
        assignments of tasks to networks (all of them, or 9,999 at random beyond 8 networks); p_new_draw: two-sided,
        beside one more random set in place of each network (NaN without draws); verdict: ``"selective"``,
        ``"not selective"`` or ``"cannot be tested"``; sentence.

    Raises
    ------
    InputError
        For networks, tasks, sizes or operations that the study does not have, a task that two networks own, or tasks
        that share no scale.

    Notes
    -----
    Networks are *selective* if p is at most 0.05 and, where there are 19 draws or more, p_new_draw is too: then neither
    the assignment of tasks nor the choice of units would give this by chance.

    References
    ----------
    Fisher (1935), The Design of Experiments, section 21; Edgington & Onghena (2007), Randomization Tests, chapter 1.
    """
    import pandas as pd

    check_control(study, control)
    tasks = {name: [given] if isinstance(given, str) else list(given) for name, given in own.items()}
    _check(study, tasks)
    sizes = [set(study.fractions(name)) for name in tasks]
    shared = sorted(set.intersection(*sizes))
    chosen = [size for size in shared if fraction is None or math.isclose(size, fraction)]
    if not chosen:
        raise InputError(
            f"`fraction` must be a size of all of {', '.join(tasks)}, got {fraction!r}; they share "
            f"{', '.join(f'{one:.3%}' for one in shared) or 'none'}."
        )
    rows = [_row(study, tasks, size, name, control) for size in chosen for name in chosen_operations(study, operation)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _check(study: LesionStudy, own: Mapping[str, Sequence[str]]) -> None:
    if len(own) < 2:
        raise InputError(f"`own` must name the tasks of at least two networks, got {len(own)}.")
    for name in own:
        if name not in study.networks:
            raise InputError(f"`own` must name networks of the study ({', '.join(study.networks)}), got {name!r}.")
    every = [task for tasks in own.values() for task in tasks]
    for task in every:
        if task not in study.base:
            raise InputError(f"`own` must name tasks with scores ({', '.join(study.base)}), got {task!r}.")
    twice = next((task for task in every if every.count(task) > 1), None)
    if twice is not None or not all(own.values()):
        raise InputError(f"Each network in `own` must have tasks of its own; {twice or 'one'!r} has not.")


def _row(
    study: LesionStudy, own: Mapping[str, Sequence[str]], size: float, operation: str, control: Control
) -> dict[str, Any]:
    row: dict[str, Any] = {"fraction": size, "operation": operation, "control": control, "networks": len(own)}
    lesions = [Lesion(name, size, operation) for name in own]
    missing = [
        f"{one.network} on {task}"
        for one in lesions
        for tasks in own.values()
        for task in tasks
        if not study._resamples.has(one, task)
    ]
    if missing:
        return row | _untested(f"no scores of {', '.join(missing)}")
    matrices = _matrices(study, lesions, list(own.values()), control)
    if not np.isfinite(matrices[0]).all():
        return row | _untested("the intact model is at chance on a task, or scores are not finite")
    p = _p_of_assignment(matrices[0], study.seed)
    value, *draws = [_contrast(matrix) for matrix in matrices]
    beside = beside_draws(value, np.array(draws))
    n = len(own)
    diagonal = float(np.diag(matrices[0]).sum() / n)
    row |= {
        "diagonal": diagonal,
        "off_diagonal": diagonal - value,
        "interaction": value,
        "p": p,
        "p_new_draw": beside.p_two_sided,
    }
    if n < FEWEST_NETWORKS:
        return row | _untested(f"{n} networks, where {FEWEST_NETWORKS} are the fewest that can tell")
    tested = beside.n >= LEAST_DRAWS and math.isfinite(beside.p_normal)
    selective = p <= ALPHA and (not tested or (beside.p_two_sided <= ALPHA and value > 0))
    verdict = "selective" if selective else "not selective"
    text = f"own tasks drop by {diagonal:.2f}, those of other networks by {diagonal - value:.2f} (p {p_in_words(p)}"
    text += f"; beside random units p {p_in_words(beside.p_two_sided)})" if tested else ")"
    return row | {"verdict": verdict, "sentence": f"{verdict}: {text}."}


def _untested(why: str) -> dict[str, str]:
    return {"verdict": "cannot be tested", "sentence": f"cannot be tested: {why}."}


def _matrices(
    study: LesionStudy, lesions: Sequence[Lesion], tasks: Sequence[Sequence[str]], control: Control
) -> list[Float[np.ndarray, "network category"]]:
    """The drops of the networks, and of each draw of their controls."""
    every = [task for some in tasks for task in some]
    scale = _scale(study, every)
    n_draws = min(len(study._resamples.tasks[task].controls(one, control)) for one in lesions for task in every)
    matrices = np.full((1 + n_draws, len(lesions), len(tasks)), np.nan)
    for i, lesion in enumerate(lesions):
        for j, some in enumerate(tasks):
            drops = np.zeros(1 + n_draws)
            for task in some:
                resamples = study._resamples.tasks[task]
                sets = [lesion, *resamples.controls(lesion, control)[:n_draws]]
                drops += np.array([resamples.drop(one) for one in sets]) / scale[task]
            matrices[:, i, j] = drops / len(some)
    return list(matrices)


def _scale(study: LesionStudy, tasks: Sequence[str]) -> dict[str, float]:
    """What the drop on each task is divided by: the score above chance, or 1 where no task has a chance level."""
    base = {task: study.base[task] for task in tasks}
    if all(math.isfinite(one.chance) for one in base.values()):
        resamples = study._resamples.tasks
        return {task: math.nan if resamples[task].at_chance else one.mean - one.chance for task, one in base.items()}
    if len({one.measure for one in base.values()}) > 1:
        raise InputError(
            f"The tasks share no scale: {', '.join(f'{task} is in {one.measure}' for task, one in base.items())}. "
            "Choose tasks with a chance level, or of one measure."
        )
    return dict.fromkeys(tasks, 1.0)


def _contrast(matrix: Float[np.ndarray, "network category"]) -> float:
    n = len(matrix)
    on = float(np.diag(matrix).sum())
    return on / n - (float(matrix.sum()) - on) / (n * (n - 1))


def _p_of_assignment(matrix: Float[np.ndarray, "network category"], seed: int) -> float:
    """The share of assignments of tasks to networks whose own tasks drop as much."""
    n = len(matrix)
    rows = np.arange(n)
    value = float(np.diag(matrix).sum())
    reaching = value - TIE * max(1.0, float(np.abs(matrix).sum()))
    if n <= EXACT:
        sums = np.array([matrix[rows, list(order)].sum() for order in itertools.permutations(range(n))])
        return float((sums >= reaching).mean())
    rng = np.random.default_rng(seed)
    sums = np.array([matrix[rows, rng.permutation(n)].sum() for _ in range(N_ASSIGNMENTS)])
    return (1 + int((sums >= reaching).sum())) / (1 + N_ASSIGNMENTS)
