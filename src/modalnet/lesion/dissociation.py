"""Dissociations between two networks: the interaction of lesion and task.

A lesion of network A that impairs task a and spares task b shows either that A matters more to a than to b, or that a
is the more fragile task. That one effect is significant and another is not shows neither (Nieuwenhuis, Forstmann &
Wagenmakers 2011). The second explanation is excluded if a lesion of another network B does the opposite: a *double
dissociation* (Teuber 1955; Shallice 1988). Its statistic is the interaction contrast

    (drop_A(a) - drop_A(b)) - (drop_B(a) - drop_B(b)) = (drop_A(a) - drop_B(a)) + (drop_B(b) - drop_A(b)),

whose two terms on the right compare both lesions within one task, so that tasks that differ in difficulty or measure
need no common scale. Random sets of units differ in what they cost, so each contrast is compared with what it is for
one more pair of random sets, a draw of A's controls and a draw of B's: see :mod:`modalnet.stats.new_draw`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_option
from modalnet.errors import InputError
from modalnet.lesion.lesion import LEAST, Control, Lesion
from modalnet.stats.new_draw import ALPHA, LEAST_DRAWS, NewDraw, beside_draws
from modalnet.stats.permutation import p_in_words
from modalnet.stats.resampling import LEVEL, expanded, interval

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

Row: TypeAlias = dict[str, Any]

#: Contrast → its terms within one task: sign, task, and the network whose drop is taken, less that of the other one.
_TERMS: dict[str, tuple[tuple[int, str, str], ...]] = {
    "difference_a": ((1, "a", "AB"),),
    "difference_b": ((1, "b", "BA"),),
    "interaction": ((1, "a", "AB"), (1, "b", "BA")),
    "interaction_raw": ((1, "a", "AB"), (1, "b", "BA")),
    "selectivity_A": ((1, "a", "A"), (-1, "b", "A")),
    "selectivity_B": ((1, "b", "B"), (-1, "a", "B")),
}

_PAIR = ("network_A", "network_B", "task_a", "task_b", "fraction_A", "fraction_B", "operation", "control")
_CELLS = ("Aa", "Ab", "Ba", "Bb")
_EFFECTS = ("interaction", "interaction_raw", "difference_a", "difference_b", "selectivity_A", "selectivity_B")


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
        ``"zero"``, ``"mean"``, ``"resample"`` ...; None for each that was run.
    control
        The kind of random control.

    Returns
    -------
    DataFrame
        Columns network_A, network_B, task_a, task_b, fraction_A, fraction_B, operation, control, and

        * drop_Aa, drop_Ab, drop_Ba, drop_Bb: drop under a lesion of A (B) on task a (b), in the task's measure;
          excess_Aa, excess_Aa_low, excess_Aa_high, …: the same in excess of one more draw (see :mod:`.table`);
        * interaction: the interaction contrast with each drop relative to the score above chance,
          drop / (base - chance); NaN where a task has no chance level or the intact model is at chance on it;
        * interaction_raw: the same in the tasks' measure; NaN where the measures differ;
        * difference_a = drop_Aa - drop_Ba and difference_b = drop_Bb - drop_Ab, in the tasks' measures;
        * selectivity_A = drop_Aa - drop_Ab and selectivity_B = drop_Bb - drop_Ba, relative to the score above chance
          (in the measure, where only that is defined);
        * for each of these ``…_low`` and ``…_high``: 95% interval over the items (or groups) of each task, from the
          bootstrap, and where scores are accuracies at least as wide as what the score intervals of its terms give;
          ``p_…``: two-sided, beside one more pair of random sets (of a selectivity: beside one more draw of the
          network's controls); NaN without draws;
        * detectable: the smallest interaction that would be found with a probability of 0.8;
        * verdict: ``"double dissociation"``, ``"single dissociation"``, ``"no dissociation"`` or
          ``"cannot be tested"``; sentence: the verdict in words.

    Raises
    ------
    InputError
        If the study has fewer than two networks or two tasks, or for a size, operation or control that was not run.

    Notes
    -----
    Rules of the verdict. Without 19 draws of the control of both networks on both tasks it cannot be tested.

    *Double dissociation*: both differences lie in the same direction beyond one more pair of random sets (each p at
    most 0.05), and each network costs more than one more draw on the task that it costs more than the other network
    (``exceeds_K`` of :mod:`.table`). No common scale is needed.

    *Single dissociation*: the interaction lies beyond one more pair of random sets (p at most 0.05), and so does the
    selectivity of one network, which costs more than one more draw on the task that it is selective for. Where tasks
    share no scale (no chance level, other measures) this cannot be tested.

    References
    ----------
    Teuber (1955), Physiological psychology, Annual Review of Psychology 6:267-296. Shallice (1988), From
    Neuropsychology to Mental Structure, chapter 10. Nieuwenhuis, Forstmann & Wagenmakers (2011), Nature Neuroscience
    14(9):1105-1107. Crawford & Garthwaite (2005), Neuropsychology 19(3):318-331, for dissociations of single cases.
    """
    import pandas as pd

    networks, tasks = study.networks, list(study.base)
    if len(networks) < 2 or len(tasks) < 2:
        raise InputError(
            f"A dissociation needs two networks and two tasks; this study has {len(networks)} and {len(tasks)}."
        )
    check_control(study, control)
    rows = []
    for A, B in itertools.combinations(networks, 2):
        for fractions in _sizes(study, A, B, fraction):
            for name in chosen_operations(study, operation):
                lesions = [Lesion(*one, name) for one in zip((A, B), fractions, strict=True)]
                for pair in itertools.combinations(tasks, 2):
                    rows.append(_row(study, lesions, pair, control))
    columns = [*_PAIR, *(f"drop_{cell}" for cell in _CELLS)]
    columns += [f"excess_{cell}{end}" for cell in _CELLS for end in ("", "_low", "_high")]
    columns += [f"{effect}{end}" for effect in _EFFECTS for end in ("", "_low", "_high")]
    columns += [f"p_{effect}" for effect in _EFFECTS]
    return pd.DataFrame(rows, columns=[*columns, "detectable", "verdict", "sentence"])


