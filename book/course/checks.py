"""
Check what a student writes in a worksheet, and say in a sentence what is wrong.

Each check calls the student's function on small inputs. The right answer is known, and so is the answer that each
common mistake gives. The worksheets have these functions in them, so that they run anywhere. Names with an underscore
are not overwritten by a student's own.
"""

import numpy as np


def _tell(function, cases, praise):
    """
    Print the first thing that is wrong with *function*, or *praise* if nothing is.

    A case is the arguments, the right answer, and for each common mistake what to say and the answer that it gives.
    """
    print(next(filter(None, (_fault(function, *case) for case in cases)), "Right. " + praise))


def _fault(function, arguments, right, mistakes):
    """Return a sentence that says what is wrong with an answer, or nothing if it is right."""
    given = [np.copy(value) if isinstance(value, np.ndarray) else value for value in arguments]
    call = f"{function.__name__}({', '.join(_shown(value) for value in arguments)})"
    try:
        found = function(*given)
        if found is None:
            return f"{function.__name__} returns nothing. Its last line needs a `return`."
        found = found if isinstance(found, str) else np.asarray(found, dtype=float)
    except Exception as error:
        if "ellipsis" in str(error):
            return "A gap is still open. Write code in the place of each `...`."
        return f"{call} stops: {type(error).__name__}, {error}."
    if not all(_same(before, after) for before, after in zip(arguments, given)):
        return f"{function.__name__} changes what it is given. Work on a copy, or make a new array."
    if _same(found, right):
        return None
    for says, wrong in mistakes.items():
        if _same(found, wrong):
            return f"{says} {call} returns {_shown(found)}."
    if np.shape(found) != np.shape(right):
        return f"{call} returns an array of shape {np.shape(found)}. Its shape should be {np.shape(right)}."
    return f"{call} returns {_shown(found)}. It should return {_shown(right)}."


def _same(found, right):
    """Return whether two answers are the same word, number or array, up to capitals and rounding."""
    if isinstance(found, str) or isinstance(right, str):
        return isinstance(found, str) and isinstance(right, str) and found.strip().lower() == right
    found, right = np.asarray(found, float), np.asarray(right, float)
    return found.shape == right.shape and np.allclose(found, right, rtol=0, atol=1e-6, equal_nan=True)


def _shown(value):
    """Return a word, a number or an array as one would type it."""
    if isinstance(value, str):
        return repr(value)
    if np.ndim(value):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{round(float(value), 3) + 0.0:g}"


def check_quantize(quantize):
    """Check PTQ-W of one tensor."""
    weight = np.array([-2.0, 1.3, 0.3, -0.4])
    steps = {
        "These are levels. Multiply each by the step.": [-3, 2, 0, -1],
        "Your step has 2^(b−1) levels above zero. One too many: the top level is 2^(b−1) − 1.": [-2, 1.5, 0.5, -0.5],
        "Your step has 2^b levels above zero. One bit is the sign: the top level is 2^(b−1) − 1.": [
            -2,
            1.25,
            0.25,
            -0.5,
        ],
        "Your step divides the whole range. Divide the largest magnitude by the top level.": [
            -9.9 / 7,
            9.9 / 7,
            3.3 / 7,
            -3.3 / 7,
        ],
        "You rounded down. Round to the nearest level: `np.round`.": [-2, 2 / 3, 0, -2 / 3],
        "You cut the fraction off. Round to the nearest level: `np.round`.": [-2, 2 / 3, 0, 0],
        "You took the largest weight. Take the largest magnitude: `np.abs` first.": [-1.3, 1.3, 1.3 / 3, -1.3 / 3],
        "The levels below zero are gone. Clip to −top … top.": [0, 4 / 3, 0, 0],
        "This is the other convention, with one level more below zero. Here the grid is symmetric.": [
            -16 / 7,
            8 / 7,
            4 / 7,
            -4 / 7,
        ],
    }
    beyond = {
        "No weight is clipped. Levels beyond −top and top become −top and top: `np.clip`.": [-2, 4 / 3, 1 / 3, -1 / 3],
        "`largest` is not used. Take the largest magnitude only where it is None.": [-2, 4 / 3, 0, -2 / 3],
    }
    zero = {"All weights are zero, and so is the step: 0/0. Take any other step there.": [np.nan, np.nan]}
    _tell(
        quantize,
        [
            ((weight, 3), [-2, 4 / 3, 0, -2 / 3], steps),
            ((weight, 3, 1.0), [-1, 1, 1 / 3, -1 / 3], beyond),
            ((np.zeros(2), 3), [0, 0], zero),
        ],
        "The grid is that of PTQ-W, and weights beyond it are clipped.",
    )


