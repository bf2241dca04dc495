# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (definitions)=
# # Definitions, in pictures

# %% tags=["parameters", "own-parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters: what you can change; none costs more than seconds"}
bits = 3  # of the quantized classifier, 2 to 16; cost: none
scheme = "narrow"  # step of the quantizer: narrow (2^b - 1 values) or full (2^b); cost: none
nodes = 17  # a side of the slice of the two classifiers; cost: none
grids = [51, 101, 201]  # nodes a side of three grids that measure known shifts; cost: seconds, grows with their squares

# %% tags=["hide-input"] mystnb={"code_prompt_show": "Two linear classifiers in the plane, and what they are measured with"}
import numpy as np
import pandas as pd
import torch

import bqcore as bq
from studies.figures import definitions, inputs, tables

inputs.check_names()


def linear(weight, bias):
    """Build a linear classifier in the plane."""
    model = torch.nn.Linear(2, len(bias)).double()
    model.load_state_dict({"weight": torch.tensor(weight).double(), "bias": torch.tensor(bias).double()})
    return model


f = linear([[1.0, 0.2], [-0.6, 0.9], [-0.3, -1.1]], [0.3, 0.05, -0.2])
q = bq.quantize_model(f, bits, scheme=scheme)
square = bq.Plane(np.zeros(2), np.eye(2), np.full(2, -1.0), np.full(2, 1.0), np.ones(2) / 2, (2,))
x = torch.tensor([[0.45, 0.4]], dtype=torch.float64)

# %% [markdown]
# **Answer.** Every quantity of the paper compares a float classifier with a quantized one: at single inputs, in the cells of a slice
# through the input space, or by the decisions on many inputs. The abstract gives no formula for any of them. Each
# definition here is our reading, and other readings are named beside it.

# %% tags=["remove-input"] mystnb={"figure": {"caption": "One pair of linear classifiers with three classes, float (blue) and quantized (orange), seen in three ways. Left: the radius r of one input x, and the displacement δ of the boundary there (arrow). Middle: the cells that each boundary visits, black if both do; circles are junctions of three classes. Right: the margin of the two best classes of 120 inputs, before and after; grey is the boundary band, and crosses are decisions that flip. Flips lie below zero and at the left.", "name": "figure-definitions"}}
definitions.overview_figure(f, q, x, square, nodes)

# %% [markdown]
# ## The question
#
# The abstract names its quantities in words: *local logit-margin radius*, *boundary-mask Jaccard distance*, *low-margin boundary-band
# flips*. Which formula does each of them mean? A number can be reproduced only when that is settled, and [](multiverse) shows how
# much depends on it.
#
# ## How it was measured
#
# Everything on this page is computed by the code beside it, on classifiers small enough to check by hand. [](the-glossary) has all
# words and symbols on one page. A classifier turns an input $x$ into $K$ logits $z(x)$ and decides for the class $c(x)$ of the
# largest one, the first on ties. $f$ is the float classifier and $q$ the quantized one, $m_{ab} = z_a - z_b$ is the margin
# between two classes, and $\lVert\cdot\rVert$ is the Euclidean length in the model's input units.
#
# ### Quantized weights
#
# PTQ-W puts the weights of every linear and convolution layer onto a uniform symmetric grid of $b$ bits. Biases stay in float, and
# no calibration data is needed. Two conventions for the step are in use. The *narrow* one, which is judged here, has $2^b - 1$
# values, $\Delta = \max|w| / (2^{b-1} - 1)$. The *full* one has all $2^b$, $\Delta = \max|w| / (2^{b-1} - \tfrac12)$. One step
# serves a whole tensor (judged) or one output channel.

# %%
print("float\n", f.weight.detach().numpy(), "\nquantized\n", q.weight.detach().numpy().round(3))
print("step", round(float(bq.step_size(f.weight.detach(), bits, scheme=scheme)), 4))

# %% mystnb={"figure": {"caption": "Both conventions: every weight goes to the nearest value of its grid. The narrow grid is symmetric; the full one has one value more below zero.", "name": "figure-quantizers"}}
w = torch.linspace(-1, 1, 1001)
made = {convention: bq.quantize(w, bits, scheme=convention) for convention in ("narrow", "full")}
definitions.quantizers_figure(w, made, bits)

