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

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError

if TYPE_CHECKING:
    import torch

#: The order in which a forward pass runs through the towers, which is the order of units everywhere.
FORWARD_ORDER = ("vision", "vision2", "audio", "encoder", "decoder")
VISION_TOWERS = ("vision", "vision2")
TEXT_TOWERS = ("encoder", "decoder")


def input_of(tower: str) -> str:
    """What stimuli must have to reach a tower, in a word for messages."""
    return "images" if tower in VISION_TOWERS else "audio, which stimuli cannot hold" if tower == "audio" else "text"


@dataclass(frozen=True)
class Tower:
    """A stack of residual blocks of one width.

    Attributes
    ----------
    name
        ``"vision"``, ``"vision2"``, ``"audio"``, ``"encoder"`` or ``"decoder"``.
    width
        Number of dimensions of the residual stream, so of units per block; of all streams, where blocks carry several.
    paths
        Module path of each block, from input to output.
    root
        Module path of the submodule that holds the tower (``""`` for the model itself).
    has_cls, n_registers
        Whether the sequence starts with a class token, and how many register tokens follow it (vision towers).
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
        reader = _reader(module, root) if name in TEXT_TOWERS else root
        blocks = _blocks(reader, excluded=others) or _blocks(root, excluded=others)
        if not blocks:
            continue
        # transformers records what a block puts out before a bridge's wrapper around the block sees it, and some
        # decoders are handed what was recorded of the image encoder: its blocks are read and written inside.
        places = [_plain(block) for block in blocks] if name in VISION_TOWERS else blocks
        inside = {id(sub) for block in blocks for sub in block.modules()}
        has_cls, n_registers = _prefix_tokens(root, inside) if name in VISION_TOWERS else (False, 0)
        streams, streams_first = _streams(root)
        towers[name] = Tower(
            name=name,
            width=_width(blocks, root) * streams,
            paths=tuple(paths[id(place)] for place in places),
            root=paths.get(id(root), ""),
            has_cls=has_cls,
            n_registers=n_registers,
            streams=streams,
            streams_first=streams_first,
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
    image = _ask(module, "get_encoder", modality="image")
    # A class with one encoder may answer with it whatever it is asked for.
    if image is None or image is module or id(image) not in paths or _reads_only(image):
        image = None
    seeing = _seeing_modules(module)
    # Some classes answer with a module that holds more than the image encoder, or with themselves.
    inside = [sub for sub in seeing if image is not None and any(sub is each for each in image.modules())]
    first = [*inside, *(sub for sub in seeing if not any(sub is each for each in inside))] or [image]
    for name, encoder in zip(VISION_TOWERS, first, strict=False):
        if encoder is not None:
            roots[name] = encoder
    audio = _ask(module, "get_encoder", modality="audio")
    if audio is not module and id(audio) in paths and audio not in roots.values() and _hears(module, audio):
        roots["audio"] = audio
    if "vision" not in roots and _sees_only(module):
        roots["vision"] = module
        return roots
    config = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        encoder = _ask(module, "get_encoder")
        if encoder is not None and encoder is not module and id(encoder) in paths and encoder not in roots.values():
            sees = "vision" not in roots and (_sees_only(encoder) or _sees_only(module))
            roots["vision" if sees else "encoder"] = encoder
    text = _ask(module, "get_decoder")
    if text is None or id(text) not in paths or not any(_module_lists(text)):  # some call their LM head a decoder
        text = module
    if text is not roots.get("vision"):
        generates = _ask(module, "can_generate") or _is_language_model(getattr(_reader(module, text), "config", None))
        roots["decoder" if generates or _is_causal(text, roots) else "encoder"] = text
    return roots


def _hears(module: Any, encoder: Any) -> bool:
    """Whether an encoder is for audio: a class with one encoder answers with it whatever it is asked for."""
    config = getattr(getattr(module, "config", None), "audio_config", None)
    built = config is not None and type(getattr(encoder, "config", None)) is type(config)
    return built or getattr(encoder, "main_input_name", None) not in ("input_ids", "pixel_values")


def _seeing_modules(module: Any) -> list[Any]:
    """The submodules that are image encoders of their own, in the order in which the model lists them.

    They are built from a vision config, or from a part of one where it has parts, and hold blocks.
    """
    import torch

    kinds = {type(config) for config in _vision_configs(getattr(module, "config", None))}
    found: list[Any] = []
    inside: set[int] = set()
    for path, sub in module.named_modules():
        if sub is module or id(sub) in inside or type(getattr(sub, "config", None)) not in kinds:
            continue
        # A tower for videos is of the same class as the one for images, and images never reach it.
        if not hasattr(sub, "main_input_name") or "video" in path.rpartition(".")[2]:
            continue
        parts = [
            each
            for each in sub.modules()
            if hasattr(each, "main_input_name") and type(each.config) in kinds - {type(sub.config)}
        ]
        if len(parts) < 2 and any(isinstance(each, torch.nn.ModuleList) for each in sub.modules()):
            found.append(sub)
            inside |= {id(each) for each in sub.modules()}
    return found


def _vision_configs(config: Any) -> Iterator[Any]:
    """Every config of a vision part, and of its parts."""
    for name in getattr(type(config), "sub_configs", None) or ():
        part = getattr(config, name, None)
        if part is None:
            continue
        if name.endswith("vision_config"):
            yield part
            yield from _parts(part)
        else:
            yield from _vision_configs(part)


def _parts(config: Any) -> Iterator[Any]:
    for name in getattr(type(config), "sub_configs", None) or ():
        part = getattr(config, name, None)
        if part is not None:
            yield part
            yield from _parts(part)


def _ask(module: Any, method: str, **kwargs: Any) -> Any:
    """What a model answers to ``method``; None where its class cannot say (some raise on exotic layouts)."""
    try:
        return getattr(module, method)(**kwargs)
    except (AttributeError, NotImplementedError, ValueError, TypeError, KeyError):
        return None


_PIXELS = ("pixel_values", "flattened_patches")


def _sees_only(module: Any) -> bool:
    """Whether a module takes images and no text."""
    takes = inspect.signature(module.forward).parameters
    if getattr(module, "main_input_name", None) not in _PIXELS and not any(name in takes for name in _PIXELS):
        return False
    reads = any(name in takes for name in ("input_ids", "decoder_input_ids"))
    return not reads and not hasattr(getattr(module, "config", None), "text_config")


def _reads_only(module: Any) -> bool:
    """Whether a module takes text and no images."""
    takes = inspect.signature(module.forward).parameters
    return "input_ids" in takes and not any(name in takes for name in _PIXELS)


def _reader(module: Any, root: Any) -> Any:
    """The part of a text tower that embeds the tokens: some models hold a second stack for what is no text."""
    import torch

    embedding = _ask(module, "get_input_embeddings")
    found = root
    for sub in root.modules() if isinstance(embedding, torch.nn.Embedding) else ():
        if hasattr(sub, "main_input_name") and any(part is embedding for part in sub.modules()):
            found = sub  # modules come before their parts
    return found


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
    # The stages of a hierarchical tower are no stack: their widths grow. Each holds one.
    lists = [children for children in lists if len({_stream_width(child) for child in children}) == 1]
    named: list[list[Any]] = []
    for models in ([root], root.modules()):  # what a model says of itself counts before what its parts say
        recorded = _recorded_classes(models)
        named = named or [children for children in lists if all(_is_instance(child, recorded) for child in children)]
    candidates = named or [children for children in lists if _look_like_blocks(children)]
    if not named:  # the parts of a block may look like blocks, but differ from each other as blocks do not
        candidates = [children for children in lists if _in_parts(children)] or candidates
    if not candidates:  # the normalizations may sit one level deeper, in the parts of a block
        candidates = [children for children in lists if all(_holds_norms(child) for child in children)]
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
            if _look_like_blocks(children) and len({_stream_width(child) for child in children}) == 1:
                continue
        yield from _module_lists(child)


def _look_like_blocks(children: list[Any]) -> bool:
    """Whether a list could be a stack of residual blocks: composite modules that hold most of their weights inside."""
    return all(sum(1 for _ in _plain(child).children()) >= 2 and _norm_width(child) is not None for child in children)


def _holds_norms(block: Any) -> bool:
    """Whether a block is made of parts that normalize what they read."""
    parts = [_plain(part) for part in _plain(block).children()]
    return len(parts) >= 2 and any(_norm_width(part) is not None for part in parts)


def _in_parts(children: list[Any]) -> bool:
    """Whether equal blocks hold their parts in a list, each with its normalization."""
    import torch

    if len({type(_plain(child)) for child in children}) > 1:
        return False
    lists = [list(part) for part in _plain(children[0]).children() if isinstance(part, torch.nn.ModuleList)]
    return any(len({type(part) for part in parts}) > 1 and _look_like_blocks(parts) for parts in lists)


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
    vision tower hands on ``hidden_size``. Without one, it is the number that a block's matrices share.
    """
    width = _stream_width(blocks[0])
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


def _stream_width(block: Any) -> int | None:
    """Width of the stream that a block reads and writes: most of its matrices begin or end there."""
    width = _norm_width(block)
    if width is not None:
        return width
    ends: Counter[int] = Counter()
    for sub in _plain(block).modules():
        weight: Any = getattr(sub, "weight", None)
        if getattr(weight, "ndim", 0) == 2:
            ends.update({int(weight.shape[0]), int(weight.shape[1])})
    if ends:
        return max(ends.items(), key=lambda pair: (pair[1], -pair[0]))[0]
    return next((width for sub in _plain(block).modules() if (width := _norm_width(sub)) is not None), None)


# What configs call the number of residual streams that blocks mix and write back: in hyper-connections, and in AltUp,
# which stacks them along the first dimension.
_STREAMS = re.compile(r"^(hc_(count|mult)|num_residual_streams|(?P<first>altup)_num_inputs)$")


def _streams(root: Any) -> tuple[int, bool]:
    """How many residual streams the blocks of a tower carry side by side, and whether along the first dimension."""
    config: Any = getattr(root, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name, value in vars(config).items() if config is not None else ():
        match = _STREAMS.match(name)
        if match and isinstance(value, int) and value > 1:
            return value, match["first"] is not None
    return 1, False


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
