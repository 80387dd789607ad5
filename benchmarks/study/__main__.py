"""The study of networks, lesions, patching and brains, in three models or in one of yours.

    python -m benchmarks.study --out results                  Gemma 3 270M, the joined model, the bundled one
    python -m benchmarks.study --out results --model llava-hf/llava-1.5-7b-hf --floc FOLDER --blimp FOLDER ...
    python -m benchmarks.study --out results --model Qwen/Qwen2.5-VL-7B-Instruct --remote
    python -m benchmarks.study --out results --quick --models tiny       a minute, to see what comes out

What is done is kept: the same command goes on where it was stopped. RESULTS.md, tables and figures are in --out.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.study import joined, report, running, steps
from benchmarks.study.material import asset
from benchmarks.study.plan import LANGUAGE, QUICK, SMALL, Asked, Settings, Sources

import modalnet as mn

NAMES = ("naming", "networks", "overlap", "same text", "doses", "text networks", "picture networks", "patching")
NAMES += ("profile", "brains", "maps")
DATA = ("fedorenko2010", "floc", "blimp", "syntaxgym", "brain")


@dataclass(frozen=True)
class Studied:
    """A model of the study.

    Attributes
    ----------
    name
        Of its folder.
    load
        Loads it.
    material
        See :mod:`benchmarks.study.plan`.
    text_of
        The studied model that its decoder is, unchanged: lesions of text are then that one's, and this is checked.
    """

    name: str
    load: Callable[[], Any]
    material: Literal["published", "bundled"] = "published"
    text_of: str | None = None


@dataclass(frozen=True)
class Session:
    """A model with what it is asked, loaded when its steps are first asked for."""

    studied: Studied
    settings: Settings
    sources: Sources
    out: Path
    progress: bool

    @property
    def folder(self) -> Path:
        """Where its results go."""
        return self.out / self.studied.name

    @cached_property
    def place(self) -> steps.Place:
        """The loaded model and its material."""
        self.folder.mkdir(parents=True, exist_ok=True)
        asked = Asked(self.studied.load(), self.settings, self.sources, self.studied.material)
        return steps.Place(asked, self.folder, self.progress)

    def steps(self, studied_before: set[str]) -> list[running.Step]:
        """The steps that apply to it."""
        asked = self.place.asked
        text, pictures = bool(asked.text_tasks) and LANGUAGE in asked.probes, bool(asked.picture_tasks)
        same = self.studied.text_of in studied_before
        wanted: list[tuple[str, Callable[..., None], float, bool]] = [
            ("naming", steps.naming, 2, pictures and not asked.bundled),
            ("networks", steps.networks, 6, bool(asked.probes)),
            ("overlap", steps.overlap, 0.2, bool(asked.probes)),
            ("same text", partial(steps.same_text, other=self.out / str(self.studied.text_of)), 2, text and same),
            ("doses", steps.doses, 18, text and not same),
            ("text networks", steps.text_networks, 22, text and not same),
            ("picture networks", steps.picture_networks, 60, pictures),
            ("patching", steps.patching, 4, text),
            ("profile", steps.profile, 2, text and not same),
            ("brains", steps.brains, 6, text and not same and bool(asked.brains())),
            ("maps", steps.maps, 1, bool(asked.probes)),
        ]
        inputs = {
            "settings": self.settings.as_document(),
            "material": self.studied.material,
            "left out": self.sources.missing(),
            "model": asked.model.name,
            "version": mn.__version__,
        }
        cost = 0.05 if asked.bundled else 1.0
        return [
            running.Step(
                f"{self.studied.name}: {name}", partial(function, self.place), self.folder, inputs, cost * minutes
            )
            for name, function, minutes, applies in wanted
            if applies
        ]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="tables, figures, atlas and RESULTS.md")
    parser.add_argument("--models", default="gemma,joined,tiny", help="of gemma, joined, tiny; by default all three")
    parser.add_argument(
        "--model", help="a model of yours instead: a hub id, a folder with a transformers model, or tiny"
    )
    parser.add_argument("--remote", action="store_true", help="run --model on NDIF")
    parser.add_argument("--device", help="where models run; by default where modalnet puts them")
    parser.add_argument("--dtype", help="of --model's weights")
    parser.add_argument("--vision", type=Path, help="a folder with DINOv2-S; by default that of the real-data tests")
    parser.add_argument("--decoder", type=Path, help="a folder with Gemma 3 270M; by default that of the tests")
    parser.add_argument("--projector", type=Path, default=joined.PROJECTOR, help="what benchmarks.study.join wrote")
    for name in DATA:
        parser.add_argument(f"--{name}", type=Path, help="a folder; by default that of the tests, or it is left out")
    parser.add_argument("--steps", help=f"of {', '.join(NAMES)}; by default all that apply")
    parser.add_argument("--quick", action="store_true", help="few items, sizes and controls: shows that all of it runs")
    parser.add_argument(
        "--controls",
        type=int,
        help=f"random sets of each kind (default {Settings.controls}; no verdict is given below 19)",
    )
    parser.add_argument("--no-progress", action="store_true")
    return parser.parse_args(given)


def sources(given: argparse.Namespace) -> Sources:
    """Folders as named, or those of the tests; what is nowhere is left out."""
    found: dict[str, Path | None] = {}
    for name in DATA:
        try:
            found[name] = asset(name, getattr(given, name))
        except SystemExit as error:
            if getattr(given, name) is not None:
                raise
            print(f"left out: {error}", file=sys.stderr)
            found[name] = None
    return Sources(**found)


def studied(given: argparse.Namespace) -> list[Studied]:
    """The models that are asked for."""
    if given.model:
        load = partial(mn.load, given.model, remote=given.remote, device=given.device, dtype=given.dtype)
        material: Literal["published", "bundled"] = "bundled" if given.model == "tiny" else "published"
        return [Studied(steps.slug(given.model), load, material)]
    known = {
        "gemma": Studied("gemma", lambda: mn.load(str(asset("gemma", given.decoder)), device=given.device)),
        "joined": Studied(
            "joined",
            lambda: joined.load(
                asset("dinov2", given.vision), asset("gemma", given.decoder), given.projector, given.device
            ),
            text_of="gemma",
        ),
        "tiny": Studied("tiny", lambda: mn.load("tiny", device=given.device), "bundled"),
    }
    names = given.models.split(",")
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--models takes {', '.join(known)}; unknown: {', '.join(unknown)}.")
    return [known[name] for name in known if name in names]


def main(command: list[str] | None = None) -> int:
    """Run the study; 1 where a step failed."""
    given = arguments(command)
    if not given.model and (given.remote or given.dtype):
        raise SystemExit("--remote and --dtype are of --model, which is not given.")
    found = sources(given)
    given.out.mkdir(parents=True, exist_ok=True)
    sessions, planned = [], []
    only = NAMES if given.steps is None else tuple(name.strip() for name in given.steps.split(","))
    if unknown := [name for name in only if name not in NAMES]:
        raise SystemExit(f"--steps takes {', '.join(NAMES)}; unknown: {', '.join(unknown)}.")
    for one in studied(given):
        settings = QUICK if given.quick else SMALL if one.material == "bundled" else Settings()
        if given.controls is not None:
            settings = replace(settings, controls=given.controls)
        session = Session(one, settings, found, given.out, not given.no_progress)
        applying = session.steps({before.studied.name for before in sessions})
        planned += [step for step in applying if step.name.partition(": ")[2] in only]
        sessions.append(session)
    failures = running.run(planned)
    asked = shlex.join(["python", "-m", "benchmarks.study", *(command if command is not None else sys.argv[1:])])
    report.write(given.out, {one.studied.name: one.place.asked for one in sessions}, planned, failures, asked)
    print(f"{given.out / 'RESULTS.md'}")
    for name, why in failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
