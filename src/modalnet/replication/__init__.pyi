from .claims import JudgedClaim as JudgedClaim
from .lesions import expert_units as expert_units, published_lesion as published_lesion
from .random_units import random_units as random_units
from .replicate import replicate as replicate
from .reported import (
    ReportedLesion as ReportedLesion,
    ReportedVerdict as ReportedVerdict,
    reported_verdict as reported_verdict,
    reported_verdicts as reported_verdicts,
)
from .reported_tables import (
    SharedUnits as SharedUnits,
    read_reported as read_reported,
    read_shared_units as read_shared_units,
    shared_units as shared_units,
)
from .result import Replication as Replication
from .selection import select as select
