"""Top stimuli against a sort of all activations, gradients against autograd, canvases against the processors."""

from __future__ import annotations

import importlib

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

import modalnet as mn
from families import build, picture
from modalnet.errors import InputError
from modalnet.features import Optimized, RandomTransform, TopStimuli
from modalnet.features.parametrization import FourierImage, total_variation
from modalnet.features.running_top import RunningTop
from reference import TEXT_ONLY, VISION_ONLY, encode, forward, load, paths

mpl.use("Agg")

search = importlib.import_module("modalnet.features.top_stimuli")  # the file, not the function of its name

WORDS = ("dog", "tea", "child", "fox", "house", "car", "window", "picture", "beach", "field", "word", "face")


def stimuli(name, n=12):
    """Stimuli of one kind, of different lengths and sizes."""
    made = []
    for i in range(n):
        image = None if name in TEXT_ONLY else picture(i, 48 + 8 * (i % 3), 64)
        text = None if name in VISION_ONLY else " ".join(WORDS[i : i + 1 + i % 4]) + f" {i}"
        made.append(mn.Stimulus(text, image=image, condition="even" if i % 2 == 0 else "odd"))
    return made


def some_units(model, count, seed=0, towers=None):
    every = model.units(towers).indices()
    picked = np.random.default_rng(seed).choice(len(every), count, replace=False)
    shapes = {name: tower.shape for name, tower in model.towers.items()}
    rng = np.random.default_rng(seed)
    mean_abs = {name: rng.uniform(0.5, 2, shape) for name, shape in shapes.items()}
    return mn.Units.from_indices(shapes, [every[i] for i in picked], mean_abs=mean_abs)


def activations(name, given, units):
    """[stimulus, unit] by plain transformers: the mean over a vision tower's tokens, the last of a decoder's."""
    rows = []
    for one in given:
        states = forward(name, one.text, one.images())[2]
        pooled = {tower: s.mean(1) if tower == "vision" else s[:, -1] for tower, s in states.items()}
        rows.append([float(pooled[tower][layer, dim]) for tower, layer, dim in units])
    return np.array(rows)


# -- the n largest of a stream ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("smallest", [False, True])
def test_a_running_top_is_a_sort_of_everything(smallest):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (57, 8)).astype(float)  # many ties
    values[rng.random(values.shape) < 0.1] = np.nan
    values[3, 2] = np.inf
    order = rng.permutation(57)
    for size in (1, 7, 57):
        top = RunningTop(8, 5, smallest=smallest)
        for start in range(0, 57, size):
            some = order[start : start + size]
            top.update(values[some], list(some))
        for row in range(8):
            keys = values[:, row] if smallest else -values[:, row]
            expected = sorted(np.flatnonzero(np.isfinite(keys)), key=lambda i: (keys[i], i))[:5]
            assert top.index[row].tolist() == expected
            np.testing.assert_array_equal(top.values[row], values[expected, row])


def test_a_running_top_of_less_than_n():
    top = RunningTop(1, 4)
    top.update(np.array([[2.0], [np.nan], [3.0]]), [0, 1, 2])
    assert top.index.tolist() == [[2, 0, -1, -1]]
    assert np.isnan(top.values[0, 2:]).all()


# -- top stimuli -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "vit", "llava_clip", "qwen2_5_vl"])
@pytest.mark.parametrize("magnitude", ["absolute", "signed"])
def test_top_stimuli_are_those_of_a_sort_of_all_activations(name, magnitude):
    model, given = load(name), stimuli(name)
    units = some_units(model, 9)
    result = mn.features.top_stimuli(
        model, units, iter(given), 4, magnitude=magnitude, batch_size=5, per_token=False, progress=False
    )
    values = activations(name, given, result.units)
    values = abs(values) if magnitude == "absolute" else values
    order = np.argsort(-values, axis=0, kind="stable")[:4].T
    np.testing.assert_array_equal(result.index, order)
    np.testing.assert_allclose(result.activation, np.take_along_axis(values.T, order, 1), atol=1e-4)
    sizes = np.array([units.mean_abs[t][layer, dim] for t, layer, dim in result.units])
    network = (values / sizes).mean(1)
    np.testing.assert_array_equal(result.network_index, np.argsort(-network, kind="stable")[:4])
    np.testing.assert_allclose(result.network_activation, np.sort(network)[::-1][:4], atol=1e-4)
    assert result.scaled
    assert result.n_stimuli == 12


