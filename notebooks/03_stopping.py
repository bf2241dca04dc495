# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (stopping)=
# # Stopping: bits chosen on calibration data

# %% tags=["parameters", "own-parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters: what you can change, and what it costs"}
results = "published"  # published, or fresh to run the baselines here; cost: of fresh, minutes to an hour
datasets = ["digits", "mnist", "fashion-mnist"]  # digits, and mnist or fashion-mnist; cost: of fresh, most for mnist
seeds = 0  # of fresh runs; 0 stands for the baseline's own number; cost: of fresh, grows with it
spare = 0.5  # a rule's limit is the loosest that keeps at most this fraction of the calibration flips of the choice by accuracy
accuracy_drops = [0.0, 0.005, 0.01, 0.02]  # limits on the accuracy lost on calibration data
flip_limits = [0.0025, 0.005, 0.01, 0.02]  # limits on the calibration flip rate
band_limits = [0.01, 0.02, 0.05, 0.1]  # limits on the calibration flip rate in the boundary band
jaccard_limits = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # limits on the calibration Jaccard distance, of masks or at τ

# %% tags=["hide-input"] mystnb={"code_prompt_show": "The runs of this chapter, and what each rule chooses in them"}
import pandas as pd
import torch

import bqcore as bq
from studies import ledger, networks, specs, stopping, training
from studies.data import splits
from studies.figures import inputs, setup, strips, tables
from studies.figures import stopping as figures
from studies.figures import stopping_paper as beside

inputs.check_names()
limits = {"accuracy": accuracy_drops, "flips": flip_limits, "band flips": band_limits}
limits |= {"jaccard": jaccard_limits, "beyond τ": jaccard_limits}
inputs.check_limits(results, seeds, spare, limits)
sets = inputs.stopping_runs(datasets, results, seeds)
chosen = {name: figures.usual_choices(many, spare, limits) for name, many in sets.items()}
paper = ledger.reported()

# %% tags=["remove-input"]
beside.answer(sets, chosen)

# %% tags=["remove-input"] mystnb={"figure": {"caption": "Held-out flips against model size. The grey line is one bit-width for all networks (numbers beside it). A mark is what a rule chooses. Both are means over the seeds. A rule is better than a uniform bit-width where its mark is below the line: see how close all marks are to it.", "name": "figure-front"}}
figures.front_figure(sets, chosen)

# %% [markdown]
# ## The question
#
# Somebody has to choose a bit-width before the held-out data are seen. The usual choice is by accuracy: go down from 8 bits,
# and stop before calibration accuracy falls. The paper proposes to stop earlier, when the decision boundary has moved too far on a
# slice through the calibration data. It reports that far fewer held-out decisions change.
#
# This chapter asks two things. Do fewer decisions change? And are they fewer than with a uniform bit-width of the same
# average size, or does the rule only buy more bits?
#
# ## How it was measured

# %%
setup.stated(*(specs.baseline("stopping", name) for name in datasets))

# %% [markdown]
# [](the-setup) says whose choice each of these is. This page shows published runs, since fresh ones take long:
# `python notebooks/execute.py 03_stopping results=fresh seeds=4` makes them here. Every parameter at the top reaches the tables and
# figures, except the strips beside the paper's numbers, which show the runs of the ledger.
#
# One digits network by hand, of a seed on which the rules choose different bits. Training, calibration and held-out digits are
# disjoint.

# %%
torch.set_num_threads(1)
split = splits.stopping_split("digits", 1)
model = networks.mlp((64, 64, 10), 1)
training.fit(model, split.train_inputs, split.train_classes, epochs=60, seed=1)
quantized = {b: bq.quantize_model(model, b) for b in range(8, 1, -1)}
print(*(f"{name}: {len(values)}" for name, values in split._asdict().items() if name.endswith("inputs")), sep="\n")


# %% [markdown]
# Three numbers matter on both parts of the data: accuracy, the fraction of decisions that change, and the Jaccard distance of the
# boundary masks on a slice through that part.


# %%
def measured(network, x, y, n=201):
    """Return accuracy, flip rate and boundary-mask Jaccard distance of a network on some data."""
    plane = bq.pca_plane(x)
    masks = [bq.boundary_mask(bq.label_grid(one, plane, n)) for one in (model, network)]
    with torch.no_grad():
        before, after = model(x), network(x)
    right = (bq.decide(after) == y.numpy()).mean()
    return {"accuracy": right, "flips": bq.flips(before, after).rate, "J": bq.boundary_jaccard(*masks).distance}


# %%
calibration = split.calibration_inputs, split.calibration_classes
seen = pd.DataFrame({b: measured(network, *calibration) for b, network in quantized.items()}).T
seen.rename_axis("bits").round(3)

# %% [markdown]
# Accuracy hardly falls before the last rows. J rises at once. A rule goes down this table and stops before its column first passes a
# limit.


