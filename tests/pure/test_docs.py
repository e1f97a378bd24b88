"""The documentation matches the code: every key, verb, error, link and command in it."""

import ast
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipam import host_local
from linux.nftables import expressions, statements
from linux.rtnl import vxlan
from plugins import bridge
from plugins.__main__ import TYPES
from plugins.node import conf, peers, pods, records, tunnel
from spec.config import Section
from spec.plugin import Plugin, serve
from spec.request import Request
from spec.result import IPConfig, Result
from spec.verbs import VERBS
from tests.conftest import ROOT
from tests.pure.test_lint import MAY_IMPORT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PLUGINS = [kind for kind in TYPES if ROOT / "docs" / f"{kind}.md" in PAGES]
CONFLISTS = sorted((ROOT / "docs" / "conflists").glob("*.conflist"))
SHARED = {"vxlan": ("kubenet.md",), "kubenet": ("vxlan.md",)}
"""Pages that have keys of the modules of a plugin, beside its own page and docs/protocol.md."""

LEGACY_RANGE = ("subnet", "rangeStart", "rangeEnd", "gateway")
GETTERS = {
    "boolean": "boolean",
    "integer": "integer",
    "string": "string",
    "strings": "list of strings",
    "section": "object",
    "sections": "list of objects",
    "groups": "list of lists",
    "raw": "",
    "has": "",
    "mentions": "",
}
"""The ways to ask a Section for a key, and the type that each wants as docs/ writes it."""

EVERYTHING = {
    "cniVersion": "1.1.0",
    "name": "net",
    "capabilities": {"ips": True},
    "dns": {"nameservers": ["192.0.2.53"]},
    "prevResult": {"cniVersion": "1.1.0"},
    "cni.dev/valid-attachments": [{"containerID": "pod", "ifname": "eth0"}],
    "runtimeConfig": {"ipRanges": [[{"subnet": "10.4.0.0/24"}]], "ips": ["10.4.0.7"]},
    "args": {"cni": {"ips": ["10.3.0.7"]}},
    "vlanTrunk": [{"id": 5}, {"minID": 7, "maxID": 9}],
    "ipam": {"subnet": "10.2.0.0/24", "ranges": [[{"subnet": "10.3.0.0/24"}]], "routes": [{"dst": "10.9.0.0/16"}]},
}
"""A configuration with every section, so that whatever is read in one is asked for."""


@pytest.mark.parametrize("path", CONFLISTS, ids=lambda path: path.stem)
def test_examples_suit_old_and_new_runtimes(path: Path) -> None:
    """Every example has cniVersion 1.0.0 for older runtimes, and cniVersions with 1.1.0 for runtimes that read it."""
    conflist = json.loads(path.read_text())
    assert (conflist["cniVersion"], conflist["cniVersions"]) == ("1.0.0", ["1.0.0", "1.1.0"])
    assert not any("cniVersion" in plugin for plugin in conflist["plugins"])


def cells(page: str | Path, column: str) -> list[str]:
    """The cells in that column of all tables on a page of docs/."""
    found: list[str] = []
    index = None
    for line in (ROOT / "docs" / page).read_text().splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        index = None if not row else row.index(column) if column in row else index
        if index is not None and row[index] != column and set(row[index]) != {"-"}:
            found.append(row[index])
    return found


def documented(page: str | Path) -> dict[str, str]:
    """The configuration keys in the tables of a page of docs/, with their types."""
    return {key.strip("`"): kind for key, kind in zip(cells(page, "key"), cells(page, "type"), strict=True)}


