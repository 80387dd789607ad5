"""Remote execution as far as it needs no server: the dry run, what is sent, and what is said where it cannot be."""

from __future__ import annotations

import io
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pandas as pd
import pytest
import torch

import modalnet as mn
from modalnet.errors import RemoteError, RemoteLimitError, RemoteMemoryError, TransportError
from modalnet.execution.backends import refusals
from modalnet.execution.backends.accounting import Limits, Pace
from modalnet.execution.backends.ndif import PUBLIC_HOST
from modalnet.execution.compile import Program
from modalnet.execution.packing import packed, unpacked
from modalnet.execution.reduction import Reduction, gathered
from modalnet.models.loading import BUNDLED
from modalnet.stats.moments import Moments

KEY = "secret-0123456789"
TEXTS = [f"The {one} {does} here." for one in ("dog", "boy", "cat") for does in ("runs", "sleeps", "eats", "waits")]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnsight import CONFIG

    monkeypatch.delenv("NDIF_HOST", raising=False)
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr(CONFIG.API, "HOST", PUBLIC_HOST)
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)


@pytest.fixture(scope="module")
def pair() -> tuple[mn.Model, mn.Model]:
    return mn.load("tiny"), mn.load("tiny", remote="local")


def some(model: mn.Model) -> mn.Units:
    """Every so manieth unit of the decoder."""
    masks = {name: np.zeros(each.shape, dtype=bool) for name, each in model.towers.items()}
    masks["decoder"].flat[::97] = True
    return mn.Units(masks)


def test_the_dry_run_gives_what_a_run_gives(pair: tuple[mn.Model, mn.Model]) -> None:
    here, there = pair
    stimuli = ["A dog", *mn.stimuli.vision().stimuli[:3]]
    for given in (stimuli[:1], stimuli[1:]):
        one, other = (model.run(given, tokens="mean", logits="last") for model in pair)
        assert all(torch.equal(values, other.residual[tower]) for tower, values in one.residual.items())
        assert torch.equal(one.logits, other.logits)
    assert here.generate("A dog", max_new_tokens=3) == there.generate("A dog", max_new_tokens=3)
    assert there.remote is not None
    assert all(job.up > 0 for job in there.remote.jobs)


def test_the_dry_run_localizes(pair: tuple[mn.Model, mn.Model]) -> None:
    language = mn.stimuli.language()
    chosen = mn.Contrast(language.stimuli[::12], positive=language.positive, negative=language.negative)
    for magnitude in ("absolute", "signed"):
        one, other = (mn.localize(model, chosen, magnitude=magnitude, cache=False, progress=False) for model in pair)
        assert np.allclose(one.t["decoder"], other.t["decoder"], atol=1e-9)
        assert np.allclose(one.mean_abs["decoder"], other.mean_abs["decoder"])


@pytest.mark.parametrize("kind", ["pairs", "fours", "other kinds", "covariate", "slope"])
def test_the_dry_run_reduces_every_test(pair: tuple[mn.Model, mn.Model], tmp_path: Path, kind: str) -> None:
    """Pairs are differenced, and numbers crossed, where the model is: moments come back and no activations."""
    options: dict[str, Any] = {}
    if kind == "fours":
        four = mn.stimuli.language_conditions(12, items=True)
        made = mn.Contrast(four.stimuli, ["sentences", "word-lists"], ["jabberwocky", "nonwords"])
    elif kind == "other kinds":
        made = mn.stimuli.vision_vs_text(10, size=32, items=True)
        options["towers"] = "decoder"
    else:
        made = mn.stimuli.language(12, items=kind != "slope")
        numbers = np.random.default_rng(0).standard_normal(24)
        if kind == "covariate":
            made = mn.Contrast(made.stimuli, made.positive, made.negative, covariates={"rating": numbers})
        elif kind == "slope":
            made = mn.Contrast(made.stimuli, regressor="length", covariates={"rating": numbers})
    here, there = pair
    for batch_size in ("auto", 5):
        asked = options | {"batch_size": batch_size, "cache": tmp_path / str(batch_size), "progress": False}
        one = mn.localize(here, made, **(asked | {"cache": False}))
        assert there.remote is not None
        with mock.patch.object(type(there._executor), "stream", side_effect=AssertionError("activations")):
            other = mn.localize(there, made, **asked)
        assert one.test == other.test == ("regression" if kind == "slope" else "paired")
        assert one.n == other.n
        assert np.allclose(one.t["decoder"], other.t["decoder"], rtol=1e-4, atol=1e-4)
        left, right = (each.without(3).t["decoder"] for each in (one, other))
        assert np.allclose(left, right, rtol=1e-4, atol=1e-4)
        assert np.allclose(one.effect_size["decoder"], other.effect_size["decoder"], rtol=1e-4, atol=1e-5)


