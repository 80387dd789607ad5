"""Finding a model's towers: the stacks of residual blocks that its units live in.

transformers already says where they are. A model hands out its image encoder with
``get_encoder(modality="image")`` and its language model with ``get_decoder()``, and a model class names the
block class whose outputs it records as hidden states in ``_can_record_outputs["hidden_states"]``. This module
starts from those and falls back on structure: the largest list of equal blocks. It holds no table of model
names, so that a model released tomorrow is found the same way as one of today.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError

if TYPE_CHECKING:
    import torch

#: The order in which a forward pass runs through the towers, which is the order of units everywhere.
FORWARD_ORDER = ("vision", "audio", "encoder", "decoder")


@dataclass(frozen=True)
class Tower:
    """A stack of residual blocks of one width.

    Attributes
    ----------
    name
        ``"vision"``, ``"decoder"``, ``"encoder"`` or ``"audio"``.
    width
        Number of dimensions of the residual stream, so of units per block.
    paths
        Module path of each block, from input to output.
    root
        Module path of the submodule that holds the tower (``""`` for the model itself).
    has_cls, n_registers
        Whether the sequence starts with a class token, and how many register tokens follow it (vision towers).
    """

    name: str
    width: int
    paths: tuple[str, ...]
    root: str = ""
    has_cls: bool = False
    n_registers: int = 0
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
    def n_prefix(self) -> int:
        """Number of tokens before the first image patch (class and register tokens)."""
        return int(self.has_cls) + self.n_registers

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
    roots = _tower_roots(module, paths)
    towers: dict[str, Tower] = {}
    for name in FORWARD_ORDER:
        if name not in roots:
            continue
        root = roots[name]
        others = [other for key, other in roots.items() if key != name and other is not root]
        blocks = _blocks(root, excluded=others)
        if not blocks:
            continue
        # transformers records what a block puts out before a bridge's wrapper around the block sees it, and some
        # decoders are handed what was recorded of the image encoder: its blocks are read and written inside.
        places = [_plain(block) for block in blocks] if name == "vision" else blocks
        inside = {id(sub) for block in blocks for sub in block.modules()}
        has_cls, n_registers = _prefix_tokens(root, inside) if name == "vision" else (False, 0)
        towers[name] = Tower(
            name=name,
            width=_width(blocks, root),
            paths=tuple(paths[id(place)] for place in places),
            root=paths.get(id(root), ""),
            has_cls=has_cls,
            n_registers=n_registers,
            blocks=tuple(blocks),
        )
    if not towers:
        raise InputError(
            f"no stack of residual blocks was found in {type(module).__name__}. Expected a transformer from the "
            "transformers library: a language model, an image encoder or a vision-language model."
        )
    return towers


def _tower_roots(module: Any, paths: dict[int, str]) -> dict[str, Any]:
    """The submodule that holds each tower, as far as the model itself says so."""
    roots: dict[str, Any] = {}
    seeing = _seeing_modules(module)
    for name, modality in (("vision", "image"), ("audio", "audio")):
        encoder = _ask(module, "get_encoder", modality=modality)
        if name == "vision" and seeing:
            # Some classes answer with a module that holds more than the image encoder, or with themselves.
            inside = [sub for sub in seeing if encoder is None or any(sub is each for each in encoder.modules())]
            encoder = (inside or seeing)[0]
        elif name == "audio" and getattr(encoder, "main_input_name", None) in ("input_ids", "pixel_values"):
            continue  # a class with one encoder answers with it whatever it is asked for
        if encoder is not None and encoder is not module and id(encoder) in paths and encoder not in roots.values():
            roots[name] = encoder
    if "vision" not in roots and _sees_only(module):
        roots["vision"] = module
        return roots
    config = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        encoder = _ask(module, "get_encoder")
        if encoder is not None and encoder is not module and id(encoder) in paths:
            roots.setdefault("vision" if _sees_only(encoder) or _sees_only(module) else "encoder", encoder)
    text = _ask(module, "get_decoder")
    if text is None or id(text) not in paths:
        text = module
    if text is not roots.get("vision"):
        generates = _ask(module, "can_generate") or _is_language_model(getattr(text, "config", None))
        roots["decoder" if generates or _is_causal(text, roots) else "encoder"] = text
    return roots


def _seeing_modules(module: Any) -> list[Any]:
    """The outermost submodules that are built from a vision config and take pixels."""
    kinds = {type(config) for config in _vision_configs(getattr(module, "config", None))}
    found: list[Any] = []
    inside: set[int] = set()
    for sub in module.modules():
        if sub is module or id(sub) in inside or type(getattr(sub, "config", None)) not in kinds:
            continue
        if getattr(sub, "main_input_name", None) == "pixel_values":
            found.append(sub)
            inside |= {id(each) for each in sub.modules()}
    return found


def _vision_configs(config: Any) -> Iterator[Any]:
    for name in getattr(type(config), "sub_configs", None) or ():
        part = getattr(config, name, None)
        if name == "vision_config" and part is not None:
            yield part
        elif part is not None:
            yield from _vision_configs(part)


def _ask(module: Any, method: str, **kwargs: Any) -> Any:
    """What a model answers to ``method``; None where its class cannot say (some raise on exotic layouts)."""
    try:
        return getattr(module, method)(**kwargs)
    except (AttributeError, NotImplementedError, ValueError, TypeError, KeyError):
        return None


def _sees_only(module: Any) -> bool:
    """Whether a module takes images and no text."""
    if getattr(module, "main_input_name", None) not in {"pixel_values", "flattened_patches"}:
        return False
    config = getattr(module, "config", None)
    return not (hasattr(config, "text_config") or hasattr(config, "vocab_size") or hasattr(config, "decoder"))


def _is_language_model(config: Any) -> bool:
    """Whether transformers registers a config for causal language modelling and not for masked language modelling."""
    from transformers.models.auto import modeling_auto

    kind = getattr(config, "model_type", None)
    causal, masked = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return kind in causal and kind not in masked


def _is_causal(text: Any, roots: dict[str, Any]) -> bool:
    """Whether a text tower reads from left to right; its attention modules know."""
    if "encoder" in roots:
        return True  # the encoder is known, so what is left is the decoder
    skipped = {id(sub) for root in roots.values() if root is not text for sub in root.modules()}
    flags = {bool(sub.is_causal) for sub in text.modules() if hasattr(sub, "is_causal") and id(sub) not in skipped}
    return flags != {False}


def _blocks(root: Any, excluded: Iterable[Any] = ()) -> list[Any]:
    """The residual blocks below ``root``, from input to output, leaving out what other towers hold."""
    skipped = {id(sub) for other in excluded for sub in other.modules()}
    if id(root) in skipped:  # the other tower contains this one: only its own part counts
        skipped -= {id(sub) for sub in root.modules()}
    lists = [children for children in _module_lists(root) if not any(id(child) in skipped for child in children)]
    named: list[list[Any]] = []
    for models in ([root], root.modules()):  # what a model says of itself counts before what its parts say
        recorded = _recorded_classes(models)
        named = named or [children for children in lists if all(_is_instance(child, recorded) for child in children)]
    candidates = named or [children for children in lists if _look_like_blocks(children)]
    if not candidates:
        return []
    return max(
        candidates, key=lambda children: (len(children), sum(p.numel() for c in children for p in c.parameters()))
    )


def _module_lists(root: Any) -> Iterator[list[Any]]:
    """Every list of submodules below ``root``, without those nested in a block of another list (experts)."""
    import torch

    for child in root.children():
        if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential) and len(child) > 0:
            children = list(child)
            yield children
            if _look_like_blocks(children):
                continue
        yield from _module_lists(child)


def _look_like_blocks(children: list[Any]) -> bool:
    """Whether a list could be a stack of residual blocks: composite modules that hold most of their weights inside."""
    return all(sum(1 for _ in _plain(child).children()) >= 2 and _norm_width(child) is not None for child in children)


def _recorded_classes(models: Iterable[Any]) -> list[Any]:
    """The block classes that transformers records as hidden states of these models."""
    found: list[Any] = []
    for sub in models:
        records = getattr(sub, "_can_record_outputs", None)
        specs = records.get("hidden_states") if isinstance(records, dict) else None
        for spec in specs if isinstance(specs, list | tuple) else [specs]:
            target = getattr(spec, "target_class", None) or getattr(spec, "class_name", None) or spec
            if isinstance(target, type | str):
                found.append(target)
    return found


def _is_instance(child: Any, classes: list[Any]) -> bool:
    block = _plain(child)
    return any(
        type(block).__name__ == target if isinstance(target, str) else isinstance(block, target) for target in classes
    )


def _plain(module: Any) -> Any:
    """The transformers module behind a TransformerLens bridge component, or the module itself."""
    return getattr(module, "original_component", module)


def _norm_width(block: Any) -> int | None:
    """Size of the first normalization that sits directly in a block: the width of the stream it normalizes."""
    for child in map(_plain, _plain(block).children()):
        if "norm" in type(child).__name__.lower():
            weight = getattr(child, "weight", None)
            if weight is not None and weight.dim() == 1:
                return int(weight.shape[0])
    return None


def _width(blocks: list[Any], root: Any) -> int:
    """Width of the residual stream.

    The block's own normalization says it for certain. A config does not: Qwen2-VL calls the width of what its
    vision tower hands on ``hidden_size``.
    """
    for block in blocks[0].modules():
        width = _norm_width(block)
        if width is not None:
            return width
    config = getattr(root, "config", None)
    for name in ("embed_dim", "hidden_size", "d_model", "n_embd", "width"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise InputError(
        f"the width of the residual stream of {type(blocks[0]).__name__} could not be determined: it has no "
        "normalization layer and its config names no hidden size."
    )


_CLASS_TOKEN = re.compile(r"^(cls|class)_?(token|embedding|embeddings)?$")
_REGISTERS = re.compile(r"^register_?tokens?$")


def _prefix_tokens(root: Any, inside_blocks: set[int]) -> tuple[bool, int]:
    """Class and register tokens of a vision tower: they are parameters of its embeddings, outside the blocks."""
    has_cls, n_registers = False, 0
    for sub in root.modules():
        if id(sub) in inside_blocks:
            continue
        for name, parameter in sub.named_parameters(recurse=False):
            if _CLASS_TOKEN.match(name):
                has_cls = True
            elif _REGISTERS.match(name) and parameter.dim() >= 2:
                n_registers = int(parameter.shape[-2])
    return has_cls, n_registers
