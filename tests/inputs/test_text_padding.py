"""Padding of texts: on a side where it changes nothing, and as long as a dual encoder was trained with."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tr

import modalnet as mn
from families import finish, make_tokenizer, picture, siglip_vision_config, square
from modalnet.execution.engine import Engine
from versions import since

TEXTS = ["A dog.", "Is there a face in this?", "The dog ran across"]


@cache
def tokenizer() -> Any:
    return make_tokenizer()


def bert() -> Any:
    return tr.BertConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        attn_implementation="eager",
    )


class FromTheEnd(tr.BertModel):
    """Counts positions from the last place of a row, padding or not."""

    def forward(self, input_ids: Any, attention_mask: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        places = torch.arange(input_ids.shape[1] - 1, -1, -1)[None].expand(len(input_ids), -1)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=places, **kwargs)


class Unmasked(tr.BertModel):
    """Attends to padding."""

    def forward(self, input_ids: Any, attention_mask: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().forward(input_ids=input_ids, **kwargs)


def alone(module: Any, tower: Any, text: str) -> torch.Tensor:
    """By hooks: ``[layer, token, dim]`` of a text alone."""
    out: list[torch.Tensor] = []
    hooks = []
    for block in map(module.get_submodule, tower.paths):
        hooks.append(block.register_forward_hook(lambda _, __, o: out.append(o[0] if isinstance(o, tuple) else o)))
    with torch.no_grad():
        module(**tokenizer()([text], return_tensors="pt"))
    for hook in hooks:
        hook.remove()
    return torch.stack([each[0] for each in out])


def agrees(model: Any, module: Any) -> bool:
    (tower,) = model.towers.values()
    run = model.run(TEXTS, tokens="all", batch_size=3)
    return all(
        np.allclose(found, alone(module, tower, text), atol=1e-4)
        for found, text in zip(run.residual[tower.name], TEXTS, strict=True)
    )


@since("5.20")
def test_texts_are_padded_on_the_side_that_changes_nothing():
    module = finish(FromTheEnd(bert()))
    model = mn.load(module, tokenizer=tokenizer())
    assert agrees(model, module)
    model._executor.padding_side = "left"
    assert agrees(model, module)
    model._executor.padding_side = "right"
    with pytest.raises(mn.InputError, match=r'padded on the right .* `padding_side` must be "left" here, .*"right"'):
        model.run(TEXTS)
    assert agrees_one_by_one(model, module)


def agrees_one_by_one(model: Any, module: Any) -> bool:
    (tower,) = model.towers.values()
    runs = [model.run([text], tokens="all").residual[tower.name][0] for text in TEXTS]
    return all(np.allclose(run, alone(module, tower, text), atol=1e-4) for run, text in zip(runs, TEXTS, strict=True))


@since("5.20")
def test_where_padding_changes_everything_texts_of_a_length_run_together():
    module = finish(Unmasked(bert()))
    model = mn.load(module, tokenizer=tokenizer())
    with pytest.warns(UserWarning, match="texts of different lengths run in other batches"):
        assert agrees(model, module)
    assert agrees(model, module)  # and that is said once


@since("5.20")
def test_a_side_from_which_positions_are_counted_is_refused():
    config = tr.BartConfig(
        vocab_size=len(tokenizer()), d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48
    )
    module = finish(tr.BartForCausalLM(config))
    model = mn.load(module, tokenizer=tokenizer())
    assert agrees(model, module)
    model._executor.padding_side = "left"
    with pytest.raises(mn.InputError, match='`padding_side` must be "right" here'):
        model.run(TEXTS)


@since("5.20")
def test_padding_is_measured_once_and_not_behind_declared_causal_attention(monkeypatch):
    passes, real = [], Engine.run
    monkeypatch.setattr(Engine, "run", lambda *args, **kwargs: passes.append(1) or real(*args, **kwargs))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    llama = tr.LlamaModel(tr.LlamaConfig(vocab_size=len(tokenizer()), num_key_value_heads=4, **sizes))
    for module, measured in ((llama, 0), (tr.BertModel(bert()), 2)):
        model = mn.load(finish(module), tokenizer=tokenizer())
        for extra in (measured, 0):
            passes.clear()
            model.run(TEXTS, tokens="all", batch_size=3)
            assert len(passes) == 1 + extra


def siglip(*, masks: bool, side: str = "right") -> tuple[Any, Any]:
    """SigLIP, whose text tower reads its summary at the last of 20 positions."""
    own = make_tokenizer(add_eos=True, max_length=20, padding_side=side)
    own.model_input_names = ["input_ids", "attention_mask"] if masks else ["input_ids"]
    text = {
        "vocab_size": len(own),
        "hidden_size": 36,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 20,
        "projection_size": 36,
    }
    config = tr.SiglipConfig(vision_config=siglip_vision_config(head=True).to_dict(), text_config=text)
    images = tr.SiglipImageProcessorPil(size=square(24))
    return finish(tr.SiglipModel(config)), tr.SiglipProcessor(image_processor=images, tokenizer=own)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
@since("5.20")
def test_a_text_tower_that_was_trained_on_padded_texts_reads_them_padded(masks, side):
    module, processor = siglip(masks=masks, side=side)
    model = mn.load(module, processor=processor)
    run = model.run(TEXTS, tokens="all", batch_size=3)
    pooled = model.run(TEXTS, tokens="mean", batch_size=3)
    both = model.run([mn.Stimulus(text, image=picture(0, 30, 30)) for text in TEXTS], tokens="all", batch_size=3)
    for i, text in enumerate(TEXTS):
        padded = processor.tokenizer([text], padding="max_length", max_length=20, return_tensors="pt")
        n_tokens = len(processor.tokenizer(text)["input_ids"])
        own = slice(20 - n_tokens, None) if side == "left" else slice(0, n_tokens)
        with torch.no_grad():
            states = module.text_model(**padded, output_hidden_states=True).hidden_states
        expected = torch.stack([state[0, own] for state in states[1:-1]])
        torch.testing.assert_close(run.residual["encoder"][i][:2], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(both.residual["encoder"][i][:2], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(pooled.residual["encoder"][i][:2], expected.mean(1), rtol=1e-4, atol=1e-4)


@since("5.20")
def test_a_dual_encoder_that_reads_its_summary_elsewhere_is_not_padded():
    from reference import load

    assert load("clip")._executor.encoder.trained_length.tokens is None
