#!/usr/bin/env bash
# Downloads Debian's containerd and podman, and unpacks them into build/runtimes/tree: nothing on the machine is installed,
# started or replaced. Does nothing if they exist.

set -euo pipefail
cd "$(dirname "$0")/../.."
. freeze/shell.sh
. tests/debian.sh

# With the libraries that are not on every Debian machine; busybox becomes the pods' image.
PACKAGES=(containerd runc podman crun conmon containernetworking-plugins golang-github-containers-common
    golang-github-containers-image busybox-static libassuan0 libdevmapper1.02.1 libglib2.0-0 libgpgme11 libseccomp2 libsubid4 libyajl2)
HOME_OF=$PWD/build/runtimes
MADE_OF="bookworm ${PACKAGES[*]}"

if [ "$(cat "$HOME_OF/made-of" 2>/dev/null)" = "$MADE_OF" ]; then
    exit
fi
say "fetching Debian's containerd and podman"
rm -rf "$HOME_OF"
mkdir -p "$HOME_OF"/{apt,tree/usr/bin,tree/usr/sbin,tree/usr/lib}
ln -s usr/bin usr/sbin usr/lib "$HOME_OF/tree"
read_suites "$HOME_OF/apt" bookworm bookworm-security
unpack_packages "$HOME_OF/apt" "$HOME_OF/tree" "${PACKAGES[@]}"
rm -r "$HOME_OF"/{apt,tree/usr/share/doc,tree/usr/share/man}
echo "$MADE_OF" >"$HOME_OF/made-of"
