"""Results of encoding models: the scores of every feature set, with bootstrap resamples and permutation nulls.

An :class:`Alignment` holds the scores of the network next to those of its controls and baselines. Its tables compare
them pairwise on shared resamples, and its verdict compares the network with the distribution of random controls.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from modalnet.brain.null import NEAR
from modalnet.brain.scoring import summarize
from modalnet.errors import InputError
from modalnet.results.result import Labelled, Result
from modalnet.stats import new_draw, permutation, resampling
from modalnet.stats.controls import match_columns, match_sentence
from modalnet.stats.moments import fdr

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("network", "control", "whole layer", "untrained", "baseline", "beyond", "features")
# Targets with a lower ceiling are not normalized, because the ratio would be unstable. Those whose repeats show no
# signal have a ceiling of 0: see modalnet.brain.ceiling.
RELIABLE = 0.1


_WORDS = {"more": "better", "less": "worse", "": ""}


@dataclass(frozen=True, eq=False)
class FeatureScores:
    """Scores of one feature set.

    Attributes
    ----------
    name
        Name of the feature set.
    kind
        ``"network"``, ``"control"`` (random units), ``"whole layer"``, ``"untrained"``, ``"baseline"``, ``"beyond"``
        (network and baselines together) or ``"features"``.
    n_features
        Number of features.
    scores
        float64 [fold, target], correlations or coefficients of determination.
    resampled
        [resample]: the summary over targets in each bootstrap resample of blocks of stimuli (and of subjects).
    null
        [permutation]: the summary for permuted responses, to which models are refit; empty if not requested.
    reached
        [target]: number of permutations that reach the score of the target; empty if not requested.
    penalty
        [fold]: median over targets of the selected penalty.
    shares
        Per band [target]: its contribution to the score, averaged over folds; contributions sum to the score. Empty
        for a single band and for metrics other than the correlation.
    """

    name: str
    kind: str
    n_features: int
    scores: Float[np.ndarray, "fold target"]
    resampled: Float[np.ndarray, " resample"]
    null: Float[np.ndarray, " permutation"]
    reached: Float[np.ndarray, " reached"]
    penalty: Float[np.ndarray, " fold"]
    shares: dict[str, Float[np.ndarray, " target"]]

    def to_arrays(self, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Convert to arrays and a JSON document."""
        arrays = {
            f"{prefix}{name}": np.asarray(getattr(self, name), dtype=np.float64)
            for name in ("scores", "resampled", "null", "reached", "penalty")
        }
        arrays |= {f"{prefix}share/{i}": share for i, share in enumerate(self.shares.values())}
        return arrays, {
            "name": self.name,
            "kind": self.kind,
            "n_features": int(self.n_features),
            "bands": list(self.shares),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any], prefix: str = ""
    ) -> FeatureScores:
        """The inverse of :meth:`to_arrays`."""
        return cls(
            document["name"],
            document["kind"],
            document["n_features"],
            scores=arrays[f"{prefix}scores"],
            resampled=arrays[f"{prefix}resampled"],
            null=arrays[f"{prefix}null"],
            reached=arrays[f"{prefix}reached"],
            penalty=arrays[f"{prefix}penalty"],
            shares={band: arrays[f"{prefix}share/{i}"] for i, band in enumerate(document["bands"])},
        )