def test_bottom_stimuli_and_unscaled_networks():
    model, given = load("llama"), stimuli("llama")
    result = mn.features.top_stimuli(
        model, some_units(model, 5), given, 3, bottom=True, scaled=False, per_token=False, progress=False
    )
    values = abs(activations("llama", given, result.units))
    np.testing.assert_array_equal(result.index, np.argsort(values, axis=0, kind="stable")[:3].T)
    np.testing.assert_array_equal(result.network_index, np.argsort(values.mean(1), kind="stable")[:3])


def test_a_stream_is_taken_in_parts_and_only_the_best_are_kept(monkeypatch):
    model, given = load("llama"), stimuli("llama", 12)
    units = some_units(model, 2)
    whole = mn.features.top_stimuli(model, units, given, 2, progress=False)
    handed, alive = [], []

    def one_by_one():
        for place, one in enumerate(given):
            handed.append(place)
            yield one

    monkeypatch.setattr(search, "CHUNK", 5)
    end_chunk = search.RunningTopStimuli.end_chunk

    def watched(self, chunk):
        end_chunk(self, chunk)
        alive.append((len(handed), len(self.stimuli)))

    monkeypatch.setattr(search.RunningTopStimuli, "end_chunk", watched)
    parts = mn.features.top_stimuli(model, units, one_by_one(), 2, progress=False)
    np.testing.assert_array_equal(parts.index, whole.index)
    np.testing.assert_array_equal(parts.network_index, whole.network_index)
    assert [count for count, _ in alive] == [5, 10, 12]
    assert all(kept <= 2 * 3 for _, kept in alive)
    assert {i: one.text for i, one in parts.stimuli.items()} == {i: given[i].text for i in whole.stimuli}


@pytest.mark.parametrize("name", ["llama", "dinov2_with_registers", "llava_clip"])
def test_token_activations_are_those_of_the_model(name):
    model, given = load(name), stimuli(name, 6)
    units = some_units(model, 4)
    result = mn.features.top_stimuli(model, units, given, 2, progress=False)
    for row, (tower, layer, dim) in enumerate(result.units):
        for rank in range(2):
            index = int(result.index[row, rank])
            states = forward(name, given[index].text, given[index].images())[2][tower]
            expected = states[layer, :, dim].abs().numpy()
            np.testing.assert_allclose(result.token_activations.activations[tower, row, rank], expected, atol=1e-4)
            assert len(result.token_activations.tokens[tower, index]) == len(expected)
    index = int(result.network_index[0])
    states = forward(name, given[index].text, given[index].images())[2]
    for tower in {unit[0] for unit in result.units}:
        own = [
            states[t][layer, :, dim].abs().numpy() / units.mean_abs[t][layer, dim]
            for t, layer, dim in result.units
            if t == tower
        ]
        np.testing.assert_allclose(result.token_activations.activations[tower, -1, 0], np.mean(own, axis=0), atol=1e-4)


def test_boxes_lie_where_the_patches_are():
    model = load("vit")
    result = mn.features.top_stimuli(model, some_units(model, 2), stimuli("vit", 3), 1, progress=False)
    index = int(result.index[0, 0])
    boxes = result.token_activations.boxes["vision", index]
    patches = boxes[np.isfinite(boxes[:, 0])]
    side = round(len(patches) ** 0.5)
    assert len(patches) == side**2
    middles = (patches[:, :2] + patches[:, 2:]) / 2
    expected = [((i + 0.5) / side, (j + 0.5) / side) for j in range(side) for i in range(side)]
    np.testing.assert_allclose(middles, expected, atol=0.06)


