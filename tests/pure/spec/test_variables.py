"""The CNI_* variables: which are required, which values are valid, and which error comes first."""

import pytest

from tests.pure.spec.driver import VARIABLES, Recorder, conf, run

REQUIRED = {
    "ADD": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
    "CHECK": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
    "DEL": ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
    "GC": ["CNI_PATH"],
    "STATUS": ["CNI_PATH"],
}


@pytest.mark.parametrize("unset", [None, ""])
@pytest.mark.parametrize("verb", REQUIRED)
def test_all_missing_variables_are_in_one_error(verb: str, unset: str | None) -> None:
    """An empty one counts as missing; the names have a fixed order."""
    answer = run(Recorder().plugin, verb, **dict.fromkeys(VARIABLES, unset))
    assert answer.error == (4, f"required env variables [{','.join(REQUIRED[verb])}] missing")


@pytest.mark.parametrize("verb", REQUIRED)
def test_the_required_variables_are_sufficient(verb: str) -> None:
    """With all others unset the call succeeds."""
    variables = {name: value for name, value in VARIABLES.items() if name in REQUIRED[verb]}
    answer = run(Recorder().plugin, verb, **{**dict.fromkeys(VARIABLES), **variables})
    assert answer.status == 0


@pytest.mark.parametrize("identifier", ["a", "0", "A.b-c_d", "a" * 300])
def test_a_valid_identifier_is_alphanumeric_with_dots_hyphens_and_underscores(identifier: str) -> None:
    """The rule holds for container IDs and network names."""
    assert run(Recorder().plugin, "ADD", {**conf(), "name": identifier}, CNI_CONTAINERID=identifier).status == 0


@pytest.mark.parametrize("identifier", ["-a", ".a", "_a", "a b", "a/b", "a\n", "\n", "é", "a\udcff", "..", "²", "a:b"])
def test_any_other_identifier_is_refused(identifier: str) -> None:
    """Including one that ends in a newline, and letters of other alphabets."""
    answer = run(Recorder().plugin, "ADD", CNI_CONTAINERID=identifier)
    assert answer.error == (4, "invalid characters in containerID")
    answer = run(Recorder().plugin, "ADD", {**conf(), "name": identifier}) if identifier != "a\udcff" else None
    assert answer is None or answer.error == (7, "invalid characters found in network name")


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_a_container_id_that_is_too_long_for_a_lease_is_refused(verb: str) -> None:
    """At most 1024 characters are allowed; the details say so."""
    answer = run(Recorder().plugin, verb, CNI_CONTAINERID="a" * 4091)
    assert answer.error == (4, "containerID is too long")
    assert answer.document["details"] == "it has 4091 characters, but may have 1024"
    assert run(Recorder().plugin, verb, CNI_CONTAINERID="a" * 1024).status == 0


@pytest.mark.parametrize(("path", "relative"), [("bin", "bin"), ("/opt/cni/bin:./bin", "./bin"), (".", ".")])
def test_a_relative_folder_in_cni_path_is_refused(path: str, relative: str) -> None:
    """An agent has another working directory than the runtime. A DEL leaves the folder out."""
    for verb in ("ADD", "CHECK"):
        answer = run(Recorder().plugin, verb, CNI_PATH=path)
        assert answer.error == (4, f'CNI_PATH: expected absolute paths, got "{relative}"')
    recorder = Recorder()
    assert run(recorder.plugin, "DEL", CNI_PATH=path).status == 0
    assert recorder.requests[0].path == tuple(each for each in path.split(":") if each[0] == "/")


def test_the_details_have_the_invalid_identifier() -> None:
    """So that the log shows it."""
    assert run(Recorder().plugin, "ADD", CNI_CONTAINERID="a b").document["details"] == "a b"


