"""A small echo server that does to its socket file what its traits say: a perfect one, with faults planted in it.

``python3 -S -E planted.py TRAITS SOCKET [--user UID]``. TRAITS is ``perfect``, or words of the form ASPECT=CHOICE with
commas between: see TRAITS below. Everything that is not named is as it should be. It says ``serving`` on its standard
output when it does, and ``waiting`` when it will never serve nor exit.
"""

import _thread
import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import sys
import time

TRAITS = {  # the first choice of each is the perfect server's
    # When it is started: slow is five seconds, never serves nothing, bound does not listen, flood logs 100 MB first.
    "start": ("now", "slow", "never", "bound", "exit-3", "flood"),
    # What processes there are: a daemon's parent exits when it serves, or half a second late, or, where it has been
    # launched, three; workers have the listener, a helper has not; those that are tied end with the main process; those
    # of a group it leaves to end by themselves at SIGINT, as a terminal sends it to them, too.
    # restarted: the main process starts the server anew when that is killed. renewed: it has the listener, too, and
    # forks a worker anew when that has ended. per-client: a child for each client, which keeps the listener, and waits
    # a second for a request.
    "fork": (
        *("no", "daemon", "daemon-late", "daemon-launched", "daemon-twice"),
        *("workers", "tied-workers", "group", "helper", "restarted", "renewed", "per-client"),
    ),
    # What is done about what is at the path. unlooked: bind alone decides. retry: as the first, for three seconds.
    # give-up: removes it, and fails then. truncate: leaves an empty file there, through a link. wait: for ever;
    # stubbornly: also when it is told to end. ask: as the first, and waits for an answer of whoever listens. elsewhere:
    # serves another path. take-over: tells whoever listens to end, and waits for it; take-over-late: when it has the
    # path. hand-over: has the listener from whoever listens, who serves nobody from then on. move-aside: keeps it under
    # another name. touch: it is made if it is not there, then removed.
    "exists": (
        *("replace-stale", "unlooked", "retry", "unlink", "unlink-socket", "unlink-all", "unlink-empty"),
        *("give-up", "truncate", "wait", "wait-stubbornly", "ask", "elsewhere"),
        *("take-over", "take-over-late", "hand-over", "move-aside", "touch"),
    ),
    # by-client: it removes its own file when it has a first client.
    "unlinked": ("at-the-end", "by-client"),
    # bound-anew: one whose path leads to nothing binds it once more, after three seconds. withdraws: a second after it
    # listens it looks whether the path is still its own, and ends if not.
    "lost": ("for-good", "bound-anew", "withdraws"),
    # cleared: a stale socket is removed where it is, and bound where the link is.
    "links": ("kept", "followed", "cleared"),
    # rename: bound beside the path. rename-out: bound in a new directory beside it. dot: bound as ./NAME. link: a link
    # to what was bound is renamed into place. left: bound as NAME in a directory that it leaves then. descriptor: bound
    # as /proc/self/fd/N/NAME, of a directory that it has open meanwhile.
    "place": ("bind", "rename", "rename-out", "dot", "link", "left", "descriptor"),
    # removed: at the end, with the socket.
    "parent": ("needed", "made", "awaited", "removed"),
    "denied": ("refused", "chmod", "wait"),
    "long": ("refused", "cut-107", "cut-95", "cut-90", "relative", "wait"),
    # file: locked with flock for as long as it runs. awaited-file: the same, and waited for. exclusive-file: it exists,
    # so it is locked.
    "lock": ("directory", "none", "file", "awaited-file", "exclusive-file"),
    # some: what is in use is named, what cannot be is not. cut: by 95 bytes of its path at the most. escaped: as JSON
    # may write a slash. wrapped: in lines of 40 characters. coloured: within the path. real: by its realpath.
    # ascii: as Python shows it. sentence: in Japanese. behind: 200,000 letters. beside: another file is named. banner:
    # none is named, but each start says which path is to be served. name: only the path's last part is.
    "errors": (
        *("named", "some", "cut", "escaped", "wrapped", "coloured", "real", "ascii", "sentence", "behind"),
        *("beside", "banner", "name", "unnamed", "silent"),
    ),
    "refused": ("exit", "unlink", "chmod"),
    # umask-0666: less the umask from the file's first moment. late-0777: half a second after it serves.
    "mode": ("umask", "umask-0666", "0600", "0666", "0777", "late-0777"),
    "type": ("stream", "dgram", "seqpacket"),
    "backlog": ("128", "5"),
    # control: another one beside the path. private: another one in the directory in which it was started. hidden: one
    # beside the path, before anything is locked, whose name goes at once.
    "sockets": ("one", "control", "private", "hidden"),
    # leave: no handler. rebind: the path is bound once more, as by a restart that is cut short.
    "term": ("unlink-own", "unlink-any", "leave", "rebind", "ignore"),
    "int": ("unlink-own", "unlink-any", "leave", "rebind", "ignore"),
    # late: for half a second in which it serves already, signals are at their defaults.
    "handlers": ("early", "late"),
    "clients": ("together", "one-by-one"),
    "request": ("echo", "ignore"),
    "banner": ("no", "yes"),
    # A client that has shut down its sending side is not answered. aborts: it has half a second to do so; hasty: it has
    # done so when its request is read. impatient: it is answered, but who reads by SO_RCVTIMEO is interrupted when
    # it is stopped and goes on (EINTR, signal(7)), and takes that for the client's end.
    "half-close": ("answered", "aborts", "hasty", "impatient"),
    # A client goes without a word: dies writes to it (SIGPIPE); wedges waits for ever where that client was served;
    # ends exits with status 0, as if it had been asked to; lingers takes a tenth of a second to serve anybody.
    # wears-out: of eight that serve it takes one. rests: the fiftieth takes 15 seconds to serve anybody.
    "vanished": ("forgotten", "dies", "wedges", "ends", "lingers", "wears-out", "rests"),
    # A client has said nothing for a second.
    "silent": ("waited-for", "dies"),
    # after-6: who has accepted so many clients ends, with status 0, 0.3 seconds later.
    "retires": ("never", "after-6"),
    # blocking: accept(2) is called, and takes its descriptor, before anybody connects.
    "accept": ("polled", "blocking"),
    # No descriptor is left for accept.
    "exhausted": ("pause", "spin", "spin-and-log", "die", "killed", "give-up", "end"),
    # Between two clients: busy uses a processor. afresh: for 0.3 s when one that has asked has gone, and whoever asks
    # meanwhile is turned away.
    "rest": ("asleep", "busy", "afresh"),
    # quits: it ends when it goes on.
    "stopped": ("goes-on", "quits"),
    # Who becomes the user: a worker, while root's main process stays to tidy up; or the server, when it has bound or
    # before.
    "drop": ("worker", "after-bind", "before-bind"),
}


