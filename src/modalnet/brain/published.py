"""Readers of published brain responses to sentences and stories, in the formats in which they are shared.

Nothing is downloaded. A reader takes the file that the authors share, or loads the assembly through the package
brainscore-language if that is installed; otherwise its error says where to obtain the data.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modalnet._validation import check_option
from modalnet.brain.dataset import BrainDataset
from modalnet.brain.readers import from_arrays, from_csv, from_xarray
from modalnet.brain.topics import topics
from modalnet.errors import InputError
from modalnet.stimuli import Stimulus
from modalnet.stimuli.tables import read_table

PEREIRA = "Pereira et al. (2018), Nature Communications 9:963, doi:10.1038/s41467-018-03068-4"
TUCKUTE = "Tuckute et al. (2024), Nature Human Behaviour 8:544-561, doi:10.1038/s41562-023-01783-7"
FEDORENKO = "Fedorenko et al. (2016), PNAS 113(41):E6256-E6262, doi:10.1073/pnas.1612132113"
BLANK = "Blank, Kanwisher & Fedorenko (2014), Journal of Neurophysiology 112(5):1105-1118, doi:10.1152/jn.00884.2013"

URLS = {
    "pereira2018": "https://osf.io/crwz7/",
    "tuckute2024": "https://github.com/gretatuckute/drive_suppress_brains",
    "fedorenko2016": "https://github.com/brain-score/language",
    "blank2014": "https://github.com/brain-score/language",
}
LANGUAGE_NETWORK = "lang_LH_netw"
DRIVE, SUPPRESS, BASELINE = "D", "S", "B"


def pereira2018(
    path: str | os.PathLike[str] | None = None,
    *,
    experiment: Literal["243sentences", "384sentences"] | None = None,
    groups: Literal["topics", "passages"] | None = None,
) -> BrainDataset:
    """Read fMRI responses to the sentences of short encyclopaedic passages (Pereira et al. 2018).

    Parameters
    ----------
    path
        One of the public formats: a CSV file of responses averaged over participants (columns Sentence and EffectSize,
        627 rows); a file ``examples_243sentences.mat`` or ``examples_384sentences.mat`` of one participant, or the
        folder of participants that holds them. None: the assembly ``Pereira2018.language`` of brainscore-language.
    experiment
        Restrict to the sentences of one of the two experiments (not available for the averaged CSV file).
    groups
        ``"passages"``: the topic of each passage as labelled by the authors (the default wherever the format has it).
        ``"topics"``: sentences that share rare words (:func:`modalnet.brain.topics`); the default for the averaged
        file, which lacks passage labels.

    Returns
    -------
    BrainDataset
        The averaged file has one target and is sorted alphabetically, so the presentation order is unknown. In the
        other formats, sentences are in passage order.

    Raises
    ------
    InputError
        If no data are found (the message gives the address to obtain them from), or the format is unknown.

    References
    ----------
    Pereira, Lou, Pritchett, Ritter, Gershman, Kanwisher, Botvinick & Fedorenko (2018), Toward a universal decoder of
    linguistic meaning from brain activation, Nature Communications 9:963.
    """
    if groups not in (None, "topics", "passages"):
        raise InputError(f"`groups` must be 'topics', 'passages' or None, got {groups!r}.")
    if path is None:
        array = _brainscore("pereira2018", "Pereira2018.language")
        data = from_xarray(
            array,
            group=_first(array, ("story", "passage_category", "passage_label")),
            subject="subject",
            region=_first(array, ("roi", "atlas")),
            order=[one for one in ("experiment", "stimulus_num") if one in array.coords],
            ordered=True,
            name="Pereira2018",
            source=PEREIRA,
        )
        if experiment is not None:
            data = _some(data, np.asarray([experiment in str(group) for group in data.groups or ()]), experiment)
        return _topics(data) if groups == "topics" else data
    path = Path(path)
    if path.suffix.lower() == ".csv":
        if experiment is not None or groups == "passages":
            raise InputError(
                f"{path}: the averaged file does not give the experiment or the passage of a sentence. Read the .mat "
                f"files of the participants instead ({URLS['pereira2018']})."
            )
        data = from_csv(path, text="Sentence", responses="EffectSize", name="Pereira2018", source=PEREIRA)
        return _topics(data)
    files = [path] if path.suffix.lower() == ".mat" else sorted(path.glob("**/examples_*sentences.mat"))
    files = [one for one in files if experiment is None or experiment in one.name]
    if not files or not all(one.is_file() for one in files):
        raise InputError(
            f"{path} holds no examples_243sentences.mat or examples_384sentences.mat. {_where('pereira2018')}"
        )
    data = _participants([_mat(one) for one in files])
    return _topics(data) if groups == "topics" else data


def tuckute2024(
    path: str | os.PathLike[str] | None = None,
    *,
    conditions: str | Sequence[str] | None = None,
    region: str = LANGUAGE_NETWORK,
    participants: Sequence[str | int] | None = None,
    each: bool = False,
    groups: Literal["topics"] | None = "topics",
) -> BrainDataset:
    """Read fMRI responses to six-word baseline, drive and suppress sentences (Tuckute et al. 2024).

    Parameters
    ----------
    path
        One of the public formats: a CSV file of responses averaged over participants (columns Sentence, EffectSize and
        cond), or ``brain-lang-data_participant_20230728.csv`` of the authors, with one row per participant, region and
        sentence. None: the assembly ``Tuckute2024.language`` of brainscore-language.
    conditions
        Conditions to include: ``"B"`` baseline (1,000 diverse sentences), ``"D"`` drive, ``"S"`` suppress, or a list;
        None for all. Drive and suppress sentences were *selected by an encoding model of a language model* (GPT2-XL),
        so that scores on them favour language models: report the baseline condition.
    region
        For the participants' file: the region, by default the left-hemisphere language network.
    participants
        For the participants' file: participants to include; None for all.
    each
        For the participants' file: whether every participant is a target. If False, the target is their mean, with a
        noise ceiling from the agreement between participants.
    groups
        ``"topics"``: groups of sentences that share rare words (:func:`modalnet.brain.topics`). None: no groups.

    Returns
    -------
    BrainDataset

    Raises
    ------
    InputError
        If no data are found (the message gives the address to obtain them from), the format is unknown, or a
        condition, region or participant does not exist.

    References
    ----------
    Tuckute, Sathe, Srikant, Taliaferro, Wang, Schrimpf, Kay & Fedorenko (2024), Driving and suppressing the human
    language network using large language models, Nature Human Behaviour 8:544-561.
    """
    wanted = [conditions] if isinstance(conditions, str) else None if conditions is None else list(conditions)
    for condition in wanted or ():
        check_option("conditions", condition, (BASELINE, DRIVE, SUPPRESS))
    if path is None:
        array = _brainscore("tuckute2024", "Tuckute2024.language")
        kinds = np.asarray(array.coords["cond"].values).astype(str) if "cond" in array.coords else None
        data = from_xarray(array, region=_first(array, ("roi",)), name="Tuckute2024", source=TUCKUTE)
        if wanted is not None:
            if kinds is None:
                raise InputError("The assembly Tuckute2024.language does not give the condition of a sentence.")
            data = _some(data, np.isin(kinds, wanted), ", ".join(wanted))
        return _topics(data) if groups else data
    path = Path(path)
    header, rows = read_table(path)
    if "response_target" in header:
        data, kinds = _tuckute_participants(path, header, rows, region, participants, each)
    else:
        data = from_csv(path, text="Sentence", responses="EffectSize", name="Tuckute2024", source=TUCKUTE)
        if wanted is not None and "cond" not in header:
            raise InputError(f"{path} has no column 'cond', which selecting conditions requires.")
        kinds = np.array([row[header.index("cond")].strip() for _, row in rows]) if "cond" in header else np.array([])
    if wanted is not None:
        data = _some(data, np.isin(kinds, wanted), ", ".join(wanted))
    return _topics(data) if groups else data


def fedorenko2016() -> BrainDataset:
    """Load word-by-word ECoG responses to eight-word sentences (Fedorenko et al. 2016) through brainscore-language.

    Returns
    -------
    BrainDataset
        The assembly ``Fedorenko2016.language``: words in order, grouped by sentence. Each stimulus is the sentence
        up to and including its word.

    Raises
    ------
    InputError
        If brainscore-language is not installed or cannot load the data; the message gives the address of the data.

    References
    ----------
    Fedorenko, Scott, Brunner, Coon, Pritchett, Schalk & Kanwisher (2016), Neural correlate of the construction of
    sentence meaning, PNAS 113(41):E6256-E6262.
    """
    array = _brainscore("fedorenko2016", "Fedorenko2016.language")
    data = from_xarray(
        array,
        group="sentence_id",
        subject=_first(array, ("subject_UID", "subject")),
        region=_first(array, ("region", "electrode")),
        order=[one for one in ("sentence_id", "word_num") if one in array.coords],
        ordered=True,
        name="Fedorenko2016",
        source=FEDORENKO,
    )
    return _so_far(data)


def blank2014() -> BrainDataset:
    """Load fMRI responses of language regions to eight stories (Blank et al. 2014) through brainscore-language.

    Returns
    -------
    BrainDataset
        The assembly ``Blank2014.fROI``: segments of two seconds in order, grouped by story. Each stimulus is its
        segment without context.

    Raises
    ------
    InputError
        If brainscore-language is not installed or cannot load the data; the message gives the address of the data.

    References
    ----------
    Blank, Kanwisher & Fedorenko (2014), A functional dissociation between language and multiple-demand systems
    revealed in patterns of BOLD signal fluctuations, Journal of Neurophysiology 112(5):1105-1118.
    """
    array = _brainscore("blank2014", "Blank2014.fROI")
    order = [one for one in ("story", "sentence_number_in_story", "part_number_in_sentence") if one in array.coords]
    return from_xarray(
        array,
        group="story",
        subject=_first(array, ("subject_id", "subject_UID", "subject")),
        region=_first(array, ("fROI_area", "roi")),
        order=order,
        ordered=True,
        name="Blank2014",
        source=BLANK,
    )


def _where(name: str) -> str:
    return (
        f"The data are shared at {URLS[name]}. Alternatively, load the assembly with brainscore-language (in a "
        "separate environment, because it requires older versions of numpy and transformers) and pass it to "
        "modalnet.brain.from_xarray()."
    )


def _brainscore(name: str, identifier: str) -> Any:
    """Load an assembly through brainscore-language."""
    try:
        from brainscore_language import load_dataset
    except ImportError as error:
        raise InputError(
            f"{name}() loads {identifier} through brainscore-language, which is not installed. {_where(name)}"
        ) from error
    try:
        return load_dataset(identifier)
    except Exception as error:  # no network, no access, a changed archive: whatever its parts raise
        raise InputError(
            f"brainscore-language could not load {identifier} ({type(error).__name__}: {error}). {_where(name)}"
        ) from error


def _first(array: Any, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in array.coords), None)


def _some(data: BrainDataset, selected: np.ndarray, what: str) -> BrainDataset:
    if not selected.any():
        raise InputError(f"{data.name} has no stimuli of {what}.")
    chosen = data.select(stimuli=selected)
    return replace(chosen, name=f"{data.name} ({what})")


def _topics(data: BrainDataset) -> BrainDataset:
    return data.with_groups(topics(data))


def _so_far(data: BrainDataset) -> BrainDataset:
    """Replace each stimulus by the texts of its group up to and including it."""
    made: list[Stimulus] = []
    before: dict[str, str] = {}
    for stimulus, group in zip(data.stimuli, data.groups or (), strict=True):
        before[group] = f"{before[group]} {stimulus.text}" if group in before else str(stimulus.text)
        made.append(Stimulus(before[group], id=stimulus.id))
    return replace(data, stimuli=tuple(made))


def _mat(path: Path) -> dict[str, Any]:
    """Read the file of one participant: sentences, topics of passages, and responses."""
    from scipy.io import loadmat

    try:
        held = loadmat(path)
        texts = [str(np.ravel(one)[0]).strip() for one in held["keySentences"].ravel()]
        passages = np.ravel(held["labelsPassageForEachSentence"]).astype(int) - 1
        of_passage = np.ravel(held["labelsPassageCategory"]).astype(int) - 1
        titles = [_text(one) for one in held["keyPassageCategory"].ravel()]
        if len(titles) == 1 and held["keyPassageCategory"].ravel()[0].dtype == object:
            titles = [_text(one) for one in held["keyPassageCategory"].ravel()[0].ravel()]
        values = np.asarray(held["examples"], dtype=np.float64)
        groups = [f"{path.stem.removeprefix('examples_')}.{titles[of_passage[passage]]}" for passage in passages]
    except (KeyError, IndexError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise InputError(
            f"{path} is not a file of Pereira 2018 in its published format ({type(error).__name__}: {error}). "
            f"{_where('pereira2018')}"
        ) from error
    if not len(texts) == len(groups) == len(values):
        raise InputError(
            f"{path}: sentences, passage labels and responses must be equally many, got {len(texts)}, "
            f"{len(groups)} and {len(values)}."
        )
    return {"subject": path.parent.name or path.stem, "texts": texts, "groups": groups, "values": values}


def _text(cell: Any) -> str:
    while isinstance(cell, np.ndarray) and cell.size:
        cell = cell.ravel()[0]
    return str(cell).strip()


def _participants(files: Sequence[dict[str, Any]]) -> BrainDataset:
    """Concatenate the targets of participants; sentences that a participant did not read are missing."""
    rows: dict[str, str] = {}
    for one in files:
        for text, group in zip(one["texts"], one["groups"], strict=True):
            rows.setdefault(text, group)
    ordered = sorted(range(len(rows)), key=lambda i: list(rows.values())[i])
    texts = [list(rows)[i] for i in ordered]
    place = {text: index for index, text in enumerate(texts)}
    widths: dict[str, int] = {}
    for one in files:
        if widths.setdefault(one["subject"], one["values"].shape[1]) != one["values"].shape[1]:
            raise InputError(
                f"The files of participant {one['subject']} must have the same voxels, got "
                f"{widths[one['subject']]} and {one['values'].shape[1]}."
            )
    start = dict(zip(widths, np.cumsum([0, *widths.values()]).tolist(), strict=False))
    values = np.full((len(texts), sum(widths.values())), np.nan)
    for one in files:
        columns = slice(start[one["subject"]], start[one["subject"]] + widths[one["subject"]])
        values[[place[text] for text in one["texts"]], columns] = one["values"]
    subjects = np.array([subject for subject, width in widths.items() for _ in range(width)])
    with np.errstate(invalid="ignore"):
        varies = np.nanmax(values, axis=0) > np.nanmin(values, axis=0)
    return from_arrays(
        texts,
        values[:, varies],
        groups=[rows[text] for text in texts],
        ordered=True,
        subjects=subjects[varies],
        name="Pereira2018",
        source=PEREIRA,
    )


def _tuckute_participants(  # noqa: PLR0917  # one call, above
    path: Path,
    header: list[str],
    rows: Sequence[tuple[int, list[str]]],
    region: str,
    participants: Sequence[str | int] | None,
    each: bool,
) -> tuple[BrainDataset, np.ndarray]:
    from modalnet.brain.readers import number

    missing = [name for name in ("target_UID", "cond", "sentence", "roi") if name not in header]
    if missing:
        raise InputError(
            f"{path} lacks the columns {', '.join(missing)} of the published file. {_where('tuckute2024')}"
        )
    at = {name: header.index(name) for name in ("target_UID", "cond", "sentence", "roi", "response_target")}
    known = {row[at["roi"]] for _, row in rows}
    if region not in known:
        raise InputError(f"{path} has no region {region!r}; it has {', '.join(sorted(known))}.")
    wanted = None if participants is None else {str(one) for one in participants}
    selected = [
        (line, row)
        for line, row in rows
        if row[at["roi"]] == region and (wanted is None or row[at["target_UID"]] in wanted)
    ]
    if not selected:
        raise InputError(f"{path} has no rows of participants {participants!r}.")
    kinds: dict[str, str] = {}
    for _, row in selected:
        kinds.setdefault(row[at["sentence"]].strip(), row[at["cond"]].strip())
    place = {text: index for index, text in enumerate(kinds)}
    people = list(dict.fromkeys(row[at["target_UID"]] for _, row in selected))
    values = np.full((len(people), len(place), 1), np.nan)
    for line, row in selected:
        where = (people.index(row[at["target_UID"]]), place[row[at["sentence"]].strip()], 0)
        values[where] = number(row[at["response_target"]], f"{path}, row {line}")
    responses = values[:, :, 0].T if each else values if len(people) > 1 else values[0]
    data = from_arrays(
        list(place),
        responses,
        subjects=people if each else None,
        regions=[region] * len(people) if each else [region],
        name="Tuckute2024",
        source=TUCKUTE,
    )
    return data, np.array(list(kinds.values()))
