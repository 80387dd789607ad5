"""Attribution patching: gradient-based approximations to activation patching.

The effect of patching activation ``a`` at a site is, to first order, ``(a_source - a_base) . dm/da`` at the base run.
Two forward passes and one backward pass give this estimate for every site, token and unit of a pair. Integrated
gradients take the mean gradient along the path of the site's activations from base to source instead, so that the
effects of the units of a layer add up to the effect of patching the layer, at the cost of several passes per layer.
AtP* corrects the gradient for effects that cancel and for saturated attention (:mod:`modalnet.patching.atp_star`).
:func:`modalnet.patching.agreement` compares estimates with exact activation patching of the same pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_option, check_shared
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.patching.activation import DIRECTIONS, first_picture
from modalnet.patching.atp_star import Corrections, star_estimates
from modalnet.patching.estimates import (
    SIGNED,
    Method,
    MethodName,
    check_differentiable,
    estimates,
    refuse_inference_mode,
)
from modalnet.patching.metrics import Measure, as_metric
from modalnet.patching.pairs import Layout, as_pairs, lay_out
from modalnet.patching.result import Patching
from modalnet.results.cache import Access, CacheLike, cached

if TYPE_CHECKING:
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
    method: MethodName = "gradient",
    steps: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Patching:
    """Estimate the effects of activation patching at every site, token and unit from gradients.

    Parameters
    ----------
    model, clean, corrupt, metric, sites, towers, tokens, direction, align, batch_size, remote, progress
        As for :func:`modalnet.activation_patching`. A function as metric must be differentiable.
    method
        Where the gradient is taken. ``"gradient"``: at the unpatched run; per pair two forward passes and one backward
        pass, for all sites. ``"integrated"``: the mean over the straight path of the site's activations, at all
        patched tokens together, from the unpatched run to the run that is patched in; per pair two forward passes, and
        ``steps`` forward and backward passes for each patched layer. The path is that of one layer at a time, which
        activation patching changes, too. A path of the inputs (Hanna et al. 2024) needs ``steps`` passes for all layers
        together, but its effects do not add up to those of patching a layer.

        ``"atp*"``: AtP* (Kramár et al. 2024), whose effects are magnitudes, never negative. *GradDrop*, for every unit
        and site: the gradient is taken once per block, each time without the paths through what this block adds to
        the stream, and the magnitudes of the effects are averaged over the blocks (but for the one that a unit lies
        in). Effects that cancel in one gradient are seen. *QK fix*, for the paper's query and key nodes; here for sites
        that enter an attention, the residual stream and ``pre``: the attention of the next block is run again on its
        changed input, and its exact change replaces the linear part of the effect. Units of a site have GradDrop alone,
        as each would need a rerun of its own; so have spaces inside a block, as MLP neurons in the paper. Per pair two
        forward passes, a forward and a backward pass for each block of the patched tower and of those behind it, and,
        of the residual stream and ``pre``, for each layer and column a run of one attention (of the blocks before it,
        too, where a model cannot start at a block).
    steps
        Number of steps of an integrated gradient, which is taken in the middle of each; None for 10.
    cache
        Whether the result is stored and reused. That of a function as metric is not stored, because a function has no
        identity.

    Returns
    -------
    Patching
        Estimates ``.effect[tower]`` ``[layer, column]``, and ``.unit_effect[tower]`` ``[layer, dim]``: the estimated
        effect of each unit, patched at all columns, oriented as ``.effect``. The effects of the units of a layer sum to
        that of patching the layer at all columns. With ``method="integrated"`` this sum approaches, as the steps grow,
        the exact effect of that patch (completeness; where the metric has no jumps along the path, such as those where
        a router chooses other experts), and ``.effect`` is the part of each column in it. Magnitudes
        (``"atp*"``) do not add up.

    Raises
    ------
    InputError
        As for :func:`modalnet.activation_patching`; also for the KL divergence with ``direction="noise"``, whose
        gradient is zero at the clean run, unless the method is ``"integrated"``; for ``steps`` below 1, or with another
        method; with ``"atp*"``, where there is nothing to correct: for the stream of blocks without attention, for
        spaces inside a single block, and for towers that merge patches between blocks; inside
        ``torch.inference_mode()``, where there is no gradient.

    References
    ----------
    Nanda (2023), Attribution patching. Syed, Rager & Conmy (2024), Attribution patching outperforms automated circuit
    discovery, BlackboxNLP. Sundararajan, Taly & Yan (2017), Axiomatic attribution for deep networks, ICML, for
    integrated gradients and completeness. Hanna, Pezzelle & Belinkov (2024), Have faith in faithfulness, COLM, for
    their use in patching. Kramár, Lieberum, Shah & Nanda (2024), AtP*, arXiv:2403.00745: equation 11 for GradDrop.
    """
    check_shared(batch_size=batch_size, progress=progress)
    check_option("direction", direction, DIRECTIONS)
    refuse_inference_mode()
    how = Method.checked(method, steps)
    access = Access.of(cache)
    model = as_model(model, remote)
    stimuli = as_pairs(clean, corrupt)
    measure = as_metric(metric).bind(model, *stimuli)
    check_differentiable(measure, direction, how)
    layout = lay_out(model, stimuli, measure, sites=sites, towers=towers, tokens=tokens, align=align)
    if how.name == "atp*":
        Corrections.of(model, layout)
    settings = {
        "direction": direction,
        "metric": [measure.metric.kind, measure.metric.answers, measure.metric.distractors],
        "method": [how.name, how.steps],
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
        return _estimate(model, measure, layout, direction, how, batch_size, progress=progress)

    kept = access if measure.metric.function is None else False
    return cached(model, "attribution", inputs, settings, compute, result=Patching, cache=kept)


def _estimate(  # noqa: PLR0917  # one call, above
    model: Model, measure: Measure, layout: Layout, direction: str, method: Method, batch_size: Any, *, progress: bool
) -> Patching:
    from tqdm.auto import tqdm

    n = len(layout.clean)
    values = {t: np.full((n, len(layout.layers[t]), len(layout.columns[t])), np.nan) for t in layout.layers}
    units = {t: np.zeros((len(layout.layers[t]), model.spaces[t].width)) for t in layout.layers}
    clean, corrupt = np.zeros(n), np.zeros(n)
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    signed = method.name in SIGNED
    run = (
        estimates(model, measure, layout, direction, method, batch_size)
        if signed
        else star_estimates(model, measure, layout, direction, batch_size)
    )
    with tqdm(run, total=n, unit="pair", disable=not progress) as bar:
        for found in bar:
            base[found.pair], source[found.pair] = found.base, found.source
            for tower, change in found.columns.items():
                values[tower][found.pair] = change
                units[tower] += found.units[tower]
    total = float((clean - corrupt).sum())
    # Patching a clean run removes the contribution of the units. A magnitude counts as carrying the difference.
    towards = 1.0 if direction == "denoise" else -1.0
    for tower in layout.layers:
        values[tower] = base[:, None, None] + values[tower] * (1.0 if signed else towards * np.sign(total))
        units[tower] *= towards if signed else np.sign(total)
    return Patching(
        model.name,
        measure.metric.name,
        direction,
        True,
        tuple(stimulus.label for stimulus in layout.clean),
        {tower: tuple(columns) for tower, columns in layout.columns.items()},
        layout.layers,
        clean,
        corrupt,
        values,
        unit_effect={tower: own / total if total else own * np.nan for tower, own in units.items()},
        picture=first_picture(layout.clean),
        method=method.name,
        steps=method.steps,
    )
