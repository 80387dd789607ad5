"""Train the projector of the joined model: ``python -m benchmarks.study.join``.

Both towers are frozen, so DINOv2 sees each training picture once and what it saw is kept (pooled, in ``--work``).
Training has two parts. First, without the decoder: the mean of a picture's tokens has to be nearest to the embedding of
the answer among all answers, which costs seconds and leaves the projector in the space of words. Then through the
decoder: the answer has to be what Gemma 3 270M says next after the picture and the question.

Everything is seeded; a run that was stopped goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.study import joined
from benchmarks.study.material import NAMING, Shown, asset, floc_pictures, many_drawn
from jaxtyping import Float, Int
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

VIEWS = 4
DRAWN = 1600
WORD_STEPS = 1500
STEPS = 400
BATCH = 24
RATE = 1e-3
CHECKPOINT_EVERY = 25
#: fLoc's characters mean nothing in a mirror.
NEVER_MIRRORED = ("word", "number")


@dataclass(frozen=True)
class Lessons:
    """What the decoder is asked about pictures that DINOv2 has seen.

    Attributes
    ----------
    features
        [picture, token, width], the last block's patches, pooled.
    questions, answers
        One of each per picture.
    photographs
        How many of them, from the first, are photographs; the others are drawn.
    """

    features: Float[Tensor, "picture token width"]
    questions: list[str]
    answers: list[str]
    photographs: int

    def batch(self, step: int, seed: int) -> Int[np.ndarray, " picture"]:
        """Half photographs, half drawings; which ones follows from the step alone."""
        rng = np.random.default_rng([seed, step])
        photographs = rng.choice(self.photographs, BATCH // 2, replace=False)
        drawings = self.photographs + rng.choice(len(self.answers) - self.photographs, BATCH // 2, replace=False)
        return np.concatenate([photographs, drawings])


def views(image: Image.Image, number: int, seed: int, *, mirrored: bool) -> list[Image.Image]:
    """A picture and parts of it, some of them mirrored: a photograph in other places and sizes."""
    rng = np.random.default_rng([seed, number])
    made = [image]
    for _ in range(VIEWS - 1):
        side = round(min(image.size) * rng.uniform(0.75, 0.98))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
        view = image.crop((left, top, left + side, top + side)).resize(image.size, Image.Resampling.BICUBIC)
        made.append(ImageOps.mirror(view) if mirrored and rng.random() < 0.5 else view)
    return made


def training_pictures(floc: Path, seed: int) -> list[Shown]:
    """Photographs first."""
    made = []
    for number, stimulus in enumerate(floc_pictures(floc, test=False)):
        name = str(stimulus.condition)
        image = stimulus.images()[0].convert("RGB")
        made += [
            Shown(view, NAMING, name, "floc")
            for view in views(image, number, seed, mirrored=name not in NEVER_MIRRORED)
        ]
    return [*made, *many_drawn(DRAWN, seed, test=False)]


@torch.inference_mode()
def see(model: Any, processor: Any, pictures: Sequence[Shown], batch: int = 16) -> Float[Tensor, "picture token width"]:
    """What the projector gets of each picture."""
    found = []
    for start in tqdm(range(0, len(pictures), batch), desc="DINOv2 looks", unit="batch"):
        images = [shown.image for shown in pictures[start : start + batch]]
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        found.append(joined.pool(states[:, 1:]))
    return torch.cat(found).clone()


def lessons(model: Any, processor: Any, floc: Path, work: Path, seed: int) -> Lessons:
    """The training pictures as the projector gets them; kept in ``work``."""
    kept, facts = work / "features.safetensors", work / "questions.json"
    photographs = len(floc_pictures(floc, test=False)) * VIEWS
    if not facts.exists():
        pictures = training_pictures(floc, seed)
        save_file({"features": see(model, processor, pictures)}, kept)
        facts.write_text(json.dumps([[one.question, one.answer] for one in pictures]))
    questions, given = zip(*json.loads(facts.read_text()), strict=True)
    return Lessons(load_file(kept)["features"], list(questions), list(given), photographs)


def word_loss(projector: Any, features: Tensor, table: Tensor, right: Tensor) -> Tensor:
    """How far the mean token of a picture is from the embedding of its answer, among all answers."""
    mean = F.normalize(projector.project(features).mean(1), dim=-1)
    return F.cross_entropy(mean @ F.normalize(table, dim=-1).T * 20, right)


def answer_loss(model: Any, tokenizer: Any, features: Tensor, questions: Sequence[str], answers: Sequence[str]) -> Any:
    """Mean loss of the answers' tokens after picture and question, and the share of tokens that are right."""
    embed = model.get_input_embeddings()
    asked = [tokenizer(question, add_special_tokens=False)["input_ids"] for question in questions]
    said = [tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] for answer in answers]
    rows = [one + two for one, two in zip(asked, said, strict=True)]
    longest = max(map(len, rows))
    # Padding comes last, where no token that counts can see it.
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    image = model.model.multi_modal_projector.project(features)
    first = embed(torch.full((len(rows), 1), tokenizer.bos_token_id))
    states = model.model.language_model(
        inputs_embeds=torch.cat([first, image, embed(padded)], dim=1), use_cache=False
    ).last_hidden_state
    before = image.shape[1]  # the token before place p of the row stands at place `before + p`
    places = [
        (row, before + len(one) + step, token)
        for row, (one, two) in enumerate(zip(asked, said, strict=True))
        for step, token in enumerate(two)
    ]
    row, place, wanted = (torch.tensor(column) for column in zip(*places, strict=True))
    logits = model.lm_head(states[row, place])
    return F.cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean()


