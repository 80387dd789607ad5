"""The layer profile: what is drawn, and that drawing leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from modalnet.errors import InputError, StoreError
from modalnet.plotting import layer_profile, save_layer_profile
from modalnet.units import Units
from planted import WIDTHS, localization


def axes_for(n: int) -> np.ndarray:
    return Figure().subplots(1, n, squeeze=False, sharey=True)[0]


def test_the_line_is_the_share_of_each_layer() -> None:
    result = localization("decoder")
    units = result.top(k=40)
    ax = layer_profile(result, units, ax=axes_for(1))
    (line,) = [line for line in ax.lines if "network" in str(line.get_label())]
    assert line.get_xdata().tolist() == list(range(6))
    np.testing.assert_allclose(line.get_ydata(), 100 * units.per_layer()["decoder"] / 50)


def test_the_band_holds_95_percent_of_random_networks_of_the_tower() -> None:
    result = localization("decoder")
    units = result.top(k=40)
    ax = layer_profile(result, units, ax=axes_for(1), n_controls=30, seed=3)
    (band,) = ax.collections
    drawn = units.random(30, seed=3, match="tower")
    shares = np.array([100 * control.per_layer()["decoder"] / 50 for control in drawn])
    low, high = np.percentile(shares, [2.5, 97.5], axis=0)
    vertices = band.get_paths()[0].vertices
    for layer in range(6):
        inside = vertices[(vertices[:, 0] >= layer - 0.5) & (vertices[:, 0] <= layer + 0.5), 1]
        assert np.isclose(inside, low[layer]).any()
        assert np.isclose(inside, high[layer]).any()
    assert high.max() < 100 * units.per_layer()["decoder"][-1] / 50  # the planted layer stands out


def test_one_panel_for_each_tower_on_one_scale() -> None:
    result = localization("vision", "decoder")
    axes = layer_profile(result, fraction=0.1, ax=axes_for(2))
    assert len(axes) == 2
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert "faces > houses" in axes[0].get_title("left")
    assert "some/model" in axes[0].get_title("left")
    assert [ax.get_title("left").splitlines()[-1] for ax in axes] == ["vision tower", "decoder tower"]
    expected = result.top(fraction=0.1).per_layer()
    for ax, tower in zip(axes, result.towers, strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * expected[tower] / WIDTHS[tower][1])
        assert "layer" in ax.get_xlabel()
    assert "%" in axes[0].get_ylabel()


def test_a_network_too_large_for_a_random_one_beside_it_has_no_band_and_says_so() -> None:
    result = localization("decoder")
    ax = layer_profile(result, fraction=0.7, ax=axes_for(1))
    assert not ax.collections
    assert any("too large" in text.get_text() for text in ax.get_legend().get_texts())


def test_a_tower_without_selected_units_is_drawn_flat() -> None:
    result = localization("vision", "decoder")
    axes = layer_profile(result, result.top(k=5, towers="decoder"), ax=axes_for(2))
    assert not axes[0].lines[0].get_ydata().any()
    assert not axes[0].collections
    assert axes[1].collections


def test_an_empty_network_is_drawn() -> None:
    result = localization("decoder")
    empty = Units({"decoder": np.zeros((6, 50), dtype=bool)})
    low, high = layer_profile(result, empty, ax=axes_for(1)).get_ylim()
    assert low == 0 < high


def test_a_new_figure_shows_in_a_notebook() -> None:
    from matplotlib import pyplot

    with mpl.rc_context({"backend": "agg"}):
        pyplot.switch_backend("agg")
        ax = layer_profile(localization("decoder"))
        assert pyplot.gcf() is ax.figure
        pyplot.close(ax.figure)


def test_settings_of_matplotlib_stay_as_they_are(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    save_layer_profile(localization("decoder"), tmp_path / "layers.png")
    assert dict(mpl.rcParams) == before


def test_a_long_contrast_is_cut(tmp_path: Path) -> None:
    result = localization("decoder")
    result.meta["contrast"]["name"] = ",".join(f"condition{i}" for i in range(40))
    ax = layer_profile(result, ax=axes_for(1))
    assert len(ax.get_title("left").splitlines()) == 3
    assert "…" in ax.get_title("left")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_pictures_are_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"layers.{suffix}"
    save_layer_profile(localization("vision", "decoder"), path)
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(start)
    if suffix == "png":
        with Image.open(path) as image:
            assert image.size == (1400, 520)
    assert list(tmp_path.iterdir()) == [path]


def test_bad_input_is_told(tmp_path: Path) -> None:
    result = localization("vision", "decoder")
    with pytest.raises(InputError, match=r"must be 2 axes, one per space \(vision, decoder\), got 1"):
        layer_profile(result, ax=axes_for(1)[0])
    other = Units({"decoder": np.ones((2, 3), bool)})
    with pytest.raises(InputError, match=r"belong to another model.*shape \(2, 3\)"):
        layer_profile(result, other)
    with pytest.raises(InputError, match=r"layers\.docx"):
        save_layer_profile(result, tmp_path / "layers.docx")
    with pytest.raises(StoreError, match="cannot be written"):
        save_layer_profile(result, tmp_path / "absent" / "layers.png")
