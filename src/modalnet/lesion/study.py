"""Lesion studies: every network at every size, beside its controls, on every task.

The cells of a study (one lesion, one task) are independent. They run in groups that share the encoding of a task, and
each group is stored when it is done: a study that is interrupted, or one of whose tasks fails, resumes from there when
it is called again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_bool, check_int, check_option, check_options, check_shared
from modalnet._warnings import warn
from modalnet.activations import check_units
from modalnet.errors import InputError
from modalnet.interventions.operations import Intervention, mean, zero
from modalnet.lesion.lesion import Lesion
from modalnet.lesion.result import LesionStudy
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.models.towers import modality_of
from modalnet.results.cache import Access, CacheLike, cached_parts
from modalnet.stats.controls import Match, check_matches, draw_each
from modalnet.stimuli.conversion import as_stimuli
from modalnet.tasks.base import LikelihoodTask, Task, TaskScores
from modalnet.units import NetworksLike, Units, as_networks

if TYPE_CHECKING:
    from jaxtyping import Float

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

FRACTIONS = (0.00125, 0.0025, 0.005, 0.01)
OPERATIONS = ("zero", "mean")
MATCHES: tuple[Match, ...] = ("layer", "activation")
# Lesions that share one encoding of a task: the most that an interrupted study loses.
TOGETHER = 8
# Stimuli of the tasks over which means are taken by default.
REFERENCE = 100


@dataclass(frozen=True)
class _PlannedLesion:
    lesion: Lesion
    units: Units


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
    match: Match | Sequence[Match] = MATCHES,
    least: bool = True,
    by: Literal["t", "effect_size"] = "t",
    exclude_massive: float | None = None,
    reference: Any = None,
    spare_first: int = 0,
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
        Number of random sets of units of each kind per lesion. The smallest p of a comparison with them is
        1 / (n_controls + 1).
    operations
        ``"zero"``, ``"mean"`` or both. Zeroing takes a unit with a large mean far outside its usual range, regardless
        of what it codes; mean ablation does not.
    match
        Kinds of random controls: ``"layer"`` (as many units in each layer), ``"activation"`` (the same, and matched
        in mean absolute activation, since zeroing units with large activations is costly regardless of what they
        code), or both. Fixed units without ``mean_abs`` have no activation-matched controls; a warning says so.
    least
        Also lesion the least selective units (smallest \\|t\\|) of networks that are localizations.
    by, exclude_massive
        How units are selected from a localization: by ``"t"`` or ``"effect_size"``, and excluding units whose mean
        absolute activation is this multiple of the median of their layer (see :meth:`modalnet.Localization.massive`).
    reference
        For ``"mean"``: the stimuli over which mean activations are taken; in each tower, those that reach it. None: up
        to 100 stimuli of the tasks, with their first continuations.
    spare_first
        Number of tokens at the start of every text that no lesion acts on, such as an attention sink.
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
    check_int("spare_first", spare_first, minimum=0)
    check_bool("least", least)
    check_option("by", by, ("t", "effect_size"))
    kinds = check_matches(match, known=MATCHES)
    operations = check_options("operations", operations, OPERATIONS)
    _check_choices(fractions=fractions)
    networks = as_networks(units)
    named = _named_tasks(tasks)
    model = as_model(model, remote)
    for name, network in networks.items():
        if isinstance(network, Units):
            model._executor.check_units(network, f"The units of network {name!r}")
    draw = _Draw(n_controls, kinds, least, seed, by, exclude_massive)
    lesions = [
        _PlannedLesion(Lesion(str(name), fraction, operation, control, number), some)  # type: ignore[arg-type]
        for name, network in networks.items()
        for fraction, sets in draw.sizes(str(name), network, fractions)
        for operation in operations
        for control, number, some in sets
    ]
    for one in lesions:
        check_units(model, one.units, f"The units of network {one.lesion.network!r}")
    means = _means(model, lesions, named, reference, spare_first) if "mean" in operations else {}
    study = _Study(model, named, lesions, means, spare_first, batch_size, access)
    study.run(progress=progress)
    settings = {
        "fractions": list(fractions),
        "n_controls": n_controls,
        "operations": list(operations),
        "match": list(kinds),
        "by": by,
        "exclude_massive": exclude_massive,
        "reference": "given" if reference is not None else "the tasks' own stimuli",
    }
    return LesionStudy(
        model=model.name,
        base=study.base,
        cells=study.cells,
        counts={one.lesion: one.units.count for one in lesions},
        magnitudes={one.lesion: _magnitude(one.units) for one in lesions},
        failures=study.failures,
        spare_first=spare_first,
        seed=seed,
        settings=settings,
    )


# Which lesions


@dataclass(frozen=True)
class _Draw:
    """How the controls of a network are chosen."""

    n_controls: int
    match: tuple[str, ...]
    least: bool
    seed: int
    by: Literal["t", "effect_size"]
    exclude_massive: float | None

    def sizes(
        self, name: str, network: Any, fractions: Sequence[float]
    ) -> Iterator[tuple[float, list[tuple[str, int, Units]]]]:
        """Share of units → (kind of control, draw, units), the network itself first."""
        if isinstance(network, Units):
            total = sum(mask.size for mask in network.mask.values())
            yield network.count / total, self._sets(name, network, None)
            return
        opposite = getattr(network, "least_selective", None) or getattr(network, "bottom", None)
        choice: dict[str, Any] = {} if self.by == "t" else {"by": self.by}
        if self.exclude_massive is not None:
            choice["exclude"] = network.massive(self.exclude_massive)
        for fraction in fractions:
            units = network.top(fraction=fraction, **choice)
            yield float(fraction), self._sets(name, units, opposite(fraction=fraction) if opposite else None)

    def _sets(self, name: str, units: Units, other: Units | None) -> list[tuple[str, int, Units]]:
        if not units.count:
            raise InputError(f"Network {name!r} must have at least one unit, got an empty set.")
        sets: list[tuple[str, int, Units]] = [("", 0, units)]
        controls = draw_each(units, self.n_controls, seed=self.seed, match=self.match, name=name)
        sets += [(match, number, one) for match, drawn in controls.items() for number, one in enumerate(drawn)]
        if self.least and other is not None:
            sets.append(("least", 0, other))
        return sets


def _magnitude(units: Units) -> float:
    """Mean |activation| of these units over the mean of all units of the towers that they are in."""
    if units.mean_abs is None:
        return float("nan")
    towers = [tower for tower, mask in units.mask.items() if mask.any()]
    chosen = np.concatenate([units.mean_abs[tower][units.mask[tower]] for tower in towers])
    every = np.concatenate([units.mean_abs[tower].ravel() for tower in towers])
    return float(np.nanmean(chosen) / np.nanmean(every))


# What a mean is over


def _means(
    model: Model, lesions: Sequence[_PlannedLesion], tasks: Mapping[str, Task], reference: Any, spare_first: int
) -> dict[str, Float[np.ndarray, "layer dim"]]:
    given = as_stimuli(reference) if reference is not None else _own_stimuli(tasks)
    means: dict[str, Any] = {}
    for tower in {name for one in lesions for name, mask in one.units.mask.items() if mask.any()}:
        fitting = [stimulus for stimulus in given if model._executor.reached_spaces([stimulus], tower)]
        if not fitting:
            raise InputError(
                f"Mean ablation in {tower} requires stimuli with {model.spaces[tower].tower.noun}, but none of the "
                f'{len(given)} has any. Give some as `reference`, or omit "mean" from `operations`.'
            )
        means |= model.means(fitting, spaces=tower, spare_first=0 if modality_of(tower) == "image" else spare_first)
    return means


def _own_stimuli(tasks: Mapping[str, Task]) -> list[Stimulus]:
    """Stimuli that the tasks ask about, evenly from all of them."""
    from modalnet.stimuli import Stimulus

    found: list[Stimulus] = []
    for task in tasks.values():
        if isinstance(task, LikelihoodTask):
            requests = task.requests()
            share = np.linspace(0, len(requests) - 1, min(len(requests), max(1, REFERENCE // len(tasks)))).round()
            for index in sorted({int(place) for place in share}):
                one = requests[index]
                text = ((one.stimulus.text if one.stimulus else None) or "") + one.continuation
                found.append(Stimulus(text, image=one.stimulus.image if one.stimulus else None))
        else:
            found += task.stimuli()[: max(1, REFERENCE // len(tasks))]  # type: ignore[attr-defined]
    return found


# Running


@dataclass
class _Study:
    """The cells of a study as they are found.

    Attributes
    ----------
    means
        Per tower, what mean ablation sets units to.
    access
        The store in which cells are kept.
    """

    model: Model
    tasks: Mapping[str, Task]
    lesions: Sequence[_PlannedLesion]
    means: Mapping[str, Float[np.ndarray, "layer dim"]]
    spare_first: int
    batch_size: int | Literal["auto"]
    access: Access
    base: dict[str, TaskScores] = field(default_factory=dict)
    cells: dict[tuple[Lesion, str], Float[np.ndarray, " item"]] = field(default_factory=dict)
    failures: dict[tuple[Lesion, str], str] = field(default_factory=dict)

    def run(self, *, progress: bool) -> None:
        """Run every cell that is not in the store."""
        from tqdm.auto import tqdm

        with tqdm(total=(len(self.lesions) + 1) * len(self.tasks), unit="cell", disable=not progress) as bar:
            for name, task in self.tasks.items():
                bar.set_description(name)
                try:
                    self._task(name, task, bar)
                except Exception as error:  # a task may raise anything, and the others must not be lost with it
                    done = sum(task == name for _, task in self.cells)
                    for one in self.lesions:
                        if (one.lesion, name) not in self.cells:
                            self.failures[one.lesion, name] = f"{type(error).__name__}: {error}"
                    bar.update(len(self.lesions) - done + (name not in self.base))
                    warn(f"Task {name!r} failed and is skipped: {error}")
        if not self.base:
            raise InputError(f"No task could be run. {next(iter(self.failures.values()), '')}")

    def _task(self, name: str, task: Task, bar: Any) -> None:
        spaces = list(dict.fromkeys(name for one in self.lesions for name in one.units.mask))
        reached = self.model._executor.reached_spaces(self._stimuli(task), spaces)
        wanted: list[tuple[Lesion | None, list[Intervention]]] = [(None, [])]
        wanted += [(one.lesion, self._interventions(one, reached)) for one in self.lesions]

        def compute(missing: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
            for start in range(0, len(missing), TOGETHER):
                group = missing[start : start + TOGETHER]
                for number, scores in zip(group, self._scores(task, [wanted[i][1] for i in group]), strict=True):
                    yield number, {"scores": np.asarray(scores, dtype=np.float64)}

        cells = cached_parts(
            self.model,
            "lesion",
            {"task": task.identity()},
            [{"interventions": [one.digest for one in edits]} for _, edits in wanted],
            compute,
            cache=self.access,
        )
        for number, arrays in cells:
            self._keep(name, task, wanted[number][0], arrays["scores"])
            bar.update()

    def _scores(self, task: Task, variants: Sequence[list[Intervention]]) -> Iterator[Float[np.ndarray, " item"]]:
        if isinstance(task, LikelihoodTask):
            for found in self.model._executor.likelihoods_under(task.requests(), variants, batch_size=self.batch_size):
                yield task.scores(task.grade(found)).scores
        else:
            for edits in variants:
                yield task.run(self.model, *edits, batch_size=self.batch_size).scores

    def _stimuli(self, task: Task) -> list[Stimulus]:
        from modalnet.stimuli import Stimulus

        if isinstance(task, LikelihoodTask):
            return [one.stimulus or Stimulus.blank() for one in task.requests()]
        return list(task.stimuli())  # type: ignore[attr-defined]

    def _interventions(self, planned: _PlannedLesion, reached: Sequence[str]) -> list[Intervention]:
        """A lesion as it applies to a task: without towers that its stimuli do not reach."""
        made = []
        for tower, mask in planned.units.mask.items():
            if not mask.any() or tower not in reached:
                continue
            only = Units(
                {name: m if name == tower else np.zeros_like(m) for name, m in planned.units.mask.items()},
                model=planned.units.model,
            )
            operation = zero(only) if planned.lesion.operation == "zero" else mean(only, over=self.means)
            made.append(operation.at("all", spare_first=0 if modality_of(tower) == "image" else self.spare_first))
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


def _check_choices(*, fractions: Any) -> None:
    if not len(fractions):
        raise InputError("`fractions` must not be empty; give sizes such as (0.0025, 0.01).")
