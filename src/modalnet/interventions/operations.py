"""What to do to units: the one vocabulary of interventions.

An intervention says *what* (zero, mean, resample, scale, add, set, patch), to *which* units (or whole sites, or one
direction of them), and *where* along the tokens. It is plain data: it can be printed, compared, pickled, and applied
to any model that has the units. Interventions compose from left to right::

    zero(language), scale(vision, 2.0).at("image"), patch(site("decoder", 5), donor).at("last")

Every operation on units but ``apply`` is affine in the activation ``x`` of a unit at a token, ``a * x + b``:

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
``x`` stays as it is. ``apply`` puts in what a function makes of the activations.
A knockout (:mod:`modalnet.interventions.knockout`) is on attention edges in the place of units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from modalnet._deprecation import moved_method, renamed_arguments
from modalnet._validation import check_bool, check_int, check_number, check_option, check_seed, check_type
from modalnet.errors import InputError
from modalnet.interventions.content import content_digest, real_array
from modalnet.interventions.edges import Edges
from modalnet.interventions.functions import Change, Function
from modalnet.interventions.positions import PerSpace, StimulusTokens, TokenChoice, check_choices, shown
from modalnet.interventions.read_values import ReadValues
from modalnet.interventions.sources import HasActivations, Recorded, Source, recorded_arrays, recorded_run
from modalnet.models.sites import LayerChoice, canonical_name, chosen_layers, layer_choice
from modalnet.models.towers import modality_of, tower_of
from modalnet.units import Units

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from modalnet.stimuli.conversion import StimuliLike
    from modalnet.stimuli.stimulus import Stimulus

#: What is accepted as the layers of a site.
LayersLike: TypeAlias = "int | slice | range | Sequence[int] | Sequence[bool] | np.ndarray | torch.Tensor"

KINDS = ("zero", "mean", "resample", "scale", "add", "set_to", "patch", "apply", "knockout")


@dataclass(frozen=True)
class Site:
    """Layers of a space: every unit in them.

    Attributes
    ----------
    space
        Name of the space.
    layer
        Which layer, from 0, or from the end if negative; or several: numbers, a slice as text (``"2:5"``), or a mask.
    """

    space: str
    layer: LayerChoice

    @property
    def tower(self) -> str:
        """Name of the tower that the space is along."""
        return tower_of(self.space)

    @property
    def is_one(self) -> bool:
        """Whether it is one layer, by its number."""
        return isinstance(self.layer, int)

    def __str__(self) -> str:
        layer = self.layer if isinstance(self.layer, int | str) else ", ".join(map(str, self.layer))
        return f"{self.space}[{layer}]"


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in a site's activations, or the subspace that several span.

    Attributes
    ----------
    site
        The site; the directions are the same in each of its layers.
    vector
        ``[dim]`` float32, scaled to length one; or ``[k, dim]``, orthonormal: made so row by row (Gram-Schmidt), so
        that rows at right angles only change their length.
    skewed
        Whether the rows that were given are not at right angles to each other; the axes are then not theirs.

    Raises
    ------
    InputError
        For a vector of another shape, that is not finite, or of length 0; for rows that do not span k dimensions.
    """

    site: Site
    vector: Float[np.ndarray, "*k dim"]
    skewed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        vector = real_array("vector", self.vector)
        length = float(np.linalg.norm(vector))
        if vector.ndim not in (1, 2) or not np.isfinite(length) or length == 0:
            raise InputError(
                "`vector` must be a finite non-zero vector [dim], or [k, dim] for the subspace that k of them span, "
                f"got shape {vector.shape} and norm {length}."
            )
        if vector.ndim == 1:
            object.__setattr__(self, "vector", _frozen(vector / length))
            return
        axes, skewed = _orthonormal(vector)
        object.__setattr__(self, "vector", _frozen(axes))
        object.__setattr__(self, "skewed", skewed)

    def __str__(self) -> str:
        what = "a direction" if self.vector.ndim == 1 else f"a subspace of {len(self.vector)} dimensions"
        return f"{what} in {self.site}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Direction):
            return NotImplemented
        return self.site == other.site and np.array_equal(self.vector, other.vector)

    def __hash__(self) -> int:
        return hash((self.site, self.vector.tobytes()))


