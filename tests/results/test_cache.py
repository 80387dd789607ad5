"""The store answers if and only if computing again would give the same: every analysis, every way to change a model."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import modalnet as mn
from helpers import families
from modalnet import _version
from modalnet.activations import read_activations
from modalnet.execution.backends.protocol import Backend, Capabilities
from modalnet.localization.job import LocalizationJob
from modalnet.results import Identity, Store, cache as seam, cached, cached_parts
from modalnet.results.cache import canonical, open_slot

WORDS = ("the", "dog", "ran", "across", "field", "tea", "window", "smiled", "beach", "children", "house", "car")


def build(name: str) -> Any:
    """A family of its own, which a test may change."""
    return copy.deepcopy(families.build(name))


def texts(n: int = 12) -> list[mn.Stimulus]:
    rng = np.random.default_rng(0)
    return [mn.Stimulus(" ".join(rng.choice(WORDS, size=5)), condition="ab"[i % 2], id=f"{i}") for i in range(n)]


CONTRAST = mn.Contrast(texts(), positive="a", negative="b")


def loaded(name: str = "llama", **options: Any) -> mn.Model:
    family = build(name)
    model = mn.load(family.model, tokenizer=family.tokenizer, processor=family.processor, **options)
    return model


def units_of(model: mn.Model) -> mn.Units:
    """The same units whatever the model computes."""
    decoder = model.towers["decoder"]
    rng = np.random.default_rng(3)
    mask = {name: np.zeros(tower.shape, dtype=bool) for name, tower in model.towers.items()}
    mask["decoder"].ravel()[rng.permutation(decoder.n_units)[:6]] = True
    sizes = {name: np.ones(tower.shape) for name, tower in model.towers.items()}
    return mn.Units(mask, mean_abs=sizes)


def dataset() -> Any:
    rng = np.random.default_rng(5)
    return mn.brain.BrainDataset("random", tuple(texts(20)), rng.normal(size=(20, 2)), ordered=True)


OPTIONS: dict[str, Any] = {"progress": False}


def localize(model: mn.Model, cache: Any) -> Any:
    return mn.localize(model, CONTRAST, cache=cache, **OPTIONS).t


def lesion(model: mn.Model, cache: Any) -> Any:
    tasks = [mn.tasks.perplexity([stimulus.text for stimulus in texts(4)])]
    study = mn.lesion_study(
        model, {"n": units_of(model)}, tasks, n_controls=1, match=["layer"], operations=["zero"], cache=cache, **OPTIONS
    )
    return {"base": study.base["perplexity"].scores} | {str(key): value for key, value in study.cells.items()}


def patching(model: mn.Model, cache: Any) -> Any:
    clean, corrupt = texts(2)
    metric = mn.patching.kl_divergence()
    options = {"units": {"n": units_of(model)}, "n_controls": 1, "match": ["layer"], **OPTIONS}
    found = mn.activation_patching(model, clean, corrupt, metric, align="last", cache=cache, **options)
    return {"corrupt": found.corrupt, **found.values}


def attribution(model: mn.Model, cache: Any) -> Any:
    clean, corrupt = texts(2)
    found = mn.attribution_patching(
        model, clean, corrupt, mn.patching.kl_divergence(), align="last", cache=cache, **OPTIONS
    )
    return {"clean": found.clean, "corrupt": found.corrupt, **found.values} | {
        f"units of {name}": values for name, values in found.unit_effect.items()
    }


def top_stimuli(model: mn.Model, cache: Any) -> Any:
    found = mn.features.top_stimuli(model, units_of(model), texts(), 3, cache=cache, **OPTIONS)
    at_tokens = {str(key): values for key, values in found.token_activations.activations.items()}
    return {"activation": found.activation, "index": found.index, **at_tokens}


def top_tokens(model: mn.Model, cache: Any) -> Any:
    candidates = model.tokenizer("the dog ran across the field", add_special_tokens=False)["input_ids"]
    options = {"context": "The house", "candidates": list(candidates), **OPTIONS}
    return {"activation": mn.features.top_tokens(model, units_of(model), 3, cache=cache, **options).activation}


def profile(model: mn.Model, cache: Any) -> Any:
    return {"responses": mn.profile(model, units_of(model), texts(), n_controls=2, cache=cache, **OPTIONS).responses}


def align(model: mn.Model, cache: Any) -> Any:
    options = {"n_controls": 1, "untrained": False, "baselines": False, "n_resamples": 2, "n_permutations": 0}
    found = mn.brain.align(
        model, units_of(model), dataset(), cv="contiguous", n_folds=2, inner_folds=2, cache=cache, **options, **OPTIONS
    )
    return {str(i): one.scores for i, one in enumerate(found.sets)}


def rsa(model: mn.Model, cache: Any) -> Any:
    options = {"n_controls": 1, "untrained": False, "baselines": False, "n_permutations": 0, "whole_layer": False}
    found = mn.brain.rsa(
        model, units_of(model), dataset(), dissimilarity="euclidean", cache=cache, **options, **OPTIONS
    )
    return {str(i): np.array(one.value) for i, one in enumerate(found.sets)}


def specialization(model: mn.Model, cache: Any) -> Any:
    """The cost of a second text for the perplexity of a first one, which is a continuous number."""
    first = units_of(model)
    second = mn.Units({name: np.roll(mask, 1, axis=-1) for name, mask in first.mask.items()})
    found = mn.specialization(
        model,
        {"a": first, "b": second},
        {"a": CONTRAST, "b": mn.Contrast(texts(), positive="b", negative="a")},
        {"a": mn.tasks.perplexity([f" {stimulus.text}" for stimulus in texts(4)])},
        n_controls=1,
        cache=cache,
        **OPTIONS,
    )
    table = found.table("dual_task")
    return {name: table[name].to_numpy() for name in ("off", "on", "cost")}


def activations(model: mn.Model, cache: Any) -> Any:
    return read_activations(model, texts(), {"decoder": [0, 1]}, cache=cache, **OPTIONS).values


ANALYSES: dict[str, Callable[[mn.Model, Any], dict[str, np.ndarray]]] = {
    "localize": localize,
    "lesion": lesion,
    "patching": patching,
    "attribution": attribution,
    "top_stimuli": top_stimuli,
    "top_tokens": top_tokens,
    "profile": profile,
    "align": align,
    "rsa": rsa,
    "specialization": specialization,
    "activations": activations,
}

every_analysis = pytest.mark.parametrize("analysis", ANALYSES)


def equal(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    assert one.keys() == two.keys()
    return all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)


@contextlib.contextmanager
def counted(model: mn.Model) -> Iterator[list[int]]:
    """How often the module's forward runs."""
    calls: list[int] = []
    engine = model._executor.engine
    run = engine.run

    def counting(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return run(*args, **options)

    engine.run = counting  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        del engine.run


# ---------------------------------------------------------------------------------- changes of a model, each in place


@contextlib.contextmanager
def weights_in_place(model: mn.Model) -> Iterator[None]:
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if "layers.0" in name:
                parameter.data.mul_(1.5)  # no counter of torch notices this
    yield


@contextlib.contextmanager
def chat_template(model: mn.Model) -> Iterator[None]:
    model.tokenizer.chat_template = "USER: {{ messages[0]['content'] }} ASSISTANT:"
    yield


@contextlib.contextmanager
def tokenizer(model: mn.Model) -> Iterator[None]:
    from tokenizers import normalizers

    model.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("o", "e")
    yield


@contextlib.contextmanager
def image_mean(model: mn.Model) -> Iterator[None]:
    model.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    yield


@contextlib.contextmanager
def attention(model: mn.Model) -> Iterator[None]:
    model.module.set_attn_implementation("eager")
    yield


@contextlib.contextmanager
def constant(model: mn.Model) -> Iterator[None]:
    model.module.model.layers[0].input_layernorm.variance_epsilon = 0.5
    yield


@contextlib.contextmanager
def config(model: mn.Model) -> Iterator[None]:
    model.module.config.attention_bias = not model.module.config.attention_bias
    yield


@contextlib.contextmanager
def autocast(model: mn.Model) -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@contextlib.contextmanager
def generation(model: mn.Model) -> Iterator[None]:
    model.module.generation_config.suppress_tokens = [5]
    yield


NOTICED = {
    change.__name__: change
    for change in (weights_in_place, tokenizer, attention, constant, config, autocast, generation)
}


@every_analysis
def test_a_second_call_is_answered_without_a_pass(analysis, tmp_path):
    model = loaded()
    run = ANALYSES[analysis]
    first = run(model, tmp_path)
    with counted(model) as calls:
        assert equal(run(model, tmp_path), first)
    assert not calls
    assert equal(run(model, False), first)


@every_analysis
@pytest.mark.parametrize("change", ["weights_in_place", "tokenizer", "constant"])
def test_a_model_that_was_changed_in_place_is_measured_again(analysis, change, tmp_path):
    model = loaded()
    run = ANALYSES[analysis]
    before = run(model, tmp_path)
    with NOTICED[change](model):
        after = run(model, tmp_path)
        assert equal(after, run(model, False))
        assert not equal(after, before)


@pytest.mark.parametrize("change", NOTICED)
def test_every_change_is_in_the_key(change):
    model = loaded()
    before = model._identity()
    assert model._identity() == before
    with NOTICED[change](model):
        after = model._identity()
    assert after.numbers != before.numbers
    assert not after.reason


@every_analysis
def test_a_chat_template_is_in_the_key(analysis, tmp_path):
    family = build("llama")
    family.tokenizer.chat_template = "USER: {{ messages[0]['content'] }} ASSISTANT:"
    plain = mn.load(family.model, tokenizer=family.tokenizer, chat_template=False)
    written = mn.load(family.model, tokenizer=family.tokenizer, chat_template=True)
    run = ANALYSES[analysis]
    first = run(plain, tmp_path)
    assert equal(run(written, tmp_path), run(written, False))
    family.tokenizer.chat_template = "Q: {{ messages[0]['content'] }} A:"
    assert equal(run(written, tmp_path), run(written, False))
    assert equal(run(plain, tmp_path), first)


# Those that need images; a text-only model has no use for them.


def pictured() -> list[mn.Stimulus]:
    return [mn.Stimulus("What do you see?", image=families.picture(i, 64, 48), id=f"{i}") for i in range(3)]


def modality_profile(model: mn.Model, cache: Any) -> Any:
    found = mn.profile_modality(model, pictured(), " dog", cache=cache, **OPTIONS)
    return {"whole": found.whole, **found.values}


def optimized(model: mn.Model, cache: Any) -> Any:
    options = {"natural": pictured(), "text": "What do you see?", "steps": 2, **OPTIONS}
    found = mn.features.optimize(model, units_of(model), cache=cache, **options)
    assert found.natural is not None
    return {"path": found.path, "response": found.response, "natural": found.natural.response}


OF_IMAGES = {"modality_profile": modality_profile, "optimized": optimized}


@pytest.mark.parametrize("analysis", OF_IMAGES)
@pytest.mark.parametrize("change", [weights_in_place, tokenizer, image_mean])
def test_an_analysis_of_images_is_answered_if_nothing_changed(analysis, change, tmp_path):
    model = loaded("llava_clip")
    run = OF_IMAGES[analysis]
    first = run(model, tmp_path)
    with counted(model) as calls:
        assert equal(run(model, tmp_path), first)
    assert not calls
    assert equal(run(model, False), first)
    with change(model):
        after = run(model, tmp_path)
        assert equal(after, run(model, False))
        assert not equal(after, first)


def test_maximally_activating_images_come_whole_from_the_store(tmp_path):
    """What is stored are thumbnails; a hit has the stimuli of this call, with their conditions."""
    model = loaded("llava_clip")
    options = {"cache": tmp_path, **OPTIONS}
    large = [families.picture(i, 640, 480) for i in range(3)]
    for condition in ("one", "two"):
        given = [mn.Stimulus("What is this?", image=image, condition=condition) for image in large]
        found = mn.features.top_stimuli(model, units_of(model), given, 2, **options)
        assert all(found.stimuli[index] is given[index] for index in found.stimuli)
        assert set(found.table()["condition"]) == {condition}
    assert len(Store(tmp_path).entries()) == 1
    read_once = mn.features.top_stimuli(model, units_of(model), iter(given), 2, **options)
    np.testing.assert_array_equal(read_once.index, found.index)


def test_a_function_as_metric_is_not_stored(tmp_path):
    model = loaded()
    clean, corrupt = texts(2)
    for factor in (1.0, 2.0):
        found = mn.attribution_patching(
            model, clean, corrupt, lambda logits, factor=factor: factor * logits[:, 3], align="last", cache=tmp_path
        )
        assert found.clean[0] == pytest.approx(factor * float(model.run([clean], logits="last").logits[0, 3]), rel=1e-4)
    assert Store(tmp_path).entries() == []


def test_the_view_of_a_model_is_another_model(tmp_path):
    model = loaded()
    first = localize(model, tmp_path)
    view = model.with_(mn.zero(units_of(model)))
    assert equal(localize(view, tmp_path), localize(view, False))
    assert equal(localize(model, tmp_path), first)


# ------------------------------------------------------------------------------------------- models that are not stored


def doubled(*args: Any) -> Any:
    output = args[-1]
    return (output[0] * 2, *output[1:]) if isinstance(output, tuple) else output * 2


@contextlib.contextmanager
def forward_hook(model: mn.Model) -> Iterator[None]:
    handle = model.module.model.layers[0].register_forward_hook(doubled)
    yield
    handle.remove()


@contextlib.contextmanager
def pre_hook(model: mn.Model) -> Iterator[None]:
    handle = model.module.model.layers[1].mlp.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    yield
    handle.remove()


@contextlib.contextmanager
def global_hook(model: mn.Model) -> Iterator[None]:
    mlp = model.module.model.layers[0].mlp
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output * 2 if module is mlp else None
    )
    yield
    handle.remove()


