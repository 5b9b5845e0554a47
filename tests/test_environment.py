"""The environment variables that the daemon inherits from the process that starts it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whisperd.environment import daemon_environment

NAMES = st.text(st.characters(codec="ascii", exclude_characters="=\0"), min_size=1, max_size=12)


def test_only_variables_of_the_daemon_and_its_engines_pass() -> None:
    shell = {
        "HOME": "/home/me",
        "PATH": "/usr/bin",
        "LC_ALL": "de_DE.UTF-8",
        "https_proxy": "http://proxy:3128",
        "NO_PROXY": "localhost",
        "SSL_CERT_FILE": "/etc/our.pem",
        "PIP_INDEX_URL": "http://mirror/simple",
        "HF_TOKEN": "hf_secret",
        "WHISPERD_OFFLINE": "1",
        "XDG_RUNTIME_DIR": "/run/user/1000",
        "CUDA_VISIBLE_DEVICES": "1",
        "LD_LIBRARY_PATH": "/opt/cuda/lib",
        "MKLROOT": "/opt/mkl",
    }
    foreign = {
        "VIRTUAL_ENV": "/home/me/project/.venv",
        "CONDA_PREFIX": "/opt/conda",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "OLDPWD": "/home/me/project",
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "LISTEN_FDS": "1",
    }
    assert daemon_environment({**shell, **foreign}) == shell


def test_further_variables_can_be_named() -> None:
    shell = {"WHISPERD_ENVIRONMENT": "MY_ENGINE_*, OTHER", "MY_ENGINE_KEY": "1", "OTHER": "2", "OTHERS": "3"}
    assert daemon_environment(shell).keys() == shell.keys() - {"OTHERS"}


@given(st.dictionaries(NAMES, st.text(max_size=5)))
def test_no_variable_is_invented(environment: dict[str, str]) -> None:
    assert daemon_environment(environment).items() <= environment.items()


@given(st.dictionaries(NAMES, st.text(max_size=5)))
def test_an_asterisk_passes_everything(environment: dict[str, str]) -> None:
    everything = {**environment, "WHISPERD_ENVIRONMENT": "*"}
    assert daemon_environment(everything) == everything
