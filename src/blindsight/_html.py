"""HTML for notebooks: small, escaped, without script or anything fetched; readable on light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["BLUE", "ORANGE", "block", "line_chart", "table", "text"]

BLUE, ORANGE = "#0072B2", "#E69F00"
"""Okabe and Ito, 2008: told apart by colour-blind readers."""
STYLE = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;max-width:60em"
CELL = "padding:2px 10px 2px 0;text-align:{};vertical-align:top"


def block(title: str, *parts: str) -> str:
    """One object: a title (text) and parts (markup from this module, or text that :func:`text` escaped)."""
    return f'<div style="{STYLE}"><div style="font-weight:600">{escape(title)}</div>{"".join(parts)}</div>'


def text(words: str) -> str:
    """One paragraph of text, escaped."""
    return f'<p style="margin:4px 0">{escape(words)}</p>'


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, most: int = 60) -> str:
    """Rows of text; numbers stand right. Beyond ``most`` rows only their number is said."""

    def cell(tag: str, value: object, like: object) -> str:
        side = "right" if isinstance(like, int | float) else "left"
        shown = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
        return f'<{tag} style="{CELL.format(side)}">{escape(shown[:300])}</{tag}>'

    likes = rows[0] if rows else headings
    head = "".join(cell("th", heading, like) for heading, like in zip(headings, likes, strict=False))
    body = "".join("<tr>" + "".join(cell("td", value, value) for value in row) + "</tr>" for row in rows[:most])
    more = text(f"and {len(rows) - most:,} more") if len(rows) > most else ""
    opening = f"<thead><tr>{head}</tr></thead>" if headings else ""
    style = "border-collapse:collapse;margin:4px 0;font-size:inherit"
    return f'<table style="{style}">{opening}<tbody>{body}</tbody></table>{more}'


def line_chart(
    points: Sequence[tuple[float, float]], *, xlabel: str, ylabel: str, color: str = BLUE, diagonal: bool = False
) -> str:
    """A curve in the unit square, as inline SVG of 260 x 236."""
    size, left, top = 190.0, 44.0, 8.0

    def at(x: float, y: float) -> str:
        return f"{left + size * min(max(x, 0.0), 1.0):.1f},{top + size * (1 - min(max(y, 0.0), 1.0)):.1f}"

    ticks = "".join(
        f'<text x="{left + size * v:.0f}" y="{top + size + 14:.0f}" text-anchor="middle">{v:g}</text>'
        f'<text x="{left - 5:.0f}" y="{top + size * (1 - v) + 4:.0f}" text-anchor="end">{v:g}</text>'
        for v in (0.0, 0.5, 1.0)
    )
    chance = f'<polyline points="{at(0, 0)} {at(1, 1)}" stroke="#8a949e" stroke-dasharray="2 3"/>' if diagonal else ""
    curve = " ".join(at(x, y) for x, y in points)
    middle = top + size / 2
    return (
        f'<svg role="img" aria-label="{escape(ylabel)} against {escape(xlabel)}" width="260" height="236" '
        'viewBox="0 0 260 236" fill="none" style="color:inherit">'
        f'<rect x="{left:g}" y="{top:g}" width="{size:g}" height="{size:g}" stroke="#8a949e" stroke-width=".8"/>'
        f'{chance}<polyline points="{curve}" stroke="{color}" stroke-width="2"/>'
        f'<g fill="currentColor" font-size="11" font-family="sans-serif">{ticks}'
        f'<text x="{left + size / 2:.0f}" y="{top + size + 30:.0f}" text-anchor="middle">{escape(xlabel)}</text>'
        f'<text x="12" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 12 {middle:.0f})">{escape(ylabel)}'
        "</text></g></svg>"
    )