@contextlib.contextmanager
def replaced_forward(model: mn.Model) -> Iterator[None]:
    act = model.module.model.layers[0].mlp.act_fn
    before = act.__dict__.get("forward")
    plain = type(act).forward
    act.forward = lambda value: plain(act, value) * 2
    yield
    del act.forward
    if before is not None:
        act.__dict__["forward"] = before


UNSEEN = {change.__name__: change for change in (forward_hook, pre_hook, global_hook)}


@every_analysis
@pytest.mark.parametrize("change", UNSEEN)
def test_a_hooked_model_is_neither_looked_up_nor_stored(analysis, change, tmp_path):
    model = loaded()
    run = ANALYSES[analysis]
    before = run(model, tmp_path)
    entries = {entry.key for entry in Store(tmp_path).entries()}
    with UNSEEN[change](model):
        assert model._identity().reason
        under = run(model, tmp_path)
        assert not equal(under, before)
    after = {entry.key for entry in Store(tmp_path).entries()}
    # Scores of features that were computed elsewhere are no numbers of the model.
    assert after == entries or analysis == "align"
    assert equal(run(model, tmp_path), before)


def test_a_replaced_forward_is_found():
    model = loaded()
    assert not model._identity().reason
    with replaced_forward(model):
        assert "replaced" in model._identity().reason
    localize(model, False)
    assert not model._identity().reason
    layer = model.module.model.layers[0]
    layer.mlp.forward = torch.nn.Identity().forward
    assert "replaced" in model._identity().reason


