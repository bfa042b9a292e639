#!/bin/sh
# Installs the programs that tests use beside Python, where that is possible; says in words what is skipped otherwise.

set -u

lacking() {
    command -v redis-server >/dev/null 2>&1 || echo redis-server
    command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 ||
        command -v google-chrome >/dev/null 2>&1 || [ -n "${CHROMIUM:-}" ] || echo chromium
    command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || echo nginx-light
    command -v haproxy >/dev/null 2>&1 || [ -x /usr/sbin/haproxy ] || echo haproxy
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo postgresql
}

skipped() {
    for package in $(lacking); do
        case $package in
        chromium) echo "no Chromium: the browser tests will be skipped ($1)" ;;
        *) echo "no $package: the tests with it will be skipped ($1)" ;;
        esac
    done
}

wanted=$(lacking)
[ -z "$wanted" ] && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    skipped "install it with this system's package manager"
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    # shellcheck disable=SC2086,SC2116 - a list of package names, on one line
    skipped "as root: apt-get install $(echo $wanted)"
    exit 0
fi
echo "installing what the tests use:" $wanted
export DEBIAN_FRONTEND=noninteractive
# In runlevel 1 the packages' services are not started: the tests start servers of their own.
export RUNLEVEL=1
log=$(mktemp)
# shellcheck disable=SC2086 - a list of package names
{ apt-get -qq install -y --no-install-recommends $wanted ||
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends $wanted; }; } >"$log" 2>&1 </dev/null ||
    { tail -n 3 "$log" >&2; skipped "apt-get failed"; }
rm -f "$log"
exit 0
