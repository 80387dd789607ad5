"""What a test must leave as it was: the models that tests share (`families.build`).

A model is watched from when it is built. After every test `changes` compares what can be compared in microseconds and
says what is no longer as it was, so the test that changed a model fails, not one that comes later.
"""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import Any

from torch import nn

VERSION, GRADIENT, WANTED = attrgetter("_version"), attrgetter("grad"), attrgetter("requires_grad")
#: What saving a model notes in its config.
SAVED = ("architectures", "dtype")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Watched:
    """One model, and its state when it was last looked at."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.tensors = [*self.parameters, *model.buffers()]
        modules = list(model.modules())
        self.attributes = [vars(module) for module in modules]
        self.hooks = [getattr(module, name) for module in modules for name in HOOKS]
        configs = [getattr(module, name, None) for module in modules for name in ("config", "generation_config")]
        self.configs = list({id(config): vars(config) for config in configs if config is not None}.values())
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        return {
            # The count of changes in place that torch keeps for every tensor.
            "values of parameters or buffers": sum(map(VERSION, self.tensors)),
            "gradients of parameters": list(map(GRADIENT, self.parameters)).count(None),
            "requires_grad of parameters": sum(map(WANTED, self.parameters)),
            "training mode": sum(map(itemgetter("training"), self.attributes)),
            "hooks": [hook for each in filter(None, self.hooks) for hook in each.values()],
            "config": list(map(dict, self.configs)),
        }

    def changes(self) -> list[str]:
        before, self.before = self.before, self.state()
        different = [kind for kind, value in self.before.items() if value != before[kind]]
        return [kind for kind in different if without(before[kind]) != without(self.before[kind])]


def without(state: Any) -> Any:
    """A state without what transformers itself leaves: what saving notes, and the hooks that give hidden states."""
    if not isinstance(state, list):
        return state
    return [
        {name: value for name, value in one.items() if name not in SAVED} if isinstance(one, dict) else one
        for one in state
        if not getattr(one, "__module__", "").startswith("transformers.")
    ]


known: dict[str, Watched] = {}
in_this_file: dict[str, Watched] = {}


def watch(name: str, model: nn.Module) -> None:
    """Watch a model, which a test of this file is about to use."""
    if name not in known:
        known[name] = Watched(model)
    in_this_file[name] = known[name]


def changes() -> list[str]:
    """What is not as it was when this was last called, as ``"llama: gradients of parameters"``."""
    return [f"{name}: {kind}" for name, model in in_this_file.items() for kind in model.changes()]
