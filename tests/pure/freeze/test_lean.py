"""What freeze/ does to imports, in an ordinary interpreter: each test in a process of its own, as a call would be."""

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
    """The modules of the suite that these modules import, themselves, and what those import, whenever they do."""
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
    """A folder as the build stages it: the bare packages, and the compiled methods of all dataclasses."""
    folder = tmp_path_factory.mktemp("bare")
    stage(str(folder))
    code = folder / "dataclass_code.py"
    subprocess.run([sys.executable, "-m", "freeze.precompile", code, *MODULES], cwd=ROOT, check=True)
    return folder


def lean(staged: Path, program: str) -> str:
    """What `program` prints in a new interpreter, after the hook."""
    path = [str(staged), str(ROOT), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    start = f"import sys; sys.path[:0] = {path!r}; hook = open({str(HOOK)!r}).read(); exec(hook)\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", start + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_every_module_of_the_suite_loads_nothing_slow(staged: Path) -> None:
    """All plugins together do without the modules that make pyroute2 slow to import."""
    slow = ("asyncio", "ssl", "inspect", "logging", "multiprocessing", "pprint", "subprocess", "threading", "typing")
    program = f"{IMPORT_EVERYTHING}\nprint(*(n for n in {slow} if type(sys.modules.get(n)).__name__ == 'module'))"
    assert lean(staged, program) == ""


def test_a_deferred_module_becomes_the_real_one_at_its_first_use(staged: Path) -> None:
    """Nothing is lost: whoever asks a deferred module for something gets it from the real one."""
    program = """
import inspect
before = type(inspect).__name__
print(before, inspect.signature(lambda a, b: 0), type(sys.modules['inspect']).__name__)
"""
    assert lean(staged, program) == "Deferred (a, b) module"


def test_subprocess_and_random_work_on_deferred_modules(staged: Path) -> None:
    """What imports a deferred module for a reason finds it whole: here threading, selectors and logging."""
    program = """
import subprocess, random, hashlib
thread_ran = []
import threading
thread = threading.Thread(target=thread_ran.append, args=(1,)); thread.start(); thread.join()
print(subprocess.run(['echo', 'hello'], capture_output=True, text=True).stdout, len(random.randbytes(3)), thread_ran)
"""
    assert lean(staged, program) == "hello\n 3 [1]"


def test_a_deferred_logger_logs(staged: Path) -> None:
    """A module that made its logger at import still warns when it has to."""
    program = """
import logging
logger = logging.getLogger('pyroute2.netlink')
logger.addHandler(logging.StreamHandler(sys.stdout))
logger.warning('seen')
"""
    assert lean(staged, program) == "seen"


def test_what_deferred_modules_know_is_what_the_real_ones_say(staged: Path) -> None:
    """The attributes known beforehand equal those of the real module, where they are values and not stand-ins."""
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


def test_a_foreign_kind_of_link_is_still_decoded(staged: Path) -> None:
    """A node has links of kinds that are none of ours; a message about a VLAN link comes out whole."""
    program = """
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
link = {'attrs': [('IFLA_INFO_KIND', 'vlan'), ('IFLA_INFO_DATA', {'attrs': [('IFLA_VLAN_ID', 7)]})]}
sent = ifinfmsg(); sent['attrs'] = [('IFLA_LINKINFO', link)]; sent.encode()
came = ifinfmsg(bytes(sent.data)); came.decode()
print(came.get_attr('IFLA_LINKINFO').get_attr('IFLA_INFO_DATA').get_attr('IFLA_VLAN_ID'))
"""
    assert lean(staged, program) == "7"


def test_dataclasses_take_their_methods_from_the_build(staged: Path) -> None:
    """No class of the suite has its methods compiled at import, and they do what they should."""
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


def test_the_environment_is_given_back(staged: Path) -> None:
    """A plugin that we execute sees the variables the runtime set, not those of our bootloader."""
    program = """
import os
os.environ.update({'LD_LIBRARY_PATH': '/ours', 'LD_LIBRARY_PATH_ORIG': '/theirs', '_PYI_ARCHIVE_FILE': 'x'})
exec(hook)
print(os.environ['LD_LIBRARY_PATH'], [name for name in os.environ if name.startswith(('_PYI', 'LD_LIBRARY_PATH_'))])
"""
    assert lean(staged, program) == "/theirs []"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_bare_package_runs_nothing(staged: Path, package: str) -> None:
    """Importing the package itself is an empty file; its sub-modules are the originals."""
    assert (staged / package / "__init__.py").read_text() == ""
    names = {path.name for path in (staged / package).iterdir() if path.is_symlink()}
    assert "__init__.py" not in names
    assert names
