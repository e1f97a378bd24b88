"""Certificates for tests, made with openssl: an authority, and what it issues."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

DAYS = "3650"


def make_key(path: Path) -> Path:
    """A private key on the curve P-256."""
    _openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", path)
    return path


class Authority:
    """A certificate authority with its files `base`.crt and `base`.key."""

    def __init__(self, base: Path) -> None:
        self.certificate, self._key = base.with_suffix(".crt"), make_key(base.with_suffix(".key"))
        _openssl(
            *("req", "-x509", "-new", "-key", self._key, "-days", DAYS, "-subj", f"/CN={base.name}"),
            *("-addext", "keyUsage=critical,keyCertSign,digitalSignature", "-out", self.certificate),
        )

    def issue(self, base: Path, name: str, *, names: Sequence[str] = (), group: str = "") -> None:
        """Write `base`.crt and `base`.key, for servers and clients; `names`: DNS names and addresses.

        Kubernetes takes the certificate's `name` as the user's and `group` as the user's group.
        """
        key, request, issued = (Path(f"{base}.{suffix}") for suffix in ("key", "csr", "crt"))
        make_key(key)
        subject = "".join(f"/{key}={value}" for key, value in (("O", group), ("CN", name)) if value)
        _openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
        extensions = ["extendedKeyUsage=serverAuth,clientAuth", "keyUsage=critical,digitalSignature"]
        if names:
            extensions.append("subjectAltName=" + ",".join(map(_alternative, names)))
        base.with_suffix(".ext").write_text("\n".join(extensions) + "\n")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", DAYS, "-extfile", base.with_suffix(".ext"), "-out", issued),
        )


def _alternative(name: str) -> str:
    is_address = ":" in name or name.replace(".", "").isdigit()
    return f"{'IP' if is_address else 'DNS'}:{name}"


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, text=True)
