"""The ledger: every claim of the paper against our runs, judged by the rule that data/claims.yml states."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jsonschema
import numpy as np
import xarray as xr
import yaml

from bqcore._store import save_bytes
from bqcore.metrics import statistics

from . import correlations, specs, stopping
from .formats import brief, number, percent, span
from .multiverse import judging
from .published import MULTIVERSES, PUBLISHED, load_published

CLAIMS = Path("data/claims.yml")
SCHEMA = Path(__file__).resolve().parents[1] / "data" / "claims.schema.yml"
README = Path("README.md")
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not attempted")
_BY_AGREEMENT = ("not reproduced", "inconclusive", "reproduced")  # the better ones last
_MARKS = "<!-- ledger: written by `make publish`, compared by a test -->", "<!-- end of ledger -->"


def load_claims(path: str | Path = CLAIMS) -> tuple[dict, list[dict]]:
    """Read the rule and the claims; refuse, and name the claim, what is not of the form of data/claims.schema.yml."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    if error := next(jsonschema.Draft202012Validator(schema).iter_errors(content), None):
        place = list(error.absolute_path)
        if place[:1] == ["claims"] and len(place) > 1:
            claim = content["claims"][place[1]]
            named = isinstance(claim, dict) and "id" in claim
            place[:2] = [f"claim {claim['id']}" if named else f"claim number {place[1] + 1}"]
        where = ": ".join(map(str, [path, *place]))
        raise ValueError(f"{where}: {error.message}; the file's first lines say what is needed.")
    names = [claim["id"] for claim in content["claims"]]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a claim's id stands twice: {sorted({n for n in names if names.count(n) > 1})}.")
    return content["rule"], content["claims"]


def ledger(path: str | Path = CLAIMS, results: str | Path = PUBLISHED) -> list[dict]:
    """
    Judge every claim by the result files in *results*, which must be whole and of the baseline.

    A row has id, dataset, says, reported, estimate, low, high, runs, percentile, verdict, multiverse (the share of
    specifications in which it holds), command; None where there is none.
    """
    rule, claims = load_claims(path)
    files = {}
    rows = []
    holds = _multiverse(claims, rule, results)

    @cache  # several claims are of one file, and choosing takes longer than judging
    def choices(name: str) -> xr.Dataset:
        return stopping.choose(load_published(name, results))

    for claim in claims:
        row = {key: claim[key] for key in ("id", "dataset", "says", "reported")}
        row |= dict.fromkeys(("estimate", "low", "high", "runs", "percentile"))
        if "not_attempted" in claim:
            rows.append(row | {"verdict": "not attempted", "multiverse": None, "command": None})
            continue
        names = [claim["from"]] if isinstance(claim["from"], str) else claim["from"]
        for name in set(names) - set(files):
            files[name] = load_published(name, results)
            spec = specs.load(files[name].attrs["spec"])
            if replace(spec, seed=0) != specs.baseline(spec.study, spec.dataset, spec.model):
                made_by = files[name].attrs["command"]
                raise ValueError(f"{Path(results) / name} is not of the baseline: {made_by} made it.")
        name = names[0]
        try:
            row["runs"] = files[name].sizes["seed"]
            if claim["kind"] == "correlation":
                judged = _judge_correlation(claim, {name: files[name] for name in names}, rule)
            elif claim["kind"] == "stopping":
                together = [other for other in claims if other["id"] in claim["together"]]
                judged = _judge_stopping(claim, together, files[name], rule, choices)
            elif claim["kind"] == "value":
                judged = _judge_value(claim, files[name], rule, choices)
            else:
                judged = _judge_direction(claim, files[name], rule, choices)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: claim {claim['id']} cannot be judged from {name}: {error}") from error
        rows.append(row | judged | {"multiverse": holds.get(claim["id"]), "command": files[name].attrs["command"]})
    return rows


def _multiverse(claims: list[dict], rule: dict, results: str | Path) -> dict[str, float]:
    """Return the share of the specifications in which each claim holds; none without its data set's multiverse."""
    attempted = [claim for claim in claims if "not_attempted" not in claim]
    there = [name for name in MULTIVERSES.values() if (Path(results) / name).exists()]
    judged = [judging.judge(load_published(name, results), attempted, rule) for name in there]
    return {name: share for found in judged for name, share in judging.shares(found).items()}


def reported(path: str | Path = CLAIMS) -> dict[str, float | str]:
    """Return what the paper reports, by claim."""
    return {claim["id"]: claim["reported"] for claim in load_claims(path)[1]}


def reported_values(path: str | Path = CLAIMS) -> dict[tuple[str, int], float]:
    """Return the paper's single numbers on the digits levels by measure and bits, for figures."""
    return {
        (claim["select"]["measure"], claim["select"]["bits"]): claim["reported"]
        for claim in load_claims(path)[1]
        if "bits" in claim.get("select", {}) and claim["from"] == "digits_levels.nc"
    }


