#!/bin/sh
# Installs the wheels in dist/ for one user: an environment of its own, and the two programs on the path.
set -eu
cd "$(dirname "$0")/.."
home=$PREFIX/share/whisperd/app
bin=$PREFIX/bin

# Whether the service that runs at login is of this installation.
is_service() {
    grep -qsF "$home/bin/" "${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/whisperd.service" \
        "$HOME/Library/LaunchAgents/whisperd.plist"
}

if [ "${1:-}" = --remove ]; then
    if is_service; then "$home/bin/whisperctl" --quiet daemon uninstall; fi
    # Without its files nobody could end it any more.
    if [ -x "$home/bin/whisperctl" ]; then "$home/bin/whisperctl" --quiet --no-start daemon stop 2>/dev/null || true; fi
    places=$("$home/bin/python" -c 'from whisperd.paths import config_file, models_dir, native_dir, state_dir
for place in native_dir, models_dir, config_file, state_dir: print(place())' 2>/dev/null || true)
    for program in whisperd whisperctl; do
        # Only what this script has put there.
        if [ "$(readlink "$bin/$program" 2>/dev/null)" = "$home/bin/$program" ]; then rm "$bin/$program"; fi
    done
    rm -rf "$home"
    echo "whisperd is gone from $PREFIX."
    if [ -n "$places" ]; then
        echo "These stay until you delete them: native bundles, models, settings; texts, jobs, runtimes and the log."
        echo "$places" | while IFS= read -r place; do if [ -e "$place" ]; then du -sh "$place"; fi; done
    fi
    exit 0
fi

for program in whisperd whisperctl; do
    if [ -e "$bin/$program" ] && [ "$(readlink "$bin/$program")" != "$home/bin/$program" ]; then
        echo "$bin/$program is there already and was not put there by this installation." >&2
        echo "  Remove it, or choose another place: make install PREFIX=FOLDER." >&2
        exit 1
    fi
done
mkdir -p "$bin" "$(dirname "$home")"
if [ -x "$home/bin/whisperctl" ]; then
    # An upgrade: the old daemon would go on with files that are gone.
    "$home/bin/whisperctl" --quiet --no-start daemon stop 2>/dev/null || true
fi
# The new one is complete before the old one goes. An environment knows its own path, so it is made in its place.
restore() {
    if [ -d "$home.old" ] && [ ! -e "$home/complete" ]; then rm -rf "$home" && mv "$home.old" "$home"; fi
}
restore # where the last attempt was killed
rm -rf "$home.old"
if [ -d "$home" ]; then mv "$home" "$home.old"; fi
trap restore EXIT
trap 'exit 1' INT TERM
echo "Installing into $home ..."
"$PYTHON" -m venv "$home"
"$home/bin/python" -m pip install --quiet --disable-pip-version-check dist/*.whl
touch "$home/complete"
rm -rf "$home.old"
for program in whisperd whisperctl; do ln -sf "$home/bin/$program" "$bin/$program"; done
if is_service; then "$home/bin/whisperctl" --quiet daemon start || true; fi
echo "Installed whisperd and whisperctl in $bin."
case ":$PATH:" in
*":$bin:"*) echo "Try: whisperctl transcribe RECORDING" ;;
*) echo "$bin is not on your PATH. Add it:  export PATH=\"$bin:\$PATH\"" ;;
esac
