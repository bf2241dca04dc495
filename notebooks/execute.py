"""
Execute a notebook with parameters: python notebooks/execute.py 01_levels seed=3 "bits=[8, 5]"

Reads notebooks/01_levels.py and writes notebooks/executed/01_levels.ipynb once all cells have run. A value is JSON or a
bare word. A parameter that the notebook does not declare, or one of another type, is refused before anything runs;
--check in place of a name runs none, but refuses parameters that no notebook takes and says which notebooks the others
reach; --if-declared before a name leaves parameters out that this notebook does not all declare, or that mean something
else there (tag `own-parameters`).
"""

import ast
import base64
import difflib
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent


def inspected(notebook) -> list:
    """Return what papermill's inspection finds in the cells tagged `parameters`: names, defaults and comments."""
    from papermill.translators import papermill_translators

    translator = papermill_translators.find_translator("python3", "python")
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return [parameter for cell in cells for parameter in translator.inspect(cell)]


def declared(notebook) -> dict:
    """Return the names and defaults of a notebook's parameters."""
    return {parameter.name: ast.literal_eval(parameter.default) for parameter in inspected(notebook)}


def fits(value, default) -> bool:
    """Return whether a value has the type of a default: an integer is a number too, and None takes anything."""
    if isinstance(default, list):
        return isinstance(value, list) and (not default or all(fits(v, default[0]) for v in value))
    return default is None or type(value) is type(default) or (type(default) is float and type(value) is int)


def kind(value) -> str:
    """Name the type of a value for a reader."""
    if isinstance(value, list) and value:
        return "list of " + " and ".join(sorted({kind(v) for v in value}))
    return {int: "integer", float: "number", bool: "true or false", str: "word"}.get(type(value), type(value).__name__)


def parse(words: list[str], defaults: dict, name: str) -> dict:
    """Turn `name=value` words into parameters; raise ValueError for one that the notebook *name* does not take."""
    given = {}
    # A blank separates parameters only where a name follows, so that "seed=3 bits=[8, 5]" may come as one word or two.
    for word in filter(None, re.split(r"\s+(?=\w+=)", " ".join(words).strip())):
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"Parameters are written name=value, {word!r} is not.")
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1)
            hint = f"did you mean {near[0]}" if near else f"it has {', '.join(defaults) or 'none'}"
            raise ValueError(f"Notebook {name} has no parameter {key}: {hint}{'?' if near else '.'}")
        if key in given:
            raise ValueError(f"Parameter {key} is given twice, as {given[key]!r} and as {text}: give it once.")
        try:
            given[key] = json.loads(text)
        except json.JSONDecodeError:
            given[key] = text
        if not fits(given[key], defaults[key]):
            raise ValueError(
                f"Parameter {key} of notebook {name} must be of type {kind(defaults[key])}, such as "
                f"{json.dumps(defaults[key])}; {text} is of type {kind(given[key])}."
            )
    return given


def execute(notebook, parameters: dict):
    """Run all cells in a kernel of this very interpreter; raise RuntimeError with the cell that failed."""
    import papermill
    from traitlets.config import Config

    # papermill asks the notebook for its language, which a source may leave out.
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    # A socket's name has at most 107 characters, so sockets lie in a short folder and not in the clone; they need names
    # of their own, for two notebooks at once would else share theirs. A kernel in JUPYTER_PATH goes before one of the
    # same name among the user's.
    with tempfile.TemporaryDirectory(prefix="bq-") as folder:
        kernel = Path(folder, "kernels", "python3", "kernel.json")
        kernel.parent.mkdir(parents=True)
        # What goes wrong in a cell is in the notebook; on its log the kernel only complains about being shut down.
        command = [sys.executable, "-S", str(FOLDER / "warm.py"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        # The extension puts SVG, CSV and NetCDF of figures and tables into the notebook.
        command += ["--matplotlib=inline", "--log-level=CRITICAL", "--ext=studies.figures.source_data"]
        kernel.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}), "utf-8")
        path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
        os.environ |= {"JUPYTER_PATH": folder, "JUPYTER_RUNTIME_DIR": folder, "IPYTHONDIR": folder, "PYTHONPATH": path}
        # Each core has a notebook: threads would only wait for each other, three times as long in one with a CNN.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        sockets = {"transport": "ipc", "ip": f"{folder}/ipc"} if os.name == "posix" and len(folder) < 90 else {}
        # All cells have run by then, so that nothing is lost by not waiting a second for the kernel's goodbye.
        config = Config({"KernelManager": sockets, "NotebookClient": {"shutdown_kernel": "immediate"}})
        try:
            return papermill.execute_notebook(
                notebook,
                None,
                parameters,
                kernel_name="python3",
                progress_bar=False,
                stderr_file=sys.stderr,  # bars of runs that a parameter asks for, while they are made
                start_timeout=600,  # a busy machine takes its time to start one
                cwd=FOLDER.parent,
                config=config,
            )
        except papermill.PapermillExecutionError as error:
            source = error.source.strip().replace("\n", "\n    ")
            raise RuntimeError(f"this cell failed:\n\n    {source}\n\n{error.ename}: {error.evalue}") from None


