"""Spaces: a kind of activation that is one entry of the registry works everywhere units do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import modalnet as mn
from modalnet.models import sites
from modalnet.models.sites import KINDS, Kind, Space

#: What the attention of a block puts out: the toy kind of these tests.
TOY = Kind(
    "toy",
    suffix="toy",
    find=lambda tower, block: next((name for name, _ in block.named_children() if name == "self_attn"), None),
    width=lambda tower, module: tower.width,
    place=10,
)
#: What enters the last projection of a block's MLP: another width than the block's, read and written as an input.
INNER = Kind(
    "inner",
    suffix="inner",
    find=lambda tower, block: next(
        (name for name, _ in block.named_modules() if name in ("mlp.down_proj", "mlp.fc2")), None
    ),
    width=lambda tower, module: module.in_features,
    side="input",
    place=50,
)
TEXTS = ["the cat sat on a mat", "two dogs ran", "a bird sang in the old tree", "one fish"]


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "toy", TOY)
        patch.setitem(KINDS, "inner", INNER)
        yield mn.load("tiny")


def hooked(model, texts, path, what, edit=None):
    """Activations of a module by a plain torch hook, per text ``[token, unit]``, and the last logits."""
    found, logits = [], []
    module = model.module.get_submodule(path)

    def outside(_, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if edit is not None:
            hidden[..., edit] = 0
        found.append(hidden[0].clone())

    def inside(_, args):
        if edit is not None:
            args[0][..., edit] = 0
        found.append(args[0][0].clone())

    handle = module.register_forward_hook(outside) if what == "output" else module.register_forward_pre_hook(inside)
    try:
        for text in texts:
            ids = model.tokenizer(model._executor.prepare([mn.Stimulus(text)])[0].prompt, return_tensors="pt").input_ids
            with torch.no_grad():
                logits.append(model.module(input_ids=ids).logits[0, -1])
    finally:
        handle.remove()
    return found, torch.stack(logits)


def test_the_residual_stream_is_named_by_its_tower():
    model = mn.load("tiny")
    assert list(model.spaces) == ["vision", "decoder"]
    for name, tower in model.towers.items():
        space = model.spaces[name]
        assert space == Space(tower)
        assert (space.shape, space.width, space.n_units, space.paths) == (
            tower.shape,
            tower.width,
            tower.n_units,
            tower.paths,
        )
        assert space.site(1) == (tower.paths[1], "output")
        assert str(space) == f"{name}: {space.n_layers} layers x {space.width} = {space.n_units:,} units"
        assert name in str(model)


def test_names_that_transformerlens_has(model):
    assert sites.canonical_name("resid_post") == "decoder"
    assert sites.canonical_name("vision.resid_post") == "vision"
    assert sites.canonical_name("decoder.residual") == "decoder"
    assert sites.canonical_name("decoder.toy") == "decoder.toy"
    assert mn.site("resid_post", 3) == mn.site("decoder", 3)
    one, other = (model.run(TEXTS[0], read={name: [2]}).activations for name in ("resid_post", "decoder"))
    torch.testing.assert_close(one["decoder"], other["decoder"])


def test_a_kind_is_listed_with_the_towers_that_have_it(model):
    assert list(model.spaces) == ["vision", "vision.toy", "vision.inner", "decoder", "decoder.toy", "decoder.inner"]
    assert (
        model.spaces["decoder.inner"].width
        == model.module.get_submodule(model.spaces["decoder.inner"].paths[0]).in_features
    )
    for name, space in model.spaces.items():
        assert name in str(model)
        assert f"{space.n_units:,} units" in str(model)


def test_an_unknown_space_is_refused_with_those_of_the_model(model):
    for bad in (
        lambda: model.run(TEXTS, read="decoder.heads"),
        lambda: model.run(TEXTS, mn.zero(mn.site("decoder.heads", 1))),
        lambda: model.units("decoder.heads"),
        lambda: mn.localize(model, mn.stimuli.language(4), units="heads"),
    ):
        with pytest.raises(mn.InputError, match=r"no space '(decoder\.)?heads'; its spaces are vision, vision\.toy"):
            bad()


@pytest.mark.parametrize("kind", ["toy", "inner"])
def test_reads_and_zeroing_are_those_of_plain_hooks(model, kind):
    space = model.spaces[f"decoder.{kind}"]
    path, side = space.site(3)
    run = model.run(TEXTS, read={space.name: [3], "decoder": [3, 5]}, tokens="all", logits="last")
    assert list(run.activations) == ["decoder", space.name]
    assert run.layers == {"decoder": (3, 5), space.name: (3,)}
    expected, logits = hooked(model, TEXTS, path, side)
    for mine, theirs in zip(run.activations[space.name], expected, strict=True):
        torch.testing.assert_close(mine[0], theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(run.logits, logits, rtol=1e-4, atol=1e-4)
    dims = [1, 5, space.width - 1]
    units = mn.Units.from_indices({space.name: space.shape}, [(space.name, 3, dim) for dim in dims])
    assert units.indices() == [(space.name, 3, dim) for dim in dims]
    lesioned = model.run(TEXTS, mn.zero(units), read={space.name: [3]}, tokens="all", logits="last")
    expected, logits = hooked(model, TEXTS, path, side, edit=dims)
    for mine, theirs in zip(lesioned.activations[space.name], expected, strict=True):
        assert not mine[0][:, dims].any()
        torch.testing.assert_close(mine[0], theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lesioned.logits, logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(lesioned.logits, run.logits, atol=1e-4)


def test_a_network_of_another_kind_goes_through_the_analyses(model):
    contrast = mn.stimuli.language(6)
    found = mn.localize(model, contrast, units=["inner", "residual"], towers="decoder", cache=False, progress=False)
    assert found.spaces == ("decoder", "decoder.inner")
    assert found.towers == ("decoder",)
    assert found.shapes == {name: model.spaces[name].shape for name in found.spaces}
    alone = mn.localize(model, contrast, units="inner", cache=False, progress=False)
    np.testing.assert_array_equal(alone.t["decoder.inner"], found.t["decoder.inner"])
    network = alone.top(k=12)
    assert {space for space, _, _ in network.indices()} == {"decoder.inner"}
    assert len(network.random(3, match="activation")) == 3
    assert network.model == model.fingerprint()
    layer = network.indices()[0][1]
    generated = model.generate("the cat", mn.scale(network, 0.5), max_new_tokens=3)
    assert isinstance(generated, str)
    scores = model.score(["the cat"], [" sat"], mn.mean(network, over=TEXTS))
    assert np.isfinite(scores.logprob[0]).all()
    means = model.means(TEXTS, spaces="decoder.inner")
    assert means["decoder.inner"].shape == model.spaces["decoder.inner"].shape
    patched = mn.activation_patching(
        model,
        mn.Stimulus("the cat sat"),
        mn.Stimulus("the dog sat"),
        mn.patching.custom(lambda logits: logits[..., 5]),
        sites=[mn.site("decoder.inner", layer)],
        units={"network": network},
        n_controls=2,
        cache=False,
        progress=False,
    )
    assert list(patched.values) == ["decoder.inner"]
    assert np.isfinite(patched.values["decoder.inner"]).any()
    study = mn.lesion_study(
        model,
        {"inner": network},
        mn.tasks.perplexity(TEXTS),
        n_controls=2,
        operations=("zero",),
        cache=False,
        progress=False,
    )
    assert len(study.cells) > 1


def test_patching_inside_a_block_runs_whole_at_every_depth(model):
    """Blocks may be skipped behind a block's output, and not behind what is computed inside of one."""
    clean, corrupt = "the cat sat", "the dog sat"
    metric = mn.patching.custom(lambda logits: logits[..., 5])
    space = model.spaces["decoder.toy"]
    options = {"tokens": {"all": (0, 1, 2)}, "progress": False}
    found = mn.activation_patching(model, clean, corrupt, metric, sites="toy", towers="decoder", cache=False, **options)
    source = model.run(clean, read=space.name, tokens="all").activations[space.name][0]
    for layer in range(space.n_layers):
        for column, tokens in enumerate([(0, 1, 2)]):
            edit = mn.patch(mn.site(space.name, layer), clean).at(tokens)
            logits = model.run(corrupt, edit, read=[], logits="last").logits[0]
            assert found.values[space.name][0, layer, column] == pytest.approx(float(logits[5]), abs=1e-4)
    assert source.shape[0] == space.n_layers


