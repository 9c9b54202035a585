"""Temporary folders that go with the process that made them, however that ends.

What a killed process leaves behind stays for good, and in /dev/shm it takes memory. With a folder
go the processes whose TMPDIR it is: servers that tests started and could not end any more.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Its standard input ends when the process does. Those that end by themselves meanwhile are given
# five seconds.
_AFTERWARDS = """
trap '' HUP INT TERM
read -r _
tries=0
signal=TERM
while [ $tries -lt 100 ]; do
    left=$(grep -lszxF "TMPDIR=$1" /proc/[0-9]*/environ | cut -d / -f 3)
    [ -n "$left" ] || ! rm -rf "$1" || exit 0
    kill -s $signal $left
    [ $tries -lt 50 ] || signal=KILL
    tries=$((tries + 1))
    sleep 0.1
done
rm -rf "$1"
"""


def folder(prefix: str, within: str) -> Path:
    """A new folder; it is there as long as this process."""
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
    # A session of its own: what is sent to a terminal's or a timeout's processes is not for it.
    watch = subprocess.Popen(
        ["/bin/sh", "-c", _AFTERWARDS, "sh", made],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    atexit.register(_remove, made, watch, os.getpid())
    return made


def _remove(made: Path, watch: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:  # not a fork of it
        shutil.rmtree(made, ignore_errors=True)
        watch.communicate()
