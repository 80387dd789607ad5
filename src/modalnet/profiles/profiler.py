"""Response profiles of a network, cross-validated against the selection of its units.

Units that were selected because they respond more to some sentences do so for these sentences by construction. A
response profile is informative only for held-out stimuli. Wherever the stimuli that selected the units are known, the
network is therefore reselected without a fold of them, and the response to a stimulus is that of a network whose
selection did not involve it (Kriegeskorte et al. 2009).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_option, check_shared
from modalnet.activations import (
    Activations,
    Selection,
    blocks_of,
    check_units,
    read_activations,
    reading_of,
    selection_of,
)
from modalnet.errors import InputError
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.profiles.human import LANGUAGE
from modalnet.profiles.result import Profile
from modalnet.results.cache import CacheLike, cached
from modalnet.stats.controls import check_match, draw, match_ratios, warn_of_poor_match
from modalnet.stimuli import Contrast, Stimulus, language_conditions
from modalnet.units import Units, as_units

if TYPE_CHECKING:
    from modalnet.model import Model

NORMALIZE = ("z", "minmax", "none")
NUMBER = re.compile(r"^(?P<kind>.*?)[-_: ]?(?P<number>\d+)$")


class Profiler:
    """Callable that measures response profiles; its only instance is :data:`modalnet.profile`."""

    @renamed_arguments(controls="n_controls")
    @reads_weights_once
    def __call__(
        self,
        model: Model,
        units: Any,
        conditions: Any,
        *,
        fraction: float = 0.01,
        normalize: Literal["z", "minmax", "none"] = "z",
        n_controls: int = 20,
        match: Literal["layer", "activation", "tower", "dimension"] = "layer",
        tokens: Any = None,
        magnitude: Literal["absolute", "signed"] | None = None,
        items: Sequence[str] | None = None,
        name: str = "network",
        seed: int = 0,
        batch_size: int | Literal["auto"] = "auto",
        remote: bool | str | None = None,
        cache: CacheLike = True,
        progress: bool = True,
    ) -> Profile:
        """Measure the response profile of a network over conditions, on held-out stimuli.

        Parameters
        ----------
        model
            A model from :func:`modalnet.load`.
        units
            The network: Units, or a Localization, of which the top ``fraction`` of units is selected.
        conditions
            A Contrast, a list of stimuli with conditions, or a mapping from conditions to stimuli or texts.
        fraction
            Fraction of units selected if ``units`` is a Localization.
        normalize
            ``"z"``: responses of each unit are z-scored over all stimuli, then averaged over units, so that a few
            units with massive activations do not dominate the profile. ``"minmax"``: each unit is scaled so that its
            condition means range from 0 to 1. ``"none"``: unscaled activations.
        n_controls, match
            Number of sets of random units, and the property in which they match the network.
        tokens, magnitude
            Token positions, and whether activations are taken as absolute values. None: as in the localization that
            selected the units, if known (with its truncation of texts); else the defaults of
            :func:`modalnet.localize`.
        items
            The item of each stimulus, which pairs stimuli across conditions. None: the numbers in which ids end, if
            every condition has the same ones (``"sentence-001"``, ``"word-list-001"``); else no items.
        name
            Name of the network, for display.
        seed
            Seed of the controls, resamples and permutations.
        batch_size, cache, progress
            As for :func:`modalnet.localize`.
        remote
            Where the model runs: None for its default, or a value that :func:`modalnet.load` accepts. One row of
            pooled activations per stimulus is returned.

        Returns
        -------
        Profile
            ``.table()``, ``.contrasts()``, ``.compare_to_human()``, ``.plot()``.

        Raises
        ------
        InputError
            If an argument is invalid, the units are empty or of another model, or a condition has fewer than two
            stimuli that did not select the units.

        Notes
        -----
        Units that a localization selected (``localization.top(...)``) carry their selection. The response to a stimulus
        that selected them is that of a network selected without its fold, and without the folds of the other stimuli
        of its item (as for a Jabberwocky sentence whose source sentence selected the units). Stimuli unrelated to the
        localizer are assigned to the same networks in turn. Units without their selection (after set algebra, or
        loaded from a file) are measured unchanged, on the stimuli that did not select them. If their selection is
        unknown, a note says so.

        References
        ----------
        Kriegeskorte, Simmons, Bellgowan & Baker (2009), Nature Neuroscience 12:535-540, for circularity; Fedorenko et
        al. (2010), Journal of Neurophysiology 104:1177-1194, for profiles of regions defined by other data.
        """
        check_shared(n_controls=n_controls, seed=seed, batch_size=batch_size, cache=cache, progress=progress)
        check_option("normalize", normalize, NORMALIZE)
        if magnitude is not None:
            check_option("magnitude", magnitude, ("absolute", "signed"))
        match = check_match(match)
        network = as_units(units, fraction)
        model = as_model(model, remote)
        check_units(model, network, "The network's units")
        stimuli = _conditions(conditions)
        plan = _plan(network, stimuli, items)
        reading = reading_of(network)
        chosen_tokens = tokens if tokens is not None else reading.get("tokens")
        size = magnitude or reading.get("magnitude") or "absolute"
        settings = {
            "normalize": normalize,
            "n_controls": n_controls,
            "match": match,
            "tokens": _plain(chosen_tokens),
            "magnitude": size,
            "max_tokens": reading.get("max_tokens"),
            "raw": bool(reading.get("raw")),
            "seed": seed,
            "n_units": network.count,
            "held_out": plan.how,
        }

        def compute() -> Profile:
            random, ratios = plan.controls(n_controls, seed, match, name)
            activations = read_activations(
                model,
                plan.stimuli,
                blocks_of(*plan.networks, *(draw for draws in random for draw in draws)),
                tokens=chosen_tokens,
                max_tokens=settings["max_tokens"],
                raw=settings["raw"],
                batch_size=batch_size,
                cache=cache,
                progress=progress,
                what="profiling",
            )
            measure = _Measure(activations, plan, absolute=size == "absolute", normalize=normalize)
            return Profile(
                model=model.name,
                network=name,
                conditions=plan.conditions,
                of_stimulus=plan.of_stimulus,
                items=plan.items,
                responses=measure(plan.networks),
                controls=np.stack([measure([draws[i] for draws in random]) for i in range(n_controls)])
                if n_controls
                else np.zeros((0, len(plan.stimuli))),
                normalize=normalize,
                notes=tuple(plan.notes),
                settings=settings,
                match_ratios=ratios,
            )

        named = {"model": model.name, "network": name}
        return cached(model, "profile", plan.inputs(), settings | named, compute, result=Profile, cache=cache)

    def language(
        self, model: Model, units: Any, conditions: Any = None, *, n: int | None = None, **options: Any
    ) -> Profile:
        """Measure the response profile over sentences, word lists, Jabberwocky and nonwords.

        Parameters
        ----------
        model, units
            As for :data:`modalnet.profile`.
        conditions
            Stimuli of the conditions ``sentences``, ``word-lists``, ``jabberwocky`` and ``nonwords``; by default those
            of :func:`modalnet.stimuli.language_conditions`.
        n
            Number of stimuli per bundled condition; None for all.
        **options
            As for :data:`modalnet.profile`.

        Returns
        -------
        Profile
            Its :meth:`~Profile.contrasts` include the lexical contrast (words against nonwords, with and without
            syntactic structure) and the syntactic contrast (structure against none, with and without words).

        Raises
        ------
        InputError
            As for :data:`modalnet.profile`; also if one of the four conditions is missing.

        References
        ----------
        Fedorenko et al. (2010), Journal of Neurophysiology 104:1177-1194; Fedorenko et al. (2016), PNAS
        113:E6256-E6262; Shain et al. (2024), Journal of Cognitive Neuroscience 36(7):1427-1471.
        """
        stimuli = _conditions(language_conditions(n) if conditions is None else conditions)
        there = {stimulus.condition for stimulus in stimuli}
        missing = [name for name in LANGUAGE if name not in there]
        if missing:
            raise InputError(f"`conditions` must include {', '.join(LANGUAGE)}, but lacks {', '.join(missing)}.")
        order = {condition: i for i, condition in enumerate(LANGUAGE)}
        wanted = [stimulus for stimulus in stimuli if stimulus.condition in order]
        return self(model, units, sorted(wanted, key=lambda one: order[str(one.condition)]), **options)

    def __repr__(self) -> str:
        return "modalnet.profile(model, units, conditions), .language(model, units)"


#: Measures the response profile of a network; see :meth:`Profiler.__call__` and :meth:`Profiler.language`.
profile = Profiler()


@dataclass(frozen=True, eq=False)
class _Plan:
    """Assignment of stimuli to the networks that measure them."""

    stimuli: tuple[Stimulus, ...]
    conditions: tuple[str, ...]
    of_stimulus: np.ndarray
    items: tuple[str, ...] | None
    networks: tuple[Units, ...]
    of_network: np.ndarray
    how: str
    notes: list[str]

    def controls(
        self, n: int, seed: int, match: str, name: str
    ) -> tuple[list[list[Units]], Float[np.ndarray, " draw"]]:
        """Return the controls of each network, and how well each draw matches, averaged over networks."""
        drawn = [draw(one, n, seed=seed, match=match) for one in self.networks]
        each = [match_ratios(one, controls) for one, controls in zip(self.networks, drawn, strict=True)]
        ratios = np.mean(each, axis=0)
        warn_of_poor_match(ratios, match, name)
        return drawn, ratios

    def inputs(self) -> dict[str, Any]:
        """Return what the responses depend on, for the cache key."""
        return {
            "networks": self.networks,
            "of_network": self.of_network,
            "stimuli": [stimulus.inspect().digest for stimulus in self.stimuli],
            "conditions": [self.conditions, self.of_stimulus],
            "items": self.items,
            "notes": self.notes,
        }


def _conditions(given: Any) -> list[Stimulus]:
    if isinstance(given, Contrast):
        return list(given.stimuli)
    if isinstance(given, Mapping):
        made = []
        for condition, some in given.items():
            if isinstance(some, str | Stimulus) or not isinstance(some, Sequence):
                raise InputError(
                    f"The condition {condition!r} must be a list of texts or stimuli, got a {type(some).__name__}."
                )
            for i, one in enumerate(some, start=1):
                stimulus = one if isinstance(one, Stimulus) else Stimulus(one)
                label = stimulus.id or f"{condition}-{i:03d}"
                made.append(replace(stimulus, condition=str(condition), id=label, item=None))
        return made
    if isinstance(given, str | Stimulus) or not isinstance(given, Sequence):
        raise InputError(
            "`conditions` must be a Contrast, a list of stimuli with conditions, or a mapping from conditions to "
            f"stimuli, got a {type(given).__name__}."
        )
    for index, one in enumerate(given):
        if not isinstance(one, Stimulus) or one.condition is None:
            raise InputError(f"`conditions[{index}]` must be a Stimulus with a condition, got {one!r:.80}.")
    return list(given)


def _plan(network: Units, stimuli: Sequence[Stimulus], items: Sequence[str] | None) -> _Plan:
    notes: list[str] = []
    if items is not None and len(items) != len(stimuli):
        raise InputError(f"`items` must have one entry per stimulus, got {len(items)} for {len(stimuli)} stimuli.")
    labels = tuple(map(str, items)) if items is not None else _numbered(stimuli)
    digests = [stimulus.inspect().digest for stimulus in stimuli]
    selection = selection_of(network)
    usable = np.ones(len(stimuli), dtype=bool)
    networks: tuple[Units, ...] = (network,)
    of_network = np.zeros(len(stimuli), dtype=np.int64)
    if selection is not None:
        folds = [selection.fold_of(digest) for digest in digests]
        usable = np.array([fold != -1 for fold in folds])
        if any(fold is not None for fold in folds):
            networks, of_network = _reselected(_unseen(stimuli, folds, labels, selection), selection)
            n = sum(fold is not None for fold in folds)
            how = (
                f"the network was reselected {len(networks)} times, each time without part of its localizer; {n} of "
                f"{len(stimuli)} stimuli are of the localizer, and each is measured by a network selected without "
                f"it{'' if labels is None else ' and without the other stimuli of its item'}"
            )
        else:
            how = "none of these stimuli selected the network"
    elif network.selected_on is not None:
        usable = np.array([digest not in network.selected_on for digest in digests])
        how = "these units are measured on stimuli that did not select them"
    else:
        how = "the stimuli that selected these units are unknown: if they include these, the profile is circular"
    notes.append(how)
    if not usable.all():
        notes.append(f"{int((~usable).sum())} of {len(stimuli)} stimuli selected these units and were left out")
    chosen = [stimulus for stimulus, keep in zip(stimuli, usable, strict=True) if keep]
    conditions = tuple(dict.fromkeys(str(stimulus.condition) for stimulus in stimuli))
    counts = Counter(str(stimulus.condition) for stimulus in chosen)
    for condition in conditions:
        if counts[condition] < 2:
            counted = "1 stimulus" if counts[condition] == 1 else f"{counts[condition]} stimuli"
            raise InputError(
                f"The condition {condition!r} has {counted} that did not select these units, but a profile requires "
                "two. Give the localization or its top(...), so that the network can be reselected without them, or "
                "other stimuli."
            )
    of_stimulus = np.array([conditions.index(str(stimulus.condition)) for stimulus in chosen])
    some_items = None if labels is None else tuple(label for label, keep in zip(labels, usable, strict=True) if keep)
    return _Plan(tuple(chosen), conditions, of_stimulus, some_items, networks, of_network[usable], how, notes)


def _numbered(stimuli: Sequence[Stimulus]) -> tuple[str, ...] | None:
    """Item numbers from ids, if every condition has the same numbers."""
    numbers = []
    for stimulus in stimuli:
        match = NUMBER.match(stimulus.id or "")
        if match is None:
            return None
        numbers.append(match["number"])
    by_condition: dict[str, list[str]] = {}
    for stimulus, number in zip(stimuli, numbers, strict=True):
        by_condition.setdefault(str(stimulus.condition), []).append(number)
    sets = [sorted(some) for some in by_condition.values()]
    if len(sets) < 2 or any(some != sets[0] or len(set(some)) < len(some) for some in sets):
        return None
    return tuple(numbers)


def _unseen(
    stimuli: Sequence[Stimulus], folds: Sequence[int | None], labels: Sequence[str] | None, selection: Selection
) -> list[tuple[int, ...]]:
    """Return, per stimulus, the folds that must not take part in selecting the network that measures it.

    These are its fold and those of the other stimuli of its item. Stimuli unrelated to the localizer are assigned the
    folds in turn, so that the same networks measure them.
    """
    of_item: dict[str, set[int]] = {}
    for label, fold in zip(labels or (), folds, strict=False):
        of_item.setdefault(label, set()).update([fold] if fold is not None and fold >= 0 else [])
    seen: Counter[str] = Counter()
    found = []
    for i, (stimulus, fold) in enumerate(zip(stimuli, folds, strict=True)):
        avoided = set() if labels is None else set(of_item[labels[i]])
        avoided |= {fold} if fold is not None and fold >= 0 else set()
        if not avoided:
            condition = str(stimulus.condition)
            avoided = {seen[condition] % selection.n_folds}
            seen[condition] += 1
        found.append(tuple(sorted(avoided)))
    return found


def _reselected(avoided: Sequence[tuple[int, ...]], selection: Selection) -> tuple[tuple[Units, ...], np.ndarray]:
    """Return one network per set of excluded folds, and the index of the network of each stimulus."""
    choices = {folds: index for index, folds in enumerate(dict.fromkeys(avoided))}
    for folds in choices:
        if len(folds) >= selection.n_folds:
            raise InputError(
                f"An item has stimuli in all {selection.n_folds} folds of the localizer, so that no fold is left to "
                "select a network. Give `items` with fewer stimuli each."
            )
    return tuple(selection.without(*folds) for folds in choices), np.array([choices[folds] for folds in avoided])


class _Measure:
    """The response of a network, or of one network per fold, to every stimulus."""

    def __init__(self, activations: Activations, plan: _Plan, *, absolute: bool, normalize: str) -> None:
        self.activations, self.plan, self.absolute, self.normalize = activations, plan, absolute, normalize

    def __call__(self, networks: Sequence[Units]) -> Float[np.ndarray, " stimulus"]:
        responses = np.empty(len(self.plan.stimuli))
        for index, units in enumerate(networks):
            rows = self.plan.of_network == index
            if rows.any():
                responses[rows] = self._normalized(units)[rows].mean(axis=1)
        return responses

    def _normalized(self, units: Units) -> Float[np.ndarray, "stimulus unit"]:
        values = self.activations.of(units).astype(np.float64)
        values = np.abs(values) if self.absolute else values
        if not np.isfinite(values).all():
            broken = int((~np.isfinite(values).all(axis=0)).sum())
            raise InputError(f"{broken} of {values.shape[1]} units have NaN or infinite activations on these stimuli.")
        if self.normalize == "none":
            return values
        if self.normalize == "z":
            low, span = values.mean(axis=0), values.std(axis=0)
        else:
            means = np.stack(
                [values[self.plan.of_stimulus == i].mean(axis=0) for i in range(len(self.plan.conditions))]
            )
            low, span = means.min(axis=0), np.ptp(means, axis=0)
        varies = span > 1e-12 * np.maximum(np.abs(low), 1e-300)
        if not varies.any():
            raise InputError("`normalize` requires units that vary over the stimuli, but all are constant.")
        return (values[:, varies] - low[varies]) / span[varies]


def _plain(tokens: Any) -> Any:
    if tokens is None or isinstance(tokens, str):
        return tokens
    if isinstance(tokens, Mapping):
        return {name: _plain(one) for name, one in tokens.items()}
    return [int(one) for one in np.atleast_1d(np.asarray(tokens))]
