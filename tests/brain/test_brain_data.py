"""Brain data: what the readers make of files, arrays and published forms, folds, baselines, ceilings, topics."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy import stats

import assets
import modalnet as mn
from modalnet.brain import folds as dealing
from modalnet.brain.baselines import baselines
from modalnet.brain.ceiling import ceiling_interval
from modalnet.brain.dataset import BrainDataset
from modalnet.brain.encoding import Split
from modalnet.brain.result import RELIABLE
from modalnet.brain.topics import topics

TEXTS = [
    f"The {animal} sat on the {thing}." for animal in ("dog", "cat", "cow", "hen") for thing in ("mat", "hat", "bus")
]


def some_data(n: int = 12, t: int = 2, **options) -> BrainDataset:
    values = np.random.default_rng(0).standard_normal((n, t))
    return mn.brain.from_arrays([f"{TEXTS[i % len(TEXTS)]} {i}" for i in range(n)], values, **options)


# -- arrays ------------------------------------------------------------------------------------------------------------


def test_arrays_become_a_data_set():
    data = some_data(
        groups=[i // 3 for i in range(12)], ordered=True, subjects=["a", "b"], regions=["x", "y"], name="mine"
    )
    assert (len(data), data.n_targets, data.groups[:4], data.ordered) == (12, 2, ("0", "0", "0", "1"), True)
    assert data.stimuli[0].text.startswith("The dog")
    assert data.texts[1].startswith("The dog")
    assert repr(data) == "BrainDataset(mine: 12 stimuli, 2 targets, 2 subjects, 4 groups, in order, no noise ceiling)"
    assert list(data.describe()["subject"]) == ["a", "b"]
    with pytest.raises(ValueError, match="read-only"):
        data.responses[0] = 1


def test_one_target_and_repeats():
    values = np.random.default_rng(1).standard_normal((3, 12, 2))
    values[0, 0] = np.nan
    data = mn.brain.from_arrays([str(i) for i in range(12)], values)
    np.testing.assert_allclose(data.responses, np.nanmean(values, axis=0))
    assert data.noise_ceiling().shape == (2,)
    assert mn.brain.from_arrays([str(i) for i in range(12)], values[1, :, 0]).n_targets == 1


def test_selecting_keeps_what_belongs_together():
    data = some_data(groups=[i // 3 for i in range(12)], subjects=["a", "b"], ceiling=[0.5, 0.7])
    part = data.select(stimuli=np.arange(12) != 3, targets=[1])
    assert (len(part), part.subjects, part.groups[2:4], part.ceiling.tolist()) == (11, ("b",), ("0", "1"), [0.7])
    np.testing.assert_array_equal(part.responses[:, 0], np.delete(data.responses[:, 1], 3))


def test_the_digest_is_of_the_content():
    assert some_data().digest() == some_data(name="other").digest()
    assert some_data().digest() != some_data(groups=range(12)).digest()
    assert some_data(12).digest() != some_data(13).digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": np.zeros((11, 2))}, "got \\(11, 2\\) for 12 stimuli"),
        ({"responses": np.ones((12, 2))}, "2 of 2 targets are constant"),
        ({"responses": [["a"]] * 12}, "`responses` must be numbers"),
        ({"responses": np.full((12, 1), np.inf)}, "must not be infinite"),
        ({"responses": np.full((12, 1), np.nan)}, "fewer than ten responses"),
        ({"stimuli": "text"}, "a list of texts or Stimulus objects"),
        ({"stimuli": [""] * 12}, "stimulus 1"),
        ({"groups": [1, 2]}, "`groups` must have one entry per stimulus, got 2 for 12 stimuli"),
        ({"subjects": ["a"]}, "`subjects` must have one entry per target, got 1 for 2 targets"),
        ({"ceiling": [2.0, 0.1]}, "correlations from 0 to 1"),
        ({"ceiling": [0.1]}, "`ceiling` must have one entry per target, got 1 for 2 targets"),
    ],
)
def test_bad_arrays_are_refused(change, message):
    given = {"stimuli": [str(i) for i in range(12)], "responses": np.random.default_rng(0).standard_normal((12, 2))}
    with pytest.raises(mn.InputError, match=message):
        mn.brain.from_arrays(**(given | change))


def test_few_stimuli_are_refused():
    with pytest.raises(mn.InputError, match="at least 10 entries"):
        mn.brain.from_arrays(["a", "b"], [1.0, 2.0])


def test_something_else_is_no_data_set():
    with pytest.raises(mn.InputError, match=r"as a reader of modalnet.brain returns"):
        mn.brain.align(None, None, [1, 2])


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_csv_file_with_a_row_per_stimulus(tmp_path):
    path = tmp_path / "brain.csv"
    rows = "\n".join(f'"Sentence {i}, with a comma",{i / 7},{"NA" if i == 2 else i % 3},p{i // 4}' for i in range(12))
    path.write_text(f"text,left,right,passage\n{rows}\n")
    data = mn.brain.from_csv(path, responses=["left", "right"], group="passage")
    assert (data.regions, data.groups[4], data.stimuli[0].text) == (("left", "right"), "p1", "Sentence 0, with a comma")
    assert np.isnan(data.responses[2, 1])
    assert data.responses[7, 0] == 1
    assert mn.brain.from_csv(path, responses="left").n_targets == 1


def test_a_csv_file_with_a_row_per_response(tmp_path):
    path = tmp_path / "long.csv"
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 12, 3, 2))  # repeat, stimulus, subject, region
    rows = [
        f"Sentence {i},s{s},{'LH' if r == 0 else 'RH'},{k},{values[k, i, s, r]!r}".replace("np.float64(", "").replace(
            ")", ""
        )
        for i in range(12)
        for s in range(3)
        for r in range(2)
        for k in range(2)
    ]
    path.write_text("text,who,where,run,value\n" + "\n".join(rows) + "\n")
    columns = {"responses": "value", "subject": "who", "region": "where"}
    data = mn.brain.from_csv(path, **columns, repeat="run")
    assert data.repeats.shape == (2, 12, 6)
    assert (data.subjects[:3], data.regions[:3]) == (("s0", "s0", "s1"), ("LH", "RH", "LH"))
    np.testing.assert_allclose(data.responses, values.mean(0).reshape(12, 6))
    np.testing.assert_allclose(mn.brain.from_csv(path, **columns).responses, data.responses)
    assert mn.brain.from_csv(path, **columns).repeats is None


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,x\n" + "a,1\n" * 12, {}, "row 3 repeats the stimulus of row 2"),
        ("text,x\nb,hello\n", {}, "row 2: the response 'hello' is not a number"),
        ("text,x\n,1\n", {}, "row 2 has no stimulus"),
        ("text,y\nb,1\n", {}, "no column 'x'"),
        ("text,x\n", {}, "no rows"),
        ("text,x\nb,1\n", {"text": None}, "`text`, `image` or both must name a column"),
        ("text,x\nb,1\n", {"responses": []}, "`responses` must name at least one column"),
        ("text,x,g,s\na,1,p,1\na,2,q,2\n", {"group": "g", "subject": "s"}, "has the group 'p' in row 2"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, options, message):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(mn.InputError, match=message):
        mn.brain.from_csv(path, **({"responses": "x"} | options))


def test_a_folder_of_pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"im-{i:02d}.png")
    values = rng.standard_normal((12, 4))
    data = mn.brain.from_folder(tmp_path, values, ncsnr=[1.0, 2.0, 0.0, 3.0], n_repeats=3)
    assert data.stimuli[3].id == "im-03.png"
    assert data.texts is None
    np.testing.assert_allclose(
        data.ceiling, [np.sqrt(1 / (1 + 1 / 3)), np.sqrt(4 / (4 + 1 / 3)), 0, np.sqrt(9 / (9 + 1 / 3))]
    )
    np.save(tmp_path / "r.npy", values)
    table = "image,a,b\n" + "\n".join(f"im-{i:02d}.png,{i},{i * i}" for i in reversed(range(12)))
    (tmp_path / "r.csv").write_text(table)
    np.testing.assert_array_equal(mn.brain.from_folder(tmp_path, tmp_path / "r.npy").responses, values)
    listed = mn.brain.from_folder(tmp_path, tmp_path / "r.csv")
    assert (listed.stimuli[0].id, listed.regions, listed.responses[0].tolist()) == ("im-11.png", ("a", "b"), [11, 121])
    assert set(baselines(data)[0]) == {"image statistics", "pixels"}
    with pytest.raises(mn.InputError, match="lacks 1 image"):
        mn.brain.from_folder(tmp_path, values, names=[f"im-{i:02d}.png" for i in range(11)] + ["gone.png"])
    with pytest.raises(mn.InputError, match="not both"):
        mn.brain.from_folder(tmp_path, values, ncsnr=[1] * 4, ceiling=0.5)


# -- xarray and published forms ----------------------------------------------------------------------------------------


def assembly(**coords):
    xarray = pytest.importorskip("xarray")
    values = np.random.default_rng(0).standard_normal((12, 3))
    return xarray.DataArray(values, dims=("presentation", "neuroid"), coords=coords)


def test_an_xarray_is_sorted_and_labelled():
    order = np.random.default_rng(1).permutation(12)
    array = assembly(
        stimulus=("presentation", [f"piece {i}" for i in order]),
        story=("presentation", [f"story {i // 6}" for i in order]),
        place=("presentation", order),
        subject=("neuroid", ["a", "a", "b"]),
    )
    data = mn.brain.from_xarray(array.T, group="story", subject="subject", order=["story", "place"], ordered=True)
    assert data.texts[:2] == ("piece 0", "piece 1")
    assert data.groups[6] == "story 1"
    assert data.subjects == ("a", "a", "b")
    np.testing.assert_array_equal(data.responses, array.values[np.argsort(order)])
    with pytest.raises(mn.InputError, match="has no coordinate 'passage'"):
        mn.brain.from_xarray(array, group="passage")
    with pytest.raises(mn.InputError, match="must lie along presentation, got \\('neuroid',\\)"):
        mn.brain.from_xarray(array, group="subject")
    with pytest.raises(mn.InputError, match="must be an xarray DataArray, got ndarray"):
        mn.brain.from_xarray(array.values)


@pytest.mark.parametrize("reader", ["pereira2018", "tuckute2024", "fedorenko2016", "blank2014"])
def test_what_must_be_fetched_says_where(reader, monkeypatch):
    monkeypatch.setitem(sys.modules, "brainscore_language", None)
    with pytest.raises(mn.InputError, match="https://"):
        getattr(mn.brain, reader)()
    broken = types.ModuleType("brainscore_language")
    broken.load_dataset = lambda name: (_ for _ in ()).throw(OSError(f"no network for {name}"))
    monkeypatch.setitem(sys.modules, "brainscore_language", broken)
    with pytest.raises(mn.InputError, match=r"no network for .*\. The data are shared at https://"):
        getattr(mn.brain, reader)()


def test_assemblies_of_brainscore(monkeypatch):
    """The coordinates are those of the packages' own tests of their data sets."""
    words = ["ALEX", "WAS", "TIRED", "SO"] * 3
    given = {
        "Fedorenko2016.language": assembly(
            stimulus=("presentation", words),
            sentence_id=("presentation", np.repeat([0, 1, 2], 4)),
            word_num=("presentation", [0, 1, 2, 3] * 3),
            subject_UID=("neuroid", ["a", "b", "b"]),
        ),
        "Blank2014.fROI": assembly(
            stimulus=("presentation", [f"Once {i}" for i in range(12)]),
            story=("presentation", np.repeat(["Boar", "Aqua"], 6)),
            subject_id=("neuroid", ["090", "061", "061"]),
            fROI_area=("neuroid", ["01_LH_PostTemp", "02", "03"]),
        ),
        "Pereira2018.language": assembly(
            stimulus=("presentation", [f"Sentence {i}" for i in range(12)]),
            story=("presentation", np.repeat(["243sentences.bee", "384sentences.bed"], 6)),
            experiment=("presentation", np.repeat(["243sentences", "384sentences"], 6)),
            subject=("neuroid", ["018", "018", "199"]),
        ),
        "Tuckute2024.language": assembly(
            stimulus=("presentation", [f"Six words are in sentence {i}" for i in range(12)]),
            cond=("presentation", ["B"] * 10 + ["D"] * 2),
            roi=("neuroid", ["lang_LH_netw"] * 3),
        ),
    }
    module = types.ModuleType("brainscore_language")
    module.load_dataset = given.__getitem__
    monkeypatch.setitem(sys.modules, "brainscore_language", module)
    ecog = mn.brain.fedorenko2016()
    assert ecog.texts[:3] == ("ALEX", "ALEX WAS", "ALEX WAS TIRED")
    assert ecog.texts[4] == "ALEX"
    assert ecog.ordered
    story = mn.brain.blank2014()
    assert (story.groups[0], story.regions[0], story.subjects[1], len(story)) == ("Aqua", "01_LH_PostTemp", "061", 12)
    both = mn.brain.pereira2018()
    assert set(both.groups) == {"243sentences.bee", "384sentences.bed"}
    assert both.subjects == ("018", "018", "199")
    with pytest.raises(mn.InputError, match="at least 10 entries"):
        mn.brain.pereira2018(experiment="243sentences")
    assert len(mn.brain.tuckute2024(conditions="B")) == 10


