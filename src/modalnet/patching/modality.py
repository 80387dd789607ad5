"""Modality profiles: the dependence of an answer on image and text positions, per decoder block.

At the output of one decoder block, the activations of all image tokens (or all text tokens except the last, or the last
token) are replaced by their mean over stimuli. This removes the information about the particular image or question, so
that later blocks cannot read it. As long as the answer depends on the image tokens, visual information has not been
transferred; from the block on from which it does not, the information has entered the text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from modalnet._validation import check_option, check_shared
from modalnet.errors import InputError
from modalnet.execution.cells import Cell, Swap
from modalnet.model import as_model
from modalnet.models.fingerprint import reads_weights_once
from modalnet.patching.metrics import Measure, Texts, log_probability
from modalnet.results.cache import CacheLike, cached
from modalnet.results.result import Labelled, Result
from modalnet.stats.resampling import LEVEL, mean_intervals
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.execution.cells import State
    from modalnet.model import Model
    from modalnet.stimuli import Stimulus

GROUPS = ("image", "text", "last")
RESAMPLES = 2000
TOGETHER = 16


@dataclass(frozen=True, eq=False)
class ModalityProfile(Result):
    """The result of :func:`modalnet.profile_modality`.

    Attributes
    ----------
    model, operation, metric
        Name of the model, the operation and the metric.
    labels
        Labels of the stimuli.
    whole
        ``[stimulus]``: the log-probability of the answer without intervention, in nats.
    values
        Per group of tokens ``[stimulus, layer]``: the same with the group ablated at the output of a block.
    """

    NAME = "a modality profile"
    FORMAT = "modalnet.modality_profile"
    SOURCES = ("basu2024", "zhang2025")

    model: str
    operation: str
    metric: str
    labels: tuple[str, ...]
    whole: Float[np.ndarray, " stimulus"]
    values: dict[str, Float[np.ndarray, "stimulus layer"]]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of tokens: ``image``, ``text`` (all except the last) and ``last``."""
        return tuple(self.values)

    @property
    def loss(self) -> dict[str, Float[np.ndarray, " layer"]]:
        """Mean loss of log-probability per group ``[layer]``, in nats."""
        return {group: (self.whole[:, None] - values).mean(0) for group, values in self.values.items()}

    def table(self, level: float = LEVEL, n_resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
        """Return one row per group and block: loss in nats with its interval over stimuli.

        The interval is a symmetric bootstrap-t (:func:`modalnet.stats.resampling.mean_intervals`), as a few stimuli
        lose most.
        """
        import pandas as pd

        check_shared(n_resamples=n_resamples, seed=seed)
        rows = []
        for group, values in self.values.items():
            losses = self.whole[:, None] - values
            bounds = mean_intervals(losses, n_resamples, np.random.default_rng(seed), level)
            for layer, loss in enumerate(losses.mean(0)):
                low, high = bounds[:, layer]
                rows.append({"tokens": group, "layer": layer, "loss": loss, "low": low, "high": high})
        return pd.DataFrame(rows)

    @property
    def entry(self) -> int | None:
        """The first block from which on ablating the image tokens costs less than half of the largest loss.

        None if it costs nothing at any block (the answer does not depend on the image), or at least half up to the last
        block.
        """
        loss = self.loss["image"]
        if loss.max() <= 0:
            return None
        above = np.flatnonzero(loss >= loss.max() / 2)
        after = int(above[-1]) + 1
        return after if after < len(loss) else None

    def summary(self) -> str:
        """Return a summary as text: the largest loss per group, and the block at which vision has been transferred."""
        parts = ", ".join(f"{group} {loss.max():.2f} (block {loss.argmax()})" for group, loss in self.loss.items())
        entry = (
            "the answer depends on the image tokens up to the last block, or not at all"
            if self.entry is None
            else f"from block {self.entry} on, ablating the image tokens costs less than half of the largest loss"
        )
        return (
            f"{self.model}: {len(self.whole)} stimuli, {self.operation} ablation, "
            f"log-probability {self.whole.mean():.2f}\n"
            f"  largest loss (nats): {parts}\n  {entry}"
        )

    def plot(self, **options: Any) -> Any:
        """Draw loss against block: see :func:`modalnet.plotting.patching.modality_profile`."""
        from modalnet.plotting.patching import modality_profile

        return modality_profile(self, **options)

    def _labelled(self) -> tuple[Labelled, Labelled]:
        arrays: Labelled = {
            "value": (("stimulus", "group", "layer"), np.stack(list(self.values.values()), axis=1)),
            "whole": (("stimulus",), self.whole),
        }
        coordinates: Labelled = {
            "label": (("stimulus",), list(self.labels)),
            "tokens": (("group",), list(self.groups)),
        }
        return arrays, coordinates

    def _content(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"values/{group}": np.asarray(values, dtype=np.float64) for group, values in self.values.items()}
        arrays["whole"] = np.asarray(self.whole, dtype=np.float64)
        about = {"model": self.model, "operation": self.operation, "metric": self.metric}
        return arrays, about | {"labels": list(self.labels), "groups": list(self.groups)}

    @classmethod
    def _from_content(cls, arrays: Mapping[str, np.ndarray], document: Mapping[str, Any]) -> ModalityProfile:
        values = {group: arrays[f"values/{group}"] for group in document["groups"]}
        model, operation, metric = (document[name] for name in ("model", "operation", "metric"))
        return cls(model, operation, metric, tuple(document["labels"]), arrays["whole"], values)

    def __repr__(self) -> str:
        return f"ModalityProfile({self.model}: {', '.join(self.groups)}; {len(self.whole)} stimuli)"


@reads_weights_once
def profile_modality(
    model: Model,
    stimuli: Any,
    answers: Texts,
    *,
    operation: Literal["mean", "zero"] = "mean",
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    cache: CacheLike = True,
    progress: bool = True,
) -> ModalityProfile:
    """Measure the dependence of an answer on image and text positions, per decoder block.

    Parameters
    ----------
    model
        A model with image tokens in its decoder.
    stimuli
        Stimuli with an image and a question each.
    answers
        One text for all stimuli, or one per stimulus, which follows it directly; its log-probability is measured.
    operation
        ``"mean"``: the activations of a group are set to their mean (per block, over tokens and then over stimuli), as
        by :func:`modalnet.mean`. ``"zero"``: they are set to 0.
    batch_size
        Number of runs per forward pass.
    remote
        Where the model runs: None for its default, or a value that :func:`modalnet.load` accepts.
    cache
        Whether the result is stored and reused.
    progress
        Whether to show a progress bar.

    Returns
    -------
    ModalityProfile
        ``.loss[group]`` ``[layer]`` in nats, ``.entry``, ``.table()``, ``.plot()``.

    Raises
    ------
    InputError
        If the model has no image tokens, a stimulus lacks an image or a text, or ``"mean"`` is used with a single
        stimulus, which equals its mean.

    References
    ----------
    Basu et al. (2024), Understanding information storage and transfer in multi-modal large language models. NeurIPS.
    Zhang, Yadav, Han & Shutova (2025), Cross-modal information flow in multimodal large language models. CVPR (there
    by attention knockout between positions; here by ablation of positions).
    """
    check_shared(batch_size=batch_size, cache=cache, progress=progress)
    check_option("operation", operation, ("mean", "zero"))
    model = as_model(model, remote)
    given = as_stimuli(stimuli)
    _check(model, given, operation)
    measure = log_probability(answers).bind(model, given, given)
    inputs = {
        "name": model.name,
        "stimuli": [stimulus.inspect().digest for stimulus in given],
        "labels": [stimulus.label for stimulus in given],
        "answers": measure.continuations,
    }

    def compute() -> ModalityProfile:
        return _measured(model, given, measure, operation, batch_size, progress=progress)

    settings = {"operation": operation}
    return cached(model, "modality_profile", inputs, settings, compute, result=ModalityProfile, cache=cache)


def _measured(
    model: Model,
    given: Sequence[Stimulus],
    measure: Measure,
    operation: str,
    batch_size: int | Literal["auto"],
    *,
    progress: bool,
) -> ModalityProfile:
    """Run every stimulus whole, and with each group of tokens ablated at the output of each block."""
    from tqdm.auto import tqdm

    texts = measure.continuations
    assert texts is not None
    depth, width = model.spaces["decoder"].shape
    rows = [row["decoder"] for row in model._executor.token_rows(given, ["decoder"], texts)]
    places = [_places(row) for row in rows]
    options: dict[str, Any] = {"texts": texts, "batch_size": batch_size}
    # Two passes, means and then ablations, so that only a few stimuli are held in memory.
    means = (
        _means(model, given, places, options) if operation == "mean" else {g: np.zeros((depth, width)) for g in GROUPS}
    )
    whole = np.zeros(len(given))
    values = {group: np.zeros((len(given), depth)) for group in GROUPS}
    with tqdm(total=len(given), unit="stimulus", disable=not progress) as bar:
        for some in _some(len(given)):
            states = _states(model, given, some, **options)
            cells = [Cell(place) for place in range(len(some))]
            where: list[tuple[int, str, int]] = [(index, "", 0) for index in some]
            for place, index in enumerate(some):
                for group in GROUPS:
                    for layer in range(depth):
                        cells.append(Cell(place, (_ablated(model, layer, places[index][group], means[group][layer]),)))
                        where.append((index, group, layer))
            for number, outcome in model._executor.run_cells(states, cells, measure.outcome, batch_size=batch_size):
                index, group, layer = where[number]
                if group:
                    values[group][index, layer] = measure.value(outcome, index)
                else:
                    whole[index] = measure.value(outcome, index)
            bar.update(len(some))
    return ModalityProfile(model.name, operation, "log-probability", tuple(one.label for one in given), whole, values)


def _some(n: int) -> list[list[int]]:
    return [list(range(start, min(start + TOGETHER, n))) for start in range(0, n, TOGETHER)]


def _states(
    model: Model, given: Sequence[Any], some: Sequence[int], *, texts: Sequence[str], batch_size: Any
) -> list[State]:
    return model._executor.states(
        [given[i] for i in some], continuations=[texts[i] for i in some], batch_size=batch_size
    )


def _means(
    model: Model, given: Sequence[Any], places: Sequence[dict[str, list[int]]], options: dict[str, Any]
) -> dict[str, Float[np.ndarray, "layer dim"]]:
    """Return the mean activation of each group ``[layer, dim]``, over tokens and then over stimuli."""
    sums = {group: np.zeros(model.spaces["decoder"].shape) for group in GROUPS}
    for some in _some(len(given)):
        for index, state in zip(some, _states(model, given, some, **options), strict=True):
            for group in GROUPS:
                sums[group] += state.activations["decoder"][:, places[index][group]].double().mean(1).numpy()
    return {group: total / len(given) for group, total in sums.items()}


def _check(model: Model, given: Sequence[Any], operation: str) -> None:
    if not model._executor.has_image_tokens:
        raise InputError(f"`model` must have image tokens in its decoder, but {model.name} has no image tokens.")
    for stimulus in given:
        if stimulus.kind != "image+text":
            raise InputError(
                f"`stimuli` must have an image and a question each, but {stimulus.label} is {stimulus.kind}."
            )
    if operation == "mean" and len(given) < 2:
        raise InputError("`operation='mean'` requires at least two stimuli, got 1. Use several, or `operation='zero'`.")


def _places(row: Any) -> dict[str, list[int]]:
    last = len(row) - 1
    image = np.flatnonzero(row.image).tolist()
    text = [place for place in np.flatnonzero(~row.image).tolist() if place != last]
    return {"image": image, "text": text, "last": [last]}


def _ablated(model: Model, layer: int, places: Sequence[int], value: Float[np.ndarray, " dim"]) -> Swap:
    import torch

    row = torch.from_numpy(value).float().expand(len(places), -1)
    return Swap(model.spaces["decoder"], layer, torch.tensor(places), row)