def check_quantize_channels(quantize_channels):
    """Check PTQ-W with one step a channel."""
    weight = np.array([[-2.0, 1.3, 0.3], [0.3, -0.2, 0.04]])
    mistakes = {
        "There is one step for all rows. Each row has its own largest magnitude.": [[-2, 4 / 3, 0], [0, 0, 0]],
        "There is one step for each column. A channel is a row.": [[-2, 1.3, 0.3], [0, 0, 0]],
    }
    right = [[-2, 4 / 3, 0], [0.3, -0.2, 0]]
    _tell(quantize_channels, [((weight, 3), right, mistakes)], "Each channel has its own step.")


def check_flip_rate(flip_rate):
    """Check the fraction of inputs whose decision changes."""
    before = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0], [1.0, 0.0, 2.0], [0.0, 2.0, 0.0]])
    after = np.array([[1.0, 2.0, 0.0], [0.0, 0.5, 0.0], [2.0, 0.0, 1.0], [1.0, 0.0, 1.5], [0.0, 1.0, 0.5]])
    mistakes = {
        "This is the fraction of decisions that stay. Count those that differ: `!=`.": 0.8,
        "This is a number of inputs. Divide it by how many there are: `np.mean`.": 1,
        "You compared the columns. Decide for each row: `axis=1`.": 1 / 3,
        "You compared logits. Decide first, `np.argmax`, and compare the decisions.": np.mean(before != after),
        "You compared the logits of all classes at once. Decide for each row: `axis=1`.": np.ones(3) / 3,
        "These are the inputs that flip, one by one. Take their mean.": [1, 0, 0, 0, 0],
    }
    tie = np.array([[1.0, 1.0]]), np.array([[1.0, 0.0]])
    last = {"At a tie you took the last class. `np.argmax` takes the first.": 1}
    praise = "Flips from one wrong class to another are counted as well, which no accuracy shows."
    _tell(flip_rate, [((before, after), 0.2, mistakes), (tie, 0, last)], praise)


def check_radius(radius):
    """Check the radius of a linear classifier."""
    weight, bias, x = np.array([[2.0, 0.0], [2.0, 0.5], [-2.0, -3.0]]), np.array([0.0, -0.5, 4.0]), np.array([1.0, 0.5])
    itself = "You compared the winner with itself. Leave j = c out."
    mistakes = {
        "You took the runner-up. Another rival is nearer, because its margin falls faster.": 0.5,
        "This is a margin. Divide it by its slope.": 0.25,
        "You divided by the square of the slope. The slope is a length: `np.linalg.norm`.": 0.06,
        "You divided by the sum of magnitudes. The slope is the Euclidean length: `np.linalg.norm`.": 1.5 / 7,
        "You divided by the length of W_c alone. The slope of z_c − z_j is that of W_c − W_j.": 0.125,
        "These are the distances to all rivals. Return the smallest.": [0.5, 0.3],
        "The sign is wrong. The winner's logit comes first, so that the margin is positive.": -0.3,
        "The sign is wrong: the winner's logit comes first. With it, take the smallest.": -0.5,
        itself: 0,
        itself + " That gives 0/0.": np.nan,
    }
    other = weight[[1, 2, 0]], bias[[1, 2, 0]], x
    first = {"You took class 0 for the winner. It is the class of the largest logit: `np.argmax`.": -0.5}
    praise = "The nearest boundary need not be that of the runner-up."
    _tell(radius, [((weight, bias, x), 0.3, mistakes), (other, 0.3, first)], praise)


