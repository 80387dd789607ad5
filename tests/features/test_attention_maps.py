"""Attention maps against plain transformers: `output_attentions=True` under eager attention."""

from __future__ import annotations

import copy
from functools import cache
from unittest import mock

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot

import modalnet as mn
from families import build, picture
from modalnet.execution import trace
from modalnet.execution.executor import Executor
from reference import TEXT_ONLY, close, encode, image_tokens, load

TEXT = "What is in the house?"
QUIET = {"cache": False, "progress": False}
mpl.use("Agg")


def stimulus_of(name, text=TEXT):
    return mn.Stimulus(text, image=None if name in TEXT_ONLY else [picture(0, 64, 48)])


@cache
def reference(name, text=TEXT):
    """``[layer, head, token, token]`` of the decoder, and which of its tokens are image tokens."""
    inputs = encode(build(name), text, [] if name in TEXT_ONLY else [picture(0, 64, 48)])
    module = copy.deepcopy(build(name).model)
    module.set_attn_implementation("eager")
    with torch.no_grad():
        weights = torch.stack(module(**inputs, output_attentions=True).attentions)[:, 0]
    return weights, None if name in TEXT_ONLY else image_tokens(name, inputs).nonzero().flatten()


@pytest.fixture(scope="module")
def maps():
    stimuli = [stimulus_of("llava_clip"), stimulus_of("llava_clip", "A dog")]
    return mn.features.attention_maps(load("llava_clip"), stimuli, heads="each", **QUIET)


@pytest.mark.parametrize("name", ["gemma3", "llava_clip", "qwen2_5_vl"])
def test_the_last_token_to_the_picture(name):
    weights, image = reference(name)
    found = mn.features.attention_maps(load(name), stimulus_of(name), **QUIET)
    close(found.weights[0], weights[:, :, -1:, image].mean(1, keepdim=True), atol=1e-5)
    assert found.sources[0].tolist() == image.tolist()
    assert found.targets[0].tolist() == [weights.shape[-1] - 1]
    close(found.share[0, :, 0], weights[:, :, -1, image].sum(-1).mean(1).double(), atol=1e-5)
    close(found.fraction[0], torch.tensor(len(image) / weights.shape[-1]).double(), atol=1e-6)
    each = mn.features.attention_maps(
        load(name), stimulus_of(name), heads=[1, 0], layers=[-1, 1], target="all", **QUIET
    )
    assert each.layers == (1, len(weights) - 1)
    assert each.heads == (0, 1)
    close(each.weights[0], weights[[1, -1], :2][..., image], atol=1e-5)
    close(each.share[0], weights[[1, -1], :2][..., image].sum(-1).mean(-1).double(), atol=1e-5)
    # The boxes are those of the same tokens elsewhere.
    boxes = load(name)._executor.image_places(stimulus_of(name), "decoder")
    if boxes is not None:
        close(found.boxes[0], boxes[image])


def test_groups_of_text_tokens():
    weights, _ = reference("llama")
    model = load("llama")
    found = mn.features.attention_maps(model, [TEXT, "A dog"], source=[1, 2], target="all", heads=1, **QUIET)
    close(found.weights[0], weights[:, 1:2][..., [1, 2]], atol=1e-5)
    close(found.weights[1], reference("llama", "A dog")[0][:, 1:2][..., [1, 2]], atol=1e-5)
    names = model._executor.token_rows([mn.Stimulus(TEXT)], ["decoder"])[0]["decoder"].names
    assert found.source_names[0] == tuple(names[1:3])
    apart = mn.features.attention_maps(model, [TEXT, "A dog"], source=[[1], [0]], target="last", heads="each", **QUIET)
    close(apart.weights[0], weights[:, :, -1:, [1]], atol=1e-5)
    assert [places.tolist() for places in apart.sources] == [[1], [0]]
    zero = mn.zero(mn.site("decoder", 0))
    under = mn.features.attention_maps(model, TEXT, zero, source=[1], **QUIET)
    view = mn.features.attention_maps(model.with_(zero), TEXT, source=[1], **QUIET)
    np.testing.assert_array_equal(under.weights[0], view.weights[0])
    assert under.interventions == (str(zero),)
    assert np.abs(under.weights[0][1:, 0, 0, 0] - weights[1:, :, -1, 1].mean(1).numpy()).max() > 1e-4
    assert not found.boxes


def test_question_to_a_region():
    model, stimulus = load("llava_clip"), stimulus_of("llava_clip")
    left = mn.features.attention_maps(model, stimulus, source=mn.region(0, 0, 32, 48), target="question", **QUIET)
    assert 0 < len(left.sources[0]) < len(reference("llava_clip")[1])
    assert "".join(left.target_names[0]).replace(" ", "") == TEXT.replace(" ", "")
    expected = reference("llava_clip")[0][:, :, left.targets[0]][..., left.sources[0]].mean(1, keepdim=True)
    close(left.weights[0], expected, atol=1e-5)
    assert (left.boxes[0][:, 0] < 0.5).all()


def test_vision_tower():
    model = load("dinov2_with_registers")
    stimulus = mn.Stimulus(image=picture(0, 64, 48))
    found = mn.features.attention_maps(model, stimulus, tower="vision", target="cls", heads="each", **QUIET)
    whole = model.run(stimulus, read=[], attention=True).attention["vision"][0]
    np.testing.assert_array_equal(found.weights[0], whole[:, :, [0]][..., found.sources[0]].numpy())
    assert np.isfinite(found.boxes[0]).all()
    found.plot(layer=1, head=0)
    pyplot.close("all")


