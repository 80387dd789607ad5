from .protocol import Protocol as Protocol
from .registry import PROTOCOLS as PROTOCOLS, find_protocol as find_protocol