def test_pereira_as_shared_per_participant(tmp_path):
    rng = np.random.default_rng(0)
    saved = {}
    for who, n_voxels in (("P01", 3), ("M02", 2)):
        (tmp_path / who).mkdir()
        saved[who] = rng.standard_normal((12, n_voxels))
        cells = np.empty((12, 1), dtype=object)
        cells[:, 0] = [np.array([f"Sentence {i}."]) for i in range(12)]
        topics_ = np.empty((1, 2), dtype=object)
        topics_[0] = [np.array(["Beekeeping"]), np.array(["Knife"])]
        scipy.io.savemat(
            tmp_path / who / "examples_243sentences.mat",
            {
                "examples": saved[who],
                "keySentences": cells,
                "labelsPassageForEachSentence": np.repeat([1, 2, 3], 4)[:, None],
                "labelsPassageCategory": np.array([[1], [1], [2]]),
                "keyPassageCategory": topics_,
            },
        )
    data = mn.brain.pereira2018(tmp_path)
    assert data.n_targets == 5
    assert set(data.groups) == {"243sentences.Beekeeping", "243sentences.Knife"}
    assert data.groups.count("243sentences.Beekeeping") == 8
    assert data.ordered
    row = data.texts.index("Sentence 7.")
    np.testing.assert_allclose(data.responses[row, np.array(data.subjects) == "P01"], saved["P01"][7])
    assert mn.brain.pereira2018(tmp_path / "P01" / "examples_243sentences.mat").n_targets == 3
    with pytest.raises(mn.InputError, match=r"holds no examples_.*osf\.io"):
        mn.brain.pereira2018(tmp_path, experiment="384sentences")
    scipy.io.savemat(tmp_path / "P01" / "examples_384sentences.mat", {"other": 1})
    with pytest.raises(mn.InputError, match="not a file of Pereira 2018"):
        mn.brain.pereira2018(tmp_path)


