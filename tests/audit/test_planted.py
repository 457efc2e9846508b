"""The planted servers do what their traits say: an independent reading, with plain sockets, processes and files."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plants import PERFECT, PLANTED, PLANTS, PYTHON, Plant, make_capable, planted

from udslab.audit.findings import judge
from udslab.audit.verdicts import VERDICTS

LIMIT = 30.0
"""Seconds after which something that should happen has not."""
NOT_YET = 0.4
"""Seconds in which something happens, if it ever does."""
ROUNDS = 3
NOBODY = 65534
IS_ROOT = os.geteuid() == 0
TYPES = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
SERVES, EXITED, WAITS = "serves", "exited", "waits"


class Server:
    """A planted server, and all of its processes: they are those with its mark in their environment."""

    def __init__(self, command, path, log, umask, user):
        self.path = path
        self.log = log
        self.mark = f"PLANTED={log}".encode()
        as_user = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
        home = Path(f"{log}.home")
        home.mkdir()
        with open(log, "wb") as err:
            self.process = subprocess.Popen(
                command,
                env={"PLANTED": str(log)},
                cwd=home,
                umask=umask,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=err,
                **as_user,
            )
        self.said = b""
        self.pidfds = {}

    def word(self):
        """The next line that it says; empty when none of its processes can say anything any more."""
        out = self.process.stdout.fileno()
        while b"\n" not in self.said:
            assert select.select([out], [], [], LIMIT)[0], "it says nothing"
            data = os.read(out, 4096)
            if not data:
                return ""
            self.said += data
        line, _, self.said = self.said.partition(b"\n")
        return line.decode()

    def settle(self):
        """How its start has gone."""
        return {"serving": SERVES, "waiting": WAITS, "": EXITED}[self.word()]

    @property
    def pids(self):
        """Of all that lives of it. Who ends has no environment any more, and may still have its sockets: therefore the
        pidfd of each, taken when it is first seen."""
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if int(name) not in self.pidfds and self.mark in file.read().split(b"\0"):
                    self.pidfds[int(name)] = os.pidfd_open(int(name))
        return [pid for pid, pidfd in self.pidfds.items() if not select.select([pidfd], [], [], 0)[0]]

    def ends(self, timeout=LIMIT):
        """Whether nothing of it lives, at the latest after so many seconds."""
        deadline = time.monotonic() + timeout
        while pids := self.pids:
            if not select.select([self.pidfds[pids[0]]], [], [], max(0, deadline - time.monotonic()))[0]:
                return False
        self.process.wait()
        return True

    def signal(self, number):
        """To the main process, or what it has left; SIGINT to all of its group, as a terminal does."""
        if number == signal.SIGINT and self.process.poll() is None:
            os.killpg(self.process.pid, number)
            return
        for pid in [self.process.pid] if self.process.poll() is None else self.pids:
            os.kill(pid, number)

    def stop(self):
        """The main process, until SIGCONT."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def kill(self):
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.ends()

    def close(self):
        self.kill()
        self.process.stdout.close()
        for pidfd in self.pidfds.values():
            os.close(pidfd)


