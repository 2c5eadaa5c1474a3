#!/usr/bin/env bash
# fresh_test.sh: a Debian system just installed, in a folder; in it the two commands of the README run on a copy of this checkout.
#
#   infra/fresh_test.sh                        make demo, then make test, on Debian 13, whose own Python is 3.13
#   FRESH_TESTS="tests/stages" infra/fresh_test.sh    only these tests; FRESH_TESTS=none: only the demo
#   FRESH_SUITE=testing infra/fresh_test.sh    on another release of Debian
#   FRESH_MIRROR=http://... infra/fresh_test.sh       Debian's packages from there
#   FRESH_FOLDER=/elsewhere infra/fresh_test.sh       the systems (0.5 GB) and downloads (up to 6 GB) are kept there
#
# Takes root and debootstrap. Where that is missing it prints why and exits with 0: skipped, not failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SUITE="${FRESH_SUITE:-trixie}"
TESTS="${FRESH_TESTS-}"
FOLDER="$(realpath -m "${FRESH_FOLDER:-.fresh-test}")"
# What the README says that a machine needs, and git, with which a person got the checkout.
PACKAGES="python3 python3-venv make git"

say() { printf 'fresh-test: %s\n' "$*" >&2; }
skip() { say "skipped: $*"; exit 0; }

discard() { rm -rf --one-file-system "$@"; }

# From here on everything happens in namespaces of its own. Whatever ends this process, even kill -9, ends every process in
# the fresh system and undoes every mount: nothing is left to clean up, and no rm can reach a folder of the machine's own.
enter_namespaces() {
    local code=0
    [ "$(uname -s)" = Linux ] || skip "takes Linux"
    [ "$(id -u)" -eq 0 ] || skip "takes root (chroot and mounts)"
    if ! command -v debootstrap >/dev/null; then
        command -v apt-get >/dev/null || skip "no debootstrap here, and no apt-get to install it with"
        say "installing debootstrap"
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring; } \
            >/dev/null 2>&1 </dev/null || skip "no debootstrap here, and apt-get could not install it"
    fi
    unshare --mount --pid --fork true 2>/dev/null || skip "this machine allows no namespaces for mounts and processes"
    mkdir -p "$FOLDER"
    chmod 700 "$FOLDER"   # pip's configuration, which may hold a password, is copied into it
    exec 9>"$FOLDER/lock"
    if ! flock --nonblock 9; then
        say "another one is running in $FOLDER; waiting for it"
        flock 9
    fi
    set -m   # else bash would have the tests ignore SIGINT, as it does for whatever runs in the background
    FRESH_INSIDE=yes setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child infra/fresh_test.sh </dev/null &
    trap 'kill -KILL $!; exit 130' INT TERM HUP
    wait $! || code=$?
    [ "$code" -ne 0 ] || discard "$RUN"
    exit "$code"
}

# The mirror of this machine, where it is a Debian itself; otherwise the one that debootstrap takes by itself.
find_mirror() {
    if [ -n "${FRESH_MIRROR:-}" ]; then
        printf '%s\n' "$FRESH_MIRROR"
    elif grep -qx 'ID=debian' /etc/os-release 2>/dev/null; then
        { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } \
            | sed -nE '/^(URIs: *|deb +(\[[^]]*\] +)?)(https?:[^ ]*\/debian)\/?( .*)?$/ { s//\3/p; q }'
    fi
}

# A system is built under another name and then moved, so that one that a kill left half-built is never taken for whole.
build_base() {
    local mirror log="$FOLDER/build.log"
    mirror="$(find_mirror)"
    say "building Debian $SUITE (a minute or two; the log is $log)"
    discard "$FOLDER/$SUITE"-*
    # shellcheck disable=SC2086 # no mirror: no argument
    if ! debootstrap --variant=minbase --force-check-gpg "$SUITE" "$BASE.part" $mirror >"$log" 2>&1 </dev/null; then
        tail -n 3 "$log" >&2
        grep -qE '^E: (Failed getting release|.*retriev|.*download)' "$log" && skip "Debian's mirror could not be reached"
        say "debootstrap failed; the log is $log"
        return 1
    fi
    # How this machine reaches a mirror: proxies and the like, not its lists of packages.
    if command -v apt-config >/dev/null; then
        apt-config dump | grep -E '^Acquire::(https?|Check|Retries|ForceIPv)[^ ]* "' \
            >"$BASE.part/etc/apt/apt.conf.d/90machine" || true
    fi
    # shellcheck disable=SC2086 # a list of packages
    if ! { inside "$BASE.part" apt-get update -qq \
        && inside "$BASE.part" apt-get install -y -qq --no-install-recommends $PACKAGES; } >>"$log" 2>&1 </dev/null; then
        say "the packages could not be installed; the log is $log"
        return 1
    fi
    inside "$BASE.part" apt-get clean
    mv "$BASE.part" "$BASE"
}

