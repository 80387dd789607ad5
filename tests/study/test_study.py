"""The study in benchmarks/study: its pictures, its runner, its report, and the joined model that it trains."""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import assets
import modalnet as mn

sys.path.append(str(Path(__file__).resolve().parents[2]))
from benchmarks.study import join, joined, report, running
from benchmarks.study.__main__ import main
from benchmarks.study.material import NAMING, Shown, answers, floc_pictures, is_test, many_drawn, naming_task
from benchmarks.study.plan import INTACT_NETWORK, PROTOCOL, QUICK, Asked, Probe

from modalnet.stimuli.published import INTACT


def test_patches_are_pooled_over_their_neighbours():
    patches = torch.randn(2, 64, 3)
    grid = patches.view(2, 8, 8, 3)
    expected = torch.stack([grid[:, r : r + 4, c : c + 4].mean((1, 2)) for r in (0, 4) for c in (0, 4)], dim=1)
    torch.testing.assert_close(joined.pool(patches), expected)


def test_two_fifths_of_a_category_are_held_out():
    assert sum(is_test(place) for place in range(40)) == 16


def test_drawn_pictures_that_train_are_not_those_that_test():
    train, test = ([*many_drawn(40, 0, test=side, size=32)] for side in (False, True))
    assert [one.answer for one in train[:10]] == [one.answer for one in many_drawn(10, 0, test=False, size=32)]
    assert {one.kind for one in train} == {"colour", "shape", "drawn thing"}
    assert all(one.answer in answers(one.kind) for one in [*train, *test])
    pixels = {one.image.tobytes() for one in train}
    assert all(one.image.tobytes() not in pixels for one in test)


def test_views_keep_size_and_never_mirror_what_is_read():
    """Brighter to the right, as the picture is, unless mirrored."""
    image = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1)))
    brighter = {True: [], False: []}
    for mirrored, number in itertools.product(brighter, range(10)):
        made = [np.asarray(one, dtype=float) for one in join.views(image, number, 0, mirrored=mirrored)]
        assert {one.shape for one in made} == {(64, 64)}
        assert len({one.tobytes() for one in made}) == join.VIEWS
        brighter[mirrored] += [one[:, -1].mean() > one[:, 0].mean() for one in made]
    assert all(brighter[False])
    assert 0 < sum(brighter[True]) < len(brighter[True])


# Running


def steps_of(tmp_path, calls, failing=(), inputs=None):
    def make(name):
        def run():
            calls.append(name)
            if name in failing:
                raise ValueError("no")

        return running.Step(f"model: {name}", run, tmp_path, inputs or {}, 1.0)

    return [make(name) for name in ("one", "two", "three")]


def test_a_step_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path):
    calls, said = [], []
    failures = running.run(steps_of(tmp_path, calls, {"two"}), said.append)
    assert calls == ["one", "two", "three"]
    assert failures == {"model: two": "ValueError: no"}
    assert "min left" in said[0]
    assert running.run(steps_of(tmp_path, calls), said.append) == {}
    assert calls == ["one", "two", "three", "two"]


def test_a_step_that_was_done_with_other_settings_is_done_again(tmp_path):
    calls = []
    running.run(steps_of(tmp_path, calls, inputs={"controls": 2}), lambda line: None)
    running.run(steps_of(tmp_path, calls, inputs={"controls": 3}), lambda line: None)
    assert calls == ["one", "two", "three"] * 2


def test_training_goes_on_with_the_same_settings_alone(tmp_path):
    join.check_same_run(tmp_path, {"steps": 400, "seed": 0})
    join.check_same_run(tmp_path, {"steps": 400, "seed": 0})
    with pytest.raises(SystemExit, match="another --work"):
        join.check_same_run(tmp_path, {"steps": 400, "seed": 1})


def test_numbers_of_the_report():
    row = {"drop": 0.123, "drop low": -0.05, "drop high": 0.2, "other": np.nan}
    assert report.interval(row, "drop") == "0.12 [-0.05, 0.20]"
    assert report.interval(row, "other") == ""
    assert report.percent(0.00125) == "0.125%"
    assert report.markdown(pd.DataFrame({"a|b": ["x|y"]})) == "| a\\|b |\n| --- |\n| x\\|y |"


def few_text_probes():
    return {
        "language": Probe(lambda: mn.stimuli.language(24), PROTOCOL),
        "multiple demand": Probe(lambda: mn.stimuli.multiple_demand(12)),
    }


