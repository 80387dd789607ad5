"""The functional localizer: from a model and a contrast to a statistic for every unit.

The stimuli run once. Each batch's activations are reduced to moments as they come (count, mean and spread per side, per
fold and per condition), and everything that is reported follows from those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from modalnet._version import __version__
from modalnet.errors import InputError, ModalnetError
from modalnet.execution.backends.choice import RemoteLike
from modalnet.execution.backends.protocol import DeferredBackend
from modalnet.interventions.positions import TokenChoice, TokensLike, choose
from modalnet.localization.job import LocalizationJob, Tally, made_of
from modalnet.localization.result import Localization
from modalnet.model import Model, as_model
from modalnet.models.fingerprint import encoded_texts, reads_weights_once
from modalnet.models.sites import RESIDUAL, choose_spaces
from modalnet.results.cache import Access, CacheLike, Journal, Slot, open_slot
from modalnet.stats.folds import assign_folds
from modalnet.stats.moments import Moments
from modalnet.stimuli.contrast import Contrast

if TYPE_CHECKING:
    from jaxtyping import Float

    from modalnet.inputs.batch import Prepared

N_FOLDS = 10

#: Published procedures by name: what each one fixes.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "alkhamissi2025": {"max_tokens": 12, "tokens": "last", "magnitude": "absolute", "raw": True},
}


@dataclass(frozen=True)
class _Question:
    """What is asked of a model, once every argument is resolved."""

    model: Model
    contrast: Contrast
    tokens: Mapping[str, TokenChoice]
    magnitude: str
    protocol: str | None

    @property
    def towers(self) -> list[str]:
        return list(self.tokens)

    def meta(self, prepared: Sequence[Prepared]) -> dict[str, Any]:
        """The JSON document that goes with the result."""
        choices = {name: choice if isinstance(choice, str) else list(choice) for name, choice in self.tokens.items()}
        return {
            "model": self.model.fingerprint(),
            "source": self.model.name,
            "contrast": {
                "name": self.contrast.name,
                "positive": list(self.contrast.positive),
                "negative": list(self.contrast.negative),
            },
            "tokens": choices,
            "magnitude": self.magnitude,
            "protocol": self.protocol,
            "paths": {name: list(self.model.spaces[name].paths) for name in self.towers},
            "text_tokens": self._text_tokens(prepared),
            "folds": N_FOLDS,
            "version": __version__,
        }

    def _text_tokens(self, prepared: Sequence[Prepared]) -> dict[str, float]:
        """Mean number of tokens of each condition's texts: sides that differ in it can differ because of it."""
        counts: dict[str, list[int]] = {}
        for stimulus, item in zip(self.contrast.stimuli, prepared, strict=True):
            if item.text_inputs is not None:
                counts.setdefault(stimulus.condition or "", []).append(len(item.text_inputs["input_ids"]))
        return {condition: float(np.mean(numbers)) for condition, numbers in counts.items()}

    def content(self, prepared: Sequence[Prepared], digests: Sequence[str]) -> dict[str, Any]:
        """What the stimuli are: their content, their labels, and what the model's encoder makes of them."""
        return {
            "digests": list(digests),
            "conditions": [stimulus.condition for stimulus in self.contrast.stimuli],
            "texts": encoded_texts(self.model.tokenizer, prepared),
        }


@overload
def localize(model: Any, contrast: Contrast, *, blocking: Literal[False], **options: Any) -> LocalizationJob: ...


@overload
def localize(model: Any, contrast: Contrast, *, blocking: Literal[True] = ..., **options: Any) -> Localization: ...


