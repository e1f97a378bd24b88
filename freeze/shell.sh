# shellcheck shell=bash
# Functions that the scripts share: messages, and installing missing packages. To be sourced.

say() {
    local bold="" off=""
    if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
        bold=$'\e[1m' off=$'\e[0m'
    fi
    printf "%s%s%s\n" "$bold" "$(basename "$0"): $*" "$off" >&2
}

# Install Debian packages, if any, after printing which.
install_packages() { # PACKAGE...
    if [ $# = 0 ]; then
        return
    fi
    say "installing missing Debian packages: $*"
    command -v apt-get >/dev/null || { say "this is not Debian: install the equivalents, then run this script again"; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >/dev/null
}
