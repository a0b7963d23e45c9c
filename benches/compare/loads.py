"""Those who ask: each runs for some seconds against one server and tells what it counted.

What is decided here: how a program is told what to ask for, and how its counts are read. Never: what they are worth
(that is measure.py's).
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import sqlite3
import subprocess
import sys
import time

from servers import Failure, program

HERE = pathlib.Path(__file__).parent
# How long a load may take beyond its time.
GRACE_SECONDS = 15


def run(command, seconds, load_core):
    """What a program of the load said, on its core."""
    # A script of wrk's loads another one from the working directory.
    ran = subprocess.run(["taskset", "-c", str(load_core), *command], capture_output=True, text=True,
                         timeout=seconds + GRACE_SECONDS, check=False, cwd=HERE)
    if ran.returncode != 0:
        raise Failure(f"{command[0]}: {ran.stdout}{ran.stderr}")
    return ran.stdout


@dataclasses.dataclass(frozen=True)
class Wrk:
    """HTTP/1.1 by wrk: the script beside this file, its arguments, the headers of each request."""

    path: str
    script: str = "summary.lua"
    arguments: tuple = ()
    headers: tuple = ()
    scheme: str = "http"
    connections: int = 0

    def run(self, server, options, seconds, load_core):
        """Load for some seconds; what wrk counted."""
        command = [program("wrk"), "-t1", f"-c{self.connections or options.connections}", f"-d{seconds}s",
                   "-s", str(HERE / self.script)]
        for name, value in self.headers:
            command += ["-H", f"{name}: {value}"]
        command += [f"{self.scheme}://127.0.0.1:{server.ports[self.scheme]}{self.path}", *self.arguments]
        return json.loads(run(command, seconds, load_core).splitlines()[-1])


@dataclasses.dataclass(frozen=True)
class H2load:
    """HTTP/2 over TLS by h2load, ten requests at a time on each connection."""

    path: str

    def run(self, server, options, seconds, load_core):
        """Load for some seconds; what h2load counted."""
        command = [program("h2load"), "-t1", f"-c{options.connections}", "-m10", f"-D{seconds}",
                   f"https://127.0.0.1:{server.ports['https']}{self.path}"]
        said = run(command, seconds, load_core)
        statuses = list(map(int, re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said).groups()))
        failed = int(re.search(r"(\d+) failed", said)[1])
        data = re.search(r"\((\d+)\) headers.*\((\d+)\) data", said)
        if "Application protocol: h2" not in said:
            raise Failure(f"{server.name}: no HTTP/2: {said}")
        return {"requests": statuses[0], "bytes": sum(map(int, data.groups())), "microseconds": seconds * 1_000_000,
                "bad_status": sum(statuses[1:]), "socket_errors": failed}


@dataclasses.dataclass(frozen=True)
class Handshakes:
    """Full TLS handshakes by `openssl s_time`, each with one request on it; wrk would resume sessions.

    Several take turns on the core of the load, for each of them has one connection at a time.
    """

    path: str
    processes: int = 4

    def run(self, server, options, seconds, load_core):
        """Handshakes for some seconds; each counts as a request."""
        here = f"127.0.0.1:{server.ports['https']}"
        # It writes "GET PATH HTTP/1.0": the path brings the rest of a request of today, and a field for the remainder.
        path = f"{self.path} HTTP/1.1\r\nHost: {here}\r\nConnection: close\r\nX-Rest:"
        command = ["taskset", "-c", str(load_core), program("openssl"), "s_time", "-new", "-time", str(seconds),
                   "-connect", here, "-www", path]
        began = time.monotonic()
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                   for _ in range(self.processes)]
        counts = []
        for each in running:
            said, _ = each.communicate(timeout=seconds * 2 + GRACE_SECONDS)
            found = re.search(r"^(\d+) connections in \d+ real seconds, (\d+) bytes read per connection", said, re.M)
            if each.returncode != 0 or not found:
                raise Failure(f"{server.name}: openssl s_time: {said[-500:]}")
            counts.append((int(found[1]), int(found[2])))
        return {"requests": sum(count for count, _ in counts), "bytes": sum(count * size for count, size in counts),
                "microseconds": round((time.monotonic() - began) * 1e6), "bad_status": 0, "socket_errors": 0}


@dataclasses.dataclass(frozen=True)
class Oha:
    """A fixed rate by oha: a request that is due is waited for from when it was due, not from when it was sent."""

    path: str
    rate: int
    scheme: str = "http"
    http2: bool = False

    def run(self, server, options, seconds, load_core):
        """Load for some seconds; when each request was due, how long it took (both in seconds), status and size."""
        file = server.directory / "requests"
        file.unlink(missing_ok=True)
        command = [program("oha"), "--no-tui", "--output-format", "quiet", "--latency-correction", "-w", "--insecure",
                   "-z", f"{seconds}s", "-q", str(self.rate), "-c", str(options.connections), "--disable-compression",
                   "--db-url", str(file)]
        command += ["--http2", "-p", "10"] if self.http2 else []
        command.append(f"{self.scheme}://127.0.0.1:{server.ports[self.scheme]}{self.path}")
        run(command, seconds, load_core)
        with contextlib.closing(sqlite3.connect(file)) as kept:
            return kept.execute("SELECT start_latency_correction, duration, status, len_bytes FROM oha").fetchall()


@dataclasses.dataclass(frozen=True)
class Pace:
    """A fixed rate that oha can't keep, by a loop of our own (`benches/floor`): HTTP/1.1 without TLS."""

    path: str
    rate: int
    size: int

    def run(self, server, options, seconds, load_core):
        """Load for some seconds; how many requests were due, answered, answered wrongly, and percentiles in µs."""
        command = [str(options.floor.resolve().with_name("pace")), str(server.ports["http"]), self.path, str(self.rate),
                   str(seconds), str(options.connections), str(self.size)]
        return json.loads(run(command, seconds, load_core))


@dataclasses.dataclass(frozen=True)
class Downloads:
    """A large file by curl, again and again on one connection; as many times as take about a second each."""

    path: str
    scheme: str
    times_a_second: int = 8

    def run(self, server, options, seconds, load_core):
        """A number of downloads; each counts as a request."""
        times = self.times_a_second * seconds
        url = f"{self.scheme}://127.0.0.1:{server.ports[self.scheme]}{self.path}?[1-{times}]"
        command = [program("curl"), "--silent", "--fail", "--insecure", "--http1.1", "--output", "/dev/null",
                   "--write-out", "%{size_download} %{time_total}\n", url]
        lines = [line.split() for line in run(command, 20 * seconds, load_core).splitlines()]
        return {"requests": len(lines), "bytes": sum(int(size) for size, _ in lines),
                "microseconds": round(1e6 * sum(float(took) for _, took in lines)),
                "bad_status": times - len(lines), "socket_errors": 0}


@dataclasses.dataclass(frozen=True)
class Echo:
    """WebSocket messages, each sent when the one before has come back; a message counts as a request."""

    path: str
    size: int

    def run(self, server, options, seconds, load_core):
        """Load for some seconds; what it counted."""
        command = [sys.executable, "-B", str(HERE / "echo.py"), "load", str(server.ports["http"]), self.path,
                   str(options.connections), str(self.size), str(seconds)]
        return json.loads(run(command, seconds, load_core).splitlines()[-1])
