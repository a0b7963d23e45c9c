#!/usr/bin/env python3
"""What a large value costs in Redis: kept in one piece, or in chunks.

A redis-server of its own is given values of several sizes, each written and read back: with SET and GET, and as
chunks with pipelined SETs and one MGET. Reported per value written and read: the server's CPU time, the time it took,
and how long another client's PING had to wait meanwhile. docs/benchmarks.md says how to read it.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import socket
import statistics
import sys
import tempfile
import time

from machine import first_line, now_and_here, pick_cores
from measure import say, spent
from servers import Failure, Server, end_on_signals, ignore_signals, program

KIB = 1024
SIZES = tuple(kib * KIB for kib in (16, 64, 256, 1024, 4096))
CHUNK = 64 * KIB
OK = b"+OK\r\n"
SINGLE, CHUNKS = "one value", "chunks"
ROUNDS = 3
STEP_SECONDS = 0.5
PATIENCE_SECONDS = 10
# Each value is written under the next of so many keys: memory is used anew, as with a cache that is full.
KEYS = 16
PING_PAUSE_SECONDS = 0.0005


@dataclasses.dataclass(frozen=True)
class Figures:
    """What writing or reading one value cost in a round: microseconds of the server, of the client, of each PING."""

    cpu: float
    wall: float
    waits: list


class Redis:
    """One connection that knows how long each answer will be, and so has nothing to parse."""

    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(2 * max(SIZES)))

    def exchange(self, request, length):
        """Sends a request; its answer of so many bytes, until the next one."""
        self._socket.sendall(request)
        came = 0
        while came < length:
            if not (count := self._socket.recv_into(self._buffer[came:])):
                raise Failure("redis-server closed the connection")
            came += count
        return self._buffer[:came]

    def close(self):
        """Ends the connection."""
        self._socket.close()


def encoded(words):
    """A list of words as RESP: a command, or the answer to MGET."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts += [b"$%d\r\n" % len(word), word, b"\r\n"]
    return b"".join(parts)


class Pinger:
    """A second client, a process of its own, whose PINGs show how long the server keeps others waiting."""

    def __init__(self, port):
        fork = multiprocessing.get_context("fork")
        self._pipe, theirs = fork.Pipe()
        self._process = fork.Process(target=ping, args=(port, theirs), daemon=True)

    def __enter__(self):
        self._process.start()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.join()

    def waits(self):
        """The microseconds of each PING since this was last asked."""
        self._pipe.send(None)
        if not self._pipe.poll(PATIENCE_SECONDS):
            raise Failure("the client that sends PING says nothing")
        return self._pipe.recv()


def ping(port, pipe):
    """Until killed: a PING, a pause, and what they took whenever that is asked for."""
    redis = Redis(port)
    request = encoded((b"PING",))
    waits = []
    while True:
        began = time.perf_counter()
        redis.exchange(request, len(b"+PONG\r\n"))
        waits.append((time.perf_counter() - began) * 1e6)
        if pipe.poll(PING_PAUSE_SECONDS):
            pipe.recv()
            pipe.send(waits)
            waits = []


def exchanges(way, key, value):
    """What writes a value and what reads it: each a request and its answer."""
    lifetime = (b"PX", b"60000")
    if way == SINGLE:
        answer = encoded((value,)).removeprefix(b"*1\r\n")
        return (encoded((b"SET", key, value, *lifetime)), OK), (encoded((b"GET", key)), answer)
    chunks = [value[start:start + CHUNK] for start in range(0, len(value), CHUNK)]
    names = [b"%s:%d" % (key, number) for number in range(len(chunks))]
    sets = b"".join(encoded((b"SET", name, chunk, *lifetime)) for name, chunk in zip(names, chunks))
    return (sets, OK * len(chunks)), (encoded((b"MGET", *names)), encoded(chunks))


def repeat(server, steps):
    """Runs the steps in turn for a while: CPU and wall microseconds of one."""
    used, began, count = server.cpu(), time.perf_counter(), 0
    while time.perf_counter() - began < STEP_SECONDS:
        steps[count % len(steps)]()
        count += 1
    wall = time.perf_counter() - began
    return spent(used, server.cpu()) / 1e3 / count, wall * 1e6 / count


def one_round(server, redis, pinger, way, size, cost):
    """Writes and reads values of a size, kept one way."""
    value = os.urandom(size)
    written, read = zip(*(exchanges(way, b"value:%d" % number, value) for number in range(KEYS)))
    for request, answer in (*written, *read):
        if redis.exchange(request, len(answer)) != answer:
            raise Failure(f"{size} bytes as {way} did not come back as they were")
    pinger.waits()
    for name, plan in (("write", written), ("read", read)):
        steps = [functools.partial(redis.exchange, request, len(answer)) for request, answer in plan]
        cpu, wall = repeat(server, steps)
        cost[name].append(Figures(cpu, wall, pinger.waits()))
    redis.exchange(encoded((b"FLUSHALL",)), len(OK))


def table(idle, costs):
    """The figures as Markdown."""
    lines = [
        "| value | kept as | | CPU µs | wall µs | PING µs: p50 | p99 | longest |",
        "|---|---|---|--:|--:|--:|--:|--:|",
        f"| none | | | | | {waits_of(idle)} |",
    ]
    for (size, way), by_step in costs.items():
        for step, taken in by_step.items():
            cpu, wall = (statistics.median(getattr(each, field) for each in taken) for field in ("cpu", "wall"))
            waits = [wait for each in taken for wait in each.waits]
            lines.append(f"| {size // KIB:,} KiB | {way} | {step} | {cpu:,.0f} | {wall:,.0f} | {waits_of(waits)} |")
    return "\n".join(lines)


def waits_of(waits):
    """Median, 99th percentile and longest."""
    cuts = statistics.quantiles(waits, n=100)
    return f"{cuts[49]:,.0f} | {cuts[98]:,.0f} | {max(waits):,.0f}"


def run(stack):
    """All sizes, single and in chunks in turn; whatever this started ends with the stack."""
    core, load_core, same_core = pick_cores()
    os.sched_setaffinity(0, {load_core})
    directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    server = Server("redis-server", [program("redis-server"), "{config}"], "redis.conf", directory, core)
    stack.callback(server.stop)
    server.wait_until_ready()
    redis = stack.enter_context(contextlib.closing(Redis(server.port)))
    pinger = stack.enter_context(Pinger(server.port))
    pinger.waits()
    time.sleep(STEP_SECONDS)
    idle = pinger.waits()
    # Whoever sends PING shares a core with this process, and is to wait for the server, not for that core.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # What fits into one chunk is one value either way.
    costs = {(size, way): {"write": [], "read": []} for size in SIZES for way in (SINGLE, CHUNKS)
             if way == SINGLE or size > CHUNK}
    for _ in range(ROUNDS):
        for (size, way), cost in costs.items():
            one_round(server, redis, pinger, way, size, cost)
    apart = "two threads of one physical core: compare with care" if same_core else "one core each"
    return (f"{now_and_here()}; {first_line(program('redis-server'), '--version').partition(' sha')[0]}. {ROUNDS} "
            f"rounds of {STEP_SECONDS} s for each line; server and clients on {apart}.\n\n{table(idle, costs)}")


def main():
    """Exit 0 with a table, or 1 with a reason."""
    end_on_signals(PATIENCE_SECONDS * 10)
    try:
        with contextlib.ExitStack() as stack:
            try:
                text = run(stack)
            finally:
                ignore_signals()
        print(text)
    except (Failure, OSError) as reason:
        say(f"failed: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
