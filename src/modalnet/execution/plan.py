"""Plans of forward passes: the sites to read, in forward order, and at which tokens.

A plan is plain data, made before the trace opens, so that the trace itself contains only tensors, numbers and module
paths, which can be sent to a remote server as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from modalnet._validation import refusal
from modalnet.errors import InputError
from modalnet.models.sites import Space, absent_everywhere, choose_spaces, get_space, layers_of

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int

    from modalnet.models.masks import EdgeSpace, WeightPlace
    from modalnet.models.towers import Tower


#: What is taken of the activations at a site's positions.
#:
#: ``"mean"``: their mean over each stimulus' positions; ``"length"``: the Euclidean length of each position's vector;
#: ``"moments"``: the means of x, of its square and of its absolute value over each group of positions, in float64.
Taken: TypeAlias = Literal["mean", "length", "moments"]


@dataclass(frozen=True)
class Sites:
    """Layers of one space that are read.

    Attributes
    ----------
    space
        The space.
    layers
        Which of its layers, ascending.
    """

    space: Space
    layers: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the space."""
        return self.space.name

    @property
    def tower(self) -> Tower:
        """The tower that the space is along."""
        return self.space.tower


@dataclass(frozen=True)
class Pool:
    """How the flat positions of a tower become one vector per stimulus.

    Attributes
    ----------
    n_positions
        Number of positions (rows x tokens, padding included) that the tower must have for the indices to be valid.
    index
        Flat positions, stimulus by stimulus; None to keep every position.
    lengths
        Number of them that belong to each stimulus; their mean is taken.
    taken
        What comes back: see ``Taken``.
    numbers
        Whether all numbers of a unit come back, where it has several, or one activation for each.
    """

    n_positions: int
    index: Int[torch.Tensor, " position"] | None = None
    lengths: Int[torch.Tensor, " stimulus"] | None = None
    taken: Taken = "mean"
    numbers: bool = False

    def width(self, space: Space) -> int:
        """How many numbers come back of each position, or of each stimulus, of a layer of a space."""
        mean = space.n_numbers if self.numbers else space.width
        return {"mean": mean, "length": 1, "moments": 3 * space.n_numbers}[self.taken]


