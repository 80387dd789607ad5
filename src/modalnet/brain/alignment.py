"""Encoding models from units of a model to brain responses, scored against controls and baselines.

The score of a network alone says little: a thousand random units of a trained model predict brain responses, and so do
an untrained model and the length of a sentence. An alignment therefore scores the network, random units of the same
layers, a whole layer, the same units of an untrained copy, simple properties of the stimuli, and the network combined
with these properties, all on the same folds and the same bootstrap resamples.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_option, check_shared
from modalnet.activations import Activations, blocks_of, check_units, read_activations
from modalnet.brain import folds as dealing, null as null_of, scoring
from modalnet.brain.baselines import baselines as make_baselines
from modalnet.brain.dataset import BrainDataset, check_dataset
from modalnet.brain.encoding import N_ITER, PENALTIES, REGRESSIONS, Split, fit_predict
from modalnet.brain.result import Alignment, FeatureScores
from modalnet.errors import InputError
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.results.cache import Access, CacheLike, cached
from modalnet.stats.controls import check_match, draw_with_ratios
from modalnet.units import Units, as_units

if TYPE_CHECKING:
    from modalnet.model import Model

RESAMPLES, PERMUTATIONS = 1000, 1000
LARGEST_COPY = 2_000_000_000  # parameters; a larger untrained copy is made only on request
EDGE = 0.5  # a note is given if the smallest penalty is chosen for more than this share of targets


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features to score: one band, or several bands that are weighted against each other."""

    name: str
    kind: str
    bands: Mapping[str, Any]
    tested: bool = True

    @property
    def n_features(self) -> int:
        return sum(np.shape(features)[1] for features in self.bands.values())


