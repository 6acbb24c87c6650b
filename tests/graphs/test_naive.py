"""The reference itself: its angle bins against the arc tangent, where that is not near an edge."""

import math
from fractions import Fraction

from relgrounding.graphs import naive


def test_angle_bins_agree_with_the_arc_tangent_off_the_edges():
    checked = 0
    for dx in range(-12, 13):
        for dy in range(-12, 13):
            if dx == 0 or dy == 0 or abs(dx) == abs(dy):
                continue
            theta = math.degrees(math.atan2(dy, dx)) % 360
            assert naive.angle_bin(Fraction(dx), Fraction(dy)) == math.ceil(theta / 45)
            checked += 1
    assert checked == 25 * 25 - 25 - 24 - 48


def test_angle_bins_end_with_their_upper_edge():
    rays = [(1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0)]
    assert [naive.angle_bin(Fraction(x), Fraction(y)) for x, y in rays] == [1, 2, 3, 4, 5, 6, 7, 8]
