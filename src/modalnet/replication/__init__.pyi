from .random_units import random_units as random_units
from .selection import select as select
