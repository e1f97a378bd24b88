"""The CNI protocol: variables, configuration, versions, errors (spec sections 2 and 5)."""

import json

import pytest

from tests.conformance.support import Refused, layer2, leases, network, traces
from tests.netns.cni import CNI, VERSIONS, CNIFailure
from tests.netns.node import Node, Pod

REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
VERBS = ("ADD", "CHECK", "DEL", "GC", "STATUS")
CONF = json.dumps(network())


@pytest.fixture(params=["bridge", "host-local"])
def plugin(request: pytest.FixtureRequest) -> str:
    """Each test runs on the interface plugin and on the IPAM plugin."""
    return request.param


def refusal(cni: CNI, plugin: str, env: dict[str, str], stdin: str) -> CNIFailure:
    """The error that the call returns."""
    with pytest.raises(CNIFailure) as caught:
        cni.answer(plugin, env, stdin)
    return caught.value


def test_version_answers_with_the_versions_supported(cni: CNI, plugin: str) -> None:
    """VERSION prints cniVersion and the list of versions, each once, including the current one."""
    answer = cni.answer(plugin, cni.environ("VERSION"), '{"cniVersion": "1.1.0"}')
    assert answer["cniVersion"] == "1.1.0"
    assert set(answer["supportedVersions"]) >= {"0.4.0", "1.0.0", "1.1.0"}
    assert len(set(answer["supportedVersions"])) == len(answer["supportedVersions"])


@pytest.mark.parametrize("asked", ["0.2.0", "0.4.0", "1.0.0"])
def test_version_answers_in_a_version_of_the_list(cni: CNI, plugin: str, asked: str) -> None:
    """The cniVersion of the reply is the one on stdin (section 5), or the newest (common practice)."""
    answer = cni.answer(plugin, cni.environ("VERSION"), json.dumps({"cniVersion": asked}))
    assert answer["cniVersion"] in {asked, answer["supportedVersions"][-1]}


def test_version_needs_no_configuration(cni: CNI, plugin: str) -> None:
    """VERSION works with empty stdin and no other variable, as runtimes older than 1.0 call it."""
    assert cni.answer(plugin, {"CNI_COMMAND": "VERSION"}, "")["supportedVersions"]


def test_every_version_it_lists_works(cni: CNI, pod: Pod) -> None:
    """An ADD and a DEL in each version of the list succeed, with a result of that version."""
    versions = cni.answer("bridge", cni.environ("VERSION"), '{"cniVersion": "1.1.0"}')["supportedVersions"]
    for version in versions:
        conf = network(version=version)
        assert cni.add(conf, pod)["cniVersion"] == version
        cni.delete(conf, pod)


def test_without_a_command_it_tells_about_itself(cni: CNI, plugin: str) -> None:
    """Run by hand, without CNI_COMMAND, it prints its name or versions on stderr, and nothing on stdout."""
    done = cni.raw(plugin, {}, "")
    assert (done.returncode, done.stdout) == (0, "")
    assert "1.1.0" in done.stderr


def test_unknown_command_is_refused(cni: CNI, pod: Pod, plugin: str) -> None:
    """An invalid command, or one in lower case, is error 4, which names the variable."""
    for command in ("FROB", "add"):
        error = refusal(cni, plugin, cni.environ(command, pod), CONF)
        assert error.code == 4
        assert "CNI_COMMAND" in error.text


@pytest.mark.parametrize(("verb", "variable"), [(verb, name) for verb, names in REQUIRED.items() for name in names])
def test_missing_variable_is_refused(cni: CNI, pod: Pod, plugin: str, verb: str, variable: str) -> None:
    """A missing required variable is error 4, which names it; an empty one counts as missing."""
    env = cni.environ(verb, pod)
    for value in ({}, {variable: ""}):
        error = refusal(cni, plugin, {k: v for k, v in env.items() if k != variable} | value, CONF)
        assert error.code == 4
        assert variable in error.text


@pytest.mark.parametrize("verb", REQUIRED)
def test_all_missing_variables_are_told_at_once(cni: CNI, plugin: str, verb: str) -> None:
    """One error names all missing variables."""
    error = refusal(cni, plugin, cni.environ(verb), CONF)
    assert error.code == 4
    assert all(name in error.text for name in REQUIRED[verb])


@pytest.mark.parametrize("container_id", ["-a", ".a", "a/b", "a b", "a;b", "ä", "a\n"])
def test_invalid_container_id_is_refused(cni: CNI, pod: Pod, plugin: str, container_id: str) -> None:
    """A container id that is not a letter or digit followed by letters, digits, "_", "." and "-" is error 4."""
    assert refusal(cni, plugin, cni.environ("ADD", pod, containerid=container_id), CONF).code == 4