class Stage:
    """A directory in which planted servers are started."""

    def __init__(self, plant, directory, stack):
        self.plant = plant
        self.type = TYPES[plant.type]
        self.directory = directory
        self.path = directory / "s"
        self.stack = stack
        self.script = PLANTED
        self.python = sys.executable
        self.numbers = iter(range(1000))

    def start(self, path=None, *options, umask=0o022, user=None):
        path = path or self.path
        command = planted(self.plant.traits, *options, path=str(path), python=self.python)
        command[command.index(str(PLANTED))] = str(self.script)
        server = Server(command, path, self.directory / f"log{next(self.numbers)}", umask, user)
        self.stack.callback(server.close)
        return server

    def first(self, path=None, *options, user=None):
        server = self.start(path, *options, user=user)
        assert server.settle() == SERVES
        assert server.pids
        if "daemon" in self.plant.traits:
            assert server.process.wait(LIMIT) == 0
        assert "request=ignore" in self.plant.traits or self.answered(path)
        return server

    def for_others(self):
        """Lets another user in, with a Python and a script that he may read."""
        self.directory.parent.chmod(0o711)
        self.directory.chmod(0o755)
        self.script = Path(shutil.copy(PLANTED, self.directory))
        self.script.chmod(0o644)
        self.python = make_capable(self.directory) if self.plant.capable else PYTHON
        return NOBODY

    def socket(self):
        sock = socket.socket(socket.AF_UNIX, self.type)
        self.stack.callback(sock.close)
        return sock

    def connect(self, path=None, timeout=LIMIT):
        """Connects, to a path of any length. Raises BlockingIOError if the backlog stays full."""
        sock = self.socket()
        # With settimeout(), connect(2) would not wait at all.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout), int(timeout % 1 * 1e6)))
        file = os.open(path or self.path, os.O_PATH)
        try:
            sock.connect(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        return sock

    def listened(self, path=None):
        try:
            self.connect(path).close()
        except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
            return False
        return True

    def answered(self, path=None, timeout=LIMIT):
        try:
            sock = self.connect(path, timeout)
        except BlockingIOError:
            return False
        with sock:
            own = f"{path or self.path}.{next(self.numbers)}"
            if self.type == socket.SOCK_DGRAM:
                sock.bind(own)
                self.stack.callback(os.unlink, own)
            sock.settimeout(timeout)
            sock.sendall(b"ping\n")
            return echoed(sock)

    def stale(self, path):
        sock = self.socket()
        sock.bind(str(path))
        sock.close()

    def there(self, path=None):
        """What is at the path: "nothing", a "stale" socket, or one that is "served"."""
        if not os.path.lexists(path or self.path):
            return "nothing"
        return "served" if self.listened(path) else "stale"


def echoed(sock):
    """Whether a ping comes back before the timeout of the socket or the end of the connection."""
    come = b""
    with contextlib.suppress(TimeoutError):
        while b"ping\n" not in come:
            data = sock.recv(4096)
            if not data:
                return False
            come += data
        return True
    return False


def sockets_in(directory):
    return sum(stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode) for entry in os.scandir(directory))


def fresh_start(stage):
    paths = {umask: stage.directory / f"{umask:03o}" / "s" for umask in (0o022, 0o077, 0)}
    for path in paths.values():
        path.parent.mkdir()
    servers = {umask: stage.start(path, umask=umask) for umask, path in paths.items()}
    modes = {}
    for umask, server in servers.items():
        start = server.settle()
        if start != SERVES:
            assert stage.there(server.path) != "served"
            if stage.plant.traits == "start=exit-3":
                assert server.process.wait() == 3
            return {EXITED: "fails", WAITS: "hangs"}[start], {}
        assert stage.answered(server.path)
        modes[umask] = stat.S_IMODE(server.path.lstat().st_mode)
    if "daemon" in stage.plant.traits:
        assert server.process.wait(LIMIT) == 0
    if stage.plant.traits == "start=flood":
        assert all(server.log.stat().st_size == 100_000_000 for server in servers.values())
    facts = {
        "follows_umask": len(set(modes.values())) > 1,
        "open_to_all": all(mode & 0o002 for mode in modes.values()),
        "sockets": sockets_in(paths[0o077].parent) - (stage.plant.type == "dgram"),  # the client's
        "processes": len(server.pids),
        "type": stage.plant.type,
    }
    if "backlog" in stage.plant.facts:
        facts["backlog"] = room_for(stage, server) - 1
    return "listens", facts


def room_for(stage, server):
    """How many clients wait in the backlog of a server that is stopped."""
    server.stop()
    for number in range(1000):
        sock = stage.socket()
        sock.setblocking(False)
        try:
            sock.connect(str(server.path))
        except BlockingIOError:
            return number
    raise AssertionError("no end of its backlog")