def few_picture_probes(decoder):
    return {
        "faces": Probe(lambda: mn.stimuli.categories("faces", n=12, size=64)),
        INTACT_NETWORK: Probe(lambda: mn.stimuli.vision(n=12, size=64)),
        "picture > description": Probe(lambda: mn.stimuli.vision_vs_text(n=12, size=64), towers=(decoder,)),
    }


def test_the_whole_of_it_on_the_bundled_model(tmp_path, capsys, monkeypatch):
    """Every step runs, leaves its tables and figures, and is not run again."""
    few = replace(QUICK, fractions=(0.05,), controls=1, sums=8, sentences=2, drawn=6)
    monkeypatch.setattr("benchmarks.study.__main__.QUICK", few)
    monkeypatch.setattr("benchmarks.study.steps.PERMUTATIONS", 19)
    monkeypatch.setattr(Asked, "_text_probes", lambda self: few_text_probes())
    monkeypatch.setattr(Asked, "_picture_probes", lambda self: few_picture_probes(str(self.model.decoder.name)))
    command = ["--out", str(tmp_path), "--quick", "--models", "tiny", "--no-progress"]
    assert main(command) == 0
    written = (tmp_path / "RESULTS.md").read_text()
    for heading in (
        "Networks",
        "Do language and vision share units?",
        "What is left",
        "Pictures",
        "Where does the answer",
        "Maps",
    ):
        assert f"## {heading}" in written
    figures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", written)
    assert len(figures) >= 8
    assert all((tmp_path / name).is_file() for name in figures)
    assert (tmp_path / "tiny" / "atlas.html").is_file()
    costs = pd.read_csv(tmp_path / "tiny" / "lesions-pictures.csv")
    assert set(costs["tower"]) == {"vision", "decoder"}
    assert np.isfinite(costs["drop"]).all()
    capsys.readouterr()
    assert main(command) == 0
    assert "[1/" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["--models", "tiny,other"], ["--floc", "/nowhere"], ["--steps", "other"], ["--remote"]]
)
def test_bad_commands_say_so_at_once(tmp_path, command):
    with pytest.raises(SystemExit, match=r"other|nowhere|--model"):
        main(["--out", str(tmp_path), "--quick", *command])


# The joined model


@pytest.fixture(scope="module")
def towers():
    return assets.dinov2(), assets.gemma()


@pytest.fixture(scope="module")
def both(towers):
    return joined.load(*towers)


@pytest.mark.real
def test_training_asks_what_the_joined_model_is_asked(both):
    """The loss from what DINOv2 saw once is that of transformers' own forward pass over pixels and prompt."""
    module, processor = both.module, both.processor
    pictures = floc_pictures(assets.data("floc"), test=True)[::40]
    shown = [Shown(one.images()[0].convert("RGB"), NAMING, str(one.condition), "floc") for one in pictures]
    features = join.see(module, processor, shown)
    loss, _ = join.answer_loss(
        module, processor.tokenizer, features, [one.question for one in shown], [one.answer for one in shown]
    )
    losses = []
    for one in shown:
        text = f"{joined.IMAGE_TOKEN}{one.question} {one.answer}"
        inputs = processor(images=one.image, text=text, return_tensors="pt")
        with torch.no_grad():
            logits = module(**inputs).logits[0, -2]
        losses.append(torch.nn.functional.cross_entropy(logits[None], inputs["input_ids"][0, -1:]))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.real
def test_a_picture_is_sixteen_tokens_and_text_is_gemmas(both, towers):
    gemma = mn.load(str(towers[1]))
    texts = ["The keys near the house are", "A storm is coming"]
    np.testing.assert_allclose(
        both.run(texts, logits="last").logits, gemma.run(texts, logits="last").logits, rtol=1e-4, atol=1e-3
    )
    (picture,) = floc_pictures(assets.data("floc"), test=True)[:1]
    states = both.run([mn.Stimulus(NAMING, image=picture.images()[0])], read="decoder", tokens="image").residual
    prompt = both.processor(images=picture.images()[0], text=f"{joined.IMAGE_TOKEN}{NAMING}", return_tensors="pt")
    assert (prompt["input_ids"] == both.processor.image_token_id).sum() == 16
    assert states["decoder"].shape == (1, 18, 640)


@pytest.mark.real
def test_the_projector_that_is_kept_names_held_out_pictures(both):
    assert joined.PROJECTOR.stat().st_size <= 4e6
    assert joined.trained_how()["steps"] == join.STEPS
    pictures = floc_pictures(assets.data("floc"), test=True)[::5]
    scores = naming_task(pictures, INTACT, "naming").run(both)
    # Chance is 0.1; with 32 pictures, 16 right are beyond any luck.
    assert scores.scores.mean() >= 0.5
