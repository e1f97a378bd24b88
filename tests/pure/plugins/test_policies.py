"""Which pod of Kubernetes an ADD is for, as CNI_ARGS say."""

import pytest

from plugins.pod.policies import identity
from spec.errors import CNIError

GOOD = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web-0.a", "K8S_POD_UID": "5C5a_b.c-1"}
BAD = ["../shop", "sh op", "-shop", "shop-", "shop\n", '"', "\0", "ä", "shop/pod", "shop{}", "\udcff", "x" * 254]


def test_the_three_arguments_are_the_identity() -> None:
    """Others are not looked at; name and UID may be missing."""
    assert identity({**GOOD, "K8S_POD_INFRA_CONTAINER_ID": "../.."}) == ("shop", "web-0.a", "5C5a_b.c-1")
    assert identity({"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": ""}) == ("shop", "", "")
    assert identity({"K8S_POD_NAMESPACE": "n" * 63})[0] == "n" * 63


@pytest.mark.parametrize("name", ["web", "My_Container", "../.."])
def test_without_a_namespace_a_pod_is_not_one_of_kubernetes(name: str) -> None:
    """podman sends a name alone, and its containers may have any."""
    assert identity({"K8S_POD_NAME": name, "K8S_POD_UID": "1"}) == ("", "", "")
    assert identity({}) == ("", "", "")


@pytest.mark.parametrize("key", GOOD)
@pytest.mark.parametrize("value", BAD)
def test_what_no_object_can_have_is_refused(key: str, value: str) -> None:
    """With error 4 that names key and value: to take it for a pod without policies would let it do anything."""
    with pytest.raises(CNIError) as caught:
        identity({**GOOD, key: value})
    assert caught.value.code == 4
    assert caught.value.msg.startswith(f'CNI_ARGS: "{key}": expected the ')
    assert caught.value.msg.isprintable()


@pytest.mark.parametrize("namespace", ["n" * 64, "Shop", "a.b", "a_b"])
def test_a_namespace_is_a_label(namespace: str) -> None:
    """As Kubernetes requires it (RFC 1123)."""
    with pytest.raises(CNIError, match="at most 63 characters a-z, 0-9 and -"):
        identity({"K8S_POD_NAMESPACE": namespace})
