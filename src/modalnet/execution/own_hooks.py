"""Forward hooks that a user registered on a module whose output is read.

nnsight reads and edits a module's output where its ``forward`` returns, and torch runs hooks after that: what a hook
makes of the output would reach later modules and not the reading. For the time of a trace the hooks of such modules
run at the end of the body that nnsight calls, so that a site is read, and edited, after them. They are the user's own,
in their order; none is registered here, and all are where they were when the trace is over.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from modalnet.models.state import is_own_hook

if TYPE_CHECKING:
    import torch

    from modalnet.execution.compile import Program

#: Hooks by their keys, and whether each takes keyword arguments.
Hooks: TypeAlias = "dict[int, tuple[Callable[..., Any], bool]]"


def site_modules(program: Program) -> Iterator[torch.nn.Module]:
    """The modules whose outputs a program reads or edits."""
    for steps in (program.steps, getattr(program, "prompt", ()), getattr(program, "after", ())):
        for step in steps:
            yield step.module._module


@contextlib.contextmanager
def inside(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Run the users' forward hooks of some modules before nnsight sees their output, global ones first, as ever."""
    from torch.nn.modules import module as machinery

    listed = list(dict.fromkeys(modules))
    everywhere = _users(machinery._global_forward_hooks, machinery._global_forward_hooks_with_kwargs)
    with contextlib.ExitStack() as stack:
        if everywhere:
            stack.enter_context(_left_out(machinery._global_forward_hooks, everywhere, listed))
        for module in listed:
            own = _users(module._forward_hooks, module._forward_hooks_with_kwargs)
            if own or everywhere:
                stack.enter_context(_moved_inside(module, everywhere, own))
        yield


def _users(hooks: Mapping[int, Callable[..., Any]], with_kwargs: Mapping[int, bool]) -> Hooks:
    """Hooks that are not of the libraries that run the model, and whether each takes keyword arguments."""
    return {key: (hook, key in with_kwargs) for key, hook in hooks.items() if not is_own_hook(hook)}


@contextlib.contextmanager
def _left_out(hooks: dict[int, Callable[..., Any]], users: Hooks, modules: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Global hooks leave out some modules, in which they run inside."""

    def elsewhere(hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda module, *given: None if module in modules else hook(module, *given)

    hooks.update({key: elsewhere(hook) for key, (hook, _) in users.items()})
    try:
        yield
    finally:
        hooks.update({key: hook for key, (hook, _) in users.items() if key in hooks})


@contextlib.contextmanager
def _moved_inside(module: torch.nn.Module, everywhere: Hooks, own: Hooks) -> Iterator[None]:
    state, hooks = module.__dict__["__nnsight__"], module._forward_hooks
    body: Callable[..., Any] = state.body

    def hooked(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = body(self, *args, **kwargs)
        for hook, with_kwargs in (*everywhere.values(), *own.values()):
            changed = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            output = output if changed is None else changed
        return output

    state.body = hooked
    module._forward_hooks = OrderedDict((key, hook) for key, hook in hooks.items() if key not in own)
    try:
        yield
    finally:
        state.body, module._forward_hooks = body, hooks
