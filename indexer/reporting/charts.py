"""Charts of a run as SVG elements: no script, no identifiers, text as text. Production has no plotting library."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from indexer.progress import printable

COLOURS = ("#1f6f8b", "#c8773a", "#6b8e23", "#8e5ea2", "#b3362c", "#4c9aa8", "#a08c3c", "#68747c")

GREY, RED = "#9aa5ab", "#b3362c"

WIDTH, HEIGHT = 640, 170

LEFT, RIGHT, TOP, BOTTOM = 64, 8, 10, 24

LABELS = 220
"""Room for two labels below an axis."""


@dataclass(frozen=True)
class Bar:
    """A bar of a chart.

    Attributes:
        label: Its name below the axis and when pointed at.
        value: Its height, at least 0.
        colour: Its colour.
    """

    label: str
    value: float
    colour: str = COLOURS[0]


def bars(points: Sequence[Bar], unit: str) -> Markup:
    """A bar per point, in their order, with the first and the last label below.

    Args:
        points: The bars, at least one.
        unit: What they count.
    """
    top = max([1e-9, *(point.value for point in points)])
    step = (WIDTH - LEFT - RIGHT) / max(len(points), 10)
    parts = [_axis(top, unit)]
    for at, point in enumerate(points):
        height = (HEIGHT - TOP - BOTTOM) * point.value / top
        place = f'x="{LEFT + at * step:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" width="{step * 0.8:.1f}"'
        said = f"<title>{_text(point.label)}: {number(point.value)} {_text(unit)}</title>"
        parts.append(f'<rect {place} height="{max(height, 1):.1f}" fill="{point.colour}">{said}</rect>')
    parts.append(_label(LEFT, HEIGHT - 8, points[0].label))
    if len(points) > 1:
        # Two labels need their room, however few bars there are.
        parts.append(_label(max(LEFT + len(points) * step, LEFT + LABELS), HEIGHT - 8, points[-1].label, "end"))
    return _svg(parts, WIDTH, HEIGHT)


def timeline(stretches: Sequence[tuple[str, float, float]]) -> Markup:
    """A line per stage with the stretches of time that it took.

    Args:
        stretches: Stage, its beginning and its length in seconds, at least one.
    """
    stages = list(dict.fromkeys(stage for stage, _, _ in stretches))
    end = max([1e-9, *(began + seconds for _, began, seconds in stretches)])
    height = TOP + 22 * len(stages) + BOTTOM
    scale = (WIDTH - LEFT - RIGHT) / end
    parts = [_label(LEFT - 6, TOP + 22 * at + 13, stage, "end") for at, stage in enumerate(stages)]
    for stage, began, seconds in stretches:
        at = stages.index(stage)
        place = f'x="{LEFT + began * scale:.1f}" y="{TOP + 22 * at}" width="{max(seconds * scale, 1):.1f}" height="17"'
        said = f"<title>{_text(stage)}: {seconds:,.2f} s</title>"
        parts.append(f'<rect {place} fill="{COLOURS[at % len(COLOURS)]}">{said}</rect>')
    parts += [_label(LEFT, height - 8, "0 s"), _label(WIDTH - RIGHT, height - 8, f"{end:,.1f} s", "end")]
    return _svg(parts, WIDTH, height)


def sparkline(values: Sequence[float], bound: float | None) -> Markup:
    """A small line of a gate's values, oldest first, with its bound where that is near.

    Args:
        values: The values, at least one.
        bound: The bound.
    """
    width, height = 120, 24
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    near = bound is not None and low - 2 * span <= bound <= high + 2 * span
    if near and bound is not None:
        low, high = min(low, bound), max(high, bound)
        span = (high - low) or 1.0
    step = (width - 6) / max(len(values) - 1, 1)

    def place(value: float) -> float:
        return height - 3 - (height - 6) * (value - low) / span

    parts = []
    if near and bound is not None:
        line = f'x1="0" x2="{width}" y1="{place(bound):.1f}" y2="{place(bound):.1f}"'
        parts.append(f'<line {line} stroke="{RED}" stroke-dasharray="3 3"/>')
    points = " ".join(f"{3 + at * step:.1f},{place(value):.1f}" for at, value in enumerate(values))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[0]}" stroke-width="1.5"/>')
    parts.append(f'<circle cx="{3 + (len(values) - 1) * step:.1f}" cy="{place(values[-1]):.1f}" r="2.5"/>')
    return _svg(parts, width, height, "spark")


def number(value: float) -> str:
    """A number for people: three digits, thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004


def _axis(top: float, unit: str) -> str:
    """The axis from 0 to the largest value, with its unit."""
    base = HEIGHT - BOTTOM
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}" stroke="{GREY}"/>'
    largest = _label(LEFT - 6, TOP + 8, number(top), "end")
    return line + largest + _label(LEFT - 6, TOP + 22, unit, "end") + _label(LEFT - 6, base, "0", "end")


def _label(x: float, y: float, text: str, anchor: str = "start") -> str:
    """A text of a chart."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_text(text)}</text>'


def _text(text: str) -> str:
    """Text as it can stand in an element."""
    return html.escape(printable(text))


def _svg(parts: Sequence[str], width: int, height: int, kind: str = "chart") -> Markup:
    """The element around its parts, all of whose texts are escaped."""
    head = f'<svg class="{kind}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">'
    return Markup(f"{head}{''.join(parts)}</svg>")  # noqa: S704
