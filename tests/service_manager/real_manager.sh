# Runs a script beside a user manager of systemd that is all its own: mounts, processes and control groups of ours.
# $1 is a control group that is made for it, $2 the script. Exit status 77: no manager can be had here.
set -u
if [ -z "${INSIDE:-}" ]; then
    mkdir -p "$1" && echo $$ > "$1/cgroup.procs" || exit 77
    INSIDE=1 exec unshare --mount --cgroup --pid --fork --mount-proc bash "$0" "$@"
fi
mount -t tmpfs tmpfs /run || exit 77
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR" && chmod 700 "$XDG_RUNTIME_DIR"
for program in /usr/lib/systemd/systemd /lib/systemd/systemd; do
    [ -x "$program" ] && break
done
"$program" --user >/dev/null 2>&1 &
for _ in $(seq 300); do
    systemctl --user show --property=Version >/dev/null 2>&1 && break
    sleep 0.1
done
systemctl --user show --property=Version >/dev/null 2>&1 || exit 77
bash -e "$2"
