"""Which checkpoint a model is, and everything that its numbers depend on.

Two questions, two answers. :func:`checkpoint_fingerprint` identifies the *checkpoint*: class and weights, whichever
precision they are held in. Units carry it, so that those of another model are refused. :func:`weights_fingerprint`
identifies the weights bit by bit, and :func:`numbers_of` everything else that decides the *numbers*: adapters,
attention implementation, tokenizer, processor and chat template. Both go into the key of a stored result.
:func:`why_not_stored` names what no description holds: hooks and replaced methods.

All of them read the model anew at each call, since anything of it can be edited in place; no counter of torch notices
an edit through ``.data``. xxh3 reads weights at the speed of memory, and :func:`weights_read_once` spares a second
reading within one call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from modalnet.models import state

if TYPE_CHECKING:
    import torch

    from modalnet.inputs.batch import Prepared
    from modalnet.models.loading import Loaded

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 1 << 26  # bytes brought to the CPU at a time, for weights that live on a GPU
_MAGNITUDE, _LEAST = 0x7FFF, (127 - 14) << 7  # bits of a bfloat16 without its sign, and those of 2**-14
# Checkpoint by the weights bit by bit, which take a small part of the time to hash: rounding is done once.
_checkpoints: dict[str, str] = {}
# Fingerprints taken within one public call, with their modules, so that no other module gets the same id meanwhile.
_read: ContextVar[dict[tuple[int, str], tuple[Any, str]] | None] = ContextVar("weights_read", default=None)


@contextmanager
def weights_read_once() -> Iterator[None]:
    """Read the weights of each module at most once inside."""
    if _read.get() is not None:
        yield
        return
    token = _read.set({})
    try:
        yield
    finally:
        _read.reset(token)


def reads_weights_once(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function read the weights of each module at most once per call."""

    @wraps(function)
    def once(*args: P.args, **options: P.kwargs) -> T:
        with weights_read_once():
            return function(*args, **options)

    return once


def weights_are_read(module: torch.nn.Module) -> bool:
    """Whether the weights of a module were read already inside :func:`weights_read_once`."""
    return (id(module), weights_fingerprint.__name__) in (_read.get() or {})


def _taken_once(function: Callable[[torch.nn.Module], str]) -> Callable[[torch.nn.Module], str]:
    """Keep what was read of a module for as long as :func:`weights_read_once` says."""

    @wraps(function)
    def taken(module: torch.nn.Module) -> str:
        known, key = _read.get(), (id(module), function.__name__)
        if known is None:
            return function(module)
        if key not in known:
            known[key] = module, function(module)
        return known[key][1]

    return taken


@_taken_once
def checkpoint_fingerprint(module: torch.nn.Module) -> str:
    """A hash of a model's class, parameters and persistent buffers (32 hexadecimal characters), in any precision.

    Weights count as bfloat16 holds them, and those that float16 holds with fewer digits than bfloat16 (below 2**-14)
    count as zero. So a checkpoint that was saved in bfloat16 or float16 is the same in each of bfloat16, float16 and
    float32, and one that was saved in float32 is the same in float32 and bfloat16. Settings of the config are left out:
    most decide nothing, and their number grows with the version of transformers.
    """
    import xxhash

    scales = xxhash.xxh3_128()
    _add(scales, state.quantized(module))  # codes are the same at another scale
    bits = weights_fingerprint(module) + scales.hexdigest()
    if bits not in _checkpoints:
        _checkpoints[bits] = _rounded_fingerprint(module)
    return _checkpoints[bits]


def _rounded_fingerprint(module: torch.nn.Module) -> str:
    import xxhash

    digest = xxhash.xxh3_128(type(module).__name__.encode())
    for name, tensor in _tensors(module, persistent=True):
        digest.update(f"{name}:{tuple(tensor.shape)}:".encode())
        for piece in _rounded(tensor):
            digest.update(piece)
    _add(digest, state.packed(module))
    _add(digest, state.quantized(module))
    return str(digest.hexdigest())


