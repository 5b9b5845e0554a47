"""The command line of the conformance suite."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import anyio
import msgspec

from whisperd import paths
from whisperd.cli.output import Progress as ProgressLine
from whisperd.cli.output import prepare_streams, print_json, printable
from whisperd.installed_plugins import backends, problems
from whisperd.models import ModelStore, default_sources
from whisperd.natives import Bundle, NativeStore
from whisperd.plugins import Backend, Variant
from whisperd.progress import Progress
from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.preset import RuntimePreset
from whisperd.settings import is_offline, load_settings
from whisperd.testing.conformance import CHECKS, Outcome, Suite

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
NAME_CELLS = max(len(name) for name, _ in CHECKS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite and return the exit status."""
    prepare_streams()
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for name, what in CHECKS:
            _write(f"{name:{NAME_CELLS}}  {what}")
        return 0
    if options.plugin is None:
        parser.error("PLUGIN is missing: name the backend to test")
    if unknown := set(options.skip) - {name for name, _ in CHECKS}:
        parser.error(f"there is no check {min(unknown)!r}; `--list` lists the checks")
    try:
        return anyio.run(_run, options)
    except WhisperdError as error:
        if options.json:
            print_json({"error": error.to_wire()})
        else:
            sys.stderr.write(f"{error.message}\n  {error.fix}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m whisperd.testing.conformance",
        description="Check that a backend meets whisperd's requirements. Exit status 1 if it does not.",
    )
    parser.add_argument(
        "plugin",
        metavar="PLUGIN",
        nargs="?",
        help="the name of the backend, which is that of its entry point",
    )
    parser.add_argument("--variant", help="the variant to test (the best that this computer can use)")
    parser.add_argument("--model", default="tiny.en", help="the model to load, by name or folder (tiny.en)")
    parser.add_argument(
        "--multilingual",
        default="base",
        metavar="MODEL",
        help="the multilingual model to load, by name or folder (base)",
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="CHECK", help="skip a check; may be repeated"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="time limit for a batch (120), plus 10 seconds per second of audio in it",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    return parser


async def _run(options: argparse.Namespace) -> int:
    backend = _backend(options.plugin)
    natives = NativeStore(paths.native_dir(), offline=is_offline())
    variant = await _variant(backend, options.variant, natives)
    settings = load_settings(paths.config_file())
    line = ProgressLine(quiet=options.json)
    suite = Suite(
        backend,
        variant,
        natives,
        ModelStore(paths.models_dir(), sources=default_sources(settings.models), offline=is_offline()),
        model=options.model,
        multilingual=options.multilingual,
        skip=options.skip,
        on_progress=lambda progress: _show(line, progress),
    )
    suite.patience = dataclasses.replace(suite.patience, batch_s=options.timeout)
    if not options.json:
        _write(f"{variant.name}: {len(CHECKS)} checks with {options.model} and {options.multilingual}")
        suite.on_outcome = lambda outcome: _print_outcome(line, outcome)
    outcomes = await suite.run()
    counts = {status: sum(one.status == status for one in outcomes) for status in ("ok", "failed", "skipped")}
    if options.json:
        print_json(
            {
                "backend": backend.name,
                "variant": variant.name,
                "passed": not counts["failed"],
                **counts,
                "checks": msgspec.to_builtins(outcomes),
            }
        )
    else:
        _write(", ".join(f"{count} {status}" for status, count in counts.items()))
    return EXIT_FAILED if counts["failed"] else 0


def _backend(name: str) -> Backend:
    """Return the named backend. Raises the reason its plugin cannot be used, or `plugin.unknown`."""
    for backend in backends():
        if name == backend.name:
            return backend
    for problem in problems():
        if name in (problem.data["plugin"], problem.data["distribution"]):
            raise problem
    raise WhisperdError(
        "plugin.unknown",
        f"There is no plugin {name!r}.",
        f"Install it into whisperd's environment, or use one of {', '.join(one.name for one in backends())}.",
    )


async def _variant(backend: Backend, name: str | None, natives: NativeStore) -> Variant:
    """Return the named variant, or the best usable one, preferring those that need no build."""
    if name is not None:
        for variant in backend.variants:
            if variant.name == name:
                return variant
        names = ", ".join(variant.name for variant in backend.variants)
        raise WhisperdError("plugin.no_variant", f"There is no variant {name!r}.", f"Use one of {names}.")
    preset = RuntimePreset(id="", name="conformance", model="", backend=backend.name, created="", changed="")
    computer = Computer(is_installed=lambda bundle: natives.find(bundle) is not None)
    usable = [variant for own, variant in await computer.usable_variants(preset) if own == backend]
    usable.sort(key=lambda one: (bundle := Bundle.of(one)) is not None and natives.has_to_be_built(bundle))
    # If none is usable, the checks report why the first is not.
    return next(iter(usable), max(backend.variants, key=lambda variant: variant.priority))


def _print_outcome(line: ProgressLine, outcome: Outcome) -> None:
    line.clear()
    _write(f"{outcome.status:7}  {outcome.name:{NAME_CELLS}}  {outcome.what}")
    if outcome.reason is not None:
        _write(f"{'':7}  {'':{NAME_CELLS}}  {printable(outcome.reason)}")


def _show(line: ProgressLine, progress: Progress) -> None:
    percent = 100 * progress.done / progress.total if progress.total else None
    line.show(f"{progress.detail} {progress.name}", percent, size(progress.done) if progress.done else "")


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
