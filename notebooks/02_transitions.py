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
#
# **Question.** Between two adjacent bit-widths the weights can be moved in a straight line. The paper says that the visible
# reconfigurations of the {term}`decision regions <decision region>` then sit at multiclass junctions. Do they, and more than chance would give?
#
# [](definitions) says what counts as a {term}`junction cell`, a changed cell and a rearranged cell.

# %% [markdown]
# ## Parameters
#
# The same as in [](levels); a transition leads from each listed bit-width to the next, in `steps` steps.

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
from studies import catalogue
from studies.figures import inputs, setup, tables, transitions

settings = inputs.settings("seed seeds bits width epochs nodes scheme granularity steps share")

# %%

one = catalogue.run(settings.spec)
many = catalogue.sweep(settings.spec, settings.seeds)

# %% tags=["remove-input"]
setup.table("digits")

# %% [markdown]
# ## One run, as the paper has it

# %% mystnb={"figure": {"caption": "Triple-junction cells along the interpolation between adjacent levels, one run. Regions and dark masks: the level that the transition starts from; orange masks: the one that it ends at; dots: junction cells, coloured by t.", "name": "figure-2"}} tags=["hide-input"]
transitions.transitions_figure(one)

# %% tags=["hide-input"]
tables.Table(
    transitions.steps_table(one),
    f"Junction cells at each interpolation step, one run, on {int(one.nodes[0])} nodes a side.",
    "table-2-steps",
)

# %% tags=["hide-input"]
tables.Table(
    transitions.transitions_table(one),
    f"Transitions between adjacent levels, one run, on {int(one.nodes[0])} nodes a side: junction cells over all steps, and where the changes are.",
    "table-2",
)

# %% tags=["remove-input"]
tables.source(one, "digits_slice.nc")

# %% [markdown]
# ## Claim J1 as a test
#
# A cell *changes* in a step when a corner's label does. If changes fell anywhere along the boundary, the share of them near
# a junction (within one cell) would be the share of all boundary cells near one: that is chance. The test pairs the two
# shares seed by seed.
#
# Most changed cells are swept by a boundary that merely shifts. So there is a stricter reading of "reconfigure": a cell is
# *rearranged* when it stays on the boundary while the set of classes that meet there changes. At small steps this can
# hardly happen away from a junction, so it is a follow-up and not the judged reading. It does not see a region that appears
# inside another one, nor a neck that closes between two classes ([](lesson-junctions), exercises 5 and 6).

# %% mystnb={"figure": {"caption": "Share of cells within one cell of a junction, over the seeds: changed and rearranged cells against chance. Boxes hold the middle half of the seeds; whiskers reach at most 1.5 times as far, dots lie beyond. The dotted line is one half.", "name": "figure-junction-test"}} tags=["hide-input"]
transitions.junction_test_figure(many)

# %% tags=["hide-input"]
tables.Table(
    transitions.transitions_table(many),
    f"Transitions over {many.sizes['seed']} seeds, on {int(many.nodes[0])} nodes a side: median and 95 % prediction interval of a single run.",
    "table-2-seeds",
)

# %% tags=["remove-input"]
tables.source(many, "digits_levels.nc")

# %% [markdown]
# ## What was seen

# %% tags=["remove-input"]
transitions.summary(many)

# %% [markdown]
# The verdicts on claims J1 to J4, judged on the published baseline runs, stand in [](the-ledger). The paper gives three junction
# counts for "selected" transitions without saying which, and a count depends on how it is taken: at one step, or over all
# of them.
