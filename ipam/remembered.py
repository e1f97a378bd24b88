"""Where the leases of an owner are likely to be: what this process has leased itself.

Module state, for the agent's sake: a lease's file is named by the address, and who releases knows the owner only. A
hint and no more: whoever asks looks at the files, and finds the lease by reading the folder where there is no hint.
"""

from _thread import allocate_lock

_AT_MOST = 4096  # owners, some 300 bytes each; of more, those that leased last

_addresses: dict[tuple[str, ...], tuple[str, ...]] = {}
_lock = allocate_lock()


def remember(key: tuple[str, ...], addresses: tuple[str, ...]) -> None:
    """Note the addresses of the owner that `key` stands for."""
    with _lock:
        _addresses[key] = addresses
        if len(_addresses) > _AT_MOST:
            del _addresses[next(iter(_addresses))]


def recall(key: tuple[str, ...]) -> tuple[str, ...]:
    """What was noted last, and forget it."""
    with _lock:
        return _addresses.pop(key, ())
