"""The command line, ``bqcore COMMAND`` or ``python -m bqcore COMMAND``: a classifier of one's own, from files."""

import argparse
import io
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

_LIMITS = {
    "flips": ("flip_rate", "decisions changed"),
    "band-flips": ("band_flip_rate", "decisions changed in the low-margin boundary band"),
    "right-to-wrong": ("right_to_wrong", "decisions changed from right to wrong"),
    "pair-order-flips": ("pair_order_flip_rate", "float top-2 pairs reversed"),
    "band-pair-order-flips": ("band_pair_order_flip_rate", "the same in the band"),
    "accuracy-loss": ("accuracy_loss", "accuracy lost"),
}
_ROUNDED = ("activations", "activation_bits", "percentile")
_COMMANDS = {
    "audit": ("would a quantized classifier of your own decide as the float one does?",
              "Compare the decisions of two classifiers, and say ship, look or do not ship; write a page, JSON and "
              "NetCDF."),
    "sweep": ("to how few bits can a torch model be quantized?",
              "Quantize the weights of a torch model to every bit-width, and recommend the fewest bits that keep a "
              "limit on the calibration split."),
    "blame": ("which layer changes decisions most?",
              "Quantize one layer of a torch model at a time, and rank the layers, the worst first."),
    "plan": ("which bits for which layer, within a budget of bytes?",
             "Choose the bits of each layer on the calibration split, within a budget of bytes, and compare the plan "
             "with uniform bits."),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 1 if an audit exceeds a stated limit, 2 after a one-line error, 130 if stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know ASCII alone
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments, argparse.Namespace(words=arguments))
    command = f"bqcore {options.command}"
    if sys.stderr.isatty():  # torch alone takes a second to import
        print(f"{command}: reading the classifier and the data …", file=sys.stderr)
    try:
        return {"audit": _audit, "sweep": _sweep, "blame": _blame, "plan": _plan}[options.command](options) or 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{command}: stopped; the same command begins anew.", file=sys.stderr)
        return 130


# The options. Nothing that a command runs is imported for them: numpy, xarray and torch take seconds.


def _parser() -> argparse.ArgumentParser:
    says = "Measure how quantization moves a classifier's decision boundary."
    parser = argparse.ArgumentParser(prog="bqcore", description=says)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (title, says) in _COMMANDS.items():
        gate = "1 if a stated limit is exceeded or, with --ship-only, the verdict is another than ship, "
        status = f"{gate if name == 'audit' else ''}2 after an error"
        says = f"{says} The status is {status}. Nothing is unpickled."
        add = _audit_options if name == "audit" else _model_options
        add(commands.add_parser(name, help=title, description=says), name)
    return parser


def _model_options(command: argparse.ArgumentParser, name: str) -> None:
    """Add the options of a sweep, a ranking or a plan."""
    of = command.add_argument_group("classifier").add_argument
    of("--model", metavar="MODULE:FACTORY", help="a function without arguments that returns a torch module")
    of("--weights", metavar="FILE", help="its .safetensors")
    of("--scheme", default="narrow", help="of the levels: narrow or full (default: %(default)s)")
    of("--granularity", default="tensor", help="a step per tensor or channel (default: %(default)s)")
    _shared_options(command, calibration=name != "blame", gradients=50 if name == "blame" else 0)
    add = command.add_argument
    if name == "blame":
        add("--bits", type=int, default=4, help="2 to 16 (default: %(default)s)")
    else:
        says, bits = "bit-widths, 2 to 16 (default: 8,7,6,5,4,3,2)", _numbers(int, "8,6,4")
        add("--bits", type=bits, default=[8, 7, 6, 5, 4, 3, 2], metavar="B,B,…", help=says)
    if name == "sweep":
        rule = command.add_argument_group("rule").add_argument
        rule("--rule", default="band_flips", help="accuracy, flips or band_flips (default: %(default)s)")
        says = "largest value of the rule's measure (default: 0 for accuracy, 0.01 for flips, 0.05 for band_flips)"
        rule("--limit", type=float, metavar="FRACTION", help=says)
        rounded = command.add_argument_group("activations").add_argument
        rounded("--activations", metavar="KIND", help="round what goes into each layer too: static or dynamic")
        rounded("--activation-bits", type=int, default=8, metavar="B", help="2 to 16 (default: %(default)s)")
        says = "of the static range, 50 to 100 (default: %(default)s)"
        rounded("--percentile", type=float, default=100.0, metavar="P", help=says)
    if name == "plan":
        add("--budget", type=int, metavar="BYTES", help="of the whole model, what stays in float as float32")
    says = "layers, or modules with all that they hold, that stay in float"
    add("--skip", type=lambda text: tuple(text.split(",")), default=(), metavar="NAME,NAME,…", help=says)
    add("--out", type=Path, metavar="FOLDER", help=f"where to write {name}.json and {name}.nc")


