"""
The multiverse: every reading of the paper's words that can be defended, crossed where they interact.

:mod:`studies.multiverse.choices` has the axes, fixed before any run. Here the networks are made: one file each, so
that a stopped sweep goes on, then one file of all.

On digits every choice is crossed. On MNIST and Fashion-MNIST a sample is, stated here before any run too: their only
claims are S5 and S6, that boundary-aware stopping reduces flips. All that a stopping rule depends on is crossed as on
digits, on networks of two widths and two lengths of training, the baseline's first; scale and split are the baseline's.
(Five networks of each kind were meant; three were made, which was decided for time, before any was looked at.)
"""

import json
import shlex
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from bqcore._checks import check_choice, check_integer
from bqcore._store import load_dataset, save_dataset

from .. import sweeps
from ..provenance import code_digest, key, of
from ..specs import read_settings, text
from ..workers import each
from .choices import KINDS_OF_INPUT, Network, measure

# Distances that no limit equals: a share may meet its limit exactly, and stays as it is.
_ROUNDED = ("boundary_jaccard", "stopping_jaccard", "displacement", "share_near", "chance_boundary")


@dataclass(frozen=True)
class Multiverse:
    """
    The networks that are trained, and the finest grid; the other axes are those of :mod:`studies.multiverse.choices`.
    """

    study: ClassVar[str] = "multiverse"

    dataset: str = "digits"
    width: tuple[int, ...] = (64, 32, 128)
    epochs: tuple[int, ...] = (60, 20)
    nodes: int = 401
    seed: int = 0
    seeds: int = 5

    def __post_init__(self):
        check_choice("dataset", self.dataset, tuple(KINDS_OF_INPUT))
        for name in ("width", "epochs"):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values!r}: give a list of integers, each once, such as [64,32].")
            object.__setattr__(self, name, tuple(check_integer(name, value, 1) for value in values))
        check_integer("nodes", self.nodes, 13)
        if self.nodes % 4 != 1:
            raise ValueError(f"nodes is {self.nodes}: give one more than a multiple of 4, so that the grids nest.")
        check_integer("seed", self.seed, 0, 2**32 - 1)
        check_integer("seeds", self.seeds, 1)

    def text(self) -> str:
        """Give the spec as JSON."""
        return json.dumps({"study": self.study, **asdict(self)}, sort_keys=True)

    def command(self) -> str:
        """Give the command that makes these runs."""
        usual = asdict(BASELINES[self.dataset])
        given = [f"{name}={text(value)}" for name, value in asdict(self).items() if value != usual[name]]
        return shlex.join(["python", "-m", "studies", "run", self.study, self.dataset, *given])


BASELINES = {
    spec.dataset: spec
    for spec in (
        Multiverse(),
        *(Multiverse(dataset=name, width=(128, 64), epochs=(10, 5), seeds=3) for name in ("mnist", "fashion-mnist")),
    )
}
SAYS = {
    "width": "hidden units, one network each", "epochs": "epochs of training, one network each",
    "nodes": "nodes a side of the finest grid; the others have half and a quarter of its cells a side",
    "seed": "first seed", "seeds": "number of networks of each kind",
}  # fmt: skip


def parse(settings: list[str], dataset: str = "digits") -> Multiverse:
    """
    Read ``name=value`` settings of the multiverse on a data set.

    Raises
    ------
    ValueError
        If there is none on *dataset*, a name is unknown (the nearest known one is named), given twice, or its value is
        not of its type.

    Examples
    --------
    >>> parse(["seeds=2", "width=[8]"]).command()
    "python -m studies run multiverse digits 'width=[8]' seeds=2"
    """
    usual = BASELINES[check_choice("dataset", dataset, tuple(BASELINES))]
    return replace(usual, **read_settings(settings, _settings(usual)))


def _settings(spec: Multiverse) -> dict:
    return {name: value for name, value in asdict(spec).items() if name in SAYS}


def parameters(dataset: str = "digits") -> list[tuple[str, str]]:
    """Give every setting with its default, and what it means."""
    return [(f"{name}={text(value)}", SAYS[name]) for name, value in _settings(BASELINES[dataset]).items()]


def networks(spec: Multiverse) -> list[Network]:
    """Give the networks of *spec*, seed by seed."""
    seeds = range(spec.seed, spec.seed + spec.seeds)
    choices = product(seeds, spec.width, spec.epochs, *KINDS_OF_INPUT[spec.dataset])
    return [Network(*choice, spec.nodes, spec.dataset) for choice in choices]


