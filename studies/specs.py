"""What a run depends on: its spec, the baselines that are judged, and the settings that name a spec in words."""

import difflib
import json
import math
import shlex
from dataclasses import asdict, dataclass, field, fields, replace
from typing import ClassVar

from bqcore._checks import check_choice, check_integer, check_share
from bqcore.quantizers import uniform

from . import networks
from .data import splits

FLOAT = 32  # the bit-width that stands for the float classifier itself


def setting(default, says: str):
    return field(default=default, metadata={"says": says})


@dataclass(frozen=True)
class Spec:
    """What runs of every study depend on; see :func:`parameters`."""

    study: ClassVar[str]
    trains: ClassVar[tuple[str, ...]]  # fields that the trained classifier depends on, beside data set, model and seed
    trained_by: ClassVar[str]  # the study whose classifiers these are

    dataset: str = setting("digits", "data set")
    model: str = setting(
        "mlp", "mlp: one hidden layer; cnn: small, convolutional; resnet: reduced, residual, also strided-resnet"
    )
    seed: int = setting(0, "seed of the split, the initial weights and the order of the batches")
    bits: tuple[int, ...] = setting(
        (8, 7, 6, 5, 4, 3, 2), "PTQ-W levels, 2 to 16; transitions lead from each to the next"
    )
    width: int = setting(64, "hidden units of the mlp, channels of the first convolution of the others")
    epochs: int = setting(60, "epochs of training")
    batch_size: int = setting(64, "inputs a step of training")
    nodes: tuple[int, ...] = setting(
        (201, 101, 401), "nodes a side of the slice grids; the first is drawn, interpolated on, and stops"
    )
    scheme: str = setting("narrow", "step of the quantizer: narrow (2^b - 1 levels) or full (2^b)")
    granularity: str = setting("tensor", "one step for each weight tensor, or for each output channel")
    share: float = setting(0.2, "share of the inputs in the low-margin boundary band")

    def __post_init__(self):
        check_choice("model", self.model, networks.MODELS)
        check_integer("seed", self.seed, 0, 2**32 - 1)
        for name in ("width", "epochs", "batch_size"):
            check_integer(name, getattr(self, name), 1)
        check_choice("scheme", self.scheme, uniform.SCHEMES)
        check_choice("granularity", self.granularity, uniform.GRANULARITIES)
        if check_share("share", self.share) == 0:
            raise ValueError("share is 0: the boundary band would be empty.")
        self._list("bits", 2, 16)
        self._list("nodes", 2, None)
        object.__setattr__(self, "share", float(self.share))

    def _list(self, name: str, low: int, high: int | None, distinct: bool = True) -> None:
        values = getattr(self, name)
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"{name} is {values!r}: give a list of integers, such as [8, 4].")
        object.__setattr__(self, name, tuple(check_integer(name, value, low, high) for value in values))
        if distinct and len(set(values)) < len(values):
            raise ValueError(f"{name} is {list(values)}: give each value once.")

    def _numbers(self, name: str) -> None:
        values = getattr(self, name)
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"{name} is {values!r}: give a list of numbers, such as [0, 0.1].")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}: give numbers of at least 0.")
        if len(set(values)) < len(values):
            raise ValueError(f"{name} is {list(values)}: give each value once.")
        object.__setattr__(self, name, tuple(float(value) for value in values))

    def training(self) -> dict:
        """Give what the trained classifier depends on, beside the code."""
        return {"study": self.trained_by} | {n: getattr(self, n) for n in ("dataset", "model", "seed", *self.trains)}

    def text(self) -> str:
        """Give the spec as JSON; :func:`load` reads it."""
        return json.dumps({"study": self.study, **asdict(self)}, sort_keys=True)

    def command(self, seeds: int = 1) -> str:
        """Give the command that makes this run, or *seeds* of them from this seed on."""
        usual = settings_of(baseline(self.study, self.dataset, self.model))
        given = [setting for setting in settings_of(self, seeds) if setting not in usual]
        if self.model != baseline(self.study, self.dataset).model:
            given.insert(0, f"model={self.model}")
        return shlex.join(["python", "-m", "studies", "run", self.study, self.dataset, *given])


@dataclass(frozen=True)
class Levels(Spec):
    """Tables 1 and 2, Figures 1 and 2: what each bit-width moves, and the transitions between adjacent ones."""

    study: ClassVar[str] = "levels"
    trained_by: ClassVar[str] = "levels"
    trains: ClassVar[tuple[str, ...]] = ("width", "epochs", "batch_size")

    steps: int = setting(11, "interpolation steps of a transition, both ends included")

    def __post_init__(self):
        check_choice("dataset", self.dataset, ("digits",))
        super().__post_init__()
        check_integer("steps", self.steps, 2)


