"""The protocol's error, into which every other error is converted before it is printed.

Exception
├── CNIError             has a code, and is printed as it is
│   ├── spec.delegate._NotIPAM          (7) ipam.type does not name an IPAM plugin
│   └── plugins.pod.host_bridge.BridgeGone  (11) the bridge was deleted during the ADD
├── OSError              `linux.errors.step` makes it a CNIError: 999, or 11 for a shortage
│   └── linux.netlink.socket.NetlinkError   the kernel refused a request
└── anything else        a bug: `as_cni_error` makes it 999
"""

from collections.abc import Sequence
from errno import EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM

_SHORTAGES = frozenset({EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM})


class Code:
    """Error codes of the CNI specification 1.1.0 (section 5, "Error") and of libcni."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_NETWORK_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN_LATER = 11
    PLUGIN_NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    INTERNAL = 999


class CNIError(Exception):
    """A failure as reported to the runtime: `code` (int), `msg` (one sentence), `details` (may be empty)."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details

    def __str__(self) -> str:
        return f"{self.msg}: {self.details}" if self.details else self.msg

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CNIError):
            return NotImplemented
        return (self.code, self.msg, self.details) == (other.code, other.msg, other.details)

    __hash__ = Exception.__hash__


def raise_problems(problems: Sequence[str], code: int = Code.INTERNAL) -> None:
    """Raise a CNIError with the first problem as its message and the others as its details, if there are any."""
    if problems:
        raise CNIError(code, problems[0], "; ".join(problems[1:]))


def is_shortage(error: BaseException) -> bool:
    """Whether the node is short of memory, file descriptors or processes, so that a later attempt may succeed."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SHORTAGES)


def came_of_shortage(error: BaseException) -> bool:
    """Whether an exception is a shortage, or was raised because of one."""
    return is_shortage(error) or (error.__cause__ is not None and is_shortage(error.__cause__))


def code_of(error: BaseException, otherwise: int = Code.INTERNAL) -> int:
    """The error code (int) of an exception: 11 for a shortage, else `otherwise`."""
    return Code.TRY_AGAIN_LATER if is_shortage(error) else otherwise


def as_cni_error(error: BaseException) -> CNIError:
    """The error itself if it is a CNIError, else one that names its type, with code 11 for a shortage or 999."""
    if isinstance(error, CNIError):
        return error
    name, text = type(error).__name__, str(error)
    return CNIError(code_of(error), f"{name}: {text}" if text else name)
