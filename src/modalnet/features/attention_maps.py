"""Which source tokens some tokens attend to: attention weights, and where the sources are in the picture.

Weights are read under eager attention, one stimulus after another (:meth:`modalnet.Model.run` gives all of them); here
only those between two groups of tokens are kept, with what share of the attention they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._validation import check_shared, check_type, refusal
from modalnet.errors import InputError
from modalnet.execution.knockouts import places_of
from modalnet.execution.token_locations import boxes_and_pictures
from modalnet.features.attention_result import AttentionMaps
from modalnet.interventions.edges import EdgeTokens, EdgeTokensLike, Regions, check_edge_tokens, named
from modalnet.interventions.knockout import check_heads
from modalnet.interventions.operations import Intervention, flatten
from modalnet.interventions.positions import PerStimulus, TokenRow
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.models.sites import layers_of
from modalnet.results.cache import CacheLike, cached
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus


@reads_weights_once
def attention_maps(
    model: Model,
    stimuli: Any,
    *interventions: Intervention | Sequence[Intervention],
    source: EdgeTokensLike = "image",
    target: EdgeTokensLike = "last",
    tower: str = "decoder",
    layers: Any = None,
    heads: str | int | Iterable[int] = "mean",
    cache: CacheLike = True,
    progress: bool = True,
) -> AttentionMaps:
    """Read how much some tokens attend to others, such as the last token to the picture.

    Parameters
    ----------
    model
        A model from :func:`modalnet.load`, with its weights here; interventions of a view hold.
    stimuli
        One stimulus or several.
    *interventions
        Under which the model runs, as for :meth:`modalnet.Model.run`.
    source, target
        The tokens that are attended to, and those that attend to them: groups as for :func:`modalnet.knockout`
        (``"image"``, ``"text"``, ``"question"``, ``"last"``, ``"cls"``, ``"all"``, indices, a region of the picture,
        or one of these for each stimulus).
    tower
        Whose attention: in a vision tower best with ``target="cls"``, where it has a class token.
    layers
        Blocks, such as ``[0, -1]``; None for all in which tokens attend to each other (cross-attention is left out).
    heads
        ``"mean"`` for the mean over heads, ``"each"``, or numbers of heads.
    cache
        Whether the result is stored and reused.
    progress
        Whether to show a progress bar.

    Returns
    -------
    AttentionMaps
        ``.weights`` ``[layer, head, target, source]`` per stimulus, ``.share`` ``[stimulus, layer, head]``,
        ``.table()``, ``.summary()``, and over the picture ``.plot()``.

    Raises
    ------
    InputError
        For tokens that a stimulus does not have; a tower without attention heads, or that the stimuli do not reach; a
        layer or head that it does not have; an attention that does not give its weights; a model on a server.

    Notes
    -----
    Attention weights say where a token reads, and not what it takes from there, nor that the answer needs it: values
    may be small where weights are large, and much attention rests on sink tokens that carry little (Jain & Wallace
    2019). Test it with :func:`modalnet.knockout` or :func:`modalnet.information_flow`.

    References
    ----------
    Caron, Touvron, Misra, Jégou, Mairal, Bojanowski & Joulin (2021). Emerging properties in self-supervised vision
    transformers. ICCV. (Attention of the class token over the picture.)

    Jain & Wallace (2019). Attention is not explanation. NAACL.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> pairs = mn.patching.colour_pairs(1, size=64)  # a picture of a red circle, and its colour is asked for
    >>> found = mn.features.attention_maps(model, pairs.clean, progress=False)
    >>> found.weights[0].shape, found.share.shape
    ((8, 1, 1, 64), (1, 8, 1))
    """
    check_shared(cache=cache, progress=progress)
    model = as_model(model)
    job = _Job.checked(model, as_stimuli(stimuli), interventions, source, target, tower, layers, heads)
    inputs = {
        "name": model.name,
        "stimuli": [one.inspect().digest for one in job.given],
        "labels": [one.label for one in job.given],
    }
    settings = {
        "tower": tower,
        "layers": None if job.layers is None else list(job.layers),
        "heads": job.heads if isinstance(job.heads, str) else list(job.heads),
        "targets": [list(places) for places in job.targets],
        "sources": [list(places) for places in job.sources],
        "named": list(job.named),
    }
    return cached(
        job.view,
        "attention_maps",
        inputs,
        settings,
        lambda: job.run(progress=progress),
        result=AttentionMaps,
        cache=cache,
    )


@dataclass(frozen=True)
class _Job:
    """What is read, checked.

    Attributes
    ----------
    view
        The model under the interventions of the call.
    given, rows, targets, sources
        The stimuli, their tokens, and which of these attend and are attended to.
    named
        Source and target in words.
    """

    view: Model
    given: Sequence[Stimulus]
    rows: Sequence[TokenRow]
    targets: Sequence[Sequence[int]]
    sources: Sequence[Sequence[int]]
    named: tuple[str, ...]
    tower: str
    layers: tuple[int, ...] | None
    heads: str | tuple[int, ...]

    @classmethod
    def checked(  # noqa: PLR0917  # as they were given to one public function
        cls,
        model: Model,
        given: Sequence[Stimulus],
        interventions: Sequence[Any],
        source: Any,
        target: Any,
        tower: Any,
        layers: Any,
        heads: Any,
    ) -> _Job:
        ends = check_edge_tokens("source", source), check_edge_tokens("target", target)
        for name, end in zip(("source", "target"), ends, strict=True):
            if isinstance(end, PerStimulus | Regions) and len(end.each) != len(given):
                raise InputError(f"`{name}` has tokens for {len(end.each)} stimuli, but there are {len(given)}.")
        if isinstance(heads, str) and heads not in {"mean", "each"}:
            raise refusal("heads", "'mean', 'each', or numbers of attention heads", heads)
        chosen = heads if isinstance(heads, str) else check_heads(heads)
        if chosen is None:
            raise refusal("heads", "'mean', 'each', or numbers of attention heads", heads)
        check_type("tower", tower, str, "the name of a tower")
        executor = model._executor
        executor.check_reads_attention()
        if tower not in model.towers:
            raise InputError(f"`tower` must be one of {', '.join(model.towers)}, got {tower!r}.")
        if f"{tower}.heads" not in executor.spaces:
            raise InputError(
                f"The {tower} tower of {model.name} has no attention heads, so it has no attention weights."
            )
        if tower not in executor.reached(given):
            raise InputError(f"The {tower} tower of {model.name} is not reached by every one of these stimuli.")
        numbers = None if layers is None else tuple(sorted(set(layers_of(executor.spaces[tower], layers))))
        if numbers == ():
            raise refusal("layers", f"at least one of the layers 0..{model.towers[tower].n_layers - 1}", layers)
        rows = [row[tower] for row in executor.token_rows(given, [tower])]
        sources, targets = (
            [
                places_of(name, end, model.towers[tower], one, row, index, executor.image_places)
                for index, (one, row) in enumerate(zip(given, rows, strict=True))
            ]
            for name, end in zip(("`source`", "`target`"), ends, strict=True)
        )
        added = tuple(flatten(interventions))
        view = model.with_(*added) if added else model
        return cls(view, given, rows, targets, sources, tuple(map(_in_words, ends)), tower, numbers, chosen)

    def run(self, *, progress: bool) -> AttentionMaps:
        """Read the weights of every stimulus."""
        from tqdm.auto import tqdm

        executor = self.view._executor
        layers = self._layers()
        picked = list(self.heads) if isinstance(self.heads, tuple) else None
        with tqdm(total=len(self.given), unit="stimulus", disable=not progress) as bar:
            read = executor.attention(
                self.given,
                self.tower,
                layers,
                ends=lambda index, _: (self.targets[index], self.sources[index]),
                mean=self.heads == "mean",
                done=bar.update,
            )
            weights = [(found if picked is None else found[:, picked]).numpy() for found in read]
        boxes, pictures = boxes_and_pictures(executor.image_places, self.given, self.rows, self.sources, self.tower)
        n_heads = weights[0].shape[1]
        return AttentionMaps(
            model=self.view.name,
            tower=self.tower,
            interventions=tuple(map(str, self.view.interventions)),
            source=self.named[0],
            target=self.named[1],
            labels=tuple(one.label for one in self.given),
            layers=layers,
            heads=()
            if self.heads == "mean"
            else self.heads
            if isinstance(self.heads, tuple)
            else tuple(range(n_heads)),
            weights=tuple(weights),
            sources=tuple(np.array(places, dtype=np.int64) for places in self.sources),
            targets=tuple(np.array(places, dtype=np.int64) for places in self.targets),
            source_names=tuple(
                tuple(row.names[place] for place in places) for row, places in zip(self.rows, self.sources, strict=True)
            ),
            target_names=tuple(
                tuple(row.names[place] for place in places) for row, places in zip(self.rows, self.targets, strict=True)
            ),
            n_tokens=np.array([len(row) for row in self.rows], dtype=np.int64),
            boxes=boxes,
            pictures=pictures,
        )

    def _layers(self) -> tuple[int, ...]:
        """The layers that are read; an InputError for one without attention, or without one of the heads."""
        executor = self.view._executor
        known = executor.attention_layers(self.given, self.tower)
        layers = known if self.layers is None else self.layers
        space = executor.spaces[f"{self.tower}.heads"]
        for layer in layers:
            space.place(layer)  # says why a layer has no attention
        if isinstance(self.heads, tuple):
            least = min(space.widths[layer] for layer in layers)
            if self.heads[-1] >= least:
                raise InputError(
                    f"`heads`: there is no head {self.heads[-1]} in these layers; heads are 0..{least - 1}."
                )
        return tuple(layers)


def _in_words(tokens: EdgeTokens) -> str:
    return "last token" if tokens == "last" else named(tokens)
