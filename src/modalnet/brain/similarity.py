"""Representational similarity between units and brain responses: RSA and linear CKA.

An encoding model tests whether responses can be *predicted* from units, with a free weight for each unit. The two
measures here have no free weights: they compare which pairs of stimuli are represented as similar. :func:`rsa`
correlates dissimilarities; :func:`cka` compares the kernels of all stimuli.

Both are functions of pairs of stimuli. Pairs are not independent, because they share stimuli, and are never resampled.
Intervals come from the jackknife over blocks of stimuli, p values from permutations of blocks of stimuli.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_option, check_shared
from modalnet.activations import blocks_of, read_activations
from modalnet.brain import alignment as aligning
from modalnet.brain.alignment import FeatureSet
from modalnet.brain.dataset import BrainDataset, check_dataset
from modalnet.brain.folds import FEWEST, RUN
from modalnet.brain.measures import Cka, Measure, Rsa, toolbox
from modalnet.errors import InputError
from modalnet.models.fingerprint import reads_weights_once
from modalnet.results.cache import CacheLike, cached
from modalnet.results.result import Labelled, Result
from modalnet.stats.controls import check_match, draw_with_ratios, match_columns, match_sentence
from modalnet.stats.new_draw import against_draws
from modalnet.stats.permutation import rank_p
from modalnet.stats.resampling import FEWEST_GROUPS
from modalnet.units import Units

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.model import Model

MOST_BLOCKS = 200  # of the jackknife
DISSIMILARITIES = ("correlation", "euclidean")
COMPARISONS = ("spearman", "pearson", "cosine")
PERMUTATIONS = 1000


@renamed_arguments(controls="n_controls")
def rsa(
    model: Model,
    units: Any,
    dataset: BrainDataset,
    *,
    dissimilarity: Literal["correlation", "euclidean"] = "correlation",
    brain_dissimilarity: Literal["correlation", "euclidean"] | None = None,
    compare: Literal["spearman", "pearson", "cosine"] = "spearman",
    within_groups: bool = False,
    n_controls: int = 20,
    match: Literal["layer", "activation", "tower", "dimension"] = "layer",
    baselines: Sequence[str] | bool = True,
    untrained: bool | Model | Literal["auto"] = "auto",
    whole_layer: bool = True,
    fraction: float = 0.01,
    tokens: Any = None,
    n_permutations: int = PERMUTATIONS,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Similarity:
    """Compare units and brain responses by representational similarity analysis (RSA).

    Parameters
    ----------
    model, units, dataset, n_controls, match, baselines, untrained, whole_layer, fraction, tokens, seed, batch_size, \
