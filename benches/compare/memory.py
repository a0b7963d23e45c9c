"""What a server takes of memory: when it has just started, for each idle connection, for each answer it keeps.

What is decided here: what is counted. The process's own pages (PSS: what several processes share counts once) and
nginx's files, which are on tmpfs; the kernel's buffers of sockets are not counted. One look each: memory holds still.
"""

import contextlib
import socket

import misses
import peers
import tables
from loads import Wrk
from measure import json_body, rest, say
from servers import AnsweringOrigin, Failure

MARKER = "figures of memory"
ROUNDS = 1
SECONDS = 2
PLANNED_SECONDS = 300
CONNECTIONS = 2000
FIRST = "/300/first"
SIZES = (300, 3 * 1024)
CASES = tuple(misses.Case(f"{size} B", f"/{size}/", size) for size in SIZES)
KIB, MIB = 1024, 1024 * 1024


def kept(server):
    """Bytes that the server holds: its own, and files of its cache."""
    files = sum(each.stat().st_blocks * 512 for each in (server.directory / "cache").rglob("*") if each.is_file())
    return server.memory() + files


def idle_connections(server, path):
    """Bytes for each of many connections that have had an answer and keep silent."""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        before = server.memory()
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            connection.sendall(request)
            if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
                raise Failure(f"{server.name}: no answer on one of {CONNECTIONS} connections")
        rest(server, server.cpu())
        return (server.memory() - before) / CONNECTIONS


def entry(server, peer, case, origin, place, options):
    """Bytes for each of as many answers as come in some seconds; all were kept.

    As many came just before, so that what many requests at once need is there already.
    """
    for part in ("first", "second"):
        before, asked = kept(server), origin.requests()
        load = Wrk("/", "unique.lua", arguments=(f"{case.prefix}{part}-",))
        counted = load.run(server, options, options.seconds, place.load_core)
        if counted["bad_status"] or counted["socket_errors"] or not counted["requests"]:
            raise Failure(f"{server.name}, {case.name}: {counted}")
        rest(server, server.cpu())
        each = (kept(server) - before) / (origin.requests() - asked)
        misses.check_kept(server, peer, f"{case.prefix}{part}-{misses.SAMPLE:08}", case, origin)
    return each


def fresh(place, origin, peer):
    """A server for one figure, that has answered once; what another figure leaves behind would spoil it."""
    server = place.up(peer.start())
    if (status := server.get(FIRST)[0]) != 200:
        raise Failure(f"{server.name}: status {status}")
    return server


def look(place, options, origin, peer):
    """A line of the table."""
    say(f"memory: {peer.name}")
    server = fresh(place, origin, peer)
    cells = [f"{kept(server) / MIB:.1f}", f"{idle_connections(server, FIRST) / KIB:.1f}"]
    server.stop()
    for case in CASES:
        # HAProxy takes the memory of its cache when it starts.
        if peer.name == peers.HAPROXY:
            cells.append("–")
            continue
        server = fresh(place, origin, peer)
        cells.append(f"{entry(server, peer, case, origin, place, options):,.0f}")
        server.stop()
    return tables.row(peer.name, *cells)


def compare(place, options):
    """The table."""
    bodies = {case.prefix: json_body(case.size) for case in CASES}
    origin = place.up(AnsweringOrigin(bodies, place.directory, place.load_core))
    common = {"origin": origin.port}
    megabytes = misses.MEGABYTES_PER_SECOND * (2 * options.seconds + 1)
    compared = [
        misses.Peer(peers.NGINX, lambda: peers.nginx(
            place, "misses", cache="bench", connections=options.connections, megabytes=megabytes,
            keys=misses.KEYS_MEGABYTES_PER_SECOND * (2 * options.seconds + 1), **common), caches=True),
        misses.Peer(peers.HAPROXY, lambda: peers.haproxy(place, "hits", **common), caches=True),
        misses.Peer(peers.VARNISH, lambda: peers.varnish(place, megabytes, **common), caches=True),
        misses.Peer(peers.TIDEGATE, lambda: peers.tidegate(
            place, options, "misses", True, cache="origin", megabytes=megabytes, **common), caches=True),
    ]
    entries = (f"entry of {size:,} B, bytes" for size in SIZES)
    head = tables.row("server", "started, MiB", "idle connection, KiB", *entries)
    return "\n".join([head, tables.rule(1, 2 + len(SIZES)),
                      *(look(place, options, origin, peer) for peer in compared)])
