"""The daemon's configuration: every mistake is told at once, with its line."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import AddressConf, Config, ConfigError, ConflistConf, check, read

SMALLEST = 'cluster = "10.244.0.0/16"\n'
EXAMPLE = """mode = "vxlan"
cluster = ["10.244.0.0/16", "fd00:244::/48"]
registry = "file:///srv/nodes"
node = "a"
allocate = [25, 64]
exclude = ["10.244.0.0/24"]
clusterName = "north"
[address]
interface = "eth1"
[vxlan]
vni = 7
directRouting = true
ipam = {type = "host-local", cooldown = 60}
[kubenet]
bridge = "br0"
[conflist]
path = "/srv/cni/05-x.conflist"
cniVersion = "1.1.0"
name = "pods"
plugins = [{type = "portmap", capabilities = {portMappings = true}}, {type = "bandwidth", any = {thing = [1]}}]
"""


def checked(tmp_path: Path, text: str, **environ: str) -> list[str]:
    """The mistakes in a text, without the file's name."""
    path = tmp_path / "slash24.toml"
    path.write_text(text)
    found = check(str(path), environ)
    assert all(sentence.startswith(f"{path}:") for sentence in found)
    return [sentence.removeprefix(f"{path}:") for sentence in found]


def parsed(tmp_path: Path, text: str, **environ: str) -> Config:
    """The configuration that a text without mistakes is."""
    assert checked(tmp_path, text, **environ) == []
    return read(str(tmp_path / "slash24.toml"), environ)


def test_everything_is_read(tmp_path: Path) -> None:
    """Each key has its place in the value; tables of other modes and registries are allowed."""
    assert parsed(tmp_path, EXAMPLE) == Config(
        mode="vxlan",
        cluster=("10.244.0.0/16", "fd00:244::/48"),
        registry="file:///srv/nodes",
        node="a",
        allocate=(25, 64),
        exclude=("10.244.0.0/24",),
        cluster_name="north",
        address=AddressConf(interface="eth1"),
        conflist=ConflistConf(
            "/srv/cni/05-x.conflist", "1.1.0", "pods", tuple(tomllib.loads(EXAMPLE)["conflist"]["plugins"])
        ),
        plugin={"vni": 7, "directRouting": True, "ipam": {"type": "host-local", "cooldown": 60}},
    )


def test_one_key_is_enough(tmp_path: Path) -> None:
    """Everything else has a default."""
    assert parsed(tmp_path, SMALLEST, NODE_NAME="b.example") == Config(
        mode="vxlan",
        cluster=("10.244.0.0/16",),
        registry="file:///var/lib/slash24/nodes",
        node="b.example",
        allocate=(24,),
    )


