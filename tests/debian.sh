# shellcheck shell=bash
# Debian packages that the tests use without installing them on the machine. To be sourced after freeze/shell.sh.

# Run apt-get or apt-cache with its own suites, below FOLDER: the machine's are neither used nor changed.
private_apt() { # FOLDER COMMAND ARGUMENT...
    local folder=$1
    shift
    "$1" -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$folder/lists" \
        -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=false -o Debug::NoLocking=true "${@:2}"
}

# Create FOLDER's package lists for these Debian suites, from the mirror of the machine's own packages.
read_suites() { # FOLDER SUITE...
    local folder=$1 suite site
    shift
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    for suite; do
        # shellcheck disable=SC2016  # apt-get fills that in
        site=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' |
            awk -v security="$([[ $suite != *-security ]] || echo -security)" '$2 ~ "^[a-z]+" security "$" && !/updates/ { print $1; exit }')
        [ -n "$site" ] || { say "no source in /etc/apt for the Debian suite $suite"; return 1; }
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main"
    done >"$folder/sources.list"
    private_apt "$folder" apt-get -qq update
}

# Unpack these packages of FOLDER's suites into TREE, without their dependencies.
unpack_packages() { # FOLDER TREE PACKAGE...
    local folder=$1 tree=$2 package
    shift 2
    rm -f "$folder"/*.deb
    (cd "$folder" && private_apt "$folder" apt-get -qq download "$@")
    for package in "$folder"/*.deb; do
        # If /lib is a link to /usr/lib, it stays one.
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$tree"
        rm "$package"
    done
}
