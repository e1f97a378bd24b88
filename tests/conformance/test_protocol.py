"""How a plugin is called and answers: variables, configuration, versions, errors (spec sections 2 and 5)."""

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
    """The claim holds for the interface plugin and for the IPAM plugin."""
    return request.param


def refusal(cni: CNI, plugin: str, env: dict[str, str], stdin: str) -> CNIFailure:
    """The error with which the call is refused."""
    with pytest.raises(CNIFailure) as caught:
        cni.answer(plugin, env, stdin)
    return caught.value


def test_version_answers_with_the_versions_supported(cni: CNI, plugin: str) -> None:
    """VERSION prints cniVersion and the list of versions, the current one among them, each once."""
    answer = cni.answer(plugin, cni.environ("VERSION"), '{"cniVersion": "1.1.0"}')
    assert answer["cniVersion"] == "1.1.0"
    assert set(answer["supportedVersions"]) >= {"0.4.0", "1.0.0", "1.1.0"}
    assert len(set(answer["supportedVersions"])) == len(answer["supportedVersions"])


@pytest.mark.parametrize("asked", ["0.2.0", "0.4.0", "1.0.0"])
def test_version_answers_in_a_version_of_the_list(cni: CNI, plugin: str, asked: str) -> None:
    """The cniVersion of the answer is the one on stdin, as section 5 has it, or the newest, as practice has it."""
    answer = cni.answer(plugin, cni.environ("VERSION"), json.dumps({"cniVersion": asked}))
    assert answer["cniVersion"] in {asked, answer["supportedVersions"][-1]}


def test_version_needs_no_configuration(cni: CNI, plugin: str) -> None:
    """VERSION answers with nothing on stdin and no other variable set, as runtimes older than 1.0 ask."""
    assert cni.answer(plugin, {"CNI_COMMAND": "VERSION"}, "")["supportedVersions"]


def test_every_version_it_lists_works(cni: CNI, pod: Pod) -> None:
    """An ADD and a DEL in each version of the list succeed, and answer in it."""
    versions = cni.answer("bridge", cni.environ("VERSION"), '{"cniVersion": "1.1.0"}')["supportedVersions"]
    for version in versions:
        conf = network(version=version)
        assert cni.add(conf, pod)["cniVersion"] == version
        cni.delete(conf, pod)


def test_without_a_command_it_tells_about_itself(cni: CNI, plugin: str) -> None:
    """Started by hand, without CNI_COMMAND, it names itself or its versions on stderr, and stdout stays empty."""
    done = cni.raw(plugin, {}, "")
    assert (done.returncode, done.stdout) == (0, "")
    assert "1.1.0" in done.stderr


def test_unknown_command_is_refused(cni: CNI, pod: Pod, plugin: str) -> None:
    """A command that is none, also one in lower case, is error 4 and names the variable."""
    for command in ("FROB", "add"):
        error = refusal(cni, plugin, cni.environ(command, pod), CONF)
        assert error.code == 4
        assert "CNI_COMMAND" in error.text


@pytest.mark.parametrize(("verb", "variable"), [(verb, name) for verb, names in REQUIRED.items() for name in names])
def test_missing_variable_is_refused(cni: CNI, pod: Pod, plugin: str, verb: str, variable: str) -> None:
    """A missing required variable is error 4 and named; an empty one counts as missing."""
    env = cni.environ(verb, pod)
    for value in ({}, {variable: ""}):
        error = refusal(cni, plugin, {k: v for k, v in env.items() if k != variable} | value, CONF)
        assert error.code == 4
        assert variable in error.text


@pytest.mark.parametrize("verb", REQUIRED)
def test_all_missing_variables_are_told_at_once(cni: CNI, plugin: str, verb: str) -> None:
    """One error names every variable that is missing."""
    error = refusal(cni, plugin, cni.environ(verb), CONF)
    assert error.code == 4
    assert all(name in error.text for name in REQUIRED[verb])


@pytest.mark.parametrize("container_id", ["-a", ".a", "a/b", "a b", "a;b", "ä", "a\n"])
def test_invalid_container_id_is_refused(cni: CNI, pod: Pod, plugin: str, container_id: str) -> None:
    """A container id that is no letter or digit and then letters, digits, "_", "." and "-" is error 4."""
    assert refusal(cni, plugin, cni.environ("ADD", pod, containerid=container_id), CONF).code == 4


