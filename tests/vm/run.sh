#!/usr/bin/env bash
# Runs a command as root on one of Debian's stock kernels: in a virtual machine whose root is this machine's tree, copy-on-write.
#
#   tests/vm/run.sh [--kernel 5.10|6.1|6.12] [--timeout SECONDS] [--results FOLDER] COMMAND [ARGUMENT...]
#
# Output, errors and exit status are the command's. 124: timeout; 125: the virtual machine did not start, or failed: then the
# end of its console is printed. What the command writes is discarded, except for /results, which is FOLDER here.
# The processor is emulated, as Debian's kernels do not start under every KVM: Python is some 20 times slower than here.

set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/freeze/shell.sh"
. "$top/tests/debian.sh"

# Modules that the virtual machine needs before it has a root; its kernel loads others on demand.
BOOT_MODULES=(virtio_pci 9pnet_virtio 9p overlay)
# Variables of the caller's environment that are passed to the command, by name or prefix.
VARIABLES='^(PATH|LANG|LC_.*|CI|SLASH24_.*|REFERENCE_BIN|PY.*|HYPOTHESIS_.*|NO_COLOR)$'

kernel=6.1 limit=600 results=''
while [[ ${1:-} == --* ]]; do
    case $1 in
        --kernel) kernel=$2 ;;
        --timeout) limit=$2 ;;
        --results) results=$2 ;;
        *) say "no such option: $1"; exit 2 ;;
    esac
    shift 2
done
[ $# -gt 0 ] || { say "which command?"; exit 2; }

# The suites with the kernel, and its package there.
case $kernel in
    5.10) suites=(bullseye-security) package=linux-image-amd64 ;;
    6.1) suites=(bookworm bookworm-security) package=linux-image-amd64 ;;
    6.12) suites=(bookworm bookworm-security) package=linux-image-6.12-amd64 ;;
    *) say "no such kernel: $kernel (5.10, 6.1, 6.12)"; exit 2 ;;
esac
home=$top/build/vm/$kernel

kmod() { (exec -a "$1" "$home/tools/usr/bin/kmod" "${@:2}"); } # by one of its names

# The newest image package that PACKAGE depends on.
image() {
    local name=$package
    while [[ $name != linux-image-*.*.*-amd64 ]]; do
        name=$(private_apt "$home/apt" apt-cache depends --important "$name" | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -n 1)
        [ -n "$name" ] || { say "${suites[*]} have no image for $package"; return 1; }
    done
    echo "$name"
}

# Unpack into $home: the kernel and its modules (tree), and tools for them here and in the initial file system (tools).
fetch() {
    say "fetching Debian's kernel $kernel"
    rm -rf "$home"
    mkdir -p "$home"/{apt,tools-apt,tools,tree}
    mkdir -p "$home"/tools/usr/{bin,sbin,lib} "$home"/tree/usr/lib
    ln -s usr/bin usr/sbin usr/lib "$home/tools"
    ln -s usr/lib "$home/tree"
    read_suites "$home/apt" "${suites[@]}"
    read_suites "$home/tools-apt" bookworm
    unpack_packages "$home/apt" "$home/tree" "$(image)"
    unpack_packages "$home/tools-apt" "$home/tools" busybox-static kmod
    mv "$home"/tree/boot/vmlinuz-* "$home/vmlinuz"
    kmod depmod -b "$home/tree/usr" "$(ls "$home/tree/usr/lib/modules")"
    # Only modules, and the programs that load them, may cover the machine's tree.
    rm -r "$home"/tree/{lib,boot,usr/share} "$home"/{apt,tools-apt}
    mkdir -p "$home"/tree/usr/{bin,sbin}
    cp -a "$home"/tools/usr/bin/kmod "$home/tree/usr/bin/kmod"
    cp -a "$home"/tools/usr/sbin/modprobe "$home/tree/usr/sbin/modprobe"
    touch "$home/complete"
}

# Modules to insert, and the init program.
make_initial_file_system() {
    local tree=$home/initial number=100 module modules=$home/tree/usr
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,dev,proc,host,kernel,rw,root,modules}
    cp "$home/tools/usr/bin/busybox" "$tree/bin/busybox"
    while read -r module; do
        number=$((number + 1))
        case $module in
            *.xz) xz -dc "$module" ;;
            *) cat "$module" ;;
        esac >"$tree/modules/$number.ko"
    done < <(kmod modprobe -d "$modules" -S "$(ls "$modules/lib/modules")" -a --show-depends "${BOOT_MODULES[@]}" |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }')
    install "$top/tests/vm/init.sh" "$tree/init"
    (cd "$tree" && find . | bin/busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$home/initrd"
    rm -r "$tree"
}

# The input of the virtual machine's shell: variables, folder, command.
write_command() { # COMMAND...
    local variable
    for variable in $(compgen -e | grep -E "$VARIABLES"); do declare -p "$variable"; done
    printf 'cd %q\n' "$PWD"
    printf '%q ' "$@"
    echo
}

mkdir -p "$top/build/vm"
exec 9>"$top/build/vm/lock"
flock 9 # two concurrent runs would both download
[ -e "$home/complete" ] || fetch
[ "$home/initrd" -nt "$top/tests/vm/init.sh" ] || make_initial_file_system
exec 9>&-

if [ -z "$results" ]; then
    results=$(mktemp -d)
    trap 'rm -rf "$results"' EXIT
fi
mkdir -p "$results"
rm -f "$results/status"
: >"$results/stdout"
: >"$results/stderr"
cp "$top/tests/vm/start.sh" "$results/start"
write_command "$@" >"$results/command"

share() { echo "local,mount_tag=$1,path=$2,security_model=none,multidevs=remap,id=$1$3"; }
timeout --kill-after=5 "$limit" qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
    -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nic none -serial "file:$results/console" \
    -virtfs "$(share host / ,readonly=on)" -virtfs "$(share kernel "$home/tree" ,readonly=on)" -virtfs "$(share results "$results" '')" \
    -kernel "$home/vmlinuz" -initrd "$home/initrd" \
    -append "console=ttyS0 loglevel=5 panic=-1 mitigations=off random.trust_cpu=on" 2>"$results/emulator" &
emulator=$!
trap 'kill $emulator 2>/dev/null; exit 130' INT TERM
tail -c +1 -s 0.1 -f --pid=$emulator "$results/stderr" >&2 &
tail -c +1 -s 0.1 -f --pid=$emulator "$results/stdout"
wait %2 || true
status=0
wait $emulator || status=$?
if [ "$status" = 124 ]; then
    say "the command took longer than $limit s"
elif [ ! -s "$results/status" ]; then
    tail -n 15 "$results/console" "$results/emulator" >&2
    say "the virtual machine broke down"
    status=125
else
    status=$(cat "$results/status")
fi
exit "$status"
