from . import (
    brain as brain,
    features as features,
    interop as interop,
    patching as patching,
    plotting as plotting,
    stimuli as stimuli,
    tasks as tasks,
)
from ._version import __version__ as __version__
from .activations import sink_tokens as sink_tokens
from .errors import InputError as InputError, ModalnetError as ModalnetError, StoreError as StoreError
from .execution.likelihood import Request as Request
from .execution.run import Run as Run
from .interventions.knockout import knockout as knockout, region as region
from .interventions.operations import (
    Intervention as Intervention,
    add as add,
    apply as apply,
    direction as direction,
    mean as mean,
    patch as patch,
    resample as resample,
    scale as scale,
    set_to as set_to,
    site as site,
    zero as zero,
)
from .lenses import Lens as Lens, lens as lens
from .lesion import LesionStudy as LesionStudy, lesion_study as lesion_study
from .localization import (
    Localization as Localization,
    LocalizationJob as LocalizationJob,
    Reliability as Reliability,
    localize as localize,
)
from .model import Model as Model, load as load
from .models.towers import Tower as Tower
from .patching import (
    InformationFlow as InformationFlow,
    ModalityProfile as ModalityProfile,
    Patching as Patching,
    activation_patching as activation_patching,
    attribution_patching as attribution_patching,
    information_flow as information_flow,
    profile_modality as profile_modality,
)
from .plotting.atlas import Atlas as Atlas, atlas as atlas
from .profiles import Profile as Profile, profile as profile
from .protocols import protocols as protocols
from .replication import Replication as Replication, replicate as replicate
from .results.store import Store as Store
from .specialization import Specialization as Specialization, specialization as specialization
from .stimuli import Contrast as Contrast, Stimulus as Stimulus, corrupt as corrupt
from .units import Units as Units