remote, cache, progress
        As for :func:`modalnet.brain.align`. Targets with missing responses are left out, with a note.
    dissimilarity, brain_dissimilarity
        ``"correlation"`` (1 - Pearson correlation over units) or ``"euclidean"`` (squared distance divided by the
        number of units). By default the same for the brain, except that fewer than three targets require
        ``"euclidean"``.
    compare
        Measure by which the two sets of dissimilarities are compared.
    within_groups
        Whether pairs of stimuli within a group are included. Such stimuli share their topic and are close in time, so
        by default they are not.
    n_permutations
        Number of permutations for the p values of the network and its untrained copy.

    Returns
    -------
    Similarity
        ``.table()``, ``.summary()``, ``.plot()``.

    Raises
    ------
    InputError
        If an argument is invalid, the units are not those of this model, no target was measured for all stimuli, or
        rsatoolbox is not installed. Raised before any forward pass.

    Notes
    -----
    Dissimilarities are computed by rsatoolbox. For ``"spearman"`` they are ranked once, over all included pairs; the
    jackknife does not rank again. If the data have several subjects, the noise ceiling is the similarity of each
    subject's dissimilarities to the mean of the others (lower bound) and of all (upper bound).

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Frontiers in Systems Neuroscience 2:4. Nili et al. (2014), PLoS Computational
    Biology 10(4):e1003553, for the noise ceiling. Schütt, Kipnis, Diedrichsen & Kriegeskorte (2023), eLife 12:e82566,
    for inference and rsatoolbox.
    """
    dataset = check_dataset(dataset)
    check_option("dissimilarity", dissimilarity, DISSIMILARITIES)
    check_option("brain_dissimilarity", brain_dissimilarity or dissimilarity, DISSIMILARITIES)
    check_option("compare", compare, COMPARISONS)
    check_shared(n_controls=n_controls, n_permutations=n_permutations, seed=seed)
    check_shared(batch_size=batch_size, cache=cache, progress=progress)
    match = check_match(match)
    model, network = aligning.network_of(model, units, fraction, remote)
    toolbox()
    dataset, notes = _complete(dataset)
    of_brain = brain_dissimilarity or dissimilarity
    if dataset.n_targets < 3 and of_brain == "correlation":
        if brain_dissimilarity is not None:
            raise InputError(
                "`brain_dissimilarity='correlation'` requires at least 3 targets, got "
                f"{dataset.n_targets}. Use 'euclidean'."
            )
        of_brain = "euclidean"
        notes.append(
            f"brain dissimilarities are euclidean, because a correlation requires 3 targets ({dataset.n_targets} here)."
        )
    groups = None if within_groups else dataset.groups
    if groups is not None:
        notes.append("pairs of stimuli of one group are left out.")
    measure = Rsa(
        dataset.responses, _blocks(dataset, seed), groups=groups, own=dissimilarity, brain=of_brain, compare=compare
    )
    ceiling = (math.nan, math.nan)
    if dataset.subjects is not None and len(set(dataset.subjects)) > 1:
        ceiling = measure.ceiling(dataset.responses, dataset.subjects)
    settings = {
        "measure": f"RSA ({compare})",
        "dissimilarity": dissimilarity,
        "brain_dissimilarity": of_brain,
        "compare": compare,
        "within_groups": within_groups,
    }
    return _compare(
        measure,
        (model, network, dataset),
        settings,
        ceiling=ceiling,
        notes=notes,
        n_controls=n_controls,
        match=match,
        baselines=baselines,
        untrained=untrained,
        whole_layer=whole_layer,
        tokens=tokens,
        n_permutations=n_permutations,
        seed=seed,
        batch_size=batch_size,
        cache=cache,
        progress=progress,
    )


@renamed_arguments(controls="n_controls")
def cka(
    model: Model,
    units: Any,
    dataset: BrainDataset,
    *,
    debiased: bool = True,
    n_controls: int = 20,
    match: Literal["layer", "activation", "tower", "dimension"] = "layer",
    baselines: Sequence[str] | bool = True,
    untrained: bool | Model | Literal["auto"] = "auto",
    whole_layer: bool = True,
    fraction: float = 0.01,
    tokens: Any = None,
    n_permutations: int = PERMUTATIONS,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Similarity:
    """Compare units and brain responses by linear centred kernel alignment (CKA).

    Parameters
    ----------
    model, units, dataset, n_controls, match, baselines, untrained, whole_layer, fraction, tokens, n_permutations, \
