"""Annotations of modalnet checked at run time, by jaxtyping and beartype, while the tests run.

``install()`` puts an import hook in place, before modalnet is imported. Every function and method of the package then
checks its arguments and what it returns, shapes of arrays included. It differs from jaxtyping's own hook in five ways:

- What a test calls itself is checked each time. A function that modalnet calls is checked `FIRST` times in each test,
  and from there on at every call whose number is a power of two: a check takes longer than most functions, and the
  thousandth call of a loop over stimuli says what the first ones said.
- A function is decorated when it is first called. By then the names that its module imports only for type checkers are
  there (the hook imports them), so no annotation counts as Any because its names could not be found.
- Many tests hand wrong arguments to see them refused. Where a check fails, the outermost call is repeated without
  checks: if modalnet raises an error of its own, that is what the test sees; otherwise an annotation is wrong.
- The arrays in a list or a mapping may differ in size, although an annotation names their axes.
- Functions inside functions stay as they are; to decorate them anew at each call would take longer than the tests.

Left out are the modules of ``UNCHECKED``, with the reason.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

import beartype
import jaxtyping
import numpy as np

#: nnsight reads the bodies of traces from the source, looks for the user's at a fixed depth of frames, and sends the
#: functions that bodies call to a server by value. A
#: command cannot be called a second time, without checks; typer checks what it is given.
UNCHECKED = (
    "modalnet.execution.trace",
    "modalnet.execution.reduction",
    "modalnet.execution.routing",
    "modalnet.execution.edges",
    "modalnet.execution.attending",
    "modalnet.execution.dictionaries",
    "modalnet.execution.user_trace",
    "modalnet.execution.backends",
    "modalnet.cli",
)

#: How many calls of each function in one test are all checked, those aside that the test makes itself.
FIRST = 3

#: Numbers of numpy are numbers, as everywhere in Python; mypy does not know it.
CONF = beartype.BeartypeConf(
    hint_overrides=beartype.FrozenDict(
        {float: float | int | np.floating | np.integer, int: int | np.integer, bool: bool | np.bool_}
    )
)
#: The module and the name of each type alias that is a string. Two modules may give one name to different aliases.
written: list[tuple[str, str]] = []
#: Of each module, the statements that import names of modalnet for type checkers, until they have been executed.
waiting: dict[str, list[ast.stmt]] = {}


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    return beartype.beartype(conf=CONF)(function)


class Hook(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "modalnet" or fullname.startswith(UNCHECKED):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


class Loader(SourceFileLoader):
    """Compiles a module with its functions decorated, and never reads or writes compiled files."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        tree.body = [statement for old in tree.body for statement in self.executed(old, fullname)]
        decorate(tree.body)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def executed(self, statement: ast.stmt, module: str) -> list[ast.stmt]:
        """`if TYPE_CHECKING:` is executed: at once where it imports from other packages, else at the first call."""
        if isinstance(statement, ast.AnnAssign) and "TypeAlias" in ast.unparse(statement.annotation):
            written.append((module, ast.unparse(statement.target)))
        if not isinstance(statement, ast.If) or "TYPE_CHECKING" not in ast.unparse(statement.test):
            return [statement]
        later = [s for s in statement.body if isinstance(s, ast.ImportFrom) and str(s.module).startswith("modalnet")]
        waiting.setdefault(module, []).extend(later)
        return [*[s for s in statement.body if s not in later], *statement.orelse]


def decorate(body: list[ast.stmt]) -> None:
    """Add the decorators; a protocol becomes one that isinstance can check."""
    decorator, protocol = (
        ast.parse(f"__import__({module!r}).{name}", mode="eval").body
        for module, name in (("runtime_types", "checked"), ("typing", "runtime_checkable"))
    )
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            is_protocol = any(ast.unparse(base).partition("[")[0].endswith("Protocol") for base in statement.bases)
            added = protocol if is_protocol else decorator
            statement.decorator_list.insert(0, ast.copy_location(added, statement))
            decorate(statement.body)
        elif isinstance(statement, ast.FunctionDef):
            statement.decorator_list.append(ast.copy_location(decorator, statement))
        elif isinstance(statement, ast.If):
            decorate(statement.body)
            decorate(statement.orelse)


def checked(what: Any) -> Any:
    """The decorator that the hook adds; of a class, a dataclass's own `__init__` is checked."""
    if inspect.isclass(what):
        own = what.__dict__.get("__init__")
        if "__dataclass_fields__" in what.__dict__ and own is not None and not hasattr(own, "__checked__"):
            what.__init__ = checked_function(own, sys.modules[what.__module__].__dict__)
        return what
    return checked_function(what, what.__globals__)


