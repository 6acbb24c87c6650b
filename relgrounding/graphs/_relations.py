"""The eleven spatial relations and their names as edge types."""

from enum import IntEnum


class SpatialRelation(IntEnum):
    """Relation of the edge i -> j between two boxes; 0 in a relation matrix means no edge.

    ``INSIDE``: r_i contains r_j. ``COVER``: r_i lies inside r_j. ``OVERLAP``: IoU above the threshold.
    ``ANGLE_k``: the vector from the centre of r_i to that of r_j, x right and y down, has an angle in
    (45 (k - 1), 45 k] degrees: ANGLE_2 ends at straight down, ANGLE_4 at left, ANGLE_6 at up, ANGLE_8 at right.
    """

    INSIDE = 1
    COVER = 2
    OVERLAP = 3
    ANGLE_1 = 4
    ANGLE_2 = 5
    ANGLE_3 = 6
    ANGLE_4 = 7
    ANGLE_5 = 8
    ANGLE_6 = 9
    ANGLE_7 = 10
    ANGLE_8 = 11


SPATIAL_EDGE_TYPES = tuple(relation.name.lower() for relation in SpatialRelation)
TEMPORAL_EDGE_TYPES = ("overlaps",)
NODE_TYPE = "proposal"
