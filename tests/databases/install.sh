#!/bin/sh
# Installs the servers that the tests of this folder start: PostgreSQL and Redis, as Debian's packages. Where it
# cannot, it says so and ends well: these tests, and only these, are skipped then.
missing=
command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="postgresql"
command -v redis-server >/dev/null || missing="$missing redis-server"
[ -n "$missing" ] || exit 0

skipped() {
    echo "tests/databases will be skipped: $1. Install by hand:$2" >&2
    exit 0
}
line="  apt-get update && apt-get install -y --no-install-recommends $missing"
command -v apt-get >/dev/null || skipped "there is no apt-get here" "  $missing, by this system's packages"
[ "$(id -u)" = 0 ] || skipped "installing needs root" "$line"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    skipped "apt-get failed" "$line"
