"""RESULTS.md: what was found, from the tables that the steps left. Every sentence with a number is made here."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from benchmarks.study.figures import exceeds
from benchmarks.study.plan import INTACT_NETWORK, LANGUAGE, TASK_OF, Asked, without_tower

from modalnet._files import write_bytes
from modalnet.stats.new_draw import ALPHA, LEAST_DRAWS

if TYPE_CHECKING:
    from benchmarks.study.running import Step

VERDICTS = ("survives", "does not survive", "no measurable effect", "cannot be tested")
ENDS = ("_low", "_high")
OPERATIONS = {"zero": "zeroed", "mean": "set to their mean"}


def write(
    out: Path, models: Mapping[str, Asked], steps: Sequence[Step], failures: Mapping[str, str], command: str
) -> None:
    """Write RESULTS.md into the folder of the study."""
    read = {name: Tables(out / name) for name in models}
    parts = [
        "# What the study found",
        _made(models, read, steps, failures, command),
        _claims(models, read),
        *(_section(title, make, models, read) for title, make in SECTIONS),
        _limits(models),
    ]
    write_bytes(out / "RESULTS.md", ("\n\n".join(part for part in parts if part) + "\n").encode())


@dataclass(frozen=True)
class Tables:
    """The tables, texts and figures of one model."""

    folder: Path

    def __call__(self, name: str) -> pd.DataFrame | None:
        path = self.folder / f"{name}.csv"
        return pd.read_csv(path, keep_default_na=True) if path.exists() and path.stat().st_size > 1 else None

    def lines(self, name: str) -> list[str]:
        """The lines of a text; none where it is not there."""
        path = self.folder / f"{name}.txt"
        return path.read_text().splitlines() if path.exists() else []

    def figure(self, name: str, says: str) -> str:
        """A link to a figure, empty where it is not there."""
        return f"![{says}]({self.folder.name}/{name}.png)" if (self.folder / f"{name}.png").exists() else ""


def _section(
    title: str, make: Callable[..., Iterator[str]], models: Mapping[str, Asked], read: Mapping[str, Tables]
) -> str:
    written = []
    for name, asked in models.items():
        parts = [part for part in make(asked, read[name]) if part]
        if parts:
            written += [f"### {name}", *parts]
    return "\n\n".join([f"## {title}", *written]) if written else ""


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as markdown."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def number(value: float, digits: int = 2) -> str:
    """A number for a table."""
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def interval(row: Mapping[str, Any], name: str, digits: int = 2, ends: tuple[str, str] = (" low", " high")) -> str:
    """A value with its interval."""
    if pd.isna(row[name]):
        return ""
    low, high = (row[name + end] for end in ends)
    return f"{row[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(value: float) -> str:
    """A share without needless digits."""
    return f"{100 * value:.4g}%"


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")


# The parts


def _made(
    models: Mapping[str, Asked],
    read: Mapping[str, Tables],
    steps: Sequence[Step],
    failures: Mapping[str, str],
    command: str,
) -> str:
    import torch

    import modalnet as mn

    rows = []
    for name, asked in models.items():
        own = [step for step in steps if step.name.startswith(f"{name}: ")]
        seconds = [step.seconds() for step in own]
        rows.append(
            {
                "model": name,
                "towers": ", ".join(
                    f"{tower.name} {tower.n_layers} x {tower.width}" for tower in asked.model.towers.values()
                ),
                "random controls of each kind": asked.settings.controls,
                "minutes": f"{sum(one or 0 for one in seconds) / 60:.0f}",
                "steps done": f"{sum(one is not None for one in seconds)} of {len(own)}",
            }
        )
    lines = [
        f"Made by `{command}` with modalnet {mn.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {torch.get_num_threads()} thread(s) on {os.cpu_count()} cores. "
        "Every table and figure below is of this command. A table's numbers, and more of them, are in the folder of "
        "its model as CSV; brackets are 95% intervals. Minutes are those of the last run of each step, without lesions "
        "and pairs that an earlier run had left in the store.",
        markdown(pd.DataFrame(rows)),
    ]
    lines += [f"**Failed**: {name}: {why}" for name, why in failures.items()]
    for name, tables in read.items():
        for path in sorted(tables.folder.glob("failures-*.csv")):
            lines.append(f"**Lesions that failed**, of {name}: {len(pd.read_csv(path))}; see {name}/{path.name}.")
    missing = sorted({one for asked in models.values() for one in asked.sources.missing()})
    if missing:
        lines.append(f"Left out, for want of its files: {', '.join(missing)}.")
    return "\n\n".join(lines)


@dataclass(frozen=True)
class Claim:
    """Something that was published or hoped for, and what became of it."""

    says: str
    measured: str
    holds: str


def _claims(models: Mapping[str, Asked], read: Mapping[str, Tables]) -> str:
    """Each claim beside what was measured, all models in one table."""
    rows = [
        {"claim": one.says, "model": name, "measured": one.measured, "holds": one.holds}
        for make in (_language_claims, _picture_claims, _overlap_claims, _brain_claims)
        for name in models
        for one in make(read[name])
    ]
    if not rows:
        return ""
    return "\n\n".join(
        [
            "## In short",
            "A lesion *costs more* than controls where the interval of its excess over one more random set is above 0 "
            "and no more than one random set in twenty costs as much; it *survives* where that holds over all sizes, "
            "and *cannot be tested* where units are zeroed and no random ones are as active "
            "([methods](https://github.com/modalnet/modalnet/blob/main/docs/methods.md)).",
            markdown(pd.DataFrame(rows)),
        ]
    )


def _share(found: Sequence[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


def _survive(rows: Sequence[Mapping[str, Any]], each: Callable[[Mapping[str, Any]], str]) -> tuple[str, str]:
    """How many verdicts of each kind, those that survive by name, and whether the claim holds."""
    kinds = [row["verdict"] for row in rows]
    counts = ", ".join(f"{kinds.count(one)} {one}" for one in VERDICTS if one in kinds)
    named = "; ".join(each(row) for row in rows if row["verdict"] == "survives")
    if all(one == "cannot be tested" for one in kinds):
        holds = "cannot be tested"
    else:
        holds = "yes" if all(one == "survives" for one in kinds) else "in part" if "survives" in kinds else "no"
    return counts + (f": {named}" if named else ""), holds


def _language_claims(read: Tables) -> Iterator[Claim]:
    table, verdicts = read("lesions-doses"), read("verdicts-doses")
    if table is None or verdicts is None:
        return
    published = [row for row in _rows(table) if row["operation"] == "zero"]
    found = [exceeds(row, "layer") for row in published]
    if found:
        by: dict[str, list[bool]] = {}
        for row, holds in zip(published, found, strict=True):
            by.setdefault(row["task"], []).append(holds)
        yield Claim(
            "zeroing the language network costs language more than random units of the same layers (the published "
            "control)",
            f"{_share(found)} tasks and sizes ({', '.join(f'{task} {_share(each)}' for task, each in by.items())})",
            "yes" if all(found) else "in part" if any(found) else "no",
        )
    for operation, says in (
        ("zero", "... and more than random units of the same layers that are as active"),
        ("mean", "setting it to its mean costs language more than random units"),
    ):
        rows = [row for row in _rows(verdicts) if row["question"] == operation]
        if rows:
            yield Claim(says, *_survive(rows, lambda row: row["task"]))
    others, asked = read("lesions-text"), read("verdicts-text")
    if others is None or asked is None:
        return
    for name, task in (("theory of mind", "belief questions"), ("multiple demand", "arithmetic")):
        rows = [row for row in _rows(asked) if row["network"] == name and row["task"] == task]
        own = [row for row in _rows(others) if row["network"] == name and row["task"] == task]
        if own:
            able = all(row["base_low"] > row["chance"] for row in own)
            drops = ", ".join(f"{OPERATIONS[row['operation']]} {interval(row, 'drop', ends=ENDS)}" for row in own)
            _, holds = _survive([row for row in rows if row["question"] == "all"], lambda row: row["network"])
            yield Claim(
                f"the network of {name} carries {task}",
                f"{rows[-1]['verdict']}: drop {drops}" if able else f"at chance without a lesion: {own[0]['base']:.2f}",
                holds if able else "cannot be told",
            )


def _picture_claims(read: Tables) -> Iterator[Claim]:
    naming = read("naming")
    if naming is not None:
        row = next(row for row in _rows(naming) if row["category"] == "all photographs")
        yield Claim(
            "held-out photographs are named",
            f"{interval(row, 'named')}; chance {row['chance']:.2f}, linear probe {interval(row, 'probe')}",
            "yes" if row["named low"] > row["chance"] else "no",
        )
    verdicts = read("verdicts-pictures")
    if verdicts is None:
        return
    asked = verdicts[verdicts["question"] != "all"]
    for tower, part in asked.groupby("tower", sort=False):
        rows = [row for row in _rows(part) if _own(row)]
        if rows:
            yield Claim(
                f"networks of the {tower} tower carry their own kind of picture",
                *_survive(rows, lambda row: f"{row['network']} {OPERATIONS[row['question']]}"),
            )
    spoken = [
        row for row in _rows(asked) if without_tower(row["network"]) == LANGUAGE and row["task"].startswith("naming")
    ]
    if spoken:
        yield Claim(
            "the decoder's language network carries naming of pictures", *_survive(spoken, lambda row: row["task"])
        )
    selective = read("selectivity-pictures")
    for row in _rows(selective) if selective is not None else ():
        yield Claim(
            f"networks of the {row['tower']} tower cost their own kind of picture more than the others "
            f"({percent(row['fraction'])} {OPERATIONS[row['operation']]})",
            f"{row['diagonal']:.2f} against {row['off_diagonal']:.2f} of the score above chance, p = {row['p']:.3f}"
            + ("" if pd.isna(row["p_new_draw"]) else f", beside random units p = {row['p_new_draw']:.3f}"),
            {"selective": "yes", "not selective": "no"}.get(row["verdict"], row["verdict"]),
        )
    interactions = read("interactions-pictures")
    pair = _rows(_faces_and_places(interactions)) if interactions is not None else []
    if pair:
        kinds = [row["verdict"] for row in pair]
        found = [one == "double dissociation" for one in kinds]
        yield Claim(
            "face units carry faces and not places, place units the reverse",
            "; ".join(
                f"{row['tower']}, {OPERATIONS[row['operation']]}: {row['verdict']}, interaction "
                f"{interval(row, 'interaction', ends=ENDS)}"
                for row in pair
            ),
            "yes" if all(found) else "in part" if any(found) else _survive(pair, str)[1],
        )


def _overlap_claims(read: Tables) -> Iterator[Claim]:
    table = read("overlap")
    if table is None:
        return
    for row in _rows(table):
        if row["network A"] == LANGUAGE and row["network B"] == INTACT_NETWORK:
            yield Claim(
                "language and vision share units of the decoder",
                f"Dice {row['Dice']:.2f}, permuted labels {row['dice_permuted']:.2f} (97.5%: "
                f"{row['dice_permuted_high']:.2f}), p = {row['p_more']:.3f}",
                "yes" if row["p_more"] <= ALPHA else "no",
            )


def _brain_claims(read: Tables) -> Iterator[Claim]:
    table = read("brain")
    if table is None:
        return
    for name, part in table.groupby("data", sort=False):
        rows = _rows(part)
        random = [row for row in rows if row["draws"] > 1]
        if random:
            yield Claim(
                f"the language network predicts the human one better than random units of its layers ({name})",
                f"{rows[0]['score']:.3f} against {random[0]['score']:.3f}, difference {_less(random[0])}",
                "yes" if random[0]["network_minus_low"] > 0 else "no",
            )


def naming(asked: Asked, read: Tables) -> Iterator[str]:
    """Held-out naming beside chance and a probe."""
    table = read("naming")
    if table is None:
        return
    shown = pd.DataFrame(
        {
            "pictures": [row["category"] for row in _rows(table)],
            "n": [row["n"] for row in _rows(table)],
            "chance": [number(row["chance"]) for row in _rows(table)],
            "named": [interval(row, "named") for row in _rows(table)],
            "linear probe on the vision tower": [interval(row, "probe") for row in _rows(table)],
        }
    )
    yield (
        "Share of held-out pictures whose right name is the likeliest of all names. The probe is a logistic regression "
        "on the last block's mean token, fit to the pictures that are not held out (for the joined model those that "
        "trained its projector)."
    )
    yield markdown(shown)


def networks(asked: Asked, read: Tables) -> Iterator[str]:
    """Selectivity and reliability."""
    table = read("networks")
    if table is None:
        return
    rows = _rows(table)
    yield (
        f"The top {percent(asked.settings.selected)} of a tower by t. Hedges' g is of its units on stimuli that did "
        "not select them, beside random units with as many in every block; Dice is the overlap of the networks of two "
        "halves of the stimuli."
    )
    yield markdown(
        pd.DataFrame(
            {
                "tower": [row["tower"] for row in rows],
                "network": [row["network"] for row in rows],
                "n": [row["n"] for row in rows],
                "units": [row["units"] for row in rows],
                "largest t": [number(row["largest t"], 1) for row in rows],
                "g, held out": [interval(row, "g held out") for row in rows],
                "g, random": [interval(row, "g held out, random") for row in rows],
                "split-half Dice": [interval(row, "split-half Dice") for row in rows],
                "Dice, random": [interval(row, "split-half Dice, random") for row in rows],
                "mean block": [f"{row['mean layer']:.1f} of 0..{row['layers'] - 1}" for row in rows],
                "times the mean |activation|": [number(row["times the mean |activation|"], 1) for row in rows],
            }
        )
    )
    weak = [
        f"{row['network']} ({row['tower']})" for row in rows if not row["g held out"] > row["g held out, random high"]
    ]
    if weak:
        yield f"On held-out stimuli no more selective than random units can be: {', '.join(weak)}."
    yield read.figure("layers", "Which share of each block is in each network")


def overlap(asked: Asked, read: Tables) -> Iterator[str]:
    """Where vision and language meet."""
    table = read("overlap")
    if table is None:
        return
    rows = _rows(table)
    wanted = {INTACT_NETWORK, "picture > description", "faces", "places", "houses", "characters", "words"}
    cross = [row for row in rows if row["network A"] == LANGUAGE and row["network B"] in wanted]
    if cross:
        yield (
            "Language and pictures in the decoder, beside networks of permuted labels, which have nothing to do with "
            "one another. p is the largest of three (labels of one contrast, of the other, or of both permuted)."
        )
        yield markdown(
            pd.DataFrame(
                {
                    "language and": [row["network B"] for row in cross],
                    "Dice": [number(row["Dice"]) for row in cross],
                    "permuted, mean": [number(row["dice_permuted"]) for row in cross],
                    "permuted, 97.5%": [number(row["dice_permuted_high"]) for row in cross],
                    "p, more": [number(row["p_more"], 3) for row in cross],
                    "p, less": [number(row["p_less"], 3) for row in cross],
                    "r of the t of all units": [number(row["r of t"]) for row in cross],
                }
            )
        )
    tested = [row for row in rows if not pd.isna(row["p_more"])]
    meeting = [row for row in tested if row["p_more"] <= ALPHA]
    named = "; ".join(
        f"{row['network A']} and {row['network B']} in {row['tower']} ({row['Dice']:.2f} against "
        f"{row['dice_permuted']:.2f})"
        for row in sorted(meeting, key=lambda row: -row["Dice"])[:8]
    )
    yield (
        f"Of {len(rows)} pairs of networks {len(tested)} share no stimulus and can be tested; {len(meeting)} share "
        f"more units than those of permuted labels (p <= {ALPHA}, uncorrected){': ' if named else ''}{named}."
    )
    yield read.figure("overlap", "Dice of each pair of networks")


def language(asked: Asked, read: Tables) -> Iterator[str]:
    """What is left of the language effect."""
    same = read("same-text")
    if same is not None:
        yield (
            "On text alone this decoder is the one above: its language network has the same t, and without a lesion "
            "and under the largest one every item has the same score (largest difference "
            f"{same['largest difference'].max():.1e}), so its lesions on text are those."
        )
    table = read("lesions-doses")
    if table is None:
        return
    for operation, called in OPERATIONS.items():
        part = table[table["operation"] == operation]
        if not len(part):
            continue
        rows = _rows(part)
        yield f"Language network, units {called}: drops from the score without a lesion, in the task's measure."
        yield markdown(_drops(rows, sizes=True))
    if unable := sorted({row["task"] for row in _rows(table) if row["base_low"] <= row["chance"]}):
        yield f"At chance without a lesion, so that no loss could be seen: {', '.join(unable)}."
    verdicts = read("verdicts-doses")
    if verdicts is not None:
        yield "In words, over both sizes:" if table["fraction"].nunique() == 2 else "In words, over all sizes:"
        yield "\n".join(f"- {row['sentence']}" for row in _rows(verdicts) if row["question"] != "all")
    yield read.figure("doses", "Dose curves of the language network")


def _drops(rows: Sequence[Mapping[str, Any]], *, sizes: bool) -> pd.DataFrame:
    columns: dict[str, list[str]] = {
        "task": [row["task"] for row in rows],
        "network": [row["network"] for row in rows],
        "size": [percent(row["fraction"]) for row in rows],
        "no lesion": [interval(row, "base", ends=ENDS) for row in rows],
        "drop": [interval(row, "drop", ends=ENDS) for row in rows],
        "layer-matched": [interval(row, "drop_layer", ends=ENDS) if "drop_layer" in row else "" for row in rows],
        "activation-matched": [interval(row, "drop_activation", ends=ENDS) for row in rows],
        "least selective": [number(row["drop_least"]) for row in rows],
        "in excess": [interval(row, "excess_activation", ends=ENDS) for row in rows],
        "|activation|, relative": [_matched(row) for row in rows],
        "costs more": ["yes" if exceeds(row) else "no" for row in rows],
    }
    if not any(columns["layer-matched"]):
        del columns["layer-matched"]
    if sizes:
        del columns["network"]
    return pd.DataFrame(columns)


def _matched(row: Mapping[str, Any]) -> str:
    """Mean abs(activation) of the activation-matched units where they are lesioned, relative to the network's."""
    return interval(row, "match_activation", ends=ENDS)


