#!/usr/bin/env python3
"""Draws the laws of growth: CSV to SVG, a panel for each kind of count. `plot.py TABLE.csv > DRAWING.svg`

What is decided here: how it looks. The horizontal axis is logarithmic, the vertical one begins at zero: a line that
stays level is a cost that doesn't grow.
"""

import csv
import html
import io
import math
import pathlib
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 250, 54, 46, 34
COLOURS = ("#0b6e99", "#c4552d")


def text(x, y, words, anchor="middle", size=12, colour="#333"):
    """Words at a place."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
            f"{html.escape(words)}</text>")


def ceiling(value):
    """A round number not below the value: 1, 2 or 5 and zeros."""
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def panel(title, series):
    """One panel; `series` has rows (count, median, min, max) by name."""
    rows = [row for each in series.values() for row in each]
    first, last = (math.log10(pick(row[0] for row in rows)) for pick in (min, max))
    top = ceiling(1.05 * max(row[3] for row in rows))
    x = lambda count: LEFT + (math.log10(count) - first) / max(last - first, 1) * (WIDTH - LEFT - 24)
    y = lambda cost: HEIGHT - BOTTOM - cost / top * (HEIGHT - BOTTOM - TOP)
    out = [text(WIDTH / 2, 18, title, size=14)]
    for step in range(5):
        cost = top * step / 4
        out.append(f'<path d="M{LEFT} {y(cost):.1f}H{WIDTH - 20}" stroke="#ddd"/>')
        out.append(text(LEFT - 6, y(cost) + 4, f"{cost:g}", "end"))
    for power in range(math.ceil(first), math.floor(last) + 1):
        out.append(text(x(10**power), HEIGHT - BOTTOM + 16, f"{10**power:,}"))
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        for count, median, least, most in points:
            out.append(f'<path d="M{x(count):.1f} {y(least):.1f}V{y(most):.1f}" stroke="{colour}" stroke-width="1"/>')
            out.append(f'<circle cx="{x(count):.1f}" cy="{y(median):.1f}" r="3" fill="{colour}"/>')
        line = " ".join(f"{x(count):.1f},{y(median):.1f}" for count, median, *_ in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if name:
            out.append(text(LEFT + 150 * number, HEIGHT - 8, name, "start", colour=colour))
    return "\n".join(out)


TITLES = {"entries": "hit, by entries", "tenants": "hit, by tenants", "routes": "hit, by routes",
          "bump": "bump, by entries of its namespace"}


def draw(table, circumstances):
    """The drawing of a table in CSV."""
    panels = {}
    for row in csv.DictReader(io.StringIO(table)):
        kind, _, name = row["series"].partition(": ")
        point = (int(row["count"]), *(float(row[f"{key}_us"]) for key in ("median", "min", "max")))
        panels.setdefault(kind, {}).setdefault(name, []).append(point)
    height = HEIGHT * math.ceil(len(panels) / 2) + 24
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {height}" font-family="sans-serif">',
           f'<rect width="{2 * WIDTH}" height="{height}" fill="#fff"/>']
    for number, (kind, series) in enumerate(panels.items()):
        place = f"translate({number % 2 * WIDTH} {number // 2 * HEIGHT})"
        out.append(f'<g transform="{place}">{panel(TITLES[kind], series)}</g>')
    below = f"CPU µs of the server each; median and range of the rounds. {circumstances}"
    out += [text(WIDTH, height - 8, below, size=11), "</svg>"]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    print(draw(pathlib.Path(sys.argv[1]).read_text(), ""), end="")
