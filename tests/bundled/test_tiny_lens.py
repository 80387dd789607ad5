"""What colour a thing has stands in the stream of its own image tokens: the lens ranks the word there.

Held-out scenes. The same positions of the same picture with its patches permuted, the other image tokens, and the same
question without the picture are the controls; scenes are compared pair by pair.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import modalnet as mn
from modalnet.bundled import visual_questions
from modalnet.stimuli.rendering import COLOURS

N, N_FIT, PATCH = 40, 40, 8
WORDS = list(COLOURS)


def permuted(image, seed):
    """The image with its patches in another order."""
    side = image.width // PATCH
    patches = np.asarray(image).reshape(side, PATCH, side, PATCH, 3).swapaxes(1, 2).reshape(-1, PATCH, PATCH, 3)
    mixed = patches[np.random.default_rng(seed).permutation(len(patches))]
    return Image.fromarray(mixed.reshape(side, side, PATCH, PATCH, 3).swapaxes(1, 2).reshape(image.height, -1, 3))


def at_object(result, number, shape):
    """The places of a stimulus whose patch has its middle well inside of a shape."""
    places = result.places(number)
    left, top, right, bottom = result.boxes[places].T
    distance = ((left + right) / 2 - shape.x) ** 2 + ((top + bottom) / 2 - shape.y) ** 2
    return places[distance < 0.6 * shape.radius**2]


@pytest.fixture(scope="module")
def ranks():
    """Per lens and condition, the geometric mean rank of the right colour ``[scene, layer]``, as a logarithm."""
    model = mn.load("tiny")
    rng = np.random.default_rng(1)
    drawn = [visual_questions.scene_question(rng, "colour", test=True) for _ in range(N + N_FIT)]
    images = [visual_questions.render(shapes, 64, number) for number, (shapes, _) in enumerate(drawn)]
    asked = [question for _, question in drawn]
    seen = [mn.Stimulus(question.text, image=image) for question, image in zip(asked, images, strict=True)]
    options = {"words": WORDS, "k": 1, "cache": False, "progress": False}
    fit = seen[N:]
    intact = mn.lens(model, seen[:N], fit=fit, **options)
    mixed = [mn.Stimulus(asked[i].text, image=permuted(images[i], i)) for i in range(N)]
    shuffled = mn.lens(model, mixed, fit=fit, **options)
    unseen = mn.lens(model, [question.text for question in asked[:N]], tokens="last", **options)
    found = {}
    for lens in intact.lenses:
        number = intact.index(lens)
        rows = {"object": [], "shuffled": [], "elsewhere": [], "unseen": []}
        for index in range(N):
            word = WORDS.index(asked[index].answer)
            places = at_object(intact, index, asked[index].mentions[0][1][0])
            assert len(places)
            log = {
                name: np.log(one.word_ranks[..., word]) for name, one in {"intact": intact, "mixed": shuffled}.items()
            }
            rows["object"].append(log["intact"][number, :, places].mean(0))
            rows["shuffled"].append(log["mixed"][number, :, places].mean(0))
            rows["elsewhere"].append(log["intact"][number, :, np.setdiff1d(intact.places(index), places)].mean(0))
            rows["unseen"].append(np.log(unseen.word_ranks[0, :, unseen.places(index), word]).mean(0))
        found[lens] = {name: np.array(values) for name, values in rows.items()}
    return found


@pytest.mark.parametrize("lens", ["plain", "tuned"])
@pytest.mark.parametrize("control", ["shuffled", "elsewhere", "unseen"])
def test_the_right_colour_ranks_higher_at_the_object(ranks, lens, control):
    """By Wilcoxon's signed-rank test over scenes at every layer, corrected for the number of layers."""
    own, other = ranks[lens]["object"], ranks[lens][control]
    p = [stats.wilcoxon(other[:, layer] - own[:, layer], alternative="greater").pvalue for layer in range(8)]
    assert max(p) < 1e-3 / 8
    assert np.exp(own.mean(0)).max() < 3  # of 1,355 tokens
    assert np.exp(other.mean(0)).min() > 2.5 * np.exp(own.mean(0)).max() or control == "unseen"


def test_the_guide_has_the_figures(ranks):
    table = (Path(__file__).parents[2] / "docs" / "howto" / "lens.md").read_text()
    rows = re.findall(r"^\| (at the|the same|other|the question).*?((?:\| [\d,.]+ )+)\|$", table, re.MULTILINE)
    written = [[float(cell.replace(",", "")) for cell in row.strip("| ").split(" | ")] for _, row in rows]
    measured = [np.exp(ranks["plain"][name].mean(0)) for name in ("object", "shuffled", "elsewhere", "unseen")]
    # Another machine's arithmetic may move a rank.
    np.testing.assert_allclose(written, measured, rtol=0.05, atol=0.06)
