"""The public face: names loaded when asked for, what tab completion and help show, signatures as they are written down."""

import importlib
import inspect
import pkgutil
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bqcore
from bqcore import __main__

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = ROOT / "tests" / "public_api.txt"
HEAVY = {"numpy", "scipy", "xarray", "pandas", "h5py", "torch", "sklearn", "onnxruntime"}


def signature(name: str) -> str:
    """Return a public name with its arguments and defaults; their types are in the docstrings."""
    found = inspect.signature(getattr(bqcore, name))
    plain = [argument.replace(annotation=inspect.Parameter.empty) for argument in found.parameters.values()]
    return f"{name}{inspect.Signature(plain)}"


def fresh(code: str) -> float:
    """Run *code* in a process of its own and return the processor time that it took there, imports included."""
    code = f"import sys, time\n{code}\nprint(time.process_time())\nassert not {HEAVY!r} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def test_names_and_signatures_are_those_written_down():
    """Whoever calls the library reads this file, and changes to it, before upgrading."""
    found = "".join(f"{signature(name)}\n" for name in sorted(bqcore.__all__))
    code = f"import sys; sys.path.insert(0, 'tests'); import test_public as t; t.WRITTEN.write_text({found!r})"
    says = f"If the change is meant, say so in CHANGELOG.md and write the list anew: {sys.executable} -c {code!r}"
    assert found == WRITTEN.read_text(encoding="utf-8"), says


def test_importing_the_package_imports_nothing_else_and_takes_no_time():
    assert fresh("import bqcore; dir(bqcore)") < 0.3
    with pytest.raises(AttributeError, match="module 'bqcore' has no attribute 'adit'"):
        bqcore.adit  # noqa: B018


@pytest.mark.parametrize("words", [[], *([command] for command in ("audit", "sweep", "blame", "plan"))])
def test_help_is_there_at_once(words):
    code = f"from bqcore.__main__ import main\ntry: main({[*words, '--help']!r})\nexcept SystemExit as end: assert end.code == 0"
    assert fresh(code) < 1


def test_an_audit_of_functions_imports_no_torch():
    code = """import sys, numpy as np, bqcore
x = np.random.default_rng(0).normal(size=(50, 2))
found = bqcore.audit(lambda x: x, lambda x: x.round(1), None, x, nodes=11)
assert "boundary_jaccard" in found.dataset, found.notes
found.to_html(), found.to_json()
assert not {"torch", "sklearn", "netCDF4"} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_torch_names_say_what_to_install_when_they_are_called():
    code = """import pydoc, sys
sys.modules["torch"] = None  # what Python takes for a package that is not there
import bqcore
assert "quantize(*given, **options)" in pydoc.plain(pydoc.render_doc(bqcore))
try: bqcore.quantize([1.0], 4)
except ValueError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    says = "bqcore.quantize needs the package torch, which is not installed: pip install 'bqcore[torch]'."
    assert done.stdout == f"{says}\n"


def test_no_module_hides_a_public_name():
    """Python would put a submodule in the place of a function of its name once that is imported."""
    for module in pkgutil.walk_packages(bqcore.__path__, "bqcore."):
        importlib.import_module(module.name)
    found = {name: getattr(bqcore, name) for name in bqcore.__all__}
    assert [name for name, value in found.items() if inspect.ismodule(value) or value.__name__ != name] == []
    assert not set(vars(bqcore)) & set(bqcore.__all__)


def test_the_names_by_topic_are_all_names_and_tab_completion_shows_them():
    listed = re.findall(r"^    (.+)$", bqcore.__doc__, flags=re.M)
    assert ", ".join(listed).split(", ") == bqcore.__all__
    assert [name for name in dir(bqcore) if not name.startswith("__")] == sorted(bqcore.__all__)
    names = {}
    exec("from bqcore import *", names)
    assert set(bqcore.__all__) <= set(names)


def test_help_explains_every_name():
    text = pydoc.plain(pydoc.render_doc(bqcore))
    for name in bqcore.__all__:
        assert getattr(bqcore, name).__doc__.strip().splitlines()[0] in text, name


@pytest.mark.parametrize("name", bqcore.__all__)
def test_every_name_has_a_docstring_with_a_verb_first_its_arguments_and_an_example(name):
    text = inspect.getdoc(getattr(bqcore, name))
    assert re.match(r"[A-Z][a-z]+ ", text) and not text.startswith(("Give ", "A ", "The "))
    assert ">>> " in text
    if inspect.isfunction(getattr(bqcore, name)):
        assert "\nParameters\n---" in text and "\nReturns\n---" in text


@pytest.mark.parametrize(
    ("command", "name"), [("audit", "audit"), ("sweep", "sweep"), ("blame", "blame_layers"), ("plan", "plan_bits")]
)
def test_the_command_has_the_defaults_of_the_function(command, name):
    options = vars(__main__._parser().parse_args([command]))
    defaults = {key: one.default for key, one in inspect.signature(getattr(bqcore, name)).parameters.items()}
    shared = (options.keys() & defaults.keys()) - {
        "reference",
        "candidate",
        "calibration",
        "heldout",
        "model",
        "budget",
    }
    assert {"fraction", "batch_size"} < shared
    for key in shared - {"check_order"}:
        given = tuple(options[key]) if isinstance(options[key], list) else options[key]
        assert given == defaults[key], key
