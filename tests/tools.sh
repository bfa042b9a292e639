#!/bin/sh
# Installs the programs that tests use beside Python's own, where that is possible; says in words what is skipped
# otherwise. Runs after `make setup`; what is there already costs nothing.

set -u
cd "$(dirname "$0")/.." || exit 1

# From the system's packages: two browsers, the servers that tests start, a library that sets a
# store's clock wrong, and spin with a C compiler for the model.

lacking() {
    command -v redis-server >/dev/null 2>&1 || echo redis-server
    command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 ||
        command -v google-chrome >/dev/null 2>&1 || [ -n "${CHROMIUM:-}" ] || echo chromium
    command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || echo nginx-light
    command -v haproxy >/dev/null 2>&1 || [ -x /usr/sbin/haproxy ] || echo haproxy
    command -v firefox-esr >/dev/null 2>&1 || command -v firefox >/dev/null 2>&1 || [ -n "${FIREFOX:-}" ] ||
        echo firefox-esr
    command -v spin >/dev/null 2>&1 || echo spin
    command -v promtool >/dev/null 2>&1 || echo prometheus
    command -v cc >/dev/null 2>&1 || echo gcc
    ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || echo faketime
    [ -n "${PG_BIN:-}" ] || command -v initdb >/dev/null 2>&1 ||
        ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo postgresql
}

skipped() {
    for package in $(lacking); do
        case $package in
        chromium) echo "no Chromium: the browser tests will be skipped ($1)" ;;
        firefox-esr) echo "no Firefox: its browser tests will be skipped ($1)" ;;
        redis-server) echo "no redis-server: the tests against it will be skipped ($1)" ;;
        *) echo "no $package: the tests with it will be skipped ($1)" ;;
        esac
    done
}

system_packages() {
    wanted=$(lacking)
    [ -z "$wanted" ] && return
    if ! command -v apt-get >/dev/null 2>&1; then
        skipped "install it with this system's package manager"
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        # shellcheck disable=SC2086,SC2116 - a list of package names, on one line
        skipped "as root: apt-get install $(echo $wanted)"
        return
    fi
    # shellcheck disable=SC2086 - a list of package names
    echo "installing what the tests use:" $wanted
    export DEBIAN_FRONTEND=noninteractive
    # In runlevel 1 the packages' services are not started: the tests start servers of their own.
    export RUNLEVEL=1
    # shellcheck disable=SC2086 - a list of package names
    { apt-get -qq install -y --no-install-recommends $wanted ||
        { apt-get -qq update && apt-get -qq install -y --no-install-recommends $wanted; }; } >"$log" 2>&1 </dev/null ||
        { tail -n 3 "$log" >&2; skipped "apt-get failed"; }
}

# From npm: AsyncAPI's parser, into tests/specs/node_modules.

asyncapi_parser() {
    lock=tests/specs/package-lock.json
    cmp -s $lock tests/specs/node_modules/.installed && return
    if ! command -v npm >/dev/null 2>&1; then
        echo "no npm: the AsyncAPI document will not be validated"
        return
    fi
    echo "installing AsyncAPI's parser with npm ..."
    { (cd tests/specs && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) &&
        cp $lock tests/specs/node_modules/.installed; } >"$log" 2>&1 </dev/null ||
        { tail -n 3 "$log" >&2; echo "npm failed: the AsyncAPI document will not be validated"; }
}

# From the Python package index, each into an environment of its own.

environment() { # LOCK FOLDER CONSEQUENCE
    sh locks/environment.sh "$1" "$2" 2>"$log" </dev/null ||
        { tail -n 3 "$log" >&2; echo "pip failed: $3"; }
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
system_packages
asyncapi_parser
environment locks/schemathesis.txt .tools/schemathesis "the HTTP API will not be held against its OpenAPI document"
environment locks/tools.txt .tools/supply "the SBOM will not be looked at"
environment locks/production.txt .tools/production "the SBOM will not be looked at"
exit 0