def _orthonormal(vectors: Float[np.ndarray, "k dim"]) -> tuple[Float[np.ndarray, "k dim"], bool]:
    """Axes of the space that rows span, each as near to its row as those before it allow; whether any had to move."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rank = np.linalg.matrix_rank(vectors / np.where(lengths == 0, 1.0, lengths))
    if rank < len(vectors):
        raise InputError(
            f"The {len(vectors)} rows of `vector` must be linearly independent, but span {rank} dimensions. Leave out "
            "rows that others make up."
        )
    rows = (vectors / lengths).astype(np.float64)
    axes, upper = np.linalg.qr(rows.T)
    axes = (axes * np.sign(np.diag(upper))).T
    return axes.astype(np.float32), bool(np.abs(rows @ rows.T - np.eye(len(rows))).max() > 1e-5)


Target = Units | Site | Direction


@renamed_arguments(tower="space")
def site(space: str, layer: LayersLike) -> Site:
    """One layer of a space, such as ``site("decoder", 5)``, or several, as a target of an intervention.

    Parameters
    ----------
    space
        Name of a space (see :attr:`modalnet.Model.spaces`), or what TransformerLens calls it: ``"resid_post"``.
    layer
        From 0, or from the end if negative; or several: a list, an array or a range of numbers, a slice, or a mask of
        as many booleans as the space has layers.

    Raises
    ------
    InputError
        For something that is no layer; when it runs, for a layer that the model does not have.

    Examples
    --------
    >>> mn.site("decoder", 5)
    Site(space='decoder', layer=5)
    >>> print(mn.site("decoder", range(2, 5)))
    decoder[2, 3, 4]
    """
    check_type("space", space, str, "the name of a space")
    return Site(canonical_name(space), layer_choice(layer))


@renamed_arguments(tower="space")
def direction(space: str, layer: LayersLike, vector: Any) -> Direction:
    """A direction in one or several layers of a space, or a subspace, as a target of an intervention.

    Parameters
    ----------
    space, layer
        As for :func:`site`.
    vector
        ``[dim]``, or ``[k, dim]`` for the subspace that k directions span. On a subspace, ``zero``, ``scale``,
        ``mean``, ``resample`` and ``patch`` act on the projection onto it; ``add`` and ``set_to`` take k numbers, one
        along each row, where these are at right angles.

    Raises
    ------
    InputError
        For a vector of another shape, that is not finite, or zero; for rows that are linearly dependent.

    Examples
    --------
    >>> mn.direction("decoder", 5, np.eye(192)[:2]).vector.shape
    (2, 192)
    """
    return Direction(site(space, layer), real_array("vector", vector))


@dataclass(frozen=True, eq=False)
class Intervention:
    """An operation on units at some tokens; made by :func:`zero`, :func:`mean`, …, with the tokens set by :meth:`at`.

    Attributes
    ----------
    kind
        One of ``KINDS``.
    target
        Units, a site or a direction; attention edges, of a knockout.
    tokens
        Which of a stimulus' own tokens; padding never counts. The edges of a knockout have tokens of their own.
    spared
        How many tokens at the start of each stimulus are left alone.
    values
        What the operation needs: a factor, a number, arrays per space, stimuli to compute them from, or a function.
    seed
        Of random draws.
    spares_sinks
        Whether the sink tokens of each stimulus are left alone (see :func:`modalnet.sink_tokens`).
    keeps_sinks
        Whether sink tokens count among those of the stimuli that the values are computed from.
    taken_at
        Of values that were read before: (space, tokens, how many first ones were spared), where it is known.
    source_at, source_layer
        Tokens and layer of the source of a patch, where they are not those of the target.
    """

    kind: str
    target: Target | Edges
    tokens: StimulusTokens | PerSpace = "all"
    spared: int = 0
    values: Any = None
    seed: int = field(default=0)
    spares_sinks: bool = False
    keeps_sinks: bool = False
    taken_at: tuple[tuple[str, TokenChoice, int], ...] = ()
    source_at: StimulusTokens | None = None
    source_layer: int | None = None

    def __post_init__(self) -> None:
        check_option("kind", self.kind, KINDS)

    def at(self, tokens: Any, *, spare_first: int | None = None, spare_sinks: bool | None = None) -> Intervention:
        """Return the same intervention at other tokens.

        Parameters
        ----------
        tokens
            ``"all"``, ``"last"``, ``"image"``, ``"text"``, ``"cls"``, or indices among a stimulus' own tokens: numbers,
            a slice, or a mask of as many booleans as each stimulus has tokens (lists, arrays or tensors). A list of
            these has the tokens of each stimulus of the run, in order; a dict has a choice for each tower or space
            that the intervention is on.
        spare_first
            Leave the first so many tokens of each stimulus alone.
        spare_sinks
            Leave the tokens of each stimulus alone that are attention sinks with massive activations (Xiao et al. 2023;
            Sun et al. 2024) in the intact model. They are measured, see :func:`modalnet.sink_tokens`; what is generated
            is no sink.

        Raises
        ------
        InputError
            For tokens that do not exist; for ``"last"`` on a tower that reads texts and one that does not; for a dict
            that lacks a tower.
        """
        if isinstance(self.target, Edges):
            raise InputError(
                f"{self}: its tokens are those that it was made with. Make another with knockout(source=, target=)."
            )
        choice = self._per_space(tokens) if isinstance(tokens, Mapping) else _at(tokens)
        self._check_last(choice)
        spared = self.spared if spare_first is None else spare_first
        sinks = self.spares_sinks if spare_sinks is None else check_bool("spare_sinks", spare_sinks)
        return replace(self, tokens=choice, spared=check_int("spare_first", spared, minimum=0), spares_sinks=sinks)

    def _per_space(self, tokens: Mapping[str, Any]) -> PerSpace:
        """The choice for each space that is edited, from choices by tower or space."""
        known = {canonical_name(name) if isinstance(name, str) else name: choice for name, choice in tokens.items()}
        spaces = self.spaces
        unknown = [name for name in known if name not in {*spaces, *self.towers}]
        missing = [name for name in spaces if name not in known and tower_of(name) not in known]
        if unknown or missing:
            problem = f"it is not on {unknown[0]!r}" if unknown else f"the tokens of {missing[0]} are not named"
            raise InputError(
                f"`tokens` must have an entry for each of {', '.join(spaces)}, which the intervention is on, and no "
                f"others: {problem}."
            )
        return PerSpace(tuple((name, _at(known.get(name, known.get(tower_of(name))))) for name in spaces))

    def by_space(self) -> list[Intervention]:
        """The intervention itself, or where its tokens differ by space, one for each space."""
        if not isinstance(self.tokens, PerSpace):
            return [self]
        if not isinstance(self.target, Units):
            ((_, choice),) = self.tokens.choices
            return [replace(self, tokens=choice)]
        masks = self.target.mask
        made = []
        for name, choice in self.tokens.choices:
            mask = {other: array if other == name else np.zeros_like(array) for other, array in masks.items()}
            made.append(replace(self, tokens=choice, target=Units(mask, model=self.target.model)))
        return made

    def _check_last(self, choice: StimulusTokens | PerSpace) -> None:
        """Refuse the last token of towers of which only some read a text: elsewhere it is a corner of the picture."""
        of_text = [tower for tower in self.towers if modality_of(tower) == "text"]
        others = [tower for tower in self.towers if tower not in of_text]
        if choice == "last" and of_text and others:
            each = ", ".join([f'"{tower}": "last"' for tower in of_text] + [f'"{tower}": "all"' for tower in others])
            raise InputError(
                f'.at("last") is the last token of a text, but the units are in the {others[0]} tower as well, where '
                f"it would be the last patch. Name the tokens of each tower, such as .at({{{each}}})."
            )

    to_transformer_lens = moved_method("to_transformer_lens", "modalnet.interop.transformer_lens:hooks")

    @property
    def digest(self) -> str:
        """A hash of the intervention; the same on every machine."""
        parts: list[Any] = [self.kind, repr(self.tokens), self.spared, self.seed]
        if isinstance(self.target, Units):
            parts += [(tower, mask.shape, mask.tobytes()) for tower, mask in self.target.mask.items()]
        elif isinstance(self.target, Edges):
            parts.append(repr(self.target))
        else:
            where = self.target if isinstance(self.target, Site) else self.target.site
            parts += [where.space, where.layer]
            if isinstance(self.target, Direction):
                parts += [self.target.vector.shape, self.target.vector.tobytes()]
        if isinstance(self.values, Mapping):
            parts += [(space, array.shape, content_digest(array)) for space, array in sorted(self.values.items())]
        elif isinstance(self.values, Source | Recorded | Function):
            parts.append(self.values.digest)
        elif isinstance(self.values, tuple):
            parts += [one.inspect().digest for one in self.values]
            parts.append("with sinks" if self.keeps_sinks else "without sinks")
        else:
            parts.append(self.values)
        if self.spares_sinks:
            parts.append("sinks spared")
        if self.kind == "patch":
            parts += [repr(self.source_at), self.source_layer]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def spaces(self) -> list[str]:
        """Names of the spaces that are edited."""
        if isinstance(self.target, Units):
            return [name for name, mask in self.target.mask.items() if mask.any()]
        if isinstance(self.target, Edges):
            return [self.target.tower]
        return [(self.target if isinstance(self.target, Site) else self.target.site).space]

    @property
    def towers(self) -> list[str]:
        """Names of the towers of these spaces."""
        return list(dict.fromkeys(map(tower_of, self.spaces)))

    def __repr__(self) -> str:
        if isinstance(self.target, Edges):
            return f"knockout({self.target})"
        spared = f", the first {self.spared} spared" if self.spared else ""
        sinks = ", sinks spared" if self.spares_sinks else ""
        return f"{self.kind}({_shown(self.target)}{_argument(self)}) at {shown(self.tokens)}{spared}{sinks}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Intervention):
            return NotImplemented
        return self._plain == other._plain and _same(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self._plain)

    @property
    def _plain(self) -> tuple[Any, ...]:
        source = self.source_at, self.source_layer
        return self.kind, self.target, self.tokens, self.spared, self.seed, self.spares_sinks, self.keeps_sinks, source


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
    return Intervention("add", _upright(target, "add"), values=_values(target, value))


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
    return Intervention("set_to", _upright(target, "set_to"), values=_values(target, value))


def mean(target: Target, over: Any = None, *, spare_sinks: bool = True) -> Intervention:
    """Mean ablation: set the units to their mean over reference stimuli.

    The mean is taken over the tokens that the intervention is placed at, without sink tokens, and then over stimuli.

    Parameters
    ----------
    target
        Units, a site, or a direction.
    over
        Stimuli, or a contrast: what the units usually do. They are run whenever the intervention is used; what
        :meth:`modalnet.Model.means` gives, ``[layer, dim]`` per space, saves that. It knows over which tokens it is
        taken, and the intervention has to be at the same ones; a plain dict is taken as it is.
    spare_sinks
        Leave sink tokens (:func:`modalnet.sink_tokens`) out of the mean: their activations are massive, and no other
        token has such a mean. Means that are given are taken as they are.

    Raises
    ------
    InputError
        Without ``over``: what units usually do is not to be guessed. When it runs: where every reference token is a
        sink; where the means were taken over other tokens than those that the intervention is at.

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
        values = _values(target, over) if isinstance(target, Units) else _layers_of_means(target, over)
        return Intervention("mean", target, values=values, taken_at=_taken_at(over))
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
        Of the draw. It goes by what the stimulus and the donors contain, so neither order nor neighbours change it.
    spare_sinks
        Leave sink tokens (:func:`modalnet.sink_tokens`) out of the donors. Donors that are given are taken as they are.

    Raises
    ------
    InputError
        For donors of another shape than the units'. When it runs: where every donor token is a sink; where the donors
        were read at other tokens than those that the intervention is at.

    References
    ----------
    Chan, Garriga-Alonso, Goldowsky-Dill, Greenblatt, Nitishinskaya, Radhakrishnan, Shlegeris & Thomas (2022). Causal
    scrubbing. Alignment Forum.
    """
    seed = check_seed(seed)
    target = _checked(target)
    if isinstance(over, Mapping):
        values = _donors(target, over) if isinstance(target, Units) else _layers_of_donors(target, over)
        return Intervention("resample", target, values=values, seed=seed, taken_at=_taken_at(over))
    keeps = not check_bool("spare_sinks", spare_sinks)
    return Intervention("resample", target, values=_stimuli(over, "resample", "over"), seed=seed, keeps_sinks=keeps)


def patch(target: Target, source: Any, *, source_at: Any = None, source_layer: int | None = None) -> Intervention:
    """Activation patching: set the units to their activations at the same tokens of a source.

    Parameters
    ----------
    target
        Units, a site, or a direction.
    source
        One source for all stimuli of the run, or one for each: stimuli, which run on the model without any
        intervention; ``view.on(stimuli)``, which run under those of a view, or on another checkpoint with the same
        space; a :class:`~modalnet.Run` that was read with ``tokens="all"``, or at the tokens of the patch; or
        activations. These are ``[dim]`` (put in at every token) or ``[token, dim]`` for a site of one layer, with a
        leading layer axis for several, and for units one value each (as in :func:`add`) or a dict with arrays of all
        layers per space; a list has one of these for each stimulus.
    source_at
        Tokens of the source, where they are other than those of the stimulus that is patched; as for
        :meth:`Intervention.at`. There have to be as many.
    source_layer
        The layer of the source that the activations are taken from, for a target in one layer; None for the same.

    Raises
    ------
    InputError
        For something that is no source; for ``source_layer`` with a target in several layers. When it runs: where
        numbers of tokens or of sources do not fit, or the source has no such space or layer.

    References
    ----------
    Meng, Bau, Andonian & Belinkov (2022). Locating and editing factual associations in GPT. NeurIPS.

    Ghandeharioun, Caciularu, Pearce, Dixon & Geva (2024). Patchscopes. ICML. (``source_layer``, ``source_at``)

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> lesioned = model.with_(mn.zero(mn.site("decoder", 2)))
    >>> last = mn.site("decoder", -1)
    >>> patched = model.run("The dog", mn.patch(last, lesioned.on("The dog")), logits="last")
    >>> bool((patched.logits == lesioned.run("The dog", logits="last").logits).all())
    True
    """
    target = _checked(target)
    at = None if source_at is None else _at(source_at)
    if source_layer is not None:
        source_layer = check_int("source_layer", source_layer)
        if isinstance(target, Units) or not (target if isinstance(target, Site) else target.site).is_one:
            raise InputError(
                f"`source_layer` is for a site or a direction in one layer, got {_shown(target)}. Patch layer by layer."
            )
    return Intervention("patch", target, values=_source(target, source), source_at=at, source_layer=source_layer)


def apply(target: Target, function: Change, *, name: str | None = None) -> Intervention:
    """Put in what a function makes of the activations: any operation that the others are not.

    Parameters
    ----------
    target
        Units, a site, or a direction.
    function
        From the activations of one stimulus' chosen tokens in one layer to others of the same shape: a float32 tensor
        ``[token, unit]`` on the model's device, in the order of the tokens and of the target's units in that layer;
        along a direction or a subspace, the components ``[token, axis]``; ``[token, unit, number]`` for units that are
        vectors. With a keyword ``layer`` it is told the layer. In a generation it is called for the prompt, and then
        for each new token alone, ``[1, unit]``: a function that treats tokens independently does the same there as in
        :meth:`modalnet.Model.score`.
    name
        What identifies the function in the store: results under it are stored for this name, its source, and the
        numbers, texts and arrays that it refers to directly. Anything else that it depends on has to be told by the
        name. None: they are not stored.

    Raises
    ------
    InputError
        For something that is no function of one argument. When it runs: for an error of the function; where what it
        returns is no tensor, of another shape, complex, or not finite where the activations are; on a server, where it
        cannot be sent.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> clip = mn.apply(mn.site("decoder", 3), lambda x: x.clamp(-1, 1), name="clip to 1")
    >>> run = model.run(["The dog sleeps."], clip.at("last"))
    >>> bool(run.activations["decoder"][0, 3].abs().max() <= 1)
    True
    """
    return Intervention("apply", _upright(target, "apply"), values=Function.checked(function, name))


def _source(target: Target, source: Any) -> tuple[Stimulus, ...] | Source | Recorded:
    """What a patch takes activations from."""
    if isinstance(source, Source):
        return source
    if isinstance(source, HasActivations):
        return recorded_run(source)
    listed = list(source) if isinstance(source, list | tuple) and source else [source]
    if isinstance(target, Units):
        if all(isinstance(one, Mapping) for one in listed):
            return recorded_arrays(listed, one_layer=False)
        if all(_is_numeric(one) and np.shape(one) == (target.count,) for one in listed):
            each = [_values(target, one) for one in listed]
            return recorded_arrays([one for one in each if isinstance(one, Mapping)], one_layer=False)
    elif all(_is_numeric(one) for one in listed):
        where = target if isinstance(target, Site) else target.site
        return recorded_arrays([{where.space: one} for one in listed], one_layer=where.is_one)
    if any(_is_numeric(one) or isinstance(one, Mapping) for one in listed):
        expected = f"[{target.count}] values or a dict of arrays per space" if isinstance(target, Units) else "an array"
        raise InputError(f"`source` of {_shown(target)} must be stimuli, a run, view.on(stimuli), or {expected}.")
    return _stimuli(source, "patch", "source")


def _is_numeric(value: Any) -> bool:
    """Whether something is an array or a tensor of numbers."""
    return hasattr(value, "ndim") and getattr(getattr(value, "dtype", None), "kind", "f") in "fiu"


def _at(tokens: Any) -> StimulusTokens:
    """Tokens of an intervention, which acts on each of them: their mean is all of them."""
    return check_choices("all" if isinstance(tokens, str) and tokens == "mean" else tokens)


def _checked(target: Any) -> Target:
    hint = (
        'Make one with localization.top(fraction=...), modalnet.site("decoder", 5) or '
        'modalnet.direction("decoder", 5, vector).'
    )
    check_type("target", target, (Units, Site, Direction), "Units, a site or a direction", hint)
    if isinstance(target, Units) and not target.count:
        raise InputError("The set of units to intervene on is empty.")
    return target


def _upright(target: Target, kind: str) -> Target:
    """A target whose axes are what the user gave, so that numbers along them mean something."""
    checked = _checked(target)
    if isinstance(checked, Direction) and checked.skewed:
        raise InputError(
            f"{kind}() takes numbers along the rows of a subspace, which must be at right angles to each other. Give "
            "orthogonal rows, or one direction [dim]."
        )
    return checked


def _number(value: Any, name: str) -> float:
    return check_number(name, value)


def _values(target: Target, value: Any) -> float | dict[str, np.ndarray]:
    """A number, or float32 values per space: [layer, dim] for units, [dim] or [chosen layer, dim] for a site."""
    if isinstance(value, int | float | np.integer | np.floating):
        return _number(value, "value")
    if getattr(value, "ndim", None) == 0:  # a number in an array or a tensor
        return _number(value.item(), "value")
    if isinstance(target, Direction):
        return {target.site.space: _along(target, value)}
    if isinstance(target, Site):
        vector = real_array("value", value)
        if vector.ndim not in (1, 1 if target.is_one else 2) or not np.isfinite(vector).all():
            shapes = "[dim]" if target.is_one else "[dim] or [layer, dim]"
            raise InputError(
                f"For a site the value must be a number or finite values {shapes}, got shape {vector.shape}."
            )
        return {target.space: _frozen(vector)}
    if isinstance(value, Mapping):
        given = {str(tower): real_array("value", array) for tower, array in value.items()}
    else:
        listed = real_array("value", value)
        if listed.shape != (target.count,):
            raise InputError(f"`value` must have one entry per unit ({target.count}), got shape {listed.shape}.")
        given, start = {}, 0
        for tower, mask in target.mask.items():
            count = int(mask.sum())
            given[tower] = np.zeros(mask.shape, dtype=np.float32)
            given[tower][mask] = listed[start : start + count]
            start += count
    for tower, mask in target.mask.items():
        if mask.any() and (tower not in given or not _fits(given[tower], mask, 2)):
            found = given[tower].shape if tower in given else "nothing"
            raise InputError(f"The values for {tower} must have shape {mask.shape}, got {found}.")
        if mask.any() and not np.isfinite(_of_units(given[tower], mask)).all():
            raise InputError(f"The values for units of {tower} must be finite.")
    return {tower: _frozen(given[tower]) for tower, mask in target.mask.items() if mask.any()}


def _fits(array: np.ndarray, mask: np.ndarray, ndim: int) -> bool:
    """Whether an array has a value for each unit in its last two dimensions, or as many numbers for each."""
    if array.ndim != ndim:
        return False
    (layers, numbers), (depth, width) = array.shape[-2:], mask.shape
    return bool(layers == depth and numbers and numbers % width == 0)


def _of_units(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values of the units in a set: one of each, or all numbers of each."""
    return array.reshape(*array.shape[:-1], mask.shape[-1], -1)[..., mask, :]