# %% [markdown]
# ### Local geometry: radius, displacement, normal variation
#
# The **local logit-margin radius** is the distance to the boundary by the logits' slope at $x$, over all rivals $j$ of the
# winner $c$:
#
# $$ r(x) = \min_{j \ne c} \frac{z_c(x) - z_j(x)}{\lVert \nabla (z_c - z_j)(x) \rVert}. $$
#
# It is one DeepFool step {cite}`deepfool`. It is exact for linear classifiers, and otherwise neither a lower nor an upper bound.
# The **first-order boundary displacement** (the paper's *local boundary shift*) is how far the boundary of the float
# top-2 pair $(a, b)$ moves along its normal, and the **normal variation** is how far that normal turns:
#
# $$ \delta(x) = \frac{m^q_{ab}(x) - m^f_{ab}(x)}{\lVert \nabla m^f_{ab}(x) \rVert}, \qquad
#    \nu(x) = 1 - \cos\angle\bigl(\nabla m^f_{ab}, \nabla m^q_{ab}\bigr) \in [0, 2]. $$
#
# Chapters report the median of $|\delta|$ and the value that 95 % of inputs do not exceed. A margin without a gradient has no
# displacement; such inputs are counted. Other readings: the top-2 pair alone for the radius, the slope within the slice, the slope
# of $q$.

# %%
print(f"radius               {bq.radius(f, x).radius[0]:.3f}")
print(f"displacement         {bq.displacement(f, q, x)[0]:+.3f}")
print(f"normal variation      {bq.normal_variation(f, q, x)[0]:.3f}")

# %% [markdown]
# The displacement counts a change of scale as a shift: for $q = c f$ it is $(c - 1)$ times the distance to the pair's
# boundary, although no boundary moves. The **signed distance change** divides each margin by its own slope,
#
# $$ \Delta s(x) = \frac{m^q_{ab}(x)}{\lVert \nabla m^q_{ab}(x) \rVert} - \frac{m^f_{ab}(x)}{\lVert \nabla m^f_{ab}(x) \rVert}, $$
#
# so that a common factor of the logits cancels. On the boundary of $f$ it equals $\delta$ to first order.

# %%
twice = linear((2 * f.weight).tolist(), (2 * f.bias).tolist())
print(f"q = 2f: displacement {bq.displacement(f, twice, x)[0]:+.3f}, which is the radius")
print(f"q = 2f: signed distance change {bq.signed_distance_change(f, twice, x)[0]:+.3f}")

# %% [markdown]
# ### The slice: masks, Jaccard distance, junctions
#
# The **PCA slice** is the plane of the training split's first two principal components, over the range of its scores, with
# $n \times n$ nodes. The same plane, box and nodes serve $f$ and $q$. Much of it may lie [outside the data](outside-the-data).
# A cell between four nodes belongs to the **boundary mask** when its corners do not share one label, and is a
# **triple-junction cell** when they hold three labels or more. The **boundary-mask Jaccard distance** of two masks is
#
# $$ J(A, B) = 1 - \frac{|A \cap B|}{|A \cup B|}, $$
#
# 0 for equal masks and 1 for disjoint ones. **Grid prediction change** is the fraction of nodes whose label differs. Other
# readings: masks of nodes instead of cells, thicker masks {cite}`boundary-iou`, planes through three images
# {cite}`same-model-twice`, other ranges.

# %%
labels = [bq.label_grid(model, square, nodes) for model in (f, q)]
masks = [bq.boundary_mask(grid) for grid in labels]
print(
    "cells in the masks:",
    *(int(mask.sum()) for mask in masks),
    " junctions:",
    *(int(bq.junction_cells(g).sum()) for g in labels),
)
print(
    f"Jaccard distance {bq.boundary_jaccard(*masks).distance:.3f}, nodes changed {(labels[0] != labels[1]).mean():.3f}"
)

# %% mystnb={"figure": {"caption": "The slice behind the middle panel above: nodes by class (dots), the boundary mask (grey cells) and junction cells (circles) of either classifier. A cell is in the mask when its four dots are not of one colour.", "name": "figure-mask"}}
definitions.mask_figure(f, q, square, nodes)

# %% [markdown]
# ### Decisions: flips, the boundary band, pair order
#
# - **Flip rate**: the fraction of inputs with $c_f \ne c_q$, on data held out from every choice; by kind right → wrong,
#   wrong → right, wrong → another wrong class. Accuracy sees only the difference of the first two
#   {cite}`churn,not-all-you-need`.
# - **Low-margin boundary band**: the 20 % of inputs with the smallest float top-2 margin; **band flips** are flips there.
# - **Pair-order flip**: the float top-2 pair $(a, b)$ has $z^q_a < z^q_b$. It is not the same as a flip: a third class may
#   win with the pair in order.

# %%
before = np.array([[3.0, 1.0, 0.0], [1.2, 1.0, 0.0], [1.1, 1.0, 0.0], [0.0, 2.0, 1.9], [4.0, 0.0, 0.0]])
after = np.array([[2.9, 1.1, 0.0], [1.0, 1.1, 0.0], [1.1, 1.0, 1.5], [0.0, 1.9, 1.8], [4.0, 0.1, 0.0]])
print("flip rate", bq.flips(before, after).rate, " in the band", bq.band_flip_rate(before, after))
print("pair-order flip rate", bq.pair_order_flip_rate(before, after))

