"""The command line, ``python -m bqcore COMMAND``: run a study, look at data, audit, judge, publish."""

import argparse
import shlex
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; give 0, 1 if an audit passes a stated limit, 2 after a one-line error, 130 if it was stopped."""
    command = "bqcore"
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = _options(arguments)
        command = f"bqcore {options.command}"
        commands = {
            "run": _run, "train": _train, "objectives": _objectives, "data": _data,
            "audit": _audit, "quantizers": _quantizers, "ledger": _ledger, "publish": _publish, "explorer": _explorer,
            "times": _times,
        }  # fmt: skip
        return commands[options.command](options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        says = "finished runs are kept, and the same command goes on"
        if command == "bqcore data":
            says = "what came is kept, and the same command goes on"
        elif command in ("bqcore audit", "bqcore explorer"):
            says = "the same command begins anew"
        print(f"\n{command}: stopped; {says}.", file=sys.stderr)
        return 130


def _options(arguments: list[str]) -> argparse.Namespace:
    """Read the words of a command; they are also kept, as ``words``."""
    parser = argparse.ArgumentParser(
        prog="python -m bqcore", description="Measure how quantization moves a classifier's decision boundary."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="train, quantize and measure over seeds; a stopped run goes on where it stopped",
        description="Train, quantize and measure over seeds. Finished runs are kept: a stopped sweep goes on.",
        epilog=_settings(arguments), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    run.add_argument(
        "study", choices=["levels", "stopping", "rounding", "first-order", "multiverse"],
        help="levels: Tables 1 and 2; stopping: Tables 3 to 5; rounding: Table 6; "
        "first-order: the linear reading against the truth; multiverse: every reading of the paper's words",
    )  # fmt: skip
    run.add_argument(
        "dataset", choices=["digits", "mnist", "fashion-mnist", "cifar-10", "full-cifar-10"],
        help="cifar-10 is the paper's subset",
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

    objectives = commands.add_parser(
        "objectives", help="compare rounding objectives at 4 bits over seeds; a stopped run goes on where it stopped"
    )
    objectives.add_argument("dataset", choices=["digits", "mnist", "fashion-mnist", "cifar-10"])
    objectives.add_argument("--seeds", type=int, help="number of runs (default: the baseline's)")
    objectives.add_argument("--workers", type=int, help="processes (default: one a core)")
    objectives.add_argument("--out", type=Path, metavar="FILE", help="also write the joined result to FILE")

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

    _audit_options(commands)

    quantizers = commands.add_parser(
        "quantizers", help="measure the quantizers that people ship with on the published networks",
        description="Quantize the published networks by torchao, PyTorch, ONNX Runtime, brevitas and NNCF, and by bits "
        "for each layer within equal bytes, and measure held-out decisions. What a missing package would give is left "
        "out and named. Finished networks are kept.",
    )  # fmt: skip
    quantizers.add_argument(
        "networks", nargs="*", metavar="NETWORK", help="such as 'mnist cnn' (default: all of data/checkpoints)"
    )
    quantizers.add_argument("--workers", type=int, help="processes (default: one a core)")
    quantizers.add_argument("--out", type=Path, metavar="FILE", help="also write the joined result to FILE")

    ledger = commands.add_parser("ledger", help="print every claim of the paper with our verdict")
    ledger.add_argument("--json", action="store_true", help="as a list of objects")
    ledger.add_argument(
        "--results", type=Path, metavar="FOLDER", help="judge these result files (default: data/results)"
    )

    commands.add_parser("publish", help="make the fresh runs the published ones: data/results and README's table")

    explorer = commands.add_parser("explorer", help="keep a published network for the book's explorer page")
    explorer.add_argument(
        "network",
        choices=["mnist", "fashion-mnist", "mnist-cnn", "fashion-mnist-cnn", "cifar-10-cnn", "cifar-10-resnet"],
    )

    times = commands.add_parser("times", help="print what studies took, from the records of `make reproduce`")
    times.add_argument("records", nargs="+", type=Path, metavar="RECORD", help=".tsv")
    times.add_argument("--paper", action="store_true", help="also keep them as those of the paper's own runs")

    return parser.parse_args(arguments, argparse.Namespace(words=arguments))


def _audit_options(commands) -> None:
    audit = commands.add_parser(
        "audit", help="would a quantized classifier of your own decide as the float one does?",
        description="Compare the decisions of two classifiers; write a page, JSON and NetCDF. The status is 1 if a "
        "stated limit is exceeded, 2 after an error. Nothing is unpickled.",
    )  # fmt: skip
    of = audit.add_argument_group("classifiers", "module:factory (its .safetensors apart) or a path of an .onnx file")
    of.add_argument("--reference", metavar="CLASSIFIER", help="the float one")
    of.add_argument("--reference-weights", metavar="FILE", help=".safetensors")
    of.add_argument("--candidate", metavar="CLASSIFIER", help="the quantized one")
    of.add_argument("--candidate-weights", metavar="FILE", help=".safetensors")
    of.add_argument("--bits", type=int, help="in place of --candidate: PTQ-W of the reference, 2 to 16 bits")
    of.add_argument("--probabilities", action="store_true", help="both give probabilities: take their logarithms")
    plain = audit.add_argument_group("or their held-out logits", ".npy, one row a sample and one column a class")
    plain.add_argument("--reference-logits", metavar="FILE")
    plain.add_argument("--candidate-logits", metavar="FILE")
    on = audit.add_argument_group("data", ".npz with inputs and classes, .npy, or a folder of images by class")
    on.add_argument("--calibration", metavar="DATA", help="the split that the quantizer was fitted on, if any")
    on.add_argument("--calibration-classes", metavar="FILE", help=".npy")
    on.add_argument("--heldout", metavar="DATA", help="the split that decides")
    on.add_argument("--heldout-classes", metavar="FILE", help=".npy; also beside logits")
    on.add_argument("--size", type=_numbers, metavar="H,W", help="resize images")
    on.add_argument("--mean", type=_numbers, metavar="R,G,B", help="taken off images scaled to 0 to 1")
    on.add_argument("--std", type=_numbers, metavar="R,G,B", help="that they are then divided by")
    on.add_argument("--no-order-check", action="store_true", help="accept decisions that look shuffled")
    how = audit.add_argument_group("measures")
    how.add_argument("--share", type=float, default=0.2, help="of the boundary band (default: %(default)s)")
    how.add_argument("--nodes", type=int, default=101, help="a side of the slice grid; 0: none (default: %(default)s)")
    how.add_argument("--gradient-samples", type=int, default=1000, metavar="N", help="0: none (default: %(default)s)")
    how.add_argument("--batch-size", type=int, metavar="N", help="samples at once")
    limits = audit.add_argument_group("limits", "on the held-out split: shares, such as 0.1")
    for option, (_, says) in _LIMITS.items():
        limits.add_argument(f"--max-{option}", type=float, metavar="SHARE", help=says)
    audit.add_argument(
        "--out", type=Path, default=Path("audit"), metavar="FOLDER",
        help="for audit.html, audit.json and audit.nc (default: %(default)s)",
    )  # fmt: skip


_LIMITS = {
    "flips": ("flip_rate", "decisions changed"),
    "band-flips": ("band_flip_rate", "decisions changed in the low-margin boundary band"),
    "right-to-wrong": ("right_to_wrong", "decisions changed from right to wrong"),
    "pair-order-flips": ("pair_order_flip_rate", "float top-2 pairs reversed"),
    "band-pair-order-flips": ("band_pair_order_flip_rate", "the same in the band"),
    "accuracy-loss": ("accuracy_loss", "accuracy lost"),
}


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers with commas between, such as 0.5,0.5,0.5") from None


def _settings(given: list[str]) -> str:
    """List the settings of the study and data set that are named before --help; of the first baseline if none is."""
    if given[:1] != ["run"] or not any(word.startswith(("-h", "--h")) for word in given):
        return ""  # not shown, and specs imports torch and scikit-learn: seconds
    from . import multiverse, specs

    words = [word for word in given if not word.startswith("-")][1:3]
    if words[:1] == ["multiverse"] and words[-1] in multiverse.BASELINES:
        lines = [f"  {setting:<28} {says}" for setting, says in multiverse.parameters(words[-1])]
        return "\n".join([f"settings of {' '.join(words)}:", *lines])
    words = ["levels" if word == "first-order" else word for word in words]  # the settings of those networks
    try:
        usual = specs.baseline(*(words if len(words) == 2 else ("levels", "digits")))
    except ValueError:
        return ""  # refused by name soon
    lines = [f"  {f'{name}={default}':<28} {says}" for name, _, default, says in specs.parameters(usual)]
    return "\n".join([f"settings of {usual.study} {usual.dataset}:", *lines])


def _run(options) -> int:
    from . import multiverse, runs, specs
    from .results import save_dataset

    if options.study == "multiverse":
        if options.dataset not in multiverse.BASELINES or options.variants:
            known = ", ".join(f"multiverse {name}" for name in multiverse.BASELINES)
            raise ValueError(f"A multiverse has all variants in it, without --variants: run {known}.")
        spec = multiverse.parse(options.settings, options.dataset)
        dataset = multiverse.sweep(spec, workers=options.workers)
        if options.out:
            save_dataset(dataset, options.out)
        where = options.out or multiverse.folder(spec.dataset)
        print(f"multiverse, {spec.dataset}: {dataset.networks} networks in {where}")
        return 0
    if options.study == "first-order":
        return _run_first_order(options)
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


def _train(options) -> int:
    from dataclasses import replace

    from . import runs, specs

    spec, seeds = specs.parse(_with_seeds(options.settings, 1), options.study, options.dataset)
    for seed in range(spec.seed, spec.seed + seeds):
        print(runs.keep_classifier(replace(spec, seed=seed), f"Training {spec.dataset}, seed {seed}"))
    return 0


def _with_seeds(settings: list[str], seeds: int) -> list[str]:
    """Give *settings*, and this number of runs if they name none."""
    return settings if any(setting.startswith("seeds=") for setting in settings) else [*settings, f"seeds={seeds}"]


def _objectives(options) -> int:
    from . import objectives
    from .results import save_dataset

    spec = objectives.baseline(options.dataset)
    dataset = objectives.sweep(spec, options.seeds, workers=options.workers)
    if options.out:
        save_dataset(dataset, options.out)
    print(f"objectives, {spec.dataset}: {dataset.sizes['seed']} runs in {options.out or objectives.folder(spec)}")
    return 0


def _run_first_order(options) -> int:
    from . import firstorder, specs
    from .results import save_dataset

    if options.variants or options.workers:
        raise ValueError("first-order takes the settings of levels alone: leave out --variants and --workers.")
    spec, seeds = specs.parse(_with_seeds(options.settings, firstorder.SEEDS), "levels", options.dataset)
    dataset = firstorder.sweep(spec, seeds)
    if options.out:
        save_dataset(dataset, options.out)
    print(f"first-order, digits, {spec.model}: {seeds} runs in {options.out or firstorder.folder(spec)}")
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


def _audit(options) -> int:
    from .auditing import audit, check_limits, passed
    from .classifiers import batches
    from .report import page
    from .results import save_bytes, save_dataset

    stated = {name: getattr(options, f"max_{option.replace('-', '_')}") for option, (name, _) in _LIMITS.items()}
    limits = {name: limit for name, limit in stated.items() if limit is not None}
    try:
        given, sure = _given(options)
        if limits:  # one that cannot be judged would be refused after hours
            check_limits(limits, labelled=next(batches(given[-1], "Held-out split")).classes is not None)
        found = audit(*given, **sure)
    except (ValueError, OSError):
        raise
    except Exception as error:  # of a classifier that is not ours; a status of 1 would say that a limit is exceeded
        says = (str(error).strip() or "no message").splitlines()[0]
        raise RuntimeError(f"a classifier or its factory failed with {type(error).__name__}: {says}") from None
    words = shlex.join(["python", "-m", "bqcore", *options.words])
    found.dataset.attrs["command"] = words
    save_dataset(found.dataset, options.out / "audit.nc")
    save_bytes(found.to_json().encode(), options.out / "audit.json")
    lines = passed(found.dataset, limits)
    html = page(found, "Audit", limits=limits, passed=tuple(lines), command=words)
    save_bytes(html.encode(), options.out / "audit.html")
    print(found)
    for line in lines:
        print(f"Limit exceeded: {line}")
    print(f"The page: {options.out / 'audit.html'}")
    return 1 if lines else 0


def _given(options) -> tuple[tuple, dict]:
    """Give the classifiers and splits that an audit takes, and its settings."""
    from . import files, quantize

    sure = {
        "share": options.share, "nodes": options.nodes, "gradient_samples": options.gradient_samples,
        "probabilities": options.probabilities, "check_order": not options.no_order_check,
        "batch_size": options.batch_size,
    }  # fmt: skip
    if options.reference_logits or options.candidate_logits:
        pair = files.read_logits(options.reference_logits, options.candidate_logits, options.heldout_classes)
        others = """reference reference_weights candidate candidate_weights bits heldout calibration calibration_classes
            size mean std""".split()
        surplus = [name.replace("_", "-") for name in others if getattr(options, name)]
        if surplus:
            raise ValueError(f"Logits are given, which need no --{surplus[0]}: leave it out.")
        sure |= {"nodes": 0, "gradient_samples": 0}
        columns = (lambda batch, key=key: batch[key] for key in ("reference", "candidate"))
        return (*columns, None, pair), sure
    for name in ("reference", "heldout"):
        if not getattr(options, name):
            raise ValueError(f"--{name} is missing: give classifiers and data, or logits of both (--help).")
    if bool(options.candidate) == (options.bits is not None):
        raise ValueError("Give either --candidate or --bits, the PTQ-W of the reference.")
    images = {"size": _size(options.size), "mean": options.mean, "std": options.std}
    heldout = files.read_split(options.heldout, options.heldout_classes, **images)
    calibration = files.read_split(options.calibration, options.calibration_classes, **images)
    reference = files.read_classifier(options.reference, options.reference_weights)
    if options.bits is None:
        candidate = files.read_classifier(options.candidate, options.candidate_weights)
    elif hasattr(reference, "named_modules"):
        candidate = quantize.quantize_model(reference, options.bits)
    else:
        raise ValueError(f"--bits quantizes torch modules, and {options.reference} is {type(reference).__name__}.")
    return (reference, candidate, calibration, heldout), sure


def _size(numbers: list[float] | None) -> tuple[int, int] | None:
    if numbers is None:
        return None
    if len(numbers) not in (1, 2) or any(number != int(number) or number < 1 for number in numbers):
        raise ValueError(f"--size is {numbers}: give height and width, such as 32,32.")
    return int(numbers[0]), int(numbers[-1])


def _quantizers(options) -> int:
    from . import quantizers
    from .checks import check_choice
    from .results import save_dataset

    known = quantizers.NETWORKS
    networks = tuple(check_choice("Network", name, known) for name in options.networks) or known
    out = quantizers.sweep(networks, workers=options.workers)
    if options.out:
        save_dataset(out, options.out)
    for line in quantizers.left_out(out):
        print(line)
    print(f"quantizers on {len(networks)} networks in {options.out or quantizers.folder()}")
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


def _explorer(options) -> int:
    from . import explorer
    from .results import save_dataset

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


if __name__ == "__main__":
    sys.exit(main())
