"""Stories with a representation that the world has left behind: in a head, or on paper.

A reader of a false-belief story keeps apart what a person believes and what is the case. A false-photograph story
asks for the same separation without a mind: a photograph, map, sign or list says what is no longer so. What the
first needs beyond the second is thinking about thoughts.
"""

from __future__ import annotations

import os
import re
import string
from itertools import takewhile
from pathlib import Path

from modalnet.errors import InputError
from modalnet.stimuli.bundled import data_rows, numbered
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.readers import Duplicates, make_contrast, open_folder
from modalnet.stimuli.stimulus import Stimulus
from modalnet.stimuli.tables import read_text

TEMPLATE = "{story}\n{question}"
SAXE_CONDITIONS = {"b": "belief", "p": "photo"}
SAXE_ITEMS = range(1, 11)
# The files end in the two buttons, "True      False".
BUTTONS = re.compile(r"^\W*true\W+false\W*$", re.IGNORECASE)


def theory_of_mind(n: int | None = None, *, template: str = TEMPLATE) -> Contrast:
    """False-belief > false-photograph stories, the contrast for the theory-of-mind network.

    24 pairs, written for this package after the design of Saxe & Kanwisher (2003) and Dodell-Feder et al. (2011).
    Both stories of a pair tell the same change of the world; in one a person has not learned of it, in the other a
    photograph, drawing, map, sign or list has not followed it. Both have people in them. After the story stands a
    statement that is true or false, as in the published localizer: it is about the belief or picture in 15 pairs
    and about the world in 9, true in 12 and false in 12, the same on both sides of a pair. The answer is not shown.

    The two sides agree in words, in each pair to within two for the story and one for the statement.

    Parameters
    ----------
    n
        Take the first ``n`` pairs, 2 to 24; None takes all.
    template
        How a stimulus is put together from ``{story}`` and ``{question}``. ``"{story}"`` leaves the statement out.
        AlKhamissi et al. (2025) show LLMs ``"Story: {story}\\nQuestion: {question}\\nAnswer:"`` after an instruction.

    Returns
    -------
    Contrast
        Conditions ``belief`` and ``photo``; ids ``"belief-001"``, …: the same number, the same pair.

    Raises
    ------
    InputError
        ``n`` is out of range; a template without ``{story}``, or with another field.

    References
    ----------
    Saxe & Kanwisher (2003). People thinking about thinking people: the role of the temporo-parietal junction in
    "theory of mind". NeuroImage 19, 1835-1842.
    Dodell-Feder, Koster-Hale, Bedny & Saxe (2011). fMRI item analysis in a theory of mind task. NeuroImage 55,
    705-712.
    AlKhamissi, Tuckute, Bosselut & Schrimpf (2025). The LLM Language Network. arXiv 2411.02280.
    """
    _check_template(template)
    groups: dict[str, list[str]] = {"belief": [], "photo": []}
    for row in data_rows("stories.tsv"):
        groups[row["condition"]].append(template.format(story=row["story"], question=row["statement"]))
    return Contrast(numbered(groups, n), positive="belief", negative="photo")


def tom_saxe(
    folder: str | os.PathLike[str],
    *,
    template: str = TEMPLATE,
    encoding: str = "utf-8",
    duplicates: Duplicates = "error",
) -> Contrast:
    """The theory-of-mind localizer of the Saxe lab: false-belief > false-photograph stories.

    Parameters
    ----------
    folder
        The folder ``text_files`` of the distribution, or the one that holds it: ``1b_story.txt`` to
        ``10b_story.txt`` (belief), ``1p_story.txt`` to ``10p_story.txt`` (photograph), and a ``_question.txt``
        beside each story. Line breaks within a file become spaces, and the line with the two buttons ("True
        False"), with all that follows it, is left out.
    template
        As for :func:`theory_of_mind`. A template without ``{question}`` needs no question files.
    encoding
        How the files are written.
    duplicates
        The published items are all different, so a text that comes twice is an error of the copy; ``"keep"`` takes it.

    Returns
    -------
    Contrast
        Ten stimuli of the condition ``belief`` and ten of ``photo``; ids as in the file names, ``"1b"``.

    Raises
    ------
    InputError
        No such folder; files are missing, empty, of another encoding, or the same; a template without ``{story}``
        or with another field. The message names the file.

    References
    ----------
    Dodell-Feder, Koster-Hale, Bedny & Saxe (2011). fMRI item analysis in a theory of mind task. NeuroImage 55,
    705-712. The files: https://saxelab.mit.edu/use-our-efficient-false-belief-localizer
    """
    parts = ["story", "question"] if "question" in _check_template(template) else ["story"]
    folder = open_folder(folder)
    if (folder / "text_files").is_dir():
        folder = folder / "text_files"
    items = [f"{number}{letter}" for letter in SAXE_CONDITIONS for number in SAXE_ITEMS]
    wanted = [f"{item}_{part}.txt" for item in items for part in parts]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise InputError(
            f"{folder} lacks {len(missing)} of the {len(wanted)} files of the localizer: {some}. It is the folder "
            "text_files of the Saxe lab's distribution, or the folder that holds it."
        )
    stimuli = [
        Stimulus(
            template.format(**{part: _one_line(folder / f"{item}_{part}.txt", encoding) for part in parts}),
            condition=SAXE_CONDITIONS[item[-1]],
            id=item,
        )
        for item in items
    ]
    return make_contrast(folder, stimuli, "belief", "photo", duplicates=duplicates)


def _one_line(path: Path, encoding: str) -> str:
    """The text of a file up to the buttons, its line breaks made spaces."""
    kept = list(takewhile(lambda line: not BUTTONS.match(line), read_text(path, encoding).splitlines()))
    kept = " ".join(kept).split()
    if not kept:
        raise InputError(f"{path} is empty; a text was expected. Copy it again from the distribution.")
    return " ".join(kept)


def _check_template(template: str) -> set[str]:
    """The fields that a template names."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        template.format(story="", question="")
    except (TypeError, ValueError, LookupError, AttributeError):
        fields = set()
    if "story" not in fields or fields - {"story", "question"}:
        raise InputError(
            f"template puts a stimulus together from {{story}} and, if wanted, {{question}}; this is {template!r}."
        )
    return fields
