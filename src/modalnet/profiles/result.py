"""Results of response profiles: the response to each stimulus of a network and of random units.

A :class:`Profile` compares conditions by item if every item has one stimulus of each condition, and by stimulus
otherwise. Intervals are bootstrapped and p values come from permutations of the same units of analysis.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from modalnet.errors import InputError
from modalnet.profiles.human import LANGUAGE
from modalnet.results.result import Labelled, Result
from modalnet.stats import new_draw, permutation, resampling
from modalnet.stats.controls import match_sentence

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.profiles.human import HumanComparison

RESAMPLES, PERMUTATIONS = 2000, 9999
UNITS = {"z": "z", "minmax": "share of the range of condition means", "none": "activation"}

#: Planned contrasts of the four conditions: name → (positive, negative).
PLANNED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "lexical": (("sentences", "word-lists"), ("jabberwocky", "nonwords")),
    "syntactic": (("sentences", "jabberwocky"), ("word-lists", "nonwords")),
}


@dataclass(frozen=True, eq=False)
class Profile(Result):
    """Responses of a network to conditions, on held-out stimuli.

    Made by :data:`modalnet.profile`.

    Attributes
    ----------
    model, network
        Names, for display.
    conditions
        Names of the conditions, in display order.
    of_stimulus
        int64 [stimulus]: index of its condition.
    items
        [stimulus]: the item, which pairs stimuli across conditions (a sentence and its word list); None without items.
    responses
        float64 [stimulus]: mean response over the units of the network, in the unit of ``normalize``.
    controls
        float64 [draw, stimulus]: the same for random units.
    normalize
        ``"z"``, ``"minmax"`` or ``"none"``; see :class:`modalnet.profiles.Profiler`.
    notes
        Caveats: how stimuli were held out, and which were left out.
    settings
        The settings of the analysis, as a JSON document.
    match_ratios
        float64 [draw]: how well each draw of random units matches the network in activation (see
        :func:`modalnet.stats.controls.match_ratios`), averaged over the networks of the folds; empty in files of
        modalnet 0.1.

    Raises
    ------
    InputError
        If the shapes disagree.
    """

    NAME = "a profile"
    FORMAT = "modalnet.profile"
    SOURCES = ("kriegeskorte2009", "fedorenko2010")

    model: str
    network: str
    conditions: tuple[str, ...]
    of_stimulus: Int[np.ndarray, " stimulus"]
    items: tuple[str, ...] | None
    responses: Float[np.ndarray, " stimulus"]
    controls: Float[np.ndarray, "draw stimulus"]
    normalize: str
    notes: tuple[str, ...]
    settings: dict[str, Any]
    match_ratios: Float[np.ndarray, " matched"] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        n = len(self.responses)
        if len(self.of_stimulus) != n or self.controls.shape[1:] != (n,) or (self.items and len(self.items) != n):
            raise InputError(
                "`of_stimulus`, `responses` and `controls` must have one entry per stimulus, got "
                f"{len(self.of_stimulus)}, {n} and {self.controls.shape}."
            )
        object.__setattr__(self, "settings", json.loads(json.dumps(self.settings)))

    # -- numbers -------------------------------------------------------------------------------------------------

    @property
    def n_controls(self) -> int:
        """Number of draws of random units."""
        return len(self.controls)

    def values(self, condition: str) -> Float[np.ndarray, " stimulus"]:
        """Return the responses of the network to a condition [stimulus]; raise an InputError if it is unknown."""
        return self.responses[self._members(condition)]

    def mean(self, condition: str) -> float:
        """Return the mean response of the network to a condition."""
        return float(self.values(condition).mean())

    def _members(self, condition: str) -> np.ndarray:
        if condition not in self.conditions:
            raise InputError(f"There is no condition {condition!r}; there are {', '.join(self.conditions)}.")
        return np.flatnonzero(self.of_stimulus == self.conditions.index(condition))

    @cached_property
    def _paired(self) -> Float[np.ndarray, "item condition"] | None:
        """Responses by item, if each item has one stimulus of each condition."""
        if self.items is None:
            return None
        names = list(dict.fromkeys(self.items))
        place = {name: i for i, name in enumerate(names)}
        table = np.full((len(names), len(self.conditions)), np.nan)
        for item, condition, value in zip(self.items, self.of_stimulus, self.responses, strict=True):
            if not math.isnan(table[place[item], condition]):
                return None
            table[place[item], condition] = value
        return table if np.isfinite(table).all() else None

    @property
    def paired(self) -> bool:
        """Whether conditions are compared item by item."""
        return self._paired is not None

    @cached_property
    def _resampled(self) -> Float[np.ndarray, "resample condition"]:
        """Bootstrapped condition means: over items if conditions are paired, else over stimuli per condition."""
        rng = np.random.Generator(np.random.PCG64([int(self.settings.get("seed", 0)), 1]))
        if self._paired is not None:
            counts = resampling.bootstrap_counts(len(self._paired), RESAMPLES, rng)
            return counts @ self._paired / len(self._paired)
        means = np.empty((RESAMPLES, len(self.conditions)))
        for index, condition in enumerate(self.conditions):
            values = self.values(condition)
            means[:, index] = resampling.bootstrap_counts(len(values), RESAMPLES, rng) @ values / len(values)
        return means

    def _level(self, *sides: Sequence[str]) -> float:
        """Return the level of percentiles over items, or over the stimuli of the smallest condition."""
        if self._paired is not None:
            return resampling.expanded(resampling.LEVEL, len(self._paired))
        return resampling.expanded(resampling.LEVEL, min(len(self._members(name)) for names in sides for name in names))

    def control_means(self) -> Float[np.ndarray, "draw condition"]:
        """Return the condition means of each draw of random units [draw, condition]."""
        members = [self._members(condition) for condition in self.conditions]
        return np.stack([self.controls[:, some].mean(axis=1) for some in members], axis=1)

    def control_difference(self, positive: Sequence[str], negative: Sequence[str]) -> Float[np.ndarray, " draw"]:
        """Return the difference of condition means in each draw of random units [draw]."""
        return self.control_means() @ self._weights(positive, negative)

    def _weights(self, positive: Sequence[str], negative: Sequence[str]) -> np.ndarray:
        weights = np.zeros(len(self.conditions))
        for names, sign in ((positive, 1.0), (negative, -1.0)):
            for name in names:
                if name not in self.conditions:
                    raise InputError(f"There is no condition {name!r}; there are {', '.join(self.conditions)}.")
                weights[self.conditions.index(name)] += sign / len(names)
        both = set(positive) & set(negative)
        if both or not positive or not negative:
            raise InputError(
                f"`positive` and `negative` must be different conditions, got {positive!r} and {negative!r}."
            )
        return weights

    def contrast(self, positive: str | Sequence[str], negative: str | Sequence[str]) -> dict[str, Any]:
        """Compare the response to some conditions with that to others.

        Parameters
        ----------
        positive, negative
            One condition, or several whose means are averaged.

        Returns
        -------
        dict
            difference, low, high (95%, expanded percentiles of the bootstrap over items or stimuli); p (two-sided; sign
            flips of item differences if conditions are paired, else permutation of stimulus labels); control (mean
            difference of random units), control_low, control_high (lowest and highest draw), p_rank (one-sided rank p
            value among the draws), p_new_draw (the probability that one more draw lies as far from their mean) and
            finding (``"more"`` or ``"less"`` than random units, else empty; see
            :func:`modalnet.stats.new_draw.against_draws`).

        Raises
        ------
        InputError
            If a condition is unknown or on both sides.
        """
        sides = tuple((one,) if isinstance(one, str) else tuple(one) for one in (positive, negative))
        weights = self._weights(*sides)
        means = np.array([self.mean(condition) for condition in self.conditions])
        low, high = resampling.interval(self._resampled @ weights, self._level(*sides))
        seed = zlib.crc32(repr(sides).encode())
        rng = np.random.Generator(np.random.PCG64([int(self.settings.get("seed", 0)), 2, seed]))
        if self._paired is not None:
            p = float(permutation.sign_flip(self._paired @ weights, PERMUTATIONS, rng, alternative="two-sided"))
        else:
            a, b = (np.concatenate([self.values(name) for name in names]) for names in sides)
            p = permutation.label_permutation(a, b, PERMUTATIONS, rng, alternative="two-sided")
        draws = self.control_difference(*sides)
        difference = float(means @ weights)
        against = new_draw.against_draws(difference, draws)
        return {
            "difference": difference,
            "low": low,
            "high": high,
            "p": p,
            "control": float(draws.mean()) if len(draws) else math.nan,
            "control_low": float(draws.min()) if len(draws) else math.nan,
            "control_high": float(draws.max()) if len(draws) else math.nan,
            "p_rank": permutation.rank_p(difference, draws, alternative="greater"),
            "p_new_draw": against.p_new_draw,
            "finding": against.finding,
        }

    # -- tables --------------------------------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        """Return one row per condition.

        Returns
        -------
        DataFrame
            condition, n, mean, low, high (95%, expanded percentiles of the bootstrap over items or stimuli), sd over
            stimuli; control (mean over draws of random units), control_low, control_high (lowest and highest draw).
        """
        import pandas as pd

        draws = self.control_means()
        rows = []
        for index, condition in enumerate(self.conditions):
            values = self.values(condition)
            low, high = resampling.interval(self._resampled[:, index], self._level((condition,)))
            there = draws[:, index] if len(draws) else np.array([math.nan])
            rows.append(
                {
                    "condition": condition,
                    "n": len(values),
                    "mean": float(values.mean()),
                    "low": low,
                    "high": high,
                    "sd": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                    "control": float(there.mean()),
                    "control_low": float(there.min()),
                    "control_high": float(there.max()),
                }
            )
        return pd.DataFrame(rows)

    def contrasts(self) -> pd.DataFrame:
        """Return every pairwise contrast, and for the language conditions the lexical and syntactic contrasts.

        Returns
        -------
        DataFrame
            contrast, positive, negative, and the columns of :meth:`contrast`; q is p adjusted over the rows
            (Benjamini-Hochberg).
        """
        import pandas as pd

        from modalnet.stats.moments import fdr

        contrasts: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        if set(LANGUAGE) <= set(self.conditions):
            contrasts |= PLANNED
        for a, b in itertools.combinations(self.conditions, 2):
            contrasts[f"{a} > {b}"] = ((a,), (b,))
        rows = [
            {"contrast": name, "positive": ",".join(positive), "negative": ",".join(negative)}
            | self.contrast(positive, negative)
            for name, (positive, negative) in contrasts.items()
        ]
        table = pd.DataFrame(rows)
        table.insert(7, "q", fdr(table["p"].to_numpy(dtype=float)))
        return table

    def compare_to_human(self, values: Mapping[str, float] | None = None) -> HumanComparison:
        """Test the published pattern of the human language network: see :func:`.human.compare_to_human`."""
        from modalnet.profiles.human import compare_to_human

        return compare_to_human(self, values)

    def summary(self) -> str:
        """Return a summary as text: condition means, contrasts, random controls, notes."""
        lines = [f"{self.network} of {self.model}: responses in {UNITS[self.normalize]}"]
        for row in _records(self.table()):
            control = (
                f"   random units {row['control']:+.3f} ({row['control_low']:+.3f} to {row['control_high']:+.3f})"
                if self.n_controls
                else ""
            )
            lines.append(
                f"  {row['condition']:<14} {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]  "
                f"n = {row['n']}{control}"
            )
        for row in _records(self.contrasts()):
            rank = ""
            if self.n_controls >= new_draw.LEAST_DRAWS:
                than = f"{row['finding']} than" if row["finding"] else "like"
                rank = f", {than} random units (p {permutation.p_in_words(row['p_new_draw'])})"
            lines.append(
                f"  {row['contrast']}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], "
                f"q = {row['q']:.4f}{rank}"
            )
        matched = match_sentence(self.match_ratios, str(self.settings.get("match", "layer")))
        lines += [f"  {matched}"] if matched else []
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    def plot(self, **options: Any) -> Any:
        """Draw the profile: see :func:`modalnet.plotting.profiles.response_profile`."""
        from modalnet.plotting.profiles import response_profile

        return response_profile(self, **options)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        arrays: Labelled = {
            "response": (("stimulus",), self.responses),
            "control": (("draw", "stimulus"), self.controls),
        }
        coordinates: Labelled = {"condition": (("stimulus",), [self.conditions[i] for i in self.of_stimulus])}
        if self.items is not None:
            coordinates["item"] = (("stimulus",), list(self.items))
        return arrays, coordinates

    def __repr__(self) -> str:
        means = ", ".join(f"{condition} {self.mean(condition):+.2f}" for condition in self.conditions)
        return f"Profile({self.network} of {self.model}: {means})"

    # -- files ---------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the result as arrays and a JSON document, from which :meth:`_from_content` makes it again."""
        arrays = {
            "of_stimulus": np.asarray(self.of_stimulus, dtype=np.int64),
            "responses": np.asarray(self.responses, dtype=np.float64),
            "controls": np.asarray(self.controls, dtype=np.float64),
            "match_ratios": np.asarray(self.match_ratios, dtype=np.float64),
        }
        return arrays, {
            "model": self.model,
            "network": self.network,
            "conditions": list(self.conditions),
            "items": None if self.items is None else list(self.items),
            "normalize": self.normalize,
            "notes": list(self.notes),
            "settings": self.settings,
        }

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Profile:
        return cls(
            model=document["model"],
            network=document["network"],
            conditions=tuple(document["conditions"]),
            of_stimulus=arrays["of_stimulus"],
            items=None if document["items"] is None else tuple(document["items"]),
            responses=arrays["responses"],
            controls=arrays["controls"],
            normalize=document["normalize"],
            notes=tuple(document["notes"]),
            settings=document["settings"],
            match_ratios=arrays.get("match_ratios", np.zeros(0)),
        )


def _records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")
