"""One call that runs a published protocol on a model twice: as published, and as a referee would ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_bool, check_fraction, check_int, check_options, check_shared
from modalnet._warnings import warn
from modalnet.errors import InputError
from modalnet.lesion.result import LesionStudy
from modalnet.lesion.scores import scores_under
from modalnet.lesion.study import KNOWN_OPERATIONS, lesion_study
from modalnet.localization.localizer import localize
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.protocols.protocol import Protocol, ProtocolLesion, ProtocolTask
from modalnet.protocols.registry import find_protocol
from modalnet.replication.claims import Evidence, judge
from modalnet.replication.edges import flow_of, judge_edges
from modalnet.replication.experts import ExpertNetwork, expert_networks
from modalnet.replication.halves import shared_by_halves
from modalnet.replication.lesions import published_lesion
from modalnet.replication.material import DataLike, Material, Materials
from modalnet.replication.networks import Network, ProtocolNetwork, describe
from modalnet.replication.published import PublishedScores
from modalnet.replication.random_units import random_units
from modalnet.replication.reported_tables import reported_rows
from modalnet.replication.result import Replication
from modalnet.results.cache import CacheLike
from modalnet.stimuli.stimulus import Stimulus
from modalnet.tasks.base import GenerationTask, LikelihoodTask, Task
from modalnet.tasks.minimal_pairs import MinimalPairs
from modalnet.tasks.multiple_choice import MultipleChoice

if TYPE_CHECKING:
    from modalnet.localization.result import Localization
    from modalnet.model import Model
    from modalnet.patching.flow_result import InformationFlow
    from modalnet.stimuli.contrast import Contrast
    from modalnet.units import Units

#: Ablations of the refereed run: as most publications do it, and two that put in ordinary values.
OPERATIONS = ("zero", "mean", "resample")
#: The most random edges of each kind per stimulus, set and window; verdicts on edges rest on stimuli, not on draws.
EDGE_DRAWS = 3

#: The last line of a prompt.
CUE = "Answer:"


@reads_weights_once
def replicate(
    model: Model,
    protocol: str | Protocol,
    *,
    data: DataLike = None,
    as_released: bool = False,
    fractions: Sequence[float] | None = None,
    n_stimuli: int | None = None,
    n_items: int | None = None,
    operations: Sequence[str] = OPERATIONS,
    n_controls: int = 20,
    controls_at_chance: bool = False,
    sheet: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Replication:
    """Run a published localizer and lesion protocol on a model, as published and under controls.

    *As published*: units are read, tested and selected, lesioned and compared with random units as the protocol says,
    on its tasks and with its scoring. *Refereed*: the same units and tasks in a lesion study with random units that are
    matched in layers, in mean absolute activation and in dimensions, the least selective units, the protocol's other
    networks, and ablations that put in ordinary values, with sink tokens spared and verdicts of known error rate.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`.
    protocol
        An id of :data:`modalnet.protocols`, or a :class:`modalnet.protocols.Protocol` of your own.
    data
        Where published stimuli and items are: a folder that holds them under the names that the protocol gives, or a
        mapping from names of its contrasts and tasks to a file or folder, a :class:`modalnet.Contrast`, a task, or
        ``"generate"``. Sets that are not named there, or all for None, are generated after the same design; the result
        says which were. In both, ``"reported_numbers"`` is the folder with tables of the authors' own numbers, which
        are shown beside (:func:`modalnet.replication.read_reported` has their columns).
    as_released
        Follow the released code where it differs from the text.
    fractions
        Sizes of the networks as published, as fractions of all units; None for the first of the protocol. The refereed
        run has the first.
    n_stimuli, n_items
        At most so many stimuli of each condition, and items of each task, evenly from all; None for all.
    operations
        Ablations of the refereed run: ``"zero"``, ``"mean"``, ``"resample"``, ``"scale"``.
    n_controls
        Draws of each kind of random units in the refereed run. With fewer than 19 no verdict can be given.
    controls_at_chance
        Also run the refereed lesions on tasks on which the intact model is at chance (the 95% interval of its score
        reaches the chance level). Their verdict is *cannot be tested* either way.
    sheet
        For protocols that smooth over a sheet: space -> positions of its units [layer, unit, 2].
    seed
        Of everything that is drawn.
    batch_size, remote, cache, progress
        As for :func:`modalnet.localize`. With ``cache``, whatever was computed is kept if a later step fails.

    Returns
    -------
    Replication
        ``.table()`` claim by claim, ``.published_table()``, ``.study`` (the refereed lesion study), ``.report(path)``.

    Raises
    ------
    InputError
        Before any lesion: for an unknown protocol, a model without the towers or spaces that it needs, a set that is
        missing in ``data`` (with where it is from, and what would be generated), or invalid arguments. A task that
        fails later is named in ``.missing`` with a warning.

    References
    ----------
    Each protocol has its own: ``modalnet.protocols[id].citation``.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> made = mn.replicate(
    ...     model, "syntax2026", n_stimuli=12, n_items=12, n_controls=2, operations=["zero"], progress=False
    ... )
    >>> [claim.kind for claim in made.claims]
    ['loss', 'shared units']
    """
    check_shared(n_controls=n_controls, seed=seed, batch_size=batch_size, progress=progress)
    check_bool("as_released", as_released)
    check_bool("controls_at_chance", controls_at_chance)
    check_options("operations", operations, KNOWN_OPERATIONS)
    for name, value in (("n_stimuli", n_stimuli), ("n_items", n_items)):
        if value is not None:
            check_int(name, value, minimum=2)
    known = find_protocol(protocol)
    known = known.as_released() if as_released else known
    materials = Materials(known, data, n_stimuli, n_items)
    model = as_model(model, remote)
    check_model(model, known)
    options: dict[str, Any] = {"batch_size": batch_size, "cache": cache, "progress": progress}
    if sheet is not None and known.selection.rule != "smoothed":
        raise InputError(
            f"`sheet` is for protocols that smooth over one, got {known.id}, which does not. Leave it out."
        )
    sizes = tuple(known.selection.fractions[:1] if fractions is None else fractions)
    for size in sizes:
        check_fraction("fractions", size)
    run = _Run(model, known, materials, sizes, sheet, seed, options)
    settings: dict[str, Any] = {"n_stimuli": n_stimuli, "n_items": n_items, "n_controls": n_controls, "seed": seed}
    settings |= {"fractions": list(run.fractions), "operations": list(operations)}
    settings["controls_at_chance"] = controls_at_chance
    return run.replicate(operations, n_controls, as_released=as_released, settings=settings)


def check_model(model: Model, protocol: Protocol) -> None:
    """Refuse a model that lacks what a protocol needs, naming both.

    Raises
    ------
    InputError
        For a text model with a protocol of pictures, a model without the kind of units, attention or experts.
    """
    localizer = protocol.localizer
    towers = ", ".join(model.towers)
    pictures = localizer is not None and localizer.modality == "image"
    pictures |= any("image" in (each.source, each.target) for each in protocol.edges)
    if pictures and not any(tower.modality == "image" for tower in model.towers.values()):
        raise InputError(
            f"{protocol.id} needs a model that reads pictures ({protocol.title}), and {model.name} has the towers "
            f"{towers} alone. Load a vision-language model."
        )
    kinds = [localizer.units] if localizer is not None else []
    kinds += ["experts"] if protocol.lesion.operation == "experts" else []
    for kind in kinds:
        having = sorted({space.kind for space in model.spaces.values()})
        if kind not in having:
            raise InputError(
                f"{protocol.id} needs units of the kind {kind!r} ({protocol.title}), which {model.name} does not have; "
                f"it has {', '.join(having)}. Choose another model."
            )


@dataclass
class _Run:
    """A replication while it runs."""

    model: Model
    protocol: Protocol
    materials: Materials
    fractions: tuple[float, ...]
    sheet: Mapping[str, Any] | None
    seed: int
    options: dict[str, Any]
    used: list[Material] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    localizations: dict[str, Localization] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)

    def replicate(
        self, operations: Sequence[str], n_controls: int, *, as_released: bool, settings: dict[str, Any]
    ) -> Replication:
        """Run everything."""
        self.find_networks()
        tasks = self.tasks()
        flows = self.flows(tasks, n_controls)
        published = list(self.as_published(tasks))
        guessed = {} if settings["controls_at_chance"] else self.guessed(tasks)
        study = self.refereed({name: one for name, one in tasks.items() if name not in guessed}, operations, n_controls)
        evidence = Evidence(published, study, self.halves(), dict(self.missing), guessed)
        self.missing |= {
            f"{name} under controls": f"the intact model is at chance on it ({score}), so that nothing could be judged"
            for name, score in guessed.items()
        }
        claims = [*judge(self.protocol, evidence), *judge_edges(self.protocol, flows, self.missing)]
        order = [claim.text for claim in self.protocol.claims]
        return Replication(
            id=self.protocol.id,
            about=about(self.protocol),
            model=self.model.name,
            as_released=as_released,
            materials=tuple(self.used),
            networks={name: describe(each, self.size) for name, each in self.networks.items()},
            published=tuple(published),
            claims=tuple(sorted(claims, key=lambda claim: order.index(claim.claim))),
            study=study,
            flow=flows,
            missing=self.missing,
            settings=settings,
            reported=self.reported(),
        )

    @property
    def size(self) -> float | None:
        """The size of the refereed run; None where the rule sets it."""
        return self.fractions[0] if self.fractions else None

    def reported(self) -> tuple[dict[str, Any], ...]:
        """The authors' own numbers, on their models, where the data folder has them."""
        folder = self.materials.reported()
        return () if folder is None else tuple(reported_rows(folder, self.protocol.reported))

    def find_networks(self) -> None:
        """Localize every contrast, and make the networks; or find the experts of a mixture."""
        if self.protocol.lesion.operation == "experts":
            experts, why = expert_networks(self.model, self.protocol)
            self.networks |= experts
            self.missing |= why
        localizer = self.protocol.localizer
        if localizer is None:
            return
        for spec in self.protocol.contrasts:
            contrast, material = self.materials.contrast(spec)
            self.used.append(material)
            self.contrasts[spec.name] = contrast
            as_here = self.protocol.for_contrast(spec.name)
            self.localizations[spec.name] = localize(self.model, contrast, protocol=as_here, **self.options)
        if self.protocol.selection.network:
            whole = ProtocolNetwork(self.localizations, self.protocol.selection, self.sheet)
            self.networks = {self.protocol.selection.network: whole}
            return
        for name, each in self.localizations.items():
            selection = self.protocol.for_contrast(name).selection
            self.networks[name] = ProtocolNetwork({name: each}, selection, self.sheet)

    def tasks(self) -> dict[str, tuple[ProtocolTask, Task]]:
        """The tasks that the model can be asked; why not, where it cannot."""
        made: dict[str, tuple[ProtocolTask, Task]] = {}
        for spec in self.protocol.tasks:
            task, material = self.materials.task(spec)
            self.used.append(material)
            pictured = any(stimulus.n_images for stimulus in _stimuli(task))
            if pictured and not any(tower.modality == "image" for tower in self.model.towers.values()):
                self.missing[spec.name] = f"it shows pictures, which {self.model.name} does not read"
            else:
                made[spec.name] = (spec, task)
        return made

    def flows(self, tasks: Mapping[str, tuple[ProtocolTask, Task]], n_controls: int) -> dict[str, InformationFlow]:
        """By task, what the answers lose without the protocol's attention edges."""
        found: dict[str, InformationFlow] = {}
        for name, (_, task) in tasks.items() if self.protocol.edges else ():
            try:
                if not isinstance(task, MultipleChoice):
                    raise InputError(f"attention edges are removed in tasks of choices, and {name!r} is none")
                draws = min(n_controls, EDGE_DRAWS)
                found[name] = flow_of(
                    self.model, self.protocol, task, n_controls=draws, seed=self.seed, options=self.options
                )
            except InputError as error:
                self.missing[name] = str(error)
                warn(f"Task {name!r} of {self.protocol.id} is skipped: {error}")
        return found

    # -- as published ------------------------------------------------------------------------------------------------

    def as_published(self, tasks: Mapping[str, tuple[ProtocolTask, Task]]) -> Iterator[PublishedScores]:
        """The scores of every network, size and task as published."""
        lesioned = self.networks and self.protocol.lesion.operation != "none"
        for spec, task in tasks.values() if lesioned else ():
            try:
                for lesion in (self.protocol.lesion, *self.protocol.other_lesions):
                    yield from self._task_as_published(spec, task, lesion)
            except InputError as error:  # the other tasks must not be lost with it
                self.missing[spec.name] = str(error)
                warn(f"Task {spec.name!r} of {self.protocol.id} failed as published and is skipped: {error}")

    def _task_as_published(self, spec: ProtocolTask, task: Task, lesion: ProtocolLesion) -> Iterator[PublishedScores]:
        asked = as_asked(spec, task)
        sets: list[tuple[str, float, Units, list[Units]]] = []
        for name, network in self.networks.items():
            for fraction in self.fractions if network.has_sizes else (None,):
                units = network.top(fraction=fraction)
                if units.count:
                    share = units.count / units.n_units if fraction is None else fraction
                    sets.append((name, share, units, self.random(network, units)))
        running = {name: self.options[name] for name in ("batch_size", "cache")}
        lesions = [
            published_lesion(
                self.model,
                units,
                lesion,
                protocol=self.protocol,
                contrasts=self.contrasts_of(name),
                task_stimuli=prompts(task),
                **self.options,
            )
            for name, _, chosen, drawn in sets
            for units in (chosen, *drawn)
        ]
        results = dict(scores_under(self.model, asked, [[], *lesions], **running))
        place = 1
        for name, fraction, units, drawn in sets:
            numbers = [0, place, *range(place + 1, place + 1 + len(drawn))]
            place += 1 + len(drawn)
            scores = [results[number]["scores"] for number in numbers]
            unparsed = [results[number].get("unparsed") for number in numbers]
            yield PublishedScores(
                name,
                fraction,
                spec.name,
                lesion.operation,
                units.count,
                asked.measure,
                asked.chance,
                scores[0],
                scores[1],
                np.stack(scores[2:]) if drawn else np.zeros((0, len(scores[0]))),
                np.array([each.mean() for each in unparsed if each is not None]),
            )

    def contrasts_of(self, name: str) -> dict[str, Contrast]:
        """The contrasts that selected a network."""
        return {name: self.contrasts[name]} if name in self.contrasts else self.contrasts

    def random(self, network: Network, units: Units) -> list[Units]:
        """The random units beside a network, as published."""
        if isinstance(network, ExpertNetwork):
            return []
        return random_units(units, self.protocol.random_units, localization=network.first, seed=self.seed)

    # -- refereed ----------------------------------------------------------------------------------------------------

    def guessed(self, tasks: Mapping[str, tuple[ProtocolTask, Task]]) -> dict[str, str]:
        """The tasks on which the intact model may be guessing, with its score: controls could decide nothing there."""
        running = {name: self.options[name] for name in ("batch_size", "cache")}
        found = {}
        for name, (_, task) in tasks.items():
            if name in self.missing or self.protocol.lesion.operation == "none" or not self.networks:
                continue
            ((_, arrays),) = scores_under(self.model, task, [[]], **running)
            intact = task.scores(arrays["scores"])
            # The same rule as that of the verdicts.
            if LesionStudy(self.model.name, {name: intact}, {}, {}, {}, {}, 0, self.seed, {}).at_chance(name):
                found[name] = f"{intact.mean:.3f} of {len(intact.items)} items, chance {intact.chance:.3f}"
        return found

    def claimed(self) -> set[str]:
        """The networks whose lesions a claim is about."""
        about = [claim for claim in self.protocol.claims if claim.kind not in {"edges", "shared units"}]
        both = [claim.other for claim in about if claim.kind == "greater loss"]
        return {name for name in (*(claim.network for claim in about), *both) if name in self.networks}

    def refereed(
        self, tasks: Mapping[str, tuple[ProtocolTask, Task]], operations: Sequence[str], n_controls: int
    ) -> LesionStudy | None:
        """The same units and tasks under controls."""
        asked = {name: task for name, (_, task) in tasks.items() if name not in self.missing}
        chosen = {name: each.for_study(self.size) for name, each in self.networks.items()}
        networks = {name: each for name, each in chosen.items() if each is not None}
        if not asked or not networks or self.protocol.lesion.operation == "none":
            return None
        residual = self.protocol.localizer is not None and self.protocol.localizer.units == "residual"
        claimed = self.claimed() or set(networks)

        def lesioned(names: set[str], draws: int) -> LesionStudy:
            return lesion_study(
                self.model,
                {name: each for name, each in networks.items() if name in names},
                asked,
                self.fractions[:1] or (0.01,),
                draws,
                list(operations),
                match=("layer", "activation", "dimension") if residual else ("layer", "activation"),
                seed=self.seed,
                **self.options,
            )

        study = lesioned(claimed, n_controls)
        others = set(networks) - claimed
        if others:
            # They stand beside the networks of the claims: controls of their own would be most of the work.
            beside = lesioned(others, 0)
            study = replace(
                study,
                cells=study.cells | beside.cells,
                counts=study.counts | beside.counts,
                magnitudes=study.magnitudes | beside.magnitudes,
                failures=study.failures | beside.failures,
                design=study.design | beside.design,
                activity=study.activity | beside.activity,
            )
        for (_, task), message in study.failures.items():
            self.missing.setdefault(task, message)
        return study

    def halves(self) -> dict[str, dict[str, float]]:
        """Of the networks that a claim of shared units is about, what two halves of their stimuli share."""
        found = {}
        for claim in self.protocol.claims:
            if claim.kind == "shared units" and claim.network in self.contrasts:
                shared = shared_by_halves(
                    self.model,
                    self.contrasts[claim.network],
                    self.protocol.for_contrast(claim.network),
                    self.fractions[0],
                    seed=self.seed,
                    options=self.options,
                )
                if shared is not None:
                    found[claim.network] = shared
        return found


def about(protocol: Protocol) -> dict[str, Any]:
    """What a result keeps of a protocol, so that it can be read without it."""
    return {
        "title": protocol.title,
        "citation": protocol.citation,
        "code": protocol.code,
        "models": protocol.models,
        "random_units": protocol.random_units.in_words or f"{protocol.random_units.n} draws",
        "quirks": [[quirk.text, quirk.consequence] for quirk in protocol.quirks],
    }


def _stimuli(task: Task) -> list[Stimulus]:
    """What a task shows."""
    if isinstance(task, LikelihoodTask):
        return [one.stimulus for one in task.requests() if one.stimulus is not None]
    return list(task.stimuli()) if isinstance(task, GenerationTask) else []


def prompts(task: Task) -> list[Stimulus]:
    """What a task shows, with the right answers where it has some: the texts that a mean over a task is taken over."""
    if isinstance(task, MinimalPairs):
        return [Stimulus(good) for good, _ in task.pairs]
    if not isinstance(task, MultipleChoice):
        return [*_stimuli(task)]
    return [
        replace(question.stimulus, text=f"{question.stimulus.text or ''} {question.choices[question.answer]}".strip())
        for question in task.questions
    ]


def as_asked(spec: ProtocolTask, task: Task) -> Task:
    """The task with generated answers, where the publication generates them."""
    if not spec.generated or not isinstance(task, MultipleChoice):
        return task
    from modalnet.tasks.generated import generated
    from modalnet.tasks.parsing import name_themselves

    if all(name_themselves(question.choices, spec.parse) for question in task.questions):
        return generated(task, parse=spec.parse, max_new_tokens=spec.max_new_tokens)
    # Published prompts list the options. Where those of the set at hand do not, they are listed before its cue.
    uncued = [
        replace(one, stimulus=replace(one.stimulus, text=(one.stimulus.text or "").removesuffix(CUE).rstrip()))
        for one in task.questions
    ]
    return generated(
        MultipleChoice(task.name, uncued, per_token=task.per_token),
        parse=spec.parse,
        max_new_tokens=spec.max_new_tokens,
        prompt=f"{{question}}\n{{choices}}\n{CUE}",
    )
