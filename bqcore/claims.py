"""The ledger: every claim of the paper against our runs, judged by the rule that data/claims.yml states."""

import io
import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import xarray as xr
import yaml

from . import plots, runs, stats
from .results import digest, largest_difference, load_dataset, save_bytes, save_dataset

CLAIMS = Path("data/claims.yml")
PUBLISHED = Path("data/results")
README = Path("README.md")
HEADLINE = Path("book/_static/levels.png")
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not attempted")
_MARKS = "<!-- ledger: written by `make publish`, compared by a test -->", "<!-- end of ledger -->"


def load_claims(path: str | Path = CLAIMS) -> tuple[dict, list[dict]]:
    """
    Read the rule and the claims.

    Raises
    ------
    ValueError
        If the file is not of the form that its head describes; the claim is named.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    claim = {}
    try:
        rule, claims = content["rule"], content["claims"]
        [rule[key] for key in ("level", "too_wide")]
        for claim in claims:
            [claim[key] for key in ("id", "dataset", "says", "reported", "kind", "where")]
            if "not_attempted" not in claim:
                needed = {"value": ("from", "select", "span", "means_of"), "direction": ("from", "first", "second")}
                needed["qualitative"] = needed["direction"] + ("most",)
                [claim[key] for key in needed[claim["kind"]]]
            if claim["kind"] == "value" and not isinstance(claim["reported"], (int, float)):
                raise TypeError(f"'reported' ({claim['reported']!r} is no number)")
    except (KeyError, TypeError) as error:
        where = f"claim {claim['id']}" if isinstance(claim, dict) and "id" in claim else "the file or one of its claims"
        raise ValueError(f"{path}: {where} lacks or misstates {error}: its first lines say what is needed.") from None
    names = [claim["id"] for claim in claims]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a claim's id stands twice: {sorted({n for n in names if names.count(n) > 1})}.")
    return rule, claims


def ledger(path: str | Path = CLAIMS, results: str | Path = PUBLISHED) -> list[dict]:
    """
    Judge every claim.

    Parameters
    ----------
    path : file of claims
    results : folder
        Where the result files named by the claims are; the published ones by default.

    Returns
    -------
    rows : list of dict
        id, dataset, says, reported, estimate, low, high, runs, percentile, verdict, command; None where there is none.

    Raises
    ------
    FileNotFoundError, ValueError
        If a result file is missing, damaged, not what the manifest says, or not of the baseline.
    """
    rule, claims = load_claims(path)
    files = {}
    rows = []
    for claim in claims:
        row = {key: claim[key] for key in ("id", "dataset", "says", "reported")}
        row |= dict.fromkeys(("estimate", "low", "high", "runs", "percentile"))
        if "not_attempted" in claim:
            rows.append(row | {"verdict": "not attempted", "command": None})
            continue
        name = claim["from"]
        if name not in files:
            files[name] = load_published(name, results)
            if replace(runs.Spec(**json.loads(files[name].attrs["spec"])), seed=0) != runs.Spec():
                made_by = files[name].attrs["command"]
                raise ValueError(f"{Path(results) / name} is not of the baseline: {made_by} made it.")
        judge = _judge_value if claim["kind"] == "value" else _judge_direction
        try:
            judged = judge(claim, files[name], rule)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: claim {claim['id']} cannot be judged from {name}: {error}") from error
        rows.append(row | judged | {"command": files[name].attrs["command"]})
    return rows


def reported_values(path: str | Path = CLAIMS) -> dict[tuple[str, int], float]:
    """Give the paper's single numbers on the digits levels by measure and bits, for figures."""
    return {
        (claim["select"]["measure"], claim["select"]["bits"]): claim["reported"]
        for claim in load_claims(path)[1]
        if "bits" in claim.get("select", {}) and claim["from"] == "digits_levels.nc"
    }