def cleanup(stage, number):
    server = stage.first()
    if any(ignores(pid, number) for pid in server.pids):
        server.signal(number)
        assert stage.answered()
        return "ignored", {}
    server.signal(number)
    assert server.ends()
    if "sockets=control" in stage.plant.traits:
        assert not sockets_in(stage.directory)
    return {"nothing": "removed", "stale": "left"}[stage.there()], {}


def ignores(pid, number):
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def restarted(stage):
    server = stage.start()
    start = server.settle()
    if start == SERVES and stage.there() != "served":
        return "hangs"  # it serves elsewhere
    return {SERVES: "starts", EXITED: "fails", WAITS: "hangs"}[start]


def stale_restart(stage):
    stage.first().kill()
    assert stage.there() == "stale"
    return restarted(stage), {}


def kill_main(stage):
    server = stage.first()
    facts = {}
    server.signal(signal.SIGKILL)
    server.process.wait()
    if server.ends(NOT_YET if "fork=workers" in stage.plant.traits or "helper" in stage.plant.traits else LIMIT):
        outcome = "all-exit"
    else:
        facts["survivors"] = len(server.pids)
        outcome = "orphans-listen" if stage.there() == "served" else "orphans"
    return outcome, {**facts, "restart": restarted(stage)}


def two(stage):
    """Two instances, how the start of the second has gone, and whether the path leads to another socket now."""
    first = stage.first()
    before = stage.path.lstat().st_ino  # it cannot be another's while the first is bound to it
    second = stage.start()
    if "exists=ask" in stage.plant.traits:
        assert second.word() == "asking"
        start = EXITED if second.ends(NOT_YET if "request=ignore" in stage.plant.traits else LIMIT) else WAITS
    else:
        start = second.settle()
    assert first.pids
    return first, second, start, os.path.lexists(stage.path) and stage.path.lstat().st_ino != before


def second_instance(stage):
    _, second, start, replaced = two(stage)
    if stage.there() != "served":
        return "path-lost", {}
    if replaced:
        assert start == SERVES
        return "steals", {}
    return "hangs" if second.pids else "refused", {}


def second_stops(stage):
    first, second, start, _ = two(stage)
    if start != EXITED:
        second.signal(signal.SIGTERM)
        assert second.ends()
    assert first.pids
    return {"served": "intact", "stale": "stale", "nothing": "gone"}[stage.there()], {}


def first_stops_after_steal(stage):
    first, second, start, replaced = two(stage)
    assert start == SERVES
    assert replaced
    first.signal(signal.SIGTERM)
    assert first.ends()
    assert second.pids
    return {"served": "intact", "stale": "stale", "nothing": "gone"}[stage.there()], {}


def regular_file(stage):
    stage.path.write_text("content")
    before = stage.path.lstat().st_ino
    start = stage.start().settle()
    if stage.path.is_file() and stage.path.lstat().st_ino == before and stage.path.read_text() == "content":
        return "hangs" if start == WAITS else "refused-kept", {}
    return "deleted-starts" if start == SERVES and stage.answered() else "deleted-fails", {}


def at_link(stage, target):
    """What becomes of a link to ``target`` at a start."""
    stage.path.symlink_to(target)
    start = stage.start().settle()
    if stage.path.is_symlink() and stage.path.readlink() != target:
        return "link-replaced"
    if stage.path.is_symlink():
        return {EXITED: "refused-kept", WAITS: "hangs", SERVES: "starts-through-link"}[start]
    if start == SERVES:
        assert stage.path.is_socket()
        return "link-replaced"
    return "link-removed"


def symlink_to_file(stage):
    target = stage.directory / "target"
    target.write_text("content")
    before = target.lstat()
    word = at_link(stage, target)
    kept = target.is_file() and os.path.samestat(target.lstat(), before) and target.read_text() == "content"
    kept = kept and target.lstat().st_mode == before.st_mode
    return word if kept else "target-damaged", {}