def test_the_host_s_name_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file comes before NODE_NAME, and that before the host; if none can serve, the key is missing."""
    monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"nodename": "host"}))
    assert parsed(tmp_path, SMALLEST).node == "host"
    assert parsed(tmp_path, SMALLEST + 'node = "c"\n', NODE_NAME="b").node == "c"
    monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"nodename": "(none)"}))
    assert "neither $NODE_NAME nor the host's name" in checked(tmp_path, SMALLEST)[0]


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ('mode = "vxlna"\n', ['1: "mode": expected one of "kubenet", "vxlan", "bridge", got "vxlna"']),
        ("nod = 3\n", ['1: "nod" is not a known key; did you mean "node"?']),
        ("zzzzzzz = 3\n", ['1: "zzzzzzz" is not a known key']),
        ("[vxlan]\nvni = true\n", ['2: "vni": expected an integer of 0 to 16777215, got true']),
        (
            '[vxlan]\nMTU = 100\nvni = -1\nport = "x"\ndevice = "a/b"\n',
            [
                '2: "mtu": expected at least 1280',
                '3: "vni": expected an integer of 0',
                '4: "port": expected an integer of 1 to 65535, got "x"',
                '5: "device": expected a link name',
            ],
        ),
        ("[vxlan]\ndirectRoutng = true\n", ['2: "directRoutng" is not a known key; did you mean "directRouting"?']),
        ("[vxlan]\nclusterCIDRs = []\n", ['2: "clusterCIDRs" must not be set here: set "cluster"']),
        ("[vxlan]\nipam = {coldown = 60}\n", ['2: "ipam.coldown" is not a known key; did you mean "cooldown"?']),
        ("[vxlan.ipam]\ncooldown = -1\n", ['2: "ipam.cooldown": expected an integer of at least 0']),
        ('[bridge]\nipam.type = "x"\n[vxlan.ipam]\ntype = "other"\nany = 1\n', []),
        ('mode = "bridge"\n[bridge.ipam]\nroutes = [{dst = "x"}]\n', ['3: "ipam.routes[0].dst"']),
        ("vxlan = 3\n", ['1: "vxlan": expected a table, got 3']),
        ("[vxlan]\nvni = 1\n\n[address]\nipz = []\n", ['5: "address.ipz" is not a known key; did you mean "ips"?']),
        ('[address]\nips = ["x"]\nnetwork = "192.0.2.1/24"\n', ['1: "address": expected only one', "2:", "3:"]),
        ('[conflist]\npath = "/x.conf"\nname = "/"\ncniVersion = "2"\n', ["2:", "3:", "4:"]),
        ('[conflist]\nplugins = [\n {type = "portmap"},\n {type = "vxlan"},\n {typ = "x"},\n]\n', ["4:", "5:"]),
        ('[[conflist.plugins]]\ntype = "a"\ncapabilities = {x = 1}\n', ['3: "conflist.plugins[0].capabilities.x"']),
        ('[[conflist.plugins]]\ntype = "a"\nname = "b"\n', ['3: "conflist.plugins[0].name": expected nothing']),
        ('registry = "file://x"\n[file]\npoll = 0\n', ['1: "registry": expected "file://" and an absolute path']),
        ("[file]\npoll = 0\npol = 1\n", ['2: "poll": expected an integer of 1 to 3600', '3: "pol" is not a known key']),
        ('registry = "consul://x"\n', ['1: "registry": expected "kubernetes", "etcd://']),
        ("allocate = [24, 25]\n", ['1: "allocate": expected one length per address family']),
        ('allocate = ["x"]\n', ['1: "allocate": expected lengths of subnets']),
        ("allocate = [8]\n", ['1: "allocate": expected lengths of subnets for which "cluster" has room']),
        ('clusterName = "a b"\n', ['1: "clusterName": expected a name']),
        (
            "when = 2020-01-01\n",
            ['1: "when": expected a text, a number, true, false, a list or a table, got 2020-01-01'],
        ),
        ("a = [1, {b = nan}]\n", ['1: "a[1].b": expected a text', '1: "a" is not']),
        ("mode = 0xffffffffffffffffff\n", ['1: "mode": expected an integer of at most 64 bits']),
    ],
)
def test_every_mistake_is_told(tmp_path: Path, text: str, mistakes: list[str]) -> None:
    """With its line (here that after the cluster's), what is expected, and what is there."""
    found = checked(tmp_path, f'cluster = ["10.244.0.0/16", "fd00:244::/48"]\n{text}')
    lines = [f"{int(line) - 1}:{rest}" for line, _, rest in (sentence.partition(":") for sentence in found)]
    assert len(lines) == len(mistakes), lines
    assert [one for one, expected in zip(lines, mistakes, strict=True) if not one.startswith(expected)] == []


@pytest.mark.parametrize(
    ("cluster", "mistake"),
    [
        ("", 'expected the networks of all pods, such as ["10.244.0.0/16"], got nothing'),
        ("cluster = 3", "expected a list of networks, got 3"),
        (
            'cluster = ["10.244.0.1/16"]',
            'expected a network like "10.244.0.0/16", without host bits, got "10.244.0.1/16"',
        ),
        ('cluster = ["10.0.0.0/8", "10.244.0.0/16"]', "expected a network that does not overlap 10.0.0.0/8"),
        ('cluster = "10.244.0.0/28"', "no IPv4 network has for a /24"),
        ('cluster = "10.244.0.0/16"\nallocate = [24, 64]', "no IPv6 network has for a /64"),
    ],
)
def test_the_cluster_s_networks_are_checked(tmp_path: Path, cluster: str, mistake: str) -> None:
    """They must be there, apart from each other, and have room for the subnets."""
    (found,) = checked(tmp_path, cluster)
    assert mistake in found


def test_mistakes_beside_syntax_errors_are_told(tmp_path: Path) -> None:
    """In the order of their lines; what the wrong line may have set is not reported as missing."""
    found = checked(tmp_path, "cluster =\nnod = 1\n[vxlan]\nvni = 'x'\n")
    assert [sentence.partition(":")[0] for sentence in found] == ["1", "2", "4"]


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    """A file that is not there, too large, a folder, or not UTF-8."""
    path = tmp_path / "slash24.toml"
    assert check(str(path), {}) == [f"{path}: cannot be read: No such file or directory"]
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    assert check(str(path), {}) == [f"{path}:2: expected UTF-8, got the byte 0xff"]
    path.write_text("#" * (1 << 17))
    assert "more than 65536 bytes" in check(str(path), {})[0]
    assert "not a regular file" in check(str(tmp_path), {})[0]
    path.write_text("\n" + "a." * 30_000 + "a = 1\n")
    assert check(str(path), {}) == [f"{path}:2: expected at most 8192 characters in a line"]


def test_read_raises_all_mistakes(tmp_path: Path) -> None:
    """As `check` lists them."""
    (tmp_path / "slash24.toml").write_text("mode = 1\nnode = 2\n" + SMALLEST)
    with pytest.raises(ConfigError) as raised:
        read(str(tmp_path / "slash24.toml"), {})
    assert list(raised.value.mistakes) == check(str(tmp_path / "slash24.toml"), {})
    assert len(raised.value.mistakes) == 2


def test_a_file_full_of_mistakes_is_told_in_a_hundred_lines(tmp_path: Path) -> None:
    """And the number of the others."""
    found = checked(tmp_path, "".join(f"k{number} = 1\n" for number in range(500)) + SMALLEST)
    assert len(found) == 101
    assert found[-1] == " 400 more mistakes"


values = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text(max_size=8), st.sampled_from([1.5, "10.244.0.0/16", 24, 64, "a"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
top_keys = [
    "mode",
    "cluster",
    "registry",
    "node",
    "allocate",
    "exclude",
    "address",
    "conflist",
    "vxlan",
    "bridge",
    "file",
]
sub_keys = ["path", "name", "plugins", "ips", "network", "interface", "vni", "mtu", "ipam", "type", "vlanTrunk", "dns"]


def toml(value: object) -> str:
    """A value in one line of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = [each if each.isalnum() or each in "./ -" else f"\\U{ord(each):08x}" for each in value]
        return f'"{"".join(plain)}"'
    return repr(value)


@given(
    st.dictionaries(
        st.sampled_from(top_keys), st.one_of(values, st.dictionaries(st.sampled_from(sub_keys), values, max_size=3))
    )
)
def test_any_values_are_accepted_or_explained(tmp_path_factory: pytest.TempPathFactory, document: dict) -> None:
    """Never a traceback; a configuration without mistakes can be read."""
    path = tmp_path_factory.getbasetemp() / "values.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in document.items()))
    tomllib.loads(path.read_text())
    if not check(str(path), {}):
        assert read(str(path), {}).node


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_bytes_are_explained(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever the file has."""
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(content)
    assert check(str(path), {})
