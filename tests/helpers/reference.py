"""Independent references: what a model gives, by plain transformers and torch hooks, with nothing of modalnet.

The prompt of a stimulus is written as modalnet documents it: in the processor's chat template where it has one, with
``add_generation_prompt=True`` and no second bos; otherwise placeholders, then the text. `forward` runs one stimulus, in
a batch of its own, and records what every block gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

import modalnet as mn
from families import Family, build, picture

TEXTS = ("What is this?", "Describe this image in one word, please. Is there a face?", "The dog ran across the field")
SIZES = ((37, 53), (120, 40), (64, 64), (40, 90))

TEXT_ONLY = ("gpt2", "llama", "opt")
# Mllama pads inside its vision rows and does not say where: pooled reads of that tower are refused (test_inputs.py).
REFUSED = ("mllama",)
VISION_ONLY = ("vit", "dinov2_with_registers", "clip_vision", "siglip_vision")

#: Where the blocks of each tower lie, and how many the config says there are: (path, number) per tower.
BLOCKS: dict[str, dict[str, tuple[str, int]]] = {
    "llava_clip": {"vision": ("model.vision_tower.encoder.layers", 5), "decoder": ("model.language_model.layers", 4)},
    "llava_siglip": {"vision": ("model.vision_tower.encoder.layers", 4), "decoder": ("model.language_model.layers", 4)},
    "paligemma": {"vision": ("model.vision_tower.encoder.layers", 5), "decoder": ("model.language_model.layers", 4)},
    "gemma3": {"vision": ("model.vision_tower.encoder.layers", 4), "decoder": ("model.language_model.layers", 6)},
    "llava_next": {"vision": ("model.vision_tower.encoder.layers", 4), "decoder": ("model.language_model.layers", 4)},
    "llava_onevision": {
        "vision": ("model.vision_tower.encoder.layers", 4),
        "decoder": ("model.language_model.layers", 4),
    },
    "internvl": {"vision": ("model.vision_tower.encoder.layer", 4), "decoder": ("model.language_model.layers", 4)},
    "idefics3": {"vision": ("model.vision_model.encoder.layers", 4), "decoder": ("model.text_model.layers", 4)},
    "smolvlm": {"vision": ("model.vision_model.encoder.layers", 4), "decoder": ("model.text_model.layers", 4)},
    "pixtral": {"vision": ("model.vision_tower.transformer.layers", 4), "decoder": ("model.language_model.layers", 4)},
    "mistral3": {"vision": ("model.vision_tower.transformer.layers", 4), "decoder": ("model.language_model.layers", 4)},
    "qwen2_vl": {"vision": ("model.visual.blocks", 4), "decoder": ("model.language_model.layers", 4)},
    "qwen2_5_vl": {"vision": ("model.visual.blocks", 4), "decoder": ("model.language_model.layers", 4)},
    "qwen3_vl": {"vision": ("model.visual.blocks", 4), "decoder": ("model.language_model.layers", 4)},
    "glm4v": {"vision": ("model.visual.blocks", 4), "decoder": ("model.language_model.layers", 4)},
    "idefics2": {"vision": ("model.vision_model.encoder.layers", 4), "decoder": ("model.text_model.layers", 4)},
    "mllama": {"vision": ("model.vision_model.transformer.layers", 4), "decoder": ("model.language_model.layers", 6)},
    "blip2": {"vision": ("vision_model.encoder.layers", 4), "decoder": ("language_model.model.decoder.layers", 4)},
    "ovis2": {
        "vision": ("model.vision_tower.transformer.encoder.layers", 4),
        "decoder": ("model.language_model.layers", 4),
    },
    "janus": {"vision": ("model.vision_model.encoder.layers", 4), "decoder": ("model.language_model.layers", 4)},
    "gpt2": {"decoder": ("transformer.h", 4)},
    "llama": {"decoder": ("model.layers", 4)},
    "opt": {"decoder": ("model.decoder.layers", 4)},
    "vit": {"vision": ("layers", 4)},
    "dinov2_with_registers": {"vision": ("encoder.layer", 5)},
    "clip_vision": {"vision": ("encoder.layers", 5)},
    "siglip_vision": {"vision": ("encoder.layers", 4)},
    "clip": {"vision": ("vision_model.encoder.layers", 5), "encoder": ("text_model.encoder.layers", 4)},
}


#: What stands for an image where there is no chat template: the processor's own ``image_token``, and nothing else.
PLACEHOLDER = {"llava_siglip": "<image>", "ovis2": "<image>", "janus": "<image_placeholder>", "glm4v": "<|image|>"}


def load(name: str, **options: Any) -> Any:
    """A family as a modalnet model."""
    family = build(name)
    return mn.load(
        family.model, tokenizer=family.tokenizer, processor=family.processor or family.image_processor, **options
    )


def paths(name: str, tower: str) -> list[str]:
    path, number = BLOCKS[name][tower]
    return [f"{path}.{i}" for i in range(number)]


def prompt(family: Family, text: str | None, n_images: int) -> tuple[str, bool]:
    """The prompt, and whether the tokenizer adds special tokens to it."""
    if not family.has_chat_template:
        if family.name == "glm4v" and text and "<|image|>" in text:
            return text, True
        if family.name in PLACEHOLDER:
            return PLACEHOLDER[family.name] * n_images + (text or ""), True
        return family.image_text(text or "", n_images), True
    content: list[dict[str, str]] = [{"type": "image"}] * n_images
    if text is not None:
        content = [*content, {"type": "text", "text": text}]
    written = family.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    bos = family.tokenizer.bos_token
    return written, not (bos and written.startswith(bos))


def encode(family: Family, text: str | None, images: Sequence[Image.Image] = ()) -> dict[str, torch.Tensor]:
    """Inputs of one stimulus, by the family's own tokenizer or processor."""
    if family.processor is None and family.tokenizer is None:
        return dict(family.image_processor(list(images), return_tensors="pt"))
    if family.processor is None:
        return dict(family.tokenizer([text], return_tensors="pt"))
    written, special = prompt(family, text, len(images))
    if images:
        given: Any = list(images) if family.name == "blip2" else [list(images)]
        inputs = dict(family.processor(images=given, text=[written], return_tensors="pt", add_special_tokens=special))
        inputs.pop("labels", None)  # PaliGemma's processor adds them for training; a read has no loss
        return inputs
    inputs = dict(family.tokenizer([written], add_special_tokens=special, return_tensors="pt"))
    if family.name in ("paligemma", "gemma3"):  # as their processors give; PaliGemma's mask needs it
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return inputs


