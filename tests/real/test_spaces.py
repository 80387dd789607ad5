"""Spaces inside of blocks in trained models, Gemma 3 270M and DINOv2-S, against plain transformers with hooks.

Where each kind of activation is, is written down here from the code of transformers: Gemma puts a norm behind its
attention and its MLP, DINOv2 a scale, and what is added to the stream is what comes out of these.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tr

import assets
import modalnet as mn

pytestmark = pytest.mark.real

TEXTS = ["the old man sat on a chair near the window", "dap drello smop ub plid kav dap ceft ub ked"]
LAYERS = (2, 9)
ATOL = 1e-5  # of the largest activation


@dataclass(frozen=True)
class Truth:
    """A trained model as modalnet has it and as transformers does, and where in a block each kind of activation is."""

    model: Any
    plain: Any
    tower: str
    blocks: str
    where: dict[str, tuple[str, str]]
    heads: int
    stimuli: list[Any]
    inputs: list[dict[str, torch.Tensor]]

    def path(self, kind: str, layer: int) -> tuple[Any, str]:
        inside, side = self.where[kind]
        block = self.plain.get_submodule(f"{self.blocks}.{layer}")
        return (block.get_submodule(inside) if inside else block), side

    def space(self, kind: str) -> Any:
        return self.model.spaces[f"{self.tower}.{kind}"]

    def numbers(self, kind: str, units: list[int]) -> list[int]:
        """Which numbers of a vector are those of units: of a head, its part."""
        size = self.space(kind).size
        return [unit * size + each for unit in units for each in range(size)]

    def units(self, kind: str, chosen: list[int], layers: tuple[int, ...] = LAYERS) -> mn.Units:
        space = self.space(kind)
        return mn.Units.from_indices(
            {space.name: space.shape}, [(space.name, layer, unit) for layer in layers for unit in chosen]
        )

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits at the last token; of a vision transformer, what its last block puts out."""
        with torch.no_grad():
            found = self.plain(**inputs, output_hidden_states=True)
        return found.logits[0, -1] if hasattr(found, "logits") else found.hidden_states[-1][0]

    def ours(self, stimulus: Any, *edits: Any) -> torch.Tensor:
        if self.tower == "decoder":
            return self.model.run([stimulus], *edits, read=[], logits="last").logits[0]
        last = self.model.towers[self.tower].n_layers - 1
        return self.model.run([stimulus], *edits, read={self.tower: [last]}, tokens="all").activations[self.tower][0][0]


@pytest.fixture(scope="module")
def gemma():
    plain = tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32).eval()
    tokenizer = tr.AutoTokenizer.from_pretrained(assets.gemma())
    where = {
        "pre": ("", "input"),
        "mid": ("pre_feedforward_layernorm", "input"),
        "attention": ("post_attention_layernorm", "output"),
        "mlp": ("post_feedforward_layernorm", "output"),
        "neurons": ("mlp.down_proj", "input"),
        "gate": ("mlp.act_fn", "input"),
        "activation": ("mlp.act_fn", "output"),
        "heads": ("self_attn.o_proj", "input"),
    }
    model = mn.load(assets.gemma(), dtype="float32")
    inputs = [dict(tokenizer(text, return_tensors="pt")) for text in TEXTS]
    return Truth(model, plain, "decoder", "model.layers", where, 4, TEXTS, inputs)


@pytest.fixture(scope="module")
def dinov2():
    from PIL import Image

    plain = tr.AutoModel.from_pretrained(assets.dinov2(), dtype=torch.float32).eval()
    processor = tr.AutoImageProcessor.from_pretrained(assets.dinov2())
    files = [assets.data("floc") / name for name in ("adult-001.jpg", "house-001.jpg")]
    pictures = [Image.open(path).convert("RGB") for path in files]
    where = {
        "pre": ("", "input"),
        "mid": ("norm2", "input"),
        "attention": ("layer_scale1", "output"),
        "mlp": ("layer_scale2", "output"),
        "neurons": ("mlp.fc2", "input"),
        "gate": ("mlp.activation_fn", "input"),
        "heads": ("attention.o_proj", "input"),
    }
    model = mn.load(assets.dinov2(), dtype="float32")
    inputs = [dict(processor(picture, return_tensors="pt")) for picture in pictures]
    stimuli = [mn.Stimulus(image=picture) for picture in pictures]
    return Truth(model, plain, "vision", "encoder.layer", where, 6, stimuli, inputs)


