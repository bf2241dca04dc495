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
    gaps[level] = stats.paired_difference(uniform, planned) if len(pairs) > 1 else (uniform[0] - planned[0],) * 3
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
Markdown("\n".join(lines))
