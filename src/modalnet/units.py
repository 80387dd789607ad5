"""A set of units, and the algebra of such sets.

A unit is one coordinate of a space: (space, layer, index). In the residual stream, which has the name of its tower, it
is one dimension of a block's output. A network is the set of units that a contrast selects. :class:`Units` holds such
a set as one boolean mask per space, so that sets of one model combine with the operators of set algebra
(``& | - ^ ~``), compare (``dice``), and draw their own controls (``random``): as many other units, alike in where they
are or in how strongly they are active.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from modalnet import _files
from modalnet._deprecation import moved_method, renamed, renamed_arguments
from modalnet.errors import InputError, StoreError
from modalnet.stats.controls import draw_masks

Shapes = dict[str, tuple[int, int]]
#: What is accepted wherever one network is taken.
UnitsLike: TypeAlias = "Units | SelectsUnits"
#: What is accepted wherever several networks are taken.
NetworksLike: TypeAlias = "UnitsLike | Mapping[str, UnitsLike]"

FORMAT = "modalnet.units"
VERSION = 1


@runtime_checkable
class SelectsUnits(Protocol):
    """What selects units by a share of all, as a localization does."""

    def top(self, fraction: float | None = None) -> Units:
        """The share of all units that is selected most strongly."""
        ...


class HasShape(Protocol):
    """A space, as far as units know it."""

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, units per layer)."""
        ...


@runtime_checkable
class HasUnits(Protocol):
    """What units belong to, as a model does."""

    @property
    def spaces(self) -> Mapping[str, HasShape]:
        """The spaces by name."""
        ...

    def fingerprint(self) -> str:
        """A string that identifies the checkpoint."""
        ...