def selective_for(
    study: LesionStudy, network: str, task: str, other: str, *, control: Control = "activation"
) -> pd.DataFrame:
    """Does a network cost one task more than another, beyond what random units do?

    Parameters
    ----------
    study
        The lesion study.
    network
        Name of the network; its largest size is taken.
    task, other
        Names of the two tasks.
    control
        The kind of random control.

    Returns
    -------
    DataFrame
        One row per operation: operation, control; selectivity: drop on `task` minus drop on `other`, each relative to
        the score above chance (in the measure, where tasks have no chance level and share one), with low and high, the
        95% interval over items; p: two-sided, beside one more draw of the network's controls; verdict: ``"selective"``
        (p at most 0.05, more on `task`, and more there than one more draw), ``"not selective"`` or ``"cannot be
        tested"``; sentence.

    Raises
    ------
    InputError
        For a network, task or control that was not run.

    References
    ----------
    Nieuwenhuis, Forstmann & Wagenmakers (2011), Nature Neuroscience 14(9):1105-1107: an effect on one task and none on
    another is no difference between tasks. Crawford & Garthwaite (2005), Neuropsychology 19(3):318-331.
    """
    import pandas as pd

    check_control(study, control)
    check_option("network", network, study.networks)
    for name in (task, other):
        check_option("task", name, list(study.base))
    size = study.fractions(network)[-1]
    rows = [_selective_row(study, Lesion(network, size, name), (task, other), control) for name in study.operations]
    columns = ["operation", "control", "selectivity", "low", "high", "p", "verdict", "sentence"]
    return pd.DataFrame(rows, columns=columns)


def costs_more(
    study: LesionStudy, network: str, other: str, task: str, *, control: Control = "activation"
) -> pd.DataFrame:
    """Does a network cost a task more than another network does, beyond what random units do?

    Parameters
    ----------
    study
        The lesion study.
    network, other
        Names of the two networks; the largest size of each is taken.
    task
        Name of the task.
    control
        The kind of random control.

    Returns
    -------
    DataFrame
        One row per operation: operation, control; difference: drop under `network` minus drop under `other`, in the
        task's measure, with low and high, the 95% interval over items; p: two-sided, beside one more pair of random
        sets, a draw of each network's controls; verdict: ``"costs more"`` (p at most 0.05, `network` more, and more
        than one more draw of its controls), ``"does not cost more"`` or ``"cannot be tested"`` (too few draws, or an
        intact model at chance); sentence.

    Raises
    ------
    InputError
        For a network, task or control that was not run.
    """
    import pandas as pd

    check_control(study, control)
    for name in (network, other):
        check_option("network", name, study.networks)
    check_option("task", task, list(study.base))
    rows = []
    for name in study.operations:
        lesions = [Lesion(each, study.fractions(each)[-1], name) for each in (network, other)]
        rows.append(_costs_more_row(study, lesions, task, control))
    columns = ["operation", "control", "difference", "low", "high", "p", "verdict", "sentence"]
    return pd.DataFrame(rows, columns=columns)


