"""Brain alignment: do units of a model predict, and resemble, responses of a brain?

Read data with :func:`from_csv`, :func:`from_arrays`, :func:`from_xarray`, :func:`from_folder`, or a published set with
:func:`pereira2018`, :func:`tuckute2024`, :func:`fedorenko2016`, :func:`blank2014`. Then :func:`align` fits encoding
models, :func:`rsa` compares dissimilarities, and :func:`cka` compares whole geometries, each beside random units, an
untrained copy, and what needs no model at all.
"""

from modalnet.brain.alignment import align, encode
from modalnet.brain.baselines import baselines
from modalnet.brain.ceiling import noise_ceiling
from modalnet.brain.dataset import BrainDataset
from modalnet.brain.measures import linear_cka
from modalnet.brain.published import blank2014, fedorenko2016, pereira2018, tuckute2024
from modalnet.brain.readers import from_arrays, from_csv, from_folder, from_xarray
from modalnet.brain.result import Alignment
from modalnet.brain.similarity import Similarity, cka, rsa
from modalnet.brain.topics import topics

__all__ = [
    "Alignment",
    "BrainDataset",
    "Similarity",
    "align",
    "baselines",
    "blank2014",
    "cka",
    "encode",
    "fedorenko2016",
    "from_arrays",
    "from_csv",
    "from_folder",
    "from_xarray",
    "linear_cka",
    "noise_ceiling",
    "pereira2018",
    "rsa",
    "topics",
    "tuckute2024",
]
