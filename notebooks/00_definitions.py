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
#
# The abstract names each quantity without a formula. These are the readings that are judged here, one for each quantity,
# and the pictures show them at work on classifiers small enough to check by hand. Each definition is *our reconstruction*;
# what else it could mean is said beside it. [](the-glossary) has all words and symbols on one page. The pictures are computed
# here, by the code beside them.
#
# A classifier turns an input $x$ into $K$ logits $z(x)$ and decides for the class $c(x)$ of the largest one, the first on
# ties. $f$ is the float classifier and $q$ the quantized one; $m_{ab} = z_a - z_b$ is the margin between two classes, and
# $\lVert\cdot\rVert$ the Euclidean length in the model's input units.

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr

from bqcore.metrics import decisions, label_grids, margins, masks, planes
from bqcore.quantizers import uniform
from studies.figures import style, tables
from studies.figures.source_data import attach

plt.rcParams.update(style.STYLE)

# %% [markdown]
# ## Quantized weights
#
# PTQ-W puts the weights of every linear and convolution layer onto a uniform symmetric grid of $b$ bits and leaves biases
# in float; it needs no calibration data. Two conventions for the step rule practice. The *narrow* one, which is judged
# here, spends $2^b - 1$ levels, $\Delta = \max|w| / (2^{b-1} - 1)$; the *full* one spends all $2^b$,
# $\Delta = \max|w| / (2^{b-1} - \tfrac12)$. Either may take one step for a whole tensor (judged) or one for each output
# channel.

# %% mystnb={"figure": {"caption": "Both conventions at 3 bits: every weight goes to the nearest level of its grid. The narrow grid is symmetric; the full one has one level more below zero.", "name": "figure-quantizers"}} tags=["hide-input"]
w = torch.linspace(-1, 1, 1001)
figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
made = {scheme: uniform.quantize(w, 3, scheme=scheme) for scheme in uniform.SCHEMES}
for axes, (scheme, quantized) in zip(panels, made.items()):
    axes.plot(w, w, color=style.FLOAT_COLOUR, lw=1, label="float")
    axes.plot(w, quantized, color=style.QUANTIZED_COLOUR, label="quantized, 3 bits")
    axes.set(title=f"{scheme}: levels {uniform.level_range(3, scheme)}", xlabel="weight")
panels[0].legend(frameon=False)
attach(figure, pd.DataFrame({"weight": w, **made}))
plt.show()

# %% [markdown]
# ## Local geometry: radius, displacement, normal variation
#
# The **local logit-margin radius** is the distance to the boundary by the logits' slope at $x$, over all rivals $j$ of the
# winner $c$:
#
# $$ r(x) = \min_{j \ne c} \frac{z_c(x) - z_j(x)}{\lVert \nabla (z_c - z_j)(x) \rVert}. $$
#
# It is one DeepFool step {cite}`deepfool`, exact for linear classifiers and otherwise neither a lower nor an upper bound.
# The **first-order boundary displacement** (the paper's *local boundary shift*) is how far the boundary of the float
# top-2 pair $(a, b)$ moves along its normal, and the **normal variation** how far that normal turns:
#
# $$ \delta(x) = \frac{m^q_{ab}(x) - m^f_{ab}(x)}{\lVert \nabla m^f_{ab}(x) \rVert}, \qquad
#    \nu(x) = 1 - \cos\angle\bigl(\nabla m^f_{ab}, \nabla m^q_{ab}\bigr) \in [0, 2]. $$
#
# Tables report the median and the 95th percentile of $|\delta|$. A margin without a gradient has no displacement; such
# inputs are counted. Other readings: the top-2 pair alone for the radius, the slope within the slice, the slope of $q$.
#
# The displacement counts a change of scale as a shift: for $q = c f$ it is $(c - 1)$ times the distance to the pair's
# boundary, although no boundary moves. The **signed distance change** divides each margin by its own slope,
#
# $$ \Delta s(x) = \frac{m^q_{ab}(x)}{\lVert \nabla m^q_{ab}(x) \rVert} - \frac{m^f_{ab}(x)}{\lVert \nabla m^f_{ab}(x) \rVert}, $$
#
# so that a common factor of the logits cancels. On the boundary of $f$ it equals $\delta$ to first order.


