# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (audit-measured)=
# # An audit, measured
#
# **Question.** What does an audit say of quantizers that people ship with, which layer is to blame, and do bits by layer keep
# more decisions than the same bytes spread evenly?
#
# [](audit-your-own) shows how to do this on a model of one's own. Here it is done on digits networks, or on the classifier named
# by the parameters. Every table and figure below is computed by this notebook, as `python notebooks/execute.py 07_audit` runs it.

# %% [markdown]
# ## Parameters
#
# `reference` and `heldout` name another classifier and its data as `python -m bqcore audit` takes them (`module:factory`, with
# `weights` as .safetensors; .npz with inputs and classes); left empty, a digits network of `width` hidden units is trained on
# half of the set for `epochs`, with a quarter for calibration and a quarter held out. `seeds` networks are compared, from
# `seed` on.

# %% tags=["parameters", "own-parameters"]
reference = ""  # the float classifier as module:factory; empty for a digits network trained here
weights = ""  # its weights, a .safetensors file
calibration = ""  # its calibration inputs and classes, an .npz file
heldout = ""  # its held-out inputs and classes, an .npz file
bits = 4  # of the one candidate, and of the layers to blame
seed = 0  # of the first digits network
seeds = 16  # digits networks that the comparisons are made over; cost: some seconds each
width = 64  # hidden units of the digits networks; cost: grows with it
epochs = 60  # passes over their training set; cost: grows with it
nodes = 101  # a side of the slice of the one candidate; cost: grows with its square
share = 0.2  # of the inputs, those of least margin, in the boundary band

# %% tags=["hide-input"]
import contextlib
import io
import json

import numpy as np

import bqcore
from bqcore import backends, data, files, models, plots, quantize, stats, train


def digits(seed: int):
    """Give a trained network, a calibration split and a held-out split."""
    split = data.digits(seed)
    (x, y), half = split[:2], len(split.train_inputs) * 2 // 3
    model = train.fit(models.mlp((64, width, 10), seed), x[:half], y[:half], epochs=epochs, seed=seed)
    return model, (x[half:], y[half:]), (split.test_inputs, split.test_classes)


model, cal, held = digits(seed)
if reference:
    model = files.read_classifier(reference, weights or None)
    cal, held = files.read_split(calibration), files.read_split(heldout)

# %% [markdown]
# ## One candidate
#
# PTQ-W of one network, judged against its float original.

# %%
candidate = quantize.quantize_model(model, bits)
found = bqcore.audit(model, candidate, cal, held, nodes=nodes, share=share)
found

# %% tags=["hide-input"]
import pandas as pd

from bqcore.pooled import RATES

rows = {}
for name, says in RATES.items():
    part = found.dataset[[name, f"{name}_low", f"{name}_high", f"{name}_events"]]
    rows[says] = [
        f"{float(p[name]):.4f} [{float(p[f'{name}_low']):.4f}, {float(p[f'{name}_high']):.4f}] ({int(p[f'{name}_events'])})"
        for p in (part.sel(split=split) for split in ("calibration", "heldout"))
    ]
frame = pd.DataFrame.from_dict(rows, orient="index", columns=["calibration", "held-out"]).rename_axis("measure")
plots.Table(frame, "Decisions of one candidate: shares, 95 % Clopper–Pearson intervals, and counts.", "table-audit")

# %% mystnb={"figure": {"caption": "Held-out flips of one candidate in ten groups of equal size, by growing float top-2 margin: decisions move where the margin is low.", "name": "figure-audit-margins"}} tags=["hide-input"]
import matplotlib.pyplot as plt

with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(figsize=(7, 2.8))
    flips = found.dataset.group_flips.values
    axes.bar(range(1, len(flips) + 1), flips, color=plots.QUANTIZED_COLOUR)
    axes.set(xlabel="group of samples, by growing float margin", ylabel="flips", xticks=range(1, len(flips) + 1))
plt.close(figure)
figure

# %% [markdown]
# ## Which bit-width
#
# A sweep goes down from the most bits and stops before its rule's limit is passed on the calibration split; the held-out split only
# says what came of it. The choice by accuracy alone stands beside it.

# %%
sweep = bqcore.sweep(model, cal, held, rule="band_flips", limit=0.05, share=share)
sweep

# %% tags=["hide-input"]
ds = sweep.dataset
columns = {
    f"{title}, {where}": [f"{v:.4f}" for v in ds[name].sel(split=split).values]
    for name, title in (("accuracy", "accuracy"), ("flip_rate", "flips"), ("band_flip_rate", "band flips"))
    for split, where in (("calibration", "calibration"), ("heldout", "held-out"))
}
frame = pd.DataFrame({"bytes": ds.bytes.values} | columns, index=pd.Index(ds.bits.values, name="bits"))
plots.Table(frame, "PTQ-W of one network by bits.", "table-audit-sweep")