@pytest.fixture(params=["gemma", "dinov2"])
def truth(request):
    return request.getfixturevalue(request.param)


KINDS = ("pre", "mid", "attention", "mlp", "neurons", "gate", "activation", "heads")


def entering(args: Any, kwargs: Any) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


@contextlib.contextmanager
def hooked(truth: Truth, kind: str, layers: Any, change: Any = None):
    """Record what is at a kind of place in some layers, ``[token, number]``, and let ``change`` edit it in place."""
    seen: dict[int, torch.Tensor] = {}
    stack = contextlib.ExitStack()

    def both(layer: int, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        if change is not None:
            change(layer, hidden[0])
        seen[layer] = hidden[0].detach().clone()
        return hidden

    def before(layer: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            new = both(layer, entering(args, kwargs))
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        return hook

    def after(layer: int) -> Any:
        return lambda _, args, output: both(layer, output)

    with stack:
        for layer in layers:
            module, side = truth.path(kind, layer)
            if side == "input":
                handle = module.register_forward_pre_hook(before(layer), with_kwargs=True)
            else:
                handle = module.register_forward_hook(after(layer))
            stack.callback(handle.remove)
        yield seen


@contextlib.contextmanager
def zeroed(truth: Truth, kind: str, units: list[int], layers: Any = LAYERS):
    """Zero units at all tokens. Between attention and MLP, what the attention adds is made to cancel what it meets."""
    numbers = truth.numbers(kind, units)
    if kind != "mid":

        def nothing(layer: int, hidden: torch.Tensor) -> None:
            hidden[:, numbers] = 0

        with hooked(truth, kind, layers, nothing) as seen:
            yield seen
        return
    with hooked(truth, "pre", layers) as met:

        def cancelling(layer: int, hidden: torch.Tensor) -> None:
            hidden[:, numbers] = -met[layer][:, numbers]

        with hooked(truth, "attention", layers, cancelling):
            yield met


def near(found: Any, expected: torch.Tensor) -> None:
    scale = float(expected.abs().max())
    assert float((torch.as_tensor(found) - expected).abs().max()) <= ATOL * scale


def kinds_of(truth: Truth) -> list[str]:
    return [kind for kind in KINDS if kind in truth.where]


def test_every_kind_is_there_in_every_block(truth):
    names = [truth.tower, *(f"{truth.tower}.{kind}" for kind in kinds_of(truth))]
    assert list(truth.model.spaces) == names
    n_layers = truth.model.towers[truth.tower].n_layers
    assert all(truth.model.spaces[name].layers == (*range(n_layers),) for name in names)
    assert truth.space("heads").width == truth.heads


def test_reads_are_those_of_hooks(truth):
    """Each kind in all layers and at all tokens; of a head, the length of its part."""
    names = [f"{truth.tower}.{kind}" for kind in kinds_of(truth)]
    found = truth.model.run(truth.stimuli, read=names, tokens="all").activations
    n_layers = truth.model.towers[truth.tower].n_layers
    for number, inputs in enumerate(truth.inputs):
        with contextlib.ExitStack() as stack:
            seen = {kind: stack.enter_context(hooked(truth, kind, range(n_layers))) for kind in kinds_of(truth)}
            truth.forward(inputs)
        for kind, layers in seen.items():
            expected = torch.stack([layers[layer] for layer in range(n_layers)])
            if kind == "heads":
                expected = expected.unflatten(-1, (truth.heads, -1)).norm(dim=-1)
            near(found[f"{truth.tower}.{kind}"][number], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_zeroed_units_give_the_logits_of_hooks(truth, kind):
    if kind not in truth.where:  # its MLPs have no gate
        assert f"{truth.tower}.{kind}" not in truth.model.spaces
        return
    units = [1, 3] if kind == "heads" else [0, 5, 100, 300]
    stimulus, inputs = truth.stimuli[0], truth.inputs[0]
    before = truth.forward(inputs)
    with zeroed(truth, kind, units):
        expected = truth.forward(inputs)
    assert float((before - expected).abs().max()) > 100 * ATOL * float(expected.abs().max())
    near(truth.ours(stimulus, mn.zero(truth.units(kind, units))), expected)


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_what_a_sublayer_adds_stands_behind_its_norm_or_scale(truth, kind):
    """The stream before, and what is read of both sublayers, add up to the stream after."""
    names = [truth.tower, *(f"{truth.tower}.{each}" for each in ("pre", "mid", "attention", "mlp"))]
    read = {
        name.rpartition(".")[2]: values[0]
        for name, values in truth.model.run(truth.stimuli[:1], read=names, tokens="all").activations.items()
    }
    before, after = ("pre", "mid") if kind == "attention" else ("mid", truth.tower)
    near(read[before] + read[kind], read[after])


def test_the_mean_of_a_head_is_a_vector(truth):
    """Mean ablation puts in the mean of the head's part over tokens (here without sparing sinks), then over stimuli."""
    head, numbers = truth.units("heads", [2]), truth.numbers("heads", [2])
    rows: dict[int, list[torch.Tensor]] = {layer: [] for layer in LAYERS}
    for inputs in truth.inputs:
        with hooked(truth, "heads", LAYERS) as seen:
            truth.forward(inputs)
        for layer in LAYERS:
            rows[layer].append(seen[layer][:, numbers].mean(0))
    means = {layer: torch.stack(each).mean(0) for layer, each in rows.items()}

    def put_in(layer: int, hidden: torch.Tensor) -> None:
        hidden[:, numbers] = means[layer]

    with hooked(truth, "heads", LAYERS, put_in):
        expected = truth.forward(truth.inputs[0])
    near(truth.ours(truth.stimuli[0], mn.mean(head, over=truth.stimuli, spare_sinks=False)), expected)


def test_generation_under_a_lesion_of_heads(gemma):
    """With a key-value cache: the heads are zero at the prompt and at every new token."""
    heads = [0, 2]
    with zeroed(gemma, "heads", heads):
        expected = gemma.plain.generate(**gemma.inputs[0], max_new_tokens=8, do_sample=False, use_cache=True)
    with torch.no_grad():
        unchanged = gemma.plain.generate(**gemma.inputs[0], max_new_tokens=8, do_sample=False, use_cache=True)
    assert not torch.equal(expected, unchanged)
    found = gemma.model.generate(TEXTS[0], mn.zero(gemma.units("heads", heads)), max_new_tokens=8)
    new = expected[0, gemma.inputs[0]["input_ids"].shape[1] :].tolist()
    assert found == gemma.model.tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_patching_one_unit_is_the_patched_forward(gemma, kind):
    pair = ["The keys to the cabinet", "The key to the cabinet"]
    answers = (" are", " is")
    ids = [gemma.model.tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in answers]
    inputs = [dict(gemma.model.tokenizer(text, return_tensors="pt")) for text in pair]
    layer, unit = 9, 3
    numbers = gemma.numbers(kind, [unit])
    with hooked(gemma, kind, [layer]) as clean:
        gemma.forward(inputs[0])

    kept = dict(clean)

    def patched(at: int, hidden: torch.Tensor) -> None:
        hidden[:, numbers] = kept[at][:, numbers]

    with hooked(gemma, kind, [layer], patched):
        logits = gemma.forward(inputs[1])
    one = gemma.units(kind, [unit], (layer,))
    near(gemma.ours(pair[1], mn.patch(one, pair[0])), logits)
    result = mn.activation_patching(
        gemma.model,
        pair[0],
        pair[1],
        mn.patching.logit_difference(answers[0], answers[1]),
        units={"one": one},
        n_controls=0,
        sites=[mn.site(f"decoder.{kind}", layer)],
        progress=False,
        cache=False,
    )
    expected = float(logits[ids[0]] - logits[ids[1]])
    assert result.networks["one"].joint[0] == pytest.approx(expected, abs=1e-4)
    assert np.isfinite(result.effect[f"decoder.{kind}"]).all()
