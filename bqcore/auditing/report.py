"""An audit as one self-contained HTML page: no request leaves it, and it reads on a telephone, light or dark."""

import html

import numpy as np
import xarray as xr

from ..metrics.masks import boundary_mask

ROWS = 50  # of the longest tables; the result files hold all
_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --back: #ffffff; --faint: #5c5c5c; --line: #d0d0d0;
  --panel: #f4f4f4; --float: #0072b2; --quantized: #c04a00; --both: #1a1a1a; --bad: #b3261e; --good: #1e6b2e; }
@media (prefers-color-scheme: dark) { :root { --text: #ececec; --back: #161616; --faint: #b0b0b0; --line: #444444;
  --panel: #222222; --float: #56b4e9; --quantized: #ff9e57; --both: #ececec; --bad: #ff8a80; --good: #8fd19e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.lead { font-size: 1.15rem; } .faint, figcaption { color: var(--faint); font-size: .9rem; }
.exceeded { color: var(--bad); } .kept { color: var(--good); }
.scroll { overflow-x: auto; margin: .3rem 0 1rem; } .scroll:focus-visible { outline: 2px solid var(--float); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); white-space: normal; vertical-align: bottom; }
th:first-child { text-align: left; white-space: normal; min-width: 4rem; position: sticky; left: 0;
  background: var(--back); }
@media (max-width: 30rem) { th, td { padding: .25rem .3rem; font-size: .875rem; } }
figure { margin: 1rem 0; }
svg { display: block; width: 100%; max-width: 36rem; height: auto; background: var(--panel); }
svg text { fill: var(--text); font: 16px system-ui, sans-serif; }
code { font-size: .9em; }
"""
_RATES = {
    "flip_rate": "flip rate: decisions changed",
    "right_to_wrong": "right → wrong",
    "wrong_to_right": "wrong → right",
    "wrong_to_other": "wrong → other",
    "band_flip_rate": "band flips",
    "pair_order_flip_rate": "pair-order flips",
    "band_pair_order_flip_rate": "band pair-order flips",
    "accuracy_reference": "accuracy, reference",
    "accuracy": "accuracy, candidate",
}
_SPLITS = {"calibration": "calibration", "heldout": "held-out"}


def page(found, title: str, *, limits: dict | None = None, exceeded: tuple[str, ...] = (), command: str = "") -> str:
    """
    Give the page of an audit.

    Parameters
    ----------
    found : bqcore.auditing.comparison.Audit
    title : str
    limits : dict, optional
        Stated limits by measure, shown as kept or exceeded.
    exceeded : lines of :func:`bqcore.auditing.comparison.exceeded`
    command : str
        That made it, shown at the end.
    """
    ds = found.dataset
    parts = [
        f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(found.conclusion)}</p>',
        _verdict(limits, exceeded),
        "".join(f'<p class="faint">Note: {html.escape(note)}</p>' for note in found.notes),
        "<h2>Decisions</h2>", _rates(ds), _margins(ds), _pairs(ds), _samples(ds), _classes(ds), _slices(ds),
        _gradients(ds), _how(ds, command),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _verdict(limits: dict | None, exceeded: tuple[str, ...]) -> str:
    if not limits:
        return ""
    if not exceeded:
        kept = ", ".join(f"{name} ≤ {limit:g}" for name, limit in limits.items())
        return f'<p class="kept"><strong>Within the stated limits</strong>: {html.escape(kept)}.</p>'
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in exceeded)
    return f'<div class="exceeded"><strong>A stated limit is exceeded</strong><ul>{lines}</ul></div>'


def table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    """Give a table that scrolls by itself where the page is narrower; the first cell of a row names it."""
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(c)}</td>" for c in row[1:])
        + "</tr>"
        for row in rows
    )
    caption = html.escape(caption)
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></figure>"
    )


def _rates(ds: xr.Dataset) -> str:
    names = [str(name) for name in ds.split.values][::-1]  # held-out first: the column that a telephone shows
    rows = []
    for name, says in _RATES.items():
        if not np.isfinite(ds[name]).all():
            continue
        rows.append([says, *(_rate(ds.sel(split=split), name) for split in names)])
    sizes = [ds[["samples", "band_samples"]].sel(split=split) for split in names]
    rows.append(["samples (in the band)", *(f"{int(part.samples)} ({int(part.band_samples)})" for part in sizes)])
    caption = "Shares with 95 % Clopper–Pearson intervals and counts. The boundary band: the "
    caption += f"{100 * ds.share:g} % of lowest float margin."
    return table(caption, ["measure", *(_SPLITS[name] for name in names)], rows)


def _rate(part: xr.Dataset, name: str) -> str:
    value, low, high = (float(part[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.4f} [{low:.4f}, {high:.4f}] ({int(part[f'{name}_events'])})"


def _margins(ds: xr.Dataset) -> str:
    """Draw the share of flips in groups of equal size, from the lowest float margin to the highest."""
    n, flips = ds.group_samples.values, ds.group_flips.values
    if not flips.any():
        return ""
    sizes = " or ".join(map(str, dict.fromkeys((n.max(), n.min()))))
    share = flips / n
    top = float(share.max())
    bars = []
    for i, (height, k, of) in enumerate(zip(share / top, flips, n)):
        x, y = 50 + 52 * i, 190 - 140 * height
        bars.append(
            f'<rect x="{x}" y="{y:.1f}" width="44" height="{140 * height:.1f}" fill="var(--quantized)"/>'
            f'<text x="{x + 22}" y="{y - 6:.1f}" text-anchor="middle">{k}</text><title>{k} of {of}</title>'
        )
    labels = (
        '<line x1="45" x2="575" y1="190" y2="190" stroke="var(--text)"/>'
        '<text x="50" y="210">lowest float margin</text><text x="566" y="210" text-anchor="end">highest</text>'
        f'<text x="8" y="18">flips, of {sizes} samples a group</text>'
    )
    says = "Held-out flips in groups of equal size, by growing float top-2 margin."
    label = f"{says} Counts: {', '.join(map(str, flips))}."
    content = "".join(f"<g>{bar}</g>" for bar in bars) + labels
    return _figure(content, "0 0 580 220", label, says)


def _figure(content: str, box: str, label: str, caption: str) -> str:
    return (
        f'<figure><svg viewBox="{box}" role="img" aria-label="{html.escape(label)}">{content}</svg>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _pairs(ds: xr.Dataset) -> str:
    if ds.sizes["pair"] == 0:
        return ""
    rows = [
        [f"{a} → {b}", str(k)]
        for a, b, k in zip(ds.pair_from.values[:ROWS], ds.pair_to.values[:ROWS], ds.pair_flips.values[:ROWS])
    ]
    return "<h2>Class pairs that moved</h2>" + table(
        f"Held-out flips by pair of classes, {len(rows)} of {ds.sizes['pair']} pairs.",
        ["reference → candidate", "flips"],
        rows,
    )


def _samples(ds: xr.Dataset) -> str:
    if ds.sizes["flip"] == 0:
        return ""
    part = ds.isel(flip=slice(0, ROWS))
    columns = (
        part.flipped_sample, part.flipped_margin, part.flipped_moved, part.flipped_from, part.flipped_to,
        part.flipped_target, part.flipped_in_band,
    )  # fmt: skip
    rows = [
        [str(i), f"{m:.4g}", f"{q:.4g}", str(a), str(b), "–" if y < 0 else str(y), "yes" if inside else "no"]
        for i, m, q, a, b, y, inside in zip(*(column.values for column in columns))
    ]
    head = ["sample", "float margin", "same pair, candidate", "reference", "candidate", "true class", "in the band"]
    caption = f"Flipped held-out samples by growing float top-2 margin, {len(rows)} of {ds.sizes['flip']}."
    return "<h2>Samples that flipped</h2>" + table(caption, head, rows)


def _classes(ds: xr.Dataset) -> str:
    change = (
        np.abs(ds.decided_reference - ds.decided_both).values + np.abs(ds.decided_candidate - ds.decided_both).values
    )
    order = [k for k in np.argsort(-change, kind="stable")[:ROWS] if change[k]]
    if not order:
        return ""
    rows = [[str(k), *(str(int(ds[f"decided_{who}"][k])) for who in ("reference", "candidate", "both"))] for k in order]
    caption = f"Held-out decisions for each class, the {len(rows)} of {len(change)} with most changes."
    return "<h2>Classes</h2>" + table(caption, ["class", "reference", "candidate", "both"], rows)


def _slices(ds: xr.Dataset) -> str:
    if "nodes" not in ds.dims:
        return ""
    rows = []
    for split in ds.split.values:
        for nodes in ds.nodes.values:
            part = ds.sel(split=split, nodes=nodes)
            rows.append([
                _SPLITS[str(split)], str(nodes), f"{max(float(part.step_a), float(part.step_b)):.4g}",
                f"{float(part.boundary_jaccard):.4f}", f"{float(part.effective_displacement):.4g}",
                f"{float(part.grid_change):.4f}", *(str(int(k)) for k in part.junctions),
            ])  # fmt: skip
    head = [
        "slice",
        "nodes a side",
        "step h",
        "boundary Jaccard distance",
        "d_eff",
        "grid change",
        "junctions",
        "candidate's",
    ]
    caption = (
        "The plane of the first two principal components of each split. The Jaccard distance grows as the grid is "
        "refined; d_eff, the shift that explains it, in input units, does not while it is well below the step. "
        f"{float(ds.outside.sel(split='heldout')):.0%} of the held-out plane lies where some value is outside the "
        "range that it has in these inputs."
    )
    moved = [
        [_SPLITS[str(split)], *(f"{float(x):.4f}" for x in ds.tolerance_jaccard.sel(split=split))]
        for split in ds.split.values
    ]
    side = float(ds.side.sel(split="heldout"))
    beyond = [f"beyond {float(t):.2g} of the side ({float(t) * side:.3g} held out)" for t in ds.tau]
    told = (
        "Tolerance Jaccard distance: the share of the two boundaries' length that has no counterpart in the other "
        "within a length, here shares of the slice's longer side (in brackets in input units). No grid is in it; the "
        "boundaries are interpolated between logits."
    )
    return "<h2>Slices</h2>" + table(caption, head, rows) + table(told, ["slice", *beyond], moved) + _picture(ds)


def _picture(ds: xr.Dataset) -> str:
    before, after = (boundary_mask(ds.labels.sel(model=name).values) for name in ("reference", "candidate"))
    height, width = before.shape
    held = ds.isel(nodes=0).sel(split="heldout")
    ratio = float(held.step_a / held.step_b)  # cells as wide and high as they are in input units
    colours = {"--float": before & ~after, "--quantized": after & ~before, "--both": before & after}
    paths = "".join(f'<path fill="var({name})" d="{_cells(mask)}"/>' for name, mask in colours.items())
    paths = f'<g transform="scale({ratio:.4f} 1)">{paths}</g>'
    caption = (
        "Boundary masks on the held-out slice: blue, the reference's only; orange, the candidate's only; "
        "black or white, both."
    )
    counts = ", ".join(f"{int(mask.sum())} {says}" for mask, says in zip(colours.values(), ("first", "second", "both")))
    return _figure(paths, f"0 0 {ratio * width:.2f} {height}", f"{caption} Cells: {counts}.", caption)


def _cells(mask: np.ndarray) -> str:
    """Give the marked cells as one SVG path, a rectangle for each run of cells in a row; the first row is lowest."""
    out, height = [], len(mask)
    for row, cells in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], cells, [False]]).astype(np.int8)))
        out += [f"M{a} {height - 1 - row}h{b - a}v1h{a - b}z" for a, b in zip(edges[::2], edges[1::2])]
    return "".join(out)


def _gradients(ds: xr.Dataset) -> str:
    if "displacement" not in ds:
        return ""
    rows = [["first-order boundary displacement, magnitude", *_numbers(ds.displacement)]]
    rows += [["normal variation", *_numbers(ds.normal_variation)]]
    rows += [[f"local logit-margin radius, {name}", *_numbers(ds.radius.sel(model=name))] for name in ds.model.values]
    caption = (
        f"Median and 95th percentile in input units, displacement on the first {int(ds.gradient_samples)} held-out "
        f"samples, the radius on {int(ds.radius_samples)}."
    )
    return "<h2>Local geometry</h2>" + table(caption, ["measure", "median", "95 %"], rows)


def _numbers(values: xr.DataArray) -> list[str]:
    return [f"{float(value):.4g}" if np.isfinite(value) else "–" for value in values]


def _how(ds: xr.Dataset, command: str) -> str:
    lines = [f"Made by <code>{html.escape(command)}</code>." if command else "Made by <code>bqcore.audit</code>."]
    if ds.attrs.get("versions"):
        lines.append(html.escape(ds.versions))
    return '<h2>How it was made</h2><p class="faint">' + " ".join(lines) + "</p>"