def load_published(name: str, folder: str | Path = PUBLISHED) -> xr.Dataset:
    """Read a published result file after comparing it with the manifest beside it, if there is one."""
    path, manifest = Path(folder) / name, Path(folder) / "manifest.json"
    dataset = load_dataset(path)
    if manifest.exists():
        stated = json.loads(manifest.read_text()).get(name, {}).get("sha256")
        if stated != digest(path):
            raise ValueError(
                f"{path} is not the file that {manifest} describes: restore it from git, or `make publish`."
            )
    return dataset


def _select(dataset: xr.Dataset, select: dict) -> xr.DataArray:
    where = {key: value for key, value in select.items() if key != "measure"}
    return dataset[select["measure"]].sel(where)


def _judge_value(claim: dict, dataset: xr.Dataset, rule: dict) -> dict:
    """Judge one number by the prediction interval of our runs."""
    selected = _select(dataset, claim["select"])
    loose = sorted(set(selected.dims) - {"seed", claim.get("pool")})
    if loose:
        raise ValueError(f"its select leaves {', '.join(loose)} open: name one, or pool it.")
    values = selected.values.ravel()
    interval = stats.prediction_interval(values, claim["means_of"], rule["level"])
    others = {key: value for key, value in claim["select"].items() if key != claim["span"]}
    medians = _select(dataset, others).median("seed")
    if claim["span"] == "bits":
        medians = medians.drop_sel(bits=runs.FLOAT)
    span = float(medians.max() - medians.min())
    if not interval.low <= claim["reported"] <= interval.high:
        verdict = "not reproduced"
    elif interval.high - interval.low > rule["too_wide"] * span:
        verdict = "inconclusive"
    else:
        verdict = "reproduced"
    return interval._asdict() | {
        "runs": dataset.sizes["seed"],
        "percentile": stats.percentile(values, claim["reported"]),
        "verdict": verdict,
    }


def _judge_direction(claim: dict, dataset: xr.Dataset, rule: dict) -> dict:
    """Judge a direction by a paired test over seeds and, where most is stated, the share itself."""
    first, second = (_select(dataset, claim[key]) for key in ("first", "second"))
    if "mean_over" in claim:
        first, second = first.mean(claim["mean_over"]), second.mean(claim["mean_over"])
    interval = stats.paired_difference(first.values, second.values, rule["level"])
    if interval.high <= 0:
        verdict = "not reproduced"
    elif interval.low > 0:
        verdict = "reproduced"
    else:
        verdict = "inconclusive"
    if "most" in claim:
        share = stats.prediction_interval(first.values, 1, rule["level"])
        if share.high < claim["most"]:
            verdict = "not reproduced"
        elif share.low <= claim["most"] and verdict == "reproduced":
            verdict = "inconclusive"
    percentile = stats.percentile((first - second).values, 0.0)
    return interval._asdict() | {"runs": dataset.sizes["seed"], "percentile": percentile, "verdict": verdict}


