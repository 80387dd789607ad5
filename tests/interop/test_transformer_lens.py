"""A lesion is the same lesion in TransformerLens, and a run the same cache; on models that read, and that see."""

from __future__ import annotations

import copy
import sys
from functools import cache

import numpy as np
import pytest
import torch

import modalnet as mn
from bridges import bridge_of
from families import build, picture
from modalnet.interop import transformer_lens as tl

pytestmark = pytest.mark.usefixtures("no_installs")

TEXT = "Is there a face, a house or a car?"
TEXTS = (TEXT, "Is there a car, a house or a face?")


@pytest.fixture(scope="module")
def bridge(request, tmp_path_factory):
    family = build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    made = bridge_of(copy.deepcopy(family.model), family.processor or family.tokenizer, folder)
    made.family = family
    return made


def reading(*names):
    return pytest.mark.parametrize("bridge", names, indirect=True, scope="module")


@cache
def plain(name):
    family = build(name)
    return mn.load(family.model, tokenizer=family.tokenizer, processor=family.processor, chat_template=False)


def through(bridge):
    """The bridge's own model, read and written by modalnet."""
    family = bridge.family
    return mn.load(bridge, tokenizer=family.tokenizer, processor=family.processor, chat_template=False)


def tokens(bridge, texts=TEXTS):
    return torch.tensor([bridge.family.tokenizer(text)["input_ids"] for text in texts])


def some(model, *towers, step=7):
    """Every so many units of some towers."""
    shapes = {name: tower.shape for name, tower in model.towers.items()}
    masks = {name: np.zeros(shape, dtype=bool) for name, shape in shapes.items()}
    for name in towers:
        masks[name].ravel()[::step] = True
    return mn.Units(masks)


def last_block(run):
    return torch.stack([values[-1] for values in run.residual["decoder"]])


# -- lesions ---------------------------------------------------------------------------------------------------------


@reading("gpt2", "llama")
@pytest.mark.parametrize("named", [True, False])
def test_units_are_zeroed_as_here(bridge, named):
    model = plain(bridge.family.name)
    units = some(model, "decoder")
    hooks = tl.hooks(units, bridge if named else None)
    assert [name for name, _ in hooks] == [f"blocks.{layer}.hook_out" for layer in range(model.decoder.n_layers)]
    assert all(bridge.hook_dict[name].name == name for name, _ in hooks)
    with torch.no_grad():
        whole = bridge(tokens(bridge))
        found = bridge.run_with_hooks(tokens(bridge), fwd_hooks=hooks)
        again = bridge(tokens(bridge))
    expected = model.run(TEXTS, mn.zero(units), logits="all").logits
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert (found - whole).abs().max() > 0.1
    assert torch.equal(again, whole)  # TransformerLens has taken its hooks off


OPERATIONS = {
    "zero": lambda model, units: mn.zero(units),
    "zero at last": lambda model, units: mn.zero(units).at("last"),
    "zero at indices": lambda model, units: mn.zero(units).at([1, -2]),
    "zero but the first": lambda model, units: mn.zero(units).at("all", spare_first=2),
    "scale": lambda model, units: mn.scale(units, -1.5),
    "add": lambda model, units: mn.add(units, 0.7),
    "set one by one": lambda model, units: mn.set_to(units, np.linspace(-1, 1, units.count)),
    "mean": lambda model, units: mn.mean(units, over=model.means([TEXT, "A dog."])),
    "a site": lambda model, units: mn.set_to(mn.site("decoder", -2), 0.25),
    "a direction": lambda model, units: mn.zero(mn.direction("decoder", 1, np.arange(1, model.decoder.width + 1))),
    "a direction at last": lambda model, units: mn.add(
        mn.direction("decoder", 0, np.ones(model.decoder.width)), 3.0
    ).at("last"),
}


@reading("llama")
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_the_same_to_the_bit(bridge, name):
    model = through(bridge)
    one = OPERATIONS[name](model, some(model, "decoder"))
    expected = model.run(TEXTS, one, tokens="all")
    with torch.no_grad(), bridge.hooks(fwd_hooks=tl.hooks(one, bridge)):
        _, found = bridge.run_with_cache(tokens(bridge))
    assert torch.equal(found["blocks.3.hook_out"], last_block(expected))
    assert not torch.equal(last_block(expected), last_block(model.run(TEXTS, tokens="all")))