@contextlib.contextmanager
def watch(module: Any, where: Sequence[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Record the output of every call of some submodules."""
    seen: dict[str, list[torch.Tensor]] = {path: [] for path in where}

    def keep(path: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple | list) else output
            seen[path].append(value.detach().clone() if isinstance(value, torch.Tensor) else value)

        return hook

    hooks = [module.get_submodule(path).register_forward_hook(keep(path)) for path in where]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def editing(module: Any, edits: dict[str, Any]) -> Iterator[None]:
    """Replace the output of blocks: path → function of the flat output ``[position, dim]``."""

    def hook(change: Any) -> Any:
        def replace(module: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple | list) else output
            new = change(hidden.reshape(-1, hidden.shape[-1]).clone()).reshape(hidden.shape)
            return (new, *output[1:]) if isinstance(output, tuple | list) else new

        return replace

    handles = [
        module.get_submodule(path).register_forward_hook(hook(change), prepend=True) for path, change in edits.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def forward(
    name: str, text: str | None, images: Sequence[Image.Image] = (), family: Family | None = None
) -> tuple[Any, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The output of one stimulus, its inputs, and per tower ``[layer, token, dim]`` without padding."""
    family = family or build(name)
    inputs = encode(family, text, images)
    every = [path for tower in BLOCKS[name] for path in paths(name, tower)]
    with torch.no_grad(), watch(family.model, every) as seen:
        output = family.model(**inputs, output_hidden_states=True)
    states = {}
    for tower in BLOCKS[name]:
        own = [seen[path] for path in paths(name, tower)]
        if all(own):
            states[tower] = torch.stack([calls[0].reshape(-1, calls[0].shape[-1]) for calls in own])
    if name == "idefics2" and "vision" in states:  # it pads every crop's patches to the largest grid
        states["vision"] = states["vision"][:, patches_there(inputs["pixel_attention_mask"][0], 8)]
    return output, inputs, states


def patches_there(mask: torch.Tensor, size: int) -> torch.Tensor:
    """Which patches of ``[tile, height, width]`` hold a pixel of the image."""
    return mask.unfold(1, size, size).unfold(2, size, size).flatten(3).any(-1).flatten().bool()


def image_tokens(name: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which tokens of the decoder hold an image."""
    return inputs["input_ids"][0] == build(name).model.config.image_token_id


def close(actual: Any, expected: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(torch.as_tensor(np.asarray(actual)), torch.as_tensor(expected), atol=atol, rtol=0)


def stimuli_for(name: str, *, n: int = 3, images: int = 1) -> list[Any]:
    """Stimuli of different sizes and lengths that a family can read."""
    made = []
    for i in range(n):
        pictures = [picture(10 * i + j, *SIZES[(i + j) % len(SIZES)]) for j in range(images)]
        if name in TEXT_ONLY:
            made.append(mn.Stimulus(TEXTS[i % len(TEXTS)]))
        elif name in VISION_ONLY:
            made.append(mn.Stimulus(image=pictures))
        else:
            made.append(mn.Stimulus(TEXTS[i % len(TEXTS)], image=pictures))
    return made
