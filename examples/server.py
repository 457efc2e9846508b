"""A server of this project, which answers each line backwards, and a client of it.

usage: python server.py PATH            takes a path that is free, or one that a server has left behind that crashed
       python server.py --naive PATH    takes any path, as most programs do
"""

import os
import signal
import socket
import sys
import threading
from contextlib import suppress

import udslab


def answer(connection):
    """One client."""
    with connection.makefile("rwb", buffering=0) as stream:
        for line in stream:
            stream.write(line.rstrip(b"\n")[::-1] + b"\n")


def careful(path):
    """Only what is certainly stale is replaced; at the end only our own file is removed."""
    return udslab.listen(path)


def naive(path):
    """Whatever is there is removed: a live server's socket, a user's file."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def serve(listener):
    """Everybody, one after the other."""
    while True:
        accepted = listener.accept()
        with accepted[0] if isinstance(accepted, tuple) else accepted as connection:
            answer(connection)


def ask(path, question):
    """A client: one question, one answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(question.encode() + b"\n")
        return sock.makefile("r").readline().rstrip("\n")


def main(*arguments):
    """The command."""
    *option, path = arguments
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # from before the file is there, so that it goes, too
    with (naive if option == ["--naive"] else careful)(path) as listener:
        threading.Thread(target=serve, args=[listener], daemon=True).start()
        print("serving", flush=True)
        signal.sigwait(ending)


if __name__ == "__main__":
    main(*sys.argv[1:])
