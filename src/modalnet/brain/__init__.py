"""Brain alignment: do units of a model predict, and resemble, responses of a brain?

Read data with :func:`from_csv`, :func:`from_arrays`, :func:`from_xarray`, :func:`from_folder`, or a published set with
:func:`pereira2018`, :func:`tuckute2024`, :func:`fedorenko2016`, :func:`blank2014`. Then :func:`align` fits encoding
models, :func:`rsa` compares dissimilarities, and :func:`cka` compares whole geometries, each beside random units, an
untrained copy, and what needs no model at all.
"""

from modalnet._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
