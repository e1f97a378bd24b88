"""A delegated plugin for tests: does what its `ipam` section says, and logs every call. Also an executable."""

import os
import sys

from spec.errors import CNIError
from spec.plugin import Plugin, serve
from spec.request import Request
from spec.result import IPConfig, Result


def _write_down(request: Request) -> None:
    ipam = request.conf.section.section("ipam")
    with open(ipam.string("log"), "a") as log:
        log.write(f"{request.verb} {request.environ['CNI_COMMAND']} {request.netns} {request.args.get('IP', '')}\n")
    if ipam.has("fail"):
        raise CNIError(ipam.integer("fail"), "told to fail", "with details")
    if ipam.boolean("crash"):
        raise ZeroDivisionError("told to crash")


def _add(request: Request) -> Result:
    _write_down(request)
    return Result(ips=tuple(IPConfig(ip) for ip in request.conf.section.section("ipam").strings("addresses") or ()))


PLUGIN = Plugin(
    "fake-ipam", add=_add, delete=_write_down, check=_write_down, gc=_write_down, status=_write_down, is_ipam=True
)

if __name__ == "__main__":
    streams = {"stdin": sys.stdin.buffer, "stdout": sys.stdout.buffer, "stderr": sys.stderr}
    sys.exit(serve(PLUGIN, environ=os.environ, **streams))