def _shared_options(command: argparse.ArgumentParser, *, calibration: bool = True, gradients: int = 1000) -> None:
    """Add the options of data and measures."""
    says = ".npz with inputs and classes, .npy, or a folder of images by class"
    on = command.add_argument_group("data", says).add_argument
    if calibration:
        on("--calibration", metavar="DATA", help="the split that quantizers are fitted or chosen on")
        on("--calibration-classes", metavar="FILE", help=".npy")
    on("--heldout", metavar="DATA", help="the split that decides")
    on("--heldout-classes", metavar="FILE", help=".npy")
    on("--size", type=_numbers(), metavar="H,W", help="resize images")
    on("--mean", type=_numbers(), metavar="R,G,B", help="taken off images scaled to 0 to 1")
    on("--std", type=_numbers(), metavar="R,G,B", help="that they are then divided by")
    how = command.add_argument_group("measures").add_argument
    how("--fraction", type=float, default=0.2, help="of the boundary band (default: %(default)s)")
    how("--batch-size", type=int, metavar="N", help="samples at once")
    if gradients:
        how("--gradient-samples", type=int, default=gradients, metavar="N", help="0: none (default: %(default)s)")


def _audit_options(audit: argparse.ArgumentParser, name: str) -> None:
    says = "module:factory (its .safetensors apart) or a path of an .onnx file"
    of = audit.add_argument_group("classifiers", says).add_argument
    of("--reference", metavar="CLASSIFIER", help="the float one")
    of("--reference-weights", metavar="FILE", help=".safetensors")
    of("--candidate", metavar="CLASSIFIER", help="the quantized one")
    of("--candidate-weights", metavar="FILE", help=".safetensors")
    of("--bits", type=int, help="in place of --candidate: PTQ-W of the reference, 2 to 16 bits")
    of("--probabilities", action="store_true", help="both give probabilities: take their logarithms")
    says = ".npy, one row a sample and one column a class, with or without --heldout-classes"
    plain = audit.add_argument_group("or their held-out logits", says).add_argument
    plain("--reference-logits", metavar="FILE")
    plain("--candidate-logits", metavar="FILE")
    _shared_options(audit)
    add = audit.add_argument
    add("--no-order-check", action="store_true", help="accept decisions that look shuffled")
    add("--nodes", type=int, default=101, help="a side of the slice grid; 0: none (default: %(default)s)")
    says = (
        "on the held-out split, fractions; if none is stated, 0.01 of flips, 0.05 of band flips, 0.005 of accuracy loss"
    )
    limits = audit.add_argument_group("limits", says).add_argument
    for option, (_, says) in _LIMITS.items():
        limits(f"--max-{option}", type=float, metavar="FRACTION", help=says)
    limits("--ship-only", action="store_true", help="status 1 unless the verdict is ship")
    add("--explain", action="store_true", help="rank the layers and sweep the bit-widths of the reference as well")
    pipeline = audit.add_argument_group("pipelines").add_argument
    pipeline("--junit", type=Path, metavar="FILE", help="write a test for each limit, as JUnit XML")
    pipeline("--markdown", type=Path, metavar="FILE", help="write a summary for a pull request")
    pipeline("--github", action="store_true", help="print annotations of GitHub Actions")
    says = f"for {name}.html, {name}.json and {name}.nc (default: %(default)s)"
    add("--out", type=Path, default=Path("audit"), metavar="FOLDER", help=says)


