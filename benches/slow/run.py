"""What hostile clients cost the others: slowhttptest and `attackers.py` against the gateway, and an ordinary client beside.

For each attack (slow heads, slow bodies, slow reading; encodings that nobody takes, resets): how long the attack holds its connections, what the gateway
counted, what memory a held connection takes, and how long an ordinary client waits for a hit, before and meanwhile.
Decides nothing; prints a table. Needs slowhttptest (Debian has it).
"""

import argparse
import contextlib
import http.client
import http.server
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

CONFIG = """
[server]
threads = 2
header_timeout = "3s"
body_timeout = "3s"
send_timeout = "3s"
[[listener]]
address = "127.0.0.1:{port}"
[admin]
address = "127.0.0.1:{admin}"
[log]
format = "json"
[[origin]]
name = "app"
servers = ["http://127.0.0.1:{origin}"]
[[route]]
path = "/widget"
origin = "app"
cache = {{ namespace = "bench", scope = "public", ttl = "1h" }}
[[route]]
path = "/big"
origin = "app"
cache = {{ namespace = "bench", scope = "public", ttl = "1h", max_size = "16MiB" }}
[[route]]
path = "/text/*"
files = {{ root = "{files}" }}
[[route]]
path = "/*"
origin = "app"
"""
BIG = 8 << 20
SLOW = ["slowhttptest", "-c", "{connections}", "-r", "{connections}", "-l", "30", "-p", "3", "-v", "1"]
ATTACKERS = [sys.executable, "-B", str(pathlib.Path(__file__).with_name("attackers.py"))]
ATTACKS = {
    "slow heads": [*SLOW, "-H", "-i", "1", "-x", "24", "-u", "{url}/widget"],
    "slow bodies": [*SLOW, "-B", "-i", "1", "-x", "10", "-s", "8192", "-u", "{url}/upload"],
    "slow reading": [*SLOW, "-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "5", "-k", "2", "-u", "{url}/big"],
    "slow reading, proxied": [*SLOW, "-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "5", "-k", "2", "-u", "{url}/pass/big"],
    "encodings that nobody takes": [*ATTACKERS, "encoded", "{port}", "10"],
    "resets that the server makes": [*ATTACKERS, "resets", "{port}", "10"],
}


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers anything; reads what it is sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            time.sleep(5)
        body = b"x" * (BIG if self.path.endswith("/big") else 300)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, *_):
        """Says nothing."""

    def handle(self):
        with contextlib.suppress(OSError):
            super().handle()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Ordinary(threading.Thread):
    """A client that asks for a hit again and again: on one connection, or on a new one each time."""

    def __init__(self, port, fresh):
        super().__init__(daemon=True)
        self.port, self.fresh = port, fresh
        self.times, self.failures, self.ends = [], 0, threading.Event()

    def run(self):
        connection = None
        while not self.ends.wait(0.002):
            begin = time.perf_counter()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                    connection.connect()
                    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.request("GET", "/widget")
                answer = connection.getresponse()
                answer.read()
                self.failures += answer.status != 200
                self.times.append(time.perf_counter() - begin)
            except (OSError, http.client.HTTPException):
                self.failures += 1
                connection = None
            if self.fresh and connection:
                connection.close()
                connection = None

    def result(self):
        self.ends.set()
        self.join()
        times = sorted(self.times)
        at = lambda share: 1000 * times[min(int(len(times) * share), len(times) - 1)]
        return f"{at(.5):6.2f} {at(.99):7.2f} {len(times):6} {self.failures:4}"


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    return connection.getresponse().read().decode(errors="replace")


def metric(text, name):
    """All series of a name, by their labels."""
    return {labels: float(value) for labels, value in re.findall(rf"^{name}(\{{.*?\}})? (\S+)$", text, re.M)}


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def kernel_memory():
    """Bytes that TCP holds in all, both ends of each connection and whoever else is on this machine."""
    return int(re.search(r"TCP:.* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text())[1]) * 4096


def ordinary(port, seconds=None, during=None):
    clients = [Ordinary(port, fresh) for fresh in (False, True)]
    for client in clients:
        client.start()
    during() if during else time.sleep(seconds)
    return [client.result() for client in clients]


def attack(name, words, ports, pid, connections, directory):
    url = f"http://127.0.0.1:{ports['port']}"
    before = {"cut": metric(get(ports["admin"], "/metrics"), "tidegate_connections_cut_total")}
    idle, idle_kernel = resident(pid), kernel_memory()
    quiet = ordinary(ports["port"], seconds=4)
    command = [word.format(url=url, port=ports["port"], connections=connections) for word in words]
    peak = {"open": 0, "memory": idle, "kernel": 0, "end": 0.0}

    def meanwhile():
        with (directory / f"{name}.txt").open("wb") as output:
            tool = subprocess.Popen(command, stdout=output, stderr=output)
            begin = time.monotonic()
            while tool.poll() is None:
                text = get(ports["admin"], "/metrics")
                now = metric(text, "tidegate_connections_open")[""]
                if now > peak["open"]:
                    peak["open"], peak["memory"], peak["kernel"] = now, resident(pid), kernel_memory()
                if now > 10:
                    peak["end"] = time.monotonic() - begin
                time.sleep(0.1)

    busy = ordinary(ports["port"], during=meanwhile)
    after = metric(get(ports["admin"], "/metrics"), "tidegate_connections_cut_total")
    cut = {re.search('"(.*)"', k)[1]: int(v - before["cut"].get(k, 0)) for k, v in after.items()}
    held = max(peak["open"], 1)
    said = re.sub(r"\x1b\[[0-9;]*m", "", (directory / f"{name}.txt").read_text(errors="replace"))
    verdict = re.findall(r"^(?:Exit status|service available).*$", said, re.M)
    print(f"\n== {name}: {' '.join(command)}")
    if verdict:
        print("   its last words:", "; ".join(re.sub(r"\s+", " ", line) for line in verdict[-7:]))
    print(f"   held at most {held:.0f} connections, all let go after {peak['end']:.1f} s; cut: "
          + ", ".join(f"{k} {v}" for k, v in cut.items() if v))
    print(f"   memory {idle / 2**20:.1f} MiB idle, {peak['memory'] / 2**20:.1f} MiB with all held: "
          f"{(peak['memory'] - idle) / held / 1024:.1f} KiB a connection; "
          f"kernel {(peak['kernel'] - idle_kernel) / held / 1024:.1f} KiB a connection")
    print("   ordinary client            p50 ms  p99 ms  count fail")
    for kind, first, second in zip(("kept connection", "new connections"), quiet, busy):
        print(f"   {kind:16} before    {first}\n   {'':16} meanwhile {second}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tidegate", type=pathlib.Path)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--only", choices=ATTACKS)
    parser.add_argument("--origin", type=int, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.origin:
        http.server.ThreadingHTTPServer.request_queue_size = 1024
        http.server.ThreadingHTTPServer(("127.0.0.1", wanted.origin), Origin).serve_forever()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ports = {name: free_port() for name in ("port", "admin", "origin")}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        directory = pathlib.Path(directory)
        words = "the quick brown fox jumps over the lazy dog ".split()
        # Of words in an order that does not repeat: as hard to encode as prose.
        text = " ".join(words[(n * n + n // 7) % len(words)] + str(n * 2654435761 % 9973) for n in range(900_000))
        (directory / "big.txt").write_text(text[:6_000_000])
        (directory / "tidegate.toml").write_text(CONFIG.format(files=directory, **ports))
        errors = stack.enter_context((directory / "stderr").open("wb"))
        commands = [
            [sys.executable, __file__, "--origin", str(ports["origin"])],
            [wanted.tidegate, "run", "--config", directory / "tidegate.toml"],
        ]
        started = [subprocess.Popen(command, stderr=errors, stdout=errors) for command in commands]
        for process in started:
            stack.callback(process.wait)
            stack.callback(process.terminate)
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(ports["origin"], "/widget") and get(ports["admin"], "/readyz"):
                    break
            if time.monotonic() > deadline:
                sys.exit((directory / "stderr").read_text())
            time.sleep(0.05)
        get(ports["port"], "/widget")
        get(ports["port"], "/big")
        print(f"files that may be open: {hard}; connections: "
              f"{metric(get(ports['admin'], '/metrics'), 'tidegate_connections_limit')['']:.0f}")
        for name, words in ATTACKS.items():
            if wanted.only in (None, name):
                attack(name, words, ports, started[1].pid, wanted.connections, directory)
        lines = (directory / "stderr").read_text(errors="replace").splitlines()
        loud = [line for line in lines if '"level":"ERROR"' in line or '"level":"WARN"' in line]
        print(f"\nlog: {len(lines)} lines, {len(loud)} of them warnings or errors", *loud[:5], sep="\n")


if __name__ == "__main__":
    main()