# %% tags=["hide-input"]
def linear(weight, bias):
    """Build a linear classifier in the plane."""
    model = torch.nn.Linear(2, len(bias)).double()
    model.load_state_dict({"weight": torch.tensor(weight).double(), "bias": torch.tensor(bias).double()})
    return model


f = linear([[1.0, 0.2], [-0.6, 0.9], [-0.3, -1.1]], [0.0, 0.05, 0.0])
q = linear([[1.0, 0.0], [-0.5, 1.0], [-0.5, -1.0]], [0.45, 0.05, 0.0])
square = planes.Plane(np.zeros(2), np.eye(2), np.full(2, -1.0), np.full(2, 1.0), np.ones(2) / 2, (2,))
x = torch.tensor([[0.55, 0.35]], dtype=torch.float64)
r, change = margins.radius(f, x), margins.local_change(f, q, x)

# %% mystnb={"figure": {"caption": "Radius (blue) and displacement (orange arrow) at one input of a linear three-class classifier. Blue lines: float boundary; orange lines: quantized boundary. For linear classifiers the radius is exact; the displacement is exact if both margins have the same gradient, in length and direction.", "name": "figure-radius"}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(4.6, 4.4))
a, b = square.nodes(401)
grids = [label_grids.label_grid(model, square, 401) for model in (f, q)]
for labels, colour in zip(grids, (style.FLOAT_COLOUR, style.QUANTIZED_COLOUR)):
    for label in range(3):
        axes.contour(a, b, labels == label, levels=[0.5], colors=colour, linewidths=1.2)
point, winner, rival = x[0].numpy(), r.winner[0], r.rival[0]
normal = (f.weight[rival] - f.weight[winner]).detach().numpy()
foot = point + r.radius[0] * normal / np.linalg.norm(normal)
end = foot + change.displacement[0] * normal / np.linalg.norm(normal)
axes.plot(*zip(point, foot), color=style.FLOAT_COLOUR, lw=2.5)
axes.annotate("", end, foot, arrowprops={"color": style.QUANTIZED_COLOUR, "width": 2, "headwidth": 8})
axes.plot(*point, "o", color="black")
axes.text(*(point + 0.04), f"x:  r = {r.radius[0]:.2f},  δ = {change.displacement[0]:.2f}")
axes.set(aspect="equal", xlabel="first input", ylabel="second input", xlim=(-1, 1), ylim=(-1, 1))
data = xr.Dataset({"labels": (("classifier", "b", "a"), grids)}, {"classifier": ["float", "quantized"], "a": a, "b": b})
ends = {"input": ("axis", point), "foot_of_radius": ("axis", foot), "end_of_displacement": ("axis", end)}
attach(figure, data.assign(**ends, radius=r.radius[0], displacement=change.displacement[0]))
plt.show()

# %% [markdown]
# ## The slice: masks, Jaccard distance, junctions
#
# The **PCA slice** is the plane of the training split's first two principal components, over the range of its scores, with
# $n \times n$ nodes; the same plane, box and nodes serve $f$ and $q$. Much of it may lie
# [outside the data](outside-the-data), and how much is reported. A cell between four nodes belongs to the **boundary mask**
# when its corners do not share one label, and is a **triple-junction cell** when they hold three labels or more.
# The **boundary-mask Jaccard distance** of two masks is
#
# $$ J(A, B) = 1 - \frac{|A \cap B|}{|A \cup B|}, $$
#
# 0 for equal masks and 1 for disjoint ones, and **grid prediction change** is the share of nodes whose label differs. Other
# readings: masks of nodes instead of cells, thicker masks {cite}`boundary-iou`, planes through three images
# {cite}`same-model-twice`, other ranges.

