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
#
# **Question.** A one-hidden-layer network on the digits set keeps its accuracy when its weights are quantized to a few
# bits. How far does its {term}`decision boundary` move meanwhile, and do the paper's numbers for 8 and 4 bits come out?
#
# Everything below is made from raw pixels by this notebook: it trains, quantizes ({term}`PTQ-W`) and measures, once as the paper
# did and again for many seeds. [](definitions) has the measures.

# %% [markdown]
# ## Parameters
#
# Rerun with others by `make book P="seed=3 bits=[8,5]"`, or with papermill; [](rerun-it) says what each means.

# %% tags=["parameters"]
seed = 0  # of the split, the initial weights and the order of the batches
seeds = 100  # networks, with the seeds from `seed` on; cost: about 2 s each
bits = [8, 7, 6, 5, 4, 3, 2]  # levels, 2 to 16; a transition leads from each to the next; cost: grows with their number
width = 64  # hidden units; cost: grows with it
epochs = 60  # passes over the training set; cost: grows with it
nodes = [201, 101, 401]  # a side of the slice grids; the first is drawn; cost: grows with their squares
scheme = "narrow"  # step of the quantizer: narrow (2^b - 1 levels) or full (2^b)
granularity = "tensor"  # one step for a weight tensor, or one for each output channel (channel)
steps = 11  # of a transition, both ends included; cost: grows with it
share = 0.2  # of the inputs, those of least margin, in the boundary band

# %% tags=["remove-cell"]
from studies import catalogue, ledger
from studies.figures import inputs, levels, setup, tables

settings = inputs.settings("seed seeds bits width epochs nodes scheme granularity steps share")

# %%

one = catalogue.run(settings.spec)
many = catalogue.sweep(settings.spec, settings.seeds)

# %% tags=["remove-input"]
setup.table("digits")

# %% [markdown]
# ## One run, as the paper has it
#
# The slice is the plane of the training set's first two principal components. Blue cells are on the float boundary only,
# orange cells on the quantized one only, black ones on both; J is the boundary-mask Jaccard distance between them.

# %% mystnb={"figure": {"caption": "Decision regions, boundary masks and triple-junction cells on the PCA slice of one run: float, and each level. The masks part long before the flip rate shows anything.", "name": "figure-1"}} tags=["hide-input"]
levels.levels_figure(one)

# %% tags=["remove-input"]
tables.source(one, "digits_slice.nc")

# %% tags=["hide-input"]
tables.Table(
    levels.levels_table(one),
    f"Decisions and local geometry by level, one run. In brackets what {one.sizes['sample']} test inputs leave open: 95 % Clopper–Pearson intervals. Displacement and radius are in input units (pixel / 16).",
    "table-1",
)

# %% tags=["hide-input"]
tables.Table(
    levels.slices_table(one),
    "Slice measures by level at three resolutions, one run. h is the larger grid step, in input units; *beyond τ* is the tolerance Jaccard distance, which has no grid.",
    "table-1-slices",
)

# %% tags=["remove-input"]
tables.source(one, "digits_slice.nc")

# %% [markdown]
# ## Many seeds
#
# One run is one draw. With the seed change the split, the initial weights and the order of the batches; a new run falls
# into the interval in brackets with a probability of 95 %.

# %% tags=["hide-input"]
tables.Table(
    levels.levels_table(many),
    f"As the table above over {many.sizes['seed']} seeds: median and 95 % prediction interval of a single run.",
    "table-1-seeds",
)

# %% tags=["hide-input"]
tables.Table(
    levels.slices_table(many),
    f"Slice measures over {many.sizes['seed']} seeds: median and 95 % prediction interval of a single run; *beyond τ* is the tolerance Jaccard distance.",
    "table-1-slices-seeds",
)

# %% mystnb={"figure": {"caption": "What each level does over the seeds, a dot a run. Diamonds are the paper's values.", "name": "figure-spread"}} tags=["hide-input"]
levels.spread_figure(many, ledger.reported_values())

# %% tags=["remove-input"]
tables.source(many, "digits_levels.nc")

# %% [markdown]
# ## Displacement without scale
#
# The {term}`first-order boundary displacement` δ divides the change of a margin by the float network's slope. If quantization
# also multiplies all margins by a factor, δ counts that as a shift, although no boundary moves ([](lesson-displacement),
# exercise 5). The {term}`signed distance change` Δs divides each margin by its own slope and is free of that. The paper names its
# quantity and gives no formula: which of the two is nearer to its number?

# %% mystnb={"figure": {"caption": "The two readings of the boundary shift over the seeds. Left: the median over the test inputs, the median run with the 95 % prediction interval of a single run; the diamond is the paper's value. Right: the ratio of the two, a dot a run, with the median; the dotted line is one.", "name": "figure-shifts"}} tags=["hide-input"]
levels.shifts_figure(many, ledger.reported_values())

# %% tags=["hide-input"]
tables.Table(
    levels.shifts_table(many),
    f"Both readings over {many.sizes['seed']} seeds, in input units: the median run with the 95 % prediction interval of a single run. The last column is the mean difference, paired by seed, with its 95 % interval.",
    "table-shifts",
)

# %% tags=["remove-input"]
levels.shifts_summary(many, ledger.reported_values())

# %% tags=["remove-input"]
tables.source(many, "digits_levels.nc")

# %% [markdown]
# ## Jaccard depends on the ruler
#
# A one-cell mask thins as the grid is refined, so the same shift takes a larger share of it: J grows with the resolution
# at every level. The straight-line reading d_eff gives the shift back, in input units, and agrees between resolutions as
# long as the shift is below the grid step; above it, J saturates and d_eff can only say "a cell or more". The
# {term}`tolerance Jaccard distance` beside them asks the same question without a grid: which share of the two boundaries'
# length has no counterpart within τ input units? Others stand in {numref}`table-referee-instead`.

# %% mystnb={"figure": {"caption": "Boundary-mask Jaccard distance (left) and the shift that explains it, d_eff (right), over the seeds at three resolutions. Boxes hold the middle half of the seeds; whiskers reach at most 1.5 times as far, dots lie beyond. Diamonds are the paper's values, whose grid is not stated.", "name": "figure-resolution"}} tags=["hide-input"]
levels.resolution_figure(many, ledger.reported_values())

# %% tags=["remove-input"]
tables.source(many, "digits_levels.nc")

# %% [markdown]
# ## What was seen

# %% tags=["remove-input"]
levels.summary(many)

# %% [markdown]
# The verdicts on the paper's claims D1 to D5, judged on the published baseline runs, stand in [](the-ledger).
