"""Pictures of results, drawn on matplotlib axes; nothing here touches global settings or the backend."""

from modalnet.plotting.layers import layer_profile, save_layer_profile

__all__ = ["layer_profile", "save_layer_profile"]
