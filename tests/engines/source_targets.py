"""Finds a hook's target in an engine's unpacked source, without importing it: by the syntax tree."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache(maxsize=512)
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def module_path(source: Path, module: str) -> Path | None:
    """Return the file of a module below a folder of sources, None without one."""
    base = source.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def problem(source: Path, module: str, qualname: str, takes: tuple[str, ...]) -> str | None:
    """Return why a hook could not be set on a target of this source, None when it could.

    As ``HookSetter`` does at run time: the method may come from a base class, but it must be Python's, and take the
    parameters that the hook reads.
    """
    path = module_path(source, module)
    if path is None:
        return f"no module {module}"
    found = _find(source, module, qualname.split("."))
    if not isinstance(found, Function):
        return f"no {qualname} in {module}"
    known = _parameters(found)
    missing = [name for name in takes if name not in known]
    return f"{module}.{qualname} does not take {', '.join(missing)}" if missing else None


def _parameters(function: Function) -> set[str]:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in named if argument is not None}


def _find(source: Path, module: str, path: list[str], depth: int = 0) -> ast.AST | None:
    """Return the definition that a dotted name of a module leads to."""
    file = module_path(source, module)
    if file is None or depth > 8:
        return None
    tree = _tree(file)
    for node in _definitions(tree):
        if node.name == path[0]:
            return node if len(path) == 1 else _member(source, module, node, path[1], depth)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == path[0]:
                    return _find(source, node.module or "", [alias.name, *path[1:]], depth + 1)
    return None


def _member(source: Path, module: str, node: ast.AST, name: str, depth: int) -> ast.AST | None:
    """Return the method of a class, its own or a base's."""
    if not isinstance(node, ast.ClassDef):
        return None
    for member in _definitions(node):
        if member.name == name:
            return member
    for base in node.bases:
        plain = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(plain, ast.Name):
            found = _find(source, module, [plain.id, name], depth + 1)
            if found is not None:
                return found
    return None


def _definitions(node: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Yield what a module or class defines, also within `if` and `try`; of two of one name the later comes first."""
    pending: list[ast.stmt] = list(node.body)
    found: list[Function | ast.ClassDef] = []
    while pending:
        statement = pending.pop(0)
        if isinstance(statement, Function | ast.ClassDef):
            found.append(statement)
        elif isinstance(statement, ast.If | ast.Try):
            pending[:0] = [*statement.body, *statement.orelse]
    yield from reversed(found)
