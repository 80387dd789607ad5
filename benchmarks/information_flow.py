"""Where a picture's information goes, and a subject's: information flow in three models.

    python -m benchmarks.information_flow --out results

The bundled model and the joined model of the study (DINOv2-S and Gemma 3 270M) are asked for the colour of a shape,
and Gemma 3 270M for the number of a verb. docs/information_flow.md is made of the tables and figures. What is done is
kept in the folder, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.study import joined
from benchmarks.study.material import asset, many_drawn

import modalnet as mn
from modalnet.plotting.saving import write_figure
from modalnet.stimuli.rendering import COLOURS

#: Stimuli of each model, and draws of random edges for each of their sets and windows.
ITEMS, DRAWS = 24, 3


@dataclass(frozen=True)
class Subject:
    """A model, what it reads, and the edges that are removed."""

    model: mn.Model
    stimuli: tuple[mn.Stimulus, ...]
    metric: Any
    window: int
    stride: int
    edges: Any = None


def bundled() -> Subject:
    """The bundled model: what colour a shape is."""
    pairs = mn.patching.colour_pairs(ITEMS)
    return Subject(mn.load("tiny"), pairs.clean, pairs.logit_difference(), 2, 1)


def of_pictures() -> Subject:
    """The joined model: what colour a shape is, in drawn scenes that its projector was not trained with."""
    names = list(COLOURS)
    shown = [one for one in many_drawn(20 * ITEMS, 0, test=True) if one.kind == "colour" and one.answer in names][
        :ITEMS
    ]
    stimuli = tuple(
        mn.Stimulus(one.question, image=one.image, id=f"scene-{number + 1:02d}") for number, one in enumerate(shown)
    )
    answers = [f" {one.answer}" for one in shown]
    others = [f" {names[(names.index(one.answer) + 1) % len(names)]}" for one in shown]
    model = joined.load(asset("dinov2"), asset("gemma"))
    return Subject(model, stimuli, mn.patching.logit_difference(answers, others), 4, 2)


def of_subjects() -> Subject:
    """Gemma 3 270M: whether a verb agrees with its subject, which stands some words before it."""
    model = mn.load(str(asset("gemma")), dtype="float32")
    pairs = mn.patching.agreement_pairs(150)
    far = [place for place, one in enumerate(pairs.clean) if not str(one.text).endswith(pairs.words[place])][:ITEMS]
    stimuli = tuple(pairs.clean[place] for place in far)
    metric = mn.patching.logit_difference([pairs.answers[at] for at in far], [pairs.distractors[at] for at in far])
    subjects = mn.patching.tokens_of(model, stimuli, [pairs.words[place] for place in far])
    rows = [row["decoder"] for row in model._executor.token_rows(stimuli, ["decoder"])]
    others = [
        [place for place in range(1, len(row) - 1) if place not in own] for row, own in zip(rows, subjects, strict=True)
    ]
    edges = {"subject to last": (subjects, "last"), "other words to last": (others, "last")}
    return Subject(model, stimuli, metric, 4, 2, edges)


SUBJECTS: dict[str, Callable[[], Subject]] = {"tiny": bundled, "joined": of_pictures, "gemma": of_subjects}


def measure(name: str, out: Path, store: Path) -> mn.InformationFlow:
    """Information flow in one model, with its table and figures."""
    one = SUBJECTS[name]()
    flow = mn.information_flow(
        one.model,
        one.stimuli,
        one.metric,
        window=one.window,
        stride=one.stride,
        edges=one.edges,
        n_controls=DRAWS,
        cache=store,
    )
    flow.save(out / f"flow-{name}.safetensors")
    flow.table().to_csv(out / f"flow-{name}.csv", index=False)
    for on in ("depth", "flow"):
        write_figure(flow.plot(on=on).figure, out / f"flow-{name}-{on}.png")
    right = (flow.whole > 0).mean()
    print(f"{flow.summary()}\n  intact: the answer is likelier than the other in {right:.0%}\n")
    return flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of tables, figures and the store")
    parser.add_argument("--models", default=",".join(SUBJECTS), help="of tiny, joined, gemma; by default all three")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.models.split(","):
        measure(name, arguments.out, arguments.out / "store")


if __name__ == "__main__":
    main()