# %% mystnb={"figure": {"caption": "A slice of 17 x 17 nodes of the classifiers above. Dots: nodes by class; filled cells: the boundary mask of either; circles: triple-junction cells of f and q.", "name": "figure-mask"}} tags=["hide-input"]
n = 17
a, b = square.nodes(n)
grid_f, grid_q = (label_grids.label_grid(model, square, n) for model in (f, q))
mask_f, mask_q = masks.boundary_mask(grid_f), masks.boundary_mask(grid_q)
figure, axes = plt.subplots(figsize=(4.6, 4.4))
kinds = (
    (mask_f & ~mask_q, style.FLOAT_COLOUR),
    (mask_q & ~mask_f, style.QUANTIZED_COLOUR),
    (mask_f & mask_q, "#555555"),
)
for cells, colour in kinds:
    for row, column in np.argwhere(cells):
        axes.add_patch(plt.Rectangle((a[column], b[row]), a[1] - a[0], b[1] - b[0], color=colour, alpha=0.55, lw=0))
axes.scatter(
    *np.meshgrid(a, b), c=np.array(style.CLASS_COLOURS)[grid_f].ravel(), s=26, edgecolor="#666666", linewidth=0.4
)
for grid, colour in ((grid_f, style.FLOAT_COLOUR), (grid_q, style.QUANTIZED_COLOUR)):
    row, column = np.nonzero(masks.junction_cells(grid))
    axes.plot((a[column] + a[column + 1]) / 2, (b[row] + b[row + 1]) / 2, "o", ms=16, mfc="none", mec=colour, mew=2)
axes.locator_params(nbins=5)
jaccard, moved = masks.boundary_jaccard(mask_f, mask_q).distance, label_grids.grid_change(grid_f, grid_q)
axes.set(aspect="equal", title=f"J = {jaccard:.2f}, grid change {moved:.2f}")
dims, grids = ("classifier", "b", "a"), [grid_f, grid_q]
cells = [f"cell_{dim}" if dim in "ab" else dim for dim in dims]
data = xr.Dataset({"labels": (dims, grids), "boundary_jaccard": jaccard, "grid_change": moved})
for name, measure in (("boundary_cell", masks.boundary_mask), ("junction_cell", masks.junction_cells)):
    data[name] = cells, [measure(grid) for grid in grids]
where = {"a": a, "b": b, "cell_a": (a[1:] + a[:-1]) / 2, "cell_b": (b[1:] + b[:-1]) / 2}
attach(figure, data.assign_coords(**where, classifier=["float", "quantized"]))
plt.show()

# %% [markdown]
# ## Why J needs its ruler
#
# A mask is one cell thick, so the Jaccard distance compares a shift with the size of a cell. For a straight piece that
# moves by $d$ on square cells of step $h$, with $d \le h$ and averaged over directions,
#
# $$ J = \frac{2d}{\bar w + d}, \qquad \bar w = \frac{4h}{\pi}, \qquad\text{so}\qquad d_{\text{eff}} = \frac{\bar w J}{2 - J} $$
#
# gives the shift back. J tends to 1 for any shift as $h$ shrinks. That is why the chapters say on how many nodes a J was read,
# show it on other grids as well, and have $d_{\text{eff}}$ beside it. On cells that are not square, $\bar w = 2(h_a + h_b)/\pi$.


# %% tags=["hide-input"]
def jaccard_of_shift(shift, n, angles=60):
    """Measure J for straight boundaries in many directions that move by *shift* on n x n nodes of a unit square."""
    a, b = np.meshgrid(np.arange(n) / (n - 1), np.arange(n) / (n - 1))
    both, either = 0, 0
    for angle in np.arange(angles) * np.pi / angles + 0.01:
        distance = (a - 0.5) * np.cos(angle) + (b - 0.5) * np.sin(angle)
        one, two = (masks.boundary_mask((distance > offset).astype(int)) for offset in (0.0, shift))
        both, either = both + (one & two).sum(), either + (one | two).sum()
    return 1 - both / either


