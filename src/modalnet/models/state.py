"""What of a model can be changed in place, beside its weights: read as plain values, or found to be beyond description.

Everything here goes by structure: attributes of modules, configs, tokenizers and processors as they are now. What a
class says is left to the version of the library that it comes from.
"""

from __future__ import annotations

import enum
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# Where something came from, what was said of it, and caches of what is read elsewhere: none of it decides a number.
_INCIDENTAL = {
    *("name_or_path", "_name_or_path", "transformers_version", "_commit_hash", "_from_model_config", "verbose"),
    *("_original_object_hash", "deprecation_warnings", "warnings_issued", "files_loaded", "init_inputs", "auto_map"),
    *("init_kwargs", "vocab_file", "_auto_class", "_in_target_context_manager", "_is_hf_initialized", "hf_device_map"),
}
# The precision that a config names; the weights have theirs.
_OF_CONFIGS = {"architectures", "dtype", "torch_dtype"}
# What torch, nnsight and accelerate keep in a module; hooks and forward are looked at apart. Passes run in evaluation
# mode, whichever mode a module is in.
_MACHINERY = {
    "training",
    *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook", "forward"),
    *("__nnsight__", "_persistent_id", "_hf_hook", "_old_forward", "_compiled_call_impl"),
}
# Hooks of these libraries record, move or prepare: what they do follows from weights, buffers and config. Those that a
# user gives to TransformerLens are known by its hook points.
_OWN_HOOKS = ("transformers.", "accelerate.", "nnsight.", "torch.nn.utils.", "transformer_lens.")
_DEPTH = 12  # of nested settings
# Per tokenizer, what of its backend was read and the digest of it: a large vocabulary takes a second to write out.
_vocabularies: weakref.WeakKeyDictionary[Any, tuple[Any, Any, str]] = weakref.WeakKeyDictionary()


def modules(module: torch.nn.Module) -> list[list[Any]]:
    """Name, class and plain attributes of every submodule: adapters, scaling, constants.

    Configs are read once for all, by :func:`configs`.
    """
    return [
        [
            name,
            _name(type(each)),
            {
                attribute: _name(type(value)) if hasattr(value, "to_dict") else plain(value)
                for attribute, value in vars(each).items()
                if attribute not in _MACHINERY and "_hooks" not in attribute and _tells(attribute, value)
            },
        ]
        for name, each in module.named_modules()
    ]


def configs(module: torch.nn.Module) -> list[list[Any]]:
    """Every config that a submodule holds, and the implementation of attention and experts that it chooses."""
    found: dict[int, list[Any]] = {}
    for name, each in module.named_modules():
        config = getattr(each, "config", None)
        if hasattr(config, "to_dict") and id(config) not in found:
            found[id(config)] = [name, document(config)]
    return list(found.values())


def document(value: Any) -> Any:
    """An object that is nothing but settings (a config, a processor, a tokenizer), with its class."""
    return None if value is None else plain(value)


def plain(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911  # one branch per kind of value
    """A value as JSON, the same for the same settings; of an object that holds other things, its class."""
    if value is None or isinstance(value, bool | int | str):
        return value if not isinstance(value, enum.Enum) else [_name(type(value)), str(value.value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if depth > _DEPTH:
        return _name(type(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, depth + 1) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(each, depth + 1) for each in value), key=repr)
    return _of_object(value, depth)


def _of_object(value: Any, depth: int) -> Any:  # noqa: PLR0911  # one branch per kind of value
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return _name(value)
    if isinstance(value, MethodType):
        return _name(value.__func__)
    if isinstance(value, enum.Enum):
        return [_name(type(value)), str(value.value)]
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), np.asarray(value).tolist()] if value.size <= 1 << 12 else _array(value)
    if hasattr(value, "backend_tokenizer"):
        return _tokenizer(value, depth)
    if hasattr(value, "to_dict"):
        return [_name(type(value)), _attributes(value, depth)]
    kind = _name(type(value))
    if kind.startswith("torch.") and not hasattr(value, "__dict__"):  # a dtype, a device
        return str(value)
    if type(value).__module__.startswith("tokenizers"):
        return repr(value)
    if type(value).__module__.startswith("transformers") and hasattr(value, "__dict__"):
        return [kind, _attributes(value, depth)]
    return kind


