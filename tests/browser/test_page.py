"""The atlas in a real browser: what it draws, and the numbers it shows, against the arrays it was made of."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import assets
import modalnet as mn
from modalnet.localization.result import Localization
from modalnet.plotting import Arrangement
from modalnet.plotting.arrangement import patch
from modalnet.plotting.style import NETWORKS
from modalnet.profiles.result import Profile
from modalnet.stats.moments import Moments
from modalnet.tasks import spec

pytestmark = pytest.mark.browser

RGB = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in NETWORKS]
SAID = "return document.getElementById('live').textContent"

Found = dict[str, Localization]


@pytest.fixture(scope="module")
def tiny() -> Found:
    """Language and vision in the bundled model: the first reaches the decoder alone, the second both towers."""
    model = mn.load("tiny")
    contrasts = {"language": mn.stimuli.language(), "vision": mn.stimuli.vision()}
    return {name: mn.localize(model, contrast, progress=False) for name, contrast in contrasts.items()}


@pytest.fixture(scope="module")
def page(tiny: Found, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("atlas") / "tiny.html"
    mn.atlas(tiny, title="<b>tiny</b> & co").save(path)
    return path


def places(tiny: Found, units: list[tuple[str, int, int]]) -> list[int]:
    """Where units stand among all units of the page."""
    shapes = tiny["vision"].shapes
    before = {"vision": 0, "decoder": math.prod(shapes["vision"])}
    return sorted(before[tower] + layer * shapes[tower][1] + dim for tower, layer, dim in units)


def every_unit(one: Localization) -> list[tuple[str, int, int]]:
    return [(tower, layer, dim) for tower in one.towers for layer, dim in np.ndindex(one.shapes[tower])]


def shown_t(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def shown_q(value: float) -> str:
    if value >= 0.001:
        return f"{value:.3f}"
    digits, exponent = f"{value:.1e}".split("e-")
    return f"{digits}e−{int(exponent)}"


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_it_opens_without_an_error_and_asks_for_nothing_from_outside(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.errors() == []
    assert browser.run("return performance.getEntriesByType('resource').map((one) => one.name)") == []
    assert browser.driver.find_element("css selector", "h1").text == "<b>tiny</b> & co"
    assert "arbitrary" in browser.find("note").text
    assert not browser.find("crowded").is_displayed()
    # Where a contrast did not reach a tower, its network has no count there, not a count of 0.
    first = browser.wait("return document.querySelector('#layers tbody tr')?.textContent")
    assert first.startswith("vision 0–")
    # The browser itself is told to keep everything out.
    assert browser.run("return fetch('data:text/plain,x').then(() => 'reached', () => 'refused')") == "refused"
    browser.errors()


def test_thresholds_select_what_the_localization_selects(browser: Any, page: Path, tiny: Found) -> None:
    browser.open(page)
    thresholds = {
        ("top", "1"): lambda one: one.top(fraction=0.01).indices(),
        ("top", "7.3"): lambda one: one.top(fraction=0.073).indices(),
        ("q", "0.05"): lambda one: one.significant(0.05).indices(),
        ("t", "9.5"): lambda one: [unit for unit in every_unit(one) if one.t[unit[0]][unit[1:]] >= 9.5],
    }
    for (kind, value), expected in thresholds.items():
        browser.set("kind", kind, "change")
        browser.set("value", value)
        for at, one in enumerate(tiny.values()):
            units = expected(one)
            assert len(units) >= 10
            assert browser.network(at) == places(tiny, units), (kind, value, at)
            assert browser.find(f"count-{at}").text == f"{len(units):,}"
    assert browser.errors() == []


def test_the_slider_changes_what_is_drawn(browser: Any, page: Path, tiny: Found) -> None:
    browser.open(page)
    language, vision = tiny.values()
    few, many, other = language.top(fraction=0.01), language.top(fraction=0.08), vision.top(fraction=0.083)
    early = next(unit for unit in few.indices() if not other.mask["decoder"][unit[1:]])
    late = next(unit for unit in (many - few).indices() if not other.mask["decoder"][unit[1:]])
    assert browser.pixel(*early) == RGB[0]
    assert len(set(browser.pixel(*late))) == 1  # the neutral ground
    least, most = browser.run("return [Math.log10(100 / modalnetAtlas.atlas.units), 2]")
    browser.set("slider", str(1000 * (math.log10(8.2) - least) / (most - least)))
    assert browser.pixel(*late) == RGB[0]
    # Units of both networks are counted, and drawn as neither's.
    shared = set(browser.network(0)) & set(browser.network(1))
    assert browser.find("count-several").text == str(len(shared))
    assert shared
    tower, layer, dim = browser.run(
        "const at = modalnetAtlas.atlas.placeOf(arguments[0]); return [at.tower.name, at.layer, at.dim]", min(shared)
    )
    assert browser.pixel(tower, layer, dim) == (255, 255, 255)
    # A network that is taken off gives its units back to the ground.
    browser.find("network-0").click()
    assert len(set(browser.pixel(*late))) == 1
    assert browser.pixel(tower, layer, dim) == RGB[1]
    assert browser.errors() == []


def test_hovering_shows_the_numbers_of_that_unit(browser: Any, page: Path, tiny: Found) -> None:
    browser.open(page)
    rng = np.random.default_rng(0)
    one = tiny["vision"]
    for tower, (layers, width) in one.shapes.items():
        for _ in range(4):
            layer, dim = int(rng.integers(layers)), int(rng.integers(width))
            t, q = one.t[tower][layer, dim], one.q[tower][layer, dim]
            browser.hover(tower, layer, dim)
            browser.wait(f"return document.querySelector('[data-unit=\"{tower}/{layer}/{dim}\"]')")
            tooltip = browser.find("tooltip").text
            assert f"{tower} block {layer}, dimension {dim}" in tooltip
            assert f"vision: t = {shown_t(t)}, q = {shown_q(q)}" in tooltip
            rows = [row.text.split() for row in browser.driver.find_elements("css selector", "#unit .numbers tbody tr")]
            assert [row[0] for row in rows] == ["language", "vision"]
            assert rows[1][1:3] == [shown_t(t), shown_q(q)]
            assert number(rows[1][3]) == pytest.approx(one.effect_size[tower][layer, dim], rel=0.006)
            expected = "–" if tower == "vision" else shown_t(tiny["language"].t[tower][layer, dim])
            assert rows[0][1] == expected
            charts = browser.driver.find_elements("css selector", "#unit svg")
            label = charts[-1].get_attribute("aria-label")
            for condition, means in one.means.items():
                (mean,) = re.findall(rf"{condition} ([^ ,]+)(?:,|$)", label)
                assert number(mean) == pytest.approx(means[tower][layer, dim], rel=0.006)
    assert browser.errors() == []


def test_the_keyboard_reaches_units_and_reads_them_out(browser: Any, page: Path, tiny: Found) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    canvas = browser.find("map")
    assert browser.find("live").get_attribute("role") == "status"
    t, tower, layer, dim = max((one.t[unit[0]][unit[1:]], *unit) for one in tiny.values() for unit in every_unit(one))
    canvas.send_keys("n")  # the strongest of all
    said = browser.run(SAID)
    assert said.startswith(f"{tower} block {layer}, dimension {dim}. ")
    assert f"t {shown_t(t)}" in said
    assert "in the network" in said
    key, next_layer = (Keys.PAGE_DOWN, layer + 1) if layer == 0 else (Keys.PAGE_UP, layer - 1)
    canvas.send_keys(key)
    assert browser.run(SAID).startswith(f"{tower} block {next_layer}, dimension {dim}. ")
    canvas.send_keys(Keys.HOME, Keys.ENTER)
    assert browser.run("return modalnetAtlas.state.pinned") == places(tiny, [(tower, 0, dim)])[0]
    browser.wait("return document.querySelector('#unit h3').textContent.includes('pinned')")
    # Every control has a name that a screen reader says.
    nameless = browser.run(
        "return [...document.querySelectorAll('button, input, select, canvas, svg')].filter((one) => "
        "!one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim()).map((one) => one.outerHTML)"
    )
    assert nameless == []
    assert browser.errors() == []


def test_t_of_one_contrast_is_drawn_warm_and_its_other_side_cold(browser: Any, page: Path, tiny: Found) -> None:
    browser.open(page)
    browser.set("view", "0", "change")
    (high,), (low,) = tiny["language"].top(k=1).indices(), tiny["language"].bottom(k=1).indices()
    assert len(set(browser.pixel(*low))) == 1
    browser.find("both").click()
    red, _, blue = browser.pixel(*high)
    assert red > blue
    red, _, blue = browser.pixel(*low)
    assert blue > red
    assert browser.errors() == []


def test_in_depth_the_same_units_glow_and_can_be_pointed_at(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.find("glass").click()
    browser.run("modalnetAtlas.draw()")
    drawn = browser.run("return modalnetAtlas.glass().points.map((one) => one.unit)")
    assert sorted(drawn) == sorted({*browser.network(0), *browser.network(1)})
    last = "const {x, y} = modalnetAtlas.glass().points.at(-1); return modalnetAtlas.glass().unitAt(x, y)"
    assert browser.run(last) == drawn[-1]
    assert browser.errors() == []


def test_light_and_dark(browser: Any, page: Path) -> None:
    browser.open(page)
    background = "return getComputedStyle(document.body).backgroundColor"
    before = browser.run(background)
    browser.find("theme").click()
    assert {before, browser.run(background)} == {"rgb(255, 255, 255)", "rgb(16, 19, 23)"}


def test_lesions_profiles_and_top_stimuli_stand_beside_the_map(browser: Any, tiny: Found, tmp_path: Path) -> None:
    model = mn.load("tiny")
    texts = mn.tasks.perplexity(["the dog sees the cat.", "the boys walk."])
    tasks = [*spec.parse("grammar", 6, 0), texts]
    study = mn.lesion_study(model, {"language (decoder)": tiny["language"]}, tasks, [0.01], 2, ["zero"], progress=False)
    profile = Profile(
        model="tiny",
        network="language",
        conditions=("sentences", "nonwords"),
        of_stimulus=np.repeat([0, 1], 4),
        items=None,
        responses=np.array([1.0, 1.25, 1.25, 1.5, -0.5, -0.25, -0.75, -0.5]),
        controls=np.zeros((2, 8)),
        normalize="z",
        notes=("held out",),
        settings={},
    )
    (unit,) = tiny["language"].top(k=1).indices()
    given = {unit: ["a sentence", (Image.new("RGB", (300, 200), "red"), 2.5)]}
    other = tiny["language"].top(k=2) - tiny["language"].top(k=1)
    found = mn.features.top_stimuli(
        model, other, mn.stimuli.language().stimuli[:20], n=3, per_token=False, progress=False
    )
    path = tmp_path / "all.html"
    mn.atlas(tiny, study=study, profiles={"language": profile}, top_stimuli=[given, found]).save(path)
    browser.open(path)
    rows = browser.driver.find_elements("css selector", "#lesion-chart tbody tr")
    drops = study.table()["drop"]
    assert len(rows) == len(drops)
    for row, drop in zip(rows, drops, strict=True):
        shown = row.find_elements("css selector", "td")[1].get_attribute("textContent")
        assert number(shown.split(" ")[0]) == pytest.approx(drop, abs=6e-4)
    charts = browser.driver.find_elements("css selector", "#lesion-chart svg")
    # Measures that have no scale in common have a chart each, where every network is named under every task.
    labels = [str(one.get_attribute("aria-label")).partition(" under")[0] for one in charts]
    assert labels == ["Drop in accuracy", "Drop in nats per token"]
    named = [
        text.get_attribute("textContent") for text in charts[1].find_elements("css selector", "text.task, text.value")
    ]
    assert named[:2] == ["perplexity", "language (decoder)"]
    circles = charts[1].find_elements("css selector", "circle")
    colour = NETWORKS[list(tiny).index("language")]
    assert [one.get_attribute("fill") for one in circles] == ["var(--muted)", colour]
    verdicts = browser.driver.find_elements("css selector", "#verdicts li")
    assert [one.get_attribute("textContent") for one in verdicts] == list(study.verdicts()["sentence"])
    label = browser.driver.find_element("css selector", "#profile-charts svg").get_attribute("aria-label")
    assert label == "Response of language: sentences 1.25, nonwords −0.5"
    browser.hover(*unit, click=True)
    browser.wait("return document.querySelectorAll('.top-stimuli li').length === 2")
    assert browser.wait(
        "const list = document.querySelector('.top-stimuli');"
        "const picture = list.querySelector('img'), text = list.querySelector('span');"
        "return picture.complete && [picture.naturalWidth, text.textContent]"
    ) == [96, "a sentence"]
    assert browser.run("return modalnetAtlas.state.pinned") == places(tiny, [unit])[0]
    ((tower, layer, dim),) = other.indices()
    browser.find("unpin").click()
    browser.hover(tower, layer, dim)
    browser.wait(f"return document.querySelector('[data-unit=\"{tower}/{layer}/{dim}\"]')")
    items = [one.text for one in browser.driver.find_elements("css selector", ".top-stimuli span")]
    assert items == [found.stimuli[int(index)].text for index in found.row(0)[0]]
    assert len(items) == 3
    assert browser.errors() == []


def test_a_million_units(browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {"vision": (40, 1408), "decoder": (231, 4096)}
    rng = np.random.default_rng(0)
    found = {name: random_localization(shapes, rng) for name in ("language", "vision")}
    cells = {tower: patch(width) for tower, (_, width) in shapes.items()}
    arrangement = Arrangement(  # in order: sorting 4,096 dimensions takes seconds and is tested elsewhere
        {tower: some[None, :, 0] for tower, some in cells.items()},
        {tower: some[None, :, 1] for tower, some in cells.items()},
        {tower: (int(some[:, 0].max()) + 1, int(some[:, 1].max()) + 1) for tower, some in cells.items()},
    )
    path = tmp_path / "million.html"
    mn.atlas(found, arrangement=arrangement, top=0.001).save(path)
    browser.open(path)
    units = sum(map(math.prod, shapes.values()))
    assert units > 1_000_000
    opening = int(browser.run("return document.documentElement.dataset.drawn"))
    frame, moved = browser.run(
        "const took = (work) => { const started = performance.now(); for (let i = 1; i <= 5; i++) work(i);"
        "  return (performance.now() - started) / 5; };"
        "const {draw, setThreshold} = modalnetAtlas;"
        "return [took(draw), took((i) => { setThreshold('top', i); draw(); })]"
    )
    with capsys.disabled():
        print(
            f"\natlas of 2 networks in {units:,} units ({path.stat().st_size / 2**20:.0f} MB): drawn {opening} ms "
            f"after opening, {frame:.0f} ms a frame, {moved:.0f} ms a step of the threshold"
        )
    for at, one in enumerate(found.values()):
        assert len(browser.network(at)) == one.top(fraction=0.05).count
    assert "zoom in" in browser.find("crowded").text
    # A pixel holds several units here: the pointer names one of them, with its own numbers.
    browser.hover("decoder", 100, 77)
    browser.wait("return document.getElementById('tooltip').dataset.unit")
    tower, layer, dim = browser.run(
        "const {atlas} = modalnetAtlas, at = atlas.placeOf(Number(document.getElementById('tooltip').dataset.unit));"
        "return [at.tower.name, at.layer, at.dim]"
    )
    assert (tower, layer) == ("decoder", 100)
    assert f"language: t = {shown_t(found['language'].t[tower][layer, dim])}" in browser.find("tooltip").text
    assert browser.errors() == []


def random_localization(shapes: dict[str, tuple[int, int]], rng: np.random.Generator) -> Localization:
    sides: dict[str, dict[str, list[Moments]]] = {"positive": {}, "negative": {}}
    for tower, shape in shapes.items():
        for side, shift in (("positive", 0.3), ("negative", 0.0)):
            sides[side][tower] = [Moments(20, rng.normal(shift, 0.3, shape), 20 * rng.uniform(0.5, 2, shape))]
    conditions = {side: {tower: folds[0] for tower, folds in parts.items()} for side, parts in sides.items()}
    mean_abs = {tower: rng.uniform(0.5, 2, shape) for tower, shape in shapes.items()}
    return Localization(sides=sides, conditions=conditions, mean_abs=mean_abs, meta={"source": "random"})


@pytest.mark.real
def test_gemma_3_270m(browser: Any, tmp_path: Path) -> None:
    model = mn.load(assets.gemma())
    stimuli = mn.stimuli.language().stimuli
    some = [one for name in ("sentences", "nonwords") for one in [s for s in stimuli if s.condition == name][:24]]
    one = mn.localize(model, mn.Contrast(some, positive="sentences", negative="nonwords"), progress=False)
    path = tmp_path / "gemma.html"
    mn.atlas(one).save(path)
    browser.open(path)
    assert len(browser.network(0)) == 115
    ((tower, layer, dim),) = one.top(k=1).indices()
    browser.hover(tower, layer, dim)
    browser.wait(f"return document.querySelector('[data-unit=\"{tower}/{layer}/{dim}\"]')")
    assert f"t = {shown_t(one.t[tower][layer, dim])}" in browser.find("tooltip").text
    assert browser.errors() == []
