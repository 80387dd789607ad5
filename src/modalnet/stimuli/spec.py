"""Contrasts as the command line names them: a kind, and where that kind needs one, a path after a colon."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modalnet.errors import InputError
from modalnet.stimuli.arithmetic import multiple_demand
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.pictures import categories, vision
from modalnet.stimuli.published import FACES, fedorenko2010, floc
from modalnet.stimuli.questions import vision_vs_text
from modalnet.stimuli.readers import Duplicates, from_csv, from_folder
from modalnet.stimuli.refusal import refusal
from modalnet.stimuli.sentences import language, language_conditions
from modalnet.stimuli.stories import theory_of_mind, tom_saxe

# Sets that come with the package: a name is enough.
BUNDLED: dict[str, Callable[[], Contrast]] = {
    "language": language,
    "language-conditions": language_conditions,
    "theory-of-mind": theory_of_mind,
    "multiple-demand": multiple_demand,
    "refusal": refusal,
    "vision": vision,
    "categories": categories,
    "vision-vs-text": vision_vs_text,
}
# Published localizers with conditions of their own: a folder, and what to do about the same stimulus twice.
PUBLISHED: dict[str, Callable[..., Contrast]] = {"fedorenko2010": fedorenko2010, "tom-saxe": tom_saxe}
# kind -> (an example, which of the further options it takes)
KINDS = {
    **{kind: (kind, ("positive", "negative")) for kind in BUNDLED},
    **{kind: (f"{kind}:FOLDER", ("positive", "negative", "duplicates")) for kind in (*PUBLISHED, "floc")},
    "csv": ("csv:FILE.csv", ("positive", "negative", "text", "image", "condition", "duplicates")),
    "folder": ("folder:FOLDER", ("positive", "negative", "condition", "duplicates")),
}


def parse(
    spec: str,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    *,
    text: str | None = None,
    image: str | None = None,
    condition: str | None = None,
    duplicates: Duplicates | None = None,
) -> Contrast:
    """Make the contrast that a string such as ``"floc:stimuli/floc"`` names.

    Parameters
    ----------
    spec
        The name of a bundled set with hyphens or underscores (``"language"``, ``"theory-of-mind"``, …; ``BUNDLED``
        lists them), ``"fedorenko2010:FOLDER"``, ``"tom-saxe:FOLDER"``, ``"floc:FOLDER"``, ``"csv:FILE"`` or
        ``"folder:FOLDER"``.
    positive, negative
        Conditions, as a list or separated by commas. ``csv`` and ``folder`` need ``positive``; the other sets
        have their own, and these replace them.
    text, image
        Column names, for ``csv``. With an image column and no text column, the stimuli are images only; with
        neither, the text column is called ``text``.
    condition
        For ``csv`` the column of the conditions (by default ``condition``); for ``folder`` where they are written:
        ``auto``, ``subfolder`` or ``prefix``.
    duplicates
        What the readers do about the same stimulus twice: ``error`` (the default) or ``keep``.

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
    kind = kind.replace("_", "-")
    if kind not in KINDS:
        examples = ", ".join(example for example, _ in KINDS.values())
        raise InputError(f"No kind of contrast is called {spec!r}. There are: {examples}.")
    example, takes = KINDS[kind]
    if bool(path) != (":" in example):
        raise InputError(f"The contrast {spec!r} should read {example}.")
    given = {
        "positive": positive,
        "negative": negative,
        "text": text,
        "image": image,
        "condition": condition,
        "duplicates": duplicates,
    }
    useless = [option for option, value in given.items() if value is not None and option not in takes]
    if useless:
        raise InputError(f"The contrast {example} takes no {', '.join(useless)}; it takes {', '.join(takes)}.")
    above, below = _names(positive), _names(negative)
    if kind == "vision" and (above or below):
        return _sides(vision(None), above, below)  # other sides can name any of its conditions
    if kind in BUNDLED:
        return _sides(BUNDLED[kind](), above, below)
    repeats = duplicates or "error"
    if kind in PUBLISHED:
        return _sides(PUBLISHED[kind](path, duplicates=repeats), above, below)
    if kind == "floc":
        return floc(path, FACES if above is None else above, below, duplicates=repeats)
    if above is None:
        raise InputError(f"The contrast {spec!r} needs its positive condition, or several separated by commas.")
    if kind == "folder":
        return from_folder(path, positive=above, negative=below, condition=condition or "auto", duplicates=repeats)  # type: ignore[arg-type]
    return from_csv(
        path,
        text=text or (None if image else "text"),
        image=image,
        condition=condition or "condition",
        positive=above,
        negative=below,
        duplicates=repeats,
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
