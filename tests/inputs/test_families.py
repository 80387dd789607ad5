"""Every family runs as its real checkpoint would: the processor makes inputs, the model takes them, and the vision
tower's rows lie where the table in `families` says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from families import FAMILIES, Family, build, picture
from versions import since

TEXTS = ("What is this?", "Describe this image in one word, please. Is there a face?", "The dog")
PICTURES = (picture(1, 37, 53), picture(2, 120, 40), picture(3, 64, 64))
TEXT_ONLY = ("gpt2", "llama", "opt")
VISION_ONLY = ("vit", "dinov2_with_registers", "clip_vision", "siglip_vision")
MULTIMODAL = tuple(name for name in FAMILIES if name not in (*TEXT_ONLY, *VISION_ONLY, "clip"))
NESTED_ONLY = ("gemma3", "smolvlm", "mllama")  # a flat list of images is taken to belong to one stimulus
ONE_IMAGE_ALWAYS = ("blip2",)  # its forward cannot go without pixels, and takes one image for each stimulus
FREE = tuple(name for name in MULTIMODAL if name not in ONE_IMAGE_ALWAYS)
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
WITH_TEMPLATE = ("llava_clip", "gemma3", "llava_next", "llava_onevision", "internvl", "idefics3", "smolvlm", *QWEN)

# The first vision block's output on TEXTS with PICTURES, one image each, and the part of it that each image has:
# rows for a tower that takes rows, tokens for one that packs; then the placeholders in each row of input_ids.
LAYOUT: dict[str, tuple[tuple[int, ...], tuple[int, int, int], tuple[int, int, int]]] = {
    "llava_clip": ((3, 17, 32), (1, 1, 1), (16, 16, 16)),
    "llava_siglip": ((3, 9, 36), (1, 1, 1), (9, 9, 9)),
    "paligemma": ((3, 9, 30), (1, 1, 1), (9, 9, 9)),
    "gemma3": ((3, 16, 48), (1, 1, 1), (4, 4, 4)),
    "blip2": ((3, 10, 32), (1, 1, 1), (3, 3, 3)),
    "janus": ((3, 9, 32), (1, 1, 1), (9, 9, 9)),
    "mllama": ((3, 64, 32), (1, 1, 1), (1, 1, 1)),
    "llava_next": ((14, 10, 40), (5, 4, 5), (39, 39, 51)),
    "llava_onevision": ((14, 9, 48), (5, 4, 5), (39, 39, 51)),
    "internvl": ((12, 17, 32), (3, 4, 5), (12, 16, 20)),
    "ovis2": ((14, 16, 32), (5, 4, 5), (20, 16, 20)),
    "idefics2": ((15, 36, 32), (5, 5, 5), (15, 15, 15)),
    "idefics3": ((13, 16, 32), (5, 3, 5), (20, 12, 20)),
    "smolvlm": ((13, 16, 32), (5, 3, 5), (20, 12, 20)),
    "pixtral": ((1, 78, 32), (30, 12, 36), (30, 12, 36)),
    "mistral3": ((1, 84, 32), (36, 12, 36), (9, 3, 9)),
    "qwen2_vl": ((152, 32), (24, 64, 64), (6, 16, 16)),
    "qwen2_5_vl": ((152, 32), (24, 64, 64), (6, 16, 16)),
    "qwen3_vl": ((152, 32), (24, 64, 64), (6, 16, 16)),
    "glm4v": ((152, 32), (24, 64, 64), (6, 16, 16)),
}


def encode(family: Family, texts: list[str], images: list[list[Any]]) -> Any:
    """Inputs for stimuli given as raw texts and one list of images each."""
    prompts = [family.image_text(text, len(own)) for text, own in zip(texts, images, strict=True)]
    given: Any = [own[0] for own in images] if family.name == "blip2" else images
    return family.processor(images=given, text=prompts, padding=True, return_tensors="pt")


def vision_blocks(model: Any) -> nn.ModuleList:
    """The longest list of equal blocks in the image encoder."""
    lists = [m for m in model.get_encoder(modality="image").modules() if isinstance(m, nn.ModuleList)]
    return max((blocks for blocks in lists if len({type(b) for b in blocks}) == 1), key=len)


def forward(model: Any, inputs: Any) -> tuple[Any, list[torch.Tensor]]:
    """The model's output, and what its first vision block gave on each of its calls."""
    calls: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        calls.append(output[0] if isinstance(output, tuple) else output)

    hook = vision_blocks(model)[0].register_forward_hook(keep)
    try:
        with torch.no_grad():
            return model(**inputs, output_hidden_states=True), calls
    finally:
        hook.remove()


