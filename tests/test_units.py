"""Sets of units: algebra, controls, files."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from modalnet._files import read_file, write_file
from modalnet.errors import InputError, StoreError
from modalnet.units import Units

SHAPES = {"vision": (2, 5), "decoder": (3, 4)}
PLACES = [(tower, layer, dim) for tower, (n, width) in SHAPES.items() for layer in range(n) for dim in range(width)]
sets = st.sets(st.sampled_from(PLACES))


def units(places, **kw):
    return Units.from_indices(SHAPES, places, **kw)


def mean_abs(seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {tower: rng.lognormal(sigma=2, size=shape) for tower, shape in shapes.items()}


@given(sets, sets, sets)
def test_algebra_is_that_of_sets(a, b, c):
    x, y, z = units(a), units(b), units(c)
    assert set((x & y).indices()) == a & b
    assert set((x | y).indices()) == a | b
    assert set((x - y).indices()) == a - b
    assert set((x ^ y).indices()) == a ^ b
    assert set((~x).indices()) == set(PLACES) - a
    assert (x <= y) == (a <= b)
    assert (x >= y) == (a >= b)
    assert (x == y) == (a == b)
    assert len({x, y, z}) == len({frozenset(a), frozenset(b), frozenset(c)})
    assert x & (y | z) == (x & y) | (x & z)
    assert ~(x | y) == ~x & ~y


@given(sets, sets)
def test_counts_and_overlap(a, b):
    x, y = units(a), units(b)
    assert len(x) == x.count == len(a)
    assert bool(x) == bool(a)
    assert x.indices() == sorted(a, key=PLACES.index)
    assert {tower: counts.tolist() for tower, counts in x.per_layer().items()} == {
        tower: [sum(place[:2] == (tower, layer) for place in a) for layer in range(n)]
        for tower, (n, _) in SHAPES.items()
    }
    dice, jaccard = x.dice(y), x.jaccard(y)
    if a or b:
        assert dice == 2 * len(a & b) / (len(a) + len(b))
        assert jaccard == len(a & b) / len(a | b)
    else:
        assert np.isnan(dice)
        assert np.isnan(jaccard)


def test_immutable_and_apart_from_what_it_was_made_of():
    mask = np.zeros((2, 3), dtype=bool)
    x = Units({"decoder": mask})
    mask[:] = True
    assert not x
    with pytest.raises(ValueError, match="read-only"):
        x.mask["decoder"][0, 0] = True
    with pytest.raises(TypeError):
        x.mask["decoder"] = mask
    with pytest.raises(AttributeError):
        x.mask = {}


def test_towers_keep_their_order():
    assert list(units([]).shapes) == ["vision", "decoder"]
    assert units(PLACES).indices() == PLACES
    swapped = Units({tower: units(PLACES).mask[tower] for tower in ("decoder", "vision")})
    assert swapped == units(PLACES)
    assert hash(swapped) == hash(units(PLACES))


def test_norms_and_model_go_with_the_result():
    known = units(PLACES[:2], mean_abs=mean_abs(), model="abc")
    plain = units(PLACES[1:5])
    for result in (known & plain, plain & known, plain | known, known - plain, ~known, known.random()[0]):
        assert result.model == "abc"
        np.testing.assert_array_equal(result.mean_abs["decoder"], mean_abs()["decoder"])
    assert plain.mean_abs is None
    assert known != units(PLACES[:2])  # the same places of another, unknown model


def test_only_units_of_one_model_and_shape_combine():
    x = units([], model="m1")
    with pytest.raises(InputError, match=r"m1.*m2"):
        x & units([], model="m2")
    other = Units.from_indices({"decoder": (3, 8)}, [])
    for operation in (x.__and__, x.__or__, x.__sub__, x.__xor__, x.__le__, x.dice, x.jaccard):
        with pytest.raises(InputError, match=r"vision 2x5, decoder 3x4 . decoder 3x8"):
            operation(other)
    with pytest.raises(TypeError):
        x & {1}


def test_bad_masks_and_indices():
    with pytest.raises(InputError, match="int64"):
        Units({"decoder": np.ones((2, 3), dtype=np.int64)})
    with pytest.raises(InputError, match=r"\(3,\)"):
        Units({"decoder": np.ones(3, dtype=bool)})
    with pytest.raises(InputError, match="at least one space"):
        Units({})
    for place in [("decoder", 3, 0), ("decoder", 0, 4), ("decoder", -1, 0), ("decoder", 0, 1.0), ("decoder", 0, True)]:
        with pytest.raises(InputError, match=r"layers 0\.\.2 and units 0\.\.3"):
            units([place])
    with pytest.raises(InputError, match="audio"):
        units([("audio", 0, 0)])
    for bad in (
        {"decoder": np.ones((3, 4))},
        {**mean_abs(), "decoder": np.ones((3, 5))},
        {**mean_abs(), "x": np.ones(1)},
    ):
        with pytest.raises(InputError, match="`mean_abs` must have"):
            units([], mean_abs=bad)


def test_repr():
    assert repr(units([])) == "Units(empty: vision 2x5, decoder 3x4)"
    assert repr(units([("decoder", 1, 2)])) == "Units(1 unit in decoder[1])"
    assert repr(units([("vision", 0, 2), ("decoder", 0, 0), ("decoder", 2, 0)])) == (
        "Units(3 units in vision[0], decoder[0..2])"
    )


# -- controls ----------------------------------------------------------------------------------------------------

WIDE = {"vision": (3, 40), "decoder": (4, 60)}


def selected(seed=0, share=0.2, **kw):
    rng = np.random.default_rng(seed)
    return Units(
        {tower: rng.random(shape) < share for tower, shape in WIDE.items()}, mean_abs=mean_abs(seed, WIDE), **kw
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0, 0.35), match=st.sampled_from(["layer", "tower", "activation"]))
def test_controls_match_and_never_overlap(seed, share, match):
    x = selected(seed, share)
    # A layer of which more than half is selected has no control; a test below is about that.
    assume(all((2 * counts <= WIDE[tower][1]).all() for tower, counts in x.per_layer().items()))
    for control in x.random(n=3, seed=seed, match=match):
        assert not control & x
        for tower, counts in x.per_layer().items():
            drawn = control.per_layer()[tower]
            assert drawn.sum() == counts.sum()
            if match != "tower":
                np.testing.assert_array_equal(drawn, counts)


@pytest.mark.parametrize("match", ["layer", "tower", "activation"])
def test_draws_are_reproducible_and_differ(match):
    x = selected()
    draws = x.random(n=4, seed=7, match=match)
    assert len(set(draws)) == 4
    assert x.random(n=2, seed=7, match=match) == draws[:2]
    assert x.random(n=4, seed=8, match=match) != draws


def test_a_draw_is_the_same_on_every_machine():
    x = Units.from_indices({"decoder": (1, 12)}, [("decoder", 0, 0), ("decoder", 0, 1)])
    # Uniform doubles of PCG64 seeded with [0, 0], dealt to the ten free units.
    order = np.argsort(np.random.Generator(np.random.PCG64([0, 0])).random(10), kind="stable")
    assert {dim for _, _, dim in x.random()[0].indices()} == {2 + int(place) for place in order[:2]}
    assert [dim for _, _, dim in x.random()[0].indices()] == [4, 5]


def test_every_free_unit_is_drawn_about_equally_often():
    x = Units.from_indices({"decoder": (1, 10)}, [("decoder", 0, 0), ("decoder", 0, 1)])
    counts = sum(control.mask["decoder"].astype(int) for control in x.random(n=800))
    assert counts[0, :2].sum() == 0
    assert (np.abs(counts[0, 2:] - 200) < 60).all()  # about 4.9 standard deviations


def test_norm_control_picks_among_the_nearest_free_units():
    sizes = 2.0 ** np.arange(21.0)[None]
    x = Units.from_indices({"decoder": (1, 21)}, [("decoder", 0, 10)], mean_abs={"decoder": sizes})
    picked = {control.indices()[0][2] for control in x.random(n=200, match="activation")}
    assert picked == {7, 8, 9, 11, 12}  # 7 and 13 are equally far: the lower dim


def test_norm_controls_are_nearer_in_norm_than_layer_controls():
    # As on real models: what is selected is what is strongly driven.
    sizes = mean_abs(3, {"decoder": (4, 300)})
    x = Units({"decoder": sizes["decoder"] > np.quantile(sizes["decoder"], 0.9)}, mean_abs=sizes)

    def distance(match):
        def logs(units):
            layers = zip(sizes["decoder"], units.mask["decoder"], strict=True)
            return np.log(np.concatenate([np.sort(size[mask]) for size, mask in layers]))

        return np.mean([np.abs(logs(control) - logs(x)).mean() for control in x.random(n=5, match=match)])

    assert distance("activation") < 0.6 * distance("layer")


def test_norm_control_with_zero_and_undefined_norms():
    sizes = np.array([[0.0, 0.0, 1.0, np.nan, np.inf, 1e300]])
    x = Units.from_indices({"decoder": (1, 6)}, [("decoder", 0, 0)], mean_abs={"decoder": sizes})
    drawn = {control.indices()[0][2] for control in x.random(n=50, match="activation")}
    assert drawn == {1, 2, 5}
    undefined = Units.from_indices({"decoder": (1, 6)}, [("decoder", 0, 3)], mean_abs={"decoder": sizes})
    with pytest.raises(InputError, match=r"layer 0 of 'decoder'"):
        undefined.random(match="activation")


def test_controls_that_cannot_be_drawn_say_why():
    x = Units.from_indices({"decoder": (2, 4)}, [("decoder", 1, dim) for dim in range(3)])
    with pytest.raises(InputError, match=r"3 units of layer 1 of 'decoder'.*only 1 are free"):
        x.random()
    assert x.random(match="tower")[0].count == 3
    with pytest.raises(InputError, match=r"5 units of 'decoder'.*only 3"):
        Units({"decoder": np.arange(8).reshape(2, 4) < 5}).random(match="tower")
    with pytest.raises(InputError, match=r"localization\.top"):
        x.random(match="activation")
    with pytest.raises(InputError, match="'size'"):
        x.random(match="size")
    for n in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="`n` must be a positive integer"):
            x.random(n=n)
    with pytest.raises(InputError, match="seed"):
        x.random(seed=-1)


def test_controls_of_nothing_are_empty():
    assert [control.count for control in units([]).random(n=2)] == [0, 0]


# -- files -------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(places=sets, model=st.one_of(st.none(), st.text(max_size=5)), suffix=st.sampled_from(["json", "safetensors"]))
def test_round_trip(tmp_path_factory, places, model, suffix):
    path = tmp_path_factory.mktemp("units") / f"u.{suffix}"
    x = units(places, mean_abs=mean_abs(), model=model)
    x.save(path)
    back = Units.load(path)
    assert back == x
    assert list(back.shapes) == list(x.shapes)
    assert back.model == model
    if suffix == "json":
        assert back.mean_abs is None
    else:
        np.testing.assert_array_equal(back.mean_abs["vision"], x.mean_abs["vision"])


def test_json_is_sparse_and_readable(tmp_path):
    units([("decoder", 2, 1), ("decoder", 2, 3)], model="m").save(tmp_path / "u.json")
    document = json.loads((tmp_path / "u.json").read_text())
    assert document["spaces"]["decoder"] == {"shape": [3, 4], "units": {"2": [1, 3]}}
    assert document["model"] == "m"


def test_old_names_work_for_one_release(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"`norms=` is deprecated .* use `mean_abs=`"):
        x = units(PLACES[:2], norms=mean_abs())
    with pytest.warns(DeprecationWarning, match=r"`Units.norms` is deprecated .* use `Units.mean_abs`"):
        np.testing.assert_array_equal(x.norms["decoder"], mean_abs()["decoder"])
    with pytest.warns(DeprecationWarning, match=r"`match='norm'` is deprecated .* use `match='activation'`"):
        assert x.random(match="norm") == x.random(match="activation")


def test_files_of_the_first_release_load(tmp_path):
    x = units(PLACES[:2], mean_abs=mean_abs(), model="m")
    x.save(tmp_path / "u.safetensors")
    arrays, document = read_file(tmp_path / "u.safetensors")
    old = {name.replace("mean_abs/", "norms/"): array for name, array in arrays.items()}
    write_file(tmp_path / "u.safetensors", old, document)
    back = Units.load(tmp_path / "u.safetensors")
    assert back == x
    np.testing.assert_array_equal(back.mean_abs["vision"], x.mean_abs["vision"])


def test_pickle_and_copy_keep_everything():
    x = units(PLACES[:4], mean_abs=mean_abs(), model="m")
    for other in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert other == x
        assert not other.mask["decoder"].flags.writeable
        np.testing.assert_array_equal(other.mean_abs["vision"], x.mean_abs["vision"])


def test_files_that_hold_no_units(tmp_path):
    with pytest.raises(InputError, match=r"\.pkl"):
        units([]).save(tmp_path / "u.pkl")
    with pytest.raises(InputError, match=r"\.csv"):
        Units.load(tmp_path / "u.csv")
    with pytest.raises(StoreError, match="gone"):
        Units.load(tmp_path / "gone.json")
    path = tmp_path / "u.json"
    units(PLACES[:4]).save(path)
    good = json.loads(path.read_text())
    path.write_text(path.read_text()[:-9])
    with pytest.raises(StoreError, match="damaged"):
        Units.load(path)
    for change in (
        {"format": "other"},
        {"version": 99},
        {"model": 3},
        {"spaces": {"decoder": {"shape": [3, 4], "units": {"7": [0]}}}},
        {"spaces": {"decoder": {"shape": [3, 4], "units": {"0": [True]}}}},
        {"spaces": {"decoder": {"shape": [3], "units": {"0": [1]}}}},
        {"spaces": {"decoder": {"units": {}}}},
        {"spaces": {}},
        {"spaces": []},
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match=r"u\.json"):
            Units.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match=r"u\.json"):
        Units.load(path)
