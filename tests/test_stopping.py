import os
import signal
import subprocess
import sys
import time

import pytest

from esrgan import stopping as module
from esrgan.stopping import stopping


def test_the_first_signal_is_noted_and_the_second_stops():
    before = signal.getsignal(signal.SIGTERM)
    with stopping() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked == ["SIGTERM"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_torchrun_passes_on_is_no_second_signal(monkeypatch):
    monkeypatch.setattr(module.distributed, "size", lambda: 2)
    monkeypatch.setattr(module, "ECHO", 0.2)
    with stopping() as asked:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert asked == ["SIGINT"]
        time.sleep(0.3)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


BUSY = (
    "import hashlib\nfrom esrgan.stopping import stopping\n"
    "with stopping():\n"
    "    print('busy', flush=True)\n"
    "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"  # one operation of minutes, as a large backward pass
)


def test_a_second_signal_ends_even_a_long_operation():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as busy:
        assert busy.stdout.readline() == b"busy\n"
        busy.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            busy.wait(1.0)
        busy.send_signal(signal.SIGINT)
        try:
            assert busy.wait(10) == 130
        finally:
            busy.kill()
        assert b"stopped at once" in busy.stderr.read()
