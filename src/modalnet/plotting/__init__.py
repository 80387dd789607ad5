"""Pictures of results, drawn on matplotlib axes; nothing here touches global settings or the backend."""

from modalnet.plotting.brain import alignment_scores
from modalnet.plotting.layers import layer_profile, save_layer_profile
from modalnet.plotting.lesion import dose_curves, save_dose_curves
from modalnet.plotting.patching import heatmap, modality_profile, picture_overlay
from modalnet.plotting.profiles import response_profile, specialization_panels

__all__ = [
    "alignment_scores",
    "dose_curves",
    "heatmap",
    "layer_profile",
    "modality_profile",
    "picture_overlay",
    "response_profile",
    "save_dose_curves",
    "save_layer_profile",
    "specialization_panels",
]
