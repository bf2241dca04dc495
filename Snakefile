# What depends on what: runs -> notebooks -> book. By content: a file that is touched but not changed makes no work.
# `make book` calls this with the parameters in P. Commands are plain, so that each can be repeated by hand.
import fcntl
import os
import re
import sys
from glob import glob
from pathlib import Path

from snakemake.logging import logger

# make runs Snakemake with --quiet all. Its own errors show nevertheless, but not that a command failed, since that has
# said so itself. (Without --quiet it tells everything, as usual.)
KNOWN = re.compile(r"RuleException:\s*CalledProcessError|Exiting because a job|WorkflowError:\s*At least one job")


def is_news(record):
    return record.levelname == "ERROR" and not hasattr(record, "event") and not KNOWN.match(str(record.msg))


for handler in logger.handlers:
    if any("ALL" in str(getattr(old, "quiet", "")) for old in handler.filters):
        handler.filters = [is_news]

# One build at a time. Unlike Snakemake's own lock, this one does not outlive a killed build.
Path(".cache").mkdir(exist_ok=True)
LOCK = open(".cache/book.lock", "w")
try:
    fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Another make works on the book in this folder; this one waits for it.", file=sys.stderr)
    fcntl.flock(LOCK, fcntl.LOCK_EX)

PY = sys.executable
# "seed=3 bits=[8, 5]": a blank separates parameters only where a name follows.
P = re.split(r"\s+(?=\w+=)", os.environ["P"].strip()) if os.environ.get("P", "").strip() else []
NOTEBOOKS = sorted(Path(source).stem for source in glob("notebooks/[0-9][0-9]_*.py"))
SOURCES = sorted(glob("bqcore/*.py"))
# The runs do not depend on what is made of them afterwards.
RUN_SOURCES = [s for s in SOURCES if Path(s).stem not in ("__main__", "claims", "explorer", "notebook", "plots")]
RESULTS = sorted(glob("data/results/*"))
LEDGER = RESULTS + glob("data/claims.yml") + glob("bqcore/claims.py")
EXPLORER = sorted(glob("data/explorer/*.nc")) + ["bqcore/explorer.py", "data/runs/digits.nc"]
PAGES = sorted(p for p in glob("book/**", recursive=True) if os.path.isfile(p) and "__pycache__" not in p)
EXECUTED = [f"notebooks/executed/{name}.ipynb" for name in NOTEBOOKS]


rule all:
    input:
        "data/runs/digits.nc", EXECUTED, "_build/html/index.html",


rule book:
    input:
        EXECUTED, PAGES, LEDGER, EXPLORER, "_config.yml", "_toc.yml",
    output:
        "_build/html/index.html",
    threads: workflow.cores
    # Sphinx says hundreds of lines; they go to a file, and the ones that matter are shown if the book fails.
    shell:
        """
        echo "Book: about 10 s"
        rm -rf _build/html
        {PY:q} -c 'from jupyter_book.cli.main import main; main()' build . -W -n --keep-going --all \
            >.cache/book.log 2>&1 </dev/null || {{
            grep -E 'WARNING|ERROR|Error|rror:' .cache/book.log || tail -n 20 .cache/book.log
            echo "The book was not built, for the reasons above; everything Sphinx said is in .cache/book.log."
            exit 1
        }} >&2
        """


rule notebook:
    input:
        "notebooks/{name}.py", "notebooks/execute.py", "data/runs/digits.nc", SOURCES, LEDGER,
    output:
        "notebooks/executed/{name}.ipynb",
    params:
        # Notebooks that explain take no parameters; those that measure take those of the runs.
        p=lambda wildcards, input: P if 'tags=["parameters"]' in Path(input[0]).read_text("utf-8") else [],
    shell:
        "{PY:q} notebooks/execute.py {wildcards.name:q} {params.p:q}"


rule runs:
    input:
        RUN_SOURCES,
    output:
        "data/runs/digits.nc",
    params:
        p=P,
    threads: workflow.cores
    shell:
        "{PY:q} -m bqcore run digits {params.p:q} --out {output:q}"
