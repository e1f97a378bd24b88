"""STATUS: could an ADD be served?"""

import os

from plugins.tuning import allowlist
from plugins.tuning.conf import TuningConf
from spec.errors import CNIError, Code


def require_ready(conf: TuningConf) -> None:
    """Raises CNIError 50 if the allowlist can not be used or originals can not be saved, 7 for what is not allowed."""
    try:
        patterns = allowlist.read()
    except CNIError as error:
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, error.msg, error.details) from error
    allowlist.require_allowed([sysctl.name for sysctl in conf.sysctls], patterns)
    existing = conf.data_dir
    while not os.path.exists(existing) and existing not in ("", "/"):
        existing = os.path.dirname(existing)
    if not (os.path.isdir(existing or ".") and os.access(existing or ".", os.W_OK | os.X_OK)):
        raise CNIError(Code.PLUGIN_NOT_AVAILABLE, "the originals can not be saved", existing)
