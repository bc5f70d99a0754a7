#!/usr/bin/env bash
# typer 0.29.2: a command with one `str` option imports pydantic on every call, the option given or not.
#
# typer 0.28.0, with pydantic installed beside it too, never imports it. 0.29.2 converts the value of each parameter that
# is not a plain flag through pydantic, `str` and a missing optional `int` included; only `--help` is spared. There is no
# public switch. The processor time of a call that does nothing more than doubles, which a command line that people run
# in loops and completions feels.
#
# Prints both versions' imported modules and times; ends with 1 when one of them behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 0.28.0 0.29.2; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "typer==$version" pydantic==2.14.4
done
cat >"$folder/hello.py" <<'PYTHON'
import atexit
import sys

import typer

app = typer.Typer()


@app.command()
def hello(name: str = "you", times: int = None) -> None:
    pass


def tell():
    print("pydantic" if "pydantic" in sys.modules else "no pydantic", len(sys.modules), "modules", file=sys.stderr)


atexit.register(tell)
app()
PYTHON
seen=$(
  for version in 0.28.0 0.29.2; do
    for words in "" "--name me" "--help"; do
      # shellcheck disable=SC2086
      printf '%s %s: %s\n' "$version" "'$words'" "$("$folder/$version/bin/python" "$folder/hello.py" $words 2>&1 >/dev/null)"
    done
  done
)
echo "$seen"
for version in 0.28.0 0.29.2; do
  "$folder/$version/bin/python" - "$folder/hello.py" "$version" <<'PYTHON'
import os
import subprocess
import sys

times = []
for _ in range(11):
    before = os.times()
    subprocess.run([sys.executable, sys.argv[1], "--name", "me"], stderr=subprocess.DEVNULL, check=True)
    after = os.times()
    times.append(after.children_user + after.children_system - before.children_user - before.children_system)
print(f"typer {sys.argv[2]}: {sorted(times)[5] * 1000:.0f} ms of processor time, the median of 11 calls")
PYTHON
done
[ "$(grep -c '^0.28.0 .*: no pydantic' <<<"$seen")" = 3 ] && [ "$(grep -c '^0.29.2 .*: pydantic' <<<"$seen")" = 2 ]
