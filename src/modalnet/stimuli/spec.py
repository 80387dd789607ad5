"""Contrast specifications of the command line: a kind, and a path after a colon where the kind needs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modalnet.errors import InputError
from modalnet.stimuli.agreement import agreement
from modalnet.stimuli.arithmetic import multiple_demand
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.environment import environment
from modalnet.stimuli.incentives import incentives
from modalnet.stimuli.minimal_pairs import minimal_pairs
from modalnet.stimuli.pictures import categories, vision
from modalnet.stimuli.published import FACES, fedorenko2010, floc
from modalnet.stimuli.readers import Duplicates, from_csv, from_folder
from modalnet.stimuli.refusal import refusal
from modalnet.stimuli.scene_questions import vision_vs_text
from modalnet.stimuli.sentences import language, language_conditions
from modalnet.stimuli.speech import speech, speech_conditions
from modalnet.stimuli.stories import theory_of_mind, tom_saxe
from modalnet.stimuli.word_pictures import word_pictures

# Bundled sets, which need no path.
BUNDLED: dict[str, Callable[[], Contrast]] = {
    "language": language,
    "language-conditions": language_conditions,
    "theory-of-mind": theory_of_mind,
    "multiple-demand": multiple_demand,
    "refusal": refusal,
    "agreement": agreement,
    "incentives": incentives,
    "vision": vision,
    "categories": categories,
    "vision-vs-text": vision_vs_text,
    "word-pictures": word_pictures,
    "speech": speech,
    "speech-conditions": speech_conditions,
    "environment": environment,
}
# Published localizers with default conditions, read from a folder.
PUBLISHED: dict[str, Callable[..., Contrast]] = {"fedorenko2010": fedorenko2010, "tom-saxe": tom_saxe}
# kind -> (an example, the options that apply to it)
KINDS = {
    **{kind: (kind, ("positive", "negative", "covariates")) for kind in BUNDLED},
    **{kind: (f"{kind}:FOLDER", ("positive", "negative", "duplicates", "covariates")) for kind in (*PUBLISHED, "floc")},
    "minimal-pairs": ("minimal-pairs:FILE", ("positive", "negative", "covariates")),
    "csv": (
        "csv:FILE.csv",
        (
            "positive",
            "negative",
            "text",
            "image",
            "audio",
            "condition",
            "item",
            "covariates",
            "regressor",
            "duplicates",
        ),
    ),
    "folder": ("folder:FOLDER", ("positive", "negative", "condition", "duplicates")),
}


def parse(
    spec: str,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    *,
    text: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    condition: str | None = None,
    item: str | None = None,
    covariates: str | Sequence[str] | None = None,
    regressor: str | None = None,
    duplicates: Duplicates | None = None,
) -> Contrast:
    """Make the contrast of a specification such as ``"floc:stimuli/floc"``.

    Parameters
    ----------
    spec
        The name of a bundled set with hyphens or underscores (``"language"``, ``"theory-of-mind"``, …; ``BUNDLED``
        lists them), ``"fedorenko2010:FOLDER"``, ``"tom-saxe:FOLDER"``, ``"floc:FOLDER"``,
        ``"minimal-pairs:FILE"`` (or a folder), ``"csv:FILE"`` or ``"folder:FOLDER"``.
    positive, negative
        Conditions, as a list or separated by commas. ``csv`` and ``folder`` need ``positive``; the other sets have
        defaults, which these replace.
    text, image, audio
        Column names, for ``csv``. With a column of images or sounds and no text column, the stimuli have no text; with
        none of them, the text column is ``text``.
    condition
        For ``csv`` the column of the conditions (by default ``condition``); for ``folder`` where the conditions are
        stated: ``auto``, ``subfolder`` or ``prefix``.
    item, regressor
        Columns, for ``csv``.
    covariates
        Columns, for ``csv``; for other sets of texts measures of them (``length``, ``words``).
    duplicates
        ``error`` (the default) or ``keep``, as for the readers.

    Returns
    -------
    Contrast

    Raises
    ------
    InputError
        The kind is unknown, a path or a positive condition is missing, an option does not apply to the kind, or as the
        reader of that kind raises.
    """
    kind, _, path = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    kind = kind.replace("_", "-")
    if kind not in KINDS:
        examples = ", ".join(example for example, _ in KINDS.values())
        raise InputError(f"Unknown contrast {spec!r}. Known contrasts: {examples}.")
    example, takes = KINDS[kind]
    if bool(path) != (":" in example):
        raise InputError(f"The contrast {spec!r} must have the form {example}.")
    options = {
        "positive": positive,
        "negative": negative,
        "text": text,
        "image": image,
        "audio": audio,
        "condition": condition,
        "item": item,
        "covariates": covariates,
        "regressor": regressor,
        "duplicates": duplicates,
    }
    unused = [option for option, value in options.items() if value is not None and option not in takes]
    if unused:
        raise InputError(f"The contrast {example} takes no {', '.join(unused)}; it takes {', '.join(takes)}.")
    positive, negative, covariates = _names(positive), _names(negative), _names(covariates)
    if covariates and kind != "csv":
        plain = parse(spec, positive, negative, duplicates=duplicates)
        return Contrast(plain.stimuli, plain.positive, plain.negative, covariates=covariates)
    if kind == "vision" and (positive or negative):
        return _sides(vision(None), positive, negative)  # the sides can name any of its conditions
    repeats = duplicates or "error"
    if kind in BUNDLED or kind in PUBLISHED or kind == "minimal-pairs":
        return _sides(_with_default_sides(kind, path, repeats), positive, negative)
    if kind == "floc":
        return floc(path, FACES if positive is None else positive, negative, duplicates=repeats)
    if positive is None and regressor is None:
        raise InputError(f"The contrast {spec!r} needs a positive condition, or several separated by commas.")
    if kind == "folder":
        assert positive is not None
        layout: Any = condition or "auto"  # from_folder validates it
        return from_folder(path, positive=positive, negative=negative, condition=layout, duplicates=repeats)
    return from_csv(
        path,
        text=text or (None if image or audio else "text"),
        image=image,
        audio=audio,
        condition=condition or "condition",
        item=item,
        covariates=covariates or (),
        regressor=regressor,
        positive=positive,
        negative=negative,
        duplicates=repeats,
    )


def _with_default_sides(kind: str, path: str, duplicates: Duplicates) -> Contrast:
    """The contrast of a set whose sides need not be named."""
    if kind in BUNDLED:
        return BUNDLED[kind]()
    return minimal_pairs(path) if kind == "minimal-pairs" else PUBLISHED[kind](path, duplicates=duplicates)


def _names(conditions: str | Sequence[str] | None) -> list[str] | None:
    if conditions is None:
        return None
    listed = conditions.split(",") if isinstance(conditions, str) else conditions
    return [name.strip() for name in listed if name.strip()]


def _sides(contrast: Contrast, positive: list[str] | None, negative: list[str] | None) -> Contrast:
    """The same stimuli, with other conditions on the sides."""
    if positive is None and negative is None:
        return contrast
    if positive is None:
        return Contrast(contrast.stimuli, contrast.positive, negative)
    return Contrast(contrast.stimuli, positive, negative)
