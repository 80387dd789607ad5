"""What to do to units: the one vocabulary of interventions.

An intervention says *what* (zero, mean, resample, scale, add, set, patch), to *which* units (or whole sites, or one
direction of them), and *where* along the tokens. It is plain data: it can be printed, compared, pickled, and applied
to any model that has the units. Interventions compose from left to right::

    zero(language), scale(vision, 2.0).at("image"), patch(site("decoder", 5), donor).at("last")

Every operation on units is affine in the activation ``x`` of a unit at a token, ``a * x + b``:

==================  =====  ====================================================================================
``zero``            a = 0  b = 0
``mean``            a = 0  b = the unit's mean over reference stimuli
``resample``        a = 0  b = the units' activations at a token of a random donor, jointly
``scale``           a = f  b = 0
``add``             a = 1  b = a number, one per unit, or a steering vector
``set_to``          a = 0  b = a number, or one per unit
``patch``           a = 0  b = the units' activations at the same token of a source run
==================  =====  ====================================================================================

On a direction ``v`` of a site's output (a unit vector), the same is done to the component ``x . v`` and the rest of
``x`` stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._deprecation import moved_method, renamed_arguments
from modalnet._validation import check_bool, check_int, check_number, check_seed, check_type, refusal
from modalnet.errors import InputError
from modalnet.interventions.content import content_digest
from modalnet.interventions.positions import TokenChoice, check_choice
from modalnet.models.sites import canonical_name
from modalnet.models.towers import tower_of
from modalnet.units import Units

if TYPE_CHECKING:
    from jaxtyping import Float

    from modalnet.stimuli.conversion import StimuliLike
    from modalnet.stimuli.stimulus import Stimulus

KINDS = ("zero", "mean", "resample", "scale", "add", "set_to", "patch")


@dataclass(frozen=True)
class Site:
    """One layer of a space: every unit in it.

    Attributes
    ----------
    space, layer
        Name of the space, and which layer: from 0, or from the end if negative.
    """

    space: str
    layer: int

    @property
    def tower(self) -> str:
        """Name of the tower that the space is along."""
        return tower_of(self.space)

    def __str__(self) -> str:
        return f"{self.space}[{self.layer}]"


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction in a site's activations, of length one.

    Attributes
    ----------
    site
        The site.
    vector
        ``[dim]`` float32; scaled to length one.
    """

    site: Site
    vector: Float[np.ndarray, " dim"]

    def __post_init__(self) -> None:
        vector = _array("vector", self.vector)
        length = float(np.linalg.norm(vector))
        if vector.ndim != 1 or not np.isfinite(length) or length == 0:
            raise InputError(
                f"`vector` must be a finite non-zero vector [dim], got shape {vector.shape} and norm {length}."
            )
        object.__setattr__(self, "vector", _frozen(vector / length))

    def __str__(self) -> str:
        return f"a direction in {self.site}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Direction):
            return NotImplemented
        return self.site == other.site and np.array_equal(self.vector, other.vector)

    def __hash__(self) -> int:
        return hash((self.site, self.vector.tobytes()))


Target = Units | Site | Direction


@renamed_arguments(tower="space")
def site(space: str, layer: int) -> Site:
    """One layer of a space, such as ``site("decoder", 5)``, as a target of an intervention.

    Parameters
    ----------
    space
        Name of a space (see :attr:`modalnet.Model.spaces`), or what TransformerLens calls it: ``"resid_post"``.
    layer
        From 0, or from the end if negative.

    Examples
    --------
    >>> mn.site("decoder", 5)
    Site(space='decoder', layer=5)
    """
    check_type("space", space, str, "the name of a space")
    return Site(canonical_name(space), check_int("layer", layer))


@renamed_arguments(tower="space")
def direction(space: str, layer: int, vector: Any) -> Direction:
    """A direction ``[dim]`` in one layer of a space, as a target of an intervention; see :func:`site`."""
    return Direction(site(space, layer), _array("vector", vector))


