"""Verdicts on lesion effects: one sentence per network and task on whether the effect survives its controls.

A few residual dimensions carry massive activations (Sun et al. 2024). Zeroing one of them moves the residual stream far
outside its usual range and breaks a model regardless of what the unit codes. An effect is therefore attributed to a
network only if it exceeds that of random units of similar mean absolute activation, and if it is also present under
mean ablation, which keeps the stream within its usual range.

An effect *survives* at a size if, under zero ablation and under mean ablation, there is a drop (its interval lies above
0) that exceeds every kind of matched random control that was run (``exceeds_layer``, ``exceeds_activation`` of
:mod:`.table`), and these include activation-matched ones under zero and at least one kind under mean ablation.

References
----------
Sun, Chen, Kolter & Liu (2024), Massive Activations in Large Language Models, arXiv:2402.17762.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from modalnet.lesion.table import ALPHA, KINDS
from modalnet.stats.controls import MATCHED, match_sentence
from modalnet.stats.permutation import p_in_words

if TYPE_CHECKING:
    from modalnet.lesion.result import LesionStudy

MASSIVE = 10.0  # times the mean |activation|; from here on the sentence names massive activations
NEARLY = 0.2  # an excess not different from 0 and below this fraction of the drop: the controls cost as much

_CONTROLS = {
    "layer": "layer-matched random units",
    "activation": "activation-matched random units",
    "least": "the least selective units",
}
_MATCHED = ("layer", "activation")
_OPERATIONS = {"zero": "zero ablation", "mean": "mean ablation"}

Row = dict[Any, Any]


def verdicts(study: LesionStudy) -> list[str]:
    """Return one sentence per network and task.

    For a study of several sizes the sentence describes the smallest size at which the effect survives or, if it
    survives at none, the size with the largest drop, and states the number of sizes.

    Returns
    -------
    list of str
        In the order of the table. Each gives the number of lesioned units and their mean absolute activation, the
        cost of zero and mean ablation beside that of layer-matched, activation-matched and least selective controls,
        and whether the effect survives. What was not run is reported as not tested.
    """
    rows: list[Row] = study._resamples.table.to_dict("records")
    found = dict.fromkeys((row["network"], row["task"]) for row in rows)
    return [_sentence([row for row in rows if (row["network"], row["task"]) == pair]) for pair in found]


def summary(study: LesionStudy) -> str:
    """Return an abridged table, the verdicts and the failures as text."""
    table = study._resamples.table
    short = table[["network", "task"]].assign(
        size=[f"{one:.3%}" for one in table["fraction"]],
        units=[_whole(one) for one in table["units"]],
        magnitude=[_times(one) for one in table["magnitude"]],
        operation=table["operation"],
        base=[_number(one) for one in table["base"]],
        score=[_number(one) for one in table["score"]],
        drop=[_with_interval(row, "drop") for row in table.to_dict("records")],
        **{
            f"{kind} drop": [
                f"{_number(drop)} (q {p_in_words(q)})" if n else "not tested"
                for n, drop, q in zip(table[f"n_{kind}"], table[f"drop_{kind}"], table[f"q_items_{kind}"], strict=True)
            ]
            for kind in KINDS
        },
    )
    draws = sorted({int(n) for kind in _MATCHED for n in table[f"n_{kind}"] if n})
    floor = f" With {draws[0]} random draws the smallest possible rank p is {1 / (draws[0] + 1):.3f}." if draws else ""
    first = f"first {study.spare_first} tokens" if study.spare_first > 1 else "first token"
    spared = f" The {first} of every text was spared." if study.spare_first else ""
    lines = [
        f"Lesions of {study.model}",
        short.to_string(index=False) if len(short) else "(no lesion was run)",
        "magnitude: mean |activation| of the units over that of all units. "
        f"q: adjusted p of the network's excess over a control, over items.{floor}{spared}",
        *_matches(study),
        "",
        *verdicts(study),
    ]
    if study.failures:
        lines += ["", f"{len(study.failures)} cells failed:"]
        for (one, task), message in study.failures.items():
            control = f", {one.control} control {one.draw}" if one.control else ""
            lines.append(f"  {one.network} {one.fraction:.3%} {one.operation}{control} on {task}: {message}")
    return "\n".join(lines)


def _matches(study: LesionStudy) -> Iterator[str]:
    """How well the random controls of each network and size match it in activation."""
    for network in study.networks:
        for fraction in study.fractions(network):
            lesions = [one for one in study.lesions if (one.network, one.fraction) == (network, fraction)]
            for kind in _MATCHED:
                # The sets are the same under every operation.
                draws = {one.draw: one for one in lesions if one.control == kind}
                own = next((one for one in lesions if not one.control), None)
                sentence = match_sentence(study.match_ratios(own, list(draws.values())), kind) if own else ""
                if sentence:
                    yield f"{network} {fraction:.3%}, {sentence}"


def _sentence(rows: list[Row]) -> str:
    sizes = list(dict.fromkeys(row["fraction"] for row in rows))
    by_size = {size: {row["operation"]: row for row in rows if row["fraction"] == size} for size in sizes}
    outcomes = {size: _outcome(by_size[size]) for size in sizes}
    surviving = [size for size in sizes if outcomes[size][0] == "survives"]
    shown = surviving[0] if surviving else max(sizes, key=lambda size: _largest_drop(by_size[size]))
    operations = by_size[shown]
    any_row = next(iter(operations.values()))
    parts = [f"{any_row['network']} on {any_row['task']}: {_units(any_row)}"]
    others = [name for name in operations if name not in _OPERATIONS]
    parts += [_effect(name, operations.get(name)) for name in [*_OPERATIONS, *others]]
    status, reason = outcomes[shown]
    end = {
        "survives": "the effect survives",
        "fails": "the effect does not survive",
        "none": "there is no measurable effect",
    }.get(status, "whether the effect survives was not tested")
    parts.append(f"{end}: {reason}")
    if len(sizes) > 1:
        if surviving:
            parts.append(
                f"it survives at {len(surviving)} of {len(sizes)} sizes ({', '.join(map(_percent, surviving))})"
            )
        else:
            parts.append(f"this is the size with the largest drop of {len(sizes)}, and the effect survives at none")
    return "; ".join(parts) + "."


def _units(row: Row) -> str:
    """The number of units and their mean absolute activation."""
    units = _whole(row["units"])
    start = f"{units} unit{'' if units == '1' else 's'} ({_percent(row['fraction'])})"
    if not math.isfinite(row["magnitude"]):
        return f"{start} of unknown mean |activation|"
    massive = ", massive activations whose zeroing breaks a model regardless of what they code"
    return f"{start} with {_times(row['magnitude'])} the mean |activation|" + massive * (row["magnitude"] >= MASSIVE)


def _effect(operation: str, row: Row | None) -> str:
    """The cost of an operation on the network and on its controls."""
    name = _OPERATIONS.get(operation, f"{operation} ablation")
    if row is None:
        return f"{name} was not tested"
    if row["failure"]:
        return f"{name} failed ({row['failure']})"
    if not math.isfinite(row["drop_low"]):
        return f"under {name} the scores are not finite"
    measure = "log-probability in nats per token" if row["measure"] == "nats per token" else row["measure"]
    costs = []
    for kind in KINDS:
        if not row[f"n_{kind}"]:
            costs.append(f"{_CONTROLS[kind]} were not tested")
            continue
        times = row[f"magnitude_{kind}"]
        told = kind == "activation" and operation == "zero" and math.isfinite(times)
        driven = f" (with {_times(times)} the mean |activation|)" if told else ""
        costs.append(
            f"{_CONTROLS[kind]}{driven} cost {_number(row[f'drop_{kind}'])} (q {p_in_words(row[f'q_items_{kind}'])})"
        )
    return (
        f"{name} takes {measure} from {_number(row['base'])} to {_number(row['score'])}, "
        f"a drop of {_with_interval(row, 'drop')}, where {', '.join(costs[:-1])} and {costs[-1]}"
    )


def _outcome(operations: dict[str, Row]) -> tuple[str, str]:
    """Whether the effect survives at one size, and why."""
    missing, against, empty = [], [], []
    for operation, name in _OPERATIONS.items():
        row = operations.get(operation)
        if row is None or not math.isfinite(row["drop_low"]):
            missing.append(f"{name} gave no scores" if row else f"{name} was not run")
            continue
        tested = [kind for kind in _MATCHED if isinstance(row[f"exceeds_{kind}"], bool)]
        if operation == "zero" and "activation" not in tested:
            missing.append("activation-matched random units were not zeroed")
        elif not tested:
            missing.append(f"no matched random units were lesioned under {name}")
        if row["drop_low"] <= 0:
            empty.append(f"under {name} there is no measurable drop")
            continue
        # The stricter control comes first: if it explains the effect, the other adds nothing.
        failing = [kind for kind in reversed(tested) if not row[f"exceeds_{kind}"]]
        where = "" if operation == "zero" else f"under {name} "
        against += [where + _reason(row, kind) for kind in failing[:1]]
    if len(empty) == len(_OPERATIONS):
        return "none", "neither operation causes a measurable drop"
    if against or empty:
        return "fails", " and ".join([*against, *empty])
    if missing:
        return "untested", " and ".join(missing)
    zero = operations["zero"]
    reason = "it exceeds its matched random controls under zero and under mean ablation"
    if zero["match_activation"] < MATCHED[0]:
        times = _times(zero["magnitude_activation"])
        reason += f", but no random units have as large activations (the activation-matched have {times} the mean)"
    return "survives", reason


def _reason(row: Row, kind: str) -> str:
    """Why a drop does not exceed that of a control."""
    control = _CONTROLS[kind]
    if row[f"excess_{kind}_low"] <= 0:
        if row[f"excess_{kind}"] < NEARLY * row["drop"]:
            return f"{control} cost as much"
        return f"the excess over {control} does not differ from 0 ({_with_interval(row, f'excess_{kind}')})"
    if not row[f"q_items_{kind}"] < ALPHA:
        return f"the excess over {control} is not significant (q {p_in_words(row[f'q_items_{kind}'])})"
    as_much = round(row[f"p_draws_{kind}"] * (row[f"n_{kind}"] + 1)) - 1
    return f"{as_much} of {row[f'n_{kind}']} draws of {control} cost as much"


def _largest_drop(operations: dict[str, Row]) -> float:
    """Under zero ablation, or whatever else was run."""
    first = operations.get("zero") or next(iter(operations.values()))
    return first["drop"] if math.isfinite(first["drop"]) else -math.inf


def _with_interval(row: Row, name: str) -> str:
    if not math.isfinite(row[f"{name}_low"]):
        return _number(row[name])
    return f"{_number(row[name])} [{_number(row[f'{name}_low'])}, {_number(row[f'{name}_high'])}]"


def _number(value: float) -> str:
    return f"{value + 0.0:.3f}".replace("-0.000", "0.000")


def _whole(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) else "unknown"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def _times(magnitude: float) -> str:
    return (
        "unknown"
        if math.isnan(magnitude)
        else f"{magnitude:.0f} times"
        if magnitude >= 10
        else f"{magnitude:.1f} times"
    )