@pytest.mark.parametrize("ifname", ["a" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb"])
def test_invalid_ifname_is_refused(cni: CNI, pod: Pod, plugin: str, ifname: str) -> None:
    """An interface name that Linux does not accept is error 4."""
    assert refusal(cni, plugin, cni.environ("ADD", pod, ifname=ifname), CONF).code == 4


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("stdin", ["", "{", "[]", '"text"', "7", CONF + "x", CONF + CONF, CONF[:-1]])
def test_undecodable_configuration_is_refused(cni: CNI, pod: Pod, plugin: str, verb: str, stdin: str) -> None:
    """Stdin that is not exactly one JSON object is error 6, for every verb."""
    assert refusal(cni, plugin, cni.environ(verb, pod), stdin).code == 6


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", [None, "", "-net", "a/b", "../net", "a b", "näh"])
def test_missing_or_invalid_network_name_is_refused(cni: CNI, pod: Pod, plugin: str, verb: str, name: str) -> None:
    """A configuration whose name is missing or not an identifier is error 7."""
    assert refusal(cni, plugin, cni.environ(verb, pod), json.dumps(network(name=name))).code == 7


@pytest.mark.parametrize("verb", VERBS)
def test_unsupported_version_is_refused(cni: CNI, pod: Pod, plugin: str, verb: str) -> None:
    """A configuration of a version that the plugin does not list is error 1."""
    assert refusal(cni, plugin, cni.environ(verb, pod), json.dumps(network(version="9.9.9"))).code == 1


@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")])
def test_verb_of_a_later_version_is_refused(cni: CNI, pod: Pod, plugin: str, verb: str, version: str) -> None:
    """CHECK exists since 0.4.0, GC and STATUS since 1.1.0: error 1 in an older configuration."""
    assert refusal(cni, plugin, cni.environ(verb, pod), json.dumps(network(version=version))).code == 1


def test_configuration_without_a_version_is_0_1_0(cni: CNI, pod: Pod) -> None:
    """cniVersion came with 0.2.0, so a configuration without it gets a result of 0.1.0."""
    result = cni.add(network(version=None), pod)
    assert result["ip4"]["ip"] == "10.1.2.2/24"


def test_keys_match_without_regard_to_case(cni: CNI, pod: Pod) -> None:
    """Keys such as "IPAM", "Bridge" and "RuntimeConfig" in existing files are accepted."""
    conf = {"CNIVersion": "1.1.0", "Name": "net", "type": "bridge", "Bridge": "br0", "MTU": 1400}
    conf |= {"IPAM": {"Type": "host-local", "Subnet": "10.1.2.0/24"}, "RuntimeConfig": {"Mac": "c2:b0:57:49:47:f1"}}
    assert cni.add(conf, pod)["ips"][0]["address"] == "10.1.2.2/24"
    link = pod.links()["eth0"]
    assert (link["mtu"], link["address"]) == (1400, "c2:b0:57:49:47:f1")


def test_null_is_absent(cni: CNI, pod: Pod) -> None:
    """A key with the value null counts as absent."""
    nulls = dict.fromkeys(("mtu", "ipMasq", "dns", "args", "runtimeConfig", "prevResult", "hairpinMode"))
    conf = network() | nulls
    conf["ipam"] |= {"routes": None, "resolvConf": None}
    assert cni.add(conf, pod)["ips"][0]["address"] == "10.1.2.2/24"


def test_what_a_runtime_adds_is_no_error(cni: CNI, pod: Pod) -> None:
    """Keys that libcni adds, capabilities and arguments for other plugins, and comments are accepted."""
    conf = network(
        capabilities={"mac": True, "portMappings": True},
        cniVersions=["1.0.0", "1.1.0"],
        disableCheck=False,
        args={"cni": {"labels": [{"key": "app", "value": "x"}]}, "org.example": 7},
        runtimeConfig={"portMappings": [{"hostPort": 1, "containerPort": 1}], "dns": {"servers": ["9.9.9.9"]}},
        _comment=["of", {"any": "shape"}],
    )
    conf["cni.dev/attachments"] = []
    assert cni.add(conf, pod)["ips"]


@pytest.mark.parametrize(
    "keys",
    [{"mtu": "1500"}, {"isGateway": "true"}, {"ipMasq": 1}, {"bridge": 7}, {"ipam": []}, {"vlan": 5000}, {"dns": "x"}],
    ids=lambda keys: next(iter(keys)),
)
def test_malformed_value_is_refused(cni: CNI, node: Node, pod: Pod, keys: dict) -> None:
    """A value of the wrong type or out of range is an error, and nothing is created."""
    before = traces(node, pod)
    refusal(cni, "bridge", cni.environ("ADD", pod), json.dumps(network() | keys))
    assert traces(node, pod) == before


@pytest.mark.parametrize("args", ["IP", "IP=10.1.2.7=3", "FOO=bar", "IgnoreUnknown=maybe"])
def test_malformed_or_unknown_args_are_refused(ipam: CNI, node: Node, pod: Pod, args: str, refused: Refused) -> None:
    """CNI_ARGS is KEY=VALUE;KEY=VALUE, with known keys unless IgnoreUnknown is set; otherwise nothing is leased."""
    with refused():
        ipam.add(network(), pod, args=args)
    assert not leases(node)


@pytest.mark.parametrize(
    "args",
    ["IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a-1;K8S_POD_INFRA_CONTAINER_ID=f00;K8S_POD_UID=1",
     "K8S_POD_NAME=a;IgnoreUnknown=true", ""],
    ids=["kubelet", "flag last", "empty"],
)  # fmt: skip
def test_args_as_runtimes_send_them_are_accepted(cni: CNI, pod: Pod, args: str) -> None:
    """CNI_ARGS as containerd and CRI-O set it is accepted by every verb."""
    conf = network()
    result = cni.add(conf, pod, args=args)
    cni.check(conf, pod, result, args=args)
    cni.delete(conf, pod, result, args=args)


@pytest.mark.parametrize("version", VERSIONS)
def test_error_is_refused_in_every_version_alike(cni: CNI, pod: Pod, version: str) -> None:
    """An ADD that fails prints an error object, not a result, in every version."""
    env = cni.environ("ADD", pod, netns="/run/netns/nowhere")
    assert refusal(cni, "bridge", env, json.dumps(layer2(version))).msg