def thought(asked: Asked, read: Tables) -> Iterator[str]:
    """The other networks of text against language."""
    table, interactions = read("lesions-text"), read("interactions-text")
    if table is None:
        return
    yield read.figure("text", "Drops of each network on each task")
    yield "Bold drops exceed that of one more set of activation-matched random units."
    passed = [row for row in _rows(table) if exceeds(row)]
    if passed:
        yield markdown(_drops(passed, sizes=False).assign(operation=[OPERATIONS[row["operation"]] for row in passed]))
    else:
        yield "No network costs more on any task than activation-matched random units can."
    yield _dissociations(interactions)


def _dissociations(interactions: pd.DataFrame | None) -> str:
    """Which interactions are above zero, and which dissociations were found."""
    if interactions is None or not len(interactions):
        return ""
    rows = _rows(interactions)
    found = [row for row in rows if row["verdict"] == "double dissociation"]
    single = [row for row in rows if row["verdict"] == "single dissociation"]
    unable = sum(row["verdict"] == "cannot be tested" for row in rows)
    strong = [row for row in rows if row["p_interaction"] <= ALPHA]
    text = (
        f"Interactions of {len(rows)} pairs of networks and tasks (each size and operation): {len(strong)} lie beyond "
        f"one more pair of random sets (p <= 0.05, uncorrected); {len(found)} are double dissociations by the rules of "
        f"`LesionStudy.dissociation`, {len(single)} single ones, and {unable} cannot be tested."
    )
    shown = sorted(found or single, key=lambda row: -abs(row["interaction"]) if np.isfinite(row["interaction"]) else 0)[
        :6
    ]
    return "\n".join([text, *(f"- {row['sentence']}" for row in shown)])