def test_tuckute_as_shared_per_participant(tmp_path):
    path = tmp_path / "brain-lang-data_participant_20230728.csv"
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 12))
    rows = [
        f"{848 + p},{i},{'B' if i < 10 else 'D'},{roi},Sentence number {i} has six words,"
        f"{values[p, i] + (roi != 'lang_LH_netw')}"
        for p in range(3)
        for i in range(12)
        for roi in ("lang_LH_netw", "lang_LH_IFG")
    ]
    path.write_text("target_UID,item_id,cond,roi,sentence,response_target\n" + "\n".join(rows) + "\n")
    data = mn.brain.tuckute2024(path)
    np.testing.assert_allclose(data.responses[:, 0], values.mean(0))
    assert data.repeats.shape == (3, 12, 1)
    assert data.noise_ceiling().shape == (1,)
    each = mn.brain.tuckute2024(path, each=True, conditions="B", participants=[848, 850])
    assert (each.subjects, len(each)) == (("848", "850"), 10)
    np.testing.assert_allclose(each.responses.T, values[[0, 2], :10])
    with pytest.raises(mn.InputError, match="no region 'nowhere'; it has lang_LH_IFG, lang_LH_netw"):
        mn.brain.tuckute2024(path, region="nowhere")
    with pytest.raises(mn.InputError, match="'B', 'D', 'S', got 'X'"):
        mn.brain.tuckute2024(path, conditions="X")