def test_methods_that_a_class_chooses_are_no_replacement():
    class Chooses(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.forward = self.fast

        def fast(self, value: torch.Tensor) -> torch.Tensor:
            return value

    from modalnet.models import state

    module = torch.nn.Sequential(Chooses())
    assert not state.replaced(module)


@pytest.mark.parametrize("family", ["llama", "gpt2", "llava_siglip", "qwen2_5_vl", "paligemma", "gemma3"])
def test_a_plain_model_is_stored_and_stays_the_same_by_running(family):
    model = loaded(family)
    before = model._identity()
    assert not before.reason
    model.run(["the dog ran"], logits="last")
    assert model._identity() == before


def test_training_mode_decides_nothing():
    """Passes run in evaluation mode: with dropout on, the numbers are those of a stored result."""
    model = loaded("gpt2")
    dropping = [each for each in model.module.modules() if isinstance(each, torch.nn.Dropout)]
    assert dropping
    for each in dropping:
        each.p = 0.1
    before, clean = model._identity(), mn.localize(model, CONTRAST, **OPTIONS)
    model.module.train()
    assert model._identity() == before
    assert not before.reason
    found = mn.localize(model, CONTRAST, cache=False, **OPTIONS)
    np.testing.assert_array_equal(found.t["decoder"], clean.t["decoder"])


def test_units_of_the_old_weights_are_refused():
    model = loaded()
    units = mn.localize(model, CONTRAST, cache=False, **OPTIONS).top(k=3)
    model.run(["the dog"], mn.zero(units))
    with weights_in_place(model), pytest.raises(mn.InputError, match="another model"):
        model.run(["the dog"], mn.zero(units))
    with pytest.raises(mn.InputError, match="another model"):
        mn.profile(model, units, texts(), cache=False, **OPTIONS)


def test_a_processor_that_was_changed_in_place_is_another():
    model = loaded("llava_siglip")
    before = model._identity()
    model.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert model._identity().numbers != before.numbers


# ------------------------------------------------------------------------------------------------------------ adapters


@pytest.fixture
def adapted() -> Any:
    peft = pytest.importorskip("peft")
    family = build("llama")
    settings_ = peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    torch.manual_seed(0)
    module = peft.get_peft_model(family.model, settings_)
    module.add_adapter("two", settings_)
    return mn.load(module, tokenizer=family.tokenizer)


def test_adapters_that_are_switched_are_in_the_key(adapted, tmp_path):
    module = adapted.module
    seen = [localize(adapted, tmp_path)]
    module.set_adapter("two")
    seen.append(localize(adapted, tmp_path))
    assert equal(seen[-1], localize(adapted, False))
    with module.disable_adapter():
        seen.append(localize(adapted, tmp_path))
        assert equal(seen[-1], localize(adapted, False))
    for each in module.modules():
        if hasattr(each, "scaling") and isinstance(each.scaling, dict):
            each.scaling["two"] *= 3
    seen.append(localize(adapted, tmp_path))
    assert equal(seen[-1], localize(adapted, False))
    module.set_adapter("default")
    assert equal(localize(adapted, tmp_path), seen[0])
    assert not any(equal(one, two) for i, one in enumerate(seen) for two in seen[:i])


# ---------------------------------------------------------------------------------------------------- asynchronous jobs


class Deferred(Backend):
    """Does what it is asked at once, and hands it out later."""

    capabilities = Capabilities(deferred=True, reduces=True)

    def __init__(self) -> None:
        self.sums: list[Any] = []

    def run(self, envoy: Any, programs: Any) -> Any:
        return [program.body(program) for program in programs]

    def write(self, envoy: Any, programs: Any, reductions: Any) -> bytes:
        self.sums.append(self.reduce(envoy, programs, reductions))
        return str(len(self.sums) - 1).encode()

    def submit(self, job: bytes) -> str:
        return job.decode()

    def status(self, job_id: str) -> str:
        return "completed"

    def fetch(self, job_id: str, job: bytes) -> tuple[Any, str]:
        return self.sums[int(job_id)], job_id

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "test"}


