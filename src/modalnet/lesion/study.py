"""Lesion studies: every network at every size, beside its controls, on every task.

First the intact model runs some stimuli of each task, for what its units do there: what lesions put in, and what
controls are matched in. Then come the cells (one lesion, one task), which are independent. They run in groups that
share the encoding of a task, and each group is stored when it is done: a study that is interrupted, or one of whose
tasks fails, resumes from there when it is called again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_bool, check_int, check_number, check_option, check_options, check_shared
from modalnet._warnings import warn
from modalnet.activations import check_units
from modalnet.errors import InputError
from modalnet.interventions.operations import Intervention
from modalnet.lesion.controls import Controls, Sets, Sized, check_kinds, quantities, sizes_of
from modalnet.lesion.design import Activity
from modalnet.lesion.lesion import Control, Lesion
from modalnet.lesion.reference import REFERENCE, Reference, check_given, pooled, stimuli_of
from modalnet.lesion.result import LesionStudy
from modalnet.lesion.scores import scores_under
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.results.cache import Access, CacheLike
from modalnet.stats.controls import draw
from modalnet.stimuli.conversion import as_stimuli
from modalnet.tasks.base import Task, TaskScores
from modalnet.units import NetworksLike, Units, as_networks

if TYPE_CHECKING:
    from jaxtyping import Float

    from modalnet.model import Model

FRACTIONS = (0.00125, 0.0025, 0.005, 0.01)
OPERATIONS = ("zero", "mean")
KNOWN_OPERATIONS = ("zero", "mean", "resample", "scale")
SCALES = (0.25, 0.5, 0.75)
MATCHES: tuple[Control, ...] = ("layer", "activation")


@renamed_arguments(networks="units", controls="n_controls", matches="match")
@reads_weights_once
def lesion_study(  # noqa: PLR0917  # the order of a study's design: networks, tasks, sizes, controls, operations
    model: Model,
    units: NetworksLike,
    tasks: Task | Sequence[Task] | Mapping[str, Task],
    fractions: Sequence[float] = FRACTIONS,
    n_controls: int = 20,
    operations: Sequence[str] = OPERATIONS,
    *,
    match: Control | Sequence[Control] = MATCHES,
    match_on: Mapping[str, Any] | None = None,
    least: bool = True,
    leave_out: int = 1,
    scales: float | Sequence[float] = SCALES,
    by: Literal["t", "effect_size", "mean_effect"] = "t",
    exclude_massive: float | None = None,
    reference: Any = None,
    spare_first: int = 0,
    spare_sinks: bool = True,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> LesionStudy:
    """Lesion networks at several sizes, beside matched controls, and score tasks under each lesion.

    Parameters
    ----------
    model
        The model.
    units
        The networks: a mapping of names to localizations, whose ``.top(fraction=...)`` is lesioned at every size, or
        to fixed ``Units``, which have one size; or a single one of these. Any object with ``.top(fraction=...)`` works.
    tasks
        One or several tasks; see :mod:`modalnet.tasks`. Their names must differ.
    fractions
        Sizes, as fractions of the units over which a network was localized.
    n_controls
        Number of random sets of units of each kind per lesion. With fewer than 19 no verdict can be given.
    operations
        One or several of ``"zero"``, ``"mean"`` (the unit's mean over the task's tokens), ``"resample"`` (the units'
        activations at a random token of another stimulus of the task, jointly) and ``"scale"`` (graded lesions:
        activations multiplied by each of ``scales``; the drop per unit of dose is the operation ``"slope"`` of
        tables and verdicts). Zeroing takes a unit with a large mean far outside its usual range, regardless of what it
        codes; mean ablation and resampling do not.
    match
        Kinds of random controls. ``"layer"``: as many units in each layer. The others are alike in layers, too, and in
        ``"activation"``: mean absolute activation at the tasks' tokens, since zeroing units with large activations is
        costly regardless of what they code; ``"variance"``: standard deviation there; ``"readout"``: length of the LM
        head's weights. ``"dimension"``: as many distinct dimensions, each in the same layers. ``"tower"``: as many
        units anywhere in the tower, the control of the published localizer.
    match_on
        Further kinds by name: a quantity of every unit that controls are matched in, as arrays [layer, unit] by space,
        or a localization, which stands for its \\|t\\| (units that another contrast drives as strongly).
    least
        Also lesion the least selective units (smallest \\|t\\|) of networks that are localizations.
    leave_out
        Of each network, the number of dimensions (those with the largest activations) that are left out one at a time:
        see :meth:`modalnet.LesionStudy.dimensions`.
    scales
        The factors of ``"scale"``, from 0 to below 1, or one.
    by, exclude_massive
        How units are selected from a localization: by ``"t"`` or ``"effect_size"``, and excluding units whose mean
        absolute activation is this multiple of the median of their layer (see :meth:`modalnet.Localization.massive`).
    reference
        For ``"mean"`` and ``"resample"``: stimuli over which means are taken, and from which values are drawn; in each
        tower, those that reach it. None: up to 100 stimuli of each task for that task, with their continuations.
    spare_first
        Number of tokens at the start of every text that no lesion acts on.
    spare_sinks
        Spare sink tokens, which are found by measurement (see :func:`modalnet.sink_tokens`): their activations are
        those of no ordinary token, and a lesion of them breaks a model regardless of the network.
    seed
        Seed of the random controls and of all resampling.
    batch_size
        Continuations per forward pass.
    remote
        Where to run, as for :func:`modalnet.load`; None: where the model is. On a server a group of lesions is sent
        with the stimuli that they share, in one job if it is not too large.
    cache
        Store each cell and read stored ones, as for :func:`modalnet.localize`.
    progress
        Show a progress bar.

    Returns
    -------
    LesionStudy
        ``.table()``, ``.dissociation()``, ``.verdicts()``, ``.plot()``.

    Raises
    ------
    InputError
        For invalid networks, tasks or options, before any forward pass. An error in a task is recorded in
        ``failures`` with a warning, and the other tasks continue.

    Notes
    -----
    Units in a tower that a task's stimuli do not reach have no effect and are left out; if none remains, the scores are
    those of the intact model.

    What units do at the tokens of a task is measured once per task, in the intact model. Controls are the same sets of
    units on all tasks; those that are matched in activation or variance are matched in its geometric mean over tasks,
    so that they change when a task is added.

    References
    ----------
    AlKhamissi, Tuckute, Bosselut & Schrimpf (2025), The LLM language network, arXiv:2411.02280, section 4, for
    lesions of the top units against as many random ones. Matched controls and mean ablation are additions.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> language = mn.localize(model, mn.stimuli.language(20), progress=False)
    >>> task = mn.tasks.perplexity(["The dog sleeps.", "A child drinks tea."])
    >>> study = mn.lesion_study(model, {"language": language}, task, [0.01], 2, operations=["zero"], progress=False)
    >>> study.networks
    ('language',)
    """
    check_shared(n_controls=n_controls, seed=seed, batch_size=batch_size, progress=progress)
    access = Access.of(cache)
    check_bool("least", least)
    check_int("leave_out", leave_out, minimum=0)
    check_bool("spare_sinks", spare_sinks)
    kinds = check_kinds(match, match_on)
    operations = check_lesions(operations, scales, by=by, exclude_massive=exclude_massive, spare_first=spare_first)
    _check_choices(fractions=fractions)
    networks = as_networks(units)
    named = _named_tasks(tasks)
    model = as_model(model, remote)
    for name, network in networks.items():
        if isinstance(network, Units):
            model._executor.check_units(network, f"The units of network {name!r}")
    sized = {str(name): sizes_of(network, fractions, by, exclude_massive) for name, network in networks.items()}
    _check_sized(model, sized, kinds if n_controls else ())
    values = quantities(model, kinds, match_on)
    given = None if reference is None else as_stimuli(reference)
    spaces = _spaces(sized)
    if given is not None and not {"mean", "resample"}.isdisjoint(operations):
        check_given(model, given, spaces)
    study = _Study(model, named, batch_size, access)
    options = {"given": given, "spare_first": spare_first, "spare_sinks": spare_sinks, "seed": seed, "cache": cache}
    for name, task in named.items():
        study.refer(name, task, spaces, **options)
    for kind, quantity in (("activation", "mean_abs"), ("variance", "sd")):
        if kind in kinds:
            values[kind] = pooled(list(study.references.values()), quantity)
    controls = Controls(n_controls, kinds, seed, least, leave_out, values)
    sets = {name: [controls.sets(name, one) for one in some] for name, some in sized.items()}
    study.plan(sets, operations)
    study.run(progress=progress)
    settings = {
        "fractions": list(fractions),
        "n_controls": n_controls,
        "operations": list(operations),
        "match": list(kinds),
        "least": least,
        "leave_out": leave_out,
        "spare_sinks": spare_sinks,
        "by": by,
        "exclude_massive": exclude_massive,
        "reference": "given" if reference is not None else "each task's own stimuli",
    }
    return LesionStudy(
        model=model.name,
        base=study.base,
        cells=study.cells,
        counts={lesion: units.count for lesion, units in study.lesions.items()},
        magnitudes={lesion: _magnitude(units) for lesion, units in study.lesions.items()},
        failures=study.failures,
        spare_first=spare_first,
        seed=seed,
        settings=settings,
        design={(name, each.fraction): each.design for name, some in sets.items() for each in some},
        activity=study.activity,
    )


def _magnitude(units: Units) -> float:
    """Mean |activation| of these units over the mean of all units of the towers that they are in."""
    if units.mean_abs is None:
        return float("nan")
    towers = [tower for tower, mask in units.mask.items() if mask.any()]
    own = np.concatenate([units.mean_abs[tower][units.mask[tower]] for tower in towers])
    every = np.concatenate([units.mean_abs[tower].ravel() for tower in towers])
    return float(np.nanmean(own) / np.nanmean(every))


def _spaces(sized: Mapping[str, Sequence[Sized]]) -> list[str]:
    """The spaces in which any network has a unit."""
    sets = [one.units for some in sized.values() for one in some]
    return list(dict.fromkeys(space for units in sets for space, mask in units.mask.items() if mask.any()))


# Running


@dataclass
class _Study:
    """The cells of a study as they are found.

    Attributes
    ----------
    access
        The store in which cells are kept.
    lesions
        The units of each lesion.
    references
        By task, what units do at its tokens in the intact model.
    broken
        By task, the error with which it could not be referred to.
    """

    model: Model
    tasks: Mapping[str, Task]
    batch_size: int | Literal["auto"]
    access: Access
    lesions: dict[Lesion, Units] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    broken: dict[str, Exception] = field(default_factory=dict)
    base: dict[str, TaskScores] = field(default_factory=dict)
    cells: dict[tuple[Lesion, str], Float[np.ndarray, " item"]] = field(default_factory=dict)
    failures: dict[tuple[Lesion, str], str] = field(default_factory=dict)
    activity: dict[tuple[Lesion, str], Activity] = field(default_factory=dict)

    def refer(self, name: str, task: Task, spaces: Sequence[str], **options: Any) -> None:
        """Measure what units do at the tokens of a task; an error is kept, and the task fails with it later."""
        try:
            stimuli, continuations = stimuli_of(task, most=REFERENCE)
            reference = Reference(self.model, stimuli, continuations, batch_size=self.batch_size, **options)
            reference.measure(reference.reached(spaces))
        except Exception as error:  # a task may raise anything, and the others must not be lost with it
            self.broken[name] = error
        else:
            self.references[name] = reference

    def plan(self, sets: Mapping[str, Sequence[Sets]], operations: Sequence[str]) -> None:
        """Choose the lesions: every set of units under every operation."""
        self.lesions = {
            Lesion(name, each.fraction, operation, control, number): units
            for name, some in sets.items()
            for each in some
            for operation in operations
            for control, number, units in each.members
        }

    def run(self, *, progress: bool) -> None:
        """Run every cell that is not in the store."""
        from tqdm.auto import tqdm

        with tqdm(total=(len(self.lesions) + 1) * len(self.tasks), unit="cell", disable=not progress) as bar:
            for name, task in self.tasks.items():
                bar.set_description(name)
                try:
                    if name in self.broken:
                        raise self.broken[name]
                    self._task(name, task, bar)
                except Exception as error:  # see above
                    done = sum(task == name for _, task in self.cells)
                    for lesion in self.lesions:
                        if (lesion, name) not in self.cells:
                            self.failures[lesion, name] = f"{type(error).__name__}: {error}"
                    bar.update(len(self.lesions) - done + (name not in self.base))
                    warn(f"Task {name!r} failed and is skipped: {error}")
        if not self.base:
            raise InputError(f"No task could be run. {next(iter(self.failures.values()), '')}")

    def _task(self, name: str, task: Task, bar: Any) -> None:
        # Lesions that are the same run, such as those of a tower that the task does not reach, are one cell.
        cells: dict[tuple[str, ...], tuple[list[Intervention], list[Lesion | None]]] = {(): ([], [None])}
        masks = {space for units in self.lesions.values() for space in units.mask}
        reached = self.model._executor.reached_spaces(stimuli_of(task)[0], list(masks))
        for lesion, units in self.lesions.items():
            edits = self._interventions(name, lesion, units, reached)
            cells.setdefault(tuple(one.digest for one in edits), (edits, []))[1].append(lesion)
            activity = self.references[name].activity(units, lesion.operation)
            if activity is not None:
                self.activity[lesion, name] = activity

        wanted = list(cells.values())
        variants = [edits for edits, _ in wanted]
        for number, arrays in scores_under(self.model, task, variants, batch_size=self.batch_size, cache=self.access):
            for each in wanted[number][1]:
                self._keep(name, task, each, arrays["scores"])
                bar.update()

    def _interventions(self, name: str, lesion: Lesion, units: Units, reached: Sequence[str]) -> list[Intervention]:
        """A lesion as it applies to a task: without towers that not all of its stimuli reach."""
        reference = self.references[name]
        made = []
        for space, mask in units.mask.items():
            if mask.any() and space in reached:
                only = {one: m if one == space else np.zeros_like(m) for one, m in units.mask.items()}
                made.append(reference.intervention(Units(only, model=units.model), lesion.operation))
        return made

    def _keep(self, name: str, task: Task, lesion: Lesion | None, scores: Float[np.ndarray, " item"]) -> None:
        if lesion is None:
            self.base[name] = task.scores(scores)
        else:
            self.cells[lesion, name] = scores


# Bad input


def _named_tasks(tasks: Any) -> dict[str, Task]:
    given = tasks.values() if isinstance(tasks, Mapping) else [tasks] if isinstance(tasks, Task) else tasks
    listed = list(given) if isinstance(given, Sequence) or isinstance(tasks, Mapping) else []
    if not listed:
        raise InputError(f"`tasks` must be a task of modalnet.tasks, or several, got {tasks!r:.100}.")
    for task in listed:
        if not isinstance(task, Task):
            raise InputError(f"`tasks` must be tasks of modalnet.tasks, got a {type(task).__name__}.")
    names = list(tasks) if isinstance(tasks, Mapping) else [task.name for task in listed]
    if len(set(names)) < len(names):
        raise InputError(f"Two tasks have the same name: {', '.join(names)}. Give `tasks` as a mapping from names.")
    return {str(name): task for name, task in zip(names, listed, strict=True)}


def check_lesions(
    operations: Any, scales: Any = SCALES, *, by: Any = "t", exclude_massive: Any = None, spare_first: Any = 0
) -> tuple[str, ...]:
    """The operations that are run, with one for each factor of graded lesions; nothing is asked of a model.

    Raises
    ------
    InputError
        If one of these arguments of :func:`lesion_study` is not as there.
    """
    check_int("spare_first", spare_first, minimum=0)
    check_option("by", by, ("t", "effect_size", "mean_effect"))
    if exclude_massive is not None:
        check_number("exclude_massive", exclude_massive, above=1)
    operations = check_options("operations", operations, KNOWN_OPERATIONS)
    if "scale" not in operations:
        return operations
    factors = [scales] if isinstance(scales, int | float) else list(scales)
    for factor in factors:
        check_number("scales", factor)
        if not 0 <= factor < 1:
            raise InputError(f"`scales` must be factors from 0 to below 1, got {factor!r}.")
    if not factors:
        raise InputError("`scales` must not be empty; give factors such as (0.25, 0.5, 0.75).")
    graded = [f"scale {factor:g}" for factor in sorted(set(map(float, factors)))]
    return tuple(name for one in operations for name in (graded if one == "scale" else [one]))


def _check_sized(model: Model, sized: Mapping[str, Sequence[Sized]], kinds: Sequence[Control]) -> None:
    """Refuse units of another model, and networks that leave too few units for their controls."""
    for name, some in sized.items():
        for one in some:
            check_units(model, one.units, f"The units of network {name!r}")
            for kind in kinds:
                draw(one.units, 1, match=kind if kind in {"tower", "dimension"} else "layer")


def _check_choices(*, fractions: Any) -> None:
    if not len(fractions):
        raise InputError("`fractions` must not be empty; give sizes such as (0.0025, 0.01).")