def _attributes(value: Any, depth: int) -> dict[str, Any]:
    return {
        name: plain(each, depth + 1)
        for name, each in vars(value).items()
        if name not in _OF_CONFIGS and _tells(name, each)
    }


def _tells(name: str, value: Any) -> bool:
    return name not in _INCIDENTAL and not isinstance(value, weakref.ref)


def _tokenizer(tokenizer: Any, depth: int) -> Any:
    """A tokenizer as it is now: its settings, its special tokens, and its backend with the vocabulary."""
    settings = _attributes_without(tokenizer, depth, "_tokenizer")
    backend = tokenizer.backend_tokenizer
    if not hasattr(backend, "to_str"):
        return [_name(type(tokenizer)), settings, plain(dict(tokenizer.get_vocab()), depth + 1)]
    model = backend.model
    now = (
        backend.get_vocab_size(True),
        backend.get_vocab_size(False),
        *(_state(getattr(backend, part)) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")),
        type(model).__name__,
        *(repr(getattr(model, name, None)) for name in ("dropout", "unk_token", "fuse_unk", "byte_fallback")),
        *(repr(getattr(model, name, None)) for name in ("continuing_subword_prefix", "end_of_word_suffix")),
    )
    known = _vocabularies.get(tokenizer)
    if known is None or known[0] is not backend or known[1] != now:
        written = backend.to_str()
        # Truncation and padding stand before this; transformers sets both anew at every call.
        known = (backend, now, _digest(written[written.index('"added_tokens"') :].encode()))
        _vocabularies[tokenizer] = known
    return [_name(type(tokenizer)), settings, known[2]]


def _attributes_without(value: Any, depth: int, *names: str) -> dict[str, Any]:
    return {name: each for name, each in _attributes(value, depth).items() if name not in names}


def _state(part: Any) -> bytes:
    if part is None:
        return b""
    try:
        return bytes(part.__getstate__())
    except Exception:  # a part written in Python has no state to be read
        return repr(type(part)).encode()


def _array(value: Any) -> str:
    array = np.ascontiguousarray(value)
    return _digest(f"{array.dtype}{array.shape}".encode() + array.tobytes())


def _digest(data: bytes) -> str:
    import xxhash

    return xxhash.xxh3_128(data).hexdigest()


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


# Weights that are no parameters


def offloaded(module: torch.nn.Module) -> dict[str, Callable[[], torch.Tensor]]:
    """Where the values of weights are that accelerate moved to the CPU or the disk, by the weight's name."""
    found: dict[str, Callable[[], Any]] = {}
    for prefix, each in module.named_modules():
        hook = vars(each).get("_hf_hook")
        for one in getattr(hook, "hooks", (hook,)):
            weights = getattr(one, "weights_map", None)
            if weights is None:
                continue
            direct = [*each.named_parameters(recurse=False), *each.named_buffers(recurse=False)]
            if getattr(one, "place_submodules", False):
                direct = [*each.named_parameters(), *each.named_buffers()]
            for name, tensor in direct:
                if tensor.device.type == "meta" and name in weights:
                    found[f"{prefix}.{name}" if prefix else name] = partial(weights.__getitem__, name)
    return found


def packed(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights that torch's own quantization packs where no parameter is, with their scales."""
    for prefix, each in module.named_modules():
        if "_packed_params" in vars(each) and callable(getattr(each, "_weight_bias", None)):
            for part, tensor in zip(("weight", "bias"), each._weight_bias(), strict=True):
                if tensor is not None:
                    yield f"{prefix}.{part}", tensor.detach()


def scaled_together(module: torch.nn.Module) -> bool:
    """Whether activations are quantized at one scale for all that a call holds, so that stimuli of a batch mix.

    That is what torch's own dynamic quantization does.
    """
    return any(type(each).__module__.startswith("torch.ao.nn.quantized.dynamic") for each in module.modules())


def quantized(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Scales and codes that a quantized weight carries as attributes, such as those of bitsandbytes."""
    for prefix, weight in module.named_parameters():
        for name in ("quant_state", "CB", "SCB"):
            yield from _tensors(f"{prefix}.{name}", getattr(weight, name, None))
    for prefix, each in module.named_modules():
        for name in ("SCB", "CB"):
            yield from _tensors(f"{prefix}.state.{name}", getattr(vars(each).get("state"), name, None))


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif hasattr(value, "absmax"):  # a state of bitsandbytes, which may hold a second one
        for part in ("absmax", "code", "offset", "state2"):
            yield from _tensors(f"{name}.{part}", getattr(value, part, None))


def quantization(tensor: torch.Tensor) -> list[Any]:
    """Scale and zero point of a tensor of torch's own quantized types."""
    import torch

    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return [str(tensor.dtype), tensor.q_scale(), tensor.q_zero_point()]
    return [str(tensor.dtype), tensor.q_per_channel_scales().tolist(), tensor.q_per_channel_zero_points().tolist()]


# What no description holds


def hooked(module: torch.nn.Module) -> str:
    """Which module carries a hook that may change its output; empty where none does."""
    from torch.nn.modules import module as machinery

    if machinery._global_forward_hooks or machinery._global_forward_pre_hooks:
        return "a global forward hook is registered"
    for name, each in module.named_modules():
        if getattr(each, "fwd_hooks", None):
            return f"{name or 'the model'} has a TransformerLens hook"
        if hooks_of(each):
            return f"{name or 'the model'} has a forward hook"
    return ""


def is_own_hook(hook: Any) -> bool:
    """Whether a hook is one of the libraries that run the model, which records, moves or prepares."""
    return _name(hook if hasattr(hook, "__qualname__") else type(hook)).startswith(_OWN_HOOKS)


def hooks_of(module: torch.nn.Module) -> list[Any]:
    """The forward hooks and pre-hooks of one module, without those that libraries register for themselves."""
    return [
        hook for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()) if not is_own_hook(hook)
    ]


def global_hooks() -> list[Any]:
    """The forward hooks and pre-hooks of every module, without those that libraries register for themselves."""
    from torch.nn.modules import module as machinery

    everywhere = (*machinery._global_forward_hooks.values(), *machinery._global_forward_pre_hooks.values())
    return [hook for hook in everywhere if not is_own_hook(hook)]


def replaced(module: torch.nn.Module) -> str:
    """Which module has a method that is not its class's; empty where none has."""
    for name, each in module.named_modules():
        own = vars(each)
        for attribute, held in own.items():
            value = _forward(own) if attribute == "forward" else held
            if callable(value) and callable(getattr(type(each), attribute, None)) and not _of_class(each, value):
                return f"{attribute} of {name or 'the model'} was replaced"
    return ""


def _forward(own: Mapping[str, Any]) -> Any:
    """What a module's own ``forward`` runs in the end; None where that is its class's."""
    forward = own["forward"]
    if type(forward).__module__.startswith("nnsight"):
        forward = getattr(own.get("__nnsight__"), "original", None)
    if "_hf_hook" in own:
        forward = own.get("_old_forward")
    return forward


def _of_class(module: torch.nn.Module, value: Any) -> bool:
    """Whether a callable is a method that the module's class has, bound to this module or not."""
    function = value.__func__ if isinstance(value, MethodType) else value
    if isinstance(value, MethodType) and value.__self__ is not module:
        return False
    return any(function is each for kind in type(module).__mro__ for each in vars(kind).values())


def alterations(module: torch.nn.Module) -> tuple[Any, ...]:
    """What changes when a hook is added or removed, a method is replaced, or a submodule exchanged."""
    from torch.nn.modules import module as machinery

    found: list[Any] = [*machinery._global_forward_hooks, *machinery._global_forward_pre_hooks]
    for each in module.modules():
        own = vars(each)
        hooks = [*own["_forward_hooks"], *own["_forward_pre_hooks"], *map(id, own.get("fwd_hooks") or ())]
        forward = id(_forward(own)) if "forward" in own else None
        found.append((id(each), forward, *hooks))
    return tuple(found)
