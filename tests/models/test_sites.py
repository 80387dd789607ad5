"""Spaces: every kind of activation inside a block works everywhere units do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import modalnet as mn
from modalnet.models import sites
from modalnet.models.sites import Space

TEXTS = ["the cat sat on a mat", "two dogs ran", "a bird sang in the old tree", "one fish"]


@pytest.fixture(scope="module")
def model():
    return mn.load("tiny")


INSIDE = ["pre", "mid", "attention", "mlp", "neurons", "gate", "activation", "heads"]


def hooked(model, texts, path, what, edit=None):
    """Activations of a module by a plain torch hook, per text ``[token, number]``, and the last logits."""
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
    assert [name for name, space in model.spaces.items() if space.kind == "residual"] == ["vision", "decoder"]
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
    for theirs, ours in {
        "resid_post": "decoder",
        "hook_resid_post": "decoder",
        "vision.resid_post": "vision",
        "decoder.residual": "decoder",
        "resid_pre": "decoder.pre",
        "resid_mid": "decoder.mid",
        "attn_out": "decoder.attention",
        "hook_mlp_out": "decoder.mlp",
        "mlp.hook_pre": "decoder.gate",
        "mlp.hook_post": "decoder.neurons",
        "vision.mlp.hook_post": "vision.neurons",
        "hook_z": "decoder.heads",
        "decoder.hook_z": "decoder.heads",
        "vision.attn.hook_z": "vision.heads",
        "decoder.heads": "decoder.heads",
    }.items():
        assert sites.canonical_name(theirs) == ours, theirs
    assert mn.site("resid_post", 3) == mn.site("decoder", 3)
    assert mn.site("hook_z", 3) == mn.site("decoder.heads", 3)
    one, other = (model.run(TEXTS[0], read={name: [2]}).activations for name in ("mlp.hook_post", "decoder.neurons"))
    torch.testing.assert_close(one["decoder.neurons"], other["decoder.neurons"])


def test_a_model_lists_the_spaces_of_each_tower(model):
    names = [f"{tower}.{kind}" for tower in ("vision", "decoder") for kind in INSIDE]
    names = [name for name in names if name != "vision.activation"]  # its MLPs have no gate
    expected = [name for tower in ("vision", "decoder") for name in [tower, *names] if name.partition(".")[0] == tower]
    assert list(model.spaces) == expected
    shapes = {"neurons": (8, 512), "heads": (8, 6), "attention": (8, 192), "mlp": (8, 192), "gate": (8, 512)}
    assert {kind: model.spaces[f"decoder.{kind}"].shape for kind in shapes} == shapes
    heads = model.spaces["decoder.heads"]
    assert (heads.size, heads.n_numbers, heads.n_units) == (32, 192, 48)
    for name in model.spaces:
        assert name in str(model)
    assert "decoder.heads: 6 of 32 numbers" in str(model)


def test_an_unknown_space_is_refused_with_those_of_the_model(model):
    for bad in (
        lambda: model.run(TEXTS, read="decoder.attentions"),
        lambda: model.run(TEXTS, mn.zero(mn.site("decoder.attentions", 1))),
        lambda: model.units("decoder.attentions"),
        lambda: mn.localize(model, mn.stimuli.language(4), units="toys"),
    ):
        with pytest.raises(
            mn.InputError, match=r"no space '(decoder\.)?(attentions|toys)'; its spaces are vision, vision\.pre"
        ):
            bad()


def test_units_that_there_are_not_are_refused_before_any_pass(model):
    heads = model.spaces["decoder.heads"]
    with pytest.raises(mn.InputError, match=r"units 0\.\.5"):
        mn.Units.from_indices({heads.name: heads.shape}, [(heads.name, 3, 6)])
    wide = mn.Units.from_indices({heads.name: (8, 7)}, [(heads.name, 3, 6)])
    with pytest.raises(mn.InputError, match=r"decoder\.heads"):
        model.run(TEXTS, mn.zero(wide))
    with pytest.raises(mn.InputError, match=r"Layer 8 does not exist: decoder\.heads has layers 0\.\.7"):
        model.run(TEXTS, mn.zero(mn.site(heads.name, 8)))
    one = mn.Units.from_indices({heads.name: heads.shape}, [(heads.name, 3, 2)])
    for intervention in (mn.set_to(one, 1.0), mn.add(one, 1.0), mn.add(mn.site(heads.name, 3), 1.0)):
        with pytest.raises(mn.InputError, match=r"a unit of decoder\.heads is a vector of 32 numbers"):
            model.run(TEXTS, intervention)
    with pytest.raises(mn.InputError, match=r"6 units of 32 numbers each, got values of shape \(6,\)"):
        model.run(TEXTS, mn.add(mn.site(heads.name, 3), np.ones(6)))
    run = model.run(TEXTS[0], read=heads.name, tokens="all")
    with pytest.raises(
        mn.InputError, match="A run has the length of each; read it with vectors=True, or patch from stimuli"
    ):
        model.run(TEXTS[0], mn.patch(one, run))


@pytest.mark.parametrize("kind", INSIDE)
def test_reads_and_zeroing_are_those_of_plain_hooks(model, kind):
    space = model.spaces[f"decoder.{kind}"]
    if kind == "mid":
        pytest.skip("the sum of two modules; see below")
    path, side = space.site(3)
    run = model.run(TEXTS, read={space.name: [3], "decoder": [3, 5]}, tokens="all", logits="last")
    assert run.layers == {"decoder": (3, 5), space.name: (3,)}
    expected, logits = hooked(model, TEXTS, path, side)
    for mine, theirs in zip(run.activations[space.name], expected, strict=True):
        lengths = theirs.unflatten(-1, (space.width, space.size)).norm(dim=-1) if space.size > 1 else theirs
        torch.testing.assert_close(mine[0], lengths, rtol=1e-5, atol=1e-5 * float(lengths.abs().max()))
    torch.testing.assert_close(run.logits, logits, rtol=1e-4, atol=1e-4)
    dims = [1, 5, space.width - 1]
    units = mn.Units.from_indices({space.name: space.shape}, [(space.name, 3, dim) for dim in dims])
    lesioned = model.run(TEXTS, mn.zero(units), read={space.name: [3]}, tokens="all", logits="last")
    numbers = space.numbers(np.array(dims)).tolist()
    expected, logits = hooked(model, TEXTS, path, side, edit=numbers)
    for mine in lesioned.activations[space.name]:
        assert not mine[0][:, dims].any()
    torch.testing.assert_close(lesioned.logits, logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(lesioned.logits, run.logits, atol=1e-4)


def test_what_sublayers_add_is_what_the_stream_changes_by(model):
    names = ["decoder", "decoder.pre", "decoder.mid", "decoder.attention", "decoder.mlp"]
    for edit in ([], [mn.scale(mn.site("decoder.mid", 2), 0.5)], [mn.zero(mn.site("decoder.attention", 4))]):
        read = model.run(TEXTS, *edit, read=names, tokens="all").activations
        for text in range(len(TEXTS)):
            after, before, mid, attention, mlp = (read[name][text] for name in names)
            torch.testing.assert_close(before[1:], after[:-1])
            torch.testing.assert_close(after, mid + mlp, rtol=1e-4, atol=1e-5)
            kept = [layer for layer in range(8) if not edit or layer not in (2, 4)]
            torch.testing.assert_close(mid[kept], (before + attention)[kept], rtol=1e-4, atol=1e-5)
    halved = model.run(TEXTS, mn.scale(mn.site("decoder.mid", 2), 0.5), read={"decoder.mid": [2]}, tokens="all")
    whole = model.run(TEXTS, read={"decoder.mid": [2]}, tokens="all")
    for one, other in zip(halved.activations["decoder.mid"], whole.activations["decoder.mid"], strict=True):
        torch.testing.assert_close(one, other / 2)


def test_the_mean_of_a_head_is_a_vector(model):
    """Mean ablation of a head puts in the mean of its part, not a part with the mean length."""
    space = model.spaces["decoder.heads"]
    path, _ = space.site(3)
    numbers = space.numbers(np.array([1, 4]))
    parts, _ = hooked(model, TEXTS, path, "input")
    mean = torch.stack([part.mean(0) for part in parts]).mean(0)[numbers]
    handle = model.module.get_submodule(path).register_forward_pre_hook(
        lambda _, args: args[0].__setitem__((..., torch.from_numpy(numbers)), mean)
    )
    try:
        with torch.no_grad():
            ids = model.tokenizer(model._executor.prepare([mn.Stimulus(TEXTS[1])])[0].prompt, return_tensors="pt")
            expected = model.module(input_ids=ids.input_ids).logits[0, -1]
    finally:
        handle.remove()
    units = mn.Units.from_indices({space.name: space.shape}, [(space.name, 3, 1), (space.name, 3, 4)])
    for over in (TEXTS, model.means(TEXTS, spaces=space.name, spare_sinks=False)):
        ablated = mn.mean(units, over=over, spare_sinks=False)
        logits = model.run(TEXTS[1], ablated, read=[], logits="last").logits[0]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_network_of_another_kind_goes_through_the_analyses(model):
    contrast = mn.stimuli.language(6)
    found = mn.localize(model, contrast, units=["neurons", "residual"], towers="decoder", cache=False, progress=False)
    assert found.spaces == ("decoder", "decoder.neurons")
    assert found.towers == ("decoder",)
    assert found.shapes == {name: model.spaces[name].shape for name in found.spaces}
    alone = mn.localize(model, contrast, units="neurons", cache=False, progress=False)
    np.testing.assert_array_equal(alone.t["decoder.neurons"], found.t["decoder.neurons"])
    network = alone.top(k=12)
    assert {space for space, _, _ in network.indices()} == {"decoder.neurons"}
    assert len(network.random(3, match="activation")) == 3
    assert network.model == model.fingerprint()
    layer = network.indices()[0][1]
    generated = model.generate("the cat", mn.scale(network, 0.5), max_new_tokens=3)
    assert isinstance(generated, str)
    scores = model.score(["the cat"], [" sat"], mn.mean(network, over=TEXTS))
    assert np.isfinite(scores.logprob[0]).all()
    means = model.means(TEXTS, spaces="decoder.neurons")
    assert means["decoder.neurons"].shape == model.spaces["decoder.neurons"].shape
    patched = mn.activation_patching(
        model,
        mn.Stimulus("the cat sat"),
        mn.Stimulus("the dog sat"),
        mn.patching.custom(lambda logits: logits[..., 5]),
        sites=[mn.site("decoder.neurons", layer)],
        units={"network": network},
        n_controls=2,
        cache=False,
        progress=False,
    )
    assert list(patched.values) == ["decoder.neurons"]
    assert np.isfinite(patched.values["decoder.neurons"]).any()
    study = mn.lesion_study(
        model,
        {"neurons": network},
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
    space = model.spaces["decoder.attention"]
    options = {"tokens": {"all": (0, 1, 2)}, "progress": False}
    found = mn.activation_patching(
        model, clean, corrupt, metric, sites="attention", towers="decoder", cache=False, **options
    )
    source = model.run(clean, read=space.name, tokens="all").activations[space.name][0]
    for layer in range(space.n_layers):
        for column, tokens in enumerate([(0, 1, 2)]):
            edit = mn.patch(mn.site(space.name, layer), clean).at(tokens)
            logits = model.run(corrupt, edit, read=[], logits="last").logits[0]
            assert found.values[space.name][0, layer, column] == pytest.approx(float(logits[5]), abs=1e-4)
    assert source.shape[0] == space.n_layers


SHAPES = {"vision": (2, 3), "decoder": (3, 4), "decoder.attention": (3, 4), "decoder.neurons": (3, 7)}


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
