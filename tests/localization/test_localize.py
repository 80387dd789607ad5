"""From a model and a contrast to t for every unit: against scipy on the activations, and through the store."""

from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from scipy import stats

import modalnet as mn
from families import CORPUS, FAMILIES, build, picture
from modalnet.activations import read_activations, token_statistics
from modalnet.execution.engine import Engine
from reference import SIZES, TEXT_ONLY, load, paths, watch

WORDS = sorted({word for line in CORPUS for word in line.lower().split()})


def text(seed, n=None):
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, size=n or int(rng.integers(3, 20))))


def texts(n=24):
    """Two positive conditions and two negative ones, of different sizes."""
    return mn.Contrast(
        [mn.Stimulus(text(i), condition="aabcd"[i % 5]) for i in range(n)], positive=["a", "b"], negative=["c", "d"]
    )


def pictures(n=14, with_text=True):
    stimuli = []
    for i in range(n):
        images = [picture(100 * i + j, *SIZES[(i + j) % 4]) for j in range(1 + i % 2)]
        stimuli.append(mn.Stimulus(text(i, 4 + i % 3) if with_text else None, image=images, condition="ab"[i % 3 == 0]))
    return mn.Contrast(stimuli, positive="a", negative="b")


def values_of(model, contrast, tokens=None, magnitude="absolute", **options):
    read = model.run(contrast, tokens=tokens, **options).residual
    values = {tower: array.double().numpy() for tower, array in read.items()}
    return {tower: np.abs(array) for tower, array in values.items()} if magnitude == "absolute" else values


def check(result, contrast, values):
    """Every number of a result against scipy on the raw activations."""
    labels = np.array([stimulus.condition for stimulus in contrast.stimuli])
    positive = np.isin(labels, contrast.positive)
    n_a, n_b = positive.sum(), (~positive).sum()
    p = []
    assert list(result.t) == list(values)
    for tower, array in values.items():
        a, b = array[positive], array[~positive]
        expected = stats.ttest_ind(a, b, equal_var=False)
        assert result.t[tower].dtype == np.float64
        np.testing.assert_allclose(result.t[tower], expected.statistic, rtol=1e-9)
        np.testing.assert_allclose(result.p[tower], expected.pvalue, rtol=1e-8)
        pooled = np.sqrt(((n_a - 1) * a.var(0, ddof=1) + (n_b - 1) * b.var(0, ddof=1)) / (n_a + n_b - 2))
        from scipy.special import gammaln

        df = n_a + n_b - 2
        exact = np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2)
        close_enough = 1 - 3 / (4 * df - 1)
        g = result.effect_size[tower] / ((a.mean(0) - b.mean(0)) / pooled)
        assert np.allclose(g, exact, rtol=1e-9) or np.allclose(g, close_enough, rtol=1e-9)
        for condition in contrast.conditions:
            np.testing.assert_allclose(result.means[condition][tower], array[labels == condition].mean(0), rtol=1e-9)
        p.append(expected.pvalue.ravel())
    q = np.concatenate([result.q[tower].ravel() for tower in result.towers])
    np.testing.assert_allclose(q, stats.false_discovery_control(np.concatenate(p)), rtol=1e-8)
    assert result.n == {condition: int((labels == condition).sum()) for condition in contrast.conditions}


# ------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("magnitude", ["absolute", "signed"])
@pytest.mark.parametrize("batch_size", ["auto", 5])
@pytest.mark.parametrize("name", TEXT_ONLY)
def test_texts_against_scipy(name, magnitude, batch_size):
    model, contrast = load(name), texts()
    result = mn.localize(model, contrast, magnitude=magnitude, batch_size=batch_size, cache=False, progress=False)
    check(result, contrast, values_of(model, contrast, None, magnitude, batch_size=batch_size))
    assert result.meta["tokens"] == {"decoder": "last"}
    assert result.meta["magnitude"] == magnitude