def _select(
    dataset: xr.Dataset, select: dict, choices: Callable[[], xr.Dataset] | None = None, usual: float | None = None
) -> xr.DataArray:
    """
    Return a measure at given coordinates; where a stopping rule is named, at the bits that it chooses of *choices*,
    whose limit is a number, or "usual": *usual*.
    """
    where = {key: value for key, value in select.items() if key not in ("measure", "rule", "limit")}
    if "rule" in select:
        dataset = choices()
        limit = usual if select["limit"] == "usual" else select["limit"]
        found = np.flatnonzero((dataset.rule.values == select["rule"]) & (dataset.limit.values == limit))
        if len(found) != 1:
            raise ValueError(f"there are {len(found)} choices by {select['rule']} at {limit}, not one.")
        dataset = dataset.isel(choice=int(found[0]))
    if "method" in select:
        dataset = correlations.at_method(dataset, where.pop("method"))
    values = dataset[select["measure"]].sel({key: value for key, value in where.items() if key != "less_bits"})
    if "less_bits" in select:  # what is lost at so many bits
        values = values - dataset[select["measure"]].sel(where | {"bits": where.pop("less_bits")})
        values = values.rename(f"{select['measure']}_lost")
    return values


def _span(claim: dict, dataset: xr.Dataset) -> float:
    """Return how far the levels lie apart in what is claimed: the range of the medians along ``span``."""
    if claim["select"]["measure"] == "chosen_bits":
        levels = dataset.bits.where(dataset.bits != specs.FLOAT)
        return float(levels.max() - levels.min())
    others = {key: value for key, value in claim["select"].items() if key not in (claim["span"], "rule", "limit")}
    others.pop("less_bits", None)
    medians = _select(dataset, others).median("seed")
    if claim["span"] == "bits":
        medians = medians.drop_sel(bits=specs.FLOAT)
    elif claim["span"] == "method":
        medians = medians.drop_sel(method="float")
    return float(medians.max() - medians.min())


def _interval(values: xr.DataArray, means_of: int, level: float) -> statistics.Interval:
    return statistics.prediction_interval(values.values.ravel(), means_of, level)


def _verdict(interval: statistics.Interval, reported: float, reach: float, rule: dict) -> str:
    """Return one of :data:`_BY_AGREEMENT`; an interval is too wide to tell by *reach*, how far the levels lie apart."""
    inside = interval.low <= reported <= interval.high
    return _BY_AGREEMENT[inside + (inside and interval.high - interval.low <= rule["too_wide"] * reach)]


def _shown(interval: statistics.Interval, values: xr.DataArray, dataset: xr.Dataset) -> dict:
    """Cut an interval to what *values* can be, for readers: a share 0 to 1, bits those of the runs."""
    low, high = -np.inf, np.inf
    if values.name == "chosen_bits":
        levels = dataset.bits.values[dataset.bits.values != specs.FLOAT]
        low, high = levels.min(), levels.max()
    elif values.name in ("boundary_jaccard", "accuracy") or values.name.endswith("_rate"):
        low, high = 0, 1
    return interval._replace(low=float(max(interval.low, low)), high=float(min(interval.high, high)))._asdict()


def _judge_value(claim: dict, dataset: xr.Dataset, rule: dict, choices: Callable[[str], xr.Dataset]) -> dict:
    """Judge one number by the prediction interval of our runs."""
    selected = _select(dataset, claim["select"], partial(choices, claim["from"]))
    loose = sorted(set(selected.dims) - {"seed", claim.get("pool")})
    if loose:
        raise ValueError(f"its select leaves {', '.join(loose)} open: name one, or pool it.")
    interval = _interval(selected, claim["means_of"], rule["level"])
    return _shown(interval, selected, dataset) | {
        "percentile": statistics.percentile(selected.values.ravel(), claim["reported"]),
        "verdict": _verdict(interval, claim["reported"], _span(claim, dataset), rule),
    }


def _judge_stopping(
    claim: dict, together: list[dict], dataset: xr.Dataset, rule: dict, choices: Callable[[str], xr.Dataset]
) -> dict:
    """
    Judge numbers after boundary-aware stopping, whose limit is not stated, over all limits at once.

    Shown is the limit that calibration data pick; what the claim says gains the share of the limits that agree.
    """
    chosen = choices(claim["from"])
    aware = [i for i, name in enumerate(chosen.rule.values) if name in stopping.BOUNDARY_AWARE]
    spans = [_span(other, dataset) for other in together]
    verdicts = []
    for i in aware:
        each = []
        for other, reach in zip(together, spans):
            values = _select(chosen.isel(choice=i), other["select"])
            interval = _interval(values, other["means_of"], rule["level"])
            each.append(_verdict(interval, other["reported"], reach, rule))
        verdicts.append(min(each, key=_BY_AGREEMENT.index))
    usual = stopping.usual_limit(chosen, claim["rule"], rule["spare"])
    values = _select(usual, claim["select"])
    interval = _interval(values, claim["means_of"], rule["level"])
    names = " and ".join(other["id"] for other in together)
    return _shown(interval, values, dataset) | {
        "says": f"{claim['says']} (ours at {claim['rule']} ≤ {float(usual.limit):g}, as calibration data pick it; "
        f"{sum(one != _BY_AGREEMENT[0] for one in verdicts)} of {len(aware)} limits agree with {names} at once)",
        "percentile": statistics.percentile(values.values, claim["reported"]),
        "verdict": max(verdicts, key=_BY_AGREEMENT.index),
    }


