"""What the study asks of a model: its contrasts, its tasks and its pairs, by what the model reads.

No model has a line of its own here. A model with a decoder gets the contrasts and tasks of text, one with a vision
tower those of pictures. The *material* is ``"published"`` (Fedorenko 2010, fLoc, BLiMP, SyntaxGym, sentences of
Tuckute 2024) or ``"bundled"`` (drawn and written for the package), for the bundled model, which knows no photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from benchmarks.real_material import some_of
from benchmarks.study.material import NAMING, floc_pictures, naming_task

from modalnet import Contrast, Stimulus, brain, patching, stimuli, tasks
from modalnet.stimuli.published import INTACT

if TYPE_CHECKING:
    from modalnet import Model
    from modalnet.tasks import Task

#: The categories of fLoc as its authors group them.
GROUPS = {
    "faces": ("adult", "child"),
    "bodies": ("body", "limb"),
    "objects": ("car", "instrument"),
    "places": ("corridor", "house"),
    "characters": ("word", "number"),
}
LANGUAGE = "language"
INTACT_NETWORK = "intact pictures"
#: What is lesioned where a lesion takes long: in the vision tower each category, in the decoder language and three
#: categories; of the networks of text those whose ability is asked for.
LESIONED_VISION = (*GROUPS, "houses", "words")
LESIONED_DECODER = (LANGUAGE, "faces", "places", "characters", "houses", "words")
LESIONED_TEXT = (LANGUAGE, "theory of mind", "multiple demand")
#: The tasks on which networks of text are lesioned beside each other: those whose items are right or wrong, so that
#: effects on two of them have one scale.
ASKED_BESIDE = ("BLiMP", "grammar", "arithmetic", "belief questions")
LANGUAGE_TASKS = ("BLiMP", "SyntaxGym", "perplexity", "grammar")
#: The task that asks for what a network was localized by.
TASK_OF = {**{kind: f"naming {kind}" for kind in GROUPS}, "words": "reading"}
PROTOCOL = "alkhamissi2025"


def without_tower(name: str) -> str:
    """The name of a network such as ``"faces (vision)"`` without its tower."""
    return name.rpartition(" (")[0] or name


@dataclass(frozen=True)
class Settings:
    """How much of everything. With these defaults the three small models take two to three hours on 2 cores.

    Attributes
    ----------
    fractions
        Sizes of the lesions of the language network, as shares of the decoder's units.
    interactions, seen
        Sizes at which the networks of text, and those of pictures, are lesioned beside each other.
    operations
        How units are lesioned.
    decoder_operations
        How units of the decoder are lesioned where several networks stand beside each other: zeroing one in twenty of
        them, whichever they are, ends most of naming.
    controls
        Random sets of units of each kind beside each lesion; below 19 no verdict can be given.
    every
        Every so many of the paradigms of BLiMP, and of the suites of SyntaxGym, are asked.
    pairs, suite_items, sentences, sums, stories
        Minimal pairs of each paradigm, items of each suite, texts of the perplexities, sums, and belief stories.
    pictures, drawn
        Held-out pictures of each category that are named, and drawings that are asked about.
    patched
        Pairs of pictures (or sentences) that are patched.
    draws, permutations
        Random sets of units beside patched networks and in the brain, and permutations there.
    selected
        Share of a tower's units that a network is, wherever one size is shown.
    """

    fractions: tuple[float, ...] = (0.00125, 0.01)
    interactions: tuple[float, ...] = (0.01,)
    seen: tuple[float, ...] = (0.05,)
    operations: tuple[str, ...] = ("zero", "mean")
    decoder_operations: tuple[str, ...] = ("mean",)
    controls: int = 20
    every: int = 3
    pairs: int = 1
    suite_items: int = 1
    sentences: int = 20
    sums: int = 48
    stories: int = 24
    pictures: int = 4
    drawn: int = 240
    patched: int = 8
    draws: int = 10
    permutations: int = 1000
    selected: float = 0.01
    seed: int = 0

    def as_document(self) -> dict[str, Any]:
        """As JSON values, which say whether a step that was done was done with the same settings."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


#: The bundled model has 1,536 units in its decoder, and little happens below a twentieth of them; but it is quick.
SMALL = Settings(fractions=(0.01, 0.05, 0.1), interactions=(0.1,), seen=(0.1,), sums=50, patched=6, selected=0.05)
QUICK = Settings(
    fractions=(0.01, 0.05),
    interactions=(0.05,),
    seen=(0.05,),
    operations=("mean",),
    controls=2,
    sentences=4,
    sums=16,
    stories=6,
    pictures=2,
    drawn=12,
    patched=2,
    draws=2,
    permutations=20,
    selected=0.05,
)