@pytest.mark.parametrize("ifname", ["a" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb"])
def test_invalid_ifname_is_refused(cni: CNI, pod: Pod, plugin: str, ifname: str) -> None:
    """An interface name that Linux would not take is error 4."""
    assert refusal(cni, plugin, cni.environ("ADD", pod, ifname=ifname), CONF).code == 4


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("stdin", ["", "{", "[]", '"text"', "7", CONF + "x", CONF + CONF, CONF[:-1]])
def test_undecodable_configuration_is_refused(cni: CNI, pod: Pod, plugin: str, verb: str, stdin: str) -> None:
    """What is not exactly one JSON object is error 6, whatever the verb."""
    assert refusal(cni, plugin, cni.environ(verb, pod), stdin).code == 6


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", [None, "", "-net", "a/b", "../net", "a b", "näh"])
def test_missing_or_invalid_network_name_is_refused(cni: CNI, pod: Pod, plugin: str, verb: str, name: str) -> None:
    """A configuration without a name, or with one that is no identifier, is error 7."""
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
    """cniVersion came with 0.2.0, so a configuration without it is answered in the shape of 0.1.0."""
    result = cni.add(network(version=None), pod)
    assert result["ip4"]["ip"] == "10.1.2.2/24"


def test_keys_match_without_regard_to_case(cni: CNI, pod: Pod) -> None:
    """Administrators' files say "IPAM", "Bridge" and "RuntimeConfig", and it has always worked."""
    conf = {"CNIVersion": "1.1.0", "Name": "net", "type": "bridge", "Bridge": "br0", "MTU": 1400}
    conf |= {"IPAM": {"Type": "host-local", "Subnet": "10.1.2.0/24"}, "RuntimeConfig": {"Mac": "c2:b0:57:49:47:f1"}}
    assert cni.add(conf, pod)["ips"][0]["address"] == "10.1.2.2/24"
    link = pod.links()["eth0"]
    assert (link["mtu"], link["address"]) == (1400, "c2:b0:57:49:47:f1")


def test_null_is_absent(cni: CNI, pod: Pod) -> None:
    """A key with the value null is as good as none."""
    nulls = dict.fromkeys(("mtu", "ipMasq", "dns", "args", "runtimeConfig", "prevResult", "hairpinMode"))
    conf = network() | nulls
    conf["ipam"] |= {"routes": None, "resolvConf": None}
    assert cni.add(conf, pod)["ips"][0]["address"] == "10.1.2.2/24"


def test_what_a_runtime_adds_is_no_error(cni: CNI, pod: Pod) -> None:
    """Keys of libcni, capabilities and arguments of other plugins, and comments are let pass."""
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
    """A value of the wrong type, or out of range, is an error, and nothing was made."""
    before = traces(node, pod)
    refusal(cni, "bridge", cni.environ("ADD", pod), json.dumps(network() | keys))
    assert traces(node, pod) == before


@pytest.mark.parametrize("args", ["IP", "IP=10.1.2.7=3", "FOO=bar", "IgnoreUnknown=maybe"])
def test_malformed_or_unknown_args_are_refused(ipam: CNI, node: Node, pod: Pod, args: str, refused: Refused) -> None:
    """CNI_ARGS is KEY=VALUE;KEY=VALUE, of known keys unless IgnoreUnknown is set; nothing was leased."""
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
    """CNI_ARGS as containerd and CRI-O set it is no error in any verb."""
    conf = network()
    result = cni.add(conf, pod, args=args)
    cni.check(conf, pod, result, args=args)
    cni.delete(conf, pod, result, args=args)


@pytest.mark.parametrize("version", VERSIONS)
def test_error_is_refused_in_every_version_alike(cni: CNI, pod: Pod, version: str) -> None:
    """An ADD that fails answers an error object, not a result, in whatever version was asked."""
    env = cni.environ("ADD", pod, netns="/run/netns/nowhere")
    assert refusal(cni, "bridge", env, json.dumps(layer2(version))).msg
