"""Brain responses to stimuli, with the structure that cross-validation and noise ceilings depend on.

A :class:`BrainDataset` is a table with stimuli in rows and targets (voxels, electrodes, regions, or a whole network) in
columns. Three further properties decide which analyses are sound: the group of each stimulus (a passage, a story),
whether the rows are in presentation order, and the reliability of each target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from modalnet.errors import InputError
from modalnet.stimuli import Stimulus

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 3


@dataclass(frozen=True, eq=False, repr=False)
class BrainDataset:
    """Brain responses to stimuli, as returned by the readers of :mod:`modalnet.brain`.

    Attributes
    ----------
    name
        Name of the dataset, for display.
    stimuli
        The presented stimuli.
    responses
        float64 [stimulus, target]; NaN where a target was not measured.
    groups
        The group of each stimulus, such as its passage; None if unknown.
    ordered
        Whether rows are in presentation order.
    ceiling
        float64 [target]: the noise ceiling, a correlation from 0 to 1; None if unknown.
    repeats
        float64 [repeat, stimulus, target]: the single responses that ``responses`` averages, NaN where missing; None
        if only the mean is available.
    subjects, regions
        The participant and the region of each target; None if unknown.
    source
        The publication to cite.

    Raises
    ------
    InputError
        If shapes disagree, there are fewer than ten stimuli, a response is infinite, or a target is constant or has
        fewer than ten responses.
    """

    name: str
    stimuli: tuple[Stimulus, ...]
    responses: Float[np.ndarray, "stimulus target"]
    groups: tuple[str, ...] | None = None
    ordered: bool = False
    ceiling: Float[np.ndarray, " target"] | None = None
    repeats: Float[np.ndarray, "repeat stimulus target"] | None = None
    subjects: tuple[str, ...] | None = None
    regions: tuple[str, ...] | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        responses = np.asarray(self.responses, dtype=np.float64)
        n = len(self.stimuli)
        if responses.ndim != 2 or len(responses) != n:
            raise InputError(
                f"{self.name}: `responses` must be [stimulus, target], got {responses.shape} for {n} stimuli."
            )
        if n < 10:
            raise InputError(f"{self.name}: `stimuli` must have at least 10 entries, got {n}.")
        if np.isinf(responses).any():
            raise InputError(f"{self.name}: `responses` must not be infinite; mark missing responses by NaN.")
        per_target = {"ceiling": self.ceiling, "subjects": self.subjects, "regions": self.regions}
        for what, values in per_target.items():
            if values is not None and len(values) != responses.shape[1]:
                raise InputError(
                    f"{self.name}: `{what}` must have one entry per target, got {len(values)} for {responses.shape[1]} "
                    "targets."
                )
        if self.groups is not None and len(self.groups) != n:
            raise InputError(
                f"{self.name}: `groups` must have one entry per stimulus, got {len(self.groups)} for {n} stimuli."
            )
        if self.repeats is not None and np.shape(self.repeats)[1:] != responses.shape:
            raise InputError(
                f"{self.name}: `repeats` must be [repeat, stimulus, target] for responses {responses.shape}, got "
                f"{np.shape(self.repeats)}."
            )
        measured = np.isfinite(responses)
        if (measured.sum(axis=0) < 10).any():
            short = int((measured.sum(axis=0) < 10).sum())
            raise InputError(
                f"{self.name}: {short} of {responses.shape[1]} targets have fewer than ten responses. Exclude them."
            )
        spread = np.nanmax(responses, axis=0) - np.nanmin(responses, axis=0)
        if (spread == 0).any():
            raise InputError(
                f"{self.name}: {int((spread == 0).sum())} of {responses.shape[1]} targets are constant (the first is "
                f"column {int(np.flatnonzero(spread == 0)[0])}) and cannot be predicted. Exclude them."
            )
        if self.ceiling is not None:
            ceiling = np.asarray(self.ceiling, dtype=np.float64)
            if np.nanmax(ceiling, initial=0.0) > 1.0 + 1e-9 or np.nanmin(ceiling, initial=0.0) < 0:
                raise InputError(f"{self.name}: `ceiling` must be correlations from 0 to 1, NaN where unknown.")
            object.__setattr__(self, "ceiling", ceiling)
        if self.repeats is not None:
            object.__setattr__(self, "repeats", np.asarray(self.repeats, dtype=np.float64))
        responses = responses.copy()
        responses.setflags(write=False)
        object.__setattr__(self, "responses", responses)

    def __len__(self) -> int:
        return len(self.stimuli)

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return self.responses.shape[1]

    @property
    def texts(self) -> tuple[str, ...] | None:
        """The texts of the stimuli; None if a stimulus has no text."""
        texts = tuple(stimulus.text for stimulus in self.stimuli)
        return None if None in texts else texts  # type: ignore[return-value]

    def with_groups(self, groups: Iterable[Any]) -> BrainDataset:
        """Return the dataset with the group of each stimulus: a passage, a story, a run, a topic.

        Raises
        ------
        InputError
            If there is not one group per stimulus.
        """
        return replace(self, groups=tuple(str(group) for group in groups))

    def select(self, stimuli: Any = None, targets: Any = None) -> BrainDataset:
        """Return the dataset restricted to some stimuli and targets.

        Parameters
        ----------
        stimuli, targets
            Boolean masks or indices; None for all.
        """
        rows = np.arange(len(self))[slice(None) if stimuli is None else np.asarray(stimuli)]
        columns = np.arange(self.n_targets)[slice(None) if targets is None else np.asarray(targets)]

        def some(values: Sequence[Any] | None, which: np.ndarray) -> tuple[Any, ...] | None:
            return None if values is None else tuple(values[i] for i in which)

        return replace(
            self,
            stimuli=tuple(self.stimuli[i] for i in rows),
            responses=self.responses[np.ix_(rows, columns)],
            groups=some(self.groups, rows),
            ceiling=None if self.ceiling is None else self.ceiling[columns],
            repeats=None if self.repeats is None else self.repeats[:, rows][:, :, columns],
            subjects=some(self.subjects, columns),
            regions=some(self.regions, columns),
        )

    def noise_ceiling(
        self, method: Literal["given", "split-half", "variance"] | None = None
    ) -> Float[np.ndarray, " target"] | None:
        """Return the noise ceiling: the correlation that a perfect model would reach, per target.

        Parameters
        ----------
        method
            ``"given"``: :attr:`ceiling`. ``"split-half"`` or ``"variance"``: from the repeats; see
            :func:`modalnet.brain.noise_ceiling`. None: the given ceiling, else split-half, else None.

        Returns
        -------
        array or None
            float64 [target]; None if the dataset has neither a ceiling nor repeats.

        Raises
        ------
        InputError
            If the method is unknown, or requires a ceiling or repeats that the dataset does not have.
        """
        from modalnet.brain.ceiling import noise_ceiling

        if method is None:
            if self.ceiling is not None:
                return self.ceiling
            return None if self.repeats is None else noise_ceiling(self.repeats)
        if method == "given":
            if self.ceiling is None:
                raise InputError(f"{self.name} has no given noise ceiling.")
            return self.ceiling
        if self.repeats is None:
            raise InputError(f"{self.name} has no repeats, which estimating a noise ceiling requires.")
        return noise_ceiling(self.repeats, method)

    def digest(self) -> str:
        """Return a hash of the content: stimuli, responses, groups and ceiling."""
        made = hashlib.sha256()
        for stimulus in self.stimuli:
            made.update(stimulus.inspect().digest.encode())
        made.update(np.ascontiguousarray(self.responses).tobytes())
        made.update(repr((self.groups, self.ordered, self.subjects)).encode())
        for extra in (self.ceiling, self.repeats):
            made.update(b"-" if extra is None else np.ascontiguousarray(extra).tobytes())
        return made.hexdigest()[:32]

    def identity(self) -> dict[str, Any]:
        """Return everything that a result shows or depends on, as JSON values."""
        return {"content": self.digest(), "name": self.name, "source": self.source, "regions": self.regions}

    def describe(self) -> pd.DataFrame:
        """Return one row per target: subject, region, number of responses, mean, standard deviation, ceiling."""
        import pandas as pd

        ceiling = self.noise_ceiling()
        return pd.DataFrame(
            {
                "target": np.arange(self.n_targets),
                "subject": self.subjects or [""] * self.n_targets,
                "region": self.regions or [""] * self.n_targets,
                "n": np.isfinite(self.responses).sum(axis=0),
                "mean": np.nanmean(self.responses, axis=0),
                "sd": np.nanstd(self.responses, axis=0, ddof=1),
                "ceiling": np.full(self.n_targets, np.nan) if ceiling is None else ceiling,
            }
        )

    def __repr__(self) -> str:
        parts = [f"{len(self)} stimuli", f"{self.n_targets} target{'s' if self.n_targets > 1 else ''}"]
        if self.subjects is not None:
            parts.append(f"{len(set(self.subjects))} subjects")
        parts.append("no groups" if self.groups is None else f"{len(set(self.groups))} groups")
        parts += ["in order"] if self.ordered else []
        parts.append("noise ceiling" if self.ceiling is not None or self.repeats is not None else "no noise ceiling")
        return f"BrainDataset({self.name}: {', '.join(parts)})"


def make_stimuli(given: Any, name: str) -> tuple[Stimulus, ...]:
    """Make stimuli, each with an id, from texts, images or Stimulus objects.

    Raises
    ------
    InputError
        If an item is none of these; the message gives its position.
    """
    if isinstance(given, str | Stimulus) or not isinstance(given, Iterable):
        raise InputError(
            f"{name}: `stimuli` must be a list of texts or Stimulus objects, got a {type(given).__name__}."
        )
    made = []
    for index, item in enumerate(given):
        if isinstance(item, Stimulus):
            made.append(item)
            continue
        try:
            made.append(Stimulus(str(item) if isinstance(item, str) else item, id=f"{name}-{index + 1:04d}"))
        except InputError as error:
            raise InputError(f"{name}, stimulus {index + 1}: {error}") from error
    return tuple(made)


def as_labels(values: Any, what: str, n: int) -> tuple[str, ...] | None:
    """Convert labels to strings, one per entry; None stays None.

    Raises
    ------
    InputError
        If the number of labels is wrong.
    """
    if values is None:
        return None
    labels = tuple(str(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values))
    if len(labels) != n:
        per = "stimulus" if what == "groups" else "target"
        counted = {"stimulus": "stimuli", "target": "targets"}[per]
        raise InputError(f"`{what}` must have one entry per {per}, got {len(labels)} for {n} {counted}.")
    return labels


def some(items: Sequence[str]) -> str:
    """Join the first items of a list, for messages."""
    return ", ".join(map(str, items[:SHOWN])) + (", …" if len(items) > SHOWN else "")


def check_dataset(dataset: Any) -> BrainDataset:
    """Return a dataset; raise an InputError that names the readers for anything else."""
    if isinstance(dataset, BrainDataset):
        return dataset
    hint = " Analyse one dataset at a time." if isinstance(dataset, Mapping | list | tuple) else ""
    raise InputError(
        "`dataset` must be a BrainDataset, as a reader of modalnet.brain returns (modalnet.brain.from_csv(...)), got a "
        f"{type(dataset).__name__}.{hint}"
    )
