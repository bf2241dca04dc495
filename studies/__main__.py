"""The command line of the studies, ``python -m studies COMMAND``: run a study, look at data, judge, publish."""

import argparse
import gc
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 2 after a one-line error, 130 if it was stopped."""
    command = "studies"
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = _options(arguments)
        command = f"studies {options.command}"
        commands = {
            "run": _run, "train": _train, "data": _data, "ledger": _ledger, "publish": _publish, "explorer": _explorer,
            "times": _times, "growth": _growth,
        }  # fmt: skip
        return commands[options.command](options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = {"studies data": "what came is kept", **dict.fromkeys(["studies explorer", "studies growth"], "")}
        kept = kept.get(command, "finished runs are kept")
        says = f"{kept}, and the same command goes on" if kept else "the same command begins anew"
        print(f"\n{command}: stopped; {says}.", file=sys.stderr)
        return 130


def _options(arguments: list[str]) -> argparse.Namespace:
    """Read the words of a command; they are also kept, as ``words``."""
    parser = argparse.ArgumentParser(
        prog="python -m studies", description="Run the studies of the paper, judge its claims, publish."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="train, quantize and measure over seeds; a stopped run goes on where it stopped",
        description="Train, quantize and measure over seeds. Finished runs are kept: a stopped sweep goes on.",
        epilog=_settings(arguments), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    run.add_argument(
        "study",
        choices=[
            "levels",
            "stopping",
            "rounding",
            "first-order",
            "objectives",
            "multiverse",
            "readings",
            "roundings",
            "vendors",
        ],
        help="levels: Tables 1 and 2; stopping: Tables 3 to 5; rounding: Table 6; first-order: the linear reading "
        "against the truth; objectives: rounding objectives at 4 bits; multiverse: every reading of the paper's words; "
        "readings: the same on CIFAR-10; roundings: optimized rounding from little to much optimization; "
        "vendors: quantizers that people ship with, on the published networks",
    )
    run.add_argument(
        "dataset", nargs="?", default="all",
        choices=["digits", "mnist", "fashion-mnist", "cifar-10", "full-cifar-10", "all"],
        help="cifar-10 is the paper's subset; all is of vendors",
    )  # fmt: skip
    run.add_argument("settings", nargs="*", metavar="name=value", help="such as seed=3 bits=[8,5]")
    run.add_argument("--workers", type=int, help="processes (default: one a core)")
    run.add_argument("--variants", action="store_true", help="stopping, with one open choice changed at a time")
    run.add_argument("--out", type=Path, metavar="FILE", help="also write the joined result to FILE")

    train = commands.add_parser(
        "train", help="train the network of a run and keep it, for runs and for other uses",
        description="Train the network of a run and keep it in data/runs/checkpoints, where its runs find it.",
    )  # fmt: skip
    train.add_argument("study", choices=["levels", "stopping"], help="rounding takes the networks of stopping")
    train.add_argument("dataset", choices=["digits", "mnist", "fashion-mnist", "cifar-10", "full-cifar-10"])
    train.add_argument("settings", nargs="*", metavar="name=value", help="such as seed=3 epochs=5, as of `run`")

    data = commands.add_parser(
        "data", help="show which data sets are there, or fetch them",
        description="Show which official archives are there, where, how large, and whether they hold the official "
        "pixels and classes; `data fetch NAME` downloads them. A folder named by BQ_DATA is read instead of "
        "data/archives, and never written to. Digits come with scikit-learn.",
    )  # fmt: skip
    fetch = data.add_subparsers(dest="task", metavar="fetch").add_parser(
        "fetch", help="download a data set and verify it; a stopped download goes on where it stopped"
    )
    fetch.add_argument("name", choices=["mnist", "fashion-mnist", "cifar-10", "all"])

    ledger = commands.add_parser("ledger", help="print every claim of the paper with our verdict")
    form = ledger.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="in full, as a list of objects")
    form.add_argument("--csv", action="store_true", help="in full, as a table for other programs")
    ledger.add_argument(
        "--results", type=Path, metavar="FOLDER", help="judge these result files (default: data/results)"
    )

    commands.add_parser(
        "publish", help="make the fresh runs the published ones: data/results, README's table and LEDGER.md"
    )

    explorer = commands.add_parser("explorer", help="keep a published network for the book's explorer page")
    explorer.add_argument(
        "network",
        choices=["mnist", "fashion-mnist", "mnist-cnn", "fashion-mnist-cnn", "cifar-10-cnn", "cifar-10-resnet"],
    )

    times = commands.add_parser("times", help="print what studies took, from the records of `make reproduce`")
    times.add_argument("records", nargs="+", type=Path, metavar="RECORD", help=".tsv")
    times.add_argument("--paper", action="store_true", help="also keep them as those of the paper's own runs")

    commands.add_parser("growth", help="measure how the time of the library's functions grows, and keep it; minutes")

    return parser.parse_args(arguments, argparse.Namespace(words=arguments))


def _settings(given: list[str]) -> str:
    """List the settings of the study and data set that are named before --help; of the first baseline if none is."""
    if given[:1] != ["run"] or not any(word.startswith(("-h", "--h")) for word in given):
        return ""  # not shown, and specs imports torch and scikit-learn: seconds
    from . import specs

    words = [word for word in given if not word.startswith("-")][1:3]
    words += {0: ["levels", "digits"], 1: ["all" if words == ["vendors"] else "digits"]}.get(len(words), [])
    try:
        usual = specs.baseline(*words)
    except ValueError:
        return ""  # refused by name soon
    lines = [f"  {f'{name}={default}':<28} {says}" for name, _, default, says in specs.parameters(usual)]
    return "\n".join([f"settings of {usual.study} {usual.dataset}:", *lines])


def _run(options) -> int:
    from bqcore._store import save_dataset

    from . import catalogue, specs, stopping

    spec, seeds = specs.parse(options.settings, options.study, options.dataset)
    study = catalogue.study_of(spec)
    if options.variants:
        if options.study != "stopping" or options.dataset not in specs.VARIANTS or options.settings:
            known = ", ".join(f"stopping {name}" for name in specs.VARIANTS)
            raise ValueError(f"--variants goes with {known}, without settings.")
        seeds = specs.VARIANT_SEEDS[options.dataset]
        dataset = stopping.sweep_variants(options.dataset, workers=options.workers)
    else:
        dataset = study.sweep(spec, seeds, workers=options.workers)
    if options.out:
        save_dataset(dataset, options.out)
    for line in study.notes(dataset) if study.notes else ():
        print(line)
    jobs = len(study.jobs(spec, seeds))
    print(f"{', '.join(spec.words)}: {jobs} {spec.unit}s in {options.out or study.folder(spec)}")
    return 0


def _train(options) -> int:
    from dataclasses import replace

    from . import specs, sweeps

    one = [] if any(setting.startswith("seeds=") for setting in options.settings) else ["seeds=1"]
    spec, seeds = specs.parse([*options.settings, *one], options.study, options.dataset)
    for seed in range(spec.seed, spec.seed + seeds):
        print(sweeps.keep_classifier(replace(spec, seed=seed), f"Training {spec.dataset}, seed {seed}"))
    return 0


def _data(options) -> int:
    from .data import archives

    names = archives.NAMES if not options.task or options.name == "all" else (options.name,)
    if options.task:
        for name in names:
            archives.fetch(name)
    rows = archives.status(names)
    width = max(len(str(row.folder)) for row in rows)
    for row in rows:
        files = f"{row.files} of {row.of_files} file{'s'[: row.of_files - 1]}"
        print(f"{row.name:<14}{files:<13}{row.bytes / 1e6:>6.1f} MB  {str(row.folder):<{width}}  {row.says}")
    return 0


def _ledger(options) -> int:
    import json

    from . import ledger

    rows = ledger.ledger(**({"results": options.results} if options.results else {}))
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif options.csv:
        print(ledger.as_csv(rows), end="")
    else:
        print(f"{ledger.table(rows)}\n\n{ledger.chance_line(rows)}")
    return 0


def _publish(options) -> int:
    from . import answers, published
    from .figures import levels

    for line in [*published.publish(levels.headline), *answers.publish()]:
        print(line)
    return 0


def _explorer(options) -> int:
    from bqcore._store import save_dataset

    from . import explorer

    path = explorer.KEPT / f"{options.network}.nc"
    make = explorer.framed_network if options.network in explorer.FRAMED else explorer.image_network
    save_dataset(make(options.network), path)
    print(path)
    return 0


def _times(options) -> int:
    from . import times

    found = times.of_records(options.records)
    if options.paper:
        times.keep(found)
    print(f"\n{times.table(found)}\n{found.machine}")
    return 0


def _growth(options) -> int:
    from . import growth, times

    found = growth.measure()
    growth.keep(found)
    print(f"{times.growth_table(found)}\n{found.machine}")
    return 0


if __name__ == "__main__":
    gc.set_threshold(100_000)  # looking for garbage is a fifth of the time that imports take
    # Each run has one thread. Without others in this process workers can be forks of it: see studies/workers.py.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["STUDIES_FORK"] = str(os.getpid())
    sys.exit(main())
