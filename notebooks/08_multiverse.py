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

# %% mystnb={"code_prompt_show": "Parameters: what you can change, and what it costs"} tags=["parameters", "own-parameters", "hide-input"]
results = "published"  # published, or fresh to train and measure the networks here; cost: of fresh, minutes to an hour
seeds = 5  # of fresh networks of each kind; cost: of fresh, grows with it
curves = ["D2", "D4"]  # claims of the figure of specification curves

# %% tags=["remove-cell"]
from studies import ledger, published
from studies.figures import cifar_multiverse, inputs, multiverse, tables
from studies.multiverse import judging

inputs.check_names()
many = multiverse.load(results, seeds)
rule, paper = ledger.load_claims()
judged = judging.judge(many, paper, rule)
splits = multiverse.variance_splits(many)
others = multiverse.load_elsewhere()
elsewhere, elsewhere_splits = {}, {}
for other in others:
    elsewhere |= judging.judge(other, paper, rule)
    elsewhere_splits |= multiverse.variance_splits(other)
files = {
    "cifar-10": ["cifar-10_readings.nc"],
    "full-cifar-10": ["full-cifar-10_readings.nc", "full-cifar-10_roundings.nc"],
}
sets = {name: [published.load_published(file) for file in names] for name, names in files.items()}
on_cifar = cifar_multiverse.judge(sets, paper, rule)
moved = {name: cifar_multiverse.effects(found) for name, found in on_cifar.items()}
reported = {claim["id"]: claim["reported"] for claim in paper}
found = multiverse.outcomes(
    {"digits": (judged, splits)}
    | {name: ({id: elsewhere[id]}, elsewhere_splits) for id, name in (("S5", "MNIST"), ("S6", "Fashion-MNIST"))}
    | {cifar_multiverse.TITLES[name]: (on_cifar[name], moved[name]) for name in on_cifar}
)

# %% tags=["remove-input"]
multiverse.answer(judged, found)

# %% mystnb={"figure": {"caption": "Each claim over its specifications: it holds (green) where the paper's number is inside our interval and the interval tells one bit-width from another; it is inconclusive (blue) where only the first is true. At the right, the choice with the largest main effect.", "name": "figure-multiverse"}} tags=["remove-input"]
multiverse.outcomes_figure(found)

# %% [markdown]
# ## The question
#
# The abstract names its quantities without formulas. Each verdict of [the ledger](the-ledger) judges one baseline. Does it depend on a
# choice that could as well have been made otherwise? Is there a set of choices under which all of the paper's numbers come out at once?
#
# ## How it was measured
#
# A *specification* is one choice for each thing that a claim depends on. The choices are crossed where they interact, and each claim
# is judged in every specification by the ledger's first rule. Axes, rules and the definition of the agreeing region were in the
# code before the runs; nothing is selected by its result. To make each choice yourself, go to [](what-if).
#
# By default this page shows the published multiverses. `results="fresh"` trains and measures the digits networks here, and `seeds` says
# how many of each kind: `python notebooks/execute.py 08_multiverse results=fresh seeds=2`. [](the-setup) has the baseline as a
# whole; the first value of each choice is the baseline's.

# %% tags=["remove-input"]
tables.Table(
    multiverse.readings_table(judged),
    "Digits: what is crossed, and for which claims. Where *nodes a side* matters for stopping, it is 201 or 101.",
    "table-readings",
)

# %% [markdown]
# Networks are trained anew for the first four choices; everything else is derived from them, on grids that nest. Each transition,
# and each stopping rule with its limits, counts by itself.
#
# MNIST and Fashion-MNIST have one claim each, S5 and S6: the stopping rule reduces flips. The claim holds where the interval of the
# difference, paired by network, lies above 0.
#
# (multiverse-cifar)=
# On CIFAR-10 the subset has the claims C1 to C6, the full set F1 to F3 and R1 to R8, and both have K1 and K2. The supplement lists the
# choices that are crossed there.
#
# ## The paper beside ours
#
# Specification curves show all estimates of a claim in order, with the paper's number as a line.

# %% mystnb={"figure": {"caption": "All specifications of two claims in order of their estimate; the grey band is the 95 % interval of a run. Below, which choices lie where: the darker, the more of the specifications there have that value. A row that is grey all along does not move the claim.", "name": "figure-curves"}} tags=["remove-input"]
multiverse.curve_figure(judged, paper, curves)

# %% [markdown]
# ### Where all numbers agree at once
#
# A *cell* is one choice of what a single study would share between its tables: network, quantizer, grid and mask. In a cell, all numbers
# must agree at once. All other choices are free, such as the plane, the reading of the shift, and the stopping rules; the fraction of
# them that agrees is the cell's size. If the region is large, the abstract does not fix the choices.

# %% tags=["remove-input"]
tables.Table(
    multiverse.region_table(judged),
    "Digits: cells in which all numbers agree, and all but one. *Hold*: no interval may be too wide to tell bit-widths apart.",
    "table-region",
)

