"""One round of load on one server and what it cost; many rounds in turns.

What is decided here: when a round is worth nothing, and how a figure is computed. Never: what is asked of whom, or
where an answer has to come from.
"""

import dataclasses
import json
import sys
import time

from servers import Failure

# What surrounds a body: below this an answer can't hold the 3 KB body, so it is a 304.
LARGEST_HEAD = 1024
# Work that a server puts off until after its answers is its cost as well: a round ends when it rests.
REST_STEP_SECONDS = 0.05
REST_NANOSECONDS = 1_000_000
REST_PATIENCE_SECONDS = 10
WARM_UP_SECONDS = 1


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


def in_turns(part, plan, options, one, warm_up=True):
    """All rounds, by (case, server's name): `one(case, server, seconds)` for each of the plan's pairs.

    Cases and servers take turns, and the order turns around from round to round, so that what disturbs the machine
    disturbs all. A first round warms up and doesn't count; a quick run does without.
    """
    rounds = {(case, server.name): [] for case, server in plan}
    for number in range(0 if warm_up and not options.quick else 1, options.rounds + 1):
        say(f"{part}: round {number} of {options.rounds}" if number else f"{part}: warming up")
        for case, server in plan if number % 2 else reversed(plan):
            result = one(case, server, options.seconds if number else WARM_UP_SECONDS)
            if number:
                rounds[case, server.name].append(result)
    return rounds


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


def say(text):
    """To the person who waits; stdout is for the tables alone."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
