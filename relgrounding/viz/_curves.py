"""Line charts as inline SVG, coloured by the page's style sheet."""

import html
import itertools
import math
from collections.abc import Sequence

Series = tuple[str, Sequence[tuple[float, float]]]
WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 12, 34


def line_chart(title: str, series: Sequence[Series], dots: bool = False) -> str:
    """Return a figure with one line per series, in the order of the page's colours; empty without points.

    Args:
        title: what is on the y axis.
        series: name and (x, y) points of each; where one is not finite, the line has a gap.
        dots: mark each point.
    """
    pieces = [(name, _finite_pieces(points)) for name, points in series]
    points = [point for _, lines in pieces for line in lines for point in line]
    if not points:
        return ""
    xs, ys = _ticks(0.0, max(x for x, _ in points)), _ticks(min(y for _, y in points), max(y for _, y in points))

    def position(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)
        return LEFT + across, HEIGHT - BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in ys:
        _, level = position(xs[0], y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in xs:
        parts.append(
            f'<text x="{position(x, ys[0])[0]:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>'
        )
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 3}" text-anchor="middle">step</text>')
    for number, (name, lines) in enumerate(pieces):
        label = f"<title>{html.escape(name)}</title>"
        for line in lines:
            places = [position(x, y) for x, y in line]
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
            parts.append(f'<polyline class="line c{number % 5}" points="{path}">{label}</polyline>')
            if dots or len(line) == 1:
                parts += [f'<circle class="dot c{number % 5}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in places]
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>"


def _finite_pieces(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The stretches of a line between points that are not finite."""
    grouped = itertools.groupby(points, lambda point: math.isfinite(point[0]) and math.isfinite(point[1]))
    return [list(piece) for finite, piece in grouped if finite]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, three to seven of them."""
    spread = high - low or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(spread))
    step = next(unit * k for k in (0.2, 0.5, 1, 2, 5) if spread / (unit * k) <= 5)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [round(k * step, 10) for k in range(first, last + 1)]