def decoder_states(output: Any) -> tuple[torch.Tensor, ...]:
    """The decoder's hidden states, which BLIP-2 hands on inside the output of its language model."""
    return getattr(output, "language_model_outputs", output).hidden_states


def check(family: Family, inputs: Any, output: Any, n: int) -> None:
    states = decoder_states(output)
    assert len(states) == family.model.config.get_text_config().num_hidden_layers + 1
    assert all(state.shape[:2] == inputs["input_ids"].shape for state in states)
    assert len(inputs["input_ids"]) == n
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize("name", MULTIMODAL)
def test_one_image_with_text(name: str) -> None:
    family = build(name)
    inputs = encode(family, [TEXTS[0]], [[PICTURES[0]]])
    output, calls = forward(family.model, inputs)
    check(family, inputs, output, 1)
    assert len(calls) == 1
    other = forward(family.model, encode(family, [TEXTS[0]], [[picture(9, 37, 53)]]))[0]
    assert (output.logits - other.logits)[:, -1].abs().max() > 0.01  # the decoder sees the image


@pytest.mark.parametrize("name", MULTIMODAL)
def test_batch_lies_as_the_table_says(name: str) -> None:
    family = build(name)
    inputs = encode(family, list(TEXTS), [[p] for p in PICTURES])
    output, calls = forward(family.model, inputs)
    check(family, inputs, output, 3)
    assert len(calls) == 1
    shape, parts, _ = LAYOUT[name]
    assert calls[0].shape == shape

    packed = name in ("pixtral", "mistral3") or calls[0].ndim == 2
    together = calls[0].reshape(-1, shape[-1]) if packed else calls[0]
    start = 0
    for text, image, part in zip(TEXTS, PICTURES, parts, strict=True):
        alone = forward(family.model, encode(family, [text], [[image]]))[1][0]
        alone = alone.reshape(-1, shape[-1]) if packed else alone
        own = together[start : start + part]
        if name == "idefics2":  # a row is a grid of patches that the batch pads to the right and below
            rows, columns = (side // 8 for side in encode(family, [text], [[image]])["pixel_values"].shape[-2:])
            own = own.reshape(part, 6, 6, -1)[:, :rows, :columns].flatten(1, 2)
        torch.testing.assert_close(own, alone, atol=1e-4, rtol=0)
        start += part
    assert start == len(together)


@pytest.mark.parametrize("name", FREE)
def test_two_images_in_one_stimulus(name: str) -> None:
    family = build(name)
    inputs = encode(family, [TEXTS[0], TEXTS[1]], [[PICTURES[0], PICTURES[1]], [PICTURES[2]]])
    output, calls = forward(family.model, inputs)
    check(family, inputs, output, 2)
    shape, parts, _ = LAYOUT[name]
    # OneVision does not tile where a stimulus has several images; Mllama pads to two images for every stimulus.
    rows = {"llava_onevision": 1 + 1 + 5, "mllama": 2 * 2}.get(name, sum(parts))
    assert calls[0].shape == ((1, rows, shape[2]) if name in ("pixtral", "mistral3") else (rows, *shape[1:]))


@pytest.mark.parametrize("name", FREE)
def test_text_alone_leaves_the_vision_tower_out(name: str) -> None:
    family = build(name)
    inputs = family.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    output, calls = forward(family.model, inputs)
    assert calls == []
    if name == "mllama":  # without an image its cross-attention blocks do not run and leave no entry
        assert len(output.hidden_states) == 6 - 2 + 1
        assert torch.isfinite(output.logits).all()
    else:
        check(family, inputs, output, 3)


@pytest.mark.parametrize("name", FREE)
@since("5.21")
def test_nested_and_flat_lists_of_images(name: str) -> None:
    family = build(name)
    prompts = [family.image_text(text, 1) for text in TEXTS]
    nested = family.processor(images=[[p] for p in PICTURES], text=prompts, padding=True, return_tensors="pt")
    if name in NESTED_ONLY:
        with pytest.raises(ValueError, match="number of"):
            family.processor(images=list(PICTURES), text=prompts, padding=True, return_tensors="pt")
    else:
        flat = family.processor(images=list(PICTURES), text=prompts, padding=True, return_tensors="pt")
        assert {k: v.shape for k, v in flat.items()} == {k: v.shape for k, v in nested.items()}
        assert torch.equal(flat["pixel_values"], nested["pixel_values"])


def test_some_families_have_a_chat_template() -> None:
    assert {name for name in FAMILIES if build(name).has_chat_template} == set(WITH_TEMPLATE)


@pytest.mark.parametrize("name", WITH_TEMPLATE)
@since("5.16")
def test_chat_template_writes_one_placeholder_for_each_image(name: str) -> None:
    family = build(name)
    content = [{"type": "image"}, {"type": "text", "text": TEXTS[0]}]
    prompt = family.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt.count(family.processor.image_token) == 1
    assert TEXTS[0] in prompt
    inputs = family.processor(images=[[PICTURES[0]]], text=[prompt], padding=True, return_tensors="pt")
    check(family, inputs, forward(family.model, inputs)[0], 1)


@pytest.mark.parametrize("name", MULTIMODAL)
@since("5.16")
def test_placeholders_are_the_image_tokens(name: str) -> None:
    """`config.image_token_id` marks the places that images fill, in as many places as the images have features."""
    family = build(name)
    inputs = encode(family, list(TEXTS), [[p] for p in PICTURES])
    counts = (inputs["input_ids"] == family.model.config.image_token_id).sum(dim=1)
    assert tuple(counts.tolist()) == LAYOUT[name][2]
    given = getattr(family.processor, "image_token_id", None)
    assert (given == family.model.config.image_token_id) == (name not in ("gemma3", "ovis2", "blip2", "janus"))


@pytest.mark.parametrize("name", MULTIMODAL)
def test_layers_and_stimuli_differ(name: str) -> None:
    """Weights are far enough from the identity for a wrong layer or stimulus to show."""
    family = build(name)
    inputs = encode(family, list(TEXTS), [[p] for p in PICTURES])
    states = decoder_states(forward(family.model, inputs)[0])
    last = [inputs["attention_mask"][i].nonzero().max() for i in range(3)]
    by_layer = torch.stack([torch.stack([state[i, last[i]] for i in range(3)]) for state in states])
    assert by_layer.diff(dim=0).norm(dim=-1).min() > 0.1
    assert torch.pdist(by_layer[-1]).min() > 0.1


def test_qwen2_5_works_in_window_order() -> None:
    """Blocks see the merged patches window by window, so a plain block's position is not its place on the picture."""
    family = build("qwen2_5_vl")
    grid = encode(family, [TEXTS[0]], [[PICTURES[2]]])["image_grid_thw"]
    _, height, width = (int(side) // 2 for side in grid[0])
    windows = torch.arange(height * width).reshape(height // 2, 2, width // 2, 2).permute(0, 2, 1, 3).flatten()
    assert not torch.equal(windows, windows.sort().values)

    inputs = encode(family, [TEXTS[0]], [[PICTURES[2]]])
    seen: list[torch.Tensor] = []
    hook = family.model.model.visual.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        with torch.no_grad():
            family.model(**inputs)
            patches = family.model.model.visual.patch_embed(inputs["pixel_values"])
    finally:
        hook.remove()
    torch.testing.assert_close(seen[0], patches.reshape(-1, 4, 32)[windows].reshape(-1, 32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_text_only(name: str) -> None:
    family = build(name)
    for text in TEXTS:
        inputs = family.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            output = family.model(**inputs, output_hidden_states=True)
        check(family, inputs, output, 1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FREE)
def test_batch_equals_single_under_either_padding(name: str, side: str) -> None:
    """The ground on which the library's own promise stands: the model itself pools nothing across stimuli."""
    family = build(name)
    prompts = [family.image_text(text, 1) for text in TEXTS]
    images = [[p] for p in PICTURES]
    batch = family.processor(images=images, text=prompts, padding=True, padding_side=side, return_tensors="pt")
    with torch.no_grad():
        together = family.model(**batch).logits
        for i, (text, own) in enumerate(zip(TEXTS, images, strict=True)):
            alone = family.model(**encode(family, [text], [own])).logits[0]
            kept = together[i, batch["attention_mask"][i].bool()]
            torch.testing.assert_close(kept, alone, atol=1e-4, rtol=0)


def alone_and_together(model: Any, tokenizer: Any, side: str, **settings: Any) -> float:
    """Largest difference between a text's logits alone and in a batch padded on one side, by plain calls."""
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    width = max(map(len, rows))

    def logits(ids: list[list[int]], mask: list[list[int]]) -> torch.Tensor:
        extra = {key: torch.full((len(ids), len(ids[0])), value) for key, value in settings.items()}
        with torch.no_grad():
            return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), **extra).logits

    gaps = [[filler] * (width - len(row)) for row in rows]
    ids = [gap + row if side == "left" else row + gap for gap, row in zip(gaps, rows, strict=True)]
    ones = [[1] * len(row) for row in rows]
    holes = [[0] * len(gap) for gap in gaps]
    mask = [hole + one if side == "left" else one + hole for hole, one in zip(holes, ones, strict=True)]
    together = logits(ids, mask)
    return max(
        float((together[i, torch.tensor(mask[i]).bool()] - logits([row], [ones[i]])[0]).abs().max())
        for i, row in enumerate(rows)
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [*TEXT_ONLY, *(n for n in FREE if n != "paligemma")])
def test_text_in_a_batch_equals_text_alone(name: str, side: str) -> None:
    family = build(name)
    difference = alone_and_together(family.model, family.tokenizer, side)
    if (name, side) == ("gpt2", "left"):  # learned positions count from the first pad token
        assert difference > 0.1
    else:
        assert difference < 1e-4


@since("5.12")
def test_paligemma_on_text_needs_token_types() -> None:
    """Without them its mask is full for a text alone, and causal as soon as there is padding."""
    family = build("paligemma")
    assert alone_and_together(family.model, family.tokenizer, "left") > 0.1
    assert alone_and_together(family.model, family.tokenizer, "left", token_type_ids=0) < 1e-4


@since("5.21")
def test_mllama_treats_text_beside_an_image_otherwise() -> None:
    family = build("mllama")
    mixed = encode(family, [TEXTS[0], TEXTS[1]], [[], [PICTURES[0]]])
    alone = family.processor(text=[TEXTS[0]], return_tensors="pt")
    with torch.no_grad():
        beside = family.model(**mixed).logits[0, mixed["attention_mask"][0].bool()]
        assert (beside - family.model(**alone).logits[0]).abs().max() > 0.1


def test_gpt2_has_no_pad_token() -> None:
    assert build("gpt2").tokenizer.pad_token is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vit", (3, 17, 32)),
        ("dinov2_with_registers", (3, 21, 48)),
        ("clip_vision", (3, 17, 32)),
        ("siglip_vision", (3, 9, 36)),
    ],
)
def test_vision_only(name: str, shape: tuple[int, ...]) -> None:
    family = build(name)
    inputs = family.image_processor(list(PICTURES), return_tensors="pt")
    with torch.no_grad():
        output = family.model(**inputs, output_hidden_states=True)
    assert len(output.hidden_states) == family.model.config.num_hidden_layers + 1
    assert all(state.shape == shape and torch.isfinite(state).all() for state in output.hidden_states)


def test_clip_has_two_towers() -> None:
    family = build("clip")
    inputs = family.processor(images=list(PICTURES), text=list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        output = family.model(**inputs, output_hidden_states=True)
    assert output.logits_per_image.shape == (3, 3)
    assert output.vision_model_output.hidden_states[-1].shape == (3, 17, 32)
    assert output.text_model_output.hidden_states[-1].shape == (*inputs["input_ids"].shape, 40)


def test_build_is_seeded() -> None:
    first, second = build("llava_clip").model.state_dict(), FAMILIES["llava_clip"]().model.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
