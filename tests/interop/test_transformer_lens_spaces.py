"""Units inside of blocks are the same in TransformerLens: read, written and masked under its names."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch

import modalnet as mn
from bridges import bridge_of
from families import build, picture
from modalnet.interop import transformer_lens as tl

pytestmark = pytest.mark.usefixtures("no_installs")

TEXTS = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")
#: Of each kind of space, TransformerLens' name for it in a block.
THEIRS = {
    "pre": "hook_resid_pre",
    "mid": "hook_resid_mid",
    "attention": "hook_attn_out",
    "mlp": "hook_mlp_out",
    "neurons": "mlp.hook_post",
    "gate": "mlp.hook_pre",
    "heads": "attn.hook_z",
}
FAMILIES = ("gpt2", "llama", "gemma3")


@pytest.fixture(scope="module")
def bridge(request, tmp_path_factory):
    family = build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    made = bridge_of(copy.deepcopy(family.model), family.processor or family.tokenizer, folder)
    made.family = family
    return made


def reading(*names):
    return pytest.mark.parametrize("bridge", names, indirect=True, scope="module")


def settings(family):
    return {"tokenizer": family.tokenizer, "processor": family.processor, "chat_template": False}


@cache
def plain(name):
    family = build(name)
    return mn.load(family.model, **settings(family))


def tokens(bridge, texts=TEXTS):
    return torch.tensor([bridge.family.tokenizer(text)["input_ids"] for text in texts])


def cached(bridge):
    with torch.no_grad():
        return bridge.run_with_cache(tokens(bridge))[1]


def some(model, name, step=3, layers=None):
    mask = np.zeros(model.spaces[name].shape, dtype=bool)
    mask.ravel()[::step] = True
    if layers is not None:
        mask[[layer for layer in range(len(mask)) if layer not in layers]] = False
    return mn.Units({name: mask})


@reading(*FAMILIES, "llava_clip")
def test_a_bridge_has_the_spaces_of_its_model(bridge):
    model, through = plain(bridge.family.name), mn.load(bridge, **settings(bridge.family))
    assert {name: space.shape for name, space in model.spaces.items()} == {
        name: space.shape for name, space in through.spaces.items()
    }
    names = [name for name in model.spaces if name.startswith("decoder")]
    one, other = (each.run(TEXTS, read=names, tokens="all", vectors=True) for each in (model, through))
    for name in names:
        for first, second in zip(one.activations[name], other.activations[name], strict=True):
            torch.testing.assert_close(first, second, atol=2e-5, rtol=1e-4)
    units = some(through, "decoder.heads", step=2)
    found, expected = (each.run(TEXTS, mn.zero(units), logits="last").logits for each in (through, model))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@reading(*FAMILIES)
@pytest.mark.parametrize("kind", THEIRS)
def test_what_was_read_has_their_names_and_their_numbers(bridge, kind):
    name = f"decoder.{kind}"
    theirs = cached(bridge)
    model = plain(bridge.family.name)
    ours = tl.cache(model.run(TEXTS, read=name, tokens="all", vectors=True), bridge)
    for layer in range(model.decoder.n_layers):
        key = f"blocks.{layer}.{THEIRS[kind]}"
        assert ours[key].shape == theirs[key].shape
        torch.testing.assert_close(ours[key], theirs[key], atol=2e-5, rtol=1e-4)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], atol=2e-5, rtol=1e-4)


@reading(*FAMILIES)
@pytest.mark.parametrize("kind", THEIRS)
def test_hooks_do_what_a_run_does(bridge, kind):
    model = plain(bridge.family.name)
    name = f"decoder.{kind}"
    units = some(model, name)
    means = model.means(list(TEXTS), spaces=name)
    made = [
        mn.zero(units),
        mn.scale(units, -1.5).at("last"),
        mn.mean(units, over=means),
        mn.apply(units, lambda x: 0.3 * x.abs()),
        mn.scale(mn.site(name, 1), -0.3).at([1, -2]),
    ]
    whole = bridge(tokens(bridge))
    for one in made:
        with torch.no_grad():
            found = bridge.run_with_hooks(tokens(bridge), fwd_hooks=tl.hooks(one, bridge))
        expected = torch.stack(model.run(TEXTS, one, logits="all").logits)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        assert (found - whole).abs().max() > 0.05, one
    assert torch.equal(bridge(tokens(bridge)), whole)


@reading(*FAMILIES)
def test_a_head_is_ablated_as_transformer_lens_ablates_it(bridge):
    model = plain(bridge.family.name)

    def no_second_head(value, hook):
        value[:, :, 1] = 0
        return value

    with torch.no_grad():
        theirs = bridge.run_with_hooks(tokens(bridge), fwd_hooks=[("blocks.2.attn.hook_z", no_second_head)])
    head = mn.Units.from_indices({"decoder.heads": model.spaces["decoder.heads"].shape}, [("decoder.heads", 2, 1)])
    ours = torch.stack(model.run(TEXTS, mn.zero(head), logits="all").logits)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    (each,) = tl.hooks(head, bridge)
    assert bridge.hook_dict["blocks.2.attn.hook_z"].name == each[0]


@reading("gemma3")
def test_several_spaces_at_once_and_in_order(bridge):
    model = plain("gemma3")
    kinds = [*THEIRS, ""]
    made = [mn.scale(some(model, f"decoder.{kind}".rstrip("."), layers=[1, 2]), 0.5) for kind in kinds]
    for order in (made, made[::-1]):
        with torch.no_grad():
            found = bridge.run_with_hooks(tokens(bridge), fwd_hooks=tl.hooks(order, bridge))
        expected = torch.stack(model.run(TEXTS, *order, logits="all").logits)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@reading("llama")
@pytest.mark.parametrize("kind", THEIRS)
def test_the_gradient_passes_an_edit(bridge, kind):
    units = some(plain("llama"), f"decoder.{kind}")
    with torch.enable_grad():
        out = bridge.run_with_hooks(tokens(bridge), fwd_hooks=tl.hooks(mn.scale(units, 0.5), bridge))
        (slope,) = torch.autograd.grad(out.sum(), bridge.original_model.model.embed_tokens.original_component.weight)
    assert slope.abs().sum() > 0


@reading("llama")
def test_a_row_without_its_batch(bridge):
    for kind in THEIRS:
        hooks = tl.hooks(mn.zero(some(plain("llama"), f"decoder.{kind}")).at("last"), bridge)
        given = tokens(bridge, TEXTS[:1])
        with torch.no_grad():
            found = [bridge.run_with_hooks(given, fwd_hooks=hooks, remove_batch_dim=each) for each in (False, True)]
        assert torch.equal(*found)


# -- masks -----------------------------------------------------------------------------------------------------------


@reading(*FAMILIES)
@pytest.mark.parametrize("kind", THEIRS)
def test_masks_by_their_names_are_units(bridge, kind):
    name = f"decoder.{kind}"
    expected = some(plain(bridge.family.name), name)
    masks = {f"blocks.{layer}.{THEIRS[kind]}": row for layer, row in enumerate(expected.mask[name])}
    found = tl.units(masks, bridge)
    assert np.array_equal(found.mask[name], expected.mask[name])
    assert found.count == expected.count
    with pytest.raises(mn.InputError, match=r"must be boolean with shape \[\d+\], got bool with shape \[5\]"):
        tl.units({f"blocks.0.{THEIRS[kind]}": np.zeros(5, dtype=bool)}, bridge)


# -- models that see -------------------------------------------------------------------------------------------------

PICTURES = tuple(picture(seed, 40, 40) for seed in range(2))


def seen(name):
    return [mn.Stimulus(build(name).image_text("What is this?", 1), image=each) for each in PICTURES]


def watch(bridge, hooks=()):
    family = bridge.family
    texts = [family.image_text("What is this?", 1)] * len(PICTURES)
    given = dict(family.processor(images=[[each] for each in PICTURES], text=texts, return_tensors="pt"))
    with torch.no_grad(), bridge.hooks(fwd_hooks=list(hooks)):
        return bridge.run_with_cache(given.pop("input_ids"), **given)


@reading("llava_clip", "gemma3")
@pytest.mark.parametrize("kind", THEIRS)
def test_image_encoders(bridge, kind):
    name = f"vision.{kind}"
    model = plain(bridge.family.name)
    logits, theirs = watch(bridge)
    run = model.run(seen(bridge.family.name), read=name, tokens="all", vectors=True)
    if kind == "mid" and f"vision_encoder.encoder_layers.1.{THEIRS[kind]}" not in bridge.hook_dict:
        with pytest.raises(mn.InputError, match=r"has no hook point for vision\.mid in block 0"):
            tl.cache(run, bridge)
    else:
        ours = tl.cache(run, bridge)
        assert f"vision_encoder.encoder_layers.1.{THEIRS[kind]}" in ours
        for key, value in ours.items():
            if key in theirs:
                torch.testing.assert_close(value.reshape(theirs[key].shape), theirs[key], atol=2e-5, rtol=1e-4)
        assert any(key in theirs for key in ours)
    units = some(model, name)
    found = watch(bridge, tl.hooks(units, bridge))[0][:, -1]
    torch.testing.assert_close(
        found, model.run(seen(bridge.family.name), mn.zero(units), logits="last").logits, atol=2e-5, rtol=1e-4
    )
    assert (found - logits[:, -1]).abs().max() > 0.02


# -- bad input -------------------------------------------------------------------------------------------------------


@reading("llama")
def test_what_a_bridge_has_no_hook_point_for(bridge):
    model = plain("llama")
    message = r"no hook point for decoder\.activation in block \d.*modalnet\.load\(bridge\)"
    with pytest.raises(mn.InputError, match=message):
        tl.hooks(some(model, "decoder.activation"), bridge)
    with pytest.raises(mn.InputError, match=message):
        tl.cache(model.run(TEXTS[0], read="decoder.activation", tokens="all"), bridge)
    through = mn.load(bridge, **settings(bridge.family))
    assert through.run(TEXTS[0], read="decoder.activation").activations["decoder.activation"].shape[2] == 96


@reading("llama")
def test_lengths_of_heads_are_no_hook_z(bridge):
    model = plain("llama")
    with pytest.raises(mn.InputError, match=r"read='decoder\.heads', tokens=\"all\", vectors=True"):
        tl.cache(model.run(TEXTS[0], read="decoder.heads", tokens="all"), bridge)
    with pytest.raises(mn.InputError, match="Pass the bridge"):
        tl.cache(model.run(TEXTS[0], read="decoder.heads", tokens="all", vectors=True))
    with pytest.raises(mn.InputError, match="Pass the bridge"):
        tl.hooks(some(model, "decoder.heads"))


@reading("llama")
def test_units_of_another_model(bridge):
    other = plain("gpt2")
    with pytest.raises(mn.InputError, match="belong to another model"):
        tl.hooks(some(other, "decoder.neurons"), bridge)
    with pytest.raises(mn.InputError, match="is of another model"):
        tl.cache(other.run(TEXTS[0], read="decoder.neurons", tokens="all"), bridge)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_folded_weights(name, tmp_path):
    """TransformerLens computes a gated MLP by hand then, without a call of its projections."""
    family = build(name)
    bridge = bridge_of(copy.deepcopy(family.model), family.tokenizer, tmp_path)
    bridge.family = family
    bridge.enable_compatibility_mode()
    model = mn.load(bridge, **settings(family))
    theirs = cached(bridge)
    for kind, point in THEIRS.items():
        space = f"decoder.{kind}"
        if name == "llama" and kind in ("neurons", "gate"):
            with pytest.raises(mn.InputError, match=f"{space} cannot be read: .*down_proj is not called as a module"):
                model.run(TEXTS[0], read=space)
            continue
        ours = tl.cache(model.run(TEXTS, read=space, tokens="all", vectors=True), bridge)
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
        assert f"blocks.1.{point}" in ours
