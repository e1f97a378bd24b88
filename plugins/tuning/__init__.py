"""`tuning`: sysctls of a pod's namespace and attributes of its link, set behind the plugin that made it.

The configuration is that of the reference plugin; `docs/tuning.md` has every key.
"""

from spec.errors import CNIError
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD (spec section 4): tune, or leave all as it was. The result is that of the plugin before, with the new MAC."""
    from plugins.tuning.add import tune
    from plugins.tuning.allowlist import read, require_allowed
    from plugins.tuning.conf import parse

    conf = parse(request)
    if conf.sysctls:
        require_allowed([sysctl.name for sysctl in conf.sysctls], read())
    result = request.conf.require_prev_result()
    return tune(request, conf, result)


def delete(request: Request) -> None:
    """DEL: put back what can be put back, forget the rest; never fails for the configuration."""
    from plugins.tuning.restore import restore

    restore(request, _data_dir(request))


def check(request: Request) -> None:
    """CHECK: is everything as configured?"""
    from plugins.tuning.check import check_tuned
    from plugins.tuning.conf import parse

    conf = parse(request)
    request.conf.require_prev_result()
    check_tuned(request, conf)


def gc(request: Request) -> None:
    """GC: forget the originals of attachments that are gone, and their pods with them."""
    from plugins.tuning.restore import forget

    forget(request, _data_dir(request))


def status(request: Request) -> None:
    """STATUS: ready if the configuration is in order and allowed, and originals can be saved."""
    from plugins.tuning.conf import parse
    from plugins.tuning.status import require_ready

    require_ready(parse(request))


def _data_dir(request: Request) -> str:
    from plugins.tuning.conf import DATA_DIR, read_data_dir

    try:
        return read_data_dir(request.conf.section)
    except CNIError as error:
        request.say(f"tuning: {error}")
        return DATA_DIR


PLUGIN = Plugin(type="tuning", add=add, delete=delete, check=check, gc=gc, status=status)