def _along(target: Direction, value: Any) -> Float[np.ndarray, " k"]:
    """A number along each direction of a subspace."""
    numbers = real_array("value", value)
    count = len(np.atleast_2d(target.vector))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise InputError(
            f"For {target} the value must be a number, or {count} finite numbers, one along each direction, got shape "
            f"{numbers.shape}."
        )
    return _frozen(numbers)


def _layers_of_means(target: Site | Direction, over: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The means of a site's layers, [chosen layer, dim], from those of a whole space."""
    return _of_site(target, over, "means", ("layer", "dim"))


def _layers_of_donors(target: Site | Direction, over: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Donors of a site's layers, [donor, chosen layer, dim], from those of a whole space."""
    return _of_site(target, over, "donors", ("donor", "layer", "dim"))


def _of_site(
    target: Site | Direction, over: Mapping[str, Any], what: str, axes: Sequence[str]
) -> dict[str, np.ndarray]:
    where = target if isinstance(target, Site) else target.site
    if where.space not in over:
        raise InputError(f"`over` must have {what} of {where.space}, got {', '.join(map(str, over)) or 'none'}.")
    array = real_array("over", over[where.space])
    if array.ndim != len(axes) or not array.size or not np.isfinite(array).all():
        raise InputError(
            f"The {what} of {where.space} must be finite, with axes [{', '.join(axes)}], got shape {array.shape}."
        )
    layers = chosen_layers(where.layer, array.shape[-2], where.space)
    return {where.space: _frozen(array[..., list(layers), :])}


def _donors(target: Units, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Donors of the spaces that have units, float32 [donor, layer, unit]; what :func:`donors` made is not copied."""
    found: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for space, mask in target.mask.items():
        if not mask.any():
            continue
        array = real_array("over", given[space]) if space in given else None
        if array is None or not _fits(array, mask, 3) or not len(array):
            had = "nothing" if array is None else array.shape
            raise InputError(
                f"The donors for {space} must have shape (donor, {mask.shape[0]}, {mask.shape[1]}), got {had}."
            )
        if not np.isfinite(_of_units(array, mask)).all():
            raise InputError(f"The donors for units of {space} must be finite.")
        if counts.setdefault(tower_of(space), len(array)) != len(array):
            raise InputError(f"The donors must be as many in every space of the {tower_of(space)} tower.")
        # Many lesions of one study share donors of some megabytes.
        shared = array.base is None and not array.flags.writeable
        found[space] = array if shared else _frozen(array)
    return found


def _taken_at(over: Mapping[str, Any]) -> tuple[tuple[str, TokenChoice, int], ...]:
    return over.taken_at if isinstance(over, ReadValues) else ()


def _stimuli(stimuli: StimuliLike, kind: str, argument: str) -> tuple[Stimulus, ...]:
    """Stimuli from whose activations values are computed."""
    from modalnet.stimuli.conversion import as_stimuli

    return tuple(as_stimuli(stimuli, f"{kind}({argument}=...)"))


def _shown(target: Target | Edges) -> str:
    return repr(target).removeprefix("Units(").removesuffix(")") if isinstance(target, Units) else str(target)


def _argument(one: Intervention) -> str:
    if one.kind in ("zero",):
        return ""
    if one.kind in ("scale", "add", "set_to"):
        return f", {one.values:g}" if isinstance(one.values, float) else ", one value per unit"
    if isinstance(one.values, Mapping):
        return ""
    if isinstance(one.values, Source | Recorded | Function):
        return f", {one.values}"
    return f", {len(one.values)} {'stimulus' if len(one.values) == 1 else 'stimuli'}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same_stimulus, one, other))
    if isinstance(one, Recorded) and isinstance(other, Recorded):
        return one.digest == other.digest
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
