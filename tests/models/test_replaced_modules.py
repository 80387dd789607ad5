"""Modules that are replaced after loading are those that run and are read."""

from __future__ import annotations

import copy
from typing import Any

import nnsight
import numpy as np
import pytest
import torch
from torch import nn

import modalnet as mn
from families import build
from reference import TEXTS

TEXT = TEXTS[0]


class Steered(nn.Module):
    """A wrapper around a block, as steering libraries put in its place."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.block(*args, **kwargs)
        return (out[0] + 3.0, *out[1:]) if isinstance(out, tuple) else out + 3.0


def loaded() -> mn.Model:
    family = build("llama")
    model = mn.load(copy.deepcopy(family.model), tokenizer=family.tokenizer)
    model.run(TEXT)  # what is measured of the model is of the modules that it had
    return model


def plainly(model: mn.Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations of the blocks at the last token, and logits, by transformers and hooks on a fresh copy."""
    module = copy.deepcopy(model.module)
    seen: list[torch.Tensor] = []
    for block in module.model.layers:
        block.register_forward_hook(lambda _m, _i, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1]))
    with torch.no_grad():
        logits = module(**model.tokenizer(TEXT, return_tensors="pt")).logits[0, -1]
    return torch.stack(seen), logits


def other(block: nn.Module) -> nn.Module:
    made = copy.deepcopy(block)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(1.5)
    return made


def replace_block(module: Any) -> None:
    module.model.layers[2] = other(module.model.layers[2])


def wrap_block(module: Any) -> None:
    module.model.layers[1] = Steered(module.model.layers[1])


def replace_all(module: Any) -> None:
    module.model.layers = nn.ModuleList([other(block) for block in module.model.layers])


def drop_blocks(module: Any) -> None:
    module.model.layers = module.model.layers[:2]


def replace_inside(module: Any) -> None:
    module.model.layers[0].mlp = other(module.model.layers[0].mlp)


def replace_head(module: Any) -> None:
    module.lm_head = other(module.lm_head)


def resize(module: Any) -> None:
    module.resize_token_embeddings(module.config.vocab_size + 3)


@pytest.mark.parametrize(
    "change", [replace_block, wrap_block, replace_all, drop_blocks, replace_inside, replace_head, resize]
)
def test_what_is_there_now_is_read(change: Any) -> None:
    model = loaded()
    view = model.with_(mn.scale(mn.site("decoder", 0), 1.0))
    before = plainly(model)
    change(model.module)
    states, logits = plainly(model)
    assert logits.shape != before[1].shape or not torch.allclose(logits, before[1])
    for each in (model, view):
        run = each.run(TEXT, logits="last")
        torch.testing.assert_close(run.activations["decoder"][0], states, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(run.logits[0], logits, atol=1e-5, rtol=1e-5)
    assert model.decoder is not None
    assert model.units().mask["decoder"].shape == (len(states), model.decoder.width)
    (ids,) = model.tokenizer([TEXT], return_tensors="pt")["input_ids"].unsqueeze(0)
    with torch.no_grad():
        written = copy.deepcopy(model.module).generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    assert model.generate(TEXT, max_new_tokens=4) == model.tokenizer.decode(written, skip_special_tokens=True)


def test_every_space_of_a_replaced_block_is_its_own() -> None:
    model = loaded()
    model.run(TEXT, read=list(model.spaces))
    replace_block(model.module)
    expected = mn.load(copy.deepcopy(model.module), tokenizer=model.tokenizer).run(TEXT, read=list(model.spaces))
    for name, values in model.run(TEXT, read=list(model.spaces)).activations.items():
        torch.testing.assert_close(values, expected.activations[name])


def test_localize_after_a_replacement_is_that_of_the_new_module() -> None:
    contrast = mn.Contrast(
        [mn.Stimulus(text, condition="ab"[i % 2]) for i, text in enumerate(["a dog", "b c", "d e", "a f"])], "a", "b"
    )
    model = loaded()
    before = mn.localize(model, contrast, progress=False)
    replace_block(model.module)
    after = mn.localize(model, contrast, progress=False)
    expected = mn.localize(mn.load(copy.deepcopy(model.module), tokenizer=model.tokenizer), contrast, progress=False)
    np.testing.assert_allclose(after.t["decoder"], expected.t["decoder"], rtol=1e-6)
    assert not np.allclose(before.t["decoder"][2:], after.t["decoder"][2:])


def test_an_edited_nnsight_model_of_other_modules_is_refused() -> None:
    family = build("llama")
    envoy = nnsight.NNsight(copy.deepcopy(family.model))
    with envoy.edit(inplace=True):
        envoy.model.layers[0].output = envoy.model.layers[0].output * 2
    model = mn.load(envoy, tokenizer=family.tokenizer)
    model.run(TEXT)
    replace_block(model.module)
    with pytest.raises(mn.InputError, match=r"were replaced after nnsight wrapped it.*Wrap the module again"):
        model.run(TEXT)
