"""Training objectives."""

from relgrounding.objectives._mil import contrastive_loss, draw_negatives, mil_loss

__all__ = ["contrastive_loss", "draw_negatives", "mil_loss"]