def symlink_dangling(stage):
    target = stage.directory / "target"
    word = at_link(stage, target)
    return "target-created" if os.path.lexists(target) and stage.path.is_symlink() else word, {}


def symlink_to_stale(stage):
    target = stage.directory / "target"
    stage.stale(target)
    word = at_link(stage, target)
    if not target.is_socket():
        return "target-created", {}
    assert stage.listened(target) == (word == "starts-through-link")
    return word, {}


def directory(stage):
    words = []
    for filled in (False, True):
        path = stage.directory / f"at{filled:d}" / "s"
        path.mkdir(parents=True)
        if filled:
            (path / "file").touch()
        start = stage.start(path).settle()
        kept = path.is_dir() and (path / "file").exists() == filled
        words.append("deleted" if not kept else {EXITED: "refused-kept", WAITS: "hangs"}[start])
    assert words[0] == words[1] or stage.plant.traits == "exists=unlink-empty"
    return words[0], {}


def missing_parent(stage):
    path = stage.directory / "missing" / "s"
    start = stage.start(path).settle()
    if path.parent.exists():
        assert start == SERVES
        assert stage.answered(path)
        return "created", {}
    return {EXITED: "refused", WAITS: "hangs"}[start], {}


def path_length(stage):
    def at_length(length):
        parent = stage.directory / f"{length}"
        parent.mkdir()
        name = "".join(map("{:03d}".format, range(60)))[: length - len(bytes(parent)) - 1]
        start = stage.start(parent / name).settle()
        (found,) = [entry for entry in os.listdir(parent) if not entry.endswith(".control")] or [None]
        if found is None:
            return {EXITED: "refused", WAITS: "hangs"}[start]
        assert start == SERVES
        assert stage.answered(parent / found)
        return "listens" if found == name else "truncated"

    facts = {str(length): at_length(length) for length in (107, 108, 120)}
    max_ok = stage.plant.facts.get("max_ok", 107)
    if str(max_ok) not in facts:
        assert (at_length(max_ok), at_length(max_ok + 1)) == ("listens", "refused")
    return "truncates" if "truncated" in facts.values() else "honest", {**facts, "max_ok": max_ok}


def race_over_stale(stage):
    rounds = []
    for number in range(ROUNDS):
        path = stage.directory / f"{number}"
        stage.stale(path)
        rounds.append(race(stage, path))
    return outcome_of(rounds)


def race_after_kill(stage):
    rounds = []
    for number in range(ROUNDS):
        path = stage.directory / f"{number}"
        stage.first(path).kill()
        rounds.append(race(stage, path))
    return outcome_of(rounds)


def race(stage, path):
    servers = [stage.start(path) for _ in range(2)]
    serving = [server for server in servers if server.settle() == SERVES]
    if not serving:
        return "none"
    if not stage.listened(path):
        return "path-lost"
    return "both" if len(serving) == 2 else "one"