def pictures(asked: Asked, read: Tables) -> Iterator[str]:
    """Do networks of pictures carry their own kind, and language its own when there is a picture?"""
    table, interactions = read("lesions-pictures"), read("interactions-pictures")
    if table is None:
        return
    for tower, part in table.groupby("tower", sort=False):
        yield read.figure(f"pictures-{tower}", f"Drops of each network of the {tower} tower on each task")
        own = [row for row in _rows(part) if _own(row)]
        if own:
            yield f"Each network of the {tower} tower on its own kind of picture:"
            yield markdown(_drops(own, sizes=False).assign(operation=[OPERATIONS[row["operation"]] for row in own]))
        spoken = [row for row in _rows(part) if without_tower(row["network"]) == LANGUAGE]
        if spoken:
            yield "The language network on pictures, and on language (perplexity, grammar):"
            yield markdown(
                _drops(spoken, sizes=True).assign(operation=[OPERATIONS[row["operation"]] for row in spoken])
            )
        passed = [row for row in _rows(part) if exceeds(row)]
        own_passed = [row for row in own if exceeds(row)]
        yield (
            f"In the {tower} tower {len(passed)} of {len(part)} lesions cost more than activation-matched random "
            f"units; {len(own_passed)} of them are of a network on its own kind of picture."
        )
    if interactions is not None:
        pair = _faces_and_places(interactions)
        if len(pair):
            yield "Face units and place units on naming faces and naming places:"
            yield markdown(
                pd.DataFrame(
                    {
                        "tower": pair["tower"],
                        "size": [percent(one) for one in pair["fraction_A"]],
                        "operation": pair["operation"].map(OPERATIONS),
                        "faces lesion: faces, places": [
                            f"{one:.2f}, {two:.2f}" for one, two in zip(pair["drop_Aa"], pair["drop_Ab"], strict=True)
                        ],
                        "places lesion: faces, places": [
                            f"{one:.2f}, {two:.2f}" for one, two in zip(pair["drop_Ba"], pair["drop_Bb"], strict=True)
                        ],
                        "interaction": [interval(row, "interaction", ends=ENDS) for row in _rows(pair)],
                        "verdict": pair["verdict"],
                    }
                )
            )
        for tower, part in interactions.groupby("tower", sort=False):
            yield f"{tower}: {_dissociations(part)}"


