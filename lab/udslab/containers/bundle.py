"""The in-container half of the lab as a zip, and the few lines of Python that take it in."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import udslab

__all__ = ["command", "contents"]

_HOST_HALF = {"cli", "containers", "places", "report", "subjects"}

# Runs as `python3 -c` in an image that we do not know: what lies in its working directory is not imported (an empty
# entry in sys.path), and standard input beyond the zip is left to the module.
_TAKE_IN = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
sys.path[:] = [entry for entry in sys.path if entry]
if sys.version_info < (3, 9):
    sys.exit("the lab needs Python 3.9 or newer, and this is " + sys.version.split()[0])
import os
size = int(sys.argv.pop(1))
fd = os.memfd_create("udslab")
while size:
    data = os.read(0, min(size, 1 << 20))
    if not data:
        sys.exit("the lab was not sent whole")
    while data:
        written = os.write(fd, data)
        data, size = data[written:], size - written
sys.path.insert(0, "/proc/self/fd/%d" % fd)
from {module} import main
sys.exit(main())
"""


@functools.lru_cache(maxsize=1)
def contents() -> bytes:
    """The zip."""
    top = Path(udslab.__file__).parent
    buffer = io.BytesIO()
    # Not compressed: it is read at once by the same machine, or one near by.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for path in sorted(top.rglob("*.py")):
            if path.relative_to(top).with_suffix("").parts[0] not in _HOST_HALF:
                bundle.write(path, path.relative_to(top.parent))
    return buffer.getvalue()


def command(*arguments: str, module: str = "udslab.agent") -> list[str]:
    """The command of a container that reads :func:`contents` from its standard input and becomes an agent, or what else
    the ``main`` of a module is."""
    return ["python3", "-B", "-c", _TAKE_IN.replace("{module}", module), str(len(contents())), *arguments]