@pytest.mark.parametrize("protocol", [None, "alkhamissi2025"])
def test_a_job_gives_what_a_blocking_call_gives_and_stores_it_under_the_same_key(protocol, tmp_path, monkeypatch):
    backend = Deferred()
    model = loaded()._at(backend)
    options = {"protocol": protocol, **OPTIONS}
    blocking = mn.localize(model, CONTRAST, cache=tmp_path / "one", **options)
    job = mn.localize(model, CONTRAST, blocking=False, cache=tmp_path / "two", **options)
    monkeypatch.setattr("modalnet.localization.job.restored", lambda document: backend)
    again = LocalizationJob.from_id(job.id, cache=tmp_path / "two")
    for found in (job.result(), again.result(), mn.localize(model, CONTRAST, cache=tmp_path / "two", **options)):
        arrays, document = found.to_arrays()
        expected, meant = blocking.to_arrays()
        assert document == meant
        assert all(np.array_equal(arrays[name], expected[name], equal_nan=True) for name in expected)
        assert found.stimuli == blocking.stimuli
        assert type(found.top(k=3)) is type(blocking.top(k=3))
    one, two = ({entry.key for entry in Store(tmp_path / name).entries()} for name in ("one", "two"))
    assert one == two


# ------------------------------------------------------------------------------------------------------------- weights


