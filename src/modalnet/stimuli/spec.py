"""Contrasts as the command line names them: a kind, and where that kind needs one, a path after a colon."""

from __future__ import annotations

from collections.abc import Sequence

from modalnet.errors import InputError
from modalnet.stimuli.bundled import language
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.published import fedorenko2010, floc
from modalnet.stimuli.readers import from_csv, from_folder

# kind -> (an example, which of the further options it takes)
KINDS = {
    "language": ("language", ("positive", "negative")),
    "fedorenko2010": ("fedorenko2010:FOLDER", ("positive", "negative")),
    "floc": ("floc:FOLDER", ("positive", "negative")),
    "csv": ("csv:FILE.csv", ("positive", "negative", "text", "image", "condition")),
    "folder": ("folder:FOLDER", ("positive", "negative", "condition")),
}


def parse(
    spec: str,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    *,
    text: str | None = None,
    image: str | None = None,
    condition: str | None = None,
) -> Contrast:
    """Make the contrast that a string such as ``"floc:stimuli/floc"`` names.

    Parameters
    ----------
    spec
        ``"language"``, ``"fedorenko2010:FOLDER"``, ``"floc:FOLDER"``, ``"csv:FILE"`` or ``"folder:FOLDER"``.
    positive, negative
        Conditions, as a list or separated by commas. ``csv`` and ``folder`` need ``positive``; the published sets
        have their own, and these replace them.
    text, image
        Column names, for ``csv``. With an image column and no text column, the stimuli are images only; with
        neither, the text column is called ``text``.
    condition
        For ``csv`` the column of the conditions (by default ``condition``); for ``folder`` where they are written:
        ``auto``, ``subfolder`` or ``prefix``.

    Returns
    -------
    Contrast

    Raises
    ------
    InputError
        An unknown kind, a path or a positive condition that is missing, an option that the kind does not take, or
        whatever the reader of that kind raises.
    """
    kind, _, path = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if kind not in KINDS:
        examples = ", ".join(example for example, _ in KINDS.values())
        raise InputError(f"No kind of contrast is called {spec!r}. There are: {examples}.")
    example, takes = KINDS[kind]
    if bool(path) != (":" in example):
        raise InputError(f"The contrast {spec!r} should read {example}.")
    given = {"positive": positive, "negative": negative, "text": text, "image": image, "condition": condition}
    useless = [option for option, value in given.items() if value is not None and option not in takes]
    if useless:
        raise InputError(f"The contrast {example} takes no {', '.join(useless)}; it takes {', '.join(takes)}.")
    above, below = _names(positive), _names(negative)
    if kind == "language":
        return _sides(language(), above, below)
    if kind == "fedorenko2010":
        return _sides(fedorenko2010(path), above, below)
    if kind == "floc":
        return floc(path, negative=below) if above is None else floc(path, above, below)
    if above is None:
        raise InputError(f"The contrast {spec!r} needs its positive condition, or several separated by commas.")
    if kind == "folder":
        return from_folder(path, positive=above, negative=below, condition=condition or "auto")  # type: ignore[arg-type]
    return from_csv(
        path,
        text=text or (None if image else "text"),
        image=image,
        condition=condition or "condition",
        positive=above,
        negative=below,
    )


def _names(conditions: str | Sequence[str] | None) -> list[str] | None:
    if conditions is None:
        return None
    listed = conditions.split(",") if isinstance(conditions, str) else conditions
    return [name.strip() for name in listed if name.strip()]


def _sides(contrast: Contrast, positive: list[str] | None, negative: list[str] | None) -> Contrast:
    """The same stimuli, with the conditions asked for on each side."""
    if positive is None and negative is None:
        return contrast
    if positive is None:
        return Contrast(contrast.stimuli, contrast.positive, negative)
    return Contrast(contrast.stimuli, positive, negative)