@renamed_arguments(controls="n_controls")
@reads_weights_once
def align(
    model: Model,
    units: Any,
    dataset: BrainDataset,
    *,
    regression: Literal["ridge", "banded"] = "ridge",
    cv: Literal["grouped", "contiguous", "shuffled"] = "grouped",
    metric: Literal["pearson", "r2"] = "pearson",
    n_controls: int = 20,
    match: Literal["layer", "activation", "tower", "dimension"] = "layer",
    baselines: Sequence[str] | bool = True,
    untrained: bool | Model | Literal["auto"] = "auto",
    whole_layer: bool = True,
    fraction: float = 0.01,
    tokens: Any = None,
    n_folds: int = 5,
    inner_folds: int = 5,
    gap: int = 0,
    penalties: Sequence[float] | None = None,
    n_iter: int = N_ITER,
    n_resamples: int = RESAMPLES,
    n_permutations: int = PERMUTATIONS,
    ceiling: Any = None,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Alignment:
    """Fit encoding models from a network to brain responses, together with controls and baselines.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`.
    units
        The network: Units, or a Localization, of which the top ``fraction`` of units is selected.
    dataset
        A BrainDataset of n stimuli and m targets, from one of the readers of :mod:`modalnet.brain`.
    regression
        ``"ridge"``: one penalty per target. ``"banded"``: banded ridge, with a separate penalty for each feature space
        where several predict jointly (several baselines, the network with baselines, units of several towers).
    cv
        ``"grouped"``: whole passages, stories or topics are held out. ``"contiguous"``: consecutive stimuli are held
        out, for stimuli in presentation order, with a gap of ``gap`` stimuli on either side. ``"shuffled"``: random
        folds, which inflate the score wherever neighbouring stimuli are similar, and give a warning.
    metric
        ``"pearson"`` (correlation) or ``"r2"`` (coefficient of determination), per fold, averaged over folds.
    n_controls, match
        Number of sets of random units, disjoint from the network, and the property in which they match it (see
        :meth:`modalnet.Units.random`). The smallest possible rank p value is 1 / (n_controls + 1).
    baselines
        Stimulus properties that predict without a model (see :func:`modalnet.brain.baselines`), scored separately,
        jointly, and jointly with the network. True for all that apply, False for none, or a list of names.
    untrained
        Whether to score the same units of an untrained copy (:func:`modalnet.load` with ``untrained=True``).
        ``"auto"``: if the weights are held locally and number at most two billion. True, False, or a Model to use
        as the comparison.
    whole_layer
        Whether to score all units of the layer that contains most of the network, and of all layers that contain any.
    fraction
        Fraction of units selected if ``units`` is a Localization.
    tokens
        Token positions to pool over, as for :func:`modalnet.localize`.
    n_folds, inner_folds
        Number of outer folds, and of inner folds (within the training set) that select the penalties.
    gap
        For contiguous folds: number of stimuli next to the held-out ones that are excluded from training.
    penalties
        Ridge penalties to try; by default 13, log-spaced from 1e-3 to 1e5. Kernels are divided by the number of
        features, so that penalties are comparable between feature spaces of different size.
    n_iter
        Number of random band weightings that banded ridge tries, in addition to each band alone and equal weights.
    n_resamples, n_permutations
        Number of bootstrap resamples (for intervals) and of permutations (for p values).
    ceiling
        Noise ceiling, a correlation per target [target] or one number, in place of that of the dataset.
    seed
        Seed of the folds, controls and resamples.
    device
        Device on which the regressions are solved, such as ``"cuda"``; the model stays on its own device.
    batch_size, progress
        As for :func:`modalnet.localize`.
    remote
        Where the model runs: None for the model's default, or a value that :func:`modalnet.load` accepts. One row of
        pooled activations per stimulus is returned; the regressions and the untrained copy run locally.
    cache
        Whether activations, the scores of each feature set and the result are stored and reused; an interrupted
        analysis then resumes where it stopped.

    Returns
    -------
    Alignment
        ``.table()``, ``.summary()``, ``.targets()``, ``.plot()``.

    Raises
    ------
    InputError
        If an argument is invalid, the units are not those of this model, or the dataset does not support the
        requested cross-validation. Raised before any forward pass.

    Notes
    -----
    Features are standardized within each fold, and penalties are selected by nested cross-validation within the
    training set (see :mod:`modalnet.brain.encoding`). A target that was not measured for some stimuli is fit on the
    others.

    References
    ----------
    Naselaris, Kay, Nishimoto & Gallant (2011), NeuroImage 56(2):400-410, for encoding models. Schrimpf et al. (2021),
    PNAS 118(45):e2105646118, for language models; AlKhamissi et al. (2025), arXiv:2411.02280, for networks in them;
    Nunez-Elizalde, Huth & Gallant (2019), NeuroImage 197:482-492, and Dupré la Tour et al. (2022), NeuroImage
    264:119728, for banded ridge; Kamali Hadidi et al. (2024), arXiv:2406.01538, for stimulus baselines.

    Examples
    --------
    >>> data = mn.brain.pereira2018("pereira2018_averaged.csv")  # doctest: +SKIP
    >>> result = mn.brain.align(model, language.top(fraction=0.01), data)  # doctest: +SKIP
    >>> print(result.summary())  # doctest: +SKIP
    """
    dataset = check_dataset(dataset)
    check_shared(n_controls=n_controls, n_resamples=n_resamples, n_permutations=n_permutations, seed=seed)
    check_shared(batch_size=batch_size, cache=cache, progress=progress)
    match = check_match(match)
    _check_choices(regression, metric, device)
    model, network = network_of(model, units, fraction, remote)
    copy, notes = untrained_of(model, untrained, network)
    random, ratios = draw_with_ratios(network, n_controls, seed=seed, match=match)
    simple, left_out = baselines_of(dataset, baselines)
    notes += left_out
    split, dataset = _split(dataset, cv, n_folds, inner_folds=inner_folds, gap=gap, seed=seed, ceiling=ceiling)
    settings = {
        "regression": regression,
        "cv": cv,
        "metric": metric,
        "n_controls": n_controls,
        "match": match,
        "tokens": tokens if tokens is None or isinstance(tokens, str | dict) else list(tokens),
        "n_folds": n_folds,
        "inner_folds": inner_folds,
        "gap": gap,
        "penalties": _penalties(penalties).tolist(),
        "n_iter": n_iter,
        "n_resamples": n_resamples,
        "n_permutations": n_permutations,
        "seed": seed,
        "n_units": network.count,
        "n_stimuli": len(dataset),
    }
    access = Access.of(cache)

    def compute() -> Alignment:
        blocks = blocks_of(network, *random)
        options: dict[str, Any] = {"tokens": tokens, "batch_size": batch_size, "cache": access, "progress": progress}
        activations = read_activations(model, dataset.stimuli, blocks, **options)
        sets = _unit_sets(activations, network, random, match)
        everything = whole_blocks(network, blocks)
        if whole_layer:
            sets += _layer_sets(activations, network, everything)
        if copy is not None:
            other_model = model._untrained() if copy == "copy" else copy
            what = "reading the untrained copy"
            other = read_activations(other_model, dataset.stimuli, blocks, what=what, **options)
            sets.append(FeatureSet("untrained, same units", "untrained", _towers(other, network)))
            if whole_layer:
                sets.append(FeatureSet("untrained, all its layers", "untrained", _towers(other, everything)))
        sets += _with_baselines(simple, sets[0])
        how: dict[str, Any] = {"device": device, "cache": access, "progress": progress, "match_ratios": ratios}
        return _score_sets(sets, dataset, split, settings, model=model.name, notes=notes, **how)

    inputs = {
        "name": model.name,
        "units": network,
        "untrained": copy,
        "dataset": dataset.identity(),
        "baselines": list(simple),
        "notes": notes,
    }
    requested = settings | {"whole_layer": whole_layer, "device": device}
    return cached(model, "align", inputs, requested, compute, result=Alignment, cache=access)


@renamed_arguments(controls="control_features")
def encode(
    features: Any,
    dataset: BrainDataset,
    *,
    control_features: Sequence[Any] = (),
    regression: Literal["ridge", "banded"] = "ridge",
    cv: Literal["grouped", "contiguous", "shuffled"] = "grouped",
    metric: Literal["pearson", "r2"] = "pearson",
    baselines: Sequence[str] | bool = False,
    n_folds: int = 5,
    inner_folds: int = 5,
    gap: int = 0,
    penalties: Sequence[float] | None = None,
    n_iter: int = N_ITER,
    n_resamples: int = RESAMPLES,
    n_permutations: int = PERMUTATIONS,
    ceiling: Any = None,
    seed: int = 0,
    device: str = "cpu",
    cache: CacheLike = True,
    progress: bool = True,
) -> Alignment:
    """Fit encoding models from arbitrary features, such as those of another model or of a lexicon.

    Parameters
    ----------
    features
        An array [stimulus, feature], or a mapping from names to such arrays, of which the first is the feature set of
        interest. A value that is itself a mapping of arrays is one feature set of several bands, for banded ridge.
    dataset
        A BrainDataset of n stimuli and m targets, from one of the readers of :mod:`modalnet.brain`.
    control_features
        Arrays [stimulus, feature] that serve as random controls for the first feature set.
    regression, cv, metric, baselines, n_folds, inner_folds, gap, penalties, n_iter, n_resamples, n_permutations, \
ceiling, seed, device, cache, progress
        As for :func:`align`.

    Returns
    -------
    Alignment
        As for :func:`align`.

    Raises
    ------
    InputError
        If an argument is invalid, or the features are not finite numbers of shape [stimulus, feature].
    """
    dataset = check_dataset(dataset)
    check_shared(n_resamples=n_resamples, n_permutations=n_permutations, seed=seed, cache=cache, progress=progress)
    _check_choices(regression, metric, device)
    given = features if isinstance(features, Mapping) else {"features": features}
    if not given:
        raise InputError(
            "`features` must be an array [stimulus, feature] or a non-empty mapping of them, got an empty mapping."
        )
    simple, notes = baselines_of(dataset, baselines)
    split, dataset = _split(dataset, cv, n_folds, inner_folds=inner_folds, gap=gap, seed=seed, ceiling=ceiling)
    sets = []
    for name, one in given.items():
        bands = one if isinstance(one, Mapping) else {str(name): one}
        sets.append(FeatureSet(str(name), "features", bands))
    sets[1:1] = [FeatureSet("random controls", "control", {"control": one}, tested=False) for one in control_features]
    sets += _with_baselines(simple, sets[0])
    settings = {
        "regression": regression,
        "cv": cv,
        "metric": metric,
        "n_controls": len(control_features),
        "n_folds": n_folds,
        "inner_folds": inner_folds,
        "gap": gap,
        "penalties": _penalties(penalties).tolist(),
        "n_iter": n_iter,
        "n_resamples": n_resamples,
        "n_permutations": n_permutations,
        "seed": seed,
        "n_stimuli": len(dataset),
    }
    access = Access.of(cache)
    how: dict[str, Any] = {"device": device, "cache": access, "progress": progress, "match_ratios": np.zeros(0)}
    return _score_sets(sets, dataset, split, settings, model="features", notes=notes, **how)


# Scoring


def _score_sets(
    sets: Sequence[FeatureSet],
    dataset: BrainDataset,
    split: Split,
    settings: dict[str, Any],
    *,
    model: str,
    notes: Sequence[str],
    device: str,
    cache: CacheLike,
    progress: bool,
    match_ratios: Float[np.ndarray, " draw"],
) -> Alignment:
    from tqdm.auto import tqdm

    blocks, what = dealing.exchangeable(
        split.cv, split.folds, groups=dataset.groups if split.cv == "grouped" else None, ordered=dataset.ordered
    )
    resampling = scoring.Resampling.draw(
        split.folds,
        blocks,
        n_resamples=settings["n_resamples"],
        seed=split.seed,
    )
    permuted, of_permutations = dealing.permutable(split.cv, len(dataset), dataset.groups)
    shared = {
        "data": [dataset.responses, split.folds, blocks],
        "groups": dataset.groups if split.cv == "grouped" else None,
        "subjects": dataset.subjects,
    }
    scored = []
    for one in tqdm(sets, desc="encoding", unit="set", disable=not progress):
        scores = cached(
            None,
            "encoding",
            shared | {"bands": [[name, np.asarray(features)] for name, features in one.bands.items()]},
            {name: value for name, value in settings.items() if name not in _NOT_OF_A_SET}
            | {"tested": one.tested, "device": device},
            partial(_score_set, one, dataset, split, resampling, permuted, settings, device),
            result=FeatureScores,
            cache=cache,
        )
        scored.append(replace(scores, name=one.name, kind=one.kind))
    all_notes = [*notes, *_notes(dataset, split, (what, of_permutations), scored, settings)]
    ceiling = dataset.noise_ceiling()
    return Alignment(
        model=model,
        dataset=dataset.name,
        sets=tuple(scored),
        ceiling=np.full(dataset.n_targets, np.nan) if ceiling is None else np.asarray(ceiling, dtype=np.float64),
        subjects=dataset.subjects,
        regions=dataset.regions,
        notes=tuple(all_notes),
        settings=settings | {"resampled": what, "source": dataset.source},
        match_ratios=match_ratios,
    )


_NOT_OF_A_SET = ("n_controls", "match", "tokens", "n_units")


def _score_set(  # noqa: PLR0917  # one call, above
    one: FeatureSet,
    dataset: BrainDataset,
    split: Split,
    resampling: scoring.Resampling,
    permuted: Int[np.ndarray, " stimulus"] | None,
    settings: dict[str, Any],
    device: str,
) -> FeatureScores:
    metric = settings["metric"]
    fitted = fit_predict(
        one.bands,
        dataset.responses,
        split,
        regression=settings["regression"],
        penalties=settings["penalties"],
        n_iter=settings["n_iter"],
        device=device,
    )
    responses = dataset.responses
    scores = scoring.fold_scores(fitted.predictions, responses, split.folds, metric)
    resampled = scoring.summarize_resampled(
        scoring.bootstrap(fitted.predictions, responses, resampling, metric), dataset.subjects, split.seed
    )
    null, reached = np.zeros(0), np.zeros(0)
    if one.tested and settings["n_permutations"]:
        found = null_of.permuted_scores(
            one.bands,
            responses,
            split,
            fitted,
            permuted,
            metric=metric,
            n_permutations=settings["n_permutations"],
            device=device,
        )
        null, reached = scoring.summarize(found, dataset.subjects)[1:], null_of.reaching(found)
    shares = {}
    if fitted.parts and metric == "pearson":
        shares = {name: _share(part, fitted.predictions, responses, split.folds) for name, part in fitted.parts.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        penalty = np.nanmedian(fitted.penalties, axis=1)
    return FeatureScores(one.name, one.kind, one.n_features, scores, resampled, null, reached, penalty, shares)


def _share(part: np.ndarray, whole: np.ndarray, responses: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Contribution of a band to the correlation: cov(part, y) / (sd(whole) sd(y)) per fold, averaged over folds."""
    rows = []
    for fold in np.unique(folds):
        p, all_, y = (values[folds == fold] for values in (part, whole, responses))
        there = np.isfinite(y) & np.isfinite(p)
        n = np.maximum(there.sum(axis=0), 1)

        def centred(values: np.ndarray, there: np.ndarray = there, n: np.ndarray = n) -> np.ndarray:
            values = np.where(there, values, 0)
            return np.where(there, values - values.sum(axis=0) / n, 0)

        p, all_, y = centred(p), centred(all_), centred(y)
        size = np.sqrt((all_**2).sum(axis=0) * (y**2).sum(axis=0))
        with np.errstate(invalid="ignore", divide="ignore"):
            rows.append(np.where(size > 0, (p * y).sum(axis=0) / size, 0.0))
    return np.mean(rows, axis=0)


def _notes(
    dataset: BrainDataset,
    split: Split,
    what: tuple[str, str],
    scored: Sequence[FeatureScores],
    settings: dict[str, Any],
) -> Iterator[str]:
    yield f"intervals resample {what[0]} within folds, without refitting."
    if settings["n_permutations"]:
        yield f"p values permute the responses of {what[1]} and refit with the selected penalties."
    if split.cv == "shuffled":
        yield "folds were shuffled: scores are inflated where neighbouring stimuli or those of one passage are similar."
    if dataset.noise_ceiling() is None:
        yield "the dataset has neither repeats nor a noise ceiling, so scores are not normalized."
    lowest = min(settings["penalties"])
    stuck = [one.name for one in scored if np.mean(one.penalty <= lowest * (1 + 1e-6)) > EDGE]
    if stuck:
        yield (
            f"the smallest penalty was selected for {', '.join(dict.fromkeys(stuck))}; smaller penalties (`penalties`) "
            "may predict better."
        )


# What is scored


def _towers(activations: Activations, units: Units) -> dict[str, np.ndarray]:
    """Return one band of features per space."""
    bands = {}
    for tower, mask in units.mask.items():
        if mask.any():
            only = Units({name: m if name == tower else np.zeros_like(m) for name, m in units.mask.items()})
            bands[tower] = activations.of(only)
    return bands


def whole_blocks(units: Units, blocks: Mapping[str, Sequence[int]]) -> Units:
    """Return all units of the given layers."""
    masks = {}
    for tower, mask in units.mask.items():
        counted = np.zeros(len(mask), dtype=bool)
        counted[list(blocks.get(tower, ()))] = True
        counted &= np.asarray(mask.any(axis=1))
        masks[tower] = units.exists[tower] & counted[:, None]
    return Units(masks, widths=units.widths)


def fullest_layer(units: Units) -> Units:
    """Return all units of the layer with the largest number of the given units (the earliest such layer)."""
    counts = {(tower, i): int(n) for tower, per in units.per_layer().items() for i, n in enumerate(per)}
    tower, layer = max(counts, key=lambda place: counts[place])
    masks = {name: np.zeros_like(mask) for name, mask in units.mask.items()}
    masks[tower][layer] = units.exists[tower][layer]
    return Units(masks, widths=units.widths)


def _with_baselines(simple: Mapping[str, np.ndarray], first: FeatureSet) -> list[FeatureSet]:
    sets = [FeatureSet(name, "baseline", {name: features}) for name, features in simple.items()]
    if len(simple) > 1:
        sets.append(FeatureSet("all baselines", "baseline", dict(simple)))
    elif simple:
        sets[0] = FeatureSet("all baselines", "baseline", dict(simple))
    if simple:
        sets.append(FeatureSet(f"{first.name} + baselines", "beyond", {**first.bands, **simple}))
    return sets


def untrained_of(model: Model, untrained: Any, network: Units) -> tuple[Any, list[str]]:
    from modalnet.model import Model as Kind

    if isinstance(untrained, Kind):
        for tower, mask in network.mask.items():
            if mask.any() and (tower not in untrained.spaces or untrained.spaces[tower].shape != mask.shape):
                raise InputError(f"`untrained` must be a model with the spaces of {model.name}, got {untrained!r}.")
        return untrained, []
    if untrained not in (True, False, "auto"):
        raise InputError(f"`untrained` must be True, False, 'auto' or a Model, got {untrained!r}.")
    if untrained is False:
        return None, []
    parameters = list(model.module.parameters())
    if untrained == "auto":
        size = sum(parameter.numel() for parameter in parameters)
        why = ""
        if any(parameter.device.type == "meta" for parameter in parameters):
            why = "the weights of the model are not held locally"
        elif size > LARGEST_COPY:
            why = f"the model has {size / 1e9:.1f} billion parameters"
        if why:
            return None, [f"no untrained copy was scored, because {why}; `untrained=True` requests it."]
    return "copy", []  # initialized only when necessary: the scores may be stored


def baselines_of(dataset: BrainDataset, wanted: Sequence[str] | bool) -> tuple[dict[str, np.ndarray], list[str]]:
    if wanted is False:
        return {}, []
    return make_baselines(dataset, None if wanted is True else wanted)


def _split(
    dataset: BrainDataset, cv: str, n_folds: int, *, inner_folds: int, gap: int, seed: int, ceiling: Any
) -> tuple[Split, BrainDataset]:
    from dataclasses import replace

    if cv == "contiguous" and not dataset.ordered:
        raise InputError(
            f'`cv="contiguous"` holds out consecutive stimuli, but the rows of {dataset.name} are not known to be in '
            'presentation order. If they are, read the data with `ordered=True`; otherwise use `cv="grouped"`.'
        )
    if ceiling is not None:
        dataset = replace(dataset, ceiling=np.broadcast_to(np.asarray(ceiling, dtype=float), dataset.n_targets).copy())
    split = Split.make(cv, len(dataset), n_folds, inner_folds=inner_folds, gap=gap, seed=seed, groups=dataset.groups)
    if cv == "shuffled":
        dealing.warn_of_shuffling()
    return split, dataset


# Validation


def _layer_sets(activations: Activations, network: Units, everything: Units) -> list[FeatureSet]:
    """The features of the layer with most units of a network, and of all its layers."""
    fullest = fullest_layer(network)
    tower, layer, _ = fullest.indices()[0]
    return [
        FeatureSet(f"whole layer ({tower} {layer})", "whole layer", _towers(activations, fullest)),
        FeatureSet("all its layers", "whole layer", _towers(activations, everything)),
    ]


def _unit_sets(activations: Activations, network: Units, random: Sequence[Units], match: str) -> list[FeatureSet]:
    """The features of a network and of its random controls."""
    controls = [
        FeatureSet(f"random units, {match}-matched", "control", _towers(activations, one), tested=False)
        for one in random
    ]
    return [FeatureSet("network", "network", _towers(activations, network)), *controls]


def network_of(model: Any, units: Any, fraction: float, remote: bool | str | None) -> tuple[Model, Units]:
    """Return the model where it runs, and the units of a network, which must be the model's."""
    network = as_units(units, fraction)
    model = as_model(model, remote)
    check_units(model, network, "The network's units")
    return model, network


def _check_choices(regression: str, metric: str, device: str) -> None:
    check_option("regression", regression, REGRESSIONS)
    check_option("metric", metric, scoring.METRICS)
    from modalnet.brain.encoding import solver

    with solver(device):
        pass


def _penalties(given: Sequence[float] | None) -> np.ndarray:
    penalties = np.asarray(PENALTIES if given is None else given, dtype=np.float64)
    if penalties.ndim != 1 or not len(penalties) or not (np.isfinite(penalties) & (penalties > 0)).all():
        raise InputError(f"`penalties` must be a non-empty sequence of finite numbers above 0, got {given!r}.")
    return np.sort(penalties)