@dataclass(frozen=True, eq=False)
class Intervention:
    """An operation on units at some tokens; made by :func:`zero`, :func:`mean`, …, with the tokens set by :meth:`at`.

    Attributes
    ----------
    kind
        One of ``KINDS``.
    target
        Units, a site or a direction.
    tokens
        Which of a stimulus' own tokens; padding never counts.
    spared
        How many tokens at the start of each stimulus are left alone.
    values
        What the operation needs: a factor, a number, arrays per space, or stimuli to compute them from.
    seed
        Of random draws.
    spares_sinks
        Whether the sink tokens of each stimulus are left alone (see :func:`modalnet.sink_tokens`).
    keeps_sinks
        Whether sink tokens count among those of the stimuli that the values are computed from.
    """

    kind: str
    target: Target
    tokens: TokenChoice = "all"
    spared: int = 0
    values: Any = None
    seed: int = field(default=0)
    spares_sinks: bool = False
    keeps_sinks: bool = False

    def at(self, tokens: Any, *, spare_first: int | None = None, spare_sinks: bool | None = None) -> Intervention:
        """Return the same intervention at other tokens.

        Parameters
        ----------
        tokens
            ``"all"``, ``"last"``, ``"image"``, ``"text"``, ``"cls"``, or indices among a stimulus' own tokens: numbers,
            a slice, or a mask of as many booleans as each stimulus has tokens (lists, arrays or tensors).
        spare_first
            Leave the first so many tokens of each stimulus alone.
        spare_sinks
            Leave the tokens of each stimulus alone that are attention sinks with massive activations (Xiao et al. 2023;
            Sun et al. 2024) in the intact model. They are measured, see :func:`modalnet.sink_tokens`; what is generated
            is no sink.

        Raises
        ------
        InputError
            For tokens that do not exist.
        """
        choice = check_choice("all" if isinstance(tokens, str) and tokens == "mean" else tokens)
        spared = self.spared if spare_first is None else spare_first
        sinks = self.spares_sinks if spare_sinks is None else check_bool("spare_sinks", spare_sinks)
        return replace(self, tokens=choice, spared=check_int("spare_first", spared, minimum=0), spares_sinks=sinks)

    to_transformer_lens = moved_method("to_transformer_lens", "modalnet.interop.transformer_lens:hooks")

    @property
    def digest(self) -> str:
        """A hash of the intervention; the same on every machine."""
        parts: list[Any] = [self.kind, str(self.tokens), self.spared, self.seed]
        if isinstance(self.target, Units):
            parts += [(tower, mask.shape, mask.tobytes()) for tower, mask in self.target.mask.items()]
        else:
            where = self.target if isinstance(self.target, Site) else self.target.site
            parts += [where.space, where.layer]
            parts.append(self.target.vector.tobytes() if isinstance(self.target, Direction) else None)
        if isinstance(self.values, Mapping):
            parts += [(space, array.shape, content_digest(array)) for space, array in sorted(self.values.items())]
        elif isinstance(self.values, tuple):
            parts += [one.inspect().digest for one in self.values]
            parts.append("with sinks" if self.keeps_sinks else "without sinks")
        else:
            parts.append(self.values)
        if self.spares_sinks:
            parts.append("sinks spared")
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def spaces(self) -> list[str]:
        """Names of the spaces that are edited."""
        if isinstance(self.target, Units):
            return [name for name, mask in self.target.mask.items() if mask.any()]
        return [(self.target if isinstance(self.target, Site) else self.target.site).space]

    @property
    def towers(self) -> list[str]:
        """Names of the towers of these spaces."""
        return list(dict.fromkeys(map(tower_of, self.spaces)))

    def __repr__(self) -> str:
        where = f"{self.tokens} tokens" if isinstance(self.tokens, str) else f"tokens {list(self.tokens)}"
        spared = f", the first {self.spared} spared" if self.spared else ""
        sinks = ", sinks spared" if self.spares_sinks else ""
        return f"{self.kind}({_shown(self.target)}{_argument(self)}) at {where}{spared}{sinks}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervention):
            return NotImplemented
        return self._plain == other._plain and _same(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self._plain)

    @property
    def _plain(self) -> tuple[Any, ...]:
        return self.kind, self.target, self.tokens, self.spared, self.seed, self.spares_sinks, self.keeps_sinks