def test_what_it_says(maps, tmp_path):
    table = maps.table()
    assert len(table) == maps.share.size
    row = table.query("stimulus == 1 and layer == 2 and head == 1")
    assert row["share"].item() == maps.share[1, 2, 1]
    assert row["fraction"].item() == maps.fraction[1]
    summary = maps.summary()
    best = int(maps.share.mean((0, 2)).argmax())
    assert f"most {maps.share.mean((0, 2))[best]:.1%} in layer {best}" in summary
    assert "modalnet.knockout" in summary
    maps.save(tmp_path / "maps.safetensors")
    again = mn.features.AttentionMaps.load(tmp_path / "maps.safetensors")
    assert again.to_arrays()[1] == maps.to_arrays()[1]
    for name, array in maps.to_arrays()[0].items():
        np.testing.assert_array_equal(again.to_arrays()[0][name], array)
    dataset = maps.to_xarray()
    assert dataset["weight"].dims == ("stimulus", "layer", "head", "target", "source")
    np.testing.assert_array_equal(dataset["weight"][1], maps.weights[1])
    frame = maps.to_frame()
    assert len(frame) == dataset["weight"].size
    assert {"weight", "share", "source_name", "source_position"} <= set(frame.columns)
    assert "jain2019" in maps.cite()
    np.testing.assert_allclose(maps.map(1, 2, 0), maps.weights[1][2, 0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(maps.map(), maps.weights[0].mean((0, 1, 2)), rtol=1e-6)


def test_pictures_of_attention(maps):
    (one,) = maps.plot(stimulus=1)
    values = maps.map(1)
    assert len(one.patches) == len(values)
    opacities = [patch.get_facecolor()[3] for patch in one.patches]
    np.testing.assert_allclose(opacities, 0.9 * values / values.max(), atol=1e-6)
    height, width = maps.pictures[1].shape[:2]
    boxes = [(each.get_x(), each.get_y(), each.get_width(), each.get_height()) for each in one.patches]
    left, top, right, bottom = (maps.boxes[1] * [width, height, width, height]).T
    np.testing.assert_allclose(boxes, np.stack([left, top, right - left, bottom - top], 1))
    assert f"{values.sum():.0%}" in one.get_title()
    assert len(maps.plot(layer="grid", head=1)) == len(maps.layers)
    axes = pyplot.figure().subplots()
    assert maps.plot(layer=0, ax=axes)[0] is axes
    pyplot.close("all")


def test_what_is_stored_is_not_run_again(tmp_path, monkeypatch):
    model, options = load("llama"), {"source": [1], "cache": tmp_path, "progress": False}
    first = mn.features.attention_maps(model, TEXT, **options)
    other = mn.features.attention_maps(model, TEXT, target=[3], **options)
    assert not np.array_equal(first.weights[0], other.weights[0])
    monkeypatch.setattr(trace, "forward", mock.Mock(side_effect=AssertionError("a pass ran")))
    monkeypatch.setattr(Executor, "attention", mock.Mock(side_effect=AssertionError("a pass ran")))
    np.testing.assert_array_equal(mn.features.attention_maps(model, TEXT, **options).weights[0], first.weights[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has no image tokens"),
        ({"source": "images"}, "`source` must be"),
        ({"source": [0], "target": 99}, "99"),
        ({"source": [[0], [1]]}, "`source` has tokens for 2 stimuli, but there are 1"),
        ({"source": [0], "heads": 9}, "there is no head 9 in these layers; heads are 0..2"),
        ({"source": [0], "heads": "all"}, "`heads` must be 'mean', 'each', or numbers"),
        ({"source": [0], "heads": None}, "`heads` must be 'mean', 'each', or numbers"),
        ({"source": [0], "heads": []}, "`heads` is empty"),
        ({"source": [0], "heads": [-1]}, "`heads` must be"),
        ({"source": [0], "layers": 9}, "9 does not exist"),
        ({"source": [0], "layers": []}, "`layers` must be at least one of the layers 0..3"),
        ({"source": [0], "tower": "vision"}, "`tower` must be one of decoder, got 'vision'"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(mn.InputError, match=message):
        mn.features.attention_maps(load("llama"), TEXT, **options, **QUIET)


def test_what_cannot_be_shown_is_refused(maps):
    texts = mn.features.attention_maps(load("llama"), TEXT, source=[0], **QUIET)
    with pytest.raises(mn.InputError, match="has a known position in a picture"):
        texts.plot()
    with pytest.raises(mn.InputError, match="`head` must be None for the mean over heads, got 1"):
        texts.map(head=1)
    for options, message in (
        ({"layer": 9}, "`layer` must be one of those that were read"),
        ({"layer": "all"}, "`layer` must be a layer that was read, None for their mean, or 'grid'"),
        ({"head": 9}, "`head` must be one of those that were read"),
        ({"stimulus": 2}, "`stimulus` must be"),
    ):
        with pytest.raises(mn.InputError, match=message):
            maps.plot(**options)
    with pytest.raises(mn.InputError, match="is not reached by every one of these stimuli"):
        mn.features.attention_maps(load("llava_clip"), TEXT, tower="vision", **QUIET)
