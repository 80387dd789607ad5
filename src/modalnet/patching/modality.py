"""Where vision enters the language stream: how much an answer depends on image and on text positions, block by block.

At the output of one decoder block, all image tokens (or all text tokens but the last, or the last) become their mean
over the stimuli: what they hold about this picture or this question is gone, and blocks behind can no longer fetch it.
While the answer still depends on the image tokens, vision has not yet been moved elsewhere; from the block on where it
does not, what was seen has entered the text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from modalnet.errors import InputError
from modalnet.execution.cells import Cell, Swap
from modalnet.patching.metrics import Texts, log_probability
from modalnet.results.result import Labelled, Result
from modalnet.stimuli.conversion import as_stimuli

if TYPE_CHECKING:
    import pandas as pd

    from modalnet.execution.cells import State
    from modalnet.model import Model

GROUPS = ("image", "text", "last")
RESAMPLES, LEVEL = 2000, 0.95
TOGETHER = 16


@dataclass(frozen=True, eq=False)
class ModalityProfile(Result):
    """What :func:`modalnet.profile_modality` found.

    Attributes
    ----------
    model, operation, metric
        What was asked.
    labels
        Of the stimuli.
    whole
        ``[stimulus]``: the log-probability of the answer without a knockout, in nats.
    values
        Per group of tokens ``[stimulus, layer]``: the same with the group knocked out at the output of a block.
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
        """The groups of tokens: ``image``, ``text`` (all but the last) and ``last``."""
        return tuple(self.values)

    @property
    def loss(self) -> dict[str, Float[np.ndarray, " layer"]]:
        """Per group ``[layer]``: the mean loss of log-probability, in nats."""
        return {group: (self.whole[:, None] - values).mean(0) for group, values in self.values.items()}

    def table(self, level: float = LEVEL, n_resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
        """One row per group and block: loss in nats with its percentile bootstrap interval over stimuli."""
        import pandas as pd

        rng = np.random.default_rng(seed)
        n = len(self.whole)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) / n
        rows = []
        for group, values in self.values.items():
            losses = self.whole[:, None] - values
            bounds = np.quantile(drawn @ losses, [(1 - level) / 2, (1 + level) / 2], axis=0) if n > 1 else None
            for layer, loss in enumerate(losses.mean(0)):
                low, high = bounds[:, layer] if bounds is not None else (np.nan, np.nan)
                rows.append({"tokens": group, "layer": layer, "loss": loss, "low": low, "high": high})
        return pd.DataFrame(rows)

    @property
    def entry(self) -> int | None:
        """The first block from which on knocking out the image tokens costs less than half of the most it costs.

        None where it costs nothing anywhere (the answer does not depend on the image), or half to the end.
        """
        loss = self.loss["image"]
        if loss.max() <= 0:
            return None
        above = np.flatnonzero(loss >= loss.max() / 2)
        after = int(above[-1]) + 1
        return after if after < len(loss) else None

    def summary(self) -> str:
        """What matters, to be printed."""
        parts = ", ".join(f"{group} {loss.max():.2f} (block {loss.argmax()})" for group, loss in self.loss.items())
        entry = (
            "the answer depends on image tokens to the end or not at all"
            if self.entry is None
            else f"from block {self.entry} on, the image tokens matter less than half as much as at most"
        )
        return (
            f"{self.model}: {len(self.whole)} stimuli, {self.operation} knockout, "
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


def profile_modality(
    model: Model,
    stimuli: Any,
    answers: Texts,
    *,
    operation: Literal["mean", "zero"] = "mean",
    batch_size: int | Literal["auto"] = "auto",
    remote: bool | str | None = None,
    progress: bool = True,
) -> ModalityProfile:
    """For each decoder block, how much an answer depends on image positions and on text positions.

    Parameters
    ----------
    model
        With image tokens in its decoder.
    stimuli
        Each with a picture and a question.
    answers
        One text for all, or one per stimulus, written straight after it: its log-probability is measured.
    operation
        ``"mean"``: the tokens of a group become their mean over all stimuli (of each block; per stimulus first, then
        over stimuli), as :func:`modalnet.mean` does. ``"zero"``: they become 0.
    batch_size
        Runs per forward pass.
    remote
        Where to run: None for where the model is, or what :func:`modalnet.load` takes.
    progress
        Show a bar.

    Returns
    -------
    ModalityProfile

    Raises
    ------
    InputError
        For a model without image tokens, stimuli without a picture or text, or a single stimulus with ``"mean"``,
        whose mean would be itself.

    References
    ----------
    Basu et al. (2024), Understanding information storage and transfer in multi-modal large language models. NeurIPS.
    Zhang, Yadav, Han & Shutova (2025), Cross-modal information flow in multimodal large language models. CVPR (there
    by cutting attention between positions; here by what positions hold).
    """
    from tqdm.auto import tqdm

    model = model._at(remote)
    given = as_stimuli(stimuli)
    _check(model, given, operation)
    measure = log_probability(answers).bind(model, given, given)
    texts = measure.continuations
    assert texts is not None
    depth, width = model.spaces["decoder"].shape
    rows = [row["decoder"] for row in model._executor.token_rows(given, ["decoder"], texts)]
    places = [_places(row) for row in rows]
    options: dict[str, Any] = {"texts": texts, "batch_size": batch_size}
    # Two rounds, so that no more than a few stimuli are held at once: what a group is on average, then without it.
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
                        cells.append(Cell(place, (_knocked(model, layer, places[index][group], means[group][layer]),)))
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
    """Per group what its tokens hold on average: over tokens, then over stimuli."""
    sums = {group: np.zeros(model.spaces["decoder"].shape) for group in GROUPS}
    for some in _some(len(given)):
        for index, state in zip(some, _states(model, given, some, **options), strict=True):
            for group in GROUPS:
                sums[group] += state.activations["decoder"][:, places[index][group]].double().mean(1).numpy()
    return {group: total / len(given) for group, total in sums.items()}


def _check(model: Model, given: Sequence[Any], operation: str) -> None:
    if operation not in ("mean", "zero"):
        raise InputError(f'operation={operation!r} is not known. Give "mean" or "zero".')
    if not model._executor.has_image_tokens:
        raise InputError(f"{model.name} has no image tokens in a decoder, so there is nothing to knock out.")
    for stimulus in given:
        if stimulus.kind != "image+text":
            raise InputError(f"stimulus {stimulus.label} is {stimulus.kind}; each needs a picture and a question.")
    if operation == "mean" and len(given) < 2:
        raise InputError("A mean over one stimulus is the stimulus itself. Give several, or operation='zero'.")


def _places(row: Any) -> dict[str, list[int]]:
    last = len(row) - 1
    image = np.flatnonzero(row.image).tolist()
    text = [place for place in np.flatnonzero(~row.image).tolist() if place != last]
    return {"image": image, "text": text, "last": [last]}


def _knocked(model: Model, layer: int, places: Sequence[int], value: Float[np.ndarray, " dim"]) -> Swap:
    import torch

    row = torch.from_numpy(value).float().expand(len(places), -1)
    return Swap(model.spaces["decoder"], layer, torch.tensor(places), row)
