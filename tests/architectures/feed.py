"""Stands in for a processor: pictures become the tensors that a model's ``forward`` asks for, by their names.

Processors of some classes need packages that are not there, and what they hand a model is in the names of the
parameters of its ``forward``: pixels with grids of patches, with sizes, in tiles, in flat patches that carry their
places. `TensorProcessor` cuts real pictures up in these ways, `WAYS`, and keeps the first that a model takes. How many
placeholders a picture gets is the model's own affair: its complaint about a wrong number names the right one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .shrink import COMMON_IDS, IMAGE, PATCH

Tensors = dict[str, torch.Tensor]
#: Holds an image in a text where a config names no token for it.
PLACEHOLDER = 9


class UnfitError(Exception):
    """A model takes pictures in none of the ways; the message says what each one met."""


class Facts:
    """What cutting up a picture depends on, from a model's config and the signature of its ``forward``.

    Attributes
    ----------
    wanted
        Names of the parameters of ``forward``.
    side, merge, frames, size
        Pixels per patch, patches that become one token along each axis, frames per patch, pixels per picture.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.wanted = set(inspect.signature(model.forward).parameters)
        config = model.config
        for name in ("vlm_config", "vision_config", "encoder", "vision_config"):
            config = getattr(config, name, None) or config
        self.vision, holders = config, (config, model.config)
        side = getattr(self.vision, "patch_size", PATCH)
        self.side = side if isinstance(side, int) else side[0] if len(set(side)) == 1 else PATCH
        names = ("spatial_merge_size", "merge_size", "merge_kernel_size", "pooling_kernel_size", "downsample_factor")
        merge = next((v for h in holders for n in names if isinstance(v := getattr(h, n, None), int | tuple | list)), 2)
        self.merge = merge if isinstance(merge, int) else merge[0]
        if hasattr(self.vision, "window_kernel_size"):
            self.merge *= self.vision.window_kernel_size[0]
        names = ("temporal_patch_size", "patch_temporal")
        self.frames = next((v for n in names if isinstance(v := getattr(self.vision, n, None), int)), 1)
        try:
            self.width = model.get_input_embeddings().weight.shape[-1]
        except (AttributeError, NotImplementedError):
            self.width = 1
        size = getattr(self.vision, "image_size", None) or IMAGE
        self.size = size if isinstance(size, int) else size[0]


# ------------------------------------------------------------------------------------------------ cutting pictures up


