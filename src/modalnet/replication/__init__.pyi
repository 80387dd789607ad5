from .lesions import expert_units as expert_units, published_lesion as published_lesion
from .random_units import random_units as random_units
from .selection import select as select
