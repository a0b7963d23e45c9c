#!/usr/bin/env python3
"""How costs grow: a hit with the number of entries, of tenants, of routes; a bump with the size of its namespace.

Server CPU time against the real binary, one worker, one core each for server and load, as in the other comparisons.
Written as CSV, and drawn beside it as SVG. What is decided here: what grows, and how far. Every measured hit is one
(the origin is not asked); every bump is checked (the next request for an answer of that tenant asks the origin).
"""

import argparse
import base64
import contextlib
import csv
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import peers
import plot
from loads import Wrk
from machine import now_and_here, pick_cores
from measure import measure, rest, say, spent
from servers import AnsweringOrigin, Failure, end_on_signals, ignore_signals

ROOT = pathlib.Path(__file__).parent.parent.parent
SECRET = "only-for-benchmarks-0123456789abcdef"
ROUTE = """[[route]]
path = "/route/{:06}"
origin = "app"
cache = {{ namespace = "bench", scope = "public", ttl = "1h" }}
"""
BODY = b'{"value":17}'
# Of the entries, so many are asked for again and again, evenly spread over all.
FEW = 1000
# Bumps of as many tenants are measured together, so many times.
BUMPS, BATCHES, MOST_OF_BUMPS = 50, 3, 1_000_000
# What an entry may take, and what there is at least.
BYTES_PER_ENTRY, LEAST_MEGABYTES = 4096, 1024
# About what a gateway fills, and what the whole run may take.
FILLS_PER_SECOND = 15_000
LIMIT_SECONDS = 3600


def powers(start, end):
    """Powers of ten between the two."""
    return [10**power for power in range(1, 9) if start <= 10**power <= end]


