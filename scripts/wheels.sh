#!/bin/sh
# Builds the wheels of whisperd and its plugins: sh scripts/wheels.sh FOLDER
set -eu
cd "$(dirname "$0")/.."
folder=$1
tools=build/wheels-venv
# An environment whose creation was interrupted has no pip; create it again.
"$tools/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$tools"
echo "Building the wheels ..."
rm -rf "$folder"
"$tools/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$folder" plugins/* .