def outcome_of(rounds):
    # As many as the audit has of them: each of them is as the others.
    facts = {word: 10 * rounds.count(word) // ROUNDS for word in ("one", "both", "none", "path-lost")}
    return {(10, 0): "exclusive", (0, 10): "refuses"}.get((facts["one"], facts["none"]), "races"), facts


def read_only_directory(stage):
    parent = stage.directory / "read-only"
    parent.mkdir()
    parent.chmod(0o555)
    user = stage.for_others() if IS_ROOT else None
    server = stage.start(parent / "s", user=user)
    start = server.settle()
    if start == SERVES:
        assert stage.answered(server.path)
    return {SERVES: "starts", EXITED: "refused", WAITS: "hangs"}[start], {}


def foreign_stale(stage):
    need_root()
    parent = stage.directory / "sticky"
    parent.mkdir()
    parent.chmod(0o1777)
    path = parent / "s"
    stage.stale(path)
    os.chown(path, 1, 1)
    server = stage.start(path, user=stage.for_others())
    start = server.settle()
    assert path.lstat().st_uid == (NOBODY if start == SERVES else 1)
    return {SERVES: "starts", EXITED: "refused", WAITS: "hangs"}[start], {}


def need_root():
    if not IS_ROOT:
        pytest.skip("needs root, to become another user")


def exit_deletes_foreign(stage):
    kept = []
    for number in (signal.SIGTERM, signal.SIGINT):
        for kind in ("file", "listener"):
            path = stage.directory / f"{number}-{kind}"
            server = stage.first(path)
            path.rename(f"{path}.old")
            if kind == "file":
                path.touch()
            else:
                other = stage.socket()
                other.bind(str(path))
                if stage.type != socket.SOCK_DGRAM:
                    other.listen()
            server.signal(number)
            assert server.ends()
            kept.append(os.path.lexists(path))
    return "kept" if all(kept) else "deleted", {}


def descriptor_exhaustion(stage):
    server = stage.first()
    pids = server.pids if stage.plant.traits != "fork=per-client" else [server.process.pid]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free(pid), hard)) for pid in pids}
    log, used = server.log.stat().st_size, cpu_seconds(pids)
    for _ in range(3):  # one may find a descriptor that was about to be closed, or that accept(2) had taken before
        with contextlib.suppress(OSError):  # it has died of the one before
            stage.connect().sendall(b"ping\n")
    how = dict(trait.split("=") for trait in stage.plant.traits.split(",") if "=" in trait).get("exhausted")
    if how in ("die", "end") and "fork=renewed" not in stage.plant.traits:
        assert server.ends()
        return "dies", {}
    if how in ("killed", "end"):  # others live on, perhaps for a moment alone: a new one needs descriptors, too
        assert select.select([server.pidfds[pid] for pid in pids], [], [], LIMIT)[0]
        return "dies", {}
    if how == "give-up":
        assert server.word() == "waiting"
    spins = how in ("spin", "spin-and-log")
    if spins:
        deadline = time.monotonic() + LIMIT
        while cpu_seconds(pids) < used + 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    else:
        time.sleep(NOT_YET)
        spins = cpu_seconds(pids) > used + NOT_YET / 2
    assert (server.log.stat().st_size > log + 1000) == (how == "spin-and-log")
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    return "recovers" if stage.answered(timeout=NOT_YET if how == "give-up" else LIMIT) else "no-recovery", {
        "spins": spins
    }


def first_free(pid):
    used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    return min(set(range(len(used) + 1)) - used)


def cpu_seconds(pids):
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(ticks) for fields in stats for ticks in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def vanishing_clients(stage):
    server = stage.first()
    pids = server.pids
    for number in range(200):
        with contextlib.suppress(ConnectionError):
            try:
                client = stage.connect(timeout=NOT_YET)
            except BlockingIOError:  # nobody accepts any more
                break
            with client:
                if number % 2:
                    client.send(b"ping\n")
    if "vanished=dies" in stage.plant.traits and "fork=renewed" in stage.plant.traits:
        assert select.select([server.pidfds[pid] for pid in pids], [], [], LIMIT)[0]
        return "dies", {}
    if "vanished=dies" in stage.plant.traits:
        assert server.ends()
        assert server.process.wait() == -signal.SIGPIPE
        return "dies", {}
    if "vanished=wedges" in stage.plant.traits:
        assert server.word() == "waiting"
        return "survives" if stage.answered(timeout=NOT_YET) else "stops-answering", {}
    if "vanished=wears-out" in stage.plant.traits:
        return "survives" if stage.answered(timeout=NOT_YET) else "stops-answering", {}
    return "survives" if stage.answered() else "stops-answering", {}


def half_close(stage):
    server = stage.first()
    time.sleep(NOT_YET)  # for who is ready for another client no sooner
    server.stop()
    client = stage.connect()
    client.sendall(b"ping\n")
    client.shutdown(socket.SHUT_WR)
    server.signal(signal.SIGCONT)
    return "answers" if echoed(client) else "no-answer", {}


