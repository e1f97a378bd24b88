"""`tuning`: sets sysctls of a pod's namespace and attributes of its link, chained after the plugin that made the link.

The configuration is that of the reference plugin; `docs/tuning.md` lists every key.
"""

from spec.errors import CNIError
from spec.plugin import Plugin
from spec.request import Request
from spec.result import Result


def add(request: Request) -> Result:
    """ADD (spec section 4): apply all settings or none; returns prevResult with the new MAC and MTU."""
    from plugins.tuning.add import tune
    from plugins.tuning.allowlist import read, require_allowed
    from plugins.tuning.conf import parse

    conf = parse(request)
    if conf.sysctls:
        require_allowed([sysctl.name for sysctl in conf.sysctls], read())
    result = request.conf.require_prev_result()
    return tune(request, conf, result)


def delete(request: Request) -> None:
    """DEL: restore what can be restored and delete the backup; ignores errors in the configuration."""
    from plugins.tuning.delete import restore

    restore(request, _data_dir(request))


def check(request: Request) -> None:
    """CHECK."""
    from plugins.tuning.check import check_tuned
    from plugins.tuning.conf import parse

    conf = parse(request)
    request.conf.require_prev_result()
    check_tuned(request, conf)


def gc(request: Request) -> None:
    """GC: delete the backups of deleted attachments."""
    from plugins.tuning.delete import sweep

    sweep(request, _data_dir(request))


def status(request: Request) -> None:
    """STATUS: the configuration is valid and allowed, and the original settings can be saved."""
    from plugins.tuning import allowlist
    from plugins.tuning.conf import check_data_dir, parse

    conf = parse(request)
    allowlist.check_ready(conf.sysctls)
    check_data_dir(conf.data_dir)


def _data_dir(request: Request) -> str:
    from plugins.tuning.conf import DATA_DIR, read_data_dir

    try:
        return read_data_dir(request.conf.section)
    except CNIError as error:
        request.log(f"tuning: {error}")
        return DATA_DIR


PLUGIN = Plugin(type="tuning", add=add, delete=delete, check=check, gc=gc, status=status)
