"""What freeze/ does to imports, in an ordinary interpreter: each test runs in its own process, as a call does."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from freeze.bare import PACKAGES, stage
from plugins.__main__ import TYPES

ROOT = Path(__file__).resolve().parent.parent.parent.parent

HOOK = ROOT / "freeze" / "lean.py"
ROOMS = ("spec", "state", "ipam", "linux", "rules", "plugins")


def reachable(names: Iterable[str]) -> Iterator[str]:
    """These modules of the suite and all that they import, directly or not, wherever the import is."""
    seen, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if name in seen or name.partition(".")[0] not in ROOMS or not path.exists():
            continue
        seen.add(name)
        yield name
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]


MODULES = sorted(reachable(["spec.plugin", *TYPES.values()]))
IMPORT_EVERYTHING = "\n".join(f"import {name}" for name in MODULES)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the build stages it: bare packages, and the compiled methods of all dataclasses."""
    folder = tmp_path_factory.mktemp("bare")
    stage(str(folder))
    code = folder / "dataclass_code.py"
    subprocess.run([sys.executable, "-m", "freeze.precompile", code, *MODULES], cwd=ROOT, check=True)
    return folder


def lean(staged: Path, program: str) -> str:
    """The output of `program` in a new interpreter, after the hook has run."""
    path = [str(staged), str(ROOT), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    start = f"import sys; sys.path[:0] = {path!r}; hook = open({str(HOOK)!r}).read(); exec(hook)\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", start + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_all_modules_of_the_suite_loads_nothing_slow(staged: Path) -> None:
    """None of the modules that make pyroute2 slow to import is loaded."""
    slow = ("asyncio", "ssl", "inspect", "logging", "multiprocessing", "pprint", "subprocess", "threading", "typing")
    program = f"{IMPORT_EVERYTHING}\nprint(*(n for n in {slow} if type(sys.modules.get(n)).__name__ == 'module'))"
    assert lean(staged, program) == ""


def test_a_deferred_module_is_loaded_at_its_first_use(staged: Path) -> None:
    """An attribute of a deferred module is that of the real one."""
    program = """
import inspect
before = type(inspect).__name__
print(before, inspect.signature(lambda a, b: 0), type(sys.modules['inspect']).__name__)
"""
    assert lean(staged, program) == "Deferred (a, b) module"


def test_subprocess_and_random_work_with_deferred_modules(staged: Path) -> None:
    """They find the deferred modules that they use complete: threading, selectors and logging."""
    program = """
import subprocess, random, hashlib
thread_ran = []
import threading
thread = threading.Thread(target=thread_ran.append, args=(1,)); thread.start(); thread.join()
print(subprocess.run(['echo', 'hello'], capture_output=True, text=True).stdout, len(random.randbytes(3)), thread_ran)
"""
    assert lean(staged, program) == "hello\n 3 [1]"


def test_a_deferred_logger_logs(staged: Path) -> None:
    """A module that created its logger when it was imported can still log a warning."""
    program = """
import logging
logger = logging.getLogger('pyroute2.netlink')
logger.addHandler(logging.StreamHandler(sys.stdout))
logger.warning('seen')
"""
    assert lean(staged, program) == "seen"


def test_predefined_attributes_of_deferred_modules_equal_the_real_ones(staged: Path) -> None:
    """Those that are values rather than stand-ins are compared."""
    program = """
from importlib import import_module
checked = []
for name in ('threading', 'pyroute2.config'):
    known = {key: value for key, value in vars(sys.modules[name]).items() if not key.startswith('__')}
    del sys.modules[name]
    real = import_module(name)
    checked += [key for key, value in known.items() if getattr(real, key) == value]
print(*sorted(checked))
"""
    assert lean(staged, program) == "AF_BRIDGE Lock data_plugins_path data_plugins_pkgs local"


def test_other_kinds_of_links_are_still_decoded(staged: Path) -> None:
    """A node has links of kinds that we do not create; a message about a VLAN link is decoded completely."""
    program = """
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
link = {'attrs': [('IFLA_INFO_KIND', 'vlan'), ('IFLA_INFO_DATA', {'attrs': [('IFLA_VLAN_ID', 7)]})]}
sent = ifinfmsg(); sent['attrs'] = [('IFLA_LINKINFO', link)]; sent.encode()
came = ifinfmsg(bytes(sent.data)); came.decode()
print(came.get_attr('IFLA_LINKINFO').get_attr('IFLA_INFO_DATA').get_attr('IFLA_VLAN_ID'))
"""
    assert lean(staged, program) == "7"


def test_dataclasses_get_their_methods_from_the_build(staged: Path) -> None:
    """No class of the suite compiles its methods when it is imported, and the methods work."""
    program = f"""
import builtins, dataclasses
compiled = []
real = builtins.exec
builtins.exec = lambda code, *rest: (compiled.append(code) if isinstance(code, str) else None, real(code, *rest))[1]
{IMPORT_EVERYTHING}
from spec.result import Interface
a, b = Interface('eth0', mac='x'), Interface('eth0', mac='x')
print(len(compiled), a == b, hash(a) == hash(b), "name='eth0'" in repr(a))
try:
    a.name = 'eth1'
except dataclasses.FrozenInstanceError:
    print('frozen')
"""
    assert lean(staged, program) == "0 True True True\nfrozen"


def test_the_environment_is_restored(staged: Path) -> None:
    """A plugin that we execute gets the runtime's variables, not those of our bootloader."""
    program = """
import os
os.environ.update({'LD_LIBRARY_PATH': '/ours', 'LD_LIBRARY_PATH_ORIG': '/theirs', '_PYI_ARCHIVE_FILE': 'x'})
exec(hook)
print(os.environ['LD_LIBRARY_PATH'], [name for name in os.environ if name.startswith(('_PYI', 'LD_LIBRARY_PATH_'))])
"""
    assert lean(staged, program) == "/theirs []"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_bare_package_runs_no_code(staged: Path, package: str) -> None:
    """The package's `__init__` is empty; its submodules are links to the originals."""
    assert (staged / package / "__init__.py").read_text() == ""
    names = {path.name for path in (staged / package).iterdir() if path.is_symlink()}
    assert "__init__.py" not in names
    assert names