def sums(n: int, seed: int) -> Task:
    """Sums such as ``"3 + 4 ="`` among three near wrong results; in words they are beyond a small model."""
    rng = np.random.default_rng([seed, 8])
    rows = []
    for _ in range(n):
        one, other = (int(term) for term in rng.integers(1, 10, 2))
        right = one + other
        near = [right + step for step in (1, -1, 2, -2, 10)]
        choices = rng.permutation([right, *rng.permutation(near)[:3]])
        rows.append(
            {
                "question": f"{one} + {other} =",
                "choices": [str(choice) for choice in choices],
                "answer": int(np.flatnonzero(choices == right)[0]),
            }
        )
    return tasks.multiple_choice(rows, name="arithmetic")


def _without_full_stop(task: Any) -> Task:
    """The same questions, answered in one token each, so that all answers to one of them run once."""
    questions = [
        replace(question, choices=tuple(choice.removesuffix(".") for choice in question.choices))
        for question in task.questions
    ]
    return tasks.MultipleChoice(task.name, questions)


@dataclass(frozen=True)
class Sources:
    """Folders of the published material; what is None is left out, and RESULTS.md says so."""

    fedorenko2010: Path | None = None
    floc: Path | None = None
    blimp: Path | None = None
    syntaxgym: Path | None = None
    brain: Path | None = None

    def missing(self) -> list[str]:
        """What is left out."""
        return [name for name in self.__dataclass_fields__ if getattr(self, name) is None]


