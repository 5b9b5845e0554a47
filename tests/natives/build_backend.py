"""A build backend without a compiler, with which tests build source distributions.

It runs the script of the source, and makes a wheel of the `files` that the script defines.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

TAG = "py3-none-any"


def _metadata() -> tuple[str, str, str]:
    text = Path("PKG-INFO").read_text()
    fields = dict(line.split(": ", 1) for line in text.splitlines())
    return fields["Name"], fields["Version"], text


def prepare_metadata_for_build_wheel(directory: str, config_settings: object = None) -> str:
    name, version, text = _metadata()
    info = f"{name}-{version}.dist-info"
    Path(directory, info).mkdir()
    Path(directory, info, "METADATA").write_text(text)
    return info


def build_wheel(directory: str, config_settings: object = None, metadata_directory: object = None) -> str:
    name, version, text = _metadata()
    files: dict[str, str] = {}
    exec(Path("script.py").read_text(), {"files": files})
    info = f"{name}-{version}.dist-info"
    files |= {
        f"{info}/METADATA": text,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {TAG}\n",
    }
    record = ""
    wheel = f"{name}-{version}-{TAG}.whl"
    with zipfile.ZipFile(Path(directory, wheel), "w") as archive:
        for path, content in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest())
            record += f"{path},sha256={digest.rstrip(b'=').decode()},{len(content.encode())}\n"
            archive.writestr(path, content)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return wheel
