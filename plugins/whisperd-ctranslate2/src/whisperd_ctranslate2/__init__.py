"""The CTranslate2 backend of whisperd: announces its variants. The engine itself is `engine.py`,
imported in a worker process only.
"""

from __future__ import annotations

from importlib import resources

from whisperd.plugins import Backend, Variant, hookimpl

__all__ = ["whisperd_backend"]


@hookimpl
def whisperd_backend() -> Backend:
    """The backend, with one variant for each kind of hardware that it has a build for."""
    return Backend(
        name="ctranslate2",
        engine="whisperd_ctranslate2.engine:load",
        variants=(
            Variant(
                name="ctranslate2-cpu",
                lock=_read_lock("ctranslate2-cpu"),
                device="cpu",
                priority=10,
                compute_types=("int8", "int8_float32", "float32"),
            ),
        ),
    )


def _read_lock(variant: str) -> str:
    return resources.files(__name__).joinpath(f"{variant}.lock").read_text("utf-8")
