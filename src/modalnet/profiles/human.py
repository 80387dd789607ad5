"""Comparison of a response profile with the human language network in the four classic conditions.

The published finding that replicates across studies is an order of conditions, not a set of values: percent signal
change depends on the scanner, the task and the region. The comparison is therefore of five pairwise differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.results.result import Labelled, Result
from modalnet.stats.moments import fdr
from modalnet.stats.new_draw import ALPHA, LEAST_DRAWS
from modalnet.stats.permutation import p_in_words

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.profiles.result import Profile

SENTENCES, WORDS, JABBERWOCKY, NONWORDS = LANGUAGE = ("sentences", "word-lists", "jabberwocky", "nonwords")

FEDORENKO2010 = "Fedorenko et al. (2010), J Neurophysiol 104:1177-1194"
FEDORENKO2016 = "Fedorenko et al. (2016), PNAS 113:E6256-E6262"
SHAIN2024 = "Shain et al. (2024), J Cogn Neurosci 36(7):1427-1471"

#: (condition with the larger response, condition with the smaller response, source).
PATTERN: tuple[tuple[str, str, str], ...] = (
    (SENTENCES, NONWORDS, f"{FEDORENKO2010}; {FEDORENKO2016}; {SHAIN2024}"),
    (SENTENCES, WORDS, f"{FEDORENKO2010}; {FEDORENKO2016}; {SHAIN2024}"),
    (SENTENCES, JABBERWOCKY, f"{FEDORENKO2010}; {FEDORENKO2016}; {SHAIN2024}"),
    (WORDS, NONWORDS, f"{FEDORENKO2010}; {SHAIN2024}"),
    (JABBERWOCKY, NONWORDS, f"{FEDORENKO2010}; {SHAIN2024}"),
)


@dataclass(frozen=True, eq=False)
class HumanComparison(Result):
    """Five published differences between conditions in the human language network, tested in a profile.

    Attributes
    ----------
    rows
        Per difference: higher, lower, source, difference (in the unit of the profile), low, high (95% interval), shown
        (``"yes"`` if the interval lies above 0, ``"no"`` if below, else ``"unclear"``), controls (fraction of random
        draws with a difference above 0), q_new_draw (the probability that one more draw lies as far from the mean of
        the draws, adjusted over the five, Benjamini-Hochberg), holds (``"yes"`` if the network shows the difference and
        shows it more than one more random draw would; ``"no"`` if it shows the opposite; ``"cannot be tested"`` if it
        shows the difference and there are fewer than 19 draws; else ``"unclear"``). In files of modalnet 0.1 holds is
        what is now shown.
    n_controls, controls_alike
        Number of draws of random units, and of those with all five differences above 0.
    correlation
        Pearson correlation of the four condition means with the given values; NaN if none were given.
    """

    NAME = "a comparison with humans"
    FORMAT = "modalnet.human_comparison"
    SOURCES = ("fedorenko2010",)

    rows: tuple[dict[str, Any], ...]
    n_controls: int
    controls_alike: int
    correlation: float

    @property
    def n_holding(self) -> int:
        """Number of the five differences that hold."""
        return sum(row["holds"] == "yes" for row in self.rows)

    @property
    def n_shown(self) -> int:
        """Number of the five differences that the network shows, whatever random units do."""
        return sum(row.get("shown", row["holds"]) == "yes" for row in self.rows)

    def table(self) -> pd.DataFrame:
        """Return one row per difference; see :attr:`rows`."""
        import pandas as pd

        return pd.DataFrame(list(self.rows))

    def summary(self) -> str:
        """Return a summary as text: each difference with its interval, and the random controls."""
        known, n = "published differences of the human language network", len(self.rows)
        lines = [f"{self.n_shown} of {n} {known} are shown"]
        if self.n_controls >= LEAST_DRAWS:
            lines.append(f"{self.n_holding} of {n} hold: shown, and more than one more set of random units would")
        else:
            count = f"only {self.n_controls}" if self.n_controls else "no"
            lines.append(
                f"whether this is more than random units show cannot be tested: {LEAST_DRAWS} draws are needed, and "
                f"there are {count}"
            )
        for row in self.rows:
            interval = f"{row['difference']:+.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            drawn = ""
            if self.n_controls:
                drawn = (
                    f", {round(row['controls'] * self.n_controls)} of {self.n_controls} draws of random units above 0"
                )
            if math.isfinite(row.get("q_new_draw", math.nan)):
                drawn += f" (q {p_in_words(row['q_new_draw'])})"
            lines.append(f"  {row['higher']} > {row['lower']}: {row['holds']}, {interval}{drawn}  ({row['source']})")
        if self.n_controls:
            lines.append(f"  all five in {self.controls_alike} of {self.n_controls} draws of random units")
        if math.isfinite(self.correlation):
            lines.append(f"  correlation with the given values over four conditions: {self.correlation:.2f}")
        return "\n".join(lines)

    __str__ = summary

    def plot(self, **options: Any) -> Any:
        """Draw the five differences with their intervals."""
        from modalnet.plotting.intervals import human_intervals

        return human_intervals(self, **options)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        def column(name: str) -> tuple[tuple[str, ...], Any]:
            return ("contrast",), [row[name] for row in self.rows]

        there = [name for name in ("q_new_draw", "shown") if all(name in row for row in self.rows)]
        numbers = ["difference", "low", "high", "controls", *(name for name in there if name == "q_new_draw")]
        words = ["higher", "lower", "source", "holds", *(name for name in there if name == "shown")]
        return {name: column(name) for name in numbers}, {name: column(name) for name in words}

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        numbers = [name for name, value in (self.rows[0] if self.rows else {}).items() if not isinstance(value, str)]
        arrays = {name: np.array([row[name] for row in self.rows], dtype=np.float64) for name in numbers}
        arrays["correlation"] = np.array(self.correlation)
        rows = [{name: None if name in numbers else value for name, value in row.items()} for row in self.rows]
        about = {"n_controls": self.n_controls, "controls_alike": self.controls_alike, "numbers": numbers}
        return arrays, about | {"rows": rows}

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> HumanComparison:
        rows = tuple(
            row | {name: float(arrays[name][place]) for name in document["numbers"]}
            for place, row in enumerate(document["rows"])
        )
        return cls(rows, document["n_controls"], document["controls_alike"], float(arrays["correlation"]))


def compare_to_human(profile: Profile, values: Mapping[str, float] | None = None) -> HumanComparison:
    """Test the published pattern of the human language network in a profile.

    A difference *holds* where the network shows it (its interval lies above 0) and shows it more than random units do:
    it lies beyond what one more random draw could be, corrected over the five
    (:func:`modalnet.stats.new_draw.against_draws`). In a model all of whose units respond more to sentences, random
    units show the pattern as well.

    Parameters
    ----------
    profile
        A profile with the conditions ``sentences``, ``word-lists``, ``jabberwocky`` and ``nonwords``.
    values
        Mapping from conditions to brain responses to correlate with, such as percent signal change.

    Returns
    -------
    HumanComparison

    Raises
    ------
    InputError
        If the profile or ``values`` lacks one of the four conditions.

    Notes
    -----
    The published pattern: sentences evoke the largest response and nonwords the smallest, with word lists and
    Jabberwocky in between (Fedorenko et al. 2010; Shain et al. 2024; in single electrodes Fedorenko et al. 2016). The
    difference between word lists and Jabberwocky varies between regions and studies and is not tested. With four
    conditions, a correlation of condition means carries little information: any two increasing orders correlate.
    """
    missing = [name for name in LANGUAGE if name not in profile.conditions]
    if missing:
        raise InputError(
            f"`profile` must have the conditions {', '.join(LANGUAGE)}, but lacks {', '.join(missing)}. Rename its "
            "conditions, or use modalnet.profile.language(...)."
        )
    rows, above = [], np.ones(profile.n_controls, dtype=bool)
    contrasts = [profile.contrast(higher, lower) for higher, lower, _ in PATTERN]
    adjusted = fdr(np.array([contrast["p_new_draw"] for contrast in contrasts]))
    for (higher, lower, source), contrast, q in zip(PATTERN, contrasts, adjusted.tolist(), strict=True):
        shown = holds = "yes" if contrast["low"] > 0 else "no" if contrast["high"] < 0 else "unclear"
        if shown == "yes" and profile.n_controls < LEAST_DRAWS:
            holds = "cannot be tested"
        elif shown == "yes" and not (contrast["finding"] == "more" and q <= ALPHA):
            holds = "unclear"
        draws = profile.control_difference((higher,), (lower,))
        above &= draws > 0
        rows.append(
            {
                "higher": higher,
                "lower": lower,
                "difference": contrast["difference"],
                "low": contrast["low"],
                "high": contrast["high"],
                "shown": shown,
                "holds": holds,
                "controls": float((draws > 0).mean()) if len(draws) else math.nan,
                "q_new_draw": q,
                "source": source,
            }
        )
    correlation = math.nan
    if values is not None:
        lacking = [name for name in LANGUAGE if name not in values]
        if lacking:
            raise InputError(
                f"`values` must have a number for each of {', '.join(LANGUAGE)}, but lacks {', '.join(lacking)}."
            )
        theirs = np.array([float(values[name]) for name in LANGUAGE])
        ours = np.array([profile.mean(name) for name in LANGUAGE])
        if np.ptp(theirs) > 0 and np.ptp(ours) > 0:
            correlation = float(np.corrcoef(ours, theirs)[0, 1])
    return HumanComparison(tuple(rows), profile.n_controls, int(above.sum()) if len(above) else 0, correlation)