@pytest.mark.real
def test_the_published_averages():
    pereira = mn.brain.pereira2018(assets.data("brain") / "pereira2018_averaged.csv")
    assert (len(pereira), pereira.n_targets, pereira.ordered) == (627, 1, False)
    sizes = np.unique(pereira.groups, return_counts=True)[1]
    # The experiment had 168 passages on 48 topics; words find groups of about that grain.
    assert 48 <= len(sizes) <= 200
    assert sizes.max() <= 20
    tuckute = mn.brain.tuckute2024(assets.data("brain") / "tuckute2024_averaged.csv")
    assert len(tuckute) == 2000
    baseline = mn.brain.tuckute2024(assets.data("brain") / "tuckute2024_averaged.csv", conditions="B")
    assert len(baseline) == 1001
    assert len(mn.brain.tuckute2024(assets.data("brain") / "tuckute2024_averaged.csv", conditions=["D", "S"])) == 999
    with pytest.raises(mn.InputError, match="does not give the experiment"):
        mn.brain.pereira2018(assets.data("brain") / "pereira2018_averaged.csv", experiment="243sentences")


# -- folds -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=30, max_size=120),
    st.integers(2, 5),
    st.integers(0, 10),
)
def test_groups_are_never_split(labels, n_folds, seed):
    groups = [str(label) for label in labels]
    if len(set(groups)) < n_folds:
        with pytest.raises(mn.InputError, match="at most the number of groups"):
            dealing.deal("grouped", len(groups), n_folds, groups=groups, seed=seed)
        return
    folds = dealing.deal("grouped", len(groups), n_folds, groups=groups, seed=seed)
    assert set(folds) == set(range(n_folds))
    assert all(len(set(folds[np.array(groups) == name])) == 1 for name in set(groups))
    np.testing.assert_array_equal(folds, dealing.deal("grouped", len(groups), n_folds, groups=groups, seed=seed))
    largest = max(groups.count(name) for name in set(groups))
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= largest


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 200), st.integers(2, 5), st.integers(0, 4))
def test_contiguous_folds_are_runs_and_gaps_are_left_out(n, n_folds, gap):
    folds = dealing.deal("contiguous", n, n_folds, groups=None, seed=0)
    assert (np.diff(folds) >= 0).all()
    assert np.ptp(np.bincount(folds)) <= 1
    for fold in range(n_folds):
        train = dealing.training(folds, fold, gap)
        held = np.flatnonzero(folds == fold)
        near = np.abs(np.flatnonzero(train)[:, None] - held[None]).min() if train.any() else gap + 1
        assert near > gap


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(dealing.SCHEMES), st.integers(40, 90), st.integers(0, 5))
def test_blocks_lie_within_folds_and_inner_splits_within_the_training_set(cv, n, seed):
    groups = tuple(str(i // 3) for i in range(n))
    split = Split.make(cv, n, 4, inner_folds=3, gap=0, seed=seed, groups=groups)
    blocks, _ = dealing.exchangeable(cv, split.folds, groups=groups if cv == "grouped" else None, ordered=True)
    assert all(len(set(split.folds[blocks == block])) == 1 for block in set(blocks))
    for fold, train, test in split.outer():
        assert not set(train) & set(test)
        assert len(train) + len(test) == n
        seen = []
        for fit, check in split.inner(train, fold):
            assert not set(fit) & set(check)
            seen += check.tolist()
            if cv == "grouped":
                assert not {groups[train[i]] for i in fit} & {groups[train[i]] for i in check}
        assert sorted(seen) == list(range(len(train)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cv": "random"}, "`cv` must be one of .*, got 'random'"),
        ({"cv": "grouped", "groups": None}, "holds out whole groups, but the dataset has none"),
        ({"n_folds": 1}, "`n_folds` must be an integer of at least 2, got 1"),
        ({"n_folds": 40}, "at most 15 for 30 stimuli, got 40"),
        ({"cv": "grouped", "gap": 2}, 'requires `cv="contiguous"`'),
        ({"seed": -1}, "`seed` must be a non-negative integer, got -1"),
    ],
)
def test_bad_folds_are_refused(options, message):
    given = {"cv": "contiguous", "n": 30, "n_folds": 5, "inner_folds": 5, "gap": 0, "seed": 0, "groups": ("a",) * 30}
    given |= options
    with pytest.raises(mn.InputError, match=message):
        Split.make(given.pop("cv"), given.pop("n"), given.pop("n_folds"), **given)


# -- ceilings, baselines, topics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["split-half", "variance"])
@pytest.mark.parametrize("n", [2, 5, 6])
def test_a_known_ceiling_comes_back(method, n):
    """The correlation of the signal itself with the mean over repeats is what the ceiling estimates."""
    rng = np.random.default_rng(n)
    signal = rng.standard_normal((400, 20))
    repeats = signal + rng.standard_normal((n, 400, 20)) * np.linspace(0.5, 2, 20)
    true = np.sqrt(1 / (1 + np.linspace(0.5, 2, 20) ** 2 / n))
    assert np.abs(mn.brain.noise_ceiling(repeats, method) - true).max() < 0.09
    assert mn.brain.noise_ceiling(rng.standard_normal((n, 400, 20)), method).mean() < 0.05


@pytest.mark.parametrize("method", ["split-half", "variance"])
@pytest.mark.parametrize(("n", "stimuli"), [(2, 40), (2, 600), (3, 100), (6, 60)])
def test_without_signal_a_target_is_not_reliable(method, n, stimuli):
    """The root of a small reliability is not small: of chance correlations, half would pass as ceilings above 0.1."""
    repeats = np.random.default_rng([n, stimuli]).standard_normal((n, stimuli, 1000))
    repeats += np.arange(n)[:, None, None]  # runs that differ in their mean are no signal
    passing = mn.brain.noise_ceiling(repeats, method, n_splits=10) >= RELIABLE
    assert passing.mean() <= 0.05
    reliability = 1 - 1 / stats.f(stimuli - 1, (stimuli - 1) * (n - 1)).rvs(1000, random_state=0)
    assert (np.sqrt(np.clip(reliability, 0, 1)) >= RELIABLE).mean() > 0.35  # what the root alone would let pass


@pytest.mark.parametrize("method", ["split-half", "variance"])
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("stimuli", [40, 300])
def test_a_signal_keeps_its_ceiling(method, n, stimuli):
    rng = np.random.default_rng([n, stimuli, 1])
    signal = 1.2 * rng.standard_normal((stimuli, 600))
    repeats = signal + rng.standard_normal((n, stimuli, 600))
    true = np.sqrt(1.44 / (1.44 + 1 / n))
    low, high = ceiling_interval(repeats)
    assert ((low <= true) & (true <= high)).mean() >= 0.93
    found = mn.brain.noise_ceiling(repeats, method, n_splits=10)
    there = found > 0
    assert there.mean() > 0.95
    assert np.median(found[there]) == pytest.approx(true, abs=0.012)
    assert ((low <= found) & (found <= high))[there].mean() > 0.99


def test_the_interval_of_a_ceiling_is_that_of_an_intraclass_correlation():
    """Against the analysis of variance written out, and with measurements that are missing."""
    values = np.random.default_rng(3).standard_normal((3, 30, 4)) + np.random.default_rng(4).standard_normal((30, 4))
    rows, columns = values.mean(0), values.mean(1)
    left = ((values - rows - columns[:, None] + values.mean((0, 1))) ** 2).sum((0, 1)) / (29 * 2)
    ratio = 3 * rows.var(0, ddof=1) / left
    expected = 1 - 1 / (ratio / stats.f.ppf([[0.95], [0.05]], 29, 58))
    np.testing.assert_allclose(ceiling_interval(values, 0.9), np.sqrt(np.clip(expected, 0, 1)))
    values[0, :10] = np.nan
    values[:, 20:, 3] = np.nan
    low, high = ceiling_interval(values)
    alone = ceiling_interval(values[:, :20, 3:])
    np.testing.assert_allclose([low[3], high[3]], alone[:, 0])
    assert (low <= high).all()
    assert np.isfinite(high).all()


def test_a_target_that_never_varies_has_no_ceiling():
    repeats = np.full((3, 20, 2), 0.1)
    repeats[..., 1] = np.arange(20)  # measured without any noise
    for method in ("split-half", "variance"):
        np.testing.assert_allclose(mn.brain.noise_ceiling(repeats, method), [0, 1])
    assert (mn.brain.noise_ceiling(np.ones((2, 1, 3))) == 0).all()


def test_bad_ceilings_are_refused():
    with pytest.raises(mn.InputError, match="two repeats or more"):
        mn.brain.noise_ceiling(np.zeros((1, 5, 2)))
    with pytest.raises(mn.InputError, match=r"`method` must be one of .*, got 'best'"):
        mn.brain.noise_ceiling(np.zeros((2, 5, 2)), "best")
    with pytest.raises(mn.InputError, match="has no given noise ceiling"):
        some_data().noise_ceiling("given")
    with pytest.raises(mn.InputError, match="no repeats"):
        some_data().noise_ceiling("variance")
    assert some_data().noise_ceiling() is None


def test_baselines_are_what_they_say():
    texts = ["The dog runs.", "A small dog runs away from the house.", "Zyzzyva."] * 4
    data = mn.brain.from_arrays(texts, np.arange(12.0), groups=[i // 3 for i in range(12)], ordered=True)
    found, notes = baselines(data)
    assert notes == []
    np.testing.assert_array_equal(found["length"][:3], [[3, 13], [8, 37], [1, 8]])
    np.testing.assert_array_equal(found["position"][:4, :2], [[0, 0], [1, 1], [2, 2], [3, 0]])
    assert found["frequency"][2, 2] == 1
    assert found["frequency"][0, 2] < 0.5
    assert found["bag of words"][1].sum() == 8
    unordered = mn.brain.from_arrays(texts, np.arange(12.0))
    assert "position" not in baselines(unordered)[0]
    assert "position" in baselines(unordered)[1][0]
    with pytest.raises(mn.InputError, match=r"`baselines` must be one of .*, got 'surprisal'"):
        baselines(data, ["surprisal"])
    with pytest.raises(mn.InputError, match="requires an image"):
        baselines(data, "pixels")


def test_topics_hold_together_what_shares_words():
    texts = [
        "A bee makes honey.",
        "Honey is made by bees.",
        "The train left the station.",
        "Two trains at one station.",
    ]
    found = topics(texts)
    assert found[0] == found[1] != found[2] == found[3]
    assert len(set(topics(texts, n=1))) == 1
    assert topics(["Quite alone.", "Zebra."]) == ["topic-001", "topic-002"]
    for bad, message in ((["one"], "at least two texts"), ([1, 2], "a list of strings"), ("text", "a list of strings")):
        with pytest.raises(mn.InputError, match=message):
            topics(bad)
    with pytest.raises(mn.InputError, match="`distance` must be a number above 0 and at most 1, got 0"):
        topics(texts, distance=0)
    with pytest.raises(mn.InputError, match="`n` must be an integer from 1 to 4, got 9"):
        topics(texts, n=9)
