#!/usr/bin/env python3
"""What an entry in the cache and an idle connection take in memory.

The measure is the growth of the process's own memory (`RssAnon`) divided by how many were added, a thousand entries or
two hundred connections after the start; of an entry without its body. Decides nothing; prints a table. Every answer is
looked at: what is counted was answered, and is in the cache.

`measure(options)` is what a larger comparison calls: it returns the table's rows.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

CONFIG = """
[server]
threads = 2
keepalive = "600s"
keepalive_requests = 0
max_connections_per_address = 100000
[[listener]]
address = "127.0.0.1:{plain}"
http2 = true
[[listener]]
address = "127.0.0.1:{tls}"
certificates = [{{ cert = "{directory}/cert.pem", key = "{directory}/key.pem" }}]
[admin]
address = "127.0.0.1:{admin}"
[log]
access = false
[store]
memory = "8GiB"
[[origin]]
name = "app"
servers = "http://127.0.0.1:{origin}"
[[route]]
path = "/versioned/*"
origin = "app"
cache = {{ namespace = "kpi", scope = "public", ttl = "1h" }}
[[route]]
path = "/followed/*"
origin = "app"
cache = "origin"
[[route]]
path = "/ws"
origin = "app"
websocket = {{ idle_timeout = "600s" }}
"""
# What a small application says of an answer.
FIELDS = "Content-Type: application/json\r\nServer: app\r\nDate: {date}\r\nCache-Control: max-age=3600\r\n"
WARM_ENTRIES, WARM_CONNECTIONS = 1_000, 200
CLIENTS = 16
SETTLE = 1.5
READY = 20
HEAD_END = b"\r\n\r\n"


def free_port():
    """A port on the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Origin(asyncio.Protocol):
    """Answers `/…/<bytes>/<anything>` with that many bytes, and opens WebSockets."""

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while HEAD_END in self.buffer:
            head, _, self.buffer = self.buffer.partition(HEAD_END)
            path = head.split(b" ", 2)[1].decode()
            if path == "/ws":
                # RFC 6455, 1.3: the answer to the key that the clients below send.
                self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                     b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
                return
            size = int(path.split("/")[2])
            date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
            fields = FIELDS.format(date=date) + f"Content-Length: {size}\r\n\r\n"
            self.transport.write(b"HTTP/1.1 200 OK\r\n" + fields.encode() + b"x" * size)


class Tidegate:
    """A gateway, and what it says of itself."""

    def __init__(self, program, directory, origin):
        self.ports = {"plain": free_port(), "tls": free_port(), "admin": free_port()}
        key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
               "-subj", "/CN=bench", "-addext", "subjectAltName=DNS:bench",
               "-keyout", f"{directory}/key.pem", "-out", f"{directory}/cert.pem"]
        subprocess.run(key, check=True, capture_output=True, timeout=30)
        file = pathlib.Path(directory) / "tidegate.toml"
        file.write_text(CONFIG.format(directory=directory, origin=origin, **self.ports))
        self.errors = pathlib.Path(directory) / "stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen([program, "run", "--config", file], stderr=errors)

    async def ready(self):
        """Waits until it answers."""
        end = time.monotonic() + READY
        while True:
            with contextlib.suppress(OSError):
                return await asyncio.to_thread(self.admin, "/readyz")
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"the gateway does not start:\n{self.errors.read_text()}")
            await asyncio.sleep(0.05)

    def admin(self, path):
        """A page of the admin listener."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}{path}", timeout=10) as answer:
            return answer.read().decode()

    def entries(self):
        """How many entries are in memory."""
        line = next(line for line in self.admin("/metrics").splitlines() if line.startswith("tidegate_memory_entries "))
        return int(float(line.split()[1]))

    def memory(self):
        """Bytes of its own."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))

    def stop(self):
        """Ends it."""
        self.process.kill()
        self.process.wait()


@contextlib.asynccontextmanager
async def gateway(program):
    """A fresh gateway with an origin behind it."""
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as directory:
        tidegate = Tidegate(program, directory, server.sockets[0].getsockname()[1])
        try:
            await tidegate.ready()
            yield tidegate
        finally:
            tidegate.stop()
            server.close()


