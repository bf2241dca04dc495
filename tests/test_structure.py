"""The structure that CONTRIBUTING.md draws: imports point downwards, the measures are pure, what is public is explained."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "bqcore"
LAYERS = (
    ("checks",),
    ("quantize", "boundary", "slices", "decisions", "stats", "stopping", "curves", "finite", "readings"),
    ("models", "train", "train_cifar", "rounding", "rivals", "download", "archives", "data", "results", "arrangement", "classifiers",
     "files", "perlayer", "workers", "times"),
    ("specs", "measures", "levels", "calibration", "fixed_bits", "runs", "transfer", "objectives", "exact", "firstorder",
     "pooled", "geometry", "report", "backends", "universe", "multiverse", "specification"),
    ("claims", "publishing", "plots", "plots_stopping", "plots_exact", "plots_rounding", "plots_objectives",
     "plots_multiverse", "plots_referee", "plots_audit", "auditing", "blame", "quantizers", "explorer", "notebook",
     "behind", "__main__"),
)  # fmt: skip
# Within a layer, each of these in its order may import those before it; no others do.
ROWS = (
    ("decisions", "boundary"), ("slices", "readings"), ("download", "archives", "data"),
    ("results", "train", "train_cifar"), ("train", "rounding", "rivals"), ("specs", "measures", "levels", "runs"),
    ("measures", "calibration", "fixed_bits", "runs"), ("specs", "calibration"), ("specs", "fixed_bits"),
    ("specs", "transfer"), ("specs", "measures", "calibration", "runs", "objectives"), ("pooled", "geometry"),
    ("specs", "runs", "exact", "firstorder"), ("specs", "measures", "universe"), ("universe", "multiverse"),
    ("specs", "runs", "multiverse"), ("calibration", "specification"), ("plots", "plots_stopping", "notebook"),
    ("plots", "plots_exact"), ("plots", "plots_objectives"), ("plots", "plots_rounding", "notebook"),
    ("plots", "publishing", "plots_multiverse"), ("plots", "plots_referee"),
    ("plots", "publishing", "claims", "__main__"), ("publishing", "notebook"),
    ("auditing", "blame", "quantizers", "publishing", "plots_audit"), ("quantizers", "__main__"),
    ("plots", "plots_audit"), ("auditing", "__main__"), ("explorer", "__main__"), ("results", "times"),
)  # fmt: skip
BESIDE = {(row[j], row[i]) for row in ROWS for j in range(len(row)) for i in range(j)}
PURE = LAYERS[0] + LAYERS[1]
TREES = {
    path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.py") if path.stem != "__init__"
}


def imports(name: str) -> list[tuple[int, str]]:
    """Give the modules that a module imports anywhere in it, each with the level of its dots."""
    found = []
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module)] if node.module else [(node.level, alias.name) for alias in node.names]
    return found


def test_every_module_has_a_layer():
    assert sorted(TREES) == sorted(sum(LAYERS, ()))


@pytest.mark.parametrize("name", TREES)
def test_imports_point_downwards(name):
    layer = {module: i for i, modules in enumerate(LAYERS) for module in modules}
    for level, other in imports(name):
        assert other.split(".")[0] != "bqcore", f"{name} imports {other}: write it with a dot"
        assert level == 0 or layer[other] < layer[name] or (name, other) in BESIDE, f"{name} imports {other}"


@pytest.mark.parametrize("name", PURE)
def test_measures_take_and_give_arrays_only(name):
    allowed = {
        "collections",
        "copy",
        "dataclasses",
        "functools",
        "math",
        "numbers",
        "typing",
        "numpy",
        "scipy",
        "sklearn",
        "torch",
    }
    assert {other.split(".")[0] for level, other in imports(name) if level == 0} <= allowed
    refused = {"print", "input", "open", "exec", "eval", "__import__", "random", "manual_seed", "seed", "rand", "randn",
               "randint", "randperm", "default_rng", "load", "loadtxt", "save", "savez", "savetxt", "fromfile", "tofile",
               "memmap", "hub", "datasets", "set_num_threads", "set_default_dtype"}  # fmt: skip
    nodes = list(ast.walk(TREES[name]))
    used = {node.id for node in nodes if isinstance(node, ast.Name)} | {
        n.attr for n in nodes if isinstance(n, ast.Attribute)
    }
    assert not used & refused
    assert not any(isinstance(node, (ast.Global, ast.Nonlocal)) for node in nodes)


@pytest.mark.parametrize("name", TREES)
def test_what_is_public_is_explained_and_only_the_command_line_prints(name):
    kinds = (ast.FunctionDef, ast.ClassDef)
    places = [TREES[name], *(node for node in ast.walk(TREES[name]) if isinstance(node, ast.ClassDef))]
    public = [node for place in places for node in place.body if isinstance(node, kinds) and node.name[0] != "_"]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    assert ast.get_docstring(TREES[name])
    calls = {
        node.func.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert ("print" in calls) == (name == "__main__")


def test_the_workflow_knows_what_the_runs_depend_on():
    runs = (FOLDER / "runs.py").read_text(encoding="utf-8")
    snakefile = (FOLDER.parent / "Snakefile").read_text(encoding="utf-8")
    parts = [re.search(rf"^{name} = \((.*?)\)", runs, re.M | re.S)[1] for name in ("_TRAINING", "_MODULES")]
    stated = re.search(r'^MEASURING = """([^"]*)"""', snakefile, re.M)[1].split()
    assert sorted(stated) == sorted(re.findall(r'"(\w+)"', "".join(parts)))
