"""Where in a block the units of each kind of space are, as far as its structure says.

What a block adds to the residual stream, it adds in sublayers: an attention and an MLP. The finder proposes places for
what they put out, for what enters their last projections, and for the stream between them. Structure leaves some
questions open, such as whether a norm that is called ``post_attention_layernorm`` stands behind the attention or
before the MLP; then there are several candidates, and a pass through the model decides
(:mod:`modalnet.execution.sublayers`).
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modalnet.models.heads import head_count
from modalnet.models.parts import Attention, Mlp, Parts, mixer_of
from modalnet.models.places import Absent, Candidates, Place
from modalnet.models.projections import steps
from modalnet.models.streams import norm_width, plain

if TYPE_CHECKING:
    import torch

    from modalnet.models.towers import Tower

#: The kinds of places inside a block, in the order in which most blocks reach them.
SUBLAYER_KINDS = ("pre", "heads", "attention", "mid", "gate", "activation", "neurons", "mlp")
_ORDER = {"pre": -1.0, "heads": 10, "attention": 20, "mid": 21, "gate": 40, "activation": 50, "neurons": 60, "mlp": 70}

_AFTER_ATTENTION = re.compile(r"^post_?(self_?|cross_?)?(att\w*|operator|norm_?1)", re.I)
_AFTER_MLP = re.compile(r"^post_?(mlp|ffn?|feed_?forward|norm_?2)", re.I)
_BEFORE_MLP = re.compile(r"^(pre_?)?(mlp|ffn?|feed_?forward)|^pre_", re.I)
_BEFORE_ATTENTION = re.compile(
    r"^(input|pre_?(self_?)?att|operator_?norm|attn_?norm|norm_?1|ln_?1|layer_?norm_?1)", re.I
)
_SCALE = re.compile(r"(layer_?scale|^ls|residual_?(gate|scal))", re.I)
_ACTIVATION = re.compile(r"act|gelu|relu|silu|sigmoid|tanh|swish|mish|softplus|softcap", re.I)


def find_places(tower: Tower, block: torch.nn.Module) -> dict[str, Candidates]:
    """Where in one block of a tower the units of each kind of space may be.

    Parameters
    ----------
    tower
        The tower.
    block
        One of its blocks; weights may be on the meta device.

    Returns
    -------
    dict
        For each of :data:`SUBLAYER_KINDS` the places that structure allows, likeliest first, or why there is none. A
        scale is NaN where only a pass through the model can tell it.
    """
    inner: Any = plain(block) if tower.modality == "image" else block
    width = tower.width // tower.streams
    parts = Parts(inner, width)
    attention, mlp = _one_attention(parts), _one_mlp(parts)
    found: dict[str, Candidates] = {
        "pre": (Place("", "input", tower.width, tower.width, order=_ORDER["pre"]),),
        "heads": attention if isinstance(attention, Absent) else _heads(parts, attention),
        "attention": attention if isinstance(attention, Absent) else _attention(parts, attention),
        "mlp": _mlp(parts, mlp),
    }
    for kind in ("neurons", "gate", "activation"):
        found[kind] = mlp if isinstance(mlp, Absent) else _INSIDE[kind](parts, mlp)
    found["mid"] = _mid(parts, found["attention"], mlp)
    return {kind: _ordered(kind, found[kind]) for kind in SUBLAYER_KINDS}


def _ordered(kind: str, found: Candidates) -> Candidates:
    return found if isinstance(found, Absent) else tuple(replace(place, order=_ORDER[kind]) for place in found)


def _one_attention(parts: Parts) -> Attention | Absent:
    own = parts.own_attentions
    if len(own) == 1:
        return own[0]
    if own:
        return Absent(f"it has {len(own)} attentions ({', '.join(each.path for each in own)})")
    mixer = mixer_of(parts.block)
    if mixer is not None:
        return Absent(f"its {mixer} mixes tokens without attention heads")
    return Absent("it has no attention with an output projection")


def _one_mlp(parts: Parts) -> Mlp | Absent:
    if len(parts.mlps) == 1:
        return parts.mlps[0]
    if parts.mlps:
        return Absent(f"it has {len(parts.mlps)} MLPs ({', '.join(each.down.path for each in parts.mlps)})")
    if parts.experts is not None:
        return Absent("its MLP is a mixture of experts without one that every token goes through")
    return Absent("it has no MLP")


def _heads(parts: Parts, attention: Attention) -> Candidates:
    n_in = attention.out.n_in
    count = head_count(parts.block.get_submodule(attention.path), parts.block, n_in)
    if count is None:
        return Absent(f"how many heads the {n_in} numbers that enter {attention.out.path} belong to is not known")
    return (Place(attention.out.path, "input", count, n_in, size=n_in // count),)


def _attention(parts: Parts, attention: Attention) -> Candidates:
    return _added(parts, attention.out.path, first=True)


def _mlp(parts: Parts, mlp: Mlp | Absent) -> Candidates:
    if parts.experts is not None:
        return _added(parts, parts.experts, first=False)
    return mlp if isinstance(mlp, Absent) else _added(parts, mlp.down.path, first=False)


def _neurons(parts: Parts, mlp: Mlp) -> Candidates:
    return (Place(mlp.down.path, "input", mlp.down.n_in, mlp.down.n_in),)


def _gate(parts: Parts, mlp: Mlp) -> Candidates:
    """The output of the projection, or what enters the activation where names or halves leave open which that is."""
    width = mlp.down.n_in
    function = [Place(path, "input", width, width) for path in _activations(parts, mlp)]
    projected = []
    for up in [mlp.gate] if mlp.gate is not None else mlp.up:
        projected += [Place(up.path, "output", width, up.n_out, start=start) for start in range(0, up.n_out, width)]
    found = [*projected, *function] if len(projected) == 1 else [*function, *projected]
    return tuple(found)


def _activation(parts: Parts, mlp: Mlp) -> Candidates:
    if not mlp.gated:
        return Absent("its MLP has no gate, so what its activation function gives are the neurons")
    found = _activations(parts, mlp)
    if not found:
        return Absent("its activation function is not a module")
    return tuple(Place(path, "output", mlp.down.n_in, mlp.down.n_in) for path in found)


_INSIDE = {"neurons": _neurons, "gate": _gate, "activation": _activation}


def _activations(parts: Parts, mlp: Mlp) -> list[str]:
    """Modules without weights of their own that may be an MLP's activation function, nearest first."""
    found = []
    for path, module in parts.block.named_modules():
        around = path.rpartition(".")[0]
        if not path or not (
            around == ""
            or f"{mlp.down.path}.".startswith(f"{around}.")
            or f"{mlp.up[0].path}.".startswith(f"{around}.")
        ):
            continue
        known = _ACTIVATION.search(steps(path)[-1] if steps(path) else "") or _ACTIVATION.search(
            type(plain(module)).__name__
        )
        if known and not any(each.path == path for each in parts.projections) and not list(module.children()):
            found.append(path)
    return sorted(found, key=lambda path: -path.count("."))


