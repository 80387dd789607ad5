from .measure import specialization as specialization
from .result import Specialization as Specialization
