from .page import Atlas as Atlas, atlas as atlas
