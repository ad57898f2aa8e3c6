"""Files and folders are whole or not there, whoever writes beside, and whatever ends a writer."""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gradiseg_ns.tools import atomic
from gradiseg_ns.tools.atomic import (
    WholeFile,
    check_writable,
    clean,
    new_folder,
    new_run_folder,
    occupy,
    temporary_folder,
    write_files,
    write_text,
    write_with,
)
from gradiseg_ns.tools.errors import GradisegError, WriteError

DEAD = 2**22 + 1
"""No process has that number: Linux's are below 2**22."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_writers_of_one_file_never_show_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    contents = {letter.encode() * 50_000 for letter in "ab"}
    write_files({path: [b"a" * 50_000]})
    done = threading.Event()

    def write(content: bytes) -> None:
        while not done.is_set():
            write_files({path: [content[i : i + 4096] for i in range(0, len(content), 4096)]})

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    try:
        read = [path.read_bytes() for _ in range(60)]
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert set(read) <= contents
    assert names(tmp_path) == ["a.json"]


class Full(io.FileIO):
    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def on_a_full_disk(name: str, mode: str, **_: object) -> Full:
    return Full(name, mode.replace("b", ""))


@pytest.mark.parametrize("way", ["files", "with", "folder"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    path = tmp_path / "there" / "a.txt"
    write_text(path, "old")
    monkeypatch.setattr(atomic, "open", on_a_full_disk, raising=False)
    with pytest.raises(WriteError, match=r"a\.txt|there") as raised:
        if way == "files":
            write_text(path, "new")
        elif way == "with":
            write_with(path, lambda file: file.write(b"new"))
        else:
            with new_folder(path.parent, replace=True) as making:
                on_a_full_disk(str(making / "a.txt"), "xb").write(b"new")
    monkeypatch.undo()
    assert "No space left" in str(raised.value) and isinstance(raised.value, GradisegError)
    assert path.read_text() == "old" and names(tmp_path) == ["there"] and names(path.parent) == ["a.txt"]


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (
        lambda: write_text(tmp_path / "file" / "a", ""),
        lambda: check_writable(tmp_path / "file" / "a"),
        lambda: temporary_folder(tmp_path / "file"),
        lambda: new_run_folder(tmp_path / "file" / "run"),
        lambda: occupy(tmp_path / "file"),
        lambda: check_writable(tmp_path),
    ):
        with pytest.raises(WriteError, match="file|folder"):
            write()
    assert names(tmp_path) == ["file"]


def test_a_folder_takes_its_name_when_it_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with new_folder(folder) as making:
        (making / "a").write_text("1")
        assert not folder.exists()
    with pytest.raises(FileExistsError, match="nothing is overwritten"), new_folder(folder):
        pass
    with pytest.raises(ZeroDivisionError), new_folder(folder, replace=True) as making:
        (making / "a").write_text("2")
        raise ZeroDivisionError
    assert (folder / "a").read_text() == "1"
    with new_folder(folder, replace=True) as making:
        (making / "b").write_text("3")
    assert names(folder) == ["b"] and names(tmp_path) == ["run"]


@pytest.mark.parametrize("replace", [False, True])
def test_two_make_one_folder(tmp_path: Path, replace: bool) -> None:
    folder = tmp_path / "run"

    def both() -> None:
        with new_folder(folder, replace=replace) as first:
            (first / "first").write_text("")
            with new_folder(folder, replace=replace) as second:
                (second / "second").write_text("")

    if replace:
        both()
    else:
        with pytest.raises(FileExistsError):
            both()
    assert names(folder) == (["first"] if replace else ["second"])
    assert names(tmp_path) == ["run"]


def left_behind(folder: Path, *, process: int, machine: str = atomic._MACHINE) -> list[Path]:
    """A file and a folder as a killed process leaves them."""
    saving = folder / f".saving-{machine}-{process}-abc"
    saving.mkdir()
    (saving / "half").write_text("")
    writing = folder / f".writing-{machine}-{process}-00ff.tmp"
    writing.write_text("")
    return [saving, writing]


def test_what_a_killed_process_left_is_cleaned_by_the_next(tmp_path: Path) -> None:
    others = ["a.tmp", ".hidden", ".saving", ".saving-me", ".old"]
    for name in others:
        (tmp_path / name).mkdir()
    alive = left_behind(tmp_path, process=os.getpid())
    elsewhere = left_behind(tmp_path, process=DEAD, machine="01234567")
    dead = left_behind(tmp_path, process=DEAD)
    write_text(tmp_path / "new.txt", "")
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in alive), "a process that is alive still writes it"
    assert all(path.exists() for path in elsewhere), "nobody knows, but for the time"
    assert set(others) < set(names(tmp_path))
    for path in [*elsewhere, elsewhere[0] / "half"]:
        os.utime(path, (0, 0))
    clean(tmp_path)
    assert not any(path.exists() for path in elsewhere)


def test_a_folder_set_aside_comes_back(tmp_path: Path) -> None:
    for name in ("lost", "there"):
        aside = tmp_path / f".old-{atomic._MACHINE}-{DEAD}-{name}"
        (aside / name).mkdir(parents=True)
        (aside / name / "config.yml").write_text("old")
    (tmp_path / "there").mkdir()
    clean(tmp_path)
    assert names(tmp_path) == ["lost", "there"]
    assert names(tmp_path / "lost") == ["config.yml"] and names(tmp_path / "there") == []


def test_a_kill_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = (
        "import sys, time; from pathlib import Path; from gradiseg_ns.tools.atomic import write_files\n"
        "def blocks():\n"
        "    yield b'half'\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        f"write_files({{Path({str(path)!r}): blocks()}})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    assert len(names(tmp_path)) == 2
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert path.read_text() == "old" and len(names(tmp_path)) == 2
    write_text(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_no_two_runs_in_one_folder(tmp_path: Path) -> None:
    wanted = tmp_path / "runs" / "2026-11-27_101500"
    assert [new_run_folder(wanted).name for _ in range(3)] == [
        wanted.name,
        f"{wanted.name}-2",
        f"{wanted.name}-3",
    ]
    leave = occupy(wanted)
    occupy(wanted)()  # the same process may go on there
    leave = occupy(wanted)
    (mark,) = wanted.iterdir()
    mark.write_text(f"{atomic._MACHINE}-{os.getppid()}")
    with pytest.raises(WriteError, match=f"process {os.getppid()}"):
        occupy(wanted)
    leave()
    assert mark.exists(), "it is another's now"
    mark.write_text(f"{atomic._MACHINE}-{DEAD}")
    occupy(wanted)()
    assert names(wanted) == []


def test_a_mark_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / ".mine"
    here = socket.gethostname()
    for text in ("0000aaaa-1-elsewhere", f"0000aaaa-1-{here}"):  # another container may have our name
        mark.write_text(text)
        with pytest.raises(
            WriteError, match=rf"a copy, process 1 on {text[11:]}\. Wait\. If .*remove .*\.mine"
        ):
            occupy(tmp_path, ".mine", who="a copy", way_out="Wait.")
    occupy(tmp_path)()  # other marks do not matter
    monkeypatch.setattr(atomic, "_started", lambda: time.time() + 1)  # this machine was started since
    occupy(tmp_path, ".mine")()
    mark.write_text("0000aaaa-1-elsewhere")
    os.utime(mark, (1e9, 1e9))
    occupy(tmp_path, ".mine")()
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that begin at once")
@pytest.mark.parametrize("text", ["", f"{atomic._MACHINE}-{DEAD}-here"], ids=["empty", "dead"])
def test_only_one_takes_a_mark_of_the_dead(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atomic._may_be_alive

    def slow(*args: Any) -> bool:
        time.sleep(0.02)  # time for the others
        return real(*args)

    monkeypatch.setattr(atomic, "_may_be_alive", slow)
    for trial in range(3):
        folder = tmp_path / str(trial)
        folder.mkdir()
        (folder / ".training").write_text(text)
        start = time.time() + 0.01
        won, lost, decided = 0, 1, os.pipe()
        racers = []
        for _ in range(4):
            racer = os.fork()
            if racer == 0:
                outcome = won
                try:
                    time.sleep(max(0.0, start - time.time()))
                    occupy(folder)
                except WriteError:
                    outcome = lost
                finally:
                    os.write(decided[1], bytes([outcome]))
                    signal.pause()  # whoever won is there until all have tried
            racers.append(racer)
        outcomes = [os.read(decided[0], 1)[0] for _ in racers]
        for racer in racers:
            os.kill(racer, signal.SIGKILL)
            os.waitpid(racer, 0)
        assert sorted(outcomes) == [won, lost, lost, lost]


def test_text_of_nerfstudios_is_whole_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = WholeFile(tmp_path / "[/red]" / "a.json")
    check_writable(path)
    assert names(tmp_path) == []
    path.write_text("{}", "utf8")
    assert f"{path}" == str(path).replace("[/red]", r"\[/red]")
    monkeypatch.setattr(atomic, "open", on_a_full_disk, raising=False)
    with pytest.raises(WriteError):
        path.write_text("half", "utf8")
    assert path.read_text() == "{}" and len(names(path.parent)) == 1
