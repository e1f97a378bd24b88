"""Which registry a URL names."""

import pytest

from nodes.registries.open import TABLES, kind_of, open_registry
from spec.config import Section
from spec.errors import CNIError


@pytest.mark.parametrize("kind", TABLES)
def test_the_scheme_names_the_kind(kind: str) -> None:
    """With or without a place after it."""
    assert kind_of(kind) == kind_of(f"{kind}://192.0.2.1:2379/slash24") == kind


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("file:///srv/nodes", "FileRegistry"),
        ("etcd://192.0.2.1:2379,192.0.2.2:2379/slash24", "EtcdRegistry"),
        ("kubernetes", "KubernetesRegistry"),
        ("flannel+etcd://192.0.2.1:2379", "FlannelEtcdRegistry"),
        ("flannel+kubernetes", "FlannelKubernetesRegistry"),
    ],
)
def test_every_kind_is_opened(url: str, name: str) -> None:
    """Without any connection."""
    registry = open_registry(url, "a", Section({}))
    assert type(registry).__name__ == name
    registry.close()


@pytest.mark.parametrize("text", ["", "consul://192.0.2.1", "/var/lib/slash24", "Kubernetes", "://", "file:/x"])
def test_others_are_errors(text: str) -> None:
    """The error shows what there is."""
    with pytest.raises(CNIError, match='"kubernetes", "etcd://HOST:PORT,..."'):
        kind_of(text)
