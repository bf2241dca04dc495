"""The command line: ``python -m bqcore run | ledger | publish | explorer``."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; give 0, 2 after a one-line error, or 130 if it was stopped from the keyboard."""
    command = "bqcore"
    try:
        options = _options(arguments)
        command = f"bqcore {options.command}"
        return {"run": _run, "ledger": _ledger, "publish": _publish, "explorer": _explorer}[options.command](options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{command}: stopped; finished runs are kept, and the same command goes on.", file=sys.stderr)
        return 130


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bqcore", description="Measure how quantization moves a classifier's decision boundary."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="train, quantize and measure over seeds; a stopped run goes on where it stopped",
        description="Train, quantize and measure over seeds. Finished runs are kept: a stopped sweep goes on.",
        epilog=_settings(), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    run.add_argument("dataset", choices=["digits"])
    run.add_argument("settings", nargs="*", metavar="name=value", help="such as seed=3 bits=[8,5]")
    run.add_argument("--workers", type=int, help="processes (default: one a core)")
    run.add_argument("--out", type=Path, metavar="FILE", help="also write the joined result to FILE")

    ledger = commands.add_parser("ledger", help="print every claim of the paper with our verdict")
    ledger.add_argument("--json", action="store_true", help="as a list of objects")
    ledger.add_argument(
        "--results", type=Path, metavar="FOLDER", help="judge these result files (default: data/results)"
    )

    commands.add_parser("publish", help="make the fresh runs the published ones: data/results and README's table")

    explorer = commands.add_parser("explorer", help="train a network for the book's explorer page and keep it")
    explorer.add_argument("network", choices=["mnist", "fashion-mnist"])
    explorer.add_argument("archives", type=Path, metavar="FOLDER", help="where the official archives are")

    return parser.parse_args(arguments)


def _settings() -> str:
    from .runs import parameters

    return "settings:\n" + "\n".join(f"  {f'{name}={default}':<24} {says}" for name, _, default, says in parameters())


def _run(options) -> int:
    from . import runs
    from .results import save_dataset

    settings = runs.parse(options.settings)
    seeds = settings.pop("seeds", runs.SEEDS)
    spec = runs.Spec(dataset=options.dataset, **settings)
    dataset = runs.sweep(spec, seeds, workers=options.workers)
    if options.out:
        save_dataset(dataset, options.out)
    print(f"{spec.dataset}: {seeds} runs in {options.out or spec.folder()}")
    return 0


def _ledger(options) -> int:
    import json

    from . import claims

    rows = claims.ledger(**({"results": options.results} if options.results else {}))
    print(json.dumps(rows, indent=2, ensure_ascii=False) if options.json else claims.table(rows))
    return 0


def _publish(options) -> int:
    from . import claims

    for line in claims.publish():
        print(line)
    return 0


def _explorer(options) -> int:
    from . import explorer
    from .results import save_dataset

    path = explorer.KEPT / f"{options.network}.nc"
    save_dataset(explorer.image_network(options.network, options.archives), path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
