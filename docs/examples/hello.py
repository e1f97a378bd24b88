#!/usr/bin/env python3
"""hello: gives pods a name on their node: one hosts file per attachment, for `dnsmasq --hostsdir`. A chained plugin."""

import os
import sys
from contextlib import ExitStack

from spec.attachment import Attachment
from spec.errors import CNIError, Code
from spec.identifiers import is_identifier
from spec.plugin import Plugin, serve
from spec.request import Request
from spec.result import Result


def folder_of(request: Request) -> str:
    """Where the files are: `folder` of the configuration, an absolute path."""
    folder = request.conf.section.string("folder", "/run/hello")
    if not folder.startswith("/"):
        raise request.conf.section.error("folder", "an absolute path")
    return folder


def file_of(owner: Attachment) -> str:
    """A file's name tells its owner: none of the three parts can contain a colon."""
    return f"{owner.network}:{owner.container_id}:{owner.ifname}"


def hosts_of(request: Request) -> str:
    """What the file says: each address of the pod, and its name as Kubernetes knows it, else the container id."""
    name = request.args.get("K8S_POD_NAME", request.container_id)
    if not is_identifier(name):
        raise CNIError(Code.INVALID_ENVIRONMENT, "K8S_POD_NAME in CNI_ARGS can not name a host", name)
    result = request.conf.require_prev_result("must be called as chained plugin")
    return "".join(f"{ip.address.partition('/')[0]} {name}\n" for ip in result.ips)


def add(request: Request) -> Result:
    """Write the file, whole or not at all; pass the result of the plugin before on."""
    text, folder, file = hosts_of(request), folder_of(request), file_of(request.attachment)
    with ExitStack() as undo:
        undo.callback(delete, request)
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/.{file}", "w") as draft:  # dnsmasq does not look at names with a dot
            draft.write(text)
        os.rename(f"{folder}/.{file}", f"{folder}/{file}")
        undo.pop_all()
    return request.conf.prev_result


def delete(request: Request) -> None:
    """Remove the file and its draft; what is not there is no failure."""
    for path in (f"{folder_of(request)}/{dot}{file_of(request.attachment)}" for dot in ("", ".")):
        if os.path.isfile(path):
            os.unlink(path)


def check(request: Request) -> None:
    """The file says what ADD wrote."""
    with open(f"{folder_of(request)}/{file_of(request.attachment)}") as file:
        if file.read() != hosts_of(request):
            raise CNIError(Code.INTERNAL, f"{file.name} does not say {hosts_of(request)!r}")


def gc(request: Request) -> None:
    """Remove the files, and drafts of files, of this network whose attachment is not valid any more."""
    valid = {file_of(owner) for owner in request.valid_attachments}
    for name in os.listdir(folder_of(request)) if os.path.isdir(folder_of(request)) else ():
        file = name.removeprefix(".")
        if file.startswith(f"{request.conf.name}:") and file not in valid:
            os.unlink(f"{folder_of(request)}/{name}")


PLUGIN = Plugin("hello", add=add, delete=delete, check=check, gc=gc)

if __name__ == "__main__":
    sys.exit(serve(PLUGIN, environ=os.environ, stdin=sys.stdin.buffer, stdout=sys.stdout.buffer, stderr=sys.stderr))