def test_tables_shares_and_files(tmp_path):
    model, given = load("llava_clip"), stimuli("llava_clip", 6)
    result = mn.features.top_stimuli(model, some_units(model, 3), given, 2, progress=False)
    table = result.table()
    assert len(table) == 2 * 4
    assert table["condition"].tolist() == [given[i].condition for i in table["stimulus"]]
    even = [np.mean([given[i].condition == "even" for i in row]) for row in result.index]
    np.testing.assert_array_equal(result.share("even"), even)
    np.testing.assert_array_equal(result.share(["even", "odd"]), 1)
    result.save(tmp_path / "top.safetensors")
    back = TopStimuli.load(tmp_path / "top.safetensors")
    assert back.table().equals(table)
    assert back.units == result.units
    assert back.tokens == result.tokens
    assert back.token_activations.tokens == result.token_activations.tokens
    for key, values in result.token_activations.activations.items():
        np.testing.assert_array_equal(back.token_activations.activations[key], values)
    np.testing.assert_array_equal(np.asarray(back.stimuli[0].images()[0]) if 0 in back.stimuli else 0,
                                  np.asarray(given[0].images()[0]) if 0 in back.stimuli else 0)  # fmt: skip
    axes = back.plot()
    assert axes.shape == (4, 2)
    assert axes[0, 0].get_title() == f"{result.network_activation[0]:.3g}"
    with pytest.raises(InputError, match="safetensors"):
        result.save(tmp_path / "top.json")
    mn.Units.from_indices({"a": (1, 1)}, []).save(tmp_path / "units.safetensors")
    with pytest.raises(InputError, match="Expected top stimuli"):
        TopStimuli.load(tmp_path / "units.safetensors")


def test_a_server_finds_the_same():
    here, there = mn.load("tiny"), mn.load("tiny", remote="local")
    units = some_units(here, 6)
    given = mn.stimuli.vision(size=64).stimuli[::20]
    options = {"cache": False, "progress": False}
    one, other = (mn.features.top_stimuli(model, units, given, 3, **options) for model in (here, there))
    np.testing.assert_array_equal(one.index, other.index)
    np.testing.assert_allclose(one.network_activation, other.network_activation, atol=1e-5)
    for key, values in one.token_activations.activations.items():
        np.testing.assert_allclose(values, other.token_activations.activations[key], atol=1e-5)


def test_texts_are_drawn_word_by_word():
    model = load("llama")
    given = [mn.Stimulus("The quick brown fox jumps over the lazy dog; " * 8), mn.Stimulus("A $dollar$ and one more $")]
    result = mn.features.top_stimuli(model, some_units(model, 2), given, 2, progress=False)
    axes = result.plot()
    axes[0].figure.canvas.draw()
    written = "".join(text.get_text() for text in axes[0].texts)
    assert "$dollar$" in written
    assert "fox" in written
    # Every word stands on a wash, and the strongest of the row on the strongest one.
    row = [v[1:] for (_, r, _), v in result.token_activations.activations.items() if r == -1]
    washes = [patch.get_facecolor()[3] for patch in axes[0].patches]
    assert len(washes) == len(axes[0].texts) - 2  # two of them are the activations
    assert max(washes) == pytest.approx(0.8)
    assert np.concatenate(row).max() > np.median(np.concatenate(row))
    with pytest.raises(InputError, match="axes"):
        result.plot(ax=axes[:1])


