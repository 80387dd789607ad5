"""modalnet: functional localizers, lesions and patching for vision-language models, on nnsight traces.

>>> import modalnet as mn
>>> model = mn.load("google/gemma-3-270m")  # doctest: +SKIP
>>> language = mn.localize(model, mn.stimuli.language())  # doctest: +SKIP
>>> network = language.top(fraction=0.01)  # doctest: +SKIP

Names are imported at first use (their list is ``__init__.pyi``), so ``import modalnet`` imports neither torch nor
transformers.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, __file__, renamed={"pick_up": "modalnet.localization.job:LocalizationJob.from_id"}
)
