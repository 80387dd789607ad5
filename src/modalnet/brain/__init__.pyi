from .alignment import align as align, encode as encode
from .baselines import baselines as baselines
from .ceiling import noise_ceiling as noise_ceiling
from .dataset import BrainDataset as BrainDataset
from .measures import linear_cka as linear_cka
from .published import (
    blank2014 as blank2014,
    fedorenko2016 as fedorenko2016,
    pereira2018 as pereira2018,
    tuckute2024 as tuckute2024,
)
from .readers import (
    from_arrays as from_arrays,
    from_csv as from_csv,
    from_folder as from_folder,
    from_xarray as from_xarray,
)
from .result import Alignment as Alignment
from .similarity import Similarity as Similarity, cka as cka, rsa as rsa
from .topics import topics as topics
