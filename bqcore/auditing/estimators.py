"""Estimators as scikit-learn has them: their scores, and these held against what they decide by ``predict``."""

import numbers
import warnings
from collections.abc import Callable

import numpy as np

from .._checks import Refusal, is_tensor, one_line, to_numpy

TINY = float(np.finfo(np.float64).tiny)  # stands for a probability of 0, whose logarithm is −∞
# What counts as a tie of the two largest scores, as a fraction of these and of the largest score of a batch: a
# probability that is computed from a score loses as much, and predict may then break the tie otherwise.
_TIE, _TIE_OF_ALL = 1e-6, 1e-9
_VOTE = 2 / 3  # what confidences may add to equally many votes, in the scores of a support vector classifier


def scores_of(estimator, name: str) -> Callable:
    """Return an estimator as a function from a batch to logits; from its threshold, if it decides by one of its own."""
    last = last_of(estimator)
    if getattr(last, "decision_function_shape", None) == "ovo" and len(getattr(last, "classes_", ())) > 2:
        raise ValueError(
            f"{name} scores pairs of classes (decision_function_shape='ovo'), not classes: say "
            "set_params(decision_function_shape='ovr') of the fitted estimator, which need not be fitted again."
        )
    way = next(way for way in ("decision_function", "predict_log_proba", "predict_proba") if hasattr(estimator, way))
    said, beyond = set(), _beyond_threshold(estimator)

    def answer(batch):
        """Return the scores, and pass each warning on once, not with every batch."""
        with warnings.catch_warnings(record=True) as caught:
            values = (beyond or getattr(estimator, way))(batch)
        for warning in caught:
            if str(warning.message) not in said:
                said.add(str(warning.message))
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return values

    def logits(batch):
        batch = to_numpy(batch) if is_tensor(batch) else batch
        if way != "decision_function" and beyond is None:
            with np.errstate(divide="ignore"):  # forests take logarithms of 0
                values = answer(batch)
                return np.maximum(np.log(values) if way == "predict_proba" else values, np.log(TINY))
        values = np.asarray(answer(batch))
        if getattr(last, "break_ties", None) is False and values.ndim > 1:
            values = _as_voted(values, estimator, batch)
        return values if values.ndim > 1 else np.stack([np.zeros_like(values), values], axis=1)

    return logits


def check_of(model, predict: Callable | None, name: str) -> Callable:
    """
    Return a function that refuses a batch and its logits where *predict*, a method of *model*, decides otherwise.

    Estimators name their columns by ``classes_``. Elsewhere each column must stand for one label, the same one all the
    time; there a ``predict`` that returns no labels, or fails, is not asked again.
    """
    if not callable(predict):
        return lambda batch, logits: None
    classes = getattr(model, "classes_", None)
    labels: dict = dict(enumerate(classes.tolist())) if getattr(classes, "ndim", 0) == 1 else {}
    estimator, asked = hasattr(model, "fit") and not callable(model), True

    def check(batch, logits) -> None:
        nonlocal asked
        z = to_numpy(logits) if asked and (is_tensor(logits) or isinstance(logits, np.ndarray)) else np.empty(0)
        if z.ndim != 2 or z.shape[-1] < 2 or z.dtype.kind not in "fiu" or not len(z):
            return  # it has a fault of its own, which is named elsewhere
        batch = to_numpy(batch) if is_tensor(batch) and hasattr(model, "fit") else batch
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the scores have brought the same ones
                said = to_numpy(predict(batch))
        except Exception as error:
            if estimator:
                raise Refusal(f"{name} fails to predict ({one_line(error)}): call predict alone to see why.") from error
            said = np.empty(0)
        if estimator and said.ndim > 1 and said.shape[1:] != (1,):
            raise Refusal(
                f"{name} predicts several labels a sample (shape {said.shape}), and an audit is of one decision: give "
                "a function to the scores of each label in turn."
            )
        asked = estimator or (said.size == len(z) and said.dtype.kind in "iubSU")
        if asked:
            _compare(said.ravel(), z, labels, name)

    return check


def _compare(said: np.ndarray, z: np.ndarray, labels: dict, name: str) -> None:
    """Refuse labels *said* that are not those of the columns of largest scores, which *labels* gives or learns."""
    z = np.maximum(z.astype(np.float64), -np.finfo(np.float64).max / 4)  # masked classes
    second, first = np.partition(z, -2, axis=1)[:, -2:].T
    apart = first - second > _TIE * np.maximum(np.abs(first), np.abs(second)) + _TIE_OF_ALL * np.median(np.abs(first))
    columns = z.argmax(axis=1)
    wrong = []
    for i in np.flatnonzero(apart).tolist():
        column, label = int(columns[i]), said[i].item() if isinstance(said[i], np.generic) else said[i]
        if column not in labels and label not in labels.values():
            labels[column] = label
        if labels.get(column, wrong) != label:
            wrong.append((i, column, label))
    if wrong:
        i, column, label = wrong[0]
        raise Refusal(
            f"{name} decides otherwise than by its largest score on {len(wrong)} of {len(z)} samples of a batch, first "
            f"at its sample {i}: predict says {label!r}, and the largest score is that of "
            f"{f'class {labels[column]!r}' if column in labels else f'column {column}'}: give a function from "
            "inputs to scores whose largest one is the decision."
        )


def _as_voted(values: np.ndarray, estimator, batch) -> np.ndarray:
    """Return scores in which, of classes with equally many votes, the one that *estimator* takes is the first."""
    columns, row = np.searchsorted(estimator.classes_, estimator.predict(batch)), np.arange(len(values))
    most = values.max(axis=1)
    tied = (values[row, columns] < most) & (values[row, columns] > most - _VOTE)
    values[row[tied], columns[tied]] = np.nextafter(most[tied], np.inf)
    return values


def last_of(estimator):
    """Return the estimator whose scores come out: the last one of a pipeline, the best one of a search."""
    if hasattr(estimator, "best_estimator_"):
        return last_of(estimator.best_estimator_)
    return last_of(estimator.steps[-1][1]) if hasattr(estimator, "steps") else estimator


def _beyond_threshold(estimator) -> Callable | None:
    """
    Return the scores of an estimator that decides by a threshold of its own, from that threshold, else None.

    They are the two columns (0, s), s being the log-odds or the score beyond those of the threshold.
    """
    last = last_of(estimator)
    threshold = getattr(last, "best_threshold_", getattr(last, "threshold", None))
    if not isinstance(threshold, numbers.Real) or not hasattr(last, "response_method"):
        return None
    odds = last.response_method != "decision_function" and hasattr(estimator, "predict_proba")
    positive = getattr(last, "pos_label", None)
    column = 1 if positive is None else list(estimator.classes_).index(positive)

    def scores(batch) -> np.ndarray:
        if odds:
            known = estimator.predict_proba(batch)[:, column]
            s = _log_odds(known) - _log_odds(threshold)
        else:
            known = (1 if column else -1) * estimator.decision_function(batch)
            s = known - threshold
        out = np.zeros((len(s), 2))
        out[:, column] = np.where(known >= threshold, np.maximum(s, TINY), s)  # at the threshold it says yes
        return out

    return scores


def _log_odds(p):
    return np.log(np.maximum(p, TINY)) - np.log(np.maximum(1 - np.asarray(p), TINY))