@dataclass(frozen=True)
class Stopping(Spec):
    """Tables 3 to 5: what each bit-width moves on the calibration and held-out splits, for rules to choose by."""

    study: ClassVar[str] = "stopping"
    trained_by: ClassVar[str] = "stopping"
    trains: ClassVar[tuple[str, ...]] = ("width", "epochs", "batch_size", "sizes")

    sizes: tuple[int, ...] = setting((898, 449, 450), "inputs to train on, to calibrate on, and held out")

    def __post_init__(self):
        check_choice("dataset", self.dataset, tuple(splits.SIZES))
        super().__post_init__()
        self._list("sizes", 10, None, distinct=False)
        if len(self.sizes) != 3:
            raise ValueError(f"sizes is {list(self.sizes)}: give three, to train, to calibrate, and held out.")
        if sorted(self.bits, reverse=True) != list(self.bits):
            raise ValueError(f"bits is {list(self.bits)}: a stopping rule goes down, so give the most first.")


@dataclass(frozen=True)
class Rounding(Stopping):
    """Table 6: at fixed bits, rounding to nearest, optimized rounding, and the latter with the boundary-gap term."""

    study: ClassVar[str] = "rounding"

    bits: tuple[int, ...] = setting((4, 3), "bit-widths, 2 to 16")
    gaps: tuple[float, ...] = setting(
        (0.0, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0), "weights of the boundary-gap term; 0: without it"
    )
    steps: int = setting(1000, "steps of the optimized rounding")
    examples: int = setting(1024, "calibration inputs to learn the rounding from, or all if there are fewer")

    def __post_init__(self):
        super().__post_init__()
        self._numbers("gaps")
        check_integer("steps", self.steps, 1)
        check_integer("examples", self.examples, 32)


# The baselines, fixed before the runs, with the number of seeds; a data set's name alone means its first.
IMAGES = {"width": 128, "epochs": 10, "batch_size": 128, "sizes": splits.SIZES["mnist"]}
_CNN = {"model": "cnn", "width": 16, "nodes": (81, 41, 21)}
_FULL = {
    "dataset": "full-cifar-10", "model": "strided-resnet", "width": 28, "epochs": 30, "batch_size": 128,
    "sizes": splits.SIZES["full-cifar-10"],
}  # fmt: skip
SUBSET = {"dataset": "cifar-10", "width": 16, "epochs": 15, "sizes": splits.SIZES["cifar-10"]}
BASELINES = {
    Levels(): 100,
    Stopping(nodes=(201, 101, 401, 51)): 100,
    **{Stopping(dataset=name, **IMAGES): 20 for name in ("mnist", "fashion-mnist")},
    **{Stopping(dataset=name, **IMAGES | _CNN | {"epochs": 5}): 5 for name in ("mnist", "fashion-mnist")},
    Stopping(model="cnn", nodes=(81, 41, 161, 21), **SUBSET): 10,
    Stopping(model="resnet", nodes=(81, 41, 21), **SUBSET): 3,
    Stopping(bits=(8, 7, 6, 5, 4, 3), nodes=(81, 41, 161), **_FULL): 10,
    Stopping(bits=(8, 7, 6, 5, 4, 3), nodes=(81, 41), granularity="channel", **_FULL): 10,
    Rounding(nodes=(201, 101)): 10,
    **{Rounding(dataset=name, nodes=(201, 101), **IMAGES): 5 for name in ("mnist", "fashion-mnist")},
    Rounding(model="cnn", nodes=(81, 41), **SUBSET): 3,
    Rounding(nodes=(81, 41), steps=400, gaps=(0.0, 1.0, 10.0, 100.0, 1000.0), **_FULL): 10,
}
# What the abstract leaves open, one choice at a time away from the baseline; grid and limit are varied within a run.
VARIANTS = {
    "digits": (
        {"width": 32}, {"width": 128}, {"sizes": (1078, 359, 360)}, {"scheme": "full"}, {"granularity": "channel"},
        {"epochs": 20}, {"share": 0.1},
    ),
    "cifar-10": (
        {"width": 32}, {"sizes": (2500, 600, 600)}, {"sizes": (10_000, 600, 600)}, {"scheme": "full"},
        {"granularity": "channel"}, {"epochs": 5},
    ),
}  # fmt: skip
VARIANT_SEEDS = {"digits": 20, "cifar-10": 3}
STUDIES = {kind.study: kind for kind in (Levels, Stopping, Rounding)}


