"""``python -m udslab`` is the ``udslab`` command."""

import sys

from udslab.cli import main

sys.exit(main())