def table(rows: list[dict]) -> str:
    """Give the ledger as a Markdown table, which also reads well in a terminal."""
    head = ("claim", "data set", "the paper says", "reported", "ours", "95 % interval", "runs", "percentile", "verdict")
    body = [
        (
            row["id"], row["dataset"], row["says"], _number(row["reported"]), _number(row["estimate"]),
            f"{_number(row['low'])} to {_number(row['high'])}" if row["low"] is not None else "",
            _number(row["runs"]), f"{row['percentile']:.0f}" if row["percentile"] is not None else "", row["verdict"],
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in [head, *body]]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def judged_table(rows: list[dict]) -> str:
    """Give the table of the claims that have a verdict, and say in a line how many have none yet."""
    judged = [row for row in rows if row["verdict"] != "not attempted"]
    rest = len(rows) - len(judged)
    return f"{table(judged)}\n\n{rest} more claims are not attempted yet; `python -m bqcore ledger` lists them all."


def _number(value) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def shown(dataset: xr.Dataset, published: str, folder: str | Path = PUBLISHED) -> str:
    """
    Say in one line of Markdown where a figure or table comes from, and how far the published result differs.

    Parameters
    ----------
    dataset : xarray.Dataset
        A fresh run, or several.
    published : str
        Name of the published result file to compare with.
    """
    spec = json.loads(dataset.attrs["spec"])
    line = f"Fresh, by `{dataset.attrs['command']}`, from the {spec['dataset']} set of scikit-learn, in `{runs.FRESH}`."
    if not (Path(folder) / published).exists():
        return line + " Nothing is published yet."
    theirs = load_published(published, folder)
    baseline = {
        key: value for key, value in json.loads(theirs.attrs["spec"]).items() if key not in ("seed", "bits", "nodes")
    }
    if any(spec[key] != value for key, value in baseline.items()):
        return (
            line + f" These parameters are not those of the published `{Path(folder) / published}`: nothing to compare."
        )
    ours = dataset if "seed" in dataset.dims else dataset.expand_dims("seed")
    theirs = theirs if "seed" in theirs.dims else theirs.expand_dims("seed")
    shares = [
        n
        for n in ours.data_vars
        if n in theirs and ours[n].attrs.get("units", "") in ("1", "share", "share of nodes", "share of the band")
    ]
    common = np.intersect1d(ours.seed, theirs.seed)
    if not len(common):
        return line + f" The published `{Path(folder) / published}` holds other seeds: nothing to compare."
    gap, where = largest_difference(ours[shares], theirs[shares])
    return line + (
        f" Published: `{Path(folder) / published}`; over the {len(common)} seed{'s'[: len(common) - 1]} in both, "
        + (
            f"shares and distances differ by at most {gap:.2g} (`{where}`)."
            if gap
            else "all shares and distances are equal."
        )
    )


def publish() -> list[str]:
    """
    Make the fresh baseline runs the published ones: data/results with its manifest, and the table in README.

    Returns
    -------
    lines : list of str
        What was written.

    Raises
    ------
    ValueError
        If the measuring code has uncommitted changes, or the baseline has not been run.
    """
    spec = runs.Spec()
    joined = spec.folder() / f"seeds-000-{runs.SEEDS - 1:03d}.nc"
    if not joined.exists():
        raise ValueError(f"The baseline has not been run with this code: `{spec.command(runs.SEEDS)}` first.")
    changed = _git("status", "--porcelain", "--", "bqcore", "pyproject.toml", str(CLAIMS))
    if changed:
        raise ValueError(
            f"Uncommitted changes ({changed.splitlines()[0].strip()}): commit first, so that the manifest can name one."
        )
    files = {"digits_levels.nc": load_dataset(joined), "digits_slice.nc": runs.run(spec)}
    manifest = {}
    for name, dataset in files.items():
        save_dataset(dataset, PUBLISHED / name)
        manifest[name] = {
            "sha256": digest(PUBLISHED / name), "command": dataset.attrs["command"], "spec": asdict(spec),
            "commit": _git("rev-parse", "HEAD"),
        }  # fmt: skip
    save_bytes((json.dumps(manifest, indent=2) + "\n").encode(), PUBLISHED / "manifest.json")
    save_bytes(_headline(files["digits_slice.nc"]), HEADLINE)
    written = [str(PUBLISHED / name) for name in [*files, "manifest.json"]] + [str(HEADLINE)]
    if README.exists():
        save_bytes(readme_with(judged_table(ledger())).encode(), README)
        written.append(str(README))
    return [f"wrote {name}" for name in written]


def _headline(run: xr.Dataset) -> bytes:
    """Draw the picture that README opens with."""
    picture = io.BytesIO()
    plots.levels_figure(run.sel(bits=[runs.FLOAT, 8, 4])).savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def readme_with(text: str) -> str:
    """Give README's text with *text* between its two marks."""
    readme = README.read_text(encoding="utf-8")
    start, end = _MARKS
    if readme.count(start) != 1 or readme.count(end) != 1:
        raise ValueError(f"{README} must hold each of these lines once: {start} and {end}")
    before, rest = readme.split(start)
    return f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed ({done.stderr.strip()}): publish from a clone.")
    return done.stdout.strip()
