"""Random controls: equal seeds give equal sets, the match is what it says, and how well it matched is told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modalnet.errors import InputError
from modalnet.stats import controls
from modalnet.units import Units

SHAPES = {"vision": (3, 40), "decoder": (4, 60)}


def network(seed=0, share=0.1, known=True):
    rng = np.random.default_rng(seed)
    mean_abs = {tower: rng.lognormal(size=shape) for tower, shape in SHAPES.items()}
    mask = {tower: rng.random(shape) < share for tower, shape in SHAPES.items()}
    return Units(mask, mean_abs=mean_abs if known else None)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), match=st.sampled_from(controls.MATCHES), n=st.integers(0, 4))
def test_controls_are_disjoint_as_large_and_the_same_for_equal_seeds(seed, match, n):
    units = network(seed)
    drawn = controls.draw(units, n, seed=seed, match=match)
    assert len(drawn) == n
    for index, control in enumerate(drawn):
        assert not (control & units).count
        assert control.count == units.count
        for tower, counts in units.per_layer().items():
            assert control.mask[tower].sum() == counts.sum()
            if match != "tower":
                np.testing.assert_array_equal(control.per_layer()[tower], counts)
        assert control == units.random(index + 1, seed, match)[index]


def test_the_ratio_tells_how_well_controls_match():
    rng = np.random.default_rng(1)
    mean_abs = {"decoder": rng.lognormal(sigma=1.5, size=(4, 300))}
    units = Units({"decoder": mean_abs["decoder"] > np.quantile(mean_abs["decoder"], 0.95)}, mean_abs=mean_abs)
    ratios = {match: controls.match_ratios(units, controls.draw(units, 10, match=match)) for match in controls.MATCHES}
    assert ratios["layer"].shape == (10,)
    assert ratios["layer"].max() < ratios["activation"].min() < 1  # no other units are driven as strongly
    first = controls.draw(units, 1, match="layer")[0]
    expected = mean_abs["decoder"][first.mask["decoder"]].mean() / mean_abs["decoder"][units.mask["decoder"]].mean()
    assert ratios["layer"][0] == pytest.approx(expected)
    assert np.isnan(controls.match_ratios(network(known=False), controls.draw(network(known=False), 2))).all()
    assert controls.match_ratios(units, []).shape == (0,)


def test_a_poor_match_is_said_and_warned_of():
    """Where the network holds the few massive units of a layer, no others are driven as strongly."""
    mean_abs = {"decoder": np.random.default_rng(1).lognormal(size=(2, 100))}
    mean_abs["decoder"][:, :3] = 1e4
    massive = Units.from_indices({"decoder": (2, 100)}, [("decoder", i, j) for i in range(2) for j in range(3)])
    massive = Units(massive.mask, mean_abs=mean_abs)
    plain = Units({"decoder": np.roll(massive.mask["decoder"], 40, axis=1)}, mean_abs=mean_abs)
    with pytest.warns(
        UserWarning, match=r"network 'massive' have 0\.00\d+ times its mean .* driven as strongly"
    ) as caught:
        drawn = controls.draw_each(massive, 4, match=("layer", "activation"), name="massive")
    assert len(caught) == 1  # a layer-matched control promises nothing about activation
    ratios = controls.match_ratios(massive, drawn["activation"])
    columns = controls.match_columns(ratios)
    assert list(columns.values()) == [ratios.mean(), ratios.min(), ratios.max()]
    assert "activation-matched controls: mean |activation| 0.00" in controls.match_sentence(ratios, "activation")
    with pytest.warns(UserWarning, match="driven as weakly"):
        controls.warn_of_poor_match(np.array([2.5, 3.5]), "activation")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matched = controls.match_ratios(plain, controls.draw_each(plain, 4, match=("activation",))["activation"])
        controls.warn_of_poor_match(np.full(3, np.nan), "activation")
        controls.warn_of_poor_match(np.zeros(0), "activation")
    assert abs(matched.mean() - 1) < 0.2
    assert controls.match_sentence(np.full(3, np.nan), "layer") == controls.match_sentence(np.zeros(0), "layer") == ""
    assert np.isnan(list(controls.match_columns(np.zeros(0)).values())).all()
    assert controls.match_sentence(np.array([0.9]), "layer").endswith("0.90 of the network's")


def test_units_without_mean_abs_have_no_activation_matched_controls():
    bare = network(known=False)
    with pytest.warns(UserWarning, match="network 'faces' has no `mean_abs`") as caught:
        drawn = controls.draw_each(bare, 2, match=("layer", "activation", "tower"), name="faces")
    assert list(drawn) == ["layer", "tower"]
    assert caught[0].filename == __file__
    with pytest.raises(InputError, match="requires the mean absolute activation of every unit"):
        controls.draw(bare, 2, match="activation")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert controls.draw_each(bare, 0, match=("activation",)) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, "`n_controls` must be a non-negative integer, got -1."),
        ({"n": 1.5}, "`n_controls` must be a non-negative integer, got 1.5."),
        ({"n": 1, "seed": -1}, "`seed` must be a non-negative integer, got -1."),
        ({"n": 1, "match": "size"}, "`match` must be one of 'layer', 'activation', 'tower', 'dimension', got 'size'."),
        ({"n": 0, "match": "size"}, "`match` must be one of 'layer', 'activation', 'tower', 'dimension', got 'size'."),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        controls.draw(network(), **options)


def test_sets_drawn_in_layers_may_share_units():
    rng = np.random.default_rng(0)
    selected = np.zeros(40, dtype=bool)
    selected[[1, 2, 25]] = True
    eligible = np.ones(40, dtype=bool)
    eligible[0] = False
    layers = [slice(0, 20), slice(20, 40)]
    drawn = [controls.draw_in_layers(rng, selected, layers, eligible) for _ in range(300)]
    assert all(one[:20].sum() == 2 and one[20:].sum() == 1 and not one[0] for one in drawn)
    assert any((one & selected).any() for one in drawn)
