"""EleutherAI's lm-evaluation-harness on a lesioned model.

The harness provides tasks, prompts and metrics; modalnet provides the model's log-probabilities and generated text
under interventions. A lesion is thus evaluated on standard benchmarks with their standard implementation.
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
    """Evaluate a model on tasks of the lm-evaluation-harness, optionally under interventions.

    Contexts are passed on as the harness makes them, without a chat template even if the model has one
    (``apply_chat_template=True`` applies it). Decoding is greedy. The scores equal those of the harness' own ``hf``
    model with ``add_bos_token=False``: if the tokenizer adds a beginning-of-sequence token, it is added once, not
    twice.

    Parameters
    ----------
    model
        The model, or a view of it (:meth:`modalnet.Model.with_`).
    interventions
        One or several, as in :meth:`modalnet.Model.run`.
    tasks
        Names of the harness' tasks or groups (``"blimp"``), paths of task files (YAML), or tasks as dicts.
    limit
        Number of documents per task, from the first; a number below 1 is a share of them.
    num_fewshot
        Number of few-shot examples; None for the task's default.
    include_path
        Folders with your own task files. If they contain all the tasks, the harness' own task files are not indexed,
        which takes long.
    batch_size
        Requests per forward pass.
    max_length
        Maximum input length in tokens, if it should be shorter than the model's. Longer contexts are truncated from
        the left; longer texts are split into windows (see :class:`modalnet.interop.lesioned.LesionedLM`).
    **harness
        Passed to ``lm_eval.simple_evaluate``: ``apply_chat_template``, ``gen_kwargs``, ``samples``,
        ``bootstrap_iters``, ``log_samples``, ...

    Returns
    -------
    dict
        The return value of ``lm_eval.simple_evaluate``: ``["results"][task]`` has the metrics, ``["samples"][task]``
        one entry per document, in order, so that two runs can be compared item by item.

    Raises
    ------
    InputError
        If lm_eval is not installed, no task is given or a task is unknown, a task samples its answers, or an input is
        longer than the model's maximum length and cannot be truncated; and as for :meth:`modalnet.Model.score`.

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
        raise InputError('`tasks` must name at least one task, such as tasks=["blimp"].')
    if harness.get("use_cache"):
        raise InputError(
            "`use_cache` is not supported: the harness' cache does not distinguish interventions. Omit it."
        )
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
        raise InputError(f"lm_eval {lm_eval.__version__} is too old for modalnet. Upgrade it: {_INSTALL}")
    return evaluator


def _task_manager(tasks: list[str | dict[str, Any]], include_path: Any) -> Any:
    from lm_eval.tasks import TaskManager

    paths = [include_path] if isinstance(include_path, str | os.PathLike) else list(include_path or ())
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"`include_path` must be a folder with task files, got {os.fspath(path)!r}.")
    folders = [os.fspath(path) for path in paths]
    # Indexing the harness' own tasks is slow: it opens thousands of files.
    own = TaskManager(include_path=folders, include_defaults=False)

    near = all(_is_task(task) if _is_file_or_dict(task) else task in own.all_subtasks for task in tasks)
    manager = own if near else TaskManager(include_path=folders)
    for task in tasks:
        if not _is_file_or_dict(task) and task not in manager.all_tasks:
            raise InputError(
                f"Unknown task {task!r}: it is not a task of the lm-evaluation-harness, not in `include_path`, and not "
                "a file. `lm-eval ls tasks` lists the harness' tasks."
            )
    return manager


def _is_file_or_dict(task: str | dict[str, Any]) -> bool:
    return isinstance(task, dict) or os.path.isfile(task)


def _is_task(task: str | dict[str, Any]) -> bool:
    """Whether a file or a dict describes a task rather than a group, which may name tasks of the harness."""
    if isinstance(task, dict):
        return "group" not in task
    with open(task, encoding="utf-8") as file:
        return not any(line.startswith("group:") for line in file)


def _as_written(model: Model) -> Model:
    """The model without a chat template: the harness' contexts are not user turns of a chat."""
    text = "a"
    if model._executor.prepare([Stimulus(text=text)])[0].prompt == text:
        return model
    if model._executor.edited:
        raise InputError(f"{model.name} applies a chat template. Load it with chat_template=False for the harness.")
    plain = load(model.module, tokenizer=model.tokenizer, chat_template=False)
    plain._executor.loaded.name = model.name
    return plain.with_(*model.interventions) if model.interventions else plain
