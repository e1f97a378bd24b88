# shellcheck shell=bash
# What the scripts share: how they speak, and how they bring what the machine lacks. To be sourced.

say() {
    local bold="" off=""
    if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
        bold=$'\e[1m' off=$'\e[0m'
    fi
    printf "%s%s%s\n" "$bold" "$(basename "$0"): $*" "$off" >&2
}

# Install Debian packages; says which before it does, and does nothing when there are none.
install_packages() { # PACKAGE...
    if [ $# = 0 ]; then
        return
    fi
    say "installing Debian packages that are missing: $*"
    command -v apt-get >/dev/null || { say "this is not Debian: install what brings them, then run me again"; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >/dev/null
}
