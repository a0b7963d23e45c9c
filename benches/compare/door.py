"""What the front door costs beside nginx's: TLS, HTTP/2, what is passed through, files, WebSockets.

What is decided here: what is asked for in each case, and that it is what was meant (a hit from the cache, a new
handshake, bytes of the file).
"""

import dataclasses
import subprocess
import sys

from loads import HERE, Downloads, Echo, H2load, Wrk
from measure import json_body, measure, say
from servers import Failure, Nginx, Server, StaticOrigin, free_port, program

BASES = {"× nginx": "nginx"}
SERVERS = 3
WARM_UP_SECONDS = 1
# A file is downloaded so many times in a round, however long that takes.
FILE_SECONDS = 30
FILE = 100_000_000
MESSAGE = 64


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for, by whom, and the least bytes of each answer; whether the origin is asked each time."""

    name: str
    load: object
    size: int
    passed: bool = False


CASES = (
    Case("TLS hit, 300 B", Wrk("/cached/300b.json", scheme="https"), 300),
    Case("TLS hit, 3 KB", Wrk("/cached/3kb.json", scheme="https"), 3 * 1024),
    Case("TLS handshake and hit", Wrk("/cached/300b.json", scheme="https", headers=(("Connection", "close"),)), 300),
    Case("HTTP/2 hit, 300 B", H2load("/cached/300b.json"), 300),
    Case("passed through, 300 B", Wrk("/passed/300b.json"), 300, passed=True),
    Case("passed through, 3 KB", Wrk("/passed/3kb.json"), 3 * 1024, passed=True),
    Case("file, 100 MB", Downloads("/files/large", "http"), FILE),
    Case("file, 100 MB, TLS", Downloads("/files/large", "https", times_a_second=2), FILE),
    Case("WebSocket echo, 64 B", Echo("/ws/echo", MESSAGE), MESSAGE),
)


def planned_seconds(options):
    """How long all rounds take."""
    return ((options.rounds * options.seconds + WARM_UP_SECONDS) * len(CASES) + FILE_SECONDS * options.rounds) * SERVERS


def certificate(directory):
    """A key and a certificate of its own: ECDSA on P-256, as most have today."""
    key, cert = directory / "door.key", directory / "door.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-days", "2", "-subj", "/CN=bench", "-addext", "subjectAltName=DNS:bench", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return {"key": key, "cert": cert}


def start_servers(stack, options, directory, core, load_core):
    """The origins and the servers that are compared, in the table's order; all end with the stack."""

    def up(server):
        stack.callback(server.stop)
        server.wait_until_ready()
        return server

    bodies = {name: json_body(size) for name, size in (("300b.json", 300), ("3kb.json", 3 * 1024))}
    origin = up(StaticOrigin(bodies, directory, load_core))
    # The same documents under the paths of each case.
    data = origin.directory.parent.parent / "data"
    for prefix in ("cached", "passed"):
        (data / prefix).symlink_to(".")
    large = directory / "files"
    large.mkdir()
    (large / "large").write_bytes(bytes(FILE))
    echo = free_port()
    echoing = subprocess.Popen(["taskset", "-c", str(load_core), sys.executable, "-B", str(HERE / "echo.py"), "serve",
                                str(echo)])
    stack.callback(echoing.wait)
    stack.callback(echoing.terminate)
    common = {"directory": directory, "core": core, "origin": origin.port, "echo": echo, "files": large,
              "connections": options.connections, **certificate(directory)}
    servers = [up(Nginx("nginx", "nginx-door.conf", **common))]
    if options.tidegate:
        command = [str(options.tidegate), "run", "--config", "{config}"]
        servers.append(up(Server("Tidegate", command, "tidegate-door.toml", records="true", **common)))
        servers.append(up(Server("Tidegate, no records", command, "tidegate-door.toml", records="false", **common)))
    return origin, servers


def compare(stack, options, directory, core, load_core):
    """All rounds, and the servers' names in the table's order; cases and servers take turns."""
    origin, servers = start_servers(stack, options, directory, core, load_core)
    for server in servers:
        for path in ("/cached/300b.json", "/cached/3kb.json"):
            status, _, body = server.get(path)
            if status != 200 or len(body) < 300:
                raise Failure(f"{server.name}: {path}: status {status}, {len(body)} bytes")
    plan = [(case, server) for case in CASES for server in servers]
    rounds = {(case, server.name): [] for case, server in plan}
    for number in range(options.rounds + 1):
        say(f"door: round {number} of {options.rounds}" if number else "door: warming up")
        for case, server in plan if number % 2 else reversed(plan):
            seconds = options.seconds if number else WARM_UP_SECONDS
            what, asked = f"{server.name}, {case.name}", origin.requests()
            count, result = measure(server, what, case.load, case.size, options, load_core, seconds)
            asked = origin.requests() - asked
            if asked < count if case.passed else asked:
                raise Failure(f"{what}: {count} answers, and the origin was asked {asked} times")
            if number:
                rounds[case, server.name].append(result)
    return rounds, [server.name for server in servers]