async def ask(reader, writer, path, size):
    """One request for a known answer."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: bench.example\r\n\r\n".encode())
    head = await reader.readuntil(HEAD_END)
    if not head.startswith(b"HTTP/1.1 200"):
        sys.exit(f"{path}: {head.decode()}")
    await reader.readexactly(size)


async def ask_all(port, paths, size):
    """All of them, over some connections."""
    async def client(mine):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path in mine:
            await ask(reader, writer, path, size)
        writer.close()
    await asyncio.gather(*(client(paths[n::CLIENTS]) for n in range(CLIENTS)))


async def entry_bytes(program, route, size, count):
    """Bytes beside its body that an entry takes: after its fill, and after it was asked for twice more."""
    async with gateway(program) as tidegate:
        def paths(begin, end):
            return [f"/{route}/{size}/{n:08}" for n in range(begin, end)]
        port = tidegate.ports["plain"]
        await ask_all(port, paths(0, WARM_ENTRIES), size)
        for _ in range(2):
            await ask_all(port, paths(0, WARM_ENTRIES), size)
        await asyncio.sleep(SETTLE)
        before = tidegate.memory()
        total = WARM_ENTRIES + count
        await ask_all(port, paths(WARM_ENTRIES, total), size)
        await asyncio.sleep(SETTLE)
        filled = tidegate.memory()
        for _ in range(2):
            await ask_all(port, paths(WARM_ENTRIES, total), size)
        await asyncio.sleep(SETTLE)
        asked = tidegate.memory()
        if (held := await asyncio.to_thread(tidegate.entries)) != total:
            sys.exit(f"{held} entries are in memory, not {total}")
        return [(after - before) / count - size for after in (filled, asked)]


def tls_of(protocol):
    """A client's side of TLS that believes every certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


def frame(kind, flags, stream, payload):
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(index, value):
    """A field of HPACK whose name is in the static table, not indexed."""
    return bytes([index, len(value)]) + value


async def h1(tidegate, path, tls=None):
    """A connection that has had an answer."""
    port = tidegate.ports["tls" if tls else "plain"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="bench" if tls else None)
    await ask(reader, writer, path, int(path.split("/")[2]))
    return writer


async def h2(tidegate, path, tls=None):
    """The same of HTTP/2."""
    port = tidegate.ports["tls" if tls else "plain"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="bench" if tls else None)
    head = b"\x82" + (b"\x87" if tls else b"\x86") + field(0x04, path.encode()) + field(0x01, b"bench")
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 5, 1, head))
    ended = False
    while not ended:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        kind, flags = head[3], head[4]
        if kind in (3, 7):
            sys.exit("HTTP/2: the request was refused")
        if kind == 4 and not flags & 1:
            writer.write(frame(4, 1, 0, b""))
        ended = kind in (0, 1) and flags & 1
    return writer


async def websocket(tidegate, _path):
    """A WebSocket that is open and has said nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", tidegate.ports["plain"])
    writer.write(b"GET /ws HTTP/1.1\r\nHost: bench.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    head = await reader.readuntil(HEAD_END)
    if not head.startswith(b"HTTP/1.1 101"):
        sys.exit(f"WebSocket: {head.decode()}")
    return writer


HIT, PASSED = "/versioned/300/x", "/followed/300/x"
KINDS = {
    "HTTP/1.1, after a hit": (h1, HIT, None),
    "HTTP/1.1, TLS, after a hit": (h1, HIT, "http/1.1"),
    "HTTP/2, after a hit": (h2, HIT, None),
    "HTTP/2, TLS, after a hit": (h2, HIT, "h2"),
    "WebSocket, both its connections": (websocket, PASSED, None),
}


async def connection_bytes(program, kind, count):
    """Bytes that an idle connection takes."""
    connect, path, protocol = KINDS[kind]
    extra = (tls_of(protocol),) if protocol else ()
    async with gateway(program) as tidegate:
        kept = [await connect(tidegate, path, *extra) for _ in range(WARM_CONNECTIONS)]
        await asyncio.sleep(SETTLE)
        before = tidegate.memory()
        kept += [await connect(tidegate, path, *extra) for _ in range(count)]
        await asyncio.sleep(SETTLE)
        taken = (tidegate.memory() - before) / count
        for writer in kept:
            writer.transport.abort()
        return taken


def measure(options):
    """The rows of the table: what it is of, and bytes. `options`: `tidegate`, `entries`, `connections`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    rows = []
    for route in ("versioned", "followed") if options.entries else ():
        for size, name in ((300, "300 B"), (3 * 1024, "3 KB")):
            filled, asked = asyncio.run(entry_bytes(options.tidegate, route, size, options.entries))
            rows.append((f"an entry of {name}, {route}, beside its body: sent once", filled))
            rows.append((f"an entry of {name}, {route}, beside its body: sent three times", asked))
    for kind in KINDS if options.connections else ():
        rows.append((f"an idle connection: {kind}", asyncio.run(connection_bytes(options.tidegate, kind, options.connections))))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return rows


def table(rows):
    """As Markdown."""
    lines = [f"| {name} | {number:,.0f} |" for name, number in rows]
    return "\n".join(["| what | bytes |", "|---|--:|", *lines])


def main():
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tidegate", required=True, help="the program")
    parser.add_argument("--entries", type=int, default=100_000, help="0: leave entries out")
    parser.add_argument("--connections", type=int, default=1_500, help="0: leave connections out")
    options = parser.parse_args()
    if not os.access(options.tidegate, os.X_OK):
        sys.exit(f"{options.tidegate} is no program")
    print(table(measure(options)))


if __name__ == "__main__":
    main()
