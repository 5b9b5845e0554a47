#!/bin/sh
# Installs the wheels in dist/ for one user: into a separate environment, with the two programs on the path.
set -eu
case $PREFIX in /*) ;; *) PREFIX=$PWD/$PREFIX ;; esac
cd "$(dirname "$0")/.."
home=$PREFIX/share/whisperd/app
bin=$PREFIX/bin

# Whether the service that starts at login belongs to this installation.
is_service() {
    grep -qsF "$home/bin/" "${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/whisperd.service" \
        "$HOME/Library/LaunchAgents/whisperd.plist"
}

if [ "${1:-}" = --remove ]; then
    if is_service; then
        if ! "$home/bin/whisperctl" --version >/dev/null 2>&1; then
            echo "whisperd in $home does not run, perhaps because Python was upgraded, so its service stays." >&2
            echo "  Run \`make install\`, which repairs it, then \`make uninstall\` again." >&2
            exit 1
        fi
        "$home/bin/whisperctl" --quiet daemon uninstall
    fi
    # Stop the daemon now: without its files, nothing could stop it later.
    if [ -x "$home/bin/whisperctl" ]; then "$home/bin/whisperctl" --quiet --no-start daemon stop 2>/dev/null || true; fi
    places=$("$home/bin/python" -c 'from whisperd.paths import config_file, models_dir, native_dir, state_dir
for place in native_dir, models_dir, config_file, state_dir: print(place())' 2>/dev/null || true)
    for program in whisperd whisperctl; do
        # Remove only links that this script has created.
        if [ "$(readlink "$bin/$program" 2>/dev/null)" = "$home/bin/$program" ]; then rm "$bin/$program"; fi
    done
    rm -rf "$home"
    echo "Removed whisperd from $PREFIX."
    if [ -n "$places" ]; then
        echo "These remain until you delete them: native bundles, models, settings; transcripts, jobs, runtimes, the log."
        echo "$places" | while IFS= read -r place; do if [ -e "$place" ]; then du -sh "$place"; fi; done
    fi
    exit 0
fi

for program in whisperd whisperctl; do
    if [ -e "$bin/$program" ] && [ "$(readlink "$bin/$program")" != "$home/bin/$program" ]; then
        echo "$bin/$program exists already, and does not belong to this installation." >&2
        echo "  Remove it, or install elsewhere: make install PREFIX=FOLDER." >&2
        exit 1
    fi
done
mkdir -p "$bin" "$(dirname "$home")"
if [ -x "$home/bin/whisperctl" ]; then
    # An upgrade: stop the old daemon, which would otherwise continue with deleted files.
    "$home/bin/whisperctl" --quiet --no-start daemon stop 2>/dev/null || true
fi
# Delete the old installation only when the new one is complete. An environment contains its own path, so it
# is created in its final place.
restore() {
    if [ -d "$home.old" ] && [ ! -e "$home/complete" ]; then rm -rf "$home" && mv "$home.old" "$home"; fi
}
finish() {
    restore
    if is_service; then "$home/bin/whisperctl" --quiet daemon start || true; fi
}
restore # after an attempt that was killed
rm -rf "$home.old"
if [ -d "$home" ]; then mv "$home" "$home.old"; fi
trap finish EXIT
trap 'exit 1' INT TERM
echo "Installing into $home ..."
"$PYTHON" -m venv "$home"
"$home/bin/python" -m pip install --quiet --disable-pip-version-check dist/*.whl
touch "$home/complete"
rm -rf "$home.old"
for program in whisperd whisperctl; do ln -sf "$home/bin/$program" "$bin/$program"; done
echo "Installed whisperd and whisperctl into $bin."
case ":$PATH:" in
*":$bin:"*) echo "Try: whisperctl transcribe RECORDING" ;;
*) echo "$bin is not on your PATH. Add it with:  export PATH=\"$bin:\$PATH\"" ;;
esac
