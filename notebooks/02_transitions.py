# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (transitions)=
# # Transitions: where the boundary reconfigures

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
import torch

import bqcore as bq
from studies import catalogue, ledger, networks, specs, training
from studies.data import splits
from studies.figures import inputs, setup, strips, tables, transitions

inputs.check_names()
spec = specs.Levels(
    seed=seed, bits=bits, width=width, epochs=epochs, nodes=nodes, scheme=scheme, granularity=granularity, steps=steps,
    share=share,
)  # fmt: skip
one, many = catalogue.run(spec), catalogue.sweep(spec, seeds)
paper = [ledger.reported()[name] for name in ("J2", "J3", "J4")]

# %% tags=["remove-input"]
transitions.answer(many)

# %% tags=["remove-input"] mystnb={"figure": {"caption": "Fraction of cells within one cell of a junction, over the seeds: of all cells of the slice, of all boundary cells (chance), of cells that change, and of cells whose set of classes changes (rearranged). Boxes hold the middle half of the runs; whiskers reach 1.5 times as far. Compare changed cells with all boundary cells.", "name": "figure-junction-test"}}
transitions.junction_test_figure(many)

# %% [markdown]
# ## The question
#
# A straight line joins the weights of two adjacent bit-widths. Along it the {term}`decision regions <decision region>`
# of one turn into the regions of the other. The paper says that the visible reconfigurations then sit at multiclass junctions, the
# places where three classes or more meet, and it counts junction cells in three transitions.
#
# Two readings of that sentence are tested here. In the first, a cell reconfigures when the label of one of its corners changes.
# In the second, it does so when the set of classes on its corners changes while it stays on the boundary: it is *rearranged*. The
# ledger judges the first reading. The second was added after the first had been seen.
#
# ## How it was measured

# %%
setup.stated(spec)

# %% [markdown]
# The [setup of the digits](setup-digits) says whose choice each of these is. A transition leads from each bit-width in the parameters to the next;
# the parameters reach every number on this page, and those of [](levels). The next cells take one transition by hand.

# %%
torch.set_num_threads(1)  # small networks are faster, and always the same, on one thread
split = splits.digits(seed)
model = networks.mlp((64, width, 10), seed)
training.fit(model, split.train_inputs, split.train_classes, epochs=epochs, seed=seed)
first, second = bits[:2]
start, end = (bq.quantize_model(model, b, scheme=scheme, granularity=granularity) for b in (first, second))

# %% [markdown]
# The path between them is a straight line in weights. At each step the slice gets a grid of labels.

# %%
plane, n = bq.pca_plane(split.train_inputs), nodes[0]
t = np.arange(steps) / (steps - 1)
path = np.stack([bq.label_grid(bq.interpolate(start, end, x), plane, n) for x in t])
print(f"{first} to {second} bits: {len(path)} grids of {n} by {n} labels")

# %% [markdown]
# A junction cell has three labels or more on its four corners. Each grid alone holds only a few, and they move a little from step
# to step.

# %%
junctions = np.stack([bq.junction_cells(labels) for labels in path])
print("at each step:", *junctions.sum(axis=(1, 2)))
print("at any step:", junctions.any(axis=0).sum())

# %% [markdown]
# `bq.transition` looks at what changes from each step to the next. A cell is near a junction if it is one, or touches one, before
# or after the step. *Chance* is the fraction of all boundary cells that are near one.

# %%
found = bq.transition(path)
print(
    f"{found.changed} cells change; {found.share_near:.3f} of them near a junction, by chance {found.chance_boundary:.3f}"
)
print(f"{found.rearranged} cells are rearranged; {found.share_rearranged_near:.3f} of them near a junction")

# %%
moved = (path[1:] != path[:-1]).any(axis=0)
row, column = np.nonzero(junctions.any(axis=0))
figure, axes = plt.subplots(figsize=(4.2, 4))
axes.imshow(moved, origin="lower", cmap="Greys")
axes.plot(column + 0.5, row + 0.5, "o", ms=7, mfc="none", mec="#d55e00")
axes.set(title=f"{first} to {second} bits", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# Black nodes change their label somewhere on the way; circles are junction cells. The changes lie along the whole boundary, in thin
# stripes, and the circles are only where the stripes meet. The code that runs many seeds gives the same numbers:

# %%
here = one.isel(transition=0)
np.testing.assert_allclose(found.junctions, here.junction_steps, atol=1)
np.testing.assert_allclose(found.share_near, here.share_near, atol=0.02)

# %% mystnb={"figure": {"caption": "The paper's Figure 2 as we read it: junction cells along the interpolation between adjacent bit-widths, one run. Regions and dark masks belong to the bit-width at which the transition starts, orange masks to the one at which it ends; dots are junction cells, coloured by t. Junctions wander while whole stretches of the boundary shift.", "name": "figure-p2"}}
transitions.transitions_figure(one)

# %% [markdown]
# ## The paper beside ours

# %%
transitions.paper_table(many, paper)

# %% mystnb={"figure": {"caption": "The paper's claims on junctions beside our published runs, a dot each. J1 is tested against one half, and J1-chance against what changed cells anywhere along the boundary would give; J2 to J4 are the paper's three counts. Grey lines are the other transitions: a count near several of them does not tell which transition it is of.", "name": "figure-transitions-strips"}}
strips.strips(["J1", "J1-chance", "J2", "J3", "J4"])

# %% [markdown]
# ## What changes the answer
#
# **The count.** The paper does not say how it counts junction cells, nor for which transitions. On one grid there are few.
# Over all steps there are more, because junctions wander. They wander farther at fewer bits, so this count grows as bits fall.

# %% mystnb={"figure": {"caption": "Junction cells of each transition, a dot a run, counted in three ways: on one grid, over all steps of the transition, and of the latter those where a label changes. Broken lines are the paper's three counts. See which panels can hold all three.", "name": "figure-junction-counts"}}
transitions.counts_figure(many, paper)

# %% [markdown]
# **What "reconfigure" means.** A boundary that shifts sweeps over many cells, and only few of them are at its junctions. When the set of
# classes in a cell changes, two boundaries have met there. If they have three classes, they meet in a junction. So the
# second reading holds almost by its definition as long as the steps are small. A boundary that jumps over a cell in one step
# escapes it, and so do two other changes: a region that appears inside another one, and a neck that closes between two classes
# ([](lesson-junctions), exercises 6 and 7).
#
# ## What was seen

# %%
transitions.summary(many)

# %% [markdown]
# The verdicts on the paper's claims J1 to J4, judged on the published runs, are in [](the-ledger).
#
# ## Supplement

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Table S: junction cells at each step"}
transitions.steps_table(one)

# %% tags=["remove-input"]
tables.sources(one, many)
