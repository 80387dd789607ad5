"""Pictures of words and of other things: of one size, grey, and matched; and scenes in pairs."""

from __future__ import annotations

import numpy as np
import pytest

import modalnet as mn
from modalnet.stimuli.picture_sets import LUMINANCE, WORDS
from modalnet.stimuli.printed_words import LOCALIZER_WORDS, TEST_WORDS
from modalnet.stimuli.rendering import Picture, word_box, word_letters
from modalnet.stimuli.scene_pairs import draw_scene_pair, scene_pair
from modalnet.stimuli.scenes import describe_relation
from modalnet.stimuli.word_pictures import LEVEL, draw_word

SIZE = 96


@pytest.fixture(scope="module")
def shown():
    return mn.stimuli.word_pictures(12, size=SIZE)


def pixels(contrast, condition):
    """float64 [picture, height, width, 3]"""
    images = [stimulus.images()[0] for stimulus in contrast.stimuli if stimulus.condition == condition]
    return np.stack([np.asarray(image, dtype=np.float64) for image in images])


def test_every_picture_is_grey_of_one_size_luminance_and_contrast(shown):
    assert shown.n == {"words": 12, "scrambled_words": 12, "faces": 12, "line_drawings": 12}
    assert shown.positive == ("words",)
    for condition in shown.conditions:
        values = pixels(shown, condition)
        assert values.shape == (12, SIZE, SIZE, 3)
        assert (np.ptp(values, axis=-1) == 0).all()
        np.testing.assert_allclose(values.mean((1, 2, 3)), LUMINANCE, atol=0.6)
        np.testing.assert_allclose(values[..., 0].std((1, 2)), LEVEL, rtol=0.04)
    assert len({stimulus.inspect().digest for stimulus in shown.stimuli}) == 48
    assert {stimulus.inspect().sizes for stimulus in shown.stimuli} == {((SIZE, SIZE),)}


def test_a_scrambled_word_has_the_pixels_of_the_word_in_its_place(shown):
    words, scrambled = pixels(shown, "words")[..., 0], pixels(shown, "scrambled_words")[..., 0]
    for before, after in zip(words, scrambled, strict=True):
        assert np.array_equal(np.sort(before, axis=None), np.sort(after, axis=None))
        moved = np.argwhere(before != after)
        ink = np.argwhere(np.abs(before - np.median(before)) > 3 * LEVEL)
        # What moved is where the letters are, with the room of ascenders and descenders, and nothing else.
        assert (moved.min(0) <= ink.min(0)).all()
        assert (moved.max(0) >= ink.max(0)).all()
        assert np.ptp(moved, axis=0)[0] < 0.5 * SIZE
        assert np.ptp(moved, axis=0)[1] < np.ptp(ink, axis=0)[1] + 0.15 * SIZE


@pytest.mark.parametrize(("size", "seed"), [(32, 0), (33, 1)])
def test_every_word_has_room_and_can_be_scrambled(size, seed):
    contrast = mn.stimuli.word_pictures(len(LOCALIZER_WORDS), size=size, negative="scrambled_words", seed=seed)
    same = pixels(contrast, "words") == pixels(contrast, "scrambled_words")
    assert not same.all((1, 2, 3)).any()


def test_the_box_of_a_word_holds_its_letters():
    for variant in range(20):
        picture = Picture("word", "captain", "black", variant=variant)
        left, top, right, bottom = word_box(picture, 200)
        for _, x, y in word_letters(picture, 200):
            assert left < 200 * x < right
            assert top < 200 * y < bottom
        assert min(left, top) >= 0
        assert max(right, bottom) <= 200


def test_pictures_depend_on_the_seed_and_not_on_their_number(shown):
    few = mn.stimuli.word_pictures(3, size=SIZE)
    for condition in shown.conditions:
        assert np.array_equal(pixels(few, condition), pixels(shown, condition)[:3])
    assert not np.array_equal(pixels(mn.stimuli.word_pictures(3, size=SIZE, seed=1), "faces"), pixels(few, "faces"))


def test_the_words_of_localizer_and_test_are_all_different():
    words = (*LOCALIZER_WORDS, *TEST_WORDS)
    assert len(set(words)) == len(words)
    assert set(WORDS) < set(LOCALIZER_WORDS)
    assert all(word.isalpha() and word.islower() and 3 <= len(word) <= 8 for word in words)


def test_items_pair_words_with_their_scrambled_versions():
    paired = mn.stimuli.word_pictures(4, size=32, negative="scrambled_words", items=True)
    assert paired.items == ("001", "002", "003", "004") * 2
    with pytest.raises(mn.InputError, match="`items=True` needs negative='scrambled_words'"):
        mn.stimuli.word_pictures(4, size=32, items=True)
    with pytest.raises(mn.InputError, match=r"`negative` must be .*houses"):
        mn.stimuli.word_pictures(4, negative="houses")
    with pytest.raises(mn.InputError, match="`n` must be an integer from 2 to 114, got 115"):
        mn.stimuli.word_pictures(115)
    with pytest.raises(mn.InputError, match="`size` must be an integer from 32 to 2048, got 16"):
        mn.stimuli.word_pictures(4, size=16)


def test_a_drawn_word_is_told_with_its_place():
    image, (left, top, right, bottom) = draw_word("window", 1, SIZE, (9, 9))
    ink = np.argwhere(np.asarray(image)[..., 0] > 128 + 2 * LEVEL)
    assert ink[:, 0].min() >= top
    assert ink[:, 0].max() < bottom
    assert ink[:, 1].min() >= left
    assert ink[:, 1].max() < right


# ---------------------------------------------------------------------------------------------------------- scenes


def test_a_sentence_describes_one_scene_and_not_the_other():
    for number in range(60):
        pair = scene_pair(number, 0)
        assert pair.kind == ("order", "colour", "shape")[number % 3]
        assert describe_relation(*pair.target) == pair.sentence
        assert describe_relation(*pair.other) != pair.sentence
        if pair.kind == "order":
            assert sorted(map(str, pair.other)) == sorted(map(str, pair.target))
        else:
            assert {str(shape) for shape in pair.target} - {str(shape) for shape in pair.other}
        assert describe_relation(*pair.other[::-1]) != pair.sentence


def test_both_scenes_are_in_the_picture():
    pair = scene_pair(0, 0)
    image = np.asarray(draw_scene_pair(pair.target, pair.other, 128, 0), dtype=float)
    swapped = np.asarray(draw_scene_pair(pair.other, pair.target, 128, 0), dtype=float)
    assert image.shape == (128, 128, 3)
    assert np.abs(image - swapped)[:, :64].max() > 60
    assert np.abs(image - swapped)[:, 64:].max() > 60