def _costs_more_row(study: LesionStudy, lesions: Sequence[Lesion], task: str, control: Control) -> Row:
    row: Row = {"operation": lesions[0].operation, "control": control}
    row |= dict.fromkeys(("difference", "low", "high", "p"), math.nan)
    if not all(study._resamples.has(lesion, task) for lesion in lesions):
        return row | _untested(f"no scores of both networks on {task}")
    besides = [study._resamples.tasks[task].beside(lesion, control) for lesion in lesions]
    found = _Contrasts(study, lesions, (task, task), control).columns("difference_a")
    row |= {"difference": found["difference_a"], "p": found["p_difference_a"]}
    row |= {end: found[f"difference_a_{end}"] for end in ("low", "high")}
    if study._resamples.tasks[task].at_chance:
        return row | _untested(intact_at_chance([task]))
    if not all(each is not None and each.testable for each in besides):
        return row | _untested(f"fewer than {LEAST_DRAWS} draws of {control}-matched units")
    first = besides[0]
    more = row["p"] <= ALPHA and row["difference"] > 0 and first is not None and first.exceeds is True
    verdict = "costs more" if more else "does not cost more"
    text = (
        f"{lesions[0].network} under {lesions[0].operation} ablation costs {task} {row['difference']:.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}] more than {lesions[1].network} (p {p_in_words(row['p'])})"
    )
    return row | {"verdict": verdict, "sentence": f"{verdict}: {text}."}


def _selective_row(study: LesionStudy, lesion: Lesion, tasks: tuple[str, str], control: Control) -> Row:
    row: Row = {"operation": lesion.operation, "control": control}
    row |= dict.fromkeys(("selectivity", "low", "high", "p"), math.nan)
    resamples = study._resamples
    if not all(resamples.has(lesion, task) for task in tasks):
        return row | _untested(f"no scores of {lesion.network} on both tasks")
    besides = [resamples.tasks[task].beside(lesion, control) for task in tasks]
    contrasts = _Contrasts(study, [lesion, lesion], tasks, control)
    found = contrasts.columns("selectivity_A")
    row |= {"selectivity": found["selectivity_A"], "p": found["p_selectivity_A"]}
    row |= {end: found[f"selectivity_A_{end}"] for end in ("low", "high")}
    if contrasts.at_chance:
        return row | _untested(intact_at_chance(contrasts.at_chance))
    if not all(each is not None and each.testable for each in besides):
        return row | _untested(f"fewer than {LEAST_DRAWS} draws of {control}-matched units on both tasks")
    if not math.isfinite(row["p"]):
        return row | _untested("the two tasks share no scale")
    first = besides[0]
    selective = row["p"] <= ALPHA and row["selectivity"] > 0 and first is not None and first.exceeds is True
    verdict = "selective" if selective else "not selective"
    text = (
        f"{lesion.network} under {lesion.operation} ablation costs {tasks[0]} {row['selectivity']:.2f} "
        f"[{row['low']:.2f}, {row['high']:.2f}] more of its score above chance than {tasks[1]} "
        f"(p {p_in_words(row['p'])})"
    )
    return row | {"verdict": verdict, "sentence": f"{verdict}: {text}."}


def check_control(study: LesionStudy, control: Control) -> None:
    """Refuse a kind of control that has no draws, or that no study has."""
    known = [kind for kind in study._resamples.kinds if kind != LEAST]
    check_option("control", control, known)


def chosen_operations(study: LesionStudy, operation: str | None) -> Sequence[str]:
    """The operations that are compared; an InputError for one that was not run."""
    if operation is not None and operation not in study.operations:
        raise InputError(f"This study ran {' and '.join(study.operations)} ablation, not {operation!r}.")
    return study.operations if operation is None else [operation]


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