def test_no_job_has_half_an_item(pair: tuple[mn.Model, mn.Model]) -> None:
    """Also where jobs are too large and are sent again in parts."""
    there = pair[1]
    made = mn.stimuli.vision_vs_text(9, size=32, items=True)
    engine = there._executor.engine
    sent = engine.reduce
    seen: list[list[int]] = []

    def small(passes: Any, *args: Any, **options: Any) -> Any:
        if max(len(each.names) for each in options["observations"]) > 2:
            raise RemoteMemoryError("out of memory")
        names = [name for each in options["observations"] for name in each.names]
        seen.append(names)
        return sent(passes, *args, **options)

    options: dict[str, Any] = {"towers": "decoder", "cache": False, "progress": False}
    with mock.patch.object(engine, "reduce", small):
        found = mn.localize(there, made, **options)
    assert sorted(name for names in seen for name in names) == sorted(2 * list(range(9)))
    assert all(names.count(name) == 2 for names in seen for name in names)
    assert np.allclose(found.t["decoder"], mn.localize(pair[0], made, **options).t["decoder"], rtol=1e-3, atol=1e-3)


def test_the_dry_run_profiles(pair: tuple[mn.Model, mn.Model]) -> None:
    here, there = pair
    assert there.remote is not None
    before = len(there.remote.jobs)
    options = {"n_controls": 2, "cache": False, "progress": False}
    found = [mn.profile(model, some(here), {"a": TEXTS[:8], "b": TEXTS[8:]}, **options) for model in pair]
    assert len(there.remote.jobs) > before
    assert np.array_equal(found[0].responses, found[1].responses)
    assert np.array_equal(found[0].controls, found[1].controls)