def baseline(study: str, dataset: str, model: str | None = None) -> Spec:
    """
    Give the baseline of a study on a data set: of the model named, or of the data set's first one.

    Raises
    ------
    ValueError
        If there is none.
    """
    check_choice("study", study, tuple(STUDIES))
    of_study = [spec for spec in BASELINES if spec.study == study]
    check_choice("dataset", dataset, tuple(dict.fromkeys(spec.dataset for spec in of_study)))
    of_dataset = [spec for spec in of_study if spec.dataset == dataset]
    if model is not None:
        check_choice("model", model, tuple(spec.model for spec in of_dataset))
    return next(spec for spec in of_dataset if model in (None, spec.model))


def seeds_of(spec: Spec) -> int:
    """Give the number of runs of the baseline that *spec* is, or is a variant of."""
    return BASELINES[baseline(spec.study, spec.dataset, spec.model)]


def variants(dataset: str) -> list[Spec]:
    """Give the baseline of the stopping study on a data set and its variants, all on the same grids."""
    usual = baseline("stopping", dataset)
    usual = replace(usual, nodes=tuple(n for n in usual.nodes if n <= usual.nodes[0]))
    return [usual, *(replace(usual, **changed) for changed in VARIANTS[dataset])]


def load(text: str) -> Spec:
    """Give the spec that :meth:`Spec.text` wrote."""
    values = json.loads(text)
    return STUDIES[values.pop("study")](**values)


def settings_of(spec: Spec, seeds: int | None = None) -> list[str]:
    """Give *spec* as the ``name=value`` settings that :func:`parse` reads."""
    values = asdict(spec) | {"seeds": seeds_of(spec) if seeds is None else seeds}
    return [f"{name}={text(value)}" for name, value in values.items() if name not in ("dataset", "model")]


def parameters(spec: Spec) -> list[tuple[str, str, str, str]]:
    """Give name, type, default and meaning of every ``name=value`` setting of the runs of a baseline."""
    known = [(f.name, getattr(spec, f.name), f.metadata["says"]) for f in fields(spec) if f.name != "dataset"]
    after = 1 + [name for name, *_ in known].index("seed")
    known.insert(after, ("seeds", seeds_of(spec), "number of runs, one seed each, from `seed` on"))
    kinds = {tuple: "list of integers", int: "integer", float: "number", str: "word"}
    return [
        (name, "list of numbers" if name == "gaps" else kinds[type(default)], text(default), says)
        for name, default, says in known
    ]


def parse(settings: list[str], study: str = "levels", dataset: str = "digits") -> tuple[Spec, int]:
    """
    Read ``name=value`` settings of runs: the fields of a spec, and ``seeds``, the number of runs.

    Returns
    -------
    spec : Spec
        The baseline, but for what is given.
    seeds : int

    Raises
    ------
    ValueError
        If a name is unknown (the nearest known one is named), given twice, or its value is of the wrong type.

    Examples
    --------
    >>> spec, seeds = parse(["seed=3", "bits=[8,5]"])
    >>> spec.seed, spec.bits, seeds
    (3, (8, 5), 100)
    """
    usual = baseline(study, dataset)
    known = {f.name: getattr(usual, f.name) for f in fields(usual) if f.name != "dataset"} | {"seeds": seeds_of(usual)}
    out = read_settings(settings, known)
    usual = baseline(study, dataset, out.get("model"))
    seeds = check_integer("seeds", out.pop("seeds", seeds_of(usual)), 1)
    return replace(usual, **out), seeds


def read_settings(settings: list[str], known: dict) -> dict:
    """
    Read ``name=value`` settings.

    Parameters
    ----------
    settings : list of str
    known : dict
        What each name stands for if it is not given; a value must be of the same type.

    Raises
    ------
    ValueError
        If a name is unknown (the nearest known one is named), given twice, or its value is of another type.
    """
    out = {}
    for setting in settings:
        name, equals, given = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is no setting: write name=value, such as seed=3.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"There is no parameter {name!r}: "
                + (f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}.")
            )
        if name in out:
            raise ValueError(f"{name} is given twice: give it once.")
        try:
            value = json.loads(given)
        except json.JSONDecodeError:
            value = given
        kind = list if isinstance(known[name], tuple) else type(known[name])
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits:
            raise ValueError(f"{name} is {given!r}: give a value of type {kind.__name__}, such as {text(known[name])}.")
        out[name] = value
    return out


def text(value) -> str:
    """Write a parameter's value as it stands in ``name=value``."""
    return json.dumps(value, separators=(",", ":")) if not isinstance(value, str) else value