# %% [markdown]
# ## Which layer is to blame
#
# One layer at a time goes to the same bits while the others stay in float.

# %% tags=["hide-input"]
blame = bqcore.blame_layers(model, held, bits=bits, share=share)
frame = pd.DataFrame(
    {
        "weights": blame.weights.values,
        "flips": [f"{v:.4f}" for v in blame.flip_rate.values],
        "band flips": [f"{v:.4f}" for v in blame.band_flip_rate.values],
        "margin change, median": [f"{v:.3f}" for v in blame.margin_change.sel(quantile=0.5).values],
        "displacement, median": [f"{v:.4f}" for v in blame.displacement.sel(quantile=0.5).values],
    },
    index=pd.Index(blame.layer.values, name="layer"),
)
plots.Table(frame, "One layer quantized at a time, held-out, the worst first.", "table-audit-layers")

# %% [markdown]
# ## Bits by layer, at equal bytes
#
# A plan gives each layer bits of its own within the bytes of a uniform width. Over several networks, the difference to uniform bits
# in the held-out boundary band, network by network. One network is one draw: a band holds few samples, and a single network may
# flip more of them at one more bit, so read the intervals.

# %% tags=["hide-input"]
cases = [(model, cal, held)] if reference else [digits(seed + i) for i in range(seeds)]
rows, gaps = [], {}
for level in (6, 5, 4, 3):
    pairs = []
    for one, one_cal, one_held in cases:
        plan = bqcore.plan_bits(one, one_cal, one_held, budget=bqcore.model_bytes(one, level), share=share)
        pairs.append(plan.dataset.band_flip_rate.sel(split="heldout").values)
    planned, uniform = (list(values) for values in zip(*pairs))
    gap = f"{uniform[0] - planned[0]:.4f}"
    if len(pairs) > 1:  # one network has no interval
        gaps[level] = stats.paired_difference(uniform, planned)
        gap = "{:.4f} [{:.4f}, {:.4f}]".format(*gaps[level])
    rows.append([f"{sum(uniform) / len(pairs):.4f}", f"{sum(planned) / len(pairs):.4f}", gap])
frame = pd.DataFrame(rows, index=pd.Index([6, 5, 4, 3], name="bits"), columns=["uniform", "plan", "uniform less plan"])
plots.Table(
    frame,
    "Band flips of uniform bits and of the plan within their bytes: means over networks, paired difference with its 95 % interval.",
    "table-audit-plan",
)

# %% [markdown]
# ## Quantizers that people ship with
#
# Each applied to the same networks. Weight-only methods (PTQ-W, torchao, brevitas) leave activations in float; dynamic and static
# ones round them to int8 as well, by the range of the batch or of the calibration split. Bytes are those of the whole model,
# weights packed with their steps and the rest as float32.

# %% tags=["hide-input"]
shelves, absent = [], {}
# torch prints the traceback of any error inside a converted model, also of one that the audit expects and tells of.
with contextlib.redirect_stderr(io.StringIO()):
    for one, one_cal, one_held in cases[:8]:
        for name, other in backends.shelf(one, *(one_cal if isinstance(one_cal, tuple) else [one_cal])).items():
            if isinstance(other, str):
                absent[name] = other
                continue
            d = bqcore.audit(one, other.model, None, one_held, nodes=0, share=share).dataset.sel(split="heldout")
            shelves.append({
                "quantizer": name, "bytes": other.bytes, "loss": float(d.accuracy_reference - d.accuracy),
                "flips": float(d.flip_rate), "band": float(d.band_flip_rate),
                "displacement": float(d.displacement.sel(quantile=0.5)),
            })  # fmt: skip
shelves = pd.DataFrame(shelves)
means = shelves.groupby("quantizer").mean().sort_values(["bytes", "band"])
form = {"bytes": "{:.0f}", "loss": "{:.4f}", "flips": "{:.4f}", "band": "{:.4f}", "displacement": "{:.4f}"}
frame = pd.DataFrame({title: means[title].map(f.format) for title, f in form.items()}, index=means.index).rename(
    columns={"loss": "accuracy lost", "band": "band flips", "displacement": "displacement, median"}
)
plots.Table(
    frame,
    "Quantizers at their bytes, held-out, means over networks; those of equal bytes stand together.",
    "table-audit-shelf",
)

# %% tags=["remove-input"]
from IPython.display import Markdown

Markdown("\n".join(f"- Left out: {name}. {reason}" for name, reason in absent.items()) or "None is left out.")

