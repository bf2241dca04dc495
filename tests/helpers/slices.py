"""Slices that the tests share: the plane itself as input space, and label grids drawn at random."""

import numpy as np
from hypothesis import strategies as st

from bqcore.metrics.planes import Plane
from tests.helpers.nets import SEEDS


def flat_plane(low=(0.0, 0.0), high=(1.0, 1.0)) -> Plane:
    """Return the plane itself as input space: coordinates are inputs."""
    return Plane(np.zeros(2), np.eye(2), np.array(low, float), np.array(high, float), np.ones(2) / 2, (2,))


@st.composite
def label_grids(draw, count=1, least=2):
    """Draw label grids of one shape, blocky or speckled, with up to six classes."""
    shape = draw(st.integers(least, 9)), draw(st.integers(least, 9))
    generator = np.random.default_rng(draw(SEEDS))
    block, classes = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    grids = [
        np.kron(generator.integers(classes, size=shape), np.ones((block, block), int))[: shape[0], : shape[1]]
        for _ in range(count)
    ]
    return grids[0] if count == 1 else grids
