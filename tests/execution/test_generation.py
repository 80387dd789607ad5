"""What is generated is what transformers generates, to the last token and under every setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tr

import modalnet as mn
from families import build, make_tokenizer, text_sizes
from random_units import some_units
from reference import editing, encode, load, paths, stimuli_for

NEW = 9


def ids_of(model: mn.Model, stimulus: Any, *interventions: Any, **settings: Any) -> list[int]:
    """What is generated, as ids: the text alone would hide special tokens."""
    kept: list[Any] = []
    decode = model.tokenizer.decode
    model.tokenizer.decode = lambda ids, **_: kept.append(list(ids)) or decode(ids)
    try:
        model.generate(stimulus, *interventions, **{"max_new_tokens": NEW, **settings})
    finally:
        model.tokenizer.decode = decode
    return list(kept[0])


def plainly(name: str, stimulus: mn.Stimulus, units: Any = None, **settings: Any) -> list[int]:
    """The same by transformers, with torch hooks that zero the units."""
    family = build(name)
    edits = {}
    if units is not None:
        for tower, mask in units.mask.items():
            for layer, path in enumerate(paths(name, tower)):
                dims = torch.tensor(mask[layer]).nonzero().flatten()
                edits[path] = lambda flat, dims=dims: flat.index_fill(1, dims, 0.0)
    inputs = encode(family, stimulus.text, stimulus.images())
    with editing(family.model, edits), torch.no_grad():
        ids = family.model.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False, **settings})
    return list(ids[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.fixture(params=["llama", "gpt2", "llava_clip", "qwen2_vl"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("lesioned", [False, True])
def test_an_end_token_is_the_last_one(name: str, lesioned: bool) -> None:
    """Whichever token it is: special or not, one or several."""
    model = load(name)
    units = some_units(model, ["decoder"], share=0.3) if lesioned else None
    edits = () if units is None else (mn.zero(units),)
    for stimulus in stimuli_for(name):
        free = plainly(name, stimulus, units)
        for end in (free[2], [free[-1] + 1, free[3]], model.tokenizer.eos_token_id):
            expected = plainly(name, stimulus, units, eos_token_id=end)
            assert ids_of(model, stimulus, *edits, eos_token_id=end) == expected
    text = model.generate(stimulus, *edits, max_new_tokens=NEW, eos_token_id=free[2])
    ends = plainly(name, stimulus, units, eos_token_id=free[2])
    assert text == model.tokenizer.decode(ends, skip_special_tokens=True)


@pytest.mark.parametrize("lesioned", [False, True])
@pytest.mark.parametrize(
    "setting",
    [
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 3},
        {"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 1},
        {"assistant_model": "self"},
        {"forced_eos_token_id": 5},
        {"min_new_tokens": NEW},
        {"repetition_penalty": 1.5},
        {"return_dict_in_generate": True},
        {"stopping_criteria": "third"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_give_what_transformers_gives(name: str, setting: dict[str, Any], lesioned: bool) -> None:
    model = load(name)
    units = some_units(model, ["decoder"], share=0.3) if lesioned else None
    edits = () if units is None else (mn.zero(units),)
    stimulus = stimuli_for(name)[0]
    # Candidates that transformers looks up behind images hold image tokens, and it fails; greedy text is the same.
    faster = ["assistant_model", *([] if name in ("llama", "gpt2") else ["prompt_lookup_num_tokens"])]
    plain = {key: value for key, value in setting.items() if key not in (*faster, "return_dict_in_generate")}
    start = encode(build(name), stimulus.text, stimulus.images())["input_ids"].shape[1]
    third = [lambda ids, scores, **_: torch.tensor([ids.shape[1] >= start + 3])]
    given = {key: {"self": build(name).model, "third": third}.get(str(value), value) for key, value in setting.items()}
    plain = {key: given[key] for key in plain}
    assert ids_of(model, stimulus, *edits, **given) == plainly(name, stimulus, units, **plain)


def test_a_checkpoint_that_asks_for_prompt_lookup_or_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("llama")
    stimulus = stimuli_for("llama")[0]
    expected = plainly("llama", stimulus)
    monkeypatch.setattr(model.module.generation_config, "prompt_lookup_num_tokens", 3)
    monkeypatch.setattr(model.module.generation_config, "use_cache", False)
    assert ids_of(model, stimulus) == expected
    torch.manual_seed(0)
    sampled = ids_of(model, stimulus, do_sample=True, top_k=0)
    monkeypatch.setattr(model.module.generation_config, "prompt_lookup_num_tokens", None)
    torch.manual_seed(0)
    assert sampled == plainly("llama", stimulus, do_sample=True, top_k=0)
    with pytest.raises(mn.InputError, match=r"`prompt_lookup_num_tokens` is for greedy decoding"):
        model.generate(stimulus, do_sample=True, prompt_lookup_num_tokens=3)


def test_sampling_draws_what_transformers_draws(name: str) -> None:
    model = load(name)
    stimulus = stimuli_for(name)[0]
    torch.manual_seed(4)
    expected = plainly(name, stimulus, do_sample=True, top_k=0)
    state = torch.get_rng_state()
    torch.manual_seed(4)
    assert ids_of(model, stimulus, do_sample=True, top_k=0) == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def closing() -> mn.Model:
    tokenizer = make_tokenizer(add_bos=True, add_eos=True)
    return mn.load(tr.LlamaForCausalLM(tr.LlamaConfig(**text_sizes(tokenizer))).eval(), tokenizer=tokenizer)


def test_a_tokenizer_that_closes_every_text_cannot_be_continued(closing: mn.Model) -> None:
    for call in (lambda: closing.generate("a dog"), lambda: closing.score("a dog", [" runs"])):
        with pytest.raises(mn.InputError, match=r"ends every text with '</s>', so texts cannot be continued"):
            call()
