# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (full-cifar)=
# # Full CIFAR-10: bit-widths, and what calibration predicts
#
# **Question.** On the whole of CIFAR-10, how many decisions do 6 bits change where accuracy hardly moves? And does what
# calibration data show hold for data not yet seen?
#
# The model is a reduced residual network on 45,000 of the official training images; the other 5,000 calibrate, and the
# official test set is held out. The paper reports {claim}`F1 reported` of accuracy lost at 6 bits, {claim}`F2 reported` of the
# decisions changed and {claim}`F3 reported` of those in the boundary band, as means of three seeds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters", "own-parameters"]
results = "published"  # or fresh; cost: of fresh ones, most of an hour
seeds = 0  # of fresh runs; 0 stands for the baseline's own number

# %% tags=["remove-cell"]
from IPython.display import Markdown

from bqcore import notebook, plots, plots_rounding, specs

notebook.full_settings("results seeds")

# %%
tensor = notebook.published_or_fresh(specs.baseline("stopping", "full-cifar-10"), results, seeds)
channel = notebook.published_or_fresh(notebook.by_channel("full-cifar-10"), results, seeds)

# %% [markdown]
# ## What each bit-width moves (Table 5)

# %% tags=["hide-input"]
plots.Table(
    plots_rounding.full_table({"tensor": tensor, "channel": channel}),
    f"Full CIFAR-10, held-out: means over {tensor.sizes['seed']} seeds (lowest – highest), J and d_eff on {int(tensor.nodes[0])} nodes a side.",
    "table-5",
)

# %% tags=["remove-input"]
notebook.sources({"tensor": tensor, "channel": channel})

# %% [markdown]
# Rounding at fixed bits (Table 6), nearest, optimized and with the {term}`boundary-gap term`, can be run (`python -m bqcore run
# rounding full-cifar-10`, or `digits`), but its results are not published yet.

# %% [markdown]
# ## Does calibration predict the held-out split?
#
# The paper reports correlations of calibration and held-out Jaccard from {claim}`K1 reported` to {claim}`K2 reported` over
# all variants. Bit-width drives both, so the correlation within a bit-width stands beside it; the interval over seeds leaves
# out one seed at a time, with all its levels.

# %% tags=["hide-input"]
stopping = notebook.published("stopping", ["digits", "mnist", "fashion-mnist", "cifar-10"])
everywhere = stopping | {"full CIFAR-10": tensor}
plots.Table(
    plots_rounding.correlations_table(everywhere),
    "Calibration against held-out boundary Jaccard, over seeds and bit-widths.",
    "table-correlations",
)

# %% [markdown]
# Is Jaccard the calibration measure to look at? The same for what it is to predict, held-out flips:

# %% tags=["hide-input"]
plots.Table(
    plots_rounding.predictors_table(everywhere),
    "Calibration measures of PTQ-W against held-out flips, over seeds and bit-widths.",
    "table-predictors",
)

# %% tags=["remove-input"]
notebook.sources(stopping)

# %% [markdown]
# ## What was seen
#
# The verdicts on F1 to F3 stand in [](the-ledger).

# %% tags=["remove-input"]
Markdown(notebook.full_summary(tensor, everywhere))