def zero(target: Target) -> Intervention:
    """Zero ablation: the units (or the component along a direction) become 0.

    Parameters
    ----------
    target
        Units, a :func:`site`, or a :func:`direction`.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> some = mn.Units.from_indices({"decoder": (8, 192)}, [("decoder", 3, 17), ("decoder", 5, 40)])

    >>> run = model.run(["The dog sleeps."], mn.zero(some))
    >>> run.activations["decoder"][0, 3, 17]
    tensor(0.)
    """
    return Intervention("zero", _checked(target))


def scale(target: Target, factor: float) -> Intervention:
    """Multiply the units by a factor.

    Examples
    --------
    >>> mn.scale(mn.site("decoder", 3), 0.5).at("last")
    scale(decoder[3], 0.5) at last tokens
    """
    return Intervention("scale", _checked(target), values=_number(factor, "factor"))


def add(target: Target, value: Any) -> Intervention:
    """Add a number, or one value per unit; along a direction, a multiple of its unit vector (steering).

    Parameters
    ----------
    target
        Units, a site, or a direction.
    value
        A number; for a site ``[dim]``; for units one value per unit in the order of ``units.indices()``, or per tower
        ``[layer, dim]``.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> steering = mn.direction("decoder", 3, np.ones(192))
    >>> before, after = (model.run(["The dog sleeps."], *edits) for edits in ([], [mn.add(steering, 3.0)]))
    >>> change = (after.activations["decoder"] - before.activations["decoder"])[0, 3]
    >>> round(float(change.numpy() @ steering.vector), 3)
    3.0
    """
    target = _checked(target)
    return Intervention("add", target, values=_values(target, value))


def set_to(target: Target, value: Any) -> Intervention:
    """Set the units to a number, or to one value each (as in :func:`add`).

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> some = mn.Units.from_indices({"decoder": (8, 192)}, [("decoder", 3, 17), ("decoder", 5, 40)])

    >>> run = model.run(["The dog sleeps."], mn.set_to(some, [2.0, 7.0]))
    >>> run.activations["decoder"][0, 5, 40]
    tensor(7.)
    """
    target = _checked(target)
    return Intervention("set_to", target, values=_values(target, value))


def mean(target: Target, over: Any = None, *, spare_sinks: bool = True) -> Intervention:
    """Mean ablation: set the units to their mean over reference stimuli.

    The mean is taken over the tokens that the intervention is placed at, without sink tokens, and then over stimuli.

    Parameters
    ----------
    target
        Units, a site, or a direction.
    over
        Stimuli, or a contrast: what the units usually do. They are run whenever the intervention is used; what
        :meth:`modalnet.Model.means` gives, ``[layer, dim]`` per space, saves that.
    spare_sinks
        Leave sink tokens (:func:`modalnet.sink_tokens`) out of the mean: their activations are massive, and no other
        token has such a mean. Means that are given are taken as they are.

    Raises
    ------
    InputError
        Without ``over``: what units usually do is not to be guessed. When it runs: where every reference token is a
        sink.

    References
    ----------
    Wang, Variengien, Conmy, Shlegeris & Steinhardt (2023). Interpretability in the wild. ICLR.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> some = mn.Units.from_indices({"decoder": (8, 192)}, [("decoder", 3, 17), ("decoder", 5, 40)])

    >>> lesion = mn.mean(some, over=model.means(["The dog sleeps.", "A child drinks tea."]))
    >>> model.generate("The dog", lesion, max_new_tokens=4) != ""
    True
    """
    target = _checked(target)
    if over is None:
        raise InputError(
            "mean() requires reference stimuli, over which the units' mean is computed, such as "
            "over=modalnet.stimuli.language()."
        )
    if isinstance(over, Mapping):
        if not isinstance(target, Units):
            raise InputError("`over` must be stimuli for a site; precomputed means per space are for Units only.")
        return Intervention("mean", target, values=_values(target, over))
    keeps = not check_bool("spare_sinks", spare_sinks)
    return Intervention("mean", target, values=_stimuli(over, "mean", "over"), keeps_sinks=keeps)