@pytest.mark.parametrize(
    ("ifname", "message"),
    [
        ("a" * 16, "interface name is too long"),
        ("é" * 8, "interface name is too long"),
        (".", "interface name is . or .."),
        ("..", "interface name is . or .."),
        ("a/b", "interface name contains / or : or whitespace characters"),
        ("a:b", "interface name contains / or : or whitespace characters"),
        ("a b", "interface name contains / or : or whitespace characters"),
        ("a\u00a0b", "interface name contains / or : or whitespace characters"),
        ("eth0\n", "interface name contains / or : or whitespace characters"),
        ("à", "interface name contains / or : or whitespace characters"),
        ("eth%d", "interface name contains %, which the kernel replaces"),
        ("%", "interface name contains %, which the kernel replaces"),
        ("all", "interface name is all or default, which are not interfaces in /proc/sys/net"),
        ("default", "interface name is all or default, which are not interfaces in /proc/sys/net"),
        ("a\udc80", "interface name is not valid UTF-8"),
    ],
)
def test_a_name_that_the_kernel_would_refuse_or_change_is_refused(ifname: str, message: str) -> None:
    """The length counts bytes, not characters; the kernel takes the byte 0xA0, as in "à", for white space."""
    for verb in ("ADD", "CHECK"):
        assert run(Recorder().plugin, verb, CNI_IFNAME=ifname).error == (4, message)


@pytest.mark.parametrize("ifname", ["eth%d", "all", "default"])
def test_an_interface_with_a_name_of_an_earlier_version_can_be_deleted(ifname: str) -> None:
    """Its lease and its host veth exist, whatever name the kernel made of it."""
    assert run(Recorder().plugin, "DEL", CNI_IFNAME=ifname).status == 0


@pytest.mark.parametrize("ifname", ["e", "a" * 15, "eth0.100", "é" * 7, "..."])
def test_a_name_that_the_kernel_accepts_is_accepted(ifname: str) -> None:
    """15 bytes, a VLAN's dot, and "..." are valid."""
    assert run(Recorder().plugin, "ADD", CNI_IFNAME=ifname).status == 0


def test_an_invalid_variable_comes_before_missing_ones() -> None:
    """As in the reference."""
    answer = run(Recorder().plugin, "ADD", CNI_CONTAINERID="-", CNI_NETNS=None)
    assert answer.error == (4, "invalid characters in containerID")


def test_variables_that_a_verb_does_not_use_are_not_validated() -> None:
    """A GC succeeds whatever CNI_CONTAINERID and CNI_IFNAME are."""
    answer = run(
        Recorder().plugin, "GC", conf(**{"cni.dev/valid-attachments": []}), CNI_CONTAINERID="-", CNI_IFNAME="/"
    )
    assert answer.status == 0


def test_variables_are_checked_before_stdin_is_read() -> None:
    """Code 4 comes before code 6."""
    assert run(Recorder().plugin, "ADD", b"{", CNI_PATH=None).error[0] == 4


def test_an_unknown_command_is_an_error_after_the_configuration_was_read() -> None:
    """An error of the configuration comes first."""
    assert run(Recorder().plugin, "PAINT", b"{").error[0] == 6
    assert run(Recorder().plugin, "PAINT", {}).error == (7, "missing network name")
    assert run(Recorder().plugin, "PAINT").error == (4, "unknown CNI_COMMAND: PAINT")


def test_the_request_has_the_variables() -> None:
    """CNI_PATH is split; its empty parts are left out."""
    recorder = Recorder()
    run(recorder.plugin, "ADD", CNI_PATH="/a::/b:", CNI_ARGS="IP=10.0.0.1")
    (request,) = recorder.requests
    assert (request.container_id, request.ifname, request.path) == ("pod-1", "eth0", ("/a", "/b"))
    assert request.netns == VARIABLES["CNI_NETNS"]
    assert request.args == {"IP": "10.0.0.1"}
    assert request.attachment.network == "net1"


def test_a_namespace_path_that_is_not_utf_8_is_refused() -> None:
    """Results are UTF-8 and contain the path. A DEL accepts it."""
    assert run(Recorder().plugin, "ADD", CNI_NETNS="/run/\udcff").error == (4, "CNI_NETNS is not valid UTF-8")
    assert run(Recorder().plugin, "DEL", CNI_NETNS="/run/\udcff").status == 0
