"""Tables of published accuracies, as reported lesions.

The tables were compiled from the result files that two publications released: one CSV of accuracies by lesion and
random draw for five vision-language models, and two of accuracies by BLiMP paradigm and of shared units for seven
language models.

References
----------
The accuracies of vision-language models belong to arXiv:2508.08276, those on BLiMP to arXiv:2512.03676.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from modalnet.errors import InputError
from modalnet.lesion.verdicts import Verdict
from modalnet.replication.reported import ReportedLesion, reported_verdict
from modalnet.stats.new_draw import ALPHA
from modalnet.stats.permutation import p_in_words, sign_flip
from modalnet.stats.skewed_means import skewed_interval

if TYPE_CHECKING:
    import pandas as pd

VLM = "tom2026_vlm_accuracies.csv"
BLIMP = "syntax2026_blimp_ablation.csv"
SHARED = "syntax2026_cross_validation.csv"
PAIRS = 500  # held-out pairs of each paradigm
DRAWS = 4  # whose mean is reported on BLiMP
_FLIPS = 9_999


def read_reported(folder: str | os.PathLike[str], table: str | None = None) -> list[ReportedLesion]:
    """Read the reported lesions of a folder with the tables.

    Parameters
    ----------
    folder
        With ``tom2026_vlm_accuracies.csv`` (columns folder, model, file, kind, fraction, draw, n_items, accuracy,
        share_of_answers_that_are_no_letter) or ``syntax2026_blimp_ablation.csv`` (model, ablation, percent, phenomenon,
        intact, top_ablated, random_ablated_mean_of_4), or both.
    table
        The name of one of these files; None for all that are there.

    Returns
    -------
    list of ReportedLesion
        Of the vision-language models one per model, task, localizer, end of the ranking and size; the random draws
        have the size of 1% alone. On BLiMP one per model, ablation and size, and one for the mean over sizes, with
        paradigms as replicates: each has units and random draws of its own.

    Raises
    ------
    InputError
        If the folder has neither table, or a column is missing.
    """
    found: list[ReportedLesion] = []
    for name, columns, read in ((VLM, _VLM_COLUMNS, _vision_language), (BLIMP, _BLIMP_COLUMNS, _blimp)):
        path = Path(folder) / name
        if path.is_file() and table in (None, name):
            found += read(_table(path, columns))
    if not found:
        raise InputError(f"`folder` must have {table or f'{VLM} or {BLIMP}'}, got {os.fspath(folder)!r}.")
    return found


def reported_rows(folder: str | os.PathLike[str], table: str) -> list[dict[str, Any]]:
    """What authors report in one of these tables, with a verdict on each lesion, as rows to be shown.

    Returns
    -------
    list of dict
        lesion, intact, lesioned, random (mean accuracies), draws, verdict, sentence.

    Raises
    ------
    InputError
        As :func:`read_reported`.
    """
    rows = []
    for lesion in read_reported(folder, table):
        judged = reported_verdict(lesion)
        random = float(lesion.draws.mean()) if lesion.draws.size else float("nan")
        rows.append(
            {
                "lesion": lesion.name,
                "intact": float(lesion.intact.mean()),
                "lesioned": float(lesion.lesioned.mean()),
                "random": None if np.isnan(random) else random,
                "draws": lesion.n_draws,
                "verdict": judged.verdict,
                "sentence": judged.sentence,
            }
        )
    return rows


@dataclass(frozen=True)
class SharedUnits:
    """Whether the units selected on separate folds of the items are the same, beyond a control.

    Attributes
    ----------
    name
        Model, size and number of folds.
    n_paradigms
        Number of paradigms, the replicates.
    share, control
        Mean share of the selected units that all folds have in common, and with shuffled labels.
    excess, low, high
        Their mean difference, with its 95% interval over paradigms.
    p
        One-sided sign-flip test over paradigms.
    verdict
        ``"survives"`` or ``"does not survive"``.
    sentence
        The verdict in words.
    """

    name: str
    n_paradigms: int
    share: float
    control: float
    excess: float
    low: float
    high: float
    p: float
    verdict: Verdict
    sentence: str


def read_shared_units(folder: str | os.PathLike[str]) -> list[SharedUnits]:
    """Read the table of units shared over folds, and compare each entry with its label-shuffled control.

    Parameters
    ----------
    folder
        With ``syntax2026_cross_validation.csv`` (columns set, model, percent, folds, phenomenon, percent_of_k).

    Raises
    ------
    InputError
        If the folder has no such table, or a column is missing.
    """
    path = Path(folder) / SHARED
    if not path.is_file():
        raise InputError(f"`folder` must have {SHARED}, got {os.fspath(folder)!r}.")
    table = _table(path, ("set", "model", "percent", "folds", "phenomenon", "percent_of_k"))
    found = []
    for (model, percent, folds), rows in table.groupby(["model", "percent", "folds"], sort=False):
        wide = rows.pivot(index="phenomenon", columns="set", values="percent_of_k").dropna() / 100
        name = f"{model}, {percent:g}%, {folds} folds"
        found.append(shared_units(name, wide["blimp"].to_numpy(), wide["blimp-control"].to_numpy()))
    return found


def shared_units(
    name: str, shares: Float[np.ndarray, " paradigm"], control: Float[np.ndarray, " paradigm"]
) -> SharedUnits:
    """Compare the shares of units that folds have in common with those of a control, paradigm by paradigm."""
    differences = shares - control
    p = float(sign_flip(differences, _FLIPS, np.random.default_rng(0), alternative="greater"))
    low, high = skewed_interval(differences)
    excess = float(differences.mean())
    verdict: Verdict = "survives" if p <= ALPHA and low > 0 else "does not survive"
    sentence = (
        f"{name}: {verdict}: {shares.mean():.0%} of units are shared, {excess:.3f} [{low:.3f}, {high:.3f}] more than "
        f"with shuffled labels, over {len(shares)} paradigms, p {p_in_words(p)}."
    )
    means = float(shares.mean()), float(control.mean())
    return SharedUnits(name, len(shares), *means, excess, low, high, p, verdict, sentence)


# -- vision-language models --------------------------------------------------------------------------------------------

_LETTERS = "share_of_answers_that_are_no_letter"
_VLM_COLUMNS = ("folder", "model", "file", "kind", "fraction", "draw", "n_items", "accuracy", _LETTERS)
_LOCALIZERS = {"VLM_LESION_MD": "MD", "VLM_LESION_ToM": "ToM"}
_ENDS = {"top_predictions": "top", "bot_predictions": "bottom"}
_ABSENT = np.empty((1, 0))


def _vision_language(table: pd.DataFrame) -> Iterator[ReportedLesion]:
    table = table[table["folder"].isin(list(_LOCALIZERS))].copy()
    table["task"] = table["file"].str.partition("Benchmark")[0]
    for (model, task), rows in table.groupby(["model", "task"], sort=True):
        intact = rows[(rows["fraction"] == 0) & rows["kind"].isin(list(_ENDS))].iloc[0]
        random = rows[rows["kind"] == "random_predictions"]
        for row in rows[(rows["fraction"] > 0) & rows["kind"].isin(list(_ENDS))].to_dict("records"):
            draws = random[random["fraction"] == row["fraction"]].sort_values("draw")
            name = f"{_LOCALIZERS[row['folder']]} {_ENDS[row['kind']]} {row['fraction']:.2%} of {model} on {task}"
            yield ReportedLesion(
                name,
                np.array([intact["accuracy"]]),
                np.array([row["accuracy"]]),
                draws["accuracy"].to_numpy(dtype=np.float64)[None] if len(draws) else _ABSENT,
                n_items=int(row["n_items"]),
                invalid=float(row[_LETTERS]),
                invalid_intact=float(intact[_LETTERS]),
                invalid_draws=tuple(draws[_LETTERS].astype(float)),
            )


# -- BLiMP -------------------------------------------------------------------------------------------------------------

_BLIMP_COLUMNS = ("model", "ablation", "percent", "phenomenon", "intact", "top_ablated", "random_ablated_mean_of_4")


def _blimp(table: pd.DataFrame) -> Iterator[ReportedLesion]:
    values = list(_BLIMP_COLUMNS[-3:])
    for (model, ablation), rows in table.groupby(["model", "ablation"], sort=True):
        sizes = {f"{percent:g}%": part for percent, part in rows.groupby("percent")}
        if len(sizes) > 1:
            # Several sizes are one question.
            sizes["all sizes"] = rows
        for size, part in sizes.items():
            means = part.groupby("phenomenon")[values].mean()
            yield _over_paradigms(f"{size} of {model} on BLiMP, {ablation}", means.to_dict("list"))


def _over_paradigms(name: str, means: Mapping[Any, list[float]]) -> ReportedLesion:
    intact, top, random = (np.array(means[column]) for column in _BLIMP_COLUMNS[-3:])
    n = len(intact)
    return ReportedLesion(
        name,
        intact,
        top,
        random[:, None],
        mean_of=DRAWS,
        n_items=n * PAIRS,
        nested=True,
        n_paradigms=n,
        # Units are selected on each paradigm, and random ones drawn outside of these. That the seeds are the same
        # everywhere does not make the sets the same: they index what is left of the units.
        apart=True,
    )


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    table = pd.read_csv(path)
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}.")
    return table
