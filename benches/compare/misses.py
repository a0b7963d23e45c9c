"""What a cache miss costs: unique URLs, each answered by the origin and, where there is a cache, kept.

What is decided here: the answers, who is compared, and that every measured answer came from the origin over
kept connections and was then in the cache of whoever has one.

Each round has a server of its own with an empty cache and room for all it will be given: no eviction, no
growing index. nginx's are started ahead, for until its cache loader has run, a minute after the start, it
looks for a file on each miss.
"""

import collections.abc
import contextlib
import dataclasses
import itertools
import shutil
import time

import peers
import tables
from loads import Wrk
from measure import WARM_UP_SECONDS, json_body, measure, say
from servers import AnsweringOrigin, Failure

MARKER = "figures of misses"
ROUNDS = 3
SECONDS = 2
PLANNED_SECONDS = 600
LOADER_SECONDS = 75
# What a second of load may bring: 60,000 answers in nginx's index, in files of a page or entries of HAProxy's.
KEYS_MEGABYTES_PER_SECOND = 8
MEGABYTES_PER_SECOND = 256
HAPROXY_MEGABYTES = 4095
PROXY_CACHE = "nginx proxy_cache"
PROXY_PASS = "nginx proxy_pass"
BASES = {"× proxy_cache": tables.only(PROXY_CACHE), "× proxy_pass": tables.only(PROXY_PASS)}
# An answer of each round that has to be in the cache afterwards; wrk itself takes the first for a trial.
SAMPLE = 10
# What unique.lua calls the server.
HOST = "bench"


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for: a path below `prefix`."""

    name: str
    prefix: str
    size: int


CASES = (Case("300 B", "/300b/", 300), Case("3 KB", "/3kb/", 3 * 1024))


@dataclasses.dataclass(frozen=True)
class Peer:
    """Who is compared: how one is started, and whether it caches."""

    name: str
    start: collections.abc.Callable
    caches: bool
    ahead: bool = False


def everyone(place, options, origin):
    """Who is compared, in the table's order."""
    seconds = options.seconds + WARM_UP_SECONDS
    megabytes = MEGABYTES_PER_SECOND * seconds
    common = {"origin": origin.port}

    def nginx(name, cache):
        return lambda: peers.nginx(place, "misses", name, cache=cache, connections=options.connections,
                                   keys=KEYS_MEGABYTES_PER_SECOND * seconds, megabytes=megabytes, **common)

    def tidegate(name, cache, records):
        return lambda: peers.tidegate(place, options, "misses", records, name, cache=cache, megabytes=megabytes,
                                      **common)

    found = [
        Peer(PROXY_CACHE, nginx(PROXY_CACHE, "bench"), caches=True, ahead=not options.quick),
        Peer(PROXY_PASS, nginx(PROXY_PASS, "off"), caches=False),
        Peer(peers.HAPROXY, lambda: peers.haproxy(place, "hits", min(megabytes, HAPROXY_MEGABYTES), **common),
             caches=True),
        Peer(peers.VARNISH, lambda: peers.varnish(place, megabytes, **common), caches=True),
    ]
    for cache, kind in (("origin", peers.TIDEGATE), ("off", f"{peers.TIDEGATE}, cache off")):
        for records, suffix in ((True, ""), (False, ", no records")):
            found.append(Peer(kind + suffix, tidegate(kind + suffix, cache, records), caches=cache != "off"))
    return found


class Fleet:
    """Gives each round its server; all end with the stack."""

    def __init__(self, stack, compared, count):
        self._stack = stack
        self._servers = {peer: [self._start(peer) for _ in range(count)] for peer in compared if peer.ahead}

    def _start(self, peer):
        server = peer.start()
        self._stack.callback(server.stop)
        return server

    def until_loaded(self):
        """Returns once the cache loader of each has come and gone."""
        servers = list(itertools.chain(*self._servers.values()))
        deadline = time.monotonic() + LOADER_SECONDS
        for there in (True, False):
            while any(server.has("cache loader") != there for server in servers):
                if time.monotonic() > deadline:
                    raise Failure(f"nginx's cache loader has not ended after {LOADER_SECONDS} s")
                time.sleep(0.1)

    @contextlib.contextmanager
    def fresh(self, peer):
        """A server that nobody has used, until it is stopped and what it kept is removed."""
        server = self._servers[peer].pop() if peer.ahead else self._start(peer)
        server.wait_until_ready()
        yield server
        server.stop()
        shutil.rmtree(server.directory)


def check_kept(server, peer, path, case, origin):
    """Asks once more for what was asked under load: it comes from the cache if the peer has one."""
    before = origin.requests()
    status, _, body = server.get(path, Host=HOST)
    asked = origin.requests() - before
    if status != 200 or len(body) != case.size:
        raise Failure(f"{peer.name}: {path}: status {status}, {len(body)} bytes")
    if asked != (0 if peer.caches else 1):
        raise Failure(f"{peer.name}: {path}: asked for again, the origin was asked {asked} times")


def loaded(server, peer, case, prefix, origin, options, load_core, seconds):
    """One round, checked: who asked the origin how often, over how many connections."""
    what = f"{peer.name}, {case.name}"
    before, opened = origin.requests(), origin.connections()
    load = Wrk("/", "unique.lua", arguments=(prefix,))
    count, result = measure(server, what, load, case.size, options, load_core, seconds)
    asked, opened = origin.requests() - before, origin.connections() - opened
    # What was under way when wrk ended is asked and not counted.
    if not count <= asked <= count + options.connections:
        raise Failure(f"{what}: {count} answers, and the origin was asked {asked} times")
    if opened > count / 100 + options.connections:
        raise Failure(f"{what}: {opened} connections to the origin for {count} requests")
    return result


def compare(place, options):
    """The table; cases and servers take turns."""
    bodies = {case.prefix: json_body(case.size) for case in CASES}
    origin = place.up(AnsweringOrigin(bodies, place.directory, place.load_core))
    compared = everyone(place, options, origin)
    fleet = Fleet(place.stack, compared, options.rounds * len(CASES))
    say("misses: without a minute's wait for nginx's cache loader, which costs nginx about a tenth" if options.quick
        else "misses: waiting a minute for nginx's cache loader to end")
    fleet.until_loaded()
    plan = [(case, peer) for case in CASES for peer in compared]
    rounds = {(case, peer.name): [] for case, peer in plan}
    loads = itertools.count(1)
    for number in range(1, options.rounds + 1):
        say(f"misses: round {number} of {options.rounds}")
        for case, peer in plan if number % 2 else reversed(plan):
            with fleet.fresh(peer) as server:
                for seconds in (options.seconds,) if options.quick else (WARM_UP_SECONDS, options.seconds):
                    prefix = f"{case.prefix}{next(loads):06}-"
                    sample = f"{prefix}{SAMPLE:08}"
                    result = loaded(server, peer, case, prefix, origin, options, place.load_core, seconds)
                    check_kept(server, peer, sample, case, origin)
                rounds[case, peer.name].append(result)
    return tables.costs(rounds, CASES, [peer.name for peer in compared], BASES)
