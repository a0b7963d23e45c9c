"""One round of load on one server, what it cost, and the table of many rounds.

What is decided here: when a round is worth nothing, and how a figure is computed. Never: what is asked of
whom, or where an answer has to come from (that is hits.py's and misses.py's).
"""

import dataclasses
import json
import statistics
import sys
import time

from servers import Failure

# What surrounds a body: below this an answer can't hold the 3 KB body, so it is a 304.
LARGEST_HEAD = 1024
# Work that a server puts off until after its answers is its cost as well: a round ends when it rests.
REST_STEP_SECONDS = 0.05
REST_NANOSECONDS = 1_000_000
REST_PATIENCE_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Round:
    """One server under one case for some seconds."""

    microseconds: float
    rate: float
    busy: float


def json_body(size):
    """A JSON document of exactly so many bytes."""
    rows = []
    while len(json.dumps(rows)) < size - 60:
        rows.append({"id": len(rows), "tenant": "acme", "value": 17 * len(rows) % 1009})
    text = json.dumps(rows)
    return (text + " " * (size - len(text))).encode()


def measure(server, what, load, body, options, load_core, seconds):
    """One round, checked, of answers with bodies of so many bytes; and how many answers there were."""
    before = server.cpu()
    counted = load.run(server, options, seconds, load_core)
    loaded = server.cpu()
    after = rest(server, loaded)
    if counted["bad_status"] or counted["socket_errors"] or not counted["requests"]:
        raise Failure(f"{what}: {counted}")
    if not body <= counted["bytes"] / counted["requests"] < body + LARGEST_HEAD:
        raise Failure(f"{what}: {counted['bytes'] / counted['requests']:.0f} bytes per answer")
    # nginx's cache loader ends as a whole process after a minute; it takes no part in a request.
    alive = {pid for pid, _ in after}
    if any(pid in alive for pid, _ in before.keys() - after.keys()):
        raise Failure(f"{what}: a thread ended while measured and took its CPU time with it")
    return counted["requests"], Round(
        microseconds=spent(before, after) / 1e3 / counted["requests"],
        rate=counted["requests"] / counted["microseconds"] * 1e6,
        busy=spent(before, loaded) / 1e3 / counted["microseconds"],
    )


def rest(server, used):
    """The server's CPU time once it has nothing left to do."""
    deadline = time.monotonic() + REST_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(REST_STEP_SECONDS)
        earlier, used = used, server.cpu()
        if spent(earlier, used) < REST_NANOSECONDS:
            return used
    raise Failure(f"{server.name} still works {REST_PATIENCE_SECONDS} s after its last answer")


def spent(before, after):
    """Nanoseconds between two readings."""
    return sum(used - before.get(thread, 0) for thread, used in after.items())


def table(rounds, cases, names, bases):
    """The figures as Markdown, from rounds by (case, server's name).

    `bases` gives each column of ratios its head and the name of the server it refers to.
    """
    ratios = "".join(f" {head} |" for head in bases)
    lines = [
        f"| answer | server | CPU µs per request: median | min | max |{ratios} requests/s | core busy |",
        f"|---|---|--:|--:|--:|{'--:|' * len(bases)}--:|--:|",
    ]
    for case in cases:
        medians = {name: statistics.median(r.microseconds for r in rounds[case, name])
                   for name in names if (case, name) in rounds}
        for name in names:
            if name not in medians:
                lines.append(f"| {case.name} | {name} |{' – |' * (5 + len(bases))}")
                continue
            taken = rounds[case, name]
            costs = [r.microseconds for r in taken]
            ratios = "".join(f" {medians[name] / medians[base]:.2f} |" if base in medians else " – |"
                             for base in bases.values())
            lines.append(
                f"| {case.name} | {name} | {medians[name]:.2f} | {min(costs):.2f} | {max(costs):.2f} |{ratios} "
                f"{statistics.median(r.rate for r in taken):,.0f} | {statistics.median(r.busy for r in taken):.0%} |")
    return "\n".join(lines)


def say(text):
    """To the person who waits; stdout is for the table alone."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
