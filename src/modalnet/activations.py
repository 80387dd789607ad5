"""What units do on stimuli, stimulus by stimulus, for the analyses that need every one of them.

A localization reduces activations as they come; a response profile, an encoding model or a decoder needs one row per
stimulus. They are read once, at whole blocks, and kept in the store under the model and the stimuli, so that other
units, other responses and other questions cost no forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from modalnet._warnings import warn
from modalnet.errors import InputError, StoreError
from modalnet.interventions.positions import choose
from modalnet.models.sites import get_space
from modalnet.results.store import Store
from modalnet.units import Units

if TYPE_CHECKING:
    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

LARGEST = 1 << 29  # bytes of activations that the store is asked to keep


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of whole layers.

    Attributes
    ----------
    values
        Per space, float32 [stimulus, layer, unit].
    layers
        Per space, which layers the layer axis holds.
    """

    values: dict[str, Float[np.ndarray, "stimulus layer dim"]]
    layers: dict[str, tuple[int, ...]]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def of(self, units: Units) -> Float[np.ndarray, "stimulus unit"]:
        """The activations of some units, in the order of :meth:`Units.indices`.

        Raises
        ------
        InputError
            If a unit lies in a block that was not read.
        """
        parts = []
        for tower, mask in units.mask.items():
            for layer in np.flatnonzero(mask.any(axis=1)).tolist():
                if layer not in self.layers.get(tower, ()):
                    raise InputError(f"Layer {layer} of {tower} was not read.")
                parts.append(self.values[tower][:, self.layers[tower].index(layer), mask[layer]])
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(self), 0), dtype=np.float32)


def read_activations(
    model: Model,
    stimuli: Sequence[Stimulus],
    layers: Mapping[str, Sequence[int]],
    *,
    tokens: Any = None,
    max_tokens: int | None = None,
    raw: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    cache: bool | str | Path = True,
    progress: bool = True,
    what: str = "reading",
) -> Activations:
    """Run stimuli once and keep what some blocks put out, pooled over tokens.

    Parameters
    ----------
    model, stimuli
        What runs.
    layers
        Space → its layers to be read.
    tokens
        As for :func:`modalnet.localize`: None is the last token in a decoder (the mean of the image tokens, where the
        stimuli are pictures alone) and the mean elsewhere.
    max_tokens, raw
        As for :meth:`modalnet.Model.prepare`.
    batch_size, progress
        As for :func:`modalnet.localize`.
    cache
        Keep the activations in the store, unless they take more than half a gigabyte, and answer from there.
    what
        The word on the progress bar.

    Raises
    ------
    InputError
        For towers that the stimuli do not reach, and as for :meth:`modalnet.Model.run`.
    """
    from tqdm.auto import tqdm

    from modalnet import __version__

    reached = model._executor.reached(stimuli)
    for tower in (get_space(model.spaces, name, model.name).tower for name in layers):
        if tower.name not in reached:
            raise InputError(
                f"Not all of these {len(stimuli)} stimuli reach the {tower.name} tower of {model.name}: give stimuli "
                f"with {tower.noun}, or units of {', '.join(reached) or 'another tower'}."
            )
    wanted = {name: tuple(sorted(set(layers[name]))) for name in model.spaces if layers.get(name)}
    pictures = model._executor.has_image_tokens and all(stimulus.text is None for stimulus in stimuli)
    towers = {model.spaces[name].tower.name for name in wanted}
    given = (
        {name: one for name, one in tokens.items() if name in towers.union(wanted)}
        if isinstance(tokens, Mapping)
        else tokens
    )
    choices = choose(given or None, [model.spaces[name] for name in wanted], pictures=pictures)
    for name, choice in choices.items():
        if choice == "all":
            raise InputError(f'tokens="all" keeps the tokens of {name} apart. Use "mean" to pool over them.')
    prepared = model._executor.prepare(stimuli, max_tokens=max_tokens, raw=raw)
    size = sum(len(stimuli) * len(blocks) * model.spaces[tower].width * 4 for tower, blocks in wanted.items())
    store = (
        Store(None if isinstance(cache, bool) else cache)
        if cache and not model._executor.edited and size <= LARGEST
        else None
    )
    key = ""
    if store is not None:
        key = Store.key(
            {
                "analysis": "activations",
                "model": model.fingerprint(),
                "stimuli": [stimulus.inspect().digest for stimulus in stimuli],
                "encoding": model._executor.encoding_identity(prepared),
                "layers": {tower: list(blocks) for tower, blocks in wanted.items()},
                "tokens": {name: one if isinstance(one, str) else list(one) for name, one in choices.items()},
                "version": __version__,
            }
        )
        found = store.get(key)
        if found is not None:
            return Activations(dict(found[0]), wanted)
    values = {
        tower: np.empty((len(stimuli), len(blocks), model.spaces[tower].width), dtype=np.float32)
        for tower, blocks in wanted.items()
    }
    with tqdm(total=len(stimuli), desc=what, unit="stimulus", disable=not progress) as bar:
        for step in model._executor.stream(prepared, wanted, choices, batch_size=batch_size):
            for name, pooled in step.activations.items():
                values[name][list(step.indices)] = pooled.numpy()
            bar.update(len(step.indices))
    if store is not None:
        meta = {"kind": "activations", "source": model.name, "stimuli": len(stimuli)}
        try:
            store.put(key, values, meta)
        except StoreError as error:
            warn(f"activations could not be kept in the store: {error}")
    return Activations(values, wanted)


def blocks_of(*sets: Units) -> dict[str, list[int]]:
    """Space → the layers in which any of the sets has a unit."""
    found: dict[str, set[int]] = {}
    for units in sets:
        for tower, mask in units.mask.items():
            found.setdefault(tower, set()).update(np.flatnonzero(mask.any(axis=1)).tolist())
    return {tower: sorted(blocks) for tower, blocks in found.items() if blocks}


def check_units(model: Model, units: Units, what: str = "These units") -> None:
    """Refuse an empty set and units of another model.

    Raises
    ------
    InputError
        Which of the two it is.
    """
    if not isinstance(units, Units):
        raise InputError(
            f"{what} must be Units, such as localization.top(fraction=0.01); got a {type(units).__name__}."
        )
    if not units.count:
        raise InputError(f"{what} are an empty set.")
    if units.model not in (None, model._executor.fingerprint_once):
        raise InputError(f"{what} belong to another model, by its fingerprint, than {model.name}.")
    for tower, mask in units.mask.items():
        if mask.any() and (tower not in model.spaces or mask.shape != model.spaces[tower].shape):
            shapes = {name: one.shape for name, one in model.spaces.items()}
            raise InputError(f"{what} have a {tower} tower {mask.shape}, [layer, dim]; {model.name} has {shapes}.")


def chosen_units(units: Any, fraction: float) -> Units:
    """Units as they are, or the top fraction of a localization."""
    if isinstance(units, Units):
        return units
    if callable(getattr(units, "top", None)):
        return units.top(fraction=fraction)
    raise InputError(
        f"Give Units, such as localization.top(fraction=0.01), or a localization; got a {type(units).__name__}."
    )
