"""The servers of a comparison: started on free ports, each on its core, watched, and stopped by process id.

What is decided here: how a server starts and when it is ready, what CPU time it has used, and that no signal leaves
one behind. Never: what is asked of it.
"""

import contextlib
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time

HERE = pathlib.Path(__file__).parent
READY_SECONDS = 15
STOP_SECONDS = 5


class Failure(Exception):
    """The run can't go on; the text is for whoever started it."""


def program(name):
    """The path of a program; Debian keeps daemons in a directory that a user's PATH leaves out."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        raise Failure(f"{name} is missing: `make bench` and `make test` install what they need")
    return path


def free_port():
    """A port on the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One running server: its own session, so that its workers can be told from everybody else's processes."""

    def __init__(self, name, command, config, directory, core, **values):
        """Starts `command` (after `{config}`, `{directory}` and `{port}` are filled in) in a directory of its own.

        `config` is a file in peers/, if there is one; `@KEY@` in it becomes `values["key"]`, `@PORT@` the server's port,
        `@TLS@` its port for TLS. `core` is one core or several, as taskset takes them.
        """
        self.name = name
        self.port = free_port()
        self.ports = {"http": self.port, "https": free_port()}
        self.directory = directory / (config or "bare").partition(".")[0] / str(self.port)
        self.directory.mkdir(parents=True)
        file = self.directory / (config or "none")
        if config:
            template = (HERE / "peers" / config).read_text()
            file.write_text(fill_in(template, port=self.port, tls=self.ports["https"], **values))
        command = [part.format(config=file, directory=self.directory, port=self.port) for part in command]
        self._command = ["taskset", "-c", str(core), *command]
        self.start_again()

    def start_again(self):
        """Starts it, with the ports and files that it has."""
        with (self.directory / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                start_new_session=True)

    def kill(self):
        """Ends it at once, as a fault does."""
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def wait_until_ready(self):
        """Returns once the port answers; a server that ends or stays silent is a failure that says why."""
        self.wait_for_port(self.port)

    def wait_for_port(self, port):
        """Returns once this port answers."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        said = (self.directory / "stderr").read_text(errors="replace")[-2000:]
        raise Failure(f"{self.name} did not come up on port {port}:\n{said}")

    def get(self, path, **headers):
        """One GET on a connection of its own: status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"{self.name}: GET {path}: {error!r}") from error
        finally:
            connection.close()

    def get_by_tls(self, request):
        """What comes back for such a request over TLS, until the server closes."""
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection(("127.0.0.1", self.ports["https"]), timeout=10) as plain, \
                    trusting.wrap_socket(plain) as connection:
                connection.sendall(request.encode())
                return b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError as error:
            raise Failure(f"{self.name}: {request!r} by TLS: {error!r}") from error

    def cpu(self):
        """Nanoseconds on the CPU so far, by (process, thread), over the server and all its workers."""
        used = {}
        for pid in self._members():
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    used[pid, task.parent.name] = int(task.read_text().split()[0])
                except OSError:  # the thread has just ended
                    continue
        return used

    def _members(self):
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    # After the name in parentheses: state, parent, group, session.
                    session = (entry / "stat").read_text().rpartition(")")[2].split()[3]
                except OSError:
                    continue
                if int(session) == self._process.pid:
                    yield entry.name

    def memory(self):
        """Bytes of memory of the server and all its workers; pages that several share are counted once."""
        total = 0
        for pid in self._members():
            with contextlib.suppress(OSError):
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += 1024 * int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])
        return total

    def has(self, title):
        """Whether one of its processes has such a title."""
        for pid in self._members():
            with contextlib.suppress(OSError):
                if title.encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    return True
        return False

    def stop(self):
        """Asks the server to end; kills its session's processes where it doesn't."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                for pid in list(self._members()):
                    os.kill(int(pid), signal.SIGKILL)
                self._process.wait(STOP_SECONDS)


class Nginx(Server):
    """nginx, with nothing of the distribution's configuration or directories."""

    def __init__(self, name, config, directory, core, **values):
        command = [program("nginx"), "-p", "{directory}", "-c", "{config}", "-e", "{directory}/stderr"]
        user = "user root;" if os.geteuid() == 0 else ""
        super().__init__(name, command, config, directory, core, user=user, **values)


class Origin(Nginx):
    """nginx that counts; `requests` and `connections` leave out those that ask for the counts."""

    def __init__(self, config, directory, core, **values):
        self._own = 0
        super().__init__("origin", config, directory, core, **values)

    def requests(self):
        """How many requests have come so far."""
        return self._count()[1]

    def connections(self):
        """How many connections have come so far."""
        return self._count()[0]

    def _count(self):
        _, _, body = self.get("/count")
        self._own += 1
        # "server accepts handled requests", then their values.
        accepted, _, requests = map(int, body.split(b"requests", 1)[1].split()[:3])
        return accepted - self._own, requests - self._own


class StaticOrigin(Origin):
    """Static files, with a validator."""

    def __init__(self, files, directory, core):
        self.data = directory / "data"
        self.data.mkdir()
        for path, body in files.items():
            (self.data / path.lstrip("/")).write_bytes(body)
        super().__init__("origin-files.conf", directory, core, data=self.data)


class AnsweringOrigin(Origin):
    """One answer for every path below a prefix."""

    def __init__(self, bodies, directory, core):
        answers = "\n".join(f"        location {prefix} {{ return 200 '{body.decode()}'; }}"
                            for prefix, body in bodies.items())
        super().__init__("origin-answers.conf", directory, core, answers=answers)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def end_on_signals(seconds):
    """Any signal that would end the run unwinds it instead, so that what was started is stopped."""

    def unwind(number, _frame):
        ignore_signals()
        raise Failure("it took too long" if number == signal.SIGALRM else f"ended by signal {number}")

    for each in ENDING:
        signal.signal(each, unwind)
    signal.alarm(seconds)


def ignore_signals():
    """From here on the run ends anyway: nothing may keep it from stopping its servers."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)


def fill_in(template, **values):
    """The template with each `@KEY@` replaced; one that nobody knows is a fault of ours."""
    for key, value in values.items():
        template = template.replace(f"@{key.upper()}@", str(value))
    if left := re.search("@[A-Z]+@", template):
        raise Failure(f"nothing fills in {left[0]}")
    return template
