"""The bundled sets of pictures: what is matched is measured, and every question has its answer."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import combinations

import numpy as np
import pytest

from modalnet import stimuli
from modalnet.errors import InputError
from modalnet.stimuli import Contrast, spec
from modalnet.stimuli.picture_sets import CONTRAST, KINDS, LUMA, LUMINANCE, WORDS
from modalnet.stimuli.pictures import CONTROLS
from modalnet.stimuli.rendering import CATEGORIES, COLOURS, OBJECTS, SHAPES, Shape, draw_scene
from modalnet.stimuli.scene_questions import NUMBERS, scene_question
from modalnet.stimuli.scenes import RADII, RELATIONS, describe_relation, place_shapes, relation

SETS = {"vision": stimuli.vision, "categories": stimuli.categories, "vision-vs-text": stimuli.vision_vs_text}


def pixels(contrast: Contrast, condition: str) -> np.ndarray:
    """float64 [picture, height, width, 3]"""
    shown = [stimulus.images()[0] for stimulus in contrast.stimuli if stimulus.condition == condition]
    return np.stack([np.asarray(image, dtype=np.float64) for image in shown])


def luminance(values: np.ndarray) -> np.ndarray:
    return (values @ LUMA).mean((1, 2))


def contrast_of(values: np.ndarray) -> np.ndarray:
    """Root mean square contrast over the channels, per picture."""
    return np.sqrt(values.var((1, 2)).mean(1))


@pytest.fixture(scope="module")
def seen() -> Contrast:
    return stimuli.vision(against=None, size=64)


@pytest.fixture(scope="module")
def kinds() -> Contrast:
    return stimuli.categories(size=64)


# --- vision ---------------------------------------------------------------------------------------------------------


def test_five_conditions_of_120_pictures_and_no_text(seen: Contrast) -> None:
    assert seen.positive == ("intact",)
    assert seen.negative == tuple(CONTROLS) == ("phase-scrambled", "box-scrambled", "noise", "blank")
    assert seen.n == dict.fromkeys(seen.conditions, 120)
    assert {(s.kind, s.n_images, s.images()[0].size) for s in seen.stimuli} == {("image", 1, (64, 64))}
    assert [s.id for s in seen.stimuli[119:122]] == ["intact-120", "phase-scrambled-001", "phase-scrambled-002"]
    assert len({s.inspect().digest for s in seen.stimuli if s.condition != "blank"}) == 480
    assert len({s.inspect().digest for s in seen.stimuli if s.condition == "blank"}) > 100


def test_every_control_has_the_mean_of_its_picture(seen: Contrast) -> None:
    intact = pixels(seen, "intact")
    assert np.abs(luminance(intact) - LUMINANCE).max() < 2
    for condition, tolerance in {"phase-scrambled": 0.1, "box-scrambled": 1e-9, "noise": 1e-9, "blank": 0.5}.items():
        means = pixels(seen, condition).mean((1, 2))
        assert np.abs(means - intact.mean((1, 2))).max() <= tolerance, condition


def test_every_control_but_blank_has_the_contrast_of_its_picture(seen: Contrast) -> None:
    wanted = contrast_of(pixels(seen, "intact"))
    assert np.median(wanted) == pytest.approx(CONTRAST, abs=0.1)
    for condition, tolerance in {"phase-scrambled": 0.005, "box-scrambled": 1e-9, "noise": 1e-9}.items():
        np.testing.assert_allclose(contrast_of(pixels(seen, condition)), wanted, rtol=tolerance, err_msg=condition)
    assert contrast_of(pixels(seen, "blank")).max() == 0


def test_the_spectrum_is_kept_by_phase_scrambling_only(seen: Contrast) -> None:
    def spectra(condition: str) -> np.ndarray:
        amplitudes = np.abs(np.fft.fft2(pixels(seen, condition), axes=(1, 2)))
        amplitudes[:, 0, 0] = 0
        return amplitudes

    intact = spectra("intact")
    size = np.linalg.norm(intact, axis=(1, 2)).mean(1)
    apart = {name: np.linalg.norm(spectra(name) - intact, axis=(1, 2)).mean(1) / size for name in CONTROLS}
    assert apart["phase-scrambled"].max() < 0.03
    assert min(apart[name].min() for name in ("box-scrambled", "noise", "blank")) > 0.2


def test_noise_and_boxes_are_made_of_the_same_pixels(seen: Contrast) -> None:
    def colours(condition: str) -> np.ndarray:
        """The colours of each picture as numbers, in order of size."""
        return np.sort((pixels(seen, condition) @ np.array([1, 256, 256**2])).reshape(120, -1))

    for condition in ("box-scrambled", "noise"):
        np.testing.assert_array_equal(colours(condition), colours("intact"))


def test_noise_is_white_and_scrambled_pictures_are_not(seen: Contrast) -> None:
    def neighbours(condition: str) -> float:
        """Correlation of a pixel with the one at its right."""
        values = pixels(seen, condition)
        values = values - values.mean((1, 2), keepdims=True)
        return float((values[:, :, 1:] * values[:, :, :-1]).mean() / (values**2).mean())

    assert abs(neighbours("noise")) < 0.02
    assert neighbours("phase-scrambled") > 0.6


def test_the_default_is_intact_against_phase_scrambled_and_others_can_be_chosen(seen: Contrast) -> None:
    assert stimuli.vision(n=2, size=32).name == "intact > phase-scrambled"
    assert stimuli.vision("blank", n=2, size=32).negative == ("blank",)
    assert stimuli.vision(["noise", "box-scrambled"], n=2, size=32).negative == ("box-scrambled", "noise")
    one = stimuli.vision("noise", size=64, n=7)
    same = [s for s in seen.stimuli if s.condition in ("intact", "noise") and int(s.id[-3:]) <= 7]
    assert [(s.id, s.inspect().digest) for s in one.stimuli] == [(s.id, s.inspect().digest) for s in same]


# --- categories -----------------------------------------------------------------------------------------------------


def test_four_categories_of_64(kinds: Contrast) -> None:
    assert kinds.name == "faces > houses,objects,words"
    assert kinds.n == dict.fromkeys(("faces", "houses", "objects", "words"), 64)
    assert [kinds.stimuli[i].id for i in (0, 64, 128, 192)] == ["face-001", "house-001", "object-001", "word-001"]
    assert {s.kind for s in kinds.stimuli} == {"image"}
    assert len({s.inspect().digest for s in kinds.stimuli}) == 256


def test_luminance_and_contrast_are_matched(kinds: Contrast) -> None:
    for condition in kinds.conditions:
        values = pixels(kinds, condition)
        assert np.abs(luminance(values).mean() - LUMINANCE) < 0.5, condition
        assert np.abs(luminance(values) - LUMINANCE).max() < 3, condition
        assert 0.88 * CONTRAST < contrast_of(values).mean() < 1.01 * CONTRAST, condition
        assert ((values == 0) | (values == 255)).mean() < 0.02, condition


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """What the sets ask to be drawn, in order."""
    from modalnet.stimuli import picture_sets as module

    asked: list = []
    drawing = module.draw_picture

    def draw_picture(picture, size, seed):
        asked.append((picture, seed))
        return drawing(picture, size, seed)

    monkeypatch.setattr(module, "draw_picture", draw_picture)
    return asked


@pytest.mark.parametrize("n", [64, 61])
def test_every_category_has_the_same_colours_and_grounds(drawn: list, n: int) -> None:
    stimuli.categories(size=32, n=n)
    groups = [[(p, seed) for p, seed in drawn if p.category == category] for category in CATEGORIES]
    assert [len(group) for group in groups] == [n] * 4
    assert len({tuple((p.colour, seed) for p, seed in group) for group in groups}) == 1
    counts = Counter(p.colour for p, _ in groups[0])
    assert set(counts) == set(COLOURS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({p.variant for p, _ in drawn}) == 4 * n


def test_objects_moods_and_words_go_with_every_colour(drawn: list) -> None:
    stimuli.categories(size=32)
    pictures = [picture for picture, _ in drawn]
    things = Counter((p.name, p.colour) for p in pictures if p.category == "object")
    assert things == Counter({(name, colour): 1 for name in OBJECTS for colour in COLOURS})
    moods = Counter((p.mood, p.colour) for p in pictures if p.category == "face")
    assert set(moods.values()) == {4}
    assert len(moods) == 16
    words = [p.name for p in pictures if p.category == "word"]
    assert len(set(words)) == 64
    assert not set(WORDS) & {*COLOURS, *SHAPES, *OBJECTS, *CATEGORIES}


def test_vision_shows_every_kind_equally_often(drawn: list) -> None:
    stimuli.vision("blank", size=32)
    assert len(KINDS) == 5
    assert Counter(p.category for p, _ in drawn) == dict.fromkeys(CATEGORIES, 24)
    assert len({tuple(p.colour for p, _ in drawn if p.category == name) for name in CATEGORIES}) == 1


def test_sides_can_be_chosen(kinds: Contrast) -> None:
    assert stimuli.categories("houses", n=2, size=32).negative == ("faces", "objects", "words")
    assert stimuli.categories("words", "objects", n=2, size=32).name == "words > objects"
    some = stimuli.categories(["faces", "objects"], ["words"], n=3, size=64)
    assert some.positive == ("faces", "objects")
    assert len(some) == 9
    same = {s.id: s.inspect().digest for s in kinds.stimuli}
    assert all(same[s.id] == s.inspect().digest for s in some.stimuli)


def test_vision_and_categories_share_no_picture(seen: Contrast, kinds: Contrast) -> None:
    shown = [{s.inspect().digest for s in contrast.stimuli} for contrast in (seen, kinds)]
    assert not shown[0] & shown[1]


# --- vision against text --------------------------------------------------------------------------------------------


def test_the_question_is_the_same_on_both_sides() -> None:
    contrast = stimuli.vision_vs_text(size=48)
    assert contrast.n == {"image": 120, "text": 120}
    pictured, written = contrast.stimuli[:120], contrast.stimuli[120:]
    assert {s.kind for s in pictured} == {"image+text"}
    assert {s.kind for s in written} == {"text"}
    assert len({s.inspect().digest for s in contrast.stimuli}) == 240
    for number, (image, text) in enumerate(zip(pictured, written, strict=True)):
        asked = scene_question(number)
        assert image.text == asked.question
        assert text.text == f"{asked.description} {asked.question}"
        drawing = draw_scene(asked.shapes, 48, (3, number))
        assert image.images()[0].tobytes() == drawing.tobytes()
        assert image.id.split("-")[1] == text.id.split("-")[1] == f"{number + 1:03d}"


def answered(shapes: list[Shape], description: str, question: str) -> str:
    """The answer, found from the scene by other means than the one that wrote the question."""
    words = question.rstrip("?").split()
    if question.startswith("what colour"):
        (found,) = [s.colour for s in shapes if s.kind == words[-1]]
    elif question.startswith("what shape"):
        (found,) = [s.kind for s in shapes if s.colour == words[-1]]
    elif question.startswith("how many"):
        found = NUMBERS[sum(words[2] in (s.kind + "s", s.kind + "es") for s in shapes) - 1]
    elif question.startswith("is there"):
        found = "yes" if any(s.kind == words[-1] for s in shapes) else "no"
    else:
        first, second = (next(s for s in shapes if str(s) == " ".join(words[at : at + 2])) for at in (3, 7))
        sides = {"left": second.x - first.x, "above": second.y - first.y}
        sides |= {"right": -sides["left"], "below": -sides["above"]}
        found = max(sides, key=lambda side: sides[side])
        assert f"the {first} is {found}{' of' if found in ('left', 'right') else ''} the {second}." in description
    return found


def test_picture_and_description_hold_the_answer() -> None:
    answers = Counter()
    for number in range(240):
        shapes, description, question, answer = scene_question(number)
        assert answered(shapes, description, question) == answer
        assert all(str(shape) in description for shape in shapes)
        first = description.split(". ")[0].rstrip(".")
        named = first.removeprefix("there is ").replace(" and ", ", ").split(", ")
        assert [name.split(" ", 1)[1] for name in named] == [str(s) for s in sorted(shapes, key=lambda s: s.x)]
        assert all(name.split()[0] == ("an" if name.split()[1] == "orange" else "a") for name in named)
        assert len({shape.colour for shape in shapes}) == len(shapes) <= 5
        answers[answer] += 1
    assert answers["yes"] == answers["no"] == 24
    assert {answers[name] for name in NUMBERS} == {12}
    assert {answers[name] for name in RELATIONS} == {12}
    assert {answers[name] for name in COLOURS} == {6}
    assert {answers[name] for name in SHAPES} == {8}


# --- scenes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_shapes_are_inside_and_apart(count: int) -> None:
    rng = np.random.default_rng(count)
    scenes = [place_shapes(rng, count) for _ in range(200)]
    for places in scenes:
        assert len(places) == count
        for place in places:
            assert RADII[0] <= place.radius <= RADII[1]
            assert min(place.x, place.y) - 1.1 * place.radius > 0
            assert max(place.x, place.y) + 1.1 * place.radius < 1
        for one, other in combinations(places, 2):
            assert max(abs(one.x - other.x), abs(one.y - other.y)) > 1.1 * (one.radius + other.radius) + 0.0199
    radii = [place.radius for places in scenes for place in places]
    assert np.ptp(radii) > 0.06


@pytest.mark.parametrize("kind", SHAPES)
def test_no_drawn_shape_reaches_beyond_its_box(kind: str) -> None:
    """The layout counts on it: everything that a shape changes lies within 1.1 radii of its centre along each axis."""
    shape = Shape(kind, "black", 0.5, 0.5, 0.16)
    ground = np.asarray(draw_scene([], 200, 1), dtype=int)
    rows, columns = np.where(np.abs(np.asarray(draw_scene([shape], 200, 1), dtype=int) - ground).max(2) > 30)
    reach = max(np.abs(rows + 0.5 - 100).max(), np.abs(columns + 0.5 - 100).max()) / 200
    assert 0.8 * 0.16 < reach < 1.1 * 0.16 + 1 / 200


def test_a_slanting_relation_is_not_put_into_words() -> None:
    first, second = Shape("circle", "red", 0.2, 0.2, 0.1), Shape("square", "blue", 0.7, 0.7, 0.1)
    assert relation(first, second) is None
    with pytest.raises(InputError, match="neither clearly beside nor clearly above"):
        describe_relation(first, second)


@pytest.mark.parametrize("count", [0, 6, 2.5, "2"])
def test_a_scene_has_one_to_five_shapes(count) -> None:
    with pytest.raises(InputError, match="`count` must be an integer from 1 to 5"):
        place_shapes(np.random.default_rng(0), count)


# --- all sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_the_same_at_every_call_and_for_every_number(name: str) -> None:
    make = SETS[name]
    first, again, more = (make(n=n, size=40) for n in (6, 6, 11))
    digests = [[(s.id, s.inspect().digest) for s in contrast.stimuli] for contrast in (first, again, more)]
    assert digests[0] == digests[1]
    assert set(digests[0]) < set(digests[2])


@pytest.mark.parametrize("name", SETS)
def test_the_size_is_native_and_the_picture_the_same(name: str) -> None:
    small, large = (SETS[name](n=5, size=size).stimuli[0].images()[0] for size in (64, 192))
    assert (small.size, large.size) == ((64, 64), (192, 192))
    reduced = np.asarray(large.reduce(3), dtype=float).ravel()
    assert np.corrcoef(reduced, np.asarray(small, dtype=float).ravel())[0, 1] > 0.8


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line draws few and small pictures."""
    short = {name: partial(make, n=2, size=32) for name, make in SETS.items()}
    for name, make in short.items():
        monkeypatch.setitem(spec.BUNDLED, name, make)
    monkeypatch.setattr(spec, "vision", short["vision"])