@dataclass(frozen=True)
class Probe:
    """One contrast and how it is read."""

    make: Callable[[], Contrast]
    protocol: str | None = None
    towers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Asked:
    """What one model is asked.

    Attributes
    ----------
    probes
        Contrast by the name of its network.
    text_tasks, picture_tasks
        By name.
    """

    model: Model
    settings: Settings
    sources: Sources
    material: Literal["published", "bundled"] = "published"
    text_tasks: Mapping[str, Task] = field(init=False)
    picture_tasks: Mapping[str, Task] = field(init=False)
    probes: Mapping[str, Probe] = field(init=False)

    def __post_init__(self) -> None:
        made = {
            "probes": {**self._text_probes(), **self._picture_probes()},
            "text_tasks": self._text_tasks() if self.reads_text else {},
            "picture_tasks": self._picture_tasks() if self.answers else {},
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @property
    def reads_text(self) -> bool:
        """Whether it has a decoder and something to make tokens with."""
        return self.model.decoder is not None and self.model.tokenizer is not None

    @property
    def sees(self) -> bool:
        """Whether it has a vision tower."""
        return self.model.vision is not None

    @property
    def answers(self) -> bool:
        """Whether it can be asked about pictures."""
        return self.reads_text and self.sees

    @property
    def bundled(self) -> bool:
        """Whether it is asked with the package's own material alone."""
        return self.material == "bundled"

    @property
    def size(self) -> int:
        """Pixels per side of drawn pictures."""
        return 64 if self.bundled else 224

    # -- contrasts -----------------------------------------------------------------------------------------------

    def _text_probes(self) -> dict[str, Probe]:
        if not self.reads_text:
            return {}
        own = Probe(stimuli.language, PROTOCOL)
        published = self.sources.fedorenko2010
        others = {
            "theory of mind": Probe(stimuli.theory_of_mind),
            "multiple demand": Probe(stimuli.multiple_demand),
            "refusal": Probe(stimuli.refusal),
        }
        if self.bundled or published is None:
            return {LANGUAGE: own, **others}
        first = Probe(lambda: stimuli.fedorenko2010(published), PROTOCOL)
        return {LANGUAGE: first, "language, bundled": own, **others}

    def _picture_probes(self) -> dict[str, Probe]:
        if not self.sees:
            return {}
        made: dict[str, Probe] = {}
        if self.bundled:
            size = self.size
            for name in ("faces", "houses", "objects", "words"):
                made[name] = Probe(lambda name=name: stimuli.categories(name, size=size))
            made[INTACT_NETWORK] = Probe(lambda: stimuli.vision(size=size))
        elif self.sources.floc is not None:
            folder = self.sources.floc
            for name, group in GROUPS.items():
                made[name] = Probe(lambda group=group: self._floc(folder, group))
            made[INTACT_NETWORK] = Probe(lambda: self._floc(folder, INTACT, "scrambled"))
        if self.answers:
            made["picture > description"] = Probe(
                lambda: stimuli.vision_vs_text(size=self.size), towers=(str(self.model.decoder.name),)
            )
        return made

    @staticmethod
    def _floc(folder: Path, positive: tuple[str, ...], negative: str | None = None) -> Contrast:
        """Of the pictures that are not asked about in any task."""
        shown = floc_pictures(folder, test=False, scrambled=True)
        below = [negative] if negative else [name for name in INTACT if name not in positive]
        return Contrast(shown, list(positive), below)

    # -- tasks ---------------------------------------------------------------------------------------------------

    def _text_tasks(self) -> dict[str, Task]:
        wanted, given = self.settings, self.sources
        if self.bundled:
            return {name: self._bundled_tasks[name] for name in ("grammar", "arithmetic")}
        made: dict[str, Task] = {}
        if given.blimp is not None:
            paradigms = some_of(given.blimp, wanted.every)
            made["BLiMP"] = tasks.minimal_pairs(paradigms, name="BLiMP", n=wanted.pairs, seed=wanted.seed)
        if given.syntaxgym is not None:
            suites = some_of(given.syntaxgym, wanted.every)
            made["SyntaxGym"] = tasks.syntaxgym(suites, name="SyntaxGym", n=wanted.suite_items, seed=wanted.seed)
        if self.sentences:
            made["perplexity"] = tasks.perplexity(self.sentences)
        made["arithmetic"] = sums(wanted.sums, wanted.seed)
        made["belief questions"] = tasks.theory_of_mind(n=wanted.stories, seed=wanted.seed)
        return made

    @cached_property
    def _bundled_tasks(self) -> dict[str, Task]:
        return tasks.bundled(n=max(self.settings.sums, 10), seed=self.settings.seed)

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences that are in no contrast, evenly from those of Tuckute et al. (2024); none without that file."""
        read = self.brains().get("Tuckute 2024")
        if read is None:
            return []
        every = [str(one.text) for one in read().stimuli]
        return every[:: max(1, len(every) // self.settings.sentences)][: self.settings.sentences]

    def _picture_tasks(self) -> dict[str, Task]:
        wanted = self.settings
        if self.bundled:
            made = self._bundled_tasks
            return {name: _without_full_stop(made[name]) for name in ("colour", "shape", "category", "reading")}
        if self.sources.floc is None:
            return {}
        held_out = floc_pictures(self.sources.floc, test=True)
        made = {}
        for name, group in GROUPS.items():
            shown = [
                one
                for category in group
                for one in [one for one in held_out if one.condition == category][: wanted.pictures]
            ]
            made[f"naming {name}"] = naming_task(shown, INTACT, f"naming {name}")
        return made

    # -- patching and brains -------------------------------------------------------------------------------------

    def pairs(self) -> tuple[str, Any]:
        """What is patched, in words, and the pairs."""
        n = self.settings.patched
        if self.answers and self.bundled:
            return "pictures that differ in the colour of one shape", patching.colour_pairs(n, size=self.size)
        if self.answers and self.sources.floc is not None:
            return "a picture of a face against one of a house, and the reverse", self._category_pairs(n)
        return "sentences that differ in the number of their subject", patching.agreement_pairs(n)

    def _category_pairs(self, n: int) -> Any:
        assert self.sources.floc is not None
        shown: dict[str, list[Stimulus]] = {"adult": [], "house": []}
        for one in floc_pictures(self.sources.floc, test=True):
            if one.condition in shown:
                shown[one.condition].append(Stimulus(NAMING, image=one.images()[0], id=one.id))
        pairs = list(zip(*shown.values(), strict=True))[:n]
        turned = [
            (pair, tuple(shown)) if place % 2 == 0 else (pair[::-1], tuple(shown)[::-1])
            for place, pair in enumerate(pairs)
        ]
        return patching.PairSet(
            tuple(clean for (clean, _), _ in turned),
            tuple(corrupt for (_, corrupt), _ in turned),
            tuple(f" {answer}" for _, (answer, _) in turned),
            tuple(f" {other}" for _, (_, other) in turned),
            tuple(answer for _, (answer, _) in turned),
        )

    def brains(self) -> dict[str, Callable[[], Any]]:
        """Readers of the responses of the human language network."""
        folder = self.sources.brain
        if folder is None or self.bundled:
            return {}
        files = sorted(folder.rglob("*.csv"))
        readers = {"Pereira 2018": ("pereira", brain.pereira2018), "Tuckute 2024": ("tuckute", brain.tuckute2024)}
        found: dict[str, Callable[[], Any]] = {}
        for name, (part, read) in readers.items():
            for file in files:
                if part in file.name.lower() and name not in found:
                    found[name] = lambda file=file, read=read: read(file)
        return found
