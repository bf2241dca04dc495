"""notebooks/execute.py: what it refuses before a kernel starts, and what an execution leaves behind."""

import base64
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from nbformat.v4 import new_output
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = """
# %% [markdown]
# # A tiny notebook

# %% tags=["parameters"]
seed = 0  # which run
bits = [8, 7]
share = 0.2
scheme = "narrow"
wide = False

# %%
import sys

print(seed, bits, share, scheme, wide, sys.executable)
assert seed != 13, "thirteen"
"""


@pytest.fixture
def folder(tmp_path):
    """Return a clone's notebooks folder with one notebook; its path is longer than a socket's name may be."""
    folder = tmp_path / ("a long name with spaces " * 4).strip() / "notebooks"
    folder.mkdir(parents=True)
    for script in ("execute.py", "warm.py"):
        shutil.copy(ROOT / "notebooks" / script, folder)
    (folder / "00_text.py").write_text("# %% [markdown]\n# A notebook without parameters\n", encoding="utf-8")
    (folder / "01_tiny.py").write_text(NOTEBOOK, encoding="utf-8")
    return folder


def execute(folder, *words):
    """Run the script as the workflow does."""
    command = [sys.executable, folder / "execute.py", *words]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=120)


def loaded(folder):
    """Load the script as a module."""
    spec = importlib.util.spec_from_file_location("execute", folder / "execute.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def ask(folder, capsys):
    """Return a function that calls the script in this process, as one of its own would take a second to say no."""
    script = loaded(folder)

    def called(*words):
        status = script.main(list(words))
        return subprocess.CompletedProcess(words, status, *capsys.readouterr())

    return called


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sed=3"], "Notebook 01_tiny has no parameter sed: did you mean seed?"),
        (["epochs=3"], "Notebook 01_tiny has no parameter epochs: it has seed, bits, share, scheme, wide."),
        (["seed=x"], "Parameter seed of notebook 01_tiny must be of type integer, such as 0; x is of type word."),
        (["seed=3.0"], "Parameter seed of notebook 01_tiny must be of type integer, such as 0; 3.0 is of type number."),
        (["seed=true"], "such as 0; true is of type true or false."),
        (["wide=1"], "must be of type true or false, such as false; 1 is of type integer."),
        (["bits=8"], "must be of type list of integer, such as [8, 7]; 8 is of type integer."),
        (['bits=[8, "x"]'], 'such as [8, 7]; [8, "x"] is of type list of integer and word.'),
        (["scheme=3"], 'must be of type word, such as "narrow"; 3 is of type integer.'),
        (["seed"], "Parameters are written name=value, 'seed' is not."),
        (["seed=1 seed=2"], "Parameter seed is given twice, as 1 and as 2: give it once."),
    ],
)
@pytest.mark.parametrize("name", ["01_tiny", "--check"])
def test_wrong_parameter_is_refused_in_one_line(folder, ask, name, words, message):
    done = ask(name, *words)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
    assert not (folder / "executed").exists()


def test_notebook_without_parameters_takes_none(ask):
    done = ask("00_text", "seed=3")
    assert done.returncode == 2 and done.stderr == "Notebook 00_text has no parameter seed: it has none.\n"


def test_missing_notebook_is_refused(folder):
    done = execute(folder, "02_none")
    assert done.returncode == 2 and done.stderr.startswith("There is no notebook 02_none.py in ")


