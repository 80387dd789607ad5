"""What must hold for a model of any class, each against plain transformers and torch hooks on the same inputs.

A check returns None where it passed, a reason where it does not apply to a model, and fails as assertions do.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

import modalnet as mn
from families import picture
from modalnet.execution.compile import output_head
from modalnet.execution.plan import Plan, Pool, Sites, Write
from modalnet.models.sites import Space
from modalnet.models.towers import Tower

from .feed import Tensors, UnfitError, sounds
from .small import Small

TEXTS = ("What is this?", "Describe this image in one word, please. Is there a face?", "The dog ran across", "Why")
SIZES = ((37, 53), (120, 40), (64, 64), (40, 90))
#: Activations of small random models are of order one; float32 sums in another order differ by less.
CLOSE = 2e-4


@dataclass
class Bench:
    """A small model as modalnet has it, and as transformers has it.

    Attributes
    ----------
    small
        The model with what makes its inputs.
    notes
        What a check found worth saying of a model that passes.
    """

    small: Small
    notes: list[str] = field(default_factory=list)

    @cached_property
    def model(self) -> Any:
        """The model in modalnet."""
        processor = self.small.processor
        if "input_ids" not in inspect.signature(self.module.forward).parameters and not self.small.writes:
            return mn.load(self.module, processor=processor.image_processor)  # it takes no text
        return mn.load(self.module, tokenizer=self.small.tokenizer, processor=processor)

    @property
    def module(self) -> Any:
        """The transformers model."""
        return self.small.model

    @property
    def sees(self) -> bool:
        """Whether it takes pictures."""
        return self.small.processor is not None

    @property
    def reads(self) -> bool:
        """Whether it takes text."""
        return any(tower.modality == "text" for tower in self.model.towers.values())

    def stimuli(self, n: int) -> list[mn.Stimulus]:
        """Stimuli of different sizes and lengths that the model can read."""
        return [
            mn.Stimulus(TEXTS[i] if self.reads else None, image=picture(i, *SIZES[i]) if self.sees else None)
            for i in range(n)
        ]

    def kinds(self, n: int) -> list[list[mn.Stimulus]]:
        """Stimuli of every kind: those of a dual encoder may have a text, a picture, or both."""
        whole = self.stimuli(n)
        if not self.model._executor.encoder.dual:
            return [whole]
        return [whole, [replace(one, text=None) for one in whole], [replace(one, image=None) for one in whole]]

    def root(self, stimulus: mn.Stimulus) -> Any:
        """What runs: the model or, for half of what a dual encoder takes, one of its towers."""
        if not self.model._executor.encoder.dual or (stimulus.text is not None and stimulus.n_images):
            return self.module
        tower = self.model.towers["encoder" if stimulus.text is not None else "vision"]
        return self.module.get_submodule(tower.root)

    def inputs(self, stimulus: mn.Stimulus) -> Tensors:
        """What transformers takes for a stimulus alone, by the processor itself."""
        return self.small.inputs(stimulus.text, stimulus.images() if stimulus.n_images else [])

    def towers(self, stimulus: mn.Stimulus) -> list[Tower]:
        """Towers that a stimulus reaches."""
        return [self.model.towers[name] for name in self.model._executor.reached([stimulus])]


# ---------------------------------------------------------------------------------------------------------- watching


def first(value: Any) -> Any:
    """The hidden states of what a block takes or gives."""
    return value[0] if isinstance(value, tuple | list) else value


def as_positions(hidden: torch.Tensor, tower: Tower) -> torch.Tensor:
    """``[position, width]`` of a block's output, put together index by index."""
    if tower.streams > 1 and hidden.shape[-1] * tower.streams == tower.width:
        parts = hidden.unbind(0 if tower.streams_first else -2)
        hidden = torch.cat(list(parts), dim=-1)
    elif hidden.shape[-1] != tower.width:
        hidden = torch.stack(list(hidden.unbind(1)), dim=-1)
    assert hidden.shape[-1] == tower.width, f"the {tower.name} tower puts out {tuple(hidden.shape)}, not {tower.width}"
    return hidden.reshape(-1, tower.width)