def test_bad_input_to_top_stimuli():
    model = load("llama")
    units, given = some_units(model, 2), stimuli("llama", 3)
    find = mn.features.top_stimuli
    with pytest.raises(InputError, match="`n` must be a positive integer, got 0"):
        find(model, units, given, 0)
    with pytest.raises(InputError, match="empty"):
        find(model, units, [])
    with pytest.raises(InputError, match="must be a Stimulus or a string"):
        find(model, units, [3])
    with pytest.raises(InputError, match="must not be an empty set"):
        find(model, units - units, given)
    with pytest.raises(InputError, match="must be Units"):
        find(model, "decoder", given)
    with pytest.raises(InputError, match="lies outside"):
        find(model, ("decoder", 99, 0), given)
    with pytest.raises(InputError, match="`magnitude` must be one of 'absolute', 'signed'"):
        find(model, units, given, magnitude="size")
    with pytest.raises(InputError, match='tokens="all"'):
        find(model, units, given, tokens="all")
    with pytest.raises(InputError, match="`scaled=True` requires"):
        find(model, ("decoder", 0, 0), given, scaled=True)
    with pytest.raises(InputError, match="another model"):
        find(model, mn.Units(units.mask, model="other"), given)
    with pytest.raises(InputError, match=r"decoder has shape \(4, 32\)"):
        find(model, some_units(load("gpt2"), 3), given)
    vlm = load("llava_clip")
    with pytest.raises(InputError, match="vision tower"):
        find(vlm, some_units(vlm, 3, towers="vision"), given)
    with pytest.raises(InputError, match="no conditions"):
        find(model, units, ["a b", "c d"], 1, progress=False).share("even")
    with pytest.raises(InputError, match="`row` must be a unit"):
        find(model, units, ["a b"], 1, progress=False).plot(rows=[7])


