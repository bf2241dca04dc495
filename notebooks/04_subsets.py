# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (subsets)=
# # CIFAR-10 subsets: stopping on a small CNN

# %% mystnb={"code_prompt_show": "Parameters: what you can change, and what it costs"} tags=["parameters", "own-parameters", "hide-input"]
results = "published"  # published, or fresh to run the baselines here; cost: of fresh, minutes to an hour
seeds = 0  # of fresh runs; 0 stands for the baseline's own number; cost: of fresh, grows with it
spare = 0.5  # a rule's limit is the loosest that keeps at most this fraction of the calibration flips of the choice by accuracy
accuracy_drops = [0.0, 0.005, 0.01, 0.02]  # limits on the accuracy lost on calibration data
flip_limits = [0.0025, 0.005, 0.01, 0.02]  # limits on the calibration flip rate
band_limits = [0.01, 0.02, 0.05, 0.1]  # limits on the calibration flip rate in the boundary band
jaccard_limits = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # limits on either Jaccard distance of the calibration slice

# %% tags=["remove-cell"]
from studies import ledger, specs, stopping, sweeps
from studies.figures import inputs, setup, strips, subsets, tables, tolerance
from studies.figures import stopping as stopping_figures
from studies.figures.source_data import attach

inputs.check_names()
limits = {"accuracy": accuracy_drops, "flips": flip_limits, "band flips": band_limits}
limits |= {"jaccard": jaccard_limits, "beyond τ": jaccard_limits}
inputs.check_limits(results, seeds, spare, limits)
(many,) = inputs.stopping_runs(["cifar-10"], results, seeds).values()
chosen = stopping_figures.usual_choices(many, spare, limits)
claims = {row["id"]: row for row in ledger.kept()}
paper = ledger.reported()

# %% tags=["remove-input"]
subsets.answer(many, chosen, claims)

# %% mystnb={"figure": {"caption": "Left: held-out decisions that change by bit-width, a pale dot a network, the mean as a line. Right: the Jaccard distance of the same networks on two rulers. Diamonds are the paper's values. The flips agree; the distances agree on the coarse, thick ruler only.", "name": "figure-subset-levels"}} tags=["remove-input"]
subsets.levels_figure(many, {8: paper["C5"], 6: paper["C2"]}, {8: paper["C6"], 6: paper["C3"]})

# %% [markdown]
# ## The question
#
# On subsets of CIFAR-10 the paper chooses {claim}`C1 reported` bits by accuracy and {claim}`C4 reported` by boundary-aware
# stopping, with four times fewer flips. Do its bits, flips and Jaccard distances come out together? Which choice that the
# abstract leaves open decides it?
#
# ## How it was measured
#
# A small CNN learns from 5,000 images of the official training set. Another 600 calibrate, and 600 of the official test set
# are held out. The paper's flip rates are whole numbers of 600 decisions. Each seed draws the images and the weights anew.
#

# %%
setup.stated(specs.baseline("stopping", "cifar-10"))

# %% [markdown]
# The [setup of the subset](setup-cifar-10) says whose choice each of these is.

# %% [markdown]
# ### One network, by hand
#
# The weights of the first network are in the repository, so that this works without the CIFAR-10 archive.

# %%
import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.colors import ListedColormap

import bqcore as bq
from bqcore.metrics import masks

network = sweeps.classifier(specs.baseline("stopping", "cifar-10"))
network

# %% [markdown]
# Two convolutions and two linear layers. Each of these four weight tensors gets one step when it is quantized:

# %%
levels = {bits: bq.quantize_model(network, bits) for bits in (8, 6, 4)}
for bits in levels:
    kilobytes = bq.model_bytes(network, bits) / 1000
    step = float(bq.step_size(network[0].weight, bits))
    print(f"{bits} bits: {kilobytes:.0f} kB, first layer in steps of {step:.4f}")

# %% [markdown]
# Two bits less make the step four times as wide. What does that do to decisions? The logits of the first 300 held-out
# images are kept with the book's [explorer](the-explorer), by bit-width.

