"""What the released code of published localizers does, in plain torch, numpy and scipy, with nothing of modalnet.

Texts and pictures run one at a time. A protocol is a :class:`Reading`, which module is read and how, and one of the
functions below it, which makes a mask ``[layer, unit]`` of what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from reference import watch

#: Activations ``[stimulus, layer, unit]``, as they are pooled.
Activations = np.ndarray


@dataclass(frozen=True)
class Reading:
    """Which module of a block is read, and how.

    Attributes
    ----------
    inside
        Path within a block; empty for its output.
    last
        Whether the last token is read, or the mean over all.
    absolute
        Whether absolute values are compared.
    max_length
        Of texts, in tokens.
    template
        Whether texts stand in the chat template, where there is one.
    """

    inside: str = ""
    last: bool = True
    absolute: bool = True
    max_length: int | None = None
    template: bool = False


READINGS = {
    "alkhamissi2025": Reading(max_length=12),
    "brainscore2025": Reading(absolute=False, max_length=12),
    "syntax2026": Reading(),
    "tom2026": Reading(last=False),
    "anhedonia2026": Reading("mlp.act_fn", absolute=False, template=True),
    "dyslexia2026": Reading("mlp.gate_proj", last=False, absolute=False, template=True),
    "topoomni2026": Reading(last=False, absolute=False, template=True),
}


def text_inputs(tokenizer: Any, text: str, reading: Reading) -> dict[str, torch.Tensor]:
    """Token ids of one text."""
    if reading.template and tokenizer.chat_template:
        turn = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return dict(tokenizer(text, add_special_tokens=False, return_tensors="pt"))
    cut = {"truncation": True, "max_length": reading.max_length} if reading.max_length else {}
    return dict(tokenizer(text, return_tensors="pt", **cut))


def activations(
    module: Any, blocks: Sequence[str], reading: Reading, inputs: Sequence[Mapping[str, torch.Tensor]]
) -> Activations:
    """What is read of each input, in float32."""
    where = [f"{block}.{reading.inside}" if reading.inside else block for block in blocks]
    rows = []
    for each in inputs:
        with torch.no_grad(), watch(module, where) as seen:
            module(**each)
        layers = [seen[path][0].reshape(-1, seen[path][0].shape[-1]).float() for path in where]
        pooled = torch.stack([layer[-1] if reading.last else layer.mean(0) for layer in layers])
        rows.append(pooled.abs() if reading.absolute else pooled)
    return torch.stack(rows).numpy()


def welch(positive: Activations, negative: Activations, dtype: type = np.float64) -> np.ndarray:
    """t in one precision."""
    return stats.ttest_ind(positive.astype(dtype), negative.astype(dtype), equal_var=False).statistic


def densely_ranked(t: np.ndarray, fraction: float) -> np.ndarray:
    """`alkhamissi2025`, `brainscore2025`, `syntax2026` and, with 0 for NaN, `dyslexia2026`."""
    _, place = np.unique(-t, return_inverse=True)
    return (place < int(fraction * t.size)).reshape(t.shape)


def beyond_a_threshold(t: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """`tom2026`: the top and the bottom."""
    ordered, k = np.sort(t[~np.isnan(t)]), int(fraction * t.size)
    return t >= ordered[-k], t <= ordered[k]


def in_every_contrast(
    sides: Sequence[tuple[Activations, Activations]], first_layer: int, threshold: float = 3.0
) -> np.ndarray:
    """`anhedonia2026`."""
    kept = None
    for positive, negative in sides:
        d = positive.astype(np.float64).mean(0) - negative.astype(np.float64).mean(0)
        beyond = np.abs(d) > threshold * d.std()
        kept = beyond if kept is None else kept & beyond
    assert kept is not None
    kept[:first_layer] = False
    return kept


def smoothed_top(t: np.ndarray, positions: np.ndarray, fraction: float) -> np.ndarray:
    """`topoomni2026`: the top after a Gaussian of FWHM 4 over the sheet."""
    places = positions.reshape(-1, 2)
    squares = np.square(places[:, None] - places[None]).sum(-1)
    weights = np.exp(-squares / (2 * (4 / 2.354820045) ** 2))
    even = weights @ t.ravel() / weights.sum(1)
    mask = np.zeros(t.size, dtype=bool)
    mask[np.argsort(-even, kind="stable")[: int(fraction * t.size)]] = True
    return mask.reshape(t.shape)


def split(stimuli: Sequence[Any], sides: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Stimuli of the positive and of the negative side."""
    pairs = list(zip(stimuli, sides, strict=True))
    return [each for each, side in pairs if side == "positive"], [each for each, side in pairs if side == "negative"]


def sides_of(
    contrast: Any, module: Any, blocks: Sequence[str], reading: Reading, inputs_of: Callable[[Any], Any]
) -> tuple[Activations, Activations]:
    """What is read of both sides of a contrast."""
    positive, negative = split(contrast.stimuli, contrast.sides)
    return (
        activations(module, blocks, reading, [inputs_of(each) for each in positive]),
        activations(module, blocks, reading, [inputs_of(each) for each in negative]),
    )
