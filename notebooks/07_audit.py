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
#
# **Question.** What does an audit say of quantizers that people ship with, which layer is to blame, and do bits by layer keep
# more decisions than the same bytes spread evenly?
#
# [](audit-your-own) shows how to do this on a model of one's own. Here it is done on digits networks, or on the classifier named
# by the parameters. Every table and figure below is computed by this notebook, as `python notebooks/execute.py 07_audit` runs it, but
# for those of [published networks](audit-published).

# %% [markdown]
# ## Parameters
#
# `reference` and `heldout` name another classifier and its data as `python -m bqcore audit` takes them (`module:factory`, with
# `weights` as .safetensors; .npz with inputs and classes); left empty, a digits network of `width` hidden units is trained on
# half of the set for `epochs`, with a quarter for calibration and a quarter held out. `seeds` networks are compared, from
# `seed` on.

# %% tags=["parameters", "own-parameters"]
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

# %% tags=["hide-input"]
import bqcore
from bqcore.quantizers import uniform
from studies import published
from studies.figures import audit, quantizers
from studies.figures.tables import Table

cases = audit.cases(reference, weights, calibration, heldout, seed=seed, seeds=seeds, width=width, epochs=epochs)
model, cal, held = cases[0]

# %% [markdown]
# ## One candidate
#
# PTQ-W of one network, judged against its float original.

# %%
candidate = uniform.quantize_model(model, bits)
found = bqcore.audit(model, candidate, cal, held, nodes=nodes, fraction=share)
found

# %% tags=["hide-input"]
Table(
    audit.decisions_table(found),
    "Decisions of one candidate: shares, 95 % Clopper–Pearson intervals, and counts.",
    "table-audit",
)

# %% mystnb={"figure": {"caption": "Held-out flips of one candidate in ten groups of equal size, by growing float top-2 margin: decisions move where the margin is low.", "name": "figure-audit-margins"}} tags=["hide-input"]
audit.margins_figure(found)

# %% [markdown]
# ## Which bit-width
#
# A sweep goes down from the most bits and stops before its rule's limit is exceeded on the calibration split; the held-out split only
# says what came of it. The choice by accuracy alone stands beside it.

# %%
sweep = bqcore.sweep(model, cal, held, rule="band_flips", limit=0.05, fraction=share)
sweep

# %% tags=["hide-input"]
Table(audit.sweep_table(sweep), "PTQ-W of one network by bits.", "table-audit-sweep")

# %% [markdown]
# ## Which layer is to blame
#
# One layer at a time goes to the same bits while the others stay in float. The displacement counts a change of the logits'
# scale as a shift; the signed distance change beside it does not.

# %% tags=["hide-input"]
blame = bqcore.blame_layers(model, held, bits=bits, fraction=share, gradient_samples=1000)
Table(
    audit.blame_table(blame),
    "One layer quantized at a time, held-out, the worst first.",
    "table-audit-layers",
)

# %% [markdown]
# ## Bits by layer, at equal bytes
#
# A plan gives each layer bits of its own within the bytes of a uniform width. Over several networks, the difference to uniform bits
# in the held-out boundary band, network by network. One network is one draw: a band holds few samples, and a single network may
# flip more of them at one more bit, so read the intervals.

# %% tags=["hide-input"]
plans = audit.plans(cases, (6, 5, 4, 3), share=share)
Table(
    audit.plans_table(plans),
    "Band flips of uniform bits and of the plan within their bytes: means over networks, paired difference with its 95 % interval.",
    "table-audit-plan",
)

# %% [markdown]
# ## Quantizers that people ship with
#
# Each applied to the first eight of these networks. Weight-only methods (PTQ-W, torchao, brevitas) leave activations in float; dynamic and static
# ones round them to int8 as well, by the range of the batch or of the calibration split. Bytes are those of the whole model,
# weights packed with their steps and the rest as float32.

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
# These networks need the archives and minutes, so their numbers are published ones. Each column is one network, the published
# checkpoint of its study. An asterisk marks, among the quantizers of as many bits **at equal bytes**, the one of fewest flips and
# every one that the same held-out inputs cannot tell from it (McNemar's exact test at 5 %, each pair by itself). At equal bytes
# is what takes at most a tenth more than PTQ-W with a step per channel; the others, such as torchao where it leaves convolutions
# in float, are in brackets. One network is one draw: read along the rows.

# %% tags=["hide-input"]
kept = published.load_published(published.QUANTIZERS)
Table(
    quantizers.flips_table(kept),
    "Held-out flips and band flips of published networks by quantizer.",
    "table-audit-published",
)

# %% mystnb={"figure": {"caption": "Held-out flips in the boundary band by quantizer, a mark for each published network, at 8 bits (above) and at 4 (below). Hollow marks are not at equal bytes.", "name": "figure-audit-published"}} tags=["hide-input"]
quantizers.flips_figure(kept)

# %% [markdown]
# What they take: the packed model as above, and beside it the file that the quantizer's own package writes. PTQ-W and brevitas keep
# rounded weights as floats, and torchao stores each 4-bit weight in a byte, so their files are larger than they would have to be.

# %% tags=["hide-input"]
Table(
    quantizers.bytes_table(kept),
    "Thousands of bytes: the packed model, and the file that its package writes.",
    "table-audit-bytes",
)

# %% [markdown]
# Bits by layer within the bytes of uniform ones, spent in the same way by five rankings of the layers: none, which is uniform bits;
# the margins' noise in the boundary band, which `bqcore.plan_bits` goes by; calibration accuracy lost, the measure of
# accuracy-driven searches; and what ONNX Runtime's debugging of quantized models (`qdq_loss_debug`) says of weights and of
# activations. Where one layer holds nearly all weights, uniform bits are often the only way to spend the bytes. NNCF's own search
# knows int8 and float alone: it is the row *accuracy control* above.

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
# Intervals are paired by network and stand one at a time: they are not widened for the number of comparisons, so one that just
# misses 0 is a hint to repeat with more networks (`seeds`), not a ranking.

# %% tags=["remove-input"]
audit.summary(found, sweep, plans, shelf, kept)
