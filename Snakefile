# What depends on what: runs -> notebooks -> book. By content: a file that is touched but not changed makes no work.
# `make book` calls this with the parameters in P. Commands are plain, so that each can be repeated by hand.
import atexit
import fcntl
import os
import re
import subprocess
import sys
import threading
from glob import glob
from pathlib import Path

from snakemake.logging import logger

from studies import provenance

# make runs Snakemake with --quiet all. Its own errors show nevertheless, but not that a command failed, since that has
# said so itself. (Without --quiet it tells everything, as usual.)
KNOWN = re.compile(r"RuleException:\s*CalledProcessError|Exiting because a job|WorkflowError:\s*At least one job")


def is_news(record):
    return record.levelname == "ERROR" and not hasattr(record, "event") and not KNOWN.match(str(record.msg))


for handler in logger.handlers:
    if any("ALL" in str(getattr(old, "quiet", "")) for old in handler.filters):
        handler.filters = [is_news]

# One build at a time. Unlike Snakemake's own lock, this one does not outlive a killed build. Jobs that Snakemake starts,
# here or on a cluster, read this file too and must not wait for the build that they are a part of.
if workflow.is_main_process:
    Path(".cache").mkdir(exist_ok=True)
    LOCK = open(".cache/book.lock", "w")
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another make works on the book in this folder; this one waits for it.", file=sys.stderr)
        fcntl.flock(LOCK, fcntl.LOCK_EX)

PY = sys.executable

# The study, notebooks and Sphinx start warm, from a process that has imported the large packages: it ends with this one,
# however that ends, since its standard input does. Other systems' libraries, and those of several threads, are not to be
# forked.
onstart:
    forks = sys.platform == "linux" and os.environ.get("OMP_NUM_THREADS", "1") == "1"
    if forks and any(job.rule.name in ("runs", "notebook") for job in workflow.dag.needrun_jobs()):
        warm = subprocess.Popen([PY, "notebooks/warm.py", "--serve"], stdin=subprocess.PIPE)
        atexit.register(warm.communicate)


# Snakemake looks again for jobs a second after the last one began, and would wait for that.
onsuccess:
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()


# "seed=3 bits=[8, 5]": a blank separates parameters only where a name follows.
P = re.split(r"\s+(?=\w+=)", os.environ["P"].strip()) if os.environ.get("P", "").strip() else []
PROFILE = os.environ.get("PROFILE", "")
SMOKE, PAPER = PROFILE == "smoke", PROFILE == "paper"
NOTEBOOKS = sorted(Path(source).stem for source in glob("notebooks/[0-9][0-9]_*.py"))
# The longest begin first, so that at the end no core waits for one: names that are not here come last.
LONGEST = ["07_audit", "05_exact", "08_multiverse", "06_full", "01_levels", "11_gaps", "03_stopping", "02_transitions"]
SOURCES = sorted(glob("bqcore/**/*.py", recursive=True) + glob("studies/**/*.py", recursive=True))


def sources(*modules):
    """Return the files that a study's module imports, however deep: what its runs depend on."""
    return [os.path.relpath(path) for path in provenance.sources(*modules)]


