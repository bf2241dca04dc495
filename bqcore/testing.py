"""
Audits inside of tests and searches: an assertion for pytest, and a scorer for scikit-learn.

A test fails with the verdict in its message::

    from bqcore.testing import assert_decisions_kept

    def test_the_quantized_model_decides_as_the_float_one():
        assert_decisions_kept(float_model, quantized, (x, y), limits={"flip_rate": 0.02})
"""

from collections.abc import Mapping

from ._checks import check_share
from .auditing.adapters import class_names, runnable
from .auditing.comparison import audit
from .auditing.findings import Audit
from .auditing.limits import exceeded
from .auditing.streaming import decide_split, logits_functions


def assert_decisions_kept(
    reference, candidate, heldout, *, limits: Mapping[str, float] | None = None, calibration=None,
    ship_only: bool = False, **options,
) -> Audit:  # fmt: skip
    """
    Fail unless a candidate decides as its reference does, within limits.

    Parameters
    ----------
    reference, candidate, heldout, calibration
        As for :func:`bqcore.audit`.
    limits : mapping, optional
        Fractions by name of a measure; by default those of :meth:`bqcore.auditing.findings.Audit.judge`.
    ship_only : bool
        Fail also where too few samples leave it open whether a limit is exceeded. Else what was measured decides.
    **options
        Of :func:`bqcore.audit`; slices and gradients are left out unless they ask for them.

    Returns
    -------
    Audit
        What was found, if the assertion holds.

    Raises
    ------
    AssertionError
        With the conclusion, the limits that are exceeded, and what to do next.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 400)[:, None]
    >>> float_model = lambda x: np.hstack([x, -x])
    >>> assert_decisions_kept(float_model, lambda x: 2 * float_model(x), x).verdict.word
    'ship'
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    how: dict = {"nodes": 0, "gradient_samples": 0, "limits": limits} | options
    found = audit(reference, candidate, calibration, heldout, **how)
    verdict = found.verdict
    over = exceeded(found.dataset, {one.name: one.limit for one in verdict.judged})
    if verdict.word == "do not ship" or over or (ship_only and verdict.word != "ship"):
        raise AssertionError("\n".join([found.conclusion, *over, str(verdict)]))
    return found


class KeptDecisions:
    """
    Score scikit-learn estimators by the fraction of a reference's decisions that they keep, for ``scoring=``.

    Parameters
    ----------
    reference : classifier, as for :func:`bqcore.audit`
    fraction : float, of the samples that are looked at, those of lowest margin, in (0, 1]

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> reference = LogisticRegression().fit(x, x[:, 0] > 0)
    >>> KeptDecisions(reference)(LogisticRegression().fit(x, x[:, 0] > 0), x)
    1.0
    """

    def __init__(self, reference, *, fraction: float = 1.0):
        self.reference, self.fraction = reference, check_share("Fraction", fraction)
        if fraction == 0:
            raise ValueError("Fraction is 0: no sample would be looked at.")

    def __call__(self, estimator, X, y=None) -> float:  # noqa: N803
        """Return the score of an estimator on inputs *X*; classes are not asked about."""
        models = {"reference": runnable(self.reference), "candidate": runnable(estimator)}
        class_names(models)  # refuses different ones
        functions = logits_functions(models["reference"], {"candidate": models["candidate"]}, False)
        decided, _, _ = decide_split(functions, X, "heldout")
        part = decided["candidate"]
        return 1.0 - float(part.flipped()[part.band(self.fraction)].mean())
