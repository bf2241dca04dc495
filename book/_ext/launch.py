"""
Lead from chapters and worksheets to where they run without an installation, if _config.yml names a GitHub repository.

Binder builds environment.yml and runs postBuild; it opens the repository's notebooks. Colab opens the notebooks of the
built book, which GitHub Pages serves from the branch gh-pages, and their first cell installs what is missing.
"""

import nbformat
from nbformat.v4 import new_code_cell

_HIDDEN = {"jupyter": {"source_hidden": True}, "cellView": "form", "tags": ["hide-input"]}
_NEEDS = """#@title First run this cell: it looks for what the notebook needs
import importlib.util
import os
import sys

if importlib.util.find_spec("bqcore") is None and os.path.isdir("../bqcore"):  # in a folder of the book's clone
    os.chdir("..")
    sys.path.insert(0, os.getcwd())
elif importlib.util.find_spec("bqcore") is None:
    {missing}"""
_FETCH = """!git clone --quiet --depth 1 {address} book
    %pip install --quiet "./book[torch]"
    %cd book"""
_SAY = 'print("bqcore is missing: pip install the folder of this book. What you write yourself needs NumPy alone.")'


def first_cell(address: str = "") -> nbformat.NotebookNode:
    """Return the cell that installs bqcore where it is missing, or says so if the repository has no *address*."""
    return new_code_cell(_NEEDS.format(missing=_FETCH.format(address=address) if address else _SAY), metadata=_HIDDEN)


def places(address: str, file: str, source: str) -> list[tuple[str, str, str]]:
    """
    Return where a notebook runs elsewhere: each place's link, name, and what it is in full.

    *file* is the notebook below the book's folder, *source* what Binder opens: in the repository, or made by postBuild.
    """
    host, _, repository = address.strip().removeprefix("https://").strip("/").removesuffix(".git").partition("/")
    if host != "github.com" or not repository:
        return []
    binder = f"https://mybinder.org/v2/gh/{repository}/HEAD?labpath={source}"
    colab = f"https://colab.research.google.com/github/{repository}/blob/gh-pages/{file}"
    return [(binder, "Binder", "run on Binder"), (colab, "Colab", "run in Google Colab")]
