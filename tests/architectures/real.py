"""Processors as a class has them, small and offline: pictures of any size become what the real class makes of them.

A processor's class says what it is made of (an image processor, a tokenizer with some special tokens, numbers that fit
the model), and the numbers mean what they mean in configs. The tokens are in its source, where it looks them up.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from typing import Any

import transformers as tr
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from families import make_tokenizer, no_video, stand_in_for_num2words

from .shrink import COMMON_IDS, IMAGE, stem

_ATTEMPTS = 12


class NoProcessorError(Exception):
    """A class has no processor that can be made here."""


def make_processor(kind: str, numbers: dict[str, Any]) -> Any:
    """The processor of a model type.

    Parameters
    ----------
    kind
        Model type, as configs name it.
    numbers
        What sizes must be, by the names that processors use for them; see `tests.architectures.small`.

    Raises
    ------
    NoProcessorError
        If a part of it needs a package that is not there, or wants what is not known here.
    """
    stand_in_for_num2words()
    name, images = PROCESSOR_MAPPING_NAMES.get(kind), (IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {}).get("pil")
    if name is None or images is None:
        raise NoProcessorError("it has no processor that reads pictures without torchvision")
    try:
        processor_class, image_class = getattr(tr, name), getattr(tr, images)
        source = inspect.getsource(sys.modules[processor_class.__module__])
    except Exception as error:  # what is missing is an ImportError, or whatever stands in for a class says
        raise NoProcessorError(str(error)) from error
    try:
        image_processor = image_class(**_image_numbers(image_class, numbers))
    except Exception as error:
        raise NoProcessorError(str(error)) from error
    marks = dict.fromkeys(re.findall(r"""["'](<[^"'\s{}]+>|\[IMG[A-Z_]*\]|TILE\w*|\|[A-Z_]+\|)["']""", source))
    named: dict[str, str] = {}
    problem: BaseException = NoProcessorError("nothing was tried")
    for _ in range(_ATTEMPTS):
        tokenizer = make_tokenizer(list(marks), named=named, add_bos=True)
        try:
            return _assemble(processor_class, image_processor, tokenizer, numbers)
        except (AttributeError, ValueError) as error:
            problem = error
            missing = re.search(r"attribute '?(\w+?_token)(_id)?'?(\.|$)", str(error))
            if missing is None:
                break
            # Processors of these classes ask their tokenizer for a token of that name.
            named[missing[1]] = next((m for m in marks if missing[1].split("_")[0] in m), f"<{missing[1]}>")
        except Exception as error:  # a processor that wants something else
            problem = error
            break
    raise NoProcessorError(f"{type(problem).__name__}: {problem}") from problem


def _assemble(processor_class: Any, image_processor: Any, tokenizer: Any, numbers: dict[str, Any]) -> Any:
    takes = inspect.signature(processor_class.__init__).parameters
    if {"args", "kwargs"} >= set(takes) - {"self"}:  # the real signature is that of the base class
        takes = {**takes, "image_processor": None, "tokenizer": None, "patch_size": None, "spatial_merge_size": None}
    parts = {
        "image_processor": image_processor,
        "tokenizer": tokenizer,
        "qformer_tokenizer": tokenizer,
        "video_processor": no_video() if "video_processor" in takes else None,
    }
    given = {name: value for name, value in {**numbers, **parts}.items() if name in takes}
    return processor_class(**given)


def _image_numbers(image_class: Any, numbers: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0912  # a list of cases
    """Sizes of an image processor, by what its own are called."""
    side, merge = numbers["patch_size"], numbers["merge_size"]
    made: dict[str, Any] = {}
    size = getattr(image_class, "size", None)
    takes = inspect.signature(image_class.__init__).parameters
    if size is None and "crop_size" in takes:  # of a class that keeps its defaults in its constructor
        made |= {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}
    if "kwargs" in takes:
        made["image_seq_length"] = numbers["image_seq_length"]  # some processors ask the image processor for it
    if isinstance(size, dict):
        if "height" in size:
            made["size"] = {"height": IMAGE, "width": IMAGE}
        elif "longest_edge" in size and max(size.values()) > 10_000:  # numbers of pixels, not of a side
            made["size"] = {"shortest_edge": 4 * (side * merge) ** 2, "longest_edge": 12 * (side * merge) ** 2}
        else:
            made["size"] = {name: IMAGE * (2 if name == "longest_edge" and len(size) > 1 else 1) for name in size}
            if hasattr(image_class, "max_image_size"):
                made["size"] = {"longest_edge": 2 * IMAGE}
    if isinstance(getattr(image_class, "max_image_size", None), dict):
        made["max_image_size"] = {"longest_edge": IMAGE}
    elif isinstance(getattr(image_class, "max_image_size", None), int):
        made["max_image_size"] = IMAGE
        made["min_image_size"] = IMAGE // 2
    if isinstance(getattr(image_class, "crop_size", None), dict):
        made["crop_size"] = {"height": IMAGE, "width": IMAGE}
    if hasattr(image_class, "patch_size"):
        own = image_class.patch_size
        made["patch_size"] = {"height": side, "width": side} if isinstance(own, dict) else side
    for name in ("merge_size", "temporal_patch_size", "image_grid_pinpoints", "pooling_kernel_size"):
        if hasattr(image_class, name) and name in numbers:
            made[name] = numbers[name]
    if isinstance(getattr(image_class, "max_patches", None), int):
        made["max_patches"] = 4 if "height" in (size or {}) else 24
    if hasattr(image_class, "tile_size"):
        made["tile_size"] = IMAGE
    return made


def token_ids(config_class: Any, processor: Any) -> dict[str, int]:
    """Ids of the tokens of a processor, by what a config calls them."""
    tokenizer = processor.tokenizer
    special = {str(token): id for id, token in tokenizer.added_tokens_decoder.items()}
    found: dict[str, int] = {}
    for name in {"image", *(stem(field.name) for field in dataclasses.fields(config_class))}:
        # A processor may call the token image token that a prompt is written with, and replace it by others.
        mark, own = (getattr(holder, f"{name}_token", None) for holder in (tokenizer, processor))
        named = special.get(str(mark)), getattr(processor, f"{name}_token_id", None), special.get(str(own))
        value = next((id for id in named if isinstance(id, int)), None)
        if value is None:
            value = next(
                (id for token, id in special.items() if all(w in token.lower() for w in name.split("_"))), None
            )
        if value is not None and name not in COMMON_IDS:
            found[name] = value
    return found
