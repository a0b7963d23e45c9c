#!/usr/bin/env python3
"""What a cache hit costs: Tidegate, nginx and HAProxy side by side, in one run on one machine.

The measure is the server's CPU time per request, because it holds still where rates don't: on a shared machine
rates move by a fifth, and the load generator often saturates before the server. Figures of different runs
or machines are not comparable; the ratio to nginx within one run is what to look at. docs/benchmarks.md
tells the method.

A run fails, and prints no table, if an answer was wrong, failed or came from the origin while measured.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile

from servers import Failure, Nginx, Origin, Server, program

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
FILES = {f"/{name}.json": size for name, size in (("300b", 300), ("3kb", 3 * 1024), ("64kb", 64 * 1024))}
SERVERS = 4
WARM_UP_SECONDS = 1
# What surrounds a body: below this an answer can't hold the 3 KB body, so it is a 304.
LARGEST_HEAD = 1024


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for."""

    name: str
    path: str
    conditional: bool = False

    def bytes_per_answer(self):
        """The smallest and largest mean that this case's answers can have."""
        body = 0 if self.conditional else FILES[self.path]
        return body, body + LARGEST_HEAD


CASES = (
    Case("300 B", "/300b.json"),
    Case("3 KB", "/3kb.json"),
    Case("64 KB", "/64kb.json"),
    Case("304 (3 KB)", "/3kb.json", conditional=True),
)


@dataclasses.dataclass(frozen=True)
class Round:
    """One server under one case for some seconds."""

    microseconds: float
    rate: float
    busy: float


def json_body(size):
    """A JSON document of exactly so many bytes."""
    rows = []
    while len(json.dumps(rows)) < size - 60:
        rows.append({"id": len(rows), "tenant": "acme", "value": 17 * len(rows) % 1009})
    text = json.dumps(rows)
    return (text + " " * (size - len(text))).encode()


def pick_cores():
    """One core for the servers, one for the load, on different physical cores where there are such."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Failure("two cores are needed: one for the server, one for the load")
    siblings = pathlib.Path(f"/sys/devices/system/cpu/cpu{allowed[0]}/topology/thread_siblings_list")
    shared = cpu_list(siblings.read_text()) if siblings.exists() else set()
    apart = [core for core in allowed[1:] if core not in shared]
    return allowed[0], (apart or allowed[1:])[0], not apart


def cpu_list(text):
    """`0-1,4` as a set."""
    spans = (part.split("-") for part in text.strip().split(","))
    return {core for span in spans for core in range(int(span[0]), int(span[-1]) + 1)}


def can_run(tidegate):
    """Whether there is a Tidegate with the command this comparison needs."""
    if not os.access(tidegate, os.X_OK):
        return False
    asked = subprocess.run([tidegate, "run", "--help"], capture_output=True, text=True, timeout=10, check=False)
    return asked.returncode == 0 and "--config" in asked.stdout


def start_servers(stack, options, directory, cores):
    """The origin and the servers that are compared, in the table's order; all end with the stack."""
    core, load_core = cores

    def up(server):
        stack.callback(server.stop)
        server.wait_until_ready()
        return server

    files = {path: json_body(size) for path, size in FILES.items()}
    origin = up(Origin(files, directory, load_core))
    common = {"directory": directory, "core": core, "origin": origin.port}
    servers = [
        up(Nginx("nginx", "nginx.conf", sendfile="off", **common)),
        up(Nginx("nginx, sendfile", "nginx.conf", sendfile="on", **common)),
        up(Server("HAProxy", [program("haproxy"), "-db", "-f", "{config}"], "haproxy.cfg", **common)),
    ]
    if can_run(options.tidegate):
        command = [str(options.tidegate), "run", "--config", "{config}"]
        servers.append(up(Server("Tidegate", command, "tidegate.toml", records="true", **common)))
        servers.append(up(Server("Tidegate, no records", command, "tidegate.toml", records="false", **common)))
    else:
        say(f"Tidegate is left out: {options.tidegate} is not there or has no `run --config`")
    return origin, servers


