"""Which parts of a block are its attention and its MLP, by the projections in them.

An attention is a module with projections to queries and one that puts its heads together; an MLP is a pair of
projections, from the width of the stream to a hidden width and back. Names tell only which of the projections is which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modalnet.models.projections import Projection, projections, steps
from modalnet.models.streams import plain

_QUERIES = re.compile(
    r"^(w?q|q_?(a_|b_)?proj\w*|q_gate_proj|query\w*|project_q|(to_|w)?qkv\w*|c_attn|in_proj_qkvz?)$", re.I
)
_HEADS_TOGETHER = re.compile(
    r"^(w?o|o_proj|(attention_|attn_)?out(put)?(_proj)?|dense|c_proj|proj(ection)?(_layer)?|post)$", re.I
)
_ATTENTION = re.compile(r"att(n|ention|$)", re.I)
_CROSS = re.compile(r"cross|enc_?dec|encoder_?decoder|encoder_att", re.I)
_MIXER = re.compile(r"mamba|ssm|mixer|conv|lru|rwkv|lstm|temporal|delta|recurrent", re.I)
_MLP = re.compile(r"mlp|ffn|feed_?forward|^ff$|intermediate|dense\w*(relu|act)|shared", re.I)
_DOWN = re.compile(
    r"down|fc_?(2|out)$|^wo$|w_?(2|out)$|c_proj$|4h_to_h$|lin(ear_?(fc)?)?2$|layer_2$|^output|dense$|value$", re.I
)
_GATE = re.compile(r"gate|^w_?1$|^wi?_0$", re.I)
_EXPERTS = re.compile(r"(?<!shared)(?<!shared_)expert", re.I)
#: What is neither attention nor MLP, though it may hold two projections.
_BESIDE = re.compile(
    r"norm|router|gating$|gate$|adapter|altup|laurel|hyper_?conn|_hc$|residual|indexer|conv|inject", re.I
)


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention of a block: the path of its module, and the projection that its heads enter."""

    path: str
    out: Projection
    is_cross: bool


@dataclass(frozen=True, eq=False)
class Mlp:
    """A dense MLP of a block.

    Attributes
    ----------
    path
        The module that holds its projections and nothing else; empty where that is the block itself.
    up
        The projections from the stream, one or two; one that is twice as wide as the hidden width holds both.
    down
        The projection back to the stream.
    """

    path: str
    up: tuple[Projection, ...]
    down: Projection

    @property
    def gated(self) -> bool:
        """Whether neurons are products with a gate."""
        return len(self.up) > 1 or self.up[0].n_out == 2 * self.down.n_in

    @property
    def gate(self) -> Projection | None:
        """The projection to what enters the non-linearity; None where names do not say which it is."""
        if len(self.up) == 1:
            return self.up[0]
        named = [up for up in self.up if _GATE.search(up.name)]
        return named[0] if len(named) == 1 else None


class Parts:
    """The parts of one block.

    Parameters
    ----------
    block
        A torch module.
    width
        Width of one residual stream.
    """

    def __init__(self, block: Any, width: int) -> None:
        self.block = block
        self.width = width
        self.projections = list(projections(block))

    def named(self, path: str) -> list[str]:
        """Names and classes of a module and of those around it, up to the block."""
        names: list[str] = []
        here = ""
        for step in filter(None, path.split(".")):
            here = f"{here}.{step}" if here else step
            names += [*steps(step), type(plain(self.block.get_submodule(here))).__name__]
        return names

    @cached_property
    def attentions(self) -> list[Attention]:
        """Every attention."""
        found: dict[str, Attention] = {}
        queries = [each for each in self.projections if _QUERIES.match(each.name)]
        for out in self.projections:
            if out.n_out != self.width or not _HEADS_TOGETHER.match(out.name) or out in queries:
                continue
            path = max((_shared(out.path, query.path) for query in queries), key=len, default="")
            if path and not self._lists(path) and any(map(_ATTENTION.search, self.named(path))):
                is_cross = any(map(_CROSS.search, self.named(path)))
                found.setdefault(path, Attention(path, out, is_cross))
        return list(found.values())

    @cached_property
    def own_attentions(self) -> list[Attention]:
        """Those that attend to the tokens of the tower itself; where there are none, those to another's."""
        return [each for each in self.attentions if not each.is_cross] or self.attentions

    @cached_property
    def experts(self) -> str | None:
        """Path of the module whose experts take turns in the MLP; None where there is none."""
        for path, module in self.block.named_modules():
            name = steps(path)[-1] if steps(path) else ""
            known = _EXPERTS.search(name) or (name and _EXPERTS.search(type(plain(module)).__name__))
            if known and not any(self._inside(path, each.path) for each in self.attentions):
                return _around(path) or path
        return None

    @cached_property
    def mlps(self) -> list[Mlp]:
        """Every dense MLP that each token goes through; several only where none is likelier than the others."""
        rest = [each for each in self.projections if not self._taken(each)]
        found = []
        for down in rest:
            if down.n_out != self.width:
                continue
            ups = [
                up for up in rest if up is not down and up.n_in == self.width and up.n_out in (down.n_in, 2 * down.n_in)
            ]
            if not ups:
                continue
            path = max((_shared(down.path, up.path) for up in ups), key=len)
            near = [up for up in ups if len(_shared(down.path, up.path)) == len(path)]
            if len(near) > 2 or (self.experts is not None and self._inside(self.experts, _around(down.path))):
                continue
            found.append(Mlp(path, tuple(near), down))
        best = max((self._likeliness(mlp) for mlp in found), default=None)
        return [mlp for mlp in found if self._likeliness(mlp) == best]

    def _likeliness(self, mlp: Mlp) -> tuple[bool, bool]:
        names = [*self.named(_around(mlp.down.path)), *self.named(_around(mlp.up[0].path))]
        return any(map(_MLP.search, names)), bool(_DOWN.search(mlp.down.name))

    def _taken(self, projection: Projection) -> bool:
        """Whether a projection is in an attention, an expert, or another part that is no MLP."""
        if any(self._inside(projection.path, each.path) for each in self.attentions):
            return True
        names = self.named(_around(projection.path))
        beside = any(map(_BESIDE.search, names))
        return beside or any(map(_EXPERTS.search, names)) or bool(_EXPERTS.search(projection.name))

    def _lists(self, path: str) -> bool:
        import torch

        return isinstance(self.block.get_submodule(path), torch.nn.ModuleList | torch.nn.ModuleDict)

    def _inside(self, path: str, other: str) -> bool:
        return path == other or path.startswith(f"{other}.")


def _around(path: str) -> str:
    """The path of the module that a module is in."""
    return path.rpartition(".")[0]


def _shared(one: str, other: str) -> str:
    """The path of the smallest module that holds two others."""
    same = []
    for left, right in zip(one.split(".")[:-1], other.split(".")[:-1], strict=False):
        if left != right:
            break
        same.append(left)
    return ".".join(same)


def mixer_of(block: Any) -> str | None:
    """The class of the part of a block that mixes tokens without being an attention."""
    for name, child in plain(block).named_children():
        kind = type(plain(child)).__name__
        beside = re.search("norm|mlp|moe$|feed_?forward", f"{name} {kind}", re.IGNORECASE)
        if not beside and (_MIXER.search(name) or _MIXER.search(kind)):
            return kind
    return None
