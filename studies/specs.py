"""What a run depends on: its spec, the baselines that are judged, and the settings that name a spec in words."""

import json
import shlex
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bqcore._checks import check_choice, check_integer, check_share
from bqcore.quantizers import uniform

from . import networks
from .data import splits
from .settings import integers, numbers, read, setting, text

FLOAT = 32  # the bit-width that stands for the float classifier itself
_UNITS = {"digits": "input units (pixel / 16)", "full-cifar-10": "input units (deviation of the channel)"}


@dataclass(frozen=True)
class Spec:
    """What is asked of a study; it is also one of its jobs, unless the study makes others of it."""

    study: ClassVar[str]
    unit: ClassVar[str] = "run"  # what a job is called
    dataset: ClassVar[str]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return a setting that some studies have."""

    @property
    def words(self) -> tuple[str, ...]:
        """Return the study, the data set and the model, if there is one: what names a sweep."""
        return (self.study, self.dataset, *([self.model] if hasattr(self, "model") else []))

    @property
    def units(self) -> str:
        """Return the units of the inputs of the data set."""
        return _UNITS.get(self.dataset, "input units (pixel / 255)")

    def text(self) -> str:
        """Return the spec as JSON; :func:`load` reads it."""
        return json.dumps({"study": self.study, **asdict(self)}, sort_keys=True)

    def shared(self) -> str:
        """Return what the files of one folder have in common, as text: all but the seed."""
        return replace(self, seed=0).text()

    def stem(self, seeds: int | None = None) -> str:
        """Return the name of the file of this job, or of *seeds* jobs joined, without its suffix."""
        return f"seed-{self.seed:03d}" if seeds is None else f"seeds-{self.seed:03d}-{self.seed + seeds - 1:03d}"

    def command(self, seeds: int = 1) -> str:
        """Return the command that makes this run, or *seeds* of them from this seed on."""
        words = []
        if hasattr(self, "model") and self.model != baseline(self.study, self.dataset).model:
            words.append(f"model={self.model}")
        usual = settings_of(baseline(self.study, self.dataset, *self.words[2:]))
        words += [one for one in settings_of(self, seeds) if one not in usual]
        return shlex.join(["python", "-m", "studies", "run", self.study, self.dataset, *words])

    def attrs(self, seeds: int = 1, jobs: int | None = None) -> dict:
        """Return the attributes of a result that name what it is: of one job, or of that many *jobs* joined."""
        count = f"one {self.unit}" if jobs is None else f"{jobs} {self.unit}s"
        attrs = {
            "title": f"Boundary-aware quantization: {self.study} on {self.dataset}, {count}",
            "spec": self.text(),
            "command": self.command(seeds),
        }
        if jobs is None:
            return attrs
        return attrs | ({"seeds": seeds} if self.unit == "run" else {f"{self.unit}s": jobs})


@dataclass(frozen=True)
class Trained(Spec):
    """What runs that train, or load, a classifier depend on; see :func:`parameters`."""

    # Fields that the trained classifier depends on, beside data set, model and seed.
    trains: ClassVar[tuple[str, ...]] = ("width", "epochs", "batch_size")
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
        _set(self, bits=integers("bits", self.bits, 2, 16), nodes=integers("nodes", self.nodes, 2))
        _set(self, share=float(self.share))

    def training(self) -> dict:
        """Return what the trained classifier depends on, beside the code."""
        return {"study": self.trained_by} | {n: getattr(self, n) for n in ("dataset", "model", "seed", *self.trains)}


def _set(spec: Spec, **values) -> None:
    for name, value in values.items():
        object.__setattr__(spec, name, value)


@dataclass(frozen=True)
class Levels(Trained):
    """Tables 1 and 2, Figures 1 and 2: what each bit-width moves, and the transitions between adjacent ones."""

    study: ClassVar[str] = "levels"
    trained_by: ClassVar[str] = "levels"

    steps: int = setting(11, "interpolation steps of a transition, both ends included")

    def __post_init__(self):
        check_choice("dataset", self.dataset, ("digits",))
        super().__post_init__()
        check_integer("steps", self.steps, 2)


@dataclass(frozen=True)
class FirstOrder(Levels):
    """The linear reading of a displacement against the true one, on the networks of the levels study."""

    study: ClassVar[str] = "first-order"

    reach: float = setting(2.0, "how far along the normal a boundary is looked for, in input units")
    step: float = setting(0.02, "longest piece of the slice's boundary, in input units")

    def __post_init__(self):
        super().__post_init__()
        for name in ("reach", "step"):
            (value,) = numbers(name, [getattr(self, name)])
            if value == 0:
                raise ValueError(f"{name} is 0: give a length in input units.")
            _set(self, **{name: value})


@dataclass(frozen=True)
class Stopping(Trained):
    """Tables 3 to 5: what each bit-width moves on the calibration and held-out splits, for rules to choose by."""

    study: ClassVar[str] = "stopping"
    trained_by: ClassVar[str] = "stopping"
    trains: ClassVar[tuple[str, ...]] = (*Trained.trains, "sizes")

    sizes: tuple[int, ...] = setting((898, 449, 450), "inputs to train on, to calibrate on, and held out")

    def __post_init__(self):
        check_choice("dataset", self.dataset, tuple(splits.SIZES))
        super().__post_init__()
        _set(self, sizes=integers("sizes", self.sizes, 10, distinct=False))
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
        _set(self, gaps=numbers("gaps", self.gaps))
        check_integer("steps", self.steps, 1)
        check_integer("examples", self.examples, 32)


@dataclass(frozen=True)
class Objectives(Stopping):
    """Rounding objectives at fixed bits, chosen and learned on calibration inputs, judged on held-out ones."""

    study: ClassVar[str] = "objectives"

    bits: tuple[int, ...] = setting((4,), "bit-widths, 2 to 16")
    steps: int = setting(200, "steps of every learned rounding")
    examples: int = setting(1024, "calibration inputs to learn from, three quarters of them at most")

    def __post_init__(self):
        super().__post_init__()
        check_integer("steps", self.steps, 1)
        check_integer("examples", self.examples, 32)
        if self.granularity != "tensor":
            raise ValueError(
                f"granularity is {self.granularity!r}: the objectives are compared with one step a tensor."
            )


@dataclass(frozen=True)
class Multiverse(Spec):
    """The networks that are trained, and the finest grid; the other axes are in :mod:`studies.multiverse.choices`."""

    study: ClassVar[str] = "multiverse"
    unit: ClassVar[str] = "network"

    dataset: str = setting("digits", "data set")
    width: tuple[int, ...] = setting((64, 32, 128), "hidden units, one network each")
    epochs: tuple[int, ...] = setting((60, 20), "epochs of training, one network each")
    nodes: int = setting(401, "nodes a side of the finest grid; the others have half and a quarter of its cells a side")
    seed: int = setting(0, "first seed")

    def __post_init__(self):
        check_choice("dataset", self.dataset, ("digits", "mnist", "fashion-mnist"))
        _set(self, width=integers("width", self.width, 1), epochs=integers("epochs", self.epochs, 1))
        check_integer("nodes", self.nodes, 13)
        if self.nodes % 4 != 1:
            raise ValueError(f"nodes is {self.nodes}: give one more than a multiple of 4, so that the grids nest.")
        check_integer("seed", self.seed, 0, 2**32 - 1)

    @property
    def units(self) -> str:
        """Return the units of the inputs, which differ by scale."""
        return "input units of the scale"

    def shared(self) -> str:
        """Return what the files of one folder have in common: the data set, so that a network serves other specs."""
        return json.dumps([self.study, self.dataset])

    def stem(self, seeds: int | None = None) -> str:
        """Return the name of the file of *seeds* networks of each kind joined."""
        kinds = ["-".join(map(str, values)) for values in (self.width, self.epochs, (self.nodes,))]
        return f"{super().stem(seeds)}-width-{kinds[0]}-epochs-{kinds[1]}-nodes-{kinds[2]}"


@dataclass(frozen=True)
class Readings(Spec):
    """The multiverse on CIFAR-10: PTQ-W on several networks, measured by every reading of the paper's words."""

    study: ClassVar[str] = "readings"
    unit: ClassVar[str] = "network"

    dataset: str = setting("cifar-10", "data set")
    networks: tuple[str, ...] = setting(
        ("cnn 16 15", "cnn 16 5 41", "resnet 16 15 41", "strided-resnet 28 15 41"),
        "model, width and epochs of training, a network each; and the nodes of its finest grid if that is coarser",
    )
    seed: int = setting(0, "first seed")
    nodes: int = setting(81, "nodes a side of the finest grid: 81, 41, 21 or 11; the coarser ones are nested in it")

    def __post_init__(self):
        check_choice("dataset", self.dataset, ("digits", "cifar-10", "full-cifar-10"))
        check_integer("seed", self.seed, 0, 2**32 - 1)
        check_choice("nodes", self.nodes, (81, 41, 21, 11))
        for name in self.networks:
            model, *numbers_of = name.split() or [""]
            if model not in networks.MODELS or len(numbers_of) not in (2, 3) or not all(map(str.isdigit, numbers_of)):
                raise ValueError(f"networks has {name!r}: give model, width and epochs, such as 'cnn 16 15'.")
        _set(self, networks=tuple(self.networks))

    def shared(self) -> str:
        """Return what the files of one folder have in common, whichever networks are asked for."""
        return json.dumps([self.study, self.dataset])

    def stem(self, seeds: int | None = None) -> str:
        """Return the name of the file of *seeds* networks of each kind joined."""
        return f"{super().stem(seeds)}-nodes-{self.nodes}-{'-'.join(self.networks).replace(' ', '-')}"


