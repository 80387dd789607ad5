"""Train the bundled model from scratch: ``python -m modalnet.bundled.train --out FOLDER``.

First the encoder alone: each patch of its output has to tell, through linear heads that are thrown away afterwards,
what it shows, in which colour and where, which letter of which word or the middle of which shape it holds, and how
many shapes there are like its own; and the image token that it becomes has to be near the embeddings of the words for
that, so that to the decoder a patch is much like a word. A picture costs a tenth of one with questions here, and
without this stage the answers wait for it.

Then everything together: a step shows 16 pictures with eight questions each, 40 pictures without, and 100 texts. The
questions of a picture do not see one another: they share its tokens as a prefix, so a picture is paid for once. One
attention head is taught to look from a word of a question to the patches that show what the word stands for: left to
itself, a decoder of this size takes very long to find out which of several colours belongs to which shape.

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
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from modalnet.bundled.lessons import (
    IGNORED,
    ORDERS,
    PALETTE,
    PREFIX,
    SLOT,
    SLOTS,
    TEXTS,
    WHAT,
    Glances,
    Lesson,
    Lessons,
)
from modalnet.bundled.network import GRID, PATCHES, build_model, build_processor
from modalnet.bundled.scenes import printed_words
from modalnet.errors import InputError
from modalnet.stimuli.scenes import MOST_SHAPES

GLANCE_STEPS = 2600
STEPS = 5000
PEAK_RATE = 1.2e-3
WARMUP = 300
WEIGHT_DECAY = 0.05
CHECKPOINT_EVERY = 250
WEIGHTS = {
    "answers": 1.0,
    "patches": 0.2,
    "glances": 0.5,
    "pointing": 0.3,
    "sentences": 0.5,
    "arithmetic": 0.5,
    "described": 0.25,
}


# What the encoder's throw-away heads tell of each patch, and among how many.
HEADS = {
    "what": len(WHAT),
    "colour": len(PALETTE),
    "order": ORDERS,
    "word": len(printed_words()),
    **dict.fromkeys(("number", "number of kind", "number of colour"), MOST_SHAPES + 1),
    "place": PATCHES,
}
# Few patches have a word or a number, so their gradients are large; at full weight they hold up everything else.
RARE_WEIGHT = 0.1
RARE = ("word", "number", "number of kind", "number of colour")
# The decoder's block one of whose heads learns to point at what a word stands for: two blocks after the first,
# which a noun needs to take in its adjective.
POINTING = 2


class Learner(torch.nn.Module):
    """The model with the encoder's throw-away heads, giving the losses of a lesson."""

    model: Any
    positions: Tensor
    what_words: Tensor
    colour_words: Tensor
    printed_words: Tensor
    place_words: Tensor

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        what, colour = (torch.tensor(tokenizer.convert_tokens_to_ids(names[1:])) for names in (WHAT, PALETTE))
        self.register_buffer("what_words", what, False)
        self.register_buffer(
            "printed_words", torch.tensor(tokenizer.convert_tokens_to_ids(list(printed_words()))), False
        )
        self.register_buffer("colour_words", colour, False)
        rows, columns = (
            torch.tensor(tokenizer.convert_tokens_to_ids([f"{mark}{place}" for place in range(GRID)]))
            for mark in ("", "##")
        )
        self.register_buffer("place_words", torch.stack([rows.repeat_interleave(GRID), columns.repeat(GRID)]), False)
        self.model = model
        width = model.config.vision_config.hidden_size
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, size) for size in HEADS.values())
        slot = torch.arange(SLOT)
        self.register_buffer("positions", torch.cat([torch.arange(PREFIX), (PREFIX + slot).repeat(SLOTS)])[None], False)

    def glance(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output after its last norm, and the image tokens that the decoder is given.

        Those are made from the output of the last block, before the norm, as it is in LLaVA.
        """
        seen = self.model.model.vision_tower(pixels, output_hidden_states=True)
        return seen.last_hidden_state, self.model.model.multi_modal_projector(seen.hidden_states[-1])

    def patch_losses(self, states: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        """The loss of each linear head, and of the image tokens as words: thing, colour and place of each patch."""
        places = torch.arange(PATCHES, device=labels.device).expand(len(labels), 1, -1)
        wanted = torch.cat([labels, places], dim=1).unbind(1)
        losses = [
            (RARE_WEIGHT if name in RARE else 1.0)
            * F.cross_entropy(
                head(states).flatten(0, 1).float(), label.flatten(), reduction="sum", ignore_index=IGNORED
            )
            / (label != IGNORED).sum().clamp(min=1)
            for name, head, label in zip(HEADS, self.heads, wanted, strict=True)
        ]
        what, colour, _, word = labels[:, :4].unbind(1)
        shown = (what > 0) & (colour > 0)
        # A letter's patch stands for its whole word.
        things = torch.where(
            word == IGNORED, self.what_words[what.clamp(min=1) - 1], self.printed_words[word.clamp(min=0)]
        )
        words = F.log_softmax(self.model.lm_head(image).float(), dim=-1)
        said = [things[shown], self.colour_words[colour[shown] - 1]]
        named = [words[shown].gather(1, word[:, None]).mean() for word in said]
        placed = [words.gather(2, word.expand(len(labels), -1)[..., None]).mean() for word in self.place_words]
        losses.append(-torch.stack([*named, *placed]).mean())
        return torch.stack(losses)

    def see(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What :meth:`glance` gives, the decoder's output, and what the pointing head points at.

        The last is [question, place in the slot, start token and patches], in log-probability.
        """
        patches, image = self.glance(pixels)
        embedded = self.model.get_input_embeddings()(tokens)
        embedded = torch.cat([embedded[:, :1], image.to(embedded.dtype), embedded[:, 1 + PATCHES :]], dim=1)
        positions = self.positions.expand(len(tokens), -1)
        decoded = self._decode(inputs_embeds=embedded, position_ids=positions, output_hidden_states=True)
        pointed = self._pointed(decoded.hidden_states[POINTING], positions)
        return patches, image, decoded.last_hidden_state, pointed

    def _pointed(self, states: Tensor, positions: Tensor) -> Tensor:
        decoder = self.model.model.language_model
        block = decoder.layers[POINTING]
        states = block.input_layernorm(states)
        query, key = (
            project(states).unflatten(-1, (-1, block.self_attn.head_dim))[:, :, :1].transpose(1, 2)
            for project in (block.self_attn.q_proj, block.self_attn.k_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *decoder.rotary_emb(states, positions))
        to_picture, to_itself = slotted_scores(query * block.self_attn.scaling, key)
        weights = torch.cat([to_picture, to_itself], dim=-1).float().log_softmax(-1)
        return weights[..., :PREFIX].reshape(-1, SLOT, PREFIX)

    def read(self, tokens: Tensor) -> Tensor:
        """The decoder's output over texts."""
        return self._decode(input_ids=tokens).last_hidden_state

    def _decode(self, **inputs: Any) -> Any:
        return self.model.model.language_model(**inputs, use_cache=False)

    def losses(self, lesson: Lesson, glance: Any, see: Any, read: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mean loss of each part, and whether each predicted token is right (``answers`` and the texts)."""
        patches, image, hidden, pointed = see(lesson.pixels, lesson.tokens)
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
        losses["pointing"] = pointing_loss(pointed, lesson)
        states, tokens = glance(lesson.glanced)
        losses["glances"] = self.patch_losses(states, tokens, lesson.glanced_patches).sum()
        return losses, right


def pointing_loss(pointed: Float[Tensor, "question slot prefix"], lesson: Lesson) -> Float[Tensor, ""]:
    """How little attention goes from a word to what it stands for: mean negative log of its share."""
    named = lesson.referents.any(-1)
    index = lesson.mentions[..., None].expand(-1, -1, PREFIX)
    share = pointed.gather(1, index).masked_fill(~lesson.referents, -1e4).logsumexp(-1)
    return -torch.where(named, share, 0).sum() / named.sum().clamp(min=1)


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
        picture = _causal(query[:, :, :PREFIX], key[:, :, :PREFIX], value[:, :, :PREFIX])
        weights = torch.cat(slotted_scores(query, key), dim=-1).softmax(-1).to(value.dtype)
        own_values = value[:, :, PREFIX:].reshape(batch, heads, SLOTS, SLOT, width)
        seen = weights[..., :PREFIX].reshape(batch, heads, SLOTS * SLOT, PREFIX) @ value[:, :, :PREFIX]
        own = (weights[..., PREFIX:] @ own_values).view(batch, heads, SLOTS * SLOT, width)
        mixed = torch.cat([picture, seen + own], dim=2)
    return mixed.transpose(1, 2), None


def slotted_scores(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Attention scores of the questions: to the picture's places, and to each question's own."""
    batch, heads, _, width = query.shape
    own_query, own_key = (x[:, :, PREFIX:].reshape(batch, heads, SLOTS, SLOT, width) for x in (query, key))
    to_picture = query[:, :, PREFIX:] @ key[:, :, :PREFIX].transpose(-1, -2)
    to_itself = _hide_later(own_query @ own_key.transpose(-1, -2))
    return to_picture.view(batch, heads, SLOTS, SLOT, PREFIX), to_itself


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
        return dict(zip((*HEADS, "words"), losses, strict=True))

    def _lesson(self, lesson: Lesson) -> dict[str, Tensor]:
        with self._half():
            losses, _ = self.learner.losses(_moved(lesson, self.device), *self._compiled)
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
                shown = (labels != IGNORED) & (labels[:, :1] != 0)
                return {
                    f"{name} right": round(float(good[where].float().mean()), 3)
                    for name, good, where in zip(HEADS, right, shown.unbind(1), strict=False)
                }
            test = _moved(Lessons(self.processor.tokenizer, self.seed, test=True)[0], self.device)
            _, right_of = self.learner.losses(test, *self._compiled)
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


_WHOLE = ("pixels", "tokens", "labels", "patches", "mentions", "referents", "glanced", "glanced_patches")


def _moved(lesson: Lesson, device: str) -> Lesson:
    whole = {name: getattr(lesson, name).to(device) for name in _WHOLE}
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
