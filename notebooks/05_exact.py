# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (exact)=
# # What the grid hides: exact boundaries and finite scale

# %% mystnb={"code_prompt_show": "Parameters: what you can change, and what it costs"} tags=["parameters", "hide-input"]
seed = 0  # of the split, the initial weights and the order of the batches
bits = [8, 7, 6, 5, 4, 3, 2]  # bit-widths to compare with float, 2 to 16; cost: grows with their number
width = 64  # hidden units; cost: grows with its square
epochs = 60  # passes over the training set; cost: grows with it
nodes = [401, 201, 101, 51, 26]  # a side of the grids held against the exact boundary; cost: grows with their squares
scheme = "narrow"  # step of the quantizer: narrow (2^b - 1 values) or full (2^b)
granularity = "tensor"  # one step for a weight tensor, or one for each output channel (channel)

# %% tags=["remove-cell"]
from bqcore.metrics import planes
from bqcore.quantizers import uniform
from studies import exact, first_order, ledger, networks, specs, training
from studies.data import splits
from studies.figures import exact as exact_figures
from studies.figures import finite_scale, inputs, tables

inputs.check_names()
specs.Levels(
    seed=seed, bits=bits, width=width, epochs=epochs, nodes=nodes, scheme=scheme, granularity=granularity
)  # which refuses what is out of range

split = splits.digits(seed)
network = networks.mlp((64, width, 10), seed)
training.fit(network, split.train_inputs, split.train_classes, epochs=epochs, seed=seed)
levels = {b: uniform.quantize_model(network, b, scheme=scheme, granularity=granularity) for b in bits}
plane = planes.pca_plane(split.train_inputs)
measured = exact.compare(network, levels, plane, nodes)
agreement = first_order.compare(network, levels, plane, {"at the inputs": split.test_inputs})
paper = ledger.load_claims()[1]
shown = [b for b in (8, 4) if b in bits] or bits[:2]

# %% tags=["remove-input"]
exact_figures.answer(measured)

# %% mystnb={"figure": {"caption": "The exact decision boundary of the float network (blue) and of two quantized ones (orange), junctions as circles; the last panel enlarges a part and shows the cells of a grid that each boundary marks: blue and orange by one, dark by both.", "name": "figure-exact"}} tags=["remove-input"]
exact_figures.boundaries_figure(network, {b: levels[b] for b in shown}, plane, nodes=101)

# %% [markdown]
# ## The question
#
# The paper's main number, the boundary-mask Jaccard distance, is read off a grid. What does the boundary itself do, how much of J is
# the grid's, and which measure would not depend on it?
#
# ## How it was measured
#
# On a plane, a ReLU network is linear inside each cell that its units' lines cut out {cite}`regions-montufar,splinecam`. So the
# decision boundary is available exactly, as segments, and every measure made on a grid can be compared with what it approximates.
# [](definitions) has the measures on grids, and [](related-work) says who did this before.
#
# One network is trained here on the digits set of scikit-learn, and every figure and table of this page is computed from it:
# `python notebooks/execute.py 05_exact seed=3`. The [setup of the digits](setup-digits) says how it is trained, and whose choice that is.

# %% [markdown]
# ### Exact boundaries
#
# Each hidden unit is zero along a line of the slice, each deeper unit along a bent one. They cut the box into convex cells, in
# each of which all logits are affine; there the boundary is where the two largest of them are equal. Junctions are true
# points, with their classes. Boundaries, lengths and distances need no grid; J and d_eff are shown for comparison.

# %% [markdown]
# ### The tolerance Jaccard distance
#
# **The measure to use beside J** is the {term}`tolerance Jaccard distance`,
#
# $$ J_\tau(A, B) = 1 - \frac{|A_{\text{near } B}| + |B_{\text{near } A}|}{|A| + |B|}, $$
#
# with lengths in place of cells and "near" for within $\tau$ input units. It asks the same question: which fraction of the
# boundaries has no counterpart? Its ruler is a length that can be stated, and compared wherever inputs have the same units.
# It is one minus the surface Dice of segmentation {cite}`surface-dice`, for curves.
# The mean distance and the Hausdorff distance say how far, $J_\tau$ says how much.

# %% [markdown]
# (finite-scale-law)=
# ### The finite-scale law
#
# Take a straight boundary whose normal has the direction $\theta$. Cells are $h_a \times h_b$, and a cell is in the mask when
# the boundary passes between its corners: when its centre is within half the cell's extent along the normal,
#
# $$ |\text{centre} - \text{boundary}| < \frac w 2, \qquad w = h_a |\cos\theta| + h_b |\sin\theta|. $$
#
# So the centres of the mask's cells fill a band of width $w$. Another boundary, moved by $d$ along the normal, has a band of the
# same width, $d$ farther. The two bands share a width $\max(w - d, 0)$ and cover $2w$ less that, $w + \min(d, w)$, together. For
# a boundary at a random place on the grid, the expected number of cells is the area of the band divided by the area of a cell. Summed
# over pieces of all directions, weighted by length, this gives
#
# $$ J = 1 - \frac{\mathrm E\,[\max(w - d, 0)]}{\mathrm E\,[w + \min(d, w)]}. $$
#
# - **Small shifts**, $d \le \min(h_a, h_b)$ all along: $J = 2d / (\bar w + d)$ with $\bar w = 2(h_a + h_b)/\pi$ for a boundary that runs
#   equally in all directions, and backwards $d_{\text{eff}} = \bar w J / (2 - J)$.
# - **Fine grids**, $h \to 0$: every band is thinner than the shift, and $J \to 1$ for any change at all.
# - **Coarse grids**, $h \to \infty$: $J \to 0$ like $\pi\,\mathrm E[d] / (2h)$ on square cells, whatever the change.
#
# J is therefore a function of shift over step. The law needs straight pieces and few corners within a cell. Its $d$ is the
# distance to the other boundary of any classes, since a mask knows no classes.

