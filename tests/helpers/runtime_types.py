"""Annotations of modalnet checked at run time, by jaxtyping and beartype, while the tests run.

``install()`` puts an import hook in place, before modalnet is imported. Every function and method of the package then
checks its arguments and what it returns, shapes of arrays included. It differs from jaxtyping's own hook in three ways:

- A function is decorated when it is first called. By then the names that its module imports only for type checkers are
  there (the hook imports them), so no annotation counts as Any because its names could not be found.
- Many tests hand wrong arguments to see them refused. An argument that does not fit its annotation is an error of the
  annotation only if the function takes it: where the function itself raises a ModalnetError, that is what is seen.
- Functions inside functions stay as they are; to decorate them anew at each call would take longer than the tests.

Left out are the files of ``UNCHECKED``, with the reason.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

import beartype
import jaxtyping

#: nnsight reads the bodies of traces from the source and sends the functions called in them to a server by value.
UNCHECKED = {"modalnet.execution.trace"}

CONF = beartype.BeartypeConf(is_pep484_tower=True)
#: Of each module, the statements that import names of modalnet for type checkers, until they have been executed.
waiting: dict[str, list[ast.stmt]] = {}


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    return beartype.beartype(conf=CONF)(function)


class Hook(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "modalnet" or fullname in UNCHECKED:
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

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        nonlocal ready
        if ready is None:
            if not names_are_there(names):
                return function(*args, **kwargs)
            ready = jaxtyping.jaxtyped(function, typechecker=typechecked)
        try:
            return ready(*args, **kwargs)
        except jaxtyping.TypeCheckError as error:
            start = f"Type-check error whilst checking the parameters of {function.__module__}.{function.__qualname__}."
            if str(error).startswith(start) and refuses(function, args, kwargs):
                return function(*args, **kwargs)
            raise

    check.__checked__ = True  # type: ignore[attr-defined]
    return check


def refuses(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function raises an error of modalnet for arguments that its annotations do not allow."""
    from modalnet.errors import ModalnetError

    try:
        function(*args, **kwargs)
    except ModalnetError:
        return True
    except Exception:
        return False
    return False


def names_are_there(names: dict[str, Any]) -> bool:
    """Execute what a module imports for type checkers; False while it cannot be, as its packages are being imported."""
    module = names["__name__"]
    while left := waiting.get(module):
        try:
            exec(compile(ast.Module([left[0]], []), names["__file__"], "exec"), names)
        except ImportError:
            return False
        left.pop(0)
    return True


def install() -> None:
    if any(name.partition(".")[0] == "modalnet" for name in sys.modules):
        raise RuntimeError("modalnet was imported before its annotations could be checked")
    sys.meta_path.insert(0, Hook())