def _row(study: LesionStudy, lesions: Sequence[Lesion], tasks: tuple[str, str], control: Control) -> Row:
    (A, B), (a, b) = lesions, tasks
    resamples = study._resamples
    row: Row = {"network_A": A.network, "network_B": B.network, "task_a": a, "task_b": b}
    row |= {"fraction_A": A.fraction, "fraction_B": B.fraction, "operation": A.operation, "control": control}
    row |= {f"drop_{cell}": math.nan for cell in _CELLS}
    beside: dict[str, NewDraw | None] = {}
    for cell, (lesion, task) in _cells(lesions, tasks).items():
        if resamples.has(lesion, task):
            row[f"drop_{cell}"] = resamples.tasks[task].drop(lesion)
            found = beside[cell] = resamples.tasks[task].beside(lesion, control)
            if found is not None:
                row |= {
                    f"excess_{cell}": found.excess,
                    f"excess_{cell}_low": found.low,
                    f"excess_{cell}_high": found.high,
                }
    missing = [
        f"{lesion.network} on {task}"
        for cell, (lesion, task) in _cells(lesions, tasks).items()
        if not math.isfinite(row[f"drop_{cell}"])
    ]
    if missing:
        return row | _untested(f"no finite scores of {', '.join(missing)}")
    contrasts = _Contrasts(study, lesions, tasks, control)
    for name in _EFFECTS:
        row |= contrasts.columns(name)
    if len(beside) < 4 or not all(each is not None and each.testable for each in beside.values()):
        return row | _untested(f"fewer than {LEAST_DRAWS} draws of {control}-matched units on both tasks")
    tested = contrasts.beside("interaction" if math.isfinite(row["interaction"]) else "interaction_raw")
    row["detectable"] = tested.detectable
    exceeds = {cell: each is not None and each.exceeds is True for cell, each in beside.items()}
    return row | _verdict(row, exceeds, contrasts.at_chance)


def _cells(lesions: Sequence[Lesion], tasks: Sequence[str]) -> dict[str, tuple[Lesion, str]]:
    return {
        X + x: (lesion, task)
        for X, lesion in zip("AB", lesions, strict=True)
        for x, task in zip("ab", tasks, strict=True)
    }


class _Contrasts:
    """The contrasts of two lesions and two tasks: measured, over resamples of items, and for pairs of random sets."""

    def __init__(self, study: LesionStudy, lesions: Sequence[Lesion], tasks: Sequence[str], control: Control) -> None:
        self.at_chance: list[str] = []
        self._chance: dict[str, float] = {}
        self._blocks = math.inf
        self._shares, self._drops = {}, {}
        for x, task in zip("ab", tasks, strict=True):
            resamples, chance = study._resamples.tasks[task], study.base[task].chance
            self._blocks = min(self._blocks, resamples.n_blocks)
            self._chance[x] = chance
            # The first row holds the measured means, the others their resamples.
            means = np.vstack([resamples.scores.mean(axis=0), resamples.means])
            ability = means[:, 0] - chance
            if resamples.at_chance:
                self.at_chance.append(task)
                ability = np.full_like(ability, np.nan)
            for X, lesion in zip("AB", lesions, strict=True):
                columns = [resamples.column(one) for one in (lesion, *resamples.controls(lesion, control))]
                drops = means[:, :1] - means[:, columns]
                self._drops[X + x] = drops
                with np.errstate(divide="ignore", invalid="ignore"):
                    self._shares[X + x] = drops / ability[:, None]
        measures = {study.base[task].measure for task in tasks}
        self._one_measure = len(measures) == 1
        self._resamples = {x: study._resamples.tasks[task] for x, task in zip("ab", tasks, strict=True)}
        self._lesions = dict(zip("AB", lesions, strict=True))
        self._accuracy = measures == {"accuracy"}

    @np.errstate(invalid="ignore")  # a resample in which the intact model is at chance has no share
    def _values(self, name: str) -> Float[np.ndarray, "row set"]:
        """``[measured and resamples, network and draws]``; a draw of A stands beside the draw of B of its number."""
        n = min(each.shape[1] for each in self._drops.values())
        drops = {cell: each[:, :n] for cell, each in self._drops.items()}
        shares = {cell: each[:, :n] for cell, each in self._shares.items()}
        scale = shares if np.isfinite(shares["Aa"][0, 0]) and np.isfinite(shares["Ab"][0, 0]) else drops
        undefined = np.full_like(drops["Aa"], np.nan)
        if name == "difference_a":
            return drops["Aa"] - drops["Ba"]
        if name == "difference_b":
            return drops["Bb"] - drops["Ab"]
        if name == "interaction":
            return shares["Aa"] - shares["Ba"] + shares["Bb"] - shares["Ab"]
        if name == "interaction_raw":
            whole = drops["Aa"] - drops["Ba"] + drops["Bb"] - drops["Ab"]
            return whole if self._one_measure else undefined
        own, other = ("Aa", "Ab") if name == "selectivity_A" else ("Bb", "Ba")
        return scale[own] - scale[other] if scale is shares or self._one_measure else undefined

    def columns(self, name: str) -> dict[str, float]:
        """The value of a contrast, its interval over items, and its p beside one more pair of random sets."""
        values = self._values(name)
        low, high = interval(values[1:, 0], expanded(LEVEL, int(self._blocks)))
        if self._accuracy and math.isfinite(low):
            # Where few items change, or none, resamples say too little: "no change" is not [0, 0].
            least, most = self._score_interval(name)
            low, high = min(low, least), max(high, most)
        return {
            name: float(values[0, 0]),
            f"{name}_low": low,
            f"{name}_high": high,
            f"p_{name}": self.beside(name).p_two_sided,
        }

    def _score_interval(self, name: str) -> tuple[float, float]:
        """The interval of a contrast of accuracies from the score intervals of its terms, each within one task.

        Of a sum of independent terms with intervals [l, u], it is the sum minus the root of the sum of (term - l)², and
        plus that of (u - term)² (Zou & Donner 2008, Statistics in Medicine 27(10):1693-1702).
        """
        shares = name in {"interaction", "selectivity_A", "selectivity_B"} and not self.at_chance
        scale = {x: 1 / (each.score(None) - self._chance[x]) if shares else 1.0 for x, each in self._resamples.items()}
        terms = []
        for sign, x, pair in _TERMS[name]:
            own, *other = (self._lesions[X] for X in pair)
            low, high = self._resamples[x].drop_interval(own, *other)
            value = self._resamples[x].drop(own) - sum(self._resamples[x].drop(one) for one in other)
            ends = sorted((sign * scale[x] * low, sign * scale[x] * high))
            terms.append((sign * scale[x] * value, *ends))
        total = sum(value for value, _, _ in terms)
        return (
            total - math.sqrt(sum((value - low) ** 2 for value, low, _ in terms)),
            total + math.sqrt(sum((high - value) ** 2 for value, _, high in terms)),
        )

    def beside(self, name: str) -> NewDraw:
        """A contrast beside one more pair of random sets."""
        value, *draws = self._values(name)[0]
        return beside_draws(float(value), np.array(draws))


