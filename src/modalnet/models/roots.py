"""Which submodule of a model holds each tower, as far as the model itself says so."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from modalnet.models.blocks import module_lists

#: The towers by name, in the order in which a forward pass runs through them, and the modality that each reads.
ROLES = {"vision": "image", "vision2": "image", "audio": "audio", "encoder": "text", "decoder": "text"}
IMAGE_TOWERS = tuple(name for name, modality in ROLES.items() if modality == "image")


def tower_roots(module: Any, paths: dict[int, str]) -> dict[str, Any]:
    """The submodule that holds each tower, as far as the model itself says so."""
    roots: dict[str, Any] = {}
    image = _ask(module, "get_encoder", modality="image")
    # A class with one encoder may answer with it whatever it is asked for.
    if image is None or image is module or id(image) not in paths or _reads_only(image):
        image = None
    seeing = _built_from(module, "vision_config")
    # Some classes answer with a module that holds more than the image encoder, or with themselves.
    inside = [sub for sub in seeing if image is not None and any(sub is each for each in image.modules())]
    first = [*inside, *(sub for sub in seeing if not any(sub is each for each in inside))] or [image]
    for name, encoder in zip(IMAGE_TOWERS, first, strict=False):
        if encoder is not None:
            roots[name] = encoder
    audio = _ask(module, "get_encoder", modality="audio")
    if audio is not module and id(audio) in paths and audio not in roots.values() and _hears(module, audio):
        roots["audio"] = audio
    elif hearing := _built_from(module, "audio_config"):
        roots["audio"] = hearing[0]
    if "vision" not in roots and _sees_only(module):
        roots["vision"] = module
        return roots
    config = getattr(module, "config", None)
    apart = bool(getattr(config, "is_encoder_decoder", False))
    if "audio" not in roots and not apart and _hears_only(module):
        roots["audio"] = module
        return roots
    if apart:
        encoder = _ask(module, "get_encoder")
        if encoder is not None and encoder is not module and id(encoder) in paths and encoder not in roots.values():
            sees = "vision" not in roots and (_sees_only(encoder) or _sees_only(module))
            hears = "audio" not in roots and (_hears_only(encoder) or _hears_only(module))
            roots["vision" if sees else "audio" if hears else "encoder"] = encoder
    text = _ask(module, "get_decoder")
    if text is None or id(text) not in paths or not any(module_lists(text)):  # some call their LM head a decoder
        text = module
    if text is not roots.get("vision"):
        generates = writes(module, reader(module, text))
        roots["decoder" if generates or _is_causal(text, roots) else "encoder"] = text
    return roots


def _hears(module: Any, encoder: Any) -> bool:
    """Whether an encoder is for audio: a class with one encoder answers with it whatever it is asked for."""
    config = getattr(getattr(module, "config", None), "audio_config", None)
    built = config is not None and type(getattr(encoder, "config", None)) is type(config)
    return built or getattr(encoder, "main_input_name", None) not in ("input_ids", "pixel_values")


def _built_from(module: Any, name: str) -> list[Any]:
    """The submodules that are encoders of one modality, in the order in which the model lists them.

    They are built from the config of that name, or from a part of it where it has parts, and hold blocks.
    """
    import torch

    kinds = {type(config) for config in _configs(getattr(module, "config", None), name)}
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


def _configs(config: Any, wanted: str) -> Iterator[Any]:
    """Every config that an attribute of that name holds, such as ``"vision_config"``, and of its parts."""
    for name in getattr(type(config), "sub_configs", None) or ():
        part = getattr(config, name, None)
        if part is None:
            continue
        if name.endswith(wanted):
            yield part
            yield from _parts(part)
        else:
            yield from _configs(part, wanted)


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
#: Parameters of a model's forward that take sounds.
SOUNDS = ("input_features", "input_values", "audio_values")


def _sees_only(module: Any) -> bool:
    """Whether a module takes images and no text."""
    takes = inspect.signature(module.forward).parameters
    if getattr(module, "main_input_name", None) not in _PIXELS and not any(name in takes for name in _PIXELS):
        return False
    reads = any(name in takes for name in ("input_ids", "decoder_input_ids"))
    return not reads and not hasattr(getattr(module, "config", None), "text_config")


def takes_sounds(module: Any) -> bool:
    """Whether the forward of a module takes sounds."""
    return any(name in inspect.signature(module.forward).parameters for name in SOUNDS)


def _hears_only(module: Any) -> bool:
    """Whether a module takes sounds, and neither text nor images; a decoder may write text."""
    takes = inspect.signature(module.forward).parameters
    return takes_sounds(module) and not any(name in takes for name in ("input_ids", *_PIXELS))


def _reads_only(module: Any) -> bool:
    """Whether a module takes text and no images."""
    takes = inspect.signature(module.forward).parameters
    return "input_ids" in takes and not any(name in takes for name in _PIXELS)


def reader(module: Any, root: Any) -> Any:
    """The part of a text tower that embeds the tokens: some models hold a second stack for what is no text."""
    import torch

    embedding = _ask(module, "get_input_embeddings")
    found = root
    for sub in root.modules() if isinstance(embedding, torch.nn.Embedding) else ():
        if hasattr(sub, "main_input_name") and any(part is embedding for part in sub.modules()):
            found = sub  # modules come before their parts
    return found


def writes(module: Any, text: Any) -> bool:
    """Whether a model generates text, or its text tower is that of a class that does."""
    return bool(_ask(module, "can_generate")) or _is_language_model(getattr(text, "config", None))


def _is_language_model(config: Any) -> bool:
    """Whether transformers registers a config for causal language modelling and not for masked language modelling."""
    from transformers.models.auto import modeling_auto

    kind = getattr(config, "model_type", None)
    causal, masked = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return kind in causal and kind not in masked


def _is_causal(text: Any, roots: dict[str, Any]) -> bool:
    """Whether a text tower reads from left to right, as far as its attention modules or its config say."""
    if "encoder" in roots:
        return True  # the encoder is known, so what is left is the decoder
    skipped = {id(sub) for root in roots.values() if root is not text for sub in root.modules()}
    flags = {bool(sub.is_causal) for sub in text.modules() if hasattr(sub, "is_causal") and id(sub) not in skipped}
    return flags != {False} if flags else bool(getattr(getattr(text, "config", None), "is_decoder", False))
