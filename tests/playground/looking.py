"""What the tests find out from boxes and pixels, without the code that made them."""

import numpy as np

AXES = {"left": (0, 1), "right": (0, -1), "above": (1, 1), "below": (1, -1)}


def relation_of_boxes(one, other):
    """The only direction in which boxes are apart by a margin and centres differ most."""
    difference = (other[:2] + other[2:] - one[:2] - one[2:]) / 2
    axis = int(np.abs(difference).argmax())
    gap = max(other[axis] - one[axis + 2], one[axis] - other[axis + 2])
    assert gap >= 1 / 64, "the relation could be disputed"
    assert abs(difference[axis]) >= 1.9 * abs(difference[1 - axis])
    return next(k for k, v in AXES.items() if v == (axis, int(np.sign(difference[axis]))))