def asked(plugin: Plugin, stdin: dict, monkeypatch: pytest.MonkeyPatch, *verbs: str) -> dict[str, str]:
    """The configuration keys that serving these verbs reads, as paths in the form of docs/, and their types."""
    keys: dict[str, str] = {}
    for name in GETTERS:
        original = getattr(Section, name)

        def recording(self: Section, key: str, *more: object, original=original, kind=GETTERS[name], **named: object):
            path = re.sub(r"\[\d+\]", "[]", self.path_of(key))
            keys[path] = kind or keys.get(path, "")
            return original(self, key, *more, **named)

        monkeypatch.setattr(Section, name, recording)
    environ = {"CNI_CONTAINERID": "pod", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
    for verb in verbs:
        stdout, stderr = io.BytesIO(), io.StringIO()
        data = io.BytesIO(json.dumps(stdin).encode())
        status = serve(plugin, environ={**environ, "CNI_COMMAND": verb}, stdin=data, stdout=stdout, stderr=stderr)
        assert status == 0, f"{verb} stopped half way, so not all keys were asked for: {stdout.getvalue()}"
    monkeypatch.undo()
    elsewhere = ("prevResult.", "cni.dev/valid-attachments[", "capabilities.")
    return {key: kind for key, kind in keys.items() if not key.startswith(elsewhere)}


def compare(found: dict[str, str], pages: dict[str, str]) -> None:
    """Compare the keys that are read with those of the pages, and their types."""
    assert set(found) == set(pages)
    assert {key: kind for key, kind in found.items() if not pages[key].startswith(kind)} == {}


def reading_bridge(request: Request) -> Result:
    """Read what `bridge` and the protocol read from a configuration, and do nothing else."""
    bridge.parse(request)
    assert request.conf.prev_result == Result()
    assert request.valid_attachments
    return Result(ips=(IPConfig("10.1.2.3/24"),))


def test_bridge_s_page_has_every_key_that_is_read_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of docs/bridge.md and the common keys of docs/protocol.md are those that an ADD reads."""
    conf = {key: value for key, value in EVERYTHING.items() if key != "ipam"} | {"type": "bridge"}
    found = asked(Plugin("bridge", add=reading_bridge), conf, monkeypatch, "ADD")
    del conf["cni.dev/valid-attachments"]
    found |= asked(Plugin("bridge", gc=lambda _request: None), conf, monkeypatch, "GC")
    compare(found, documented("bridge.md") | documented("protocol.md"))


def test_host_local_s_page_has_every_key_that_is_read_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The keys of docs/host-local.md and the common keys are those that its verbs read."""
    conf = EVERYTHING | {"type": "host-local", "ipam": {**EVERYTHING["ipam"], "dataDir": str(tmp_path)}}
    found = asked(host_local.PLUGIN, conf, monkeypatch, "DEL", "STATUS", "ADD", "CHECK", "GC", "DEL")
    del conf["cni.dev/valid-attachments"]
    found |= asked(host_local.PLUGIN, conf, monkeypatch, "GC")
    prefixes = re.compile(r"^(ipam\.ranges|runtimeConfig\.ipRanges)\[\]\[\]\.")
    found = {prefixes.sub("", key): kind for key, kind in found.items()}
    # A DEL takes the two keys from `ipam` and reads a section made of only these.
    found = {re.sub(r"^(dataDir|cooldown)$", r"ipam.\1", key): kind for key, kind in found.items()}
    for key in LEGACY_RANGE:
        assert found.pop(f"ipam.{key}") in ("", "string")
    compare(found, documented("host-local.md") | documented("protocol.md"))


def reading_node(request: Request) -> None:
    """Read what `kubenet` reads from a configuration, and do nothing else."""
    node = conf.parse(request)
    peers.read_records(request)
    pods.pod_conf(pods.with_ipam(request, node.subnets), node, 1500)
    assert request.conf.prev_result == Result()
    assert request.valid_attachments


def reading_tunnel(request: Request) -> None:
    """Read what `vxlan` reads from a configuration, and do nothing else."""
    reading_node(request)
    tunnel.parse(request)


@pytest.mark.parametrize(
    ("kind", "reading", "pages"),
    [("kubenet", reading_node, ["kubenet.md"]), ("vxlan", reading_tunnel, ["kubenet.md", "vxlan.md"])],
)
def test_the_pages_of_kubenet_and_vxlan_have_every_key_that_is_read_and_no_other(
    kind: str, reading: Callable[[Request], None], pages: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The keys of their pages and the common keys are those that they read."""
    peer = {"name": "b", "addresses": ["192.0.2.2"], "podCIDRs": ["10.244.2.0/24"], "vtepMAC": "02:24:0a:f4:02:00"}
    (tmp_path / "node.json").write_text('{"podCIDRs": ["10.244.1.0/24"]}')
    more = {"type": kind, "peers": [peer], "ipam": {}, "subnetFile": str(tmp_path / "node.json")}
    plugin = Plugin(kind, check=reading, gc=lambda _request: None)
    found = asked(plugin, EVERYTHING | more, monkeypatch, "CHECK")
    stdin = {key: value for key, value in (EVERYTHING | more).items() if key != "cni.dev/valid-attachments"}
    found |= asked(plugin, stdin, monkeypatch, "GC")
    expected = documented("protocol.md")
    for page in pages:
        expected |= documented(page)
    compare(found, expected)


def test_the_default_files_are_documented() -> None:
    """docs/kubenet.md has the paths of both files, and its examples of their content can be parsed."""
    page = documented_defaults("kubenet.md")
    assert page["subnetFile"] == f'`"{records.NODE_FILE}"`'
    assert page["peersFile"] == f'`"{records.PEERS_FILE}"`'
    text = (ROOT / "docs" / "kubenet.md").read_text()
    subnet, peers = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert set(subnet) == {cell.strip("`") for cell in cells("kubenet.md", "entry")}
    assert [peer.name for peer in records.parse_peers(Section(peers))] == ["b", "c"]


def documented_defaults(page: str) -> dict[str, str]:
    """The defaults of the keys in a page's table."""
    return {key.strip("`"): default for key, default in zip(cells(page, "key"), cells(page, "default"), strict=True)}


@pytest.mark.parametrize(
    ("mtu", "row"), [(1500, "on a link of 1500"), (1460, "of 1460"), (9001, "of 9001"), (0, "**together**")]
)
def test_the_table_of_mtus_is_correct(mtu: int, row: str) -> None:
    """docs/vxlan.md has the overhead that the code subtracts, and its parts add up to it."""
    text = (ROOT / "docs" / "vxlan.md").read_text()
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in text.splitlines()]
    numbers = {cells[0]: [int(cell) for cell in cells[1:]] for cells in rows if "".join(cells[1:]).isdigit()}
    taken = [vxlan.overhead(local) for local in ("192.0.2.1", "2001:db8::1")]
    assert numbers[row.strip("*")] == ([mtu - one for one in taken] if mtu else taken)
    parts = [numbers[name] for name in numbers if "header" in name]
    assert [sum(column) for column in zip(*parts, strict=True)] == taken


@pytest.mark.parametrize("kind", PLUGINS)
def test_every_key_in_the_code_is_documented(kind: str) -> None:
    """Every key passed to a getter in a plugin's modules is on its page or in docs/protocol.md."""
    pages = (f"{kind}.md", "protocol.md", *SHARED.get(kind, ()))
    names = {key.rpartition(".")[2] for page in pages for key in documented(page)}
    read = {key for module in modules_of(TYPES[kind]) for key in keys_in(ast.parse(module.read_text()))}
    assert read <= names


def modules_of(name: str) -> set[Path]:
    """The files of a module in plugins/ and ipam/: its own, and those of all it imports except other plugins."""
    found: set[Path] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        path = ROOT / (module.replace(".", "/") + ".py")
        is_another = module != name and module in TYPES.values()
        if is_another or path in found or module.partition(".")[0] not in ("plugins", "ipam") or not path.exists():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_every_plugin_has_a_page() -> None:
    """docs/ has a page for every CNI type of the suite, named after it."""
    assert list(TYPES) == PLUGINS


def keys_in(tree: ast.AST) -> Iterator[str]:
    """The first arguments of all getters, where they are literals."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name), args=[ast.Constant(value=str() as key), *_]) if (
                name in GETTERS
            ):
                yield key


@pytest.mark.parametrize("page", [*(f"{kind}.md" for kind in PLUGINS), "protocol.md", "troubleshooting.md"])
def test_quoted_messages_are_those_of_the_code(page: str) -> None:
    """The longest constant part of every message that a page quotes is in the code."""
    rooms = ("spec", "state", "ipam", "linux", "rules", "plugins")
    code = "".join(path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # join literals that span two lines
    where = [cell for column in ("errors", "message", "examples") for cell in cells(page, column)]
    where += re.findall(r"^\*\*.*?\*\*", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    quoted = [message for cell in where for message in messages(cell)]
    assert [message for message in quoted if fixed_part(message) not in code and not is_the_systems(message)] == []


def messages(text: str) -> list[str]:
    """The quotations that are sentences rather than keys or values."""
    return [quoted for quoted in re.findall(r"`([^`]+)`", text) if " " in quoted]


def fixed_part(message: str) -> str:
    """The longest part of a message without variable parts: names, numbers, addresses, quotations."""
    names = r'"[^"]*"|\[[^]]*\]|/[\w/]+|\b(?:[A-Z]|ID|GC|CNI_\w+)\b'
    varying = rf"{names}|: |failed to|\.\.\.|\b[\d./:-]*\d[\d./:-]*\b"
    return max((part.strip(" :-") for part in re.split(varying, message)), key=len)


def is_the_systems(message: str) -> bool:
    """Whether it is a message of the operating system, which our sources do not have."""
    texts = ("Read-only file system", "Operation not supported", "No such file or directory")
    return any(text in message for text in texts)


def test_the_table_of_verbs_matches_the_code() -> None:
    """docs/protocol.md has the verbs, their first version and their variables."""
    columns = [cells("protocol.md", name) for name in ("verb", "since", "needs", "may have")]
    documented_verbs = {
        verb: (since, words(needs), words(optional)) for verb, since, needs, optional in zip(*columns, strict=True)
    }
    expected = {verb.name: (verb.since, set(verb.required), set(verb.optional)) for verb in VERBS.values()}
    assert documented_verbs == expected


def words(cell: str) -> set[str]:
    """The words in backticks in a cell."""
    return set(re.findall(r"`(\w+)`", cell))


def test_the_table_of_packages_matches_the_lint_rule() -> None:
    """docs/architecture.md has every package and the packages that it may import."""
    table = zip(cells("architecture.md", "package"), cells("architecture.md", "may import"), strict=True)
    rows = {package.strip("`/"): allowed for package, allowed in table}
    assert set(rows) == {*MAY_IMPORT, "launcher"}
    for package, allowed in MAY_IMPORT.items():
        above = set(list(rows)[: list(rows).index(package)])
        assert MAY_IMPORT.keys() & allowed == (above if rows[package] == "all above" else words(rows[package]))


def test_documented_functions_for_nftables_expressions_exist() -> None:
    """The names in docs/nftables.md are functions of linux/nftables/expressions.py and statements.py."""
    names = {name for cell in cells("nftables.md", "function") for name in words(cell)}
    functions = vars(expressions) | vars(statements)
    assert {name for name in names if not callable(functions.get(name))} == set()
    assert "ip_saddr" in names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_are_valid(page: Path) -> None:
    """Every relative link has an existing file as its target, and an existing heading if it has an anchor."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_files_exist(page: Path) -> None:
    """Every module, script or folder of the repository that a page has in backticks exists."""
    tops = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")))
    named = re.findall(rf"`((?:{tops})/[\w./-]*)`", page.read_text())
    made = ("build/", "dist/")
    assert [name for name in named if not (ROOT / name).exists() and not name.startswith(made)] == []


def test_all_pages_are_linked() -> None:
    """Every page and every example under docs/ has a link on some page."""
    text = "".join(page.read_text() for page in PAGES)
    for path in [*(ROOT / "docs").glob("*.md"), *CONFLISTS]:
        link = rf"\((?:docs/)?(?:conflists/)?{re.escape(path.name)}[)#]"
        assert re.search(link, text) or path == ROOT / "docs" / "README.md", path.name


def test_commands_in_the_readme_exist() -> None:
    """Every path in its shell blocks is in the repository."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    words = [word for block in blocks for word in re.sub(r"#.*", "", block).split()]
    paths = [word for word in words if re.match(r"(\./|docs/|tests/|bench/|\.ci/)", word) and "*" not in word]
    assert "./demo.sh" in paths
    assert "./test.sh" in paths
    paths += [f"{word.replace('.', '/')}.py" for word in words if word.startswith("bench.")]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_examples_have_different_names() -> None:
    """So a runtime can use the whole folder of conflists."""
    names = [json.loads(path.read_text())["name"] for path in CONFLISTS]
    assert len(names) == len(set(names)) > 0