def _faces_and_places(interactions: pd.DataFrame) -> pd.DataFrame:
    """Face units and place units on naming faces and naming places."""
    return interactions[
        interactions["network_A"].str.startswith("faces")
        & interactions["network_B"].str.startswith("places")
        & interactions["task_a"].eq("naming faces")
        & interactions["task_b"].eq("naming places")
    ]


def _own(row: Mapping[str, Any]) -> bool:
    """Whether a task asks for what a network was localized by."""
    return TASK_OF.get(without_tower(row["network"])) == row["task"]


def patching(asked: Asked, read: Tables) -> Iterator[str]:
    """Where the answer becomes readable, and through which network."""
    table, carried = read("patching"), read("patching-networks")
    if table is None:
        return
    what, *lines = read.lines("patching")
    yield f"{what[0].upper()}{what[1:]}. 0 is the run with the other stimulus, 1 the stimulus' own run."
    yield "```\n" + "\n".join(lines) + "\n```"
    yield read.figure("patching", "Effect of patching each block and token")
    for tower, part in table.groupby("tower", sort=False):
        for token, of in part.groupby("token", sort=False):
            most = of["effect"].max()
            if most >= 0.5:
                there = of[of["effect"] >= 0.5]["layer"]
                yield (
                    f"- {tower}, {token!r}: at least half of the answer at blocks {there.min()} to {there.max()} "
                    f"(most {most:.2f})"
                )
    if carried is not None and len(carried):
        rows = _rows(carried)
        yield "Patching a network's units alone, all blocks and tokens at once:"
        yield markdown(
            pd.DataFrame(
                {
                    "network": [row["network"] for row in rows],
                    "units": [row["units"] for row in rows],
                    "effect": [f"{row['share']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" for row in rows],
                    "random units": [str(row.get("match", "")) + "-matched" for row in rows],
                    "their effect, lowest to highest": [
                        f"{row['control']:.2f} ({row['control_low']:.2f} to {row['control_high']:.2f})" for row in rows
                    ],
                    "p of the rank": [number(row["p"], 3) for row in rows],
                }
            )
        )