def parse(words):
    """The choice of each aspect."""
    chosen = {aspect: choices[0] for aspect, choices in TRAITS.items()}
    for word in words.split(",") if words != "perfect" else ():
        aspect, _, choice = word.partition("=")
        if choice not in TRAITS.get(aspect, ()):
            sys.exit(f"planted: there is no trait {word!r}")
        chosen[aspect] = choice
    return chosen


def say(word):
    os.write(1, word.encode() + b"\n")


def wait_for_ever():
    say("waiting")
    while True:
        time.sleep(3600)


def in_use(why):
    return OSError(errno.EADDRINUSE, why)


def remove(path):
    with contextlib.suppress(OSError):
        os.unlink(path)


def identity(path):
    status = os.lstat(path)
    return status.st_dev, status.st_ino


class Lock:
    """What keeps two instances from being at the path at the same time."""

    def __init__(self, how, path):
        self.how = how
        self.path = path + ".lock"
        self.descriptor = -1

    def open(self, directory):
        """Takes a lock file for as long as the server runs."""
        try:
            if self.how == "directory":
                self.descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            elif self.how in ("file", "awaited-file"):
                self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if self.how == "file":
                        raise
                    say("waiting")
                    fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            elif self.how == "exclusive-file":
                self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except (BlockingIOError, FileExistsError):
            raise in_use("its lock file is taken") from None

    def __enter__(self):
        if self.how == "directory":
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def __exit__(self, *exception):
        if self.how == "directory":
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def drop(self):
        # A file that others may be about to lock stays where it is.
        if self.how == "exclusive-file" and self.descriptor != -1:
            remove(self.path)


