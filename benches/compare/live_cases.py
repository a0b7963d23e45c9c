"""Scenarios of watched entries for Tidegate alone, each held against its target.

What is decided here: what happens to the server and its watchers, and what is read off. A case gives lines of: what,
figure, the most that it should be, unit.
"""

import json
import os
import random
import socket
import subprocess
import sys
import time

import live_peers
from live_stage import Stage, percentile
from measure import rest
from servers import Failure, Server, program
from watchers import NEVER, Loop, Origin, Pusher

PEER = "Tidegate, 2 workers"
FEW = 1000
STALLED, GENERATIONS, STATE_BYTES = 500, 1000, 64 * 1024
WRITES_PER_SECOND, FLOOD_SECONDS, STEP_SECONDS = 10_000, 5, 0.01
# A number above every time, which a bump writes.
VERSION_WRITE = b"*3\r\n$3\r\nSET\r\n$21\r\ndash:ver:bench:public\r\n$13\r\n2%012d\r\n"
# Browsers come back after some seconds, Chromium after 3.
RETURN_SECONDS = 3
HITS_PER_SECOND = 200


def peer(place, options, request=None, **values):
    """Tidegate with two workers, on the stage of the comparison."""
    return live_peers.Peer(
        PEER, lambda origin: live_peers.tidegate(place, options, origin, 2, PEER, **values), live_peers.signed_event,
        request or live_peers.watch(), refills=True)


def redis(place):
    """A store of its own, and the line of the configuration."""
    server = place.up(Server("Redis", [program("redis-server"), "{config}"], "redis.conf", place.directory,
                             place.load_core))
    return server, f'redis = "redis://127.0.0.1:{server.port}/0"'


def memory(place, options):
    """What a watcher takes, plain, by TLS, and with a second entry."""
    loop, kept = Loop(), {}
    both = live_peers.watch("/live?watch=first,second")
    for name, request, tls in (("plain", None, False), ("TLS", None, True),
                               ("one", live_peers.watch("/live?watch=first"), False), ("two", both, False)):
        stage = Stage(place, peer(place, options, request), options, Origin(loop), loop, tls)
        for _ in range(20):
            stage.push(300)
        kept[name] = stage.kilobytes()
        stage.end()
    return [("memory of a watcher", kept["plain"], 10, " kB"), ("memory of a watcher by TLS", kept["TLS"], 18, " kB"),
            ("memory of a second entry on the same stream", kept["two"] - kept["one"], 0.3, " kB")]


def hits(place, options):
    """How long plain hits take while pushes are told."""
    loop = Loop()
    stage = Stage(place, peer(place, options), options, Origin(loop), loop)
    stage.ask("/plain")
    lines = []
    for what in ("without a fan-out", "during fan-outs"):
        asking = subprocess.Popen([sys.executable, "-B", __file__, str(stage.server.port)], stdout=subprocess.PIPE,
                                  stdin=subprocess.PIPE)
        stage.crowd.during(0.5)
        if what == "during fan-outs":
            # One after another, without a pause but the window's.
            for _ in range(options.pushes):
                stage.push(300)
        else:
            stage.crowd.during(3)
        said, _ = asking.communicate(b"\n", timeout=30)
        lines.append((f"p99 of plain hits {what}", 1000 * percentile(json.loads(said), 0.99), 10, " ms"))
    stage.end()
    return lines


def ask(port):
    """Plain hits at a fixed rate until a line comes; seconds of each, from when it was due."""
    if os.geteuid() == 0:
        os.nice(-10)
    request, took = b"GET /plain HTTP/1.1\r\nHost: bench\r\n\r\n", []
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    os.set_blocking(0, False)
    due = time.monotonic()
    while not is_over():
        due += 1 / HITS_PER_SECOND
        time.sleep(max(0, due - time.monotonic()))
        connection.sendall(request)
        answer = connection.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(answer)
        took.append(time.monotonic() - due)
    print(json.dumps(took))


def is_over():
    """Whether something has come on standard input."""
    try:
        return bool(os.read(0, 1))
    except BlockingIOError:
        return False


def stalled(place, options):
    """What watchers cost that read nothing, and what they get when they do."""
    loop = Loop()
    stage = Stage(place, peer(place, options, window="1ms"), options, Origin(loop), loop, count=2)
    slow = []
    for _ in range(STALLED):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", stage.server.port))
        connection.sendall(live_peers.watch())
        slow.append(connection)
    stage.crowd.during(0.5)
    generations = 100 if options.quick else GENERATIONS
    for number in range(generations):
        if number == generations // 10:
            before = stage.server.memory()
        stage.push(STATE_BYTES, pause=0.002)
    after = stage.server.memory()
    marker = f"m{stage.number:09}".encode()
    told = [events_until(connection, marker) for connection in slow]
    for connection in slow:
        connection.close()
    stage.end()
    return [(f"memory that a stalled watcher takes over {generations} generations of 64 KiB",
             (after - before) / STALLED / 1000, 2, " kB"),
            ("events that it then gets, at most", max(told), 3, "")]


