"""Networks, lesions and runs in TransformerLens.

modalnet finds a network; TransformerLens has the heads, attention patterns and paths to take it apart with. Units and
interventions become hooks for ``run_with_hooks``, a run becomes an ``ActivationCache``, and masks by hook point become
:class:`modalnet.Units`.

Hook points are matched to blocks by structure: modalnet finds the towers of the model that a bridge wraps, and a block
goes by the name that the bridge itself gives to the hook point behind it (``blocks.3.hook_out``,
``vision_encoder.encoder_layers.3.hook_out``). A tower whose blocks have no such point is not exposed by the bridge.
"""

from modalnet.interop.transformer_lens.activation_cache import cache
from modalnet.interop.transformer_lens.hook_points import units
from modalnet.interop.transformer_lens.intervention_hooks import Hook, hooks

__all__ = ["Hook", "cache", "hooks", "units"]
