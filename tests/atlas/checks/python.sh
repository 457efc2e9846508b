#!/bin/sh
# Rows of PYT: what a plain Python says, and what it is seen to ask of the kernel. $1: which Python.
set -eu
python=$1

said() {
	"$python" -S -E -c "
import os, pathlib, socket
def said(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return '[\"%s\", %s, \"%s\"]' % (type(error).__name__, 'null' if error.errno is None else error.errno, error)
    return '\"asks the kernel\"'
def kind(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return type(error).__name__
    return 'ok'
$1"
}

said "
here = os.getcwd() + '/'
print('PYT-01 {\"107 bytes\": %s, \"108 bytes\": %s}' % tuple(
    said(socket.socket(socket.AF_UNIX).bind, here + 'x' * (length - len(here))) for length in (107, 108)))"

mkdir two
cd two
name=$(said "
s = socket.socket(socket.AF_UNIX)
s.bind('a\\0b')
print(s.getsockname())")
echo "PYT-02 {\"bind\": [\"ok\"], \"files\": [\"$(ls)\"], \"getsockname\": \"$name\"}"
cd ..

said "
s = [socket.socket(socket.AF_UNIX) for _ in range(4)]
print('PYT-03 {\"str\": \"%s\", \"bytes\": \"%s\", \"bytearray\": \"%s\", \"Path\": \"%s\"}' % (
    kind(s[0].bind, 'b'), kind(s[1].bind, b'c'), kind(s[2].bind, bytearray(b'd')), kind(s[3].bind, pathlib.Path('e'))))"

signal=$("$python" -S -E -c "
import subprocess
for restore in True, False:
    print(subprocess.call(['sh', '-c', 'kill -PIPE \$\$; exit 7'], restore_signals=restore))" | tr '\n' ' ')
ignored=$("$python" -S -E -c "
import os
for pid in os.getpid(), os.fork():
    if pid == 0 or pid == os.getpid():
        print(int(next(line for line in open('/proc/self/status') if line.startswith('SigIgn')).split()[1], 16) >> 12 & 1,
              flush=True)
    if pid == 0:
        os._exit(0)
os.wait()" | tr '\n' ' ')
[ "$signal" = "-13 7 " ] && [ "$ignored" = "1 1 " ] &&
	echo 'PYT-07 {"Python": "ignored", "forked": "ignored", "subprocess": "ended by SIGPIPE",' \
		'"restore_signals=False": "went on"}'

said "
s = socket.socket(socket.AF_UNIX)
s.bind('l')
s.listen()
clients = []
while True:
    clients.append(socket.socket(socket.AF_UNIX))
    clients[-1].setblocking(False)
    if clients[-1].connect_ex('l'):
        break
print('PYT-08', len(clients) - 1)"