@dataclass(frozen=True)
class Roundings(Readings):
    """Optimized rounding from little to much optimization, with and without the gap term, by the same readings."""

    study: ClassVar[str] = "roundings"

    dataset: str = setting("full-cifar-10", "data set")
    networks: tuple[str, ...] = setting(
        ("strided-resnet 28 30",), "model, width and epochs of training, a network each"
    )
    bits: tuple[int, ...] = setting((4, 3), "bit-widths, 2 to 16")
    steps: tuple[int, ...] = setting((30, 100, 300, 1000), "steps of the optimized rounding")
    examples: tuple[int, ...] = setting((256, 1024, 5000), "calibration inputs to learn the rounding from")
    gaps: tuple[float, ...] = setting((0.0, 1.0, 10.0, 100.0), "weights of the boundary-gap term; 0: without it")

    def __post_init__(self):
        super().__post_init__()
        _set(self, bits=integers("bits", self.bits, 2, 16), steps=integers("steps", self.steps, 1))
        _set(self, examples=integers("examples", self.examples, 32), gaps=numbers("gaps", self.gaps))

    def shared(self) -> str:
        """Return what the files of one folder have in common: all but the networks and their seeds."""
        return replace(self, seed=0, networks=()).text()


@dataclass(frozen=True)
class Vendors(Spec):
    """Quantizers that people ship with, on the published networks; each network alone is a job."""

    study: ClassVar[str] = "vendors"
    unit: ClassVar[str] = "network"
    dataset: ClassVar[str] = "all"

    networks: tuple[str, ...] = setting(
        ("digits mlp", "mnist mlp", "mnist cnn", "fashion-mnist mlp", "fashion-mnist cnn", "cifar-10 cnn",
         "cifar-10 resnet"),
        "data set and model of published checkpoints, each the first seed of its study",
    )  # fmt: skip
    share: float = setting(0.2, "share of the inputs in the low-margin boundary band")

    def __post_init__(self):
        known = fields(self)[0].default
        _set(self, networks=tuple(check_choice("Network", name, known) for name in self.networks))

    def shared(self) -> str:
        """Return what the files of one folder have in common, whichever networks are asked for."""
        return json.dumps([self.study, self.share])

    def stem(self, seeds: int | None = None) -> str:
        """Return the name of the file of one network, or of several joined."""
        name = "all" if self == Vendors(share=self.share) else "-".join(self.networks).replace(" ", "_")
        return name if seeds is None else f"joined-{name}"