@pytest.mark.filterwarnings("ignore:The items of .* come from")
def test_the_dry_run_measures_specialization() -> None:
    here = mn.load("tiny")
    contrasts = {"language": mn.stimuli.language(16), "vision": mn.stimuli.vision(n=16, size=64)}
    bundled = mn.tasks.bundled(2)
    tasks = {"language": bundled["grammar"], "vision": bundled["colour"]}
    language = some(here)
    vision = mn.Units({name: np.roll(mask, 1, axis=-1) for name, mask in language.mask.items()})
    options = {"n_controls": 2, "n_interaction": 8, "cache": False, "progress": False}
    networks = {"language": language, "vision": vision}
    one = mn.specialization(here, networks, contrasts, tasks, **options)
    with mock.patch.object(type(here), "_at", autospec=True, side_effect=type(here)._at) as at:
        other = mn.specialization(here, networks, contrasts, tasks, remote="local", **options)
    assert at.call_args_list[0].args[1] == "local"
    assert {"interference", "dual_task", "capacity", "transfer"} <= set(one.tables)
    assert one.missing == other.missing
    for name in one.tables:
        pd.testing.assert_frame_equal(one.table(name), other.table(name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("measure", ["align", "cka"])
def test_the_dry_run_aligns(pair: tuple[mn.Model, mn.Model], measure: str) -> None:
    pytest.importorskip("himalaya")
    here, there = pair
    assert there.remote is not None
    responses = np.random.default_rng(0).standard_normal((len(TEXTS), 3))
    data = mn.brain.from_arrays(TEXTS, responses, groups=np.arange(len(TEXTS)) // 2)
    options = {"n_controls": 2, "n_permutations": 9, "untrained": True, "cache": False, "progress": False}
    options |= {"n_folds": 2, "n_resamples": 9} if measure == "align" else {}
    ask = getattr(mn.brain, measure)
    before = len(there.remote.jobs)
    one, other = ask(here, some(here), data, **options), ask(there, some(here), data, **options)
    assert one.table().equals(other.table())
    # The untrained copy ran here.
    assert len(there.remote.jobs) - before <= 2
    with mock.patch.object(type(here), "_at", side_effect=RuntimeError("asked")), pytest.raises(RuntimeError):
        ask(here, some(here), data, remote="local", **options)


def test_the_dry_run_finds_what_a_server_does_not_have(pair: tuple[mn.Model, mn.Model]) -> None:
    _, there = pair
    engine = there._executor.engine
    # A function of another room goes by its name, which means nothing to a server.
    with pytest.raises(ModuleNotFoundError, match="modalnet"):
        engine.backend.run(engine.envoy, [Program(Moments.zeros, engine.envoy, {})])


def test_what_is_pickled_elsewhere_stays_as_it_was(pair: tuple[mn.Model, mn.Model]) -> None:
    from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES

    pair[1].run("A dog")
    assert not any(name.startswith("modalnet") for name in _PICKLE_BY_VALUE_MODULES)


def test_a_model_without_weights_here_is_the_same_model() -> None:
    there = mn.load("tiny", remote="http://127.0.0.1:9")
    here = mn.load("tiny")
    assert {each.device.type for each in there.module.parameters()} == {"meta"}
    assert {name: tower.paths for name, tower in there.towers.items()} == {
        name: tower.paths for name, tower in here.towers.items()
    }
    assert "127.0.0.1" in str(there)
    assert there.fingerprint() != here.fingerprint()


def test_the_name_on_the_server_is_the_one_that_nnsight_gives() -> None:
    from nnsight import TransformersModel
    from nnsight.modeling import huggingface

    huggingface._ID_CACHE[str(BUNDLED)] = str(BUNDLED)
    processor = mn.load("tiny").processor
    theirs = TransformersModel(
        str(BUNDLED), task="image-text-to-text", processor=processor, tokenizer=processor.tokenizer
    )
    ours = mn.load("tiny", remote="http://127.0.0.1:9")
    assert ours.remote is not None
    assert ours.remote.key == theirs.to_model_key()
    assert mn.load(theirs, remote="http://127.0.0.1:9").remote.key == theirs.to_model_key()  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pixels_come_out_as_they_went_in(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    few = (torch.randint(0, 256, (2, 3, 32, 32), generator=generator) / 255.0 - 0.5).to(dtype)
    many = torch.rand(2, 3, 200, 200, generator=generator).to(dtype)
    for value in (few, many, few[:0], torch.arange(5)):
        assert torch.equal(unpacked(packed(value), None), value)
    assert packed(few)[2].dtype == torch.uint8
    table = torch.arange(20000, dtype=torch.float32).repeat(2)
    assert torch.equal(unpacked(packed(table), None), table)


def test_moments_on_a_server_are_those_here() -> None:
    rng = np.random.default_rng(0)
    groups = [0, 1, 1, 2, 0, 0, 2, 1]
    data = rng.normal(3.0, 2.0, (8, 2, 5)).astype(np.float32)
    for absolute in (True, False):
        sums: dict[str, dict[str, torch.Tensor]] = {}
        for batch in (slice(0, 3), slice(3, 8)):
            vectors = [torch.from_numpy(data[batch, layer]) for layer in range(2)]
            gathered(sums, vectors, Reduction({"decoder": [0, 1]}, groups[batch], 4, absolute))
        for group in range(3):
            expected = Moments.zeros((2, 5))
            members = [place for place, one in enumerate(groups) if one == group]
            expected.update(np.abs(data[members]) if absolute else data[members])
            assert int(sums["decoder"]["n"][group]) == expected.n
            assert np.allclose(sums["decoder"]["mean"][group].numpy(), expected.mean, rtol=1e-12)
            assert np.allclose(sums["decoder"]["m2"][group].numpy(), expected.m2, rtol=1e-9)
        assert int(sums["decoder"]["n"][3]) == 0
        assert np.allclose(sums["decoder"]["size"].numpy(), np.abs(data.astype(np.float64)).sum(0))


def test_jobs_grow_to_their_time_and_shrink_when_they_are_too_much() -> None:
    pace = Pace(Limits(seconds=10.0, megabytes=1.0))
    assert not pace.full(1, 0, 0)
    assert pace.full(2, 0, 0)
    pace.ran(2, 1.0)
    assert pace.passes == 20
    pace.ran(20, 20.0)
    assert pace.passes == 10
    assert pace.full(1, 5e6, 0)
    assert pace.full(1, 0, 2e6)
    pace.slower(10)
    assert pace.passes == 5


# Bad input


def test_no_key_says_what_to_set() -> None:
    with pytest.raises(mn.InputError, match=r"API key.*NDIF_API_KEY"):
        mn.load("tiny", remote=True)


@pytest.mark.parametrize("given", ["yes", 3, "ndif.us", None])
def test_remote_that_is_none(given: object) -> None:
    if given is None:
        assert mn.load("tiny")._at(None).remote is None
        return
    with pytest.raises(mn.InputError, match="NDIF_HOST"):
        mn.load("tiny", remote=given)  # type: ignore[arg-type]


def test_a_host_that_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDIF_HOST", "localhost:5001")
    with pytest.raises(mn.InputError, match="must start with http"):
        mn.load("tiny", remote=True)


def test_a_module_that_no_server_knows(pair: tuple[mn.Model, mn.Model]) -> None:
    import copy

    module = copy.deepcopy(pair[0].module)
    module.config._name_or_path = ""
    with pytest.raises(mn.InputError, match="hub id"):
        mn.load(module, remote="http://127.0.0.1:9")


def test_not_blocking_needs_a_server(pair: tuple[mn.Model, mn.Model]) -> None:
    with pytest.raises(mn.InputError, match="remote=True"):
        mn.localize(pair[0], mn.stimuli.language(), blocking=False)
    with pytest.raises(mn.InputError, match="no job"):
        mn.LocalizationJob.from_id("0" * 32)


def answering(monkeypatch: pytest.MonkeyPatch, status: int, detail: str) -> None:
    """A server that says one thing."""

    def post(self: httpx.Client, url: str, **_: object) -> httpx.Response:
        return httpx.Response(status, json={"detail": detail}, request=httpx.Request("POST", url))

    monkeypatch.setattr(httpx.Client, "post", post)


def ask(monkeypatch: pytest.MonkeyPatch) -> str:
    """The error of a run, as it is printed with all that it chains."""
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    model = mn.load("tiny", remote="http://127.0.0.1:9")
    assert model.remote is not None
    model.remote.limits.patience = 0.5
    assert KEY not in repr(model.remote)
    out = io.StringIO()
    try:
        model.run("A dog")
    except Exception:
        traceback.print_exc(file=out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("status", "detail", "expected"),
    [
        (400, f"Invalid API key format: '{KEY}'.", "NDIF_API_KEY"),
        (401, "Missing or invalid API key.", "NDIF_API_KEY"),
        (403, "Invalid API key.", "NDIF_API_KEY"),
        (
            400,
            "Client nnsight version 0.5.0 is below the minimum supported 0.8. Please `pip install --upgrade nnsight`.",
            "pip install --upgrade nnsight",
        ),
        (
            400,
            "Client python version 3.10 is below the minimum supported 3.12. Please update python.",
            "that it requires",
        ),
        (404, "Not Found", "not an NDIF server"),
        (405, "Method Not Allowed", "not an NDIF server"),
        (413, "Content Too Large", "alone exceeds the limits of the server"),
        (422, f"bad {KEY}", "refused the job"),
        (503, f"later {KEY}", "cannot be reached"),
    ],
)
def test_refusals_say_what_to_do_and_never_the_key(
    monkeypatch: pytest.MonkeyPatch, status: int, detail: str, expected: str
) -> None:
    answering(monkeypatch, status, detail)
    said = ask(monkeypatch)
    assert expected in said
    assert KEY not in said


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "{}", f'{{"id": ["{KEY}"]}}'])
def test_a_host_that_is_something_else(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    def post(self: httpx.Client, url: str, **_: object) -> httpx.Response:
        return httpx.Response(200, text=body, request=httpx.Request("POST", url))

    monkeypatch.setattr(httpx.Client, "post", post)
    said = ask(monkeypatch)
    assert "NDIF_HOST" in said
    assert "does not respond like an NDIF server" in said
    assert KEY not in said


def test_a_model_that_nobody_knows() -> None:
    with pytest.raises(mn.InputError, match="no/such-model is neither a local folder nor a model that the hub"):
        mn.load("no/such-model", remote="http://127.0.0.1:9")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ask(monkeypatch)
    assert "cannot be reached" in said
    assert "NDIF_HOST" in said
    assert KEY not in said


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ("Traceback ...\nValueError: bad", RemoteError),
        ("CUDA out of memory. Tried to allocate", RemoteMemoryError),
        ("Your job exceeded the execution timeout of 5s.", RemoteLimitError),
        ("Your job was cancelled or preempted by the server.", refusals.LostError),
    ],
)
def test_ends_of_jobs(description: str, kind: type) -> None:
    assert type(refusals.ended("http://127.0.0.1:9", "key", description)) is kind


@pytest.mark.parametrize(
    "reason",
    [
        "CANT_ACCOMMODATE: placed 0 of 1 new replicas before the cluster ran out of room.",
        "Repository Not Found for url: https://huggingface.co/api/models/no/such.\nCheck the `repo_id`.",
    ],
)
def test_a_model_that_is_not_deployed(reason: str) -> None:
    error = refusals.ended("http://127.0.0.1:9", "the-key", f"Could not deploy this model. {reason}")
    assert type(error) is RemoteError
    assert "does not serve the-key" in str(error)
    assert " ".join(reason.split()) in str(error)
    assert "ndif_status" in str(error)


def test_a_job_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mn.load("tiny", remote="http://127.0.0.1:9")
    assert model.remote is not None
    model.remote.limits.megabytes = 0.001
    with pytest.raises(mn.ModalnetError, match=r"alone exceeds the limits.*megabytes"):
        model.run("A dog")
    assert issubclass(TransportError, mn.ModalnetError)
