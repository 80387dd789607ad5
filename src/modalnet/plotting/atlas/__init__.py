"""The atlas: the sheet as one page to look around in, with every unit's numbers, lesions, profiles and favourites."""

from modalnet.plotting.atlas.page import Atlas, atlas

__all__ = ["Atlas", "atlas"]
