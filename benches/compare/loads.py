"""Those who ask: each runs for some seconds against one server and tells what it counted.

What is decided here: how a program is told what to ask for, and how its counts are read. Never: what they are worth
(that is measure.py's).
"""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

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

    def run(self, server, options, seconds, load_core):
        """Load for some seconds; what wrk counted."""
        command = [program("wrk"), "-t1", f"-c{options.connections}", f"-d{seconds}s",
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
