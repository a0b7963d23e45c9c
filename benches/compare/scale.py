"""What a hit costs with more connections, and with two workers instead of one.

What is decided here: how many of each. The documents, the servers and the checks are those of hits.py. Two workers
need a core each; where the machine has no third core, the load takes turns with one of them, and the rate says little.
"""

import dataclasses

import hits
import peers
import tables
from measure import in_turns, measure
from servers import Failure

MARKER = "figures of scale"
ROUNDS = 3
SECONDS = 2
PLANNED_SECONDS = 600
PATH = "/300b.json"
OF = (peers.NGINX, peers.HAPROXY, peers.VARNISH, peers.TIDEGATE, peers.SILENT, peers.FLOOR)


@dataclasses.dataclass(frozen=True)
class Case:
    """How many of each; the rest is as prepare() wants it."""

    name: str
    workers: int
    connections: int
    path: str = PATH
    conditional: bool = False
    pipelined: bool = False


CASES = tuple(Case(f"{workers} worker{'s'[:workers - 1]}, {connections:,} connections", workers, connections)
              for workers in (1, 2) for connections in (64, 2000))


def compare(place, options):
    """The table."""
    origin = hits.start_origin(place)
    loads = {}
    for workers, where in ((1, place), (2, place.with_two_cores())):
        for server in hits.start_servers(where, options, origin, workers):
            for case in CASES:
                if server.name in OF and case.workers == workers:
                    load = hits.prepare(server, case, origin)
                    loads[case, server] = dataclasses.replace(load, connections=case.connections)

    def one(case, server, seconds):
        what, asked = f"{server.name}, {case.name}", origin.requests()
        _, result = measure(server, what, loads[case, server], hits.FILES[PATH], options, place.load_core, seconds)
        if origin.requests() != asked:
            raise Failure(f"{what}: the origin was asked {origin.requests() - asked} times")
        return result

    rounds = in_turns("scale", list(loads), options, one)
    return tables.costs(rounds, CASES, OF)
