#!/bin/sh
# environment.sh LOCK FOLDER: makes a virtual environment that holds exactly what LOCK names, unless FOLDER is that
# already. Runs after `make setup`, whose pip it uses: the environment has none of its own.

set -eu
cd "$(dirname "$0")/.."
lock=$1
folder=$2
cmp -s "$lock" "$folder/lock.txt" && "$folder/bin/python" -c '' 2>/dev/null && exit 0
echo "installing $lock into $folder ..."
rm -rf "$folder"
.venv/bin/python -m venv --without-pip "$folder"
.venv/bin/python -m pip --python "$folder/bin/python" install -q --disable-pip-version-check --no-input \
    --require-hashes --only-binary :all: -r "$lock"
cp "$lock" "$folder/lock.txt"