# The baselines, fixed before the runs, with the number of seeds; a data set's name alone means its first.
_IMAGES = {"width": 128, "epochs": 10, "batch_size": 128, "sizes": splits.SIZES["mnist"]}
_CNN = {"model": "cnn", "width": 16, "nodes": (81, 41, 21)}
_FULL = {
    "dataset": "full-cifar-10", "model": "strided-resnet", "width": 28, "epochs": 30, "batch_size": 128,
    "sizes": splits.SIZES["full-cifar-10"],
}  # fmt: skip
_SUBSET = {"dataset": "cifar-10", "width": 16, "epochs": 15, "sizes": splits.SIZES["cifar-10"]}
BASELINES = {
    Levels(): 100,
    Stopping(nodes=(201, 101, 401, 51)): 100,
    **{Stopping(dataset=name, **_IMAGES): 20 for name in ("mnist", "fashion-mnist")},
    **{Stopping(dataset=name, **_IMAGES | _CNN | {"epochs": 5}): 5 for name in ("mnist", "fashion-mnist")},
    Stopping(model="cnn", nodes=(81, 41, 161, 21), **_SUBSET): 10,
    Stopping(model="resnet", nodes=(81, 41, 21), **_SUBSET): 3,
    Stopping(bits=(8, 7, 6, 5, 4, 3), nodes=(81, 41, 161), **_FULL): 10,
    Stopping(bits=(8, 7, 6, 5, 4, 3), nodes=(81, 41), granularity="channel", **_FULL): 10,
    Rounding(nodes=(201, 101)): 10,
    **{Rounding(dataset=name, nodes=(201, 101), **_IMAGES): 5 for name in ("mnist", "fashion-mnist")},
    Rounding(model="cnn", nodes=(81, 41), **_SUBSET): 3,
    Rounding(nodes=(81, 41), steps=400, gaps=(0.0, 1.0, 10.0, 100.0, 1000.0), **_FULL): 10,
}
# The same of the studies that go beyond the paper's tables.
BEYOND = {
    Objectives(nodes=(101, 51)): 10,
    **{Objectives(dataset=name, nodes=(101, 51), **_IMAGES): 10 for name in ("mnist", "fashion-mnist")},
    Objectives(model="cnn", nodes=(41, 21), **_SUBSET): 10,
    Objectives(nodes=(41, 21), **_FULL): 3,
    Multiverse(): 5,
    **{Multiverse(dataset=name, width=(128, 64), epochs=(10, 5)): 3 for name in ("mnist", "fashion-mnist")},
    FirstOrder(): 10,
    Readings(): 10,
    Readings(dataset="digits", networks=("mlp 64 60",)): 20,
    Readings(
        dataset="full-cifar-10",
        networks=("strided-resnet 28 30", "strided-resnet 28 10", "resnet 16 10", "cnn 16 10"),
        nodes=41,
    ): 3,
    Roundings(nodes=41): 3,
    Vendors(): 1,
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
STUDIES = {kind.study: kind for kind in (Levels, Stopping, Rounding)}  # of the paper's tables
_KINDS = STUDIES | {kind.study: kind for kind in (Objectives, Multiverse, FirstOrder, Readings, Roundings, Vendors)}


def baseline(study: str, dataset: str, model: str | None = None) -> Spec:
    """Return the baseline of a study on a data set: of the model named, or of the data set's first one."""
    check_choice("study", study, tuple(_KINDS))
    of_study = [spec for spec in BASELINES | BEYOND if spec.study == study]
    check_choice("dataset", dataset, tuple(dict.fromkeys(spec.dataset for spec in of_study)))
    of_dataset = [spec for spec in of_study if spec.dataset == dataset]
    if model is not None:
        check_choice("model", model, tuple(spec.model for spec in of_dataset))
    return next(spec for spec in of_dataset if model is None or spec.model == model)


def seeds_of(spec: Spec) -> int:
    """Return the number of runs of the baseline that *spec* is, or is a variant of."""
    return (BASELINES | BEYOND)[baseline(*spec.words)]


def variants(dataset: str) -> list[Spec]:
    """Return the baseline of the stopping study on a data set and its variants, all on the same grids."""
    usual = baseline("stopping", dataset)
    usual = replace(usual, nodes=tuple(n for n in usual.nodes if n <= usual.nodes[0]))
    return [usual, *(replace(usual, **changed) for changed in VARIANTS[dataset])]


def load(text: str) -> Spec:
    """Return the spec that :meth:`Spec.text` wrote."""
    values = json.loads(text)
    return _KINDS[values.pop("study")](**values)


def settings_of(spec: Spec, seeds: int | None = None) -> list[str]:
    """Return *spec* as the ``name=value`` settings that :func:`parse` reads."""
    values = _known(spec) | ({"seeds": seeds} if seeds is not None and hasattr(spec, "seed") else {})
    return [f"{name}={text(value)}" for name, value in values.items() if name != "model"]


def _known(spec: Spec) -> dict:
    """Return the value of every setting; ``seeds`` is one where there is a ``seed``."""
    values = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name != "dataset"}
    return values | ({"seeds": seeds_of(spec)} if "seed" in values else {})


