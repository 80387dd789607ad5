"""Interference: the effect of driving one domain on the response to another.

Segregated networks should allow two domains to be processed simultaneously. A text of one domain and an image of
another are presented together, and the other domain is either *on* (its positive condition, such as an intact image) or
*off* (its negative condition, such as a scrambled image of the same size). The two states have the same number of text
and image tokens and differ only in the demand on the other domain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from modalnet.activations import blocks_of, read_activations, reading_of, selection_of
from modalnet.execution.likelihood import Request
from modalnet.interventions.operations import mean as mean_ablation
from modalnet.stats import resampling
from modalnet.stimuli import Contrast, Stimulus
from modalnet.tasks.base import LikelihoodTask
from modalnet.units import Units

if TYPE_CHECKING:
    from modalnet.model import Model

RESAMPLES = 2000
SAME = 1e-3  # z-scored responses that differ by less are equal up to rounding


def combine(one: Stimulus | None, other: Stimulus) -> Stimulus | None:
    """Combine two stimuli: a text with an image or a sound, or the second text before the first.

    None if both have images, or both have sounds.
    """
    if one is not None and ((one.n_images and other.n_images) or (one.n_sounds and other.n_sounds)):
        return None
    given = [other] if one is None else [one, other]
    both = " ".join(part for part in (each.text for each in reversed(given)) if part)
    images = [source for each in given for source in each.sources]
    sounds = [source for each in given for source in each.sound_sources]
    return Stimulus(both or None, image=images or None, audio=sounds or None) if both or images or sounds else None


def in_units(
    model: Model,
    networks: Mapping[str, Any],
    contrasts: Mapping[str, Contrast],
    *,
    n: int,
    seed: int,
    options: dict[str, Any],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure the effect of a domain's contrast in its network while another domain is driven.

    Parameters
    ----------
    model
        A model that accepts both domains in one input.
    networks
        Mapping from domains to units; if these carry their selection, the response to a stimulus is that of the network
        selected without its fold.
    contrasts
        Mapping from domains to contrasts.
    n
        Number of stimuli per condition.
    seed
        Seed of the bootstrap.
    options
        Options for reading activations.

    Returns
    -------
    rows
        domain, other; g_off, g_on: effect size (Hedges' g of the mean z-scored \\|activation\\| of the network, at the
        tokens at which it was selected) of the domain's contrast while the other is off and on; cost = g_off - g_on
        with low, high (95%, bootstrap over stimuli); share = cost / g_off.
    notes
        Pairs that cannot be presented simultaneously, and those in which the other domain cannot affect the network: in
        a causal decoder, earlier tokens do not attend to later ones.
    """
    rows, notes = [], []
    for domain, units in networks.items():
        for other in networks:
            if other == domain or domain not in contrasts or other not in contrasts:
                continue
            made = _combined(contrasts[domain], contrasts[other], n)
            if made is None:
                notes.append(
                    f"{domain} with {other}: both have the same modality and cannot be presented simultaneously"
                )
                continue
            stimuli, own, driven, base = made
            sets = _unseen(units, base)
            where = blocks_of(*sets)
            reached = model._executor.reached_spaces(stimuli, list(where))
            if any(tower not in reached for tower in where):
                notes.append(f"{domain} with {other}: the network has units in a tower that these stimuli do not reach")
                continue
            reading = reading_of(units)
            what = f"{domain} with {other}"
            read = read_activations(model, stimuli, where, tokens=reading.get("tokens"), what=what, **options)
            size = np.abs if reading.get("magnitude", "absolute") == "absolute" else np.asarray
            network_of = {id(one): size(read.of(one).astype(np.float64)) for one in sets}
            responses = np.empty(len(stimuli))
            for one in {id(one): one for one in sets}.values():
                values = network_of[id(one)]
                spread = values.std(axis=0)
                z = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
                here = np.array([sets[i] is one for i in range(len(stimuli))])
                responses[here] = z[here].mean(axis=1)
            rows.append({"domain": domain, "other": other} | _cost(responses, own, driven, base, seed))
            if np.allclose(responses[driven], responses[~driven], rtol=0, atol=SAME):
                notes.append(
                    f"{domain} with {other}: the network of {domain} does not depend on {other}, because its tokens "
                    f"come first; {other} cannot interfere"
                )
    return rows, notes


