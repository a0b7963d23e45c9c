"""What it costs to tell everyone who watches: server-sent events to many connections, from a push to the last byte.

What is decided here: how many watch, what is pushed and when, and what the figures are held against. Each server is
started for its turn and has the machine for itself; one push follows another. Other scenarios: live_cases.py.
"""

import shutil
import statistics

import live_cases
import live_peers
import tables
from live_stage import Stage, percentile
from machine import first_line
from measure import say
from peers import FLOOR
from servers import Failure
from watchers import Loop, Origin

MARKER = "figures of live"
ROUNDS = 3
SECONDS = 1
PLANNED_SECONDS = 1500
SIZES = {"300 B": 300, "3 kB": 3000}
WARM_UPS = 5
QUICK_WATCHERS, QUICK_PUSHES = 1000, 5
SCENARIOS = ("fan-out", *live_cases.CASES)


def fan_out(place, options):
    """The comparison."""
    everyone, missing = live_peers.all_peers(place, options)
    loop, turns, memory = Loop(), {}, {}
    origin = Origin(loop)
    for number in range(options.rounds):
        for peer in everyone if number % 2 == 0 else reversed(everyone):
            say(f"live: round {number + 1} of {options.rounds}: {peer.name}")
            try:
                turn(Stage(place, peer, options, origin, loop), options, turns, memory)
            except (Failure, OSError) as reason:
                if peer.needed:
                    raise
                missing.append(f"A round of {peer.name} failed, and is not in the table: {reason}.")
    names = [peer.name for peer in everyone if all((case, peer.name) in turns for case in SIZES)]
    text = [fan_out_table(turns, names, memory), *missing, *judged(turns, names)]
    return "\n\n".join(text)


def turn(stage, options, turns, memory):
    """One server's turn: every size of body. It counts if all of it was well."""
    try:
        for size in [300] * WARM_UPS:
            stage.push(size)
        taken = {case: (stage.pushes(options.pushes, size), stage.kilobytes()) for case, size in SIZES.items()}
    finally:
        stage.end()
    for case, (cost, kilobytes) in taken.items():
        turns.setdefault((case, stage.peer.name), []).append(cost)
        memory.setdefault(stage.peer.name, []).append(kilobytes)


def summary(turns):
    """CPU µs for each event: median; p50 and p99 of milliseconds to the last byte."""
    seconds = [each for turn in turns for each in turn.seconds]
    return (statistics.median(turn.microseconds for turn in turns), 1000 * percentile(seconds, 0.5),
            1000 * percentile(seconds, 0.99))


def fan_out_table(turns, names, memory):
    """One line for each body and server."""
    lines = [tables.row("body", "server", "watchers", "CPU µs per event: median", "min", "max", "× bare loop",
                        "× nchan, 1 worker", "last byte ms: p50", "p99", "memory kB per watcher"), tables.rule(2, 9)]
    for place, case in enumerate(SIZES):
        costs = {name: summary(turns[case, name])[0] for name in names}
        for name in names:
            taken = turns[case, name]
            cost, middle, high = summary(taken)
            spread = [turn.microseconds for turn in taken]
            kept = statistics.median(memory[name][place::len(SIZES)])
            lines.append(tables.row(case, name, f"{taken[0].watchers:,}",
                                    *map(tables.microseconds, (cost, min(spread), max(spread))),
                                    tables.ratio(cost, costs[FLOOR]), tables.ratio(cost, costs[live_peers.NCHAN]),
                                    f"{middle:,.0f}", f"{high:,.0f}", f"{kept:.1f}"))
    return "\n".join(lines)


def judged(turns, names):
    """The targets, and what was seen."""
    lines = []
    for case in SIZES:
        seen = {name: summary(turns[case, name]) for name in names}
        ours, two = seen[live_peers.TIDEGATE], seen[live_peers.TIDEGATE_TWO]
        lines += [
            target(f"{case}: p99 of the last byte, two workers, × nchan's with two",
                   two[2] / seen[live_peers.NCHAN_TWO][2], 1),
            target(f"{case}: CPU per event, one worker, × bare loop", ours[0] / seen[FLOOR][0], 1.25),
            target(f"{case}: CPU per event, one worker, × nchan's with one", ours[0] / seen[live_peers.NCHAN][0], 1),
            target(f"{case}: CPU per event, two workers, × nchan's with two",
                   two[0] / seen[live_peers.NCHAN_TWO][0], 1),
        ]
    return ["\n".join(lines)]


def target(what, value, most, unit=""):
    """One target: a figure and whether it is kept."""
    return f"- {what}: {value:,.2f}{unit}, at most {most:g}{unit}: {'met' if value <= most else 'not met'}"


def versions():
    """Of those that this part compares."""
    nchan = first_line("dpkg-query", "-W", "-f", "nchan ${Version}", "libnginx-mod-nchan")
    return [nchan, *([first_line("pushpin", "--version")] if shutil.which("pushpin") else ())]


def setting(options):
    """What there is to say of the run, beside the machine."""
    return (f"{options.rounds} rounds of {options.pushes} pushes for each body, {options.watchers:,} watchers. One worker "
            "has a core, the watchers have the other; two workers, and Pushpin, share both cores with the watchers.")


def compare(place, options):
    """The tables of all scenarios that were asked for."""
    options.watchers = options.watchers or (QUICK_WATCHERS if options.quick else 10_000)
    options.pushes = options.pushes or (QUICK_PUSHES if options.quick else 30)
    chosen = options.scenario or SCENARIOS
    texts = [fan_out(place, options)] if "fan-out" in chosen else []
    lines = []
    for name, case in live_cases.CASES.items():
        if name in chosen:
            say(f"live: {name}")
            lines += [target(*each) for each in case(place, options)]
    return "\n\n".join([*texts, "\n".join(lines)])
