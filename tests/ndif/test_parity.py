"""What runs on a real NDIF server is what runs here."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch
from server import Server

import modalnet as mn

pytestmark = [pytest.mark.ndif, pytest.mark.timeout(600)]

TEXTS = ["The cat sat on the mat.", "A dog", "Rain fell all night over the old town near the river."]
CLOSE = 1e-5

Pair = tuple[mn.Model, mn.Model]


def some(model: mn.Model, tower: str = "decoder", step: int = 97) -> mn.Units:
    """Every so manieth unit of a tower."""
    masks = {name: np.zeros(each.shape, dtype=bool) for name, each in model.towers.items()}
    masks[tower].flat[::step] = True
    return mn.Units(masks)


def near(one: torch.Tensor, other: torch.Tensor) -> None:
    scale = max(1.0, float(one.abs().max()))
    assert float((one - other).abs().max()) <= CLOSE * scale


def test_the_server_cannot_import_modalnet(ndif: Server) -> None:
    probe = "import importlib.util as u; assert u.find_spec('nnsight'); assert not u.find_spec('modalnet')"
    subprocess.run([ndif.venv / "bin" / "python", "-c", probe], env=ndif.variables, cwd=ndif.folder, check=True)


def test_no_weights_are_loaded_here(pair: Pair) -> None:
    here, there = pair
    assert {parameter.device.type for parameter in there.module.parameters()} == {"meta"}
    assert {name: tower.paths for name, tower in here.towers.items()} == {
        name: tower.paths for name, tower in there.towers.items()
    }


def test_run(pair: Pair) -> None:
    one, other = (model.run(TEXTS, logits="last") for model in pair)
    for tower, values in one.residual.items():
        near(values, other.residual[tower])
    near(one.logits, other.logits)
    one, other = (model.run(TEXTS[:2], tokens="all", logits="all", read={"decoder": [0, -1]}) for model in pair)
    for first, second in zip(
        one.residual["decoder"] + one.logits, other.residual["decoder"] + other.logits, strict=True
    ):
        near(first, second)


KINDS = ["zero", "mean", "resample", "patch", "add", "direction", "subspace", "layers", "each stimulus", "run", "view"]


@pytest.mark.parametrize("kind", KINDS)
def test_interventions(pair: Pair, kind: str) -> None:
    here, there = pair
    units = some(here)
    vector = np.linspace(-1, 1, here.towers["decoder"].width).astype(np.float32)
    made = {
        "zero": mn.zero(units),
        "mean": mn.mean(units, over=TEXTS),
        "resample": mn.resample(units, over=TEXTS),
        "patch": mn.patch(mn.site("decoder", 2), TEXTS[2]).at("last"),
        "add": mn.add(mn.site("decoder", 3), vector),
        "direction": mn.scale(mn.direction("decoder", 3, vector), 3.0),
        "subspace": mn.zero(mn.direction("decoder", 3, [vector, vector**2])),
        "layers": mn.add(mn.site("decoder", [1, 3]), [vector, -vector]),
        "each stimulus": mn.zero(units).at([[index % 2, -1] for index in range(len(TEXTS))]),
        "run": mn.patch(mn.site("decoder", 2), there.run(TEXTS[2], tokens="all")).at("last"),
        "view": mn.patch(mn.site("decoder", 2), there.with_(mn.zero(units)).on(TEXTS[2])).at("last"),
    }[kind]
    one, other = (model.run(TEXTS, made, logits="last") for model in pair)
    near(one.residual["decoder"], other.residual["decoder"])
    near(one.logits, other.logits)


def test_score(pair: Pair) -> None:
    one, other = (model.score(TEXTS, [" and", [" it", " was late"], " end"]) for model in pair)
    for first, second in zip(one.logprob, other.logprob, strict=True):
        assert np.abs(first - second).max() <= CLOSE
    assert [list(each) for each in one.greedy] == [list(each) for each in other.greedy]


def test_generate(pair: Pair) -> None:
    here, there = pair
    lesion = mn.zero(some(here))
    for edits in ((), (lesion,)):
        one, other = (model.generate(TEXTS[0], *edits, max_new_tokens=6, details=True) for model in pair)
        assert one.text == other.text == there.generate(TEXTS[0], *edits, max_new_tokens=6)
        near(one.logits, other.logits)


def test_pictures(tiny: Pair) -> None:
    here, there = tiny
    stimuli = mn.stimuli.vision().stimuli[:6]
    one, other = (model.run(stimuli, tokens="mean", logits="last") for model in tiny)
    for tower, values in one.residual.items():
        near(values, other.residual[tower])
    near(one.logits, other.logits)
    lesion = mn.zero(some(here, "vision", 31))
    one, other = (model.run(stimuli, lesion, tokens="mean") for model in tiny)
    near(one.residual["decoder"], other.residual["decoder"])
    assert here.generate(stimuli[0], lesion, max_new_tokens=4) == there.generate(stimuli[0], lesion, max_new_tokens=4)


def test_pictures_are_sent_as_small_as_they_are(tiny: Pair) -> None:
    _, there = tiny
    stimuli = mn.stimuli.vision().stimuli[:32]
    there.run(stimuli[:2], tokens="mean", read="vision")
    there.run(stimuli, tokens="mean", read="vision")
    assert there.remote is not None
    raw = sum(
        there._executor.encoder.encode(item).inputs["pixel_values"].nbytes for item in there._executor.prepare(stimuli)
    )
    assert there.remote.jobs[-1].up < raw / 4


@pytest.mark.parametrize("magnitude", ["absolute", "signed"])
def test_localize(pair: Pair, magnitude: str) -> None:
    language = mn.stimuli.language()
    chosen = mn.Contrast(language.stimuli[::6], positive=language.positive, negative=language.negative)
    one, other = (mn.localize(model, chosen, magnitude=magnitude, cache=False, progress=False) for model in pair)
    for tower, t in one.t.items():
        assert np.nanmax(np.abs(t - other.t[tower])) <= CLOSE
        assert np.nanmax(np.abs(one.effect_size[tower] - other.effect_size[tower])) <= CLOSE
        assert np.allclose(one.mean_abs[tower], other.mean_abs[tower], rtol=CLOSE)
        for condition, means in one.means.items():
            assert np.allclose(means[tower], other.means[condition][tower], rtol=CLOSE, atol=CLOSE)
    assert one.top(k=20).mask.keys() == other.top(k=20).mask.keys()
    assert all(np.array_equal(mask, other.top(k=20).mask[tower]) for tower, mask in one.top(k=20).mask.items())


def test_localize_pictures(tiny: Pair) -> None:
    vision = mn.stimuli.vision()
    chosen = mn.Contrast(vision.stimuli[::4], positive=vision.positive, negative=vision.negative)
    one, other = (mn.localize(model, chosen, cache=False, progress=False) for model in tiny)
    for tower, t in one.t.items():
        assert np.nanmax(np.abs(t - other.t[tower])) <= CLOSE


def test_lesion_study(tiny: Pair) -> None:
    here, _ = tiny
    task = mn.tasks.default()[0] if isinstance(mn.tasks.default(), list) else next(iter(mn.tasks.default()))
    tables = [
        mn.lesion_study(
            model, {"some": some(here, step=11)}, task, n_controls=1, match=("layer",), cache=False, progress=False
        ).table()
        for model in tiny
    ]
    numbers = [table.select_dtypes("number").to_numpy() for table in tables]
    assert np.allclose(*numbers, rtol=CLOSE, atol=CLOSE, equal_nan=True)


def test_profile(pair: Pair) -> None:
    here, _ = pair
    stimuli = [one for one in mn.stimuli.language_conditions().stimuli if one.id and one.id.endswith("5")]
    found = [
        mn.profile.language(model, some(here), stimuli, n_controls=2, cache=False, progress=False) for model in pair
    ]
    assert np.abs(found[0].responses - found[1].responses).max() <= CLOSE
    assert np.abs(found[0].controls - found[1].controls).max() <= CLOSE


def test_align(pair: Pair) -> None:
    """Pooled activations come back, few of them; regressions are solved here."""
    pytest.importorskip("himalaya")
    here, there = pair
    texts = [one.text for one in mn.stimuli.language(30).stimuli]
    responses = np.random.default_rng(0).standard_normal((len(texts), 4))
    data = mn.brain.from_arrays(texts, responses, groups=np.arange(len(texts)) // 3)
    options = {"n_controls": 2, "untrained": False, "cache": False, "progress": False}
    assert there.remote is not None
    before = len(there.remote.jobs)
    one, other = (mn.brain.align(model, some(here), data, **options) for model in pair)
    sent = there.remote.jobs[before:]
    assert len(sent) <= 4
    assert sum(job.down for job in sent) < 1.1 * 4 * len(texts) * here.towers["decoder"].n_units
    for first, second in zip(one.sets, other.sets, strict=True):
        assert first.name == second.name
        assert np.abs(first.scores - second.scores).max() <= 1e-3


PATCHED = (["Is there a face, a house or a car?"], ["Is there a car, a house or a face?"])


def difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 5] - logits[:, 9]


@pytest.mark.parametrize("how", ["activation", "attribution"])
def test_patching(tiny: Pair, how: str) -> None:
    pictures = [stimulus.image for stimulus in mn.stimuli.vision().stimuli[:2]]
    clean, corrupt = (
        [mn.Stimulus(text, image=image) for text, image in zip(texts, pictures, strict=False)] for texts in PATCHED
    )
    if how == "activation":
        there = tiny[1].remote
        assert there is not None
        options = {"cache": False, "progress": False}
        found = []
        for model in tiny:
            before = len(there.jobs)
            found.append(mn.activation_patching(model, clean, corrupt, difference, **options))
        # What is measured of the layout, both runs of the pair, and then many cells to a job.
        cells = sum(values[0].size for values in found[1].values.values())
        assert cells > 50
        assert len(there.jobs) - before <= 12
    else:
        found = [
            mn.attribution_patching(model, clean, corrupt, difference, cache=False, progress=False) for model in tiny
        ]
        for tower, effect in found[0].unit_effect.items():
            assert np.allclose(effect, found[1].unit_effect[tower], rtol=1e-3, atol=CLOSE)
    for tower, values in found[0].values.items():
        assert np.allclose(values, found[1].values[tower], atol=CLOSE, equal_nan=True)