def _combined(
    own: Contrast, other: Contrast, n: int
) -> tuple[list[Stimulus], np.ndarray, np.ndarray, list[Stimulus]] | None:
    """Combine stimuli of a contrast with both sides of another: (combined, own side, other side, own stimulus)."""
    if _kind(own) == _kind(other):
        return None  # in one stimulus, two texts or two images could not be attributed to their domains
    sides = {}
    for name, contrast in (("own", own), ("other", other)):
        for positive in (True, False):
            word = "positive" if positive else "negative"
            chosen = [s for s, side in zip(contrast.stimuli, contrast.sides, strict=True) if side == word]
            sides[name, positive] = chosen[:n]
    stimuli, is_own, is_driven, base = [], [], [], []
    for positive in (True, False):
        for driven in (True, False):
            partners = sides["other", driven]
            for index, one in enumerate(sides["own", positive]):
                both = combine(one, partners[index % len(partners)])
                if both is None:
                    return None
                stimuli.append(both)
                is_own.append(positive)
                is_driven.append(driven)
                base.append(one)
    return stimuli, np.array(is_own), np.array(is_driven), base


def _kind(contrast: Contrast) -> str:
    kinds = {stimulus.kind for stimulus in contrast.stimuli}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _unseen(units: Units, stimuli: Sequence[Stimulus]) -> list[Units]:
    """Return, per stimulus, the network selected without its fold, or the given units if that is unknown."""
    selection = selection_of(units)
    if selection is None:
        return [units] * len(stimuli)
    made: dict[int, Units] = {}
    found = []
    for stimulus in stimuli:
        fold = selection.fold_of(stimulus.inspect().digest)
        if fold is None or fold < 0:
            found.append(units)
            continue
        if fold not in made:
            made[fold] = selection.without(fold)
        found.append(made[fold])
    return found