@contextlib.contextmanager
def watching(module: Any, paths: Sequence[str]) -> Iterator[list[tuple[str, Any, torch.Tensor]]]:
    """Record every call of some submodules, in order: path, what came in, what went out."""
    calls: list[tuple[str, Any, torch.Tensor]] = []

    def keep(path: str) -> Any:
        def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            given = args[0] if args else next((v for v in kwargs.values() if isinstance(v, torch.Tensor)), None)
            calls.append((path, given, first(output).detach().clone()))

        return hook

    hooks = [module.get_submodule(path).register_forward_hook(keep(path), with_kwargs=True) for path in paths]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def zeroing(module: Any, path: str, tower: Tower, unit: int) -> Iterator[None]:
    """Set one unit of a block to zero wherever the block is called."""

    def hook(_: Any, args: Any, output: Any) -> Any:
        hidden = first(output).clone()
        if tower.streams > 1 and hidden.shape[-1] * tower.streams == tower.width:
            stream, dim = divmod(unit, hidden.shape[-1])
            (hidden.movedim(0, -2) if tower.streams_first else hidden)[..., stream, dim] = 0
        elif hidden.shape[-1] == tower.width:
            hidden[..., unit] = 0
        else:
            hidden[:, unit] = 0
        return (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden

    handle = module.get_submodule(path).register_forward_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def plain(bench: Bench, inputs: Mapping[str, Any], root: Any = None) -> Any:
    """A forward pass of transformers."""
    with torch.no_grad():
        return (bench.module if root is None else root)(**inputs)


def states(bench: Bench, stimulus: mn.Stimulus) -> tuple[Any, dict[str, list[torch.Tensor]]]:
    """The output for a stimulus alone, and per tower that it reaches ``[token, dim]`` of each block, from hooks."""
    towers = bench.towers(stimulus)
    inputs = bench.inputs(stimulus)
    with watching(bench.module, [path for tower in towers for path in tower.paths]) as calls:
        output = plain(bench, inputs, bench.root(stimulus))
    found = {}
    for tower in towers:
        own = {path: as_positions(out, tower) for path, _, out in calls if path in tower.paths}
        assert len(own) == tower.n_layers, f"blocks of {tower.name} are left out on these inputs"
        found[tower.name] = [own[path] for path in tower.paths]
        for name, mask in inputs.items():
            # A processor that pads rows of patches says where.
            padded = "mask" in name and tower.name.startswith("vision") and "input_ids" not in inputs
            padded = padded or (name == "attention_mask" and tower.modality == "text")
            if padded and mask.numel() == len(found[tower.name][0]):
                found[tower.name] = [state[mask.flatten().bool()] for state in found[tower.name]]
    return output, found


def read(bench: Bench, stimuli: Sequence[mn.Stimulus]) -> dict[str, list[list[torch.Tensor]]]:
    """What modalnet reads in one batch: per tower and stimulus ``[token, dim]`` of each block."""
    try:
        run = bench.model.run(stimuli, tokens="all", batch_size=len(stimuli))
        return {name: [list(one) for one in values] for name, values in run.residual.items()}
    except mn.InputError as error:
        if "merges patches" not in str(error):
            raise
    bench.notes.append("the vision tower merges patches on its way: all tokens are read block by block")
    found: dict[str, list[list[torch.Tensor]]] = {}
    for tower in bench.towers(stimuli[0]):
        runs = [
            bench.model.run(stimuli, read={tower.name: [layer]}, tokens="all", batch_size=len(stimuli))
            for layer in range(tower.n_layers)
        ]
        found[tower.name] = [[run.residual[tower.name][i][0] for run in runs] for i in range(len(stimuli))]
    return found


def close(actual: Any, expected: Any, what: str) -> None:
    """Fail with a word where two tensors differ."""
    actual, expected = torch.as_tensor(np.asarray(actual)).float(), torch.as_tensor(expected).float()
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    # Some small random models have large activations; what counts is the size of a difference beside them.
    scale = max(1.0, float(expected.abs().max()))
    worst = float((actual - expected).abs().max()) if actual.numel() else 0.0
    assert worst <= CLOSE * scale, f"{what}: differs by {worst:.2g} where the largest is {scale:.2g}"


# ------------------------------------------------------------------------------------------------------------ checks


def towers(bench: Bench) -> str | None:
    """Every tower is one whole stack, whose blocks run once each, in order, and put out what its width says."""
    (stimulus,) = bench.stimuli(1)
    found = bench.towers(stimulus)
    inputs = bench.inputs(stimulus)
    with watching(bench.module, [path for tower in found for path in tower.paths]) as calls:
        plain(bench, inputs)
    order = [path for path, _, _ in calls]
    assert order == [path for tower in found for path in tower.paths], f"the blocks run as {order}"
    for tower in found:
        own = [(given, out) for path, given, out in calls if path in tower.paths]
        for given, out in own:
            as_positions(out, tower)
            assert given is None or given.shape == out.shape, f"{tower.name}: {given.shape} in, {out.shape} out"
        parent = bench.module.get_submodule(tower.paths[0].rpartition(".")[0])
        assert len(parent) == tower.n_layers, f"{tower.name} has {tower.n_layers} of {len(parent)} blocks"
        name = tower.paths[0].lower()
        sees, reads = (
            any(word in name for word in words) for words in (("vision", "visual", "image"), ("text", "language"))
        )
        if sees != reads:
            assert tower.name.startswith("vision") == sees, f"{tower.name} is {tower.paths[0]}"
    assert "decoder" in bench.model.towers or not bench.reads or bench.model._executor.encoder.dual
    return None


def sites(bench: Bench) -> str | None:
    """Every site equals the model's own ``output_hidden_states`` (the last one before the final norm), and hooks."""
    for (kind,) in bench.kinds(1):
        found = read(bench, [kind])
        _, expected = states(bench, kind)
        assert list(found) == list(expected)
        for name, (own,) in found.items():
            for layer, (one, other) in enumerate(zip(own, expected[name], strict=True)):
                close(one, other, f"{name}[{layer}]")
    (stimulus,) = bench.stimuli(1)
    silent = []
    for tower in bench.towers(stimulus):
        inputs = bench.inputs(stimulus)
        whole = [as_positions(out, tower) for _, _, out in _calls(bench, tower.paths, inputs)]  # padding included
        offered = list(_own_states(bench, tower, inputs))
        if not offered:
            silent.append(tower.name)
        elif not any(_in_order(whole[:-1], each) for each in offered):
            raise AssertionError(f"{tower.name}: the sites are not among the model's own hidden states")
    if silent:
        bench.notes.append(f"transformers hands out no hidden states of {', '.join(silent)}: compared with hooks alone")
    return None


def _in_order(layers: Sequence[torch.Tensor], own: Sequence[torch.Tensor]) -> bool:
    """Whether every layer is among hidden states, in their order."""
    place = 0
    for layer in layers:
        matches = [
            i
            for i in range(place, len(own))
            if own[i].shape == layer.shape and torch.allclose(own[i], layer, atol=1e-4, rtol=1e-4)
        ]
        if not matches:
            return False
        place = matches[0] + 1
    return True


def _own_states(bench: Bench, tower: Tower, inputs: Mapping[str, Any]) -> Iterator[list[torch.Tensor]]:
    """What transformers hands out as hidden states of the whole model, and of parts that hold a tower."""
    import transformers as tr

    sizes = {out.numel() for _, _, out in _calls(bench, tower.paths, inputs)}
    for path, holder in bench.module.named_modules():
        if not isinstance(holder, tr.PreTrainedModel) or not tower.paths[0].startswith(f"{path}." if path else ""):
            continue
        seen: list[Any] = []
        handle = holder.register_forward_pre_hook(lambda _, a, k, seen=seen: seen.append((a, k)), with_kwargs=True)
        plain(bench, inputs)
        handle.remove()
        if not seen:
            continue
        args, kwargs = seen[-1]
        try:
            with torch.no_grad():
                output = holder(*args, **{**kwargs, "output_hidden_states": True, "return_dict": True})
        except TypeError:  # not every part takes the option
            continue
        for name, states in dict(output).items():
            if "hidden_states" not in name or not isinstance(states, tuple | list):
                continue
            # Some are handed out merged: the same numbers, several positions to a row.
            fitting = [
                state.reshape(-1, tower.width) if state.shape[-1] > tower.width else as_positions(state, tower)
                for state in states
                if isinstance(state, torch.Tensor) and state.numel() in sizes and state.shape[-1] <= state.numel()
            ]
            if len(fitting) >= tower.n_layers:
                yield fitting


def _calls(bench: Bench, paths: Sequence[str], inputs: Mapping[str, Any]) -> list[tuple[str, Any, torch.Tensor]]:
    with watching(bench.module, paths) as calls:
        plain(bench, inputs)
    return calls


def zero(bench: Bench) -> str | None:
    """A zeroed unit reads as zero; later blocks and the logits are those of a model with that unit zeroed by a hook."""
    (stimulus,) = bench.stimuli(1)
    base = _last_logits(bench, stimulus)
    logits = None if base is None else "last"
    for tower in bench.towers(stimulus):
        layer, unit = min(1, tower.n_layers - 1) if tower.modality == "text" else 0, tower.width // 3
        units, last = _unit(bench, tower, layer, unit), tower.n_layers - 1
        run = bench.model.run([stimulus], mn.zero(units), read={tower.name: [layer]}, tokens="all", logits=logits)
        assert bool((run.residual[tower.name][0][0][:, unit] == 0).all()), f"{tower.name}: not zero"
        later = bench.model.run([stimulus], mn.zero(units), read={tower.name: [last]}, tokens="all")
        with zeroing(bench.module, tower.paths[layer], tower, unit):
            _, expected = states(bench, stimulus)
            close(later.residual[tower.name][0][0], expected[tower.name][last], f"{tower.name}[{last}] under zero")
            zeroed = _last_logits(bench, stimulus)
        if base is not None:
            close(run.logits[0], zeroed, f"logits under zero in {tower.name}")
            assert not torch.equal(zeroed, base), f"a unit of {tower.name} makes no difference"
    return None


def _unit(bench: Bench, tower: Tower, layer: int, unit: int) -> mn.Units:
    mask = {name: np.zeros(each.shape, dtype=bool) for name, each in bench.model.towers.items()}
    mask[tower.name][layer, unit] = True
    return mn.Units(mask)


def _last_logits(bench: Bench, stimulus: mn.Stimulus) -> torch.Tensor | None:
    if not bench.reads or output_head(bench.module) is None:
        return None
    return plain(bench, bench.inputs(stimulus)).logits[0, -1]


def repeats(bench: Bench) -> bool:
    """Whether two forward passes on the same inputs give the same."""
    one, two = (states(bench, stimulus)[1] for stimulus in bench.stimuli(1) * 2)
    pairs = [(a, b) for name in one for a, b in zip(one[name], two[name], strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def batch(bench: Bench) -> str | None:
    """Stimuli of different sizes and lengths in one batch equal each of them alone."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for stimuli in bench.kinds(4):
            together = read(bench, stimuli)
            for i, stimulus in enumerate(stimuli):
                _, expected = states(bench, stimulus)
                for tower, values in expected.items():
                    for layer, value in enumerate(values):
                        close(together[tower][i][layer], value, f"stimulus {i} of {tower}[{layer}]")
    alone = sum("run one at a time" in str(one.message) for one in said)
    assert alone <= 1, "it is said more than once that stimuli run one at a time"
    if alone:
        bench.notes.append(f"stimuli{' with pictures' * bench.sees} run one at a time")
    return None


def score(bench: Bench) -> str | None:
    """Log-probabilities of a continuation are those of the logits from which transformers would write it."""
    if not bench.reads or bench.model._executor.encoder.dual or _last_logits(bench, bench.stimuli(1)[0]) is None:
        return "no LM head"
    stimuli, text = bench.stimuli(2), " a big dog"
    try:
        found = bench.model.score(stimuli, [text, text])
    except mn.InputError as error:
        if "attends to text bidirectionally" not in str(error):
            raise
        return "attention goes both ways"  # measured by the check of causality
    ids = bench.small.tokenizer(text, add_special_tokens=False)["input_ids"]
    for stimulus, logprob, count in zip(stimuli, found.logprob, found.n_tokens, strict=True):
        assert int(count[0]) == len(ids)
        expected = _logprob(_rows(bench, stimulus, ids), ids)
        whole = None if bench.sees or bench.small.writes else _logprob(_at_once(bench, stimulus, ids), ids)
        if whole is not None and abs(float(whole - expected)) > CLOSE * abs(float(whole)):
            bench.notes.append(
                "score: transformers' generate counts positions otherwise than its forward, which is meant"
            )
            expected = whole
        close(logprob[0], expected, "score")
    return None


def _logprob(rows: Sequence[torch.Tensor], ids: Sequence[int]) -> Any:
    return sum(row.log_softmax(-1)[token] for row, token in zip(rows, ids, strict=True))


def _at_once(bench: Bench, stimulus: mn.Stimulus, ids: Sequence[int]) -> Sequence[torch.Tensor]:
    """The logits that predict each token, in one forward pass."""
    text = bench.small.tokenizer.decode(ids)
    inputs = bench.small.inputs(stimulus.text, stimulus.images() if stimulus.n_images else [], text)
    return plain(bench, inputs).logits[0, -len(ids) - 1 : -1]


def _rows(bench: Bench, stimulus: mn.Stimulus, ids: Sequence[int]) -> Sequence[torch.Tensor]:
    """The logits that predict each token, as the model is made to write them."""
    import transformers as tr

    if not bench.module.can_generate() or type(bench.module).generate is not tr.GenerationMixin.generate:
        return _at_once(bench, stimulus, ids)

    class Made(tr.LogitsProcessor):
        steps = iter(ids)

        def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
            forced = torch.full_like(scores, -torch.inf)
            forced[:, next(self.steps)] = 0
            return forced

    options = {"output_logits": True, "return_dict_in_generate": True, "do_sample": False, "use_cache": True}
    with torch.no_grad():
        written = bench.module.generate(
            **bench.inputs(stimulus), max_new_tokens=len(ids), logits_processor=[Made()], **options
        )
    return [row[0] for row in written.logits]


def image_tokens(bench: Bench) -> str | None:
    """The image tokens of a text tower are the places where another picture changes what enters it."""
    if not bench.sees:
        return "no pictures"
    if not bench.reads or bench.model._executor.encoder.dual:
        return "no text beside pictures"
    name = next(name for name, tower in bench.model.towers.items() if tower.modality == "text")
    if name == "decoder" and bench.model._executor.encoder.only_writes:
        return "pictures do not enter at its first block, but by cross-attention"
    tower = bench.model.towers[name]
    entering = []
    for seed in range(4):
        stimulus = mn.Stimulus(TEXTS[1], image=picture(seed, 37, 53))
        with watching(bench.module, tower.paths[:1]) as calls:
            plain(bench, bench.inputs(stimulus))
        entering.append(as_positions(calls[0][1], tower))
    changed = torch.stack([(one != entering[0]).any(1) for one in entering]).any(0)
    if not bool(changed.any()) or bool(changed.all()):
        return "pictures do not enter at its first block"
    stimulus = mn.Stimulus(TEXTS[1], image=picture(0, 37, 53))
    inputs, token = bench.inputs(stimulus), bench.model._executor.encoder.image_token_id
    placed = inputs["input_ids"] == (-1 if token is None else token)
    marked = inputs.get("image_embeds_position_mask", placed)[0].bool()
    crosses = any("cross" in type(sub).__name__.lower() for sub in bench.module.modules())
    if crosses and marked.shape == changed.shape and bool((changed & ~marked).any()):
        return "pictures do not enter at its first block, but by cross-attention"
    if bool(marked.any()):
        # Ends of lines and separators stand among the image tokens, and are the same whatever the picture.
        assert bool((marked | ~changed).all()), "a picture changes what is no image token"
        changed, text = marked, ~marked
    else:
        # Some models fill up the patches beside a text with places that hold no part of the picture.
        text = _text_positions(bench, stimulus, tower)
        changed &= ~text
    _, expected = states(bench, stimulus)
    run = bench.model.run([stimulus], read=[name], tokens={name: "image"})
    states_of = torch.stack(expected[name])
    close(run.residual[name][0], states_of[:, changed].mean(1), "image tokens")
    run = bench.model.run([stimulus], read=[name], tokens={name: "text"})
    close(run.residual[name][0], states_of[:, text].mean(1), "text tokens")
    return None


def _text_positions(bench: Bench, stimulus: mn.Stimulus, tower: Tower) -> torch.Tensor:
    """Which positions of a text tower hold its text: another text changes them."""
    inputs = bench.inputs(stimulus)
    other = {**inputs, "input_ids": torch.where(inputs["input_ids"] > 20, inputs["input_ids"] - 1, 21)}
    one, two = (as_positions(_calls(bench, tower.paths[:1], each)[0][1], tower) for each in (inputs, other))
    return (one != two).any(1)


def generate(bench: Bench) -> str | None:
    """What a model writes under an intervention is what it writes with the same unit zeroed by a hook at every step."""
    if not bench.module.can_generate() or "decoder" not in bench.model.towers:
        return "no generation"
    (stimulus,) = bench.stimuli(1)
    tower = bench.model.towers["decoder"]
    layer, unit = 1, tower.width // 3
    settings = {"max_new_tokens": 4, "do_sample": False, "num_beams": 1}
    inputs = bench.inputs(stimulus)
    with torch.no_grad(), zeroing(bench.module, tower.paths[layer], tower, unit):
        ids = bench.module.generate(**inputs, **settings)[0]
    prompt = (inputs["decoder_input_ids"] if "decoder_input_ids" in inputs else inputs["input_ids"])[0]
    # What comes back begins with the prompt, with the prompt but its last token, or with what was written.
    kept = [n for n in (len(prompt), len(prompt) - 1) if torch.equal(ids[1:n], prompt[1:n])]
    start = kept[0] if kept else 0
    expected = bench.small.tokenizer.decode(ids[start:], skip_special_tokens=True)
    written = bench.model.generate(stimulus, mn.zero(_unit(bench, tower, layer, unit)), max_new_tokens=4)
    assert written == expected, f"{written!r} instead of {expected!r}"
    return None


def audio(bench: Bench) -> str | None:
    """Sites of an audio tower equal hooks, and a zeroed unit changes the logits as a hook does.

    Stimuli cannot hold sounds yet, so tensors go straight into the engine.
    """
    tower = bench.model.towers.get("audio")
    if tower is None:
        return "no audio tower"
    try:
        inputs, other = sounds(bench.module)
    except UnfitError:
        return "not checked, sounds of its form are not made here"
    engine = bench.model._executor.runner.engine
    with watching(bench.module, tower.paths) as calls:
        base = plain(bench, inputs).logits[0, -1]
    assert [path for path, _, _ in calls] == list(tower.paths), "the blocks of the audio tower run in another order"
    assert not torch.equal(base, plain(bench, other).logits[0, -1]), "a sound makes no difference"
    expected = [as_positions(out, tower) for _, _, out in calls]
    n, last = len(expected[0]), inputs["input_ids"].shape[1] - 1
    reading = engine.run(inputs, Plan(((Sites(Space(tower), tuple(range(tower.n_layers))), Pool(n)),)))
    for layer, values in enumerate(expected):
        close(reading.activations["audio"][layer], values, f"audio[{layer}]")
    unit = tower.width // 3
    write = Write(Space(tower), 0, n, torch.arange(n), torch.tensor([unit]), None, 0.0, torch.zeros(1))
    found = engine.run(inputs, Plan((), torch.tensor([last]), n_text_positions=last + 1, writes=(write,))).logits
    with zeroing(bench.module, tower.paths[0], tower, unit):
        zeroed = plain(bench, inputs).logits[0, -1]
    close(found[0], zeroed, "logits under zero in audio")
    assert not torch.equal(zeroed, base), "a unit of audio makes no difference"
    return None


CHECKS = {
    "towers": towers,
    "sites": sites,
    "zero": zero,
    "batch": batch,
    "score": score,
    "image tokens": image_tokens,
    "generate": generate,
    "audio": audio,
}
