"""modalnet: functional localizers, lesions and patching for vision-language models, on nnsight traces.

>>> import modalnet as mn
>>> model = mn.load("tiny")  # bundled; or any model of the hub, such as "google/gemma-3-270m"
>>> language = mn.localize(model, mn.stimuli.language(), progress=False)  # sentences > nonwords
>>> network = language.top(fraction=0.01)
>>> network
Units(15 units in decoder[...])
>>> lesioned = model.with_(mn.zero(network))

Names are imported at first use (their list is ``__init__.pyi``), so ``import modalnet`` imports neither torch nor
transformers.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__, renamed={"pick_up": "modalnet:LocalizationJob.from_id"})
