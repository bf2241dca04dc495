"""Mixed precision: which bits for which layer, within a budget of bytes."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import xarray as xr

from .._checks import check_integer
from ..metrics import statistics
from ..quantizers.mixed_precision import mixed, model_bytes, spend, uniform_bits
from ..quantizers.weights import in_float, weights
from .bit_sweep import BITS, by_split, check_bits, measure_candidates
from .comparison import describe
from .sensitivity import margin_noise, one_at_a_time
from .streaming import decide_split, logits_functions

_LISTED = 6  # layers, of which the conclusion names the bits one by one


@dataclass(frozen=True, eq=False)
class Plan:
    """Bits by layer under a budget, beside uniform bits; see :func:`plan_bits`."""

    bits: dict[str, int]
    uniform: int  # the most bits for all that the budget holds
    dataset: xr.Dataset  # along ``split`` and ``way``: plan, uniform
    conclusion: str

    def to_json(self) -> str:
        """Return the bits and the numbers of both ways as JSON."""
        chosen = {"conclusion": self.conclusion, "bits": self.bits, "uniform": self.uniform}
        return json.dumps(chosen | {"ways": by_split(self.dataset, "way")}, indent=1, ensure_ascii=False)

    def __repr__(self) -> str:
        return self.conclusion


def plan_bits(
    model, calibration, heldout, *, budget: int, bits: tuple[int, ...] = BITS, scheme: str = "narrow",
    granularity: str = "tensor", fraction: float = 0.2, batch_size: int | None = None, skip: str | Iterable[str] = (),
    progress: str = "",
) -> Plan:  # fmt: skip
    """
    Choose the bits of each layer within a budget of bytes, so that decisions near the boundary change least.

    Every layer is quantized alone to every bit-width, and the mean square by which that moves the margins of the
    calibration band is noted. Such errors of different layers add up about as independent noise does, so from the most
    bits down the step that adds least of it per byte saved is taken, until the budget holds. The band flips of single
    steps are too few to choose by. At few bits errors no longer add up, so the whole plan is measured on the
    calibration split, and uniform bits are chosen where they move its band's margins less, or flip fewer of its
    decisions beyond chance (McNemar, 5 %): logits that collapse to one value move small margins by little.

    Parameters
    ----------
    model : torch module in eval mode
    calibration, heldout : as for :func:`bqcore.audit`
        Not a generator or another iterator as *calibration*, which is gone through three times.
    budget : int, bytes of the whole model, as :func:`bqcore.model_bytes` counts them
    bits, scheme, granularity, fraction, batch_size, skip, progress : as in :func:`bqcore.sweep`

    Returns
    -------
    Plan
        ``bits`` by layer name, ``uniform`` bits of the same budget, ``conclusion`` in words (of more than six layers
        how many have how many bits), and ``dataset`` with the rates of :func:`bqcore.audit` along ``split`` and ``way``
        (plan, uniform), ``bytes`` and ``layer_bits``.

    Raises
    ------
    ValueError
        As :func:`bqcore.sweep`; if the budget does not hold the fewest bits for all, or *calibration* is an iterator.

    Examples
    --------
    >>> import bqcore, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)).eval()
    >>> weights = {"0.weight": torch.tensor([[1.0, 0.1], [0.2, 1.0]]), "1.weight": torch.eye(2)}  # the last is exact
    >>> _ = model.load_state_dict(weights)
    >>> x = torch.linspace(-1, 1, 100)[:, None] * torch.tensor([1.0, 2.0]) + torch.tensor([0.0, 0.3])
    >>> plan = bqcore.plan_bits(model, x, x, budget=bqcore.model_bytes(model, 5), bits=(8, 5, 2))
    >>> plan.bits, plan.uniform
    ({'0': 8, '1': 2}, 5)
    """
    if isinstance(calibration, Iterator):
        raise ValueError(
            f"The calibration split is a {type(calibration).__name__}, which can be gone through once, and a plan goes "
            "three times: give a list of its batches, a loader, or a function that gives them anew."
        )
    found, options = weights(model, skip), {"scheme": scheme, "granularity": granularity}
    bits = check_bits(bits)
    budget = check_integer("Budget", budget, 1)
    uniform = uniform_bits(model, bits, budget, found, granularity=granularity)
    alone = one_at_a_time(model, calibration, bits, batch_size=batch_size, skip=skip, progress=progress, **options)
    noise = {key: margin_noise(part, fraction) for key, part in alone.items()}
    chosen = least_noise(model, noise, calibration, budget, fraction=fraction, batch_size=batch_size, **options)
    ways = {"plan": chosen, "uniform": dict.fromkeys(found, uniform)}
    models = {f"{way} candidate": mixed(model, way_bits, **options) for way, way_bits in ways.items()}
    splits = {"calibration": calibration, "heldout": heldout}
    how: dict = {"fraction": fraction, "batch_size": batch_size, "progress": progress}
    out, asked = measure_candidates(model, models, splits, "way", list(ways), **how)
    out["bytes"] = "way", [model_bytes(model, way_bits, granularity=granularity) for way_bits in ways.values()]
    out["layer_bits"] = ("layer", "way"), [[ways[way][name] for way in ways] for name in found]
    out = out.assign_coords(layer=list(found))
    held = out.sel(split="heldout")
    each = ", ".join(f"{name or 'model'}: {b}" for name, b in chosen.items())
    if len(chosen) > _LISTED:
        counts = Counter(chosen.values())
        each = ", ".join(f"{b} bits for {counts[b]} of {len(chosen)} layers" for b in sorted(counts, reverse=True))
    flips, band = held.flip_rate.values, held.band_flip_rate.values
    conclusion = (
        f"Within {budget} bytes nothing better than {uniform} bits for all was found on the calibration split; they "
        f"change {100 * flips[1]:.2f} % of the held-out decisions and {100 * band[1]:.1f} % in the boundary band."
        if chosen == ways["uniform"]
        else f"Within {budget} bytes the plan ({each}) changes {100 * flips[0]:.2f} % of the held-out decisions and "
        f"{100 * band[0]:.1f} % in the boundary band, {uniform} bits for all {100 * flips[1]:.2f} % and "
        f"{100 * band[1]:.1f} %."
    )
    left = in_float(model, found.values())
    conclusion += left.sentence() + asked
    says = {"title": "Bits by layer under a budget", "conclusion": conclusion, "budget": budget, "share": fraction}
    describe(out, says | left.attributes())
    return Plan(chosen, uniform, out, conclusion)


def least_noise(
    model, noise: Mapping, calibration, budget: int, *, fraction: float, scheme: str = "narrow",
    granularity: str = "tensor", batch_size: int | None = None,
) -> dict[str, int]:  # fmt: skip
    """Choose bits as :func:`plan_bits` does, by the *noise* of each (layer name, bits)."""
    names = dict.fromkeys(name for name, _ in noise)
    uniform = uniform_bits(model, {b for _, b in noise}, budget, names, granularity=granularity)
    plan = spend(model, noise, budget, granularity=granularity)
    ways = {"plan": plan, "uniform": dict.fromkeys(names, uniform)}
    candidates = {way: mixed(model, each, scheme=scheme, granularity=granularity) for way, each in ways.items()}
    functions = logits_functions(model, candidates, False)
    decided, _, _ = decide_split(functions, calibration, "calibration", batch_size=batch_size)
    noisier = margin_noise(decided["plan"], fraction) > margin_noise(decided["uniform"], fraction)
    band = decided["plan"].band(fraction)
    flipped = [decided[way].flipped()[band] for way in ("plan", "uniform")]
    flips_more = flipped[0].sum() > flipped[1].sum() and statistics.mcnemar(*flipped).p_value < 0.05
    return ways["uniform" if noisier or flips_more else "plan"]
