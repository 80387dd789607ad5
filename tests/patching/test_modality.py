"""Knocking out image and text tokens block by block, against the same said with interventions."""

from __future__ import annotations

import numpy as np
import pytest

import modalnet as mn
from families import picture
from modalnet.errors import InputError
from reference import load

GROUP = {"image": "image", "last": "last"}


def questions(n=3):
    texts = ("What is this?", "Is there a face, a house or a car?", "What is in the house?")
    return [mn.Stimulus(texts[i], image=picture(i, 64, 48)) for i in range(n)]


@pytest.mark.parametrize("name", ["llava_clip", "qwen2_5_vl"])
@pytest.mark.parametrize("operation", ["mean", "zero"])
def test_a_knockout_is_the_intervention(name, operation):
    model = load(name)
    given = questions()
    answers = [" dog", " a house", " tea"]
    profile = mn.profile_modality(model, given, answers, operation=operation, progress=False)
    whole = model.score(given, answers).logprob
    np.testing.assert_allclose(profile.whole, [one[0] for one in whole], atol=1e-4)
    for layer in (0, 2):
        for group, tokens in GROUP.items():
            target = mn.site("decoder", layer)
            # A profile's mean is over the prompts as they are asked; the continuation is no part of them.
            made = mn.zero(target) if operation == "zero" else mn.mean(target, over=given)
            expected = model.score(given, answers, made.at(tokens)).logprob
            np.testing.assert_allclose(profile.values[group][:, layer], [one[0] for one in expected], atol=5e-4)
    assert np.abs(profile.loss["image"]).max() > 1e-3
    table = profile.table()
    assert len(table) == 3 * model.decoder.n_layers
    assert (table["low"] <= table["loss"] + 1e-12).all()


def test_vision_enters_the_language_stream_of_the_bundled_model():
    """Early its answers depend on what image tokens hold, late on the last token."""
    model = mn.load("tiny")
    pairs = mn.patching.colour_pairs(16)
    profile = mn.profile_modality(model, pairs.clean, pairs.answers, progress=False)
    loss = profile.loss
    assert loss["image"][0] > 1
    assert loss["image"][-1] < 0.1 * loss["image"][0]
    assert loss["last"][-1] > 1
    assert 1 <= profile.entry < model.decoder.n_layers
    assert f"from block {profile.entry} on" in profile.summary()


def test_intervals_are_symmetric_bootstrap_t_over_stimuli():
    """Against the bootstrap written out: multinomial counts, t of every resample, the quantile of its size."""
    rng = np.random.default_rng(1)
    whole, values = rng.normal(size=7), {group: rng.normal(size=(7, 5)) for group in ("image", "text", "last")}
    profile = mn.ModalityProfile("a model", "mean", "log-probability", tuple("abcdefg"), whole, values)
    table = profile.table(0.9, 300, seed=2)
    counts = np.random.default_rng(2).multinomial(7, np.full(7, 1 / 7), size=300)
    for group, rows in table.groupby("tokens"):
        losses = whole[:, None] - values[group]
        drawn = [np.repeat(losses, row, axis=0) for row in counts if (row > 0).sum() > 1]
        t = [np.abs(one.mean(0) - losses.mean(0)) / (one.std(0, ddof=1) / np.sqrt(7)) for one in drawn]
        reach = np.quantile(t, 0.9, axis=0) * losses.std(0, ddof=1) / np.sqrt(7)
        np.testing.assert_allclose(rows["low"], losses.mean(0) - reach)
        np.testing.assert_allclose(rows["high"], losses.mean(0) + reach)


def test_a_profile_is_drawn():
    import matplotlib

    matplotlib.use("Agg")
    profile = mn.profile_modality(load("llava_clip"), questions(), " dog", progress=False)
    ax = profile.plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["image tokens", "text tokens", "last token"]


@pytest.mark.parametrize(
    ("name", "stimuli", "options", "message"),
    [
        ("llama", ["words"], {}, "no image tokens"),
        ("llava_clip", ["words"], {}, "must have an image and a question"),
        ("llava_clip", questions(1), {}, "requires at least two stimuli"),
        ("llava_clip", questions(), {"operation": "scale"}, "`operation` must be one of"),
    ],
)
def test_bad_questions(name, stimuli, options, message):
    with pytest.raises(InputError, match=message):
        mn.profile_modality(load(name), stimuli, " dog", progress=False, **options)