def test_weights_that_accelerate_moved_to_the_disk_are_read_there(tmp_path):
    from accelerate import cpu_offload, disk_offload

    def offloaded(factor: float, where: Path | None) -> mn.Model:
        family = build("llama")
        with torch.no_grad():
            family.model.model.layers[0].mlp.down_proj.weight.mul_(factor)
        if where is None:
            cpu_offload(family.model)
        else:
            disk_offload(family.model, str(where))
        family.model.hf_device_map = {"": "cpu"}
        return mn.load(family.model, tokenizer=family.tokenizer)

    plain = loaded()
    for where in (None, tmp_path / "disk"):
        same, other = (offloaded(factor, where and where / str(factor)) for factor in (1.0, 2.0))
        assert not same._identity().reason
        assert same.fingerprint() == plain.fingerprint()
        assert other.fingerprint() != plain.fingerprint()


def test_weights_that_are_nowhere_are_said_and_not_stored(tmp_path):
    model = loaded()
    weight = model.module.model.layers[0].mlp.down_proj.weight
    model.module.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(weight.detach().to("meta"))
    model.module.hf_device_map = {"": "disk"}
    with pytest.warns(UserWarning, match="not stored: the weight .*down_proj"):
        slot = open_slot(model, "x", {}, {}, cache=tmp_path)
    assert slot.key == ""


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_packed_weights_are_in_the_fingerprint():
    def quantized(seed: int) -> str:
        from modalnet.models.fingerprint import weights_fingerprint

        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Linear(8, 4))
        return weights_fingerprint(torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}))

    assert quantized(0) == quantized(0) != quantized(1)


