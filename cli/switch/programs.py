"""Programs of the node that do what is not done here."""

import os
import re
import shutil
import subprocess

_SECONDS = 60
_FOLDERS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


def find_program(name: str) -> str:
    """The path of a program, "" if it is not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS])
    return shutil.which(name, path=path) or ""


def run(name: str, *arguments: str) -> str:
    """What a program prints. Raises OSError: it is not installed, does not end, or fails, with what it says."""
    program = find_program(name)
    if not program:
        raise OSError(f"this needs the program {name}, which is not installed")
    try:
        done = subprocess.run([program, *arguments], capture_output=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{name} did not end within {_SECONDS} seconds") from error
    if done.returncode:
        said = re.sub(r"\s+", " ", done.stderr.decode("utf-8", "replace")).strip()
        raise OSError(f"{name} failed: {said}")
    return done.stdout.decode("utf-8", "replace")
