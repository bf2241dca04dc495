"""
Change the code in one place at a time and see whether a test fails: ``make mutants``.

mutmut makes the mutants and runs the tests, as ``[tool.mutmut]`` in pyproject.toml says: a mutant of a function meets the
tests that call it, those in the module's own test file first. Strings stay as they are, for most are messages. A mutant that
no test could tell from the code is listed in ``tests/equivalent_mutants.yml`` with the reason; any other that survives asks
for a test.
"""

import argparse
import difflib
import hashlib
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import libcst as cst
import yaml
from mutmut import __main__ as mutmut
from mutmut.mutation import mutators
from mutmut.mutation.data import MutantLineSpans
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.workers import isolation

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.yml"
FOLDER = ROOT / ".cache" / "mutants"  # the mutants and their verdicts so far, with which a later run goes on
SURVIVED = 0, 5, 33  # exit codes: the tests passed, or none calls the function
UNDECIDED = None, 2  # not run, interrupted
SWAPS = {"max": "min", "maximum": "minimum", "argmax": "argmin", "any": "all", "floor": "ceil"}
SWAPS |= {other: one for one, other in SWAPS.items()} | {"mean": "max"}


class Mutant(NamedTuple):
    """A mutant by what it changes, which stays when other lines of its function change; mutmut's number does not."""

    function: str
    old: str
    new: str


def opposite(node: cst.Name) -> Iterator[cst.Name]:
    """Yield the opposite of what reduces or rounds, as the minimum of the maximum, which mutmut does not know."""
    if node.value in SWAPS:
        yield node.with_changes(value=SWAPS[node.value])


def arguments_but_texts(node: cst.Call) -> Iterator[cst.Call]:
    """Yield what mutmut makes of a call's arguments, but for those without one of its texts, which are names in messages."""
    texts = {arg for arg in node.args if isinstance(arg.value, cst.BaseString)}
    yield from (call for call in mutators.operator_arg_removal(node) if texts <= set(call.args))


class NearestFirst(PytestRunner):
    """Run the tests in the module's own file, the quickest first; if they pass, the others, for half a minute."""

    def run_tests(self, *, mutant_name, tests):
        module = (mutant_name or "").rpartition(".")[0].split(".")
        own = f"/test_{module[-1].strip('_')}.py", "/".join(module) + ".py"  # examples are in the module itself
        times = {test: state().duration_by_test[test] for test in tests}
        near = sorted((test for test in tests if test.split("::")[0].endswith(own)), key=times.get)
        others = sorted(times.keys() - near, key=times.get)
        others = [test for test, until in zip(others, itertools.accumulate(map(times.get, others))) if until < 30]
        for some in filter(None, (near, others)) if tests else [[]]:  # none: all, as mutmut has it
            if code := super().run_tests(mutant_name=mutant_name, tests=some):
                return code
        return 0


def prepare() -> None:
    """Make the folder in which mutmut works, with links to the sources; a copy of the tests is made anew each time."""
    ours, settings = FOLDER / "made_by", ROOT / "pyproject.toml"
    this = Path(__file__).read_text("utf-8") + settings.read_text("utf-8")
    if not ours.exists() or ours.read_text("utf-8") != this:
        shutil.rmtree(FOLDER, ignore_errors=True)  # other mutants
    known, folders = FOLDER / "mutants" / "mutmut-stats.json", ("bqcore", "studies", "tests")
    changed = max(path.stat().st_mtime for folder in folders for path in (ROOT / folder).rglob("*.py"))
    if known.exists() and known.stat().st_mtime < changed:
        known.unlink()  # then all tests are run once, to see that they pass and what they call
    shutil.rmtree(FOLDER / "mutants" / "tests", ignore_errors=True)
    (FOLDER / "mutants").mkdir(parents=True, exist_ok=True)
    for link in (*folders, "pyproject.toml", "mutants/data"):
        if not (FOLDER / link).exists():
            (FOLDER / link).symlink_to(ROOT / Path(link).name)
    ours.write_text(this, "utf-8")
    os.chdir(FOLDER)
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "tests")]
    operators = mutators.mutation_operators
    operators.remove((cst.BaseString, mutators.operator_string))
    operators.remove((cst.Call, mutators.operator_arg_removal))
    operators += [(cst.Name, opposite), (cst.Call, arguments_but_texts)]
    isolation.PytestRunner = NearestFirst
    isolation.ForkServerRunner.run_clean_tests = lambda *_, **__: 0  # they passed when it was seen what they call
    mutmut.print_status = lambda *_, **__: None


