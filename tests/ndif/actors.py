"""A model actor and a controller for an NDIF server without a GPU; the server is pointed at them by name.

NDIF loads models onto GPUs, parks them between devices and asks the hub how large they are. Here a model stays on the
CPU, and its size is what its folder says.
"""

import gc
import json

import ray
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.deployments.modeling.base import BaseModelDeployment
from ndif.services.ray.sandbox.model import SandboxHost
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import CheckpointInfo, Remotable
from nnsight.util import from_import_path


class CPUModel(BaseModelDeployment):
    CACHEABLE = False  # parking moves weights between devices

    def load_from_disk(self):
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        return model

    def cleanup(self):
        # As the base does, without its calls of CUDA.
        self.kill_switch.clear()
        self.kill_reason = None
        self.execution_ident = None
        self.model.interleaver.cancel()
        gc.collect()


@ray.remote(num_cpus=1, max_restarts=-1)
class CPUModelActor(CPUModel):
    """Runs a job in the process of its model."""


class CPUSandbox(SandboxHost, CPUModel):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.open_pool(None)

    def interrupt(self):
        if self.execution_sandbox is not None:
            self.execution_sandbox.stop()
        super().interrupt()

    def execute(self, request):
        return self.run_in_runner(request, None)


@ray.remote(num_cpus=1, max_restarts=-1)
class CPUSandboxActor(CPUSandbox):
    """Runs each job in a process of its own, without the weights: what a public server does for strangers."""


def _describe(model_key, dtype, **_):
    path, suffix = model_key.split(":", 1)
    config = from_import_path(path)._config(suffix)
    if config is None:
        raise ValueError(f"There is no model {json.loads(suffix)['repo_id']!r}.")
    return CheckpointInfo(size_bytes=1_000_000, n_params=250_000, config=config, revision=None)


@ray.remote(num_cpus=1, num_gpus=0, max_restarts=-1, resources={"head": 1})
class CPUController(_ControllerActor):
    """Places models without asking a hub."""

    def __init__(self, *args, **kwargs):
        Remotable.describe_checkpoint = staticmethod(_describe)
        Remotable.max_tp_size = staticmethod(lambda *args, **kwargs: None)
        super().__init__(*args, **kwargs)
