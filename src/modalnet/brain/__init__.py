"""Brain alignment: encoding models and representational similarity between units of a model and brain responses.

Read data with :func:`from_csv`, :func:`from_arrays`, :func:`from_xarray`, :func:`from_folder`, or a published set with
:func:`pereira2018`, :func:`tuckute2024`, :func:`fedorenko2016`, :func:`blank2014`. Then :func:`align` fits encoding
models, :func:`rsa` compares representational dissimilarities, and :func:`cka` computes centred kernel alignment. Each
reports random units, an untrained copy of the model and stimulus baselines for comparison.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
