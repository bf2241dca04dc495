# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (levels)=
# # Levels: what each bit-width moves

# %% tags=["parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters: what you can change, and what it costs"}
seed = 0  # of the split, the initial weights and the order of the batches
seeds = 100  # networks, with the seeds from `seed` on; cost: about 2 s each
bits = [8, 7, 6, 5, 4, 3, 2]  # 2 to 16; a transition leads from each to the next; cost: grows with their number
width = 64  # hidden units; cost: grows with it
epochs = 60  # passes over the training set; cost: grows with it
nodes = [201, 101, 401]  # a side of the slice grids; the first is drawn; cost: grows with their squares
scheme = "narrow"  # step of the quantizer: narrow (2^b - 1 values) or full (2^b)
granularity = "tensor"  # one step for a weight tensor, or one for each output channel (channel)
steps = 11  # of a transition, both ends included; cost: grows with it
share = 0.2  # of the inputs, those of least margin, in the boundary band

# %% tags=["hide-input"] mystnb={"code_prompt_show": "The runs of this chapter: one as in the paper, and many seeds"}
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import bqcore as bq
from bqcore.metrics import statistics
from studies import catalogue, ledger, networks, specs, training
from studies.data import splits
from studies.figures import inputs, levels, setup, strips, tables

inputs.check_names()
spec = specs.Levels(
    seed=seed, bits=bits, width=width, epochs=epochs, nodes=nodes, scheme=scheme, granularity=granularity, steps=steps,
    share=share,
)  # fmt: skip
one, many = catalogue.run(spec), catalogue.sweep(spec, seeds)
paper = ledger.reported_values()

# %% tags=["remove-input"]
levels.answer(many, paper)

# %% tags=["remove-input"] mystnb={"figure": {"caption": "What each bit-width does to a digits network. A dot is one network, a black line the median, an orange diamond the paper's value. Compare the lower left panel with the upper right one: the mask moves at bit-widths that hardly change a decision.", "name": "figure-spread"}}
levels.spread_figure(many, paper)

# %% [markdown]
# ## The question
#
# The paper trains a network with one hidden layer on the digits set and rounds its weights to fewer and fewer bits ({term}`PTQ-W`).
# It reports two things that seem to disagree. At 8 bits the {term}`flip rate` is zero: no test digit gets another label. At the
# same 8 bits the {term}`decision boundary`, drawn on a slice through the input space, is already in other places.
#
# This chapter makes both numbers from raw pixels, asks whether other seeds give them too, and asks what the second one
# depends on. [](definitions) explains the measures.
#
# ## How it was measured

# %%
setup.stated(spec)

# %% [markdown]
# The [setup of the digits](setup-digits) says whose choice each of these is. The parameters at the top reach every number on this page:
# `make book P="seed=3 bits=[8,5]"` builds the book with others, and says which chapters they reach. The next cells do the
# whole measurement once, by hand.
#
# First the data and the network.

# %%
torch.set_num_threads(1)  # small networks are faster, and always the same, on one thread
split = splits.digits(seed)
model = networks.mlp((64, width, 10), seed)
training.fit(model, split.train_inputs, split.train_classes, epochs=epochs, seed=seed)
with torch.no_grad():
    before = model(split.test_inputs)
print(f"{(bq.decide(before) == split.test_classes.numpy()).mean():.3f} of the test digits are recognized")

# %% [markdown]
# Quantizing keeps the network and rounds its weights. Half a step is the largest change that a weight can have, and a step
# doubles with each bit that is taken away.

# %%
quantized = {b: bq.quantize_model(model, b, scheme=scheme, granularity=granularity) for b in bits}
first = model[0].weight.detach()
for b, network in quantized.items():
    step = float(bq.step_size(first, b, scheme=scheme, granularity=granularity).max())
    change = float((network[0].weight.detach() - first).abs().max())
    print(f"{b} bits: step {step:.4f}, largest change of a weight {change:.4f}")

# %% [markdown]
# Decisions come first. The {term}`boundary band <low-margin boundary band>` holds the fifth of the inputs that the float network is least sure about.

# %%
with torch.no_grad():
    after = {b: network(split.test_inputs) for b, network in quantized.items()}
decisions = pd.DataFrame(
    {b: {"flip rate": bq.flips(before, z).rate, "in the band": bq.band_flip_rate(before, z, share)} for b, z in after.items()}
).T  # fmt: skip
decisions.rename_axis("bits").round(4)

# %% [markdown]
# No flip among the test digits does not mean that none would ever flip: a rate of zero has an interval, too.

# %%
inputs_seen = len(split.test_inputs)
flipped = round(decisions.loc[bits[0], "flip rate"] * inputs_seen)
found = statistics.clopper_pearson(flipped, inputs_seen)
print(f"{bits[0]} bits: {flipped} of {inputs_seen} flip, which allows a rate of {found.low:.4f} to {found.high:.4f}")