def _added(parts: Parts, path: str, *, first: bool) -> tuple[Place, ...]:
    """Places for what a sublayer adds to the stream, from the path of the module that puts it out.

    Parameters
    ----------
    parts
        Of the block.
    path
        The innermost module that puts it out: a projection, or a mixture of experts.
    first
        Whether it is the attention, which comes before the MLP in most blocks.
    """
    chain = [path]
    while "." in chain[-1]:
        chain.append(chain[-1].rpartition(".")[0])
    if path == parts.experts:  # the outermost also holds an expert that all tokens go through
        chain.reverse()
    scale = _scale(parts.block, first=first)
    scaling = [each for each in _children(parts.block) if _SCALE.search(each)]
    behind = [scaling[0 if first else -1]] if len(scaling) == 2 else []
    norm = _norm_after(parts, first=first)
    behind += [norm] if norm is not None else []
    likely = [*behind, *chain]
    rest = [each for each in [*_norms(parts), *scaling, *_children(parts.block)] if each not in likely]
    return tuple(
        Place(each, "output", parts.width, parts.width, scale=1.0 if each in scaling else scale)
        for each in dict.fromkeys([*likely, *rest])
        if not each.endswith(("_original_component", "base_layer"))
    )


def _norm_after(parts: Parts, *, first: bool) -> str | None:
    """The norm behind a sublayer, before what it puts out is added; None where there is none by its name."""
    names = {steps(path)[-1]: path for path in _norms(parts)}
    after = [path for name, path in names.items() if (_AFTER_ATTENTION if first else _AFTER_MLP).search(name)]
    if not first or len(after) > 1:
        return after[-1] if after else None
    before_mlp = [name for name in names if _BEFORE_MLP.search(name) and "att" not in name]
    before_attention = [name for name in names if _BEFORE_ATTENTION.search(name)]
    # With no other norm before the MLP, it is the one behind the attention that stands there.
    return after[0] if after and (before_mlp or not before_attention) else None


def _norms(parts: Parts) -> list[str]:
    """The norms that stand directly in a block."""
    return [
        path
        for path, module in _children(parts.block).items()
        if "norm" in type(plain(module)).__name__.lower() or "norm" in path.lower()
    ]


def _children(block: Any) -> dict[str, Any]:
    """The parts of a block by their paths; those of the block that a wrapper holds."""
    inner = plain(block)
    prefix = "" if inner is block else "_original_component."
    return {f"{prefix}{name}": child for name, child in inner.named_children()}


def _scale(block: Any, *, first: bool) -> Any:
    """What is multiplied with a sublayer's output by the block itself; NaN where that is to be measured."""
    inner = plain(block)
    multiplier = getattr(inner, "residual_multiplier", None)
    if isinstance(multiplier, float):
        return multiplier
    held = [parameter for parameter in inner._parameters.values() if parameter is not None and parameter.ndim == 1]
    if len(held) != 2:
        return 1.0
    parameter = held[0 if first else 1]
    if parameter.numel() == 1 or parameter.device.type == "meta":
        return math.nan
    return parameter.detach().float().cpu().numpy()


def _mid(parts: Parts, attention: Candidates, mlp: Mlp | Absent) -> Candidates:
    if isinstance(attention, Absent):
        return attention
    if isinstance(mlp, Absent) and parts.experts is None:
        return mlp
    if any(each.is_cross for each in parts.attentions) and len(parts.attentions) > 1:
        return Absent("between its attention and its MLP it attends to another tower")
    inner = plain(parts.block)
    beside = any(getattr(inner, name, False) is True for name in ("use_parallel_residual", "parallel_attn"))
    if beside or len(_norms(parts)) == 1:
        return Absent("its attention and its MLP run side by side")
    if not _norms(parts) and _normalizes_sums(parts):
        return Absent("it normalizes the sum of the stream and what a sublayer adds")
    return tuple(replace(place, base=("", "input")) for place in attention)


def _normalizes_sums(parts: Parts) -> bool:
    """Whether a norm stands beside the projection that a sublayer ends with, and not beside a whole sublayer."""
    holders = {each.out.path.rpartition(".")[0] for each in parts.own_attentions}
    return any(
        "norm" in type(plain(child)).__name__.lower() and norm_width(parts.block.get_submodule(holder)) == parts.width
        for holder in holders
        for child in parts.block.get_submodule(holder).children()
    )
