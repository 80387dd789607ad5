"""The functional localizer: from a model and a contrast to a statistic for every unit.

The stimuli run once. The activations of each batch are reduced to moments at once (count, mean and sum of squared
deviations per side, fold and condition; cross moments where the test needs them), and every reported statistic is
computed from those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from modalnet._validation import check_bool, check_names, check_option, check_shared
from modalnet._version import __version__
from modalnet.errors import InputError, ModalnetError
from modalnet.execution.backends.choice import RemoteLike
from modalnet.execution.backends.protocol import DeferredBackend
from modalnet.execution.reduction import Observations
from modalnet.interventions.positions import TokenChoice, TokensLike, choose
from modalnet.localization.attribution import Attribution
from modalnet.localization.design import CrossSums, Design, Paired, design_of
from modalnet.localization.job import LocalizationJob, Tally, made_of
from modalnet.localization.permuted import check_contrast
from modalnet.localization.published import as_published, reading_of
from modalnet.localization.result import Localization
from modalnet.model import Model, as_model
from modalnet.models.fingerprint import encoded_texts, reads_weights_once
from modalnet.models.sites import RESIDUAL, choose_spaces
from modalnet.protocols.protocol import Protocol
from modalnet.protocols.registry import find_localizer, find_protocol
from modalnet.results.cache import Access, CacheLike, Journal, Slot, open_slot
from modalnet.stats.folds import assign_folds
from modalnet.stats.moments import Moments
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.modalities import MODALITIES

if TYPE_CHECKING:
    from jaxtyping import Float

    from modalnet.inputs.batch import Prepared

N_FOLDS = 10


@dataclass(frozen=True)
class _Setup:
    """The arguments of a localization, resolved."""

    model: Model
    contrast: Contrast
    tokens: Mapping[str, TokenChoice]
    magnitude: str
    protocol: str | None
    design: Design
    attribution: Attribution | None = None

    @property
    def towers(self) -> list[str]:
        return list(self.tokens)

    def meta(self, prepared: Sequence[Prepared]) -> dict[str, Any]:
        """The JSON document stored with the result."""
        choices = {name: choice if isinstance(choice, str) else list(choice) for name, choice in self.tokens.items()}
        return {
            "model": self.model.fingerprint(),
            "source": self.model.name,
            "contrast": {
                "name": self.contrast.name,
                "positive": list(self.contrast.positive),
                "negative": list(self.contrast.negative),
                **self.design.meta(self.contrast),
            },
            "tokens": choices,
            "magnitude": self.magnitude,
            "protocol": self.protocol,
            "paths": {name: list(self.model.spaces[name].paths) for name in self.towers},
            "text_tokens": self._text_tokens(prepared),
            "folds": N_FOLDS,
            "version": __version__,
            **({} if self.attribution is None else {"attribution": self.attribution.meta()}),
        }

    def widths(self) -> dict[str, Any]:
        """Of spaces whose layers have different numbers of units, how many each has; known once they were read."""
        spaces = [self.model.spaces[name] for name in self.towers]
        found = {space.name: list(space.widths) for space in spaces if space.n_units < space.exists.size}
        return {"widths": found} if found else {}

    def _text_tokens(self, prepared: Sequence[Prepared]) -> dict[str, float]:
        """Mean number of text tokens per condition: a difference between the sides would be a confound."""
        counts: dict[str, list[int]] = {}
        for label, item in zip(self.contrast.labels, prepared, strict=True):
            if item.text_inputs is not None:
                counts.setdefault(label, []).append(len(item.text_inputs["input_ids"]))
        return {condition: float(np.mean(numbers)) for condition, numbers in counts.items()}

    def content(self, prepared: Sequence[Prepared], digests: Sequence[str]) -> dict[str, Any]:
        """The stimuli as the key of a stored result describes them: content, labels, numbers and encoded texts."""
        return {
            "digests": list(digests),
            "conditions": [stimulus.condition for stimulus in self.contrast.stimuli],
            "items": list(self.contrast.items),
            "sides": list(self.contrast.sides),
            "regressors": self.design.x.tolist(),
            "texts": encoded_texts(self.model.tokenizer, prepared),
        }


@overload
def localize(model: Any, contrast: Contrast, *, blocking: Literal[False], **options: Any) -> LocalizationJob: ...


@overload
def localize(model: Any, contrast: Contrast, *, blocking: Literal[True] = ..., **options: Any) -> Localization: ...


@reads_weights_once  # type: ignore[misc]
def localize(  # the options are documented once, here
    model: Model | Any,
    contrast: Contrast,
    *,
    units: str | Sequence[str] = RESIDUAL,
    towers: str | Sequence[str] | None = None,
    tokens: TokensLike = None,
    magnitude: Literal["absolute", "signed"] | None = None,
    protocol: str | Protocol | None = None,
    paired: Paired = "auto",
    by: Literal["activation", "attribution"] = "activation",
    metric: Any = None,
    method: Literal["gradient", "integrated"] = "gradient",
    steps: int | None = None,
    align: Any = None,
    batch_size: int | Literal["auto"] = "auto",
    remote: RemoteLike | None = None,
    blocking: bool = True,
    cache: CacheLike = True,
    progress: bool = True,
) -> Localization | LocalizationJob:
    """Test every unit for a preference for one side of a contrast.

    For every unit, a t-test compares the activations on the positive stimuli with those on the negative ones: Welch's;
    the paired one, where every item of the contrast is on both sides; or that of a coefficient of a linear model, where
    the contrast has covariates or a regressor. A unit is one dimension of the residual stream at a block's output; its
    activation on a stimulus is pooled over the selected tokens in float32. A network is a selection of units by the
    result, such as ``result.top(fraction=0.01)``.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`, or anything that :func:`modalnet.load` accepts.
    contrast
        The stimuli with their positive and negative conditions.
    units
        Which units to test: a kind of space (``"residual"``: the dimensions of the residual stream), the name of a
        space (see :attr:`modalnet.Model.spaces`), or a list of these.
    towers
        The towers whose units are tested; None for every tower that all stimuli reach (text alone does not reach a
        vision tower).
    tokens
        Which tokens to pool over, for all towers or per tower: ``"last"``, ``"mean"``, ``"image"``, ``"text"``,
        ``"cls"`` or indices; by default the last token in a decoder (the mean of its image tokens, where the stimuli
        are pictures without text) and the mean elsewhere.
    magnitude
        ``"absolute"`` compares \\|activation\\|, ``"signed"`` the activation itself; None: absolute, or what the
        protocol fixes.
    protocol
        A published localizer (an id of :data:`modalnet.protocols`, or a :class:`modalnet.protocols.Protocol` of your
        own), which fixes ``tokens`` and ``magnitude``, whether the chat template is applied, where texts are
        truncated, the text beside pictures that have none, and the kind of ``units`` and the ``towers`` unless others
        are given. ``"alkhamissi2025"``: texts truncated to 12
        tokens, no chat template, last token, absolute activation, Welch's t.
    paired
        Whether stimuli of one item (:attr:`modalnet.Stimulus.item`) are compared with one another: per item the mean of
        its positive minus that of its negative stimuli, and the t of these differences. ``"auto"``: where every item is
        on both sides, and no protocol is given. ``summary()`` says which test was used.
    by
        ``"activation"``: how much a unit responds. ``"attribution"``: how much an answer depends on it. The stimuli are
        then pairs, those of one item (or, without items, in their order): the positive one is the clean, the negative
        one the corrupt run. A unit's value is the estimated change of the metric when its clean activations are patched
        into the corrupt run, at all tokens (:func:`modalnet.attribution_patching`); t is that of the mean effect over
        pairs. ``tokens`` and ``magnitude`` decide what ``means`` and ``mean_abs`` are of. Besides one forward pass of
        each stimulus it costs the passes of the method.
    metric
        With ``by="attribution"``, a metric of :mod:`modalnet.patching`, with one answer for all pairs or one per pair
        in the order of the positive stimuli.
    method, steps, align
        With ``by="attribution"``, as for :func:`modalnet.attribution_patching`.
    batch_size
        Number of stimuli per forward pass; ``"auto"`` chooses it and halves it when memory runs out.
    remote
        Where to run, as for :func:`modalnet.load`; None: where the model is. A server is sent the stimuli in a few jobs
        and returns moments. With ``cache`` each finished job is stored, so that a call that failed resumes from there
        when it is repeated.
    blocking
        False, for a model on a server: submit all jobs and return a handle at once, with ``.id``,
        ``.status()`` and ``.result()``. :meth:`modalnet.LocalizationJob.from_id` retrieves it in another process.
    cache
        True stores the result, and reads a stored result of the same model, stimuli and settings without a forward
        pass; False does neither; a path or a ``Store`` names another store.
    progress
        Show a progress bar.

    Returns
    -------
    Localization, or LocalizationJob with ``blocking=False``
        ``.t``, ``.p``, ``.q`` and ``.effect_size`` per space as float64 ``[layer, unit]``; ``.top(...)`` and others
        select units.

    Raises
    ------
    InputError
        If the contrast does not fit the model, or for an invalid argument; with ``by="attribution"``, if the stimuli do
        not pair; for ``metric``, ``steps`` or ``align`` without it. Everything is checked before the first forward
        pass, images included.

    Notes
    -----
    A stored result is identified by everything that determines its numbers, read anew at each call: among others the
    weights, adapters, attention implementation, tokenizer, processor and chat template. Results of a model with hooks,
    edits or replaced methods, or with active dropout, are neither stored nor read from the store.

    References
    ----------
    AlKhamissi et al. (2025), The LLM Language Network, arXiv:2411.02280, sections 2 and 3, for units and the test;
    Fedorenko et al. (2010), J Neurophysiol 104:1177-1194, for the localizer.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> language = mn.localize(model, mn.stimuli.language(20), progress=False)
    >>> language.t["decoder"].shape
    (8, 192)
    >>> language.top(fraction=0.01).count
    15
    """
    check_contrast(contrast)
    check_shared(batch_size=batch_size, progress=progress)
    check_bool("blocking", blocking)
    given = {"metric": metric, "method": method, "steps": steps, "align": align}
    attribution = _resolve_attribution(contrast, by, given, protocol, paired, blocking=blocking)
    contrast = contrast if attribution is None else attribution.contrast
    design = _resolve_design(contrast, protocol, paired) if attribution is None else attribution.design
    access = Access.of(cache if attribution is None or attribution.storable else False)
    model = as_model(model, remote)
    capabilities = model._executor.backend.capabilities
    if not blocking and not capabilities.deferred:
        raise InputError(
            "`blocking` must be True for a model that runs here. Load it with remote=True, or omit `blocking`."
        )
    reading = reading_of(contrast, protocol, tokens, magnitude)
    if protocol is not None:
        contrast, towers, units = as_published(model, contrast, protocol, towers, units)
    prepared = model._executor.prepare(contrast.stimuli, max_tokens=reading.max_tokens, raw=reading.raw)
    names = _choose_spaces(model, contrast, _choose_towers(model, contrast, towers), units)
    alone = model._executor.alone(contrast.stimuli)
    spaces = [model.spaces[name] for name in names]
    choices = choose(reading.tokens, spaces, alone=alone, causal=model._executor.is_causal)
    for tower, choice in choices.items():
        if choice == "all":
            raise InputError(
                f"`tokens` must pool over tokens, got 'all' for {tower}: a unit has one value per stimulus. Use "
                "'mean' to pool over all tokens."
            )
    named = None if protocol is None else find_protocol(protocol).id
    setup = _Setup(model, contrast, choices, reading.magnitude, named, design, attribution)
    effects = None if attribution is None else attribution.effects(model, names, batch_size)
    digests = _inspect(contrast, progress=progress)
    meta = setup.meta(prepared) | {
        "max_tokens": reading.max_tokens,
        "raw": reading.raw,
        "stimuli": _folds_of(contrast, digests),
    }
    described = {name: value for name, value in meta.items() if name != "source"}  # a folder may be renamed
    slot = open_slot(model, "localize", lambda: setup.content(prepared, digests), described, cache=access)
    found = slot.read(Localization)
    if found is not None:
        found.meta["source"] = model.name
        return found if blocking else LocalizationJob.done(found)
    if not blocking:
        return _submit(setup, prepared, batch_size, slot, meta)
    sums: _Sums | Tally
    if capabilities.reduces:
        sums = _run_reduced(setup, prepared, batch_size, slot.journal(), progress=progress)
    else:
        sums = _run(setup, prepared, batch_size, progress=progress)
    if attribution is not None and effects is not None:
        folds = assign_folds(contrast.labels, N_FOLDS, items=contrast.items).tolist()
        shapes = {name: model.spaces[name].shape for name in names}
        sums.cross = attribution.cross(effects, folds, N_FOLDS, shapes, progress=progress)
    made = made_of(sums, meta | setup.widths())
    slot.write(made)
    slot.journal().forget()
    return made


def _resolve_design(contrast: Contrast, protocol: str | Protocol | None, paired: Paired) -> Design:
    """The test of the contrast; that of a protocol is unpaired unless the protocol says so."""
    if paired != "auto" and not isinstance(paired, bool):
        raise InputError(f"`paired` must be True, False or 'auto', got {paired!r}.")
    if protocol is None:
        return design_of(contrast, paired)
    known, fixed = find_localizer(protocol)
    if paired is True or contrast.covariates or contrast.regressor is not None:
        raise InputError(
            f"`protocol` {known.id!r} fixes the test to Welch's t of two sides. Leave out `paired`, "
            "covariates and regressors, or leave out `protocol`."
        )
    return design_of(contrast, paired=fixed.statistic == "paired")


def _resolve_attribution(  # one call, above
    contrast: Contrast,
    by: str,
    given: dict[str, Any],
    protocol: str | Protocol | None,
    paired: Paired,
    *,
    blocking: bool,
) -> Attribution | None:
    """The pairs of a contrast and how effects are estimated; None where units are tested by their activation."""
    check_option("by", by, ("activation", "attribution"))
    check_option("method", given["method"], ("gradient", "integrated"))
    if by == "activation":
        extra = [name for name, value in given.items() if value is not None and value != "gradient"]
        if extra:
            raise InputError(f"`{extra[0]}` is for by='attribution' alone, got by='activation'. Add by='attribution'.")
        return None
    if given["metric"] is None:
        raise InputError(
            "by='attribution' needs a `metric`, such as modalnet.patching.logit_difference(answers, distractors), got "
            "None."
        )
    if protocol is not None:
        raise InputError(f"`protocol` {find_protocol(protocol).id!r} is by activation. Leave out `protocol` or `by`.")
    if paired is False:
        raise InputError("`paired` must be True or 'auto' with by='attribution', whose stimuli are pairs, got False.")
    if not blocking:
        raise InputError("`blocking` must be True with by='attribution', whose gradients are taken pass by pass.")
    return Attribution.of(contrast, **given)


def _choose_towers(model: Model, contrast: Contrast, towers: str | Sequence[str] | None) -> list[str]:
    """The towers whose units are tested, in forward order."""
    reached = model._executor.reached(contrast.stimuli)
    if towers is None:
        if not reached:
            what = contrast.stimuli[0].kind.replace("audio", "sound")
            raise InputError(
                f"{model.name} has no tower that these {what} stimuli reach; its towers are {', '.join(model.towers)}."
            )
        return reached
    requested = check_names("towers", towers, model.towers, f"towers of {model.name}")
    for name in requested:
        if name not in reached:
            modality = MODALITIES[model.towers[name].modality]
            bare = next((each for each in contrast.stimuli if not modality.is_in(each)), contrast.stimuli[0])
            lacks = {"image": "image", "audio": "sound", "text": "text"}[modality.name]
            raise InputError(f"Stimulus {bare.label} does not reach the {name} tower: it has no {lacks}.")
    return [name for name in model.towers if name in requested]


def _choose_spaces(model: Model, contrast: Contrast, towers: Sequence[str], units: str | Sequence[str]) -> list[str]:
    """Spaces of the towers, in the order of the model."""
    named = choose_spaces(model.spaces, units, model.name)
    chosen = [name for name in named if model.spaces[name].tower.name in towers]
    if not chosen:
        raise InputError(
            f"`units` must be in a tower that the stimuli reach and `towers` includes, got {units!r}, which are in "
            f"{', '.join(named)}."
        )
    return chosen


def _inspect(contrast: Contrast, *, progress: bool) -> list[str]:
    """Content digests of the stimuli; decodes all media, so that an unreadable file fails before the first pass."""
    from tqdm.auto import tqdm

    pictures = any(stimulus.n_images for stimulus in contrast.stimuli)
    media = any(stimulus.n_media for stimulus in contrast.stimuli)
    with ThreadPoolExecutor() as pool:
        checked = pool.map(lambda stimulus: stimulus.inspect().digest, contrast.stimuli)
        shown = tqdm(
            checked,
            total=len(contrast),
            desc="checking images" if pictures else "checking sounds",
            unit="stimulus",
            disable=not (progress and media),
            leave=False,
        )
        return list(shown)


def _folds_of(contrast: Contrast, digests: Sequence[str]) -> dict[str, int]:
    """The fold of each stimulus by its content; -1 where the same content is in several."""
    folds: dict[str, int] = {}
    for digest, fold in zip(digests, assign_folds(contrast.labels, N_FOLDS, items=contrast.items), strict=True):
        folds[digest] = int(fold) if folds.get(digest, int(fold)) == int(fold) else -1
    return folds


class _Sums:
    """Streaming moments per side and fold, per condition, and of the absolute activation."""

    def __init__(
        self, contrast: Contrast, design: Design, shapes: Mapping[str, tuple[int, int]], *, absolute: bool
    ) -> None:
        self.absolute = absolute
        self.labels = contrast.labels
        self.sides = contrast.sides
        self.folds = assign_folds(self.labels, N_FOLDS, items=contrast.items)
        self.sums = CrossSums(design, self.folds, N_FOLDS, shapes) if design.of_activations else None
        self.cross = None if self.sums is None else self.sums.cross
        self.by_side = {
            side: {tower: [Moments.zeros(shape) for _ in range(N_FOLDS)] for tower, shape in shapes.items()}
            for side in ("positive", "negative")
        }
        self.by_condition = {
            name: {tower: Moments.zeros(shape) for tower, shape in shapes.items()} for name in contrast.conditions
        }
        self.size = {tower: Moments.zeros(shape) for tower, shape in shapes.items()}

    def add(self, tower: str, indices: Sequence[int], activations: Float[np.ndarray, "stimulus layer dim"]) -> None:
        """Add the activations of one batch."""
        size = np.abs(activations)
        values = size if self.absolute else activations
        self.size[tower].update(size)
        for group, members in _groups((self.sides[i], int(self.folds[i])) for i in indices).items():
            side, fold = group
            self.by_side[side][tower][fold].update(values[members])
        for name, members in _groups(self.labels[i] for i in indices).items():
            self.by_condition[name][tower].update(values[members])
        if self.sums is not None:
            self.sums.add(tower, indices, values)


def _groups(keys: Iterator[Any]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return groups


def _run(setup: _Setup, prepared: Sequence[Prepared], batch_size: int | Literal["auto"], *, progress: bool) -> _Sums:
    """Run every stimulus once and reduce the activations batch by batch."""
    from tqdm.auto import tqdm

    contrast = setup.contrast
    shapes = {name: setup.model.spaces[name].shape for name in setup.towers}
    sums = _Sums(contrast, setup.design, shapes, absolute=setup.magnitude == "absolute")
    blocks = setup.design.blocks(prepared, sum(layers * width for layers, width in shapes.values()))
    with tqdm(total=len(contrast), desc="localizing", unit="stimulus", disable=not progress) as bar:
        for block in blocks:
            for step in setup.model._executor.stream(block, setup.towers, setup.tokens, batch_size=batch_size):
                for tower in step.activations:
                    sums.add(tower, step.indices, step.activations[tower].numpy())
                bar.update(len(step.indices))
                del step  # or it would be held while the next batch runs
    for tower, size in sums.size.items():
        if size.n != len(contrast):
            raise ModalnetError(
                f"{size.n} of {len(contrast)} stimuli were read in {tower}. Please report this as a bug."
            )
    return sums


def _read_parts(journal: Journal) -> Iterator[tuple[list[int], dict[str, dict[str, np.ndarray]]]]:
    """The moments that earlier jobs returned, without counting a stimulus twice."""
    taken: set[int] = set()
    for arrays, document in journal.read():
        # Another process may have written the same stimuli under this name.
        if taken.isdisjoint(document["indices"]):
            taken.update(document["indices"])
            sums: dict[str, dict[str, np.ndarray]] = {}
            for name, array in arrays.items():
                tower, _, what = name.partition("/")
                sums.setdefault(tower, {})[what] = array
            yield list(document["indices"]), sums


def _write_part(journal: Journal, indices: Sequence[int], sums: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    arrays = {f"{tower}/{what}": array for tower, found in sums.items() for what, array in found.items()}
    journal.write(arrays, {"kind": "part", "indices": list(indices)})


def _run_reduced(
    setup: _Setup,
    prepared: Sequence[Prepared],
    batch_size: int | Literal["auto"],
    journal: Journal,
    *,
    progress: bool,
) -> Tally:
    """Run every stimulus once and add up the moments that the backend returns."""
    from tqdm.auto import tqdm

    contrast, backend = setup.contrast, setup.model._executor.backend
    absolute = setup.magnitude == "absolute"
    tally, numbers, observations = _tally(setup)
    left = set(range(len(contrast)))
    with tqdm(total=len(contrast), desc="localizing", unit="stimulus", disable=not progress) as bar:

        def take(indices: Sequence[int], found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
            left.difference_update(indices)
            tally.add(found)
            bar.update(len(indices))

        for indices, found in _read_parts(journal):
            take(indices, found)
        with backend.telling(lambda state: bar.set_postfix_str(f"{state} on {backend.where()}")):
            for indices, moments in setup.model._executor.moments(
                [item for item in prepared if item.index in left],
                setup.towers,
                setup.tokens,
                numbers,
                absolute=absolute,
                observations=observations,
                batch_size=batch_size,
            ):
                arrays = {name: {what: value.numpy() for what, value in one.items()} for name, one in moments.items()}
                _write_part(journal, indices, arrays)
                take(indices, arrays)
    if left:
        raise ModalnetError(f"{len(left)} of {len(contrast)} stimuli were not read. Please report this as a bug.")
    return tally


def _tally(setup: _Setup) -> tuple[Tally, list[int], Observations | None]:
    """The accumulator of the moments of a server, the group of each stimulus, and what the test observes."""
    contrast, design = setup.contrast, setup.design
    shapes = {name: setup.model.spaces[name].shape for name in setup.towers}
    folds = assign_folds(contrast.labels, N_FOLDS, items=contrast.items)
    # Side, fold and condition: the finest groups of which statistics are reported.
    groups = list(zip(contrast.sides, folds.tolist(), contrast.labels, strict=True))
    names = sorted(set(groups))
    n_regressors = design.x.shape[1] if design.of_activations else None
    tally = Tally(names, shapes, N_FOLDS, n_regressors)
    return tally, [names.index(group) for group in groups], design.observations(folds, N_FOLDS)


def _submit(
    setup: _Setup,
    prepared: Sequence[Prepared],
    batch_size: int | Literal["auto"],
    slot: Slot,
    meta: dict[str, Any],
) -> LocalizationJob:
    """Write all jobs, submit them, and return the handle."""
    backend = setup.model._executor.backend
    assert isinstance(backend, DeferredBackend)
    tally, numbers, observations = _tally(setup)
    blobs: list[bytes] = []
    sent = setup.model._executor.moments(
        prepared,
        setup.towers,
        setup.tokens,
        numbers,
        absolute=setup.magnitude == "absolute",
        observations=observations,
        batch_size=batch_size,
        later=blobs,
    )
    for _ in sent:
        pass
    return LocalizationJob.submit(backend, tally=tally, meta=meta | setup.widths(), blobs=blobs, slot=slot)
