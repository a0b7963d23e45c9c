"""Who fans out: how each is started, watched and pushed to.

What is decided here: command lines, requests, and which file in peers/ is whose configuration. Never: what is measured.
"""

import base64
import dataclasses
import hashlib
import hmac
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import peers
from door import certificate
from servers import Nginx, Server, free_port

ROOT = pathlib.Path(__file__).parent.parent.parent
VENV_PYTHON = ROOT / ".venv/bin/python"
SECRET = "only-for-benchmarks-0123456789abcdef"
NCHAN, NCHAN_TWO = "nchan, 1 worker", "nchan, 2 workers"
TIDEGATE, TIDEGATE_TWO = "Tidegate, 1 worker", "Tidegate, 2 workers"
PUSHPIN, SOCKETIO = "Pushpin", "Flask-SocketIO"
HOLD = (b"Content-Type: text/event-stream\r\nGrip-Hold: stream\r\nGrip-Channel: bench\r\nCache-Control: no-store\r\n")
JSON = b"Content-Type: application/json\r\n"
UPGRADE = (b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
           b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")


def watch(path="/watched", fields=""):
    """A request for a stream."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n{fields}\r\n".encode()


def post(path, body, *fields):
    """A request that pushes."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    return head.encode() + body


def signed_event(_body=b""):
    """A signed event of an order; the body of the entry comes from the origin."""
    body, identity, now = b'{"tenant":"public"}', os.urandom(8).hex(), str(int(time.time()))
    signed = hmac.digest(SECRET.encode(), f"{identity}.{now}.".encode() + body, hashlib.sha256)
    return post("/push", body, ("Content-Type", "application/json"), ("webhook-id", identity),
                ("webhook-timestamp", now), ("webhook-signature", "v1," + base64.b64encode(signed).decode()))


def grip(body):
    """An item for Pushpin's HTTP input."""
    content = f"event: metric_update\ndata: {body.decode()}\n\n"
    return post("/publish/", json.dumps({"items": [
        {"channel": "bench", "formats": {"http-stream": {"content": content}}}]}).encode())


@dataclasses.dataclass(frozen=True)
class Peer:
    """One that is compared: `start(origin)` gives its server; `push(body)` the request for it."""

    name: str
    start: Callable
    push: Callable
    request: bytes = watch()
    fields: bytes = JSON
    most: int = 1_000_000
    refills: bool = False
    # Without it the run fails; the others are left out where they fail.
    needed: bool = True


def tidegate(place, options, origin, workers=1, name=None, store="", window="50ms"):
    """Tidegate by `peers/tidegate-live.toml`."""
    where = place.with_two_cores() if workers > 1 else place
    return peers.tidegate(where, options, "live", True, name=name or TIDEGATE, workers=workers, origin=origin.port,
                          secret=SECRET, store=store, window=window, **certificate(place.directory))


def nchan(place, workers, name):
    """nginx with nchan by `peers/nginx-live.conf`."""
    where = place.with_two_cores() if workers > 1 else place
    return Nginx(name, "nginx-live.conf", where.directory, where.core, workers=workers)


class Pushpin(Server):
    """Pushpin: its proxy, its handler and condure, on ports of their own."""

    def __init__(self, place, origin):
        directory = place.directory / f"pushpin-{free_port()}"
        directory.mkdir()
        (directory / "routes").write_text(f"* 127.0.0.1:{origin.port}\n")
        ports = {name: free_port() for name in ("push_port", "zmq_port", "sub_port", "command_port")}
        super().__init__(PUSHPIN, ["pushpin", "--config", "{config}"], "pushpin.conf", place.directory,
                         place.with_two_cores().core, rundir=directory, **ports)
        self.ports["push"] = ports["push_port"]

    def wait_until_ready(self):
        """Its handler comes up after its front."""
        super().wait_until_ready()
        self.wait_for_port(self.ports["push"])


def socketio(place):
    """Flask-SocketIO under gunicorn, one process as it needs it."""
    return Server(SOCKETIO, [str(VENV_PYTHON), "-B", "-m", "gunicorn", "--chdir", str(ROOT / "benches/compare/peers"),
                             "-k", "gevent", "-w", "1", "--worker-connections", "20000", "--log-level", "error",
                             "-b", "127.0.0.1:{port}", "emitter:app"], None, place.directory, place.core)


def all_peers(place, options):
    """In the table's order; and a word on those that can't be had."""
    floor = [str(options.floor), "live", "{port}"]
    found = [
        Peer(peers.FLOOR, lambda _: Server(peers.FLOOR, floor, None, place.directory, place.core),
             lambda body: post("/push", body)),
        Peer(NCHAN, lambda _: nchan(place, 1, NCHAN), lambda body: post("/push", body)),
        Peer(NCHAN_TWO, lambda _: nchan(place, 2, NCHAN_TWO), lambda body: post("/push", body)),
        Peer(TIDEGATE, lambda origin: tidegate(place, options, origin), signed_event, refills=True),
        Peer(TIDEGATE_TWO, lambda origin: tidegate(place, options, origin, 2, TIDEGATE_TWO), signed_event, refills=True),
    ]
    missing = []
    if shutil.which("pushpin"):
        found.append(Peer(PUSHPIN, lambda origin: Pushpin(place, origin), grip, fields=HOLD, most=2000,
                          needed=False))
    else:
        missing.append("Pushpin is not there: this system has no package of it.")
    if VENV_PYTHON.exists():
        found.append(Peer(SOCKETIO, lambda _: socketio(place), lambda body: post("/push", body), UPGRADE, most=1000,
                          needed=False))
    else:
        missing.append("Flask-SocketIO is not there: `scripts/test-environment` makes its environment.")
    return found, missing