# %%
kept = xr.load_dataset("data/explorer/cifar-10-cnn.nc")
whole = kept.logits.sel(bits=32).values
for bits in levels:
    moved = kept.logits.sel(bits=bits).values
    flips, in_band = bq.flips(whole, moved).rate, bq.band_flip_rate(whole, moved, 0.2)
    print(f"{bits} bits: {flips:.3f} of all decisions change, {in_band:.3f} in the band")

# %% [markdown]
# Most decisions that change lie in the {term}`low-margin boundary band`, the fifth of the images with the smallest float margin.
#
# The Jaccard distance needs a {term}`slice <PCA slice>`: the plane of the first two principal components of the held-out images. The
# network labels each node of a grid on it, once in float and once for each bit-width.

# %%
parts = [kept[name].values for name in ("origin", "axes", "low", "high", "explained")]
plane = bq.Plane(*parts, (3, 32, 32))


def mask_of(model):
    """Mark the cells that a model's decision boundary crosses, on 41 nodes a side."""
    return bq.boundary_mask(bq.label_grid(model, plane, 41))


whole, thin = mask_of(network), {bits: mask_of(model) for bits, model in levels.items()}

# %% mystnb={"figure": {"caption": "Boundary masks of one network on its slice, cells of 41 nodes a side. Blue: on the float boundary only; orange: on the quantized one only; black: on both. At 8 bits most cells are shared, at 4 bits few are.", "name": "figure-subset-masks"}}
figure, panels = plt.subplots(1, 3, figsize=(9, 3.1))
colours = ListedColormap(["white", "#0072b2", "#d55e00", "#1a1a1a"])
cells = {bits: whole + 2 * mask for bits, mask in thin.items()}
for axes, bits in zip(panels, cells):
    axes.imshow(cells[bits], cmap=colours, vmin=0, vmax=3, origin="lower")
    axes.set(title=f"{bits} bits", xticks=[], yticks=[])
plt.close(figure)
dims = {f"cells_{bits}_bits": (("b", "a"), cell) for bits, cell in cells.items()}
shares = {f"of_both_{b}_bits": float((c == 3).sum() / (c > 0).sum()) for b, c in cells.items()}
attach(figure, xr.Dataset(dims | shares))

# %% [markdown]
# The distance is the fraction of marked cells that only one of the two masks has. Thickening both masks by a cell is a
# coarser ruler for the same boundaries:

# %%
for bits in (8, 6):
    distance = bq.boundary_jaccard(whole, thin[bits]).distance
    pair = masks.thickened(whole), masks.thickened(thin[bits])
    thick = bq.boundary_jaccard(*pair).distance
    print(f"{bits} bits: J = {distance:.3f} by thin masks, {thick:.3f} by thick ones")

# %% [markdown]
# The paper reports {claim}`C6 reported` at 8 bits and {claim}`C3 reported` at 6. The thin masks are far from both.
#
# ## The paper beside ours
#
# Each claim has a strip, which shows where the paper's number lies among our runs. [](the-ledger) says how the verdicts are made.

# %% mystnb={"figure": {"caption": "The paper's numbers (dashed) among our runs (dots), with the 95 % interval of a run. The interval of the flips holds the paper's number, and the values of other bit-widths too; the interval of the Jaccard distance after stopping (C6) does not hold the paper's number.", "name": "figure-subset-strips"}}
strips.strips(["C1", "C2", "C3", "C4", "C5", "C6"], list(claims.values()))

# %% [markdown]
# Now what each rule chooses. Each rule looks at calibration data only. Its limit is the loosest that at least halves the
# calibration flips of the choice by accuracy.

# %%
tables.Table(
    subsets.choices_table(many, chosen, paper),
    f"CIFAR-10 subset: bits chosen by each rule, and held-out measures there. "
    f"Means ± standard deviations over {many.sizes['seed']} networks. "
    "The paper does not state its ruler, so both columns have its distance.",
    "table-p4",
)

# %% [markdown]
# Every rule that looks at the boundary ends near 8 bits. It changes fewer decisions because it takes more bytes:

