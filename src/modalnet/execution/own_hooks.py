"""Forward hooks that a user registered on a module whose output is read.

nnsight reads and edits a module's output where its ``forward`` returns, and torch runs hooks after that: what a hook
makes of the output would reach later modules and not the reading. For the time of a trace the hooks of such modules
run at the end of the body that nnsight calls, so that a site is read, and edited, after them. They are the user's own,
in their order; none is registered here, and all are where they were when the trace is over.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from modalnet.errors import InputError
from modalnet.models.state import is_own_hook

if TYPE_CHECKING:
    import torch

    from modalnet.execution.compile import Program


def site_modules(program: Program) -> Iterator[torch.nn.Module]:
    """The modules whose outputs a program reads or edits."""
    for steps in (program.steps, getattr(program, "prompt", ()), getattr(program, "after", ())):
        for step in steps:
            yield step.module._module


@contextlib.contextmanager
def inside(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Run the users' forward hooks of some modules before nnsight sees their output.

    Raises
    ------
    InputError
        Where a global forward hook is registered, which no module can be relieved of.
    """
    from torch.nn.modules import module as machinery

    if any(not is_own_hook(hook) for hook in machinery._global_forward_hooks.values()):
        raise InputError(
            "A global forward hook is registered (torch.nn.modules.module.register_module_forward_hook). It runs after "
            "a block's output is read, so that what is read would not be what later blocks see. Remove it, or register "
            "it on the modules that it is for."
        )
    with contextlib.ExitStack() as stack:
        for module in dict.fromkeys(modules):
            if any(not is_own_hook(hook) for hook in module._forward_hooks.values()):
                stack.enter_context(_moved_inside(module))
        yield


@contextlib.contextmanager
def _moved_inside(module: torch.nn.Module) -> Iterator[None]:
    state, hooks = module.__dict__["__nnsight__"], module._forward_hooks
    users = {key: hook for key, hook in hooks.items() if not is_own_hook(hook)}
    with_kwargs = {key for key in users if key in module._forward_hooks_with_kwargs}
    body: Callable[..., Any] = state.body

    def hooked(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = body(self, *args, **kwargs)
        for key, hook in users.items():
            given = (self, args, kwargs, output) if key in with_kwargs else (self, args, output)
            changed = hook(*given)
            output = output if changed is None else changed
        return output

    state.body = hooked
    module._forward_hooks = OrderedDict((key, hook) for key, hook in hooks.items() if key not in users)
    try:
        yield
    finally:
        state.body, module._forward_hooks = body, hooks
