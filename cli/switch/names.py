"""What providers are called in commands; apart from what they leave, so that --help need not know that."""

CANAL = "canal"
NAMES = (
    "aws",
    "bridge",
    "calico",
    CANAL,
    "cilium",
    "flannel",
    "kindnet",
    "kopeio",
    "kube-router",
    "kubenet",
    "lyft",
    "romana",
    "weave",
)