@reading("gpt2")
def test_interventions_compose_from_left_to_right(bridge):
    model = through(bridge)
    units = some(model, "decoder")
    pair = [mn.add(units, 1.0), mn.scale(units, 2.0)]
    runs = []
    for order in (pair, pair[::-1]):
        with torch.no_grad(), bridge.hooks(fwd_hooks=tl.hooks(order, bridge)):
            runs.append(bridge.run_with_cache(tokens(bridge))[1]["blocks.3.hook_out"])
        assert torch.equal(runs[-1], last_block(model.run(TEXTS, *order, tokens="all")))
    assert not torch.equal(*runs)


@reading("llama")
def test_a_row_without_its_batch(bridge):
    units = some(plain("llama"), "decoder")
    hooks = tl.hooks(mn.zero(units).at("last"), bridge)
    given = tokens(bridge, TEXTS[:1])
    with torch.no_grad():
        found = [bridge.run_with_hooks(given, fwd_hooks=hooks, remove_batch_dim=each) for each in (False, True)]
    assert torch.equal(*found)


@reading("llama")
def test_the_gradient_passes_a_lesion(bridge):
    units = some(plain("llama"), "decoder")
    with torch.enable_grad():
        out = bridge.run_with_hooks(tokens(bridge), fwd_hooks=tl.hooks(units, bridge))
        (slope,) = torch.autograd.grad(out.sum(), bridge.original_model.model.embed_tokens.original_component.weight)
    assert slope.abs().sum() > 0


@reading("llama")
def test_a_lesion_holds_while_the_bridge_writes(bridge):
    model = plain("llama")
    units = some(model, "decoder", step=3)
    given = tokens(bridge, TEXTS[:1])
    texts = []
    for hooks in ([], tl.hooks(units, bridge)):
        with bridge.hooks(fwd_hooks=hooks):
            ids = bridge.generate(given, max_new_tokens=5, do_sample=False, stop_at_eos=False, verbose=False)
        texts.append(model.tokenizer.decode(ids[0, given.shape[1] :], skip_special_tokens=True))
    assert texts[0] == model.generate(TEXT, max_new_tokens=5)
    assert texts[1] == model.generate(TEXT, mn.zero(units), max_new_tokens=5)
    assert texts[0] != texts[1]


# -- models that see -------------------------------------------------------------------------------------------------

PICTURES = tuple(picture(seed, 40, 40) for seed in range(2))


def prompt(name):
    return build(name).image_text("What is this?", 1)


def seen(name):
    return [mn.Stimulus(prompt(name), image=each) for each in PICTURES]


def watch(bridge, hooks=()):
    """Logits and cache of the bridge for the pictures, which the processor turns into its inputs."""
    family = bridge.family
    texts = [prompt(family.name)] * len(PICTURES)
    given = dict(family.processor(images=[[each] for each in PICTURES], text=texts, return_tensors="pt"))
    with torch.no_grad(), bridge.hooks(fwd_hooks=list(hooks)):
        return bridge.run_with_cache(given.pop("input_ids"), **given)


@reading("llava_clip", "gemma3")
@pytest.mark.parametrize("towers", [("vision",), ("decoder",), ("vision", "decoder")])
def test_units_of_each_tower_are_zeroed_as_here(bridge, towers):
    model = plain(bridge.family.name)
    units = some(model, *towers)
    hooks = tl.hooks(units, bridge)
    first = [name for name, _ in hooks if name.endswith(".0.hook_out")]
    assert first == [
        {"vision": "vision_encoder.encoder_layers.0.hook_out", "decoder": "blocks.0.hook_out"}[t] for t in towers
    ]
    logits, _ = watch(bridge, hooks)
    expected = model.run(seen(bridge.family.name), mn.zero(units), logits="last").logits
    torch.testing.assert_close(logits[:, -1], expected, atol=2e-5, rtol=1e-4)
    assert (logits - watch(bridge)[0]).abs().max() > 0.05


