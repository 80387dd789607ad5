"""What a published localizer or lesion protocol fixes, as data.

A protocol is a record and no code. One file of this folder holds one protocol; :data:`modalnet.protocols` finds it
there. It says which stimuli are contrasted, how units are tested and selected, what a lesion does to them, beside which
random units, on which tasks, what the publication claims, and where its released code does something else than its
text. What is read and generated is named by functions of :mod:`modalnet.stimuli` and :mod:`modalnet.tasks`;
:func:`modalnet.replicate` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

from modalnet._validation import check_option
from modalnet.interventions.positions import TokenChoice

Magnitude: TypeAlias = Literal["absolute", "signed"]
Modality: TypeAlias = Literal["text", "image", "any"]
#: What a lesion does to units at all tokens; see :mod:`modalnet.replication.lesions`.
Operation: TypeAlias = Literal[
    "none",
    "zero",
    "zero positions",
    "task mean",
    "scalar mean",
    "condition mean",
    "category difference",
    "edges",
    "experts",
]
#: How units are chosen from the statistics of contrasts; see :mod:`modalnet.replication.selection`.
Rule: TypeAlias = Literal["top", "bottom", "middle", "two tails", "threshold in every contrast", "smoothed"]
#: What a claim is about; see :mod:`modalnet.replication.claims`.
ClaimKind: TypeAlias = Literal["loss", "spared", "dissociation", "greater loss", "shared units", "edges"]


@dataclass(frozen=True)
class Localizer:
    """How units are read and tested.

    Attributes
    ----------
    units
        A kind of space, a key of :data:`modalnet.models.sites.KINDS`.
    tokens
        The token positions over which activations are pooled.
    magnitude
        ``"absolute"`` takes the absolute value after pooling; ``"signed"`` the activation itself.
    statistic
        ``"welch"``: Welch's t of the two sides; ``"paired"``: the t of differences within items; ``"mean difference"``:
        the difference of the sides, without a test.
    max_tokens
        Number of tokens to which texts are truncated, special tokens included; None for no truncation.
    raw
        Whether texts are encoded without a chat template.
    modality
        What the stimuli are: protocols of ``"text"`` are defined for texts alone, those of ``"image"`` for stimuli with
        pictures.
    towers
        The tower whose units are tested; empty for all that the stimuli reach.
    prompt
        The text that stands with every picture that has none.
    """

    units: str = "residual"
    tokens: TokenChoice = "last"
    magnitude: Magnitude = "absolute"
    statistic: Literal["welch", "paired", "mean difference"] = "welch"
    max_tokens: int | None = None
    raw: bool = False
    modality: Modality = "text"
    towers: str = ""
    prompt: str = ""


@dataclass(frozen=True)
class Source:
    """Where a set of stimuli or items comes from.

    Attributes
    ----------
    published
        What the publication used, in words, with its size and its licence.
    folder
        Name of the file or folder below the user's data folder; empty where the set is not free.
    reader
        The function that reads it, as ``"stimuli.fedorenko2010"`` or ``"tasks.minimal_pairs"``.
    generator
        The function that makes a set of the same design.
    read_with, made_with
        Arguments of these two functions. The ``source`` of a generator is the name of another one, such as
        ``"stimuli.categories"``, whose stimuli the items are made of.
    conditions
        The conditions of these stimuli that items are made of; empty for all.
    part
        Which part of the items of each file that is read is used, so that others can be held out.
    differs
        How the generated set differs from the published one.
    """

    published: str
    folder: str = ""
    reader: str = ""
    generator: str = ""
    read_with: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    part: Literal["all", "first half", "second half"] = "all"
    differs: str = ""


@dataclass(frozen=True)
class ProtocolContrast:
    """One contrast that units are tested with, and so one network.

    Attributes
    ----------
    name
        Of the network, such as ``"language"``.
    source
        Where its stimuli come from.
    tokens, max_tokens
        Where they differ from those of the localizer: other positions, and 0 for no truncation.
    rule
        Where its units are chosen by another rule than that of the selection.
    """

    name: str
    source: Source
    tokens: TokenChoice | None = None
    max_tokens: int | None = None
    rule: Rule | None = None


@dataclass(frozen=True)
class Selection:
    """Which units form a network; see :func:`modalnet.replication.select`.

    Attributes
    ----------
    rule
        ``"top"``: the largest statistics; ``"bottom"``: the most negative ones; ``"middle"``: those nearest the mean
        statistic; ``"two tails"``: the largest absolute ones; ``"threshold in every contrast"``: the differences exceed
        ``threshold`` standard deviations in every contrast; ``"smoothed"``: the largest after smoothing over a sheet.
    network
        Name of the network that all contrasts select together; empty where each contrast selects one.
    fractions
        Sizes, as fractions of all tested units; the first is the one that claims are about. Empty where the rule sets
        the size.
    ties
        ``"none"``: exactly k units; ``"last"``: with all units that tie with the k-th, or for ``"bottom"`` with the one
        behind it; ``"dense"``: all units with one of the k largest distinct values.
    precision
        In which precision statistics are compared.
    undefined_as
        The statistic of units without a defined one; NaN: such units are never selected.
    count_undefined
        Whether units without a defined statistic count in the number that a fraction is of.
    threshold
        Of ``"threshold in every contrast"``, in standard deviations over all units and layers.
    layers
        The layers that units are taken from: those whose middle lies between two fractions of the depth, from 0 to 1;
        None for all.
    fwhm
        Of ``"smoothed"``: full width at half maximum of the Gaussian, in units of the sheet.
    q
        Of ``"smoothed"``: take units with q (Benjamini-Hochberg, one-sided) below this instead of a fraction.
    """

    rule: Rule = "top"
    network: str = ""
    fractions: tuple[float, ...] = (0.01,)
    ties: Literal["none", "last", "dense"] = "none"
    precision: Literal["float64", "float32"] = "float64"
    undefined_as: float = float("nan")
    count_undefined: bool = True
    threshold: float | None = None
    layers: tuple[float, float] | None = None
    fwhm: float | None = None
    q: float | None = None


@dataclass(frozen=True)
class ProtocolLesion:
    """What is done to units.

    Attributes
    ----------
    operation
        ``"none"``: units are read and not changed; ``"zero"``; ``"zero positions"``: all units of a layer are zeroed at
        the token positions whose number is that of a selected unit; ``"task mean"``: the mean over the tokens of the
        task's prompts; ``"scalar mean"``: one number for all units, the mean of all units of all layers on the positive
        stimuli; ``"condition mean"``: the mean over the stimuli of ``condition``; ``"category difference"``: the mean
        of other categories minus that of the positive one is added; ``"edges"``: attention edges are removed;
        ``"experts"``: the router never takes an expert.
    condition
        Of ``"condition mean"``.
    window
        Of ``"edges"``: how many consecutive layers.
    experts
        Of ``"experts"``: the names of the experts, in the order of their numbers.
    """

    operation: Operation = "zero"
    condition: str = ""
    window: int | None = None
    experts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProtocolEdges:
    """Attention edges that are removed together.

    Attributes
    ----------
    name
        Of the set, such as ``"image to question"``.
    source, target
        The tokens that are attended to, and those that attend to them; see :func:`modalnet.knockout`.
    layers
        The part of the decoder that a claim is about, as (from, to) fractions of the depth.
    """

    name: str
    source: str
    target: str
    layers: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class RandomUnits:
    """The random units beside a network, as published.

    Attributes
    ----------
    n
        Number of draws; 0 for none.
    excludes_network
        Whether units of the network are never drawn.
    judged
        What the publication takes for an effect: a score below the mean of the draws, or below the 95% t interval of
        that mean.
    in_words
        What the publication and its code say of them.
    """

    n: int = 1
    excludes_network: bool = True
    judged: Literal["below the mean", "below the t interval"] = "below the mean"
    in_words: str = ""


@dataclass(frozen=True)
class ProtocolTask:
    """A task, as published.

    Attributes
    ----------
    name
        Of the task.
    source
        Where its items come from.
    scoring
        How answers become scores, in words.
    generated
        Whether answers are generated and parsed, as published; the refereed run scores by likelihood.
    max_new_tokens, parse
        Of generated answers: see :func:`modalnet.tasks.generated`.
    """

    name: str
    source: Source
    scoring: str
    generated: bool = False
    max_new_tokens: int = 32
    parse: Literal["first", "exact", "letter", "digit"] = "first"


@dataclass(frozen=True)
class Claim:
    """One claim of a publication, as a question that data can answer.

    Attributes
    ----------
    text
        The claim, in a sentence.
    kind
        ``"loss"``: a lesion of ``network`` costs ``task`` more than one of random units; ``"spared"``: it costs
        ``task`` nothing; ``"dissociation"``: it costs ``task`` more than ``other``; ``"greater loss"``: it costs
        ``task`` more than a lesion of the network ``other``; ``"shared units"``: halves of the stimuli select the same
        units beyond chance; ``"edges"``: removing edges costs the answer.
    network
        Name of the network, of the set of edges, or of the expert.
    task
        Name of a task.
    other
        The second task of a ``"dissociation"``, the second network of a ``"greater loss"``; empty otherwise.
    """

    text: str
    kind: ClaimKind
    network: str
    task: str = ""
    other: str = ""


@dataclass(frozen=True)
class Quirk:
    """Where the released code does something else than the text says, or than a reader would expect.

    Attributes
    ----------
    text
        What it does.
    consequence
        What follows for the numbers.
    """

    text: str
    consequence: str


@dataclass(frozen=True)
class Protocol:
    """A published localizer or lesion protocol.

    Attributes
    ----------
    id
        The name by which ``protocol=`` refers to it: first author or subject, and year.
    title
        One line on what it localizes and how.
    citation
        The publication, in words.
    code
        Where the released code is, and under which licence.
    localizer
        How units are tested; None for protocols that localize no units.
    contrasts
        The contrasts, each of which makes a network.
    selection, lesion, random_units
        How units are selected, what is done to them, and beside which random units.
    other_lesions
        What else is done to them.
    edges
        Attention edges that are removed, of protocols about these.
    tasks
        What is measured under the lesion.
    claims
        What the publication claims.
    quirks
        Where code and text differ.
    released
        Fields of this record as the released code has them; :meth:`as_released` puts them in.
    models
        What it was run on, in words.
    reported
        Name of a table of the authors' numbers below the user's ``reported_numbers`` folder; empty for none.
    """

    id: str
    title: str
    citation: str
    code: str
    models: str
    localizer: Localizer | None
    contrasts: tuple[ProtocolContrast, ...] = ()
    selection: Selection = field(default_factory=Selection)
    lesion: ProtocolLesion = field(default_factory=ProtocolLesion)
    other_lesions: tuple[ProtocolLesion, ...] = ()
    random_units: RandomUnits = field(default_factory=RandomUnits)
    edges: tuple[ProtocolEdges, ...] = ()
    tasks: tuple[ProtocolTask, ...] = ()
    claims: tuple[Claim, ...] = ()
    quirks: tuple[Quirk, ...] = ()
    released: Mapping[str, Any] = field(default_factory=dict)
    reported: str = ""

    def __post_init__(self) -> None:
        unknown = set(self.released) - {each.name for each in fields(self)}
        if unknown:
            raise ValueError(f"{self.id}: `released` names {sorted(unknown)[0]!r}, which is no field of a protocol.")
        sets = [*(each.name for each in self.contrasts), *(each.name for each in self.tasks)]
        twice = next((name for name in sets if sets.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{self.id}: two of its contrasts and tasks are called {twice!r}.")
        networks, tasks = set(self.networks), {each.name for each in self.tasks} | {""}
        for claim in self.claims:
            other = networks if claim.kind == "greater loss" else tasks
            if claim.network not in networks or claim.task not in tasks or claim.other not in other:
                raise ValueError(f"{self.id}: the claim {claim.text!r} names a network or task that it lacks.")

    @property
    def networks(self) -> tuple[str, ...]:
        """What lesions are made of, by name: networks of units, sets of attention edges, or experts."""
        if self.edges or self.lesion.experts:
            return (*(each.name for each in self.edges), *self.lesion.experts)
        return (self.selection.network,) if self.selection.network else tuple(each.name for each in self.contrasts)

    def for_contrast(self, name: str) -> Protocol:
        """Return the protocol as it is for one of its contrasts: with the tokens, truncation and rule of that one.

        Raises
        ------
        InputError
            If it has no such contrast.
        """
        contrast = {each.name: each for each in self.contrasts}[
            check_option("contrast", name, [each.name for each in self.contrasts])
        ]
        assert self.localizer is not None  # what has contrasts tests units
        changes: dict[str, Any] = {} if contrast.tokens is None else {"tokens": contrast.tokens}
        if contrast.max_tokens is not None:
            changes["max_tokens"] = contrast.max_tokens or None
        selection = self.selection if contrast.rule is None else replace(self.selection, rule=contrast.rule)
        return replace(self, localizer=replace(self.localizer, **changes), selection=selection)

    def as_released(self) -> Protocol:
        """Return the protocol as the released code runs it, where that differs from the text."""
        return replace(self, **self.released)