class Units:
    """An immutable set of units of one model.

    Parameters
    ----------
    mask
        For each space, in the model's order, which units are in the set: bool [layer, unit].
    mean_abs
        Mean absolute activation of every unit, per space [layer, unit], for activation-matched controls. Units that a
        localization selects have it.
    model
        A string that identifies the model the units belong to (its fingerprint).
    selected_on
        Content digests of the stimuli that selected the units: what is measured on these is not held out. None where
        it is not known.
    widths
        Number of units of each layer, per space whose layers have different numbers of them, such as the heads of a
        hybrid model: those behind do not exist. Other spaces have all units of their masks' shapes.

    Raises
    ------
    InputError
        If a mask is not boolean with axes [layer, unit], or ``mean_abs`` does not have the masks' spaces and shapes; if
        ``widths`` does not fit the masks.

    Notes
    -----
    Two ``Units`` are equal when their masks and model are; ``mean_abs`` describes the units and is no part of the set.
    Sets combine when they have the same spaces and shapes (see :meth:`over`) and belong to one model; a set without
    model combines with any. The result has ``mean_abs`` and model of whichever side has them, and the stimuli of both
    that selected them; random controls are selected by none.

    Examples
    --------
    >>> shapes = {"vision": (6, 128), "decoder": (8, 192)}
    >>> language = mn.Units.from_indices(shapes, [("decoder", 3, 17), ("decoder", 5, 40)])
    >>> faces = mn.Units.from_indices(shapes, [("vision", 2, 8), ("decoder", 5, 40)])
    >>> (language | faces).count, (language & faces).indices()
    (3, [('decoder', 5, 40)])
    >>> language.dice(faces)
    0.5
    >>> control = language.random(1, seed=1, match="layer")[0]
    >>> control.count, (control & language).count
    (2, 0)
    """

    @renamed_arguments(norms="mean_abs")
    def __init__(
        self,
        mask: Mapping[str, Bool[np.ndarray, "layer dim"]],
        *,
        mean_abs: Mapping[str, Float[np.ndarray, "layer dim"]] | None = None,
        model: str | None = None,
        selected_on: Iterable[str] | None = None,
        widths: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if not mask:
            raise InputError("`mask` must have at least one space, got none.")
        masks = {str(space): _frozen(array) for space, array in mask.items()}
        for space, array in masks.items():
            if array.dtype != np.bool_ or array.ndim != 2:
                raise InputError(
                    f"The mask of {space!r} must be boolean with axes [layer, unit]; got {array.dtype} "
                    f"{array.shape}. For a list of units use Units.from_indices."
                )
        self._mask: dict[str, np.ndarray] = masks
        self._mean_abs: dict[str, np.ndarray] | None = None
        if mean_abs is not None:
            given = {space: _frozen(mean_abs[space], np.float64) for space in masks if space in mean_abs}
            shapes = {space: array.shape for space, array in given.items()}
            if len(mean_abs) != len(given) or shapes != self.shapes:
                found = {space: np.shape(array) for space, array in mean_abs.items()}
                raise InputError(f"`mean_abs` must have the spaces and shapes of the mask, {self.shapes}; got {found}.")
            self._mean_abs = given
        self._model = model
        self._selected_on = None if selected_on is None else frozenset(selected_on)
        self._widths = _checked_widths(widths or {}, masks)

    @classmethod
    @renamed_arguments(norms="mean_abs")
    def from_indices(
        cls,
        shapes: Mapping[str, tuple[int, int]],
        indices: Iterable[tuple[str, int, int]],
        *,
        mean_abs: Mapping[str, Float[np.ndarray, "layer dim"]] | None = None,
        model: str | None = None,
        selected_on: Iterable[str] | None = None,
        widths: Mapping[str, Sequence[int]] | None = None,
    ) -> Units:
        """Make a set from a list of units.

        Parameters
        ----------
        shapes
            (layers, units per layer) of each space.
        indices
            The units as (space, layer, index); repeats count once.
        mean_abs, model, selected_on, widths
            As for :class:`Units`.

        Raises
        ------
        InputError
            If an index lies outside the shapes. Negative indices do too: a unit has one name.
        """
        masks = {space: np.zeros(tuple(shape), dtype=bool) for space, shape in shapes.items()}
        for space, layer, dim in indices:
            if space not in masks:
                raise InputError(f"There is no space {space!r}; the spaces are {list(masks)}.")
            layers, width = masks[space].shape
            # A boolean would index, too, but not one unit.
            if not (_is_whole(layer) and _is_whole(dim) and 0 <= layer < layers and 0 <= dim < width):
                raise InputError(
                    f"Unit ({space!r}, {layer!r}, {dim!r}) lies outside {space!r}, which has layers 0..{layers - 1} "
                    f"and units 0..{width - 1}."
                )
            masks[space][layer, dim] = True
        return cls(masks, mean_abs=mean_abs, model=model, selected_on=selected_on, widths=widths)

    # -- what is in it -------------------------------------------------------------------------------------------

    @property
    def mask(self) -> Mapping[str, Bool[np.ndarray, "layer dim"]]:
        """Per space, which units are in the set; read-only."""
        return MappingProxyType(self._mask)

    @property
    def mean_abs(self) -> Mapping[str, Float[np.ndarray, "layer dim"]] | None:
        """Per space, the mean absolute activation of every unit; read-only. None if unknown."""
        return None if self._mean_abs is None else MappingProxyType(self._mean_abs)

    norms = renamed("norms", "mean_abs")

    @property
    def model(self) -> str | None:
        """Fingerprint of the model that the units belong to; None if unknown."""
        return self._model

    @property
    def selected_on(self) -> frozenset[str] | None:
        """Content digests of the stimuli that selected the units; None if unknown."""
        return self._selected_on

    @property
    def widths(self) -> Mapping[str, tuple[int, ...]]:
        """Number of units of each layer, per space whose layers have different numbers of them."""
        return MappingProxyType(self._widths)

    @cached_property
    def exists(self) -> Mapping[str, Bool[np.ndarray, "layer unit"]]:
        """Per space, which units there are, from :attr:`widths`; read-only.

        Where these are not known, a unit whose ``mean_abs`` is NaN is taken for none.
        """
        found = {}
        for space, mask in self._mask.items():
            if space in self._widths:
                there = np.arange(mask.shape[1]) < np.array(self._widths[space])[:, None]
            elif self._mean_abs is not None:
                there = ~np.isnan(self._mean_abs[space]) | mask
            else:
                there = np.ones_like(mask)
            found[space] = _frozen(there)
        return MappingProxyType(found)

    @property
    def n_units(self) -> int:
        """How many units there are in all, in the set or not."""
        return sum(int(array.sum()) for array in self.exists.values())

    @property
    def shapes(self) -> Shapes:
        """(layers, units per layer) of each space."""
        return {space: (array.shape[0], array.shape[1]) for space, array in self._mask.items()}

    @cached_property
    def count(self) -> int:
        """How many units are in the set."""
        return sum(int(array.sum()) for array in self._mask.values())

    def __len__(self) -> int:
        return self.count

    def per_layer(self) -> dict[str, Int[np.ndarray, " layer"]]:
        """How many units of each layer are in the set, per space."""
        return {space: array.sum(axis=1) for space, array in self._mask.items()}

    def indices(self) -> list[tuple[str, int, int]]:
        """The units as (space, layer, index), in that order."""
        return [
            (space, layer, dim) for space, array in self._mask.items() for layer, dim in np.argwhere(array).tolist()
        ]

    def __repr__(self) -> str:
        if not self:
            return f"Units(empty: {_describe(self.shapes)})"
        spans = []
        for space, counts in self.per_layer().items():
            layers = np.flatnonzero(counts)
            if len(layers):
                first, last = int(layers[0]), int(layers[-1])
                spans.append(f"{space}[{first}]" if first == last else f"{space}[{first}..{last}]")
        return f"Units({self.count} unit{'s' if self.count > 1 else ''} in {', '.join(spans)})"

    # -- algebra -------------------------------------------------------------------------------------------------

    def __and__(self, other: Units) -> Units:
        return self._combine(other, np.logical_and, "&")

    def __or__(self, other: Units) -> Units:
        return self._combine(other, np.logical_or, "|")

    def __xor__(self, other: Units) -> Units:
        return self._combine(other, np.logical_xor, "^")

    def __sub__(self, other: Units) -> Units:
        return self._combine(other, np.greater, "-")

    def __invert__(self) -> Units:
        return self._with({space: ~array & self.exists[space] for space, array in self._mask.items()})

    def __le__(self, other: Units) -> bool:
        """Whether every unit of this set is in the other."""
        if not isinstance(other, Units):
            return NotImplemented
        return not self - other

    def __ge__(self, other: Units) -> bool:
        """Whether every unit of the other set is in this one."""
        if not isinstance(other, Units):
            return NotImplemented
        return not other - self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Units):
            return NotImplemented
        return (
            self._model == other._model
            and self.shapes == other.shapes
            and all(np.array_equal(array, other._mask[space]) for space, array in self._mask.items())
        )

    def __hash__(self) -> int:
        # Sorted, because equality does not look at the order of the spaces.
        return hash((self._model, tuple((space, self._mask[space].tobytes()) for space in sorted(self._mask))))

    def dice(self, other: Units) -> float:
        """Return the overlap 2|A∩B| / (|A|+|B|); NaN for two empty sets (Dice 1945).

        The sets may be of two checkpoints of one architecture, such as a model before and after fine-tuning.
        """
        shared, total = self._shared(other), self.count + other.count
        return 2 * shared / total if total else float("nan")

    def jaccard(self, other: Units) -> float:
        """Return the overlap |A∩B| / |A∪B|; NaN for two empty sets (Jaccard 1912).

        The sets may be of two checkpoints of one architecture, as for :meth:`dice`.
        """
        shared = self._shared(other)
        total = self.count + other.count - shared
        return shared / total if total else float("nan")

    def for_model(self, model: HasUnits) -> Units:
        """The same units of another checkpoint, such as a fine-tuned one or one with an adapter.

        Parameters
        ----------
        model
            A model of the same architecture: its spaces have the names and shapes of those of this set.

        Returns
        -------
        Units
            With the fingerprint of ``model``, the mean activations of this set, and the stimuli that selected it.

        Raises
        ------
        InputError
            For something that is no model; if the model lacks a space in which this set has units, or a space has
            another shape there.

        Examples
        --------
        >>> trained, untrained = mn.load("tiny"), mn.load("tiny", untrained=True)
        >>> network = mn.localize(trained, mn.stimuli.language(), progress=False).top(fraction=0.01)
        >>> logits = untrained.run("The dog", mn.zero(network.for_model(untrained)), logits="last").logits
        """
        if not isinstance(model, HasUnits):
            raise InputError(f"`model` must be a model from modalnet.load, got {_type(model)}.")
        shapes = {name: space.shape for name, space in model.spaces.items()}
        check_units(self, shapes, model=None, source=str(getattr(model, "name", "the model")), what="The units")
        return Units(
            self._mask,
            mean_abs=self._mean_abs,
            model=model.fingerprint(),
            selected_on=self._selected_on,
            widths=self._widths,
        )

    def over(self, shapes: Mapping[str, tuple[int, int]]) -> Units:
        """The same units with a mask for every space of ``shapes``, so that sets over different spaces combine.

        Parameters
        ----------
        shapes
            (layers, units per layer) of each space; spaces of this set that are not among them keep their masks.
        """
        missing = {space: np.zeros(tuple(shape), bool) for space, shape in shapes.items() if space not in self._mask}
        order = [*shapes, *(space for space in self._mask if space not in shapes)]
        mask = {space: self._mask[space] if space in self._mask else missing[space] for space in order}
        known = self._mean_abs if not missing else None
        return Units(mask, mean_abs=known, model=self._model, selected_on=self._selected_on, widths=self._widths)

    # -- controls ------------------------------------------------------------------------------------------------

    def random(self, n: int = 1, seed: int = 0, match: str = "layer") -> list[Units]:
        """Draw sets of other units, as controls.

        Parameters
        ----------
        n
            How many sets. Draw i is the same whatever ``n`` is.
        seed
            A non-negative integer; the same seed gives the same sets on every machine.
        match
            What a control shares with this set: ``"layer"``, as many units in every layer; ``"tower"``, as many units
            in every space; ``"activation"``, as many units in every layer, each alike in mean absolute activation;
            ``"dimension"``, as many dimensions, each in the same layers. See :mod:`modalnet.stats.controls`.

        Returns
        -------
        list of Units
            None overlaps this set or has units that do not exist. They carry its ``mean_abs`` and model.

        Raises
        ------
        InputError
            If a layer or space has too few units that are not selected, if ``match="activation"`` and ``mean_abs`` is
            not known, or for an unknown ``match`` or ``n`` below 1.
        """
        masks = draw_masks(self._mask, n, seed=seed, match=match, mean_abs=self._mean_abs, exists=self.exists)
        return [
            Units(mask, mean_abs=self._mean_abs, model=self._model, selected_on=(), widths=self._widths)
            for mask in masks
        ]

    to_transformer_lens = moved_method("to_transformer_lens", "modalnet.interop.transformer_lens:hooks")

    # -- pictures ------------------------------------------------------------------------------------------------

    def plot(self, **options: Any) -> Any:
        """Draw the share of selected units over layers: see :func:`modalnet.plotting.units_profile`."""
        from modalnet.plotting.layers import units_profile

        return units_profile(self, **options)

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set to a file.

        Parameters
        ----------
        path
            ``*.json``: spaces, shapes, the indices per layer, and the model; readable, without ``mean_abs``.
            ``*.safetensors``: masks, ``mean_abs`` and model.

        Raises
        ------
        InputError
            For another suffix.
        StoreError
            If the file cannot be written.
        """
        head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "model": self._model}
        if self._widths:
            head["widths"] = {space: list(widths) for space, widths in self._widths.items()}
        if self._selected_on is not None:
            head["selected_on"] = sorted(self._selected_on)
        if _suffix(path) == ".safetensors":
            arrays = {f"mask/{space}": array for space, array in self._mask.items()}
            arrays |= {f"mean_abs/{space}": array for space, array in (self._mean_abs or {}).items()}
            _files.write_file(path, arrays, head | {"spaces": list(self._mask)})
            return
        spaces = {
            space: {
                "shape": list(array.shape),
                "units": {str(layer): np.flatnonzero(row).tolist() for layer, row in enumerate(array) if row.any()},
            }
            for space, array in self._mask.items()
        }
        _files.write_bytes(path, (json.dumps(head | {"spaces": spaces}) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Units:
        """Read a set that :meth:`save` wrote.

        Raises
        ------
        InputError
            For another suffix, or a file that holds something else.
        StoreError
            If the file cannot be read or is damaged.
        """
        if _suffix(path) == ".safetensors":
            arrays, document = _files.read_file(path)
        else:
            arrays, document = {}, _read_json(path)
        if not isinstance(document, dict) or (document.get("format"), document.get("version")) != (FORMAT, VERSION):
            raise InputError(f"{os.fspath(path)} does not hold units in a format of this version of modalnet.")
        try:
            model = document["model"]
            if model is not None and not isinstance(model, str):
                raise InputError(f"the model must be a string or null, not {model!r}")
            selected_on, widths = document.get("selected_on"), document.get("widths")
            # Earlier versions called the spaces towers.
            spaces = document["spaces"] if "spaces" in document else document["towers"]
            if arrays:
                masks = {space: arrays[f"mask/{space}"] for space in spaces}
                # "norms/" is the name of these arrays in files of modalnet 0.1.
                field = next(
                    (name for name in ("mean_abs", "norms") if any(n.startswith(f"{name}/") for n in arrays)), ""
                )
                mean_abs = {space: arrays[f"{field}/{space}"] for space in masks} if field else None
                return cls(masks, mean_abs=mean_abs, model=model, selected_on=selected_on, widths=widths)
            shapes = {space: tuple(entry["shape"]) for space, entry in spaces.items()}
            indices = [
                (space, int(layer), dim)
                for space, entry in spaces.items()
                for layer, dims in entry["units"].items()
                for dim in dims
            ]
            return cls.from_indices(shapes, indices, model=model, selected_on=selected_on, widths=widths)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"{os.fspath(path)} does not hold valid units: {error}") from error

    def __reduce__(self) -> tuple[Callable[[], Units], tuple[()]]:
        mean_abs = None if self._mean_abs is None else dict(self._mean_abs)
        known = self._selected_on
        widths = dict(self._widths)
        return partial(
            Units, dict(self._mask), mean_abs=mean_abs, model=self._model, selected_on=known, widths=widths
        ), ()

    # -- inside --------------------------------------------------------------------------------------------------

    def _shared(self, other: Units) -> int:
        if not isinstance(other, Units):
            raise InputError(f"Units are compared with Units, got {_type(other)}.")
        return (Units(self._mask) & Units(other._mask)).count

    def _with(self, mask: Mapping[str, np.ndarray]) -> Units:
        return Units(
            mask, mean_abs=self._mean_abs, model=self._model, selected_on=self._selected_on, widths=self._widths
        )

    def _combine(self, other: Units, operation: Callable[..., np.ndarray], sign: str) -> Units:
        if not isinstance(other, Units):
            return NotImplemented
        if self.shapes != other.shapes:
            raise InputError(
                f"Units over different spaces cannot be combined: {_describe(self.shapes)} {sign} "
                f"{_describe(other.shapes)}. Localize both over the same spaces, or use units.over(shapes)."
            )
        if self._model is not None and other._model is not None and self._model != other._model:
            raise InputError(
                f"Units of different models cannot be combined: {self._model} {sign} {other._model}. "
                "For another checkpoint of one architecture use units.for_model(model)."
            )
        mask = {space: operation(array, other._mask[space]) for space, array in self._mask.items()}
        known = self._selected_on is not None and other._selected_on is not None
        return Units(
            mask,
            mean_abs=self._mean_abs if self._mean_abs is not None else other._mean_abs,
            model=self._model if self._model is not None else other._model,
            selected_on=(self._selected_on or frozenset()) | (other._selected_on or frozenset()) if known else None,
            widths={**other._widths, **self._widths},
        )


def as_units(units: UnitsLike, fraction: float = 0.01, *, name: str = "units") -> Units:
    """Convert a network to units.

    Parameters
    ----------
    units
        Units, or a localization, of which the units with the largest t are taken.
    fraction
        Of a localization: the share of its units that is selected.
    name
        The argument as the caller calls it, for error messages.

    Raises
    ------
    InputError
        `units` is neither.
    """
    if isinstance(units, Units):
        return units
    if isinstance(units, SelectsUnits):
        return units.top(fraction=fraction)
    raise InputError(
        f"`{name}` must be Units, such as localization.top(fraction=0.01), or a localization, got {_type(units)}."
    )


def as_networks(networks: NetworksLike, *, name: str = "units") -> dict[str, Units | SelectsUnits]:
    """Convert one network, or several by name, to a mapping of names.

    Parameters
    ----------
    networks
        Units, a localization, or a mapping of names to these. One that has no name is called ``"network"``.
    name
        The argument as the caller calls it, for error messages.

    Raises
    ------
    InputError
        `networks`, or one of its values, is something else, or there is none.
    """
    if isinstance(networks, Units | SelectsUnits):
        return {"network": networks}
    if not isinstance(networks, Mapping):
        raise InputError(
            f"`{name}` must be Units, a localization, or a mapping of names to these, got {_type(networks)}."
        )
    if not networks:
        raise InputError(f"`{name}` is empty; at least one network is needed.")
    for key, network in networks.items():
        if not isinstance(network, Units | SelectsUnits):
            raise InputError(f"`{name}[{key!r}]` must be Units or a localization, got {_type(network)}.")
    return {str(key): network for key, network in networks.items()}


def check_units(
    units: Units, shapes: Mapping[str, tuple[int, int]], *, model: str | None, source: str, what: str
) -> None:
    """Refuse units that are not of a model.

    Parameters
    ----------
    units
        The units.
    shapes
        (layers, units per layer) of each space of the model.
    model
        The fingerprint of the model; None where it is not compared.
    source
        A readable name of the model, for the error message.
    what
        What the units are, for the error message, such as ``"the units of network 'language'"``.

    Raises
    ------
    InputError
        The units have another fingerprint, lie in a space that the model does not have, or have other shapes.
    """
    if None not in (units.model, model) and units.model != model:
        raise InputError(
            f"{what} belong to another model than {source}: the fingerprints differ. For another checkpoint of one "
            "architecture, such as a fine-tuned one, use units.for_model(model)."
        )
    for space, shape in units.shapes.items():
        if space not in shapes:
            if units.mask[space].any():
                raise InputError(
                    f"{what} belong to another model than {source}: they are in the space {space!r}, but its spaces "
                    f"are {', '.join(shapes)}."
                )
        elif tuple(shapes[space]) != shape:
            raise InputError(
                f"{what} belong to another model than {source}: {space} has shape {shape} [layer, unit] for the "
                f"units and {tuple(shapes[space])} in the model."
            )


def as_units_within(units: UnitsLike, shapes: Mapping[str, tuple[int, int]], source: str) -> Units:
    """Convert to a set of units over the spaces of what they are shown beside, such as a localization.

    Raises
    ------
    InputError
        `units` is something else, or lies in other spaces or shapes.
    """
    chosen = as_units(units)
    check_units(chosen, shapes, model=None, source=source, what="The units")
    if chosen.shapes == dict(shapes):
        return chosen
    mask = chosen.over(shapes).mask
    widths = {space: own for space, own in chosen.widths.items() if space in shapes}
    return Units(
        {space: mask[space] for space in shapes}, model=chosen.model, selected_on=chosen.selected_on, widths=widths
    )


def _type(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _checked_widths(given: Mapping[str, Sequence[int]], masks: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Numbers of units per layer that fit the masks, of the spaces in which they differ from the masks' width."""
    found = {}
    for space, listed in given.items():
        if space not in masks:
            raise InputError(f"`widths` has the space {space!r}; the spaces of the mask are {list(masks)}.")
        (layers, width), widths = masks[space].shape, tuple(listed)
        if len(widths) != layers or not all(_is_whole(each) and 0 <= each <= width for each in widths):
            raise InputError(
                f"`widths` of {space!r} must be {layers} whole numbers from 0 to {width}, one per layer; got {listed}."
            )
        beyond = np.argwhere(masks[space] & (np.arange(width) >= np.array(widths)[:, None]))
        if len(beyond):
            layer, unit = beyond[0].tolist()
            raise InputError(
                f"Unit {unit} of layer {layer} of {space!r} does not exist: the layer has {widths[layer]}."
            )
        if set(widths) != {width}:
            found[space] = tuple(map(int, widths))
    return found


def _frozen(array: Any, dtype: type | None = None) -> np.ndarray:
    copy = np.array(array, dtype=dtype)
    copy.setflags(write=False)
    return copy


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _describe(shapes: Shapes) -> str:
    return ", ".join(f"{space} {layers}x{width}" for space, (layers, width) in shapes.items())


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in {".json", ".safetensors"}:
        raise InputError(f"`path` must end in .json or .safetensors, got {os.fspath(path)!r}.")
    return suffix


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{os.fspath(path)} cannot be read: {error}.") from error
    try:
        return json.loads(data)
    except ValueError as error:
        raise StoreError(f"{os.fspath(path)} is damaged: not valid JSON ({error}).") from error
