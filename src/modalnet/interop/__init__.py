"""Other people's tools on the same model: TransformerLens, EleutherAI's lm-evaluation-harness, and lmms-eval.

Each is an optional package, imported on first use.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
