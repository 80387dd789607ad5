"""Dissociations between two networks: the interaction of lesion and task.

A lesion of network A that impairs task a and spares task b shows either that A matters more to a than to b, or that a
is the more fragile task. The second explanation is excluded if a lesion of another network B does the opposite: a
*double dissociation* (Teuber 1955; Shallice 1988). Its statistic is the interaction contrast

    (drop_A(a) - drop_A(b)) - (drop_B(a) - drop_B(b)) = (drop_A(a) - drop_B(a)) + (drop_B(b) - drop_A(b)),

whose two terms on the right compare both lesions within one task, so that tasks that differ in difficulty or measure
need no common scale. Both terms must exceed 0: a is impaired more by lesion A than by B, and b more by B than by A.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.lesion.lesion import Control, Lesion
from modalnet.lesion.table import KINDS
from modalnet.stats.resampling import interval

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

SMALL = 0.2  # a drop below this fraction of the drop on the other task counts as none
CONTROLS = {
    "layer": "layer-matched random units",
    "activation": "activation-matched random units",
    "least": "least selective units",
}

_PAIR = ("network_A", "network_B", "task_a", "task_b", "fraction_A", "fraction_B", "operation", "control")
_CELLS = ("Aa", "Ab", "Ba", "Bb")
_EFFECTS = ("interaction", "interaction_raw", "difference_a", "difference_b")


def dissociation(
    study: LesionStudy, *, fraction: float | None = None, operation: str | None = None, control: Control = "activation"
) -> pd.DataFrame:
    """Compute the interaction of each pair of networks with each pair of tasks.

    Parameters
    ----------
    study
        The lesion study.
    fraction
        The size of both lesions; None for every size at which both networks were lesioned. A network of a single size
        (fixed units) is compared with every size of the other.
    operation
        ``"zero"`` or ``"mean"``; None for each that was run.
    control
        The kind of control that a drop must exceed.

    Returns
    -------
    DataFrame
        Columns network_A, network_B, task_a, task_b, fraction_A, fraction_B, operation, control, and

        * drop_Aa, drop_Ab, drop_Ba, drop_Bb: drop under a lesion of A (B) on task a (b), in the task's measure;
          excess_Aa, excess_Aa_low, excess_Aa_high, …: the same in excess of the controls (see :mod:`.table`);
        * interaction: the interaction contrast with each drop relative to the score above chance,
          drop / (base - chance); NaN where a task has no chance level or the intact model is at chance on it;
        * interaction_raw: the same in the tasks' measure; NaN where the measures differ;
        * difference_a = drop_Aa - drop_Ba and difference_b = drop_Bb - drop_Ab, in the tasks' measures;
        * for each of the four ``…_low`` and ``…_high``: 95% bootstrap interval over the items of each task;
        * verdict: a sentence.

    Raises
    ------
    InputError
        If the study has fewer than two networks or two tasks, or for a size, operation or control that was not run.

    Notes
    -----
    Rules of the verdict. A lesion *impairs* a task if its drop exceeds that of its controls (``exceeds_K`` of
    :mod:`.table`: interval of the excess above 0, q < 0.05 over items, and the rank among the draws significant),
    unless the drop is less than a fifth of its drop on the other task (relative to the score above chance, or in a
    measure that both share). It *spares* a task if it does not impair it and the drop is that small or its interval
    includes 0. A task that drops while the interval of the excess includes 0 is *affected no more than by controls*.

    A double dissociation: A impairs a, B impairs b, each spares the other task or affects it no more than controls,
    and the intervals of both differences lie above 0 (or the same with a and b exchanged). A single dissociation: a
    lesion of one network impairs one task and not the other in this sense.

    References
    ----------
    Teuber (1955), Physiological psychology, Annual Review of Psychology 6:267-296. Shallice (1988), From
    Neuropsychology to Mental Structure, chapter 10.
    """
    import pandas as pd

    networks, tasks = study.networks, list(study.base)
    if len(networks) < 2 or len(tasks) < 2:
        raise InputError(
            f"A dissociation needs two networks and two tasks; this study has {len(networks)} and {len(tasks)}."
        )
    check_option("control", control, KINDS)
    if operation is not None and operation not in study.operations:
        raise InputError(f"This study ran {' and '.join(study.operations)} ablation, not {operation!r}.")
    records = study._resamples.table.to_dict("records")
    table = {(row["network"], row["fraction"], row["operation"], row["task"]): row for row in records}
    rows = []
    for A, B in itertools.combinations(networks, 2):
        for fractions in _sizes(study, A, B, fraction):
            for name in study.operations if operation is None else [operation]:
                lesions = [Lesion(*one, name) for one in zip((A, B), fractions, strict=True)]
                for pair in itertools.combinations(tasks, 2):
                    rows.append(_row(study, table, lesions, pair, control))
    columns = [*_PAIR, *(f"drop_{cell}" for cell in _CELLS)]
    columns += [f"excess_{cell}{end}" for cell in _CELLS for end in ("", "_low", "_high")]
    columns += [f"{effect}{end}" for effect in _EFFECTS for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*columns, "verdict"])


def _sizes(study: LesionStudy, A: str, B: str, fraction: float | None) -> list[tuple[float, float]]:
    """The pairs of sizes at which A and B are compared."""
    sizes_A, sizes_B = (
        [one for one in study.fractions(name) if fraction is None or math.isclose(one, fraction)]
        # Fixed units have one size, whatever was requested.
        or (list(study.fractions(name)) if len(study.fractions(name)) == 1 else [])
        for name in (A, B)
    )
    if fraction is not None and not (sizes_A and sizes_B):
        ran = "; ".join(f"{name} at {', '.join(f'{one:.3%}' for one in study.fractions(name))}" for name in (A, B))
        raise InputError(f"`fraction` must be a size that was run, got {fraction!r}. This study has {ran}.")
    if len(sizes_A) == 1 or len(sizes_B) == 1:
        shared = [(one, one) for one in sizes_A if one in sizes_B]
        return shared or list(itertools.product(sizes_A, sizes_B))
    return [(one, one) for one in sizes_A if one in sizes_B]


def _row(
    study: LesionStudy, table: dict[Any, Any], lesions: list[Lesion], tasks: tuple[str, str], control: Control
) -> dict[str, Any]:
    (A, B), (a, b) = lesions, tasks
    cells = {
        X + x: table.get((lesion.network, lesion.fraction, lesion.operation, task))
        for X, lesion in (("A", A), ("B", B))
        for x, task in (("a", a), ("b", b))
    }
    row: dict[str, Any] = {"network_A": A.network, "network_B": B.network, "task_a": a, "task_b": b}
    row |= {"fraction_A": A.fraction, "fraction_B": B.fraction, "operation": A.operation, "control": control}
    for cell, found in cells.items():
        row[f"drop_{cell}"] = found["drop"] if found else math.nan
        for end in ("", "_low", "_high"):
            row[f"excess_{cell}{end}"] = found[f"excess_{control}{end}"] if found else math.nan
    missing = [f"{c['network']} on {c['task']}" for c in cells.values() if c and not math.isfinite(c["drop_low"])]
    missing += [f"{lesion.network} on {task}" for lesion in lesions for task in tasks if not _has(study, lesion, task)]
    if missing:
        return row | {"verdict": f"not tested: no finite scores of {', '.join(dict.fromkeys(missing))}"}
    effects, at_chance = _effects(study, lesions, tasks)
    for name, (value, samples) in effects.items():
        row[name] = value
        row[f"{name}_low"], row[f"{name}_high"] = interval(samples)
    if at_chance:
        where = " and ".join(at_chance)
        return row | {"verdict": f"not tested: the intact model is at chance on {where}"}
    if not all(found and found[f"n_{control}"] for found in cells.values()):
        return row | {"verdict": f"not tested: {CONTROLS[control]} were not lesioned for both networks on both tasks"}
    return row | {"verdict": _verdict(row, cells, control)}


def _has(study: LesionStudy, lesion: Lesion, task: str) -> bool:
    return (lesion, task) in study.cells


def _effects(
    study: LesionStudy, lesions: list[Lesion], tasks: tuple[str, str]
) -> tuple[dict[str, tuple[float, np.ndarray]], list[str]]:
    """Each effect with its resamples, and the tasks on which the intact model is at chance."""
    differences, shares, at_chance = [], [], []
    # On task a the drop under A is compared with that under B, on task b the reverse.
    for task, (worse, better) in zip(tasks, (lesions, lesions[::-1]), strict=True):
        resamples, chance = study._resamples.tasks[task], study.base[task].chance
        # The first row holds the measured means, the others their resamples.
        means = np.vstack([resamples.scores.mean(axis=0), resamples.means])
        difference = means[:, resamples.column(better)] - means[:, resamples.column(worse)]
        ability = means[:, resamples.column(None)] - chance
        if resamples.score_interval(None)[0] <= chance:
            at_chance.append(task)
            ability = np.full_like(ability, np.nan)
        differences.append(difference)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares.append(difference / ability)
    raw = differences[0] + differences[1]
    if len({study.base[task].measure for task in tasks}) > 1:
        raw = np.full_like(raw, np.nan)
    effects = dict(zip(_EFFECTS, (shares[0] + shares[1], raw, *differences), strict=True))
    return {name: (float(values[0]), values[1:]) for name, values in effects.items()}, at_chance


def _verdict(row: dict[str, Any], cells: dict[str, Any], control: Control) -> str:
    states = {X + x: _state(cells[X + x], cells[X + y], control) for X in "AB" for x, y in ("ab", "ba")}
    words = [_words(row[f"network_{X}"], [(states[X + x], row[f"task_{x}"]) for x in "ab"], control) for X in "AB"]
    both = ", ".join(words)
    # The tasks that a lesion impairs while it spares the other one.
    apart = {
        X: [x for x, y in ("ab", "ba") if states[X + x] == "impairs" and states[X + y] in {"spares", "as controls"}]
        for X in "AB"
    }
    if apart["A"] and apart["B"] and apart["A"] != apart["B"]:
        lows, highs = ([row[f"difference_{x}_{end}"] for x in "ab"] for end in ("low", "high"))
        if min(lows) > 0 if apart["A"] == ["a"] else max(highs) < 0:
            return f"double dissociation: {both}"
        return f"no dissociation: {both}, but on one of the tasks the two lesions do not differ measurably"
    if apart["A"] or apart["B"]:
        return f"single dissociation: {both}"
    return f"no dissociation: {both}"


def _state(here: dict[str, Any], other: dict[str, Any], control: Control) -> str:
    """The effect of a lesion on a task, given its effect on the other one."""
    sizes = [one["drop"] / (one["base"] - one["chance"]) for one in (here, other)]
    if not np.isfinite(sizes).all() and here["measure"] == other["measure"]:
        sizes = [here["drop"], other["drop"]]
    small = np.isfinite(sizes).all() and other["drop_low"] > 0 and sizes[0] < SMALL * sizes[1]
    if small or here["drop_low"] <= 0:
        return "spares"
    if here[f"exceeds_{control}"] is True:
        return "impairs"
    return "as controls" if here[f"excess_{control}_low"] <= 0 else "not significant"


def _words(network: str, states: list[tuple[str, str]], control: Control) -> str:
    ends = {
        "as controls": f" no more than lesioning {CONTROLS[control]}",
        "not significant": f" (more than lesioning {CONTROLS[control]}, but not significantly)",
    }
    order = ("impairs", "as controls", "not significant", "spares")
    parts = []
    for state in order:
        tasks = [task for one, task in states if one == state]
        if tasks:
            verb = state if state in {"spares", "impairs"} else "affects"
            parts.append(f"{verb} {' and '.join(tasks)}{ends.get(state, '')}")
    return f"lesioning {network} {' and '.join(parts)}"