# %% mystnb={"figure": {"caption": "Left: J measured on the slice against J by the law, at all bit-widths and resolutions. Right: the same J against the mean distance between the boundaries over the grid step; dotted is the law for one shift in all directions.", "name": "figure-law"}} tags=["remove-input"]
finite_scale.law_figure(measured)

# %% [markdown]
# ## The paper beside ours
#
# ### The paper's Jaccard distances, read backwards
#
# By the law, a reported J fixes the ratio of shift to step. On digits, this network's own boundaries then say which grid would give
# the paper's values. Networks differ widely in their shifts ([](levels)), so two values of one network need not agree. The CIFAR-10
# values need a step of many shifts: a coarse grid, or a mask several cells thick.

# %% tags=["remove-input"]
tables.Table(
    finite_scale.implied_table(paper, measured),
    "What the paper's boundary-mask Jaccard distances imply by the law, as intervals of what rounds to the reported value.",
    "table-implied",
)

# %% [markdown]
# ### Every level against float
#
# The next table compares, for the same network, measures made on a grid with measures of the exact boundaries.

# %% tags=["remove-input"]
tables.Table(
    exact_figures.exact_table(measured),
    "Each bit-width against float, on one slice. Distances and lengths are in input units (pixel / 16). *Beyond τ*: fraction of the two boundaries' length without a counterpart within τ, the tolerance Jaccard distance.",
    "table-exact",
)

# %% [markdown]
# ### First order against truth
#
# The local boundary shift is a first-order displacement: change of margin over gradient. At points of the exact boundary the true
# displacement in the plane is known: the way along the normal to the other boundary of the same two classes. In full space,
# the two margins are followed along the normal to where they change sign.

# %% mystnb={"figure": {"caption": "First-order against true displacement in the plane, a dot for each piece of the float boundary; positive is towards the class on its right.", "name": "figure-first-order"}} tags=["remove-input"]
exact_figures.first_order_figure(measured, bits[:: max(1, len(bits) // 3)][:4])

# %% tags=["remove-input"]
tables.Table(
    exact_figures.first_order_table(agreement),
    "Median ratio of first order to the true displacement, and fraction of points where first order is within 10 % of it: on the slice's boundary *in the plane*, at the same points in full space (*at the boundary*), and *at the* test *inputs*, in full space.",
    "table-first-order",
)

# %% [markdown]
# ## What changes the answer
#
# ### The grid step
#
# Grid prediction change converges to the changed area. Counted cells, times a cell's area over $w$, converge to the boundary's length
# if each direction has its own $w$; with $\bar w$ they are off by a few percent, because this boundary does not run equally in all
# directions. J and $d_{\text{eff}}$ do not converge: J follows the law (lines), and $d_{\text{eff}}$ is right only below a grid step.

# %% mystnb={"figure": {"caption": "Grid measures divided by what they approximate, as the grid is refined to the left; bars span the places of the grid. Lines are the finite-scale law.", "name": "figure-convergence"}} tags=["remove-input"]
finite_scale.convergence_figure(measured, shown)

# %% [markdown]
# ### Boundaries from interpolated logits
#
# A network with convolutions has too many units for an exact slice, and other classifiers have no lines. For them the logits at the nodes of
# a grid, interpolated between the nodes, have an exact boundary too. Its error falls with the square of the grid step, so a
# grid that is far too coarse for masks is enough here; [](stopping-tolerance) says how far this holds over many networks.

# %% [markdown]
# (outside-the-data)=
# ### What lies outside the data
#
# A slice shows what the network says on a plane, and much of that plane is like no input. Each pixel stays within the range that it has
# in the training set inside a convex polygon, whose area needs no grid either. By their definitions, boundaries, junctions and the
# measures made from them count all of the box alike; {numref}`supplement-referee-outside` has the fraction outside on four data sets.

# %% mystnb={"figure": {"caption": "Left: the float network's decision regions on the slice, the training inputs projected onto it (they lie off the plane), and the part where every pixel stays in its range. Right: points of the slice as images; blue pixels are darker than black, orange ones whiter than white.", "name": "figure-outside"}} tags=["remove-input"]
exact_figures.outside_figure(network, plane, split.train_inputs)

# %% [markdown]
# ## What was seen

# %% tags=["remove-input"]
exact_figures.summary(measured, agreement, paper)

# %% [markdown]
# ## Supplement

# %% mystnb={"code_prompt_show": "Distances from interpolated logits, in numbers", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
tables.Table(
    exact_figures.interpolated_table(network, levels, plane, measured, nodes=(41, 81), tau=0.05),
    "The same distances, exact and from logits interpolated between the nodes of two coarse grids.",
    "supplement-interpolated",
)

# %% mystnb={"code_prompt_show": "Junctions, in numbers", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
tables.Table(
    exact_figures.junctions_table(measured),
    "Junctions of each bit-width: matched with one of the float network's of the same classes within the largest tolerance above, vanished, appeared; and the triple-junction cells that grids count.",
    "supplement-exact-junctions",
)
