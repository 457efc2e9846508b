"""A loop is told of the signals that it waits for, whenever they come."""

from __future__ import annotations

import os
import select
import signal

from udslab.signals import told_of


def test_one_that_has_come_before_the_wait_is_told():
    before = signal.getsignal(signal.SIGUSR1)
    with told_of(signal.SIGUSR1, signal.SIGUSR2) as told:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert select.select([told], [], [], 0)[0] == [told]
        assert told.recv(16) == bytes([signal.SIGUSR2])
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1