def silent_client(stage):
    server = stage.first()
    silent = [stage.connect() for _ in range(3)]
    if "one-by-one" not in stage.plant.traits:
        return "answers" if stage.answered() else "blocked", {}
    if stage.answered(timeout=NOT_YET):
        return "answers", {}
    if "silent=dies" in stage.plant.traits:
        assert server.ends()
        assert server.process.wait() == 1
        return "blocked", {}
    for client in silent:
        client.close()
    assert stage.answered()
    return "blocked", {}


def privilege_drop(stage):
    need_root()
    stage.for_others()
    server = stage.first(None, "--user", str(NOBODY))
    users = sorted({{0: "root", NOBODY: "nobody"}[os.stat(f"/proc/{pid}").st_uid] for pid in server.pids})
    facts = {"users": users, "owner": {0: "root", NOBODY: "nobody"}[stage.path.lstat().st_uid]}
    assert stage.answered()
    server.signal(signal.SIGTERM)
    assert server.ends()
    return {"nothing": "removed", "stale": "left"}[stage.there()], facts


def error_names_path(stage):
    live = stage.directory / "live"
    stage.first(live)
    file = stage.directory / "file"
    file.touch()
    named = []
    for path in (live, file, stage.directory / "missing" / "s", stage.directory / ("x" * 120)):
        server = stage.start(path)
        assert server.settle() == EXITED
        assert server.process.wait() == 1
        assert (server.log.read_bytes() == b"") == ("silent" in stage.plant.traits)
        log, name = server.log.read_text(), str(path)
        if "wrapped" in stage.plant.traits:
            log = log.replace("\n    ", "")
        elif "coloured" in stage.plant.traits:
            name = "/\033[1m".join(os.path.split(name))
        elif "escaped" in stage.plant.traits:
            name = name.replace("/", r"\/")
        elif "cut" in stage.plant.traits:
            name = name[:95]
        elif "banner" in stage.plant.traits:
            log = log.partition("\n")[2]
        named.append(name in log and f"{name}.pid" not in log)
    return "always" if all(named) else "sometimes" if any(named) else "never", {}


def term_cleanup(stage):
    return cleanup(stage, signal.SIGTERM)


def int_cleanup(stage):
    return cleanup(stage, signal.SIGINT)


SLOW = ("start=slow", "start=flood", "exists=retry")


@pytest.mark.parametrize(
    "plant", [pytest.param(each, id=str(each), marks=[pytest.mark.soak] * (each.traits in SLOW)) for each in PLANTS]
)
def test_it_shows_what_is_planted(plant, directory):
    with contextlib.ExitStack() as stack:
        stage = Stage(plant, directory, stack)
        outcome, facts = globals()[plant.probe.replace("-", "_")](stage)
    assert outcome == plant.outcome
    assert {**facts, **plant.facts} == facts


def test_there_is_a_plant_for_each_outcome():
    planted = {(plant.probe, plant.outcome) for plant in PLANTS}
    assert planted == {(probe, outcome) for probe, words in VERDICTS.items() for outcome in words}


def test_the_perfect_one_passes_every_probe():
    assert {*PERFECT, "first-stops-after-steal"} == set(VERDICTS)
    assert all(judge(probe, outcome, {}) == "pass" for probe, outcome in PERFECT.items())


@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_the_verdict_is_what_the_table_says(plant):
    assert judge(plant.probe, plant.outcome, plant.facts) == plant.verdict


def test_each_is_named_once():
    assert len(set(map(str, PLANTS))) == len(PLANTS)


def test_it_knows_its_traits_alone(path):
    done = subprocess.run(
        planted("exists=sometimes", path=str(path), python=sys.executable), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "planted: there is no trait 'exists=sometimes'\n")


def test_who_was_started_with_sigint_ignored_ignores_it(directory):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with contextlib.ExitStack() as stack:
            outcome, _ = int_cleanup(Stage(Plant("int-cleanup", "ignored", "warn", "perfect"), directory, stack))
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome == "ignored"
