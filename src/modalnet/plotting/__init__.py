"""Pictures of results, drawn on matplotlib axes; nothing here touches global settings or the backend."""

from modalnet.plotting.layers import layer_profile, save_layer_profile
from modalnet.plotting.lesion import dose_curves, save_dose_curves
from modalnet.plotting.patching import heatmap, modality_profile, picture_overlay

__all__ = [
    "dose_curves",
    "heatmap",
    "layer_profile",
    "modality_profile",
    "picture_overlay",
    "save_dose_curves",
    "save_layer_profile",
]
