#!/bin/sh
# Shows everything on a computer that has only Python: install, start a daemon in a temporary folder, fetch
# the native bundles and the smallest model, transcribe a recording, print the text, stop.
# With --play, the daemon keeps running, and a shell opens in which `whisperctl` reaches it.
set -eu
cd "$(dirname "$0")/.."
recording=tests/data/audio/jfk.flac
if [ -z "${PYTHON:-}" ]; then
    echo "Python 3.11 to 3.14 with venv and pip is required (on Debian: apt install python3-venv)." >&2
    exit 1
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/whisperd-demo.XXXXXX")
finish() {
    status=$?
    trap - EXIT INT TERM
    # After Ctrl-C, the daemon may still be starting.
    tries=0
    while [ -e "$folder/daemon.sock.lock" ] && [ $tries -lt 20 ]; do
        if whisperctl --quiet daemon stop 2>/dev/null; then echo "== The daemon has ended." && break; fi
        tries=$((tries + 1)) && sleep 0.1
    done
    rm -rf "$folder"
    exit $status
}
trap finish EXIT INT TERM

echo "== Installing into $folder"
PYTHON=$PYTHON sh scripts/wheels.sh "$folder/wheels"
"$PYTHON" -m venv "$folder/app"
"$folder/app/bin/python" -m pip install --quiet --disable-pip-version-check "$folder"/wheels/*.whl
PATH=$folder/app/bin:$PATH
export PATH
WHISPERD_SOCKET=$folder/daemon.sock WHISPERD_STATE_DIR=$folder/state WHISPERD_CONFIG=$folder/config.toml
WHISPERD_NATIVE_DIR=$folder/native WHISPERD_MODELS_DIR=$folder/models
export WHISPERD_SOCKET WHISPERD_STATE_DIR WHISPERD_CONFIG WHISPERD_NATIVE_DIR WHISPERD_MODELS_DIR

echo "== Starting the daemon"
whisperctl daemon start

if [ "${1:-}" = --play ]; then
    echo "== Try: whisperctl transcribe --model tiny.en $recording (see whisperctl --help; leave with exit)"
    "${SHELL:-/bin/sh}" || true
    exit 0
fi

echo "== Transcribing $recording with tiny.en, after fetching what is missing"
whisperctl --verbose transcribe --model tiny.en "$recording"
