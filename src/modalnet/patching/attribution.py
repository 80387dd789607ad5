"""Attribution patching: gradient-based approximations to activation patching.

The effect of patching activation ``a`` at a site is, to first order, ``(a_source - a_base) . dm/da`` at the base run.
Two forward passes and one backward pass give this estimate for every site, token and unit of a pair. Integrated
gradients take the mean gradient along the path of the site's activations from base to source instead, so that the
effects of the units of a layer add up to the effect of patching the layer, at the cost of several passes per layer.
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
from modalnet.patching.estimates import Method, MethodName, check_differentiable, estimates, refuse_inference_mode
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
        the exact effect of that patch (completeness), and ``.effect`` is the part of each column in it.

    Raises
    ------
    InputError
        As for :func:`modalnet.activation_patching`; also for the KL divergence with ``direction="noise"``, whose
        gradient is zero at the clean run, unless the method is ``"integrated"``; for ``steps`` below 1, or with another
        method; inside ``torch.inference_mode()``, where there is no gradient.

    References
    ----------
    Nanda (2023), Attribution patching. Syed, Rager & Conmy (2024), Attribution patching outperforms automated circuit
    discovery, BlackboxNLP. Sundararajan, Taly & Yan (2017), Axiomatic attribution for deep networks, ICML, for
    integrated gradients and completeness. Hanna, Pezzelle & Belinkov (2024), Have faith in faithfulness, COLM, for
    their use in patching.
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
    with tqdm(total=n, unit="pair", disable=not progress) as bar:
        for found in estimates(model, measure, layout, direction, method, batch_size):
            base[found.pair], source[found.pair] = found.base, found.source
            for tower, change in found.columns.items():
                values[tower][found.pair] = found.base + change
                # Patching a clean run removes the contribution of the units.
                units[tower] += found.units[tower] if direction == "denoise" else -found.units[tower]
            bar.update()
    total = float((clean - corrupt).sum())
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