@dataclass(frozen=True)
class Call:
    """A function of activations, stimulus by stimulus.

    Attributes
    ----------
    function
        From ``[token, unit]`` to the same shape.
    lengths
        How many of the positions that are edited belong to each stimulus.
    label
        What messages call the intervention.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    lengths: tuple[int, ...]
    label: str

    def at(self, kept: Bool[torch.Tensor, " position"]) -> Call:
        """The same at some of the positions."""
        return replace(self, lengths=tuple(int(own.sum()) for own in kept.split(list(self.lengths))))


@dataclass(frozen=True)
class Write:
    """One edit of a site: ``a * x + b`` for some units, or along some directions, at some positions.

    Attributes
    ----------
    space, layer
        Which site.
    n_positions
        Number of flat positions (padding included) that the tower must have for the indices to be valid.
    rows
        Flat positions to edit.
    dims
        Which of the layer's numbers, ``[number]``: those of its units in their order; None where ``vector`` is given.
    vector
        Orthogonal directions of length one, ``[axis, dim]``; then the components along them are edited.
    a, b
        The factor, and what is added: ``[dims]`` (one for all positions) or ``[position, dims]``, where each direction
        counts as one dim.
    call
        A function of the activations that are edited, whose result is put in, in the place of ``a`` and ``b``.
    """

    space: Space
    layer: int
    n_positions: int
    rows: Int[torch.Tensor, " position"]
    dims: Int[torch.Tensor, " dims"] | None
    vector: Float[torch.Tensor, "axis dim"] | None
    a: float
    b: Float[torch.Tensor, "... dims"]
    call: Call | None = None

    @property
    def tower(self) -> Tower:
        """The tower that the space is along."""
        return self.space.tower

    @property
    def nbytes(self) -> int:
        """Size of what is put in."""
        return self.b.nbytes


@dataclass(frozen=True)
class Removal:
    """Attention edges of one layer that are removed: from source tokens to the target tokens that attend to them.

    Attributes
    ----------
    space, layer
        The edges of which tower, and where.
    sources, targets
        Which flat positions are; only those of one stimulus attend to each other.
    heads
        Which heads; None for all.
    new_sources, new_targets
        Whether tokens that are generated are sources and targets, too.
    edges
        Single edges in the place of those from every source to every target: flat positions ``[edge, 2]`` of the token
        that attends and of the one that is attended to.
    """

    space: EdgeSpace
    layer: int
    sources: Bool[torch.Tensor, " position"]
    targets: Bool[torch.Tensor, " position"]
    heads: Bool[torch.Tensor, " head"] | None = None
    new_sources: bool = False
    new_targets: bool = False
    edges: Int[torch.Tensor, "edge 2"] | None = None

    @property
    def tower(self) -> Tower:
        """The tower whose attention it is."""
        return self.space.tower

    @property
    def n_positions(self) -> int:
        """Number of flat positions (padding included) that the tower must have for the marks to be valid."""
        return len(self.sources)

    @property
    def nbytes(self) -> int:
        """Size of the marks."""
        return 2 * len(self.sources) + (0 if self.edges is None else self.edges.nbytes)


@dataclass(frozen=True)
class Attending:
    """Attention weights of one layer that are read.

    Attributes
    ----------
    space, layer
        The edges of which tower, and where.
    place
        Where its block has the weights.
    total
        Number of flat positions (padding included) that the tower must have for the others to be valid.
    targets, sources
        For each stimulus the flat positions that attend, and those that are attended to.
    mean
        Whether the mean over heads is taken.
    """

    space: EdgeSpace
    layer: int
    place: WeightPlace
    total: int
    targets: tuple[Int[torch.Tensor, " target"], ...]
    sources: tuple[Int[torch.Tensor, " source"], ...]
    mean: bool = False


@dataclass(frozen=True)
class Prefix:
    """What the first blocks of a tower put out in an earlier pass over the same batch, so that they need not run.

    Attributes
    ----------
    tower
        Which tower.
    layer
        The first block that runs; the number of blocks where none does.
    outputs
        What each skipped block puts out, or one tensor that stands for all of them: enough where nothing but the
        next block looks at a block's output. A decoder may look at several blocks of a vision tower.
    """

    tower: Tower
    layer: int
    outputs: tuple[Float[torch.Tensor, "*rows dim"], ...]

    def __post_init__(self) -> None:
        if len(self.outputs) not in (1, self.layer):
            raise ValueError(
                f"{self.layer} skipped blocks need one output for all or one each, got {len(self.outputs)}"
            )


@dataclass(frozen=True, eq=False)
class Through:
    """A pair of sites that are read: the gradient at the first is wanted, too, of the paths through the second alone.

    Attributes
    ----------
    first, second
        The sites.
    numbers
        Which of the second site's numbers the paths go through; None for all.
    """

    first: tuple[Space, int]
    second: tuple[Space, int]
    numbers: Int[torch.Tensor, " number"] | None = None


@dataclass(frozen=True)
class NextTokens:
    """What is taken of the distribution of the next token at each row of the logits, in place of all logits.

    Attributes
    ----------
    k
        How many of the likeliest tokens.
    tokens
        Tokens of the vocabulary whose probability and rank are wanted.
    against
        For each row, the row whose distribution it is compared with.
    """

    k: int
    tokens: Int[torch.Tensor, " token"]
    against: Int[torch.Tensor, " row"]


@dataclass(frozen=True)
class Plan:
    """One forward pass: what to write to and read of which tower, and whether logits are wanted.

    Attributes
    ----------
    reads
        Sites and their pools.
    logit_rows
        Flat positions whose logits are wanted, in order; None for none of them.
    targets
        Tokens at those positions: then only their log-probabilities are wanted, and whether each is the likeliest.
    target_rows
        For each target, which of the positions it stands at, ascending; None for one at each position.
    columns
        Some tokens for each of those positions, ``[position, token]``: then only their logits are wanted.
    n_text_positions
        Rows x tokens of the text batch, which the positions of ``logit_rows`` count over.
    root
        Module path of the part of the model that runs (``""`` for the whole).
    writes
        Edits, in the order in which they apply where they meet at a site, and edges that are removed. A site is read
        after its edits.
    prefixes
        Blocks that are skipped, one entry per tower; nothing is read of them or written to them.
    direct
        Blocks whose contribution to the stream passes no gradient on, by tower and layer; what enters them does.
    through
        Pairs of sites whose gradients of some paths are wanted.
    next_tokens
        What is wanted of the distribution at those positions, in place of all logits.
    attends
        Attention weights that are read, in forward order; then nothing else is.
    """

    reads: tuple[tuple[Sites, Pool], ...]
    logit_rows: Int[torch.Tensor, " position"] | None = None
    targets: Int[torch.Tensor, " target"] | None = None
    n_text_positions: int = 0
    root: str = ""
    writes: tuple[Write | Removal, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    columns: Int[torch.Tensor, "position token"] | None = None
    target_rows: Int[torch.Tensor, " target"] | None = None
    direct: tuple[tuple[Tower, int], ...] = ()
    through: tuple[Through, ...] = ()
    next_tokens: NextTokens | None = None
    attends: tuple[Attending, ...] = ()

    def steps(self) -> list[tuple[Space, int, tuple[Write | Removal, ...], Pool | None]]:
        """The sites that are touched, in forward order: what is written there, and how it is then read."""
        pools = {
            (sites.space, layer): pool
            for sites, pool in self.reads
            for layer in sites.layers
            if sites.space.widths[layer]
        }
        writes: dict[tuple[Space, int], list[Write | Removal]] = {}
        for write in self.writes:
            writes.setdefault((write.space, write.layer), []).append(write)
        touched = sorted({*pools, *writes}, key=lambda site: site[0].order(site[1]))
        return [(*site, tuple(writes.get(site, ())), pools.get(site)) for site in touched]

    def sites(self) -> list[tuple[Space, int]]:
        """Each site that is read, in forward order: its space and its layer. Layers without units are none."""
        return [(space, layer) for space, layer, _, pool in self.steps() if pool is not None]

    def places(self) -> dict[str, list[int]]:
        """Per space that is read, of each of its layers the place among the sites; -1 for one that has no units."""
        known = {(space.name, layer): place for place, (space, layer) in enumerate(self.sites())}
        wanted: dict[str, set[int]] = {}
        for sites, _ in self.reads:
            wanted.setdefault(sites.name, set()).update(sites.layers)
        return {name: [known.get((name, layer), -1) for layer in sorted(layers)] for name, layers in wanted.items()}


def choose_sites(spaces: Mapping[str, Space], read: Any, reached: Sequence[str]) -> tuple[Sites, ...]:
    """Resolve ``read=`` to sites in the order of the model.

    Parameters
    ----------
    spaces
        All spaces of the model.
    read
        None for the residual stream of every tower that the input reaches, a space's name, a list of names, or layers
        per space, such as ``{"decoder": [0, 5, -1]}``.
    reached
        Names of the towers that the input reaches.

    Raises
    ------
    InputError
        For a space or layer that does not exist, or that the input does not reach.
    """
    if read is None:
        read = [name for name in choose_spaces(spaces, None) if spaces[name].tower.name in reached]
    if not isinstance(read, str | Mapping | list | tuple | set):
        raise refusal("read", "the name of a space, a list of names, or a mapping from names to layers", read)
    wanted = named_layers(spaces, read)
    for name in wanted:
        tower = spaces[name].tower
        if tower.name not in reached:
            raise InputError(f"The {tower.name} tower is not reached by these stimuli. Use stimuli with {tower.noun}.")
    for name in wanted:
        if reason := absent_everywhere(spaces[name]):
            raise InputError(f"{name} cannot be read: {reason}.")
        for layer in () if wanted[name] is None else layers_of(spaces[name], wanted[name]):
            spaces[name].place(layer)
    return tuple(
        Sites(space, tuple(sorted(set(layers_of(space, wanted[name])))))
        for name, space in spaces.items()
        if name in wanted
    )


def named_layers(spaces: Mapping[str, Space], read: Any) -> dict[str, Any]:
    """Of the spaces that ``read=`` names, the layers as they were given; None for all."""
    named = [read] if isinstance(read, str) else read
    given: Mapping[str, Any] = named if isinstance(named, Mapping) else dict.fromkeys(named)
    return {get_space(spaces, name).name: layers for name, layers in given.items()}