def _rounded(tensor: torch.Tensor) -> Iterator[Any]:
    """The bytes of :func:`_bytes`, for a plain tensor of floating-point numbers after rounding."""
    import torch

    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type != "meta"
    if not plain or tensor.dtype not in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        yield str(tensor.dtype).encode()
        yield from _bytes(tensor)
        return
    for piece in tensor.contiguous().reshape(-1).split(_CHUNK // 4):
        # As integers, which compare many times faster than bfloat16 does.
        bits = piece.to(torch.bfloat16).view(torch.int16)
        yield from _bytes(bits.masked_fill((bits & _MAGNITUDE) < _LEAST, 0))


def _tensors(module: torch.nn.Module, *, persistent: bool) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers by name, in its order; ``persistent`` leaves out buffers that no checkpoint holds."""
    elsewhere = state.offloaded(module)
    named = [*module.named_parameters(), *module.named_buffers()]
    if persistent:
        made = {
            f"{prefix}.{name}" if prefix else name
            for prefix, each in module.named_modules()
            for name in each._non_persistent_buffers_set
        }
        named = [pair for pair in named if pair[0] not in made]
    return [
        (name, elsewhere[name]() if name in elsewhere else tensor.detach())
        for name, tensor in sorted(named, key=lambda pair: pair[0])
    ]


@_taken_once
def weights_fingerprint(module: torch.nn.Module) -> str:
    """A hash of a model's class, config, parameters and buffers, bit by bit (32 hexadecimal characters).

    Weights that accelerate keeps on the CPU or the disk are read there. Weights of which nothing but a shape is here
    count by their shape; :func:`why_not_stored` names them.
    """
    import xxhash

    digest = xxhash.xxh3_128(type(module).__name__.encode())
    config = getattr(module, "config", None)
    if config is not None:
        digest.update(_settings(config.to_dict()).encode())
    _add(digest, _tensors(module, persistent=False))
    _add(digest, state.packed(module))
    return str(digest.hexdigest())


def _add(digest: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, tensor in tensors:
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        for piece in _bytes(tensor):
            digest.update(piece)


def served_fingerprint(module: torch.nn.Module, key: str) -> str:
    """The same for a model on a server: its name there, its class, config and commit stand for the weights.

    The server may hold it in another precision from one day to the next; nothing says so.
    """
    import xxhash

    config = getattr(module, "config", None)
    known = [type(module).__name__, key, getattr(config, "_commit_hash", None)]
    known.append(_settings(config.to_dict()) if config is not None else "")
    return xxhash.xxh3_128(json.dumps(known).encode()).hexdigest()


def numbers_of(module: torch.nn.Module, loaded: Loaded) -> dict[str, Any]:
    """Everything besides the checkpoint's fingerprint that decides what a model computes, as JSON values.

    Its parts are digests and small documents: the plain state of every module (adapters, scaling, constants), the
    configs with their attention implementation, the generation config, autocast and matrix precision, device types, and
    what turns stimuli into inputs.
    """
    return computation_of(module) | {
        "encoding": {
            name: _digest(state.document(getattr(loaded, name)))
            for name in ("tokenizer", "processor", "image_processor", "feature_extractor")
        }
    }


def computation_of(module: torch.nn.Module) -> dict[str, Any]:
    """The part of :func:`numbers_of` that decides what a model makes of given inputs."""
    import torch
    import xxhash

    kinds = sorted({tensor.device.type for tensor in [*module.parameters(), *module.buffers()]})
    scales = xxhash.xxh3_128()
    _add(scales, state.quantized(module))
    autocast = {
        kind: str(torch.get_autocast_dtype(kind))
        for kind in ("cpu", "cuda", "mps", "xpu")
        if torch.is_autocast_enabled(kind)
    }
    return {
        "modules": _digest(state.modules(module)),
        "configs": _digest(state.configs(module)),
        "generation": _digest(state.document(getattr(module, "generation_config", None))),
        "autocast": autocast,
        "matmul": [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32],
        "devices": kinds,
        "quantization": scales.hexdigest(),
    }


#: What a processor holds beside its tokenizer.
PREPROCESSORS = ("image_processor", "feature_extractor", "audio_processor")


def preprocessing_of(loaded: Loaded) -> str:
    """A digest of what turns images and sounds into inputs.

    The document of a tokenizer with a large vocabulary takes seconds, so a processor counts by its numbers and names
    beside its image processor and its feature extractor.
    """
    held = (loaded.processor, loaded.image_processor, loaded.feature_extractor)
    documents = [
        [
            {name: value for name, value in vars(part).items() if isinstance(value, bool | int | float | str)},
            [state.document(getattr(part, name, None)) for name in PREPROCESSORS]
            if hasattr(part, "tokenizer")
            else state.document(part),
        ]
        for part in held
        if part is not None
    ]
    return _digest(documents)


def why_not_stored(module: torch.nn.Module, envoy: Any) -> str:
    """Why results of a model cannot be stored; empty where they can.

    Hooks, replaced methods and edits change what a model computes, and nothing describes what they do.
    """
    checks: list[Callable[[], str]] = [
        lambda: "its nnsight model carries edits" if getattr(envoy, "_edits", None) else "",
        lambda: state.hooked(module),
        lambda: state.replaced(module),
    ]
    return next((reason for check in checks if (reason := check())), "")


def unread_weights(module: torch.nn.Module) -> str:
    """The name of a weight whose values are nowhere to be read; empty where there is none."""
    elsewhere = state.offloaded(module)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return next((name for name, tensor in tensors if tensor.device.type == "meta" and name not in elsewhere), "")


def encoded_texts(tokenizer: Any, prepared: Sequence[Prepared]) -> list[Any]:
    """What the tokenizer makes of prepared stimuli: the inputs of each text, and prompt and token ids beside images."""
    found: list[Any] = []
    for item in prepared:
        if item.text_inputs is not None:
            found.append(item.text_inputs)
        elif item.prompt is not None:
            ids = tokenizer(item.prompt, add_special_tokens=item.special_tokens)["input_ids"]
            found.append([item.prompt, ids])
        else:
            found.append(None)
    return found


def _bytes(tensor: torch.Tensor) -> Iterator[Any]:
    import torch

    if tensor.device.type == "meta" or tensor.numel() == 0:
        return
    if tensor.is_quantized:
        yield repr(state.quantization(tensor)).encode()
        tensor = tensor.int_repr()
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) and hasattr(tensor, "__tensor_flatten__"):
        # A subclass that wraps other tensors, such as torchao's: its parts, and what it says of them.
        names, context = tensor.__tensor_flatten__()
        yield repr(context).encode()
        for name in names:
            yield from _bytes(getattr(tensor, name))
        return
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    for piece in tensor.contiguous().reshape(-1).view(torch.uint8).split(_CHUNK):
        yield piece.cpu().numpy().data


def _digest(value: Any) -> str:
    import xxhash

    return xxhash.xxh3_128(json.dumps(value, sort_keys=True).encode()).hexdigest()


# Where a config came from, what wrote it, and the precision that it names (the weights have theirs) do not change what
# is computed, but they change when a model is saved and loaded.
_INCIDENTAL = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def _settings(values: dict[Any, Any]) -> str:
    """The settings of a config or processor as one string, the same for the same settings."""

    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): keep(each) for key, each in value.items() if key not in _INCIDENTAL}
        return [keep(each) for each in value] if isinstance(value, list | tuple) else value

    return json.dumps(keep(values), sort_keys=True, default=lambda value: type(value).__name__)