seed, batch_size, remote, cache, progress
        As for :func:`rsa`.
    debiased
        As for :func:`modalnet.brain.linear_cka`.

    Returns
    -------
    Similarity
        ``.table()``, ``.summary()``, ``.plot()``.

    Raises
    ------
    InputError
        If an argument is invalid, the units are not those of this model, or no target was measured for all stimuli.
        Raised before any forward pass.

    Notes
    -----
    Units are z-scored over stimuli first; otherwise a few residual units with massive activations would dominate the
    kernel. All pairs of stimuli are included, also those within a group.

    References
    ----------
    See :func:`modalnet.brain.linear_cka`.
    """
    dataset = check_dataset(dataset)
    check_shared(n_controls=n_controls, n_permutations=n_permutations, seed=seed)
    check_shared(batch_size=batch_size, cache=cache, progress=progress)
    match = check_match(match)
    model, network = aligning.network_of(model, units, fraction, remote)
    dataset, notes = _complete(dataset)
    measure = Cka(dataset.responses, _blocks(dataset, seed), debiased=debiased)
    settings = {"measure": "debiased linear CKA" if debiased else "linear CKA", "debiased": debiased}
    return _compare(
        measure,
        (model, network, dataset),
        settings,
        ceiling=(math.nan, math.nan),
        notes=notes,
        n_controls=n_controls,
        match=match,
        baselines=baselines,
        untrained=untrained,
        whole_layer=whole_layer,
        tokens=tokens,
        n_permutations=n_permutations,
        seed=seed,
        batch_size=batch_size,
        cache=cache,
        progress=progress,
    )


@dataclass(frozen=True, eq=False)
class SimilarityScore:
    """Similarity of one feature set to the brain responses.

    Attributes
    ----------
    name, kind, n_features
        As for :class:`.result.FeatureScores`.
    value
        The similarity: a correlation or CKA.
    left_out
        [block]: jackknife values, the similarity without each block of stimuli.
    null
        [permutation]: the similarity to permuted responses; empty if not requested.
    """

    name: str
    kind: str
    n_features: int
    value: float
    left_out: Float[np.ndarray, " block"]
    null: Float[np.ndarray, " permutation"]


@dataclass(frozen=True, eq=False)
class Similarity(Result):
    """Similarity of a network to brain responses, with that of controls and baselines.

    Made by :func:`modalnet.brain.rsa` and :func:`modalnet.brain.cka`.

    Attributes
    ----------
    model, dataset
        Names, for display.
    sets
        The feature sets; the first is the network.
    ceiling
        Lower and upper bound of the noise ceiling; NaN if unknown.
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
        If there is no feature set.
    """

    NAME = "a similarity"
    FORMAT = "modalnet.similarity"
    SOURCES = ("kriegeskorte2008",)

    model: str
    dataset: str
    sets: tuple[SimilarityScore, ...]
    ceiling: tuple[float, float]
    notes: tuple[str, ...]
    settings: dict[str, Any]
    match_ratios: Float[np.ndarray, " draw"] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not self.sets:
            raise InputError("`sets` must hold at least one feature set, got none.")
        object.__setattr__(self, "settings", json.loads(json.dumps(self.settings)))

    @property
    def measure(self) -> str:
        """Name of the measure."""
        return str(self.settings["measure"])

    @property
    def controls(self) -> list[SimilarityScore]:
        """The random controls."""
        return [one for one in self.sets if one.kind == "control"]

    def table(self) -> pd.DataFrame:
        """Return one row per feature set, with the random controls in one row.

        Returns
        -------
        DataFrame
            features, kind, n_features, draws, score, low, high (95%, jackknife over blocks of stimuli; over draws for
            controls: lowest and highest), p (one-sided, permutation of blocks), network_minus with _low and _high
            (paired jackknife, for controls with the variance of the mean over draws; NaN with fewer than 5 draws),
            p_rank, p_new_draw and finding (``"more"`` or ``"less"`` similar than random units, see
            :func:`modalnet.stats.new_draw.against_draws`); match_ratio, match_ratio_low, match_ratio_high (mean
            |activation| of the random units over that of the network: mean, lowest and highest draw).
        """
        import pandas as pd

        first = self.sets[0]
        rows = []
        for one in self.sets:
            if one.kind == "control":
                continue
            low, high = _jackknife(one.value, one.left_out)
            gap = (math.nan, math.nan)
            if one is not first:
                gap = _jackknife(first.value - one.value, first.left_out - one.left_out)
            n = len(one.null)
            p = (1 + int((one.null >= one.value - 1e-12).sum())) / (1 + n) if n else math.nan
            rows.append(
                _row(one.name, one.kind, one.n_features, 1, (one.value, low, high))
                | {"p": p, "network_minus": first.value - one.value if one is not first else math.nan}
                | {"network_minus_low": gap[0], "network_minus_high": gap[1], "p_rank": math.nan}
                | {"p_new_draw": math.nan, "finding": ""}
                | match_columns(np.zeros(0))
            )
        controls = self.controls
        if controls:
            values = np.array([one.value for one in controls])
            left = np.mean([one.left_out for one in controls], axis=0)
            gap = (math.nan, math.nan)
            if len(controls) >= FEWEST_GROUPS:
                gap = _jackknife(
                    first.value - values.mean(), first.left_out - left, float(values.var(ddof=1)) / len(controls)
                )
            against = against_draws(first.value, values)
            row = _row(
                controls[0].name,
                "control",
                controls[0].n_features,
                len(controls),
                (float(values.mean()), float(values.min()), float(values.max())),
            ) | {
                "p": math.nan,
                "network_minus": first.value - float(values.mean()),
                "network_minus_low": gap[0],
                "network_minus_high": gap[1],
                "p_rank": rank_p(first.value, values, alternative="greater"),
                "p_new_draw": against.p_new_draw,
                "finding": against.finding,
                **match_columns(self.match_ratios),
            }
            rows.insert(1, row)
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return a summary as text: similarities, p values, noise ceiling, notes."""
        table = self.table()
        short = table[["features", "n_features"]].assign(
            score=[f"{r['score']:.4f} [{r['low']:.4f}, {r['high']:.4f}]" for r in table.to_dict("records")],
            p=["" if math.isnan(p) else f"{p:.4f}" for p in table["p"]],
            p_rank=["" if math.isnan(p) else f"{p:.3f}" for p in table["p_rank"]],
        )
        lines = [f"{self.measure} of {self.model} and {self.dataset}", short.to_string(index=False)]
        if math.isfinite(self.ceiling[0]):
            lines.append(f"noise ceiling {self.ceiling[0]:.3f} to {self.ceiling[1]:.3f}")
        matched = match_sentence(self.match_ratios, str(self.settings.get("match", "layer")))
        lines += [matched] if matched else []
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    def plot(self, **options: Any) -> Any:
        """Draw the similarities with their intervals: see :func:`modalnet.plotting.brain.alignment_scores`."""
        from modalnet.plotting.brain import alignment_scores

        return alignment_scores(self, **options)

    def _sources(self) -> Sequence[str]:
        return ("kornblith2019",) if "CKA" in self.measure else self.SOURCES

    def _labelled(self) -> tuple[Labelled, Labelled]:
        arrays: Labelled = {
            "value": (("set",), [one.value for one in self.sets]),
            "left_out": (("set", "block"), np.stack([one.left_out for one in self.sets])),
        }
        coordinates: Labelled = {
            "features": (("set",), [one.name for one in self.sets]),
            "kind": (("set",), [one.kind for one in self.sets]),
            "n_features": (("set",), [one.n_features for one in self.sets]),
        }
        return arrays, coordinates

    def __repr__(self) -> str:
        return f"Similarity({self.measure}: {self.model} and {self.dataset}, {self.sets[0].value:.4f})"

    # -- files ---------------------------------------------------------------------------------------------------

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the result as arrays and a JSON document, from which :meth:`_from_content` makes it again."""
        arrays: dict[str, np.ndarray] = {
            "values": np.array([one.value for one in self.sets]),
            "ceiling": np.array(self.ceiling, dtype=np.float64),
            "match_ratios": np.asarray(self.match_ratios, dtype=np.float64),
        }
        for i, one in enumerate(self.sets):
            arrays |= {f"{i}/left_out": one.left_out, f"{i}/null": one.null}
        return arrays, {
            "model": self.model,
            "dataset": self.dataset,
            "sets": [[one.name, one.kind, int(one.n_features)] for one in self.sets],
            "notes": list(self.notes),
            "settings": self.settings,
        }

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Similarity:
        sets = tuple(
            SimilarityScore(name, kind, n, float(arrays["values"][i]), arrays[f"{i}/left_out"], arrays[f"{i}/null"])
            for i, (name, kind, n) in enumerate(document["sets"])
        )
        low, high = (float(bound) for bound in arrays["ceiling"])
        return cls(
            document["model"],
            document["dataset"],
            sets,
            (low, high),
            tuple(document["notes"]),
            document["settings"],
            arrays.get("match_ratios", np.zeros(0)),
        )


def _row(name: str, kind: str, n_features: int, draws: int, score: tuple[float, float, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"features": name, "kind": kind, "n_features": n_features, "draws": draws}
    return row | dict(zip(("score", "low", "high"), score, strict=True))


def _jackknife(value: float, left_out: Float[np.ndarray, " block"], variance: float = 0.0) -> tuple[float, float]:
    """Return the 95% jackknife interval, value ± t · se, with a further variance that blocks do not have.

    References
    ----------
    Efron & Tibshirani (1993), An Introduction to the Bootstrap, equation 11.5.
    """
    from scipy import stats

    n = len(left_out)
    if n < 2 or not np.isfinite(left_out).all() or not math.isfinite(value):
        return math.nan, math.nan
    se = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()) + variance)
    reach = float(stats.t.ppf(0.975, n - 1)) * se
    return value - reach, value + reach


# Running


def _complete(dataset: BrainDataset) -> tuple[BrainDataset, list[str]]:
    """Return the targets that were measured for every stimulus, with a note on the others."""
    whole = np.isfinite(dataset.responses).all(axis=0)
    if whole.all():
        return dataset, []
    if not whole.any():
        raise InputError(
            f"{dataset.name}: no target was measured for every stimulus, which similarities require. Select stimuli "
            "with complete responses (dataset.select(stimuli=...))."
        )
    return dataset.select(targets=whole), [f"{int((~whole).sum())} targets with missing responses are left out."]


def _blocks(dataset: BrainDataset, seed: int) -> np.ndarray:
    """Return the jackknife block of each stimulus, at most MOST_BLOCKS blocks."""
    n = len(dataset)
    if dataset.groups is not None and len(set(dataset.groups)) >= 2 * FEWEST:
        labels = np.unique(np.asarray(dataset.groups, dtype=str), return_inverse=True)[1]
    elif dataset.ordered:
        labels = np.arange(n) // RUN
    else:
        labels = np.arange(n)
    count = int(labels.max()) + 1
    if count <= MOST_BLOCKS:
        return labels
    rng = np.random.Generator(np.random.PCG64([seed, 5]))
    merged = np.empty(count, dtype=np.int64)
    merged[np.argsort(rng.random(count), kind="stable")] = np.arange(count) % MOST_BLOCKS
    return merged[labels]


def _baseline_sets(
    simple: Mapping[str, Float[np.ndarray, "stimulus feature"]], notes: list[str], *, correlation: bool
) -> list[FeatureSet]:
    """The features of baselines; a baseline with too few of them for a correlation is left out, with a note."""
    sets = []
    for name, features in simple.items():
        if correlation and features.shape[1] < 3:
            notes.append(f"baseline {name!r} left out: a correlation requires 3 features ({features.shape[1]} here)")
            continue
        sets.append(FeatureSet(name, "baseline", {"units": _standardized(features)}, tested=False))
    return sets


@reads_weights_once
def _compare(  # every option of rsa and cka
    measure: Measure,
    compared: tuple[Model, Any, BrainDataset],
    settings: dict[str, Any],
    *,
    ceiling: tuple[float, float],
    notes: list[str],
    n_controls: int,
    match: str,
    baselines: Sequence[str] | bool,
    untrained: Any,
    whole_layer: bool,
    tokens: Any,
    n_permutations: int,
    seed: int,
    batch_size: Any,
    cache: CacheLike,
    progress: bool,
) -> Similarity:
    model, network, dataset = compared
    copy, missing = aligning.untrained_of(model, untrained, network)
    random, ratios = draw_with_ratios(network, n_controls, seed=seed, match=match)
    simple, left_out = aligning.baselines_of(dataset, baselines)
    notes = [*notes, *missing, *left_out]
    requested = settings | {
        "n_controls": n_controls,
        "match": match,
        "tokens": tokens if tokens is None or isinstance(tokens, str | dict) else list(tokens),
        "n_permutations": n_permutations,
        "seed": seed,
        "n_units": network.count,
        "n_stimuli": len(dataset),
        "blocks": int(measure.blocks.max()) + 1,
    }

    def compute() -> Similarity:
        more: list[str] = []
        blocks = blocks_of(network, *random)
        options: dict[str, Any] = {"tokens": tokens, "batch_size": batch_size, "cache": cache, "progress": progress}
        activations = read_activations(model, dataset.stimuli, blocks, **options)

        def one_set(name: str, kind: str, which: Units, read: Any = activations, tested: bool = False) -> FeatureSet:
            return FeatureSet(name, kind, {"units": _standardized(read.of(which))}, tested)

        sets = [one_set("network", "network", network, tested=True)]
        sets += [one_set(f"random units, {match}-matched", "control", one) for one in random]
        everything = aligning.whole_blocks(network, blocks)
        if whole_layer:
            fullest = aligning.fullest_layer(network)
            tower, layer, _ = fullest.indices()[0]
            sets.append(one_set(f"whole layer ({tower} {layer})", "whole layer", fullest))
            sets.append(one_set("all its layers", "whole layer", everything))
        if copy is not None:
            other_model = model._untrained() if copy == "copy" else copy
            what = "reading the untrained copy"
            other = read_activations(other_model, dataset.stimuli, blocks, what=what, **options)
            sets.append(one_set("untrained, same units", "untrained", network, other, tested=True))
        sets += _baseline_sets(simple, more, correlation=settings.get("dissimilarity") == "correlation")
        scores = _scored(measure, sets, settings["measure"], n_permutations, seed, progress=progress)
        return Similarity(model.name, dataset.name, tuple(scores), ceiling, (*notes, *more), requested, ratios)

    inputs = {
        "name": model.name,
        "units": network,
        "untrained": copy,
        "dataset": dataset.identity(),
        "ceiling": ceiling,
        "baselines": list(simple),
        "notes": notes,
    }
    return cached(
        model, "similarity", inputs, requested | {"whole_layer": whole_layer}, compute, result=Similarity, cache=cache
    )


def _scored(
    measure: Measure, sets: Sequence[FeatureSet], what: str, n_permutations: int, seed: int, *, progress: bool
) -> list[SimilarityScore]:
    """Compute the similarity of each feature set, its jackknife values and its permutation null."""
    from tqdm.auto import tqdm

    scores = []
    weights = 1.0 - np.eye(int(measure.blocks.max()) + 1)[:, measure.blocks]
    for one in tqdm(sets, desc=what, unit="set", disable=not progress):
        bound = measure.bind(np.asarray(one.bands["units"], dtype=np.float64))
        value = float(bound.values(np.ones((1, len(measure.blocks))))[0])
        null = np.zeros(0)
        if one.tested and n_permutations:
            rng = np.random.Generator(np.random.PCG64([seed, 6]))
            orders = (
                np.argsort(rng.random(int(measure.blocks.max()) + 1)[measure.blocks], kind="stable")
                for _ in range(n_permutations)
            )
            # Orders refer to a layout in which blocks are contiguous, as they are after permuting.
            layout = np.argsort(measure.blocks, kind="stable")
            back = np.argsort(layout, kind="stable")
            null = np.array([bound.permuted(order[back]) for order in orders])
        scores.append(SimilarityScore(one.name, one.kind, one.n_features, value, bound.values(weights), null))
    return scores


def _standardized(features: np.ndarray) -> np.ndarray:
    """Z-score each feature over stimuli; constant features become 0."""
    values = np.asarray(features, dtype=np.float64)
    middle, spread = values.mean(axis=0), values.std(axis=0)
    return np.where(spread > 0, (values - middle) / np.where(spread > 0, spread, 1), 0.0)
