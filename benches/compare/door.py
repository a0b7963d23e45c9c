"""What the front door costs: TLS, HTTP/2, what is passed through, files, WebSockets.

What is decided here: what is asked for in each case, and that it is what was meant (a hit from the cache, a new
handshake, bytes of the file).
"""

import dataclasses
import subprocess
import sys

import peers
import tables
from loads import HERE, Downloads, Echo, H2load, Handshakes, Wrk
from measure import in_turns, json_body, measure
from servers import Failure, StaticOrigin, free_port

MARKER = "figures of the door"
ROUNDS = 3
SECONDS = 2
PLANNED_SECONDS = 600
FILE = 100_000_000
MESSAGE = 64
CLOSE = (("Connection", "close"),)
PROXIES = (peers.NGINX, peers.HAPROXY, peers.VARNISH, peers.TIDEGATE, peers.SILENT)
TLS = (peers.NGINX, peers.HAPROXY, peers.TIDEGATE, peers.SILENT)
FILES = (peers.NGINX, peers.TIDEGATE)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for, by whom, the least bytes of each answer, of which servers; whether the origin is asked too."""

    name: str
    load: object
    size: int
    of: tuple
    passed: bool = False


CASES = (
    Case("TLS 1.3 hit, 300 B", Wrk("/cached/300b.json", scheme="https"), 300, TLS),
    Case("HTTP/2 hit, 300 B", H2load("/cached/300b.json"), 300, TLS),
    Case("full TLS handshake, and a hit", Handshakes("/cached/300b.json"), 300, TLS),
    Case("resumed TLS session, and a hit", Wrk("/cached/300b.json", scheme="https", headers=CLOSE), 300, TLS),
    Case("passed through, 300 B", Wrk("/passed/300b.json"), 300, PROXIES, passed=True),
    Case("passed through, 3 KB", Wrk("/passed/3kb.json"), 3 * 1024, PROXIES, passed=True),
    Case("file, 100 MB", Downloads("/files/large", "http"), FILE, FILES),
    Case("file, 100 MB, TLS", Downloads("/files/large", "https", times_a_second=2), FILE, FILES),
    Case("WebSocket echo, 64 B", Echo("/ws/echo", MESSAGE), MESSAGE, TLS),
)


def certificate(directory):
    """A key and a certificate: ECDSA on P-256, as most have today; apart, and in one file for HAProxy."""
    key, cert, pem = (directory / f"door.{kind}" for kind in ("key", "crt", "pem"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-days", "2", "-subj", "/CN=bench", "-addext", "subjectAltName=DNS:bench", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    pem.write_bytes(cert.read_bytes() + key.read_bytes())
    return {"key": key, "cert": cert, "pem": pem}


def echo_server(place):
    """The application behind the WebSockets; its port."""
    port = free_port()
    echoing = subprocess.Popen(["taskset", "-c", place.load_core, sys.executable, "-B", str(HERE / "echo.py"), "serve",
                                str(port)])
    place.stack.callback(echoing.wait)
    place.stack.callback(echoing.terminate)
    return port


def start_servers(place, options):
    """The origin and the servers that are compared, in the table's order; all end with the stack."""
    origin = place.up(StaticOrigin({f"{name}.json": json_body(size) for name, size in (("300b", 300), ("3kb", 3072))},
                                   place.directory, place.load_core))
    # The same documents under the paths of each case.
    for prefix in ("cached", "passed"):
        (origin.data / prefix).symlink_to(".")
    files = place.directory / "files"
    files.mkdir()
    (files / "large").write_bytes(bytes(FILE))
    common = {"origin": origin.port, "echo": echo_server(place), "files": files, "connections": options.connections,
              **certificate(place.directory)}
    servers = [
        peers.nginx(place, "door", **common),
        peers.haproxy(place, "door", **common),
        peers.varnish(place, origin=origin.port),
        *(peers.tidegate(place, options, "door", records, **common) for records in (True, False)),
    ]
    servers = [place.up(server) for server in servers]
    for server in servers:
        fill(server, origin)
    return origin, servers


def fill(server, origin):
    """Has the cached documents in the cache, and makes sure of it.

    Some keep an answer for each scheme and host: it is asked for in both ways.
    """
    for _ in range(2):
        before = origin.requests()
        for path in ("/cached/300b.json", "/cached/3kb.json"):
            status, _, body = server.get(path)
            if status != 200 or len(body) < 300:
                raise Failure(f"{server.name}: {path}: status {status}, {len(body)} bytes")
            if server.name not in TLS:
                continue
            host = f"127.0.0.1:{server.ports['https']}"
            answer = server.get_by_tls(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
            if b" 200 " not in answer[:13] or len(answer) < 300:
                raise Failure(f"{server.name}: {path} by TLS: {answer[:100]}")
    if origin.requests() != before:
        raise Failure(f"{server.name}: /cached/ does not come from its cache")


def compare(place, options):
    """The table."""
    origin, servers = start_servers(place, options)

    def one(case, server, seconds):
        what, asked = f"{server.name}, {case.name}", origin.requests()
        count, result = measure(server, what, case.load, case.size, options, place.load_core, seconds)
        asked = origin.requests() - asked
        if asked < count if case.passed else asked:
            raise Failure(f"{what}: {count} answers, and the origin was asked {asked} times")
        return result

    plan = [(case, server) for case in CASES for server in servers if server.name in case.of]
    rounds = in_turns("door", plan, options, one)
    return tables.costs(rounds, CASES, [server.name for server in servers], {"× best peer": tables.best_peer})
