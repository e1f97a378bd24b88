"""Prepares the process to run for months: loads all modules, and limits memory and file descriptors."""

import codecs
import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages

_ROOMS = ("spec", "state", "ipam", "linux", "rules", "plugins")
# What the plugins import inside functions.
_MORE = ("hashlib", "re", "signal", "socket", "subprocess", "threading", "traceback")
_MORE += ("jeepney", "re2", "pyroute2.netlink.rtnl.ifinfmsg")
# Encodings of JSON (RFC 8259), and of addresses.
_CODECS = ("ascii", "latin-1", "idna", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")
_CODECS += ("utf-32-be",)
_M_ARENA_MAX, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -8, -1, -3  # mallopt(3)
_SWITCH_SECONDS = 0.02
_DESCRIPTORS = 65536


def prepare(*names: str) -> None:
    """Load everything that calls need and the modules `names`, and set limits of memory and descriptors.

    The first call is then as fast as the next, and nothing is imported after the root has changed (agent/hostroot.py).
    """
    limit_heap()
    _raise_descriptor_limit()
    for name in (*modules(), *_MORE, *names):
        import_module(name)
    for name in _CODECS:
        codecs.lookup(name)
    # Threads switch whenever one enters the kernel, many times a call. In between, each waiting thread wakes up at this
    # interval to request the interpreter lock; with many threads, at the default of 5 ms, that costs more than a call.
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # later collections skip what was loaded


def modules() -> list[str]:
    """Every module of the plugins."""
    if getattr(sys, "frozen", False):
        from pyimod02_importers import pyz_archive

        names = [name for name in pyz_archive.toc if name.partition(".")[0] in _ROOMS]
    else:
        found = [walk_packages(import_module(room).__path__, f"{room}.") for room in _ROOMS]
        names = [module.name for modules_of_room in found for module in modules_of_room]
    return [name for name in names if not name.endswith(".__main__")]


def limit_heap() -> None:
    """One heap for all threads, which returns free memory: by default glibc makes one per thread."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option, value in ((_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, 1 << 20), (_M_MMAP_THRESHOLD, 1 << 18)):
            libc.mallopt(option, value)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def resident() -> int:
    """Resident memory of the process in bytes, shared libraries included."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
