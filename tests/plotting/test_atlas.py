"""What is in the page of an atlas; tests/browser opens it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import modalnet as mn
from modalnet.errors import InputError
from modalnet.features import TopStimuli
from modalnet.plotting.atlas.packing import rounded
from planted import localization

KINDS = {"float32": ("<f4", 4), "uint16": ("<u2", 2), "uint8": ("|u1", 1)}


class Scripts(HTMLParser):
    """The script elements of a page by id, and every attribute that could load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.loads: list[str] = []
        self._id: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loads += [f"{tag} {name}" for name in ("src", "href", "data") if name in values]
        self._id = values.get("id") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._id:
            self.texts[self._id] = self.texts.get(self._id, "") + data

    def array(self, packed: dict[str, Any]) -> np.ndarray:
        kind, size = KINDS[packed["kind"]]
        shuffled = np.frombuffer(gzip.decompress(base64.b64decode(self.texts[packed["id"]])), np.uint8)
        plain = np.ascontiguousarray(shuffled.reshape(size, packed["count"]).T)
        return plain.reshape(-1).view(kind)


def test_the_page_holds_every_number_and_loads_nothing(tmp_path: Path) -> None:
    named = {"language": localization("decoder", seed=1), "vision": localization("vision", "decoder", seed=2)}
    path = tmp_path / "atlas.html"
    mn.atlas(named).save(path)
    page = path.read_text(encoding="utf-8")
    scripts = Scripts(page)
    assert scripts.loads == []
    assert "default-src 'none'" in page
    document = json.loads(scripts.texts["document"])
    assert [tower["name"] for tower in document["towers"]] == ["vision", "decoder"]
    for entry, one in zip(document["localizations"], named.values(), strict=True):
        t, q = scripts.array(entry["t"]), scripts.array(entry["q"])
        start = 0
        for tower in document["towers"]:
            units = slice(start, start + tower["layers"] * tower["width"])
            start = units.stop
            if tower["name"] not in one.towers:
                assert np.isnan(t[units]).all()
                continue
            np.testing.assert_array_equal(t[units], one.t[tower["name"]].astype(np.float32).ravel())
            np.testing.assert_array_equal(q[units], np.log10(one.q[tower["name"]]).astype(np.float32).ravel())
            for layer, block in enumerate(entry["blocks"][tower["name"]]):
                rows = scripts.array(block).reshape(-1, tower["width"])
                expected = [one.effect_size[tower["name"]][layer]]
                expected += [one.means[name][tower["name"]][layer] for name in one.n]
                expected += [one.sds[name][tower["name"]][layer] / np.sqrt(one.n[name]) for name in one.n]
                np.testing.assert_allclose(rows, np.stack(expected), rtol=5e-4)
        assert start == len(t) == 4 * 30 + 6 * 50


def test_standard_deviations_are_those_of_the_activations() -> None:
    from modalnet.stats.moments import Moments

    values = np.random.default_rng(0).normal(size=(9, 2, 3))
    total = Moments.zeros((2, 3))
    total.update(values)
    sides = {side: {"decoder": [total]} for side in ("positive", "negative")}
    one = mn.Localization(
        sides=sides, conditions={"a": {"decoder": total}}, mean_abs={"decoder": np.ones((2, 3))}, meta={}
    )
    np.testing.assert_allclose(one.sds["a"]["decoder"], values.std(axis=0, ddof=1))


def test_rounding_keeps_three_digits() -> None:
    values = np.array([1.0, -3.14159, 1e-20, 7e30, 0.0, np.nan, np.inf, 65519.7])
    short = rounded(values)
    np.testing.assert_allclose(short[:5], values[:5], rtol=5e-4)
    assert np.isnan(short[5:7]).all()
    assert (short[np.isfinite(short)].view(np.uint32) & 0x1FFF == 0).all()


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--"
    atlas = mn.atlas({evil: localization("decoder", name=evil)}, title=evil)
    page = atlas.html()
    assert evil not in page
    assert json.loads(Scripts(page).texts["document"])["localizations"][0]["name"] == evil


def test_the_page_is_the_same_each_time() -> None:
    one = localization("decoder")
    assert mn.atlas(one).html() == mn.atlas(one).html()
    assert re.search(r"faces > houses; 300 units", repr(mn.atlas(one)))


def test_top_stimuli_come_from_features_or_a_mapping() -> None:
    from PIL import Image

    one = localization("decoder")
    picture = mn.Stimulus(image=Image.new("RGB", (640, 480), "green"), condition="faces")
    index, activation = np.array([[5, 3, -1]]), np.array([[2.5, 1.5, np.nan]])
    features = TopStimuli(
        model="model",
        units=(("decoder", 1, 2),),
        tokens={"decoder": "last"},
        magnitude="signed",
        bottom=False,
        scaled=False,
        n_stimuli=6,
        index=index,
        activation=activation,
        network_index=index[0],
        network_activation=activation[0],
        stimuli={5: mn.Stimulus("a text"), 3: picture},
    )
    for given in (features, [features], {("decoder", 1, 2): [("a text", 2.5), (picture, 1.5)]}):
        shown = mn.atlas(one, top_stimuli=given).document["top_stimuli"]["decoder/1/2"]
        assert shown[0] == {"text": "a text", "activation": 2.5}
        assert shown[1]["condition"] == "faces"
        assert shown[1]["picture"].startswith("data:image/jpeg;base64,")
        assert len(shown[1]["picture"]) < 4000
    with pytest.raises(InputError, match="does not have"):
        mn.atlas(one, top_stimuli={("decoder", 99, 0): ["x"]})
    with pytest.raises(InputError, match="top_stimuli"):
        mn.atlas(one, top_stimuli=3)
    with pytest.raises(InputError, match="the key 'decoder'"):
        mn.atlas(one, top_stimuli={"decoder": ["x"]})


def test_the_old_name_of_top_stimuli_warns() -> None:
    one = localization("decoder")
    with pytest.warns(DeprecationWarning, match="`favourites=` is deprecated.*`top_stimuli=`"):
        old = mn.atlas(one, favourites={("decoder", 1, 2): ["a text"]})
    assert old.html() == mn.atlas(one, top_stimuli={("decoder", 1, 2): ["a text"]}).html()


def test_bad_input_is_told(tmp_path: Path) -> None:
    one = localization("decoder")
    with pytest.raises(InputError, match="up to 6"):
        mn.atlas([localization("decoder", seed=seed) for seed in range(7)])
    with pytest.raises(InputError, match="`study` must be a LesionStudy"):
        mn.atlas(one, study=one)
    with pytest.raises(InputError, match="must map names to profiles"):
        mn.atlas(one, profiles=[1])
    with pytest.raises(InputError, match="no column mean"):
        mn.atlas(one, profiles={"a": SimpleNamespace(table=lambda: pd.DataFrame({"condition": ["x"]}))})
    with pytest.raises(InputError, match="`top` must be a fraction above 0 and at most 1"):
        mn.atlas(one, top=1.5)
    with pytest.raises(InputError, match=r"saved as \.html"):
        mn.atlas(one).save(tmp_path / "atlas.pdf")