# -- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "context"), [("llama", None), ("gpt2", None), ("llama", "The dog"), ("llava_clip", None)]
)
def test_top_tokens_are_those_of_a_sort_of_the_vocabulary(name, context):
    model, family = load(name), build(name)
    units = some_units(model, 5, towers="decoder")
    result = mn.features.top_tokens(model, units, 6, context=context, progress=False)
    before = list(family.tokenizer(context or "")["input_ids"]) or [family.tokenizer.bos_token_id]
    special = {i for i, one in family.tokenizer.added_tokens_decoder.items() if one.special}
    ids = [i for i in range(len(family.tokenizer)) if i not in special]
    rows = torch.tensor([[*before, i] for i in ids])
    with torch.no_grad():
        states = family.model(input_ids=rows, output_hidden_states=True).hidden_states
    values = np.array([states[layer + 1][:, -1, dim].abs().numpy() for _, layer, dim in result.units if layer < 3])
    kept = [row for row, (_, layer, _) in enumerate(result.units) if layer < 3]  # the last is normed there
    assert kept
    order = np.argsort(-values, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(result.index[kept], np.array(ids)[order])
    np.testing.assert_allclose(result.activation[kept], np.take_along_axis(values, order, 1), atol=1e-4)
    assert result.n_stimuli == len(ids)
    assert result.plot() is not None


def test_top_tokens_among_some_and_bad_input():
    model = load("llama")
    units = some_units(model, 2)
    some = mn.features.top_tokens(model, units, 3, candidates=[40, 41, 42, 43], progress=False)
    assert set(some.index.ravel()) <= {40, 41, 42, 43}
    assert not mn.features.top_tokens(model, units, 2, candidates=[40], progress=False).index[:, 1:].max() >= 0
    with pytest.raises(InputError, match="`candidates` must be token ids"):
        mn.features.top_tokens(model, units, candidates=[10**6])
    with pytest.raises(InputError, match="`context` must be a string"):
        mn.features.top_tokens(model, units, context=3)
    vlm = load("llava_clip")
    with pytest.raises(InputError, match="text tower"):
        mn.features.top_tokens(vlm, some_units(vlm, 3, towers="vision"))


# -- from a picture to the inputs and back ---------------------------------------------------------------------------

COPYING = ["vit", "dinov2_with_registers", "clip_vision", "llava_clip", "llava_next", "idefics2", "pixtral", "gemma3"]
PACKING = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


def size_of(name):
    return 64 if name in PACKING else None


@pytest.mark.parametrize("name", [*COPYING, *PACKING])
def test_a_canvas_is_what_the_processor_makes(name):
    model = load(name)
    text = None if name in VISION_ONLY else "What is this?"
    canvas = model._executor.canvas(text, size_of(name))
    shown = np.random.default_rng(1).integers(0, 256, (*canvas.seen, 3), dtype=np.uint8)
    stimulus = canvas.framed(shown)
    inputs = encode(build(name), text, stimulus.images())
    pixels = canvas.pixels(torch.from_numpy(shown).permute(2, 0, 1).float() / 255)
    torch.testing.assert_close(pixels, inputs[canvas.source].float(), atol=2e-3, rtol=0)
    there = canvas.index >= 0
    torch.testing.assert_close(pixels[there], inputs[canvas.source].float()[there], atol=1e-5, rtol=0)
    assert len(canvas.index[there].unique()) == canvas.seen[0] * canvas.seen[1] * 3  # every pixel is somewhere


def test_what_is_cropped_is_no_part_of_the_canvas():
    canvas = load("dinov2_with_registers")._executor.canvas()
    assert canvas.size == (40, 40)
    assert canvas.box == (4, 4, 36, 36)


def test_a_processor_that_shows_a_picture_twice_is_refused():
    with pytest.raises(InputError, match="pixels one to one"):
        load("idefics3")._executor.canvas("What is this?")
    with pytest.raises(InputError, match="pixels one to one"):
        load("vit")._executor.canvas(size=50)
    with pytest.raises(InputError, match="`size` must be"):
        load("vit")._executor.canvas(size=2.5)


def plain_gradient(name, pixels, inputs, source, read):
    """The gradient of the sum of some activations with respect to the pixels, by autograd on the plain module."""
    module = build(name).model
    leaf = pixels.detach().clone().requires_grad_()
    kept = {}
    handles = []
    for tower, layer in {(tower, layer) for tower, layer, _ in read}:

        def hook(module, args, output, key=(tower, layer)):
            hidden = output[0] if isinstance(output, tuple | list) else output
            kept[key] = hidden.reshape(-1, hidden.shape[-1])

        handles.append(module.get_submodule(paths(name, tower)[layer]).register_forward_hook(hook))
    module(**{**inputs, source: leaf})
    for handle in handles:
        handle.remove()
    total = sum((kept[t, layer].mean(0) if t == "vision" else kept[t, layer][-1])[dim] ** 2 for t, layer, dim in read)
    return float(total.detach()), torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize("name", ["vit", "dinov2_with_registers", "llava_clip", "gemma3", "qwen2_5_vl"])
def test_the_gradient_at_the_pixels_is_that_of_autograd(name):
    model = load(name)
    text = None if name in VISION_ONLY else "What is this?"
    canvas = model._executor.canvas(text, size_of(name))
    read = [("vision", 1, 3), ("vision", 2, 5)] + ([] if name in VISION_ONLY else [("decoder", 2, 7)])
    pixels = canvas.pixels(torch.rand(3, *canvas.seen, generator=torch.Generator().manual_seed(0)))

    def measure(values):
        return sum(value[:, dim] ** 2 for value, (_, _, dim) in zip(values, read, strict=True))

    layers = {"vision": [1, 2]} | ({} if name in VISION_ONLY else {"decoder": [2]})
    tokens = {"vision": "mean", "decoder": "last"}
    value, slope = model._executor.inward(
        canvas.fill(pixels), layers, {t: tokens[t] for t in layers}, canvas.source, measure
    )
    assert all(parameter.grad is None for parameter in model.module.parameters())
    inputs = encode(build(name), text, canvas.stimulus.images())
    expected, gradient = plain_gradient(name, pixels, inputs, canvas.source, read)
    assert gradient.abs().max() > 1e-3
    assert float(value) == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(slope, gradient, atol=1e-5 * float(gradient.abs().max()), rtol=1e-3)


def test_an_edit_on_the_way_is_in_the_gradient():
    """The gradient is of the model as it runs: behind a block whose output is set, nothing depends on the picture."""
    model = load("vit")
    whole = mn.Units({"vision": np.arange(model.vision.n_layers)[:, None] * np.ones(model.vision.shape) == 1})
    canvas = model._executor.canvas()
    asked = ({"vision": [2]}, {"vision": "mean"}, canvas.source, lambda values: values[0].sum(1))
    pixels = canvas.pixels(torch.full((3, *canvas.seen), 0.4))
    assert model._executor.inward(canvas.fill(pixels), *asked)[1].abs().max() > 0
    cut = model.with_(mn.zero(whole))
    assert cut._executor.inward(canvas.fill(pixels), *asked)[1].abs().max() == 0


# -- parametrization -------------------------------------------------------------------------------------------------


def test_a_fourier_image_starts_grey():
    generator = torch.Generator().manual_seed(0)
    image = FourierImage(31, 44, generator)
    shown = image().detach()
    assert shown.shape == (3, 31, 44)
    assert float(shown.min()) > 0
    assert float(shown.max()) < 1
    assert float((shown - 0.5).abs().mean()) < 0.05
    grey = FourierImage(31, 44, generator, colour=False)()
    assert torch.equal(grey[0], grey[2])


def test_a_fourier_image_has_the_spectrum_of_natural_images():
    """Amplitudes fall as 1 / f, so the logarithms of both have slope -1."""
    shown = FourierImage(128, 128, torch.Generator().manual_seed(0), colour=False)().detach()[0]
    amplitude = torch.fft.fft2(torch.logit(shown)).abs()[1:60, 0].numpy()
    slope = np.polyfit(np.log(np.arange(1, 60)), np.log(amplitude), 1)[0]
    assert slope == pytest.approx(-1, abs=0.2)


def test_random_transforms():
    generator = torch.Generator().manual_seed(0)
    shown = torch.rand(3, 24, 36, generator=generator)
    torch.testing.assert_close(RandomTransform(0, 0, 0)(shown, generator), shown, atol=1e-5, rtol=0)
    # A turn by as much as the generator says is that of Pillow, where bilinear sampling of a smooth picture agrees.
    smooth = torch.from_numpy(np.asarray(picture(0, 60, 40), dtype=np.float32) / 255).permute(2, 0, 1)
    turned = RandomTransform(0, 30, 0)(smooth, torch.Generator().manual_seed(1))
    angle = 30 * (2 * float(torch.rand(4, generator=torch.Generator().manual_seed(1))[0]) - 1)
    image = Image.fromarray((smooth.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    expected = np.asarray(image.rotate(angle, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    middle = (slice(10, -10), slice(15, -15))
    assert abs(turned.permute(1, 2, 0).numpy()[middle] - expected[middle]).max() < 0.02
    assert abs(smooth.permute(1, 2, 0).numpy()[middle] - expected[middle]).max() > 0.1
    with pytest.raises(InputError, match="`jitter` must be a finite number at least 0 and at most 1, got -1"):
        RandomTransform(jitter=-1)


def test_old_names_of_features_warn():
    with pytest.warns(DeprecationWarning, match="RandomTransform"):
        assert mn.features.Shake is RandomTransform
    model, given = load("llama"), stimuli("llama", 3)
    with pytest.warns(DeprecationWarning, match="per_token="):
        result = mn.features.top_stimuli(model, some_units(model, 2), given, 1, shades=False, progress=False)
    with pytest.warns(DeprecationWarning, match="token_activations"):
        assert result.shown is result.token_activations


def test_total_variation():
    shown = torch.zeros(3, 4, 5)
    shown[:, :, 2:] = 1
    assert float(total_variation(shown)) == pytest.approx(1 / 4)  # one of four steps across, none down


# -- optimized pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tower"), [("vit", "vision"), ("llava_clip", "decoder"), ("qwen2_5_vl", "decoder")])
def test_a_picture_drives_its_units_more_than_natural_ones(name, tower, tmp_path):
    model = load(name)
    text = None if name in VISION_ONLY else "What is this?"
    units = some_units(model, 4, towers=tower)
    natural = [mn.Stimulus(text, image=picture(i, 64, 64)) for i in range(6)]
    options = {
        "natural": natural,
        "text": text,
        "size": size_of(name),
        "steps": 80,
        "learning_rate": 0.2,
        "progress": False,
    }
    result = mn.features.optimize(model, units, **options)
    count = 4
    # What is reported is what the model does with the finished picture.
    sizes = [[units.mean_abs[t][layer, dim] for t, layer, dim in own] for own in result.units]
    for place, own in enumerate(result.units):
        shown = [result.stimulus(i) for i in range(2)]
        values = abs(activations(name, shown, own)) / sizes[place]
        np.testing.assert_allclose(result.response[place], values.mean(1), atol=1e-3)
        values = abs(activations(name, natural, own)) / sizes[place]
        np.testing.assert_allclose(result.natural.response[place], values.mean(1), atol=1e-3)
        assert result.natural.best[place] == values.mean(1).argmax()
        assert len(own) == count
    assert not set(result.units[0]) & set(result.units[1])
    table = result.table()
    assert (table["reached"] > table["natural_best"]).all()
    assert (table["reached"] > table["others"]).all()
    short, again = (mn.features.optimize(model, units, cache=False, **(options | {"steps": 8})) for _ in range(2))
    np.testing.assert_array_equal(again.pictures, short.pictures)
    result.save(tmp_path / "painted.safetensors")
    back = Optimized.load(tmp_path / "painted.safetensors")
    assert back.table().equals(table)
    assert back.summary() == result.summary()
    np.testing.assert_array_equal(back.pictures, result.pictures)
    assert back.plot().shape == (2, 2)


def test_a_single_unit_goes_up_without_natural_pictures():
    model = load("vit")
    result = mn.features.optimize(
        model,
        ("vision", 2, 3),
        magnitude="signed",
        n_controls=0,
        steps=20,
        learning_rate=0.2,
        colour=False,
        progress=False,
    )
    assert result.response.shape == (1, 1)
    assert result.response[0, 0] > result.path[0, 0] + 0.1
    assert (result.pictures[0, ..., 0] == result.pictures[0, ..., 2]).all()
    assert "vision[2, 3]" in result.summary()
    assert result.plot().shape == (1, 1)
    other = mn.features.optimize(
        model, ("vision", 2, 3), magnitude="signed", n_controls=0, steps=20, learning_rate=0.2, seed=1, progress=False
    )
    assert (other.pictures != result.pictures).any()


def test_a_smoother_picture_costs_activation():
    model = load("vit")
    rough, smooth = (
        mn.features.optimize(
            model, ("vision", 1, 3), n_controls=0, steps=20, learning_rate=0.2, tv_weight=weight, progress=False
        )
        for weight in (0.0, 50.0)
    )
    roughness = [
        float(total_variation(torch.from_numpy(r.pictures[0]).permute(2, 0, 1).float())) for r in (rough, smooth)
    ]
    assert roughness[1] < 0.7 * roughness[0]
    assert smooth.response[0, 0] < rough.response[0, 0]


def test_bad_input_to_optimize():
    model = load("vit")
    unit = ("vision", 1, 3)
    paint = mn.features.optimize
    with pytest.raises(InputError, match="reads text only"):
        paint(load("llama"), ("decoder", 1, 3))
    with pytest.raises(InputError, match="pixels one to one"):
        paint(load("idefics3"), unit, text="What is this?")
    for bad in (
        {"steps": 0},
        {"learning_rate": -1},
        {"tv_weight": "much"},
        {"seed": -1},
        {"transform": 3},
        {"n_controls": -1},
    ):
        with pytest.raises(InputError, match=f"^`{next(iter(bad))}` must be"):
            paint(model, unit, **bad)
    with pytest.raises(InputError, match="must be stimuli with images"):
        paint(load("llava_clip"), unit, natural=["A text"])
    with pytest.raises(InputError, match="must be Units"):
        paint(model, 3)
    clip = load("clip")
    with pytest.raises(InputError, match="encoder tower"):
        paint(clip, ("encoder", 1, 3))
    with pytest.raises(InputError, match="runs on a server"):
        paint(mn.load("tiny", remote="local"), unit)
