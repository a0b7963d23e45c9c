#!/usr/bin/env python3
"""WebSocket echo, both sides, with no more of the protocol than a measurement needs: `serve PORT` is the application
behind a gateway, `load PORT PATH CONNECTIONS SIZE SECONDS` its clients. Frames are moved, not parsed: each side knows
how long they are."""

import base64
import hashlib
import json
import os
import selectors
import socket
import sys
import time

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
READ = 65536


def head_of(connection):
    """What stands before the empty line, and what came behind it."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        more = connection.recv(READ)
        if not more:
            raise ConnectionError(f"closed after {seen!r}")
        seen += more
    return seen.split(b"\r\n\r\n", 1)


def frame(size, masked):
    """A binary message of so many zeros; its mask is zero as well."""
    length = bytes([size | masked << 7]) if size < 126 else bytes([126 | masked << 7]) + size.to_bytes(2, "big")
    return b"\x82" + length + bytes(4 * masked) + bytes(size)


def serve(port):
    """Sends each message back; the first byte after the handshake tells how long all are."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    pending = {}
    while True:
        for key, _ in selector.select():
            connection = key.fileobj
            if connection is listener:
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(accepted, selectors.EVENT_READ)
                pending[accepted] = None
                continue
            try:
                if pending[connection] is None:
                    head, rest = head_of(connection)
                    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
                    asked = {name.lower(): value for name, value in fields.items()}[b"sec-websocket-key"]
                    accept = base64.b64encode(hashlib.sha1(asked + MAGIC).digest())
                    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                       b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
                    pending[connection] = rest
                    continue
                more = connection.recv(READ)
            except (OSError, KeyError, ValueError):
                more = b""
            if not more:
                selector.unregister(connection)
                connection.close()
                del pending[connection]
                continue
            data = pending[connection] + more
            answer = bytearray()
            while len(data) >= 2:
                short = data[1] & 127
                before = 6 if short < 126 else 8
                if len(data) < before:
                    break
                size = short if short < 126 else int.from_bytes(data[2:4], "big")
                if len(data) < before + size:
                    break
                answer += frame(size, 0)
                data = data[before + size:]
            pending[connection] = data
            if answer:
                connection.sendall(answer)


def load(port, path, connections, size, seconds):
    """One message under way on each connection."""
    selector = selectors.DefaultSelector()
    ask = (f"GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n")
    out, back = frame(size, 1), len(frame(size, 0))
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(ask.encode())
        head, _ = head_of(connection)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(head)
        selector.register(connection, selectors.EVENT_READ, [0])
    began, messages = time.monotonic(), 0
    for key in selector.get_map().values():
        key.fileobj.sendall(out)
    while time.monotonic() < began + seconds:
        for key, _ in selector.select(1):
            key.data[0] += len(key.fileobj.recv(READ))
            if key.data[0] >= back:
                key.data[0] -= back
                messages += 1
                key.fileobj.sendall(out)
    took = time.monotonic() - began
    print(json.dumps({"requests": messages, "bytes": messages * back, "microseconds": round(took * 1e6),
                      "bad_status": 0, "socket_errors": 0}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        load(int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:7]))
