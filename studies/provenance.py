"""What a result was made by: a digest of the code that its study imports, and the versions of the packages."""

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def sources(*modules: str) -> tuple[Path, ...]:
    """
    Return the files of *modules* and of all that they import from bqcore and studies, however deep.

    >>> [path.name for path in sources("bqcore.metrics.decisions")]
    ['_checks.py', 'decisions.py']
    """
    found, open_ = {}, list(modules)
    while open_:
        name = open_.pop()
        path = _file(name)
        if path is not None and name not in found:
            found[name] = path
            open_ += _imports(name, path)
    return tuple(sorted(found.values()))


def code_digest(*modules: str) -> str:
    """Return 12 characters that stand for the code of :func:`sources`, whatever its comments and docstrings say."""
    return hashlib.sha256("".join(_code(path) for path in sources(*modules)).encode()).hexdigest()[:12]


def key(content: dict) -> str:
    """Return 12 characters that stand for *content*, in the names of folders and files."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


@cache
def of(*modules: str) -> dict:
    """Return what a result of *modules* depends on beside its spec: code digest, package versions."""
    from bqcore._store import package_versions  # with xarray, which the workflow need not wait for

    return {"code": code_digest(*modules), "versions": package_versions()}


def _file(name: str) -> Path | None:
    """Return the file of a module of ours, None for packages and for what is not ours."""
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    return path if name.partition(".")[0] in ("bqcore", "studies") and path.is_file() else None


def _imports(name: str, path: Path) -> list[str]:
    """Return every module that a module may mean to import anywhere in it; some are names within modules."""
    out = []
    for node in _statements(_parsed(path)):
        if isinstance(node, ast.Import):
            out += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), name.rpartition(".")[0])
            out += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return out


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Walk a module's statements, however deep, but not what they are made of, which is many times as much."""
    open_: list[ast.AST] = [tree]
    while open_:
        yield (node := open_.pop())
        open_ += (n for n in ast.iter_child_nodes(node) if isinstance(n, (ast.stmt, ast.excepthandler, ast.match_case)))


def _code(path: Path) -> str:
    tree = _parsed(path)
    for node in _statements(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)
