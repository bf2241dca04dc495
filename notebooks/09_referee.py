# %% [markdown]
# (referee)=
# # For a referee: what the numbers show

# %% mystnb={"code_prompt_show": "Parameters: what you can change, and what it costs"} tags=["parameters", "own-parameters", "hide-input"]
rng = 0  # seed of the paired bootstrap

# %% tags=["remove-cell"]
from IPython.display import Markdown

from studies import first_order, ledger, published
from studies.figures import inputs, referee, stopping, tables, verdicts

inputs.check_names()
rows = ledger.kept()
paper = ledger.reported()
datasets = ["digits", "mnist", "fashion-mnist", "cifar-10"]
sets = inputs.stopping_runs(datasets, "published", 0)
full = inputs.stopping_runs(["full-cifar-10"], "published", 0)
chosen = {name: stopping.usual_choices(many) for name, many in sets.items()}
subsets = sets["cifar-10"]
steps = referee.implied_steps(subsets, {8: paper["C6"], 6: paper["C3"]})
study = published.load_published(published.FIRST_ORDER)

# %% tags=["remove-input"]
referee.answer(rows)

# %% mystnb={"figure": {"caption": "Verdicts of the ledger on each group of the abstract's claims. Dark blue: our interval holds the paper's number and none of its neighbours. Light blue: it holds neighbours too. Orange: it does not hold the number, or a direction is the opposite (hatched).", "name": "figure-referee-verdicts"}} tags=["remove-input"]
referee.verdicts_figure(rows)

# %% [markdown]
# ## The question
#
# What do the numbers in the abstract show, what do they not show, and what should be reported instead? This page can be read alone.
# It is made from published results; the chapters that it links to have the rest.
#
# The paper's body was not available. So this page does not review its argument. It reviews what the numbers of its abstract show when
# its experiments are repeated over many seeds.
#
# ### In short
#
# | the abstract's numbers | what they show | what they do not show | report instead |
# | --- | --- | --- | --- |
# | boundary-mask Jaccard distance (D2, D4, S3, S4, C3, C6) | the boundary moves where accuracy does not | how far it moves: without its grid the number has no meaning, and two of them cannot be compared | the grid step with it; d_eff below a step; a tolerance Jaccard distance, the mean distance, the changed area |
# | single runs (D1 to D5) | what one network did | what the next one will do | many seeds, with the interval for the next |
# | stopping beside accuracy (S1 to S6, C1 to C6) | more bits keep more decisions | that the rule chooses better than the same bits for all | a comparison at equal bits, paired by seed |
# | a threshold that is not stated | that some threshold gives the numbers | that one chosen beforehand does | all thresholds of a grid fixed beforehand |
# | one correlation over all bit-widths (K1, K2) | that bits drive both splits | that calibration ranks networks | the correlation within a bit-width, with seeds as clusters |
# | local boundary shift (D5) | the linear reading | the true shift, away from the boundary | the same at boundary points, or the way along the normal |

# %% [markdown]
# ## How it was measured
#
# Each number is compared with the interval that our next run, or our next mean of as many runs, falls into with a probability
# of 95 %. Inside it is *compatible*. That shows little if the interval also contains the mean of a neighbour: another
# bit-width, rounding, rule or transition. If it contains no neighbour, the number is *reproduced*. [](the-ledger) has the rule
# and names the neighbours.
#
# Claims without a number are directions. Each has a bound: a difference that would matter, with its reason in `data/claims.yml`. A
# difference inside the bound does not matter. The smallest difference that the seeds would probably have seen is shown beside it.
#
# [](the-setup) lists the networks, data sets and seeds, which are the same in all chapters.
#
# ## The paper beside ours
#
# ### Every number of the abstract

# %% mystnb={"figure": {"caption": "Where each reported number lies among our runs: in the shaded band the next run could give it. Ticks: means of the neighbours; where one is inside the band, our runs cannot tell it from ours. Marks at the edge are farther out. The text has the number and our 95 % interval.", "name": "figure-positions"}} tags=["remove-input"]
verdicts.positions_figure(rows)

# %% tags=["remove-input"]
Markdown(ledger.chance_line(rows))

# %% [markdown]
# ### Directions

# %% mystnb={"figure": {"caption": "Directions: mean differences paired by seed with their 95 % intervals, in units of each one's bound. In the shaded band a difference is smaller than its bound. Ticks: the smallest difference that so many seeds see with a probability of 80 %. S5 and S6 are above 0, but smaller than their bound; the 3-bit gains of the gap term (R6) are above 0 too, where the claim is that there are none.", "name": "figure-directions"}} tags=["remove-input"]
verdicts.directions_figure(rows)

# %% [markdown]
# ### The grid that the CIFAR-10 numbers imply
#
# J is a function of the boundary's shift over the grid step ([](finite-scale-law)). So a reported J and a shift give a step. The
# paper states no step; the shifts of our networks, read from our coarsest grid, give an interval for it. It holds if the
# paper's networks move as ours do, and if its masks are one cell thick; a mask that is thicker by a cell on each side has the same effect
# as a coarser grid ([](subsets)).

