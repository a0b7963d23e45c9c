"""Those who watch, who pushes, and the origin behind: one loop of epoll, so that none of them waits for another.

What is decided here: when an event has arrived (its marker and its last byte), and what is counted. Never: what is
pushed, or what a figure is worth.
"""

import os
import select
import socket
import ssl
import struct
import time

from servers import Failure

READ = 65536
BACKLOG = 4096
# So many connections are begun before the answers to them are waited for.
AT_ONCE = 100
# In no event.
NEVER = b"\0"
PATIENCE_SECONDS = 60
# States of a watcher: the event is awaited, has begun, has come; an answer to its request is awaited.
AWAITED, BEGUN, CAME, NEW, UPGRADED = range(5)
EVENT_END, CHUNK_END, LIST_END = b"\n\n", b"\n\n\r\n", b"]"
# Socket.IO's CONNECT, as a text frame with a mask of zeros.
SOCKETIO_CONNECT = b"\x81\x82\x00\x00\x00\x0040"


def states_in(data):
    """How many events begin here that are not the server's own."""
    return data.count(b"\ndata: ") - data.count(b"event: ping\n")


class Loop:
    """One epoll for all; a handler for each descriptor but those of the watchers."""

    def __init__(self):
        self.poll = select.epoll()
        self.handlers = {}

    def add(self, connection, handler):
        """Calls `handler()` when there is something to read."""
        self.handlers[connection.fileno()] = handler
        self.poll.register(connection, select.EPOLLIN)

    def remove(self, connection):
        """Forgets a descriptor, and closes it."""
        self.handlers.pop(connection.fileno(), None)
        self.poll.unregister(connection)
        connection.close()


class Origin:
    """An origin that has one body at a time, and counts."""

    def __init__(self, loop):
        self.loop, self.requests = loop, 0
        self.body, self.fields = b"{}", b"Content-Type: application/json\r\n"
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        loop.add(self.listener, self._accept)

    def _accept(self):
        connection, _ = self.listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop.add(connection, lambda: self._answer(connection))

    def _answer(self, connection):
        try:
            asked = connection.recv(READ)
        except ConnectionError:
            asked = b""
        if not asked:
            self.loop.remove(connection)
            return
        heads = asked.count(b"\r\n\r\n")
        self.requests += heads
        body = self.body() if callable(self.body) else self.body
        connection.sendall(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (self.fields, len(body), body) * heads)


class Pusher:
    """A connection for pushes, kept where the server keeps it: each answer must be one of success."""

    def __init__(self, loop, port):
        self.loop, self.port, self.answers = loop, port, 0
        self._connect()

    def _connect(self):
        self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop.add(self.connection, self._read)

    def send(self, request):
        """Sends one, on another connection if this one is closed."""
        if self.connection.fileno() < 0:
            self._connect()
        self.connection.sendall(request)

    def _read(self):
        answer = self.connection.recv(READ)
        if not answer:
            self.loop.remove(self.connection)
        elif answer.startswith(b"HTTP/1.1"):
            if answer[9:10] != b"2":
                raise Failure(f"a push was answered by {answer[:200]}")
            self.answers += answer.count(b"HTTP/1.1 2")

    def close(self):
        """Ends the connection."""
        if self.connection.fileno() >= 0:
            self.loop.remove(self.connection)


class Crowd:
    """Many watchers of one server."""

    def __init__(self, loop, port, request, tls=False):
        self.loop, self.port, self.request = loop, port, request
        self.trusting = trusting() if tls else None
        self.sockets, self.states = {}, bytearray(65536)
        self.marker, self.tail = NEVER, EVENT_END
        self.left = self.new = self.doubled = self.events = 0
        self.last, self.closed, self.head = 0.0, [], b""

    def open(self, count):
        """Begins so many streams, and waits for the answer to each."""
        deadline = time.monotonic() + PATIENCE_SECONDS + count / 100
        while count > 0:
            for _ in range(min(count, AT_ONCE)):
                self.connect()
            count -= AT_ONCE
            self.until(lambda: not self.new, deadline - time.monotonic(), "streams begin")
            if self.closed:
                raise Failure(f"{len(self.closed)} of {len(self.sockets)} streams were closed at once")

    def connect(self):
        """Begins a stream."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        if self.trusting:
            connection = self.trusting.wrap_socket(connection)
        connection.sendall(self.request)
        connection.setblocking(False)
        number = connection.fileno()
        self.sockets[number], self.states[number] = connection, NEW
        self.new += 1
        self.loop.poll.register(number, select.EPOLLIN)

    def await_event(self, marker):
        """From now on an event counts for each watcher that has a body with this marker, to its last byte."""
        for number in self.sockets:
            self.states[number] = AWAITED
        self.marker, self.left, self.doubled, self.events = marker, len(self.sockets), 0, 0

    def until(self, done, seconds, what):
        """Turns the loop until it is done; fails after so many seconds."""
        deadline = time.monotonic() + seconds
        while not done():
            self.turn(0.05)
            if time.monotonic() > deadline:
                raise Failure(f"{what}: not in {seconds:.0f} s; {self.left} of {len(self.sockets)} are left")

    def during(self, seconds):
        """Turns the loop for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.turn(min(left, 0.05))

    def turn(self, seconds):
        """Reads what there is to read; waits for something at most so long."""
        handlers, sockets = self.loop.handlers, self.sockets
        for number, _ in self.loop.poll.poll(seconds, 512):
            if handler := handlers.get(number):
                handler()
            elif number in sockets:
                self._read(number)

    def _read(self, number):
        try:
            data = os.read(number, READ) if self.trusting is None else self.sockets[number].recv(READ)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data:
            self._gone(number)
            return
        state = self.states[number]
        if state == AWAITED:
            if self.marker not in data:
                self.events += states_in(data)
                return
            state = self.states[number] = BEGUN
        elif state >= NEW:
            self._begin(number, state, data)
            return
        elif state == CAME:
            self.doubled += self.marker in data
            return
        if data.endswith(self.tail):
            self.states[number] = CAME
            self.left -= 1
            if not self.left:
                self.last = time.monotonic()

    def _begin(self, number, state, data):
        if state == NEW and b" 101 " in data[:20]:
            self.states[number] = UPGRADED
            os.write(number, SOCKETIO_CONNECT)
            self.tail = LIST_END
        elif state == UPGRADED and b'40{"sid"' in data:
            self.states[number], self.new = AWAITED, self.new - 1
        elif state == NEW:
            if not data.startswith(b"HTTP/1.1 200"):
                raise Failure(f"a stream was answered by {data[:200]}")
            self.head = data
            self.tail = CHUNK_END if b"transfer-encoding: chunked" in data.lower() else EVENT_END
            self.states[number], self.new = AWAITED, self.new - 1
            self.events += states_in(data.partition(b"\r\n\r\n")[2])

    def _gone(self, number):
        self.new -= self.states[number] >= NEW
        self.loop.poll.unregister(number)
        self.sockets.pop(number).close()
        self.closed.append(number)

    def close(self):
        """Resets all connections, so that none waits for its end."""
        for number, connection in self.sockets.items():
            self.loop.poll.unregister(number)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if self.trusting:
                connection = socket.socket(fileno=connection.detach())
            connection.close()
        self.sockets = {}


def trusting():
    """TLS towards a certificate that nobody signed."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
