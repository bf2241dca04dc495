# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (audit-measured)=
# # An audit, measured

# %% tags=["parameters", "own-parameters", "hide-input"] mystnb={"code_prompt_show": "Parameters: what you can change, and what it costs"}
reference = ""  # the float classifier as module:factory; empty for a digits network trained here
weights = ""  # its weights, a .safetensors file
calibration = ""  # its calibration inputs and classes, an .npz file
heldout = ""  # its held-out inputs and classes, an .npz file
bits = 4  # of the one candidate, and of the layers to blame
seed = 0  # of the first digits network
seeds = 16  # digits networks that the comparisons are made over; cost: some seconds each
width = 64  # hidden units of the digits networks; cost: grows with it
epochs = 60  # passes over their training set; cost: grows with it
nodes = 101  # a side of the slice of the one candidate; cost: grows with its square
share = 0.2  # of the inputs, those of least margin, in the boundary band

# %% tags=["hide-input"] mystnb={"code_prompt_show": "The networks of this chapter, and every bit-width of the first one"}
import bqcore
from bqcore.quantizers import uniform
from studies import published
from studies.figures import audit, quantizers
from studies.figures.tables import Table

cases = audit.cases(reference, weights, calibration, heldout, seed=seed, seeds=seeds, width=width, epochs=epochs)
model, cal, held = cases[0]
kept = published.load_published(published.QUANTIZERS)
limits = {"flip_rate": 0.02, "band_flip_rate": 0.1, "accuracy_loss": 0.02}
sweep = bqcore.sweep(model, cal, held, rule="band_flips", limit=limits["band_flip_rate"], fraction=share)

# %% tags=["remove-input"]
audit.answer(sweep, limits, kept)

# %% tags=["remove-input"] mystnb={"figure": {"caption": "What a verdict goes by, at each bit-width of one digits network: the held-out estimate with its bounds, and the limit (dashed). A bit-width ships if all three bars end left of their limits; it does not if one begins right of its limit; else the verdict says how many samples are missing.", "name": "figure-audit-verdict"}}
audit.verdict_figure(sweep, limits)

# %% [markdown]
# ## The question
#
# What does an audit say of quantizers that people ship with? Which layer is to blame, and do bits by layer keep more decisions than
# the same bytes spread evenly?
#
# [](audit-your-own) shows how to audit a model of one's own. Here it is done on digits networks: each is trained on half of the set,
# with a quarter for calibration and a quarter held out. The parameters above name another classifier and its data, as
# `python -m bqcore audit` takes them. This notebook computes every table and figure, except those of
# [published networks](audit-published).

# %% [markdown]
# ## One candidate
#
# {term}`PTQ-W` of one network is judged against its float original, by limits that are stated before it is measured.

# %%
candidate = uniform.quantize_model(model, bits)
found = bqcore.audit(model, candidate, cal, held, nodes=nodes, fraction=share, limits=limits)
print(found)

# %% mystnb={"figure": {"caption": "Held-out flips of one candidate in ten groups of equal size, by growing float top-2 margin: decisions move where the margin is low.", "name": "figure-audit-margins"}}
audit.margins_figure(found)

# %% [markdown]
# ## Which bit-width
#
# A sweep goes down from the most bits and stops before its rule's limit is exceeded on the calibration split. The held-out split only
# measures the result. {numref}`figure-audit-verdict` draws its numbers. The printed sentence ends with the choice by accuracy alone.

# %%
print(sweep)

# %% [markdown]
# ## Which layer to keep
#
# One layer at a time goes to the same bits while the others stay in float. With both, the verdict names the layer and the bit-width.

# %%
blame = bqcore.blame_layers(model, held, bits=bits, fraction=share, gradient_samples=0)
print(found.explain(layers=blame, sweep=sweep).verdict)

# %% mystnb={"figure": {"caption": "What each layer alone changes of the decisions in the boundary band, with 95 % intervals, the worst at the top.", "name": "figure-audit-layers"}}
audit.layers_figure(blame)

# %% [markdown]
# ## Bits by layer, at equal bytes
#
# A plan gives each layer its own bit-width, within the bytes of a uniform one. One network says little: its band has few samples, and
# it may flip more of them at one more bit. So the difference is taken network by network, and its mean has an interval.

# %% mystnb={"figure": {"caption": "Band flips of uniform bits less those of the plan within their bytes: a dot for each network, and the mean with its 95 % interval (square). Above 0 the plan keeps more decisions.", "name": "figure-audit-plan"}}
plans = audit.plans(cases, (6, 5, 4, 3), share=share)
audit.plans_figure(plans)

# %% [markdown]
# ## Quantizers that people ship with
#
# Each is applied to the first eight of these networks. Weight-only methods (PTQ-W, torchao, brevitas) leave activations in float; dynamic
# and static ones round them to int8 as well, by the range of the batch or of the calibration split. Bytes are those of the whole
# model, weights packed with their steps and the rest as float32.

# %% tags=["hide-input"]
shelf, absent = audit.shelf(cases[:8], share=share)
Table(
    audit.shelf_table(shelf),
    "Quantizers at their bytes, held-out, means over networks; those of equal bytes stand together.",
    "table-audit-shelf",
)

# %% tags=["remove-input"]
audit.absent_lines(absent)

# %% [markdown]
# (audit-published)=
# ## The same on MNIST, Fashion-MNIST and CIFAR-10
#
# These networks need the archives and some minutes, so the numbers are published ones, from the published checkpoints of each study.
# A quantizer is **at equal bytes** if it takes at most a tenth more than PTQ-W of as many bits with a step per channel. The others, such as
# torchao where it leaves convolutions in float, are hollow in the figure. **Fewest flips** counts the best quantizer at equal bytes,
# and every one that the same held-out inputs cannot tell from it (McNemar's exact test at 5 %, each pair by itself).

# %% mystnb={"figure": {"caption": "Held-out flips in the boundary band by quantizer, a mark for each published network, at 8 bits (above) and at 4 (below). Hollow marks are not at equal bytes. The files below have the flips and bytes of every network.", "name": "figure-audit-published"}}
quantizers.flips_figure(kept)

# %% tags=["hide-input"]
Table(
    quantizers.quantizers_table(kept),
    "Quantizers over the published networks: on how many of them at equal bytes, on how many of these among the fewest flips; medians "
    "of flips and band flips; and the packed model and the package's own file, as fractions of the float32 model.",
    "table-audit-published",
)

# %% [markdown]
# PTQ-W and brevitas keep rounded weights as floats, and torchao stores each 4-bit weight in a byte, so their files are larger than
# they would have to be.
#
# The next table spends the bytes of a uniform bit-width layer by layer, by one ranking of the layers in each column: none, which is
# uniform bits; the margins' noise in the boundary band, as in `bqcore.plan_bits`; calibration accuracy lost, as in accuracy-driven
# searches; and the errors of weights and of activations by ONNX Runtime's debugging of quantized models (`qdq_loss_debug`). If one layer
# has nearly all weights, uniform bits are often the only way to spend the bytes. NNCF's own search knows int8 and float alone: it is
# the row *accuracy control* above.

# %% tags=["hide-input"]
Table(
    quantizers.rankings_table(kept),
    "Held-out band flips of plans of bits by layer within equal bytes.",
    "table-audit-rankings",
)

# %% tags=["remove-input"]
quantizers.source(kept)

# %% [markdown]
# ## What was seen
#
# Intervals are paired by network and are not widened for the number of comparisons. One that just misses 0 is a hint to repeat with
# more networks (`seeds`), not a ranking.

# %% tags=["remove-input"]
audit.summary(found, sweep, plans, shelf, kept)