def settled(notebook, parameters: dict, defaults: dict) -> str:
    """Return a notebook as text, figures packed, without what differs between equal runs: times, paths, random ids."""
    notebook.metadata["papermill"] = {"parameters": parameters, "default_parameters": defaults}
    notebook.metadata.pop("jupytext", None)  # has names in an order of its own each time
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell["outputs"] = joined(cell["outputs"])
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = packed(output.data["image/png"])
    seen = {}  # xarray's tables name their parts by random ids
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    return re.sub(uuid, lambda found: seen.setdefault(found[0], f"id-{len(seen)}"), nbformat.writes(notebook)) + "\n"


def joined(outputs: list) -> list:
    """Return a cell's outputs, what it printed as one, in however many pieces that came, and no progress bars."""
    out = []
    for output in outputs:
        if out and output["output_type"] == "stream" and out[-1].get("name") == output["name"]:
            out[-1]["text"] += output["text"]
        else:
            out.append(output)
    for output in out:
        if output.get("name") == "stderr":
            output["text"] = re.sub(r"\r[^\r\n]*\n?", "", output["text"])  # a bar begins each of its states so
    return [output for output in out if output["output_type"] != "stream" or output["text"]]


def packed(png: str) -> str:
    """Return a figure's PNG, as base64, without its alpha, which nowhere lets anything through: an eighth is gone."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def read(name: str) -> tuple:
    """Return a notebook, its declared parameters and whether these are the runs'; raise ValueError if there is none."""
    path = FOLDER / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"There is no notebook {name}.py in {FOLDER}.")
    notebook = jupytext.read(path, fmt="py:percent")
    own = any("own-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    return notebook, declared(notebook), not own


def takes(words: list[str], defaults: dict) -> bool:
    """Return whether a notebook with these parameters declares all that *words* name."""
    return set(re.findall(r"(?:^|\s)(\w+)=", " ".join(words))) <= set(defaults)


def check(words: list[str]) -> str:
    """
    Return which notebooks the parameters of runs reach, as a line; raise ValueError unless a notebook declares all of
    them, and each that does finds their types.
    """
    with_any = {}
    for path in sorted(FOLDER.glob("[0-9][0-9]_*.py")):
        _, defaults, of_runs = read(path.stem)
        if defaults and of_runs:
            with_any[path.stem] = defaults
    reached = [name for name in with_any if takes(words, with_any[name])]
    for name in reached or list(with_any)[:1]:
        parse(words, with_any[name], name)
    return f"These parameters reach {', '.join(reached)}; the other chapters stay as they are."


def main(words: list[str]) -> int:
    """Execute the notebook that is named first with the parameters that follow; return the exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if words else 2
    try:
        if words[0] == "--check":
            print(check(words[1:]))
            return 0
        optional = words[0] == "--if-declared"
        name, *words = words[optional:]
        name = Path(name).stem
        notebook, defaults, of_runs = read(name)
        parameters = parse([] if optional and not (of_runs and takes(words, defaults)) else words, defaults, name)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    start = time.monotonic()
    print(f"Notebook {name}: started", flush=True)
    try:
        text = settled(execute(notebook, parameters), parameters, defaults)
    except RuntimeError as error:
        print(f"Notebook {name}: {error}", file=sys.stderr)
        return 1
    (FOLDER / "executed").mkdir(exist_ok=True)
    draft = FOLDER / "executed" / f".{name}.{os.getpid()}.draft"
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(FOLDER / "executed" / f"{name}.ipynb")
    finally:
        draft.unlink(missing_ok=True)
    print(f"Notebook {name}: done in {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
