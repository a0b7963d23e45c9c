#!/usr/bin/env python3
"""What an answer costs: Tidegate beside nginx, HAProxy, Varnish and a bare loop, in one run on one machine.

The measure is the server's CPU time per request, because it holds still where rates don't: on a shared machine
rates move by a fifth, and the load generator often saturates before the server. Figures of different runs
or machines are not comparable; the ratios within one run are what to look at. docs/benchmarks.md tells the method.

A run fails, and prints no table, if an answer was wrong, failed or came from elsewhere than it should (a hit from the
origin, a miss from a cache).
"""

import argparse
import contextlib
import datetime
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

import door
import hits
import latency
import live
import memory
import misses
import scale
from machine import first_line, now_and_here, pick_cores
from measure import say
from peers import Place
from servers import Failure, end_on_signals, ignore_signals, program

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# In the order in which they run. Each has `compare(place, options)`, which gives a table in Markdown; the marker that
# the table has in a document; its rounds, their seconds, and what it takes besides, at most.
PARTS = {"hits": hits, "misses": misses, "door": door, "latency": latency, "scale": scale, "memory": memory,
         "live": live}


def circumstances(part, options):
    """When, what and on what."""
    revision = first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    _, _, same_core = pick_cores()
    versions = [
        first_line(program("nginx"), "-v").removeprefix("nginx version: "),
        *(part.versions() if hasattr(part, "versions") else compared_versions()),
    ]
    if options.tidegate:
        versions.append(f"Tidegate {revision}")
    apart = "two threads of one physical core: compare with care" if same_core else "one core each"
    quick = " A quick look, not a measurement." if options.quick else ""
    if hasattr(part, "setting"):
        return f"{now_and_here()}; {'; '.join(versions)}. {part.setting(options)}{quick}"
    return (f"{now_and_here()}; {'; '.join(versions)}. {options.rounds} rounds of {options.seconds} s, "
            f"{options.connections} connections; server and load on {apart}.{quick}")


def compared_versions():
    """Of those that most parts compare."""
    return [
        first_line(program("haproxy"), "-v").split(" 20")[0],
        first_line(program("varnishd"), "-V").removeprefix("varnishd (").split(" revision")[0],
        first_line(program("wrk"), "-v").split(" [")[0],
    ]


def keep(results, options):
    """Into bench-results/, and into a document between their markers where one is named."""
    directory = ROOT / "bench-results"
    directory.mkdir(exist_ok=True)
    file = directory / f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}.md"
    file.write_text("\n\n".join(results.values()) + "\n")
    say(f"kept in {file.relative_to(ROOT)}")
    for part, text in results.items() if options.into else ():
        marker = PARTS[part].MARKER
        start, end = f"<!-- {marker} -->", f"<!-- end of {marker} -->"
        before, _, rest = options.into.read_text().partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise Failure(f"{options.into} has no {start} … {end}")
        options.into.write_text(f"{before}{start}\n{text}\n{end}{after}")


def positive(text):
    """An argument that counts something."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tidegate", type=pathlib.Path, default=ROOT / "target/release/tidegate")
    parser.add_argument("--floor", type=pathlib.Path, default=ROOT / "target/release/floor")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be said again for another one")
    parser.add_argument("--quick", action="store_true", help="one round of a second each: does it work?")
    parser.add_argument("--rounds", type=positive, help="of each part, instead of its own number")
    parser.add_argument("--seconds", type=positive, help="of each round")
    parser.add_argument("--connections", type=positive, default=64)
    parser.add_argument("--into", type=pathlib.Path, help="a document to put the tables into, between their markers")
    parser.add_argument("--watchers", type=positive, help="live: how many watch (10,000)")
    parser.add_argument("--pushes", type=positive, help="live: of each body and round (30)")
    parser.add_argument("--scenario", choices=live.SCENARIOS, action="append", help="live: one; may be said again")
    options = parser.parse_args()
    for needed in (options.tidegate, options.floor):
        if not os.access(needed, os.X_OK):
            parser.error(f"{needed} is not there: `make bench` builds it")
    return options


def run(name, options):
    """One part's text; whatever it started has ended when it returns or raises."""
    part = PARTS[name]
    options = argparse.Namespace(**vars(options))
    options.rounds = options.rounds or (1 if options.quick else part.ROUNDS)
    options.seconds = options.seconds or (1 if options.quick else part.SECONDS)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    end_on_signals(part.PLANNED_SECONDS * max(1, options.rounds * options.seconds // (part.ROUNDS * part.SECONDS)) * 2)
    core, load_core, _ = pick_cores()
    with contextlib.ExitStack() as stack:
        cores = frozenset(os.sched_getaffinity(0))
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, {load_core})
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory, prefix="bench-")))
        try:
            text = part.compare(Place(stack, directory, str(core), str(load_core), cores), options)
        finally:
            ignore_signals()
    return f"{circumstances(part, options)}\n\n{text}"


def main():
    """Exit 0 with the tables, or 1 with a reason."""
    options = arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        results = {name: run(name, options) for name in PARTS if name in (options.only or PARTS)}
        print("\n\n".join(results.values()))
        keep(results, options)
    except (Failure, subprocess.TimeoutExpired) as reason:
        say(f"failed: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
