"""lmms-eval, the evaluation harness for multimodal models, on a lesioned model.

lmms-eval provides tasks with pictures, prompts and metrics; modalnet provides the model's losses and generated text
under interventions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from modalnet._validation import check_batch_size
from modalnet.errors import InputError
from modalnet.interventions.operations import flatten
from modalnet.model import Model, as_model

if TYPE_CHECKING:
    from modalnet.interventions.operations import Intervention

_INSTALL = "pip install 'modalnet[lmms-eval]'"
#: Options of lmms-eval that would bypass the interventions or the prompts of modalnet, with the reason.
_REFUSED = {
    "use_cache": "lmms-eval's cache does not distinguish interventions",
    "apply_chat_template": "modalnet applies the model's chat template by itself; see modalnet.load(chat_template=)",
    "model_args": "the model is loaded already",
}


def lmms_eval(
    model: Model,
    interventions: Intervention | Sequence[Intervention] = (),
    tasks: str | Sequence[str] = (),
    *,
    limit: int | float | None = None,
    include_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    batch_size: int | Literal["auto"] = "auto",
    **options: Any,
) -> dict[str, Any]:
    """Evaluate a model on tasks of lmms-eval, pictures included, optionally under interventions.

    A prompt and its pictures are one stimulus, pictures first, in the model's chat template if it has one
    (``modalnet.load(..., chat_template=False)`` leaves it out). Decoding is greedy, and each text ends at the first
    stop string of its task. Tasks with videos or audio, and those of several rounds, are refused.

    Parameters
    ----------
    model
        The model, or a view of it (:meth:`modalnet.Model.with_`).
    interventions
        One or several, as in :meth:`modalnet.Model.run`.
    tasks
        Names of lmms-eval's tasks, groups or tags (``"mmstar"``), or of those in ``include_path``.
    limit
        Number of documents per task, from the first; a number below 1 is a share of them.
    include_path
        Folders with your own task files. If they contain all the tasks, lmms-eval's own task files are not indexed.
    batch_size
        Requests per forward pass; texts are generated one by one.
    **options
        Passed to ``lmms_eval.evaluator.simple_evaluate``: ``num_fewshot``, ``gen_kwargs`` (a string),
        ``bootstrap_iters``, ``log_samples``, ...

    Returns
    -------
    dict
        The return value of ``simple_evaluate``: ``["results"][task]`` has the metrics, ``["samples"][task]`` one entry
        per document, so that two runs can be compared item by item. ``["config"]`` lists the interventions. In a
        multiple choice, the response to each answer is its loss, the mean negative log-probability per token, of which
        lmms-eval chooses the smallest.

    Raises
    ------
    InputError
        If lmms-eval is not installed, no task is given or a task is unknown, a task samples its answers or generates
        in several rounds, or a document has a video or audio; and as for :meth:`modalnet.Model.score`.

    References
    ----------
    Zhang et al. (2024), LMMs-Eval: Reality Check on the Evaluation of Large Multimodal Models, arXiv:2407.12772.

    Examples
    --------
    >>> zeroed = modalnet.zero(network)  # doctest: +SKIP
    >>> lmms_eval(model, zeroed, tasks="mmstar", limit=50)["results"]  # doctest: +SKIP
    """
    asked = [tasks] if isinstance(tasks, str) else list(tasks)
    if not asked or not all(isinstance(task, str) for task in asked):
        raise InputError(f'`tasks` must name at least one task, such as tasks=["mmstar"], got {tasks!r}.')
    for name, why in _REFUSED.items():
        if options.get(name):
            raise InputError(f"`{name}` is not supported: {why}. Omit it.")
    check_batch_size(batch_size)
    model = as_model(model)
    simple_evaluate = _import()
    from modalnet.interop.lesioned_lmm import LesionedLMM

    given = flatten((interventions,))
    view = model.with_(*given) if given else model
    results: dict[str, Any] = simple_evaluate(
        model=LesionedLMM(view, batch_size=batch_size),
        tasks=asked,
        task_manager=_task_manager(asked, include_path),
        limit=limit,
        batch_size=batch_size,
        **options,
    )
    results["config"] |= {"model": view.name, "interventions": [str(one) for one in view.interventions]}
    return results


def _import() -> Any:
    try:
        from lmms_eval.evaluator import simple_evaluate
    except ImportError as error:
        raise InputError(f"modalnet.interop.lmms_eval needs lmms-eval ({error}). Install it: {_INSTALL}") from error
    return simple_evaluate


def _task_manager(tasks: list[str], include_path: Any) -> Any:
    from lmms_eval.tasks import TaskManager

    paths = [include_path] if isinstance(include_path, str | os.PathLike) else list(include_path or ())
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"`include_path` must be a folder with task files, got {os.fspath(path)!r}.")
    folders = [os.fspath(path) for path in paths]
    # Indexing lmms-eval's own tasks is slow: it opens thousands of files.
    manager = TaskManager(include_path=folders, include_defaults=False)
    if not all(task in manager.all_subtasks for task in tasks):
        manager = TaskManager(include_path=folders)
    for task in tasks:
        if task not in manager.all_tasks:
            raise InputError(
                f"Unknown task {task!r}: it is not a task of lmms-eval and not in `include_path`. "
                "`python -m lmms_eval --tasks list` lists lmms-eval's tasks."
            )
    return manager
