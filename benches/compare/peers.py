"""Who is compared: how each is started, and what it is in a table (a peer, the floor, Tidegate).

What is decided here: names, command lines, and which file in peers/ is whose configuration. Never: what is asked of
whom.
"""

import contextlib
import dataclasses
import pathlib

from servers import Nginx, Server, program

NGINX = "nginx"
SENDFILE = "nginx, sendfile"
LOGGED = "nginx, access log"
HAPROXY = "HAProxy"
VARNISH = "Varnish"
FLOOR = "bare epoll loop"
TIDEGATE = "Tidegate"
SILENT = "Tidegate, no records"
PEERS = (NGINX, HAPROXY, VARNISH)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a part runs: what ends with it, its directory, cores for the servers and for the load, all cores."""

    stack: contextlib.ExitStack
    directory: pathlib.Path
    core: str
    load_core: str
    cores: frozenset

    def up(self, server):
        """A server that answers, and ends with the stack."""
        self.stack.callback(server.stop)
        server.wait_until_ready()
        return server

    def with_two_cores(self):
        """Another core for the servers: not that of the load, where there are as many."""
        others = self.cores - {int(self.core)}
        other = min(others - {int(self.load_core)} or others)
        return dataclasses.replace(self, core=f"{self.core},{other}")


def nginx(place, kind, name=NGINX, sendfile="off", log="off", workers=1, **values):
    """nginx by `peers/nginx-KIND.conf`."""
    return Nginx(name, f"nginx-{kind}.conf", place.directory, place.core, sendfile=sendfile, log=log, workers=workers,
                 **values)


def haproxy(place, kind, megabytes=64, workers=1, **values):
    """HAProxy by `peers/haproxy-KIND.cfg`."""
    return Server(HAPROXY, [program("haproxy"), "-db", "-f", "{config}"], f"haproxy-{kind}.cfg", place.directory,
                  place.core, megabytes=megabytes, workers=workers, **values)


def varnish(place, megabytes=64, workers=1, **values):
    """Varnish by `peers/varnish.vcl`: no administration, nothing in its log but what it can't leave out.

    It has no workers but a thread for each request under way; `workers` is the number of its thread pools.
    """
    silent = "vsl_mask=" + ",".join(f"-{tag}" for tag in VARNISH_TAGS)
    command = [program("varnishd"), "-F", "-j", "none", "-n", "{directory}/work", "-a", "127.0.0.1:{port}",
               "-f", "{config}", "-s", f"malloc,{megabytes}M", "-T", "none", "-S", "none",
               "-p", silent, "-p", "timeout_idle=3600", "-p", f"thread_pools={workers}",
               "-p", "thread_pool_min=100", "-p", "thread_pool_max=2500", "-p", "thread_pool_stack=64k", "-p", "workspace_client=64k"]
    return Server(VARNISH, command, "varnish.vcl", place.directory, place.core, **values)


# What a hit or a miss would write into the log in shared memory.
VARNISH_TAGS = (
    "Begin", "End", "Link", "Timestamp", "ReqStart", "ReqMethod", "ReqURL", "ReqProtocol", "ReqHeader", "ReqUnset",
    "ReqAcct", "RespProtocol", "RespStatus", "RespReason", "RespHeader", "RespUnset", "VCL_call", "VCL_return", "VCL_use",
    "Hit", "HitMiss", "HitPass", "SessOpen", "SessClose", "BereqMethod", "BereqURL", "BereqProtocol", "BereqHeader",
    "BereqUnset", "BereqAcct", "BerespProtocol", "BerespStatus", "BerespReason", "BerespHeader", "BerespUnset",
    "BackendOpen", "BackendClose", "BackendReuse", "BackendStart", "Backend", "TTL", "Storage", "Fetch_Body", "Length",
    "ObjProtocol", "ObjStatus", "ObjReason", "ObjHeader", "ObjUnset", "Filters", "ExpKill",
)


def tidegate(place, options, kind, records, name=None, workers=1, **values):
    """Tidegate by `peers/tidegate-KIND.toml`, with access records or without."""
    return Server(name or (TIDEGATE if records else SILENT), [str(options.tidegate), "run", "--config", "{config}"],
                  f"tidegate-{kind}.toml", place.directory, place.core, records=str(records).lower(), workers=workers,
                  **values)


def floor(place, options, workers=1):
    """The bare loop: answers made before, no cache, no origin."""
    return Server(FLOOR, [str(options.floor), "{port}", str(workers)], None, place.directory, place.core)
