"""Pictures of results, drawn on matplotlib axes; nothing here touches global settings or the backend."""

from modalnet.plotting.arrangement import Arrangement, arrange
from modalnet.plotting.brain import alignment_scores
from modalnet.plotting.distributions import t_histogram, volcano
from modalnet.plotting.glass import glass
from modalnet.plotting.layers import layer_profile, save_layer_profile, units_profile
from modalnet.plotting.lesion import dose_curves, save_dose_curves
from modalnet.plotting.patching import heatmap, modality_profile, picture_overlay
from modalnet.plotting.profiles import response_profile, specialization_panels
from modalnet.plotting.saving import save_figure
from modalnet.plotting.sheet import sheet

__all__ = [
    "Arrangement",
    "alignment_scores",
    "arrange",
    "dose_curves",
    "glass",
    "heatmap",
    "layer_profile",
    "modality_profile",
    "picture_overlay",
    "response_profile",
    "save_dose_curves",
    "save_figure",
    "save_layer_profile",
    "sheet",
    "specialization_panels",
    "t_histogram",
    "units_profile",
    "volcano",
]
