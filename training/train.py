"""Train the bundled model from scratch: ``python -m training.train --out FOLDER``.

The first stage trains the encoder alone, on patch labels (see :mod:`training.learner`). A picture costs a tenth of one
with questions there, and without this stage the model does not begin to answer until the encoder has caught up.

The second stage trains the whole model: a batch has 16 pictures with eight questions each, 40 pictures without
questions, and 100 texts. The questions of a picture share its tokens as a prefix and do not attend to each other, so
that a picture is encoded once.

An interrupted run resumes from its last checkpoint when the same command is repeated.
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
import typer
from torch import Tensor
from tqdm import tqdm

from modalnet.errors import InputError
from training.data import IGNORED, PREFIX, SLOT, TEXTS, Batch, EncoderBatches, JointBatches
from training.learner import HEADS, Learner, slotted_attention
from training.network import build_model, build_processor

ENCODER_STEPS = 2600
STEPS = 5000
PEAK_RATE = 1.2e-3
WARMUP = 300
WEIGHT_DECAY = 0.05
CHECKPOINT_EVERY = 250
WEIGHTS = {
    "answers": 1.0,
    "patches": 0.2,
    "encoder": 0.5,
    "pointing": 0.3,
    "sentences": 0.5,
    "arithmetic": 0.5,
    "described": 0.25,
}


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then cosine decay to zero."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    return 0.5 * PEAK_RATE * (1 + float(torch.cos(torch.tensor(torch.pi * (step - WARMUP) / (steps - WARMUP)))))


def accuracy(batch: Batch, right: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy of whole answers and texts (correct in every token), and of sentence tokens."""
    whole = {"answers": right["answers"][:, PREFIX:].reshape(-1, SLOT).all(1)}
    for kind in TEXTS:
        targets = batch.texts[kind][1] != IGNORED
        whole[kind] = right[kind][targets] if kind == "sentences" else right[kind].all(1)
    return {kind: float(good.float().mean()) for kind, good in whole.items()}


@dataclass
class Run:
    """A training run: its model, its progress and its files.

    Attributes
    ----------
    out
        Folder of the checkpoint, the log and the exported model.
    lengths
        Number of steps of the two stages.
    stage, step
        The next step.
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

    def run(self) -> None:
        """Run all remaining steps."""
        if self.stage == 0:
            self._loop(EncoderBatches(self.seed), self._encoder_losses, "the encoder")
            self._start_stage(1)
        self._loop(JointBatches(self.processor.tokenizer, self.seed), self._joint_losses, "everything")

    def _loop(self, batches: Any, losses_of: Callable[[Any], dict[str, Tensor]], name: str) -> None:
        steps = self.lengths[self.stage]
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, sampler=range(self.step, steps), num_workers=1, prefetch_factor=8
        )
        progress = tqdm(loader, desc=name, initial=self.step, total=steps, unit="step", smoothing=0.02)
        began = time.monotonic()
        for batch in progress:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, steps)
            losses = losses_of(batch)
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
                report |= {kind: round(float(loss.detach()), 4) for kind, loss in losses.items()} | self._test()
                progress.write(json.dumps(report))
                with (self.out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(report) + "\n")
                self._checkpoint()

    @cached_property
    def _compiled(self) -> tuple[Any, Any, Any]:
        calls = self.learner.encode, self.learner.forward_pictures, self.learner.forward_text
        return tuple(torch.compile(call, dynamic=False) if self.compiled else call for call in calls)  # type: ignore[return-value]

    def _autocast(self) -> Any:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)

    def _encoder_losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, labels = (part.to(self.device) for part in batch)
        with self._autocast():
            states, image = self._compiled[0](pixels)
            losses = self.learner.patch_losses(states, image, labels)
        return dict(zip((*HEADS, "words"), losses, strict=True))

    def _joint_losses(self, batch: Batch) -> dict[str, Tensor]:
        with self._autocast():
            losses, _ = self.learner.losses(_to_device(batch, self.device), *self._compiled)
        return {kind: WEIGHTS[kind] * loss for kind, loss in losses.items()}

    @torch.no_grad()
    def _test(self) -> dict[str, float]:
        """Accuracy on held-out items."""
        with self._autocast():
            if self.stage == 0:
                pixels, labels = (part.to(self.device) for part in EncoderBatches(self.seed, test=True)[0])
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
            test = _to_device(JointBatches(self.processor.tokenizer, self.seed, test=True)[0], self.device)
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
        # A run that is killed while writing keeps the previous checkpoint.
        os.replace(self.out / "checkpoint.tmp", self.out / "checkpoint.pt")
        export(self.learner.model, self.processor, self.out / "model")

    def _resume(self, file: Path) -> None:
        state = torch.load(file, map_location=self.device, weights_only=True)
        if state["settings"] != [*self.lengths, self.seed]:
            raise InputError(
                f"{file} belongs to a run with (encoder steps, steps, seed) = {state['settings']}, not "
                f"{[*self.lengths, self.seed]}. Use the same settings, or another --out."
            )
        self._start_stage(state["stage"])
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def train(out: Path, lengths: tuple[int, int], seed: int, device: str, compiled: bool) -> None:
    """Train in two stages, resuming from the checkpoint in ``out`` if there is one; exports to ``out/model``."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("slotted", slotted_attention)
    AttentionMaskInterface.register("slotted", lambda *_, **__: None)
    processor = build_processor()
    learner = Learner(build_model(len(processor.tokenizer), seed), processor.tokenizer).to(device)
    learner.model.set_attn_implementation("slotted")
    Run(out, seed, device, compiled, lengths, learner, processor).run()


_TENSORS = ("pixels", "tokens", "labels", "patches", "mentions", "referents", "encoder_pixels", "encoder_patches")


def _to_device(batch: Batch, device: str) -> Batch:
    whole = {name: getattr(batch, name).to(device) for name in _TENSORS}
    return Batch(**whole, texts={kind: (a.to(device), b.to(device)) for kind, (a, b) in batch.texts.items()})


def export(model: Any, processor: Any, folder: Path) -> None:
    """Write a transformers folder with float16 weights and a config that loads them as float32."""
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
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the log and the exported model.")],
    encoder_steps: Annotated[
        int, typer.Option(help="Steps of the first stage, which trains the encoder alone.")
    ] = ENCODER_STEPS,
    steps: Annotated[int, typer.Option(help="Steps of the second stage, which trains the whole model.")] = STEPS,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of every batch.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    compiled: Annotated[bool, typer.Option(help="Compile the model: a third faster; needs a C++ compiler.")] = True,
) -> None:
    """Train the bundled model from scratch, or resume from the last checkpoint of the same command."""
    train(out, (encoder_steps, steps), seed, device, compiled)


if __name__ == "__main__":
    typer.run(main)