# %% [markdown]
# (audit-published)=
# ## The same on MNIST, Fashion-MNIST and CIFAR-10
#
# These networks need the archives and minutes, so their numbers are published ones. Each column is one network, the published
# checkpoint of its study. An asterisk marks, among the quantizers of as many bits **at equal bytes**, the one of fewest flips and
# every one that the same held-out inputs cannot tell from it (McNemar's exact test at 5 %, each pair by itself). At equal bytes
# is what takes at most a tenth more than PTQ-W with a step per channel; the others, such as torchao where it leaves convolutions
# in float, are in brackets. One network is one draw: read along the rows.

# %% tags=["hide-input"]
from bqcore import publishing

kept = publishing.load_published(publishing.QUANTIZERS)
networks, weight_bits = kept.network.values.tolist(), kept.weight_bits.isel(network=0)
equal, marked = {}, {}
for network in networks:
    for level in (8, 4):
        part = kept.sel(network=network, quantizer=weight_bits == level)
        most = 1.1 * float(part.bytes.sel(quantizer=f"PTQ-W, {level} bits, a step per channel"))
        same = (part.missing == "") & (part.bytes <= most)
        best = part.isel(quantizer=int(part.flip_rate.where(same).argmin("quantizer"))).flipped
        for name in part.quantizer.values:
            flipped = part.flipped.sel(quantizer=name)[best >= 0]
            apart = stats.mcnemar(flipped == 1, best[best >= 0] == 1).p_value < 0.05
            equal[name, network] = bool(same.sel(quantizer=name))
            marked[name, network] = equal[name, network] and not apart


def cell(name: str, network: str) -> str:
    """Write flips and band flips."""
    part = kept.sel(network=network, quantizer=name)
    if part.missing.item():
        return "–"
    text = f"{float(part.flip_rate):.4f}, {float(part.band_flip_rate):.3f}"
    return f"{text} *" if marked[name, network] else text if equal[name, network] else f"({text})"


index = pd.Index(kept.quantizer.values, name="quantizer")
frame = pd.DataFrame({network: [cell(name, network) for name in index] for network in networks}, index=index)
frame.loc["held-out inputs"] = [str(int((kept.flipped.sel(network=name)[0] >= 0).sum())) for name in networks]
plots.Table(frame, "Held-out flips and band flips of published networks by quantizer.", "table-audit-published")

# %% mystnb={"figure": {"caption": "Held-out flips in the boundary band by quantizer, a mark for each published network, at 8 bits (above) and at 4 (below). Hollow marks are not at equal bytes.", "name": "figure-audit-published"}} tags=["hide-input"]
with plt.rc_context(plots.STYLE):
    figure, panels = plt.subplots(2, 1, figsize=(7.5, 7.5), height_ratios=[11, 5])
    for axes, level in zip(panels, (8, 4)):
        names = index[weight_bits.values == level]
        for k, network in enumerate(networks):
            look = {"marker": "osD^v<>"[k], "color": plt.cm.viridis(0.9 * k / max(1, len(networks) - 1))}
            moved = kept.band_flip_rate.sel(network=network, quantizer=list(names)).values
            full = np.array([equal[name, network] for name in names])
            rows = np.arange(len(names)) + 0.09 * (k - (len(networks) - 1) / 2)
            axes.plot(moved[full], rows[full], linestyle="none", label=network, **look)
            axes.plot(moved[~full], rows[~full], linestyle="none", markerfacecolor="none", **look)
        axes.set(yticks=range(len(names)), yticklabels=names, xlabel=f"band flips at {level} bits")
        axes.set_xscale("symlog", linthresh=0.01)  # a logarithm that has a place for 0
        ticks = [0, 0.01, 0.03, 0.1, 0.3]
        axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(-0.001, 1), xticks=ticks, xticklabels=ticks)
        axes.minorticks_off()
        for row in range(1, len(names)):
            axes.axhline(row - 0.5, color="#cccccc", linewidth=0.6)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.close(figure)
figure

# %% [markdown]
# What they take: the packed model as above, and beside it the file that the quantizer's own package writes. PTQ-W and brevitas keep
# rounded weights as floats, and torchao stores each 4-bit weight in a byte, so their files are larger than they would have to be.

# %% tags=["hide-input"]
frame = pd.DataFrame(
    {
        network: [
            "–" if part.missing.item() else f"{int(part.bytes) / 1000:.1f}, {int(part.stored) / 1000:.1f}"
            for part in (kept.sel(network=network, quantizer=name) for name in index)
        ]
        for network in networks
    },
    index=index,
)
frame.loc["float32"] = [f"{int(size) / 1000:.1f}" for size in kept.float_bytes.values]
plots.Table(frame, "Thousands of bytes: the packed model, and the file that its package writes.", "table-audit-bytes")