@pytest.mark.parametrize("magnitude", ["absolute", "signed"])
@pytest.mark.parametrize("name", ["llava_clip", "llava_siglip", "qwen2_5_vl", "idefics3", "gemma3"])
def test_images_with_text_in_both_towers_against_scipy(name, magnitude):
    model, contrast = load(name), pictures()
    result = mn.localize(model, contrast, magnitude=magnitude, cache=False, progress=False)
    assert result.towers == ("vision", "decoder")
    assert result.meta["tokens"] == {"vision": "mean", "decoder": "last"}
    check(result, contrast, values_of(model, contrast, None, magnitude))
    labels = result.top(0.1)
    assert labels.count == int(0.1 * len(model.units()))


@pytest.mark.parametrize("name", ["vit", "dinov2_with_registers"])
@pytest.mark.parametrize("tokens", [None, "cls", "image"])
def test_images_in_an_image_model_against_scipy(name, tokens):
    model = load(name)
    contrast = pictures(with_text=False)
    result = mn.localize(model, contrast, tokens=tokens, cache=False, progress=False)
    check(result, contrast, values_of(model, contrast, tokens))


def test_one_tower_and_tokens_of_its_own():
    model, contrast = load("llava_clip"), pictures()
    result = mn.localize(model, contrast, towers="decoder", tokens={"decoder": "image"}, cache=False, progress=False)
    assert result.towers == ("decoder",)
    check(result, contrast, values_of(model, contrast, {"decoder": "image"}, read=["decoder"]))
    both = mn.localize(model, contrast, towers=["decoder", "vision"], tokens="mean", cache=False, progress=False)
    assert both.towers == ("vision", "decoder")


def test_texts_in_a_vision_language_model_reach_the_decoder_only():
    model, contrast = load("qwen2_5_vl"), texts()
    result = mn.localize(model, contrast, cache=False, progress=False)
    assert result.towers == ("decoder",)
    check(result, contrast, values_of(model, contrast))


