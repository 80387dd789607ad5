"""EleutherAI's lm-evaluation-harness on a lesioned model.

The harness brings the tasks, their prompts and their metrics; modalnet answers its questions, under whatever
interventions. So a lesion is measured on the very tasks that models are compared on, and by the same code.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from modalnet._validation import check_batch_size
from modalnet.errors import InputError
from modalnet.interventions.operations import flatten
from modalnet.model import Model, as_model, load
from modalnet.stimuli import Stimulus

if TYPE_CHECKING:
    from modalnet.interventions.operations import Intervention

_INSTALL = "pip install 'modalnet[lm-eval]'"


def lm_eval(
    model: Model,
    interventions: Intervention | Sequence[Intervention] = (),
    tasks: str | dict[str, Any] | Sequence[str | dict[str, Any]] = (),
    *,
    limit: int | float | None = None,
    num_fewshot: int | None = None,
    include_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    batch_size: int | Literal["auto"] = "auto",
    max_length: int | None = None,
    **harness: Any,
) -> dict[str, Any]:
    """Run tasks of the lm-evaluation-harness on a model, under interventions or none.

    Contexts are given as the harness writes them, without a chat template, also where the model has one
    (``apply_chat_template=True`` puts it on). Decoding is greedy. Numbers are those of the harness' own ``hf`` model
    run with ``add_bos_token=False`` on whole texts: where a tokenizer begins with a token of its own, the text follows
    that token once, not twice.

    Parameters
    ----------
    model
        The model, or a view of it (:meth:`modalnet.Model.with_`).
    interventions
        As for :meth:`modalnet.Model.run`, one or several.
    tasks
        Names of the harness' tasks or groups (``"blimp"``), paths of task files (YAML), or tasks as dicts.
    limit
        The first so many documents of each task; a number below 1 is a share of them.
    num_fewshot
        How many worked examples come first; None for what the task says.
    include_path
        Folders with task files of your own. Where they have all the tasks, the harness' own are not looked through,
        which takes long.
    batch_size
        Requests per forward pass.
    max_length
        The longest input in tokens, where it should be shorter than what the model can hold. Longer contexts lose
        their beginning; longer texts are read in windows (see :class:`modalnet.interop.lesioned.LesionedLM`).
    **harness
        For ``lm_eval.simple_evaluate``: ``apply_chat_template``, ``gen_kwargs``, ``samples``, ``bootstrap_iters``,
        ``log_samples``, ...

    Returns
    -------
    dict
        What ``lm_eval.simple_evaluate`` returns: ``["results"][task]`` has the metrics, ``["samples"][task]`` one
        entry per document, in order, so that two runs can be compared item by item.

    Raises
    ------
    InputError
        lm_eval is not installed; no tasks, or one that nobody knows; tasks that sample; inputs longer than the model
        can hold that nothing can be cut from; and as for :meth:`modalnet.Model.likelihoods`.

    References
    ----------
    Gao et al., The Language Model Evaluation Harness, https://github.com/EleutherAI/lm-evaluation-harness

    Examples
    --------
    >>> zeroed = modalnet.zero(network)  # doctest: +SKIP
    >>> lm_eval(model, zeroed, tasks="blimp", limit=50)["results"]  # doctest: +SKIP
    """
    asked = [tasks] if isinstance(tasks, str | dict) else list(tasks)
    if not asked:
        raise InputError('no tasks were given. Name some, such as tasks=["blimp"].')
    if harness.get("use_cache"):
        raise InputError("use_cache: the harness keeps answers without the lesion that they belong to. Leave it out.")
    check_batch_size(batch_size)
    model = as_model(model)
    evaluator = _import()
    from modalnet.interop.lesioned import LesionedLM

    given = flatten((interventions,))
    view = _as_written(model)
    lesioned = LesionedLM(view.with_(*given) if given else view, batch_size=batch_size, max_length=max_length)
    return evaluator.simple_evaluate(
        model=lesioned,
        tasks=asked,
        task_manager=_task_manager(asked, include_path),
        limit=limit,
        num_fewshot=num_fewshot,
        batch_size=batch_size,
        **harness,
    )


def _import() -> Any:
    try:
        import lm_eval
        from lm_eval import evaluator
    except ModuleNotFoundError as error:
        raise InputError(
            f"modalnet.interop.lm_eval needs the lm-evaluation-harness ({error}). Install it: {_INSTALL}"
        ) from error
    if not hasattr(lm_eval.tasks.TaskManager, "load"):
        raise InputError(f"lm_eval {lm_eval.__version__} is older than modalnet works with. Upgrade it: {_INSTALL}")
    return evaluator


def _task_manager(tasks: list[str | dict[str, Any]], include_path: Any) -> Any:
    from lm_eval.tasks import TaskManager

    paths = [include_path] if isinstance(include_path, str | os.PathLike) else list(include_path or ())
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"include_path={os.fspath(path)!r} is no folder. Give the folder that holds task files.")
    folders = [os.fspath(path) for path in paths]
    # The harness has many thousands of task files, and reads the head of each to find one.
    own = TaskManager(include_path=folders, include_defaults=False)

    near = all(_is_task(task) if _is_file_or_dict(task) else task in own.all_subtasks for task in tasks)
    manager = own if near else TaskManager(include_path=folders)
    for task in tasks:
        if not _is_file_or_dict(task) and task not in manager.all_tasks:
            raise InputError(
                f"there is no task {task!r}: neither in the lm-evaluation-harness nor in include_path, and it is no "
                "file. `lm-eval ls tasks` lists the harness' own."
            )
    return manager


def _is_file_or_dict(task: str | dict[str, Any]) -> bool:
    return isinstance(task, dict) or os.path.isfile(task)


def _is_task(task: str | dict[str, Any]) -> bool:
    """Whether a file or a dict describes one task by itself, and no group, which may name tasks of the harness."""
    if isinstance(task, dict):
        return "group" not in task
    with open(task, encoding="utf-8") as file:
        return not any(line.startswith("group:") for line in file)


def _as_written(model: Model) -> Model:
    """The model with texts taken as they are: what the harness writes is no user's turn in a chat."""
    text = "a"
    if model._executor.prepare([Stimulus(text=text)])[0].prompt == text:
        return model
    if model._executor.edited:
        raise InputError(
            f"{model.name} writes texts in a chat template. Load it with chat_template=False for the harness."
        )
    plain = load(model.module, tokenizer=model.tokenizer, chat_template=False)
    plain._executor.loaded.name = model.name
    return plain.with_(*model.interventions) if model.interventions else plain
