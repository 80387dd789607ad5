"""Why a claim as published and the same claim under controls differ, in sentences with numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from modalnet.lesion.design import BEYOND
from modalnet.protocols.protocol import Protocol
from modalnet.stats.new_draw import LEAST_DRAWS

if TYPE_CHECKING:
    from modalnet.lesion.result import LesionStudy
    from modalnet.replication.published import PublishedScores

#: The share of a drop from which on something explains most of it.
MOST = 0.5
#: Shares of answers and differences of scores below this are not worth a sentence.
SMALL = 0.05
#: How many draws whose scores lie so far apart, in units of the drop, make their mean say little.
SPREAD = 0.5


def reasons_for(
    protocol: Protocol, scores: PublishedScores | None, study: LesionStudy | None, network: str, task: str
) -> list[str]:
    """Return what explains an effect as published, or what its comparison does not take into account.

    Parameters
    ----------
    protocol
        The protocol.
    scores
        The scores as published.
    study
        The lesion study under controls.
    network, task
        What was lesioned, and what was asked.
    """
    found = of_scores(scores)
    if study is not None:
        table = study.table()
        rows = table[(table["network"] == network) & (table["task"] == task)]
        by = {str(row["operation"]): row for row in rows.to_dict("records")}
        found += _of_matching(by.get("zero"))
        found += _of_values(by.get("zero"), by.get("mean"))
        if scores is not None:
            found += _of_sinks(protocol, scores, by.get("zero"))
        found += _of_dimensions(study, network, task)
    return found


def of_scores(scores: PublishedScores | None) -> list[str]:
    """What the scores as published do not take into account; nothing where there are none."""
    return [] if scores is None else list(_of_comparison(scores))


def _of_comparison(scores: PublishedScores) -> Iterator[str]:
    n = len(scores.draws)
    if n == 0:
        yield "The publication has no random units beside the network."
    elif n < LEAST_DRAWS:
        yield f"{n} random draw{'s' * (n > 1)} cannot show p <= 0.05; at least {LEAST_DRAWS} are needed."
    if n > 2:
        means = scores.draws.mean(axis=1)
        if float(means.max() - means.min()) > SPREAD * max(scores.drop, SMALL):
            yield (
                f"The random draws differ widely ({means.min():.3f} to {means.max():.3f}): their mean, and a t "
                "interval over them, say little about one more draw."
            )
    if len(scores.unparsed) > 1:
        intact, lesioned = float(scores.unparsed[0]), float(scores.unparsed[1])
        if intact > SMALL:
            yield f"{intact:.0%} of the intact model's answers cannot be parsed and count as wrong."
        if lesioned - intact > SMALL:
            yield (
                f"{lesioned:.0%} of the answers under the lesion cannot be parsed ({intact:.0%} intact) and count as "
                "wrong: part of the loss is one of format."
            )
    if scores.at_chance:
        yield f"The intact model is not above chance ({scores.intact.mean():.3f}, chance {scores.chance:.3f})."


def _of_matching(zero: dict[Any, Any] | None) -> Iterator[str]:
    """Whether random units of the same activation cost as much."""
    if zero is None or not zero["drop_low"] > 0:
        return
    matched, layer = zero.get("drop_activation", math.nan), zero.get("drop_layer", math.nan)
    if matched > MOST * zero["drop"]:
        yield (
            f"Zeroed, random units of the same layers and mean absolute activation cost {matched:.3f}, the network "
            f"{zero['drop']:.3f}; random units of the same layers alone {layer:.3f}."
        )
    ratio = zero.get("match_activation", math.nan)
    if math.isfinite(ratio) and not 0.5 <= ratio <= 2:
        yield f"No other units are as active: those matched in activation have {ratio:.2f} times the network's."


def _of_values(zero: dict[Any, Any] | None, mean: dict[Any, Any] | None) -> Iterator[str]:
    """Whether the effect is one of the values that are put in."""
    if zero is None or mean is None or not zero["drop_low"] > 0:
        return
    if mean["drop"] < MOST * zero["drop"]:
        text = f"Set to their mean over ordinary tokens the units cost {mean['drop']:.3f}, zeroed {zero['drop']:.3f}"
        far = zero["inserted_max"]
        yield text + (f": zero lies up to {far:.1f} SD from their ordinary values." if far > BEYOND else ".")


def _of_sinks(protocol: Protocol, scores: PublishedScores, zero: dict[Any, Any] | None) -> Iterator[str]:
    """Whether the effect is one of the tokens that are lesioned."""
    # Generated answers are another measure of the same items than likelihoods.
    alike = protocol.lesion.operation == "zero" and not len(scores.unparsed)
    comparable = alike and zero is not None and zero["measure"] == scores.measure
    if comparable and zero is not None and scores.drop - zero["drop"] > max(SMALL, MOST * zero["drop"]):
        yield (
            f"The published lesion also acts on sink tokens and costs {scores.drop:.3f}; with these spared the same "
            f"units cost {zero['drop']:.3f}."
        )


def _of_dimensions(study: LesionStudy, network: str, task: str) -> Iterator[str]:
    """Whether the effect is one of a single dimension."""
    rows = study.dimensions()
    if not len(rows):
        return
    rows = rows[(rows["network"] == network) & (rows["task"] == task) & (rows["operation"] == "zero")]
    for row in rows.to_dict("records"):
        if math.isfinite(row["share"]) and row["share"] > MOST:
            yield (
                f"Without {row['dimension']} alone the drop is {row['drop_without']:.3f} instead of {row['drop']:.3f}."
            )
