"""Towers are found where the model has them, in order, and as wide as what their blocks give."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import transformers as tr
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import modalnet as mn
from families import FAMILIES, build, picture
from modalnet.models.towers import find_towers
from reference import BLOCKS, TEXTS, encode, load, paths, watch
from versions import since

LARGE = (
    "LlavaConfig",
    "LlavaNextConfig",
    "Qwen2VLConfig",
    "Qwen2_5_VLConfig",
    "Qwen3VLConfig",
    "Idefics3Config",
    "SmolVLMConfig",
    "PaliGemmaConfig",
    "Gemma3Config",
    "InternVLConfig",
    "MllamaConfig",
    "Mistral3Config",
)
CLS = {"llava_clip", "llava_next", "internvl", "mllama", "blip2", "vit", "dinov2_with_registers", "clip_vision", "clip"}


def sizes(config, names):
    return next(value for name in names if isinstance(value := getattr(config, name, None), int))


def on_meta(config, auto=tr.AutoModelForImageTextToText):
    with torch.device("meta"):
        return auto.from_config(config)


def test_the_table_covers_every_family():
    assert set(BLOCKS) == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_towers_are_the_blocks_of_the_model_in_the_order_they_run(name):
    """A hooked forward says which blocks run, in which order, and how wide their outputs are."""
    family, model = build(name), load(name)
    assert {tower.name: list(tower.paths) for tower in model.towers.values()} == {
        tower: paths(name, tower) for tower in BLOCKS[name]
    }
    everything = [path for tower in model.towers.values() for path in tower.paths]
    order = []
    hooks = [
        family.model.get_submodule(path).register_forward_hook(lambda *_, path=path: order.append(path))
        for path in everything
    ]
    try:
        with torch.no_grad(), watch(family.model, everything) as seen:
            if name == "clip":
                inputs = family.processor(images=[picture(1, 37, 53)], text=[TEXTS[0]], return_tensors="pt")
            else:
                inputs = encode(family, TEXTS[0], [] if "vision" not in BLOCKS[name] else [picture(1, 37, 53)])
            family.model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    # CLIP's two towers do not feed each other, so their order among themselves is the model's own affair.
    assert sorted(order) == sorted(everything) if name == "clip" else order == everything
    for tower in model.towers.values():
        assert all(seen[path][0].shape[-1] == tower.width for path in tower.paths)
        assert all(
            block is family.model.get_submodule(path) for block, path in zip(tower.blocks, tower.paths, strict=True)
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_follow_from_the_config(name):
    family, model = build(name), load(name)
    config = family.model.config
    for tower in model.towers.values():
        own = config
        if tower.name == "vision":
            own = getattr(config, "vision_config", config)
        elif hasattr(config, "get_text_config"):
            own = config.get_text_config()
        assert tower.n_layers == sizes(own, ("num_hidden_layers", "n_layer", "depth"))
        # Qwen2-VL calls the width of what its vision tower hands on hidden_size; its blocks have embed_dim.
        assert tower.width == sizes(own, ("embed_dim", "hidden_size", "n_embd"))
        assert tower.shape == (tower.n_layers, tower.width)
        assert tower.n_units == tower.n_layers * tower.width
        assert f"{tower.n_units:,}" in str(tower)
    assert model.vision is model.towers.get("vision")
    assert model.decoder is model.towers.get("decoder")
    assert len(model.units()) == sum(tower.n_units for tower in model.towers.values())
    for tower in model.towers:
        only = model.units(tower)
        assert only.count == model.towers[tower].n_units
        assert only.mask[tower].all()
    if model.vision is not None:
        assert model.vision.has_cls == (name in CLS)
        assert model.vision.n_registers == (4 if name == "dinov2_with_registers" else 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_print_shows_what_there_is(name):
    model = load(name)
    shown = str(model)
    for tower in model.towers.values():
        line = next(line for line in shown.splitlines() if line.split()[0] == tower.name)
        assert f"{tower.n_layers} blocks" in line
        assert f"x {tower.width}" in line
        assert f"{tower.n_units:,} units" in line
        assert tower.paths[0] in line
    assert f"{len(model.units()):,} units in the residual stream" in shown
    assert type(model.module).__name__ in shown
    assert ("images" in shown) == ("vision" in model.towers)
    assert ("text" in shown.splitlines()[-1].split(",")[0]) == bool({"decoder", "encoder"} & set(model.towers))
    assert repr(model).startswith("Model(")


@pytest.mark.parametrize("name", ["llava_clip", "qwen2_5_vl", "gpt2", "vit"])
@since("5.20")
def test_a_module_on_meta_shows_its_towers_and_refuses_to_encode(name):
    module = FAMILIES[name]().model.to("meta")
    model = mn.load(module)
    assert {tower: len(model.towers[tower].paths) for tower in model.towers} == {
        tower: number for tower, (_, number) in BLOCKS[name].items()
    }
    shown = str(model)
    assert "meta" in shown
    assert "no tokenizer or processor was given" in shown
    assert len(model.units()) == sum(tower.n_units for tower in model.towers.values())
    stimuli = [mn.Stimulus(image=picture(1, 32, 32))] if model.decoder is None else ["a text"]
    part = "processor=" if model.decoder is None else "tokenizer="
    with pytest.raises(mn.InputError, match=f"came without a.*{part}"):
        model.run(stimuli)
    if model.vision is not None:
        with pytest.raises(mn.InputError, match=r"came without a.*processor="):
            model.run([mn.Stimulus("What is this?" if model.decoder else None, image=picture(1, 32, 32))])


def test_a_module_on_meta_with_a_tokenizer_says_that_it_cannot_run():
    family = FAMILIES["gpt2"]()
    model = mn.load(family.model.to("meta"), tokenizer=family.tokenizer)
    with pytest.raises(mn.InputError, match=r"meta device.*Load it with its weights"):
        model.run(["a text"])


@pytest.mark.parametrize("config", LARGE)
@since("5.20")
def test_towers_of_large_models_are_found_at_once(config):
    config = getattr(tr, config)()
    module = on_meta(config)
    calls = 0
    counted = tuple(str(Path(package.__file__).parent) for package in (mn, torch, tr))  # not what checks annotations

    def count(frame, event, arg):
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(counted)

    sys.setprofile(count)
    try:
        towers = find_towers(module)
    finally:
        sys.setprofile(None)
    assert calls < 100 * len([*module.modules()])
    assert list(towers) == ["vision", "decoder"]
    text = config.get_text_config()
    assert towers["decoder"].shape == (text.num_hidden_layers, text.hidden_size)
    vision = config.vision_config
    assert towers["vision"].shape == (
        sizes(vision, ("num_hidden_layers", "depth")),
        sizes(vision, ("embed_dim", "hidden_size")),
    )


@since("5.21")
def test_no_tower_of_any_vision_language_model_bears_the_wrong_name():
    """Every image-text-to-text class that builds from its default config: a language tower is not an image encoder.

    A tower may be missing (the default config of some leaves it out); one under the wrong name would put the wrong
    units into a result without a word.
    """
    wrong, both, built = [], 0, 0
    for kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        try:
            module = on_meta(tr.CONFIG_MAPPING[kind]())
        except Exception:  # whatever a default config lacks is not this test's affair
            continue
        built += 1
        towers = find_towers(module)
        both += {"vision", "decoder"} <= set(towers)
        for name, tower in towers.items():
            sees, reads = (re.search(words, tower.paths[0]) for words in ("vision|visual|image", "text|language"))
            if (sees and not reads and not name.startswith("vision")) or (
                reads and not sees and name.startswith("vision")
            ):
                wrong.append(f"{kind}: {name} is {tower.paths[0]}")
    assert built >= 80
    assert both >= built - 12
    assert wrong == []


def test_what_is_no_transformer_is_refused():
    with pytest.raises(mn.InputError, match=r"no stack of residual blocks.*Sequential"):
        find_towers(torch.nn.Sequential(torch.nn.Linear(3, 3)))


def test_unknown_towers_are_refused():
    model = load("gpt2")
    with pytest.raises(mn.InputError, match=r"no space 'vision'.*decoder"):
        model.units("vision")