def intact_at_chance(tasks: Sequence[str]) -> str:
    """Why a comparison cannot be tested: an ability that the intact model lacks can neither be lost nor spared."""
    return f"the intact model is at chance on {' and '.join(tasks)}"


def _untested(why: str) -> Row:
    return {"verdict": "cannot be tested", "sentence": f"cannot be tested: {why}."}


def _verdict(row: Row, exceeds: dict[str, bool], at_chance: Sequence[str]) -> Row:
    """The verdict where there are enough draws."""
    if at_chance:
        return _untested(intact_at_chance(at_chance))
    # The task that A would be the network of, and the one that B would be.
    for a, b in ("ab", "ba"):
        sign = 1 if a == "a" else -1
        apart = all(row[f"p_difference_{x}"] <= ALPHA and sign * row[f"difference_{x}"] > 0 for x in "ab")
        if apart and exceeds["A" + a] and exceeds["B" + b]:
            p = " and ".join(f"p {p_in_words(row[f'p_difference_{x}'])}" for x in "ab")
            text = (
                f"{row['network_A']} costs {row[f'task_{a}']} more than {row['network_B']} does, which costs "
                f"{row[f'task_{b}']} more ({p})"
            )
            return {"verdict": "double dissociation", "sentence": f"double dissociation: {text}."}
    which = "interaction" if math.isfinite(row["p_interaction"]) else "interaction_raw"
    p = row[f"p_{which}"]
    if not math.isfinite(p):
        return _untested("the two tasks share no scale, and there is no double dissociation")
    if p <= ALPHA:
        for X, own in _selective(row):
            if exceeds[X + own]:
                other = "b" if own == "a" else "a"
                text = (
                    f"lesioning {row[f'network_{X}']} costs {row[f'task_{own}']} more than {row[f'task_{other}']} "
                    f"(p {p_in_words(row[f'p_selectivity_{X}'])}; interaction {row[which]:.2f}, p {p_in_words(p)})"
                )
                return {"verdict": "single dissociation", "sentence": f"single dissociation: {text}."}
        text = f"interaction {row[which]:.2f} (p {p_in_words(p)}), but neither lesion costs its task more than controls"
        return {"verdict": "no dissociation", "sentence": f"no dissociation: {text}."}
    text = f"interaction {row[which]:.2f} (p {p_in_words(p)}); {row['detectable']:.2f} would have been found"
    return {"verdict": "no dissociation", "sentence": f"no dissociation: {text}."}


def _selective(row: Row) -> Iterator[tuple[str, str]]:
    """The networks that are selective, the more certain first, with the task that each is selective for."""
    found = [(row[f"p_selectivity_{X}"], X) for X in "AB" if row[f"p_selectivity_{X}"] <= ALPHA]
    for _, X in sorted(found):
        own, other = ("a", "b") if X == "A" else ("b", "a")
        yield X, own if row[f"selectivity_{X}"] > 0 else other