# ----------------------------------------------------------------------------------------------------- the seam itself


@dataclass
class Sum:
    """A result for tests."""

    values: np.ndarray
    note: str = ""

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"values": self.values}, {"note": self.note}

    @classmethod
    def from_arrays(cls, arrays: Any, document: Any) -> Sum:
        return cls(arrays["values"], document["note"])


@dataclass
class Fake:
    """A model that says what it depends on."""

    numbers: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    name: str = "fake"

    def _identity(self) -> Identity:
        return Identity(dict(self.numbers), self.reason)


def test_features_alone_need_no_model(tmp_path):
    calls = []

    def compute() -> Sum:
        calls.append(1)
        return Sum(np.arange(3.0), "new")

    for _ in range(2):
        found = cached(None, "sum", {"a": np.arange(3)}, {"k": 1}, compute, result=Sum, cache=tmp_path)
        assert isinstance(found, Sum)
        assert found.note == "new"
        np.testing.assert_array_equal(found.values, np.arange(3.0))
    assert len(calls) == 1


def test_the_version_the_source_and_the_libraries_are_in_the_key(monkeypatch, tmp_path):
    def key() -> str:
        seam.environment.cache_clear()
        return open_slot(Fake(), "x", {}, {}, cache=tmp_path).key

    first = key()
    assert key() == first
    monkeypatch.setattr(seam, "__version__", "9.9")
    second = key()
    monkeypatch.setattr(seam, "source_digest", lambda: "other")
    third = key()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "7")
    assert len({first, second, third, key()}) == 4
    seam.environment.cache_clear()


def test_the_source_digest_follows_the_code(tmp_path, monkeypatch):
    first = _version.source_digest()
    assert len(first) == 16

    def digest_of(folder: Path) -> str:
        monkeypatch.setattr("importlib.resources.files", lambda name: folder)
        _version.source_digest.cache_clear()
        return _version.source_digest()

    (tmp_path / "stats").mkdir()
    (tmp_path / "plotting").mkdir()
    for place in ("a.py", "stats/b.py", "plotting/c.py"):
        (tmp_path / place).write_text("x = 1\n")
    before = digest_of(tmp_path)
    assert digest_of(tmp_path) == before
    (tmp_path / "plotting/c.py").write_text("x = 2\n")
    assert digest_of(tmp_path) == before
    (tmp_path / "stats/b.py").write_text("x = 2\n")
    changed = digest_of(tmp_path)
    assert changed != before

    import shutil
    import zipfile

    archive = shutil.make_archive(str(tmp_path.parent / "zipped"), "zip", tmp_path)
    assert digest_of(zipfile.Path(archive)) == changed  # type: ignore[arg-type]
    monkeypatch.undo()
    _version.source_digest.cache_clear()
    assert _version.source_digest() == first