@reads_weights_once  # type: ignore[misc]
def localize(  # type: ignore[misc]  # the options are documented once, here
    model: Model | Any,
    contrast: Contrast,
    *,
    units: str | Sequence[str] = RESIDUAL,
    towers: str | Sequence[str] | None = None,
    tokens: TokensLike = None,
    magnitude: Literal["absolute", "signed"] = "absolute",
    protocol: str | None = None,
    batch_size: int | Literal["auto"] = "auto",
    remote: RemoteLike | None = None,
    blocking: bool = True,
    cache: CacheLike = True,
    progress: bool = True,
) -> Localization | LocalizationJob:
    """Find how strongly each unit prefers one side of a contrast.

    For every unit, Welch's t-test compares its activation on the positive stimuli with its activation on the negative
    ones. A unit is one dimension of the residual stream at a block's output; its activation on a stimulus is pooled
    over the chosen tokens in float32. The network is then a choice among the units, such as ``result.top(0.01)``.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`, or anything that it loads.
    contrast
        The stimuli and which conditions stand against which.
    units
        Which units to test: a kind of space (``"residual"``: the dimensions of the residual stream), the name of a
        space (see :attr:`modalnet.Model.spaces`), or a list of these.
    towers
        The towers to localize in; None for every tower that all of the stimuli reach (text alone does not reach a
        vision tower).
    tokens
        Which tokens to pool over, for all towers or per tower: ``"last"``, ``"mean"``, ``"image"``, ``"text"``,
        ``"cls"`` or indices; by default the last token in a decoder (the mean of its image tokens, where the stimuli
        are pictures without text) and the mean elsewhere.
    magnitude
        ``"absolute"`` compares |activation|, as the published procedure does; ``"signed"`` the activation itself.
    protocol
        ``"alkhamissi2025"`` reproduces the published procedure: text cut to 12 tokens, no chat template, last token,
        absolute activation. It fixes ``tokens`` and ``magnitude``, and needs text stimuli.
    batch_size
        Stimuli per forward pass; ``"auto"`` chooses it, and halves it when memory runs out.
    remote
        Where to run, as for :func:`modalnet.load`; None: where the model is. On a server the stimuli are sent in few
        jobs, and moments come back. With ``cache`` each finished job is kept, so that the same call, asked again after
        it failed, does not start from the beginning.
    blocking
        With False, and on a server, all jobs are sent and a handle comes back at once, with ``.id``, ``.status()`` and
        ``.result()``; :meth:`modalnet.LocalizationJob.from_id` finds it in another process.
    cache
        True keeps the result in the store and answers the same question from it without a forward pass; False does
        neither; a path is a store of your own.
    progress
        Show a progress bar.

    Returns
    -------
    Localization, or LocalizationJob with ``blocking=False``
        ``.t``, ``.p``, ``.q`` and ``.effect_size`` per tower as float64 ``[layer, dim]``; ``.top(...)`` and others
        select units.

    Raises
    ------
    InputError
        Where the contrast does not fit the model, or an argument is not known. Everything is checked before the first
        forward pass, images included.

    Notes
    -----
    The store knows a model by everything that decides its numbers, read anew at each call: weights, adapters, attention
    implementation, tokenizer, processor and chat template among it. A model that carries hooks, edits or replaced
    methods, or that draws random numbers in training mode, is neither looked up nor stored.
    A result in the store cannot be lost by a later failure, and a store that cannot be written costs a warning only.

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
    if not isinstance(contrast, Contrast):
        raise InputError(
            f"localize() takes a Contrast, got a {type(contrast).__name__}. Make one with modalnet.Contrast(stimuli, "
            "positive=..., negative=...) or modalnet.stimuli.language()."
        )
    access = Access.of(cache)
    model = as_model(model, remote)
    capabilities = model._executor.backend.capabilities
    if not blocking and not capabilities.deferred:
        raise InputError("blocking=False is for a model on a server: load it with remote=True, or leave blocking out.")
    settings = _settings(contrast, protocol, tokens, magnitude)
    prepared = model._executor.prepare(contrast.stimuli, max_tokens=settings["max_tokens"], raw=settings["raw"])
    names = _choose_spaces(model, contrast, _choose_towers(model, contrast, towers), units)
    pictures = model._executor.has_image_tokens and all(stimulus.text is None for stimulus in contrast.stimuli)
    choices = choose(settings["tokens"], [model.spaces[name] for name in names], pictures=pictures)
    for tower, choice in choices.items():
        if choice == "all":
            raise InputError(
                f'tokens="all" keeps the tokens of {tower} apart, but a unit has one value per stimulus. Use '
                '"mean" to pool over all of them.'
            )
    question = _Question(model, contrast, choices, settings["magnitude"], protocol)
    digests = _inspect(contrast, progress=progress)
    meta = question.meta(prepared) | {
        "max_tokens": settings["max_tokens"],
        "raw": settings["raw"],
        "stimuli": _folds_of(contrast, digests),
    }
    asked = {name: value for name, value in meta.items() if name != "source"}  # a folder may be renamed
    slot = open_slot(model, "localize", lambda: question.content(prepared, digests), asked, cache=access)
    found = slot.read(Localization)
    if found is not None:
        found.meta["source"] = model.name
        return found if blocking else LocalizationJob.done(found)
    if not blocking:
        return _submit(question, prepared, batch_size, slot, meta)
    sums: _Sums | Tally
    if capabilities.reduces:
        sums = _run_reduced(question, prepared, batch_size, slot.journal(), progress=progress)
    else:
        sums = _run(question, prepared, batch_size, progress=progress)
    made = made_of(sums, meta)
    slot.write(made)
    slot.journal().forget()
    return made


def _settings(contrast: Contrast, protocol: str | None, tokens: Any, magnitude: str) -> dict[str, Any]:
    """What a protocol fixes, or what the user asked for."""
    if magnitude not in ("absolute", "signed"):
        raise InputError(f'magnitude={magnitude!r} is not known. Give "absolute" or "signed".')
    if protocol is None:
        return {"max_tokens": None, "tokens": tokens, "magnitude": magnitude, "raw": False}
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol={protocol!r} is not known. The protocols are {', '.join(PROTOCOLS)}; None is ours.")
    if tokens not in (None, "last") or magnitude != PROTOCOLS[protocol]["magnitude"]:
        raise InputError(
            f"protocol={protocol!r} fixes tokens and magnitude. Leave them out, or leave out the protocol."
        )
    pictured = next((stimulus for stimulus in contrast.stimuli if stimulus.n_images), None)
    if pictured is not None:
        raise InputError(f"protocol={protocol!r} is defined for text; stimulus {pictured.label} has an image.")
    return dict(PROTOCOLS[protocol])


def _choose_towers(model: Model, contrast: Contrast, towers: Any) -> list[str]:
    reached = model._executor.reached(contrast.stimuli)
    if towers is None:
        if not reached:
            what = "text" if not contrast.stimuli[0].n_images else "image"
            raise InputError(
                f"{model.name} has no tower that these {what} stimuli reach; its towers are {', '.join(model.towers)}."
            )
        return reached
    if not isinstance(towers, str | list | tuple | set):
        raise InputError(f"towers={towers!r} is not known. Give a tower's name or a list: {', '.join(model.towers)}.")
    asked = [towers] if isinstance(towers, str) else list(towers)
    for name in asked:
        if name not in model.towers:
            raise InputError(f"there is no tower {name!r} in {model.name}; its towers are {', '.join(model.towers)}.")
        if name not in reached:
            bare = next((stimulus for stimulus in contrast.stimuli if not stimulus.n_images), contrast.stimuli[0])
            raise InputError(f"stimulus {bare.label} does not reach the {name} tower: it has no image.")
    if not asked:
        raise InputError(f"towers=[] names no tower; the towers are {', '.join(model.towers)}.")
    return [name for name in model.towers if name in asked]


def _choose_spaces(model: Model, contrast: Contrast, towers: Sequence[str], units: str | Sequence[str]) -> list[str]:
    """Spaces of the towers, in the order of the model."""
    named = choose_spaces(model.spaces, units, model.name)
    chosen = [name for name in named if model.spaces[name].tower.name in towers]
    if not chosen:
        raise InputError(
            f"units={units!r} are in {', '.join(named)}, which these stimuli do not reach or towers= leaves out."
        )
    return chosen


def _inspect(contrast: Contrast, *, progress: bool) -> list[str]:
    """Decode every image once, so that a broken one is found now and not hours later; returns content digests."""
    from tqdm.auto import tqdm

    pictures = any(stimulus.n_images for stimulus in contrast.stimuli)
    with ThreadPoolExecutor() as pool:
        checked = pool.map(lambda stimulus: stimulus.inspect().digest, contrast.stimuli)
        shown = tqdm(
            checked,
            total=len(contrast),
            desc="checking images",
            unit="stimulus",
            disable=not (progress and pictures),
            leave=False,
        )
        return list(shown)


def _folds_of(contrast: Contrast, digests: Sequence[str]) -> dict[str, int]:
    """The fold of each stimulus by its content; -1 where the same content stands in several."""
    folds: dict[str, int] = {}
    for digest, fold in zip(digests, assign_folds([s.condition or "" for s in contrast.stimuli], N_FOLDS), strict=True):
        folds[digest] = int(fold) if folds.get(digest, int(fold)) == int(fold) else -1
    return folds


class _Sums:
    """Moments per side and fold, per condition, and the mean absolute activation, growing batch by batch."""

    def __init__(self, contrast: Contrast, shapes: Mapping[str, tuple[int, int]], *, absolute: bool) -> None:
        self.absolute = absolute
        self.labels = [stimulus.condition or "" for stimulus in contrast.stimuli]
        self.sides = contrast.sides
        self.folds = assign_folds(self.labels, N_FOLDS)
        self.by_side = {
            side: {tower: [Moments.zeros(shape) for _ in range(N_FOLDS)] for tower, shape in shapes.items()}
            for side in ("positive", "negative")
        }
        self.by_condition = {
            name: {tower: Moments.zeros(shape) for tower, shape in shapes.items()} for name in contrast.conditions
        }
        self.size = {tower: Moments.zeros(shape) for tower, shape in shapes.items()}

    def add(self, tower: str, indices: Sequence[int], activations: Float[np.ndarray, "stimulus layer dim"]) -> None:
        """Take in the activations of one batch."""
        size = np.abs(activations)
        values = size if self.absolute else activations
        self.size[tower].update(size)
        for group, members in _groups((self.sides[i], int(self.folds[i])) for i in indices).items():
            side, fold = group
            self.by_side[side][tower][fold].update(values[members])
        for name, members in _groups(self.labels[i] for i in indices).items():
            self.by_condition[name][tower].update(values[members])

    @property
    def groups(self) -> list[tuple[str, int, str]]:
        """Side, fold and condition of each stimulus: the finest groups that anything is reported of."""
        return list(zip(self.sides, (int(fold) for fold in self.folds), self.labels, strict=True))


def _groups(keys: Iterator[Any]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return groups


def _run(
    question: _Question, prepared: Sequence[Prepared], batch_size: int | Literal["auto"], *, progress: bool
) -> _Sums:
    """Run every stimulus once and reduce its activations as they come."""
    from tqdm.auto import tqdm

    contrast = question.contrast
    shapes = {name: question.model.spaces[name].shape for name in question.towers}
    sums = _Sums(contrast, shapes, absolute=question.magnitude == "absolute")
    with tqdm(total=len(contrast), desc="localizing", unit="stimulus", disable=not progress) as bar:
        for step in question.model._executor.stream(prepared, question.towers, question.tokens, batch_size=batch_size):
            for tower, values in step.activations.items():
                sums.add(tower, step.indices, values.numpy())
            bar.update(len(step.indices))
    for tower, size in sums.size.items():
        if size.n != len(contrast):
            raise ModalnetError(
                f"{size.n} of {len(contrast)} stimuli were read in the {tower} tower. Please report it."
            )
    return sums


def _read_parts(journal: Journal) -> Iterator[tuple[list[int], dict[str, dict[str, np.ndarray]]]]:
    """The moments that earlier jobs brought back, none of which takes in a stimulus twice."""
    taken: set[int] = set()
    for arrays, document in journal.read():
        # Another process may have written a part of its own under this name.
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
    question: _Question,
    prepared: Sequence[Prepared],
    batch_size: int | Literal["auto"],
    journal: Journal,
    *,
    progress: bool,
) -> Tally:
    """Run every stimulus once, and take in the moments that the backend reduces them to."""
    from tqdm.auto import tqdm

    contrast, backend = question.contrast, question.model._executor.backend
    absolute = question.magnitude == "absolute"
    tally, numbers = _tally(question)
    left = set(range(len(contrast)))
    with tqdm(total=len(contrast), desc="localizing", unit="stimulus", disable=not progress) as bar:

        def take(indices: Sequence[int], found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
            left.difference_update(indices)
            tally.add(found)
            bar.update(len(indices))

        for indices, found in _read_parts(journal):
            take(indices, found)
        with backend.telling(lambda state: bar.set_postfix_str(f"{state} on {backend.where()}")):
            for indices, moments in question.model._executor.moments(
                [item for item in prepared if item.index in left],
                question.towers,
                question.tokens,
                numbers,
                absolute=absolute,
                batch_size=batch_size,
            ):
                arrays = {name: {what: value.numpy() for what, value in one.items()} for name, one in moments.items()}
                _write_part(journal, indices, arrays)
                take(indices, arrays)
    if left:
        raise ModalnetError(f"{len(left)} of {len(contrast)} stimuli were not read. Please report it.")
    return tally


def _tally(question: _Question) -> tuple[Tally, list[int]]:
    """What the moments of a server are added up in, and the group of each stimulus."""
    shapes = {name: question.model.spaces[name].shape for name in question.towers}
    groups = _Sums(question.contrast, shapes, absolute=question.magnitude == "absolute").groups
    names = sorted(set(groups))
    return Tally(names, shapes, N_FOLDS), [names.index(group) for group in groups]


def _submit(
    question: _Question,
    prepared: Sequence[Prepared],
    batch_size: int | Literal["auto"],
    slot: Slot,
    meta: dict[str, Any],
) -> LocalizationJob:
    """Write all jobs, send them, and hand out what asks for them."""
    backend = question.model._executor.backend
    assert isinstance(backend, DeferredBackend)
    tally, numbers = _tally(question)
    blobs: list[bytes] = []
    sent = question.model._executor.moments(
        prepared,
        question.towers,
        question.tokens,
        numbers,
        absolute=question.magnitude == "absolute",
        batch_size=batch_size,
        later=blobs,
    )
    for _ in sent:
        pass
    return LocalizationJob.submit(backend, tally=tally, meta=meta, blobs=blobs, slot=slot)
