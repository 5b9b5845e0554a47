"""`whisperd.Whisper`: the engine inside a program, which runs as a separate process here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from whisperd_testing import LIMIT_S, RunningDaemon, batches, loads, until

pytestmark = pytest.mark.real

TEXT = "transcribe 2.00 s"
Run = Callable[..., str]
Start = Callable[..., "subprocess.Popen[str]"]


def children_of(program: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(program.pid).children(recursive=True)


def has_worker(program: subprocess.Popen[str]) -> bool:
    for child in children_of(program):
        with suppress(psutil.Error):  # it ended just now
            if "whisperd.worker.main" in child.cmdline():
                return True
    return False


def test_all_kinds_of_sources_are_accepted(run: Run, toy: Callable[..., str], tone: Path) -> None:
    code = """
    import array, io, pathlib, wave
    model, tone = sys.argv[1:]
    content = pathlib.Path(tone).read_bytes()
    pcm = wave.open(tone).readframes(10**6)
    integers = array.array("h", pcm)
    floats = array.array("f", [value / 32768 for value in integers])
    file = io.BytesIO(content)
    with whisperd.Whisper(model=model) as whisper:
        for source in (tone, pathlib.Path(tone), content, bytearray(content), file, integers, floats):
            print(whisper.transcribe(source, vad=False).text)
        print(whisper.transcribe(pcm, sample_rate=16_000, vad=False).text)
        print(whisper.transcribe(pcm, sample_rate=8_000, vad=False).text)
        print(whisper.transcribe(floats, sample_rate=32_000, vad=False).text)
    """
    assert run(code, toy(), tone).splitlines() == [TEXT] * 8 + ["transcribe 4.00 s", "transcribe 1.00 s"]


def test_a_transcript_and_its_segments(run: Run, toy: Callable[..., str], tone: Path) -> None:
    code = """
    model, tone = sys.argv[1:]
    with whisperd.Whisper(model=model) as whisper:
        done = whisper.transcribe(tone, vad=False, language="German")
        assert done.segments == (whisperd.Segment(0, 0.0, 2.0, done.text, language="de"),)
        assert list(whisper.transcribe(tone, stream=True, vad=False, language="de")) == list(done.segments)
        print(done.text, done.language, done.duration, done.verbose["task"], whisper.languages)
        assert whisper.model == model
    """
    assert run(code, toy(), tone) == f"{TEXT} de 2.0 transcribe ('en', 'de', 'fr')\n"


def test_small_recordings_use_a_separate_queue(run: Run, toy: Callable[..., str], tone: Path) -> None:
    code = """
    from whisperd.jobs import executor
    asked, queue_of = [], executor._queue_of
    executor._queue_of = lambda job: asked.append(queue_of(job)) or asked[-1]
    with whisperd.Whisper(model=sys.argv[1]) as whisper:
        whisper.transcribe(sys.argv[2])
        whisper.transcribe(open(sys.argv[2], "rb"))
        whisper.transcribe(bytes(executor.SMALL_BYTES), sample_rate=16_000)
    print([is_small for _, is_small in asked])
    """
    assert run(code, toy(), tone) == "[True, True, False]\n"


def test_no_daemon_is_started_and_no_file_is_left(
    run: Run, surroundings: RunningDaemon, toy: Callable[..., str], tone: Path
) -> None:
    code = """
    import tempfile, os
    with whisperd.Whisper(model=sys.argv[1]) as whisper:
        whisper.transcribe(open(sys.argv[2], "rb"), vad=False)
    import psutil
    print(psutil.Process().children(), os.listdir(tempfile.gettempdir()))
    """
    temporary = surroundings.folder / "temporary"
    temporary.mkdir()
    surroundings.env["TMPDIR"] = surroundings.env["TEMP"] = str(temporary)
    assert run(code, toy(), tone) == "[] []\n"
    assert not Path(surroundings.socket).exists()
    assert not (surroundings.folder / "state").exists()


def test_runtime_fields_are_accepted(run: Run, toy: Callable[..., str], tone: Path) -> None:
    model = toy()
    code = """
    with whisperd.Whisper(model=sys.argv[1], device="cpu", workers=3, cpu_threads=2) as whisper:
        whisper.transcribe(sys.argv[2], vad=False)
    """
    run(code, model, tone)
    assert [(one["replicas"], one["threads"]) for one in loads(model)] == [(3, 2)]


def test_the_settings_of_the_user_apply(
    run: Run, surroundings: RunningDaemon, toy: Callable[..., str]
) -> None:
    model = toy()
    surroundings.settings("[runtime]\nworkers = 2\n")
    run("whisperd.Whisper(model=sys.argv[1]).close()", model)
    assert [one["replicas"] for one in loads(model)] == [2]


def test_threads_share_the_model(run: Run, toy: Callable[..., str], tone: Path) -> None:
    model = toy()
    code = """
    from concurrent.futures import ThreadPoolExecutor
    with whisperd.Whisper(model=sys.argv[1]) as whisper, ThreadPoolExecutor(8) as threads:
        done = threads.map(lambda _: whisper.transcribe(sys.argv[2], vad=False).text, range(16))
        print(*set(done), sep="\\n")
    """
    assert run(code, model, tone) == f"{TEXT}\n"
    assert len(loads(model)) == 1
    assert sum(len(batch["durations"]) for batch in batches(model)) == 16


MISTAKES = {
    "whisper.transcribe('no/such/file')": "audio.not_found",
    "whisper.transcribe(b'')": "audio.empty",
    "whisper.transcribe(b'no recording')": "audio.unsupported",
    "whisper.transcribe(tone, language='klingon')": "language.unknown",
    "whisper.transcribe(tone, language='es')": "language.not_in_model",
    "whisper.transcribe(tone, beams=3)": "rpc.invalid_params",
    "whisper.transcribe(tone, model='base')": "runtime.invalid",
    "whisper.transcribe(tone, sample_rate=16000)": "audio.not_samples",
    "list(whisper.transcribe('no/such/file', stream=True))": "audio.not_found",
    "whisperd.Whisper(model='no such model')": "model.unknown",
    "whisperd.Whisper(model=model, compute_type='int3')": "runtime.invalid",
    "whisperd.Whisper(model=model, colour='red')": "runtime.invalid",
    "whisperd.Whisper(model=model, backend='none')": "runtime.invalid",
    "whisper.close(), whisper.close(), whisper.transcribe(tone)": "whisper.closed",
    "list(whisper.transcribe(tone, stream=True))": "whisper.closed",
}


def test_mistakes_raise_errors_with_a_fix(run: Run, toy: Callable[..., str], tone: Path) -> None:
    code = """
    import json
    model, tone, calls = sys.argv[1:]
    with whisperd.Whisper(model=model) as whisper:
        for call in json.loads(calls):
            try:
                eval(call)
            except whisperd.WhisperdError as error:
                print(error.code, call if error.fix else "has no fix")
    """
    out = run(code, toy(), tone, json.dumps(list(MISTAKES)))
    assert out.splitlines() == [f"{code} {call}" for call, code in MISTAKES.items()]


def test_an_engine_error_is_raised_by_its_call(run: Run, toy: Callable[..., str], tone: Path) -> None:
    code = """
    with whisperd.Whisper(model=sys.argv[1]) as whisper:
        for stream in (False, True):
            try:
                list(whisper.transcribe(sys.argv[2], vad=False, stream=stream))
            except whisperd.WhisperdError as error:
                print(error.message)
    """
    assert run(code, toy(error="No."), tone) == "No.\nNo.\n"


def test_a_model_that_cannot_be_loaded_leaves_nothing(run: Run, toy: Callable[..., str]) -> None:
    code = """
    import psutil, threading
    try:
        whisperd.Whisper(model=sys.argv[1])
    except whisperd.WhisperdError as error:
        for thread in threading.enumerate():
            if thread.name.startswith(("AnyIO", "asyncio-waitpid")):
                thread.join(60)  # it is ending
        names = sorted(thread.name for thread in threading.enumerate())
        print(error.code, psutil.Process().children(), names)
    """
    assert run(code, toy(load_error="no")) == "model.load_failed [] ['MainThread', 'whisperd end']\n"


def test_closing_ends_a_transcription_in_another_thread(
    start: Start, toy: Callable[..., str], tone: Path, held: Path
) -> None:
    code = """
    import threading
    def transcribe():
        try:
            whisper.transcribe(sys.argv[2], vad=False)
        except whisperd.WhisperdError as error:
            print(error.code)
    with whisperd.Whisper(model=sys.argv[1]) as whisper:
        thread = threading.Thread(target=transcribe)
        thread.start()
        input()
    thread.join()
    """
    program = start(code, held, tone)
    until(lambda: batches(held), "the batch")
    out, err = program.communicate("\n", LIMIT_S)
    assert (out, err) == ("whisper.closed\n", "")


def test_closing_does_not_wait_for_a_recording_that_never_ends(run: Run, toy: Callable[..., str]) -> None:
    code = """
    import threading
    class Endless:
        def __init__(self):
            self.is_read, self.is_over = threading.Event(), threading.Event()
        def read(self, count):
            self.is_read.set()
            self.is_over.wait()
            return b""
    def transcribe():
        try:
            whisper.transcribe(endless)
        except whisperd.WhisperdError as error:
            print(error.code)
    endless = Endless()
    with whisperd.Whisper(model=sys.argv[1]) as whisper:
        thread = threading.Thread(target=transcribe)
        thread.start()
        endless.is_read.wait()
    thread.join()
    endless.is_over.set()
    """
    assert run(code, toy()) == "whisper.closed\n"


def test_leaving_the_iteration_early_cancels(run: Run, toy: Callable[..., str], ten_minutes: Path) -> None:
    code = """
    import contextlib
    with whisperd.Whisper(model=sys.argv[1], workers=1, batch_size=1) as whisper:
        with contextlib.closing(whisper.transcribe(sys.argv[2], stream=True, vad=False)) as segments:
            print(next(segments).id)
        print(whisper.transcribe(sys.argv[2], vad=False).segments[-1].id > 10)
    """
    model = toy()
    assert run(code, model, ten_minutes) == "0\nTrue\n"


@pytest.mark.skipif(os.name != "posix", reason="signals")
class TestSignals:
    def test_ctrl_c_ends_a_transcription(self, start: Start, tone: Path, held: Path) -> None:
        code = """
        with whisperd.Whisper(model=sys.argv[1]) as whisper:
            try:
                whisper.transcribe(sys.argv[2], vad=False)
            except KeyboardInterrupt:
                print("interrupted")
        """
        program = start(code, held, tone)
        until(lambda: batches(held), "the batch")
        children = children_of(program)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=LIMIT_S)
        assert (out, err) == ("interrupted\n", "")
        assert psutil.wait_procs(children, LIMIT_S)[1] == []

    def test_ctrl_c_ends_the_opening(self, start: Start, toy: Callable[..., str]) -> None:
        model = Path(toy())
        (model / "hold_load").touch()
        program = start("whisperd.Whisper(model=sys.argv[1])", model)
        until(lambda: loads(model), "the load")
        children = children_of(program)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=LIMIT_S)
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert psutil.wait_procs(children, LIMIT_S)[1] == []

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_child_processes_end_with_a_killed_program(
        self, start: Start, tone: Path, held: Path, number: signal.Signals
    ) -> None:
        code = """
        with whisperd.Whisper(model=sys.argv[1]) as whisper:
            whisper.transcribe(sys.argv[2], vad=False)
        """
        program = start(code, held, tone)
        until(lambda: batches(held), "the batch")
        assert has_worker(program)
        children = children_of(program)
        program.send_signal(number)
        assert program.wait(LIMIT_S) == -number
        assert psutil.wait_procs(children, LIMIT_S)[1] == []


def temporary_of(surroundings: RunningDaemon) -> Path:
    """Create and set a separate folder for temporary files."""
    temporary = surroundings.folder / "temporary"
    temporary.mkdir()
    surroundings.env["TMPDIR"] = surroundings.env["TEMP"] = str(temporary)
    return temporary


def test_the_next_program_deletes_the_folders_of_killed_ones(
    start: Start, run: Run, surroundings: RunningDaemon, toy: Callable[..., str]
) -> None:
    temporary = temporary_of(surroundings)
    code = """
    whisper = whisperd.Whisper(model=sys.argv[1])
    print("open", flush=True)
    sys.stdin.read()
    """
    killed, running = start(code, toy()), start(code, toy())
    for program in (killed, running):
        assert program.stdout is not None and program.stdout.readline() == "open\n"
    before = set(temporary.iterdir())
    assert len(before) == 2
    killed.kill()
    killed.communicate()
    run("whisperd.Whisper(model=sys.argv[1]).close()", toy())
    assert set(temporary.iterdir()) == before  # a new folder may belong to a program that is about to lock it
    for folder in before:
        os.utime(folder / "lock", (0, 0))
    run("whisperd.Whisper(model=sys.argv[1]).close()", toy())
    (left,) = temporary.iterdir()
    running.communicate("")
    assert left in before and running.returncode == 0 and not left.exists()


def test_a_program_that_forgets_to_close_still_ends(
    start: Start, surroundings: RunningDaemon, toy: Callable[..., str], tone: Path
) -> None:
    temporary = temporary_of(surroundings)
    code = """
    whisper = whisperd.Whisper(model=sys.argv[1])
    print(whisper.transcribe(sys.argv[2], vad=False).text)
    input()
    """
    program = start(code, toy(), tone)
    assert program.stdout is not None and program.stdout.readline() == f"{TEXT}\n"
    children = children_of(program)
    _, err = program.communicate("\n", LIMIT_S)
    assert (program.returncode, err, list(temporary.iterdir())) == (0, "", [])
    assert psutil.wait_procs(children, LIMIT_S)[1] == []


def test_whisper_works_inside_a_running_event_loop(run: Run, toy: Callable[..., str], tone: Path) -> None:
    code = """
    import anyio
    async def main():
        with whisperd.Whisper(model=sys.argv[1]) as whisper:
            print(whisper.transcribe(sys.argv[2], vad=False).text)
    anyio.run(main)
    """
    assert run(code, toy(), tone) == f"{TEXT}\n"


def test_async_whisper(run: Run, toy: Callable[..., str], tone: Path) -> None:
    code = """
    import anyio, contextlib
    async def main():
        model, tone = sys.argv[1:]
        async with whisperd.AsyncWhisper(model=model) as whisper:
            done = await whisper.transcribe(tone, vad=False)
            async with contextlib.aclosing(whisper.transcribe(tone, stream=True, vad=False)) as segments:
                assert [one async for one in segments] == list(done.segments)
            print(done.text)
            with anyio.move_on_after(0):
                await whisper.transcribe(tone, vad=False)
        try:
            await whisper.transcribe(tone)
        except whisperd.WhisperdError as error:
            print(error.code)
        mine = ExceptionGroup("tasks", [ZeroDivisionError()])
        try:
            async with whisperd.AsyncWhisper(model=model):
                raise mine
        except Exception as error:
            print(error is mine)
        print(await whisperd.adownload_model(model) == whisperd.download_model(model))
    anyio.run(main)
    """
    assert run(code, toy(), tone) == f"{TEXT}\nwhisper.closed\nTrue\nTrue\n"


def test_a_result_is_read_in_a_thread_and_not_for_a_stream(
    run: Run, toy: Callable[..., str], tone: Path
) -> None:
    """That of a day of audio would stop the event loop of the program."""
    code = """
    import anyio, threading
    from whisperd.library import asynchronous
    threads, result = [], asynchronous._result
    def note(job):
        threads.append(threading.get_ident())
        return result(job)
    asynchronous._result = note
    async def main():
        model, tone = sys.argv[1:]
        async with whisperd.AsyncWhisper(model=model) as whisper:
            await whisper.transcribe(tone, vad=False)
            segments = [one async for one in whisper.transcribe(tone, stream=True, vad=False)]
            print(len(segments), len(threads), threading.get_ident() in threads)
    anyio.run(main)
    """
    assert run(code, toy(), tone) == "1 1 False\n"