def test_a_refused_model_is_never_read_or_written(tmp_path):
    def compute() -> Sum:
        return Sum(np.ones(1))

    cached(Fake(), "x", {}, {}, compute, result=Sum, cache=tmp_path)
    assert len(Store(tmp_path).entries()) == 1
    found = cached(Fake(reason="hooked"), "x", {}, {}, lambda: Sum(np.zeros(1)), result=Sum, cache=tmp_path)
    assert found.values[0] == 0
    among = cached(Fake(), "x", {"other": Fake(reason="hooked")}, {}, compute, result=Sum, cache=tmp_path)
    assert among.values[0] == 1
    assert len(Store(tmp_path).entries()) == 1


def test_parts_are_stored_when_they_come(tmp_path):
    done: list[int] = []

    def compute(missing: list[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for index in missing:
            if index == 2 and not done.count(2):
                done.append(2)
                raise KeyboardInterrupt
            done.append(index)
            yield index, {"value": np.array([float(index)])}

    def run() -> dict[int, float]:
        parts = cached_parts(Fake(), "study", {"a": 1}, [{"i": i} for i in range(4)], compute, cache=tmp_path)
        return {index: float(arrays["value"][0]) for index, arrays in parts}

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done == [0, 1, 2]
    assert run() == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}
    assert done == [0, 1, 2, 2, 3]
    assert run() == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}
    assert done == [0, 1, 2, 2, 3]


def test_a_store_that_cannot_be_written_costs_one_warning(tmp_path, recwarn):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")

    def compute(missing: list[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for index in missing:
            yield index, {"value": np.zeros(1)}

    parts = list(cached_parts(Fake(), "study", {}, [{"i": i} for i in range(5)], compute, cache=blocked))
    assert len(parts) == 5
    assert [str(one.message) for one in recwarn if "not stored" in str(one.message)].__len__() == 1


def test_a_journal_is_read_in_order_and_forgotten(tmp_path):
    slot = open_slot(Fake(), "x", {}, {}, cache=tmp_path)
    journal = slot.journal()
    for number in range(3):
        journal.write({"n": np.array([number])}, {"number": number})
    assert [document["number"] for _, document in slot.journal().read()] == [0, 1, 2]
    other = open_slot(Fake(), "y", {}, {}, cache=tmp_path)
    assert list(other.journal().read()) == []
    slot.journal().forget()
    assert Store(tmp_path).entries() == []


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(value=plain_values)
def test_any_plain_value_has_a_key(value):
    described = canonical({"value": value})
    assert Store.key(described) == Store.key(canonical({"value": value}))
    assert Store.key(described) != Store.key(canonical({"value": [value]}))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 4)),
    dtype=st.sampled_from(["float32", "float64", "int32", "bool"]),
    seed=st.integers(0, 3),
)
def test_arrays_count_by_content_type_and_shape(shape, dtype, seed):
    array = np.random.default_rng(seed).integers(0, 9, shape).astype(dtype)
    assert canonical(array) == canonical(np.asfortranarray(array)) == canonical(array.copy())
    assert canonical(array) != canonical(array[None])
    if array.size:
        changed = array.copy()
        changed.flat[0] = not changed.flat[0]
        assert canonical(array) != canonical(changed)


def test_what_has_no_content_is_refused(tmp_path):
    for value in (object(), np.array([object()])):
        with pytest.raises(mn.InputError, match="key of a stored result"):
            canonical({"x": value})
    for cache in (3, None, b"folder"):
        with pytest.raises(mn.InputError, match="cache"):
            cached(Fake(), "x", {}, {}, lambda: Sum(np.ones(1)), result=Sum, cache=cache)  # type: ignore[arg-type]
