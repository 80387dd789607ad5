"""The parts of patching that need no model, or a very small one: columns, results, corruptions, pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

import modalnet as mn
from modalnet.errors import InputError
from modalnet.interventions.positions import TokenRow
from modalnet.patching import Column, Grid, NetworkPatch, Patching, agreement_pairs, colour_pairs, fact_pairs
from modalnet.patching.token_alignment import Pair, plan_columns
from modalnet.stats.new_draw import against_draws
from modalnet.stats.resampling import expanded


def row(text, images=0, start=1):
    """Words and, after the first of them, image tokens."""
    names = text.split()
    names[start:start] = [f"<image {i}>" for i in range(images)]
    image = np.array([name.startswith("<image") for name in names])
    return TokenRow(tuple(names), image, np.zeros(len(names), dtype=bool))


def columns(pairs, tokens=None, align=None):
    made, matches = plan_columns([Pair(str(i), *pair) for i, pair in enumerate(pairs)], tokens, align, "decoder")
    return [one.name for one in made], matches


def test_each_text_token_and_one_group_of_images():
    names, matches = columns([(row("a b c", 3), row("a b d", 3))])
    assert names == ["a", "<image>", "b", "c | d"]
    assert matches == [[[(0, 0)]], [[(1, 1), (2, 2), (3, 3)]], [[(4, 4)]], [[(5, 5)]]]


def test_each_image_token_by_itself():
    names, matches = columns([(row("a b", 2), row("a b", 2))], "each")
    assert names == ["a", "<image 0>", "<image 1>", "b"]
    assert matches[2] == [[(2, 2)]]


def test_pairs_of_different_lengths_need_an_alignment():
    pair = (row("the old dog barks"), row("the dog barks"))
    with pytest.raises(InputError, match=r"4 tokens.*3 tokens.*align"):
        columns([pair])
    names, matches = columns([pair], align="last")
    assert names == ["old | the", "dog", "barks"]
    assert matches == [[[(1, 0)]], [[(2, 1)]], [[(3, 2)]]]


def test_roles_line_up_images_with_images():
    pair = (row("x a b c", 2), row("x b c", 2))
    with pytest.raises(InputError, match="image tokens with text tokens"):
        columns([(row("a b c", 2, start=2), row("a b", 2, start=0))], align="last")
    names, matches = columns([pair], align="role")
    assert names == ["x", "<image>", "b", "c"]
    assert matches[2] == [[(4, 3)]]
    with pytest.raises(InputError, match="2 and 3 tokens"):
        columns([(row("x a", 2), row("x a", 3))], align="role")
    with pytest.raises(InputError, match="in the same order"):
        columns([(row("x a", 2), row("x a", 0))], align="role")


def test_a_given_alignment():
    pair = (row("a b c"), row("c b a x"))
    names, matches = columns([pair], align=[(0, 2), (-1, 0)])
    assert names == ["a", "c"]
    assert matches == [[[(0, 2)]], [[(2, 0)]]]
    assert columns([pair, pair], align=[[(0, 2)], [(0, 2)]])[1] == [[[(0, 2)], [(0, 2)]]]
    for align, message in (
        ([(0, 9)], "token 0 with token 9"),
        ([(0, 1), (0, 2)], "twice"),
        ("first", "`align` must be"),
        ([[(0, 0)]] * 3, "got 3 for 1 pairs"),
    ):
        with pytest.raises(InputError, match=message):
            columns([pair], align=align)


def test_pairs_share_columns_from_the_end():
    pairs = [(row("a b c"), row("a b d")), (row("x a b c"), row("x a b d"))]
    with pytest.raises(InputError, match="different numbers of tokens"):
        columns(pairs)
    names, matches = columns(pairs, align="last")
    assert names == ["x", "a", "b", "c | d"]
    assert matches[0] == [[], [(0, 0)]]
    assert matches[3] == [[(2, 2)], [(3, 3)]]


def test_tokens_of_all_kinds():
    pair = [(row("a b c", 2), row("a b d", 2))]
    assert columns(pair, ["image", "last", 0])[0] == ["image", "last", "0"]
    assert columns(pair, (0, 3))[1] == [[[(0, 0), (3, 3)]]]
    assert columns(pair, {"end": "last", "all of it": "all"})[0] == ["end", "all of it"]
    assert columns(pair, {"decoder": "text"})[1] == [[[(0, 0), (3, 3), (4, 4)]]]
    with pytest.raises(InputError, match="token 7"):
        columns(pair, (7,))
    with pytest.raises(InputError, match="no such token"):
        columns(pair, "cls")


def test_a_grid_groups_by_place():
    one = row("a b", 4)
    boxes = np.full((6, 4), np.nan)
    for i, (x, y) in enumerate(((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5))):
        boxes[1 + i] = x, y, x + 0.5, y + 0.5
    made, matches = plan_columns([Pair("p", one, one, boxes)], Grid(1, 2), None, "decoder")
    assert [column.name for column in made] == ["a", "<part 0>", "<part 1>", "b"]
    assert made[1].box == (0, 0, 0.5, 1)
    assert matches[1] == [[(1, 1), (3, 3)]]
    with pytest.raises(InputError, match="`rows` must be a positive integer, got 0"):
        Grid(0, 2)


@given(st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_every_alignment_uses_a_token_once(n, m):
    pair = (row(" ".join("abcdefghijkl"[:n])), row(" ".join("mnopqrstuvwx"[:m])))
    _, matches = columns([pair], align="last")
    used = [match for (own,) in matches for match in own]
    assert len(used) == min(n, m)
    assert {i for i, _ in used} == set(range(n - min(n, m), n))
    assert {j - i for i, j in used} == {m - n}


# -- results ---------------------------------------------------------------------------------------------------------


def result(n=5, seed=0, **changes):
    rng = np.random.default_rng(seed)
    names = (Column("the", "text"), Column("$5 dog", "text"), Column("<image>", "image", (0.0, 0.0, 0.5, 1.0)))
    values = {"decoder": rng.normal(size=(n, 4, 3))}
    values["decoder"][0, :, 1] = np.nan
    network = NetworkPatch(
        7, {"decoder": rng.normal(size=(n, 4, 3))}, rng.normal(size=n), {"layer": rng.normal(size=(9, n))}
    )
    made = {
        "model": "m",
        "metric": "logit difference",
        "direction": "denoise",
        "estimated": False,
        "labels": tuple(f"pair {i}" for i in range(n)),
        "columns": {"decoder": names},
        "layers": {"decoder": (0, 1, 2, 5)},
        "clean": rng.normal(5, size=n),
        "corrupt": rng.normal(-5, size=n),
        "values": values,
        "networks": {"language": network},
        "picture": rng.integers(0, 255, (6, 8, 3)).astype(np.uint8),
    }
    return Patching(**{**made, **changes})


def test_an_effect_is_a_ratio_of_sums():
    one = result()
    values = one.values["decoder"]
    for layer in range(4):
        for column in range(3):
            own = np.isfinite(values[:, layer, column])
            expected = (values[own, layer, column] - one.corrupt[own]).sum() / (one.clean - one.corrupt)[own].sum()
            assert one.effect["decoder"][layer, column] == pytest.approx(expected)
    table = one.table()
    assert table["pairs"].tolist() == [5, 4, 5] * 4
    assert (table["low"] <= table["effect"]).all()
    assert (table["effect"] <= table["high"]).all()
    assert table["layer"].unique().tolist() == [0, 1, 2, 5]
    assert one.top(2)["effect"].tolist() == sorted(one.effect["decoder"].ravel().tolist())[:-3:-1]


def test_the_scale_is_fixed_by_the_two_runs():
    one = result()
    for side, expected in (("corrupt", 0), ("clean", 1)):
        values = {"decoder": np.broadcast_to(getattr(one, side)[:, None, None], (5, 4, 3)).copy()}
        same = result(values=values)
        np.testing.assert_allclose(same.effect["decoder"], expected, atol=1e-12)
        np.testing.assert_allclose(same.interval()["decoder"], expected, atol=1e-12)


def test_an_interval_covers_what_it_should():
    """Of many samples of pairs, about 95 in 100 intervals hold the true ratio."""
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(200):
        clean, corrupt = rng.normal(4, 1, 40), rng.normal(-4, 1, 40)
        patched = corrupt + 0.3 * (clean - corrupt) + rng.normal(0, 1, 40)
        one = result(
            n=40,
            clean=clean,
            corrupt=corrupt,
            values={"decoder": np.broadcast_to(patched[:, None, None], (40, 4, 3)).copy()},
            networks={},
            labels=tuple(map(str, range(40))),
        )
        low, high = one.interval(n_resamples=300, seed=trial)["decoder"][:, 0, 0]
        inside += low <= 0.3 <= high
    assert 0.91 * 200 <= inside <= 0.995 * 200


def test_an_interval_covers_with_few_pairs_that_differ_in_weight():
    """16 pairs, of which a few carry most: 0.95 of 4,000 simulations; plain percentiles cover 0.90."""
    rng = np.random.default_rng(2)
    inside = 0
    for trial in range(300):
        corrupt, whole = rng.standard_normal(16), rng.gamma(1.5, 2.0, 16)
        patched = corrupt + whole * (0.3 + 0.2 * rng.standard_t(4, 16))
        sites = {"decoder": patched[:, None, None].repeat(12, axis=1).reshape(16, 4, 3)}
        labels = tuple(map(str, range(16)))
        one = result(n=16, clean=corrupt + whole, corrupt=corrupt, values=sites, networks={}, labels=labels)
        low, high = one.interval(n_resamples=400, seed=trial)["decoder"][:, 0, 0]
        inside += low <= 0.3 <= high
    assert inside >= 0.925 * 300


def test_intervals_are_quantiles_of_ratios_over_resampled_pairs():
    """Against the bootstrap written out: multinomial counts, ratios of sums, quantiles without NaN."""
    clean, corrupt = np.random.default_rng(3).normal((4, 0), 1, (6, 2)).T
    values = np.random.default_rng(4).normal(2, 1, (6, 4, 3))
    values[:4, 0, 0] = np.nan  # a column that two pairs have, and that some resamples lack
    one = result(n=6, clean=clean, corrupt=corrupt, values={"decoder": values}, networks={})
    counts = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), size=400)
    there = np.isfinite(values)
    over = np.where(there, values - corrupt[:, None, None], 0).reshape(6, -1)
    under = np.where(there, (clean - corrupt)[:, None, None], 0).reshape(6, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(counts @ under != 0, (counts @ over) / (counts @ under), np.nan)
    expected = np.empty((2, 12))
    for column in range(12):
        level = expanded(0.9, max(2, under[:, column].sum() ** 2 / (under[:, column] ** 2).sum()))
        expected[:, column] = np.nanquantile(ratios[:, column], [(1 - level) / 2, (1 + level) / 2])
    expected = expected.reshape(2, 4, 3)
    assert np.isnan(ratios).any()
    np.testing.assert_allclose(one.interval(0.9, 400, seed=5)["decoder"], expected, rtol=1e-12)


def test_one_pair_has_no_interval():
    one = result(n=1, values={"decoder": np.zeros((1, 4, 3))})
    assert one.table()["low"].isna().all()
    with pytest.raises(InputError, match="at least two pairs"):
        one.interval()


def test_networks_stand_beside_their_controls():
    one = result()
    line = one.network_table().iloc[0]
    network = one.networks["language"]
    whole = (one.clean - one.corrupt).sum()
    assert line["share"] == pytest.approx((network.joint - one.corrupt).sum() / whole)
    drawn = (network.controls["layer"] - one.corrupt).sum(1) / whole
    assert line["control"] == pytest.approx(drawn.mean())
    extreme = min((drawn >= line["share"]).sum(), (drawn <= line["share"]).sum())
    assert line["p"] == pytest.approx(min(1, 2 * (1 + extreme) / 10))
    assert "language (7 units" in one.summary()
    with pytest.raises(InputError, match="No network 'vision'"):
        one.network_effect("vision")


# -- direction: an effect is what a site carries ----------------------------------------------------------------------


def one_site_carries_all(direction, n=6):
    """Patching block 2, column 1 turns one run into the other; all other patches change nothing."""
    clean, corrupt = np.random.default_rng(2).normal((4, -4), 1, (n, 2)).T
    base, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    values = np.repeat(base, 12).reshape(n, 4, 3)
    values[:, 2, 1] = source
    return {"n": n, "clean": clean, "corrupt": corrupt, "values": {"decoder": values}, "direction": direction}


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_largest_effect_is_of_the_site_that_carries_the_answer(direction):
    one = result(**one_site_carries_all(direction), networks={})
    expected = np.zeros((4, 3))
    expected[2, 1] = 1
    np.testing.assert_allclose(one.effect["decoder"], expected, atol=1e-12)
    np.testing.assert_allclose(one.interval()["decoder"], [expected, expected], atol=1e-12)
    first = one.top(1).iloc[0]
    assert (first["layer"], first["token"], first["effect"]) == (2, "$5 dog", pytest.approx(1))
    assert "largest effect 1.00 at block 2, '$5 dog'" in one.summary()
    assert ("restores" if direction == "denoise" else "destroys") in one.summary()
    # What the patched run looks like is still there, and differs between the directions.
    towards_clean = expected if direction == "denoise" else 1 - expected
    np.testing.assert_allclose(one.normalized["decoder"], towards_clean, atol=1e-12)


def test_a_figure_says_what_its_colours_are_in_either_direction():
    import matplotlib

    matplotlib.use("Agg")
    for direction, scale in (("denoise", "(0 corrupted, 1 clean)"), ("noise", "(0 clean, 1 corrupted)")):
        one = result(**one_site_carries_all(direction), networks={})
        for axes in (one.plot(), one.plot(on="picture")):
            drawn = axes[0].figure
            assert any(scale in ax.get_ylabel() for ax in drawn.axes)
        np.testing.assert_allclose(one.plot()[0].images[0].get_array()[2, 1], 1)


def test_directions_agree_where_they_measure_the_same():
    """The cells of pairs are compared as what a site carries, so the distance of the two runs does not enter."""
    one, other = (result(**one_site_carries_all(direction), networks={}) for direction in ("denoise", "noise"))
    line = mn.patching.agreement(one, other).iloc[0]
    assert line["pearson"] == pytest.approx(1)
    assert line["pearson_pairs"] == pytest.approx(1)


def with_network(share, draws, direction):
    """A network that carries a share of the difference in every pair, beside draws that carry others."""
    made = one_site_carries_all(direction)
    whole = made["clean"] - made["corrupt"]
    start, sign = (made["corrupt"], 1) if direction == "denoise" else (made["clean"], -1)
    controls = {"layer": np.stack([start + sign * draw * whole for draw in draws])}
    return result(**made, networks={"language": NetworkPatch(7, {}, start + sign * share * whole, controls)})


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("share", "p", "finding"), [(0.9, 2 / 41, "more"), (0.0, 2 / 41, "less"), (0.3, 1.0, ""), (np.nan, np.nan, "")]
)
def test_a_network_may_carry_more_or_less_than_random_units(direction, share, p, finding):
    one = with_network(share, np.linspace(0.2, 0.4, 40), direction)
    if np.isnan(share):
        one = with_network(0.3, np.linspace(0.2, 0.4, 40), direction)
        one.networks["language"].joint[1] = np.inf  # one patched run overflowed
    line = one.network_table().iloc[0]
    assert line["p"] == pytest.approx(p, nan_ok=True)
    assert line["finding"] == finding
    assert (f"carries {finding} than random units" in one.summary()) == bool(finding)


def test_equal_effects_are_ties_whatever_the_order_of_additions():
    line = with_network(0.1 + 0.2, [0.3] * 40, "denoise").network_table().iloc[0]
    assert line["p"] == 1
    assert line["finding"] == ""


def test_few_draws_cannot_decide():
    one = with_network(0.9, np.linspace(0.2, 0.4, 18), "denoise")
    assert one.network_table().iloc[0]["finding"] == ""
    assert "18 draws cannot decide, 19 can" in one.summary()
    line = with_network(0.9, np.linspace(0.2, 0.4, 20), "denoise").network_table().iloc[0]
    assert (line["p"], line["finding"]) == (pytest.approx(2 / 21), "more")


def test_findings_about_random_units_are_rare():
    """A network that is a draw like the others leads to a finding in at most 5% of studies."""
    rng = np.random.default_rng(0)
    found = [with_network(*_split(rng.normal(size=21)), "noise").network_table()["finding"][0] for _ in range(400)]
    assert sum(map(bool, found)) / len(found) <= 0.06


@pytest.mark.parametrize("draw", ["normal", "standard_t", "lognormal"])
def test_the_rule_of_findings_holds_its_level_with_heavy_tails(draw):
    rng = np.random.default_rng(1)
    made = getattr(rng, draw)(*([3] if draw == "standard_t" else []), size=(8000, 21))
    found = [against_draws(row[0], row[1:]).finding for row in made]
    assert 0.02 < np.mean([bool(one) for one in found]) <= 0.065  # 0.06, and the error of 8,000 simulations


def _split(values):
    return values[0], values[1:]


def test_a_result_comes_back_from_its_file(tmp_path):
    one = result(unit_effect={"decoder": np.ones((4, 6))})
    one.save(tmp_path / "r.safetensors")
    two = Patching.load(tmp_path / "r.safetensors")
    assert two.columns == one.columns
    assert two.labels == one.labels
    assert two.layers == one.layers
    assert two.summary() == one.summary()
    for name in ("values", "unit_effect"):
        np.testing.assert_array_equal(getattr(two, name)["decoder"], getattr(one, name)["decoder"])
    np.testing.assert_array_equal(two.picture, one.picture)
    assert two.network_table().equals(one.network_table())
    with pytest.raises(InputError, match="safetensors"):
        one.save(tmp_path / "r.npz")
    mn.Units({"decoder": np.ones((1, 2), dtype=bool)}).save(tmp_path / "u.json")


def test_pictures_of_a_result():
    import matplotlib

    matplotlib.use("Agg")
    one = result()
    (ax,) = one.plot()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["the", "$5 dog", "<image>"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2", "5"]
    np.testing.assert_allclose(ax.images[0].get_array(), one.effect["decoder"])
    ax.figure.canvas.draw()
    axes = one.plot(on="picture", layers=[0, 5])
    assert len(axes) == 2
    (box,) = axes[1].patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (0, 0, 4, 6)
    for options, message in (
        ({"tower": "vision"}, "`tower` must be one of decoder"),
        ({"on": "map"}, "`on` must be one of .*, got 'map'"),
        ({"on": "picture", "layers": [3]}, "must be patched layers of decoder"),
        ({"network": "none"}, "No network"),
    ):
        with pytest.raises(InputError, match=message):
            one.plot(**options)
    grouped = result(columns={"decoder": (Column("a", "text"), Column("b", "text"), Column("<image>", "image"))})
    with pytest.raises(InputError, match="No image token"):
        grouped.plot(on="picture")


# -- corruptions -----------------------------------------------------------------------------------------------------


def pictured(seed=0, size=(40, 24)):
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    return mn.Stimulus("the dog sees the cat", image=Image.fromarray(values), id="s")


def pixels(stimulus):
    return np.asarray(stimulus.images()[0], dtype=float)


def test_corrupted_pictures():
    one = pictured()
    grey = pixels(mn.corrupt.grey(one))
    assert np.ptp(grey) == 0
    assert grey[0, 0, 0] == round(float(pixels(one).mean((0, 1)) @ [0.299, 0.587, 0.114]))
    assert (pixels(mn.corrupt.grey(one, 7)) == 7).all()
    noisy = pixels(mn.corrupt.noise(one, scale=20, seed=1)) - pixels(one)
    assert 10 < noisy.std() < 21
    assert (pixels(mn.corrupt.noise(one, seed=2)) == pixels(mn.corrupt.noise(one, seed=2))).all()
    scrambled = mn.corrupt.phase_scramble(one, seed=3)
    assert (pixels(scrambled) == np.asarray(mn.stimuli.phase_scramble(one.image, 3))).all()
    covered = pixels(mn.corrupt.occlude(one, (0.5, 0, 1, 0.5), level=9))
    assert (covered[:12, 20:] == 9).all()
    assert (covered[12:] == pixels(one)[12:]).all()
    assert (covered[:, :20] == pixels(one)[:, :20]).all()
    swapped = mn.corrupt.swap_image(one, pictured(4, (10, 10)))
    assert swapped.images()[0].size == (40, 24)
    assert swapped.text == one.text
    assert mn.corrupt.resize(one, (8, 8)).images()[0].size == (8, 8)


def test_corrupted_texts():
    one = pictured()
    assert mn.corrupt.swap_text(one, "the", "a").text == "a dog sees a cat"
    assert mn.corrupt.mask_text(one, ["dog", "cat"]).text == "the _ sees the _"
    shuffled = mn.corrupt.shuffle_text(one, seed=1)
    assert shuffled.text != one.text
    assert sorted(shuffled.text.split()) == sorted(one.text.split())
    assert shuffled.image is one.image


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: mn.corrupt.grey(mn.Stimulus("x")), "has none"),
        (lambda s: mn.corrupt.grey(s, 300), "0 to 255"),
        (lambda s: mn.corrupt.noise(s, 0), "above 0"),
        (lambda s: mn.corrupt.noise(s, seed=-1), "seed"),
        (lambda s: mn.corrupt.occlude(s, (0, 0, 2, 1)), "box"),
        (lambda s: mn.corrupt.occlude(s, (0.5, 0.5, 0.501, 0.501)), "no pixel"),
        (lambda s: mn.corrupt.swap_text(s, "do", "x"), "does not contain 'do'"),
        (lambda s: mn.corrupt.shuffle_text(mn.Stimulus("word word")), "fewer than two different words"),
        (lambda s: mn.corrupt.resize(s, (0, 4)), "width, height"),
    ],
)
def test_bad_corruptions(make, message):
    with pytest.raises(InputError, match=message):
        make(pictured())


# -- bundled pairs ---------------------------------------------------------------------------------------------------


def test_bundled_pairs_differ_in_what_they_say():
    pairs = agreement_pairs()
    assert len(pairs) == 60
    assert len({(a.text, right) for a, right in zip(pairs.clean, pairs.answers, strict=True)}) == 60
    for clean, corrupt, right in zip(pairs.clean, pairs.corrupt, pairs.answers, strict=True):
        one, two = clean.text.split(), corrupt.text.split()
        assert sum(a != b for a, b in zip(one, two, strict=True)) == 1
        different = next(a for a, b in zip(one, two, strict=True) if a != b)
        assert different.endswith("s") == (right in (" are", " were"))
    facts = fact_pairs()
    assert len({stimulus.text for stimulus in facts.clean}) == 30
    assert all(a != b for a, b in zip(facts.answers, facts.distractors, strict=True))
    assert len(facts[:4]) == 4
    for make in (agreement_pairs, fact_pairs, colour_pairs):
        with pytest.raises(InputError, match="`n` must be an integer from 1 to"):
            make(0)


def test_colours_differ_in_nothing_but_the_thing():
    pairs = colour_pairs(8, size=64)
    for clean, corrupt, right, wrong in zip(pairs.clean, pairs.corrupt, pairs.answers, pairs.distractors, strict=True):
        assert clean.text == corrupt.text
        assert right != wrong
        changed = np.abs(pixels(clean) - pixels(corrupt)).max(2) > 0
        assert 0 < changed.mean() < 0.5


def test_words_are_found_among_tokens():
    from reference import load

    for name in ("llama", "gpt2"):
        model = load(name)
        given = ["The dog ran across the field", "Is there a face, a house or a car?"]
        found = mn.patching.tokens_of(model, given, ["across the", "house"])
        for text, places, word in zip(given, found, ("across the", "house"), strict=True):
            ids = model.tokenizer(text)["input_ids"]
            assert "".join(model.tokenizer.decode([ids[i] for i in places]).split()) == "".join(word.split())
        with pytest.raises(InputError, match="no tokens that read 'zebra'"):
            mn.patching.tokens_of(model, given[0], "zebra")
        result = mn.activation_patching(
            model,
            ["The dog ran across the field", "The tea ran across"],
            ["The fox ran across the field", "The fox ran across"],
            lambda logits: logits[:, 5],
            align="last",
            tokens={"ran": mn.patching.tokens_of(model, ["The dog ran across the field", "The tea ran across"], "ran")},
            cache=False,
            progress=False,
        )
        assert [column.name for column in result.columns["decoder"]] == ["ran"]


def test_long_rows_are_labelled_here_and_there():
    from modalnet.plotting.patching import _labelled

    columns = [Column("<s>", "text"), *(Column(f"<image {i}>", "image") for i in range(576)), Column("?", "text")]
    places = _labelled(columns)
    assert len(places) <= 60
    assert {0, 1, 577} <= set(places)
