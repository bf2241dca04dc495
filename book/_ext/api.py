"""
The reference: what the pages of book/api need beyond autodoc.

Below the docstring of each public name of bqcore stand what it returns, if that is a class of ours (its fields, with
the comments behind them, and its methods), and the files of its code and of its tests.
"""

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # bqcore, also where it is not installed
import bqcore  # noqa: E402

FIELD = re.compile(r"^    (\w+): [^#\n]+?(?:  # (.*))?$", re.MULTILINE)
# Where a type is documented is not always where it is defined.
SHORTER = {r"np\.": "numpy.", r"xr\.|xarray\.core\.\w+\.": "xarray.", r"nn\.|torch\.nn\.modules\.\w+\.": "torch.nn."}


def results(function) -> list[type]:
    """Return the classes that a function returns, by its signature, if they are ours and have no entry of their own."""
    returned = inspect.formatannotation(inspect.signature(function).return_annotation)
    named = [vars(sys.modules[function.__module__]).get(word) for word in re.findall(r"\w+", returned)]
    classes = [part for part in named if inspect.isclass(part) and part.__module__.startswith("bqcore.")]
    return [part for part in classes if part.__name__ not in bqcore.__all__]


def fields(result: type) -> list[tuple[str, str]]:
    """Return the names of a class's fields, each with what the comment behind it says."""
    return FIELD.findall(inspect.getsource(result).partition("    def ")[0])


def methods(result: type) -> list[tuple[str, str]]:
    """Return a class's public methods as they are called, each with its summary."""
    public = {name: method for name, method in vars(result).items() if inspect.isfunction(method) and name[0] != "_"}
    called = {
        name: re.sub(r"^\(self(?:, )?(.*?)\)(?: ->.*)?$", r"(\1)", str(inspect.signature(public[name])))
        for name in public
    }
    return [(name + called[name], summary(method)) for name, method in public.items()]


def listed(title: str, parts: list[tuple[str, str]], about: str = "") -> list[str]:
    """Return a list with a title as lines of rST."""
    lines = [f"* ``{name}``" + (f": {says}" if says else "") for name, says in parts]
    return ["", f".. rubric:: {title}", "", about, "", *lines, ""]


def summary(thing) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join(inspect.getdoc(thing).split("\n\n")[0].split())


def files(thing) -> str:
    """Return where the code and the tests of a public name are."""
    *rooms, module = thing.__module__.split(".")
    return f"``{'/'.join(rooms)}/{module}.py``, tested by ``{'/'.join(['tests', *rooms[1:]])}/test_{module}.py``"


def finish(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Move the above below a docstring, which is rST by now; its |A ∩ B| are magnitudes, which rST would replace."""
    if what == "class":
        lines += listed("Fields", fields(thing))
    for result in results(thing) if what == "function" else ():
        lines += listed(result.__name__, fields(result) + methods(result), summary(result))
    if what in ("function", "class"):
        lines += ["", ".. container:: behind", "", f"   {files(thing)}", ""]
    lines[:] = [line if line.lstrip().startswith((">>>", "* ``")) else line.replace("|", "\\|") for line in lines]


@functools.cache
def known() -> set[str]:
    """Return the names of all modules of bqcore, and of what they and their classes define, public or not."""
    names = [found.name for found in pkgutil.walk_packages(bqcore.__path__, "bqcore.") if "__" not in found.name]
    modules = [importlib.import_module(name) for name in names]
    classes = [part for module in modules for part in vars(module).values() if inspect.isclass(part)]
    parts = [(name, part) for place in (*modules, *classes) for name, part in vars(place).items()]
    return {name for name, part in parts if (getattr(part, "__module__", None) or "").startswith("bqcore.")} | {*names}


def is_ours(target: str) -> bool:
    """Return whether bqcore has something of this name, by its full address or by the name alone."""
    return target in known() or target.startswith("bqcore.") and target.rpartition(".")[2] in known()


def resolve(app: Sphinx, env, node, text):
    """Lead a name of bqcore, wherever it is defined, to its entry; what is not public stays code without a link."""
    if node.get("refdomain") != "py":
        return None
    if not is_ours(node["reftarget"]):
        for long, short in SHORTER.items():  # for the pages of these packages, which are asked after this
            node["reftarget"] = re.sub(rf"^(?:{long})", short, node["reftarget"])
        return None
    entry = env.get_domain("py").objects.get(f"bqcore.{node['reftarget'].rpartition('.')[2]}")
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text) if entry else text


def setup(app: Sphinx) -> dict:
    """Register all of the above."""
    app.connect("autodoc-process-docstring", finish, priority=600)  # after napoleon
    app.connect("missing-reference", resolve, priority=400)  # before intersphinx
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