def prepare(server, case, origin):
    """Fills the cache and makes sure that it answers; gives the request headers of the case.

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
    return headers


def wrk(server, case, headers, options, seconds, load_core):
    """Load for some seconds; what wrk counted."""
    command = ["taskset", "-c", str(load_core), program("wrk"), "-t1", f"-c{options.connections}",
               f"-d{seconds}s", "-s", str(HERE / "summary.lua")]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    command.append(f"http://127.0.0.1:{server.port}{case.path}")
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 15, check=False)
    if ran.returncode != 0:
        raise Failure(f"wrk: {ran.stdout}{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def measure(server, case, headers, origin, options, load_core, seconds):
    """One round, checked."""
    asked, before = origin.requests(), server.cpu()
    counted = wrk(server, case, headers, options, seconds, load_core)
    after = server.cpu()
    what = f"{server.name}, {case.name}"
    if counted["bad_status"] or counted["socket_errors"] or not counted["requests"]:
        raise Failure(f"{what}: {counted}")
    smallest, largest = case.bytes_per_answer()
    if not smallest < counted["bytes"] / counted["requests"] < largest:
        raise Failure(f"{what}: {counted['bytes'] / counted['requests']:.0f} bytes per answer")
    if origin.requests() != asked:
        raise Failure(f"{what}: the origin was asked {origin.requests() - asked} times")
    # nginx's cache loader ends as a whole process after a minute; it takes no part in a request.
    alive = {pid for pid, _ in after}
    if any(pid in alive for pid, _ in before.keys() - after.keys()):
        raise Failure(f"{what}: a thread ended while measured and took its CPU time with it")
    nanoseconds = sum(used - before.get(thread, 0) for thread, used in after.items())
    return Round(
        microseconds=nanoseconds / 1e3 / counted["requests"],
        rate=counted["requests"] / counted["microseconds"] * 1e6,
        busy=nanoseconds / 1e3 / counted["microseconds"],
    )


def compare(origin, servers, options, load_core):
    """All rounds: cases and servers take turns, so that what disturbs the machine disturbs all."""
    plan = []
    for case in CASES:
        for server in servers:
            headers = prepare(server, case, origin)
            if headers is not None:
                plan.append((case, server, headers))
    rounds = {(case, server): [] for case, server, _ in plan}
    for number in range(options.rounds + 1):
        say(f"round {number} of {options.rounds}" if number else "warming up")
        for case, server, headers in plan if number % 2 else reversed(plan):
            seconds = options.seconds if number else WARM_UP_SECONDS
            result = measure(server, case, headers, origin, options, load_core, seconds)
            if number:
                rounds[case, server].append(result)
    return rounds


def table(rounds, servers):
    """The figures as Markdown."""
    lines = [
        "| answer | server | CPU µs per request: median | min | max | × nginx | requests/s | core busy |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case in CASES:
        medians = {server: statistics.median(r.microseconds for r in rounds[case, server])
                   for server in servers if (case, server) in rounds}
        base = medians.get(servers[0])
        for server in servers:
            if server not in medians:
                lines.append(f"| {case.name} | {server.name} | – | – | – | – | – | – |")
                continue
            taken = rounds[case, server]
            spent = [r.microseconds for r in taken]
            ratio = f"{medians[server] / base:.2f}" if base else "–"
            lines.append(
                f"| {case.name} | {server.name} | {medians[server]:.2f} | {min(spent):.2f} | {max(spent):.2f} "
                f"| {ratio} | {statistics.median(r.rate for r in taken):,.0f} "
                f"| {statistics.median(r.busy for r in taken):.0%} |")
    return "\n".join(lines)


def first_line(*command):
    """What a program says of its version; some say it on stderr, wrk with exit 1."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return ((ran.stdout or ran.stderr).strip() or "unknown").splitlines()[0]


def circumstances(options, servers, same_core):
    """When, what and on what."""
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
               platform.machine())
    revision = first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    versions = [
        first_line(program("nginx"), "-v").removeprefix("nginx version: "),
        first_line(program("haproxy"), "-v").split(" 20")[0],
        first_line(program("wrk"), "-v").split(" [")[0],
    ]
    if any(server.name.startswith("Tidegate") for server in servers):
        versions.append(f"Tidegate {revision}")
    apart = "two threads of one physical core: compare with care" if same_core else "one core each"
    return (f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC; {cpu}, Linux {platform.release()}; "
            f"{'; '.join(versions)}. {options.rounds} rounds of {options.seconds} s, {options.connections} "
            f"connections, HTTP/1.1 keep-alive; server and load on {apart}.")


def keep(text, options):
    """Into bench-results/, and into a document between its markers where one is named."""
    results = ROOT / "bench-results"
    results.mkdir(exist_ok=True)
    file = results / f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}.md"
    file.write_text(text + "\n")
    say(f"kept in {file.relative_to(ROOT)}")
    if options.into:
        start, end = "<!-- figures -->", "<!-- end of figures -->"
        before, _, rest = options.into.read_text().partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise Failure(f"{options.into} has no {start} … {end}")
        options.into.write_text(f"{before}{start}\n{text}\n{end}{after}")


def say(text):
    """To the person who waits; stdout is for the table alone."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def end_on_signals(seconds):
    """Any signal that would end the run unwinds it instead, so that what was started is stopped."""

    def unwind(number, _frame):
        ignore_signals()
        raise Failure("it took too long" if number == signal.SIGALRM else f"ended by signal {number}")

    for each in ENDING:
        signal.signal(each, unwind)
    signal.alarm(seconds)


def ignore_signals():
    """From here on the run ends anyway: nothing may keep it from stopping its servers."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)


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
    parser.add_argument("--into", type=pathlib.Path, help="a document to put the table into, between its markers")
    return parser.parse_args()


def run(options):
    """The whole comparison; whatever it started has ended when it returns or raises."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    core, load_core, same_core = pick_cores()
    os.sched_setaffinity(0, {load_core})
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory, prefix="bench-")))
        try:
            origin, servers = start_servers(stack, options, directory, (core, load_core))
            rounds = compare(origin, servers, options, load_core)
        finally:
            ignore_signals()
    return f"{circumstances(options, servers, same_core)}\n\n{table(rounds, servers)}"


def main():
    """Exit 0 with a table, or 1 with a reason."""
    options = arguments()
    planned = (options.rounds * options.seconds + WARM_UP_SECONDS) * len(CASES) * SERVERS
    end_on_signals(planned * 2 + 60)
    try:
        text = run(options)
        print(text)
        keep(text, options)
    except (Failure, subprocess.TimeoutExpired) as reason:
        say(f"failed: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