SHAPES = {"vision": (2, 3), "decoder": (3, 4), "decoder.toy": (3, 4), "decoder.inner": (3, 7)}


@st.composite
def sets(draw):
    masks = {}
    for name, shape in SHAPES.items():
        flat = draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
        masks[name] = np.array(flat).reshape(shape)
    return mn.Units(masks, model="m")


@settings(max_examples=60, deadline=None)
@given(sets(), sets(), sets())
def test_set_algebra_over_several_spaces(a, b, c):
    as_set = lambda units: set(units.indices())  # noqa: E731
    everything = {(name, *place) for name, shape in SHAPES.items() for place in np.ndindex(shape)}
    assert as_set(a | b) == as_set(a) | as_set(b)
    assert as_set(a & b) == as_set(a) & as_set(b)
    assert as_set(a - b) == as_set(a) - as_set(b)
    assert as_set(a ^ b) == as_set(a) ^ as_set(b)
    assert as_set(~a) == everything - as_set(a)
    assert ~(a | b) == ~a & ~b
    assert a & (b | c) == (a & b) | (a & c)
    assert (a <= b) == (as_set(a) <= as_set(b))
    assert mn.Units.from_indices(SHAPES, a.indices(), model="m") == a
    assert a.count == len(as_set(a)) == sum(int(counts.sum()) for counts in a.per_layer().values())
    assert a.over(SHAPES) == a


@settings(max_examples=20, deadline=None)
@given(sets(), st.sampled_from([".json", ".safetensors"]))
def test_files_keep_every_space(tmp_path_factory, units, suffix):
    path = tmp_path_factory.mktemp("units") / f"units{suffix}"
    units.save(path)
    back = mn.Units.load(path)
    assert back == units
    assert list(back.mask) == list(units.mask)
