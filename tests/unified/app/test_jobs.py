"""The queue: nothing is lost or mixed up, what is stopped stops, and what a stopped server left goes on."""

import gc
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from unified.app.job import Job, State, new_id
from unified.app.jobs import Interrupted, Jobs, Limits, Task
from unified.app.store import JobStore, OneServer
from unified.errors import UserError

Queue = Callable[..., Jobs]


def until(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def over(jobs: Jobs, *made: Job) -> list[Job]:
    until(lambda: all(jobs.get(job.id, job.owner).state.over for job in made))
    return [jobs.get(job.id, job.owner) for job in made]


class Gate:
    """Work that waits until it is let through, reporting all the while."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        self.attempts = 0

    def __call__(self, task: Task) -> Mapping[str, Any]:
        self.attempts += 1
        task.start("waiting", 100)
        self.begun.set()
        while not self.open.is_set():
            task.advance(1)
            time.sleep(0.005)
        return {"said": task.settings.get("text", "")}


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made: list[Jobs] = []

    def make(works: Mapping[str, Any], *, start: bool = True, limits: Limits | None = None) -> Jobs:
        jobs = Jobs(JobStore(tmp_path / "jobs"), works, limits)
        made.append(jobs)
        if start:
            jobs.start()
        return jobs

    yield make
    for jobs in made:
        jobs.stop()


def test_twenty_people_get_each_their_own_and_memory_stays_flat(queue: Queue) -> None:
    def work(task: Task) -> Mapping[str, Any]:
        ballast = bytearray(2_000_000)  # were it kept, 20 jobs would hold 40 MB
        for step in range(50):
            task.advance(step)
        text = str(task.settings["text"])
        (task.folder / "out.txt").write_text(text)
        return {"answer": text.upper(), "size": len(ballast), "input": (task.folder / "in.bin").read_bytes().decode()}

    jobs = queue({"echo": work})
    warm = jobs.submit("0", "echo", "warm", {"text": ""}, {"in.bin": b""})
    over(jobs, warm)
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    made: list[Job] = []
    lock = threading.Lock()

    def person(number: int) -> None:
        job = jobs.submit(
            f"owner {number}", "echo", "same name", {"text": f"text {number}"}, {"in.bin": b"%d" % number}
        )
        with lock:
            made.append(job)

    threads = [threading.Thread(target=person, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job in made}) == 20
    for job in over(jobs, *made):
        number = job.owner.removeprefix("owner ")
        assert job.state is State.DONE
        assert job.result["answer"] == f"TEXT {number}" and job.result["input"] == number
        assert (jobs.store.path(job.id) / "out.txt").read_text() == f"text {number}"
        assert [mine.id for mine in jobs.of(job.owner, "echo")] == [job.id]
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1_000_000
    finished = sorted(jobs.store.all(), key=lambda job: job.created)
    assert [j.started for j in finished] == sorted(j.started for j in finished)  # first come, first served


def test_another_browser_sees_and_stops_nothing(queue: Queue) -> None:
    gate = Gate()
    jobs = queue({"wait": gate})
    job = jobs.submit("me", "wait", "mine", {})
    with pytest.raises(UserError, match="in this browser"):
        jobs.get(job.id, "you")
    with pytest.raises(UserError, match="in this browser"):
        jobs.cancel(job.id, "you")
    assert jobs.of("you", "wait") == []
    for smuggled in ("../" + job.id, "..", "", "x" * 29, "/etc"):
        with pytest.raises(UserError, match="no such job"):
            jobs.get(smuggled, "me")
    gate.open.set()
    assert over(jobs, job)[0].state is State.DONE


def test_what_waits_or_runs_can_be_stopped_and_the_rest_goes_on(queue: Queue) -> None:
    gate = Gate()
    jobs = queue({"wait": gate})
    running = jobs.submit("me", "wait", "runs", {})
    assert gate.begun.wait(10)
    waiting, last = jobs.submit("me", "wait", "waits", {}), jobs.submit("you", "wait", "last", {"text": "hello"})
    assert (jobs.before(waiting.id), jobs.before(last.id)) == (1, 2)
    assert jobs.cancel(waiting.id, "me").state is State.CANCELLED
    assert jobs.before(last.id) == 1
    jobs.cancel(running.id, "me")
    assert over(jobs, running)[0].state is State.CANCELLED
    gate.open.set()
    assert over(jobs, last)[0].result == {"said": "hello"}
    assert jobs.cancel(last.id, "you").state is State.DONE  # what is over stays so


def test_failures_are_told_in_a_sentence_and_do_not_stop_the_queue(queue: Queue) -> None:
    def work(task: Task) -> Mapping[str, Any]:
        match task.settings["how"]:
            case "user":
                raise UserError("Give a picture.")
            case "bug":
                raise ZeroDivisionError("division by zero")
            case "memory":
                raise RuntimeError("CUDA out of memory. Tried to allocate")
        return {}

    jobs = queue({"try": work})
    made = [jobs.submit("me", "try", how, {"how": how}) for how in ("user", "bug", "memory", "fine")]
    user, bug, memory, fine = over(jobs, *made)
    assert user.error == "Give a picture."
    assert bug.error == "ZeroDivisionError: division by zero"
    assert "choose fewer" in memory.error
    assert fine.state is State.DONE


def test_the_queue_is_bounded(queue: Queue) -> None:
    gate = Gate()
    jobs = queue({"wait": gate}, limits=Limits(waiting=3, each=2, keep=2))
    first = jobs.submit("me", "wait", "0", {})
    assert gate.begun.wait(10)
    mine = [jobs.submit("me", "wait", str(i), {}) for i in (1, 2)]
    with pytest.raises(UserError, match="2 of your jobs are waiting"):
        jobs.submit("me", "wait", "3", {})
    theirs = jobs.submit("you", "wait", "4", {})
    with pytest.raises(UserError, match="3 jobs are waiting"):
        jobs.submit("they", "wait", "5", {})
    with pytest.raises(UserError, match="no work"):
        jobs.submit("me", "dance", "6", {})
    gate.open.set()
    over(jobs, first, *mine, theirs)
    last = jobs.submit("me", "wait", "7", {})
    over(jobs, last)
    assert len(jobs.store.ids()) == 3  # two that are over were kept, and the new one


def test_a_stopped_server_goes_on_with_all_its_jobs(queue: Queue) -> None:
    gate = Gate()
    jobs = queue({"wait": gate})
    made = [jobs.submit("me", "wait", str(i), {"text": str(i)}) for i in range(3)]
    assert gate.begun.wait(10)
    jobs.stop()
    assert [jobs.store.read(job.id).state for job in made] == [State.QUEUED] * 3
    gate.open.set()
    again = queue({"wait": gate})
    assert [job.result["said"] for job in over(again, *made)] == ["0", "1", "2"]
    assert again.store.read(made[0].id).attempts == 1  # being asked to stop is no failed attempt


SERVER = """
    import sys, time
    from pathlib import Path
    from unified.app.jobs import Jobs
    from unified.app.store import JobStore, OneServer

    def work(task):
        done = task.folder / "done.txt"
        have = done.read_text().split() if done.exists() else []
        for step in range(len(have), 6):
            task.say(f"step {step}")
            with done.open("a") as file:
                file.write(f"{step}\\n")
            print(step, flush=True)
            time.sleep(0.0 if "quick" in sys.argv else 0.3)
        return {"steps": done.read_text().split()}

    folder = Path(sys.argv[1])
    lock = OneServer(folder)
    jobs = Jobs(JobStore(folder / "jobs"), {"steps": work})
    jobs.start()
    if "submit" in sys.argv:
        print(jobs.submit("me", "steps", "killed", {}).id, flush=True)
        jobs.submit("you", "steps", "behind it", {})
    while any(not job.state.over for job in jobs.store.all()):
        time.sleep(0.02)
"""


def test_a_killed_server_resumes_in_the_middle_of_a_job(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(tmp_path)]
    server = subprocess.Popen([*command, "submit"], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    assert server.stdout is not None
    lines: list[str] = []
    while "2" not in lines:
        lines.append(server.stdout.readline().strip())
        assert lines[-1], "the server ended by itself"
    with pytest.raises(UserError, match="Another app is using"):
        OneServer(tmp_path)
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    store = JobStore(tmp_path / "jobs")
    assert [job.state for job in store.all()] == [State.RUNNING, State.QUEUED]

    done = subprocess.run(
        [*command, "quick"], capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True
    )
    first, second = store.all()
    assert first.state is State.DONE and second.state is State.DONE
    assert first.result["steps"] == second.result["steps"] == [str(i) for i in range(6)]
    assert "0" not in done.stdout.split()[:3]  # nothing that was finished is done twice
    assert first.attempts == 2 and any("going on where it was" in line for line in first.lines)


def test_a_job_that_keeps_killing_the_server_is_given_up(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    poison = Job(new_id(), "me", "any", "poison", {}, state=State.RUNNING, attempts=3)
    stopped = Job(new_id(), "me", "any", "stopped", {}, state=State.RUNNING, cancel=True)
    for job in (poison, stopped):
        store.create(job)
    assert store.requeue(3) == []
    assert "3 times" in store.read(poison.id).error
    assert store.read(stopped.id).state is State.CANCELLED


def test_damaged_files_are_left_out(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    good = Job(new_id(), "me", "any", "good", {"prompt": "<b>ü</b>"})
    store.create(good)
    for text in ("", "{", "[]", json.dumps({"state": "odd"})):
        folder = tmp_path / new_id()
        folder.mkdir()
        (folder / "job.json").write_text(text)
    (tmp_path / "notes.txt").write_text("not a job")
    assert store.all() == [good]
    assert store.requeue(3) == [good.id]


def test_interruption_is_no_ordinary_exception() -> None:
    """Code that guards against failures lets it through."""
    assert not issubclass(Interrupted, Exception)
