#!/usr/bin/env python3
"""How many instructions a request takes, compared with the count on record.

The release binary runs under valgrind, with one worker and one client on one connection. A base run answers some
requests of each kind; then, for each kind, a run like it answers many more of this kind, and the difference divided
by their number is the figure. Start, warm-up and shutdown cancel out.

Unlike times, counts hold still on a busy machine; they change with the compiler, so that the record names it, and
with another compiler a difference is told but fails nothing. What the kernel does is not counted.
"""

import argparse
import http.server
import json
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
RECORD = HERE / "recorded.json"
# How far a count may be from the one on record, either way: what became cheaper should be put on record too.
TOLERANCE = 0.03
# Requests of each kind in every run, and how many more of one kind in its own: a few hundred of the dear ones do.
WARM_UP = 200
MORE = {"hit": 2000, "not modified": 2000, "miss": 300, "proxied": 300}
READY_SECONDS = 60
BODY = b"x" * 300


class Origin(http.server.BaseHTTPRequestHandler):
    """The same small answer for everything."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        self.send_response_only(200)
        for name, value in (("Content-Type", "application/json"), ("Cache-Control", "max-age=3600"),
                            ("ETag", '"one"'), ("Content-Length", str(len(BODY)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(BODY)

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        """Says nothing."""


class Client:
    """One connection; each request is sent when the one before is answered."""

    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tag, self._missed = None, 0

    def ask(self, kind):
        """One request of a kind; its answer is checked."""
        path, condition, want = "/hit", "", (b"200", len(BODY), b"; hit")
        if kind == "not modified":
            condition, want = f"If-None-Match: {self._tag}\r\n", (b"304", 0, b"; hit")
        elif kind == "miss":
            self._missed += 1
            path, want = f"/miss/{self._missed:08}", (b"200", len(BODY), b"fwd=uri-miss")
        elif kind == "proxied":
            path, want = "/proxied", (b"200", len(BODY), b"fwd=bypass")
        head, body = self._exchange(f"GET {path} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: count\r\n"
                                    f"Accept: */*\r\n{condition}\r\n".encode(), want[0] == b"304")
        if (head[9:12], len(body)) != want[:2] or want[2] not in head:
            raise SystemExit(f"{kind}: not the answer that was meant: {head.decode(errors='replace')}")

    def fill(self):
        """Puts the hit into the cache and keeps its tag."""
        head, _ = self._exchange(b"GET /hit HTTP/1.1\r\nHost: bench.example\r\n\r\n", False)
        self._tag = re.search(rb"\r\netag: (\S+)", head, re.I)[1].decode()

    def _exchange(self, request, bare):
        self._socket.sendall(request)
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += self._more()
        head, _, body = seen.partition(b"\r\n\r\n")
        length = 0 if bare else int(re.search(rb"\r\ncontent-length: (\d+)", head, re.I)[1])
        while len(body) < length:
            body += self._more()
        return head, body

    def _more(self):
        if not (more := self._socket.recv(65536)):
            raise SystemExit("the gateway closed the connection")
        return more


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def instructions(tidegate, origin, directory, more):
    """All instructions of a run with some requests of each kind, and many more of one of them, if one is named."""
    port = free_port()
    config = directory / "tidegate.toml"
    template = (HERE / "tidegate.toml").read_text()
    config.write_text(template.replace("@PORT@", str(port)).replace("@ORIGIN@", str(origin)))
    said = directory / "said"
    with said.open("wb") as output:
        running = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
             str(tidegate), "run", "--config", str(config)],
            stdout=output, stderr=output)
    try:
        until_ready(port, running, said)
        client = Client(port)
        client.fill()
        for kind in MORE:
            for _ in range(WARM_UP + (MORE[kind] if kind == more else 0)):
                client.ask(kind)
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
    text = said.read_text(errors="replace")
    if running.returncode != 0 or not (found := re.search(r"Collected : (\d+)", text)):
        raise SystemExit(f"no count; the gateway ended with {running.returncode}:\n{text[-2000:]}")
    return int(found[1])


def until_ready(port, running, said):
    """Returns once the gateway listens."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the gateway did not come up:\n{said.read_text(errors='replace')[-2000:]}")


def count(tidegate):
    """Instructions per request, by kind."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as directory:
        once = lambda more: instructions(tidegate, server.server_port, pathlib.Path(directory), more)
        base = once(None)
        return {kind: round((once(kind) - base) / number) for kind, number in MORE.items()}


def first_line(*command):
    """What a program says of its version."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]


def circumstances():
    """What a count depends on beside the source."""
    return {"rustc": first_line("rustc", "--version"), "valgrind": first_line("valgrind", "--version"),
            "machine": platform.machine()}


def compare(counted, here):
    """Prints each count beside the one on record; whether all are near enough to it."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"with": "nothing", "instructions": {}}
    same = record["with"] == here
    near = True
    for kind, value in counted.items():
        was = record["instructions"].get(kind)
        far = was is None or abs(value / was - 1) > TOLERANCE
        near &= not far
        beside = f"on record {was:8,}   {value / was - 1:+.1%}{'  !' if far else ''}" if was else "not on record"
        print(f"instructions: {kind:12} {value:8,}   {beside}")
    if not same:
        print(f"instructions: the record is of {record['with']}, this is {here}: told, but not judged")
    elif not near:
        print(f"instructions: more than {TOLERANCE:.0%} from the record; if that is meant: make instructions RECORD=1")
    return near or not same


def main():
    """Exit 0 where the counts are near those on record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tidegate", type=pathlib.Path, required=True)
    parser.add_argument("--record", action="store_true", help="put the counts on record instead of comparing")
    options = parser.parse_args()
    counted, here = count(options.tidegate), circumstances()
    near = compare(counted, here)
    if options.record:
        RECORD.write_text(json.dumps({"with": here, "instructions": counted}, indent=2) + "\n")
        return 0
    return 0 if near else 1


if __name__ == "__main__":
    sys.exit(main())
