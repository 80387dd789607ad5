"""The pictures of all units: distributions, the sheet, the glass view, and where units stand in them."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from modalnet import plotting
from modalnet.errors import InputError
from modalnet.localization.result import Localization
from modalnet.plotting.arrangement import ARBITRARY, patch, sort_on
from modalnet.plotting.sheet_layout import lay_out
from modalnet.plotting.style import NETWORKS, OVERLAP
from modalnet.stats.moments import Moments
from planted import localization


@pytest.fixture(autouse=True)
def _no_windows():
    from matplotlib import pyplot

    with mpl.rc_context({"backend": "agg"}):
        pyplot.switch_backend("agg")
        yield
        pyplot.close("all")


# -- where units stand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 64, 384, 1000])
def test_a_patch_has_a_cell_for_every_unit_and_is_round(n: int) -> None:
    cells = patch(n)
    assert len({tuple(cell) for cell in cells.tolist()}) == n
    assert cells.min() == 0
    height, width = cells.max(axis=0) + 1
    assert n <= height * width <= 1.35 * n + 6
    if n > 60:  # the corners of its box are empty
        assert (0, 0) not in {tuple(cell) for cell in cells.tolist()}


def _roughness(places: np.ndarray, described: np.ndarray) -> float:
    """Mean distance between the descriptions of neighbours."""
    at = {tuple(place): i for i, place in enumerate(places.tolist())}
    pairs = [(i, at[y, x + 1]) for (y, x), i in at.items() if (y, x + 1) in at]
    pairs += [(i, at[y + 1, x]) for (y, x), i in at.items() if (y + 1, x) in at]
    first, second = np.array(pairs).T
    return float(np.linalg.norm(described[first] - described[second], axis=1).mean())


@pytest.mark.parametrize("n", [300, 1500])
def test_units_that_respond_alike_become_neighbours(n: int) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.uniform(-1, 1, (n, 2))  # a sheet, seen through 30 noisy measurements
    described = hidden @ rng.normal(size=(2, 30)) + 0.1 * rng.normal(size=(n, 30))
    places = patch(n)
    order = sort_on(places, described, seed=0)
    assert sorted(order.tolist()) == list(range(n))
    by_chance = _roughness(places[rng.permutation(n)], described)
    assert _roughness(places[order], described) < 0.35 * by_chance
    np.testing.assert_array_equal(order, sort_on(places, described, seed=0))


def test_blocks_share_one_arrangement_unless_asked() -> None:
    one = localization("vision", "decoder")
    shared, apart = plotting.arrange(one), plotting.arrange(one, shared=False)
    for tower, (layers, width) in one.shapes.items():
        assert shared.rows[tower].shape == (1, width)
        assert apart.rows[tower].shape == (layers, width)
        for arrangement in (shared, apart):
            for block in range(layers):
                cells = set(zip(*(some.tolist() for some in arrangement.cells(tower, block)), strict=True))
                assert cells == {tuple(cell) for cell in patch(width).tolist()}
    assert not np.array_equal(apart.rows["decoder"][0], apart.rows["decoder"][5])


def test_patches_never_lie_on_each_other() -> None:
    one = localization("vision", "decoder")
    sizes = plotting.arrange(one).sizes
    layout = lay_out(one.shapes, sizes)
    taken = np.zeros((layout.height, layout.width), dtype=int)
    for (tower, _), (left, upper) in layout.corners.items():
        height, width = sizes[tower]
        taken[upper : upper + height, left : left + width] += 1
    assert taken.max() == 1
    assert taken.sum() == sum(layers * sizes[tower][0] * sizes[tower][1] for tower, (layers, _) in one.shapes.items())


# -- the sheet -----------------------------------------------------------------------------------------------------


def _colour_of(ax: mpl.axes.Axes, one: Localization, arrangement: plotting.Arrangement, unit: tuple) -> tuple:
    tower, block, dim = unit
    (image,) = ax.images
    left, upper = lay_out(one.shapes, arrangement.sizes).corners[tower, block]
    rows, columns = arrangement.cells(tower, block)
    return tuple(image.get_array()[upper + rows[dim], left + columns[dim]][:3])


def _texts(ax: mpl.axes.Axes) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def test_t_is_warm_above_the_threshold_cold_below_and_grey_between() -> None:
    one = localization("vision", "decoder")
    arrangement = plotting.arrange(one)
    ax = plotting.sheet(one, t=3.0, arrangement=arrangement)
    kinds = {"warm": 0, "cold": 0, "grey": 0}
    for tower, t in one.t.items():
        for block, dim in np.ndindex(t.shape):
            red, green, blue = _colour_of(ax, one, arrangement, (tower, block, dim))
            kind = "grey" if red == green == blue else "warm" if red > blue else "cold"
            kinds[kind] += 1
            value = t[block, dim]
            assert kind == ("warm" if value >= 3 else "cold" if value <= -3 else "grey")
    assert min(kinds.values()) > 0
    assert ARBITRARY in _texts(ax)
    assert "|t| ≥ 3" in _texts(ax)
    assert all(name in _texts(ax) for name in ("vision tower", "decoder tower", "model", "faces > houses"))


def test_the_default_is_the_significant_units_and_one_side_can_be_left_out() -> None:
    one = localization("decoder")
    arrangement = plotting.arrange(one)
    ax = plotting.sheet(one, both_signs=False, arrangement=arrangement)
    for tower, block, dim in [("decoder", *place) for place in np.ndindex(one.shapes["decoder"])]:
        red, _, blue = _colour_of(ax, one, arrangement, (tower, block, dim))
        assert (red != blue) == one.significant(0.05).mask[tower][block, dim]


def test_networks_have_their_colours_and_what_they_share_is_white() -> None:
    # A contrast of texts reaches the decoder alone.
    named = {"language": localization("decoder", seed=1), "vision": localization("vision", "decoder", seed=2)}
    arrangement = plotting.arrange(named)
    ax = plotting.sheet(named, top=0.1, theme="dark", arrangement=arrangement)
    language, vision = (one.top(fraction=0.1) for one in named.values())
    shared = 0
    for tower, mask in vision.mask.items():
        for block, dim in np.ndindex(mask.shape):
            own = (tower == "decoder" and language.mask["decoder"][block, dim], mask[block, dim])
            shared += all(own)
            colour = _colour_of(ax, named["vision"], arrangement, (tower, block, dim))
            expected = {(True, False): NETWORKS[0], (False, True): NETWORKS[1], (True, True): OVERLAP}.get(own)
            if expected is None:
                assert colour[0] == colour[1] == colour[2] < 0.6
            else:
                np.testing.assert_allclose(colour, to_rgb(expected))
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == [
        f"language: {language.count} units",
        f"vision: {vision.count} units",
        f"in several networks: {shared} units",
    ]
    assert shared > 0


def test_units_of_ones_own_are_drawn_in_place_of_a_threshold() -> None:
    named = {"a": localization("decoder", seed=1), "b": localization("decoder", seed=2)}
    networks = {name: one.bottom(k=3) for name, one in named.items()}
    arrangement = plotting.arrange(named)
    ax = plotting.sheet(named, networks, arrangement=arrangement)
    for unit in networks["a"].indices():
        expected = OVERLAP if networks["b"].mask[unit[0]][unit[1:]] else NETWORKS[0]
        np.testing.assert_allclose(_colour_of(ax, named["a"], arrangement, unit), to_rgb(expected))
    assert "units as given" in _texts(ax)
    # With one localization they are outlined on its map.
    ax = plotting.sheet(named["a"], networks["a"])
    outline = [lines for lines in ax.collections if type(lines).__name__ == "LineCollection"]
    assert len(outline) == 1
    assert len(outline[0].get_segments()) >= 4 * 3 - 4


@pytest.mark.parametrize("draw", [plotting.sheet, plotting.glass])
def test_networks_is_the_old_spelling_of_units(draw) -> None:
    one = localization("decoder")
    with pytest.warns(DeprecationWarning, match="`networks=` is deprecated.*`units=`"):
        ax = draw(one, networks=one.bottom(k=3))
    assert _texts(ax) == _texts(draw(one, units=one.bottom(k=3)))


def test_undefined_units_are_neither_ground_nor_coloured() -> None:
    shape = (2, 40)
    total = Moments(5, np.zeros(shape), np.ones(shape))
    flat = Moments(5, np.zeros(shape), np.where(np.arange(40) == 7, 0.0, 1.0) * np.ones(shape))
    sides = {side: {"decoder": [flat]} for side in ("positive", "negative")}
    one = Localization(sides=sides, conditions={"a": {"decoder": total}}, mean_abs={"decoder": np.ones(shape)}, meta={})
    assert np.isnan(one.t["decoder"][0, 7])
    arrangement = plotting.arrange(one)
    ax = plotting.sheet(one, arrangement=arrangement)
    assert max(_colour_of(ax, one, arrangement, ("decoder", 0, 7))) < 0.2
    assert min(_colour_of(ax, one, arrangement, ("decoder", 0, 8))) > 0.3


# -- in depth ------------------------------------------------------------------------------------------------------


def test_the_glass_view_has_every_selected_unit_in_its_block() -> None:
    one = localization("vision", "decoder")
    units = one.top(fraction=0.1)
    arrangement = plotting.arrange(one)
    ax = plotting.glass(one, top=0.1, arrangement=arrangement)
    points = [scatter for scatter in ax.collections if type(scatter).__name__ == "Path3DCollection"]
    drawn = sum(len(scatter._offsets3d[0]) for scatter in points)
    assert drawn == 3 * units.count  # two halos and a core
    depths = np.unique(np.concatenate([scatter._offsets3d[0] for scatter in points]))
    assert len(depths) == sum(int((counts > 0).sum()) for counts in units.per_layer().values())
    texts = "\n".join(text.get_text() for text in ax.texts)
    assert all(word in texts for word in ("vision tower", "connector", "decoder tower", ARBITRARY))
    lines = [some for some in ax.collections if type(some).__name__ == "Line3DCollection"]
    assert sum(len(some._segments3d) for some in lines) == sum(
        int((mask[:-1] & mask[1:]).sum()) for mask in units.mask.values()
    )


def test_one_tower_in_depth_has_no_connector() -> None:
    ax = plotting.glass(localization("decoder"), theme="light")
    assert "connector" not in "\n".join(text.get_text() for text in ax.texts)


# -- distributions -------------------------------------------------------------------------------------------------


def test_the_histogram_counts_every_unit_and_the_network() -> None:
    one = localization("vision", "decoder")
    axes = plotting.t_histogram(one, fraction=0.1, ax=Figure().subplots(1, 2))
    units = one.top(fraction=0.1)
    for ax, tower in zip(axes, one.towers, strict=True):
        everything, own = (stairs.get_data().values.sum() for stairs in ax.patches)
        assert everything == one.t[tower].size
        assert own == units.mask[tower].sum()
        assert f"{tower} tower" in ax.get_title("left")


def test_the_volcano_has_every_unit_where_it_belongs() -> None:
    one = localization("decoder")
    units = one.top(fraction=0.1)
    ax = plotting.volcano(one, units, ax=Figure().subplots())
    others, own = (some.get_offsets() for some in ax.collections)
    mask = units.mask["decoder"]
    for points, chosen in ((others, ~mask), (own, mask)):
        expected = np.column_stack([one.effect_size["decoder"][chosen], -np.log10(one.q["decoder"][chosen])])
        np.testing.assert_allclose(np.asarray(points), expected)
    (line,) = [line for line in ax.lines if "0.05" in str(line.get_label())]
    np.testing.assert_allclose(line.get_ydata(), -np.log10(0.05))


def test_a_localization_and_units_draw_themselves() -> None:
    one = localization("decoder")
    kinds = ("layers", "histogram", "volcano", "sheet", "glass")
    assert all(isinstance(one.plot(kind), mpl.axes.Axes) for kind in kinds)
    ax = one.top(fraction=0.1).plot()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 2 * one.top(fraction=0.1).per_layer()["decoder"])
    assert ax.collections  # the band of random units
    with pytest.raises(InputError, match="`kind` must be one of 'layers', 'histogram', 'volcano', 'sheet', 'glass'"):
        one.plot("pie")


@pytest.mark.parametrize("draw", [plotting.sheet, plotting.glass])
def test_pictures_are_written_without_a_window(draw, tmp_path: Path) -> None:
    from matplotlib import pyplot

    before = dict(mpl.rcParams)
    plotting.save_figure(draw, tmp_path / "map.png", localization("vision", "decoder"), top=0.1)
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width == 1440
        assert len(picture.convert("RGB").getcolors(maxcolors=2**20)) > 20
    with pytest.raises(InputError, match=r"map\.docx"):
        plotting.save_figure(draw, tmp_path / "map.docx", localization("decoder"))


@pytest.mark.parametrize("draw", [plotting.sheet, plotting.glass])
def test_bad_input_is_told(draw) -> None:
    one = localization("decoder")
    with pytest.raises(InputError, match="Only one of `t`, `q` and `top`"):
        draw(one, t=3, q=0.05)
    with pytest.raises(InputError, match="`top` must be a fraction above 0"):
        draw(one, top=5)
    with pytest.raises(InputError, match="light"):
        draw(one, theme="sepia")
    with pytest.raises(InputError, match="`localizations` is empty"):
        draw([])
    with pytest.raises(InputError, match="is a Units"):
        draw({"a": one.top(k=3)})
    with pytest.raises(InputError, match="one model"):
        draw([localization("decoder", model="a"), localization("decoder", model="b")])
    with pytest.raises(InputError, match="up to 6 networks"):
        draw([localization("decoder", seed=seed) for seed in range(7)])
    with pytest.raises(InputError, match="belong to another model"):
        draw(one, localization("vision").top(k=3))
    with pytest.raises(InputError, match="must have the names"):
        draw({"a": one}, {"b": one.top(k=3)})
    with pytest.raises(InputError, match="`arrangement` has the widths"):
        draw(one, arrangement=plotting.arrange(localization("vision")))
