"""Stimuli become the inputs that the family's own processor gives, and batches do not mix them up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import modalnet as mn
from families import FAMILIES, build, picture
from reference import (
    REFUSED,
    SIZES,
    TEXT_ONLY,
    TEXTS,
    VISION_ONLY,
    close,
    encode,
    forward,
    image_tokens,
    load,
    stimuli_for,
)

MULTIMODAL = [name for name in FAMILIES if name not in (*TEXT_ONLY, *VISION_ONLY, *REFUSED, "clip")]
#: Families whose text alone runs through every block of the decoder.
FREE = [name for name in MULTIMODAL if name not in ("blip2", "mllama")]
#: The processor of BLIP-2 takes one image; the others take several in one stimulus.
SEVERAL = [name for name in MULTIMODAL if name != "blip2"]


def encoded(model, stimulus):
    return model._executor.encoder.encode(model._executor.prepare([stimulus])[0])


def assert_same_inputs(actual, expected):
    ignored = {"attention_mask"}  # all ones for a stimulus alone; modalnet may leave it to the batch
    assert set(actual) - ignored == set(expected) - ignored
    for key in set(actual) - ignored:
        assert torch.equal(torch.as_tensor(actual[key]), torch.as_tensor(expected[key])), key


@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_are_those_of_the_processor(name):
    family, model = build(name), load(name)
    if name not in TEXT_ONLY:
        text = None if name in VISION_ONLY else TEXTS[1]
        own = [picture(5, 90, 40)]
        assert_same_inputs(encoded(model, mn.Stimulus(text, image=own)).inputs, encode(family, text, own))
    if name not in (*VISION_ONLY, "blip2"):
        assert_same_inputs(encoded(model, mn.Stimulus(TEXTS[1])).inputs, encode(family, TEXTS[1]))


@pytest.mark.parametrize("name", SEVERAL)
def test_several_images_in_one_stimulus_are_those_of_the_processor(name):
    own = [picture(5, 90, 40), picture(6, 37, 53), picture(7, 64, 64)]
    model = load(name)
    assert_same_inputs(encoded(model, mn.Stimulus("Compare.", image=own)).inputs, encode(build(name), "Compare.", own))


@pytest.mark.parametrize("name", [name for name in MULTIMODAL if name != "mllama"])  # its processor writes another
def test_one_bos_at_most(name):
    """A template that writes the bos and a tokenizer that adds one must not both do it."""
    family, model = build(name), load(name)
    bos = family.tokenizer.bos_token_id
    images = [mn.Stimulus(TEXTS[0], image=picture(1, 37, 53))]
    for stimulus in [*images, *([] if name == "blip2" else [mn.Stimulus(TEXTS[0])])]:
        ids = encoded(model, stimulus).inputs["input_ids"][0]
        if bos is not None:
            assert int((ids == bos).sum()) <= 1


def test_a_bos_that_the_user_wrote_is_not_doubled():
    model = load("llama")
    bos = build("llama").tokenizer.bos_token_id
    ids = encoded(model, mn.Stimulus("<s>The dog")).inputs["input_ids"][0]
    assert ids.tolist().count(bos) == 1
    assert ids.tolist() == build("llama").tokenizer("The dog")["input_ids"]


@pytest.mark.parametrize("name", [name for name in MULTIMODAL if build(name).has_chat_template])
def test_a_text_in_the_template_already_is_left_alone(name):
    family, model = build(name), load(name)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXTS[0]}]}]
    written = family.processor.apply_chat_template(message, add_generation_prompt=True)
    own = picture(1, 37, 53)
    by_hand = encoded(model, mn.Stimulus(written, image=own)).inputs
    assert_same_inputs(by_hand, encoded(model, mn.Stimulus(TEXTS[0], image=own)).inputs)


@pytest.mark.parametrize("name", ["llava_clip", "qwen2_5_vl", "gemma3"])
def test_without_chat_template_the_text_is_raw(name):
    family, model = build(name), load(name, chat_template=False)
    raw = family.tokenizer([TEXTS[0]], return_tensors="pt")["input_ids"]
    assert torch.equal(encoded(model, mn.Stimulus(TEXTS[0])).inputs["input_ids"], raw)
    own = [picture(1, 37, 53)]
    ids = encoded(model, mn.Stimulus(TEXTS[0], image=own)).inputs["input_ids"]
    text = TEXTS[0] if name != "qwen2_5_vl" else None
    # Qwen's placeholder stands between two markers that its template writes; without it the text follows at once.
    assert family.tokenizer.decode(ids[0]).endswith(TEXTS[0])
    assert (ids[0] == family.model.config.image_token_id).any()
    if text is not None:
        expected = family.processor(
            images=[own], text=[("<image>" if name == "llava_clip" else "<start_of_image>") + text], return_tensors="pt"
        )
        assert torch.equal(ids, expected["input_ids"])


def test_chat_template_is_asked_for_or_refused():
    with pytest.raises(mn.InputError, match=r"chat_template=True.*neither"):
        load("gpt2", chat_template=True)


# ------------------------------------------------------------------------------------------------- batches


def several(name, text, images):
    """A stimulus with several images. GLM-4V merges images with no marker between them, which its template, absent
    here, writes; so the user does."""
    return mn.Stimulus(build(name).image_text(text, len(images)) if name == "glm4v" else text, image=images)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("clip", *REFUSED)])
def test_a_batch_equals_each_alone(name, side):
    """Different text lengths and image sizes, against one plain forward of the model for each stimulus."""
    model = load(name)
    model._executor.padding_side = side
    stimuli = stimuli_for(name, n=4)
    together = model.run(stimuli, tokens="all", batch_size=4)
    assert set(together.residual) == set(model.towers)
    for i, stimulus in enumerate(stimuli):
        _, _, states = forward(name, stimulus.text, stimulus.images())
        for tower in model.towers:
            close(together.residual[tower][i], states[tower])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", SEVERAL)
def test_a_batch_with_several_images_per_stimulus_equals_each_alone(name, side):
    model = load(name)
    model._executor.padding_side = side
    counts = [2, 1, 3, 2]
    seeds = itertools.count()
    stimuli = [
        several(name, TEXTS[i % 3], [picture(s := next(seeds), *SIZES[s % 4]) for _ in range(count)])
        for i, count in enumerate(counts)
    ]
    together = model.run(stimuli, tokens={"vision": "mean", "decoder": "mean"}, batch_size=4)
    for i, stimulus in enumerate(stimuli):
        _, _, states = forward(name, stimulus.text, stimulus.images())
        for tower in model.towers:
            close(together.residual[tower][i], states[tower].mean(1))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FREE)
def test_kinds_of_stimuli_mix(name, side):
    """Image alone, text alone and both in one call; the decoder reads all of them, in the order that was given."""
    model = load(name)
    model._executor.padding_side = side
    pictures = [picture(i, *SIZES[i]) for i in range(4)]
    stimuli = [
        mn.Stimulus(TEXTS[0]),
        mn.Stimulus(image=pictures[0]),
        mn.Stimulus(TEXTS[1], image=pictures[1]),
        mn.Stimulus(TEXTS[2]),
        several(name, "Compare.", [pictures[2], pictures[3]]),
        mn.Stimulus(TEXTS[0], image=pictures[0]),
    ]
    run = model.run(stimuli, tokens="last", batch_size=3)
    assert list(run.residual) == ["decoder"]  # a text reaches no vision tower
    for i, stimulus in enumerate(stimuli):
        _, _, states = forward(name, stimulus.text, stimulus.images())
        close(run.residual["decoder"][i], states["decoder"][:, -1])
    with pytest.raises(mn.InputError, match=r"vision tower is not reached.*images"):
        model.run(stimuli, read=["vision"])


@pytest.mark.parametrize("name", MULTIMODAL)
def test_an_image_alone_equals_a_plain_forward(name):
    model = load(name)
    stimuli = [mn.Stimulus(image=picture(i, *SIZES[i])) for i in range(3)]
    run = model.run(stimuli, tokens={"vision": "mean", "decoder": "last"})
    for i, stimulus in enumerate(stimuli):
        _, _, states = forward(name, None, stimulus.images())
        close(run.residual["vision"][i], states["vision"].mean(1))
        close(run.residual["decoder"][i], states["decoder"][:, -1])


# ------------------------------------------------------------------------------------------------- token choices


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("clip", *REFUSED)])
def test_pooled_reads_are_plain_indexing(name, side):
    """Every token choice against indexing of the states of a plain forward."""
    model = load(name)
    model._executor.padding_side = side
    stimuli = stimuli_for(name, n=3)
    alone = [forward(name, stimulus.text, stimulus.images()) for stimulus in stimuli]

    def check(towers, choice, pick):
        towers = [towers] if isinstance(towers, str) else towers
        run = model.run(stimuli, read=towers, tokens=dict.fromkeys(towers, choice), batch_size=3)
        for tower in towers:
            assert run.residual[tower].shape == (3, *model.towers[tower].shape)
            assert run.residual[tower].dtype == torch.float32
            for row, (_, inputs, states) in zip(run.residual[tower], alone, strict=True):
                close(row, pick(states[tower], inputs))

    towers = list(model.towers)
    check(towers, "last", lambda states, inputs: states[:, -1])
    check(towers, "mean", lambda states, inputs: states.mean(1))
    check(towers, [0], lambda states, inputs: states[:, 0])
    check(towers, -1, lambda states, inputs: states[:, -1])
    check(towers, [1, -2, -3], lambda states, inputs: states[:, [1, -2, -3]].mean(1))
    check(towers, (np.int64(2),), lambda states, inputs: states[:, 2])
    if "decoder" in model.towers and "vision" in model.towers:
        check("decoder", "image", lambda states, inputs: states[:, image_tokens(name, inputs)].mean(1))
        check("decoder", "text", lambda states, inputs: states[:, ~image_tokens(name, inputs)].mean(1))
    if name in TEXT_ONLY:
        check("decoder", "text", lambda states, inputs: states.mean(1))
    if model.vision is not None:
        rows = {"llava_clip": 17, "llava_next": 10, "internvl": 17, "blip2": 10, "vit": 17, "clip_vision": 17}
        rows |= {"dinov2_with_registers": 21}
        if name in rows:  # a class token at the start of every row
            prefix = 5 if name == "dinov2_with_registers" else 1
            by_row = lambda states: states.reshape(len(states), -1, rows[name], states.shape[-1])  # noqa: E731
            check("vision", "cls", lambda states, inputs: by_row(states)[:, :, 0].mean(1))
            check("vision", "image", lambda states, inputs: by_row(states)[:, :, prefix:].flatten(1, 2).mean(1))
        elif name != "mllama":
            check("vision", "image", lambda states, inputs: states.mean(1))
            with pytest.raises(mn.InputError, match=r'tokens="cls": the vision tower has no class token'):
                model.run(stimuli, read=["vision"], tokens="cls")


def test_padding_that_is_not_understood_is_refused_rather_than_guessed():
    """Mllama keeps four tiles of 16 positions in one row: a class token, nine patches, six of padding; missing tiles
    are positions too, and what it hands in says nothing of the padding inside a tile."""
    model = load("mllama")
    stimulus = mn.Stimulus("A dog.", image=picture(1, 37, 53), id="a tile")
    _, _, states = forward("mllama", stimulus.text, stimulus.images())
    for choice in ("image", "mean", "cls", "last", [0]):
        with pytest.raises(mn.InputError, match=r'stimulus a tile has padding .* vision tower.*tokens="all"'):
            model.run([stimulus], tokens={"vision": choice, "decoder": "last"})
    run = model.run([stimulus], tokens={"vision": "all", "decoder": "last"})
    close(run.residual["vision"][0], states["vision"].reshape(4, -1, 32))


def test_padding_inside_a_vision_tower_never_counts():
    """Idefics2 pads every crop's grid of patches to the largest; pixel_attention_mask tells which are there."""
    model = load("idefics2")
    stimuli = [mn.Stimulus("A dog.", image=picture(i, *SIZES[i])) for i in range(4)]
    together = model.run(stimuli, read=["vision"], tokens="mean", batch_size=4).residual["vision"]
    padded = 0
    for row, stimulus in zip(together, stimuli, strict=True):
        _, inputs, states = forward("idefics2", stimulus.text, stimulus.images())
        padded += int((inputs["pixel_attention_mask"] == 0).any())
        close(row, states["vision"].mean(1))
    assert padded


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("first", r"`tokens` must be 'last', 'mean'.* got 'first'"),
        ([], r"`tokens` must be .* got \[\]"),
        ([0.5], r"`tokens` must be .* got \[0.5\]"),
        (True, r"`tokens` must be .* got True"),
        ({"vision": "mean"}, r"keys among what is read \(decoder\), got 'vision'"),
        ([99], r"selects token 99, but stimulus 'a dog' has \d+ tokens in the decoder tower"),
        ([-99], r"selects token -99"),
        ("image", r"tokens='image': stimulus 'a dog' has no image tokens"),
        ("cls", r'tokens="cls": the decoder tower has no class token for stimulus'),
    ],
)
def test_bad_token_choices(tokens, message):
    with pytest.raises(mn.InputError, match=message):
        load("gpt2").run(["a dog"], tokens=tokens)


def test_padding_side_is_left_or_right():
    model = load("gpt2")
    with pytest.raises(mn.InputError, match=r"`padding_side` must be one of 'right', 'left', got 'middle'"):
        model._executor.padding_side = "middle"
    assert model._executor.padding_side in ("left", "right")