def brains(asked: Asked, read: Tables) -> Iterator[str]:
    """Prediction of the human language network, and the response profile."""
    table = read("brain")
    if table is not None:
        for name, part in table.groupby("data", sort=False):
            rows = _rows(part)
            yield f"{name}: correlation of predicted and measured responses, whole topics held out."
            yield markdown(
                pd.DataFrame(
                    {
                        "features": [row["features"] for row in rows],
                        "how many": [row["n_features"] for row in rows],
                        "score": [f"{row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in rows],
                        "network minus this": [_less(row) for row in rows],
                    }
                )
            )
        yield read.figure("brain", "Brain scores")
    profile = read.lines("profile")
    if profile:
        yield "The language network's response to four conditions, on stimuli that did not select it:"
        yield "```\n" + "\n".join(profile) + "\n```"


def _less(row: Mapping[str, Any]) -> str:
    """How far the network's score is above this one's."""
    ends = [row[f"network_minus{end}"] for end in ("", "_low", "_high")]
    return "" if pd.isna(ends[0]) else "{:.3f} [{:.3f}, {:.3f}]".format(*ends)


def maps(asked: Asked, read: Tables) -> Iterator[str]:
    """The pictures of the whole model."""
    yield read.figure("sheet", "The networks on the sheet")
    yield read.figure("glass", "The networks in depth")


def _limits(models: Mapping[str, Asked]) -> str:
    draws = {name: asked.settings.controls for name, asked in models.items()}
    least, each = min(draws.values()), ", ".join(f"{name} {n}" for name, n in draws.items())
    return "\n".join(
        [
            "## Limits",
            "",
            f"- Random sets of each kind beside a lesion: {each}. A rank among them is at least {1 / (1 + least):.2f}"
            + (", so no verdict can be given" if least < LEAST_DRAWS else "")
            + "; q of the tables are above that.",
            "- Few items per task: each verdict names the smallest effect that would have been found. A task whose "
            "score without a lesion is near chance cannot show a loss.",
            "- Activation-matched units come from the same block; where a block has no unit as active as the "
            "network's, they are less active, and zeroing cannot be tested.",
            "- Mean ablation sets units to their mean over the task's ordinary tokens. Sink tokens are spared by every "
            "lesion.",
            "- One model of each kind, one seed. Nothing here is of a large vision-language model.",
        ]
    )


SECTIONS: tuple[tuple[str, Callable[..., Iterator[str]]], ...] = (
    ("Does the model name pictures?", naming),
    ("Networks", networks),
    ("Do language and vision share units?", overlap),
    ("What is left of the language effect?", language),
    ("Thought beside language", thought),
    ("Pictures: does each network carry its own?", pictures),
    ("Where does the answer become readable?", patching),
    ("The brain", brains),
    ("Maps", maps),
)
