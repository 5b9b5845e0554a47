"""Write the service files for packagers: `systemd/`, `launchd/` and those in `contrib/`.

They are what `whisperctl daemon install` writes, with programs in `/usr/bin`. A test keeps them current.
"""

from __future__ import annotations

from pathlib import Path

from whisperd.service_manager.managers import MANAGERS, Place

ROOT = Path(__file__).parent.parent
PLACE = Place(
    command=("/usr/bin/whisperd",),
    reload=("/usr/bin/whisperctl", "--no-start", "daemon", "reload"),
    socket="",
    listen="%t/whisperd/daemon.sock",
    units=Path("systemd"),
    agents=Path("launchd"),
    state=Path("contrib/windows"),
    user_name="USER",
)
PLACES = {"openrc": "contrib/openrc/whisperd", "runit": "contrib/runit/whisperd/run"}


def files() -> dict[str, str]:
    """Return the texts of the files, by their paths in the repository."""
    return {
        PLACES.get(name, file.path.as_posix()): "".join(
            line for line in file.text.splitlines(keepends=True) if "Written by `whisperctl" not in line
        )
        for name, manager in MANAGERS.items()
        for file in manager(PLACE).files
    }


def main() -> None:
    """Write the files."""
    for name, text in files().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace('encoding="UTF-16"', 'encoding="UTF-8"'), "utf-8")
        if text.startswith("#!"):
            path.chmod(0o755)
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
