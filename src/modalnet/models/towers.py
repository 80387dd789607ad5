"""Finding a model's towers: the stacks of residual blocks that its units live in.

transformers already says where they are. A model hands out its image encoder with
``get_encoder(modality="image")`` and its language model with ``get_decoder()``, and a model class names the
block class whose outputs it records as hidden states in ``_can_record_outputs["hidden_states"]``. This module
starts from those and falls back on structure: the largest list of equal blocks. It holds no table of model
names, so that a model released tomorrow is found the same way as one of today.

Some models see with two image encoders, one after the other or side by side. The one that the model hands out, or the
first of its parts, is ``vision``; the other is ``vision2``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.models.blocks import find_blocks, stages_of
from modalnet.models.roots import ROLES, reader, tower_roots
from modalnet.models.streams import plain, prefix_tokens, stream_width, streams_of, width_of
from modalnet.stimuli.modalities import MODALITIES

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Tower:
    """A stack of residual blocks of one width.

    Attributes
    ----------
    name
        ``"vision"``, ``"vision2"``, ``"audio"``, ``"encoder"`` or ``"decoder"``.
    modality
        What it reads: ``"image"``, ``"audio"`` or ``"text"``; see :mod:`modalnet.stimuli.modalities`.
    order
        Its place in the forward pass, from 0.
    width
        Number of dimensions of the residual stream, so of units per block; of all streams, where blocks carry several.
    paths
        Module path of each block, from input to output.
    root
        Module path of the submodule that holds the tower (``""`` for the model itself).
    has_cls, n_registers
        Whether a vision tower has a parameter that is called a class token, and how many registers others hold. Where
        these tokens are is measured, not known from here.
    stage
        Which stage of a hierarchical model it is, with what is left out, in words; empty for a whole stack.
    streams, streams_first
        How many residual streams the blocks carry side by side, and whether along the first dimension of their output.
    """

    name: str
    width: int
    paths: tuple[str, ...]
    root: str = ""
    has_cls: bool = False
    n_registers: int = 0
    streams: int = 1
    streams_first: bool = False
    modality: str = "text"
    order: int = 0
    stage: str = field(default="", compare=False)
    blocks: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_layers, width)``: the shape of every map over this tower's units."""
        return self.n_layers, self.width

    @property
    def n_units(self) -> int:
        """Number of units, ``n_layers * width``."""
        return self.n_layers * self.width

    @property
    def noun(self) -> str:
        """What stimuli must have to reach the tower, as a noun for messages."""
        return MODALITIES[self.modality].noun

    @property
    def is_decoder(self) -> bool:
        """Whether its attention is causal, so that its last token attends to all others."""
        return self.name == "decoder"

    def __str__(self) -> str:
        first, last = self.paths[0], self.paths[-1]
        return f"{self.name}: {self.n_layers} blocks x {self.width} = {self.n_units:,} units ({first} .. {last})"


def find_towers(module: torch.nn.Module) -> dict[str, Tower]:
    """Find the towers of a transformers model.

    Parameters
    ----------
    module
        A loaded transformers model (weights may be on the meta device).

    Returns
    -------
    dict
        Tower by name, in the order in which a forward pass runs through them.

    Raises
    ------
    InputError
        If no stack of residual blocks is found.
    """
    paths = {id(sub): path for path, sub in module.named_modules()}
    roots = tower_roots(module, paths)
    towers: dict[str, Tower] = {}
    for name, modality in ROLES.items():
        if name not in roots:
            continue
        root = roots[name]
        others = [other for key, other in roots.items() if key != name and other is not root]
        read_in = reader(module, root) if modality == "text" else root
        blocks = find_blocks(read_in, excluded=others) or find_blocks(root, excluded=others)
        if not blocks:
            continue
        blocks, stage = _whole_or_stage(read_in, blocks, paths)
        if not blocks:
            continue
        # transformers records what a block puts out before a bridge's wrapper around the block sees it, and some
        # decoders are handed what was recorded of the image encoder: its blocks are read and written inside.
        places = [plain(block) for block in blocks] if modality == "image" else blocks
        inside = {id(sub) for block in blocks for sub in block.modules()}
        has_cls, n_registers = prefix_tokens(root, inside) if modality == "image" else (False, 0)
        streams, streams_first = streams_of(root)
        towers[name] = Tower(
            name=name,
            width=width_of(blocks, root) * streams,
            paths=tuple(paths[id(place)] for place in places),
            root=paths.get(id(root), ""),
            has_cls=has_cls,
            n_registers=n_registers,
            streams=streams,
            streams_first=streams_first,
            modality=modality,
            order=len(towers),
            stage=stage,
            blocks=tuple(blocks),
        )
    if not towers:
        raise InputError(
            f"no stack of residual blocks was found in {type(module).__name__}. Expected a transformer from the "
            "transformers library: a language model, an image encoder or a vision-language model."
        )
    return towers


def renewed(towers: dict[str, Tower], module: torch.nn.Module) -> dict[str, Tower]:
    """The towers of a model whose modules were replaced since they were found.

    Where a tower has blocks of its width at the same places, and no other, those are its blocks, whatever their class:
    one may have been put into a wrapper. Otherwise towers are found anew, with the errors of :func:`find_towers`.
    """
    made = {}
    for name, tower in towers.items():
        names = [path.rpartition(".") for path in tower.paths]
        try:
            blocks = [module.get_submodule(path) for path in tower.paths]
            lists = {holder: set(module.get_submodule(holder)._modules) for holder, _, _ in names}
        except AttributeError:
            return find_towers(module)
        same = lists == {holder: {last for at, _, last in names if at == holder} for holder in lists}
        if not same or [*map(stream_width, blocks)] != [*map(stream_width, tower.blocks)]:
            return find_towers(module)
        made[name] = replace(tower, blocks=tuple(blocks))
    return made


def _whole_or_stage(root: Any, blocks: list[Any], paths: dict[int, str]) -> tuple[list[Any], str]:
    """The blocks of a tower, and which stage of a hierarchical model they are; no blocks where no stage is a stack."""
    stages = stages_of(root, blocks)
    if len(stages) == 1:
        return blocks, ""
    own = next(place for place, stage in enumerate(stages) if any(block is blocks[0] for block in stage))
    if len(stages[own]) != len(blocks):
        return [], ""  # the list is one of several in its stage: the parts of a block
    widths = [stream_width(stage[0]) for stage in stages]
    if len(set(widths)) == 1:
        return [block for stage in stages for block in stage], ""
    others = [
        f"{paths[id(stage[0])].rpartition('.')[0]} ({len(stage)} blocks x {width})"
        for place, (stage, width) in enumerate(zip(stages, widths, strict=True))
        if place != own
    ]
    total = sum(map(len, stages))
    where = paths[id(blocks[0])].rpartition(".")[0]
    return blocks, (
        f"stage {own + 1} of {len(stages)}, {where} ({len(blocks)} of {total} blocks); left out are {', '.join(others)}"
    )


def tower_of(space: str) -> str:
    """The tower of a space, by their names: ``"decoder"`` for ``"decoder.mlp"``."""
    return space.partition(".")[0]


def modality_of(space: str) -> str:
    """The modality of a space or tower by its name, for results that are read without their model."""
    return ROLES.get(tower_of(space), "text")


def in_forward_order(spaces: Iterable[str]) -> list[str]:
    """Names of spaces or towers in the order of the forward pass, for results that are read without their model."""
    known = {name: place for place, name in enumerate(ROLES)}
    return sorted(spaces, key=lambda name: known.get(tower_of(name), len(known)))
