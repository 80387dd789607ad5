"""Models that draw random numbers in a forward pass: found out, and refused by name.

A pass that draws leaves the generators of random numbers in another state. Such a pass runs a second time; where it
gives something else, no number read from the model can be repeated. Some models draw in every pass and use what they
drew in training alone: these are not refused.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.models.state import hooked

if TYPE_CHECKING:
    import torch

    from modalnet.execution.trace import Saved

# What configs call the share of an input that is hidden at random, and noise that is added, outside of training too.
_SETTINGS = re.compile(r"^mask_ratio$|noise|jitter")
# How far two passes that compute the same may differ, as a share of the largest value: a GPU adds up in any order.
CLOSE = 1e-3


class Chance:
    """Watches the passes of one model for random numbers that decide what they give."""

    def __init__(self) -> None:
        self._harmless = False  # drawn numbers were found to decide nothing

    def watched(
        self, module: torch.nn.Module, run: Callable[[], Saved], logits: Callable[[], Any] | None = None
    ) -> Saved:
        """What a pass saves.

        Parameters
        ----------
        module
            The model.
        run
            Runs the pass.
        logits
            Of a generation, whose tokens may be the same although what they are chosen by is not: a plain pass.

        Raises
        ------
        InputError
            Where it saves something else each time.
        """
        if self._harmless:
            return run()
        before = _generators(module)
        saved = run()
        if _generators(module) == before:
            return saved
        alike = _alike(saved, run()) if logits is None else _alike({"logits": [logits()]}, {"logits": [logits()]})
        if not alike:
            raise InputError(_refusal(module))
        self._harmless = True
        return saved


def _generators(module: torch.nn.Module) -> list[Any]:
    """The states of the generators that a forward pass may draw from."""
    import random

    import numpy as np
    import torch

    drawn: Any = np.random.get_state()  # noqa: NPY002
    states = [torch.get_rng_state().numpy().tobytes(), random.getstate(), drawn[1].tobytes(), drawn[2]]
    kind = next((each.device.type for each in module.parameters() if each.device.type != "meta"), "cpu")
    if kind == "cuda":
        states += [torch.cuda.get_rng_state(number).numpy().tobytes() for number in range(torch.cuda.device_count())]
    elif kind == "mps":
        states.append(torch.mps.get_rng_state().numpy().tobytes())
    return states


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two passes saved the same."""
    import torch

    def tensors(saved: Mapping[str, Any]) -> list[torch.Tensor]:
        return [value for values in saved.values() for value in values if isinstance(value, torch.Tensor)]

    pairs = list(zip(tensors(one), tensors(other), strict=False))
    if len(tensors(one)) != len(tensors(other)) or any(a.shape != b.shape for a, b in pairs):
        return False
    return all(_close(a.detach().float(), b.detach().float()) for a, b in pairs)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    scale = float(one.nan_to_num().abs().max()) if one.numel() else 0.0
    return bool(torch.allclose(one, other, rtol=CLOSE, atol=CLOSE * min(scale, 1.0), equal_nan=True))


def _refusal(module: torch.nn.Module) -> str:
    """Why the passes of a model cannot be repeated, and what to do about it."""
    name = type(module).__name__
    said = f"{name} draws random numbers in its forward pass: the same stimulus gives other values each time. "
    if where := hooked(module):
        return f"{said}Besides, {where}; remove it if it draws them."
    settings = {
        attribute: value
        for each in module.modules()
        if hasattr(getattr(each, "config", None), "to_dict")
        for attribute, value in vars(each.config).items()
        if _SETTINGS.search(attribute) and isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    }
    if settings:
        named = " and ".join(f"config.{attribute} is {value}" for attribute, value in settings.items())
        return f"{said}Its {named}: set it to 0, and read the mean of the tokens if their order is drawn too."
    if "noise" in inspect.signature(module.forward).parameters:
        return f"{said}Its forward takes `noise`: wrap it in a module that passes the same noise each time."
    return f"{said}Look for torch.rand or dropout(training=True) in it, and switch them off."
