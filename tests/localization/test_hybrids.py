"""Models whose blocks differ: what is not there is never counted, drawn or selected, in any analysis."""

from __future__ import annotations

import copy
import pickle
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import transformers as tr

import modalnet as mn
from architectures.small import build
from versions import older_than

TEXTS = [
    ("the cat sat on the mat", "a"),
    ("two dogs ran to the old tree", "a"),
    ("a bird sang all night", "a"),
    ("one fish swam away from us", "a"),
    ("she drinks tea with milk", "a"),
    ("mat the on cat sat the of", "b"),
    ("ran tree dogs old two to", "b"),
    ("sang bird night a all", "b"),
    ("from fish us one away swam", "b"),
    ("milk she with tea drinks", "b"),
]
CONTRAST = mn.Contrast(
    [mn.Stimulus(f"{text}{end}", condition=label) for text, label in TEXTS for end in ("", " again", " today")],
    positive="a",
    negative="b",
)

#: Class, what makes its blocks differ, and a space with the number of units of each of its layers.
MODELS = {
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2}, "heads", (0, 2, 0, 2)),
    "granitemoehybrid": ("GraniteMoeHybrid", {}, "heads", (0, 2, 0, 2)),
    "jamba": ("Jamba", {}, "neurons", (192, 0, 192, 0)),
    "deepseek_v3": ("DeepseekV3", {}, "experts", (0, 4, 4, 4)),
    "gemma3n": (
        "Gemma3n",
        {"intermediate_size": [64, 192, 64, 128], "activation_sparsity_pattern": [0.0] * 4},
        "neurons",
        (64, 192, 64, 128),
    ),
}

pytestmark = pytest.mark.skipif(older_than("5.0"), reason="classes of transformers 5")


@pytest.fixture(scope="module", params=MODELS)
def hybrid(request):
    name, options, kind, widths = MODELS[request.param]
    config = getattr(tr, f"{name}TextConfig", None) or getattr(tr, f"{name}Config")
    made = build(config, getattr(tr, f"{name}ForCausalLM"), **options)
    model = mn.load(made.model, tokenizer=made.tokenizer, chat_template=False)
    space = f"decoder.{kind}"
    assert model.spaces[space].widths == widths
    return model, space


@pytest.fixture(scope="module")
def found(hybrid):
    model, space = hybrid
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return mn.localize(model, CONTRAST, units=space, cache=False, progress=False)


def is_of(model, units):
    """Whether all units of a set are there."""
    return all(not (mask & ~model.spaces[name].exists).any() for name, mask in units.mask.items())


def test_what_is_not_there_does_not_count(hybrid, found, tmp_path):
    model, space = hybrid
    here = model.spaces[space]
    assert found.n_units == here.n_units == found.table()["units"].sum()
    assert found.undefined[space] == int(np.isnan(found.t[space])[here.exists].sum())
    assert f" of {here.n_units:,} units at q" in found.summary()
    half = found.top(fraction=0.5)
    assert half.count == here.n_units // 2
    assert is_of(model, half)
    assert len(found.to_xarray()["unit"]) == here.n_units
    found.save(tmp_path / "one.safetensors")
    again = mn.Localization.load(tmp_path / "one.safetensors")
    assert again.n_units == here.n_units
    assert again == found
    assert found.only("decoder").n_units == here.n_units
    assert is_of(model, found.massive(1.5))
    assert (~half).count == here.n_units - half.count
    everything = model.units(space)
    assert everything.count == here.n_units
    assert (~everything).count == sum(tower.n_units for tower in model.towers.values())


@pytest.mark.parametrize("match", ["layer", "tower", "activation", "dimension"])
def test_controls_are_units_that_there_are(hybrid, found, match):
    model, space = hybrid
    few = mn.Units({space: np.zeros(model.spaces[space].shape, dtype=bool)}) | found.top(k=2)
    known = model.units(space) & found.top(k=2).over(model.units(space).shapes)
    for units in (few, found.top(k=2), known) if match != "activation" else (few, found.top(k=2)):
        for seed in range(30):
            try:
                (control,) = units.random(1, seed=seed, match=match)
            except mn.InputError:  # a layer may have too few heads
                assert match != "tower"
                continue
            assert is_of(model, control)
            assert control.count == units.count
            assert not (control & units).count


def test_units_keep_what_there_is(hybrid, tmp_path):
    model, space = hybrid
    units = model.units(space)
    units.save(tmp_path / "units.json")
    units.save(tmp_path / "units.safetensors")
    for same in (
        mn.Units.load(tmp_path / "units.json"),
        mn.Units.load(tmp_path / "units.safetensors"),
        copy.deepcopy(units),
        pickle.loads(pickle.dumps(units)),
        units & units,
        ~~units,
        units.for_model(model),
        units.over({"decoder": model.towers["decoder"].shape}),
    ):
        assert same.widths == {space: model.spaces[space].widths}
        assert is_of(model, ~same)


def test_lesion_study(hybrid, found):
    model, space = hybrid
    task = mn.tasks.minimal_pairs([("the cat sat", "the cat sit"), ("a dog ran", "a dog run"), ("it is", "it are")])
    study = mn.lesion_study(
        model,
        {"some": found},
        task,
        [0.3],
        3,
        ["zero", "mean"] if not space.endswith("experts") else ["zero"],
        match=["tower", "activation"] if not space.endswith("heads") else ["tower"],
        cache=False,
        progress=False,
    )
    assert len(study.table())
    assert np.isfinite([scores.mean for scores in study.base.values()]).all()


def test_profile(hybrid, found):
    model, _ = hybrid
    stimuli = [mn.Stimulus(text + " now", condition=label, id=f"{label}{i}") for i, (text, label) in enumerate(TEXTS)]
    result = mn.profile(model, found.top(k=2), stimuli, n_controls=2, match="tower", cache=False, progress=False)
    assert np.isfinite(result.responses).all()
    assert np.isfinite(result.controls).all()


def test_pictures(found, tmp_path):
    for kind in ("layers", "histogram", "volcano", "sheet", "glass"):
        found.plot(kind)
        plt.close("all")
    page = mn.atlas({"one": found})
    page.save(tmp_path / "atlas.html")
    assert (tmp_path / "atlas.html").stat().st_size > 1000


def test_overlap(hybrid, found):
    model, _ = hybrid
    pair = {"one": found.top(k=2), "two": found.bottom(k=2)}
    result = mn.specialization(model, pair, n_controls=2, n_interaction=2, cache=False, progress=False)
    assert result.summary()


def test_reliability(found):
    result = found.reliability(fraction=0.5, n_controls=5)
    assert len(result.table())
