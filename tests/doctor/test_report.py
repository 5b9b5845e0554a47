"""The content of a bug report, without anything private."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.doctor.facts import Facts, Finding, ModelFacts, RuntimeFacts
from whisperd.doctor.report import Private, about, private_names, report, scrubbed
from whisperd.models import shipped_catalogue

PRIVATE = Private(
    home="/home/maria",
    users=("maria",),
    hosts=("marias-laptop", "marias-laptop.example.org"),
    names=("Interviews Schmidt", "someone/secret-model"),
    places={"/home/maria/.local/state/whisperd": "state folder", "/srv/our models": "models folder"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/maria/.local/state/whisperd/daemon.log", "~/.local/state/whisperd/daemon.log"),
        ("/srv/our models is full", "<models folder> is full"),
        ("/home/maria/talks/divorce.wav does not exist.", "<path> does not exist."),
        ("/mnt/usb/divorce.wav, and /tmp/x", "<path>, and <path>"),
        ("'/mnt/usb/divorce.wav'", "'<path>'"),
        ("'/mnt/my usb/divorce.wav' does not exist.", "'<path>' does not exist."),
        ("'/home/maria/it'\"'\"'s mine/x' does not exist.", "'<path>' does not exist."),
        ("`/usr/bin/clang /mnt/my usb/x` failed", "`<path>` failed"),
        ("`/usr/bin/python3 -m pip` failed", "`/usr/bin/python3 -m pip` failed"),
        ("'/usr/lib:/mnt/usb'", "'/usr/lib:<path>'"),
        (r"C:\Users\Maria\talk.wav is empty", "<path> is empty"),
        ("libcublas in /usr/lib/x86_64-linux-gnu is old", "libcublas in /usr/lib/x86_64-linux-gnu is old"),
        ("Maria runs it on MARIAS-LAPTOP.example.org", "USER runs it on HOST"),
        ("mariachi and tamaria stay", "mariachi and tamaria stay"),
        ("The runtime Interviews Schmidt failed", "The runtime NAME failed"),
        ("someone/secret-model is damaged", "NAME is damaged"),
        ("Run `whisperctl models pull base`.", "Run `whisperctl models pull base`."),
        ("12 MB/s and either/or", "12 MB/s and either/or"),
    ],
)
def test_private_parts_of_a_text_are_replaced(text: str, expected: str) -> None:
    assert scrubbed(text, PRIVATE) == expected


words = st.from_regex(r"[a-z][a-z0-9-]{0,11}", fullmatch=True)
texts = st.lists(
    st.one_of(
        words,
        st.sampled_from(
            ["/home/", "/", " ", "'", "maria", "MARIA", "marias-laptop", "/home/maria", "talk.wav", "\\", ":"]
        ),
    )
).map("".join)


@given(texts, words, words)
def test_no_private_word_is_left(text: str, user: str, host: str) -> None:
    private = Private(home=f"/home/{user}", users=(user,), hosts=(host,), names=("maria",))
    scrubbed_text = scrubbed(f"{text} {user} {host} /home/{user}/{text}", private)
    for secret in (user, host, "maria"):
        labels = re.sub("USER|HOST|NAME", "", scrubbed_text)
        assert (
            not re.search(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", labels, re.IGNORECASE)
            or secret == "path"
        )
    assert f"/home/{user}" not in scrubbed_text


def test_names_chosen_by_the_user_are_private() -> None:
    facts = Facts(
        version="1",
        python="3",
        settings_path="",
        settings_exist=False,
        models=(ModelFacts(name="base"), ModelFacts(name="someone/secret-model")),
        runtimes=(
            RuntimeFacts(name="Interviews Schmidt", model="/home/maria/model", default=True, enabled=True),
            RuntimeFacts(name="tiny", model="tiny", default=False, enabled=True),
        ),
        environment={"LD_LIBRARY_PATH": f"/opt/cuda{os.pathsep}/srv/our libraries/"},
    )
    assert private_names(facts, shipped_catalogue()) == [
        "/home/maria/model",
        "/srv/our libraries",
        "Interviews Schmidt",
        "someone/secret-model",
    ]
    assert about(facts, shipped_catalogue())["models"] == "base, 1 not in the catalogue"


def test_the_text_of_a_report() -> None:
    findings = [
        Finding(name="daemon", status="ok", message="whisperd 1 responds"),
        Finding(name="disk", status="broken", message="/home/maria is full.", fix="Make room."),
    ]
    assert report({"whisperd": "1", "Python": "3.13"}, findings, PRIVATE) == (
        "whisperd  1\n"
        "Python    3.13\n"
        "\n"
        "ok       daemon: whisperd 1 responds\n"
        "broken   disk: <path> is full.\n"
        "         Make room.\n"
    )