# %%
winner, rival = bq.top_pair(before)
rows = np.arange(len(before))
described = pd.DataFrame({
    "float logits": [str(z) for z in before], "quantized logits": [str(z) for z in after],
    "margin": [f"{m:.1f}" for m in bq.margin(before)], "in the band": np.where(np.isin(rows, bq.boundary_band(before)), "yes", ""),
    "flip": np.where(bq.decide(before) != bq.decide(after), "yes", ""),
    "pair-order flip": np.where(after[rows, winner] < after[rows, rival], "yes", ""),
}).rename_axis("input")  # fmt: skip
tables.Table(
    described,
    "Five inputs by hand: input 1 flips by pair order, and input 2 flips to a third class.",
    "table-decisions",
)

# %% [markdown]
# (transitions-defined)=
# ### Transitions between two bit-widths
#
# Between the weights of two adjacent bit-widths, $W(t) = (1 - t)\,W_b + t\,W_{b-1}$ in 11 steps, ends included. At each step
# the junction cells are counted; their *union* holds the cells that are one at some step. From one step to the next a cell
# *changes* when a corner's label does. It is *rearranged* when it is on the boundary before and after, while the set of
# classes on its corners changes. *Near* a junction means a junction cell of either step, or one of its eight neighbours.
# *Chance along the boundary* is the fraction near one of all cells that the boundary visits: what to expect of changed cells if they
# fell anywhere along it.

# %%
finer = bq.quantize_model(f, min(16, bits + 1), scheme=scheme)
path = np.stack([bq.label_grid(bq.interpolate(finer, q, t), square, 101) for t in np.linspace(0, 1, 11)])
found = bq.transition(path)
print("junction cells at each step:", *found.junctions, " at any:", found.union)
print(
    f"{found.changed} cells change, {found.share_near:.3f} of them near a junction; chance {found.chance_boundary:.3f}"
)

# %% [markdown]
# ## The paper beside ours
#
# The abstract has a name for each quantity and we have a formula. What else the name could mean is varied in [](multiverse).

# %%
tables.Table(
    definitions.names(), "The paper's words, what they mean here, and other readings of them.", "table-quantities"
)

# %% [markdown]
# ## What changes the answer
#
# **The grid changes J.** A mask is one cell thick, so the Jaccard distance compares a shift with the size of a cell. For a straight
# piece that moves by $d$ on square cells of step $h$, with $d \le h$ and averaged over directions,
#
# $$ J = \frac{2d}{\bar w + d}, \qquad \bar w = \frac{4h}{\pi}, \qquad\text{so}\qquad d_{\text{eff}} = \frac{\bar w J}{2 - J} $$
#
# gives the shift back. J tends to 1 for any shift as $h$ shrinks. That is why the chapters say on how many nodes a J was read,
# show it on other grids as well, and have $d_{\text{eff}}$ beside it. On cells that are not square, $\bar w = 2(h_a + h_b)/\pi$.


# %%
def jaccard_of_shift(shift, n, angles=60):
    """Measure J for straight boundaries in many directions that move by *shift* on n x n nodes of a unit square."""
    a, b = np.meshgrid(np.arange(n) / (n - 1), np.arange(n) / (n - 1))
    both, either = 0, 0
    for angle in np.arange(angles) * np.pi / angles + 0.01:
        distance = (a - 0.5) * np.cos(angle) + (b - 0.5) * np.sin(angle)
        one, two = (bq.boundary_mask((distance > offset).astype(int)) for offset in (0.0, shift))
        both, either = both + (one & two).sum(), either + (one | two).sum()
    return 1 - both / either


# %%
shifts = np.linspace(0, 0.025, 26)
measured = pd.DataFrame(
    [{"nodes": n, "shift": d, "boundary_jaccard": jaccard_of_shift(d, n)} for n in grids for d in shifts]
)
step = 1 / (measured["nodes"] - 1)
measured["effective_displacement"] = bq.effective_displacement(measured["boundary_jaccard"], (step, step))

# %% mystnb={"figure": {"caption": "The same shifts measured on three grids (dots) and the straight-line law (lines). J, on the left, answers with the grid. d_eff, on the right, answers with the shift, until the shift reaches the grid step (dashed).", "name": "figure-ruler"}}
definitions.ruler_figure(measured)

# %% [markdown]
# **The scale changes δ**, as `q = 2f` above shows. **The pair changes the radius**: over all rivals it may be shorter than for the two
# best classes alone.
#
# ## What was seen
#
# - Three kinds of quantities answer three questions, and none replaces another: a boundary can move without a flip, and a flip
#   can happen where no mask on the slice changes.
# - J has no meaning without its grid, and δ none without equal scales. Their companions without that fault, $d_{\text{eff}}$ and
#   $\Delta s$, are reported beside them.
# - All figures and tables of this page are computed here.
