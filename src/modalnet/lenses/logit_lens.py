"""The logit lens: what the model would say next if the stream of a layer were that of its last block.

For each layer and token, the stream takes the place of the last block's output, and the model's own final norm and head
make logits of it (:mod:`modalnet.execution.unembedding`). Beside this plain lens, a tuned one can be fitted
(:mod:`modalnet.lenses.tuned`). Both are compared with the model's own distribution at the same token of the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet._validation import check_int, check_shared, refusal
from modalnet._warnings import warn
from modalnet.errors import InputError
from modalnet.execution.token_locations import boxes_and_pictures
from modalnet.interventions.operations import Intervention, flatten
from modalnet.interventions.positions import (
    PerStimulus,
    StimulusTokens,
    TokenRow,
    choose_for_each,
    of_stimulus,
    places_in,
    shown,
)
from modalnet.lenses.result import Fit, Lens
from modalnet.lenses.tuned import Translators, check_enough, fit_translators
from modalnet.lenses.words import Word, as_words, token_names
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.models.sites import layers_of
from modalnet.results.cache import CacheLike, cached
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int

    from modalnet.execution.reading import TokenDistribution
    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

# Passes whose vectors are collected before they run, where each job of a backend has a cost.
PASSES_PER_JOB = 16


@reads_weights_once
def lens(  # interventions are the only ones by position
    model: Model,
    stimuli: Any,
    *interventions: Intervention | Sequence[Intervention],
    tokens: Any = "image",
    layers: Any = None,
    words: Any = (),
    k: int = 10,
    fit: Any = None,
    tower: str | None = None,
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> Lens:
    """Read the next tokens that each layer's residual stream predicts, at some tokens of stimuli.

    The stream of a layer takes the place of what the last block puts out, and the model's own final norm and LM head
    (with whatever scaling and capping it has) make a distribution of it. At the last layer that is the model's own,
    which is checked once per model.

    Parameters
    ----------
    model
        A model with an LM head; interventions of a view hold.
    stimuli
        One stimulus or several.
    *interventions
        Under which the model runs, as for :meth:`modalnet.Model.run`.
    tokens
        Where the stream is read: ``"image"``, ``"text"``, ``"last"``, ``"all"``, indices, a slice, a mask, or a list of
        these with one for each stimulus. Each token is read by itself.
    layers
        Blocks, such as ``[0, -1]``; None for all.
    words
        Words whose probability and rank are kept everywhere, whether likely or not: texts of a single token exactly as
        they are written after other text, which in most vocabularies means with a leading space (``" red"`` and
        ``"red"`` are two tokens), or token ids.
    k
        How many of the likeliest tokens are kept.
    fit
        Stimuli that a tuned lens is fitted on, at the same choice of tokens, in the model without the interventions of
        this call: best others than those that are read. None for the plain lens alone.
    tower
        The tower, whose stream must be what the LM head reads; None for that one.
    batch_size
        Number of stimuli per forward pass.
    remote
        Where the model runs: None for its default, or a value that :func:`modalnet.load` accepts.
    cache
        Whether the result is stored and reused.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Lens
        ``.table()``, ``.rank(word)``, ``.probability(word)`` ``[layer, place]``, ``.faithfulness()``, ``.plot()``, and
        over the image ``.plot(on="picture")``.

    Raises
    ------
    InputError
        Before any pass: for a model without LM head; a tower that does not lead to it; a stimulus without such tokens;
        a layer that does not exist; a word that is not one token; fewer than two stimuli to fit a lens on.
    ModalnetError
        Where more than the last block's output at a token decides the logits there.

    Notes
    -----
    A plain lens assumes that all layers speak the language of the last one. Early layers mostly do not, so that what it
    shows there is a lower bound of what they hold; a tuned lens shows more. Neither shows that the model uses it.

    References
    ----------
    nostalgebraist (2020). Interpreting GPT: the logit lens. LessWrong.

    Belrose, Furman, Smith, Halawi, Ostrovsky, McKinney, Biderman & Steinhardt (2023). Eliciting latent predictions from
    transformers with the tuned lens. arXiv:2303.08112 (there A and b by gradient descent on the divergence; here by
    ridge regression, see :mod:`modalnet.lenses.tuned`).

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> pairs = mn.patching.colour_pairs(1, size=64)  # a picture of a red circle, and its colour is asked for
    >>> found = mn.lens(model, pairs.clean, tokens="last", words="red", progress=False)
    >>> found.rank("red")["rank"].tolist()
    [1213, 4, 1, 1, 1, 1, 1, 1]
    """
    check_shared(batch_size=batch_size, cache=cache, progress=progress)
    model = as_model(model, remote)
    job = _Job.checked(model, stimuli, interventions, tokens, layers, words, k, fit, tower)
    inputs = {
        "name": model.name,
        "stimuli": [one.inspect().digest for one in job.given],
        "labels": [one.label for one in job.given],
        "fit": None if job.fit is None else [one.inspect().digest for one in job.fit],
    }
    settings = {
        "tokens": [list(places) for places in job.places],
        "fit_tokens": [list(places) for places in job.fit_places],
        "chosen": job.chosen,
        "layers": list(job.layers),
        "words": [[word.name, word.token] for word in job.words],
        "k": job.k,
        "tower": job.tower,
        # They are the view's; a lens is fitted without these.
        "n_interventions": len(job.added),
    }
    made = cached(
        job.view, "lens", inputs, settings, lambda: job.run(batch_size, progress=progress), result=Lens, cache=cache
    )
    if made.fit is not None and made.fit.n_read:
        warn(
            f"{made.fit.n_read} of the {len(job.given)} stimuli are among those that the tuned lens was fitted on, so "
            "its faithfulness is not measured on held-out stimuli. Give others as `fit`."
        )
    return made


@dataclass(frozen=True)
class _Job:
    """What is to be done, checked.

    Attributes
    ----------
    model, view
        The model, and the same under the interventions of the call.
    added
        Those.
    given, rows, places
        The stimuli, their tokens, and which of these are read.
    fit, fit_places
        The stimuli of the tuned lens, and which of their tokens.
    tower, layers
        Of the stream that is read.
    words, k
        What is kept.
    chosen
        The choice of tokens, in words.
    """

    model: Model
    view: Model
    added: tuple[Intervention, ...]
    given: Sequence[Stimulus]
    rows: Sequence[TokenRow]
    places: tuple[tuple[int, ...], ...]
    fit: Sequence[Stimulus] | None
    fit_places: tuple[tuple[int, ...], ...]
    tower: str
    layers: tuple[int, ...]
    words: tuple[Word, ...]
    k: int
    chosen: str

    @classmethod
    def checked(  # noqa: PLR0917  # as they were given to one public function
        cls,
        model: Model,
        stimuli: Any,
        interventions: Sequence[Any],
        tokens: Any,
        layers: Any,
        words: Any,
        k: Any,
        fit: Any,
        tower: Any,
    ) -> _Job:
        executor, given = model._executor, as_stimuli(stimuli)
        vocabulary = _vocabulary(model)
        name = _tower(model, tower)
        space = executor.spaces[name]
        chosen_layers = tuple(sorted(set(layers_of(space, layers))))
        if not chosen_layers:
            raise refusal("layers", f"at least one of the layers 0..{space.n_layers - 1}", layers)
        check_int("k", k, minimum=1, maximum=vocabulary)
        named = as_words(model, words, vocabulary)
        added = tuple(flatten(interventions))
        view = model.with_(*added) if added else model
        choice = choose_for_each(tokens, [space], causal=executor.is_causal)[name]
        if choice == "mean":
            raise InputError('`tokens` must not be "mean", as a lens reads each token by itself. Use "all".')
        rows, places = _tokens(model, given, name, choice)
        others: Sequence[Stimulus] | None = None
        fit_places: tuple[tuple[int, ...], ...] = ()
        if fit is not None:
            others = as_stimuli(fit, "fit")
            check_enough(len(others))
            if isinstance(choice, PerStimulus):
                raise InputError("`tokens` must be one choice for all stimuli where `fit` is given, got one for each.")
            _, fit_places = _tokens(model, others, name, choice)
        return cls(
            model,
            view,
            added,
            given,
            rows,
            places,
            others,
            fit_places,
            name,
            chosen_layers,
            named,
            k,
            shown(choice),
        )

    @property
    def last(self) -> int:
        """The last block."""
        return self.model.towers[self.tower].n_layers - 1

    @property
    def early(self) -> tuple[int, ...]:
        """The layers before it, which a lens can be tuned for."""
        return tuple(layer for layer in self.layers if layer != self.last)

    def run(self, batch_size: int | Literal["auto"], *, progress: bool) -> Lens:
        """Fit a lens where one is wanted, and read the stimuli."""
        from tqdm.auto import tqdm

        executor = self.model._executor
        executor.unembedding.check(executor.prepare(self.given[:1])[0])
        translators = None
        if self.fit is not None and self.early:
            found = self._streams(self.model, self.fit, self.fit_places, batch_size)
            fitted = tqdm(found, total=len(self.fit), desc="fit", unit="stimulus", disable=not progress)
            translators = fit_translators(iter(fitted), len(self.fit), self.early)
        gathered = _Gathered.empty(self, tuned=self.fit is not None)
        self._read(gathered, translators, batch_size, progress=progress)
        return gathered.result(self, translators)

    def _streams(
        self,
        model: Model,
        stimuli: Sequence[Stimulus],
        places: Sequence[tuple[int, ...]],
        batch_size: int | Literal["auto"],
    ) -> Iterator[tuple[int, Float[torch.Tensor, "layer token dim"]]]:
        """The index of each stimulus with its stream at the early layers and then at the last block; not in order."""
        layers = {self.tower: [*self.early, self.last]}
        read = model._executor.read_apart(stimuli, layers, PerStimulus(tuple(places)), 0, batch_size=batch_size)
        for index, found in read:
            yield index, found[self.tower].float()

    def _read(
        self,
        gathered: _Gathered,
        translators: Translators | None,
        batch_size: int | Literal["auto"],
        *,
        progress: bool,
    ) -> None:
        """Put the streams of a few stimuli after the others through the head."""
        import torch
        from tqdm.auto import tqdm

        unembedding = self.model._executor.unembedding
        tokens = torch.tensor([word.token for word in self.words], dtype=torch.long)
        jobs = self.model._executor.backend.capabilities.jobs
        most = unembedding.rows_at_once * (PASSES_PER_JOB if jobs else 1)
        waiting: list[tuple[int, torch.Tensor]] = []
        n_early = len(self.early)

        def flush() -> None:
            vectors = torch.cat([part for _, part in waiting])
            where = np.concatenate([gathered.places_of(index) for index, _ in waiting])
            for part in unembedding.distributions(vectors, self.k, tokens, n_early):
                here, where = np.split(where, [len(part.divergence) // vectors.shape[1]])
                gathered.put(here, part)
            waiting.clear()

        with tqdm(total=len(self.given), unit="stimulus", disable=not progress) as bar:
            for index, streams in self._streams(self.view, self.given, self.places, batch_size):
                rows = streams if translators is None else torch.cat([streams, translators(streams[:n_early])])
                waiting.append((index, rows.transpose(0, 1)))
                if sum(part.shape[0] * part.shape[1] for _, part in waiting) >= most:
                    flush()
                bar.update()
            if waiting:
                flush()


@dataclass(frozen=True, eq=False)
class _Gathered:
    """The arrays of a lens while they are filled.

    Attributes
    ----------
    starts
        The first place of each stimulus, and the number of all places.
    arrays
        By the name of a field of a TokenDistribution, ``[row, place, ...]``: rows are the early layers, the last block,
        and the early layers of the tuned lens.
    """

    starts: Int[np.ndarray, " stimulus_and_end"]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    tuned: bool = False

    @classmethod
    def empty(cls, job: _Job, *, tuned: bool) -> _Gathered:
        starts = np.concatenate([[0], np.cumsum([len(places) for places in job.places])])
        shape = len(job.early) * (2 if tuned else 1) + 1, int(starts[-1])
        n_words = len(job.words)
        arrays: dict[str, np.ndarray] = {
            "ids": np.zeros((*shape, job.k), dtype=np.int32),
            "logprob": np.zeros((*shape, job.k), dtype=np.float32),
            "token_logprob": np.zeros((*shape, n_words), dtype=np.float32),
            "token_rank": np.zeros((*shape, n_words), dtype=np.int32),
            "divergence": np.zeros(shape, dtype=np.float32),
        }
        return cls(starts, arrays, tuned)

    def places_of(self, index: int) -> Int[np.ndarray, " place"]:
        return np.arange(self.starts[index], self.starts[index + 1])

    def put(self, where: Int[np.ndarray, " place"], part: TokenDistribution) -> None:
        for name, array in self.arrays.items():
            values = getattr(part, name).numpy()
            array[:, where] = np.swapaxes(values.reshape(len(where), len(array), *values.shape[1:]), 0, 1)

    def result(self, job: _Job, translators: Translators | None) -> Lens:
        n_early = len(job.early)
        kept = [*range(n_early), *([n_early] if job.last in job.layers else [])]
        rows = [kept]
        if self.tuned:  # at the last block there is nothing to tune
            rows.append([place if place == n_early else n_early + 1 + place for place in kept])
        arrays = {name: array[np.array(rows)] for name, array in self.arrays.items()}
        boxes, pictures = _pictures(job)
        at = [job.rows[index].names[place] for index, places in enumerate(job.places) for place in places]
        return Lens(
            model=job.model.name,
            tower=job.tower,
            interventions=tuple(map(str, (*job.view.interventions,))),
            tokens=job.chosen,
            labels=tuple(one.label for one in job.given),
            layers=job.layers,
            lenses=("plain", "tuned") if self.tuned else ("plain",),
            stimulus=np.repeat(np.arange(len(job.given)), np.diff(self.starts)),
            position=np.array([place for places in job.places for place in places], dtype=np.int64),
            at=tuple(at),
            ids=arrays["ids"],
            probabilities=np.exp(arrays["logprob"]),
            divergence=arrays["divergence"],
            names=token_names(job.model, np.unique(arrays["ids"]).tolist()),
            words={word.name: word.token for word in job.words},
            word_probabilities=np.exp(arrays["token_logprob"]),
            word_ranks=arrays["token_rank"],
            fit=_fit(job, translators) if self.tuned else None,
            boxes=boxes,
            pictures=pictures,
        )


def _fit(job: _Job, translators: Translators | None) -> Fit:
    assert job.fit is not None
    held = {one.inspect().digest for one in job.fit}
    n_read = sum(one.inspect().digest in held for one in job.given)
    n_tokens = sum(map(len, job.fit_places)) if translators is None else translators.n_tokens
    return Fit(len(job.fit), n_tokens, n_read, () if translators is None else translators.penalties)


def _pictures(job: _Job) -> tuple[Float[np.ndarray, "place 4"] | None, dict[int, np.ndarray]]:
    """Where in its image each place is, and the images; none where that is not known."""
    boxes, pictures = boxes_and_pictures(job.model._executor.image_places, job.given, job.rows, job.places, job.tower)
    if not pictures:
        return None, {}
    unknown = [np.full((len(places), 4), np.nan) for places in job.places]
    return np.concatenate([boxes.get(index, none) for index, none in enumerate(unknown)]), pictures


def _vocabulary(model: Model) -> int:
    """The number of tokens that the LM head knows; an InputError where there is no head."""
    engine = model._executor.engine
    engine.head()
    return engine.vocabulary


def _tower(model: Model, tower: Any) -> str:
    """The tower whose stream the LM head reads."""
    name = model._executor.encoder.text_tower
    if tower is None or tower == name:
        return name
    if tower not in model.towers:
        raise InputError(f"`tower` must be a tower of {model.name} ({', '.join(model.towers)}), got {tower!r:.100}.")
    width, wanted = model.towers[tower].width, model.towers[name].width
    raise InputError(
        f"`tower` must be {name!r}, whose stream (width {wanted}) is what the LM head of {model.name} reads, got "
        f"{tower!r} (width {width}): its stream does not reach the head. Read its tokens where they arrive in the "
        f'{name}, such as with tokens="image".'
    )


def _tokens(
    model: Model, stimuli: Sequence[Stimulus], tower: str, choice: StimulusTokens
) -> tuple[list[TokenRow], tuple[tuple[int, ...], ...]]:
    """The tokens of each stimulus, and which of them are read."""
    if isinstance(choice, PerStimulus) and len(choice.each) != len(stimuli):
        raise InputError(f"`tokens` has a list of {len(choice.each)} choices, but there are {len(stimuli)} stimuli.")
    rows = [row[tower] for row in model._executor.token_rows(stimuli, [tower])]
    places = [
        tuple(places_in(of_stimulus(choice, index), row, tower=tower, label=one.label))
        for index, (one, row) in enumerate(zip(stimuli, rows, strict=True))
    ]
    return rows, tuple(places)
