"""The structure that CONTRIBUTING.md draws: imports look to lower floors, what is public is explained and tested."""

import ast
import re
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# From the ground up. A module may import those of the floors below, and others of its own floor but not round in circles.
FLOORS = {
    "bqcore": (
        ("_checks", "_store", "_threads", "_vocabulary"),
        ("metrics",),
        ("quantizers",),
        ("auditing",),
        ("__main__", "testing"),
    ),
    "studies": (
        ("provenance", "workers", "data"),
        ("networks", "training", "settings", "specs", "formats"),
        ("sweeps", "measures"),
        ("levels", "stopping", "rounding", "objectives", "exact", "first_order", "vendors", "multiverse", "catalogue"),
        (
            "published",
            "paper_tables",
            "correlations",
            "claims",
            "first_rule",
            "verdicts",
            "joint",
            "explanations",
            "ledger",
            "answers",
            "explorer",
            "alternatives",
            "times",
            "growth",
        ),
        ("figures",),
        ("__main__",),
    ),
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in FLOORS
    for path in sorted(ROOT.glob(f"{package}/**/*.py"))
    if path.stem != "__init__"
}


@cache
def tree(name: str) -> ast.Module:
    """Return the syntax of a module."""
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports(name: str) -> set[str]:
    """Return the full names of all that a module imports anywhere in it: packages, modules, and names in modules."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), name.rpartition(".")[0])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def floor(name: str) -> tuple[int, int]:
    """Return the package and the floor of a module, as numbers."""
    package, room, *_ = name.split(".")
    return list(FLOORS).index(package), next(i for i, rooms in enumerate(FLOORS[package]) if room in rooms)


def test_every_room_is_on_one_floor_and_there():
    for package, floors in FLOORS.items():
        rooms = [room for rooms in floors for room in rooms]
        assert sorted(rooms) == sorted({name.split(".")[1] for name in FILES if name.startswith(f"{package}.")})


def test_contributing_draws_these_floors_and_names_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn, package = {}, None
    for start, number, rooms in re.findall(r"^(\w*) +(\d)  (\S+(?:  \S+)*)", text, re.M):
        package = start or package
        drawn.setdefault(package, []).insert(0, tuple(rooms.split()))
        assert len(FLOORS[package]) - len(drawn[package]) + 1 == int(number)
    assert {package: tuple(floors) for package, floors in drawn.items()} == FLOORS
    named = re.findall(r"`((?:bqcore|studies|tests|book|data|notebooks)(?:/[\w.]+)+)`", text)
    made = {"data/runs", "notebooks/NN_topic.py"}
    assert [name for name in named if name not in made and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", FILES)
def test_imports_look_down(name):
    assert [other for other in imports(name) if other in FILES and floor(other) > floor(name)] == []


def test_no_imports_go_round_in_circles():
    done = set()

    def walk(name: str, path: tuple[str, ...]):
        assert name not in path, f"a circle: {' → '.join((*path, name))}"
        if name not in done:
            for other in imports(name) & FILES.keys():
                walk(other, (*path, name))
            done.add(name)

    for name in FILES:
        walk(name, ())


@pytest.mark.parametrize("name", FILES)
def test_no_module_uses_a_private_name_of_another(name):
    mine, modules = imports(name), {}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
    ours = [other for other in mine if other.split(".")[0] in FLOORS and other not in FILES]
    # A private module may be used within its package; a private name of a module by no one else.
    assert [other for other in ours if other.rpartition(".")[2].startswith("_")] == []
    named = {
        local
        for local, original in modules.items()
        if any(other.endswith(f".{original}") for other in mine & FILES.keys())
    }
    used = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in named
    }
    assert [other for other in used if other.partition(".")[2].startswith("_") and not other.endswith("__")] == []


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("bqcore.metrics.")])
def test_measures_take_and_give_arrays_only(name):
    allowed = {
        "bqcore", "collections", "copy", "dataclasses", "functools", "math", "numbers", "typing", "numpy", "scipy", "sklearn",
        "torch",
    }  # fmt: skip
    assert {other.split(".")[0] for other in imports(name)} <= allowed
    refused = {"print", "input", "open", "exec", "eval", "__import__", "random", "manual_seed", "seed", "rand", "randn",
               "randint", "randperm", "default_rng", "load", "loadtxt", "save", "savez", "savetxt", "fromfile", "tofile",
               "memmap", "hub", "datasets", "set_num_threads", "set_default_dtype"}  # fmt: skip
    nodes = list(ast.walk(tree(name)))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not used & refused
    assert not any(isinstance(node, (ast.Global, ast.Nonlocal)) for node in nodes)


@pytest.mark.parametrize("name", FILES)
def test_what_is_public_is_explained_and_only_the_command_line_prints(name):
    kinds = (ast.FunctionDef, ast.ClassDef)
    places = [tree(name), *(node for node in ast.walk(tree(name)) if isinstance(node, ast.ClassDef))]
    public = [node for place in places for node in place.body if isinstance(node, kinds) and node.name[0] != "_"]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    assert ast.get_docstring(tree(name))
    calls = {
        node.func.id for node in ast.walk(tree(name)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert ("print" in calls) == name.endswith(".__main__")


PUBLIC = [name for name in FILES if name.startswith("bqcore.") and not any(part[0] == "_" for part in name.split("."))]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_module_of_the_library_has_its_tests(name):
    _, *rooms, module = name.split(".")
    assert Path(ROOT, "tests", *rooms, f"test_{module}.py").is_file()


def test_no_file_of_the_tests_has_over_500_lines():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.glob("tests/**/*.py")}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_a_mutant_listed_as_equivalent_is_of_code_that_is_there_and_has_a_reason():
    for mutant in yaml.safe_load((ROOT / "tests" / "equivalent_mutants.yml").read_text(encoding="utf-8")):
        (name,) = [name for name in FILES if mutant["in"].startswith(f"{name}.")]
        code = " ".join(FILES[name].read_text(encoding="utf-8").split())
        assert " ".join(mutant["old"].split()) in code and mutant["old"] != mutant["new"], mutant
        assert mutant["in"].rpartition(".")[2] in code and len(mutant["why"].split()) > 3, mutant
