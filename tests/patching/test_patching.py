"""Activation patching against hooks, one run per block and token; attribution patching against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import modalnet as mn
from families import build, picture
from modalnet.errors import InputError
from modalnet.execution.cells import Cell, Outcome, Swap
from modalnet.execution.engine import Engine
from modalnet.patching import Grid, agreement, kl_divergence, log_probability, logit_difference
from reference import TEXT_ONLY, editing, encode, forward, load, paths

NAMES = [
    "gpt2",
    "llama",
    "llava_clip",
    "llava_next",
    "qwen2_5_vl",
    "qwen3_vl",
    "gemma3",
    "idefics3",
    "pixtral",
    "blip2",
]
WORDS = ("dog", "tea", "child", "fox")


def pair_of(name, number=0):
    """Two stimuli of one length that differ in the text and, if the family sees, in the picture."""
    texts = ("Is there a face, a house or a car?", "Is there a car, a house or a face?")
    if name in TEXT_ONLY:
        return tuple(mn.Stimulus(text) for text in texts)
    return tuple(mn.Stimulus(text, image=picture(20 * number + i, 64, 48)) for i, text in enumerate(texts))


def difference(logits, pairs=None):
    return logits[:, 5] - logits[:, 9]


def same_length(name):
    clean, corrupt = pair_of(name)
    return len(encode(build(name), clean.text, clean.images())["input_ids"][0]) == len(
        encode(build(name), corrupt.text, corrupt.images())["input_ids"][0]
    )


def by_hooks(name, runs, site, rows, dims=slice(None)):
    """The measure of one stimulus with some rows of one block from the run of another."""
    (base, source), (tower, layer) = runs, site
    states = forward(name, source.text, source.images())[2][tower][layer]

    def edit(flat):
        flat[rows, dims] = states[rows, dims]
        return flat

    with editing(build(name).model, {paths(name, tower)[layer]: edit}):
        output, _, _ = forward(name, base.text, base.images())
    return float(difference(output.logits[0][-1:])[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_patch_is_what_hooks_do(name, direction):
    model = load(name)
    clean, corrupt = pair_of(name)
    assert same_length(name)
    result = mn.activation_patching(
        model, clean, corrupt, difference, tokens="each", direction=direction, cache=False, progress=False
    )
    assert result.clean[0] != result.corrupt[0]
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    changed = 0
    rng = np.random.default_rng(0)
    for tower, values in result.values.items():
        _, layers, columns = values.shape
        assert layers == model.towers[tower].n_layers
        for layer in range(layers):
            for column in rng.permutation(columns)[:2]:
                expected = by_hooks(name, (base, source), (tower, layer), [column])
                assert values[0, layer, column] == pytest.approx(expected, abs=5e-4)
                changed += abs(expected - (result.corrupt if direction == "denoise" else result.clean)[0]) > 1e-3
    assert changed > 1  # patches do something


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_last_block_at_the_last_token_carries_everything(direction):
    """All of the answer passes through it: patching it restores the clean run, or destroys it."""
    clean, corrupt = pair_of("llama")
    found = mn.activation_patching(
        load("llama"), clean, corrupt, difference, tokens="each", direction=direction, cache=False, progress=False
    )
    effect = found.effect["decoder"]
    assert effect[-1, -1] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(effect[-1, :-1], 0, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "llava_clip", "qwen2_5_vl"])
def test_patches_without_skipping_blocks_are_the_same(name):
    """Where a model hands on more than its residual stream, cells run whole; both ways must agree."""
    pair = pair_of(name)
    quick, whole = load(name), load(name)
    whole._executor.sweep._entry = lambda cell, state: None
    one, two = (
        mn.activation_patching(model, *pair, difference, cache=False, progress=False) for model in (quick, whole)
    )
    assert all(quick._executor.sweep.skipping.known.values())
    assert not whole._executor.sweep.skipping.known
    for tower, values in one.values.items():
        np.testing.assert_allclose(values, two.values[tower], atol=2e-4)


def test_a_model_whose_blocks_cannot_be_skipped_runs_whole(monkeypatch):
    """A prefix that gives something else is noticed, and not used."""
    model = load("llama")
    pair = pair_of("llama")
    expected = mn.activation_patching(model, *pair, difference, cache=False, progress=False)
    fooled = load("llama")
    hidden = type(fooled._executor.sweep)._hidden
    monkeypatch.setattr(type(fooled._executor.sweep), "_hidden", lambda *args: hidden(*args).roll(1, -1))
    found = mn.activation_patching(fooled, *pair, difference, cache=False, progress=False)
    assert set(fooled._executor.sweep.skipping.known.values()) == {False}
    np.testing.assert_allclose(found.values["decoder"], expected.values["decoder"], atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "llava_clip"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_together_are_as_alone(name, side):
    model = load(name)
    model._executor.padding_side = side
    texts = ["The dog ran across the field", "She poured the tea slowly, then looked", "Two children are playing"]
    others = ["The fox ran across the field", "She poured the dog slowly, then looked", "Two children are barking"]
    pictures = [picture(i, 64, 48) for i in range(6)]
    sees = name not in TEXT_ONLY
    clean = [mn.Stimulus(t, image=pictures[i] if sees else None) for i, t in enumerate(texts)]
    corrupt = [mn.Stimulus(t, image=pictures[3 + i] if sees else None) for i, t in enumerate(others)]
    options = {"align": "role" if sees else "last", "cache": False, "progress": False}
    together = mn.activation_patching(model, clean, corrupt, difference, **options)
    for i in range(3):
        alone = mn.activation_patching(model, clean[i], corrupt[i], difference, **options)
        for tower, values in alone.values.items():
            own = together.values[tower][i]
            kept = np.isfinite(own).all(0)
            np.testing.assert_allclose(own[:, kept], values[0], atol=5e-4)
        assert together.clean[i] == pytest.approx(alone.clean[0], abs=2e-4)


def test_the_ends_of_the_scale():
    """All tokens of a block patched: the run is the clean one."""
    model = load("llava_clip")
    clean, corrupt = pair_of("llava_clip")
    result = mn.activation_patching(
        model, clean, corrupt, difference, tokens={"decoder": "all", "vision": "all"}, cache=False, progress=False
    )
    np.testing.assert_allclose(result.effect["decoder"], 1, atol=1e-3)
    # LLaVA reads its vision tower one block before the last, and the text differs, too.
    assert np.all(result.effect["vision"][-1] == 0)
    assert np.ptp(result.effect["vision"][:-1]) < 1e-3


# -- networks --------------------------------------------------------------------------------------------------------


def some_units(model, seed=3):
    rng = np.random.default_rng(seed)
    mean_abs = {name: rng.random(tower.shape) + 0.1 for name, tower in model.towers.items()}
    return mn.Units({name: rng.random(tower.shape) < 0.2 for name, tower in model.towers.items()}, mean_abs=mean_abs)


def test_units_of_a_network_are_what_hooks_patch():
    name = "llava_clip"
    model = load(name)
    clean, corrupt = pair_of(name)
    units = some_units(model)
    result = mn.activation_patching(
        model,
        clean,
        corrupt,
        difference,
        tokens="each",
        units={"some": units},
        n_controls=3,
        cache=False,
        progress=False,
    )
    network = result.networks["some"]
    for tower in result.values:
        for layer, column in ((0, 1), (2, -1), (3, 2)):
            dims = np.flatnonzero(units.mask[tower][layer])
            expected = by_hooks(name, (corrupt, clean), (tower, layer), [column], dims)
            assert network.values[tower][0, layer, column] == pytest.approx(expected, abs=5e-4)
    assert network.joint[0] == pytest.approx(_jointly(name, clean, corrupt, units), abs=5e-4)
    assert network.controls["layer"].shape == (3, 1)
    for draw, control in enumerate(units.random(3, seed=0, match="activation")):
        assert network.controls["activation"][draw, 0] == pytest.approx(
            _jointly(name, clean, corrupt, control), abs=5e-4
        )
    table = result.network_table()
    assert set(table["match"]) == {"layer", "activation"}
    assert np.isfinite(table[["share", "control", "p"]].to_numpy()).all()


def _jointly(name, clean, corrupt, units):
    source = forward(name, clean.text, clean.images())[2]
    edits = {}
    for tower, mask in units.mask.items():
        for layer, path in enumerate(paths(name, tower)):
            dims = np.flatnonzero(mask[layer])

            def edit(flat, values=source[tower][layer], dims=dims):
                flat[:, dims] = values[:, dims]
                return flat

            if len(dims):
                edits[path] = edit
    with editing(build(name).model, edits):
        output, _, _ = forward(name, corrupt.text, corrupt.images())
    return float(difference(output.logits[0][-1:])[0])


# -- a view of the model ---------------------------------------------------------------------------------------------


def test_patching_a_lesioned_model_is_patching_by_hooks_under_the_lesion():
    name = "llama"
    model = load(name)
    clean, corrupt = pair_of(name)
    lesion = mn.Units({"decoder": np.arange(model.units().count).reshape(model.decoder.shape) % 5 == 0})
    result = mn.activation_patching(
        model.with_(mn.zero(lesion)), clean, corrupt, difference, tokens="each", cache=False, progress=False
    )
    units = [np.flatnonzero(row) for row in lesion.mask["decoder"]]
    zeroed = {
        path: lambda flat, dims=dims: _zeroed(flat, dims)
        for path, dims in zip(paths(name, "decoder"), units, strict=True)
    }
    with editing(build(name).model, zeroed):
        source = forward(name, clean.text, clean.images())
    assert result.clean[0] == pytest.approx(float(difference(source[0].logits[0][-1:])[0]), abs=2e-4)
    # forward() records what a block put out before its edit, so the states are read under the lesion by hand.
    for layer, row in ((0, 3), (1, -1), (2, 2)):
        values = _zeroed(source[2]["decoder"][layer].clone(), np.flatnonzero(lesion.mask["decoder"][layer]))

        def patched(flat, layer=layer, row=row, values=values):
            flat = _zeroed(flat, np.flatnonzero(lesion.mask["decoder"][layer]))
            flat[row] = values[row]
            return flat

        with editing(build(name).model, {**zeroed, paths(name, "decoder")[layer]: patched}):
            output, _, _ = forward(name, corrupt.text, corrupt.images())
        expected = float(difference(output.logits[0][-1:])[0])
        assert result.values["decoder"][0, layer, row] == pytest.approx(expected, abs=5e-4)


def _zeroed(flat, dims):
    flat[:, dims] = 0
    return flat


# -- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_are_what_the_logits_say():
    model = load("llama")
    clean, corrupt = pair_of("llama")
    logits = {
        side: forward("llama", one.text, one.images())[0].logits[0] for side, one in (("c", clean), ("k", corrupt))
    }
    options = {"tokens": "last", "cache": False, "progress": False}
    right, wrong = model._executor.next_tokens(clean, " dog"), model._executor.next_tokens(clean, " tea")
    if len(right) == len(wrong) == 1:
        found = mn.activation_patching(model, clean, corrupt, logit_difference(" dog", " tea"), **options)
        assert found.clean[0] == pytest.approx(float(logits["c"][-1][right[0]] - logits["c"][-1][wrong[0]]), abs=1e-4)
    found = mn.activation_patching(model, clean, corrupt, kl_divergence(), **options)
    p, q = logits["c"][-1].double().log_softmax(0), logits["k"][-1].double().log_softmax(0)
    assert found.corrupt[0] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)
    assert found.clean[0] == pytest.approx(0, abs=1e-6)
    assert found.effect["decoder"][-1, 0] == pytest.approx(1, abs=1e-3)
    text = " barked at the mailman"
    found = mn.activation_patching(model, clean, corrupt, log_probability(text), **options)
    expected = model.score([clean, corrupt], [text, text]).logprob
    assert found.clean[0] == pytest.approx(expected[0][0], abs=1e-4)
    assert found.corrupt[0] == pytest.approx(expected[1][0], abs=1e-4)
    assert [column.name for column in found.columns["decoder"]] == ["last"]


def test_a_function_of_logits_and_pairs_is_a_metric():
    model = load("llama")
    clean, corrupt = pair_of("llama")
    answers = torch.tensor([3, 7])
    seen = []

    def answer(logits, pairs):
        seen.append(tuple(logits.shape))
        return logits.gather(1, answers[pairs][:, None])[:, 0]

    found = mn.activation_patching(model, [clean, corrupt], [corrupt, clean], answer, tokens="last", progress=False)
    logits = model.run([clean, corrupt], read=[], logits="last").logits
    np.testing.assert_allclose(found.clean, [logits[0, 3], logits[1, 7]], atol=1e-4)
    assert seen
    with pytest.raises(InputError, match=r"one value per row"):
        mn.activation_patching(model, clean, corrupt, lambda logits: logits.mean(), progress=False)


# -- attribution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "llava_clip", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("frozen", [False, True])
def test_attributions_are_gradients_times_differences(name, direction, frozen):
    model = load(name)
    module = build(name).model
    clean, corrupt = pair_of(name)
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    before = [parameter.requires_grad for parameter in module.parameters()]
    try:
        module.requires_grad_(not frozen)
        found = mn.attribution_patching(
            model, clean, corrupt, difference, tokens="each", direction=direction, progress=False
        )
        assert all(parameter.grad is None for parameter in module.parameters())
        module.requires_grad_(True)
        gradients, states = _gradients(name, base)
    finally:
        for parameter, wanted in zip(module.parameters(), before, strict=True):
            parameter.requires_grad_(wanted)
    others = forward(name, source.text, source.images())[2]
    unpatched = (found.corrupt if direction == "denoise" else found.clean)[0]
    for tower, values in found.values.items():
        each = (others[tower] - states[tower]) * gradients[tower]
        expected = each.sum(2).numpy()
        np.testing.assert_allclose(values[0] - unpatched, expected, atol=1e-3 * max(1, np.abs(expected).max()))
        # Units of a site add up to the site.
        effect = np.nan_to_num(found.effect[tower]).sum(1)
        np.testing.assert_allclose(found.unit_effect[tower].sum(1), effect, atol=1e-3 * max(1, np.abs(effect).max()))
        sign = 1 if direction == "denoise" else -1
        whole = found.clean[0] - found.corrupt[0]
        np.testing.assert_allclose(
            found.unit_effect[tower] * whole, sign * each.sum(1).numpy(), atol=1e-3 * max(1, np.abs(expected).max())
        )


def _gradients(name, stimulus):
    family = build(name)
    seen = {}

    def keep(tower, path):
        def hook(module, args, output):
            hidden = output[0] if isinstance(output, tuple | list) else output
            hidden.retain_grad()
            seen[tower, path] = hidden

        return hook

    towers = {tower: paths(name, tower) for tower in load(name).towers}
    handles = [
        family.model.get_submodule(path).register_forward_hook(keep(tower, path))
        for tower, own in towers.items()
        for path in own
    ]
    try:
        output = family.model(**encode(family, stimulus.text, stimulus.images()))
    finally:
        for handle in handles:
            handle.remove()
    difference(output.logits[0][-1:]).sum().backward()
    family.model.zero_grad(set_to_none=True)
    gradients, states = {}, {}
    for tower, own in towers.items():
        held = [seen[tower, path] for path in own]
        width = held[0].shape[-1]
        states[tower] = torch.stack([one.detach().reshape(-1, width) for one in held])
        gradients[tower] = torch.stack(
            [(torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1, width) for one in held]
        )
    return gradients, states


def test_a_small_patch_is_estimated_well():
    """Halfway between two nearby runs the effect is nearly linear, so estimate and exact patch agree."""
    model = load("llama")
    clean, corrupt = pair_of("llama")
    near, far = model._executor.states([clean, corrupt])
    swaps = []
    for layer in range(model.decoder.n_layers):
        for token in range(far.activations["decoder"].shape[1]):
            a, b = near.activations["decoder"][layer, token], far.activations["decoder"][layer, token]
            swaps.append(Swap(model.spaces["decoder"], layer, torch.tensor([token]), (b + 1e-2 * (a - b))[None]))
    cells = [Cell(1), *(Cell(1, (swap,)) for swap in swaps)]
    out = {n: float(difference(v)[0]) for n, v in model._executor.run_cells([near, far], cells, Outcome("logits"))}
    exact = np.array([out[n + 1] - out[0] for n in range(len(swaps))])
    found = mn.attribution_patching(model, clean, corrupt, difference, tokens="each", progress=False)
    estimate = 1e-2 * (found.values["decoder"][0] - found.corrupt[0]).ravel()
    np.testing.assert_allclose(exact, estimate, atol=0.1 * np.abs(exact).max())
    assert np.corrcoef(exact, estimate)[0, 1] > 0.99


def test_agreement_compares_what_is_the_same():
    model = load("llama")
    pair = pair_of("llama")
    exact = mn.activation_patching(model, *pair, difference, cache=False, progress=False)
    estimate = mn.attribution_patching(model, *pair, difference, progress=False)
    own = agreement(exact, exact)
    assert own["pearson"][0] == pytest.approx(1)
    assert own["cells"][0] == exact.effect["decoder"].size
    assert -1 <= exact.agreement(estimate)["spearman"][0] <= 1
    other = mn.attribution_patching(model, *pair, difference, tokens="last", progress=False)
    with pytest.raises(InputError, match="must be of the same pairs"):
        agreement(exact, other)


def test_kl_has_no_slope_where_it_is_least():
    with pytest.raises(InputError, match="gradient is zero"):
        mn.attribution_patching(load("llama"), *pair_of("llama"), kl_divergence(), direction="noise", progress=False)


# -- the store -------------------------------------------------------------------------------------------------------


def test_a_sweep_goes_on_where_it_was(monkeypatch, tmp_path):
    monkeypatch.setenv("MODALNET_CACHE", str(tmp_path))
    model = load("llama")
    clean = [mn.Stimulus(f"The {word} ran across the field") for word in WORDS]
    corrupt = [mn.Stimulus(f"The {word} ran across the green") for word in WORDS]
    options = {"align": "last", "progress": False}
    metric = log_probability(" and")
    monkeypatch.setattr("modalnet.patching.activation.TOGETHER", 2)
    run, passes = Engine.run, []

    def failing(engine, inputs, plan, *rest):
        if len(passes) == 12:
            raise KeyboardInterrupt
        passes.append(plan)
        return run(engine, inputs, plan, *rest)

    monkeypatch.setattr(Engine, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        mn.activation_patching(model, clean, corrupt, metric, **options)
    kept = len(mn.Store().entries())
    assert kept == 2
    counted = []
    monkeypatch.setattr(Engine, "run", lambda *args: (counted.append(1), run(*args))[1])
    found = mn.activation_patching(model, clean, corrupt, metric, **options)
    assert len(mn.Store().entries()) == 4
    first = len(counted)
    again = mn.activation_patching(model, clean, corrupt, metric, **options)
    assert len(counted) == first  # no forward pass
    np.testing.assert_array_equal(again.values["decoder"], found.values["decoder"])
    fresh = mn.activation_patching(model, clean, corrupt, metric, cache=False, **options)
    np.testing.assert_allclose(fresh.values["decoder"], found.values["decoder"], atol=1e-4)
    mn.activation_patching(model, clean, corrupt, metric, direction="noise", **options)
    assert len(mn.Store().entries()) == 8


# -- bad input -------------------------------------------------------------------------------------------------------


def test_pairs_that_cannot_be_patched():
    model = load("llava_clip")
    clean, corrupt = pair_of("llava_clip")
    small = mn.Stimulus(corrupt.text, image=picture(1, 40, 40))
    patch = lambda *args, **options: mn.activation_patching(model, *args, progress=False, **options)  # noqa: E731
    with pytest.raises(InputError, match=r"64x48 and 40x40 pixels.*corrupt\.resize"):
        patch(clean, small, difference)
    with pytest.raises(InputError, match="are the same"):
        patch(clean, mn.Stimulus(clean.text, image=clean.image), difference)
    with pytest.raises(InputError, match="got 2 clean and 1 corrupt"):
        patch([clean, clean], [corrupt], difference)
    with pytest.raises(InputError, match="of the same kind"):
        patch(clean, mn.Stimulus("words"), difference)
    with pytest.raises(InputError, match=r"cannot be aligned one to one.*align"):
        patch(clean, mn.Stimulus("Describe it.", image=corrupt.image), difference)
    with pytest.raises(InputError, match="no space 'mlps'"):
        patch(clean, corrupt, difference, sites="mlps")
    with pytest.raises(InputError, match=r"layers 0\.\.3"):
        patch(clean, corrupt, difference, sites=[mn.site("decoder", 9)])
    with pytest.raises(InputError, match=r"`towers` must be among .*, got 'audio'"):
        patch(clean, corrupt, difference, towers="audio")
    with pytest.raises(InputError, match="`direction` must be one of"):
        patch(clean, corrupt, difference, direction="both")
    with pytest.raises(InputError, match="`tokens` must be"):
        patch(clean, corrupt, difference, tokens="first")
    with pytest.raises(InputError, match="must be single tokens"):
        patch(clean, corrupt, logit_difference(" a very long answer", " no"))
    with pytest.raises(InputError, match="`answers` must have one entry per pair, got 2 for 1 pairs"):
        patch(clean, corrupt, log_probability([" a", " b"]))
    with pytest.raises(InputError, match=r"belong to another model than .*vision has shape \(2, 3\)"):
        patch(clean, corrupt, difference, units={"x": mn.Units({"vision": np.ones((2, 3), dtype=bool)})})
    with pytest.raises(InputError, match="`metric` must be a metric"):
        patch(clean, corrupt, "logits")


def test_only_what_differs_is_patched():
    model = load("llava_clip")
    clean, corrupt = pair_of("llava_clip")
    same = mn.Stimulus(corrupt.text, image=clean.image)
    found = mn.activation_patching(model, clean, same, difference, tokens="last", cache=False, progress=False)
    assert list(found.values) == ["decoder"]


# -- where image tokens look -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "cells"),
    [("llava_clip", (64, 64), (4, 4)), ("llava_siglip", (64, 64), (3, 3)), ("gemma3", (64, 64), (2, 2))],
)
def test_image_tokens_of_a_decoder_are_in_raster_order(name, size, cells):
    model = load(name)
    stimulus = mn.Stimulus("What is this?", image=picture(0, *size))
    boxes = model._executor.image_places(stimulus, "decoder")
    seen = boxes[np.isfinite(boxes).all(1)]
    rows, columns = cells
    assert len(seen) == rows * columns
    middles = (seen[:, :2] + seen[:, 2:]) / 2
    expected = [((c + 0.5) / columns, (r + 0.5) / rows) for r in range(rows) for c in range(columns)]
    np.testing.assert_allclose(middles, expected, atol=0.5 / max(cells))


def test_window_order_is_undone():
    """Qwen2.5-VL sorts the patches of its tower by window; its decoder has them in raster order again."""
    model = load("qwen2_5_vl")
    stimulus = mn.Stimulus("What is this?", image=picture(0, 64, 64))
    vision = model._executor.image_places(stimulus, "vision")
    middles = (vision[:, :2] + vision[:, 2:]) / 2
    # Every patch of the grid is there once, wherever it stands in the row.
    side = round(len(vision) ** 0.5)
    cells = {(int(x * side), int(y * side)) for x, y in middles}
    assert len(cells) == len(vision)
    decoder = model._executor.image_places(stimulus, "decoder")
    seen = decoder[np.isfinite(decoder).all(1)]
    order = np.lexsort(((seen[:, 0] + seen[:, 2]).round(1), (seen[:, 1] + seen[:, 3]).round(1)))
    np.testing.assert_array_equal(order, np.arange(len(seen)))


def test_queries_have_no_place():
    """Each of BLIP-2's query tokens looks at all of the picture."""
    model = load("blip2")
    stimulus = mn.Stimulus("What is this?", image=picture(0, 64, 64))
    assert model._executor.image_places(stimulus, "decoder") is None
    clean, corrupt = pair_of("blip2")
    with pytest.raises(InputError, match=r"positions of the image tokens .* unknown"):
        mn.activation_patching(model, clean, corrupt, difference, tokens=Grid(2, 2), progress=False)


