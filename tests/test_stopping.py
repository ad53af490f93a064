"""Signals, each in a process of its own: Vulkan drivers leave a signal stack behind on which a later one crashes."""

import signal
import subprocess
import sys

import pytest

HEAD = """
import hashlib, os, signal, time
from esrgan import stopping as module
from esrgan.stopping import stopping

def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)

def stops(number):
    try:
        send(number)
    except KeyboardInterrupt:
        return True
    return False

"""
TWICE = """
before = signal.getsignal(signal.SIGTERM)
with stopping() as asked:
    send(signal.SIGTERM)
    assert asked == ["SIGTERM"]
    assert stops(signal.SIGINT)
assert signal.getsignal(signal.SIGTERM) is before
"""
ECHO = """
module.distributed.size = lambda: 2
module.ECHO = 0.2
with stopping() as asked:
    send(signal.SIGINT, signal.SIGINT)
    assert asked == ["SIGINT"]
    time.sleep(0.3)
    assert stops(signal.SIGINT)
"""
BUSY = """
with stopping():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # one operation of minutes, as a large backward pass
"""


@pytest.mark.parametrize("program", [TWICE, ECHO], ids=["twice", "echo"])
def test_the_first_signal_is_noted_and_the_second_stops_but_for_what_torchrun_passes_on(program):
    subprocess.run([sys.executable, "-c", HEAD + program], check=True, timeout=60)


def test_a_second_signal_ends_even_a_long_operation():
    words = [sys.executable, "-c", HEAD + BUSY]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as busy:
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
