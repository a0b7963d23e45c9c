#!/usr/bin/env python3
"""What a cache hit and a miss cost: Tidegate, nginx and HAProxy side by side, in one run on one machine.

The measure is the server's CPU time per request, because it holds still where rates don't: on a shared machine
rates move by a fifth, and the load generator often saturates before the server. Figures of different runs
or machines are not comparable; the ratio to nginx within one run is what to look at. docs/benchmarks.md
tells the method.

A run fails, and prints no table, if an answer was wrong, failed or came from elsewhere than it should (a hit from the
origin, a miss from a cache).
"""

import argparse
import contextlib
import datetime
import os
import pathlib
import subprocess
import sys
import tempfile

import door
import hits
import misses
from machine import first_line, now_and_here, pick_cores
from measure import say, table
from servers import Failure, end_on_signals, ignore_signals, program

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# What is compared, and the marker that its table has in a document.
PARTS = {"hits": (hits, "figures"), "misses": (misses, "figures of misses"), "door": (door, "figures of the door")}


def can_run(tidegate):
    """Whether there is a Tidegate with the command this comparison needs."""
    if not os.access(tidegate, os.X_OK):
        return False
    asked = subprocess.run([tidegate, "run", "--help"], capture_output=True, text=True, timeout=10, check=False)
    return asked.returncode == 0 and "--config" in asked.stdout


def circumstances(options, same_core):
    """When, what and on what."""
    revision = first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    versions = [
        first_line(program("nginx"), "-v").removeprefix("nginx version: "),
        first_line(program("haproxy"), "-v").split(" 20")[0],
        first_line(program("wrk"), "-v").split(" [")[0],
    ]
    if options.tidegate:
        versions.append(f"Tidegate {revision}")
    apart = "two threads of one physical core: compare with care" if same_core else "one core each"
    return (f"{now_and_here()}; {'; '.join(versions)}. {options.rounds} rounds of {options.seconds} s, "
            f"{options.connections} connections, HTTP/1.1 keep-alive; server and load on {apart}.")


def keep(tables, options):
    """Into bench-results/, and into a document between their markers where one is named."""
    results = ROOT / "bench-results"
    results.mkdir(exist_ok=True)
    file = results / f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}.md"
    file.write_text("\n\n".join(tables.values()) + "\n")
    say(f"kept in {file.relative_to(ROOT)}")
    for part, text in tables.items() if options.into else ():
        marker = PARTS[part][1]
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
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--seconds", type=positive, default=4, help="of each round")
    parser.add_argument("--connections", type=positive, default=64)
    parser.add_argument("--into", type=pathlib.Path, help="a document to put the tables into, between their markers")
    parser.add_argument("--only", choices=PARTS, help="one part")
    options = parser.parse_args()
    if not can_run(options.tidegate):
        say(f"Tidegate is left out: {options.tidegate} is not there or has no `run --config`")
        options.tidegate = None
    return options


def run(part, options):
    """One part's table; whatever it started has ended when it returns or raises."""
    module, _ = PARTS[part]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    end_on_signals(module.planned_seconds(options) * 2 + 60)
    core, load_core, same_core = pick_cores()
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {load_core})
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory, prefix="bench-")))
        try:
            rounds, names = module.compare(stack, options, directory, core, load_core)
        finally:
            ignore_signals()
    return f"{circumstances(options, same_core)}\n\n{table(rounds, module.CASES, names, module.BASES)}"


def main():
    """Exit 0 with the tables, or 1 with a reason."""
    options = arguments()
    try:
        tables = {part: run(part, options) for part in ([options.only] if options.only else PARTS)}
        print("\n\n".join(tables.values()))
        keep(tables, options)
    except (Failure, subprocess.TimeoutExpired) as reason:
        say(f"failed: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