def events_until(connection, marker):
    """How many events come until the one with this marker has."""
    connection.settimeout(10)
    seen = b""
    while marker not in seen[-2 * STATE_BYTES:]:
        more = connection.recv(1 << 20)
        if not more:
            raise Failure("a stalled watcher was cut off")
        seen += more
    return seen.count(b"event: metric_update")


def flood(place, options):
    """Versions written far more often than anyone can be told."""
    loop, written, newest = Loop(), 0, b""
    store, line = redis(place)
    origin = Origin(loop)
    stage = Stage(place, peer(place, options, store=line), options, origin, loop, count=FEW)
    for _ in range(5):
        stage.push(300)
    origin.body = lambda: b'{"n": "%s"}' % newest
    writer = socket.create_connection(("127.0.0.1", store.port), timeout=10)
    loop.add(writer, lambda: writer.recv(1 << 20))
    before, asked, began = stage.server.memory(), origin.requests, time.monotonic()
    due, batch = began, int(WRITES_PER_SECOND * STEP_SECONDS)
    while time.monotonic() < began + FLOOD_SECONDS:
        due += STEP_SECONDS
        stage.crowd.during(max(0.0001, due - time.monotonic()))
        numbers = range(written + 1, written + batch + 1)
        written += batch
        newest = b"2%012d" % written
        writer.sendall(b"".join(VERSION_WRITE % each for each in numbers))
    wrote = time.monotonic()
    stage.crowd.await_event(newest)
    requests = origin.requests - asked
    stage.crowd.until(lambda: not stage.crowd.left, 10, "the last state after a flood")
    rest(stage.server, stage.server.cpu())
    grown = stage.server.memory() - before
    loop.remove(writer)
    stage.end()
    store.stop()
    rate = written / (wrote - began)
    return [(f"{rate:,.0f} writes of a version a second, {FEW:,} watchers: requests to the origin a second",
             requests / (wrote - began), 22, ""),
            ("from the last write to the last state at all of them", 1000 * (stage.crowd.last - wrote), 300, " ms"),
            ("memory that the flood left", grown / 1e6, 5, " MB")]


def restart(place, options):
    """kill -9, and everyone comes back."""
    loop = Loop()
    store, line = redis(place)
    stage = Stage(place, peer(place, options, store=line), options, Origin(loop), loop)
    for _ in range(3):
        stage.push(300)
    crowd, count = stage.crowd, len(stage.crowd.sockets)
    cursor = cursor_of(stage)
    crowd.request = live_peers.watch(fields=f"Last-Event-ID: {cursor}\r\n")
    stage.pusher.close()
    asked, killed = stage.origin.requests, time.monotonic()
    stage.server.kill()
    stage.server.start_again()
    crowd.until(lambda: len(crowd.closed) == count, 30, "all are cut off")
    crowd.events, crowd.marker = 0, NEVER
    dues = sorted(killed + random.uniform(0, RETURN_SECONDS) for _ in range(count))
    for due in dues:
        while time.monotonic() < due:
            crowd.turn(min(0.05, max(0, due - time.monotonic())))
        crowd.connect()
    crowd.until(lambda: not crowd.new, 30, "all are back")
    back = time.monotonic() - killed
    crowd.during(1)
    twice, requests = crowd.events, stage.origin.requests - asked
    stage.pusher = Pusher(loop, stage.server.port)
    took = stage.push(300)
    stage.end()
    store.stop()
    return [(f"kill -9 with {count:,} watchers, who come back within {RETURN_SECONDS} s: all are back after",
             back, 8, " s"),
            ("requests to the origin meanwhile", requests, 0, ""), ("events that were sent twice", twice, 0, ""),
            ("the next push has reached all of them after", took, 8, " s")]


def cursor_of(stage):
    """The id of the newest state."""
    with socket.create_connection(("127.0.0.1", stage.server.port), timeout=10) as connection:
        connection.sendall(live_peers.watch())
        seen = b""
        while b"\nid: " not in seen or not seen.endswith(b"\n\n\r\n"):
            seen += connection.recv(65536)
    return seen.rpartition(b"\nid: ")[2].partition(b"\n")[0].decode()


CASES = {"memory": memory, "hits": hits, "stalled": stalled, "flood": flood, "restart": restart}

if __name__ == "__main__":
    ask(int(sys.argv[1]))