@renamed_arguments(donors="over")
def resample(target: Target, over: Any, seed: int = 0, *, spare_sinks: bool = True) -> Intervention:
    """Resample ablation: at each token, set the units jointly to their activations at a random token of a random donor.

    Parameters
    ----------
    target
        Units, a site, or a direction.
    over
        Donors: stimuli, or a contrast. Donor tokens are drawn from those that the intervention is placed at, without
        sink tokens. Or activations of donor tokens, ``[donor, layer, unit]`` per space, where row i of every space is
        the same token, as :func:`modalnet.activations.donors` reads them; then nothing is run.
    seed
        Of the draw.
    spare_sinks
        Leave sink tokens (:func:`modalnet.sink_tokens`) out of the donors. Donors that are given are taken as they are.

    Raises
    ------
    InputError
        For donors of another shape than the units'. When it runs: where every donor token is a sink.

    References
    ----------
    Chan, Garriga-Alonso, Goldowsky-Dill, Greenblatt, Nitishinskaya, Radhakrishnan, Shlegeris & Thomas (2022). Causal
    scrubbing. Alignment Forum.
    """
    seed = check_seed(seed)
    target = _checked(target)
    if isinstance(over, Mapping):
        if not isinstance(target, Units):
            raise InputError("`over` must be stimuli for a site; donors per space that were read are for Units only.")
        return Intervention("resample", target, values=_donors(target, over), seed=seed)
    keeps = not check_bool("spare_sinks", spare_sinks)
    return Intervention("resample", target, values=_stimuli(over, "resample", "over"), seed=seed, keeps_sinks=keeps)


def patch(target: Target, source: Any) -> Intervention:
    """Activation patching: set the units to their activations at the same tokens of a source.

    Parameters
    ----------
    target
        Units, a site, or a direction.
    source
        One stimulus for all, or one for each stimulus of the run. At the tokens that the intervention is placed at,
        it needs as many as the stimulus that is patched.
    """
    return Intervention("patch", _checked(target), values=_stimuli(source, "patch", "source"))


def _checked(target: Any) -> Target:
    hint = (
        'Make one with localization.top(fraction=...), modalnet.site("decoder", 5) or '
        'modalnet.direction("decoder", 5, vector).'
    )
    check_type("target", target, (Units, Site, Direction), "Units, a site or a direction", hint)
    if isinstance(target, Units) and not target.count:
        raise InputError("The set of units to intervene on is empty.")
    return target


def _number(value: Any, name: str) -> float:
    return check_number(name, value)


