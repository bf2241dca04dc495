"""The command line: ``python -m bqcore run | data | ledger | publish``."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; give 0, 2 after a one-line error, or 130 if it was stopped from the keyboard."""
    command = "bqcore"
    try:
        options = _options(arguments)
        command = f"bqcore {options.command}"
        return {"run": _run, "data": _data, "ledger": _ledger, "publish": _publish}[options.command](options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "what came is kept" if command == "bqcore data" else "finished runs are kept"
        print(f"\n{command}: stopped; {kept}, and the same command goes on.", file=sys.stderr)
        return 130


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bqcore", description="Measure how quantization moves a classifier's decision boundary."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="train, quantize and measure over seeds; a stopped run goes on where it stopped",
        description="Train, quantize and measure over seeds. Finished runs are kept: a stopped sweep goes on.",
        epilog=_settings(arguments), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    run.add_argument("study", choices=["levels", "stopping"], help="levels: Tables 1 and 2; stopping: Tables 3 and 4")
    run.add_argument("dataset", choices=["digits", "mnist", "fashion-mnist", "cifar-10"])
    run.add_argument("settings", nargs="*", metavar="name=value", help="such as seed=3 bits=[8,5]")
    run.add_argument("--workers", type=int, help="processes (default: one a core)")
    run.add_argument("--variants", action="store_true", help="stopping, with one open choice changed at a time")
    run.add_argument("--out", type=Path, metavar="FILE", help="also write the joined result to FILE")

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
    ledger.add_argument("--json", action="store_true", help="as a list of objects")
    ledger.add_argument(
        "--results", type=Path, metavar="FOLDER", help="judge these result files (default: data/results)"
    )

    commands.add_parser("publish", help="make the fresh runs the published ones: data/results and README's table")

    return parser.parse_args(arguments)


def _settings(arguments: list[str] | None) -> str:
    """List the settings of the study and data set that are named before --help; of the first baseline if none is."""
    from . import specs

    words = [word for word in (sys.argv[1:] if arguments is None else arguments) if not word.startswith("-")][1:3]
    try:
        usual = specs.baseline(*(words if len(words) == 2 else ("levels", "digits")))
    except ValueError:
        return ""  # refused by name soon
    lines = [f"  {f'{name}={default}':<28} {says}" for name, _, default, says in specs.parameters(usual)]
    return "\n".join([f"settings of {usual.study} {usual.dataset}:", *lines])


def _run(options) -> int:
    from . import runs, specs
    from .results import save_dataset

    spec, seeds = specs.parse(options.settings, options.study, options.dataset)
    if options.variants:
        if options.study != "stopping" or options.dataset not in specs.VARIANTS or options.settings:
            known = ", ".join(f"stopping {name}" for name in specs.VARIANTS)
            raise ValueError(f"--variants goes with {known}, without settings.")
        seeds = specs.VARIANT_SEEDS[options.dataset]
        dataset = runs.sweep_variants(options.dataset, seeds, workers=options.workers)
    else:
        dataset = runs.sweep(spec, seeds, workers=options.workers)
    if options.out:
        save_dataset(dataset, options.out)
    print(f"{spec.study}, {spec.dataset}, {spec.model}: {seeds} runs in {options.out or runs.folder(spec)}")
    return 0


def _data(options) -> int:
    from . import archives

    names = archives.NAMES
    if options.task:
        names = names if options.name == "all" else (options.name,)
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

    from . import claims

    rows = claims.ledger(**({"results": options.results} if options.results else {}))
    print(json.dumps(rows, indent=2, ensure_ascii=False) if options.json else claims.table(rows))
    return 0


def _publish(options) -> int:
    from . import claims, publishing

    for line in [*publishing.publish(), *claims.publish_table()]:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