# %% mystnb={"figure": {"caption": "Held-out flips against model size. The line is one bit-width for all networks; marks are what each rule chooses, larger ones below others at the same place. No rule is clearly below the line.", "name": "figure-subset-front"}}
stopping_figures.front_figure({"small CNN": many}, {"small CNN": chosen})

# %% [markdown]
# ## What changes the answer
#
# **The ruler.** A coarse grid with a thickened mask gives distances of the paper's size for the very same networks, as the first
# figure shows; the supplement has more grids.
#
# **Other open choices.** One choice of the baseline is changed at a time.

# %%
variants = inputs.variants("cifar-10", results)
changed = subsets.variants_data(variants, spare, limits)

# %% mystnb={"figure": {"caption": "What the choice by accuracy (squares) and stopping by Jaccard (circles) give when one choice is changed, a row a change. Small dots are networks, large marks means, dashed lines the paper's values. No change moves the Jaccard distance to the paper's.", "name": "figure-subset-variants"}}
subsets.variants_figure(
    changed,
    {
        "chosen_bits": {"by accuracy": paper["C1"], "after stopping": paper["C4"]},
        "flip_rate": {"by accuracy": paper["C2"], "after stopping": paper["C5"]},
        "boundary_jaccard": {"by accuracy": paper["C3"], "after stopping": paper["C6"]},
    },
)

# %% [markdown]
# ## What was seen

# %% tags=["remove-input"]
subsets.summary(many, changed)

# %% tags=["remove-input"]
stopping_figures.summary({"CIFAR-10 subset": many}, {"CIFAR-10 subset": chosen})

# %% [markdown]
# [](the-ledger) has the verdicts on C1 to C6, which are judged on the published runs.
#
# ## Supplement

# %% mystnb={"code_prompt_show": "The ruler, grid by grid", "code_prompt_hide": "Hide", "figure": {"caption": "Held-out Jaccard distance at 8 and 6 bits against the grid, for one-cell masks and thickened ones; a thin line a network. Dotted: the paper's values, whose grid and mask are not stated.", "name": "supplement-subset-ruler"}} tags=["hide-output"]
stopping_figures.ruler_figure(many, {8: paper["C6"], 6: paper["C3"]})

# %% mystnb={"code_prompt_show": "The reduced residual network in place of the CNN", "code_prompt_hide": "Hide"} tags=["hide-output"]
(residual,) = inputs.stopping_runs(["cifar-10"], results, seeds, "resnet").values()
rules = stopping_figures.usual_choices(residual, spare, limits)
tables.Table(
    subsets.choices_table(residual, rules, paper),
    f"CIFAR-10 subset, reduced residual network, {residual.sizes['seed']} seeds; columns as in Table P4.",
    "supplement-subset-resnet",
)

# %% [markdown]
# The abstract does not state the limit. C4, C5 and C6 are judged at every limit of the grid at once; a tick marks where the
# paper's number is inside the 95 % interval of a single run.

# %% mystnb={"code_prompt_show": "Every limit on one measure", "code_prompt_hide": "Hide"} tags=["hide-output"]
reported = {"chosen_bits": paper["C4"], "flip_rate": paper["C5"], "boundary_jaccard": paper["C6"]}
choices = stopping.choose(many, limits)
tables.Table(
    stopping_figures.limits_table(many, choices, 1, reported, int(many.nodes[0]), crossed=False),
    "CIFAR-10 subset, every limit: held-out values with the 95 % interval of a run.",
    "supplement-subset-limits",
)

# %% [markdown]
# (subsets-tolerance)=
# ### Distances without a grid
#
# The {term}`tolerance Jaccard distance` ([](exact)) compares lengths and has no grid: which fraction of the boundary has moved
# farther than a tolerance τ? Here it is computed from logits interpolated between the nodes.

# %% mystnb={"code_prompt_show": "By bit-width", "code_prompt_hide": "Hide"} tags=["hide-output"]
tolerance.without_ruler({"CIFAR-10 subset": many}, "supplement-subset-tolerance")

# %% tags=["remove-input"]
tables.sources(many, residual, variants)