def _numbers(kind: type = float, example: str = "0.5,0.5,0.5"):
    def parse(text: str) -> list:
        try:
            return [kind(number) for number in text.split(",")]
        except ValueError:
            says = f"{text!r}: give numbers with commas between, such as {example}"
            raise argparse.ArgumentTypeError(says) from None

    return parse


# The commands


def _audit(options) -> int:
    from ._store import save_bytes
    from .auditing.batching import batches
    from .auditing.comparison import audit
    from .auditing.limits import check_limits, exceeded
    from .auditing.report import page

    stated = {name: getattr(options, f"max_{option.replace('-', '_')}") for option, (name, _) in _LIMITS.items()}
    limits = {name: limit for name, limit in stated.items() if limit is not None}
    with _one_line():
        given, sure = _pair(options)
        if limits:  # one that cannot be judged would be refused after hours
            check_limits(limits, labelled=next(batches(given[-1], "Held-out split")).classes is not None)
        found = audit(*given, **sure, limits=limits or None)
        found = _explained(options, found, *given)
    words = _save(options, found.dataset, found.to_json())
    lines = exceeded(found.dataset, limits)
    html = page(found, "Audit", limits=limits, exceeded=tuple(lines), command=words)
    save_bytes(html.encode(), options.out / "audit.html")
    print(found)
    for line in lines:
        print(f"Limit exceeded: {line}")
    print(f"The page: {options.out / 'audit.html'}")
    for path, text in ((options.junit, found.to_junit), (options.markdown, found.to_markdown)):
        if path is not None:
            save_bytes(text().encode(), path)
    if options.github:
        print(found.to_annotations())
    return int(bool(lines) or (options.ship_only and found.verdict.word != "ship"))


def _explained(options, found, reference, candidate, calibration, heldout):
    """Return an audit with its layers ranked and its bit-widths swept, if that is asked for, or with how to ask."""
    from dataclasses import replace

    from ._checks import is_module

    if not options.explain:
        able = is_module(reference) and calibration is not None
        by = "the same command with --explain" if able else "--explain, with a torch module and --calibration,"
        return replace(found, commands=dict.fromkeys(found.commands, by))
    from . import blame_layers, sweep

    how = {"fraction": options.fraction, "batch_size": options.batch_size}
    layers = blame_layers(reference, heldout, bits=options.bits or 4, gradient_samples=0, **how)
    return found.explain(layers=layers, sweep=sweep(reference, calibration, heldout, **how))


def _sweep(options) -> None:
    from . import sweep

    with _one_line():
        found = sweep(*_model(options, "calibration", "heldout"), **_how(options, "rule", "limit", *_ROUNDED))
    _save(options, found.dataset, found.to_json())
    _show(found.dataset.sel(split="heldout"), ["bytes", "flip_rate", "band_flip_rate", "accuracy"])
    print(found)


def _blame(options) -> None:
    from . import blame_layers

    with _one_line():
        found = blame_layers(*_model(options, "heldout"), **_how(options, "gradient_samples"))
    from .auditing.sensitivity import ranking

    _save(options, found, json.dumps({"layers": ranking(found)}, indent=1))
    median = found.assign(median_margin_change=found.margin_change.sel(quantile=0.5, drop=True))
    _show(median, ["bytes", "flip_rate", "band_flip_rate", "median_margin_change"])
    if found.float_layers:
        print(f"{100 * found.float_weights:.1f} % of the weights are in none of these layers: {found.float_layers}.")