# %% [markdown]
# An interval is wide where networks differ much, and many numbers lie in a wide interval. That is why the table also counts the cells in
# which every number holds.
#
# For CIFAR-10 the rule was in `data/predictions.yml` before the runs. *By chance* is what the single claims would give if they agreed
# independently of each other. Where the fraction is not much larger than that, no choice brings all of them together.

# %% tags=["remove-input"]
tables.Table(
    cifar_multiverse.region_table(on_cifar), "CIFAR-10: where all numbers agree at once.", "table-region-cifar"
)

# %% [markdown]
# ## What changes the answer
#
# The variance of each measure over all specifications and networks has three parts: what each choice explains alone, what choices
# explain together, and what differs between networks of one specification.

# %% mystnb={"figure": {"caption": "Digits: percent of each measure's variance by main effects of the choices, their interactions, and the networks of one specification. The ruler and the rule matter more than the network.", "name": "figure-variance-split"}} tags=["remove-input"]
multiverse.variance_figure(splits)

# %% [markdown]
# ## What was seen

# %% tags=["remove-input"]
multiverse.summary(many, judged, splits, rule)

# %% [markdown]
# ## Supplement
#
# A choice may move a measure and not the verdict, or the other way round. These figures have the fraction of specifications that agree
# with the paper, one choice at a time.

# %% mystnb={"code_prompt_show": "Digits, choice by choice", "code_prompt_hide": "Hide", "figure": {"caption": "Digits: percent of the specifications whose interval holds the paper's number, for each value of each choice; for J1, those that do not refute it.", "name": "supplement-choices"}} tags=["remove-input", "hide-output"]
multiverse.choices_figure(judged)

# %% mystnb={"code_prompt_show": "CIFAR-10 subset, choice by choice", "code_prompt_hide": "Hide", "figure": {"caption": "CIFAR-10 subset: percent of the specifications whose interval holds the paper's number, for each value of each choice.", "name": "supplement-choices-cifar-10"}} tags=["remove-input", "hide-output"]
multiverse.choices_figure(on_cifar["cifar-10"])

# %% mystnb={"code_prompt_show": "Full CIFAR-10, choice by choice", "code_prompt_hide": "Hide", "figure": {"caption": "Full CIFAR-10: the same. For directions, the percentage that does not refute the paper.", "name": "supplement-choices-full-cifar-10"}} tags=["remove-input", "hide-output"]
multiverse.choices_figure(on_cifar["full-cifar-10"])

# %% mystnb={"code_prompt_show": "Each claim in numbers", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
caption = "each claim over its specifications. *Ours*: the median estimate, with the middle 90 % of estimates."
tables.show_tables(
    [
        (multiverse.claims_table(judged, paper, splits), f"Digits: {caption}", "supplement-multiverse"),
        (
            multiverse.claims_table(elsewhere, paper, elsewhere_splits),
            f"MNIST (S5) and Fashion-MNIST (S6), flips by accuracy less those after stopping: {caption}",
            "supplement-multiverse-elsewhere",
        ),
        *(
            (
                multiverse.claims_table(one, paper, moved[name]),
                f"{cifar_multiverse.TITLES[name]}: {caption}",
                f"supplement-multiverse-{name}",
            )
            for name, one in on_cifar.items()
        ),
    ]
)

# %% mystnb={"code_prompt_show": "What is crossed on the other data sets", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
crossed = {"MNIST and Fashion-MNIST": elsewhere} | {
    cifar_multiverse.TITLES[name]: one for name, one in on_cifar.items()
}
tables.show_tables(
    (multiverse.readings_table(one), f"{title}: what is crossed, and for which claims.", f"supplement-readings-{i}")
    for i, (title, one) in enumerate(crossed.items())
)

# %% mystnb={"code_prompt_show": "Agreeing cells on digits by choice", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
tables.Table(
    multiverse.region_choices(judging.region(judged)), "Digits: agreeing cells by choice.", "supplement-region-choices"
)

# %% mystnb={"code_prompt_show": "The specification nearest to the paper", "code_prompt_hide": "Hide"} tags=["remove-input", "hide-output"]
tables.show_tables(
    (
        cifar_multiverse.nearest_table(one, reported, name),
        f"{cifar_multiverse.TITLES[name]}: the specification nearest to the paper's numbers, which these numbers chose.",
        f"supplement-nearest-{name}",
    )
    for name, one in on_cifar.items()
)

# %% tags=["remove-input"]
cifar_multiverse.nearest_words(on_cifar["cifar-10"], reported, "cifar-10")

# %% tags=["remove-input"]
cifar_multiverse.nearest_words(on_cifar["full-cifar-10"], reported, "full-cifar-10")

# %% tags=["remove-input"]
tables.sources(many, *others, *(one for parts in sets.values() for one in parts))