# %% tags=["remove-input"]
tables.Table(
    referee.implied_table(steps),
    "CIFAR-10 subset: the grid step (input units, pixel / 255) that the reported Jaccard distances imply by the law, with the 95 % interval of a single run's shift, and how many nodes a side our slices would have at it.",
    "table-referee-steps",
)

# %% mystnb={"figure": {"caption": "J against the grid step on CIFAR-10 subsets: our runs (dots: medians, bars: range over seeds), the law at our shifts (lines, bands: their 95 % interval), and the steps at which the law gives the paper's values (thick bars).", "name": "figure-referee-steps"}} tags=["remove-input"]
referee.steps_figure(subsets, steps)

# %% [markdown]
# ### Stopping: what it saves, and what could have been seen
#
# *Flips saved* is the flip rate of the choice by accuracy less that after boundary-aware stopping, paired by seed. *At equal bits*
# compares with a uniform bit-width of the same average size. The last columns are the power: the smallest mean saving that a paired test
# would have found in four cases of five, with these seeds and with three. A smaller saving cannot be told from none.

# %% tags=["remove-input"]
tables.Table(
    referee.power_table(sets, chosen, rng=rng),
    "Held-out flip rates: what stopping at a Jaccard limit saves, with 95 % intervals by Student's t and by drawing seeds, and the savings that so many seeds would have found with a probability of 80 %.",
    "table-referee-power",
)

# %% [markdown]
# ### Calibration against held-out: three correlations
#
# Over all bit-widths and networks the correlation is near 1, since both axes follow the bits. Fisher's interval takes each point as
# independent, but bit-widths of one network are not; the second interval leaves out one seed at a time. Within a bit-width only the
# networks differ, and a calibration measure would have to rank these.

# %% tags=["remove-input"]
tables.Table(
    referee.correlation_table(sets, quantized=[8, 7, 6, 5, 4, 3, 2]),
    "Correlation of calibration and held-out Jaccard distance over 8 to 2 bits, with 95 % intervals.",
    "table-referee-transfer",
)

# %% [markdown]
# ## What changes the answer
#
# ### The limit of a stopping rule
#
# The abstract states no limit. So each number is judged at the limit that calibration data pick. S2 with S4, and C4 to C6, are also
# judged together at every limit of a grid fixed beforehand: {numref}`supplement-stopping-limits-one` and
# {numref}`supplement-subset-limits`.
#
# (first-order-study)=
# ### How far the linear reading holds
#
# The local boundary shift is a first-order displacement. Here it is compared with the true one: in the plane, along the normal of the
# exact boundary; in full space, along the float margin's normal, to where either margin is 0, halved down to rounding in float64.
# *No quantized crossing* counts the points whose quantized boundary is not met: in the plane none between the same two classes
# on the slice, in full space none within the stated reach. [](exact) has one network in detail.

# %% mystnb={"figure": {"caption": "First order against truth on digits: fraction of points within a tenth of the true displacement, and median relative error; dots are medians and bars the range over the networks.", "name": "figure-first-order-study"}} tags=["remove-input"]
referee.first_order_figure(study)

# %% [markdown]
# ### What a slice shows
#
# J, grid prediction change and junctions are read off a plane on which hardly any input lies. [](outside-the-data) draws the part
# outside the data, which is counted like the rest.

# %% [markdown]
# ## What was seen

# %% tags=["remove-input"]
referee.summary(rows, steps, study)

# %% [markdown]
# ### What to report instead
#
# We recommend the {term}`tolerance Jaccard distance`, the fraction of the two boundaries' length without a counterpart within τ input
# units ([](exact)). Report it beside J wherever the boundary is known exactly or from interpolated logits, together with the mean
# distance and the changed area of the slice.
#
# The tables of bit-widths, stopping rules and roundings list it beside J. [](stopping-tolerance), [](subsets-tolerance) and
# [](full-tolerance) show how much of it, and how much of J, depends on the grid. [](stopping) and [](subsets) compare a stopping rule
# by this distance with the paper's.

# %% [markdown]
# ## Supplement

# %% mystnb={"code_prompt_show": "Measures without a grid, in numbers", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
tables.Table(
    referee.spread_table(study),
    f"Digits: J and d_eff on one grid of {first_order.NODES} nodes a side, and measures without a grid; lengths in input units (pixel / 16), *beyond τ* is the tolerance Jaccard distance. Median and range over {study.sizes['seed']} networks.",
    "supplement-referee-instead",
)

# %% mystnb={"code_prompt_show": "What slices show, in numbers", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
tables.Table(
    referee.outside_table(sets | full),
    "PCA slices: the fraction of the variance of the inputs that the plane holds, the fraction of its area where some pixel is outside the range that it has in the inputs that the slice is fitted on, and the levels at which a slice of either split shows fewer than three classes, where no junction can be, with the number of networks. Median and range over the networks' splits.",
    "supplement-referee-outside",
)

# %% mystnb={"code_prompt_show": "First order against truth, in numbers", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
tables.show_tables(
    (
        referee.first_order_table(study, where),
        f"First order against truth, digits, points {where}: median and range over {study.sizes['seed']} networks; displacements in input units (pixel / 16).",
        f"supplement-first-order-{i}",
    )
    for i, where in enumerate(first_order.WHERE)
)

# %% tags=["remove-input"]
tables.sources(*sets.values(), *full.values(), study)
