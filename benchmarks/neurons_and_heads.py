"""Networks of neurons and of attention heads: where they are, whether they come back, and whether a model needs them.

    python -m benchmarks.neurons_and_heads --out results

Gemma 3 270M is localized on the sentences and nonwords of Fedorenko et al. (2010) and lesioned on minimal pairs and
plain sentences; DINOv2-S on photographs of fLoc, as the vision tower of the study's joined model
(:mod:`benchmarks.study.joined`), which names held-out photographs while it is lesioned. What is done is kept in the
folder, so the same command goes on where it was stopped. docs/neurons_and_heads.md is made of its tables and figures.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from benchmarks.real_material import some_of
from benchmarks.study import joined
from benchmarks.study.material import asset, floc_pictures, naming_task
from benchmarks.study.plan import GROUPS

import modalnet as mn
from modalnet.plotting.saving import write_figure
from modalnet.stimuli.published import INTACT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The share of the units of a space that its network is. A model of this size has 72 heads, of which this takes 4.
FRACTIONS = {"neurons": 0.01, "heads": 0.06}
CONTROLS = 20
#: In a layer of four or six heads, other heads of the layer and those of like activation are nearly the same sets.
MATCH = {"language-neurons": ("layer", "activation")}
OPERATIONS = {"language": ("zero", "mean"), "faces": ("mean",)}
#: Every so many of the paradigms of BLiMP, one pair of each; sentences; held-out photographs of each category.
EVERY, SENTENCES, PICTURES = 3, 10, 4
NETWORKS = ("faces", "places")
#: Panels beside each other in a figure.
ACROSS = 4
#: What is lesioned; of the others only where they are, and whether they come back.
LESIONED = ("language", "faces")


@dataclass(frozen=True)
class Subject:
    """A localization of one network in one space, and what its lesion is tested on."""

    model: mn.Model
    name: str
    space: str
    localization: mn.Localization
    fraction: float
    tasks: tuple[mn.tasks.Task, ...]

    @property
    def stem(self) -> str:
        """How its files begin, such as ``"language-decoder-heads"``."""
        return f"{self.name}-{self.space.replace('.', '-')}"


def of_text(store: Path, kinds: Sequence[str]) -> Iterator[Subject]:
    """Sentences against nonwords in Gemma 3 270M."""
    model = mn.load(str(asset("gemma")), dtype="float32")
    contrast = mn.stimuli.fedorenko2010(asset("fedorenko2010"))
    every = [str(one.text) for one in mn.brain.tuckute2024(asset("brain") / "tuckute2024_averaged.csv").stimuli]
    tasks = (
        mn.tasks.perplexity(every[:: len(every) // SENTENCES][:SENTENCES]),
        mn.tasks.minimal_pairs(some_of(asset("blimp"), EVERY), n=1, name="BLiMP"),
    )
    for kind in kinds:
        found = mn.localize(model, contrast, units=kind, protocol="alkhamissi2025", cache=store)
        yield Subject(model, "language", found.spaces[0], found, FRACTIONS[kind], tasks)


def of_pictures(store: Path, kinds: Sequence[str]) -> Iterator[Subject]:
    """Faces, and places, against the other photographs of fLoc in DINOv2-S, which the joined model sees with."""
    model = joined.load(asset("dinov2"), asset("gemma"))
    shown = floc_pictures(asset("floc"), test=False)
    held_out = floc_pictures(asset("floc"), test=True)
    tasks = tuple(
        naming_task(
            [one for name in GROUPS[group] for one in [x for x in held_out if x.condition == name][:PICTURES]],
            INTACT,
            f"naming {group}",
        )
        for group in NETWORKS
    )
    for group in NETWORKS:
        contrast = mn.Contrast(shown, list(GROUPS[group]), [name for name in INTACT if name not in GROUPS[group]])
        for kind in kinds:
            found = mn.localize(model, contrast, units=kind, towers="vision", cache=store)
            yield Subject(model, group, found.spaces[0], found, FRACTIONS[kind], tasks)


def locate(subject: Subject, out: Path) -> None:
    """Write the localization and its reliability."""
    found, network = subject.localization, subject.localization.top(fraction=subject.fraction)
    found.save(out / f"{subject.stem}.safetensors")
    network.save(out / f"{subject.stem}-units.json")
    found.table(network).to_csv(out / f"{subject.stem}-layers.csv", index=False)
    found.top_units(10).to_csv(out / f"{subject.stem}-largest.csv", index=False)
    found.reliability(fraction=subject.fraction).table().to_csv(out / f"{subject.stem}-reliability.csv", index=False)
    print(f"\n{subject.stem}: {found.summary()}", flush=True)


def lesion(subject: Subject, task: mn.tasks.Task, out: Path, store: Path) -> None:
    """Write what lesions of the network cost in a task, beside those of its controls."""
    study = mn.lesion_study(
        subject.model,
        {subject.name: subject.localization},
        task,
        [subject.fraction],
        CONTROLS,
        OPERATIONS[subject.name],
        match=MATCH.get(f"{subject.name}-{subject.space.rpartition('.')[2]}", ("activation",)),
        least=False,
        leave_out=0,
        cache=store,
    )
    stem = out / f"{subject.stem}-{task.name.replace(' ', '-')}"
    study.save(f"{stem}-lesions.safetensors")
    study.table().to_csv(f"{stem}-lesions.csv", index=False)
    study.verdicts().to_csv(f"{stem}-verdicts.csv", index=False)
    print(f"\n{subject.stem}: {study.summary()}", flush=True)


def draw(out: Path) -> None:
    """Draw what is in the folder: layers of networks, t of heads, and lesions beside their controls."""
    from matplotlib.figure import Figure

    stems = {path.name.removesuffix("-units.json"): path for path in sorted(out.glob("*-units.json"))}
    found = {stem: mn.Localization.load(out / f"{stem}.safetensors") for stem in stems}
    networks = {stem: mn.Units.load(path) for stem, path in stems.items()}
    shown = [stem for stem in stems if stem.split("-")[0] in LESIONED]
    figure = Figure(figsize=(3.1 * len(shown), 2.7), layout="constrained")
    for ax, stem in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        mn.plotting.layer_profile(found[stem], networks[stem], ax=ax)
        ax.set_title(_title(stem), fontsize=9, loc="left")
    write_figure(figure, out / "layers.png")
    heads = [stem for stem in stems if stem.endswith("heads")]
    figure = Figure(figsize=(3.0 * len(heads), 3.6), layout="constrained")
    for ax, stem in zip(np.atleast_1d(figure.subplots(1, len(heads))), heads, strict=True):
        mn.plotting.unit_t(found[stem], networks[stem], ax=ax)
        ax.set_title(_title(stem), fontsize=9, loc="left")
    write_figure(figure, out / "heads.png")
    studies = [(path.name, mn.LesionStudy.load(path)) for path in sorted(out.glob("*-lesions.safetensors"))]
    panels = [(name, study, task) for name, study in studies for task in study.tasks]
    rows = -(-len(panels) // ACROSS)
    figure = Figure(figsize=(2.5 * ACROSS, 2.9 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, ACROSS)).ravel()
    for ax, (name, study, task) in zip(axes, panels, strict=False):
        _draw_lesions(ax, study, task)
        ax.set_title(f"{_title(name)}\n{task}", fontsize=9, loc="left")
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    write_figure(figure, out / "lesions.png")


def _title(stem: str) -> str:
    network, tower, kind = stem.split("-")[:3]
    return f"{network}, {tower}.{kind}"


def _draw_lesions(ax: Axes, study: mn.LesionStudy, task: str) -> None:
    """Drops of a network and of each of its random sets, by how they are lesioned."""
    colours = {"layer": "#B0B0B0", "activation": "#56B4E9"}
    rng = np.random.default_rng(0)
    base = study.base[task].scores.mean()
    labels = []
    table = study.table()
    for row in table[table["task"] == task].to_dict("records"):
        at = len(labels)
        labels.append(str(row["operation"]))
        ours = [one for one in study.lesions if one.operation == row["operation"] and not one.control]
        for place, (match, colour) in enumerate(colours.items()):
            drawn = study.controls(ours[0], task, match)
            drops = [base - study.cells[one, task].mean() for one in drawn]
            x = at + 0.12 * (2 * place - 1) + rng.uniform(-0.06, 0.06, len(drops))
            ax.scatter(x, drops, s=10, color=colour, linewidths=0, label=f"{match}-matched" if drops and not at else "")
        error = [[row["drop"] - row["drop_low"]], [row["drop_high"] - row["drop"]]]
        ax.errorbar([at + 0.32], [row["drop"]], error, fmt="o", color="#D55E00", ms=5, label="" if at else "network")
    ax.axhline(0, color="#444444", linewidth=0.7)
    ax.set_xticks(range(len(labels)), labels, fontsize=8)
    ax.set_ylabel("drop of the score", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7, frameon=False)


def main() -> None:
    """Measure everything, then draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("text", "pictures"), help="one of the two models")
    parser.add_argument("--units", choices=tuple(FRACTIONS), help="one of the two kinds of units")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    store = given.out / "store"
    parts: Mapping[str, Any] = {"text": of_text, "pictures": of_pictures}
    for name, subjects in parts.items():
        if given.only in (None, name):
            kinds = [given.units] if given.units else list(FRACTIONS)
            every = list(subjects(store, kinds))
            for subject in every:
                locate(subject, given.out)
            for subject in every:
                for task in subject.tasks if subject.name in LESIONED else ():
                    lesion(subject, task, given.out, store)
    draw(given.out)


if __name__ == "__main__":
    main()
