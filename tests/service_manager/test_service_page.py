"""The commands of `docs/service.md` work in order, with a stand-in for the systemd user manager."""

from __future__ import annotations

import re
import sys

import pytest
from service_user import User

from whisperd_testing import TESTS

PAGE = TESTS.parent / "docs" / "service.md"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the page is about systemd first")


def blocks() -> list[str]:
    """Return the command blocks of the page, except those marked as not run."""
    text = re.sub(r"<!-- not run -->\n\n(    .*\n)+", "", PAGE.read_text())
    return [re.sub("^    ", "", block, flags=re.M) for block in re.findall(r"(?:^    .*\n)+", text, re.M)]


@pytest.mark.slow
def test_the_commands_of_the_page_work(user: User) -> None:
    said = {}
    for block in blocks():
        done = user.run("sh", "-ec", block)
        assert done.status == 0, f"{block}\n{done}"
        said[block] = done.out
    everything = "\n".join(said.values())
    assert "whisperd is installed as a service of systemd and running" in everything
    assert "service  of systemd" in everything
    assert "ListenStream=%t/whisperd/daemon.sock" in everything
    assert "whisperd has stopped" in everything
    assert "whisperd is no longer a service" in everything
    assert "#!/sbin/openrc-run" in everything
    assert 'whisperd_jobs_total{status="completed"} 0' in (user.home / "metrics/whisperd.prom").read_text()
    drop_in = user.units / "whisperd.service.d" / "offline.conf"
    assert drop_in.exists()  # uninstalling keeps it
    assert not list(user.units.glob("whisperd.s*[!d]"))
    assert not user.socket.exists()


def test_settings_and_folders_of_the_page_exist() -> None:
    text = PAGE.read_text()
    from whisperd.settings import settings_template

    template = settings_template()
    for section, key in re.findall(r"`(daemon|jobs|runtime)\.(\w+)(?: = \w+)?`", text):
        if key != "sock":
            assert f"{key} =" in template, f"{section}.{key}"
    for folder in re.findall(r"`(systemd|launchd|contrib/\w+)/?`", text):
        assert (TESTS.parent / folder).is_dir()
