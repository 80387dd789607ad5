"""Verdicts on lesion effects: does the effect of a network survive its controls?

A few residual dimensions carry massive activations (Sun et al. 2024). Zeroing one of them moves the residual stream far
outside its usual range and breaks a model regardless of what the unit codes. An effect is therefore attributed to a
network only if it exceeds that of one more set of random units of similar mean absolute activation, and if it is also
present where the values put in are ordinary ones (mean ablation, resampling).

There is one question per network, task and operation (zero, mean, resample, and the slope over graded lesions), and one
for all of them together. The sizes of a network are one question: its mean drop over sizes, beside that of each draw.

============================ ===========================================================================================
*no measurable effect*       The interval of the drop includes 0.
*cannot be tested*           What was not run, failed, or cannot decide: an intact model at chance on the task, which
                             has no ability to lose or to keep; a kind of control with fewer than 19 draws; zero
                             ablation or a slope without activation-matched controls, or with some whose mean absolute
                             activation is not between 0.5 and 2 times that of the network, at ordinary tokens or at
                             lesioned sinks.
*survives*                   The drop exceeds one more draw of every kind of matched control that was run (``exceeds_K``
                             of :mod:`.table`).
*does not survive*           It does not exceed one of them.
============================ ===========================================================================================

Over all operations: *survives* if it survives under each that could be tested, of which one is mean ablation or
resampling; *does not survive* if it does not under one of them, or has no measurable effect under one and some under
another. Each verdict of survival has a false-positive rate of at most 0.05, since all of its conditions must hold.

References
----------
Sun, Chen, Kolter & Liu (2024), Massive Activations in Large Language Models, arXiv:2402.17762. Berger (1982),
Technometrics 24(4):295-300, for tests that all must reject (intersection-union).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from modalnet.lesion.design import BEYOND
from modalnet.lesion.lesion import ALL_SIZES, LEAST, SLOPE, Lesion
from modalnet.stats.controls import MATCHED, average_ratio, match_sentence
from modalnet.stats.new_draw import LEAST_DRAWS, smallest_detectable
from modalnet.stats.permutation import p_in_words

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.lesion.result import LesionStudy

Verdict: TypeAlias = Literal["survives", "does not survive", "no measurable effect", "cannot be tested"]
ALL = "all"  # the question about all operations together
LONGEST = 40  # words of a sentence
COLUMNS = (
    *("network", "task", "question", "verdict", "size", "drop", "drop_low", "drop_high"),
    *("control", "effect", "low", "high", "p", "detectable", "sentence"),
)

_DONE = {"zero": "zeroed", "mean": "set to their mean", "resample": "resampled", SLOPE: "scaled down"}
_BREAKING = ("zero", SLOPE)  # operations that put in values which ordinary tokens may not have
_IN_RANGE = ("mean", "resample")
_UNIT = {"accuracy": "", "nats per token": " nats"}

Row: TypeAlias = dict[str, Any]


def verdicts(study: LesionStudy) -> pd.DataFrame:
    """Return one row per network, task and question.

    Returns
    -------
    DataFrame
        * network, task;
        * question: an operation (``"zero"``, ``"mean"``, ``"resample"``, ``"slope"``), or ``"all"`` of them;
        * verdict: ``"survives"``, ``"does not survive"``, ``"no measurable effect"`` or ``"cannot be tested"``;
        * size: the share of units that was lesioned; NaN for the mean over several sizes;
        * drop, drop_low, drop_high: the drop in the task's measure with its 95% interval over items;
        * control: the kind of matched control that the drop exceeds least, of those that the verdict rests on;
        * effect, low, high: the drop in excess of one more draw of it, with its 95% interval; p: see ``p_K`` of
          :mod:`.table`;
        * detectable: the smallest effect that would be found with a probability of 0.8: of the drop itself where it is
          not measurable, otherwise of the excess;
        * sentence: the verdict in at most 40 words (a name counts as one).

        For the question ``"all"``, the numbers are those of the operation that decides.
    """
    import pandas as pd

    rows: list[Row] = []
    for network in study.networks:
        for task in study.tasks:
            asked = [_asked(study, network, task, operation) for operation in _operations(study, network, task)]
            rows += asked
            rows.append(_together(network, task, asked))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _operations(study: LesionStudy, network: str, task: str) -> Iterator[str]:
    """The operations that are questions: those that were run or failed, and a slope where there are doses."""
    ran = {one.operation for one, name in [*study.cells, *study.failures] if (one.network, name) == (network, task)}
    yield from (one for one in ("zero", *_IN_RANGE) if one in ran)
    if any(one.startswith("scale ") for one in ran):
        yield SLOPE


def _asked(study: LesionStudy, network: str, task: str, operation: str) -> Row:
    """The verdict on one network, task and operation, over all sizes."""
    sizes = study.fractions(network)
    lesion = Lesion(network, ALL_SIZES if len(sizes) > 1 else sizes[0], operation)
    row: Row = dict.fromkeys(COLUMNS, math.nan) | {
        "network": network,
        "task": task,
        "question": operation,
        "control": "",
    }
    row["size"] = math.nan if len(sizes) > 1 else sizes[0]
    resamples = study._resamples
    if not resamples.has(lesion, task):
        failures = [study.failures.get((Lesion(network, size, operation), task), "") for size in sizes]
        why = next(
            (f"the lesion failed ({failure:.60})" for failure in failures if failure), "not all lesions were run"
        )
        return _cannot(row, why)
    found = resamples.row(lesion, task)
    row |= {name: found[name] for name in ("drop", "drop_low", "drop_high")}
    if not math.isfinite(found["drop_low"]):
        return _cannot(row, "the scores are not finite")
    matched = [kind for kind in resamples.kinds if kind != LEAST and found[f"n_{kind}"]]
    strictest = min(matched, key=lambda kind: _margin(found, kind), default=None)
    if strictest is not None:
        names = {
            "effect": "excess_{}",
            "low": "excess_{}_low",
            "high": "excess_{}_high",
            "p": "p_{}",
            "detectable": "detectable_{}",
        }
        row |= {name: found[column.format(strictest)] for name, column in names.items()} | {"control": strictest}
    if resamples.tasks[task].at_chance:
        base = study.base[task]
        return _cannot(row, f"the intact model is at chance ({_number(base.mean)}, chance {_number(base.chance)})")
    if found["drop_low"] <= 0:
        row["detectable"] = smallest_detectable(found["drop_low"], found["drop_high"])
        return _said(row, "no measurable effect", found)
    if why := _untestable(study, found, operation, matched):
        return _cannot(row, why)
    survives = all(found[f"exceeds_{kind}"] for kind in matched)
    return _said(row, "survives" if survives else "does not survive", found)


def _margin(found: Mapping[str, Any], kind: str) -> float:
    """How far the interval of the excess over a kind of control lies above 0, if no draws reach the network."""
    low = found[f"excess_{kind}_low"]
    return -math.inf if found[f"exceeds_{kind}"] is False and low > 0 else low if math.isfinite(low) else -math.inf


def _untestable(study: LesionStudy, found: Mapping[str, Any], operation: str, matched: Sequence[str]) -> str:
    """Why the data cannot decide; empty where they can."""
    if not matched:
        return "no random units were lesioned"
    few = {kind: int(found[f"n_{kind}"]) for kind in matched if found[f"n_{kind}"] < LEAST_DRAWS}
    if few:
        kind, n = next(iter(few.items()))
        return f"{n} draw{'s' * (n > 1)} of {kind}-matched units, where {LEAST_DRAWS} are the fewest that can tell"
    if any(found[f"exceeds_{kind}"] is None for kind in matched):
        return "scores of the controls are not finite"
    if operation in _BREAKING:
        if "activation" not in matched:
            return "activation-matched units were not lesioned, and large activations alone may explain the drop"
        return _unmatched(study, found["network"], found["task"])
    return ""


def _unmatched(study: LesionStudy, network: str, task: str) -> str:
    """At which size the activation-matched units do not match where the lesion acts; empty where all do."""
    for size in study.fractions(network):
        lesion = Lesion(network, size, "zero")
        draws = study.controls(lesion, task, "activation")
        for sinks, where in ((False, ""), (True, " at sink tokens")):
            ratio, _, _ = average_ratio(study.match_ratios(lesion, draws, task, sinks=sinks))
            if ratio < MATCHED[0] or ratio > MATCHED[1]:
                return (
                    f"no other units are as active{where}; those matched have {ratio:.2g} times its mean |activation|"
                )
    return ""


def _together(network: str, task: str, asked: Sequence[Row]) -> Row:
    """The verdict over all operations, with the numbers of the one that decides."""
    by: dict[str, list[Row]] = {}
    for row in asked:
        by.setdefault(row["verdict"], []).append(row)
    tested = [row for row in asked if row["verdict"] != "cannot be tested"]
    effects = by.get("survives", []) + by.get("does not survive", [])
    if by.get("does not survive"):
        deciding, verdict = by["does not survive"][-1], "does not survive"
    elif by.get("no measurable effect") and effects:
        deciding, verdict = by["no measurable effect"][0], "does not survive"
    elif tested and not effects:
        deciding, verdict = by["no measurable effect"][-1], "no measurable effect"
    elif effects and any(row["question"] in _IN_RANGE for row in tested):
        deciding, verdict = effects[-1], "survives"
    else:
        deciding, verdict = (asked[-1] if asked else dict.fromkeys(COLUMNS, math.nan)), "cannot be tested"
    row = deciding | {"network": network, "task": task, "question": ALL, "verdict": verdict}
    parts = [f"{_under(each)} {name}" for name, each in by.items()]
    why = (
        ""
        if verdict != "cannot be tested" or by.get("cannot be tested")
        else "; mean ablation or resampling was not run"
    )
    row["sentence"] = f"{network} on {task}: {verdict} ({'; '.join(parts) or 'no lesion was run'}{why})."
    return row


def _under(rows: Sequence[Row]) -> str:
    return " and ".join(_DONE[row["question"]] for row in rows) + ":"


def _cannot(row: Row, why: str) -> Row:
    what = f"{row['network']} on {row['task']}, {_DONE[row['question']]}"
    return row | {"verdict": "cannot be tested", "sentence": f"{what}: cannot be tested: {why}."}


def _said(row: Row, verdict: Verdict, found: Mapping[str, Any]) -> Row:
    """The verdict with its sentence."""
    unit = _UNIT.get(found["measure"], f" {found['measure']}")
    drop = f"{_number(row['drop'])} [{_number(row['drop_low'])}, {_number(row['drop_high'])}]{unit}"
    if row["question"] == SLOPE:
        drop += " per dose"
    text = f"{row['network']} on {row['task']}, {_DONE[row['question']]}: {verdict}: drop {drop}"
    if verdict == "no measurable effect":
        text += f"; a drop of {_number(row['detectable'])} would have been found"
    else:
        interval = f"[{_number(row['low'])}, {_number(row['high'])}]"
        text += f", in excess of {row['control']}-matched units {_number(row['effect'])} {interval}"
        if verdict == "does not survive":
            text += f"; an excess of {_number(row['detectable'])} would have been found"
        if found["inserted_max"] > BEYOND:
            text += f"; puts in values {found['inserted_max']:.1f} SD from ordinary ones"
    return row | {"verdict": verdict, "sentence": f"{text}."}


# -- the report --------------------------------------------------------------------------------------------------------


def summary(study: LesionStudy) -> str:
    """Return an abridged table, the verdicts and the failures as text."""
    table = study._resamples.table
    kinds = [kind for kind in study._resamples.kinds if len(table) and table[f"n_{kind}"].any()]
    short = table[["network", "task"]].assign(
        size=[f"{one:.3%}" for one in table["fraction"]],
        units=[_units(row) for row in table.to_dict("records")],
        operation=table["operation"],
        base=[_number(one) for one in table["base"]],
        score=[_number(one) for one in table["score"]],
        drop=[_with_interval(row, "drop") for row in table.to_dict("records")],
        **{f"{kind} drop": [_with_interval(row, f"drop_{kind}") for row in table.to_dict("records")] for kind in kinds},
        **{
            f"excess over {kind}": [
                f"{_with_interval(row, f'excess_{kind}')} p {p_in_words(row[f'p_{kind}'])}"
                for row in table.to_dict("records")
            ]
            for kind in kinds
            if kind != LEAST
        },
    )
    first = f"first {study.spare_first} tokens" if study.spare_first > 1 else "first token"
    spared = f" The {first} of every text was spared." if study.spare_first else ""
    if study.settings.get("spare_sinks"):
        spared += " Sink tokens were spared."
    lines = [
        f"Lesions of {study.model}",
        short.to_string(index=False) if len(short) else "(no lesion was run)",
        "units: number, and how many distinct dimensions they are. excess: over one more draw of random units, with "
        f"its 95% interval.{spared}",
        *_matches(study),
        *_left(study),
        "",
        *verdicts(study)["sentence"],
    ]
    if study.failures:
        lines += ["", f"{len(study.failures)} cells failed:"]
        for (one, task), message in study.failures.items():
            control = f", {one.control} control {one.draw}" if one.control else ""
            lines.append(f"  {one.network} {one.fraction:.3%} {one.operation}{control} on {task}: {message}")
    return "\n".join(lines)


def _matches(study: LesionStudy) -> Iterator[str]:
    """How well the random controls of each network and size match it in activation at the tokens of the tasks."""
    for network in study.networks:
        for fraction in study.fractions(network):
            lesions = [one for one in study.lesions if (one.network, one.fraction) == (network, fraction)]
            for kind in dict.fromkeys(one.control for one in lesions if one.is_random):
                # The sets are the same under every operation.
                draws = {one.draw: one for one in lesions if one.control == kind}
                own = next((one for one in lesions if not one.control), None)
                if own is None:
                    continue
                # Over tasks, which mostly have about the same.
                ratios = [study.match_ratios(own, list(draws.values()), task) for task in study.base]
                sentence = match_sentence(np.mean(ratios, axis=0), kind) if ratios else ""
                if sentence:
                    yield f"{network} {fraction:.3%}, {sentence}"


def _left(study: LesionStudy) -> Iterator[str]:
    """What is left of each measurable drop without one dimension."""
    for row in study.dimensions().to_dict("records"):
        if math.isfinite(row["share"]):
            yield (
                f"{row['network']} {row['fraction']:.3%} on {row['task']}, {row['operation']}: "
                f"drop {_number(row['drop'])}; without {row['dimension']} {_with_interval(row, 'drop_without')}"
            )


def _units(row: Mapping[Any, Any]) -> str:
    count = f"{int(row['units']):,}" if math.isfinite(row["units"]) else "unknown"
    return f"{count} ({int(row['dimensions'])})" if math.isfinite(row["dimensions"]) else count


def _with_interval(row: Mapping[Any, Any], name: str) -> str:
    if not math.isfinite(row[f"{name}_low"]):
        return _number(row[name]) if math.isfinite(row[name]) else "not tested"
    return f"{_number(row[name])} [{_number(row[f'{name}_low'])}, {_number(row[f'{name}_high'])}]"


def _number(value: float) -> str:
    return f"{value + 0.0:.3f}".replace("-0.000", "0.000")
