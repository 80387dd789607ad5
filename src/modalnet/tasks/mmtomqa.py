"""MMToM-QA: what a person in an apartment believes or wants, from a text about the scene and the person's actions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from modalnet._validation import check_bool, check_option, check_seed
from modalnet.errors import InputError
from modalnet.stimuli.readers import stimulus_at
from modalnet.stimuli.rows import Rows, draw, read_rows
from modalnet.tasks.multiple_choice import MultipleChoice, MultipleChoiceQuestion

LETTERS = ("a", "b")
FORM = re.compile(
    r"(?P<scene>.*\S)\s*Question:\s*(?P<question>.*\S)\s*\(a\)\s*(?P<a>.*\S)\s*\(b\)\s*(?P<b>.*\S)\s*"
    r"Please respond with either a or b\.\s*",
    re.DOTALL,
)
PROMPTS = {
    "letters": "{scene}\nQuestion: {question} (a) {a} (b) {b} Please respond with either a or b.\nAnswer:",
    "texts": "{scene}\nQuestion: {question}\nAnswer:",
}


class _Question(NamedTuple):
    """A question in its parts."""

    number: int
    kind: str
    parts: dict[str, str]
    answer: int


def mmtomqa(
    path: str | os.PathLike[str],
    *,
    types: str | float | Sequence[str | float] | None = None,
    choices: Literal["letters", "texts"] = "letters",
    n: int | None = None,
    seed: int = 0,
    prompt: str | None = None,
    per_token: bool = False,
) -> MultipleChoice:
    """Questions of MMToM-QA about beliefs and goals, as texts, answered by likelihood.

    Parameters
    ----------
    path
        The questions as JSON lines, with the fields ``question``, ``answer`` and ``question_type`` of the published
        ``questions.json``.
    types
        Question types, such as ``"1.2"`` or ``["1.1", "1.2"]``: 1.1 true belief, 1.2 false belief, 1.3 belief tracking,
        2.1 to 2.4 goals. None takes all.
    choices
        ``"letters"``: the prompt lists both options, and the model's answer is the likelier of "a" and "b". Letters are
        equally long, so that no option is favoured for its length, but a small model may always prefer one of them: see
        its score on each type, of which about half is "a". ``"texts"``: the options are not listed, and the likelier
        one as a continuation counts; "not" makes some longer than others (`per_token` divides by their length).
    n
        Number of questions per type, drawn with the seed; None takes all.
    seed
        Seed of the draw.
    prompt
        Format string over ``{scene}`` (the apartment and the actions), ``{question}``, ``{a}`` and ``{b}``; None is the
        published wording, with "Answer:" after it, and for ``"texts"`` without the options.
    per_token
        Compare log-probabilities per token instead of their sum.

    Returns
    -------
    MultipleChoice
        An item scores 1 where the correct option is the likelier one; chance is 0.5. Items are named
        ``type/line``; ``groups`` maps each to its question type.

    Raises
    ------
    InputError
        The file does not exist or is not as described, a type or an option is unknown, ``n`` exceeds the questions of a
        type, or ``prompt`` has other fields. The message names the line.

    References
    ----------
    Jin, Wu, Cao, Xiang, Kuo, Hu, Ullman, Torralba, Tenenbaum & Shu (2024). MMToM-QA: multimodal theory of mind question
    answering. ACL, 16077-16102.
    """
    check_seed(seed)
    check_option("choices", choices, tuple(PROMPTS))
    check_bool("per_token", per_token)
    pattern = _checked_prompt(PROMPTS[choices] if prompt is None else prompt, choices)
    rows = read_rows(path)
    by_type: dict[str, list[_Question]] = {}
    for index in range(len(rows.cells)):
        read = _read(rows, index)
        by_type.setdefault(read.kind, []).append(read)
    questions = []
    for kind in _types(types, sorted(by_type)):
        for place in draw(n, len(by_type[kind]), seed, kind):
            one = by_type[kind][place]
            item = f"{kind}/{one.number}"
            stimulus = stimulus_at(f"Question {item}", text=pattern.format(**one.parts), id=item)
            answers = LETTERS if choices == "letters" else (one.parts["a"], one.parts["b"])
            questions.append(MultipleChoiceQuestion(item, stimulus, answers, one.answer, group=kind))
    return MultipleChoice("MMToM-QA", questions, per_token=per_token)


def _read(rows: Rows, index: int) -> _Question:
    cells, where = rows.cells[index], rows.where(index)
    for field in ("question", "answer", "question_type"):
        if field not in cells:
            raise InputError(
                f"{where} has no {field!r}, which a question of MMToM-QA must have. It has: {_keys(cells)}."
            )
    match = FORM.fullmatch(cells["question"]) if isinstance(cells["question"], str) else None
    if match is None:
        raise InputError(
            f"{where}: the question must end in 'Question: … (a) … (b) … Please respond with either a or b.', got "
            f"{repr(cells['question'])[-120:]}."
        )
    if cells["answer"] not in LETTERS:
        raise InputError(f"{where}: the answer must be 'a' or 'b', got {cells['answer']!r}.")
    if match["a"] == match["b"]:
        raise InputError(f"{where}: the two options are equal: {match['a']!r}.")
    return _Question(
        rows.numbers[index], str(cells["question_type"]), match.groupdict(), LETTERS.index(cells["answer"])
    )


def _types(types: Any, known: list[str]) -> list[str]:
    """The question types to use, in order."""
    if types is None:
        return known
    listed = [str(kind) for kind in (types if isinstance(types, list | tuple) else [types])]
    if not listed or not set(listed) <= set(known):
        raise InputError(f"`types` must be question types of the file ({', '.join(known)}), got {types!r}.")
    return [kind for kind in known if kind in listed]


def _checked_prompt(prompt: Any, choices: str) -> str:
    marks = {name: f"\x00{name}\x00" for name in ("scene", "question", "a", "b")}
    needed = marks if choices == "letters" else {name: marks[name] for name in ("scene", "question")}
    try:
        filled = prompt.format(**marks)
    except (AttributeError, LookupError, ValueError):
        filled = ""
    if not all(mark in filled for mark in needed.values()):
        fields = ", ".join(f"{{{name}}}" for name in needed)
        raise InputError(f"`prompt` must be a format string with {fields} for choices={choices!r}, got {prompt!r}.")
    return str(prompt)


def _keys(cells: Mapping[str, Any]) -> str:
    return ", ".join(map(str, cells))
