"""What one forward pass is asked for: sites to read, in forward order, and where along the tokens.

A plan is plain data. It is made before the trace opens, so that the trace itself holds nothing but tensors, numbers and
module paths: what a remote server can be sent as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.models.towers import Tower

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Sites:
    """Blocks of one tower whose outputs are read.

    Attributes
    ----------
    tower
        The tower.
    layers
        Which of its blocks, ascending.
    """

    tower: Tower
    layers: tuple[int, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Module paths of the blocks."""
        return tuple(self.tower.paths[layer] for layer in self.layers)


@dataclass(frozen=True)
class Pool:
    """How the flat positions of a tower become one vector per stimulus.

    Attributes
    ----------
    n_positions
        How many positions (rows x tokens, padding included) the tower must hold for the indices to be right.
    index
        Flat positions, stimulus by stimulus; None to keep every position.
    lengths
        How many of them belong to each stimulus; their mean is taken.
    """

    n_positions: int
    index: Int[torch.Tensor, " position"] | None = None
    lengths: Int[torch.Tensor, " stimulus"] | None = None


@dataclass(frozen=True)
class Write:
    """One edit of a block's output: ``a * x + b`` for some dims, or for one direction, at some positions.

    Attributes
    ----------
    tower, layer
        Which block.
    n_positions
        How many flat positions (padding included) the tower must hold for the indices to be right.
    rows
        Flat positions to edit.
    dims
        Which dims; None where ``vector`` is given.
    vector
        A direction of length one, ``[dim]``; then the component along it is edited.
    a, b
        The factor, and what is added: ``[dims]`` (one for all positions) or ``[position, dims]``, where a direction
        counts as one dim.
    """

    tower: Tower
    layer: int
    n_positions: int
    rows: Int[torch.Tensor, " position"]
    dims: Int[torch.Tensor, " dims"] | None
    vector: Float[torch.Tensor, " dim"] | None
    a: float
    b: Float[torch.Tensor, "... dims"]


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
    outputs: tuple[Float[torch.Tensor, "row token dim"], ...]

    def __post_init__(self) -> None:
        if len(self.outputs) not in (1, self.layer):
            raise ValueError(
                f"{self.layer} skipped blocks have one output for all or one each, not {len(self.outputs)}"
            )


@dataclass(frozen=True)
class Plan:
    """One forward pass: what to write to and read of which tower, and whether logits are wanted.

    Attributes
    ----------
    reads
        Sites and pool per tower, in the order in which the forward pass reaches them.
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
        Edits, in the order in which they apply where they meet at a block. A block's output is read after its edits.
    prefixes
        Blocks that are skipped, one entry per tower; nothing is read of them or written to them.
    """

    reads: tuple[tuple[Sites, Pool], ...]
    logit_rows: Int[torch.Tensor, " position"] | None = None
    targets: Int[torch.Tensor, " target"] | None = None
    n_text_positions: int = 0
    root: str = ""
    writes: tuple[Write, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    columns: Int[torch.Tensor, "position token"] | None = None
    target_rows: Int[torch.Tensor, " target"] | None = None

    def steps(self) -> list[tuple[Tower, int, tuple[Write, ...], Pool | None]]:
        """The blocks that are touched, in forward order: what is written there, and how it is then read."""
        pools = {(sites.tower.name, layer): pool for sites, pool in self.reads for layer in sites.layers}
        towers = {sites.tower.name: sites.tower for sites, _ in self.reads}
        towers |= {write.tower.name: write.tower for write in self.writes}
        steps = []
        for tower in sorted(towers.values(), key=lambda tower: tower.order):
            for layer in range(tower.n_layers):
                here = tuple(one for one in self.writes if (one.tower.name, one.layer) == (tower.name, layer))
                if here or (tower.name, layer) in pools:
                    steps.append((tower, layer, here, pools.get((tower.name, layer))))
        return steps


def choose_sites(towers: Mapping[str, Tower], read: Any, reached: Sequence[str]) -> tuple[Sites, ...]:
    """Resolve ``read=`` to sites in forward order.

    Parameters
    ----------
    towers
        All towers of the model.
    read
        None for every tower that the input reaches, a tower's name, a list of names, or layers per tower, such as
        ``{"decoder": [0, 5, -1]}``.
    reached
        Names of the towers that the input reaches.

    Raises
    ------
    InputError
        For a tower or layer that does not exist, or that the input does not reach.
    """
    if read is None:
        read = list(reached)
    if not isinstance(read, str | Mapping | list | tuple | set):
        raise InputError(f"read={read!r} is not known. Give a tower's name, a list of them, or layers per tower.")
    named = [read] if isinstance(read, str) else read
    wanted: Mapping[str, Any] = named if isinstance(named, Mapping) else dict.fromkeys(named)
    for name in wanted:
        if name not in towers:
            raise InputError(f"there is no tower {name!r} in this model; its towers are {', '.join(towers)}.")
        if name not in reached:
            raise InputError(
                f"the {name} tower is not reached by these stimuli: give stimuli with {towers[name].noun}."
            )
    return tuple(Sites(towers[name], _layers(towers[name], wanted[name])) for name in towers if name in wanted)


def _layers(tower: Tower, layers: Any) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(tower.n_layers))
    chosen = [layers] if isinstance(layers, int) else list(layers)
    for layer in chosen:
        if not isinstance(layer, int) or not -tower.n_layers <= layer < tower.n_layers:
            raise InputError(
                f"layer {layer!r} is not in the {tower.name} tower, which has layers 0..{tower.n_layers - 1}."
            )
    return tuple(sorted({layer % tower.n_layers for layer in chosen}))
