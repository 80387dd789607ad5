"""Train the bundled model from scratch: ``python -m modalnet.zoo.train --out FOLDER``.

First the encoder alone: each patch of its output has to tell, through linear heads that are thrown away afterwards,
what it shows, in which colour, where it is, and which letter of a word or the middle of which shape it holds; and the
image token that it becomes has to be near the embeddings of the words for that, so that to the decoder a patch is
much like a word. A picture costs a tenth of one with questions here, and without this stage the answers wait for it.

Then everything together: a step shows 16 pictures with eight questions each, and 48 texts. The questions of a picture
do not see one another: they share its tokens as a prefix, so a picture is paid for once.

A run that was stopped goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from tqdm import tqdm

from modalnet.errors import InputError
from modalnet.zoo.lessons import IGNORED, ORDERS, PALETTE, PREFIX, SLOT, SLOTS, TEXTS, WHAT, Glances, Lesson, Lessons
from modalnet.zoo.network import GRID, PATCHES, build_model, build_processor

GLANCE_STEPS = 1900
STEPS = 6000
PEAK_RATE = 1.2e-3
WARMUP = 300
WEIGHT_DECAY = 0.05
CHECKPOINT_EVERY = 250
WEIGHTS = {"answers": 1.0, "patches": 0.3, "sentences": 0.5, "arithmetic": 0.5, "described": 0.25}


class Learner(torch.nn.Module):
    """The model with its two throw-away heads, giving the losses of a lesson."""

    model: Any
    positions: Tensor
    what_words: Tensor
    colour_words: Tensor
    place_words: Tensor

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        what, colour = (torch.tensor(tokenizer.convert_tokens_to_ids(names[1:])) for names in (WHAT, PALETTE))
        self.register_buffer("what_words", what, False)
        self.register_buffer("colour_words", colour, False)
        rows, columns = (
            torch.tensor(tokenizer.convert_tokens_to_ids([f"{mark}{place}" for place in range(GRID)]))
            for mark in ("", "##")
        )
        self.register_buffer("place_words", torch.stack([rows.repeat_interleave(GRID), columns.repeat(GRID)]), False)
        self.model = model
        width = model.config.vision_config.hidden_size
        sizes = (len(WHAT), len(PALETTE), ORDERS, PATCHES)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, size) for size in sizes)
        slot = torch.arange(SLOT)
        self.register_buffer("positions", torch.cat([torch.arange(PREFIX), (PREFIX + slot).repeat(SLOTS)])[None], False)

    def glance(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output after its last norm, and the image tokens that the decoder is given.

        Those are made from the output of the last block, before the norm, as it is in LLaVA.
        """
        seen = self.model.model.vision_tower(pixels, output_hidden_states=True)
        return seen.last_hidden_state, self.model.model.multi_modal_projector(seen.hidden_states[-1])

    def patch_losses(self, states: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """The loss of each linear head (what, colour, order and place), and of the image tokens as words."""
        places = torch.arange(PATCHES, device=labels.device).expand(len(labels), 1, -1)
        wanted = torch.cat([labels, places], dim=1).unbind(1)
        losses = [
            F.cross_entropy(head(states).flatten(0, 1).float(), label.flatten())
            for head, label in zip(self.heads, wanted, strict=True)
        ]
        what, colour = labels[:, 0], labels[:, 1]
        shown = (what > 0) & (colour > 0)
        words = F.log_softmax(self.model.lm_head(image).float(), dim=-1)
        said = [self.what_words[what[shown] - 1], self.colour_words[colour[shown] - 1]]
        named = [words[shown].gather(1, word[:, None]).mean() for word in said]
        placed = [words.gather(2, word.expand(len(labels), -1)[..., None]).mean() for word in self.place_words]
        losses.append(-torch.stack([*named, *placed]).mean())
        return torch.stack(losses)

    def see(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`glance` gives, and the decoder's output over a picture and the questions about it."""
        patches, image = self.glance(pixels)
        embedded = self.model.get_input_embeddings()(tokens)
        embedded = torch.cat([embedded[:, :1], image.to(embedded.dtype), embedded[:, 1 + PATCHES :]], dim=1)
        positions = self.positions.expand(len(tokens), -1)
        return patches, image, self._decode(inputs_embeds=embedded, position_ids=positions)

    def read(self, tokens: Tensor) -> Tensor:
        """The decoder's output over texts."""
        return self._decode(input_ids=tokens)

    def _decode(self, **inputs: Any) -> Tensor:
        return self.model.model.language_model(**inputs, use_cache=False).last_hidden_state

    def losses(self, lesson: Lesson, see: Any, read: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mean loss of each part, and whether each predicted token is right (``answers`` and the texts)."""
        patches, image, hidden = see(lesson.pixels, lesson.tokens)
        outputs = {"answers": (hidden, lesson.labels)}
        for kind, (tokens, labels) in lesson.texts.items():
            outputs[kind] = read(tokens), labels
        losses, right = {}, {}
        for kind, (states, labels) in outputs.items():
            wanted = labels != IGNORED
            # The head is the widest layer, so only positions that count go through it.
            logits = self.model.lm_head(states[wanted]).float()
            losses[kind] = F.cross_entropy(logits, labels[wanted])
            right[kind] = torch.ones_like(labels, dtype=torch.bool).masked_scatter(
                wanted, logits.argmax(-1) == labels[wanted]
            )
        losses["patches"] = self.patch_losses(patches, image, lesson.patches).sum()
        return losses, right


def slotted_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention in which each question sees the picture and itself, as it will when it is asked alone.

    Vision blocks see everything; a text on its own is causal. Computing the questions as blocks, and not with a mask
    over the whole row, saves two thirds of the work.
    """
    batch, heads, length, width = query.shape
    query = query * scaling
    if not module.is_causal:
        mixed = (query @ key.transpose(-1, -2)).softmax(-1).to(value.dtype) @ value
    elif length != PREFIX + SLOTS * SLOT:
        mixed = _causal(query, key, value)
    else:
        (q0, q1), (k0, k1), (v0, v1) = (x.split([PREFIX, SLOTS * SLOT], dim=2) for x in (query, key, value))
        picture = _causal(q0, k0, v0)
        to_picture = (q1 @ k0.transpose(-1, -2)).view(batch, heads, SLOTS, SLOT, PREFIX)
        q1, k1, v1 = (x.reshape(batch, heads, SLOTS, SLOT, width) for x in (q1, k1, v1))
        to_itself = _hide_later(q1 @ k1.transpose(-1, -2))
        weights = torch.cat([to_picture, to_itself], dim=-1).softmax(-1).to(value.dtype)
        seen = weights[..., :PREFIX].reshape(batch, heads, SLOTS * SLOT, PREFIX) @ v0
        own = (weights[..., PREFIX:] @ v1).view(batch, heads, SLOTS * SLOT, width)
        mixed = torch.cat([picture, seen + own], dim=2)
    return mixed.transpose(1, 2), None


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return _hide_later(query @ key.transpose(-1, -2)).softmax(-1).to(value.dtype) @ value


def _hide_later(scores: Tensor) -> Tensor:
    earlier = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~earlier, -1e4)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return 0.5 * PEAK_RATE * (1 + float(torch.cos(torch.tensor(torch.pi * (step - WARMUP) / (steps - WARMUP)))))


def accuracy(lesson: Lesson, right: dict[str, Tensor]) -> dict[str, float]:
    """Share of answers that are right in every token, and of sentence tokens."""
    whole = {"answers": right["answers"][:, PREFIX:].reshape(-1, SLOT).all(1)}
    for kind in TEXTS:
        wanted = lesson.texts[kind][1] != IGNORED
        whole[kind] = right[kind][wanted] if kind == "sentences" else right[kind].all(1)
    return {kind: float(good.float().mean()) for kind, good in whole.items()}


@dataclass
class Run:
    """A training run: what is trained, how far it is, and where it is kept.

    Attributes
    ----------
    out
        Folder of the checkpoint, the log and the model.
    lengths
        Steps of the two stages.
    stage, step
        The next step to take.
    """

    out: Path
    seed: int
    device: str
    compiled: bool
    lengths: tuple[int, int]
    learner: Learner
    processor: Any
    optimizer: Any = None
    stage: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self._start_stage(0)
        if (file := self.out / "checkpoint.pt").exists():
            self._resume(file)

    def _start_stage(self, stage: int) -> None:
        self.stage, self.step = stage, 0
        decayed = [weight for weight in self.learner.parameters() if weight.ndim > 1]
        plain = [weight for weight in self.learner.parameters() if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)

    def go(self) -> None:
        """Take every step that is left."""
        if self.stage == 0:
            self._loop(Glances(self.seed), self._glance, "the encoder")
            self._start_stage(1)
        self._loop(Lessons(self.processor.tokenizer, self.seed), self._lesson, "everything")

    def _loop(self, lessons: Any, losses_of: Callable[[Any], dict[str, Tensor]], name: str) -> None:
        steps = self.lengths[self.stage]
        loader = torch.utils.data.DataLoader(
            lessons, batch_size=None, sampler=range(self.step, steps), num_workers=1, prefetch_factor=8
        )
        progress = tqdm(loader, desc=name, initial=self.step, total=steps, unit="step", smoothing=0.02)
        began = time.monotonic()
        for lesson in progress:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, steps)
            losses = losses_of(lesson)
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            if self.step % CHECKPOINT_EVERY == 0 or self.step == steps:
                report: dict[str, float] = {
                    "stage": self.stage,
                    "step": self.step,
                    "seconds": round(time.monotonic() - began),
                }
                report |= {kind: round(float(loss.detach()), 4) for kind, loss in losses.items()} | self._tested()
                progress.write(json.dumps(report))
                with (self.out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(report) + "\n")
                self._checkpoint()

    @cached_property
    def _compiled(self) -> tuple[Any, Any, Any]:
        calls = self.learner.glance, self.learner.see, self.learner.read
        return tuple(torch.compile(call, dynamic=False) if self.compiled else call for call in calls)  # type: ignore[return-value]

    def _half(self) -> Any:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)

    def _glance(self, lesson: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, labels = (part.to(self.device) for part in lesson)
        with self._half():
            states, image = self._compiled[0](pixels)
            losses = self.learner.patch_losses(states, image, labels)
        return dict(zip(("what", "colour", "order", "place", "words"), losses, strict=True))

    def _lesson(self, lesson: Lesson) -> dict[str, Tensor]:
        with self._half():
            losses, _ = self.learner.losses(_moved(lesson, self.device), *self._compiled[1:])
        return {kind: WEIGHTS[kind] * loss for kind, loss in losses.items()}

    @torch.no_grad()
    def _tested(self) -> dict[str, float]:
        """How well it does on held-out items."""
        with self._half():
            if self.stage == 0:
                pixels, labels = (part.to(self.device) for part in Glances(self.seed, test=True)[0])
                states, _ = self._compiled[0](pixels)
                right = [
                    head(states).argmax(-1) == label
                    for head, label in zip(self.learner.heads, labels.unbind(1), strict=False)
                ]
                shown = labels[:, 0] != 0
                return {
                    "what right": round(float(right[0][shown].float().mean()), 3),
                    "colour right": round(float(right[1][shown].float().mean()), 3),
                }
            test = _moved(Lessons(self.processor.tokenizer, self.seed, test=True)[0], self.device)
            _, right_of = self.learner.losses(test, *self._compiled[1:])
            return {f"{kind} right": round(share, 3) for kind, share in accuracy(test, right_of).items()}

    def _checkpoint(self) -> None:
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stage": self.stage,
            "step": self.step,
            "settings": [*self.lengths, self.seed],
        }
        torch.save(state, self.out / "checkpoint.tmp")
        # A run that is killed while it writes keeps the checkpoint before.
        os.replace(self.out / "checkpoint.tmp", self.out / "checkpoint.pt")
        export(self.learner.model, self.processor, self.out / "model")

    def _resume(self, file: Path) -> None:
        state = torch.load(file, map_location=self.device, weights_only=True)
        if state["settings"] != [*self.lengths, self.seed]:
            raise InputError(
                f"{file} is of a run with (glance steps, steps, seed) = {state['settings']}; this one has "
                f"{[*self.lengths, self.seed]}. Give those, or another --out."
            )
        self._start_stage(state["stage"])
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train(out: Path, lengths: tuple[int, int], seed: int, device: str, compiled: bool) -> None:
    """Train in two stages, or go on where ``out`` has a checkpoint; the model is in ``out/model`` at the end."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("slotted", slotted_attention)
    AttentionMaskInterface.register("slotted", lambda *_, **__: None)
    processor = build_processor()
    learner = Learner(build_model(len(processor.tokenizer), seed), processor.tokenizer).to(device)
    learner.model.set_attn_implementation("slotted")
    Run(out, seed, device, compiled, lengths, learner, processor).go()


def _moved(lesson: Lesson, device: str) -> Lesson:
    whole = {name: getattr(lesson, name).to(device) for name in ("pixels", "tokens", "labels", "patches")}
    return Lesson(**whole, texts={kind: (a.to(device), b.to(device)) for kind, (a, b) in lesson.texts.items()})


def export(model: Any, processor: Any, folder: Path) -> None:
    """Write the model as transformers reads it, its weights in half precision and to be loaded in single."""
    import copy

    halved = copy.deepcopy(model).to("cpu", torch.float16)
    halved.set_attn_implementation("sdpa")
    halved.save_pretrained(folder)
    processor.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main(
    *,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the log and the model.")],
    glance_steps: Annotated[int, typer.Option(help="Steps of the first stage, the encoder alone.")] = GLANCE_STEPS,
    steps: Annotated[int, typer.Option(help="Steps of the second stage.")] = STEPS,
    seed: Annotated[int, typer.Option(help="Of the weights and of every lesson.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    compiled: Annotated[bool, typer.Option(help="Compile the model: a third faster, needs a C++ compiler.")] = True,
) -> None:
    """Train the bundled model from scratch. The same command again goes on from the last checkpoint."""
    train(out, (glance_steps, steps), seed, device, compiled)


if __name__ == "__main__":
    typer.run(main)
