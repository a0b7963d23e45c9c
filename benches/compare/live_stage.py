"""A server, those who watch it, and pushes one after another.

What is decided here: when the time of a push ends, what is counted to its cost, and that it came to everyone once.
"""

import dataclasses
import json
import time

import live_peers
from measure import rest, spent
from servers import Failure
from watchers import Crowd, Pusher

# Longer than the window within which Tidegate tells changes together.
PAUSE_SECONDS = 0.1
PUSH_SECONDS = 30


@dataclasses.dataclass
class Turn:
    """One server under one size of body: seconds to the last byte of each push, µs of CPU for each event."""

    name: str
    watchers: int
    seconds: list
    microseconds: float


def body_of(number, size):
    """A marker, and a JSON body of exactly so many bytes that holds it."""
    marker = f"m{number:09}"
    begin = json.dumps({"n": marker, "pad": ""})
    return marker.encode(), (begin[:-2] + "x" * (size - len(begin)) + '"}').encode()


class Stage:
    """A server, its watchers and its pusher."""

    def __init__(self, place, peer, options, origin, loop, tls=False, count=None):
        self.peer, self.origin, self.number = peer, origin, int(time.monotonic() * 1000) % 10**8
        origin.fields, origin.body = peer.fields, b"" if peer.fields == live_peers.HOLD else body_of(0, 300)[1]
        self.server = place.up(peer.start(origin))
        self.pusher = Pusher(loop, self.server.ports.get("push", self.server.port))
        self.crowd = Crowd(loop, self.server.ports["https" if tls else "http"], peer.request, tls)
        try:
            # One stream ahead: what the server makes for the first one is not a watcher's memory.
            self.crowd.open(1)
            self.memory_before = self.server.memory()
            self.crowd.open(min(count or options.watchers, peer.most) - 1)
        except (Failure, OSError):
            # It must not run beside the next one.
            self.end()
            raise

    def push(self, size, pause=PAUSE_SECONDS):
        """Seconds from the push to the last byte at the last watcher."""
        self.number += 1
        marker, body = body_of(self.number, size)
        if self.peer.refills:
            self.origin.body = body
        answers, request = self.pusher.answers, self.peer.push(body)
        self.crowd.await_event(marker)
        asked, began = self.origin.requests, time.monotonic()
        self.pusher.send(request)
        self.crowd.until(lambda: not self.crowd.left and self.pusher.answers > answers, PUSH_SECONDS,
                         f"{self.peer.name}: a push")
        took = self.crowd.last - began
        self.crowd.during(pause)
        if self.crowd.doubled or self.peer.refills and self.origin.requests != asked + 1:
            raise Failure(f"{self.peer.name}: {self.crowd.doubled} events came twice, and a push took "
                          f"{self.origin.requests - asked} requests to the origin")
        return took

    def ask(self, path):
        """Has an answer in the cache."""
        answers = self.pusher.answers
        self.pusher.send(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        self.crowd.until(lambda: self.pusher.answers > answers, PUSH_SECONDS, f"{self.peer.name}: {path}")

    def pushes(self, count, size):
        """So many pushes, and what they cost."""
        before = rest(self.server, self.server.cpu())
        seconds = [self.push(size) for _ in range(count)]
        cost = spent(before, rest(self.server, self.server.cpu()))
        watchers = len(self.crowd.sockets)
        return Turn(self.peer.name, watchers, seconds, cost / 1e3 / count / watchers)

    def kilobytes(self):
        """Memory for each watcher."""
        rest(self.server, self.server.cpu())
        return (self.server.memory() - self.memory_before) / (len(self.crowd.sockets) - 1) / 1000

    def end(self):
        """Ends all of it."""
        self.pusher.close()
        self.crowd.close()
        self.server.stop()


def percentile(values, share):
    """The value that such a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
