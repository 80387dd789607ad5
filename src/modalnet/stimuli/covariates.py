"""Numbers that are known for every stimulus: covariates, and the regressor of a parametric contrast.

A number is given for each stimulus, or is measured on its text: ``"length"`` is the number of characters and
``"words"`` that of words. Tokens are a tokenizer's and not the stimulus'; count them with that of the model and give
the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Real

from modalnet.errors import InputError
from modalnet.stimuli.stimulus import Stimulus

#: One number per stimulus in their order, numbers by id, or the name of a measure of the text.
NumbersLike: TypeAlias = Sequence[float] | Real[np.ndarray, " stimulus"] | Mapping[str, float] | str
#: Numbers by name, or names of measures.
CovariatesLike: TypeAlias = Mapping[str, NumbersLike] | Sequence[str] | str

MEASURES: dict[str, Callable[[str], int]] = {"length": len, "words": lambda text: len(text.split())}
# A column whose part that others do not explain is below this share of it is a combination of them.
EXPLAINED = 1e-6


def covariate_values(
    covariates: CovariatesLike | None, stimuli: Sequence[Stimulus]
) -> dict[str, Float[np.ndarray, " stimulus"]]:
    """Return the numbers of each covariate, one per stimulus.

    Raises
    ------
    InputError
        A covariate is neither numbers nor a measure, has another number of them, or one is missing or not finite.
    """
    if covariates is None:
        return {}
    if not isinstance(covariates, Mapping):
        names = [covariates] if isinstance(covariates, str) else covariates
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"`covariates` must map names to one number per stimulus, or name measures ({', '.join(MEASURES)}), "
                f"got {covariates!r}."
            )
        covariates = {name: name for name in names}
    return {str(name): numbers(f"covariate {name!r}", given, stimuli) for name, given in covariates.items()}


def numbers(what: str, given: NumbersLike, stimuli: Sequence[Stimulus]) -> Float[np.ndarray, " stimulus"]:
    """Return one number per stimulus, as given, by id, or measured on the texts.

    Parameters
    ----------
    what
        The name in messages.
    given, stimuli
        Where the numbers come from.

    Raises
    ------
    InputError
        As for :func:`covariate_values`.
    """
    if isinstance(given, str):
        if given not in MEASURES:
            raise InputError(f"The {what} must be numbers or one of {', '.join(MEASURES)}, got {given!r}.")
        untold = [stimulus.label for stimulus in stimuli if stimulus.text is None]
        if untold:
            raise InputError(f"The {what} is a measure of texts, and stimulus {untold[0]} has no text.")
        return np.array([MEASURES[given](stimulus.text or "") for stimulus in stimuli], dtype=np.float64)
    if isinstance(given, Mapping):
        missing = [stimulus.label for stimulus in stimuli if stimulus.id not in given]
        if missing:
            raise InputError(f"The {what} has no number for the id of {len(missing)} stimuli, such as {missing[0]}.")
        given = [given[stimulus.id or ""] for stimulus in stimuli]
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"The {what} must be one number per stimulus: {error}.") from error
    if values.shape != (len(stimuli),):
        raise InputError(f"The {what} must be one number for each of {len(stimuli)} stimuli, got shape {values.shape}.")
    if not np.isfinite(values).all():
        label = stimuli[int(np.flatnonzero(~np.isfinite(values))[0])].label
        raise InputError(f"The {what} must be finite; it is {values[~np.isfinite(values)][0]} for stimulus {label}.")
    return values


def check_separable(columns: Mapping[str, Float[np.ndarray, " observation"]], why: str = "") -> None:
    """Refuse a column that is constant or a combination of those before it, by its name.

    Parameters
    ----------
    columns
        What is in the linear model, in order; the names are those in messages.
    why
        Ends the message about a constant column.

    Raises
    ------
    InputError
        Which column it is.
    """
    basis: list[np.ndarray] = []
    for name, values in columns.items():
        left = values - values.mean()  # beside a free intercept
        size = float(np.linalg.norm(left))
        if size <= EXPLAINED * max(float(np.linalg.norm(values)), np.finfo(float).tiny):
            raise InputError(f"The {name} is always the same{why}.")
        for _ in range(2):  # twice, because rounding leaves a little of what was taken out
            for other in basis:
                left = left - other * (other @ left)
        if float(np.linalg.norm(left)) <= EXPLAINED * size:
            others = " and ".join(list(columns)[: len(basis)])
            raise InputError(f"The {name} is collinear with the {others}: their effects cannot be told apart.")
        basis.append(left / np.linalg.norm(left))