def provenance() -> dict:
    """Give what a result depends on beside its spec: digests of the measuring code, and the packages' versions."""
    return of("studies.multiverse.choices")


def folder(dataset: str = "digits") -> Path:
    """Give the folder of the networks' files of a data set; other code or packages, another folder."""
    return sweeps.FRESH / f"multiverse-{dataset}-{key(provenance())}"


def file(network: Network) -> Path:
    """Give the file of what is measured on one network."""
    words = [network.scale.split()[0], network.split.replace("/", "-"), f"{network.nodes}"]
    name = f"seed-{network.seed:03d}-width-{network.width}-epochs-{network.epochs}-{'-'.join(words)}.nc"
    return folder(network.dataset) / name


def joined_file(spec: Multiverse) -> Path:
    """Give the file of the joined runs of *spec*."""
    content = {"spec": spec.text(), "code": code_digest("studies.multiverse.sweep")}
    return folder(spec.dataset) / f"joined-{key(content)}.nc"


def sweep(spec: Multiverse, *, workers: int | None = None, progress: bool = True) -> xr.Dataset:
    """
    Train and measure every network of *spec* on the cores there are, and join what was measured.

    Parameters
    ----------
    spec : Multiverse
    workers : int, optional
        Processes; by default one for each core this process may use.
    progress : bool
        Show a bar with the time left, on standard error.

    Returns
    -------
    xarray.Dataset
        Along the axes of training, ``seed``, and those of :func:`studies.multiverse.choices.measure`; distances
        rounded to 2^-14, which halves the file. What needs a calibration split has no axis ``split``; a data
        set of one scale and one split has neither axis.
    """
    joined = joined_file(spec)
    found = _kept(joined)
    if found is not None:
        return found
    asked = networks(spec)
    missing = [network for network in asked if not file(network).exists()]
    each(
        _make, [(network, file(network).absolute()) for network in missing], total=len(asked),
        desc=f"multiverse, {spec.dataset}: networks", unit="network", workers=workers, progress=progress,
    )  # fmt: skip
    save_dataset(join(spec, {network: _run(network) for network in asked}), joined)
    return load_dataset(joined)


def _make(network: Network, path: Path) -> None:
    save_dataset(measure(network), path)


def _run(network: Network) -> xr.Dataset:
    found = _kept(file(network))
    if found is None:  # damaged from outside
        _make(network, file(network))
        found = load_dataset(file(network))
    return found


def _kept(path: Path) -> xr.Dataset | None:
    try:
        return load_dataset(path)
    except (FileNotFoundError, ValueError):
        return None  # none yet, or damaged from outside: made again and replaced


def join(spec: Multiverse, found: dict[Network, xr.Dataset]) -> xr.Dataset:
    """Join what was measured on each network along the axes of training and ``seed``."""
    asked = networks(spec)
    without, last = found[asked[0]], found[asked[-1]]  # on digits without a calibration split, and with one
    scales, splits = KINDS_OF_INPUT[spec.dataset]
    axes = {
        "width": spec.width, "epochs": spec.epochs, "scale": scales, "split": splits,
        "seed": tuple(range(spec.seed, spec.seed + spec.seeds)),
    }  # fmt: skip
    out = {}
    for name, variable in last.data_vars.items():
        here = axes if name in without else axes | {"split": splits[1:]}
        values = np.stack([
            found[Network(seed, width, epochs, scale, split, spec.nodes, spec.dataset)][name].values
            for width, epochs, scale, split, seed in product(*here.values())
        ])  # fmt: skip
        if name in _ROUNDED:
            values = (np.round(values * 2**14) / 2**14).astype(np.float32)
        kept = {axis: choices for axis, choices in here.items() if axis != "split" or name in without}
        values = values.reshape(*map(len, kept.values()), *variable.shape)
        out[name] = ((*kept, *variable.dims), values, variable.attrs)
    coordinates = {dim: last[dim] for dim in last.dims} | {axis: list(values) for axis, values in axes.items()}
    joined = xr.Dataset(out, coordinates)
    joined = joined.squeeze([axis for axis in ("scale", "split") if len(axes[axis]) == 1], drop=True)
    joined.attrs = {
        "title": f"Boundary-aware quantization: the multiverse on {spec.dataset}, {len(found)} networks",
        "spec": spec.text(), "command": spec.command(), "networks": len(found),
        **{name: json.dumps(value, sort_keys=True) for name, value in provenance().items()},
    }  # fmt: skip
    return joined
