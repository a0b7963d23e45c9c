"""How long an answer takes at a fixed rate that every server can keep: percentiles, as a client sees them.

What is decided here: rates, and when a round is worth nothing. A request that is due while its connection still waits
counts from when it was due (no coordinated omission). The servers are those of door.py and, without TLS, the floor.
"""

import dataclasses
import math
import statistics

import door
import peers
import tables
from loads import Oha, Pace, Wrk
from measure import in_turns, spent
from servers import Failure

MARKER = "figures of latency"
ROUNDS = 3
SECONDS = 2
PLANNED_SECONDS = 600
PERCENTILES = (50, 99, 99.9)
# While connections are opened and shake hands. What is due then is not counted, but answered.
START_SECONDS = 1
# Of the requests that were due, so many have to be answered within the round. A quick look is no measurement, and may
# happen while the machine has other things to do.
KEPT, QUICKLY_KEPT = 0.98, 0.5


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for at which rate, the size of the body, and of whom."""

    name: str
    load: Oha
    size: int
    of: tuple


CASES = (
    Case("300 B, 10,000/s", Oha("/cached/300b.json", 10_000), 300, (*door.PROXIES, peers.FLOOR)),
    Case("300 B, TLS 1.3, 10,000/s", Oha("/cached/300b.json", 10_000, "https"), 300, door.TLS),
    Case("300 B, HTTP/2, 10,000/s", Oha("/cached/300b.json", 10_000, "https", http2=True), 300, door.TLS),
    Case("3 KB, passed through, 4,000/s", Oha("/passed/3kb.json", 4000), 3 * 1024, door.PROXIES),
)
# What nginx can at most is measured in the same run.
MOST = Wrk("/cached/300b.json")


def half_of_most(nginx, options, place):
    """The small hit at half of what nginx can. The load's core has nothing else to do than to keep the rate."""
    counted = MOST.run(nginx, options, max(options.seconds, 1), place.load_core)
    rate = int(round(counted["requests"] / counted["microseconds"] * 1e6 / 2, -3))
    return Case(f"300 B, {rate:,}/s, half of nginx's most", Pace(MOST.path, rate, 300), 300,
                (*door.PROXIES, peers.FLOOR))


@dataclasses.dataclass(frozen=True)
class Round:
    """Microseconds by percentile; the share of its core that the server used."""

    times: tuple
    busy: float


def checked(what, case, requests, options, seconds):
    """Microseconds by percentile, if every answer was right and came at the rate."""
    if isinstance(case.load, Pace):
        if requests["wrong"] or requests["answered"] < (QUICKLY_KEPT if options.quick else KEPT) * requests["due"]:
            raise Failure(f"{what}: {requests}")
        return tuple(requests["percentiles"])
    wrong = [request for request in requests if request[2:] != (200, case.size)]
    if wrong:
        raise Failure(f"{what}: {len(wrong)} wrong answers, one with status and size {wrong[0][2:]}")
    times = sorted(took for due, took, *_ in requests if due >= START_SECONDS)
    if len(times) < (QUICKLY_KEPT if options.quick else KEPT) * case.load.rate * seconds:
        raise Failure(f"{what}: {len(times)} answers in {seconds} s: the rate was not kept; is the machine busy?")
    return tuple(1e6 * times[math.ceil(len(times) * percentile / 100) - 1] for percentile in PERCENTILES)


def compare(place, options):
    """The table."""
    origin, servers = door.start_servers(place, options)
    servers.append(place.up(peers.floor(place, options)))

    def one(case, server, seconds):
        what, asked, before = f"{server.name}, {case.name}", origin.requests(), server.cpu()
        # The pace's second of start is its own.
        more = 0 if isinstance(case.load, Pace) else START_SECONDS
        requests = case.load.run(server, options, seconds + more, place.load_core)
        used, asked = spent(before, server.cpu()), origin.requests() - asked
        times = checked(what, case, requests, options, seconds)
        if (asked == 0) == ("passed" in case.load.path):
            raise Failure(f"{what}: the origin was asked {asked} times")
        return Round(times, used / 1e9 / (seconds + START_SECONDS))

    nginx = next(server for server in servers if server.name == peers.NGINX)
    cases = (*CASES, half_of_most(nginx, options, place))
    plan = [(case, server) for case in cases for server in servers if server.name in case.of]
    return table(in_turns("latency", plan, options, one, warm_up=False), servers, cases)


def table(rounds, servers, cases):
    """Medians over the rounds, and how far the outermost percentile went in the best and the worst of them."""
    last = PERCENTILES[-1]
    lines = [tables.row("answer", "server", *(f"p{percentile} µs" for percentile in PERCENTILES), f"p{last}: min", "max",
                        "core busy"), tables.rule(2, len(PERCENTILES) + 3)]
    for case in cases:
        for server in servers:
            if taken := rounds.get((case, server.name)):
                columns = list(zip(*(one.times for one in taken)))
                lines.append(tables.row(case.name, server.name, *(f"{statistics.median(each):,.0f}" for each in columns),
                                        f"{min(columns[-1]):,.0f}", f"{max(columns[-1]):,.0f}",
                                        f"{statistics.median(one.busy for one in taken):.0%}"))
    return "\n".join(lines)