# %%
def last_before(measure, limit):
    """Return the bits reached, going down, before a measure first passes its limit."""
    passed = (measure > limit).to_numpy()
    last = passed.argmax() - 1 if passed.any() else len(measure) - 1
    return int(measure.index[max(last, 0)])


float_accuracy = measured(model, *calibration)["accuracy"]
choices = {"accuracy": last_before(float_accuracy - seen["accuracy"], 0)}
choices |= {f"J ≤ {limit}": last_before(seen["J"], limit) for limit in (0.4, 0.7)}

# %% [markdown]
# The held-out digits decide: no rule has looked at them.

# %%
held_out = split.held_out_inputs, split.held_out_classes
outcome = [{"rule": rule, "bits": b} | measured(quantized[b], *held_out) for rule, b in choices.items()]
pd.DataFrame(outcome).set_index("rule").round(4)

# %% [markdown]
# One network says little, since a few decisions make the whole difference. The same rules on many seeds follow. Each rule's limit
# is picked by calibration data alone, from a grid fixed beforehand: the loosest that at least halves the calibration flips of the
# choice by accuracy.

# %%
everything = stopping.choose(sets["digits"], limits)
of_rule = everything.isel(choice=(everything.rule == "jaccard").values)
summed = {"bits": of_rule.chosen_bits, "calibration": of_rule.flip_rate.sel(split="calibration"),
          "held out": of_rule.flip_rate.sel(split="held-out")}  # fmt: skip
means = {name: values.mean("seed").values for name, values in summed.items()}
pd.DataFrame(means, pd.Index(of_rule.limit.values, name="limit on J")).round(4)

# %% [markdown]
# The looser the limit, the fewer bits are kept and the more decisions change, on both parts of the data alike.
#
# ## The paper beside ours

# %%
beside.paper_table(sets, chosen, paper)

# %% mystnb={"figure": {"caption": "The paper's claims on stopping beside our published runs, a dot each. For S1 to S4 the bar is the interval that holds 95 % of means of four runs, the broken line the paper's number, grey lines are other bit-widths and the other rule. S5 and S6 are how much stopping reduces the flip rate, with the side that the paper claims shaded.", "name": "figure-stopping-strips"}}
strips.strips(["S1", "S2", "S3", "S4", "S5", "S6"])

# %% [markdown]
# ## What changes the answer
#
# **The price in bits.** More bits keep more decisions, whatever rule asks for them. So each rule is compared with a
# uniform bit-width of the same average size.

# %% mystnb={"figure": {"caption": "How many held-out flips a rule avoids compared with a uniform bit-width of the same average size: mean over the seeds with its 95 % interval, paired by seed. Right of the dotted line a rule is better than its bits. See which intervals are on one side of it.", "name": "figure-price"}}
figures.price_figure(sets, chosen)

# %% [markdown]
# **Two readings of "by accuracy".** Going down and stopping at the first drop is one reading. The fewest bits of all that keep
# calibration accuracy is the other, since accuracy may come back further down. **The limit** is not stated in the abstract either.

# %% mystnb={"figure": {"caption": "Digits: held-out flips and Jaccard distance at every limit of every rule, means over the seeds; the stars are the paper's two rules. See which of our marks lie beside them: the hollow square is accuracy in its second reading.", "name": "figure-limits"}}
beside.limits_figure(sets["digits"], everything, paper)

# %% [markdown]
# **Other open choices.** The abstract does not state the width of the network, the split, the quantizer's convention or the length
# of training. {numref}`supplement-stopping-variants` changes one of them at a time.
#
# (stopping-tolerance)=
# ### Without a grid
#
# J and d_eff depend on the grid of the slice. The {term}`tolerance Jaccard distance` ([](exact)) compares lengths instead: the
# fraction of both boundaries that is farther than a tolerance τ from the other one. A limit on it is the rule with the blue cross in the figures above, and
# tables S in the supplement have its values.

# %% [markdown]
# ## Does calibration tell what held-out data will do?

# %% mystnb={"figure": {"caption": "Boundary-mask Jaccard distance on the calibration slice against the held-out slice, a dot for every seed and bit-width. Bit-width drives both, so that the overall correlation r is high; the correlation within a bit-width, beside it, says what a calibration slice adds.", "name": "figure-transfer"}}
figures.transfer_figure(sets)

# %% [markdown]
# ## What was seen

# %%
figures.summary(sets, chosen)

# %% [markdown]
# The verdicts on S1 to S6, judged on the published runs, are in [](the-ledger).
#
# ## Supplement

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Tables S: every rule, every limit, other choices, and distances without a grid"}
variants = inputs.variants("digits", results, seeds)
beside.supplement(sets, chosen, limits, paper)
beside.variants_shown(variants, spare, limits, paper)
images = [name for name in datasets if name != "digits"]
convolutional = inputs.stopping_runs(images, results, seeds, "cnn") if images else {}
beside.without_grid(sets, convolutional)

# %% tags=["remove-input"]
tables.sources(*sets.values(), *convolutional.values(), variants)