def test_right_parameters_pass_the_check_and_run_nothing(folder, ask):
    done = ask("--check", "seed=3 bits=[8, 5] share=1 scheme=affine wide=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "These parameters reach 01_tiny; the other chapters stay as they are.\n"
    assert not (folder / "executed").exists()


@pytest.mark.slow
def test_a_notebook_takes_only_what_it_declares_if_it_is_told_so(folder, ask):
    (folder / "02_other.py").write_text('# %% tags=["parameters"]\nkind = "a"\n\n# %%\nprint(kind)\n', encoding="utf-8")
    assert ask("--check", "seed=3").returncode == 0  # the one does not declare it, the other does
    assert ask("--check", "kind=b").returncode == 0
    for words in (["kind=b", "seed=3"], ["kind=3"], ["seed=x"]):
        assert ask("--check", *words).returncode == 2
    assert ask("02_other", "seed=3").returncode == 2
    assert execute(folder, "--if-declared", "02_other", "seed=3").returncode == 0
    notebook = json.loads((folder / "executed" / "02_other.ipynb").read_text(encoding="utf-8"))
    assert notebook["metadata"]["papermill"]["parameters"] == {}
    assert execute(folder, "--if-declared", "02_other", "kind=b").returncode == 0
    assert "b\\n" in (folder / "executed" / "02_other.ipynb").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_notebook_with_parameters_of_its_own_takes_none_of_the_runs(folder, ask):
    own = '# %% tags=["parameters", "own-parameters"]\nbits = 4\n\n# %%\nprint(bits)\n'
    (folder / "02_own.py").write_text(own, encoding="utf-8")
    assert ask("--check", "bits=[8]").returncode == 0  # a list there, an integer here
    assert ask("--check", "bits=8").returncode == 2
    assert execute(folder, "--if-declared", "02_own", "bits=[8]").returncode == 0
    assert "4\\n" in (folder / "executed" / "02_own.ipynb").read_text(encoding="utf-8")
    assert execute(folder, "02_own", "bits=5").returncode == 0
    assert "5\\n" in (folder / "executed" / "02_own.ipynb").read_text(encoding="utf-8")


@pytest.mark.slow
def test_execution(folder):
    done = execute(folder, "01_tiny", "seed=3", "bits=[8, 5]")
    assert (done.returncode, done.stderr) == (0, "")
    output = folder / "executed" / "01_tiny.ipynb"
    notebook = json.loads(output.read_text(encoding="utf-8"))
    assert notebook["metadata"]["papermill"] == {
        "parameters": {"seed": 3, "bits": [8, 5]},
        "default_parameters": {"seed": 0, "bits": [8, 7], "share": 0.2, "scheme": "narrow", "wide": False},
    }
    # In a kernel of the very interpreter that was called, with the values given and the defaults for the rest.
    assert notebook["cells"][-1]["outputs"][0]["text"] == [f"3 [8, 5] 0.2 narrow False {sys.executable}\n"]
    first = output.read_bytes()

    # A failed execution says which cell and why, and leaves the former output as it is.
    done = execute(folder, "01_tiny", "seed=13")
    assert done.returncode == 1
    assert "assert seed != 13" in done.stderr and done.stderr.endswith("AssertionError: thirteen\n")
    assert output.read_bytes() == first and [p.name for p in output.parent.iterdir()] == ["01_tiny.ipynb"]

    # The same parameters give the same bytes.
    output.unlink()
    assert execute(folder, "01_tiny", "seed=3", "bits=[8, 5]").returncode == 0
    assert output.read_bytes() == first
    assert not [p for p in folder.parent.iterdir() if p.name != "notebooks"]  # nothing beside it, sockets included


@pytest.mark.slow
def test_a_bar_is_shown_while_it_grows_and_not_kept_and_a_warning_is_both(folder):
    cell = "import sys\nfrom tqdm import tqdm\nfor _ in tqdm(range(3), desc='runs'):\n    pass\n"
    (folder / "03_bar.py").write_text(f"# %%\n{cell}\n# %%\nprint('mind', file=sys.stderr)\n", encoding="utf-8")
    done = execute(folder, "03_bar")
    assert done.returncode == 0 and "runs: 100%" in done.stderr and done.stderr.endswith("mind\n")
    cells = json.loads((folder / "executed" / "03_bar.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [[output["text"] for output in cell["outputs"]] for cell in cells] == [[], [["mind\n"]]]


def test_what_a_cell_prints_is_one_output():
    pieces = [new_output("stream", name=name, text=text) for name, text in (("stdout", "a"), ("stdout", "b\n"))]
    other = [new_output("stream", name="stderr", text="c"), new_output("display_data", {"text/plain": "d"})]
    last = new_output("stream", name="stdout", text="e")
    found = loaded(ROOT / "notebooks").joined([*pieces, *other, last])
    assert [output.get("text") for output in found] == ["ab\n", "c", None, "e"]


def test_figures_are_packed_without_a_pixel_changed():
    script = loaded(ROOT / "notebooks")
    figure, axes = plt.subplots()
    axes.plot([0, 1, 3], [2, 0, 1], lw=3)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    plt.close(figure)
    small = base64.b64decode(script.packed(base64.b64encode(out.getvalue()).decode()))
    before, after = (np.asarray(Image.open(io.BytesIO(png))) for png in (out.getvalue(), small))
    assert (before[..., 3] == 255).all() and np.array_equal(before[..., :3], after)
    assert len(small) < len(out.getvalue()) and b"Software" in out.getvalue() and b"Software" not in small