# %% mystnb={"figure": {"caption": "The same shifts measured on three grids (dots) and the straight-line law (lines). J answers with the grid; d_eff, on the right, with the shift, until the shift reaches the grid step (dashed).", "name": "figure-ruler"}} tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
measured = []
for n, colour in ((51, "#7fcdbb"), (101, "#2c7fb8"), (201, "#253494")):
    h = 1 / (n - 1)
    d = np.linspace(0, 0.025, 26)
    j = np.array([jaccard_of_shift(shift, n) for shift in d])
    d_eff = masks.effective_displacement(j, (h, h))
    measured.append(pd.DataFrame({"nodes": n, "shift": d, "boundary_jaccard": j, "effective_displacement": d_eff}))
    panels[0].plot(d, j, ".", color=colour, label=f"{n} nodes a side")
    panels[0].plot(d[d <= h], 2 * d[d <= h] / (4 * h / np.pi + d[d <= h]), color=colour, lw=1)
    panels[1].plot(d, d_eff, ".", color=colour)
    panels[1].axvline(h, color=colour, lw=0.8, ls="--")
panels[0].set(xlabel="shift d", ylabel="boundary-mask Jaccard distance")
panels[0].legend(frameon=False)
panels[1].plot(d, d, color="black", lw=0.8)
panels[1].set(xlabel="shift d", ylabel="d_eff", ylim=(0, 0.03))
attach(figure, pd.concat(measured))
plt.show()

# %% [markdown]
# ## Decisions: flips, the boundary band, pair order
#
# - **Flip rate**: the share of inputs with $c_f \ne c_q$, on data held out from every choice; by kind right → wrong,
#   wrong → right, wrong → another wrong class. Accuracy sees only the difference of the first two
#   {cite}`churn,not-all-you-need`.
# - **Low-margin boundary band**: the 20 % of inputs with the smallest float top-2 margin; **band flips** are flips there.
# - **Pair-order flip**: the float top-2 pair $(a, b)$ has $z^q_a < z^q_b$. It is not the same as a flip: a third class may
#   win with the pair in order.

# %% tags=["hide-input"]
before = np.array([[3.0, 1.0, 0.0], [1.2, 1.0, 0.0], [1.1, 1.0, 0.0], [0.0, 2.0, 1.9], [4.0, 0.0, 0.0]])
after = np.array([[2.9, 1.1, 0.0], [1.0, 1.1, 0.0], [1.1, 1.0, 1.5], [0.0, 1.9, 1.8], [4.0, 0.1, 0.0]])
winner, runner_up = decisions.top_pair(before)
rows = [
    [str(z), str(w), f"{decisions.margin(z[None])[0]:.1f}", "yes" if i in decisions.boundary_band(before) else "",
     "yes" if z.argmax() != w.argmax() else "", "yes" if w[winner[i]] < w[runner_up[i]] else ""]
    for i, (z, w) in enumerate(zip(before, after))
]  # fmt: skip
columns = ["float logits", "quantized logits", "margin", "in the band", "flip", "pair-order flip"]
tables.Table(
    pd.DataFrame(rows, columns=columns).rename_axis("input"),
    "Five inputs: input 1 flips by pair order, input 2 flips to a third class.",
    "table-decisions",
)

# %% [markdown]
# (transitions-defined)=
# ## Transitions between two levels
#
# Between the weights of two adjacent bit-widths, $W(t) = (1 - t)\,W_b + t\,W_{b-1}$ in 11 steps, ends included. At each step
# the junction cells are counted; their *union* holds the cells that are one at some step. From one step to the next a cell
# *changes* when a corner's label does, and is *rearranged* when it is on the boundary before and after while the set of
# classes on its corners changes. *Near* a junction means: a junction cell of either step, or one of its eight neighbours.
# *Chance along the boundary* is the share of all cells that the boundary visits which are near one; it is what to expect
# of changed cells if they fell anywhere along the boundary.
