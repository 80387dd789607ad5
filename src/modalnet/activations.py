"""What units do on stimuli, stimulus by stimulus, for the analyses that need every one of them.

A localization reduces activations as they come; a response profile, an encoding model or a decoder needs one row per
stimulus. They are read once, at whole blocks, and kept in the store under the model and the stimuli, so that other
units, other responses and other questions cost no forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from jaxtyping import Float

from modalnet.errors import InputError
from modalnet.interventions.positions import choose
from modalnet.models.fingerprint import encoded_texts, reads_weights_once
from modalnet.models.sites import get_space
from modalnet.results.cache import CacheLike, cached
from modalnet.units import Units

if TYPE_CHECKING:
    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

LARGEST = 1 << 29  # bytes of activations that the store is asked to keep


class Selection(Protocol):
    """How units were selected, and a way to select without some of the stimuli, so that these can be held out.

    Attributes
    ----------
    n_folds
        Into how many folds its stimuli were dealt.
    reading
        How it read the units: ``"tokens"``, ``"magnitude"``, ``"max_tokens"`` and ``"raw"``.
    """

    @property
    def n_folds(self) -> int: ...

    @property
    def reading(self) -> Mapping[str, Any]: ...

    def fold_of(self, digest: str) -> int | None:
        """The fold of a stimulus by its content digest; -1 where it stands in several, None where in none."""
        ...

    def without(self, *folds: int) -> Units:
        """The units that the same choice selects from the stimuli of the other folds."""
        ...


def selection_of(units: Units) -> Selection | None:
    """How units were selected; None where it is not known, as for units of a file or of set algebra."""
    return getattr(units, "selection", None)


def reading_of(units: Units) -> dict[str, Any]:
    """How the units were read when they were selected (see :class:`Selection`); empty where it is not known."""
    selection = selection_of(units)
    return {} if selection is None else dict(selection.reading)


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

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the activations as arrays and a JSON document."""
        layers = {tower: list(blocks) for tower, blocks in self.layers.items()}
        return dict(self.values), {"kind": "activations", "layers": layers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Activations:
        """Make activations from what :meth:`to_arrays` returned."""
        layers = {tower: tuple(blocks) for tower, blocks in document["layers"].items()}
        return cls({tower: arrays[tower] for tower in layers}, layers)

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


@reads_weights_once
def read_activations(
    model: Model,
    stimuli: Sequence[Stimulus],
    layers: Mapping[str, Sequence[int]],
    *,
    tokens: Any = None,
    max_tokens: int | None = None,
    raw: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    cache: CacheLike = True,
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
        As for :meth:`modalnet.execution.executor.Executor.prepare`.
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

    def compute() -> Activations:
        values = {
            tower: np.empty((len(stimuli), len(blocks), model.spaces[tower].width), dtype=np.float32)
            for tower, blocks in wanted.items()
        }
        with tqdm(total=len(stimuli), desc=what, unit="stimulus", disable=not progress) as bar:
            for step in model._executor.stream(prepared, wanted, choices, batch_size=batch_size):
                for name, pooled in step.activations.items():
                    values[name][list(step.indices)] = pooled.numpy()
                bar.update(len(step.indices))
        return Activations(values, wanted)

    return cached(
        model,
        "activations",
        lambda: {
            "stimuli": [stimulus.inspect().digest for stimulus in stimuli],
            "texts": encoded_texts(model.tokenizer, prepared),
        },
        {
            "layers": wanted,
            "tokens": {name: one if isinstance(one, str) else list(one) for name, one in choices.items()},
            "max_tokens": max_tokens,
            "raw": raw,
        },
        compute,
        result=Activations,
        cache=cache if size <= LARGEST else False,
    )


def blocks_of(*sets: Units) -> dict[str, list[int]]:
    """Space → the layers in which any of the sets has a unit."""
    found: dict[str, set[int]] = {}
    for units in sets:
        for tower, mask in units.mask.items():
            found.setdefault(tower, set()).update(np.flatnonzero(mask.any(axis=1)).tolist())
    return {tower: sorted(blocks) for tower, blocks in found.items() if blocks}


def check_units(model: Model, units: Units, what: str = "The units") -> None:
    """Refuse an empty set of units, and units of another model.

    Raises
    ------
    InputError
        Which of the two it is.
    """
    if not units.count:
        raise InputError(f"{what} must not be an empty set.")
    model._executor.check_units(units, what)
