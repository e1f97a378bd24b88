"""The CNI_* variables: what must be there, what may be in them, in which order faults are told."""

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
def test_all_missing_variables_are_told_at_once(verb: str, unset: str | None) -> None:
    """Empty is missing; the names come in one fixed order."""
    answer = run(Recorder().plugin, verb, **dict.fromkeys(VARIABLES, unset))
    assert answer.error == (4, f"required env variables [{','.join(REQUIRED[verb])}] missing")


@pytest.mark.parametrize("verb", REQUIRED)
def test_the_required_variables_are_enough(verb: str) -> None:
    """Nothing beyond them is needed."""
    variables = {name: value for name, value in VARIABLES.items() if name in REQUIRED[verb]}
    answer = run(Recorder().plugin, verb, **{**dict.fromkeys(VARIABLES), **variables})
    assert answer.status == 0


@pytest.mark.parametrize("identifier", ["a", "0", "A.b-c_d", "a" * 300])
def test_an_identifier_is_alphanumeric_with_dots_dashes_and_underscores(identifier: str) -> None:
    """Container ids and network names follow the same rule."""
    assert run(Recorder().plugin, "ADD", {**conf(), "name": identifier}, CNI_CONTAINERID=identifier).status == 0


@pytest.mark.parametrize("identifier", ["-a", ".a", "_a", "a b", "a/b", "a\n", "\n", "é", "a\udcff", "..", "²", "a:b"])
def test_any_other_identifier_is_refused(identifier: str) -> None:
    """Also one that ends in a newline, and letters of other alphabets."""
    answer = run(Recorder().plugin, "ADD", CNI_CONTAINERID=identifier)
    assert answer.error == (4, "invalid characters in containerID")
    answer = run(Recorder().plugin, "ADD", {**conf(), "name": identifier}) if identifier != "a\udcff" else None
    assert answer is None or answer.error == (7, "invalid characters found in network name")


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
def test_a_container_id_that_no_lease_has_room_for_is_refused(verb: str) -> None:
    """With 1025 characters and more; what is allowed is in the details."""
    answer = run(Recorder().plugin, verb, CNI_CONTAINERID="a" * 4091)
    assert answer.error == (4, "containerID is too long")
    assert answer.document["details"] == "it has 4091 characters, but may have 1024"
    assert run(Recorder().plugin, verb, CNI_CONTAINERID="a" * 1024).status == 0


@pytest.mark.parametrize(("path", "relative"), [("bin", "bin"), ("/opt/cni/bin:./bin", "./bin"), (".", ".")])
def test_a_relative_path_of_plugins_is_refused(path: str, relative: str) -> None:
    """An agent has another working directory than the runtime; what cleans up does without the folder."""
    for verb in ("ADD", "CHECK"):
        answer = run(Recorder().plugin, verb, CNI_PATH=path)
        assert answer.error == (4, f'CNI_PATH: expected absolute paths, got "{relative}"')
    recorder = Recorder()
    assert run(recorder.plugin, "DEL", CNI_PATH=path).status == 0
    assert recorder.requests[0].path == tuple(each for each in path.split(":") if each[0] == "/")


def test_the_details_show_the_identifier() -> None:
    """So that whoever reads the log knows which."""
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
def test_a_name_the_kernel_would_refuse_is_refused_first(ifname: str, message: str) -> None:
    """The length counts bytes, not characters; 0xA0, as in "à", is white space to the kernel."""
    for verb in ("ADD", "CHECK"):
        assert run(Recorder().plugin, verb, CNI_IFNAME=ifname).error == (4, message)


@pytest.mark.parametrize("ifname", ["eth%d", "all", "default"])
def test_what_an_earlier_version_named_so_can_be_deleted(ifname: str) -> None:
    """Its lease and its link's other end are there, whatever the kernel made of the name."""
    assert run(Recorder().plugin, "DEL", CNI_IFNAME=ifname).status == 0


@pytest.mark.parametrize("ifname", ["e", "a" * 15, "eth0.100", "é" * 7, "..."])
def test_a_name_the_kernel_takes_is_taken(ifname: str) -> None:
    """Everything else is a name."""
    assert run(Recorder().plugin, "ADD", CNI_IFNAME=ifname).status == 0


def test_a_wrong_variable_is_told_before_missing_ones() -> None:
    """The reference's order."""
    answer = run(Recorder().plugin, "ADD", CNI_CONTAINERID="-", CNI_NETNS=None)
    assert answer.error == (4, "invalid characters in containerID")


def test_variables_a_verb_does_not_use_are_not_looked_at() -> None:
    """A GC takes place whatever CNI_CONTAINERID holds."""
    answer = run(
        Recorder().plugin, "GC", conf(**{"cni.dev/valid-attachments": []}), CNI_CONTAINERID="-", CNI_IFNAME="/"
    )
    assert answer.status == 0


def test_variables_are_checked_before_stdin_is_read() -> None:
    """Code 4 wins over code 6."""
    assert run(Recorder().plugin, "ADD", b"{", CNI_PATH=None).error[0] == 4


def test_an_unknown_command_is_told_after_the_configuration_was_read() -> None:
    """A broken configuration is told first."""
    assert run(Recorder().plugin, "PAINT", b"{").error[0] == 6
    assert run(Recorder().plugin, "PAINT", {}).error == (7, "missing network name")
    assert run(Recorder().plugin, "PAINT").error == (4, "unknown CNI_COMMAND: PAINT")


def test_the_request_carries_the_variables() -> None:
    """Paths are split, and empty parts of them are no folder."""
    recorder = Recorder()
    run(recorder.plugin, "ADD", CNI_PATH="/a::/b:", CNI_ARGS="IP=10.0.0.1")
    (request,) = recorder.requests
    assert (request.container_id, request.ifname, request.path) == ("pod-1", "eth0", ("/a", "/b"))
    assert request.netns == VARIABLES["CNI_NETNS"]
    assert request.args == {"IP": "10.0.0.1"}
    assert request.attachment.network == "net1"


def test_a_namespace_path_that_no_result_could_carry_is_refused() -> None:
    """Results are UTF-8, and repeat the path."""
    assert run(Recorder().plugin, "ADD", CNI_NETNS="/run/\udcff").error == (4, "CNI_NETNS is not valid UTF-8")
    assert run(Recorder().plugin, "DEL", CNI_NETNS="/run/\udcff").status == 0
