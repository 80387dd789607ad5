"""Quantized models: what is read of them is what their own forward computes, and each has its own fingerprint."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import modalnet as mn
from families import build, picture
from reference import TEXT_ONLY, TEXTS, VISION_ONLY, encode, paths, watch


def dynamic(module: nn.Module) -> nn.Module:
    """torch's own dynamic quantization: weights are packed, and ``weight`` is a method."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)


class Codes(torch.Tensor):
    """A weight of 8 bits that acts as one of 32, as torchao makes them: a tensor that wraps codes and scales."""

    codes: torch.Tensor
    scales: torch.Tensor

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scales: torch.Tensor) -> Codes:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scales.dtype, device=codes.device)

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor) -> None:
        self.codes, self.scales = codes, scales

    def __tensor_flatten__(self) -> tuple[list[str], tuple[()]]:
        return ["codes", "scales"], ()

    @classmethod
    def __tensor_unflatten__(cls, parts: dict[str, torch.Tensor], context: Any, size: Any, stride: Any) -> Codes:
        return cls(parts["codes"], parts["scales"])

    def dequantized(self) -> torch.Tensor:
        return self.codes.to(self.scales.dtype) * self.scales

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].codes, args[0].scales)
        if func in (torch.ops.aten.t.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            plain = [each.dequantized() if isinstance(each, Codes) else each for each in args]
            return func(*plain, **(kwargs or {}))
        raise NotImplementedError(f"Codes does not implement {func}")


class Linear8bit(nn.Linear):
    """A layer as bitsandbytes makes them: codes as the weight, and scales as an attribute of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.weight.SCB[:, None] / 127, self.bias)


class Linear4bit(nn.Linear):
    """Packed codes: two in a byte, in one column, as bitsandbytes keeps weights of four bits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high, low = self.weight.flatten() >> 4, self.weight.flatten() & 15
        codes = torch.stack([high, low], 1).reshape(self.out_features, self.in_features).to(x.dtype)
        return nn.functional.linear(x, (codes - 8) * self.weight.quant_state.absmax, self.bias)


class State:
    def __init__(self, absmax: torch.Tensor) -> None:
        self.absmax = absmax


def in_layers(change: Callable[[nn.Linear], nn.Linear], *, head: bool) -> Callable[[nn.Module], nn.Module]:
    def changed(module: nn.Module) -> nn.Module:
        made = copy.deepcopy(module)
        for name, each in list(made.named_modules()):
            if type(each) is nn.Linear and (head or "head" not in name):
                holder, _, last = name.rpartition(".")
                setattr(made.get_submodule(holder) if holder else made, last, change(each))
        return made

    return changed


def to_codes(layer: nn.Linear) -> nn.Linear:
    weight = layer.weight.detach()
    scales = weight.abs().amax(1, keepdim=True) / 127
    layer.weight = nn.Parameter(Codes((weight / scales).round().to(torch.int8), scales), requires_grad=False)
    return layer


def to_8_bit(layer: nn.Linear) -> nn.Linear:
    weight = layer.weight.detach()
    made = Linear8bit(layer.in_features, layer.out_features, bias=layer.bias is not None)
    largest = weight.abs().amax(1)
    made.weight = nn.Parameter((weight / largest[:, None] * 127).round().to(torch.int8), requires_grad=False)
    made.weight.SCB, made.bias = largest, layer.bias
    return made


def to_4_bit(layer: nn.Linear) -> nn.Linear:
    weight = layer.weight.detach()
    made = Linear4bit(layer.in_features, layer.out_features, bias=layer.bias is not None)
    scale = weight.abs().max() / 7
    codes = ((weight / scale).round() + 8).to(torch.uint8).reshape(-1, 2)
    made.weight = nn.Parameter((codes[:, :1] << 4) | codes[:, 1:], requires_grad=False)
    made.weight.quant_state, made.bias = State(scale), layer.bias
    return made


QUANTIZED = {
    "dynamic": dynamic,
    "codes": in_layers(to_codes, head=True),
    "8 bit": in_layers(to_8_bit, head=True),
    "4 bit": in_layers(to_4_bit, head=False),
}


def stimuli(name: str) -> list[mn.Stimulus]:
    pictures = [picture(i, 40, 40) for i in range(6)]
    texts = [*TEXTS, *(f"{text} Really?" for text in TEXTS)]
    return [
        mn.Stimulus(
            None if name in VISION_ONLY else text, image=None if name in TEXT_ONLY else own, condition="ab"[i % 2]
        )
        for i, (text, own) in enumerate(zip(texts, pictures, strict=True))
    ]


def mean_by_hooks(name: str, module: Any, tower: str, stimulus: mn.Stimulus) -> torch.Tensor:
    inputs = encode(build(name), stimulus.text, stimulus.images())
    with watch(module, paths(name, tower)) as seen, torch.no_grad():
        module(**inputs)
    return torch.stack([states[0].reshape(-1, states[0].shape[-1]).mean(0) for states in seen.values()])


@pytest.mark.parametrize("how", QUANTIZED)
@pytest.mark.parametrize("name", ["llama", "opt", "llava_clip", "dinov2_with_registers"])
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
def test_what_is_read_is_what_the_forward_computes(name: str, how: str) -> None:
    family = build(name)
    module = QUANTIZED[how](family.model)
    options = {"tokenizer": family.tokenizer, "processor": family.processor or family.image_processor}
    model, plain = mn.load(module, **options), mn.load(family.model, **options)
    given = stimuli(name)
    tower = next(iter(model.towers))
    hooked = QUANTIZED[how](family.model)
    expected = torch.stack([mean_by_hooks(name, hooked, tower, one) for one in given])
    run = model.run(given, read=[tower], tokens="mean")
    torch.testing.assert_close(run.activations[tower], expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(run.activations[tower], plain.run(given, read=[tower], tokens="mean").activations[tower])
    found = [mn.localize(model, mn.Contrast(given, "a", "b"), progress=False) for _ in range(2)]
    assert np.array_equal(found[0].t[tower], found[1].t[tower])
    assert np.isfinite(found[0].t[tower]).all()
    assert model.fingerprint() == mn.load(hooked, **options).fingerprint() != plain.fingerprint()
    if name not in VISION_ONLY:
        network = mn.zero(found[0].top(k=5))
        assert torch.isfinite(model.run(given[:2], network, read=[], logits="last").logits).all()
        assert np.isfinite(np.concatenate(model.score(given[:2], [[" a", " b c"]] * 2, network).logprob)).all()
        assert isinstance(model.generate(given[0], network, max_new_tokens=2), str)


@pytest.mark.parametrize("how", ["codes", "8 bit", "4 bit"])
def test_a_scale_that_changes_is_another_result(how: str) -> None:
    family = build("llama")
    model = mn.load(QUANTIZED[how](family.model), tokenizer=family.tokenizer)
    contrast = mn.Contrast(stimuli("llama"), "a", "b")
    before, numbers = mn.localize(model, contrast, progress=False), model.run(TEXTS[0]).activations["decoder"]
    fingerprint = model.fingerprint()
    weight = model.module.model.layers[0].mlp.up_proj.weight
    scales = {"codes": "scales", "8 bit": "SCB", "4 bit": "quant_state"}[how]
    held = getattr(weight.data if how == "codes" else weight, scales)
    (held.absmax if how == "4 bit" else held).mul_(3.0)
    after = mn.localize(model, contrast, progress=False)
    assert model.fingerprint() != fingerprint
    assert not torch.equal(model.run(TEXTS[0]).activations["decoder"], numbers)
    assert not np.array_equal(after.t["decoder"], before.t["decoder"])