def check_boundary_mask(boundary_mask):
    """Check the mask of the cells that a boundary crosses."""
    labels = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
    right, below = labels[:-1, :-1] != labels[:-1, 1:], labels[:-1, :-1] != labels[1:, :-1]
    diagonal = labels[:-1, :-1] != labels[1:, 1:]
    wanted = right | below | diagonal
    nodes = np.zeros((4, 4), bool)
    nodes[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    nodes[:-1] |= labels[1:] != labels[:-1]
    mistakes = {
        "This marks nodes. A mask marks cells, one fewer on each side.": nodes,
        "This marks the cells inside the regions. Turn it round.": ~wanted,
        "The diagonal corner is missing. A cell has four corners.": right | below,
        "You looked to the right only. Compare with the corners below as well.": right,
        "You looked below only. Compare with the corners to the right as well.": below,
        "You looked along the diagonal only. A cell has four corners.": diagonal,
        "You ask for all corners to differ, `&`. One that differs is enough: `|`.": right & below & diagonal,
        "This is the number of cells. Return the mask itself.": wanted.sum(),
    }
    _tell(
        boundary_mask, [((labels,), wanted, mistakes)], "A cell is marked where its corners do not all have one label."
    )


def check_jaccard_distance(jaccard_distance):
    """Check the distance of two masks."""
    one = np.array([[True, True, True, False], [True, False, False, False]])
    two = np.array([[False, False, True, False], [True, True, False, False]])
    mistakes = {
        "This is the similarity. The distance is one minus it.": 0.4,
        "You divided by the cells of both masks, which counts the common ones twice. Count the union once: `|`.": 5 / 7,
        "This is Dice's distance: twice the common cells over the cells of both. Divide by the union.": 3 / 7,
        "You divided by all cells of the grid. Divide by the union of the masks.": 0.75,
        "You divided by the first mask alone. Divide by the union of both.": 0.5,
        "You divided by the second mask alone. Divide by the union of both.": 1 / 3,
        "This is the number of cells that differ. Divide it by the union.": 3,
        "This is the fraction of the grid's cells that differ. Cells that neither mask has do not count.": 0.375,
    }
    empty = np.zeros((2, 2), bool)
    none = {
        "Both masks are empty, which gives 0/0. Two masks that are the same have the distance 0.": np.nan,
        "Both masks are empty. They are the same, so that their distance is 0.": 1,
    }
    cases = [((one, two), 0.6, mistakes), ((empty, empty), 0, none)]
    _tell(jaccard_distance, cases, "It is 0 for equal masks and 1 for masks without a common cell.")


def check_prediction_interval(prediction_interval):
    """Check the interval for one more run."""
    values, t = np.array([1.0, 2.0, 3.0, 6.0]), 2.0
    s, n = np.std(values, ddof=1), len(values)

    def ends(half):
        return [3 - half, 3 + half]

    mistakes = {
        "This is the interval of the mean, which is narrower. One more run also scatters itself: √(1 + 1/n).": ends(
            t * s / 2
        ),
        "The scatter of the mean is missing: √(1 + 1/n), not 1.": ends(t * s),
        "`np.std` divides by n. With few runs divide by n − 1: `ddof=1`.": ends(
            t * np.std(values) * np.sqrt(1 + 1 / n)
        ),
        "`t` is missing. With few runs the interval is wider than one or two standard deviations.": ends(
            s * np.sqrt(1 + 1 / n)
        ),
        "You took the variance. The standard deviation is its root: `np.std`.": ends(t * s**2 * np.sqrt(1 + 1 / n)),
        "The square root is missing around 1 + 1/n.": ends(t * s * (1 + 1 / n)),
        "This is half of the interval's length. Return both ends: mean − half, mean + half.": t
        * s
        * np.sqrt(1 + 1 / n),
        "The ends are swapped. The lower one comes first.": ends(-t * s * np.sqrt(1 + 1 / n)),
    }
    right = ends(t * s * np.sqrt(1 + 1 / n))
    _tell(
        prediction_interval,
        [((values, t), right, mistakes)],
        "With three runs t is 4.3, so that such an interval is wide.",
    )


def check_verdict(verdict):
    """Check the ledger's rule for a number."""
    ends = np.array([0.3, 0.5])
    inside = {
        "A number inside is at least compatible. Ask that first.": "not reproduced",
        "No neighbour is inside, so that the interval tells. That is reproduced.": "compatible",
    }
    told = {
        "The interval has a neighbour in it, so that it does not tell. That is compatible only.": "reproduced",
        "The paper's number is inside. A neighbour inside makes it compatible, no less.": "not reproduced",
    }
    outside = {
        "The paper's number is outside. That is not reproduced, whatever the neighbours are.": "compatible",
        "The paper's number is outside. Ask whether it is inside.": "reproduced",
    }
    cases = [
        ((0.4, ends, np.array([0.1, 0.9])), "reproduced", inside),
        ((0.4, ends, np.array([0.1, 0.45])), "compatible", told),
        ((0.6, ends, np.array([0.1, 0.45])), "not reproduced", outside),
        ((0.6, ends, np.array([0.1, 0.9])), "not reproduced", outside),
        ((0.2, ends, np.array([0.1, 0.9])), "not reproduced", outside),
    ]
    _tell(verdict, cases, "This is the rule by which this book's ledger judges a number.")