RESULTS = sorted(glob("data/results/*"))
LEDGER = RESULTS + glob("data/claims.yml") + glob("data/predictions.yml") + sorted(glob("data/paper/*.csv"))
LEDGER += sources("studies.answers", "studies.figures.strips")
EXPLORER = sorted(glob("data/explorer/*.nc")) + ["studies/explorer.py", "studies/alternatives.py", "data/runs/digits.nc"]
PAGES = sorted(p for p in glob("book/**", recursive=True) if os.path.isfile(p) and "__pycache__" not in p)
EXECUTED = [f"notebooks/executed/{name}.ipynb" for name in NOTEBOOKS]
# Every study that the paper has, as `python -m studies run` takes it; a smoke test does the same on tiny sizes.
STUDIES = {
    "levels-digits": "levels digits", "stopping-digits": "stopping digits", "stopping-mnist": "stopping mnist",
    "stopping-fashion-mnist": "stopping fashion-mnist", "stopping-cifar-10": "stopping cifar-10",
    "stopping-mnist-cnn": "stopping mnist model=cnn", "stopping-fashion-mnist-cnn": "stopping fashion-mnist model=cnn",
    "stopping-cifar-10-resnet": "stopping cifar-10 model=resnet",
    "stopping-full-cifar-10": "stopping full-cifar-10",
    "stopping-full-cifar-10-channel": "stopping full-cifar-10 granularity=channel nodes=[81,41]",
    **{f"rounding-{name}": f"rounding {name}" for name in ("digits", "mnist", "fashion-mnist", "cifar-10", "full-cifar-10")},
    "variants-digits": "stopping digits --variants", "variants-cifar-10": "stopping cifar-10 --variants",
    **{f"multiverse-{name}": f"multiverse {name}" for name in ("digits", "mnist", "fashion-mnist")},
    "first-order-digits": "first-order digits",
    **{f"readings-{name}": f"readings {name}" for name in ("digits", "cifar-10", "full-cifar-10")},
    "roundings-full-cifar-10": "roundings full-cifar-10",
    **{
        f"objectives-{name}": f"objectives {name}"
        for name in ("digits", "mnist", "fashion-mnist", "cifar-10", "full-cifar-10")
    },
    "vendors": "vendors all",
}  # fmt: skip
TINY = {
    "levels-digits": "seeds=2 epochs=5 nodes=[31,16]", "stopping-digits": "seeds=3 epochs=5 nodes=[31,16]",
    **{f"stopping-{name}": "seeds=2 epochs=1 nodes=[21,11] sizes=[2000,500,500]" for name in ("mnist", "fashion-mnist")},
    **{f"stopping-{name}-cnn": "seeds=1 epochs=1 nodes=[11,6] sizes=[500,200,200]" for name in ("mnist", "fashion-mnist")},
    **{f"stopping-{name}": "seeds=1 epochs=1 nodes=[11,6] sizes=[300,100,100]" for name in ("cifar-10", "cifar-10-resnet")},
    "stopping-full-cifar-10": "seeds=1 epochs=2 nodes=[11,6] sizes=[500,100,100]",
    "rounding-digits": "seeds=2 epochs=5 nodes=[31,16] steps=50",
    "rounding-full-cifar-10": "seeds=1 epochs=2 nodes=[11,6] sizes=[500,100,100] steps=10",
    "multiverse-digits": "seeds=2 width=[8] epochs=[2] nodes=41",
    **{f"multiverse-{name}": "seeds=2 width=[8] epochs=[1] nodes=41" for name in ("mnist", "fashion-mnist")},
    "readings-digits": "seeds=2 'networks=[\"mlp 8 2\"]' nodes=11",
    "readings-cifar-10": "seeds=1 'networks=[\"cnn 4 1\"]' nodes=11",
    "first-order-digits": "seeds=1 epochs=2 width=8 bits=[8,4]",
    "vendors": "'networks=[\"digits mlp\"]'",  # the one that needs no archives
}
# The paper's own runs, with its numbers of seeds: all tables and figures of the abstract once.
PAPERS = {
    "levels-digits": "seeds=1", "stopping-digits": "seeds=4",
    **{f"stopping-{name}": "seeds=1" for name in ("mnist", "fashion-mnist", "cifar-10")},
    **{f"rounding-{name}": "seeds=3" for name in ("digits", "mnist", "fashion-mnist", "cifar-10")},
    "stopping-full-cifar-10": "nodes=[81,41]", "stopping-full-cifar-10-channel": "", "rounding-full-cifar-10": "",
}  # fmt: skip
# Of its long studies each seed is a job on one core, and so is its training: the longest first, so that no core waits.
# Minutes, about.
SEEDS, TRAINING = range(3), "training-full-cifar-10"
MINUTES = {TRAINING: 14, "rounding-full-cifar-10": 6, "stopping-full-cifar-10": 2, "stopping-full-cifar-10-channel": 1}
SETTINGS = TINY if SMOKE else PAPERS if PAPER else dict.fromkeys(STUDIES, "")
RUN = list(SETTINGS)
ROOM = PROFILE if SMOKE or PAPER else "all"
PARTS = [f"{name}.seed-{seed}" for name in MINUTES for seed in SEEDS] if PAPER else []
THREADS = 1 if PAPER else workflow.cores
WORKERS = "--workers 1" if PAPER else ""


def words(name):
    """Return what names a study and its settings, as `python -m studies run` takes them."""
    return f"{STUDIES[name]} {SETTINGS[name]}"


def modules(name):
    """Return the modules of a study, by its name: a study of many files has them in a room of its own."""
    study = STUDIES[name].split()[0].replace("-", "_")
    return f"studies.{study}", f"studies.{study}.sweep"


rule all:
    input:
        "data/runs/digits.nc", EXECUTED, "_build/html/index.html",