def _cost(
    responses: Float[np.ndarray, " stimulus"], own: np.ndarray, driven: np.ndarray, base: Sequence[Stimulus], seed: int
) -> dict[str, float]:
    """Return g of the contrast with the other domain off and on, and their paired difference."""
    cells = {(o, d): responses[(own == o) & (driven == d)] for o in (True, False) for d in (True, False)}

    def g(weights: Mapping[bool, np.ndarray], state: bool) -> np.ndarray:
        moments = []
        for side in (True, False):
            values, w = cells[side, state], weights[side]
            total = w.sum(axis=1)
            mean = w @ values / total
            moments.append((total, mean, (w @ values**2 - total * mean**2) / (total - 1)))
        (n_a, mean_a, var_a), (n_b, mean_b, var_b) = moments
        pooled = ((n_a - 1) * var_a + (n_b - 1) * var_b) / (n_a + n_b - 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (1 - 3 / (4 * (n_a + n_b) - 9)) * (mean_a - mean_b) / np.sqrt(pooled)

    whole = {side: np.ones((1, len(cells[side, True]))) for side in (True, False)}
    rng = np.random.Generator(np.random.PCG64([seed, 9]))
    drawn = {
        side: resampling.bootstrap_counts(len(cells[side, True]), RESAMPLES, rng).astype(float)
        for side in (True, False)
    }
    off, on = float(g(whole, False)[0]), float(g(whole, True)[0])
    low, high = resampling.interval(g(drawn, False) - g(drawn, True))
    return {
        "g_off": off,
        "g_on": on,
        "cost": off - on,
        "low": low,
        "high": high,
        "share": (off - on) / off if off else math.nan,
        "n": len(cells[True, True]),
    }


def in_tasks(
    model: Model,
    networks: Mapping[str, Units],
    contrasts: Mapping[str, Contrast],
    tasks: Mapping[str, Any],
    *,
    seed: int,
    batch_size: Any,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure the dual-task cost: the loss of accuracy while another domain is driven, without and with lesions.

    Parameters
    ----------
    model, contrasts
        As for :func:`in_units`.
    networks
        Units to lesion, by mean ablation with means over the stimuli of the task.
    tasks
        Mapping from domains to tasks scored by likelihood.
    seed
        Seed of the bootstrap.
    batch_size
        As for :func:`modalnet.localize`.

    Returns
    -------
    rows
        domain, other, lesion (``""`` for none); alone: accuracy without a stimulus of the other domain; off, on:
        accuracy while the other domain is off and on; cost = off - on with low, high (95%, paired
        bootstrap over items, or over their paradigms: see :meth:`modalnet.tasks.TaskScores.interval`).
    notes
        The pairs that could not be measured.

    References
    ----------
    Pashler (1994), Psychological Bulletin 116(2):220-244, for dual-task costs.
    """
    rows, notes = [], []
    for domain, task in tasks.items():
        if not isinstance(task, LikelihoodTask):
            notes.append(f"the task of {domain} is not scored by likelihood and cannot be combined with another domain")
            continue
        alone = task.grade(model._executor.likelihoods(task.requests(), batch_size=batch_size))
        for other, contrast in contrasts.items():
            if other == domain:
                continue
            made = {on: _beside(task, contrast, on) for on in (False, True)}
            if made[True] is None or made[False] is None:
                notes.append(
                    f"the task of {domain} with {other}: both have images, or items differ in their number of requests"
                )
                continue
            rows += _lesioned(model, task, made, networks, (domain, other), alone, seed, batch_size)
    return rows, notes


def _beside(task: LikelihoodTask, contrast: Contrast, on: bool) -> list[Request] | None:
    """Return the requests of a task, each item preceded by a stimulus of one side of the other domain."""
    word = "positive" if on else "negative"
    partners = [s for s, side in zip(contrast.stimuli, contrast.sides, strict=True) if side == word]
    requests = list(task.requests())
    if len(requests) % len(task):
        return None
    each = len(requests) // len(task)
    found = []
    for index, request in enumerate(requests):
        partner = partners[(index // each) % len(partners)]
        both = combine(request.stimulus, partner)
        if both is None:
            return None
        continuation = request.continuation
        if request.stimulus is None and both.text is not None and not continuation.startswith(" "):
            return None  # without a leading space, the continuation would merge with the preceding text
        found.append(replace(request, stimulus=both))
    return found


def _lesioned(  # noqa: PLR0917  # one call, above
    model: Model,
    task: LikelihoodTask,
    made: Mapping[bool, Any],
    networks: Mapping[str, Units],
    names: tuple[str, str],
    alone: np.ndarray,
    seed: int,
    batch_size: Any,
) -> list[dict[str, Any]]:
    shown = {request.stimulus for requests in made.values() for request in requests}
    stimuli = [stimulus for stimulus in shown if stimulus is not None]
    held = list(dict.fromkeys(name for units in networks.values() for name in units.mask))
    reached = model._executor.reached_spaces(stimuli, held)
    variants: dict[str, list[Any]] = {"": []}
    means = model.means(stimuli, spaces=reached)
    for name, units in networks.items():
        masks = {tower: mask if tower in reached else np.zeros_like(mask) for tower, mask in units.mask.items()}
        lesion = Units(masks, model=units.model)
        if lesion.count:
            variants[name] = [mean_ablation(lesion, over=means)]
    scores: dict[bool, list[np.ndarray]] = {}
    for state, requests in made.items():
        found = model._executor.likelihoods_under(requests, list(variants.values()), batch_size=batch_size)
        scores[state] = [task.grade(one) for one in found]
    rng = np.random.Generator(np.random.PCG64([seed, 10]))
    paradigms = task.scores(scores[False][0]).groups
    groups = resampling.item_groups(paradigms, f"The items of {task.name!r}")
    level = resampling.expanded(resampling.LEVEL, resampling.n_blocks(len(task), groups))
    costs = np.stack([off - on for off, on in zip(scores[False], scores[True], strict=True)], axis=1)
    drawn = resampling.bootstrap_means(costs, RESAMPLES, rng, groups)
    rows = []
    for index, name in enumerate(variants):
        off, on = scores[False][index], scores[True][index]
        low, high = resampling.interval(drawn[:, index], level)
        rows.append(
            {
                "domain": names[0],
                "other": names[1],
                "lesion": name,
                "alone": float(alone.mean()) if not name else math.nan,
                "off": float(off.mean()),
                "on": float(on.mean()),
                "cost": float((off - on).mean()),
                "low": low,
                "high": high,
                "measure": task.measure,
                "n": len(task),
            }
        )
    return rows
