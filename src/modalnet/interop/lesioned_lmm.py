"""A modalnet model as a multimodal model of lmms-eval.

lmms-eval asks for the loss of a continuation given a context with pictures, and for the text that a model generates
from such a context. A request is a string and a document; the task says which pictures of the document belong to it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

from modalnet._validation import check_batch_size
from modalnet.errors import InputError
from modalnet.execution.likelihood import Request
from modalnet.interop.greedy_generation import generate_until, greedy_settings
from modalnet.model import Model
from modalnet.stimuli import Stimulus

if TYPE_CHECKING:
    from PIL.Image import Image

_log = logging.getLogger(__name__)

_DEFAULT_LENGTH = 1024  # that of lmms-eval's own models
_MARK = "<image>"  # lmms-eval's placeholder for a picture


class LesionedLMM(lmms):
    """A model under interventions, with the interface of lmms-eval's models.

    It follows the conventions of lmms-eval, with modalnet's prompts:

    - A context and its pictures are one stimulus: pictures first, then the text, in the model's chat template if it has
      one. Marks ``<image>`` in a text are removed.
    - ``loglikelihood`` returns the mean negative log-probability per token of a continuation, not a log-likelihood:
      lmms-eval's own models return the loss of transformers there, and its tasks choose the answer with the smallest.
    - The end of a turn does not belong to a continuation.
    - Settings of a task that transformers' ``generate`` does not know are ignored.

    Parameters
    ----------
    model
        The model, or a view of it under interventions.
    batch_size
        Requests per forward pass.

    Raises
    ------
    InputError
        From its methods: for videos and audio, for requests of several rounds, and for sampling.
    """

    def __init__(self, model: Model, *, batch_size: int | Literal["auto"] = "auto") -> None:
        super().__init__()
        check_batch_size(batch_size)
        self.model = model
        self.batch_size = batch_size
        self._ignored: set[str] = set()  # settings of tasks that were named in a warning

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Loss of each continuation given its context, and whether it is the greedy continuation."""
        asked = [self._request(*one.args) for one in requests]
        found = self.model._executor.likelihoods(asked, batch_size=self.batch_size)
        # lmms-eval turns a tuple into a string, from which its tasks read no loss, unless it comes as a result.
        return [GenerationResult((-one.logprob / one.n_tokens, one.greedy)) for one in found]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text that the model generates from each context, up to its first stop string."""
        return [self._write(*one.args) for one in requests]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Not supported."""
        _refuse_rounds(requests, "in several rounds")

    def generate_visual_cot(self, requests: Sequence[Any]) -> NoReturn:
        """Not supported."""
        _refuse_rounds(requests, "by way of pictures that the model draws")

    def _request(self, context: str, continuation: Any, *place: Any) -> Request:
        stimulus, document, name = self._stimulus(context, *place)
        # A multiple choice comes with its texts, other tasks with a function of the document.
        text = continuation(document) if callable(continuation) else continuation
        if not isinstance(text, str) or not text:
            raise InputError(f"Task {name} requested the likelihood of {text!r}, which must be a non-empty string.")
        return Request(stimulus, text)

    def _write(self, context: str, settings: Mapping[str, Any], *place: Any) -> str:
        until, length, rest = greedy_settings(
            settings, _DEFAULT_LENGTH, remedy='gen_kwargs="do_sample=False,temperature=0"'
        )
        stimulus, _, name = self._stimulus(context, *place)
        if stimulus is None:
            raise InputError(f"Task {name} has a document with neither text nor pictures.")
        return generate_until(self.model, stimulus, until, length, self._known(rest))

    def _known(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that transformers' ``generate`` knows."""
        from transformers import GenerationConfig

        config = GenerationConfig()
        unknown = {name for name in settings if not hasattr(config, name)}
        if unknown - self._ignored:
            _log.warning("Settings that generate() does not know are ignored: %s.", ", ".join(sorted(unknown)))
            self._ignored |= unknown
        return {name: value for name, value in settings.items() if name not in unknown}

    def _stimulus(
        self, context: str, doc_to_visual: Any, doc_id: int, task: str, split: str
    ) -> tuple[Stimulus | None, Any, str]:
        """A context and its pictures as one stimulus, or None if there is nothing; the document; the task's name."""
        document = self.task_dict[task][split][doc_id]
        visuals = (doc_to_visual(document) if callable(doc_to_visual) else doc_to_visual) or []
        pictures = [_picture(one, task) for one in (visuals if isinstance(visuals, list | tuple) else [visuals])]
        text = context.replace(_MARK, "").strip() if _MARK in context else context
        if pictures:
            return Stimulus(text=text if text.strip() else None, image=pictures), document, task
        return Stimulus(text=text) if text.strip() else None, document, task


def _picture(visual: Any, task: str) -> Image | str:
    from PIL import Image

    if isinstance(visual, Image.Image):
        return visual
    if isinstance(visual, str) and visual.lower().endswith(tuple(Image.registered_extensions())):
        return visual
    kind = "a video" if isinstance(visual, str) else "audio" if isinstance(visual, dict) else type(visual).__name__
    raise InputError(f"Task {task} gives {kind} with a document, but modalnet evaluates text and pictures only.")


def _refuse_rounds(requests: Sequence[Any], how: str) -> NoReturn:
    names = sorted({str(one.task_name) for one in requests})
    raise InputError(
        f"{', '.join(names)} generates {how}, which modalnet does not support; it evaluates likelihoods and answers of "
        "one round."
    )