@reading("llava_clip", "llava_next", "gemma3")
def test_every_layer_of_an_image_encoder(bridge):
    """Also the one that the decoder is handed as transformers recorded it, before a bridge's hook point sees it."""
    name = bridge.family.name
    models = plain(name), through(bridge)
    whole = models[0].run(seen(name), logits="last").logits
    effects = []
    for layer in range(models[0].vision.n_layers):
        masks = {tower: np.zeros(one.shape, dtype=bool) for tower, one in models[0].towers.items()}
        masks["vision"][layer, ::3] = True
        units = mn.Units(masks)
        here, inside = (model.run(seen(name), mn.zero(units), logits="last").logits for model in models)
        theirs = watch(bridge, tl.hooks(units, bridge))[0][:, -1]
        torch.testing.assert_close(theirs, here, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(inside, here, atol=2e-5, rtol=1e-4)
        effects.append(float((here - whole).abs().max()))
    used = bridge.original_model.config.vision_config.num_hidden_layers
    used += 1 + getattr(bridge.original_model.config, "vision_feature_layer", -1)  # LLaVA leaves the last block out
    assert min(effects[:used]) > 0.05
    assert max(effects[used:], default=0.0) < 1e-5


@reading("llava_clip", "gemma3")
def test_both_towers_as_a_cache(bridge):
    _, theirs = watch(bridge)
    model = through(bridge)
    ours = tl.cache(model.run(seen(bridge.family.name), tokens="all"), bridge)
    assert {name.rsplit(".", 1)[1] for name in ours} == {"hook_out", "hook_resid_post"}
    assert len(ours) == 2 * sum(tower.n_layers for tower in model.towers.values())
    for name, value in ours.items():
        if name in theirs:
            assert torch.equal(value, theirs[name]), name
    assert sum(name in theirs for name in ours) >= len(ours) // 2
    of_plain = tl.cache(plain(bridge.family.name).run(seen(bridge.family.name), tokens="all"), bridge)
    for name, value in of_plain.items():
        torch.testing.assert_close(value, ours[name], atol=2e-4, rtol=1e-4)


@reading("vit")
def test_a_model_that_only_sees_has_names_of_its_own(bridge):
    family = bridge.family
    assert [name for name, _ in tl.hooks(some(mn.load(family.model), "vision"), bridge)][:1] == ["blocks.0.hook_out"]


@reading("mistral3")
def test_a_tower_that_a_bridge_does_not_expose(bridge):
    model = plain("mistral3")
    with pytest.raises(mn.InputError, match=r"Mistral3.*does not expose the vision tower.*modalnet\.load\(bridge\)"):
        tl.hooks(some(model, "vision"), bridge)
    with pytest.raises(mn.InputError, match="does not expose the vision tower"):
        tl.cache(model.run(seen(bridge.family.name), tokens="all"), bridge)
    # The other tower is there, and what a bridge hides is there in modalnet.
    assert tl.hooks(some(model, "decoder"), bridge)[0][0] == "blocks.0.hook_out"
    assert "blocks.0.hook_out" in tl.cache(model.run(seen(bridge.family.name), read="decoder", tokens="all"), bridge)
    assert through(bridge).towers["vision"].shape == model.towers["vision"].shape


# -- caches ----------------------------------------------------------------------------------------------------------


@reading("gpt2", "llama")
@pytest.mark.parametrize("named", [True, False])
def test_a_run_as_a_cache(bridge, named):
    model = through(bridge)
    with torch.no_grad():
        _, theirs = bridge.run_with_cache(tokens(bridge))
    ours = tl.cache(model.run(TEXTS, tokens="all"), bridge if named else None)
    assert type(ours) is type(theirs)
    assert set(ours) <= set(theirs)
    assert len(ours) == 2 * model.decoder.n_layers
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(ours["resid_post", 1], theirs["resid_post", 1])
    if named:
        assert torch.equal(ours["resid_post", -1], theirs["resid_post", -1])


@reading("llama")
def test_some_layers_of_one_text_under_a_lesion(bridge):
    model = through(bridge)
    units = some(model, "decoder")
    ours = tl.cache(model.run(TEXT, mn.zero(units), read={"decoder": [2, -1]}, tokens="all"), bridge)
    assert sorted(ours) == [f"blocks.{layer}.{name}" for layer in (2, 3) for name in ("hook_out", "hook_resid_post")]
    assert (ours["blocks.2.hook_out"][:, :, units.mask["decoder"][2].nonzero()[0]] == 0).all()
    assert ours.remove_batch_dim()["resid_post", 3].shape == (len(tokens(bridge)[0]), model.decoder.width)


# -- bridges as models -----------------------------------------------------------------------------------------------


@reading("llama")
def test_results_under_hooks_are_not_kept(bridge, tmp_path):
    """Hooks change what a model does, and no fingerprint sees them."""
    model = through(bridge)
    stimuli = [
        *(mn.Stimulus(f"A face {i}", condition="a") for i in range(4)),
        *(mn.Stimulus(f"Car {i}", condition="b") for i in range(4)),
    ]
    contrast = mn.Contrast(stimuli, positive="a", negative="b")
    whole = mn.localize(model, contrast, cache=tmp_path, progress=False)
    with bridge.hooks(fwd_hooks=tl.hooks(mn.scale(some(model, "decoder"), 2.0), bridge)):
        assert model._executor.edited
        under = mn.localize(model, contrast, cache=tmp_path, progress=False)
    assert not model._executor.edited
    assert not np.allclose(under.t["decoder"], whole.t["decoder"], equal_nan=True)


def test_folded_weights_are_read_as_the_bridge_has_them(tmp_path):
    family = build("gpt2")
    bridge = bridge_of(copy.deepcopy(family.model), family.tokenizer, tmp_path)
    bridge.family = family
    before = through(bridge).run(TEXTS, tokens="all", logits="all")
    bridge.enable_compatibility_mode()
    model = through(bridge)
    after = model.run(TEXTS, tokens="all", logits="all")
    with torch.no_grad():
        _, theirs = bridge.run_with_cache(tokens(bridge))
    assert torch.equal(last_block(after), theirs["blocks.3.hook_resid_post"])
    assert not torch.allclose(last_block(before), last_block(after), atol=1e-2)
    one = mn.scale(some(model, "decoder"), 2.0)
    with torch.no_grad():
        found = bridge.run_with_hooks(tokens(bridge), fwd_hooks=tl.hooks(one, bridge))
    torch.testing.assert_close(found, torch.stack(model.run(TEXTS, one, logits="all").logits), atol=2e-5, rtol=1e-4)


@reading("llava_clip")
def test_a_bridge_shows_the_towers_of_its_model(bridge):
    ours, theirs = (str(model).splitlines()[1:3] for model in (through(bridge), plain("llava_clip")))
    assert ours == theirs


@reading("llama")
@pytest.mark.parametrize("remote", ["http://127.0.0.1:9", "local"])
def test_a_bridge_is_not_what_a_server_runs(bridge, remote):
    with pytest.raises(mn.InputError, match=r"bridge.*hub id"):
        mn.load(bridge, remote=remote)
    with pytest.raises(mn.InputError, match=r"bridge.*hub id"):
        mn.load(through(bridge), remote=remote)


def test_the_guard_sees_what_transformer_lens_does_by_itself(no_installs, monkeypatch):
    """Else the tests here would prove nothing: booting a model that sees installs torchvision, error or not."""
    helpers = pytest.importorskip("transformer_lens.model_bridge.sources.transformers.helpers")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert helpers._ensure_torchvision() is False
    assert [command.endswith("install torchvision -q") for command in no_installs] == [True]
    no_installs.clear()


def test_the_old_methods_warn_and_give_the_same():
    model = plain("llama")
    units = some(model, "decoder")
    run = model.run(TEXT, tokens="all")
    with pytest.warns(DeprecationWarning, match=r"Units\.to_transformer_lens.*interop\.transformer_lens\.hooks"):
        old = units.to_transformer_lens()
    assert [name for name, _ in old] == [name for name, _ in tl.hooks(units)]
    with pytest.warns(DeprecationWarning, match=r"Intervention\.to_transformer_lens.*removed in 0\.3"):
        (old, *_) = mn.scale(units, 2.0).to_transformer_lens()
    assert old[1].a == 2.0
    pytest.importorskip("transformer_lens")
    with pytest.warns(DeprecationWarning, match=r"Run\.to_cache.*interop\.transformer_lens\.cache"):
        old = run.to_cache()
    assert torch.equal(old["resid_post", 1], tl.cache(run)["resid_post", 1])


# -- bad input -------------------------------------------------------------------------------------------------------

REFUSED = {
    "resample": (lambda units: mn.resample(units, [TEXT]), "computed from stimuli"),
    "patch": (lambda units: mn.patch(units, TEXT), "computed from stimuli"),
    "mean over stimuli": (lambda units: mn.mean(units, over=[TEXT]), r"model\.means"),
    "donors": (lambda units: mn.resample(units, {"decoder": np.zeros((2, *units.shapes["decoder"]))}), "from stimuli"),
    "sinks": (lambda units: mn.zero(units).at("all", spare_sinks=True), "spare_first=1"),
    "image tokens": (lambda units: mn.zero(units).at("image"), "indices"),
    "class token": (lambda units: mn.zero(units).at("cls"), "indices"),
}


@reading("llama")
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_hook_can_know(bridge, name):
    make, message = REFUSED[name]
    with pytest.raises(mn.InputError, match=message):
        tl.hooks(make(some(plain("llama"), "decoder")), bridge)


@reading("llama")
def test_units_and_runs_of_another_model(bridge):
    other = plain("gpt2")
    assert other.decoder.width != plain("llama").decoder.width
    with pytest.raises(mn.InputError, match=r"belong to another model .* decoder has shape \(4, 32\)"):
        tl.hooks(some(other, "decoder"), bridge)
    with pytest.raises(mn.InputError, match="is of another model"):
        bridge.run_with_hooks(tokens(bridge), fwd_hooks=tl.hooks(some(other, "decoder")))
    with pytest.raises(mn.InputError, match="is of another model"):
        tl.cache(other.run(TEXT, tokens="all"), bridge)
    with pytest.raises(mn.InputError, match=r"belong to another model .* its spaces are decoder"):
        tl.hooks(some(plain("llava_clip"), "vision"), bridge)


@reading("llama")
def test_masks_by_hook_point_are_units(bridge):
    expected = some(plain("llama"), "decoder")
    masks = {
        f"blocks.{layer}.hook_resid_post" if layer % 2 else f"blocks.{layer}.hook_out": row
        for layer, row in enumerate(expected.mask["decoder"])
    }
    assert tl.units(masks, bridge) == expected
    masks["blocks.0.hook_out"] = torch.tensor(masks["blocks.0.hook_out"])
    del masks["blocks.1.hook_resid_post"]
    found = tl.units(masks, bridge)
    assert found.count == expected.count - expected.mask["decoder"][1].sum()
    assert not found.mask["decoder"][1].any()
    with pytest.raises(mn.InputError, match=r"'blocks\.0\.attn\.hook_pattern' is not the hook point of a space"):
        tl.units({"blocks.0.attn.hook_pattern": expected.mask["decoder"][0]}, bridge)
    with pytest.raises(mn.InputError, match=r"must be boolean with shape \[48\], got float64 with shape \[32\]"):
        tl.units({"blocks.0.hook_out": np.zeros(32)}, bridge)
    with pytest.raises(mn.InputError, match="must be the TransformerBridge"):
        tl.units(masks, plain("llama"))


@reading("llava_clip", "mistral3")
def test_masks_of_an_image_encoder(bridge):
    model = plain(bridge.family.name)
    towers = ["vision", "decoder"] if bridge.family.name == "llava_clip" else ["decoder"]
    masks = {}
    for name, hook in tl.hooks(some(model, *towers), bridge):
        masks[name] = np.isin(np.arange(hook.part.space.width), hook.part.dims)
    found = tl.units(masks, bridge)
    assert list(found.shapes) == towers  # Pixtral's blocks have no hook points
    assert all(np.array_equal(mask, some(model, *towers).mask[tower]) for tower, mask in found.mask.items())


@reading("llama")
def test_tokens_that_are_not_there(bridge):
    hooks = tl.hooks(mn.zero(some(plain("llama"), "decoder")).at([999]), bridge)
    with pytest.raises(mn.InputError, match=r"edits token 999, but this input has \d+ tokens"):
        bridge.run_with_hooks(tokens(bridge), fwd_hooks=hooks)


def test_names_that_only_a_bridge_knows():
    model = plain("llava_clip")
    with pytest.raises(mn.InputError, match=r"hooks\(\.\.\., bridge\)"):
        tl.hooks(some(model, "vision", "decoder"))
    with pytest.raises(mn.InputError, match=r"hooks\(\.\.\., bridge\)"):
        tl.hooks(mn.zero(mn.site("decoder", 1)))
    with pytest.raises(mn.InputError, match=r"read vision, decoder.*cache\(run, bridge\)"):
        tl.cache(model.run(seen("llava_clip"), tokens="all"))
    for wrong in (model, "gpt2", 3):
        with pytest.raises(mn.InputError, match="must be the TransformerBridge"):
            tl.hooks(some(model, "decoder"), wrong)
        with pytest.raises(mn.InputError, match="must be the TransformerBridge"):
            tl.cache(model.run(seen("llava_clip"), tokens="all"), wrong)
    with pytest.raises(mn.InputError, match="intervene on is empty"):
        tl.hooks(some(model))


def test_runs_that_are_no_cache():
    model = plain("llama")
    with pytest.raises(mn.InputError, match=r"tokens='last'.*tokens=\"all\""):
        tl.cache(model.run(TEXT))
    with pytest.raises(mn.InputError, match=r"from \d+ to \d+ tokens.*one length"):
        tl.cache(model.run([TEXT, "A dog."], tokens="all"))
    with pytest.raises(mn.InputError, match="no activations"):
        tl.cache(model.run(TEXT, read=[], logits="last"))


def test_without_transformer_lens(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    model = plain("llama")
    run = model.run(TEXT, tokens="all")
    assert tl.hooks(some(model, "decoder"))
    with pytest.raises(mn.InputError, match=r"modalnet\[transformer-lens\]"):
        tl.cache(run)


def test_a_knockout_is_no_hook():
    with pytest.raises(mn.InputError, match="attention edges are removed in a mask"):
        tl.hooks([mn.knockout("decoder", 1, source=[0], target="last")])
