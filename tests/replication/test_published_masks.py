"""Networks of published protocols, as their released code selects them: the same units, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import modalnet as mn
from families import CORPUS, build, picture
from modalnet.replication import select
from published_code import (
    READINGS,
    beyond_a_threshold,
    densely_ranked,
    in_every_contrast,
    sides_of,
    smoothed_top,
    text_inputs,
    welch,
)
from reference import encode, load, paths

WORDS = sorted({word for line in CORPUS for word in line.lower().split()})


def texts(seed=0, n=12, names="ab"):
    rng = np.random.default_rng(seed)
    lines = [" ".join(rng.choice(WORDS, size=rng.integers(3, 20))) for _ in range(n)]
    return mn.Contrast([mn.Stimulus(line, condition=names[i % 2]) for i, line in enumerate(lines)], names[0], names[1])


def pictures(n=9):
    stimuli = [mn.Stimulus(image=picture(i, 40 + 8 * (i % 3), 48), condition="abc"[i % 3]) for i in range(n)]
    return mn.Contrast(stimuli, "a")


def localized(family, contrast, protocol):
    return mn.localize(load(family), contrast, protocol=protocol, cache=False, progress=False)


def read(name, contrast, family="llama"):
    """Both sides, by plain transformers."""
    made, reading = build(family), READINGS[name]
    tower = "vision" if name == "topoomni2026" else "decoder"
    prompt = "Describe the image." if name == "dyslexia2026" else None

    def inputs(stimulus):
        if stimulus.n_images:
            return encode(made, prompt, stimulus.images())
        return text_inputs(made.tokenizer, stimulus.text, reading)

    return sides_of(contrast, made.model, paths(family, tower), reading, inputs)


@pytest.mark.parametrize(("name", "fraction"), [("alkhamissi2025", 0.1), ("brainscore2025", 0.1), ("syntax2026", 0.05)])
def test_the_top_of_a_dense_rank(name, fraction):
    contrast, protocol = texts(), mn.protocols[name].as_released()
    network = protocol.networks[0]
    found = select(
        {network: localized("llama", contrast, protocol.for_contrast(network))}, protocol.selection, fraction=fraction
    )
    expected = densely_ranked(welch(*read(name, contrast)), fraction)
    np.testing.assert_array_equal(found.mask["decoder"], expected)
    assert expected.sum() == int(fraction * expected.size)


def test_both_ends_by_thresholds():
    contrast, protocol = texts(), mn.protocols["tom2026"].as_released()
    top, bottom = beyond_a_threshold(welch(*read("tom2026", contrast)), 0.1)
    for network, expected in (("theory of mind", top), ("least theory of mind", bottom)):
        own = protocol.for_contrast(network)
        found = select({network: localized("llama", contrast, own)}, own.selection, fraction=0.1)
        np.testing.assert_array_equal(found.mask["decoder"], expected)
    assert bottom.sum() == top.sum() + 1


def test_a_threshold_in_every_contrast():
    protocol = mn.protocols["anhedonia2026"].as_released()
    names = ["yes", "neutral"]
    contrasts = {"reward, arithmetic": texts(3, names=names), "reward, geography": texts(4, names=names)}
    sides = [read("anhedonia2026", contrast) for contrast in contrasts.values()]
    expected = in_every_contrast(sides, first_layer=3, threshold=1.0)
    localizations = {name: localized("llama", contrast, protocol) for name, contrast in contrasts.items()}
    selection = replace(protocol.selection, threshold=1.0)  # few units of a random model are beyond 3
    np.testing.assert_array_equal(select(localizations, selection).mask["decoder.activation"], expected)
    assert expected.any()


def test_gates_in_single_precision():
    contrast, protocol = pictures(), mn.protocols["dyslexia2026"].as_released()
    localization = localized("qwen2_vl", contrast, protocol)
    found = select({"words": localization}, protocol.selection).mask["decoder.gate"]
    sides = read("dyslexia2026", contrast, "qwen2_vl")
    expected = densely_ranked(np.nan_to_num(welch(*sides).astype(np.float32)), 0.21)
    np.testing.assert_array_equal(found, expected)
    # Computed in float32 from the first, t differs in its last digits, and so may the last units that are selected.
    single = np.nan_to_num(welch(*sides, np.float32))
    differing = densely_ranked(single, 0.21) ^ found
    threshold = single[expected].min()
    assert (np.abs(single[differing] / threshold - 1) < 1e-4).all()


def test_smoothed_over_a_sheet():
    contrast, protocol = pictures(), mn.protocols["topoomni2026"].as_released()
    localization = localized("llava_clip", contrast, protocol)
    positions = np.random.default_rng(0).uniform(0, 20, (*localization.shapes["vision"], 2))
    found = select({"faces": localization}, protocol.selection, sheet={"vision": positions})
    expected = smoothed_top(welch(*read("topoomni2026", contrast, "llava_clip")), positions, 0.1)
    np.testing.assert_array_equal(found.mask["vision"], expected)