def coded(data):
    """Base64 as tokens have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(tenant):
    """`Authorization` of a user of the tenant."""
    claims = {"tenant": tenant, "sub": "bench", "exp": int(time.time()) + 2 * LIMIT_SECONDS}
    text = coded(b'{"alg":"HS256","typ":"JWT"}') + b"." + coded(json.dumps(claims).encode())
    return "Bearer " + (text + b"." + coded(hmac.digest(SECRET.encode(), text, hashlib.sha256))).decode()


class Laws:
    """One run."""

    def __init__(self, place, options):
        self.place, self.options = place, options
        self.origin = place.up(AnsweringOrigin({"/": BODY}, place.directory, place.load_core))
        self.points = []

    def gateway(self, routes="", entries=0):
        """A gateway with an empty cache."""
        megabytes = LEAST_MEGABYTES + entries * BYTES_PER_ENTRY // 2**20
        return self.place.up(peers.tidegate(self.place, self.options, "laws", False, origin=self.origin.port,
                                            secret=SECRET, megabytes=megabytes, routes=routes))

    def fill(self, server, pattern, first, count, *tokens):
        """Has so many answers asked for, from a number on, until the origin was asked once for each."""
        before, asked = self.origin.requests(), 0
        while asked < count:
            # What was under way when a load ended may be missing from it: begin a little before.
            done = max(0, asked - 2 * self.options.connections)
            seconds = 1 + (count - done) // FILLS_PER_SECOND
            load = Wrk("/", "each.lua", tuple(map(str, (pattern, first + done, count - done, *tokens))))
            said, last = load.run(server, self.options, seconds, self.place.load_core), asked
            asked = self.origin.requests() - before
            if said["bad_status"] or said["socket_errors"] or asked == last:
                raise Failure(f"filling {count} answers: the origin was asked {asked} times; {said}")
        if asked != count:
            raise Failure(f"filling {count} answers: the origin was asked {asked} times")
        rest(server, server.cpu())

    def hits(self, series, x, server, *arguments):
        """A point: what a hit costs; wrk's script gets the arguments."""
        load = Wrk("/", "chosen.lua", arguments=tuple(map(str, arguments)))
        before, costs = self.origin.requests(), []
        for number in range(self.options.rounds + 1):
            _, result = measure(server, f"{series}, {x:,}", load, len(BODY), self.options, self.place.load_core,
                                self.options.seconds)
            costs += [result.microseconds] if number else []
        if self.origin.requests() != before:
            raise Failure(f"{series}, {x:,}: the origin was asked")
        self.point(series, x, costs)

    def point(self, series, x, costs):
        """Keeps a point."""
        self.points.append((series, x, statistics.median(costs), min(costs), max(costs)))
        say(f"{series}, {x:,}: {statistics.median(costs):.2f} µs")

    def entries(self):
        """Hits with more and more entries: a few of them, and any of them."""
        most = self.options.entries
        server, there = self.gateway(entries=most), 0
        for count in powers(1000, most):
            self.fill(server, "/entry?n=%d", there, count - there)
            there = count
            self.hits("entries: 1,000 of them", count, server, "/entry?n=%d", 0, count // FEW, FEW)
            self.hits("entries: any of them", count, server, "/entry?n=%d", 0, 1, count)
        server.stop()

    def tenants(self):
        """Hits of more and more tenants, each with its own entry and token."""
        server, there = self.gateway(), 0
        file = self.place.directory / "tokens"
        tokens = []
        for count in powers(10, 100 if self.options.quick else 10_000):
            for number in range(there, count):
                tokens.append(token(f"t{number}"))
                status, _, _ = server.get("/entry?n=0", Host="bench", Authorization=tokens[-1])
                if status != 200:
                    raise Failure(f"tenants: status {status}")
            there = count
            file.write_text("\n".join(tokens) + "\n")
            self.hits("tenants", count, server, "/entry?n=%d", 0, 1, 1, file)
        server.stop()

    def routes(self):
        """Hits on ten routes among more and more of them."""
        for count in powers(10, 1000 if self.options.quick else 10_000):
            server = self.gateway("\n".join(map(ROUTE.format, range(count))))
            for number in range(10):
                server.get(f"/route/{count // 10 * number:06}")
            self.hits("routes", count, server, "/route/%06d", 0, count // 10, 10)
            server.stop()

    def bumps(self):
        """Bumps of the tenants of a namespace, by the entries in it."""
        tenants = [f"t{number}" for number in range(BUMPS * (BATCHES + 1))]
        file = self.place.directory / "tokens"
        file.write_text("\n".join(map(token, tenants)) + "\n")
        for count in powers(1000, min(self.options.entries, MOST_OF_BUMPS)):
            server = self.gateway(entries=count)
            self.fill(server, "/entry?n=%d", 0, count, file)
            costs = [bump(server, tenants[start:start + BUMPS]) for start in range(0, len(tenants), BUMPS)]
            for tenant in tenants:
                before = self.origin.requests()
                server.get("/entry?n=0", Host="bench", Authorization=token(tenant))
                if self.origin.requests() == before:
                    raise Failure(f"bump: {tenant} still gets the answer from before")
            # The first batch warms up.
            self.point("bump", count, costs[1:])
            server.stop()


def bump(server, tenants):
    """Sends a signed event for each tenant; microseconds of CPU time for each, until the server rests."""
    before = server.cpu()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        for tenant in tenants:
            body, identity, now = json.dumps({"tenant": tenant}).encode(), os.urandom(8).hex(), str(int(time.time()))
            signed = hmac.digest(SECRET.encode(), f"{identity}.{now}.".encode() + body, hashlib.sha256)
            connection.request("POST", "/events/moved", body, {
                "Content-Type": "application/json", "webhook-id": identity, "webhook-timestamp": now,
                "webhook-signature": "v1," + base64.b64encode(signed).decode()})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status // 100 != 2:
                raise Failure(f"bump: status {answer.status}: {said}")
    return spent(before, rest(server, server.cpu())) / 1e3 / len(tenants)


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tidegate", type=pathlib.Path, required=True)
    parser.add_argument("--entries", type=int, default=1_000_000, help="how far entries go; 10,000,000 take 4 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="one round of a second, and not far: does it work?")
    parser.add_argument("--only", choices=("entries", "tenants", "routes", "bumps"), action="append")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench-results/scaling", help="without its ending")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.entries = 1, 1, min(options.entries, 10_000)
    return options


def main():
    """Exit 0 with both files written, or 1 with a reason."""
    options = arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    end_on_signals(LIMIT_SECONDS)
    core, load_core, _ = pick_cores()
    cores = frozenset(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {load_core})
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    try:
        with contextlib.ExitStack() as stack:
            directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory, prefix="bench-")))
            laws = Laws(peers.Place(stack, directory, str(core), str(load_core), cores), options)
            try:
                for law in options.only or ("entries", "tenants", "routes", "bumps"):
                    getattr(laws, law)()
            finally:
                ignore_signals()
    except (Failure, subprocess.TimeoutExpired) as reason:
        say(f"failed: {reason}")
        return 1
    options.out.parent.mkdir(exist_ok=True)
    table, drawing = options.out.with_suffix(".csv"), options.out.with_suffix(".svg")
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("series", "count", "median_us", "min_us", "max_us"))
        writer.writerows((series, x, *(f"{cost:.3f}" for cost in costs)) for series, x, *costs in laws.points)
    drawing.write_text(plot.draw(table.read_text(), now_and_here()))
    say(f"written: {table}, {drawing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