def made() -> dict[str, Mutant]:
    """Return all mutants by mutmut's names, after making those that are not there yet."""
    with mutmut.CatchOutput():
        mutmut.copy_src_dir()
        mutmut.create_mutants(os.cpu_count())
    found = {}
    for path in mutmut.walk_mutatable_files():
        spans, module = MutantLineSpans.load(path), ".".join(path.with_suffix("").parts)
        names = list(spans.span_by_function_name)
        lines = {n: s.replace(n, "").splitlines() for n, s in zip(names, spans.read_function_sources(names))}
        for name in [name for name in names if not name.endswith("_orig")]:
            mangled = name.partition("__mutmut_")[0]
            changes = [line for line in difflib.ndiff(lines[f"{mangled}__mutmut_orig"], lines[name]) if line[0] in "-+"]
            old, new = (" ".join(line[2:].strip() for line in changes if line[0] == sign) for sign in "-+")
            function = mangled.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
            found[f"{module}.{name}"] = Mutant(f"{module}.{function}", old, new)
    return found


def verdicts() -> dict[str, int | None]:
    """Return the exit code of each mutant's tests, none before they are run."""
    return {name: code for _, name, code in mutmut.collect_source_file_mutation_data(mutant_names=())[0]}


def choose(mutants: dict[str, Mutant], number: int, seed: int) -> list[str]:
    """Return the names of a random sample, in which an edit exchanges only mutants of the lines edited."""
    return sorted(mutants, key=lambda name: hashlib.sha256(repr((seed, *mutants[name])).encode()).digest())[:number]


def run(names: list[str], workers: int) -> None:
    """Run the tests of these mutants, with the progress on the screen and mutmut's own lines in a file."""
    count = itertools.count()
    mutmut.print_stats = lambda *_, **__: print(f"\r{next(count)} of {len(names)}", end="", file=sys.stderr, flush=True)
    terminal = sys.stdout
    try:
        with open("log", "w", encoding="utf-8") as sys.stdout:
            sys.__stdout__ = sys.stdout  # mutmut prints to both
            mutmut._run(names, workers)
    except SystemExit:
        sys.exit(f"The tests fail without a mutant, or could not be run: {FOLDER / 'log'} says why.")
    finally:
        sys.stdout = sys.__stdout__ = terminal


def main() -> None:
    """Run what the command line asks for, print the score and end with 1 if a survivor is not listed."""
    parser = argparse.ArgumentParser(
        prog="make mutants ARGS=…", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("functions", nargs="*", default=["*"], help="only mutants of these, as bqcore.metrics.masks.*")
    parser.add_argument(
        "-n", type=int, default=200, help="how many, chosen at random (200); 0: all but those that died before"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice (0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (one for each core)")
    options = parser.parse_args()
    listed = {Mutant(e["in"], e["old"], e["new"]) for e in yaml.safe_load(EQUIVALENT.read_text("utf-8"))}
    prepare()
    mutants = {n: m for n, m in made().items() if any(fnmatch(m.function, p) for p in options.functions)}
    chosen = choose(mutants, options.n or len(mutants), options.seed)
    before = verdicts()
    if names := [n for n in chosen if before.get(n) in UNDECIDED or before[n] in SURVIVED and mutants[n] not in listed]:
        run(names, options.workers)
    codes = verdicts()
    alive = [name for name in chosen if codes[name] in SURVIVED]
    survivors = [{"in": m.function, "old": m.old, "new": m.new} for m in map(mutants.get, alive) if m not in listed]
    run_, equivalent = sum(codes[name] not in UNDECIDED for name in chosen), len(alive) - len(survivors)
    print(
        "", *[yaml.safe_dump([each], sort_keys=False, width=1000, allow_unicode=True) for each in survivors], sep="\n"
    )
    print(
        f"{run_ - len(alive)} of {run_} mutants killed ({1 - len(alive) / run_:.1%}), {equivalent} equivalent, {len(survivors)} survived."
    )
    sys.exit(bool(survivors) or run_ < len(chosen))


if __name__ == "__main__":
    main()