def begin(model: Any, tokenizer: Any, given: Lessons, seed: int) -> None:
    """The part without the decoder."""
    projector = model.model.multi_modal_projector
    torch.manual_seed(seed)
    names = sorted(set(given.answers))
    tokens = [tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in names]
    with torch.no_grad():
        table = torch.stack([model.get_input_embeddings()(torch.tensor(one)).mean(0) for one in tokens])
        # So that its tokens are of the size of words from the first step on.
        projector.linear_2.weight.mul_(table.std() * 4)
    right = torch.tensor([names.index(answer) for answer in given.answers])
    optimizer = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.01)
    for step in tqdm(range(WORD_STEPS), desc="words", unit="step"):
        some = torch.from_numpy(np.concatenate([given.batch(10_000 + 4 * step + part, seed) for part in range(4)]))
        loss = word_loss(projector, given.features[some], table, right[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train(model: Any, tokenizer: Any, given: Lessons, work: Path, *, seed: int, steps: int) -> list[dict[str, float]]:
    """Both parts, from the last checkpoint on; what was seen on the way."""
    projector = model.model.multi_modal_projector.requires_grad_(True)
    checkpoint = work / "checkpoint.pt"
    optimizer = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.05)
    log: list[dict[str, float]] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        projector.load_state_dict(state["projector"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        log = state["log"]
    else:
        begin(model, tokenizer, given, seed)
    bar = tqdm(range(len(log), steps), initial=len(log), total=steps, desc="answers", unit="step")
    for step in bar:
        started = time.perf_counter()
        some = given.batch(step, seed)
        loss, right = answer_loss(
            model,
            tokenizer,
            given.features[some],
            [given.questions[i] for i in some],
            [given.answers[i] for i in some],
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        log.append({"loss": float(loss), "right": float(right), "seconds": time.perf_counter() - started})
        recent = log[-20:]
        bar.set_postfix({name: f"{np.mean([one[name] for one in recent]):.2f}" for name in ("loss", "right")})
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            state = {"projector": projector.state_dict(), "optimizer": optimizer.state_dict()}
            partial = checkpoint.with_suffix(".partial")
            torch.save(state | {"schedule": schedule.state_dict(), "log": log}, partial)
            partial.replace(checkpoint)
    projector.requires_grad_(False)
    return log


def check_same_run(work: Path, settings: dict[str, int]) -> None:
    """Refuse to go on from the checkpoint of another training."""
    path = work / "settings.json"
    if path.exists() and (before := json.loads(path.read_text())) != settings:
        raise SystemExit(f"{work} holds a training with {before}, not {settings}. Give another --work, or empty it.")
    path.write_text(json.dumps(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision", type=Path, help="a folder with DINOv2-S; by default that of the real-data tests")
    parser.add_argument("--decoder", type=Path, help="a folder with Gemma 3 270M; by default that of the tests")
    parser.add_argument("--floc", type=Path, help="the folder of fLoc's pictures; by default that of the tests")
    parser.add_argument("--work", type=Path, default=Path("modalnet-out/join"), help="checkpoints and features")
    parser.add_argument("--out", type=Path, default=joined.PROJECTOR, help="where the projector is written")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    check_same_run(arguments.work, {"steps": arguments.steps, "seed": arguments.seed})
    started = time.perf_counter()
    vision, decoder = asset("dinov2", arguments.vision), asset("gemma", arguments.decoder)
    torch.manual_seed(arguments.seed)
    model, processor = joined.build(vision, decoder)
    given = lessons(model, processor, asset("floc", arguments.floc), arguments.work, arguments.seed)
    log = train(model, processor.tokenizer, given, arguments.work, seed=arguments.seed, steps=arguments.steps)
    training = {
        "steps": arguments.steps,
        "batch": BATCH,
        "seed": arguments.seed,
        "photographs": given.photographs // VIEWS,
        "drawings": len(given.answers) - given.photographs,
        "minutes of the decoder's steps": round(sum(one["seconds"] for one in log) / 60, 1),
        "threads": torch.get_num_threads(),
        "loss of the last 20 steps": round(float(np.mean([one["loss"] for one in log[-20:]])), 4),
    }
    weights = {name: value.contiguous() for name, value in model.model.multi_modal_projector.state_dict().items()}
    save_file(weights, arguments.out, {"training": json.dumps(training)})
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB after {time.perf_counter() - started:.0f} s")
    print(json.dumps(training, indent=2))


if __name__ == "__main__":
    main()