def checked_function(function: Callable[..., Any], names: dict[str, Any]) -> Callable[..., Any]:
    if not function.__annotations__:
        return function
    ready: Callable[..., Any] | None = None
    test = calls = 0

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        nonlocal ready, test, calls
        if state.repeating:
            return function(*args, **kwargs)
        if test != State.test:
            test, calls = State.test, 0
        calls += 1
        if state.inside and calls > FIRST and calls & (calls - 1):
            return function(*args, **kwargs)
        if ready is None:
            if not names_are_there(names):
                return function(*args, **kwargs)
            # jaxtyping would take a name that it cannot find for Any; here that is an error.
            # A name of the module itself comes before an alias that another module has under the same name.
            known = {
                name: alias
                for name, alias in aliases(names["__name__"]).items()
                if isinstance(names.get(name, ""), str)
            }
            if function.__name__ == "__init__" and args:
                # The fields that a dataclass inherits are annotated in the words of the module of their class.
                modules = [sys.modules[base.__module__] for base in type(args[0]).__mro__]
                known = {name: value for module in reversed(modules) for name, value in vars(module).items()} | known
            hints = typing.get_type_hints(function, names, known, include_extras=True)
            function.__annotations__ = {name: per_item(hint) for name, hint in hints.items()}
            ready = jaxtyping.jaxtyped(function, typechecker=typechecked)
        if state.inside:
            return ready(*args, **kwargs)
        state.inside = True
        try:
            return ready(*args, **kwargs)
        except jaxtyping.TypeCheckError:
            raise_what_modalnet_says(function, args, kwargs)
            raise
        finally:
            state.inside = False

    check.__checked__ = True  # type: ignore[attr-defined]
    return check


def per_item(hint: Any, inside: bool = False) -> Any:
    """Let the arrays of a list or mapping differ in size, as those of several towers do; the number of axes counts."""
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        axes = [axis if axis[0] in "_*.#" or axis.isdigit() else f"_{axis}" for axis in hint.dim_str.split()]
        return hint.dtype[hint.array_type, " ".join(axes)] if inside else hint
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(per_item(arg, inside) for arg in args)]  # noqa: UP007
    if not inspect.isclass(origin) or not issubclass(origin, Iterable) or not args:
        return hint
    fixed = origin is tuple and args[-1] is not Ellipsis
    return types.GenericAlias(origin, tuple(per_item(arg, inside or not fixed) for arg in args))


class State(threading.local):
    """Whether this thread is inside a checked call; and, of all threads, whether a call is repeated without checks, and
    the number of the test."""

    inside = False
    repeating = False
    test = 0


state = State()


def next_test() -> None:
    """Count the calls of every function from zero."""
    State.test += 1


def raise_what_modalnet_says(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise the error of modalnet that a call ends in when nothing is checked, if it does end in one."""
    from modalnet.errors import ModalnetError

    State.repeating = True  # of the class: threads that the call starts check nothing either
    try:
        function(*args, **kwargs)
    except ModalnetError:
        raise
    except Exception:
        pass  # what it stumbled over follows from the argument that does not fit
    finally:
        State.repeating = False


def names_are_there(names: dict[str, Any]) -> bool:
    """Execute what a module imports for type checkers; False while that, or the module itself, is being imported."""
    module = names["__name__"]
    if being_imported(module):
        return False
    while left := waiting.get(module):
        try:
            exec(compile(ast.Module([left[0]], []), names["__file__"], "exec"), names)
        except ImportError:
            return False
        left.pop(0)
    return True


def being_imported(module: str) -> bool:
    return module not in sys.modules or getattr(sys.modules[module].__spec__, "_initializing", False)


def aliases(own: str) -> dict[str, Any]:
    """The type aliases of the modules imported so far, evaluated where they are written; those of module `own` win."""
    found: dict[str, Any] = {}
    for module, name in sorted(written, key=lambda each: each[0] == own):  # evaluating one may import more
        if being_imported(module) or not names_are_there(names := vars(sys.modules[module])):
            continue
        if isinstance(names[name], str):
            names[name] = eval(names[name], names, found)
        found[name] = names[name]
    return found


def install() -> None:
    if any(name.partition(".")[0] == "modalnet" for name in sys.modules):
        raise RuntimeError("modalnet was imported before its annotations could be checked")
    sys.meta_path.insert(0, Hook())
    from modalnet import _warnings

    _warnings.INSIDE += ("<@beartype", os.path.dirname(jaxtyping.__file__) + os.sep, __file__)
