"""What a cache hit costs: the same documents from each server's cache.

What is decided here: the documents, who is compared, and that no measured answer comes from the origin.
"""

import dataclasses

from loads import Wrk
from measure import json_body, measure, say
from servers import Failure, Nginx, Server, StaticOrigin, program

FILES = {f"/{name}.json": size for name, size in (("300b", 300), ("3kb", 3 * 1024), ("64kb", 64 * 1024))}
SERVERS = 5
WARM_UP_SECONDS = 1
BASES = {"× nginx": "nginx"}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for."""

    name: str
    path: str
    conditional: bool = False


CASES = (
    Case("300 B", "/300b.json"),
    Case("3 KB", "/3kb.json"),
    Case("64 KB", "/64kb.json"),
    Case("304 (3 KB)", "/3kb.json", conditional=True),
)


def planned_seconds(options):
    """How long all rounds take."""
    return (options.rounds * options.seconds + WARM_UP_SECONDS) * len(CASES) * SERVERS


def start_servers(stack, options, directory, core, load_core):
    """The origin and the servers that are compared, in the table's order; all end with the stack."""

    def up(server):
        stack.callback(server.stop)
        server.wait_until_ready()
        return server

    files = {path: json_body(size) for path, size in FILES.items()}
    origin = up(StaticOrigin(files, directory, load_core))
    common = {"directory": directory, "core": core, "origin": origin.port}
    servers = [
        up(Nginx("nginx", "nginx.conf", sendfile="off", **common)),
        up(Nginx("nginx, sendfile", "nginx.conf", sendfile="on", **common)),
        up(Server("HAProxy", [program("haproxy"), "-db", "-f", "{config}"], "haproxy.cfg", megabytes=64, **common)),
    ]
    if options.tidegate:
        command = [str(options.tidegate), "run", "--config", "{config}"]
        servers.append(up(Server("Tidegate", command, "tidegate.toml", records="true", **common)))
        servers.append(up(Server("Tidegate, no records", command, "tidegate.toml", records="false", **common)))
    return origin, servers


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
    return Wrk(case.path, headers=tuple(headers.items()))


def compare(stack, options, directory, core, load_core):
    """All rounds, and the servers' names in the table's order.

    Cases and servers take turns, so that what disturbs the machine disturbs all.
    """
    origin, servers = start_servers(stack, options, directory, core, load_core)
    plan = []
    for case in CASES:
        for server in servers:
            load = prepare(server, case, origin)
            if load is not None:
                plan.append((case, server, load))
    rounds = {(case, server.name): [] for case, server, _ in plan}
    for number in range(options.rounds + 1):
        say(f"hits: round {number} of {options.rounds}" if number else "hits: warming up")
        for case, server, load in plan if number % 2 else reversed(plan):
            seconds = options.seconds if number else WARM_UP_SECONDS
            what = f"{server.name}, {case.name}"
            asked = origin.requests()
            _, result = measure(server, what, load, 0 if case.conditional else FILES[case.path],
                                options, load_core, seconds)
            if origin.requests() != asked:
                raise Failure(f"{what}: the origin was asked {origin.requests() - asked} times")
            if number:
                rounds[case, server.name].append(result)
    return rounds, [server.name for server in servers]
