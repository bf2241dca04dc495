"""The command line, ``bqcore COMMAND`` or ``python -m bqcore COMMAND``: audit a classifier of one's own."""

import argparse
import shlex
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; give 0, 1 if an audit passes a stated limit, 2 after a one-line error, 130 if it was stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="bqcore", description="Measure how quantization moves a classifier's decision boundary."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _audit_options(commands)
    options = parser.parse_args(arguments, argparse.Namespace(words=arguments))
    command = f"bqcore {options.command}"
    try:
        return {"audit": _audit}[options.command](options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{command}: stopped; the same command begins anew.", file=sys.stderr)
        return 130


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


def _audit(options) -> int:
    from ._store import save_bytes, save_dataset
    from .auditing.adapters import batches
    from .auditing.comparison import audit, check_limits, exceeded
    from .auditing.report import page

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
    lines = exceeded(found.dataset, limits)
    html = page(found, "Audit", limits=limits, exceeded=tuple(lines), command=words)
    save_bytes(html.encode(), options.out / "audit.html")
    print(found)
    for line in lines:
        print(f"Limit exceeded: {line}")
    print(f"The page: {options.out / 'audit.html'}")
    return 1 if lines else 0


def _given(options) -> tuple[tuple, dict]:
    """Give the classifiers and splits that an audit takes, and its settings."""
    from .auditing import loading
    from .quantizers import uniform

    sure = {
        "share": options.share, "nodes": options.nodes, "gradient_samples": options.gradient_samples,
        "probabilities": options.probabilities, "check_order": not options.no_order_check,
        "batch_size": options.batch_size,
    }  # fmt: skip
    if options.reference_logits or options.candidate_logits:
        pair = loading.read_logits(options.reference_logits, options.candidate_logits, options.heldout_classes)
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
    heldout = loading.read_split(options.heldout, options.heldout_classes, **images)
    calibration = loading.read_split(options.calibration, options.calibration_classes, **images)
    reference = loading.read_classifier(options.reference, options.reference_weights)
    if options.bits is None:
        candidate = loading.read_classifier(options.candidate, options.candidate_weights)
    elif hasattr(reference, "named_modules"):
        candidate = uniform.quantize_model(reference, options.bits)
    else:
        raise ValueError(f"--bits quantizes torch modules, and {options.reference} is {type(reference).__name__}.")
    return (reference, candidate, calibration, heldout), sure


def _size(numbers: list[float] | None) -> tuple[int, int] | None:
    if numbers is None:
        return None
    if len(numbers) not in (1, 2) or any(number != int(number) or number < 1 for number in numbers):
        raise ValueError(f"--size is {numbers}: give height and width, such as 32,32.")
    return int(numbers[0]), int(numbers[-1])


if __name__ == "__main__":
    sys.exit(main())
