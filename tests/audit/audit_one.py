"""Puts the subject that comes pickled on standard input through one probe, and prints the finding as JSON.

audit_one.py PROBE
"""

from __future__ import annotations

import json
import pickle
import sys

from udslab.audit.auditor import Auditor
from udslab.audit.host import ProcessHost, user_named

with ProcessHost(user_named(None)) as host:
    print(json.dumps(Auditor(pickle.load(sys.stdin.buffer), host).audit(sys.argv[1]).as_dict()))