def pixels(image: Any, height: int, width: int) -> torch.Tensor:
    """A picture as ``[channel, height, width]``, in -1 to 1."""
    array = np.asarray(image.convert("RGB").resize((width, height)), dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def grid_of(image: Any, facts: Facts, most: int = 3) -> tuple[int, int]:
    """Rows and columns of patches, multiples of what is merged, in about the shape of the picture."""
    longer = max(image.size)
    down, across = (max(1, round(most * length / longer)) * facts.merge for length in reversed(image.size))
    return down, across


def patches(image: Any, facts: Facts) -> torch.Tensor:
    """``[patch, channel, frame, height, width]``; those that are merged into one token stand side by side."""
    (rows, columns), side, merge = grid_of(image, facts), facts.side, facts.merge
    picture = pixels(image, rows * side, columns * side)
    cut = picture.reshape(3, rows // merge, merge, side, columns // merge, merge, side)
    cut = cut.permute(1, 4, 2, 5, 0, 3, 6).reshape(rows * columns, 3, 1, side, side)
    return cut.expand(-1, -1, facts.frames, -1, -1)


def raster(image: Any, facts: Facts) -> torch.Tensor:
    """``[row, column, channel, height, width]`` of a picture's patches."""
    (rows, columns), side = grid_of(image, facts), facts.side
    cut = pixels(image, rows * side, columns * side).reshape(3, rows, side, columns, side)
    return cut.permute(1, 3, 0, 2, 4)


Cut = Callable[[Sequence[Any], Facts], Tensors]


def packed(name: str, shape: Callable[[torch.Tensor], torch.Tensor]) -> Cut:
    """All patches end to end, and a grid for each picture."""

    def cut(images: Sequence[Any], facts: Facts) -> Tensors:
        grids = [grid_of(image, facts) for image in images]
        rows = [[1, *grid] if name.endswith("thw") else list(grid) for grid in grids]
        made = {"pixel_values": shape(torch.cat([patches(i, facts) for i in images])), name: torch.tensor(rows)}
        if "image_merge_sizes" in facts.wanted:
            made["image_merge_sizes"] = torch.full((len(images),), facts.merge)
        return made

    return cut


def tokens_as_patches(images: Sequence[Any], facts: Facts) -> Tensors:
    """One patch per token, channels last, and grids that count tokens."""
    made, grids = [], []
    for image in images:
        rows, columns = (n // facts.merge for n in grid_of(image, facts))
        side = facts.side * facts.merge
        cut = pixels(image, rows * side, columns * side).reshape(3, rows, side, columns, side)
        made.append(cut.permute(1, 3, 2, 4, 0).reshape(rows * columns, side, side, 3))
        grids.append([1, rows, columns])
    return {"pixel_values": torch.cat(made), "image_grid_thw": torch.tensor(grids)}


def bare_patches(images: Sequence[Any], facts: Facts) -> Tensors:
    """``[patch, frame, height, width, channel]``: a token each, and no grid."""
    return {"pixel_values": torch.cat([patches(i, facts) for i in images]).permute(0, 2, 3, 4, 1)}


def in_rows(images: Sequence[Any], facts: Facts) -> list[torch.Tensor]:
    """Flat patches of each picture, ``[patch, channel * height * width]``."""
    return [raster(image, facts).flatten(2).flatten(0, 1) for image in images]


def padded(rows: Sequence[torch.Tensor], fill: float = 0) -> torch.Tensor:
    """Rows of different lengths as one tensor."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def with_shapes(images: Sequence[Any], facts: Facts) -> Tensors:
    """Padded rows of patches, a mask, and the grid of each."""
    rows = in_rows(images, facts)
    return {
        "pixel_values": padded(rows),
        "pixel_attention_mask": padded([torch.ones(len(row), dtype=torch.long) for row in rows]),
        "spatial_shapes": torch.tensor([grid_of(image, facts) for image in images]),
    }


def with_places(whole_tokens: bool) -> Cut:
    """Padded rows of patches (or of what becomes one token), and the place of each."""

    def cut(images: Sequence[Any], facts: Facts) -> Tensors:
        made, places = [], []
        for image in images:
            rows, columns = grid_of(image, facts)
            side = facts.side
            if whole_tokens:
                rows, columns, side = rows // facts.merge, columns // facts.merge, side * facts.merge
            picture = pixels(image, rows * side, columns * side) / 2 + 0.5
            made.append(
                picture.reshape(3, rows, side, columns, side).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)
            )
            down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            places.append(torch.stack([across.flatten(), down.flatten()], 1))
        return {"pixel_values": padded(made), "image_position_ids": padded(places, -1)}

    return cut


def in_one_strip(images: Sequence[Any], facts: Facts) -> Tensors:
    """All patches side by side in one picture as high as a patch, and the grid of each."""
    strips = [raster(image, facts).flatten(0, 1).permute(1, 2, 0, 3).flatten(2) for image in images]
    return {
        "pixel_values": torch.cat(strips, 2)[None],
        "target_sizes": torch.tensor([grid_of(image, facts) for image in images]),
    }


def with_header(images: Sequence[Any], facts: Facts) -> Tensors:
    """Padded rows of patches that carry their row and column, counted from one; zeros are padding."""
    made, sizes = [], [grid_of(image, facts) for image in images]
    for flat, (rows, columns) in zip(in_rows(images, facts), sizes, strict=True):
        down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        made.append(torch.cat([torch.stack([down.flatten() + 1, across.flatten() + 1], 1).float(), flat], 1))
    found = {"flattened_patches": padded(made)}
    if "height" in facts.wanted:
        found |= {"height": torch.tensor([[rows] for rows, _ in sizes]), "width": torch.tensor([[c] for _, c in sizes])}
    elif "pixel_attention_mask" not in facts.wanted:
        found["attention_mask"] = padded([torch.ones(len(row)) for row in made])
    return found


def pooled_patches(images: Sequence[Any], facts: Facts) -> Tensors:
    """Flat patches of square crops, and which of them each token pools: first of a small copy, then of the crop."""
    side, count = facts.side, facts.size // facts.side
    cut = [
        pixels(i, facts.size, facts.size).reshape(3, count, side, count, side).permute(1, 3, 2, 4, 0) for i in images
    ]
    index = torch.arange(count * count).reshape(count // 2, 2, count // 2, 2).permute(0, 2, 1, 3).reshape(-1, 4)
    pooling = torch.cat([torch.cat([index, index + count * count]) + 2 * count * count * n for n in range(len(images))])
    flat = torch.stack([crop.reshape(count * count, -1) for crop in cut for _ in range(2)])
    half = count // 2
    return {
        "pixel_values": flat,
        "image_token_pooling": pooling,
        "image_grids": torch.tensor([[half, half, half, half]] * len(images)),
        "image_num_crops": torch.full((len(images),), 2),
    }


def squares(name: str = "pixel_values", around: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Cut:
    """Every picture at the size that the model is made for."""

    def cut(images: Sequence[Any], facts: Facts) -> Tensors:
        values = torch.stack([pixels(image, facts.size, facts.size) for image in images])
        return {name: around(values) if around else values}

    return cut


def in_shape(images: Sequence[Any], facts: Facts) -> Tensors:
    """Pictures in their own shape, padded, with their sizes."""
    sizes = [[n * facts.side for n in grid_of(image, facts)] for image in images]
    high, wide = (max(side) for side in zip(*sizes, strict=True))
    made = []
    for image, (height, width) in zip(images, sizes, strict=True):
        made.append(torch.nn.functional.pad(pixels(image, height, width), (0, wide - width, 0, high - height)))
    return {"pixel_values": torch.stack(made), "image_sizes": torch.tensor(sizes)}


def tiled(images: Sequence[Any], facts: Facts) -> Tensors:
    """A small copy and two tiles, side by side or one above the other, with the size of the picture."""
    size, made, sizes = facts.size, [], []
    for image in images:
        wide = image.size[0] >= image.size[1]
        whole = pixels(image, *((size, 2 * size) if wide else (2 * size, size)))
        made.append(torch.stack([pixels(image, size, size), *whole.split(size, 2 if wide else 1)]))
        sizes.append([size, 2 * size] if wide else [2 * size, size])
    return {"pixel_values": torch.stack(made), "image_sizes": torch.tensor(sizes)}


def with_tile_mask(images: Sequence[Any], facts: Facts) -> Tensors:
    """``[1, tile, channel, height, width]`` and which tiles are there."""
    values = torch.stack([pixels(image, facts.size, facts.size) for image in images])[None]
    return {"pixel_values": values, "pixel_attention_mask": torch.ones(1, len(images), dtype=torch.bool)}


def with_pixel_mask(images: Sequence[Any], facts: Facts) -> Tensors:
    """``[1, image, channel, height, width]`` and which pixels are there."""
    values = torch.stack([pixels(image, facts.size, facts.size) for image in images])[None]
    return {"pixel_values": values, "pixel_attention_mask": torch.ones(1, len(images), *values.shape[-2:]).long()}


def with_aspects(images: Sequence[Any], facts: Facts) -> Tensors:
    """``[1, image, tile, channel, height, width]``, one tile each, and the kind of tiling."""
    tiles = getattr(facts.vision, "max_num_tiles", 1)
    values = torch.stack([pixels(image, facts.size, facts.size) for image in images])
    whole = torch.zeros(1, len(images), tiles, *values.shape[1:])
    whole[0, :, 0] = values
    mask = torch.zeros(1, len(images), tiles, dtype=torch.long)
    mask[..., 0] = 1
    ids = torch.ones(1, len(images), dtype=torch.long)
    return {"pixel_values": whole, "aspect_ratio_ids": ids, "aspect_ratio_mask": mask}


def twice(images: Sequence[Any], facts: Facts) -> Tensors:
    """At the size of each of two towers."""
    large = getattr(facts.model.config, "high_res_vision_config", facts.vision).image_size
    return squares()(images, facts) | {
        "high_res_pixel_values": torch.stack([pixels(image, large, large) for image in images])
    }


#: Names that a way needs in a signature, and the way. Of those that fit, the ones with most names are tried first.
WAYS: tuple[tuple[set[str], Cut], ...] = (
    ({"image_grid_thw"}, packed("image_grid_thw", lambda p: p.flatten(1))),
    ({"image_grid_thw"}, packed("image_grid_thw", lambda p: p[:, :, 0].flatten(1))),
    ({"image_grid_thw"}, packed("image_grid_thw", lambda p: p[:, :, 0])),
    ({"image_grid_thw"}, tokens_as_patches),
    ({"image_grid_hw"}, packed("image_grid_hw", lambda p: p[:, :, 0].flatten(1))),
    ({"spatial_shapes", "pixel_attention_mask"}, with_shapes),
    ({"image_position_ids"}, with_places(False)),
    ({"image_position_ids"}, with_places(True)),
    ({"target_sizes"}, in_one_strip),
    ({"flattened_patches"}, with_header),
    ({"image_token_pooling", "image_grids"}, pooled_patches),
    ({"aspect_ratio_ids", "aspect_ratio_mask"}, with_aspects),
    ({"high_res_pixel_values"}, twice),
    ({"pixel_values_images"}, squares("pixel_values_images")),
    ({"pixel_attention_mask"}, with_tile_mask),
    ({"pixel_attention_mask"}, with_pixel_mask),
    ({"image_sizes"}, tiled),
    ({"image_sizes"}, in_shape),
    (
        {"image_sizes"},
        lambda images, facts: squares()(images, facts) | {"image_sizes": torch.full((len(images), 2), facts.size)},
    ),
    ({"pixel_values"}, squares()),
    ({"pixel_values"}, squares(around=lambda values: values[None])),
    ({"pixel_values"}, squares(around=lambda values: values[:, None])),
    ({"pixel_values"}, squares(around=lambda values: values[:, None].expand(-1, 2, -1, -1, -1))),
    ({"pixel_values"}, lambda images, facts: {"pixel_values": padded(in_rows(images, facts))}),
    ({"pixel_values"}, bare_patches),
)


# ------------------------------------------------------------------------------------------------------ the processor


class TensorProcessor:
    """Takes texts and images as a processor does, and writes the placeholders itself.

    Parameters
    ----------
    model
        A model with weights.
    tokenizer
        Any tokenizer whose ids the model has.

    Raises
    ------
    UnfitError
        If the model takes pictures in none of the ways.
    """

    chat_template = None

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.facts = Facts(model)
        self.model, self.tokenizer = model, tokenizer
        self.image_processor = self._cut_only
        self.image_token_id = image_token_id(model.config)
        self.model_input_names = [name for name in ("token_type_ids", "mm_token_type_ids") if name in self.facts.wanted]
        self._counts: dict[Any, int] = {}
        ends = [
            [getattr(model.config, f"{stem}_{end}_token_id", None) for stem in ("vision", "image")]
            for end in ("start", "end")
        ]
        self._marks = tuple([next(id for id in end if id is not None)] if any(end) else [] for end in ends)
        self.cut = self._settle()

    def __call__(self, text: Any = None, images: Any = None, add_special_tokens: bool = True, **_: Any) -> Tensors:
        """Inputs of one stimulus: a text, or a list with one, and a list of its images."""
        (one,) = [text] if isinstance(text, str) else text
        own = _flat(images)
        inputs = self.cut(own, self.facts) if own else {}
        ids = self.tokenizer(one, add_special_tokens=add_special_tokens)["input_ids"]
        count = self._count(inputs) if own else 0
        return self._with_text(ids, count, len(own), inputs)

    def count(self, images: Sequence[Any]) -> int:
        """How many placeholders some pictures get."""
        return self._count(self.cut(images, self.facts))

    def _cut_only(self, images: Any, **_: Any) -> Tensors:
        return self.cut(_flat(images), self.facts)

    def _with_text(self, ids: list[int], count: int, n_images: int, inputs: Tensors) -> Tensors:
        """Placeholders, then the text, and every field that runs along them."""
        start = 1 if ids and ids[0] == COMMON_IDS["bos"] else 0
        placeholders = [self.image_token_id or PLACEHOLDER] * count
        opening, closing = self._marks if count else ([], [])
        row = torch.tensor([[*ids[:start], *opening, *placeholders, *closing, *ids[start:]]])
        here = torch.zeros_like(row)
        start += len(opening)
        here[0, start : start + count] = 1
        made = {"input_ids": row, "attention_mask": torch.ones_like(row), **inputs}
        wanted = self.facts.wanted
        if "input_ids" not in wanted:
            return inputs
        for name in ("mm_token_type_ids", "moe_mm_token_type_ids", "token_type_ids", "image_embeds_position_mask"):
            if name in wanted and not (name == "image_embeds_position_mask" and not n_images):
                made[name] = here
        if "qformer_input_ids" in wanted:
            made["qformer_input_ids"] = torch.tensor([ids])
        if "image_attention_mask" in wanted and n_images:
            made["image_attention_mask"] = torch.ones(1, row.shape[1], n_images, dtype=torch.long)
        if "cross_attention_mask" in wanted and n_images:
            tiles = inputs["aspect_ratio_mask"].shape[-1]
            made["cross_attention_mask"] = torch.ones(1, row.shape[1], n_images, tiles, dtype=torch.long)
        if "bbox" in wanted:
            made["bbox"] = torch.zeros(1, row.shape[1], 4, dtype=torch.long)
        if "state" in wanted:
            made["state"] = torch.zeros(1, self.model.config.max_state_dim)
        return made

    def _settle(self) -> Cut:
        """The first way that the model takes, and in which the picture makes a difference."""
        met = []
        pictures = [
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)) for i in (0, 1)
        ]
        for needs, cut in sorted(WAYS, key=lambda way: -len(way[0])):
            if not needs <= self.facts.wanted:
                continue
            try:
                first, second = (cut([picture], self.facts) for picture in pictures)
                count = self._count(first)
                one, two = (self._forward(self._with_text([1, 50, 60], count, 1, inputs)) for inputs in (first, second))
            except Exception as error:  # whatever a model raises means that it takes pictures otherwise
                said = (str(error).splitlines() or [""])[0][:120]
                met.append(f"{', '.join(sorted(needs))}: {type(error).__name__}: {said}")
                continue
            if torch.isfinite(one).all() and not torch.allclose(one, two, atol=1e-6):
                return cut
            met.append(f"{', '.join(sorted(needs))}: the picture makes no difference")
        raise UnfitError("; ".join(met) or f"no parameter of forward takes pictures: {sorted(self.facts.wanted)}")

    def _count(self, inputs: Tensors) -> int:
        """How many placeholders the pictures get."""
        key = tuple(
            (name, tuple(value.shape), b"" if value.is_floating_point() else value.numpy().tobytes())
            for name, value in sorted(inputs.items())
        )
        if key not in self._counts:
            self._counts[key] = self._asked(inputs)
        return self._counts[key]

    def _asked(self, inputs: Tensors) -> int:
        if self.image_token_id is None and "image_embeds_position_mask" not in self.facts.wanted:
            return 0
        return fitting(
            lambda count: self._forward(self._with_text([1, 50, 60], count, 1, inputs)),
            [*self._features(inputs), 1],
            self.facts.width,
        )

    def _features(self, inputs: Tensors) -> list[int]:
        """How many vectors a model says that the pictures become; some take any number of placeholders silently."""
        for holder in (self.model, getattr(self.model, "model", None)):
            ask = getattr(holder, "get_image_features", None)
            try:
                with torch.no_grad():
                    found = ask(**{name: value for name, value in inputs.items() if name in _names(ask)})
            except Exception:  # not every class has the method, and not all of them work by themselves
                continue
            found = getattr(found, "pooler_output", found)
            parts = found if isinstance(found, tuple | list) else [found]
            if all(isinstance(part, torch.Tensor) for part in parts):
                return [sum(part.numel() for part in parts) // self.facts.width]
        return []

    def _forward(self, inputs: Tensors) -> torch.Tensor:
        inputs = dict(inputs)
        if getattr(self.model.config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = torch.tensor([[1]])
        inputs = {
            name: value for name, value in inputs.items() if name in self.facts.wanted or name == "attention_mask"
        }
        torch.manual_seed(0)  # of models that draw random numbers
        with torch.no_grad():
            output = self.model(**inputs)
        return output.logits if hasattr(output, "logits") else output[0]


def fitting(run: Callable[[int], Any], candidates: list[int], width: int) -> int:
    """The number of placeholders with which a forward pass runs; its complaints about others name the right one."""
    tried: set[int] = set()
    while candidates:
        count = candidates.pop(0)
        tried.add(count)
        try:
            run(count)
        except Exception as error:  # a model says in its own way what does not fit
            named = [int(number) for number in re.findall(r"\d+", str(error))]
            named += [number // width for number in named]  # some count numbers, not vectors
            candidates += [n for n in named if 0 < n < 2000 and n not in tried and n not in candidates]
            if len(tried) > 12 or not candidates:
                raise
            continue
        return count
    raise UnfitError("no number of placeholders fits")


def sounds(model: Any, seeds: Sequence[int] = (0, 1)) -> list[Tensors]:
    """Inputs of sounds before a short text, one for each seed, in the first way that a model takes.

    Raises
    ------
    UnfitError
        If it takes sounds in none of the ways.
    """
    wanted, config = set(inspect.signature(model.forward).parameters), model.config
    width, audio = model.get_input_embeddings().weight.shape[-1], config.audio_config
    bands = next(
        (v for n in ("num_mel_bins", "feature_size", "input_feat_size") if (v := getattr(audio, n, None))), 128
    )
    length, met = 96, []

    def noise(seed: int, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    ones = torch.ones(1, length, dtype=torch.long)
    ways: tuple[tuple[set[str], Callable[[int], Tensors]], ...] = (
        (
            {"feature_attention_mask"},
            lambda seed: {"input_features": noise(seed, 1, bands, length), "feature_attention_mask": ones},
        ),
        (
            {"input_features_mask"},
            lambda seed: {"input_features": noise(seed, 1, length, bands), "input_features_mask": ones.bool()},
        ),
        (
            {"chunk_sample_lengths"},
            lambda seed: {
                "input_features": noise(seed, 1, bands, length),
                "chunk_sample_lengths": torch.tensor([length * getattr(audio, "hop_length", 1)]),
            },
        ),
        ({"input_values"}, lambda seed: {"input_values": noise(seed, 1, 1920 * 4)}),
    )

    def with_text(inputs: Tensors, count: int) -> Tensors:
        row = torch.tensor([[1, *[config.audio_token_id] * count, 50, 60]])
        return {"input_ids": row, "attention_mask": torch.ones_like(row), **inputs}

    def run(inputs: Tensors, count: int) -> Any:
        with torch.no_grad():
            return model(**with_text(inputs, count))

    for needs, way in ways:
        if not needs <= wanted:
            continue
        try:
            made = [way(seed) for seed in seeds]
            count = fitting(lambda n, made=made: run(made[0], n), [1], width)
        except Exception as error:
            met.append(f"{', '.join(needs)}: {type(error).__name__}: {error}")
            continue
        return [with_text(inputs, count) for inputs in made]
    raise UnfitError("; ".join(met) or "no parameter of forward takes sounds")


def _names(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    found = images if isinstance(images, list | tuple) else [images]
    return [one for item in found for one in (item if isinstance(item, list | tuple) else [item])]


def image_token_id(config: Any) -> int | None:
    """The token that holds an image in a text, as configs and their parts name it."""
    parts = [getattr(config, name, None) for name in getattr(type(config), "sub_configs", None) or ()]
    for holder in (config, *parts):
        for name in ("image_token_id", "image_token_index", "video_token_id", "video_token_index"):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None
