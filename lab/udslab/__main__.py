"""``python -m udslab`` is the ``udslab`` command."""

import sys

try:
    from udslab.cli import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
