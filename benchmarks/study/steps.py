"""The steps of the study for one model: each answers one question and leaves tables and figures in a folder.

Every step gets the same :class:`Place`, asks modalnet, and writes. What is computed is also in modalnet's store, so a
step that was stopped goes on where it was.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from benchmarks.study import figures
from benchmarks.study.material import answers, floc_pictures, many_drawn, naming_task
from benchmarks.study.plan import (
    ASKED_BESIDE,
    INTACT_NETWORK,
    LANGUAGE,
    LANGUAGE_TASKS,
    LESIONED_DECODER,
    LESIONED_TEXT,
    LESIONED_VISION,
    TASK_OF,
    Asked,
    without_tower,
)

import modalnet as mn
from modalnet._files import write_bytes
from modalnet.errors import InputError
from modalnet.specialization.permuted import UNTESTED, compared, permuted_networks
from modalnet.stats.proportions import score_interval
from modalnet.stimuli.published import INTACT

if TYPE_CHECKING:
    from modalnet import LesionStudy, Localization, Units

#: How many permutations of the labels of two contrasts the overlap of their networks is compared with.
PERMUTATIONS = 199
#: The control of every lesion; the language network has ``"layer"`` beside it, the published one.
MATCH = ("activation",)


@dataclass(frozen=True)
class Place:
    """One model with what it is asked, and where its results go.

    Attributes
    ----------
    asked
        The model, its contrasts and tasks.
    folder
        Of this model.
    progress
        Whether to show bars.
    """

    asked: Asked
    folder: Path
    progress: bool = True

    def table(self, name: str, rows: pd.DataFrame) -> None:
        """Write a table."""
        write_bytes(self.folder / f"{name}.csv", rows.to_csv(index=False).encode())

    def text(self, name: str, lines: str) -> None:
        """Write a text."""
        write_bytes(self.folder / f"{name}.txt", (lines.rstrip() + "\n").encode())

    @cached_property
    def found(self) -> dict[str, Localization]:
        """Localization by the name of its network; from the store where it was done before."""
        made = {}
        for name, probe in self.asked.probes.items():
            made[name] = mn.localize(
                self.asked.model,
                probe.make(),
                towers=probe.towers,
                protocol=probe.protocol,
                progress=self.progress,
            )
        return made

    @cached_property
    def by_tower(self) -> dict[str, dict[str, Localization]]:
        """What was localized in each tower, over its units alone; kept, so that every t is computed once."""
        return {
            tower: {name: one.only(tower) for name, one in self.found.items() if tower in one.towers}
            for tower in self.asked.model.towers
        }

    def networks(self, tower: str) -> dict[str, Localization]:
        """What was localized in a tower."""
        return self.by_tower[tower]

    def named(self, tower: str) -> dict[str, Localization]:
        """The same, named after the tower, too, where the model has several."""
        several = len(self.asked.model.towers) > 1
        return {f"{name} ({tower})" if several else name: one for name, one in self.networks(tower).items()}

    @property
    def selected(self) -> float:
        """The share of a tower that is a network."""
        return self.asked.settings.selected


# Naming


def naming(place: Place) -> None:
    """How well held-out pictures are named, beside chance and a linear probe on the vision tower's last block.

    The probe is a logistic regression on the mean over tokens, fit to the pictures that trained the projector.
    """
    asked, floc = place.asked, place.asked.sources.floc
    assert floc is not None
    shown = {test: floc_pictures(floc, test=test) for test in (False, True)}
    task = naming_task(shown[True], INTACT, "naming")
    scores = task.run(asked.model).scores
    vision = asked.model.vision.name
    last = asked.model.vision.n_layers - 1
    seen = {
        test: asked.model.run(pictures, read={vision: [last]}, tokens="mean").residual[vision][:, 0]
        for test, pictures in shown.items()
    }
    probed = _probe(*seen.values(), *([str(one.condition) for one in pictures] for pictures in shown.values()))
    of = np.array([one.condition for one in shown[True]])
    rows = [
        {"category": name, "n": int((of == name).sum()), "chance": 1 / len(INTACT)}
        | _with_interval("named", scores[of == name])
        | _with_interval("probe", probed[of == name])
        for name in INTACT
    ]
    rows.append(
        {"category": "all photographs", "n": len(of), "chance": 1 / len(INTACT)}
        | _with_interval("named", scores)
        | _with_interval("probe", probed)
    )
    drawings = list(many_drawn(asked.settings.drawn, asked.settings.seed + 1, test=True, size=asked.size))
    for kind in ("colour", "shape", "drawn thing"):
        items = [(one.image, one.question, answers(kind), one.answer) for one in drawings if one.kind == kind]
        if items:
            own = mn.tasks.visual_questions(items, name=kind).run(asked.model).scores
            row = {"category": f"drawn: {kind}", "n": len(items), "chance": 1 / len(answers(kind))}
            rows.append(row | _with_interval("named", own))
    place.table("naming", pd.DataFrame(rows))


def _probe(training: np.ndarray, test: np.ndarray, names: list[str], right: list[str]) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(training, names)
    return (fitted.predict(test) == np.array(right)).astype(float)


def _with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    """Share of items that are right and its 95% score interval."""
    low, high = score_interval(values)
    return {name: float(values.mean()), f"{name} low": low, f"{name} high": high}


# Networks


def networks(place: Place) -> None:
    """Where each network is, how selective it is on stimuli that did not select it, and whether it comes back."""
    rows = [
        _network_row(place, name, tower, one)
        for tower in place.asked.model.towers
        for name, one in place.networks(tower).items()
    ]
    place.table("networks", pd.DataFrame(rows))
    (place.folder / "networks").mkdir(exist_ok=True)
    for name, one in place.found.items():
        one.save(place.folder / "networks" / f"{slug(name)}.safetensors")
    shares = {
        tower: {name: _shares(one.top(fraction=place.selected), tower) for name, one in place.networks(tower).items()}
        for tower in place.asked.model.towers
    }
    place.table("layers", pd.DataFrame(_layer_rows(shares)))
    figures.layers(shares, place.folder / "layers.png", place.selected)


def _network_row(place: Place, name: str, tower: str, one: Localization) -> dict[str, Any]:
    units = one.top(fraction=place.selected)
    again = one.reliability(fraction=place.selected, seed=place.asked.settings.seed).table()
    by = again.set_index(["measure", "units"])
    share = _shares(units, tower)
    layers = np.arange(len(share))
    row: dict[str, Any] = {
        "network": name,
        "tower": tower,
        "contrast": one.meta["contrast"]["name"],
        "n": " > ".join(str(sum(one.n[of] for of in one.meta["contrast"][side])) for side in ("positive", "negative")),
        "units": units.count,
        "largest t": float(np.nanmax(one.t[tower])),
        "share with q < 0.05, t > 0": float(np.mean((one.q[tower] < 0.05) & (one.t[tower] > 0))),
    }
    for measure, called in (("g, held out", "g held out"), ("split-half Dice", "split-half Dice")):
        for kind in ("network", "random"):
            prefix = called if kind == "network" else f"{called}, random"
            cell = by.loc[(measure, kind)]
            row |= {prefix: cell["mean"], f"{prefix} low": cell["low"], f"{prefix} high": cell["high"]}
    row["g same stimuli"] = by.loc[("g, same stimuli", "network")]["mean"]
    row["fullest layer"] = int(np.argmax(share))
    row["mean layer"] = float((share * layers).sum() / share.sum())
    row["layers"] = len(share)
    magnitude = one.mean_abs[tower]
    row["times the mean |activation|"] = float(magnitude[units.mask[tower]].mean() / magnitude.mean())
    return row


def _shares(units: Units, tower: str) -> np.ndarray:
    """Share of the units of each layer."""
    return units.mask[tower].mean(1)


def _layer_rows(shares: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[dict[str, Any]]:
    for tower, networks in shares.items():
        for name, share in networks.items():
            for layer, value in enumerate(share):
                yield {"tower": tower, "network": name, "layer": layer, "share of units": value}


def overlap(place: Place) -> None:
    """Do networks share units, beyond what contrasts that have nothing to do with one another would?"""
    rows = []
    for tower in place.asked.model.towers:
        found = place.networks(tower)
        chosen = {name: one.top(fraction=place.selected) for name, one in found.items()}
        contrasts = {name: place.asked.probes[name].make() for name in found}
        drawn = {
            name: permuted_networks(
                place.asked.model,
                chosen[name],
                one,
                contrasts[name],
                n_permutations=PERMUTATIONS,
                seed=place.asked.settings.seed + number,
                options={"batch_size": "auto", "cache": True, "progress": place.progress},
            )
            for number, (name, one) in enumerate(found.items())
        }
        shown = {name: {one.inspect().digest for one in contrast.stimuli} for name, contrast in contrasts.items()}
        for one, other in itertools.combinations(chosen, 2):
            # Labels are exchangeable between contrasts that share no stimulus.
            apart = not shown[one] & shown[other]
            tested = compared(chosen[one], chosen[other], drawn[one], drawn[other]) if apart else UNTESTED
            t = [found[name].t[tower] for name in (one, other)]
            both = np.isfinite(t[0]) & np.isfinite(t[1])
            rows.append(
                {"tower": tower, "network A": one, "network B": other, "Dice": chosen[one].dice(chosen[other])}
                | tested[0]
                | {"r of t": float(np.corrcoef(t[0][both], t[1][both])[0, 1])}
            )
    table = pd.DataFrame(rows)
    place.table("overlap", table)
    if len(table):
        figures.overlap(table, place.folder / "overlap.png")


# Lesions


def _lesions(  # noqa: PLR0917  # the design of a study
    place: Place,
    name: str,
    found: Mapping[str, Any],
    tasks: Mapping[str, Any],
    sizes: Sequence[float],
    operations: Sequence[str],
    match: Sequence[Literal["layer", "activation"]] = MATCH,
) -> LesionStudy:
    """One lesion study, written."""
    settings = place.asked.settings
    study = mn.lesion_study(
        place.asked.model,
        found,
        tasks,
        sizes,
        settings.controls,
        operations,
        match=match,
        seed=settings.seed,
        progress=place.progress,
    )
    study.save(place.folder / f"lesions-{name}.safetensors")
    place.table(f"lesions-{name}", study.table())
    place.table(f"verdicts-{name}", study.verdicts())
    failed = place.folder / f"failures-{name}.csv"
    failed.unlink(missing_ok=True)  # of an earlier run
    if study.failures:
        place.table(
            failed.stem,
            pd.DataFrame(
                [{"lesion": str(one), "task": task, "why": why} for (one, task), why in study.failures.items()]
            ),
        )
    return study


def doses(place: Place) -> None:
    """What lesions of the language network cost in language, at every size."""
    decoder = place.asked.model.decoder.name
    language = {LANGUAGE: place.networks(decoder)[LANGUAGE]}
    settings, tasks = place.asked.settings, place.asked.text_tasks
    tasks = {name: task for name, task in tasks.items() if name in LANGUAGE_TASKS}
    study = _lesions(place, "doses", language, tasks, settings.fractions, settings.operations, ("layer", "activation"))
    from modalnet.plotting.lesion import save_dose_curves

    save_dose_curves(study, place.folder / "doses.png")


def text_networks(place: Place) -> None:
    """The other networks of text on the same tasks, and the interactions of their effects with those of language."""
    decoder = place.asked.model.decoder.name
    found = {name: one for name, one in place.networks(decoder).items() if name in LESIONED_TEXT}
    settings, tasks = place.asked.settings, place.asked.text_tasks
    tasks = {name: task for name, task in tasks.items() if name in ASKED_BESIDE}
    study = _lesions(place, "text", found, tasks, settings.interactions, settings.decoder_operations)
    place.table("interactions-text", study.dissociation(control="activation"))
    figures.costs(study.table(), place.folder / "text.png")


def picture_networks(place: Place) -> None:
    """Do the networks of pictures in each tower carry their own kind of picture, and language theirs?"""
    settings, model = place.asked.settings, place.asked.model
    costs, verdicts, interactions, selective = [], [], [], []
    for tower in model.towers:
        wanted = LESIONED_DECODER if tower == model.decoder.name else LESIONED_VISION
        found = {name: one for name, one in place.named(tower).items() if without_tower(name) in wanted}
        tasks = _pictured_tasks(place, tower)
        operations = settings.decoder_operations if tower == model.decoder.name else settings.operations
        study = _lesions(place, f"pictures-{tower}", found, tasks, settings.seen, operations)
        costs.append(study.table().assign(tower=tower))
        verdicts.append(study.verdicts().assign(tower=tower))
        own = {name: task for name in found if (task := TASK_OF.get(without_tower(name))) in tasks}
        if len(own) > 1:
            selective.append(study.selectivity(own).assign(tower=tower))
        kinds = [name for name in found if without_tower(name) in LESIONED_VISION]
        if len(kinds) > 1 and len(place.asked.picture_tasks) > 1:
            interactions.append(_interactions(study, kinds, list(place.asked.picture_tasks)).assign(tower=tower))
    table = pd.concat(costs, ignore_index=True)
    place.table("lesions-pictures", table)
    place.table("verdicts-pictures", pd.concat(verdicts, ignore_index=True))
    if selective:
        place.table("selectivity-pictures", pd.concat(selective, ignore_index=True))
    if interactions:
        place.table("interactions-pictures", pd.concat(interactions, ignore_index=True))
    for tower, part in table.groupby("tower"):
        figures.costs(part, place.folder / f"pictures-{tower}.png")


def _pictured_tasks(place: Place, tower: str) -> dict[str, Any]:
    """Naming and questions for every tower; language, too, for the decoder."""
    asked = place.asked
    if tower == asked.model.decoder.name:
        alone = {name: task for name, task in asked.text_tasks.items() if name in ("perplexity", "grammar")}
        return dict(asked.picture_tasks) | alone
    return dict(asked.picture_tasks)


def _interactions(study: LesionStudy, networks: list[str], tasks: list[str]) -> pd.DataFrame:
    """Interactions of the networks of categories with the tasks that have a chance level, both networks at one size."""
    chance = {name: study.base[name].chance for name in tasks if name in study.base}
    tasks = [name for name, value in chance.items() if value is not None and np.isfinite(value)]
    part = _part_of(study, networks, tasks)
    sizes = sorted({size for name in networks for size in part.fractions(name)})
    return pd.concat([part.dissociation(fraction=size, control="activation") for size in sizes], ignore_index=True)


def _part_of(study: LesionStudy, networks: list[str], tasks: list[str]) -> LesionStudy:
    cells = {
        (one, task): scores for (one, task), scores in study.cells.items() if one.network in networks and task in tasks
    }
    return replace(study, base={name: study.base[name] for name in tasks}, cells=cells, failures={})


# Patching, brains, maps


def patching(place: Place) -> None:
    """Where does the answer become readable, and do networks carry it?"""
    settings, model = place.asked.settings, place.asked.model
    what, pairs = place.asked.pairs()
    carried = {}
    for tower in model.towers:
        reached = tower in model._executor.reached(list(pairs.clean))
        for name, one in place.named(tower).items():
            if reached and without_tower(name) in (LANGUAGE, "faces", "places", "houses"):
                carried[name] = one.top(fraction=settings.selected)
    result = mn.activation_patching(
        model,
        pairs.clean,
        pairs.corrupt,
        pairs.logit_difference(),
        align="role",
        units=carried,
        n_controls=settings.draws,
        seed=settings.seed,
        progress=place.progress,
    )
    place.table("patching", result.table())
    place.table("patching-networks", result.network_table())
    place.text("patching", f"{what}\n{result.summary()}")
    from modalnet.plotting.patching import heatmap
    from modalnet.plotting.saving import write_figure

    write_figure(np.ravel(heatmap(result))[0].figure, place.folder / "patching.png")


def brains(place: Place) -> None:
    """Does the language network predict the human one?"""
    settings = place.asked.settings
    decoder = place.asked.model.decoder.name
    rows = []
    for name, read in place.asked.brains().items():
        result = mn.brain.align(
            place.asked.model,
            place.networks(decoder)[LANGUAGE],
            read(),
            fraction=settings.selected,
            n_controls=settings.draws,
            n_permutations=settings.permutations,
            seed=settings.seed,
            progress=place.progress,
        )
        rows.append(result.table().assign(data=name))
        place.text(f"brain-{slug(name)}", result.summary())
    table = pd.concat(rows, ignore_index=True)
    place.table("brain", table)
    figures.brains(table, place.folder / "brain.png")


def profile(place: Place) -> None:
    """Does the language network respond to sentences, word lists, Jabberwocky and nonwords as the human one does?"""
    decoder = place.asked.model.decoder.name
    result = mn.profile.language(
        place.asked.model, place.networks(decoder)[LANGUAGE], fraction=place.selected, progress=place.progress
    )
    place.table("profile", result.table())
    place.text("profile", f"{result.summary()}\n{result.compare_to_human()}")


def maps(place: Place) -> None:
    """The model as a map: a sheet, in depth, and a page to look around in."""
    from modalnet.plotting import glass, sheet
    from modalnet.plotting.saving import save_figure

    wanted = (LANGUAGE, "faces", "places", "houses", "characters", "words", "multiple demand", INTACT_NETWORK)
    shown = {name: place.found[name] for name in wanted if name in place.found}
    shown = dict(itertools.islice(shown.items(), 6))
    several = len(shown) > 1
    one = next(iter(shown.values()))
    save_figure(
        sheet, place.folder / "sheet.png", shown if several else one, **({"top": place.selected} if several else {})
    )
    save_figure(glass, place.folder / "glass.png", shown if several else one, top=place.selected)
    study = None
    for name in ("pictures-decoder", "text", "doses"):
        path = place.folder / f"lesions-{name}.safetensors"
        if path.exists():
            study = mn.LesionStudy.load(path)
            break
    mn.atlas(shown, study=study, top=place.selected).save(place.folder / "atlas.html")


def same_text(place: Place, other: Path) -> None:
    """Is the decoder, on text alone, another model that was studied already? Then its lesions of text are that one's.

    Compared are the t of the language network, every item's score without a lesion, and with the largest lesions.
    """
    theirs = mn.LesionStudy.load(other / "lesions-doses.safetensors")
    localized = mn.Localization.load(other / "networks" / f"{slug(LANGUAGE)}.safetensors")
    decoder = place.asked.model.decoder.name
    ours = place.networks(decoder)[LANGUAGE]
    settings = place.asked.settings
    tasks = {name: task for name, task in place.asked.text_tasks.items() if name in ("BLiMP", "perplexity", "grammar")}
    study = mn.lesion_study(
        place.asked.model,
        {LANGUAGE: ours},
        tasks,
        (max(settings.fractions),),
        0,
        ("zero",),
        least=False,
        seed=settings.seed,
        progress=place.progress,
    )
    rows = [{"what": "t of the language network", "largest difference": _apart(ours.t[decoder], localized.t[decoder])}]
    for name, scores in study.base.items():
        rows.append(
            {"what": f"{name}, no lesion", "largest difference": _apart(scores.scores, theirs.base[name].scores)}
        )
    for (one, name), scores in study.cells.items():
        rows.append({"what": f"{name}, {one}", "largest difference": _apart(scores, theirs.cells[one, name])})
    table = pd.DataFrame(rows)
    place.table("same-text", table)
    if table["largest difference"].max() > 1e-3:
        raise InputError(f"On text alone this is not the model of {other}:\n{table.to_string(index=False)}")


def _apart(one: Any, other: Any) -> float:
    return float(np.nanmax(np.abs(np.asarray(one) - np.asarray(other))))


def slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