def _plan(options) -> None:
    from . import plan_bits

    with _one_line():
        _check_given(options, "budget")
        found = plan_bits(*_model(options, "calibration", "heldout"), **_how(options, "budget"))
    _save(options, found.dataset, found.to_json())
    _show(found.dataset.layer_bits.to_dataset("way"), ["plan", "uniform"])
    print(found)


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what a classifier that is not ours raises into an error of one line; its status is 2, whatever it was."""
    from ._checks import one_line

    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise RuntimeError(f"a classifier or its factory failed with {one_line(error)}") from None


def _pair(options) -> tuple[tuple, dict]:
    """Return the classifiers and splits that an audit takes, and its settings."""
    from .auditing import loading

    names = ("fraction", "nodes", "gradient_samples", "probabilities", "batch_size")
    sure = {name: getattr(options, name) for name in names} | {"check_order": not options.no_order_check}
    if options.reference_logits or options.candidate_logits:
        pair = loading.read_logits(options.reference_logits, options.candidate_logits, options.heldout_classes)
        others = """reference reference_weights candidate candidate_weights bits heldout calibration calibration_classes
            size mean std explain""".split()
        surplus = [name.replace("_", "-") for name in others if getattr(options, name)]
        if surplus:
            raise ValueError(f"Logits are given, which need no --{surplus[0]}: leave it out.")
        sure |= {"nodes": 0, "gradient_samples": 0}
        return (itemgetter("reference"), itemgetter("candidate"), None, pair), sure
    _check_given(options, "reference", "heldout", advice="give classifiers and data, or logits of both (--help)")
    if bool(options.candidate) == (options.bits is not None):
        raise ValueError("Give either --candidate or --bits, the PTQ-W of the reference.")
    splits = _splits(options, "calibration", "heldout")
    reference = loading.read_classifier(options.reference, options.reference_weights)
    if options.explain:
        _check_given(options, "calibration")
        if not hasattr(reference, "named_modules"):
            raise ValueError(f"--explain quantizes torch modules, and {options.reference} is none: leave it out.")
    if options.bits is None:
        candidate = loading.read_classifier(options.candidate, options.candidate_weights)
    elif hasattr(reference, "named_modules"):
        from .quantizers.uniform import quantize_model

        candidate = quantize_model(reference, options.bits)
    else:
        raise ValueError(f"--bits quantizes torch modules, and {options.reference} is {type(reference).__name__}.")
    return (reference, candidate, *splits), sure


def _model(options, *splits: str) -> list:
    """Return the torch model and the splits that a sweep, a ranking or a plan takes."""
    from .auditing.loading import read_classifier

    _check_given(options, "model", *splits)
    given = _splits(options, *splits)
    for note in filter(None, (getattr(split, "note", None) for split in given)):
        print(f"bqcore {options.command}: {note}", file=sys.stderr)
    return [read_classifier(options.model, options.weights), *given]


def _how(options, *own: str) -> dict:
    """Return the settings that a sweep, a ranking and a plan have in common, and those of its *own*."""
    names = ("bits", "scheme", "granularity", "fraction", "batch_size", "skip", *own)
    return {name: getattr(options, name) for name in names} | {"progress": f"bqcore {options.command}"}


def _check_given(options, *names: str, advice: str = "see --help") -> None:
    for name in names:
        if getattr(options, name) is None:
            raise ValueError(f"--{name} is missing: {advice}.")


def _splits(options, *names: str) -> list:
    from .auditing.loading import read_splits

    images = {"size": _size(options.size), "mean": options.mean, "std": options.std}
    given, classes = ([getattr(options, f"{name}{end}") for name in names] for end in ("", "_classes"))
    return read_splits(given, classes, **images)


def _size(numbers: list[float] | None) -> tuple[int, int] | None:
    if numbers is None:
        return None
    if len(numbers) not in (1, 2) or any(number != int(number) or number < 1 for number in numbers):
        raise ValueError(f"--size is {numbers}: give height and width, such as 32,32.")
    return int(numbers[0]), int(numbers[-1])


def _save(options, dataset, text: str) -> str:
    """Write the numbers as NetCDF and as JSON, if a folder is given; return the command that made them."""
    from ._store import save_bytes, save_dataset

    # Where the terminal knows ASCII alone, names of files hold their bytes as halves of letters, which no file takes.
    words = shlex.join(["python", "-m", "bqcore", *options.words]).encode("utf-8", "surrogateescape")
    words = words.decode("utf-8", "replace")
    dataset.attrs["command"] = words
    if options.out is not None:
        save_dataset(dataset, options.out / f"{options.command}.nc")
        save_bytes(text.encode(), options.out / f"{options.command}.json")
    return words


def _show(dataset, names: list[str]) -> None:
    """Print variables along their one dimension as a table, without those that were not measured."""
    table = dataset[names].reset_coords(drop=True).to_dataframe().dropna(axis="columns")
    print(table.rename(columns=lambda name: name.replace("_", " ")).to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    sys.exit(main())