@pytest.mark.usefixtures("quick")
def test_the_command_line_knows_every_set_and_takes_other_sides() -> None:
    assert [spec.parse(name).name for name in SETS] == [
        "intact > phase-scrambled",
        "faces > houses,objects,words",
        "image > text",
    ]
    assert spec.parse("vision_vs_text", negative="image", positive="text").name == "text > image"
    assert spec.parse("vision", negative="blank,noise").name == "intact > blank,noise"
    assert spec.parse("vision", "box-scrambled", "noise").name == "box-scrambled > noise"
    assert spec.parse("categories", "houses").name == "houses > faces,objects,words"


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("n", [1, 0, -3, 2.0, "all", True])
def test_a_number_of_pictures_that_makes_no_contrast(name: str, n) -> None:
    with pytest.raises(InputError, match=r"`n` must be an integer of at least 2, got"):
        SETS[name](n=n)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("size", [31, 2049, 64.0, (64, 64), None])
def test_a_size_that_cannot_be_drawn(name: str, size) -> None:
    with pytest.raises(InputError, match="`size` must be an integer from 32 to 2048"):
        SETS[name](size=size)


@pytest.mark.parametrize("against", ["scrambled", "intact", [], ["noise", "grey"], 3])
def test_an_unknown_control(against) -> None:
    with pytest.raises(
        InputError, match=r"`against` must (be|name).* 'phase-scrambled', 'box-scrambled', 'noise', 'blank'"
    ):
        stimuli.vision(against)


def test_unknown_and_repeated_categories() -> None:
    with pytest.raises(InputError, match="`positive` must be one of 'faces', 'houses', 'objects', 'words', got 'face'"):
        stimuli.categories("face")
    with pytest.raises(InputError, match="`against` must be one of"):
        stimuli.categories("faces", "places")
    with pytest.raises(InputError, match="both sides of the contrast: faces"):
        stimuli.categories("faces", ["faces", "words"], n=2, size=32)
    with pytest.raises(InputError, match="negative side"):
        stimuli.categories(["faces", "houses", "objects", "words"], n=2, size=32)
