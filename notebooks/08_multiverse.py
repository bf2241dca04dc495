# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (multiverse)=
# # The multiverse: which choice makes which number
#
# **Question.** The abstract names its quantities without formulas. Every verdict of [the ledger](the-ledger) is that of one
# baseline; does it hang on a choice that could as well have been made otherwise? And is there a set of choices under which all of
# the paper's numbers on digits come out at once?
#
# A *specification* is one choice for each thing that a claim depends on. The choices of {numref}`table-readings` are crossed where they
# interact, and each claim is judged in every specification by the ledger's first rule, which was made before the runs. Axes, rules and the definition of the agreeing
# region stood in the code before the runs; nothing is selected by its result. To make each choice yourself, go to [](what-if).

# %% [markdown]
# ## Parameters
#
# By default this page shows the published multiverse. `results="fresh"` trains and measures the digits networks here, or takes what
# `make reproduce` has made; `seeds` then says how many of each kind: `python notebooks/execute.py 08_multiverse results=fresh seeds=2`.

# %% tags=["parameters", "own-parameters"]
results = "published"  # published, or fresh to train and measure the networks here; cost: of fresh, minutes to an hour
seeds = 5  # of fresh networks of each kind; cost: of fresh, grows with it
curves = ["D2", "D4"]  # claims of the first figure of specification curves
more_curves = ["D5", "S4"]  # claims of the second one

# %% tags=["remove-cell"]
from studies import ledger, published
from studies.figures import cifar_multiverse, inputs, multiverse, tables
from studies.multiverse import judging

inputs.checked_names("results seeds curves more_curves")

# %%
many = multiverse.load(results, seeds)
rule, paper = ledger.load_claims()
judged = judging.judge(many, paper, rule)
splits = multiverse.variance_splits(many)
others = multiverse.load_elsewhere()  # of other data sets, for the end of the page

# %% tags=["remove-input"]
tables.sources(many, *others)

# %% [markdown]
# ## The choices
#
# The first value of each is the baseline's, which [](the-setup) has whole. Networks are trained anew for the first four; everything
# else is derived from them, on grids that nest. With few seeds, the interval that a number must lie in is Student's throughout. Each
# transition, and each stopping rule with its limits, stands for itself here, where the ledger's first rule pools the one and takes all limits of
# the other together.

# %% tags=["hide-input"]
tables.Table(
    multiverse.readings_table(judged),
    "What is crossed, and for which claims. Where *nodes a side* matters for stopping, it is 201 or 101.",
    "table-readings",
)

# %% [markdown]
# ## In how many specifications each claim holds
#
# A claim *holds* where the ledger's first rule would say "reproduced": the reported number lies in the interval, and the interval is not so wide
# that it could not tell one bit-width from another. Where only that is missing, it is *inconclusive*.

# %% tags=["hide-input"]
tables.Table(
    multiverse.claims_table(judged, paper, splits),
    "Each claim over its specifications. *Ours*: the median estimate, with the middle 90 % of estimates. *Moved most by*: the choice with the largest main effect, and its share of the measure's variance.",
    "table-multiverse",
)

# %% [markdown]
# ## Which choice moves it
#
# The variance of each measure over all specifications and networks is split into what each choice explains alone, what choices do
# together, and what networks differ in that share every choice.

# %% mystnb={"figure": {"caption": "Share of each measure's variance, in percent: main effects of the choices, their interactions, and the networks of one specification.", "name": "figure-variance-split"}} tags=["hide-input"]
multiverse.variance_figure(splits)

# %% [markdown]
# A choice may move a measure and not the verdict, or the other way round. So here is the share of specifications that agree with the
# paper (hold, or are inconclusive), one choice at a time.

# %% mystnb={"figure": {"caption": "Share of specifications, in percent, whose interval holds the paper's number, for each value of each choice; for J1, those that do not refute it.", "name": "figure-choices"}} tags=["hide-input"]
multiverse.choices_figure(judged)

# %% [markdown]
# ## Specification curves

# %% mystnb={"figure": {"caption": "All specifications of two claims in order of their estimate. Below, which choices lie where: the darker, the more of the specifications there have that value.", "name": "figure-curves"}} tags=["hide-input"]
multiverse.curve_figure(judged, paper, curves)

# %% mystnb={"figure": {"caption": "The same for two more claims. The stopping rules, of which there are many, have no rows.", "name": "figure-more-curves"}} tags=["hide-input"]
multiverse.curve_figure(judged, paper, more_curves)

# %% [markdown]
# ## Where all numbers agree at once
#
# A *cell* is one choice of what a single study would share between its tables: network, quantizer, grid and mask. In a cell, all
# numbers on digits must agree at once; what remains open (plane, reading of the shift, what is counted in which three transitions,
# stopping rules) is free, and the share of it that agrees is the cell's size. A region that is large says little: then the abstract
# does not pin the choices down. One that is small would say which reading the paper may have used, if chance is kept in mind.

# %% tags=["hide-input"]
region = judging.region(judged)
tables.show_tables(
    [
        (multiverse.region_table(judged), "The agreeing region: of all numbers, and of all but one.", "table-region"),
        (multiverse.region_choices(region), "Agreeing cells by choice.", "table-region-choices"),
        (multiverse.largest_cells(region), "Cells where the largest share of the rest agrees.", "table-region-cells"),
    ]
)

