"""Figures as Markdown.

What is decided here: medians and ratios, and to whom a ratio refers. Never: how a figure came about.
"""

import statistics

from peers import FLOOR, PEERS


def best_peer(medians):
    """The cheapest of the peers in this case."""
    return min((value for name, value in medians.items() if name.startswith(PEERS)), default=None)


def only(name):
    """One server as the base of a ratio."""
    return lambda medians: medians.get(name)


BASES = {"× best peer": best_peer, "× floor": only(FLOOR)}


def costs(rounds, cases, names, bases=None):
    """The cost of each case on each server, from rounds by (case, server's name)."""
    bases = bases or BASES
    lines = [row("answer", "server", "CPU µs per request: median", "min", "max", *bases, "requests/s", "core busy"),
             rule(2, 5 + len(bases))]
    for case in cases:
        medians = {name: statistics.median(r.microseconds for r in rounds[case, name])
                   for name in names if (case, name) in rounds}
        for name, median in medians.items():
            taken = rounds[case, name]
            spread = [r.microseconds for r in taken]
            lines.append(row(case.name, name, *map(microseconds, (median, min(spread), max(spread))),
                             *(ratio(median, base(medians)) for base in bases.values()),
                             f"{statistics.median(r.rate for r in taken):,.0f}",
                             f"{statistics.median(r.busy for r in taken):.0%}"))
    return "\n".join(lines)


def microseconds(value):
    """No more digits than there is sense in."""
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"


def ratio(value, base):
    """A ratio, or a dash where there is nothing to compare with."""
    return "–" if base is None else f"{value / base:.2f}"


def row(*cells):
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def rule(left, right):
    """What stands under the head of a table: so many columns of words, so many of numbers."""
    return f"|{'---|' * left}{'--:|' * right}"