# %% [markdown]
# Bits by layer within the bytes of uniform ones, spent in the same way by five rankings of the layers: none, which is uniform bits;
# the margins' noise in the boundary band, which `bqcore.plan_bits` goes by; calibration accuracy lost, the measure of
# accuracy-driven searches; and what ONNX Runtime's debugging of quantized models (`qdq_loss_debug`) says of weights and of
# activations. Where one layer holds nearly all weights, uniform bits are often the only way to spend the bytes. NNCF's own search
# knows int8 and float alone: it is the row *accuracy control* above.

# %% tags=["hide-input"]
rows = {
    f"{network}, {budget} bits": [
        "–" if np.isnan(value) else f"{value:.4f}"
        for value in kept.plan_band_flip_rate.sel(network=network, budget=budget).values
    ]
    for network in networks
    for budget in kept.budget.values
}
frame = pd.DataFrame.from_dict(rows, orient="index", columns=kept.ranking.values.tolist()).rename_axis("bytes of")
plots.Table(frame, "Held-out band flips of plans of bits by layer within equal bytes.", "table-audit-rankings")

# %% tags=["remove-input"]
from bqcore import quantizers

versions = ", ".join(f"{name} {version}" for name, version in json.loads(kept.versions).items() if version)
Markdown(
    "\n".join([
        f"Published: `{publishing.PUBLISHED / publishing.QUANTIZERS}`, by `{kept.command}`, with {versions}.", "",
        *(f"- {line}" for line in quantizers.left_out(kept)),
    ])
)  # fmt: skip

# %% [markdown]
# ## What was seen
#
# Intervals are paired by network and stand one at a time: they are not widened for the number of comparisons, so one that just
# misses 0 is a hint to repeat with more networks (`seeds`), not a ranking.

# %% tags=["remove-input"]
lines = [f"- {found.conclusion}", f"- {sweep.conclusion}"]
if len(cases) > 1:
    by = shelves.pivot_table(index=shelves.index // means.shape[0], columns="quantizer", values="band")
    for other, ours in (
        ("torchao, int4, a step per channel", "PTQ-W, 4 bits, a step per channel"),
        ("ONNX Runtime static, int8", "PTQ-W, 8 bits, a step per tensor"),
    ):
        gap = stats.paired_difference(by[other].values, by[ours].values)
        lines.append(
            f"- {other}, changes {by[other].mean():.4f} of the band in {means.bytes[other]:.0f} bytes, {ours}, "
            f"{by[ours].mean():.4f} in {means.bytes[ours]:.0f}: a difference of {gap.estimate:.4f} "
            f"[{gap.low:.4f}, {gap.high:.4f}] over {len(by)} networks."
        )
    told = [str(level) for level, gap in gaps.items() if gap.low > 0]
    lines.append(
        f"- Bits by layer keep more of the band than uniform bits do at {', '.join(told)} bits."
        if told
        else "- With these networks bits by layer cannot be told from uniform bits at equal bytes: every interval holds 0."
    )
for level in (8, 4):
    counts = {}
    for name in index[weight_bits.values == level]:
        among = [network for network in networks if equal[name, network]]
        if among:
            counts[name] = sum(marked[name, network] for network in among), len(among)
    best = sorted(counts, key=lambda name: (-counts[name][0] / counts[name][1], -counts[name][1]))
    lines.append(
        f"- Fewest flips at {level} bits, or not to be told from them, by published networks on which they are at equal bytes: "
        + "; ".join(f"{name}: {counts[name][0]} of {counts[name][1]}" for name in best)
        + "."
    )
for name in kept.ranking.values[1:]:
    fewer = more = other = 0
    for network in networks:
        for budget in kept.budget.values:
            plan = kept.sel(network=network, budget=budget)
            uniform, own = (plan.plan_flipped.sel(ranking=way).values for way in ("uniform", name))
            told = stats.mcnemar(own[own >= 0] == 1, uniform[own >= 0] == 1)
            other += bool(plan.plan_bits.sel(ranking=name) not in ("", plan.plan_bits.sel(ranking="uniform")))
            fewer += told.p_value < 0.05 and told.only_first < told.only_second
            more += told.p_value < 0.05 and told.only_first > told.only_second
    lines.append(
        f"- Bits by {name} differ from uniform ones at {other} of {len(networks) * kept.sizes['budget']} budgets of published "
        f"networks; beyond chance (McNemar), they flip fewer decisions at {fewer} and more at {more}."
    )
Markdown("\n".join(lines))
