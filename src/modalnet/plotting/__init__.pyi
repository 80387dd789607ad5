from .arrangement import Arrangement as Arrangement, arrange as arrange
from .attention import attention_picture as attention_picture
from .brain import alignment_scores as alignment_scores
from .distributions import t_histogram as t_histogram, volcano as volcano
from .glass import glass as glass
from .layers import (
    layer_profile as layer_profile,
    save_layer_profile as save_layer_profile,
    units_profile as units_profile,
)
from .lens import lens_picture as lens_picture, token_grid as token_grid
from .lesion import dose_curves as dose_curves, save_dose_curves as save_dose_curves
from .patching import (
    heatmap as heatmap,
    modality_profile as modality_profile,
    picture_overlay as picture_overlay,
)
from .profiles import response_profile as response_profile, specialization_panels as specialization_panels
from .saving import save_figure as save_figure
from .sheet import sheet as sheet
from .unit_map import unit_effects as unit_effects, unit_t as unit_t