@dataclass(frozen=True, eq=False)
class Alignment(Result):
    """Scores of encoding models from a network to brain responses, with those of controls and baselines.

    Made by :func:`modalnet.brain.align` and :func:`modalnet.brain.encode`.

    Attributes
    ----------
    model, dataset
        Names, for display.
    sets
        The feature sets; the first is the one of interest.
    ceiling
        float64 [target]: the noise ceiling, a correlation; NaN if unknown.
    subjects, regions
        The participant and the region of each target; None if unknown.
    notes
        Caveats on the scores.
    settings
        The settings of the analysis, as a JSON document.
    match_ratios
        [draw]: how well each random control matches the network in activation (see
        :func:`modalnet.stats.controls.match_ratios`); empty without controls, and in files of modalnet 0.1.

    Raises
    ------
    InputError
        If the feature sets differ in folds or targets, or the settings are not JSON.
    """

    NAME = "an alignment"
    FORMAT = "modalnet.alignment"
    SOURCES = ("naselaris2011", "schrimpf2021")

    model: str
    dataset: str
    sets: tuple[FeatureScores, ...]
    ceiling: Float[np.ndarray, " target"]
    subjects: tuple[str, ...] | None
    regions: tuple[str, ...] | None
    notes: tuple[str, ...]
    settings: dict[str, Any]
    match_ratios: Float[np.ndarray, " draw"] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not self.sets:
            raise InputError("`sets` must hold the scores of at least one feature set, got none.")
        shapes = {one.scores.shape for one in self.sets}
        if len(shapes) > 1 or next(iter(shapes))[1] != len(self.ceiling):
            raise InputError(
                f"`sets` must be scored on the same folds and targets, got {shapes} and {len(self.ceiling)} ceilings."
            )
        try:
            settings = json.loads(json.dumps(self.settings))
        except (TypeError, ValueError) as error:
            raise InputError(f"`settings` must be a JSON document: {error}") from error
        object.__setattr__(self, "settings", settings)

    # -- scores -------------------------------------------------------------------------------------------------

    @property
    def metric(self) -> str:
        """``"pearson"`` or ``"r2"``."""
        return str(self.settings["metric"])

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.ceiling)

    @property
    def network(self) -> FeatureScores:
        """The feature set of interest."""
        return self.sets[0]

    @property
    def controls(self) -> list[FeatureScores]:
        """The random controls."""
        return [one for one in self.sets if one.kind == "control"]

    def __getitem__(self, name: str) -> FeatureScores:
        for one in self.sets:
            if one.name == name:
                return one
        raise InputError(
            f"No feature set {name!r} was scored; there are {', '.join(dict.fromkeys(s.name for s in self.sets))}."
        )

    def score(self, one: FeatureScores | str) -> float:
        """Return the median over targets of the score (mean over folds), per subject, averaged over subjects."""
        return float(summarize(self._means(one)[None], self.subjects)[0])

    def normalized(self, one: FeatureScores | str) -> float:
        """Return :meth:`score` of score / noise ceiling (squared for r2), over targets with a ceiling of 0.1 or more.

        NaN if there are none.
        """
        limit = self.ceiling**2 if self.metric == "r2" else self.ceiling
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = np.where(self.ceiling >= RELIABLE, self._means(one) / limit, np.nan)
        return float(summarize(shares[None], self.subjects)[0]) if np.isfinite(shares).any() else math.nan

    def _means(self, one: FeatureScores | str) -> np.ndarray:
        scores = (self[one] if isinstance(one, str) else one).scores
        there = np.isfinite(scores)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(there, scores, 0).sum(axis=0) / there.sum(axis=0)

    # -- tables --------------------------------------------------------------------------------------------------

    @cached_property
    def _table(self) -> pd.DataFrame:
        import pandas as pd

        controls = self.controls
        first = self.network
        rows = [self._row(one) for one in self.sets if one.kind != "control"]
        if controls:
            values = np.array([self.score(one) for one in controls])
            resampled = np.stack([one.resampled for one in controls])
            rng = np.random.Generator(np.random.PCG64([int(self.settings["seed"]), 4]))
            # Control draws are a sample as well: each resample of stimuli uses a resample of draws.
            drawn = rng.integers(0, len(controls), size=(resampled.shape[1], len(controls)))
            mean = np.take_along_axis(resampled.T, drawn, axis=1).mean(axis=1)
            low, high = resampling.interval(mean)
            over = resampling.interval(first.resampled - mean)
            if len(controls) < resampling.FEWEST_GROUPS:  # so few say too little about other draws
                low = high = math.nan
                over = (math.nan, math.nan)
            against = new_draw.against_draws(self.score(first), values)
            row = {
                "features": controls[0].name,
                "kind": "control",
                "n_features": controls[0].n_features,
                "draws": len(controls),
                "score": float(values.mean()),
                "low": low,
                "high": high,
                "lowest": float(values.min()),
                "highest": float(values.max()),
                "p": math.nan,
                "normalized": float(np.mean([self.normalized(one) for one in controls])),
                "network_minus": self.score(first) - float(values.mean()),
                "network_minus_low": over[0],
                "network_minus_high": over[1],
                "p_rank": permutation.rank_p(self.score(first), values, alternative="greater"),
                "p_new_draw": against.p_new_draw,
                "finding": _WORDS[against.finding],
                **match_columns(self.match_ratios),
            }
            rows.insert(1, row)
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """Return one row per feature set, with the random controls in one row.

        Returns
        -------
        DataFrame
            features, kind, n_features, draws; score (median over targets, see :meth:`score`) with its 95% interval
            low, high (blocks of held-out stimuli, subjects and draws resampled); lowest, highest (over draws of a
            control); p (one-sided, by permutation of blocks of responses, with a refit); normalized (by the noise
            ceiling); network_minus, …_low, …_high: score of the first set minus that of this set, paired; p_rank:
            one-sided rank p value of the first set among the random draws, (1 + reached) / (1 + draws); p_new_draw: the
            probability that one more draw lies as far from their mean, on either side; finding: ``"better"`` or
            ``"worse"`` than random units (see :func:`modalnet.stats.new_draw.against_draws`), else empty. The
            intervals of random controls are NaN with fewer than 5 draws; match_ratio, …_low, …_high: mean
            |activation| of the random units over that of the network, mean, lowest and highest draw.
        """
        return self._table.copy()

    def _row(self, one: FeatureScores) -> dict[str, Any]:
        score, first = self.score(one), self.network
        low, high = resampling.interval(one.resampled)
        row = {
            "features": one.name,
            "kind": one.kind,
            "n_features": one.n_features,
            "draws": 1,
            "score": score,
            "low": low,
            "high": high,
            "lowest": math.nan,
            "highest": math.nan,
            "p": math.nan,
            "normalized": self.normalized(one),
            "network_minus": math.nan,
            "network_minus_low": math.nan,
            "network_minus_high": math.nan,
            "p_rank": math.nan,
            "p_new_draw": math.nan,
            "finding": "",
            **match_columns(np.zeros(0)),
        }
        if len(one.null):
            reached = int((one.null >= score - NEAR * max(1.0, abs(score))).sum())
            row["p"] = float(permutation.p_of_count(np.array(score), np.array(reached), len(one.null)))
        if one is not first:
            row["network_minus"] = self.score(first) - score
            row["network_minus_low"], row["network_minus_high"] = resampling.interval(first.resampled - one.resampled)
        return row

    def beyond(self) -> dict[str, float]:
        """Return the gain of the network over all baselines: score of both jointly minus that of the baselines.

        Returns
        -------
        dict
            ``"gain"``, and ``"low"``, ``"high"`` (95% interval); NaN if either was not scored.
        """
        both = [one for one in self.sets if one.kind == "beyond"]
        alone = [one for one in self.sets if one.name == "all baselines"]
        if not both or not alone:
            return dict.fromkeys(("gain", "low", "high"), math.nan)
        low, high = resampling.interval(both[0].resampled - alone[0].resampled)
        return {"gain": self.score(both[0]) - self.score(alone[0]), "low": low, "high": high}

    def targets(self, features: str | None = None) -> pd.DataFrame:
        """Return one row per target.

        Parameters
        ----------
        features
            Name of a feature set; by default the first.

        Returns
        -------
        DataFrame
            target, subject, region, score (mean over folds), p (one-sided, by permutation), q (Benjamini-Hochberg over
            targets), ceiling, normalized, control (mean over random draws).

        Raises
        ------
        InputError
            If the feature set was not scored.
        """
        import pandas as pd

        one = self.network if features is None else self[features]
        scores, n = self._means(one), self.n_targets
        p = permutation.p_of_count(scores, one.reached, len(one.null)) if len(one.null) else np.full(n, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            normalized = scores / (self.ceiling**2 if self.metric == "r2" else self.ceiling)
        return pd.DataFrame(
            {
                "target": np.arange(n),
                "subject": self.subjects or [""] * n,
                "region": self.regions or [""] * n,
                "score": scores,
                "p": p,
                "q": fdr(p),
                "ceiling": self.ceiling,
                "normalized": np.where(self.ceiling >= RELIABLE, normalized, np.nan),
                "control": np.mean([self._means(c) for c in self.controls], axis=0) if self.controls else np.nan,
            }
        )

    def verdict(self) -> str:
        """State in one sentence whether the first feature set predicts better or worse than its random controls.

        The first set is one set of features, so it is compared with what one more random draw could be:
        :func:`modalnet.stats.new_draw.against_draws`. With fewer than 19 draws this cannot be tested.
        """
        rows = self._table
        controls = rows[rows["kind"] == "control"]
        first = rows.iloc[0]
        what = f"{first['features']} predicts {self.dataset} with {self.metric} {_with_interval(first, 'score')}"
        if not len(controls):
            return f"{what}; no random controls were scored."
        row = controls.iloc[0]
        draws, p = int(row["draws"]), permutation.p_in_words(row["p_new_draw"])
        named = f"{draws} draw{'s' if draws > 1 else ''} of {row['features']}"
        gap = f"{row['network_minus']:+.3f}"
        if not math.isnan(row["network_minus_low"]):
            gap += f" [{row['network_minus_low']:.3f}, {row['network_minus_high']:.3f}]"
        if draws < new_draw.LEAST_DRAWS:
            return (
                f"{what}; whether it is better than random features cannot be tested with {named} ({gap}), at least "
                f"{new_draw.LEAST_DRAWS} are needed."
            )
        word = f"{row['finding']} than" if row["finding"] else "not distinguishably better than"
        return f"{what}, {word} {named} ({gap}; p {p} for one more draw)."

    def summary(self) -> str:
        """Return a summary as text: scores, verdict, gain over baselines, notes."""
        rows = self._table
        short = rows[["features", "n_features"]].assign(
            score=[_with_interval(row, "score") for _, row in rows.iterrows()],
            p=["" if math.isnan(p) else f"{p:.4f}" for p in rows["p"]],
            normalized=["" if math.isnan(v) else f"{v:.3f}" for v in rows["normalized"]],
            network_minus=[
                "" if math.isnan(row["network_minus"]) else _with_interval(row, "network_minus")
                for _, row in rows.iterrows()
            ],
        )
        gain = self.beyond()
        lines = [
            f"{self.model} on {self.dataset}: {self.n_targets} target{'s' if self.n_targets > 1 else ''}, "
            f"{self.settings['regression']} regression, {self.settings['cv']} folds",
            short.to_string(index=False),
            "",
            self.verdict(),
        ]
        if math.isfinite(gain["gain"]):
            lines.append(
                f"Gain over all baselines jointly: {gain['gain']:+.3f} [{gain['low']:.3f}, {gain['high']:.3f}]."
            )
        matched = match_sentence(self.match_ratios, str(self.settings.get("match", "layer")))
        lines += [matched] if matched else []
        lines += [line for note in self.notes for line in textwrap.wrap(f"Note: {note}", 118)]
        return "\n".join(lines)

    def plot(self, **options: Any) -> Any:
        """Draw the scores with their intervals: see :func:`modalnet.plotting.brain.alignment_scores`."""
        from modalnet.plotting.brain import alignment_scores

        return alignment_scores(self, **options)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        arrays: Labelled = {
            "score": (("set", "fold", "target"), np.stack([one.scores for one in self.sets])),
            "ceiling": (("target",), self.ceiling),
        }
        coordinates: Labelled = {
            "features": (("set",), [one.name for one in self.sets]),
            "kind": (("set",), [one.kind for one in self.sets]),
            "n_features": (("set",), [one.n_features for one in self.sets]),
            "subject": (("target",), list(self.subjects or [""] * self.n_targets)),
            "region": (("target",), list(self.regions or [""] * self.n_targets)),
        }
        return arrays, coordinates

    def __repr__(self) -> str:
        return (
            f"Alignment({self.model} on {self.dataset}: {self.network.name} {self.score(self.network):.3f} "
            f"{self.metric}, {len(self.sets)} sets of features, {self.n_targets} targets)"
        )

    # -- files ---------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the result as arrays and a JSON document, from which :meth:`_from_content` makes it again."""
        arrays: dict[str, np.ndarray] = {
            "ceiling": np.asarray(self.ceiling, dtype=np.float64),
            "match_ratios": np.asarray(self.match_ratios, dtype=np.float64),
        }
        sets = []
        for i, one in enumerate(self.sets):
            found, document = one.to_arrays(f"{i}/")
            arrays |= found
            sets.append(document)
        return arrays, {
            "model": self.model,
            "dataset": self.dataset,
            "sets": sets,
            "subjects": None if self.subjects is None else list(self.subjects),
            "regions": None if self.regions is None else list(self.regions),
            "notes": list(self.notes),
            "settings": self.settings,
        }

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Alignment:
        return cls(
            model=document["model"],
            dataset=document["dataset"],
            sets=tuple(FeatureScores.from_arrays(arrays, one, f"{i}/") for i, one in enumerate(document["sets"])),
            ceiling=arrays["ceiling"],
            subjects=None if document["subjects"] is None else tuple(document["subjects"]),
            regions=None if document["regions"] is None else tuple(document["regions"]),
            notes=tuple(document["notes"]),
            settings=document["settings"],
            match_ratios=arrays.get("match_ratios", np.zeros(0)),
        )


def _with_interval(row: Any, name: str) -> str:
    low, high = ("low", "high") if name == "score" else (f"{name}_low", f"{name}_high")
    if math.isnan(row[low]):
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row[low]:.3f}, {row[high]:.3f}]"
