#!/usr/bin/env bash
# browser.sh: a machine without Chromium gets it from the system's packages, if that is allowed and quick; never fails.
set -uo pipefail

LIMIT_S=240

say() { printf 'browser: %s\n' "$*" >&2; }

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    say "no Chromium here, and installing it takes root and apt-get; the test that looks at the report will be skipped"
    exit 0
fi
say "installing chromium (at most $LIMIT_S s)"
export DEBIAN_FRONTEND=noninteractive
log="$(mktemp)"
if timeout "$LIMIT_S" sh -c 'apt-get update && apt-get install -y --no-install-recommends chromium' \
    >"$log" 2>&1 </dev/null && command -v chromium >/dev/null; then
    say "$(chromium --version 2>/dev/null)"
else
    say "chromium could not be installed; the test that looks at the report will be skipped. The last lines were:"
    tail -n 3 "$log" >&2
fi
rm -f "$log"
exit 0