def _array(name: str, value: Any) -> np.ndarray:
    """What the user gave as float32: lists, arrays, and tensors of any precision, on any device, with a gradient."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().float()
    elif isinstance(value, list | tuple) and any(hasattr(each, "detach") for each in value):
        value = [each.detach().cpu().float().numpy() if hasattr(each, "detach") else each for each in value]
    try:
        if np.iscomplexobj(value):
            raise TypeError
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise refusal(name, "real numbers (a list, an array or a tensor)", value) from error


def _values(target: Target, value: Any) -> float | dict[str, np.ndarray]:
    """A number, or float32 values per tower [layer, dim] (a site's [dim] under its own tower)."""
    if isinstance(value, int | float | np.integer | np.floating):
        return _number(value, "value")
    if getattr(value, "ndim", None) == 0:  # a number in an array or a tensor
        return _number(value.item(), "value")
    if isinstance(target, Direction):
        raise InputError(f"For a direction the value must be a number, got a {type(value).__name__}.")
    if isinstance(target, Site):
        vector = _array("value", value)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise InputError(
                f"For a site the value must be a number or a finite vector [dim], got shape {vector.shape}."
            )
        return {target.space: _frozen(vector)}
    if isinstance(value, Mapping):
        given = {str(tower): _array("value", array) for tower, array in value.items()}
    else:
        listed = _array("value", value)
        if listed.shape != (target.count,):
            raise InputError(f"`value` must have one entry per unit ({target.count}), got shape {listed.shape}.")
        given, start = {}, 0
        for tower, mask in target.mask.items():
            count = int(mask.sum())
            given[tower] = np.zeros(mask.shape, dtype=np.float32)
            given[tower][mask] = listed[start : start + count]
            start += count
    for tower, mask in target.mask.items():
        if mask.any() and (tower not in given or given[tower].shape != mask.shape):
            found = given[tower].shape if tower in given else "nothing"
            raise InputError(f"The values for {tower} must have shape {mask.shape}, got {found}.")
        if mask.any() and not np.isfinite(given[tower][mask]).all():
            raise InputError(f"The values for units of {tower} must be finite.")
    return {tower: _frozen(given[tower]) for tower, mask in target.mask.items() if mask.any()}


def _donors(target: Units, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Donors of the spaces that have units, float32 [donor, layer, unit]; what :func:`donors` made is not copied."""
    found: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for space, mask in target.mask.items():
        if not mask.any():
            continue
        array = _array("over", given[space]) if space in given else None
        if array is None or array.ndim != 3 or array.shape[1:] != mask.shape or not len(array):
            had = "nothing" if array is None else array.shape
            raise InputError(
                f"The donors for {space} must have shape (donor, {mask.shape[0]}, {mask.shape[1]}), got {had}."
            )
        if not np.isfinite(array[:, mask]).all():
            raise InputError(f"The donors for units of {space} must be finite.")
        if counts.setdefault(tower_of(space), len(array)) != len(array):
            raise InputError(f"The donors must be as many in every space of the {tower_of(space)} tower.")
        # Many lesions of one study share donors of some megabytes.
        shared = array.base is None and not array.flags.writeable
        found[space] = array if shared else _frozen(array)
    return found


def _stimuli(stimuli: StimuliLike, kind: str, argument: str) -> tuple[Stimulus, ...]:
    """Stimuli from whose activations values are computed."""
    from modalnet.stimuli.conversion import as_stimuli

    return tuple(as_stimuli(stimuli, f"{kind}({argument}=...)"))


def _shown(target: Target) -> str:
    return repr(target).removeprefix("Units(").removesuffix(")") if isinstance(target, Units) else str(target)


def _argument(one: Intervention) -> str:
    if one.kind in ("zero",):
        return ""
    if one.kind in ("scale", "add", "set_to"):
        return f", {one.values:g}" if isinstance(one.values, float) else ", one value per unit"
    if isinstance(one.values, Mapping):
        return ""
    return f", {len(one.values)} {'stimulus' if len(one.values) == 1 else 'stimuli'}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same_stimulus, one, other))
    return bool(one == other)


def _same_stimulus(one: Stimulus, other: Stimulus) -> bool:
    """Of the same content; names and conditions change nothing that a model does."""
    return one is other or one.inspect().digest == other.inspect().digest


def _frozen(array: np.ndarray) -> np.ndarray:
    made = np.array(array)
    made.setflags(write=False)
    return made


def flatten(interventions: Any) -> list[Intervention]:
    """Interventions from arguments that may be interventions or sequences of them."""
    found: list[Intervention] = []
    for one in interventions:
        if isinstance(one, Intervention):
            found.append(one)
        elif isinstance(one, list | tuple):
            found += flatten(one)
        else:
            check_type("interventions", one, Intervention, "Interventions", "Make one with modalnet.zero(units).")
    return found