# %% [markdown]
# Next the boundary near each test digit: the first-order boundary displacement says how far it moves, in units of a pixel's
# full range, 16.

# %%
for b, network in quantized.items():
    shift = np.abs(bq.displacement(model, network, split.test_inputs))
    print(f"{b} bits: median shift {np.nanmedian(shift):.4f}, 95th percentile {np.nanpercentile(shift, 95):.4f}")

# %% [markdown]
# Last the boundary as a picture. A plane through the training digits is cut into small cells. A cell belongs to the
# {term}`boundary mask` if its corners have different labels, and the Jaccard distance J compares two masks: 0 if they are equal,
# 1 if they share no cell.

# %%
plane, n = bq.pca_plane(split.train_inputs), nodes[0]
mask = bq.boundary_mask(bq.label_grid(model, plane, n))
moved = {b: bq.boundary_mask(bq.label_grid(network, plane, n)) for b, network in quantized.items()}
jaccard = {b: bq.boundary_jaccard(mask, other).distance for b, other in moved.items()}
print(f"The float network's mask has {mask.sum()} of {mask.size} cells.")
for b, distance in jaccard.items():
    print(f"{b} bits: J = {distance:.3f}")

# %%
fewest = min(bits)
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), sharey=True)
for panel, b in zip(axes, (bits[0], fewest)):
    panel.imshow(mask + 2 * moved[b], origin="lower", cmap="cividis_r")
    panel.set(title=f"float and {b} bits: J = {jaccard[b]:.2f}", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Both masks in one picture: cells of one mask are of a middle tone, cells of both are dark. At the most bits the masks
# share most cells, or run side by side one cell apart. At the fewest bits they hardly meet.
#
# The code that runs many seeds must give the same numbers as the cells above. The next cell checks that it does.

# %%
here = one.sel(bits=bits, nodes=n)
np.testing.assert_allclose(list(jaccard.values()), here.boundary_jaccard, atol=0.02)
np.testing.assert_allclose(decisions["flip rate"], here.flip_rate, atol=0.005)

# %% mystnb={"figure": {"caption": "The paper's Figure 1 as we read it: decision regions on the plane of the first two principal components, in one run. Blue cells are on the float boundary only, orange cells on the quantized one only, black cells on both; circles are junctions of three classes. Read J and the fraction of flips above each panel together.", "name": "figure-p1"}}
levels.levels_figure(one)

# %% [markdown]
# ## The paper beside ours
#
# The same run is now repeated with other seeds, which change the split, the initial weights and the order of the batches.

# %%
middle = many.sel(nodes=n)[["accuracy", "flip_rate", "boundary_jaccard"]].median("seed")
middle.to_dataframe()[list(middle.data_vars)].round(3)

# %% [markdown]
# 32 bits stand for float. The medians are close to the values of the one run. The intervals below say how far single runs are from the medians.

# %%
levels.paper_table(many, paper)

# %% mystnb={"figure": {"caption": "The paper's five numbers on digits beside our published runs, a dot each. The bar is the interval that holds 95 % of single runs, the broken line the paper's number, grey lines are other bit-widths. A number that lies inside our bar but on a grey line does not tell its bit-width.", "name": "figure-levels-strips"}}
strips.strips(["D1", "D2", "D3", "D4", "D5"])

# %% [markdown]
# ## What changes the answer
#
# **The grid.** A mask is one cell thick. On a finer grid the same shift is a larger part of a cell, so J grows, at every
# bit-width. A shift of the boundary in input units, $d_{\text{eff}}$, does not: [](definitions) derives it from J and the size
# of a cell. The paper does not state its grid.

# %% mystnb={"figure": {"caption": "J (left) and the shift d_eff that explains it (right), over the seeds, on three grids. Boxes hold the middle half of the runs, whiskers reach 1.5 times as far, orange diamonds are the paper's values. J depends on the grid; d_eff does not while it is below the grid step.", "name": "figure-resolution"}}
levels.resolution_figure(many, paper)

# %% [markdown]
# **The formula of the boundary shift.** The paper gives a number and no formula. The {term}`first-order boundary displacement` δ
# divides the change of a margin by the float network's slope. If quantization also multiplies all margins by a factor, δ
# counts that as a shift, although no boundary moves. The {term}`signed distance change` Δs is free of that.

# %% mystnb={"figure": {"caption": "Two formulas of the boundary shift. Left: the median over the test digits, as the median run with the interval that holds 95 % of single runs; the diamond is the paper's value. Right: the ratio of the two, a dot a run. See whether the diamond tells the two apart.", "name": "figure-shifts"}}
levels.shifts_figure(many, paper)

# %% [markdown]
# ## What was seen

# %%
levels.summary(many, paper)

# %% [markdown]
# The verdicts on the paper's claims D1 to D5, judged on the published runs, are in [](the-ledger).
#
# ## Supplement

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Tables S: decisions, local geometry and slices by bit-width"}
levels.supplement(one, many)

# %% tags=["remove-input"]
tables.sources(one, many)