def parameters(spec: Spec) -> list[tuple[str, str, str, str]]:
    """Return name, type, default and meaning of every ``name=value`` setting of the runs of a baseline."""
    says = {f.name: f.metadata["says"] for f in fields(spec)}
    of_each = "" if spec.unit == "run" else " of each kind"
    says["seeds"] = f"number of {spec.unit}s{of_each}, one seed each, from `seed` on"
    kinds = {int: "integer", float: "number", str: "word"}
    rows = []
    for name, default in _known(spec).items():
        kind = kinds.get(type(default)) or f"list of {kinds[type(default[0])]}s"
        rows.append((name, kind, text(default), says[name]))
    if rows[-1][0] == "seeds":
        rows.insert(1 + [name for name, *_ in rows].index("seed"), rows.pop())
    return rows


def parse(settings: list[str], study: str = "levels", dataset: str = "digits") -> tuple[Spec, int]:
    """
    Read ``name=value`` settings of runs: the baseline, but for what is given, and ``seeds``, the number of runs.

    >>> spec, seeds = parse(["seed=3", "bits=[8,5]"])
    >>> spec.seed, spec.bits, seeds
    (3, (8, 5), 100)
    """
    usual = baseline(study, dataset)
    out = read(settings, _known(usual))
    usual = baseline(study, dataset, out.get("model"))
    seeds = check_integer("seeds", out.pop("seeds", seeds_of(usual)), 1)
    return replace(usual, **out), seeds
