"""Image tokens and class tokens of vision towers: rows that change with the picture, wherever learned tokens are."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers as tr

import modalnet as mn
from families import finish, mean_std, picture, square
from versions import since

SIDE, PATCH, WIDTH = 32, 8, 32
COMMON: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "patch_size": PATCH,
}


class Learned(torch.nn.Module):
    """Patches with learned tokens around them, as parameters of any names: ``{name: rows}`` before and behind."""

    def __init__(self, before: dict[str, int], behind: dict[str, int]) -> None:
        super().__init__()
        self.patch_embeddings = torch.nn.Module()  # where transformers looks for the precision
        self.patch_embeddings.projection = torch.nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.names = tuple(before), tuple(behind)
        for name, rows in {**before, **behind}.items():
            setattr(self, name, torch.nn.Parameter(torch.zeros(1, rows, WIDTH)))
        rows = (SIDE // PATCH) ** 2 + sum(before.values()) + sum(behind.values())
        self.position = torch.nn.Parameter(torch.zeros(1, rows, WIDTH))
        self.norm = torch.nn.LayerNorm(WIDTH)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> torch.Tensor:
        patches = self.patch_embeddings.projection(pixel_values).flatten(2).transpose(1, 2)
        before, behind = ([getattr(self, name).expand(len(patches), -1, -1) for name in names] for names in self.names)
        return self.norm(torch.cat([*before, patches, *behind], 1) + self.position)


def learned(before: dict[str, int], behind: dict[str, int]) -> Any:
    """A ViT whose embeddings hold other learned tokens."""
    model = tr.ViTModel(tr.ViTConfig(**COMMON, image_size=SIDE), add_pooling_layer=False)
    model.embeddings = Learned(before, behind)
    return model


def llama4() -> Any:
    sizes = {**COMMON, "intermediate_size": 4 * WIDTH}  # what four patches are shuffled into
    config = tr.Llama4VisionConfig(
        **sizes, image_size=SIDE, vision_output_dim=32, projector_input_dim=32, projector_output_dim=32
    )
    return tr.Llama4VisionModel(config)


def aimv2() -> Any:
    return tr.Aimv2VisionModel(tr.Aimv2VisionConfig(**COMMON, image_size=SIDE))


def deit() -> Any:
    return tr.DeiTModel(tr.DeiTConfig(**COMMON, image_size=SIDE))


def yolos() -> Any:
    return tr.YolosModel(tr.YolosConfig(**COMMON, image_size=[SIDE, SIDE], num_detection_tokens=6))


def registers() -> Any:
    return tr.Dinov2WithRegistersModel(
        tr.Dinov2WithRegistersConfig(**COMMON, mlp_ratio=2, image_size=SIDE, num_register_tokens=4)
    )


MODELS = {
    "llama4": llama4,
    "aimv2": aimv2,
    "deit": deit,
    "yolos": yolos,
    "registers": registers,
    "timm": lambda: learned({"cls_token": 1, "reg_token": 4}, {}),
    "registers only": lambda: learned({"reg_token": 1}, {}),
    "class last": lambda: learned({"reg_token": 2}, {"class_embedding": 1}),
    "prompts": lambda: learned({"prompt": 3}, {}),
    "summary": lambda: learned({"summary": 1}, {}),
    "several classes": lambda: learned({"cls_token": 3}, {}),
}
#: Where the class token is; None where there is none, and False where it is not known which it is.
CLASS = {
    "llama4": 16,
    "aimv2": None,
    "deit": 0,
    "yolos": 0,
    "registers": 0,
    "timm": 0,
    "registers only": None,
    "class last": 18,
    "prompts": False,
    "summary": 0,
    "several classes": False,
}


@cache
def made(name: str) -> tuple[Any, Any]:
    module = finish(MODELS[name]())
    return module, mn.load(module, processor=tr.ViTImageProcessorPil(size=square(SIDE), **mean_std()))


def truth(name: str, stimulus: mn.Stimulus | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """By hooks: which rows entering the first block change with the picture, and what every block puts out."""
    module, model = made(name)
    blocks = [module.get_submodule(path) for path in model.vision.paths]
    entering: list[torch.Tensor] = []
    out: list[torch.Tensor] = []

    def enters(_: Any, args: Any, kwargs: Any) -> None:
        entering.append((args[0] if args else next(iter(kwargs.values()))).detach()[0])

    hooks = [blocks[0].register_forward_pre_hook(enters, with_kwargs=True)]
    for block in blocks:
        hooks.append(block.register_forward_hook(lambda _, __, o: out.append(o[0] if isinstance(o, tuple) else o)))
    with torch.no_grad():
        for seed in range(2):
            module(pixel_values=torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)))
        out.clear()
        if stimulus is not None:
            processor = tr.ViTImageProcessorPil(size=square(SIDE), **mean_std())
            module(**processor(stimulus.images(), return_tensors="pt"))
    for hook in hooks:
        hook.remove()
    states = torch.stack([each[0] for each in out]) if out else torch.zeros(0)
    return (entering[0] != entering[1]).any(1), states


@pytest.mark.parametrize("name", MODELS)
@since("5.20")
def test_image_tokens_are_the_rows_that_change_with_the_picture(name):
    stimuli = [mn.Stimulus(image=picture(seed, 37, 53), id=f"p{seed}") for seed in range(2)]
    _, model = made(name)
    run = model.run(stimuli, tokens="image", batch_size=2)
    for row, stimulus in zip(run.residual["vision"], stimuli, strict=True):
        changing, states = truth(name, stimulus)
        assert 0 < changing.sum() <= len(changing)
        torch.testing.assert_close(row, states[:, changing].mean(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@since("5.20")
def test_the_class_token_is_the_row_of_its_parameter(name):
    stimulus = mn.Stimulus(image=picture(3, 37, 53), id="p")
    module, model = made(name)
    given = {parameter: parameter.requires_grad for parameter in module.parameters()}
    place = CLASS[name]
    if place is None:
        with pytest.raises(mn.InputError, match="no class token"):
            model.run([stimulus], tokens="cls")
    elif place is False:
        with pytest.raises(mn.InputError, match=r"3 tokens that do not depend on the image, at 0, 1, 2 of 19 \(from"):
            model.run([stimulus], tokens="cls")
    else:
        row = model.run([stimulus], tokens="cls").residual["vision"][0]
        torch.testing.assert_close(row, truth(name, stimulus)[1][:, place], rtol=1e-4, atol=1e-4)
    assert {parameter: parameter.requires_grad for parameter in module.parameters()} == given
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("name", ["llama4", "yolos", "aimv2", "prompts"])
@since("5.20")
def test_a_lesion_of_image_tokens_leaves_the_learned_ones(name):
    stimulus = mn.Stimulus(image=picture(3, 37, 53), id="p")
    _, model = made(name)
    units = model.units("vision") & mn.Units.from_indices({"vision": model.vision.shape}, [("vision", 0, 3)])
    run = model.run([stimulus], mn.zero(units).at("image"), read={"vision": [0]}, tokens="all")
    changing, states = truth(name, stimulus)
    zeroed = run.residual["vision"][0][0][:, 3]
    assert bool((zeroed[changing] == 0).all())
    torch.testing.assert_close(zeroed[~changing], states[0, ~changing, 3], rtol=1e-4, atol=1e-4)


@since("5.20")
def test_token_names_say_which_rows_are_image_tokens():
    _, model = made("llama4")
    (row,) = model._executor.token_rows([mn.Stimulus(image=picture(3, 37, 53))], ["vision"])
    assert row["vision"].names[:2] == ("<image 0>", "<image 1>")
    assert row["vision"].names[-1] == "<cls>"
    assert row["vision"].image.tolist() == [True] * 16 + [False]


@since("5.20")
def test_the_rows_are_measured_once(monkeypatch):
    from modalnet.execution.engine import Engine

    module = finish(MODELS["deit"]())
    model = mn.load(module, processor=tr.ViTImageProcessorPil(size=square(SIDE), **mean_std()))
    calls, real = [], Engine.entering
    monkeypatch.setattr(Engine, "entering", lambda *args: calls.append(1) or real(*args))
    stimuli = [mn.Stimulus(image=picture(seed, 37, 53)) for seed in range(3)]
    model.run(stimuli, tokens="mean", batch_size=1)
    assert not calls
    for _ in range(2):
        model.run(stimuli, tokens="image", batch_size=1)
        model.run(stimuli, tokens="cls", batch_size=1)
    assert len(calls) == 2