# What the system may know of this machine's environment: how to reach package registries, nothing else.
PIP_PASSED='INDEX_URL|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|CONSTRAINT|CERT|CLIENT_CERT|TRUSTED_HOST|PROXY|DEFAULT_TIMEOUT|CONFIG_FILE'
UV_PASSED='DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NATIVE_TLS|SYSTEM_CERTS|INSECURE_HOST|CONFIG_FILE'
passed_on() {
    env | grep -E "^(PIP_($PIP_PASSED)|UV_($UV_PASSED)|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)=" || true
    env | grep -iE '^(http|https|no|all)_proxy=' || true
}

inside() {
    local system="$1" passed
    shift
    mapfile -t passed < <(passed_on)
    chroot "$system" env -i HOME=/root USER=root LANG=C.UTF-8 TERM="${TERM:-dumb}" DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${passed[@]}" "$@"
}

# A file or folder of the machine appears in the fresh system, read-only. A file (certificates) takes the place of the one
# that is there; a folder that has something in it stays as it is.
show() {
    local from="$1" to="$RUN${2:-$1}"
    if [ -d "$from" ]; then
        [ -z "$(ls -A "$to" 2>/dev/null)" ] || return 0
        mkdir -p "$to"
    elif [ -f "$from" ]; then
        mkdir -p "$(dirname "$to")"
        [ -e "$to" ] || touch "$to"
    else
        return 0
    fi
    mount --bind -o ro "$from" "$to"
}

# pip and uv find packages there as they do here: their configuration, the certificates they trust, and the local folders
# (wheels, indexes) that either names.
connect() {
    local one
    mount -t proc proc "$RUN/proc"
    mount -t sysfs -o ro sysfs "$RUN/sys"
    mount --rbind /dev "$RUN/dev"
    printf '127.0.0.1 localhost %s\n::1 localhost\n' "$(hostname)" >"$RUN/etc/hosts"
    cp -L /etc/resolv.conf "$RUN/etc/resolv.conf"
    for one in pip uv; do
        mkdir -p "$FOLDER/cache/$one" "$RUN/root/.cache/$one"
        mount --bind "$FOLDER/cache/$one" "$RUN/root/.cache/$one"
    done
    for one in /etc/pip.conf /etc/xdg/pip /etc/uv; do show "$one"; done
    for one in .config/pip .pip .config/uv; do show "$HOME/$one" "/root/$one"; done
    {
        passed_on
        cat /etc/pip.conf /etc/xdg/pip/* /etc/uv/* "$HOME"/{.config/pip,.pip,.config/uv}/* "${PIP_CONFIG_FILE:-}" 2>/dev/null || true
    } \
        | grep -oE "(^|[=[:space:]\"'])(file:/)?/[^][:space:],;\"']+" | sed -E "s/^[=[:space:]\"']//" | sort -u \
        | while read -r one; do
            case "$one" in
                file:///*/*) show "$(dirname "${one#file://}")" ;;   # a page of an index points to files beside it
                file://*) ;;
                *) show "$one" ;;
            esac
        done
}

# The work tree as it is: what git tracks, and what is new and not ignored.
copy_checkout() {
    mkdir -p "$RUN/root/zscir"
    git -c safe.directory="$PWD" ls-files -z --cached --others --exclude-standard \
        | while IFS= read -r -d '' one; do [ -e "$one" ] && printf '%s\0' "$one"; done \
        | tar --create --null --no-recursion --files-from=- | tar --extract --no-same-owner --directory="$RUN/root/zscir"
}

step() {
    local began=$SECONDS
    say "\$ $*"
    if ! inside "$RUN" bash -c 'cd /root/zscir && exec "$@"' bash "$@" </dev/null; then
        say "FAILED after $((SECONDS - began)) s: $*"
        say "the system is left as it was, until the next time: chroot $RUN"
        exit 1
    fi
    say "$* took $((SECONDS - began)) s"
}

BASE="$FOLDER/$SUITE-$({ declare -f build_base; echo "$PACKAGES"; } | sha256sum | cut -c 1-12)"
RUN="$FOLDER/run"

# A function, because bash reads a script bit by bit, and a person may edit this one while it runs.
main() {
    [ "${FRESH_INSIDE:-}" = yes ] || enter_namespaces
    discard "$FOLDER"/*.part "$RUN"
    [ -d "$BASE" ] || build_base
    cp -a "$BASE" "$RUN"
    connect
    copy_checkout
    say "Debian $(cat "$RUN/etc/debian_version"), $(inside "$RUN" python3 -V)"
    step make demo
    [ "$TESTS" = none ] || step make test ${TESTS:+ARGS="$TESTS"}
    say "what the README says works on a fresh machine"
    exit
}

main