class Server:
    def __init__(self, traits, path, user):
        self.traits = traits
        self.type = {
            "stream": socket.SOCK_STREAM,
            "dgram": socket.SOCK_DGRAM,
            "seqpacket": socket.SOCK_SEQPACKET,
        }[traits["type"]]
        self.path = self.whole = path
        self.user = user
        self.lock = Lock(traits["lock"], path)
        self.listeners = []
        self.own = {}
        """The identity of what was bound at each path."""
        self.children = []
        self.alive = os.pipe()
        """Who reads it hears of the end of the main process."""
        self.workers = os.pipe()
        """Who serves a client has taken a byte of it."""
        self.listening = os.pipe()
        """Who reads it hears that it listens."""
        self.waiting_parent = None
        self.vanished = 0
        """How many clients have gone without a word."""
        self.handled = set()
        self.ready = 0.0
        """When it is ready for a next client."""

    # Starting

    def prepare(self):
        """What is done before anything is locked."""
        start, exists, long = (self.traits[aspect] for aspect in ("start", "exists", "long"))
        if start == "slow":
            time.sleep(5)
        elif start == "never":
            wait_for_ever()
        elif start == "exit-3":
            sys.exit(3)
        elif start == "flood":
            line = b"x" * 999 + b"\n"
            for _ in range(1000):
                os.write(2, line * 100)

        directory = os.path.dirname(self.path)
        if not os.path.isdir(directory):
            if self.traits["parent"] == "made":
                os.makedirs(directory)
            elif self.traits["parent"] == "awaited":
                wait_for_ever()
        if self.traits["links"] == "followed":
            self.path = os.path.realpath(self.path)
        elif self.traits["links"] == "cleared" and os.path.islink(self.path):
            os.unlink(os.path.realpath(self.path))
        if long.startswith("cut-"):
            self.path = os.fsdecode(os.fsencode(self.path)[: int(long[4:])])
        elif long == "relative":
            os.chdir(directory)
            self.path = os.path.basename(self.path)
        elif long == "wait" and len(os.fsencode(self.path)) > 107:
            wait_for_ever()
        if os.path.lexists(self.path):
            if exists.startswith("wait"):
                if exists == "wait-stubbornly":
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                wait_for_ever()
            elif exists == "ask":
                self.ask()
            elif exists == "elsewhere":
                self.path += f".{os.getpid()}"
            elif exists.startswith("take-over"):
                self.take_over(late=exists == "take-over-late")

    def take_over(self, late):
        """Whoever listens ends, before or a second after this one serves."""
        with socket.socket(socket.AF_UNIX, self.type) as sock:
            if sock.connect_ex(self.path):
                return
            first = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        pidfd = os.pidfd_open(first)

        def end(seconds):
            time.sleep(seconds)
            os.kill(first, signal.SIGTERM)
            select.select([pidfd], [], [])

        if late:
            os.unlink(self.path)
            _thread.start_new_thread(end, (1,))
        else:
            end(0)

    def ask(self):
        """Refuses if whoever listens answers."""
        with socket.socket(socket.AF_UNIX, self.type) as sock:
            try:
                sock.connect(self.path)
            except ConnectionRefusedError:
                return
            sock.sendall(b"ping\n")
            say("asking")
            if sock.recv(100):
                raise in_use("somebody answers there")

    def make_room(self, path):
        """Removes what is at the path, or raises OSError."""
        exists = self.traits["exists"]
        if exists == "touch":
            with contextlib.suppress(OSError):  # of a socket
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
            remove(path)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if exists == "unlooked":
            return
        if exists in ("unlink", "give-up"):
            os.unlink(path)
            if exists == "give-up":
                raise OSError(errno.EIO, "something was there")
        elif exists == "move-aside":
            os.rename(path, f"{path}.old")
        elif exists == "unlink-all" and stat.S_ISDIR(mode):
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
            os.rmdir(path)
        elif exists == "unlink-empty" and stat.S_ISDIR(mode):
            os.rmdir(path)
        elif exists in ("unlink-all", "unlink-empty"):
            os.unlink(path)
        elif exists == "truncate":
            remove(os.path.realpath(path))
            with open(path, "w"):  # is it a place to write to?
                pass
        elif not stat.S_ISSOCK(mode):
            raise in_use("what is there is no socket")
        elif exists == "unlink-socket" or self.is_stale(path):
            os.unlink(path)
        else:
            raise in_use("somebody listens there")

    def is_stale(self, path):
        with socket.socket(socket.AF_UNIX, self.type) as sock:
            sock.setblocking(False)
            return sock.connect_ex(path) == errno.ECONNREFUSED

    def bind(self, path):
        """Makes room and binds; the lock is held."""
        self.make_room(path)
        sock = socket.socket(socket.AF_UNIX, self.type)
        bound = path
        if self.traits["place"] == "dot":
            os.chdir(os.path.dirname(path))
            bound = os.path.join(".", os.path.basename(path))
        elif self.traits["place"] not in ("bind", "left", "descriptor"):
            bound = f"{path}.{os.getpid()}"
        if self.traits["place"] == "rename-out":
            os.mkdir(bound)
            bound = os.path.join(bound, "s")
        how, _, mode = self.traits["mode"].rpartition("-")
        if how == "umask":
            os.fchmod(sock.fileno(), int(mode, 8))
        if self.traits["place"] in ("left", "descriptor"):
            self.bind_in(sock, *os.path.split(path))
        else:
            sock.bind(bound)
        if not how and mode != "umask":
            os.chmod(bound, int(mode, 8))
        if self.traits["start"] == "bound":
            wait_for_ever()
        self.own[path] = identity(bound)
        self.listeners.append(sock)
        return sock, bound, path

    def bind_in(self, sock, directory, name):
        """By a name that leads nowhere any more."""
        if self.traits["place"] == "left":
            os.chdir(directory)
            sock.bind(name)
            os.chdir("/")
        else:
            opened = os.open(directory, os.O_PATH)
            sock.bind(f"/proc/self/fd/{opened}/{name}")
            os.close(opened)

    def listen(self, sock, bound, path):
        if self.type != socket.SOCK_DGRAM:
            sock.listen(int(self.traits["backlog"]))
        if bound != path and self.traits["place"] != "dot":
            if self.traits["place"] == "link":
                os.symlink(os.path.basename(bound), f"{bound}.link")
                bound = f"{bound}.link"
                self.own[path] = identity(bound)
            try:
                os.rename(bound, path)
            except OSError:
                os.unlink(bound)
                raise
            if self.traits["place"] == "rename-out":
                os.rmdir(os.path.dirname(bound))

    def divide(self):
        """Whoever sees it listen sees it with all of its processes, and as the user that it becomes."""
        fork, drop = self.traits["fork"], self.traits["drop"]
        if self.user is not None and drop == "after-bind":
            self.become_user()
        if fork in ("workers", "tied-workers", "group"):
            for _ in range(2):
                self.fork(self.work, tied=fork == "tied-workers")
        elif self.user is not None and drop == "worker":
            self.fork(self.work, tied=True)

    def claim(self):
        """Has the path, or raises OSError."""
        paths = [self.path, *([self.path + ".control"] if self.traits["sockets"] == "control" else [])]
        directory = os.path.dirname(self.path) or "."
        give_up = time.monotonic() + 3
        if self.traits["sockets"] == "private":
            remove("private")
            self.private = socket.socket(socket.AF_UNIX)
            self.private.bind("private")
            self.private.listen()
        elif self.traits["sockets"] == "hidden":
            self.private = socket.socket(socket.AF_UNIX)
            self.private.bind(f"{self.path}.{os.getpid()}")
            self.private.listen()
            os.unlink(f"{self.path}.{os.getpid()}")
        self.lock.open(directory)
        if self.traits["exists"] == "hand-over" and self.receive():
            os.close(self.listening[1])
            return
        while True:
            try:
                with self.lock:
                    bound = [self.bind(path) for path in paths]
                    self.divide()
                    for each in bound:
                        self.listen(*each)
                    os.close(self.listening[1])
                return
            except PermissionError:
                if self.traits["denied"] == "wait":
                    wait_for_ever()
                if self.traits["denied"] == "refused" or os.access(directory, os.W_OK):
                    raise
                os.chmod(directory, 0o777)
            except OSError as error:
                again = self.traits["exists"] == "retry" and error.errno == errno.EADDRINUSE
                if not again or time.monotonic() > give_up:
                    raise
                time.sleep(0.1)

    def receive(self):
        """Whether it has the listener of whoever has the path."""
        with socket.socket(socket.AF_UNIX) as sock:
            if sock.connect_ex(f"{self.path}.hand"):
                return False
            (listener,) = socket.recv_fds(sock, 1, 1)[1]
        self.listeners.append(socket.socket(fileno=listener))
        self.own[self.path] = identity(self.path)
        return True

    def hand_over(self, sock):
        """The listener goes to whoever asks for it first; clients stay."""
        client = sock.accept()[0]
        socket.send_fds(client, [b"!"], [self.listeners[0].fileno()])
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self.listeners[0].fileno())  # of the thread that waits there
        client.close()

    def refuse(self, error):
        """Exits, for the path cannot be had."""
        self.tidy("unlink-own")
        if self.traits["refused"] == "unlink":
            remove(self.path)
        elif self.traits["refused"] == "chmod":
            with contextlib.suppress(OSError):
                os.chmod(self.path, 0o666)
        errors = self.traits["errors"]
        shown = self.whole
        if errors == "cut":
            shown = shown[:95]
        elif errors == "escaped":
            shown = shown.replace("/", "\\/")
        elif errors == "coloured":
            shown = "/\033[1m".join(os.path.split(shown)) + "\033[0m"
        elif errors == "real":
            shown = os.path.realpath(shown)
        elif errors == "ascii":
            shown = ascii(shown)[1:-1]
        elif errors == "sentence":
            shown = f"ソケット{shown}は使用できません"
        elif errors == "behind":
            shown = "x" * 200_000 + shown
        elif errors == "beside":
            shown += ".pid"
        elif errors == "name":
            shown = os.path.basename(shown)
        if errors in ("unnamed", "banner") or (errors == "some" and error.errno != errno.EADDRINUSE):
            shown = "error"
        line = f"planted: {shown}: {error.strerror or error}"
        if errors == "wrapped":
            line = "\n    ".join(line[start : start + 40] for start in range(0, len(line), 40))
        if errors != "silent":
            os.write(2, f"{line}\n".encode(errors="surrogateescape"))
        sys.exit(1)

    def daemonise(self):
        """The parent exits when this one serves, with its status if it does not."""
        serves, self.waiting_parent = os.pipe()
        if os.fork():
            os.close(self.waiting_parent)
            serving = os.read(serves, 1)
            time.sleep({"daemon-late": 0.5, "daemon-launched": 3}.get(self.traits["fork"], 0))
            os._exit(0 if serving else 1)
        os.close(serves)
        if self.traits["fork"] == "daemon-twice":
            os.setsid()
            if os.fork():
                os._exit(0)

    def supervise(self):
        """Returns in the child, each time that it is started."""
        told = {signal.SIGTERM, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, told)
        while child := os.fork():
            ended, status = 0, 0
            while not ended:
                if signal.sigwait(told) == signal.SIGTERM:
                    os.kill(child, signal.SIGTERM)
                ended, status = os.waitpid(child, os.WNOHANG)
            if os.WIFEXITED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                os._exit(os.WIFSIGNALED(status) or os.WEXITSTATUS(status))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, told)

    def tell_parent(self):
        if self.traits["fork"] == "daemon-twice":
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
        with contextlib.suppress(BrokenPipeError):  # it has been ended
            os.write(self.waiting_parent, b"!")

    def become_user(self):
        os.setgroups([])
        os.setgid(self.user)
        os.setuid(self.user)

    def fork(self, run, tied):
        """A child that runs this; if it is tied, it ends with this process."""
        child = os.fork()
        if child:
            self.children.append(child)
            return
        os.close(self.alive[1])
        os.close(self.listening[1])
        os.read(self.listening[0], 1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.handled)
        run()
        while not tied:
            time.sleep(3600)
        os.read(self.alive[0], 1)
        os._exit(0)

    def renew(self):
        """Forks a worker each time that there is none."""
        while True:
            child = os.fork()
            if not child:
                os.close(self.alive[1])
                signal.pthread_sigmask(signal.SIG_UNBLOCK, self.handled)
                self.work()
                os.read(self.alive[0], 1)
                os._exit(0)
            os.waitpid(child, 0)

    def work(self):
        if self.user is not None and self.traits["drop"] == "worker":
            self.become_user()
        for listener in self.listeners:
            _thread.start_new_thread(self.serve, (listener,))

    def run(self):
        fork = self.traits["fork"]
        # Python's own handler for SIGINT; whoever started this with SIGINT ignored wants it so.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.traits["stopped"] == "quits":
            libc = ctypes.CDLL(None)  # a handler of Python's would wait until sigwait returns
            libc.signal(signal.SIGCONT, libc._exit)
        if self.traits["vanished"] == "dies":
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if self.traits["errors"] == "banner":
            os.write(2, f"planted: {os.getpid()} is to serve {self.whole}\n".encode())
        if fork == "per-client":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if fork.startswith("daemon"):
            self.daemonise()
        if fork == "restarted":
            self.supervise()
        try:
            self.prepare()
            if self.user is not None and self.traits["drop"] == "before-bind":
                self.become_user()
            for aspect, signum in (("term", signal.SIGTERM), ("int", signal.SIGINT)):
                if self.traits[aspect] == "ignore":
                    signal.signal(signum, signal.SIG_IGN)
                elif self.traits[aspect] != "leave" and signal.getsignal(signum) is not signal.SIG_IGN:
                    self.handled.add(signum)
            if fork == "helper":
                self.fork(lambda: None, tied=False)
            # Before it listens, so that none comes too early; and threads inherit the mask.
            signal.pthread_sigmask(signal.SIG_BLOCK, self.handled)
            self.claim()
            if self.traits["lost"] == "withdraws":
                time.sleep(1)
                if identity(self.path) != self.own[self.path]:
                    raise in_use("another one has taken it")
        except OSError as error:
            self.refuse(error)
        if fork == "renewed":
            _thread.start_new_thread(self.renew, ())
        elif not self.children or fork == "helper":
            self.work()
        if self.traits["exists"] == "hand-over":
            hand = socket.socket(socket.AF_UNIX)
            remove(f"{self.path}.hand")
            hand.bind(f"{self.path}.hand")
            hand.listen()
            _thread.start_new_thread(self.hand_over, (hand,))
        if self.traits["handlers"] == "late":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.handled)
            time.sleep(0.5)
            signal.pthread_sigmask(signal.SIG_BLOCK, self.handled)
        if self.traits["mode"] == "late-0777":
            time.sleep(0.5)
            os.chmod(self.path, 0o777)
        say("serving")
        if self.waiting_parent is not None:
            self.tell_parent()
        if self.traits["rest"] == "busy":
            _thread.start_new_thread(self.be_busy, ())
        while not self.handled:
            time.sleep(3600)
        if self.traits["lost"] == "bound-anew":
            _thread.start_new_thread(self.bind_anew, ())
        signum = signal.sigwait(self.handled)
        if fork == "group" and signum == signal.SIGINT:
            self.children.clear()
        self.tidy(self.traits["term" if signum == signal.SIGTERM else "int"])
        os._exit(0)  # threads serve on until here

    def bind_anew(self):
        while os.path.lexists(self.path):
            time.sleep(0.05)
        time.sleep(3)
        with self.lock:
            bound = self.bind(self.path)
            self.listen(*bound)
        self.serve(bound[0])

    def be_busy(self):
        while True:
            pass

    # Stopping

    def tidy(self, how):
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for path, own in self.own.items():
            try:
                if how == "unlink-own":
                    self.remove_own(path, own)
                else:
                    os.unlink(path)
                    if how == "rebind":
                        socket.socket(socket.AF_UNIX, self.type).bind(path)
            except OSError as error:
                os.write(2, f"planted: {path} is not removed: {error.strerror}\n".encode())
        self.lock.drop()
        if self.traits["parent"] == "removed":
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self.path))

    def remove_own(self, path, own):
        """The listener is still open, so that no other file can have its inode number."""
        with self.lock:
            try:
                if identity(path) == own:
                    os.unlink(path)
            except FileNotFoundError:
                pass

    # Serving

    def serve(self, listener):
        if self.type == socket.SOCK_DGRAM:
            while True:
                data, sender = listener.recvfrom(65536)
                if sender:
                    listener.sendto(data, sender)
        polled = self.traits["accept"] == "polled"
        listener.setblocking(not polled)
        if self.traits["vanished"] == "wears-out":
            os.write(self.workers[1], bytes(8))
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        accepted = 0
        while True:
            if self.traits["vanished"] == "wears-out":
                os.read(self.workers[0], 1)
            try:
                if polled:
                    poll.poll()
                client = listener.accept()[0]
            except BlockingIOError:
                continue  # another worker has taken it
            except OSError as error:
                self.exhausted(error)
                continue
            accepted += 1
            if self.traits["silent"] == "dies":
                client.settimeout(1)
            if self.traits["fork"] == "per-client":
                self.fork_for(client)
            elif self.traits["clients"] == "together":
                _thread.start_new_thread(self.talk, (client,))
            else:
                self.talk(client)
            if self.traits["retires"] == "after-6" and accepted == 6:
                time.sleep(0.3)
                os._exit(0)

    def fork_for(self, client):
        if not os.fork():
            client.settimeout(1)
            self.talk(client)
            os._exit(0)
        client.close()

    def exhausted(self, error):
        how = self.traits["exhausted"]
        if how == "pause":
            time.sleep(0.1)
        elif how == "spin-and-log":
            os.write(2, f"planted: accept: {error.strerror}\n".encode())
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how in ("die", "end"):
            os._exit(how == "die")
        elif how == "give-up":
            wait_for_ever()

    def talk(self, client):
        asked = False
        if self.traits["vanished"] == "lingers":
            time.sleep(0.1)
        with client:
            try:
                if self.traits["banner"] == "yes":
                    client.sendall(b"hello\n")
                while True:
                    data = self.receive_from(client)
                    if not data:
                        break
                    if time.monotonic() < self.ready:
                        return
                    asked = True
                    if self.traits["unlinked"] == "by-client":
                        self.remove_own(self.path, self.own[self.path])
                    if self.traits["half-close"] in ("aborts", "hasty") and self.closes(client):
                        return
                    if self.traits["request"] == "echo":
                        client.sendall(data)
                if not asked and self.traits["vanished"] == "dies":
                    client.send(b"bye\n")
            except (BrokenPipeError, ConnectionResetError):
                pass
            except TimeoutError:
                if self.traits["silent"] == "dies":
                    os._exit(1)
        if asked and self.traits["rest"] == "afresh":
            self.ready = time.monotonic() + 0.3
            while time.monotonic() < self.ready:
                pass
        if asked and self.traits["vanished"] == "wears-out":
            os.write(self.workers[1], bytes(1))
        self.vanished += not asked
        if not asked and self.traits["vanished"] == "rests" and self.vanished == 50:
            time.sleep(15)
        if not asked and self.traits["vanished"] == "wedges":
            wait_for_ever()
        if not asked and self.traits["vanished"] == "ends":
            os._exit(0)

    def receive_from(self, client):
        if self.traits["half-close"] != "impatient":
            return client.recv(65536)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 60, 0))
        data = ctypes.create_string_buffer(65536)  # Python would call again
        size = ctypes.CDLL(None).recv(client.fileno(), data, len(data), 0)
        return data.raw[: max(size, 0)]

    def closes(self, client):
        """Whether the client has shut down its sending side, or, as the trait says, does within half a second."""
        poll = select.poll()
        poll.register(client, select.POLLRDHUP)
        return bool(poll.poll(500 if self.traits["half-close"] == "aborts" else 0))


def main(words, path, *options):
    user = int(options[1]) if options[:1] == ("--user",) else None
    Server(parse(words), path, user).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