rule book:
    input:
        EXECUTED, PAGES, LEDGER, EXPLORER, "_config.yml", "_toc.yml", "CITATION.cff",
    output:
        "_build/html/index.html",
    params:
        online=os.environ.get("ONLINE", ""),  # with links to the pages of other packages: book/_ext/online.py
    threads: workflow.cores
    # Sphinx says hundreds of lines; they go to a file, and the ones that matter are shown if the book fails.
    shell:
        """
        echo "Book: about 20 s"
        {PY:q} -S notebooks/warm.py book/build.py >.cache/book.log 2>&1 </dev/null || {{
            grep -E 'WARNING|ERROR|Error|rror:' .cache/book.log || tail -n 20 .cache/book.log
            echo "The book was not built, for the reasons above; everything Sphinx said is in .cache/book.log."
            exit 1
        }} >&2
        """


rule notebook:
    input:
        "notebooks/{name}.py", "notebooks/execute.py", "notebooks/warm.py", "data/runs/digits.nc", SOURCES, LEDGER,
    output:
        "notebooks/executed/{name}.ipynb",
    params:
        p=P,
    priority: lambda wildcards: len(LONGEST) - [*LONGEST, wildcards.name].index(wildcards.name)
    shell:
        "{PY:q} -S notebooks/warm.py notebooks/execute.py --if-declared {wildcards.name:q} {params.p:q}"


rule runs:
    input:
        sources("studies.levels"),
    output:
        "data/runs/digits.nc",
    params:
        p=P,
    threads: workflow.cores
    shell:
        "{PY:q} -S notebooks/warm.py -m studies run levels digits {params.p:q} --out {output:q}"


# `make reproduce`: everything from raw pixels. Each study uses all cores of its own job, so that one runs at a time here
# and all at once on a cluster; a stopped one goes on where it stopped.
rule reproduce:
    input:
        [f"data/runs/{ROOM}/{name}.nc" for name in RUN],
    params:
        records=[f"data/runs/{ROOM}/{name}.tsv" for name in RUN + PARTS],
        paper="--paper" if PAPER else "",
    localrule: True
    # No `run`, which Snakemake cannot do below a folder with a blank in its name.
    shell:
        "{PY:q} -m studies times {params.records:q} {params.paper}"


rule archives:
    output:
        touch("data/runs/archives.verified"),
    localrule: True
    shell:
        "{PY:q} -m studies data fetch all"


# One network of the paper's long studies, kept in data/runs/checkpoints.
rule training:
    input:
        sources("studies.sweeps"),
        "data/runs/archives.verified",
    output:
        touch(f"data/runs/{ROOM}/{TRAINING}.seed-{{seed}}.done"),
    params:
        says=lambda wildcards: f"{TRAINING}, seed {wildcards.seed}: about {MINUTES[TRAINING]} min",
    benchmark:
        f"data/runs/{ROOM}/{TRAINING}.seed-{{seed}}.tsv"
    priority: MINUTES[TRAINING]
    resources:
        mem_mb=2000,
        runtime=180,
    # Bars of two jobs at a time take turns in one line, slowly enough to be read.
    shell:
        "echo {params.says:q} >&2; "
        "TQDM_MININTERVAL=10 {PY:q} -m studies train stopping full-cifar-10 seed={wildcards.seed} >&2"


# One seed of one of these studies.
rule seed:
    input:
        lambda wildcards: sources(*modules(wildcards.name)),
        f"data/runs/{ROOM}/{TRAINING}.seed-{{seed}}.done",
    output:
        f"data/runs/{ROOM}/{{name}}.seed-{{seed}}.nc",
    params:
        words=lambda wildcards: f"{words(wildcards.name)} seed={wildcards.seed} seeds=1",
        says=lambda wildcards: f"{wildcards.name}, seed {wildcards.seed}: about {MINUTES[wildcards.name]} min",
    benchmark:
        f"data/runs/{ROOM}/{{name}}.seed-{{seed}}.tsv"
    priority: lambda wildcards: MINUTES[wildcards.name]
    resources:
        mem_mb=2000,
        runtime=180,
    shell:
        "echo {params.says:q} >&2; {PY:q} -m studies run {params.words} --workers 1 --out {output:q}"


rule study:
    wildcard_constraints:
        name="[^.]+",
    input:
        lambda wildcards: sources(*modules(wildcards.name)),
        lambda wildcards: [] if "digits" in words(wildcards.name) else "data/runs/archives.verified",
        lambda wildcards: [f"data/runs/{ROOM}/{part}.nc" for part in PARTS if part.split(".")[0] == wildcards.name],
    output:
        f"data/runs/{ROOM}/{{name}}.nc",
    params:
        words=lambda wildcards: f"{words(wildcards.name)} "
        + (f"seeds={len(SEEDS)} " if PAPER and wildcards.name in MINUTES else "") + WORKERS,
    benchmark:
        f"data/runs/{ROOM}/{{name}}.tsv"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=180,
    shell:
        "{PY:q} -m studies run {params.words} --out {output:q}"