def test_the_padding_side_of_the_tokenizer_does_not_matter():
    families = [FAMILIES["gpt2"](), FAMILIES["gpt2"]()]
    families[1].tokenizer.padding_side = "left"
    results = [
        mn.localize(mn.load(f.model, tokenizer=f.tokenizer), texts(), cache=False, progress=False) for f in families
    ]
    np.testing.assert_array_equal(results[0].t["decoder"], results[1].t["decoder"])
    model = load("gpt2")
    model._executor.padding_side = "left"
    other = mn.localize(model, texts(), cache=False, progress=False)
    np.testing.assert_allclose(other.t["decoder"], results[0].t["decoder"], atol=1e-3)
    assert other.top(0.1) == results[0].top(0.1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2_5_vl", "gemma3"])
def test_the_published_protocol(name):
    """12 tokens with the special ones, raw text, last token, absolute: by plain transformers, one text at a time."""
    family, contrast = build(name), texts()
    where = paths(name, "decoder")
    rows = []
    for stimulus in contrast.stimuli:
        inputs = family.tokenizer([stimulus.text], truncation=True, max_length=12, return_tensors="pt")
        assert inputs["input_ids"].shape[1] <= 12
        with torch.no_grad(), watch(family.model, where) as seen:
            family.model(**inputs)
        rows.append(torch.stack([seen[path][0][0, -1] for path in where]).abs().double())
    lengths = [len(family.tokenizer(stimulus.text)["input_ids"]) for stimulus in contrast.stimuli]
    assert min(lengths) < 12 < max(lengths)
    values = torch.stack(rows).numpy()
    positive = np.array([stimulus.condition in "ab" for stimulus in contrast.stimuli])
    expected = stats.ttest_ind(values[positive], values[~positive], equal_var=False).statistic
    result = mn.localize(load(name), contrast, protocol="alkhamissi2025", cache=False, progress=False)
    np.testing.assert_allclose(result.t["decoder"], expected, atol=1e-3)
    assert result.meta["protocol"] == "alkhamissi2025"
    plain = mn.localize(load(name), contrast, cache=False, progress=False)
    assert np.abs(plain.t["decoder"] - expected).max() > 0.1  # without the protocol the question is another one


def test_the_opposite_contrast_has_the_opposite_t():
    model, contrast = load("gpt2"), texts()
    one = mn.localize(model, contrast, cache=False, progress=False)
    other = mn.localize(model, ~contrast, cache=False, progress=False)
    np.testing.assert_allclose(one.t["decoder"], -other.t["decoder"], rtol=1e-9)
    assert one.top(k=10) == other.bottom(k=10)


def test_the_order_of_the_stimuli_does_not_matter():
    model, contrast = load("gpt2"), texts()
    turned = mn.Contrast(contrast.stimuli[::-1], contrast.positive, contrast.negative)
    one = mn.localize(model, contrast, cache=False, progress=False)
    other = mn.localize(model, turned, cache=False, progress=False)
    np.testing.assert_allclose(one.t["decoder"], other.t["decoder"], atol=1e-3)


# ------------------------------------------------------------------------------------------------- precision, placement


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_models(dtype):
    family = FAMILIES["llama"]()
    model, contrast = mn.load(family.model, tokenizer=family.tokenizer, dtype=dtype), texts()
    result = mn.localize(model, contrast, tokens="mean", cache=False, progress=False)
    check(result, contrast, values_of(model, contrast, "mean"))
    whole = mn.localize(load("llama"), contrast, tokens="mean", cache=False, progress=False)
    assert np.corrcoef(result.t["decoder"].ravel(), whole.t["decoder"].ravel())[0, 1] > 0.98


def test_a_folder_loaded_with_a_device_map(tmp_path):
    family = build("llama")
    family.model.save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    contrast = texts()
    expected = mn.localize(load("llama"), contrast, cache=False, progress=False)
    result = mn.localize(mn.load(tmp_path, device_map="cpu"), contrast, cache=False, progress=False)
    np.testing.assert_allclose(result.t["decoder"], expected.t["decoder"], rtol=1e-9)


# ------------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_counted_and_never_selected(bad):
    family = FAMILIES["gpt2"]()
    with torch.no_grad():
        family.model.transformer.h[2].mlp.c_proj.bias[5] = bad
    model = mn.load(family.model, tokenizer=family.tokenizer)
    with pytest.warns(UserWarning, match=r"NaN or infinite activations: 33 of 128 in decoder.*never selected"):
        result = mn.localize(model, texts(), cache=False, progress=False)
    broken = np.zeros((4, 32), dtype=bool)
    broken[2, 5] = broken[3] = True  # the next block normalizes over the bad dimension, so all of it is lost
    np.testing.assert_array_equal(np.isnan(result.t["decoder"]), broken)
    np.testing.assert_array_equal(np.isnan(result.q["decoder"]), broken)
    assert result.undefined == {"decoder": 33}
    assert result.table()["undefined"].tolist() == [0, 0, 1, 32]
    everything = result.top(k=128 - 33)
    assert not everything.mask["decoder"][broken].any()
    assert not result.bottom(k=20).mask["decoder"][broken].any()
    assert not result.significant(1.0).mask["decoder"][broken].any()
    with pytest.raises(mn.InputError, match=r"only 95 of 128 have a defined t"):
        result.top(k=96)


def test_one_stimulus_that_overflows_is_enough(tmp_path):
    """A unit that is not finite on one stimulus only has no t; what is stored and read again says the same."""
    family, contrast = FAMILIES["gpt2"](), texts()
    rare = family.tokenizer(contrast.stimuli[3].text)["input_ids"][-1]
    with torch.no_grad():
        family.model.transformer.wte.weight[rare, 7] = float("inf")
    model = mn.load(family.model, tokenizer=family.tokenizer)
    with pytest.warns(UserWarning, match="NaN or infinite"):
        result = mn.localize(model, contrast, cache=tmp_path, progress=False)
    assert np.isnan(result.t["decoder"]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = mn.localize(model, contrast, cache=tmp_path, progress=False)
    assert again == result
    with pytest.raises(mn.InputError, match="0 of 128 have a defined t"):
        result.top(k=1)


def test_a_constant_unit_has_no_t():
    family = FAMILIES["gpt2"]()
    with torch.no_grad():  # nothing ever writes to dimension 3
        for weight in (family.model.transformer.wte.weight, family.model.transformer.wpe.weight):
            weight[:, 3] = 0
        for block in family.model.transformer.h:
            for layer in (block.attn.c_proj, block.mlp.c_proj):
                layer.weight[:, 3] = 0
                layer.bias[3] = 0
    result = mn.localize(mn.load(family.model, tokenizer=family.tokenizer), texts(), cache=False, progress=False)
    assert np.isnan(result.t["decoder"][:, 3]).all()
    assert result.undefined == {"decoder": 4}


# ------------------------------------------------------------------------------------------------- the store


class Forwards:
    """Counts forward passes; `forbid` makes one an error."""

    def __init__(self, monkeypatch):
        self.count, self.forbid, real = 0, False, Engine.run

        def run(engine, inputs, plan):
            assert not self.forbid, "a forward pass, though the store has the answer"
            self.count += 1
            return real(engine, inputs, plan)

        monkeypatch.setattr(Engine, "run", run)


@pytest.fixture
def forwards(monkeypatch):
    return Forwards(monkeypatch)


@pytest.mark.parametrize("name", ["gpt2", "llava_clip", "vit"])
def test_the_second_call_answers_from_the_store(name, forwards, tmp_path):
    contrast = {"gpt2": texts, "llava_clip": pictures, "vit": lambda: pictures(with_text=False)}[name]
    first = mn.localize(load(name), contrast(), cache=tmp_path, progress=False)
    assert forwards.count > 0
    forwards.forbid = True
    # Another model object and another contrast object of the same content, and settings that change no result.
    again = mn.localize(load(name), contrast(), cache=tmp_path, progress=False, batch_size=3)
    assert again == first
    assert again.meta == first.meta
    for tower in first.towers:
        np.testing.assert_array_equal(again.t[tower], first.t[tower])
        np.testing.assert_array_equal(again.mean_abs[tower], first.mean_abs[tower])
    assert again.top(0.05) == first.top(0.05)
    forwards.forbid = False
    count = forwards.count
    mn.localize(load(name), contrast(), cache=False, progress=False)
    assert forwards.count > count  # cache=False asks no store


def test_the_store_is_that_of_the_environment(forwards, tmp_path, monkeypatch):
    monkeypatch.setenv("MODALNET_CACHE", str(tmp_path / "here"))
    first = mn.localize(load("gpt2"), texts(), progress=False)
    assert len(mn.Store().entries()) == 1
    assert any((tmp_path / "here").rglob("*.safetensors"))
    forwards.forbid = True
    assert mn.localize(load("gpt2"), texts(), progress=False) == first


def test_a_path_and_the_picture_in_it_are_the_same_stimulus(forwards, tmp_path):
    stimuli, files = [], []
    for i in range(6):
        own = picture(i, *SIZES[i % 4])
        own.save(tmp_path / f"{i}.png")
        stimuli.append(mn.Stimulus(image=own, condition="ab"[i % 2]))
        files.append(mn.Stimulus(image=tmp_path / f"{i}.png", condition="ab"[i % 2]))
    first = mn.localize(load("vit"), mn.Contrast(stimuli, "a"), cache=tmp_path / "store", progress=False)
    forwards.forbid = True
    assert mn.localize(load("vit"), mn.Contrast(files, "a"), cache=tmp_path / "store", progress=False) == first
    forwards.forbid = False
    picture(77, 64, 64).save(tmp_path / "3.png")  # the same path, other pixels
    other = mn.localize(load("vit"), mn.Contrast(files, "a"), cache=tmp_path / "store", progress=False)
    assert other != first


def fresh(name):
    family = FAMILIES[name]()
    return family, mn.load(
        family.model, tokenizer=family.tokenizer, processor=family.processor or family.image_processor
    )


def in_place(module):
    next(module.parameters()).data[0, 0] += 1e-3


def under_no_grad(module):
    with torch.no_grad():
        list(module.parameters())[-1].view(-1)[0].mul_(1.001)


def through_numpy(module):
    list(module.parameters())[3].detach().numpy().flat[0] += 1e-3  # no version counter sees this one


def config(module):
    module.config.layer_norm_epsilon = 1e-3


@pytest.mark.parametrize("change", [in_place, under_no_grad, through_numpy, config], ids=lambda f: f.__name__)
def test_a_changed_model_misses(change, forwards, tmp_path):
    family, model = fresh("gpt2")
    mn.localize(model, texts(), cache=tmp_path, progress=False)
    count, before = forwards.count, model._identity().numbers["checkpoint"]
    change(family.model)
    mn.localize(model, texts(), cache=tmp_path, progress=False)
    assert forwards.count > count
    assert model._identity().numbers["checkpoint"] != before


def test_a_buffer_and_a_dtype_count_as_the_model(forwards, tmp_path):
    family, model = fresh("llama")
    mn.localize(model, texts(), cache=tmp_path, progress=False)
    counts = [forwards.count]
    for change in (
        lambda: family.model.model.rotary_emb.inv_freq.mul_(1.5),
        lambda: family.model.to(torch.bfloat16),
    ):
        change()
        mn.localize(model, texts(), cache=tmp_path, progress=False)
        counts.append(forwards.count)
    assert counts[0] < counts[1] < counts[2]


def with_text(contrast, index, new):
    stimuli = list(contrast.stimuli)
    old = stimuli[index]
    stimuli[index] = mn.Stimulus(new(old.text), image=old.image, condition=old.condition)
    return mn.Contrast(stimuli, contrast.positive, contrast.negative)


CHANGES = {
    "a letter": lambda c: (with_text(c, 5, lambda t: t[:-1] + "x"), {}),
    "a space at the end": lambda c: (with_text(c, 5, lambda t: t + " "), {}),
    "a text more": lambda c: (
        mn.Contrast([*c.stimuli, mn.Stimulus("one more", condition="a")], c.positive, c.negative),
        {},
    ),
    "a label": lambda c: (
        mn.Contrast(
            [mn.Stimulus(s.text, condition="b" if i == 0 else s.condition) for i, s in enumerate(c.stimuli)],
            c.positive,
            c.negative,
        ),
        {},
    ),
    "the sides": lambda c: (~c, {}),
    "a condition left out": lambda c: (mn.Contrast(c.stimuli, "a", ["c", "d"]), {}),
    "two labels exchanged": lambda c: (
        mn.Contrast(
            [mn.Stimulus(s.text, condition={0: "c", 3: "a"}.get(i, s.condition)) for i, s in enumerate(c.stimuli)],
            c.positive,
            c.negative,
        ),
        {},
    ),
    "tokens": lambda c: (c, {"tokens": "mean"}),
    "indices": lambda c: (c, {"tokens": [-2]}),
    "other indices": lambda c: (c, {"tokens": [-3, -2]}),
    "magnitude": lambda c: (c, {"magnitude": "signed"}),
    "protocol": lambda c: (c, {"protocol": "alkhamissi2025"}),
}


def test_any_change_of_the_question_misses(forwards, tmp_path):
    model, contrast = load("gpt2"), texts()
    results = {"nothing": mn.localize(model, contrast, cache=tmp_path, progress=False)}
    for name, change in CHANGES.items():
        changed, options = change(contrast)
        count = forwards.count
        results[name] = mn.localize(model, changed, cache=tmp_path, progress=False, **options)
        assert forwards.count > count, name
    assert len(mn.Store(tmp_path).entries()) == len(CHANGES) + 1
    forwards.forbid = True
    for name, change in CHANGES.items():  # each is kept beside the others
        changed, options = change(contrast)
        assert mn.localize(model, changed, cache=tmp_path, progress=False, **options) == results[name]


def test_one_pixel_misses(forwards, tmp_path):
    model, contrast = load("vit"), pictures(with_text=False)
    mn.localize(model, contrast, cache=tmp_path, progress=False)
    stimuli = list(contrast.stimuli)
    pixels = np.array(stimuli[4].images()[0])
    pixels[7, 9, 1] ^= 1
    stimuli[4] = mn.Stimulus(image=pixels, condition=stimuli[4].condition)
    count = forwards.count
    mn.localize(model, mn.Contrast(stimuli, "a", "b"), cache=tmp_path, progress=False)
    assert forwards.count > count


def test_which_towers_misses(forwards, tmp_path):
    model, contrast = load("llava_clip"), pictures()
    for towers in (None, "decoder", "vision"):
        count = forwards.count
        mn.localize(model, contrast, towers=towers, cache=tmp_path, progress=False)
        assert forwards.count > count


def test_the_chat_template_and_the_processors_settings_miss(forwards, tmp_path):
    family, model = fresh("llava_clip")
    contrast = pictures()

    def misses(model):
        count = forwards.count
        mn.localize(model, contrast, cache=tmp_path, progress=False)
        return forwards.count > count

    assert misses(model)
    assert not misses(model)
    again = dict(tokenizer=family.tokenizer, processor=family.processor)
    assert misses(mn.load(family.model, chat_template=False, **again))
    family.processor.chat_template = family.processor.chat_template.replace("ASSISTANT", "Assistant")
    assert misses(mn.load(family.model, **again))
    family.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert misses(mn.load(family.model, **again))
    family.processor.image_processor.do_normalize = False
    assert misses(mn.load(family.model, **again))
    # What the processor itself is set to decides how many tokens stand for an image. With this setting the model
    # cannot run, so an answer can only come from the store.
    family.processor.num_additional_image_tokens = 2
    with pytest.raises(ValueError, match="tokens"):
        misses(mn.load(family.model, **again))


def test_the_tokenizer_misses(forwards, tmp_path):
    family, model = fresh("llama")
    mn.localize(model, texts(), cache=tmp_path, progress=False)
    count = forwards.count
    other = FAMILIES["opt"]().tokenizer
    other.add_tokens(["dog"])
    mn.localize(mn.load(family.model, tokenizer=other), texts(), cache=tmp_path, progress=False)
    assert forwards.count > count


def test_a_store_that_cannot_be_written_costs_a_warning_only(tmp_path):
    """A file where the folder should be: also root cannot write into it."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    expected = mn.localize(load("gpt2"), texts(), cache=False, progress=False)
    with pytest.warns(UserWarning, match=r"result is not stored"):
        result = mn.localize(load("gpt2"), texts(), cache=blocked, progress=False)
    assert result == expected
    assert blocked.read_text() == "not a folder"


def test_a_full_disk_costs_a_warning_only(tmp_path, monkeypatch):
    import errno
    import os

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match=r"is not stored.*No space left"):
        result = mn.localize(load("gpt2"), texts(), cache=tmp_path, progress=False)
    monkeypatch.undo()
    assert result == mn.localize(load("gpt2"), texts(), cache=False, progress=False)
    assert mn.Store(tmp_path).entries() == []


def test_a_damaged_entry_is_reported_and_computed_again(forwards, tmp_path):
    first = mn.localize(load("gpt2"), texts(), cache=tmp_path, progress=False)
    entry = next(path for path in tmp_path.rglob("*.safetensors"))
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(bytes(data))
    count = forwards.count
    with pytest.warns(UserWarning, match="damaged"):
        again = mn.localize(load("gpt2"), texts(), cache=tmp_path, progress=False)
    assert forwards.count > count
    assert again == first
    forwards.forbid = True
    assert mn.localize(load("gpt2"), texts(), cache=tmp_path, progress=False) == first


def test_a_run_that_fails_leaves_nothing(monkeypatch, tmp_path):
    real, calls = Engine.run, []

    def run(engine, inputs, plan):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("something else")
        return real(engine, inputs, plan)

    monkeypatch.setattr(Engine, "run", run)
    with pytest.raises(RuntimeError, match="something else"):
        mn.localize(load("gpt2"), texts(), batch_size=4, cache=tmp_path, progress=False)
    assert mn.Store(tmp_path).entries() == []
    monkeypatch.undo()
    mn.localize(load("gpt2"), texts(), batch_size=4, cache=tmp_path, progress=False)
    assert len(mn.Store(tmp_path).entries()) == 1


def test_running_out_of_memory_changes_no_result(monkeypatch):
    expected = mn.localize(load("llama"), texts(), cache=False, progress=False, batch_size=3)
    real = Engine.run

    def run(engine, inputs, plan):
        if len(inputs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(engine, inputs, plan)

    monkeypatch.setattr(Engine, "run", run)
    result = mn.localize(load("llama"), texts(), cache=False, progress=False)
    assert result.n == expected.n
    np.testing.assert_allclose(result.t["decoder"], expected.t["decoder"], atol=1e-3)


def test_a_saved_result_is_the_result(tmp_path):
    result = mn.localize(load("gpt2"), texts(), cache=False, progress=False)
    result.save(tmp_path / "result.safetensors")
    assert mn.Localization.load(tmp_path / "result.safetensors") == result


def test_units_of_a_result_are_units_of_the_model():
    model = load("llava_clip")
    result = mn.localize(model, pictures(), cache=False, progress=False)
    network = result.top(0.05)
    assert (network & model.units()).count == network.count
    assert network.model == model.fingerprint()
    for match in ("layer", "tower", "activation"):
        (control,) = network.random(match=match)
        assert control.count == network.count
        assert not (control & network).count


def test_a_checkpoint_loaded_twice_is_one_model(forwards, tmp_path):
    family = build("gpt2")
    family.model.save_pretrained(tmp_path / "a")
    family.tokenizer.save_pretrained(tmp_path / "a")
    first = mn.localize(mn.load(tmp_path / "a"), texts(), cache=tmp_path / "store", progress=False)
    forwards.forbid = True
    assert mn.localize(mn.load(tmp_path / "a"), texts(), cache=tmp_path / "store", progress=False) == first


@pytest.mark.parametrize("name", ["gpt2", "llava_clip", "vit"])
def test_saving_and_loading_a_model_leaves_it_the_same_model(name, tmp_path):
    """save_pretrained notes class and dtype in the config, at every depth; the model computes what it did before."""
    family, model = fresh(name)
    before = model.fingerprint()
    family.model.save_pretrained(tmp_path)
    assert model.fingerprint() == before
    assert mn.load(tmp_path).fingerprint() == before


def test_an_nnsight_model_with_edits_is_not_answered_from_the_store_of_the_plain_one(tmp_path):
    import nnsight

    family = FAMILIES["llama"]()
    plain = mn.localize(mn.load(family.model, tokenizer=family.tokenizer), texts(), cache=tmp_path, progress=False)
    envoy = nnsight.NNsight(family.model)
    with envoy.edit(inplace=True):
        envoy.model.layers[1].output[:] = 0
    edited = mn.localize(mn.load(envoy, tokenizer=family.tokenizer), texts(), cache=tmp_path, progress=False)
    assert np.isfinite(plain.t["decoder"][1]).all()
    assert np.isnan(edited.t["decoder"][1]).all()


BLOCKS = {"decoder": [0, 1]}


@pytest.mark.parametrize(
    "call",
    [
        lambda model: mn.localize(model, texts(), units="neurons", batch_size=4, cache=False, progress=False),
        lambda model: read_activations(model, texts().stimuli, BLOCKS, batch_size=4, cache=False, progress=False),
        lambda model: token_statistics(model, texts().stimuli, batch_size=4, cache=False),
    ],
)
def test_no_batch_is_held_while_the_next_one_runs(monkeypatch, call):
    real, earlier, held = Engine.run, [], []

    def run(engine, inputs, plan):
        gc.collect()  # what a trace leaves in cycles is garbage, which is not held
        held.append(sum(ref() is not None for ref in earlier))
        reading = real(engine, inputs, plan)
        if all(pool.index is not None for _, pool in plan.reads):  # the others look at the layout only
            earlier.extend(weakref.ref(values) for values in reading.activations.values())
        return reading

    monkeypatch.setattr(Engine, "run", run)
    call(load("llama"))
    assert len(held) >= 6
    assert not any(held)
