"""Measurement of specialization: overlap, selectivity, interference, dual-task cost and capacity of networks.

Each measure has requirements (localizations, contrasts or tasks of every domain). Measures whose requirements are not
met are reported as missing, with the reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_fraction, check_int, check_shared
from modalnet.activations import blocks_of, check_units, read_activations, reading_of
from modalnet.errors import InputError
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.models.sites import choose_spaces
from modalnet.results.cache import CacheLike, cached
from modalnet.specialization import capacity, interference, overlap as places
from modalnet.specialization.permuted import UNTESTED, compared, permuted_networks
from modalnet.specialization.result import MEASURES, Specialization
from modalnet.specialization.selectivity import selectivity
from modalnet.stats.controls import draw, match_columns, match_ratios
from modalnet.stimuli import Contrast
from modalnet.tasks.base import Task
from modalnet.units import Units, as_networks, as_units

if TYPE_CHECKING:
    from modalnet.model import Model

REQUIRES_LOCALIZATIONS = "it requires localizations (mn.localize(...)), but a network was given as fixed Units"
REQUIRES_CONTRASTS = "it requires the contrast of every domain (`contrasts`)"
REQUIRES_TASKS = "it requires a task of each domain (`tasks`)"


@renamed_arguments(networks="units", controls="n_controls", n_crossed="n_interaction")
@reads_weights_once
def specialization(  # one branch per measure
    model: Model,
    units: Mapping[str, Any],
    contrasts: Mapping[str, Contrast] | None = None,
    tasks: Mapping[str, Task] | None = None,
    *,
    fraction: float = 0.01,
    n_controls: int = 20,
    n_interaction: int = 40,
    n_permutations: int = 199,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Specialization:
    """Measure the specialization of two or more networks of one model.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`.
    units
        Mapping from domains to localizations, or to fixed Units (whose selectivity cannot be cross-validated and is not
        measured).
    contrasts
        Mapping from domains to the contrasts that localized their networks, for capacity and interference.
    tasks
        Mapping from domains to tasks scored by likelihood, for the dual-task cost.
    fraction
        Fraction of units selected from each Localization.
    n_controls
        Number of draws of layer-matched random units.
    n_interaction
        For interference, which is an interaction of two domains: number of stimuli per condition that are combined with
        those of the other domain.
    n_permutations
        Permutations of the labels of each contrast, at least 19, with which overlap and separation are compared. Where
        contrasts are missing, share stimuli, or are not those that localized the networks, neither is tested.
    seed
        Seed of the controls, permutations and resamples.
    batch_size, remote, cache, progress
        As for :func:`modalnet.localize`.

    Returns
    -------
    Specialization
        ``.table(measure)``, ``.summary()``, ``.plot()``; ``.missing`` gives the measures not taken, with the reason.

        ``overlap``: Dice coefficient of each pair, beside layer-matched random units and tested against networks of
        permuted labels. ``separation``: difference of their distributions over layers and towers, tested likewise.
        ``selectivity``: Hedges' g of each domain's contrast in each
        network, on held-out stimuli. ``interference``: loss of this effect while another domain is driven
        simultaneously. ``dual_task``: cost of driving another domain for a task, without and with lesions.
        ``capacity``: number of units that suffice to decode a domain. ``transfer``: accuracy of decoding a domain from
        the network of another.

    Raises
    ------
    InputError
        If there are fewer than two networks, a network is of another model, or names of domains do not match. Raised
        before any forward pass.

    Notes
    -----
    The measures show *whether* networks are segregated. Whether segregation has benefits (less conflict, more capacity)
    is a causal question, which requires comparing models that differ in it. Processing speed is not measured: the time
    of a transformer block does not depend on what it computes.

    References
    ----------
    Vallortigara & Rogers (2005), Behavioral and Brain Sciences 28(4):575-589, and Levy (1977), Annals of the New York
    Academy of Sciences 299:264-272, for proposed benefits of lateralization; Rogers, Zucca & Vallortigara (2004),
    Proceedings of the Royal Society B 271:S420-S422, for dual tasks. Each measure cites its source.
    """
    check_shared(n_controls=n_controls, seed=seed, batch_size=batch_size, cache=cache, progress=progress)
    check_int("n_interaction", n_interaction, minimum=2)
    check_int("n_permutations", n_permutations, minimum=19)
    check_fraction("fraction", fraction)
    given = as_networks(units)
    if len(given) < 2:
        raise InputError(
            "`units` must hold the networks of at least two domains, such as "
            '{"language": mn.localize(...), "vision": mn.localize(...)}, got one network.'
        )
    model = as_model(model, remote)
    localizations: dict[str, Any] = {name: one for name, one in given.items() if not isinstance(one, Units)}
    units = {name: as_units(one, fraction, name=f"units[{name!r}]") for name, one in given.items()}
    for name, one in units.items():
        check_units(model, one, f"The units of network {name!r}")
    shapes = _shapes(model, list(units.values()))
    units = {name: one.over(shapes) for name, one in units.items()}
    contrasts = _named(contrasts, Contrast, units, "contrasts")
    tasks = _named(tasks, Task, units, "tasks")
    settings = {
        "fraction": fraction,
        "n_controls": n_controls,
        "n_interaction": n_interaction,
        "n_permutations": n_permutations,
        "seed": seed,
        "units": {name: one.count for name, one in units.items()},
    }

    def compute() -> Specialization:
        return _measured(model, units, localizations, contrasts, tasks, settings, batch_size, cache, progress=progress)

    inputs = {
        "name": model.name,
        "units": units,
        "localizations": {name: one.to_arrays() for name, one in localizations.items()},
        "contrasts": {
            name: [
                [
                    [s.inspect().digest, s.condition, s.item, side]
                    for s, side in zip(one.stimuli, one.sides, strict=True)
                ],
                [(key, values.tolist()) for key, values in one.covariates.items()],
                None if one.regressor is None else one.regressor.tolist(),
            ]
            for name, one in contrasts.items()
        },
        "tasks": {name: one.identity() for name, one in tasks.items()},
    }
    return cached(model, "specialization", inputs, settings, compute, result=Specialization, cache=cache)


def _measured(  # noqa: PLR0917  # one call, above
    model: Model,
    units: dict[str, Units],
    localizations: Mapping[str, Any],
    contrasts: Mapping[str, Contrast],
    tasks: Mapping[str, Task],
    settings: dict[str, Any],
    batch_size: int | Literal["auto"],
    cache: CacheLike,
    *,
    progress: bool,
) -> Specialization:
    """Take every measure that the arguments allow."""
    fraction, n_controls, n_interaction, seed = (
        settings[name] for name in ("fraction", "n_controls", "n_interaction", "seed")
    )
    rng = np.random.Generator(np.random.PCG64([seed, 11]))
    tables: dict[str, Any] = {"overlap": [], "separation": [], "layers": places.per_layer(units)}
    missing: dict[str, str] = {}
    options: dict[str, Any] = {"batch_size": batch_size, "cache": cache, "progress": progress}
    networks, notes = _permuted(model, units, localizations, contrasts, settings, options)
    for a, b in itertools.combinations(units, 2):
        tested = UNTESTED
        if a in networks and b in networks:
            if _share_stimuli(contrasts[a], contrasts[b]):
                notes.append(f"{a} and {b} share stimuli: overlap and separation cannot be tested")
            else:
                tested = compared(units[a], units[b], networks[a], networks[b])
        tables["overlap"].append({"a": a, "b": b} | places.overlap(units[a], units[b], rng) | tested[0])
        tables["separation"].append({"a": a, "b": b} | places.separation(units[a], units[b]) | tested[1])
    if len(localizations) == len(units):
        tables["selectivity"], more = selectivity(localizations, fraction, draws=n_controls, seed=seed)
        notes += more
    else:
        missing["selectivity"] = REQUIRES_LOCALIZATIONS
    if len(contrasts) == len(units):
        _with_contrasts(model, units, contrasts, tables, missing, notes, (n_controls, n_interaction, seed), options)
    else:
        missing |= dict.fromkeys(("interference", "capacity", "capacity_curve", "transfer"), REQUIRES_CONTRASTS)
    if tasks and len(contrasts) == len(units):
        rows, more = interference.in_tasks(model, units, contrasts, tasks, seed=seed, batch_size=batch_size)
        notes += more
        if rows:
            tables["dual_task"] = rows
        else:
            missing["dual_task"] = "; ".join(more) or "no task can be combined with another domain"
    else:
        missing["dual_task"] = REQUIRES_TASKS if not tasks else REQUIRES_CONTRASTS
    ordered = {name: tables[name] for name in MEASURES if name in tables}
    return Specialization(model.name, tuple(units), ordered, missing, tuple(dict.fromkeys(notes)), settings)


def _permuted(  # noqa: PLR0917  # one call, above
    model: Model,
    units: Mapping[str, Units],
    localizations: Mapping[str, Any],
    contrasts: Mapping[str, Contrast],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """The networks of every domain under permuted labels, and why some domains have none."""
    networks: dict[str, Any] = {}
    notes = []
    for place, name in enumerate(units):
        if name not in localizations or name not in contrasts:
            what = "its contrast" if name in localizations else "a localization instead of fixed Units"
            notes.append(
                f"overlap and separation of {name} cannot be tested: labels are permuted, which requires {what}"
            )
            continue
        try:
            networks[name] = permuted_networks(
                model,
                units[name],
                localizations[name],
                contrasts[name],
                n_permutations=settings["n_permutations"],
                seed=int(np.random.SeedSequence([settings["seed"], 12, place]).generate_state(1)[0]),
                options=options,
            )
        except InputError as error:
            notes.append(f"overlap and separation of {name} cannot be tested: {error}")
    return networks, notes


def _share_stimuli(a: Contrast, b: Contrast) -> bool:
    seen, others = ({stimulus.inspect().digest for stimulus in one.stimuli} for one in (a, b))
    return bool(seen & others)


def _with_contrasts(  # noqa: PLR0917  # one call, above
    model: Model,
    units: Mapping[str, Units],
    contrasts: Mapping[str, Contrast],
    tables: dict[str, Any],
    missing: dict[str, str],
    notes: list[str],
    numbers: tuple[int, int, int],
    options: dict[str, Any],
) -> None:
    """Measure capacity, transfer and interference, which require the stimuli."""
    draws, n_interaction, seed = numbers
    tables |= {"capacity": [], "capacity_curve": [], "transfer": []}
    for domain in contrasts:
        _decode_domain(model, units, contrasts, domain, tables, notes, (draws, seed), options)
    rows, more = interference.in_units(model, units, contrasts, n=n_interaction, seed=seed, options=options)
    notes += more
    if rows:
        tables["interference"] = rows
    else:
        missing["interference"] = "; ".join(more) or "no two domains can be presented simultaneously"
    for name in ("capacity", "capacity_curve", "transfer"):
        if not tables[name]:
            del tables[name]
            missing[name] = "the stimuli of no domain reach the units"


def _decode_domain(  # noqa: PLR0917  # one call, above
    model: Model,
    units: Mapping[str, Units],
    contrasts: Mapping[str, Contrast],
    domain: str,
    tables: dict[str, Any],
    notes: list[str],
    numbers: tuple[int, int],
    options: dict[str, Any],
) -> None:
    """Add the capacity of a domain and its transfer to the other networks to the tables."""
    (draws, seed), contrast = numbers, contrasts[domain]
    reached = model._executor.reached_spaces(contrast.stimuli, list(units[domain].mask))
    own = {name: list(range(model.spaces[name].n_layers)) for name in reached if units[domain].mask[name].any()}
    if not own:
        notes.append(f"capacity of {domain}: its stimuli do not reach the towers of its network")
        return
    reading = reading_of(units[domain])
    towers = sorted({t for one in units.values() for t in blocks_of(one)} & set(reached) | set(own))
    tokens = reading.get("tokens")
    tokens = (
        {name: choice for name, choice in tokens.items() if name in towers} if isinstance(tokens, Mapping) else tokens
    )
    read = read_activations(
        model,
        contrast.stimuli,
        {tower: list(range(model.spaces[tower].n_layers)) for tower in towers},
        tokens=tokens,
        max_tokens=reading.get("max_tokens"),
        raw=bool(reading.get("raw")),
        what=f"reading {domain}",
        **options,
    )
    absolute = reading.get("magnitude", "absolute") == "absolute"
    positive = np.array([side == "positive" for side in contrast.sides])
    labels = list(contrast.labels)
    everything = np.concatenate([read.values[tower].reshape(len(positive), -1) for tower in own], axis=1)
    rows, found = capacity.capacity(
        np.abs(everything) if absolute else everything, positive, labels, draws=draws, seed=seed, items=contrast.items
    )
    tables["capacity_curve"] += [{"domain": domain} | row for row in rows]
    tables["capacity"].append({"domain": domain, "n_units": everything.shape[1]} | found)
    for name, network in units.items():
        if name == domain:
            continue
        there = _restricted(network, towers)
        if not there.count:
            notes.append(f"transfer: {domain} does not reach the units of {name}")
            continue

        def accuracy(one: Units, read: Any = read, positive: Any = positive, labels: Any = labels) -> float:
            values = np.abs(read.of(one)) if absolute else read.of(one)  # used at once
            return capacity.decoded_by(values, positive, labels, seed, contrast.items)

        drawn = draw(there, draws, seed=seed)
        random = [accuracy(one) for one in drawn]
        tables["transfer"].append(
            {
                "network": name,
                "domain": domain,
                "accuracy": accuracy(there),
                "control": float(np.mean(random)) if random else math.nan,
                "control_low": min(random, default=math.nan),
                "control_high": max(random, default=math.nan),
                **match_columns(match_ratios(there, drawn)),
            }
        )


def _shapes(model: Model, networks: Sequence[Units]) -> dict[str, tuple[int, int]]:
    """Return the shapes of the residual streams of a model and of every other space in which a network has units."""
    held = {*choose_spaces(model.spaces, None), *(name for units in networks for name in units.mask)}
    return {name: space.shape for name, space in model.spaces.items() if name in held}


def _restricted(units: Units, towers: Any) -> Units:
    masks = {name: mask if name in towers else np.zeros_like(mask) for name, mask in units.mask.items()}
    return Units(masks, mean_abs=units.mean_abs, widths=units.widths)


def _named(given: Any, kind: type, units: Mapping[str, Units], what: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"`{what}` must be a mapping from domains, got a {type(given).__name__}.")
    for name, one in given.items():
        if name not in units:
            raise InputError(f"`{what}` must have keys among the networks ({', '.join(units)}), got {name!r}.")
        if not isinstance(one, kind):
            raise InputError(f"`{what}[{name!r}]` must be a {kind.__name__}, got a {type(one).__name__}.")
    return {str(name): one for name, one in given.items()}
