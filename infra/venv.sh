#!/usr/bin/env bash
# venv.sh: a Python and this checkout become a virtual environment with exactly the versions of constraints.txt.
#
#   infra/venv.sh            make or mend .venv; at once when nothing has changed since the last time
#   PYTHON=python3.12 infra/venv.sh      with this Python; otherwise 3.11, 3.12, 3.13 or what python3 is, in that order,
#                                        and where none of them does, a Python that uv finds or downloads
#   VENV=/elsewhere EXTRAS= infra/venv.sh    somewhere else, without the tools for tests
#
# A run that was killed half-way leaves a marker; the next run throws the half-made environment away and starts again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV="${VENV:-.venv}"
EXTRAS="${EXTRAS-test,dev}"
READY="$VENV/.zscir-ready"     # holds what was installed; written last
MAKING="$VENV/.zscir-making"   # there while an installation is under way

say() { printf 'set-up: %s\n' "$*" >&2; }

# Sourced text of Python: does this version do? zscir/maintenance/known_conflicts.py and pyproject.toml say the same; a test compares them.
FITS='import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 14)'
NEEDED="Python 3.11 to 3.14"
CANDIDATES="python3.11 python3.12 python3.13 python3.14 python3 python"

runs() { "$@" >/dev/null 2>&1 </dev/null; }

# A name on the PATH may be a shim with no Python behind it, and Debian's python3 may come without venv: only a trial shows.
usable() { runs "$1" -c "$FITS; import ensurepip, venv"; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-$CANDIDATES}; do
        if usable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Why each Python that is there does not do, and what to type.
explain() {
    local candidate
    say "no usable Python among: ${PYTHON:-$CANDIDATES}"
    for candidate in ${PYTHON:-$CANDIDATES}; do
        runs "$candidate" -c '' || continue
        if runs "$candidate" -c "$FITS"; then
            say "$candidate is new enough but has no venv (Debian, Ubuntu: apt-get install python3-venv)"
        else
            say "$candidate is $("$candidate" -V 2>&1), which is too old or too new"
        fi
    done
    say "needed: $NEEDED with venv and pip (Debian, Ubuntu: apt-get install python3 python3-venv)"
    say "or name one: make venv PYTHON=/path/to/python3.11"
}

# uv: the one on the PATH, or the pinned one, installed beside the environment by whatever Python there is, of any version.
find_uv() {
    local python own="$VENV/uv-only"
    if runs uv --version; then
        command -v uv
        return
    fi
    for python in $CANDIDATES; do
        runs "$python" -c '' || continue
        # Without venv but with pip: a target folder is allowed where the system's own packages are not to be touched.
        if { runs "$python" -m venv "$own" && runs "$own/bin/python" -m pip install "$(pinned uv)"; } \
            || { rm -rf "$own"; runs "$python" -m pip install --target "$own" "$(pinned uv)"; }; then
            printf '%s\n' "$own/bin/uv"
            return
        fi
        rm -rf "$own"
    done
    return 1
}

# A machine without a usable Python: uv takes one that it knows of, also one without venv, or downloads one.
make_with_uv() {
    local uv
    say "no usable Python on the PATH; looking for uv, which can download one"
    if ! uv="$(find_uv)"; then
        say "nor is there uv, or a Python of any version to install it with: nothing to download a Python with"
        return 1
    fi
    say "$uv takes or downloads one"
    # Above 3.13 not on our own account: what is not there yet should be a version on which everything is tested.
    if ! "$uv" venv --quiet --seed --allow-existing --python '>=3.11,<3.14' "$VENV" </dev/null; then
        say "uv could neither find nor download one (a download takes a network and a machine that uv has a Python for)"
        return 1
    fi
    rm -rf "$VENV/uv-only"
}

# The environment's Python: the one named, else one on the PATH, else uv's. Who names one gets that one or an error.
make_python() {
    local python
    if python="$(find_python)"; then
        say "making $VENV with $python"
        "$python" -m venv "$VENV"
    elif [ -n "${PYTHON:-}" ] || ! make_with_uv; then
        explain
        return 1
    fi
}

# What an environment is made from; equal text means nothing to do. A checkout that was moved counts as changed.
wanted() {
    pwd
    printf '%s\n' "$VENV" "$EXTRAS" "${PIP_FIND_LINKS:-}"
    cat pyproject.toml constraints.txt infra/venv.sh
}

is_ready() {
    [ -f "$READY" ] && [ "$(wanted)" = "$(cat "$READY")" ] && "$VENV/bin/python" -c '' 2>/dev/null
}

pinned() { sed -n "s/^\($1==[^ ]*\).*/\1/p" constraints.txt; }

# uv does not read PIP_FIND_LINKS, which is how a machine can offer a torch wheel of its own; empty is allowed.
install_with_uv() {
    local how=(--quiet)
    [ -t 2 ] && how=()   # a person sees the downloads, a log does not
    # Where Python is set to keep no bytecode, every process would compile Prefect and torch anew, for seconds each.
    [ -n "${PYTHONDONTWRITEBYTECODE:-}" ] && how+=(--compile-bytecode)
    pip install "$(pinned uv)" && UV_FIND_LINKS="${PIP_FIND_LINKS:-}" UV_PYTHON_DOWNLOADS=never \
        "$VENV/bin/uv" pip install "${how[@]}" --python "$VENV/bin/python" -c constraints.txt -e "$1"
}

install_with_pip() {
    pip install "$(pinned pip)" && pip install -c constraints.txt -e "$1"
}

pip() { "$VENV/bin/python" -m pip -qq --disable-pip-version-check "$@"; }

# The Python 3.6 backport that pip brings along with img2dataset; see `zscir doctor`.
remove_backport() {
    if compgen -G "$VENV/lib/python3*/site-packages/dataclasses-*.dist-info" >/dev/null; then
        pip uninstall --yes dataclasses
    fi
}

make_environment() {
    local target=".${EXTRAS:+[$EXTRAS]}"
    if [ -e "$MAKING" ]; then
        say "$VENV was left half-made; starting again"
        rm -rf "$VENV"
    elif [ -e "$VENV" ] && ! runs "$VENV/bin/python" -c "$FITS; import pip"; then
        say "the Python behind $VENV is gone or of another version; starting again"
        rm -rf "$VENV"
    fi
    mkdir -p "$VENV"
    touch "$MAKING"
    rm -f "$READY"
    if ! [ -x "$VENV/bin/python" ]; then
        if ! make_python; then
            rm -rf "$VENV"
            return 1
        fi
    fi
    say "installing the versions of constraints.txt (about 200 packages; some minutes where nothing is cached)"
    if ! install_with_uv "$target"; then
        say "uv could not; with pip instead"
        install_with_pip "$target"
    fi
    remove_backport
    wanted >"$READY.part"
    mv "$READY.part" "$READY"
    rm "$MAKING"
    say "$VENV is ready"
}

is_ready && exit 0
# Two makes at once: the second waits for the first and then finds nothing to do. Without flock (macOS) they must not overlap.
# The installers inherit the lock, so that one that outlived its killed parent is waited for as well.
if command -v flock >/dev/null; then
    exec 9<infra/venv.sh
    flock 9
fi
is_ready || make_environment
