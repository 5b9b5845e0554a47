"""Requests whose parameters have the right types, but absurd values.

They pass the decoding of parameters and so reach the code behind it, for every method.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect
from raw_client import RawClient

from fuzzing import examples
from whisperd.daemon.methods import METHODS
from whisperd_testing import RunningDaemon, toy_model

EXCEPT = {"daemon.stop", "doctor.check", "hardware.show"}
"""The first would stop the daemon. The others start processes each time and take no parameters."""
MAY_WAIT = {"calibration.run", "jobs.wait", "runtimes.load", "runtimes.prepare", "watch.scan"}
"""Methods that answer only when an operation ends."""
PLACES = (
    *("/no/such/file.wav", "relative.wav", ".", "../..", "\0", "\udc80"),
    *("{folder}", "{folder}/toy", "{folder}/it.wav", "{folder}/\0"),
)
"""Paths; `{folder}` is the test's folder. Any other could be one that the daemon must not watch."""
WORDS = (
    *PLACES,
    *("toy", "default", "base", "en", "auto", "all", "jobs"),
    *("{stem}", "*", "[", "%s", "é\u202e", "", "a" * 4096),
)

texts = st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="/~"), max_size=30)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Generate values that decode into a type."""
    match kind:
        case inspect.StructType(fields=fields):
            required = {one.encode_name: values(one.type) for one in fields if one.required}
            optional = {one.encode_name: values(one.type) for one in fields if not one.required}
            return st.fixed_dictionaries(required, optional=optional)
        case inspect.UnionType(types=types):
            return st.one_of([values(one) for one in types])
        case inspect.LiteralType(values=names):
            return st.sampled_from(names)
        case inspect.IntType(ge=least, le=most):
            numbers = st.integers(-(2**63) if least is None else least, 2**63 - 1 if most is None else most)
            return numbers | st.integers(max(least or 0, 0), min(most or 9, 9))
        case inspect.FloatType():
            return st.floats() | st.floats(0, 60)
        case inspect.StrType():
            return texts
        case inspect.BytesType():
            return st.binary(max_size=40)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(values, items)).map(list)
        case inspect.DictType():
            return st.dictionaries(texts, anything, max_size=3)
        case inspect.AnyType() | inspect.RawType():
            return anything
        case inspect.Metadata(type=inner):
            return values(inner)
    raise AssertionError(f"no values for {kind}")


METHOD_PARAMS = {
    name: typing.get_type_hints(handler)["params"] for name, handler in METHODS.items() if name not in EXCEPT
}
REQUESTS = st.one_of(
    [
        st.tuples(st.just(name), values(inspect.type_info(params)))
        for name, params in sorted(METHOD_PARAMS.items())
    ]
)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that downloads nothing and has its own stores, so that the tests' stores are safe."""
    folder = tmp_path_factory.mktemp("daemon")
    own = {name: str(folder / name) for name in ("HOME", "WHISPERD_NATIVE_DIR", "WHISPERD_MODELS_DIR")}
    daemon = RunningDaemon(folder, env={**own, "WHISPERD_OFFLINE": "1"})
    daemon.settings("[models]\npackage_index = false\n")
    daemon.start()
    yield daemon
    daemon.close()
    assert "Traceback" not in daemon.log(), "no error is hidden behind an answer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    toy_model(folder / "toy")
    (folder / "it.wav").write_bytes(b"not audio")
    return folder


def placed(value: Any, folder: Path) -> Any:
    """Return the value with `{folder}` replaced."""
    match value:
        case str():
            return value.replace("{folder}", str(folder))
        case dict():
            return {placed(key, folder): placed(inner, folder) for key, inner in value.items()}
        case list():
            return [placed(inner, folder) for inner in value]
    return value


@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck))
@given(st.lists(REQUESTS, min_size=1, max_size=8))
def test_every_request_is_answered_or_refused(
    tried: RunningDaemon, folder: Path, requests: list[tuple[str, dict[str, Any]]]
) -> None:
    with RawClient(tried) as client:
        for number, (method, params) in enumerate(requests):
            message = [0, number, method, [placed(params, folder)]]
            client.send(msgpack.packb(message, unicode_errors="surrogatepass"))
        waiting = {number for number, (method, _) in enumerate(requests) if method not in MAY_WAIT}
        while waiting:  # answers may come in any order
            match client.receive():
                case [1, int() as number, error, _]:
                    waiting.discard(number)
                    if isinstance(error, str):  # if the session asked for errors as text
                        assert "internal.error" not in error, requests[number]
                    elif error is not None:
                        assert error["code"] != "internal.error", (requests[number], error)
                        assert error["message"] and error["fix"]
    with RawClient(tried) as other:
        assert other.request("daemon.status")["pid"] == tried.pid