def test_a_place_is_where_the_pixels_are():
    """A spot in the picture changes what enters the decoder most at the token whose box holds it."""
    model = mn.load("tiny")
    blank = Image.new("RGB", (224, 224), (90, 90, 90))
    stimulus = mn.Stimulus("what colour is the circle?", image=blank)
    boxes = model._executor.image_places(stimulus, "vision")
    base = model.run(stimulus, read={"vision": [0]}, tokens="all").residual["vision"][0][0]
    for x, y in ((0.2, 0.7), (0.55, 0.05), (0.93, 0.93)):
        spotted = blank.copy()
        spotted.paste((250, 0, 0), (int(x * 224) - 4, int(y * 224) - 4, int(x * 224) + 4, int(y * 224) + 4))
        run = model.run(mn.Stimulus(stimulus.text, image=spotted), read={"vision": [0]}, tokens="all")
        token = int((run.residual["vision"][0][0] - base).norm(dim=1).argmax())
        left, top, right, bottom = boxes[token]
        assert left <= x <= right
        assert top <= y <= bottom


def test_attribution_needs_gradients_and_says_so():
    model, pairs = mn.load("tiny"), mn.patching.colour_pairs(2, size=64)
    arguments = (model, pairs.clean, pairs.corrupt, pairs.logit_difference())
    with torch.inference_mode(), pytest.raises(mn.InputError, match=r"outside of it"):
        mn.attribution_patching(*arguments, progress=False)
    with torch.no_grad():
        mn.attribution_patching(*arguments, progress=False, cache=False)