# %% [markdown]
# Mind what makes a cell large: an interval is wide where networks differ much, and a wide interval agrees with much. That is why the
# table also counts the cells in which every number *holds*, with no interval too wide.
#
# ## The same on MNIST and Fashion-MNIST
#
# Of these data sets the abstract has one claim each, S5 and S6: the same stopping rule reduces flips. A sample of the choices is
# crossed, stated in the code before the runs: all that a stopping rule depends on, as above, on networks of two widths and two
# lengths of training; scale and split are the baseline's. In each specification one network, quantizer and path give both, the bits
# chosen by accuracy and those after stopping. The claim holds where the interval of their difference in held-out flips, paired by
# network, lies above 0. Shown are the published runs, whatever `results` is.

# %%
elsewhere, elsewhere_splits = {}, {}
for other in others:
    elsewhere |= judging.judge(other, paper, rule)
    elsewhere_splits |= multiverse.variance_splits(other)

# %% tags=["hide-input"]
tables.show_tables(
    [
        (multiverse.readings_table(elsewhere), "What is crossed elsewhere.", "table-readings-elsewhere"),
        (
            multiverse.claims_table(elsewhere, paper, elsewhere_splits),
            f"The claims elsewhere over their specifications, {others[0].sizes['seed']} networks of each kind. *Ours*: flips chosen by accuracy less those after stopping, the median estimate with the middle 90 %. *Fails*: stopping spares no flip, or adds some; where both choose the same bits the difference is 0.",
            "table-multiverse-elsewhere",
        ),
    ]
)

# %% mystnb={"figure": {"caption": "Share of specifications, in percent, in which each claim holds, for each value of each choice. The stopping rules have no rows.", "name": "figure-choices-elsewhere"}} tags=["hide-input"]
multiverse.choices_figure(elsewhere, "holds")

# %% mystnb={"figure": {"caption": "Specification curves of both claims: held-out flip rate chosen by accuracy less that after stopping. The stopping rules have no rows.", "name": "figure-curves-elsewhere"}} tags=["hide-input"]
multiverse.curve_figure(elsewhere, paper, list(elsewhere))

# %% [markdown]
# (multiverse-cifar)=
# ## The same on CIFAR-10
#
# The subset has the claims C1 to C6, the full set F1 to F3 and R1 to R8, and both have K1 and K2. Crossed are the network with its
# length of training, batch norms in float or folded, one step a tensor or a channel, both conventions of the step, the band, and the
# ruler: plane, extent, nodes and thickness. The choice by accuracy, the stopping rule and the rounding are crossed with these.

# %%
sets = {
    "cifar-10": ["cifar-10_readings.nc"],
    "full-cifar-10": ["full-cifar-10_readings.nc", "full-cifar-10_roundings.nc"],
}
sets = {name: [published.load_published(file) for file in files] for name, files in sets.items()}
on_cifar = cifar_multiverse.judge(sets, paper, rule)
moved = {name: cifar_multiverse.effects(found) for name, found in on_cifar.items()}
reported = {claim["id"]: claim["reported"] for claim in paper}

# %% tags=["hide-input"]
tables.show_tables(
    (
        table(found, name),
        f"{cifar_multiverse.TITLES[name]}: {caption}",
        f"{label}-{name}",
    )
    for name, found in on_cifar.items()
    for label, table, caption in (
        ("table-readings", lambda one, _: multiverse.readings_table(one), "what is crossed, and for which claims."),
        (
            "table-multiverse",
            lambda one, key: multiverse.claims_table(one, paper, moved[key]),
            "each claim over its specifications. *Ours*: the median estimate, with the middle 90 %.",
        ),
    )
)

# %% mystnb={"figure": {"caption": "CIFAR-10 subset: share of specifications, in percent, whose interval holds the paper's number, for each value of each choice.", "name": "figure-choices-cifar-10"}} tags=["hide-input"]
multiverse.choices_figure(on_cifar["cifar-10"])

# %% mystnb={"figure": {"caption": "Full CIFAR-10: the same. For directions, the share that does not refute the paper.", "name": "figure-choices-full-cifar-10"}} tags=["hide-input"]
multiverse.choices_figure(on_cifar["full-cifar-10"])

# %% [markdown]
# ### Where all claims hold at once, and what is nearest
#
# The rule stood in `data/predictions.yml` before the runs. A cell is what the claims of a data set share: for the subset the network,
# the quantizer and the ruler; for the full set the ruler and the band, since roundings were made of one network alone. *By chance* is
# what the single claims would give if they agreed independently of each other. A fraction that is not much larger than that says that
# no choice brings all of them together.

# %% tags=["hide-input"]
tables.Table(
    cifar_multiverse.region_table(on_cifar), "Where all numbers of a data set agree at once.", "table-region-cifar"
)

# %% tags=["hide-input"]
tables.show_tables(
    (
        cifar_multiverse.nearest_table(found, reported, name),
        f"{cifar_multiverse.TITLES[name]}: the specification nearest to the paper's numbers, which these numbers chose.",
        f"table-nearest-{name}",
    )
    for name, found in on_cifar.items()
)

# %% tags=["remove-input"]
cifar_multiverse.nearest_words(on_cifar["cifar-10"], reported, "cifar-10")

# %% tags=["remove-input"]
cifar_multiverse.nearest_words(on_cifar["full-cifar-10"], reported, "full-cifar-10")

# %% [markdown]
# ## What was seen

# %% tags=["remove-input"]
multiverse.summary(many, judged, splits, rule)

# %% tags=["remove-input"]
multiverse.elsewhere_summary(elsewhere, elsewhere_splits)

# %% tags=["remove-input"]
cifar_multiverse.summary(on_cifar, moved)
