"""What the tests of the audit share: a host for the servers, and auditors whose patience need be measured once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from udslab.audit import Subject
from udslab.audit.auditor import Auditor
from udslab.audit.findings import Finding
from udslab.audit.host import ProcessHost, user_named


@pytest.fixture(scope="session")
def host() -> Iterator[ProcessHost]:
    """This machine; servers run as an ordinary user."""
    with ProcessHost(user_named(None)) as host:
        yield host


@pytest.fixture(scope="session")
def audit(host: ProcessHost) -> Callable[[Subject, str], Finding]:
    """Puts a subject through one probe."""
    made: list[Auditor] = []

    def run(subject: Subject, probe: str) -> Finding:
        auditor = next((one for one in made if one.subject == subject), None)
        if auditor is None:
            auditor = Auditor(subject, host)
            made.append(auditor)
        return auditor.audit(probe)

    return run
