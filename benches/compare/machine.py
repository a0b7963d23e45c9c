"""What a comparison runs on: the cores it takes, and what there is to say of the machine."""

import datetime
import os
import pathlib
import platform
import subprocess

from servers import Failure


def pick_cores():
    """One core for the servers, one for the load, on different physical cores where there are such."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Failure("two cores are needed: one for the server, one for the load")
    siblings = pathlib.Path(f"/sys/devices/system/cpu/cpu{allowed[0]}/topology/thread_siblings_list")
    shared = cpu_list(siblings.read_text()) if siblings.exists() else set()
    apart = [core for core in allowed[1:] if core not in shared]
    return allowed[0], (apart or allowed[1:])[0], not apart


def cpu_list(text):
    """`0-1,4` as a set."""
    spans = (part.split("-") for part in text.strip().split(","))
    return {core for span in spans for core in range(int(span[0]), int(span[-1]) + 1)}


def now_and_here():
    """The time, the processor and the kernel."""
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
               platform.machine())
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC; {cpu}, Linux {platform.release()}"


def first_line(*command):
    """What a program says of its version; some say it on stderr, wrk with exit 1."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return ((ran.stdout or ran.stderr).strip() or "unknown").splitlines()[0]
