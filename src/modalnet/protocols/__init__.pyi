from .protocol import (
    Claim as Claim,
    Localizer as Localizer,
    Protocol as Protocol,
    ProtocolContrast as ProtocolContrast,
    ProtocolEdges as ProtocolEdges,
    ProtocolLesion as ProtocolLesion,
    ProtocolTask as ProtocolTask,
    Quirk as Quirk,
    RandomUnits as RandomUnits,
    Selection as Selection,
    Source as Source,
)
from .registry import Protocols as Protocols, find_protocol as find_protocol, protocols as protocols
