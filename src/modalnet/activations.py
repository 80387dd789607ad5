"""What units do on stimuli, stimulus by stimulus, for the analyses that need every one of them.

A localization reduces activations as they come; a response profile, an encoding model or a decoder needs one row per
stimulus. They are read once, at whole blocks, and kept in the store under the model and the stimuli, so that other
units, other responses and other questions cost no forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_batch_size, check_bool, check_int, check_seed
from modalnet.errors import InputError
from modalnet.execution.token_statistics import draw_donors, read_statistics
from modalnet.interventions.positions import TokenChoice, choose
from modalnet.interventions.read_values import ReadValues
from modalnet.model import as_model
from modalnet.models.fingerprint import encoded_texts, reads_weights_once
from modalnet.models.sites import choose_spaces, get_space
from modalnet.results.cache import CacheLike, cached
from modalnet.stimuli.conversion import StimuliLike, as_stimuli
from modalnet.units import Units

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

LARGEST = 1 << 29  # bytes of activations that the store is asked to keep


class Selection(Protocol):
    """How units were selected, and a way to select without some of the stimuli, so that these can be held out.

    Attributes
    ----------
    n_folds
        Into how many folds its stimuli were dealt.
    reading
        How it read the units: ``"tokens"``, ``"magnitude"``, ``"max_tokens"`` and ``"raw"``.
    """

    @property
    def n_folds(self) -> int: ...

    @property
    def reading(self) -> Mapping[str, Any]: ...

    def fold_of(self, digest: str) -> int | None:
        """The fold of a stimulus by its content digest; -1 where it stands in several, None where in none."""
        ...

    def without(self, *folds: int) -> Units:
        """The units that the same choice selects from the stimuli of the other folds."""
        ...


def selection_of(units: Units) -> Selection | None:
    """How units were selected; None where it is not known, as for units of a file or of set algebra."""
    return getattr(units, "selection", None)


def reading_of(units: Units) -> dict[str, Any]:
    """How the units were read when they were selected (see :class:`Selection`); empty where it is not known."""
    selection = selection_of(units)
    return {} if selection is None else dict(selection.reading)


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of whole layers.

    Attributes
    ----------
    values
        Per space, float32 [stimulus, layer, unit].
    layers
        Per space, which layers the layer axis holds.
    """

    values: dict[str, Float[np.ndarray, "stimulus layer dim"]]
    layers: dict[str, tuple[int, ...]]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the activations as arrays and a JSON document."""
        layers = {tower: list(blocks) for tower, blocks in self.layers.items()}
        return dict(self.values), {"kind": "activations", "layers": layers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> Activations:
        """Make activations from what :meth:`to_arrays` returned."""
        layers = {tower: tuple(blocks) for tower, blocks in document["layers"].items()}
        return cls({tower: arrays[tower] for tower in layers}, layers)

    def of(self, units: Units) -> Float[np.ndarray, "stimulus unit"]:
        """The activations of some units, in the order of :meth:`Units.indices`.

        Raises
        ------
        InputError
            If a unit lies in a block that was not read.
        """
        parts = []
        for tower, mask in units.mask.items():
            for layer in np.flatnonzero(mask.any(axis=1)).tolist():
                if layer not in self.layers.get(tower, ()):
                    raise InputError(f"Layer {layer} of {tower} was not read.")
                parts.append(self.values[tower][:, self.layers[tower].index(layer), mask[layer]])
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(self), 0), dtype=np.float32)


@reads_weights_once
def read_activations(
    model: Model,
    stimuli: Sequence[Stimulus],
    layers: Mapping[str, Sequence[int]],
    *,
    tokens: Any = None,
    max_tokens: int | None = None,
    raw: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    cache: CacheLike = True,
    progress: bool = True,
    what: str = "reading",
) -> Activations:
    """Run stimuli once and keep what some blocks put out, pooled over tokens.

    Parameters
    ----------
    model, stimuli
        What runs.
    layers
        Space → its layers to be read.
    tokens
        As for :func:`modalnet.localize`: None is the last token in a decoder (the mean of the image tokens, where the
        stimuli are pictures alone) and the mean elsewhere.
    max_tokens, raw
        As for :meth:`modalnet.execution.executor.Executor.prepare`.
    batch_size, progress
        As for :func:`modalnet.localize`.
    cache
        Keep the activations in the store, unless they take more than half a gigabyte, and answer from there.
    what
        The word on the progress bar.

    Raises
    ------
    InputError
        For towers that the stimuli do not reach, and as for :meth:`modalnet.Model.run`.
    """
    from tqdm.auto import tqdm

    reached = model._executor.reached(stimuli)
    for tower in (get_space(model.spaces, name, model.name).tower for name in layers):
        if tower.name not in reached:
            raise InputError(
                f"Not all of these {len(stimuli)} stimuli reach the {tower.name} tower of {model.name}: give stimuli "
                f"with {tower.noun}, or units of {', '.join(reached) or 'another tower'}."
            )
    wanted = {name: tuple(sorted(set(layers[name]))) for name in model.spaces if layers.get(name)}
    alone = model._executor.alone(stimuli)
    towers = {model.spaces[name].tower.name for name in wanted}
    given = (
        {name: one for name, one in tokens.items() if name in towers.union(wanted)}
        if isinstance(tokens, Mapping)
        else tokens
    )
    causal = model._executor.is_causal
    choices = choose(given or None, [model.spaces[name] for name in wanted], alone=alone, causal=causal)
    for name, choice in choices.items():
        if choice == "all":
            raise InputError(f'tokens="all" keeps the tokens of {name} apart. Use "mean" to pool over them.')
    prepared = model._executor.prepare(stimuli, max_tokens=max_tokens, raw=raw)
    size = sum(len(stimuli) * len(blocks) * model.spaces[tower].width * 4 for tower, blocks in wanted.items())

    def compute() -> Activations:
        values = {
            tower: np.empty((len(stimuli), len(blocks), model.spaces[tower].width), dtype=np.float32)
            for tower, blocks in wanted.items()
        }
        with tqdm(total=len(stimuli), desc=what, unit="stimulus", disable=not progress) as bar:
            for step in model._executor.stream(prepared, wanted, choices, batch_size=batch_size):
                for name in step.activations:
                    values[name][list(step.indices)] = step.activations[name].numpy()
                bar.update(len(step.indices))
                del step  # or it would be held while the next batch runs
        return Activations(values, wanted)

    return cached(
        model,
        "activations",
        lambda: {
            "stimuli": [stimulus.inspect().digest for stimulus in stimuli],
            "texts": encoded_texts(model.tokenizer, prepared),
        },
        {
            "layers": wanted,
            "tokens": {name: one if isinstance(one, str) else list(one) for name, one in choices.items()},
            "max_tokens": max_tokens,
            "raw": raw,
        },
        compute,
        result=Activations,
        cache=cache if size <= LARGEST else False,
    )


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """How active units are at ordinary tokens, and at sink tokens.

    Attributes
    ----------
    mean, sd, mean_abs
        Per space, float64 ``[layer, unit]``: mean, standard deviation and mean absolute activation over tokens. Each
        stimulus has the same weight: the mean is that over stimuli of the means over their tokens, and the deviation is
        from it.
    sink_mean_abs
        The same mean absolute activation at sink tokens; NaN where there is none.
    n_stimuli
        Per space, the number of stimuli that have a token left.
    n_tokens, n_sinks
        Per space, the number of tokens and of sink tokens in all, at the first layer.
    """

    mean: dict[str, Float[np.ndarray, "layer unit"]]
    sd: dict[str, Float[np.ndarray, "layer unit"]]
    mean_abs: dict[str, Float[np.ndarray, "layer unit"]]
    sink_mean_abs: dict[str, Float[np.ndarray, "layer unit"]]
    n_stimuli: dict[str, int]
    n_tokens: dict[str, int]
    n_sinks: dict[str, int]

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the statistics as arrays and a JSON document."""
        arrays = {f"{kind}/{space}": values for kind in _KINDS for space, values in getattr(self, kind).items()}
        return arrays, {"kind": "token_statistics", **{kind: getattr(self, kind) for kind in _COUNTS}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> TokenStatistics:
        """Make statistics from what :meth:`to_arrays` returned."""
        spaces = list(document["n_stimuli"])
        values: dict[str, Any] = {kind: {space: arrays[f"{kind}/{space}"] for space in spaces} for kind in _KINDS}
        return cls(**values, **{kind: dict(document[kind]) for kind in _COUNTS})


_KINDS = ("mean", "sd", "mean_abs", "sink_mean_abs")
_COUNTS = ("n_stimuli", "n_tokens", "n_sinks")


@reads_weights_once
def token_statistics(
    model: Model,
    stimuli: StimuliLike,
    spaces: str | Sequence[str] | None = None,
    *,
    continuations: Sequence[str] | None = None,
    tokens: Any = "all",
    spare_first: int = 0,
    spare_sinks: bool = True,
    batch_size: int | Literal["auto"] = "auto",
    cache: CacheLike = True,
) -> TokenStatistics:
    """Mean, spread and mean absolute activation of every unit over the tokens of stimuli, without sink tokens.

    Parameters
    ----------
    model
        The model; interventions of a view hold.
    stimuli
        One stimulus or several.
    spaces
        The name of a space or a list of names; None for the residual stream of every tower that all stimuli reach.
    continuations
        One text per stimulus, written straight after it and read with it.
    tokens, spare_first
        As for an intervention's ``at``; ``tokens`` for all spaces or per space.
    spare_sinks
        Leave sink tokens (:func:`modalnet.sink_tokens`) out of ``mean``, ``sd`` and ``mean_abs``.
    batch_size, cache
        As for :func:`modalnet.localize`.

    Returns
    -------
    TokenStatistics
        A stimulus without a token left is left out.

    Raises
    ------
    InputError
        As for :meth:`modalnet.Model.run`; where the continuations are not one per stimulus, or no stimulus has a token
        left.
    """
    model = as_model(model)
    given = as_stimuli(stimuli)
    check_batch_size(batch_size)
    check_int("spare_first", spare_first, minimum=0)
    check_bool("spare_sinks", spare_sinks)
    names = _reached(model, given, spaces)
    choices: dict[str, TokenChoice] = {
        name: "mean" if choice == "all" else choice
        for name, choice in choose(
            tokens, [model.spaces[name] for name in names], causal=model._executor.is_causal
        ).items()
    }
    prepared = model._executor.encoder.prepare(given, continuations=_one_each(given, continuations))

    def compute() -> TokenStatistics:
        parts = read_statistics(
            model._executor, prepared, choices, spare_first, spare_sinks=spare_sinks, batch_size=batch_size
        )
        kinds = (*_KINDS, *_COUNTS)
        return TokenStatistics(**{kind: {name: getattr(part, kind) for name, part in parts.items()} for kind in kinds})

    found = cached(
        model,
        "token_statistics",
        lambda: {
            "stimuli": [stimulus.inspect().digest for stimulus in given],
            "continuations": None if continuations is None else list(continuations),
            "texts": encoded_texts(model.tokenizer, prepared),
        },
        {
            "tokens": {name: one if isinstance(one, str) else list(one) for name, one in choices.items()},
            "spare_first": spare_first,
            "spare_sinks": spare_sinks,
        },
        compute,
        result=TokenStatistics,
        cache=cache,
    )
    # Mean ablation at other tokens than these refuses the means.
    return replace(found, mean=ReadValues(found.mean, choices, spare_first))


@reads_weights_once
def donors(
    model: Model,
    stimuli: StimuliLike,
    spaces: str | Sequence[str] | None = None,
    *,
    continuations: Sequence[str] | None = None,
    spare_sinks: bool = True,
    seed: int = 0,
    n_tokens: int = 512,
    spare_first: int = 0,
) -> ReadValues:
    """Activations of random tokens, for many resample ablations; what :func:`modalnet.resample` takes as ``over``.

    Parameters
    ----------
    model
        The model; interventions of a view do not hold, as for every reference.
    stimuli, spaces, continuations
        As for :func:`token_statistics`.
    spare_sinks
        Draw no sink token (:func:`modalnet.sink_tokens`).
    seed
        Of the draw, which goes by what the stimuli contain.
    n_tokens
        The largest number of tokens, drawn evenly from the stimuli.
    spare_first
        How many tokens at the start of each stimulus are not drawn.

    Returns
    -------
    dict
        Space → float32 ``[donor, layer, unit]``, read-only. Row i of every layer and space of a tower is the same
        token. It carries ``tokens`` (all) and ``spare_first``, as what :meth:`modalnet.Model.means` gives.

    Raises
    ------
    InputError
        As for :func:`token_statistics`; for a tower that merges patches, whose layers have different tokens.
    """
    model = as_model(model)
    given = as_stimuli(stimuli)
    check_bool("spare_sinks", spare_sinks)
    check_seed(seed)
    check_int("n_tokens", n_tokens, minimum=1)
    check_int("spare_first", spare_first, minimum=0)
    names = _reached(model, given, spaces)
    prepared = model._executor.encoder.prepare(given, continuations=_one_each(given, continuations))
    found = draw_donors(
        model._executor,
        prepared,
        names,
        spare_sinks=spare_sinks,
        seed=seed,
        n_tokens=n_tokens,
        spare_first=spare_first,
    )
    return ReadValues(found, dict.fromkeys(names, "all"), spare_first)


@reads_weights_once
def sink_tokens(model: Model, stimuli: StimuliLike, spaces: str | Sequence[str] | None = None) -> pd.DataFrame:
    """Find the sink tokens of stimuli: those on which a model puts massive activations as attention sinks.

    A token is a sink in a tower if its residual stream is more than 4 times as long (Euclidean norm) as the median over
    the tokens of its stimulus, at two successive blocks. It is measured without any intervention.

    Parameters
    ----------
    model
        The model; interventions of a view do not hold.
    stimuli
        One stimulus or several.
    spaces
        Spaces whose towers are measured; None for every tower that all stimuli reach.

    Returns
    -------
    DataFrame
        One row per sink: ``stimulus`` (index), ``tower``, ``position`` (among the tokens of the stimulus), ``token``
        (as it reads), ``ratio`` (length over the median, at the shorter of two successive blocks, where it is largest)
        and ``layer`` (the first of these two).

    Raises
    ------
    InputError
        As for :meth:`modalnet.Model.run`.

    References
    ----------
    Sun, Chen, Kolter & Liu (2024). Massive activations in large language models. COLM. arXiv:2402.17762.

    Xiao, Tian, Chen, Han & Lewis (2024). Efficient streaming language models with attention sinks. ICLR.
    arXiv:2309.17453.

    Darcet, Oquab, Mairal & Bojanowski (2024). Vision transformers need registers. ICLR. arXiv:2309.16588.

    Examples
    --------
    >>> model = mn.load("tiny")
    >>> mn.sink_tokens(model, "A child drinks tea with milk.")[["tower", "position", "layer"]]
         tower  position  layer
    0  decoder         0      0
    """
    import pandas as pd

    model = as_model(model)
    executor = model._executor
    given = as_stimuli(stimuli)
    towers = list(dict.fromkeys(model.spaces[name].tower.name for name in _reached(model, given, spaces)))
    prepared = executor.encoder.prepare(given)
    table = executor.sinks(prepared, towers)
    rows = []
    for place, item in enumerate(prepared):
        for tower in towers:
            found = table.of(item, tower)
            # Only a stimulus with a sink needs its tokens by name.
            names = executor.token_row(item, tower).names if found else ()
            rows += [(place, tower, one.offset, names[one.offset], one.ratio, one.layer) for one in found]
    return pd.DataFrame(rows, columns=["stimulus", "tower", "position", "token", "ratio", "layer"])


def _reached(model: Model, stimuli: Sequence[Stimulus], spaces: str | Sequence[str] | None) -> list[str]:
    """Names of spaces; an InputError for one whose tower not all of the stimuli reach."""
    names = choose_spaces(model.spaces, spaces, model.name)
    reached = model._executor.reached_spaces(stimuli, spaces)
    if spaces is not None and len(reached) < len(names):
        tower = next(model.spaces[name].tower for name in names if name not in reached)
        raise InputError(f"The {tower.name} tower is not reached by these stimuli. Use stimuli with {tower.noun}.")
    return reached


def _one_each(stimuli: Sequence[Stimulus], continuations: Sequence[str] | None) -> Sequence[str] | None:
    """Continuations, one non-empty text per stimulus; None for none."""
    if continuations is None:
        return None
    texts = list(continuations) if not isinstance(continuations, str) else []
    if len(texts) != len(stimuli) or not all(isinstance(text, str) and text for text in texts):
        raise InputError(
            f"`continuations` must be a list of one non-empty text for each of {len(stimuli)} stimuli, got "
            f"{continuations!r:.100}."
        )
    return texts


def blocks_of(*sets: Units) -> dict[str, list[int]]:
    """Space → the layers in which any of the sets has a unit."""
    found: dict[str, set[int]] = {}
    for units in sets:
        for tower, mask in units.mask.items():
            found.setdefault(tower, set()).update(np.flatnonzero(mask.any(axis=1)).tolist())
    return {tower: sorted(blocks) for tower, blocks in found.items() if blocks}


def check_units(model: Model, units: Units, what: str = "The units") -> None:
    """Refuse an empty set of units, and units of another model.

    Raises
    ------
    InputError
        Which of the two it is.
    """
    if not units.count:
        raise InputError(f"{what} must not be an empty set.")
    model._executor.check_units(units, what)
