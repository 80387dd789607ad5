"""Attribution patching: a gradient-based approximation to activation patching.

The effect of patching activation ``a`` at a site is, to first order, ``(a_source - a_base) . dm/da`` at the base run.
Two forward passes and one backward pass give this estimate for every site, token and unit of a pair. The approximation
is linear; :func:`modalnet.patching.agreement` compares it with exact activation patching of the same pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_option, check_shared
from modalnet.errors import InputError
from modalnet.execution.cells import State
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.patching.activation import DIRECTIONS, TOGETHER, first_picture
from modalnet.patching.metrics import Measure, as_metric
from modalnet.patching.pairs import Layout, as_pairs, lay_out
from modalnet.patching.result import Patching
from modalnet.results.cache import Access, CacheLike, cached

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.model import Model


@reads_weights_once
def attribution_patching(
    model: Model,
    clean: Any,
    corrupt: Any,
    metric: Any,
    *,
    sites: Any = "residual",
    towers: str | Sequence[str] | None = None,
    tokens: Any = None,
    direction: Literal["denoise", "noise"] = "denoise",
    align: Any = None,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Patching:
    """Estimate the effects of activation patching at every site, token and unit from one gradient per pair.

    Parameters
    ----------
    model, clean, corrupt, metric, sites, towers, tokens, direction, align, batch_size, remote, progress
        As for :func:`modalnet.activation_patching`. A function as metric must be differentiable.
    cache
        Whether the result is stored and reused. That of a function as metric is not stored, because a function has no
        identity.

    Returns
    -------
    Patching
        Estimates ``.effect[tower]`` ``[layer, column]``, and ``.unit_effect[tower]`` ``[layer, dim]``: the estimated
        effect of each unit, patched at all columns, oriented as ``.effect``. The effects of the units of a layer sum to
        that of patching the layer at all columns.

    Raises
    ------
    InputError
        As for :func:`modalnet.activation_patching`; also for the KL divergence with ``direction="noise"``, whose
        gradient is zero at the clean run; inside ``torch.inference_mode()``, where there is no gradient.

    References
    ----------
    Nanda (2023), Attribution patching. Syed, Rager & Conmy (2024), Attribution patching outperforms automated circuit
    discovery, BlackboxNLP.
    """
    check_shared(batch_size=batch_size, progress=progress)
    check_option("direction", direction, DIRECTIONS)
    _refuse_inference_mode()
    access = Access.of(cache)
    model = as_model(model, remote)
    stimuli = as_pairs(clean, corrupt)
    measure = as_metric(metric).bind(model, *stimuli)
    if measure.needs_clean and direction == "noise":
        raise InputError(
            "`direction='noise'` cannot estimate KL(clean || run): its gradient is zero in the clean run, where it has "
            'its minimum. Use `direction="denoise"` or another metric.'
        )
    layout = lay_out(model, stimuli, measure, sites=sites, towers=towers, tokens=tokens, align=align)
    settings = {
        "direction": direction,
        "metric": [measure.metric.kind, measure.metric.answers, measure.metric.distractors],
    }
    inputs = {
        "name": model.name,
        "pairs": layout.digests,
        "labels": [stimulus.label for stimulus in layout.clean],
        "layers": layout.layers,
        "columns": {tower: [asdict(column) for column in columns] for tower, columns in layout.columns.items()},
        "matches": layout.matches,
    }

    def compute() -> Patching:
        return _estimate(model, measure, layout, direction, batch_size, progress=progress)

    kept = access if measure.metric.function is None else False
    return cached(model, "attribution", inputs, settings, compute, result=Patching, cache=kept)


def _refuse_inference_mode() -> None:
    import torch

    # no_grad() is undone for the backward pass; this mode is not, as the tensors made in it never have a gradient.
    if torch.is_inference_mode_enabled():
        raise InputError(
            "attribution_patching() needs gradients, which torch.inference_mode() forbids. Call it outside of it."
        )


def _estimate(
    model: Model, measure: Measure, layout: Layout, direction: str, batch_size: Any, *, progress: bool
) -> Patching:
    from tqdm.auto import tqdm

    n = len(layout.clean)
    answers = measure.continuations
    values = {t: np.full((n, len(layout.layers[t]), len(layout.columns[t])), np.nan) for t in layout.layers}
    units = {t: np.zeros(model.spaces[t].shape) for t in layout.layers}
    whole = {"clean": np.zeros(n), "corrupt": np.zeros(n)}
    base, source = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
    sides = {"clean": layout.clean, "corrupt": layout.corrupt}
    side = 1 if base == "corrupt" else 0
    with tqdm(total=n, unit="pair", disable=not progress) as bar:
        for start in range(0, n, TOGETHER):
            some = list(range(start, min(start + TOGETHER, n)))
            continuations = None if answers is None else [answers[pair] for pair in some]
            options: dict[str, Any] = {"continuations": continuations, "batch_size": batch_size}
            towers = list(layout.layers)
            outcome = measure.outcome_of(some)
            states = model._executor.states(
                [sides[source][pair] for pair in some], spaces=towers, outcome=outcome, **options
            )
            measure.refer(some, states)
            for pair, state in zip(some, states, strict=True):
                whole[source][pair] = measure.value(state.outcome, pair)
            tokens = _answer_tokens(model, [sides[base][pair] for pair in some], continuations)

            def measured(logits: torch.Tensor, places: Sequence[int], some: Any = some, tokens: Any = tokens) -> Any:
                return measure.of_logits(logits, [some[p] for p in places], [tokens[p] for p in places])

            run = model._executor.gradients([sides[base][pair] for pair in some], measured, spaces=towers, **options)
            for place, state, gradient, value in run:
                pair = some[place]
                whole[base][pair] = float(value)
                for tower, layers in layout.layers.items():
                    slopes = gradient[tower].double()
                    for column, per_pair in enumerate(layout.matches[tower]):
                        if not per_pair[pair]:
                            continue
                        each = _products(tower, per_pair[pair], side, state, states[place], slopes)
                        values[tower][pair, :, column] = float(value) + each.sum(1)[list(layers)]
                    everywhere = sorted({match for per_pair in layout.matches[tower] for match in per_pair[pair]})
                    each = _products(tower, everywhere, side, state, states[place], slopes)
                    # Patching a clean run removes the contribution of the units.
                    units[tower] += each if base == "corrupt" else -each
                bar.update()
            measure.reference.clear()
    total = float((whole["clean"] - whole["corrupt"]).sum())
    return Patching(
        model.name,
        measure.metric.name,
        direction,
        True,
        tuple(stimulus.label for stimulus in layout.clean),
        {tower: tuple(columns) for tower, columns in layout.columns.items()},
        layout.layers,
        whole["clean"],
        whole["corrupt"],
        values,
        unit_effect={t: own[list(layout.layers[t])] / total if total else own * np.nan for t, own in units.items()},
        picture=first_picture(layout.clean),
    )


def _products(  # noqa: PLR0917  # one call, above
    tower: str, match: Sequence[tuple[int, int]], side: int, into: State, out_of: State, slopes: torch.Tensor
) -> Float[np.ndarray, "layer dim"]:
    """Activation difference times gradient, summed over the patched tokens; ``side`` is that of the patched run."""
    first, second = [pair[side] for pair in match], [pair[1 - side] for pair in match]
    difference = out_of.activations[tower][:, second] - into.activations[tower][:, first]
    return (difference.double() * slopes[:, first]).sum(1).numpy()


def _answer_tokens(model: Model, stimuli: Sequence[Any], continuations: Sequence[str] | None) -> list[tuple[int, ...]]:
    if continuations is None:
        return [() for _ in stimuli]
    return [model._executor.next_tokens(stimulus, text) for stimulus, text in zip(stimuli, continuations, strict=True)]
