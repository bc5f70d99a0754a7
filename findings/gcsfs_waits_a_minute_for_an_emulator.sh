#!/usr/bin/env bash
# gcsfs 2026.10.1 with gcp-storage-emulator 2026.7.19: pointed at an emulator, every use of a bucket waits a minute or two.
#
# `STORAGE_EMULATOR_HOST` sends gcsfs to a local server, as it does Google's own client. But before an object is written
# or read, gcsfs asks by another protocol (gRPC with TLS) whether the bucket is a zonal or hierarchical one. A server that
# speaks plain HTTP cannot answer. Each question is given up after 60 s, with a warning that the bucket's type is unknown;
# then the request goes on and succeeds. That nothing was learnt is not remembered, so the next use of the same bucket
# waits again: 101 s and 113 s were seen, each for an upload of ten bytes and one read. With
# `GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false` nothing is asked, and both take moments. So tests against an emulator look as
# if they hang.
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gcsfs==2026.10.1 gcp-storage-emulator==2026.7.19
cat >"$folder/first_use.py" <<'PYTHON'
import sys
import time

from gcsfs import GCSFileSystem

files = GCSFileSystem(token="anon")
for name in ("first", "second"):
    begun = time.monotonic()
    files.pipe_file(f"models/{name}", b"some bytes")
    same = files.cat_file(f"models/{name}") == b"some bytes"
    took = time.monotonic() - begun
    print(f"{name} use: {took:.1f} s", "the bytes are there:", same)
    if not same or (took > 30) != (sys.argv[1] == "asks"):
        sys.exit(1)
PYTHON
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/gcp-storage-emulator" start --host=127.0.0.1 --port="$port" --in-memory --default-bucket=models \
  >"$folder/log" 2>&1 &
server=$!
sleep 4
export STORAGE_EMULATOR_HOST="http://127.0.0.1:$port"
echo "as it comes:"
"$folder/venv/bin/python" "$folder/first_use.py" asks
echo "with GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false:"
GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false "$folder/venv/bin/python" "$folder/first_use.py" asks-nothing