def _judge_direction(claim: dict, dataset: xr.Dataset, rule: dict, choices: Callable[[str], xr.Dataset]) -> dict:
    """Judge a direction by a paired test over seeds and, where most is stated, the share itself."""
    usual = None
    if "limit_from" in claim:  # the same rule means the limit that another data set's calibration picks
        other = choices(claim["limit_from"])
        usual = float(stopping.usual_limit(other, claim["second"]["rule"], rule["spare"]).limit)
    here = partial(choices, claim["from"])
    first, second = (_select(dataset, claim[key], here, usual) for key in ("first", "second"))
    if "mean_over" in claim:
        first, second = first.mean(claim["mean_over"]), second.mean(claim["mean_over"])
    interval = statistics.paired_difference(first.values, second.values, rule["level"])
    holds, refuted = interval.low > 0, interval.high <= 0
    if claim["kind"] == "no gain":  # the other way round: what would be a gain speaks against it
        holds, refuted = interval.high < claim["less_than"], interval.low > 0
    verdict = "not reproduced" if refuted else "reproduced" if holds else "inconclusive"
    if "most" in claim:
        share = statistics.prediction_interval(first.values, 1, rule["level"])
        if share.high < claim["most"]:
            verdict = "not reproduced"
        elif share.low <= claim["most"] and verdict == "reproduced":
            verdict = "inconclusive"
    says = claim["says"] + (f" (at {claim['second']['rule']} ≤ {usual:g})" if usual is not None else "")
    percentile = statistics.percentile((first - second).values, 0.0)
    return interval._asdict() | {"says": says, "percentile": percentile, "verdict": verdict}


def _judge_correlation(claim: dict, files: dict[str, xr.Dataset], rule: dict) -> dict:
    """Judge the lowest or the highest correlation of calibration and held-out Jaccard over all variants."""
    found = {}
    for name, dataset in files.items():
        for variant, (_, by_seed, _) in correlations.correlations(dataset).items():
            found[variant, name] = by_seed
    which = min if claim["of"] == "lowest" else max
    variant, name = which(found, key=lambda key: found[key].estimate)
    interval, all_of_them = found[variant, name], [one.estimate for one in found.values()]
    return interval._asdict() | {
        "says": f"{claim['says']} (ours of {len(found)} variants: {variant}, {Path(name).stem})",
        "runs": files[name].sizes["seed"],
        "percentile": statistics.percentile(all_of_them, claim["reported"]),
        "verdict": _verdict(interval, claim["reported"], max(all_of_them) - min(all_of_them), rule),
    }


def table(rows: list[dict]) -> str:
    """Return the ledger as a Markdown table, which also reads well in a terminal."""
    head = ("claim", "data set", "the paper says", "reported", "ours", "95 % interval", "runs", "percentile", "verdict")
    head += ("multiverse",)
    body = [
        (
            row["id"], row["dataset"], row["says"], brief(row["reported"]), brief(row["estimate"]),
            span(row["low"], row["high"], write=brief) if row["low"] is not None else "", brief(row["runs"]),
            number(row["percentile"], ".0f") if row["percentile"] is not None else "", row["verdict"],
            percent(row["multiverse"], 1) if row["multiverse"] is not None else "",
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in [head, *body]]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def judged_table(rows: list[dict]) -> str:
    """Return the table of the claims that have a verdict, and say in a line how many have none yet, if any."""
    judged = [row for row in rows if row["verdict"] != "not attempted"]
    rest = len(rows) - len(judged)
    more = f"\n\n{rest} more claims are not attempted yet; `python -m studies ledger` lists them all." if rest else ""
    return table(judged) + more


def publish_table() -> list[str]:
    """Write the table of judged claims into README, if there is one, and say so."""
    if not README.exists():
        return []
    save_bytes(readme_with(judged_table(ledger())).encode(), README)
    return [f"wrote {README}"]


def readme_with(text: str) -> str:
    """Return README's text with *text* between its two marks."""
    readme = README.read_text(encoding="utf-8")
    start, end = _MARKS
    if readme.count(start) != 1 or readme.count(end) != 1:
        raise ValueError(f"{README} must hold each of these lines once: {start} and {end}")
    before, rest = readme.split(start)
    return f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"
