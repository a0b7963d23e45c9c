"""What a cache hit costs: the same documents from each server's cache.

What is decided here: the documents, who is compared, and that no measured answer comes from the origin.
"""

import dataclasses

import peers
import tables
from loads import Wrk
from measure import in_turns, json_body, measure, say
from servers import Failure, StaticOrigin

MARKER = "figures"
ROUNDS = 5
SECONDS = 2
# Starting, filling, and the time between two rounds.
PLANNED_SECONDS = 600
FILES = {f"/{name}.json": size for name, size in (("300b", 300), ("3kb", 3 * 1024), ("64kb", 64 * 1024))}
PIPELINED = 16


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for, how, and of whom where not of everyone."""

    name: str
    path: str
    conditional: bool = False
    pipelined: bool = False
    leaves_out: tuple = (peers.LOGGED,)


CASES = (
    Case("300 B", "/300b.json", leaves_out=()),
    Case("3 KB", "/3kb.json"),
    Case("64 KB", "/64kb.json"),
    Case("304 (3 KB)", "/3kb.json", conditional=True),
    Case(f"300 B, {PIPELINED} pipelined", "/300b.json", pipelined=True, leaves_out=(peers.LOGGED, peers.SENDFILE)),
)


def start_origin(place):
    """The documents."""
    files = {path: json_body(size) for path, size in FILES.items()}
    return place.up(StaticOrigin(files, place.directory, place.load_core))


def start_servers(place, options, origin, workers=1):
    """The servers that are compared, in the table's order; all end with the stack."""
    common = {"origin": origin.port, "workers": workers}
    servers = [
        peers.nginx(place, "hits", **common),
        peers.nginx(place, "hits", peers.SENDFILE, sendfile="on", **common),
        peers.nginx(place, "hits", peers.LOGGED, log="access record buffer=64k flush=1s", **common),
        peers.haproxy(place, "hits", **common),
        peers.varnish(place, **common),
        *(peers.tidegate(place, options, "hits", records, **common) for records in (True, False)),
        peers.floor(place, options, workers),
    ]
    return [place.up(server) for server in servers]


def prepare(server, case, origin):
    """Fills the cache and makes sure that it answers; gives the load of the case.

    `None`: wrk can't measure this server in this case.
    """
    status, head, body = server.get(case.path)
    if status != 200 or len(body) != FILES[case.path]:
        raise Failure(f"{server.name}: {case.path}: status {status}, {len(body)} bytes")
    headers = {}
    if case.conditional:
        headers["If-None-Match"] = head.get("ETag", "")
    before = origin.requests()
    for _ in range(3):
        status, head, _ = server.get(case.path, **headers)
    if origin.requests() != before:
        raise Failure(f"{server.name}: {case.path} does not come from its cache")
    if status != (304 if case.conditional else 200):
        raise Failure(f"{server.name}: {case.path}: status {status}")
    if case.conditional and "Content-Length" in head:
        say(f"no figure for {server.name}'s 304: wrk waits for the {head['Content-Length']} bytes it announces")
        return None
    headers = tuple(headers.items())
    if case.pipelined:
        return Wrk(case.path, "pipelined.lua", (str(PIPELINED),), headers)
    return Wrk(case.path, headers=headers)


def compare(place, options):
    """The table."""
    origin = start_origin(place)
    servers = start_servers(place, options, origin)
    loads = {(case, server): prepare(server, case, origin)
             for case in CASES for server in servers if server.name not in case.leaves_out}

    def one(case, server, seconds):
        what, asked = f"{server.name}, {case.name}", origin.requests()
        size = 0 if case.conditional else FILES[case.path]
        _, result = measure(server, what, loads[case, server], size, options, place.load_core, seconds)
        if origin.requests() != asked:
            raise Failure(f"{what}: the origin was asked {origin.requests() - asked} times")
        return result

    rounds = in_turns("hits", [pair for pair, load in loads.items() if load], options, one)
    return tables.costs(rounds, CASES, [server.name for server in servers])
