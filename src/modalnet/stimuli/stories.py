"""Stories about a representation that is out of date: a belief, or a photograph.

A reader of a false-belief story distinguishes what a person believes from what is the case. A false-photograph story
requires the same distinction without a mind: a photograph, map, sign or list states what is no longer true. What the
former requires beyond the latter is the representation of thoughts.
"""

from __future__ import annotations

import os
import re
import string
from itertools import takewhile
from pathlib import Path

from modalnet.errors import InputError
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.package_data import data_rows, numbered
from modalnet.stimuli.readers import Duplicates, make_contrast, open_folder
from modalnet.stimuli.stimulus import Stimulus
from modalnet.stimuli.tables import read_text

TEMPLATE = "{story}\n{question}"
SAXE_CONDITIONS = {"b": "belief", "p": "photo"}
SAXE_ITEMS = range(1, 11)
# The files end in the labels of the two response buttons, "True      False".
BUTTONS = re.compile(r"^\W*true\W+false\W*$", re.IGNORECASE)


def theory_of_mind(n: int | None = None, *, template: str = TEMPLATE) -> Contrast:
    """False-belief > false-photograph stories, the contrast for the theory-of-mind network.

    24 pairs, written for this package after the design of Saxe & Kanwisher (2003) and Dodell-Feder et al. (2011). Both
    stories of a pair describe the same change of the world; in one a person is unaware of it, in the other a
    photograph, drawing, map, sign or list does not show it. Both stories mention people. As in the published localizer,
    the story is followed by a statement that is true or false: it is about the belief or picture in 15 pairs and about
    the world in 9, true in 12 and false in 12, the same in both stories of a pair. The answer is not shown.

    The conditions are matched in words, in each pair to within two for the story and one for the statement.

    Parameters
    ----------
    n
        Number of pairs, 2 to 24; None takes all.
    template
        Format string that combines ``{story}`` and ``{question}``. ``"{story}"`` omits the statement. AlKhamissi et al.
        (2025) present ``"Story: {story}\\nQuestion: {question}\\nAnswer:"`` after an instruction.

    Returns
    -------
    Contrast
        Conditions ``belief`` and ``photo``; ids ``"belief-001"``, …. Stimuli with the same number form a pair
        and are one item: :func:`modalnet.localize` tests them as pairs.

    Raises
    ------
    InputError
        ``n`` is out of range, or the template lacks ``{story}`` or has another field.

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
    return Contrast(numbered(groups, n, paired=True), positive="belief", negative="photo")


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
        The folder ``text_files`` of the distribution, or the folder that contains it: ``1b_story.txt`` to
        ``10b_story.txt`` (belief), ``1p_story.txt`` to ``10p_story.txt`` (photograph), and a ``_question.txt`` for each
        story. Line breaks within a file become spaces; the line of the response buttons ("True  False") and all that
        follows it are removed.
    template
        As for :func:`theory_of_mind`. A template without ``{question}`` needs no question files.
    encoding
        Encoding of the files.
    duplicates
        The published items are all different, so a repeated text is an error of the copy; ``"keep"`` accepts it.

    Returns
    -------
    Contrast
        Ten stimuli of the condition ``belief`` and ten of ``photo``; ids as in the file names, ``"1b"``.

    Raises
    ------
    InputError
        The folder does not exist; files are missing, empty, identical, or in another encoding; the template lacks
        ``{story}`` or has another field. The message names the file.

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
            f"{folder} lacks {len(missing)} of the {len(wanted)} files of the localizer: {some}. Pass the folder "
            "text_files of the Saxe lab's distribution, or the folder that contains it."
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
    """The text of a file up to the response buttons, as one line."""
    lines = takewhile(lambda line: not BUTTONS.match(line), read_text(path, encoding).splitlines())
    words = " ".join(lines).split()
    if not words:
        raise InputError(f"{path} is empty. Copy it again from the distribution.")
    return " ".join(words)


def _check_template(template: str) -> set[str]:
    """The fields of a template."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        template.format(story="", question="")
    except (TypeError, ValueError, LookupError, AttributeError):
        fields = set()
    if "story" not in fields or fields - {"story", "question"}:
        raise InputError(f"`template` must contain {{story}} and optionally {{question}}, got {template!r}.")
    return fields
