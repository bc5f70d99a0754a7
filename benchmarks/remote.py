"""What reading elsewhere costs: requests, bytes, time and memory, against servers on this machine.

`python benchmarks/remote.py` needs `pip install -e '.[test]'`. It makes sparse files of 100 GB, which take a megabyte
of disk, serves them with 20 milliseconds of latency, and prints each bound with what was measured.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from support.servers import HubHandler, Server, serving  # noqa: E402

SHARDS, LATENCY, RUNS = 64, 0.02, 7
WHOLE = 100 * 10**9


def make_shards(folder: Path) -> int:
    """A safetensors model of 64 sparse shards, 100 GB in all; returns the bytes of all headers."""
    places, headers = {}, 0
    for shard in range(1, SHARDS + 1):
        name = f"model-{shard:05}-of-{SHARDS:05}.safetensors"
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at, size = 0, WHOLE // SHARDS // 12 // 16384 * 16384
        for layer in range(12):
            key = f"model.layers.{shard}.mlp.experts.{layer}.down_proj.weight"
            entries[key] = {"dtype": "BF16", "shape": [size // 16384, 8192], "data_offsets": [at, at + size]}
            places[key], at = name, at + size
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + at)
        headers += 8 + len(text)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return headers


def make_zip(path: Path) -> int:
    """A `.pt` of 2 GB, with random numbers in one layer; returns that layer's bytes."""
    import torch

    state = {f"blocks.{i}.fc.weight": torch.zeros(2048, 2048) for i in range(119)}
    state["head.weight"] = torch.randn(1024, 1024, 1)
    torch.save(state, path)
    return state["head.weight"].nbytes


CHILD = """
import json, os, resource, sys, time
sys.path.insert(0, {root!r})
import fsspec, aiohttp, huggingface_hub
from convinspect.formats import read_contents
from convinspect.remote.addresses import path_of
import convinspect.remote.http
huggingface_hub.get_safetensors_metadata, huggingface_hub.HfFileSystem
what, address = sys.argv[1:]
began = time.perf_counter()
if what == "ours":
    read_contents(path_of(address))
else:
    huggingface_hub.get_safetensors_metadata(address)
print(time.perf_counter() - began)
"""


def seconds(what: str, address: str, server: Server, cache: Path) -> float:
    """Time of one listing in a new process that has imported all it needs, with an empty cache."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    words = [sys.executable, "-c", CHILD.format(root=str(ROOT)), what, address]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_shards(folder: Path) -> None:
    """A sharded model over HTTP, and on a Hub, against huggingface_hub on that same Hub."""
    (folder / "org/model").mkdir(parents=True)
    headers = make_shards(folder / "org/model")
    with serving(folder, HubHandler, latency=LATENCY) as server:
        times: dict[str, list[float]] = {"http": [], "hf": [], "huggingface_hub": []}
        for run in range(RUNS):
            server.forget()
            # The plain server's place of the same files.
            times["http"].append(
                seconds(
                    "ours", f"{server.address}/cdn/org/model/model.safetensors.index.json", server, folder / f"a{run}"
                )
            )
            of_shards = [one for one in server.asked if one.path.endswith(".safetensors")]
            times["hf"].append(seconds("ours", "hf://org/model", server, folder / f"b{run}"))
            times["huggingface_hub"].append(seconds("theirs", "org/model", server, folder / f"c{run}"))
    best = {name: min(found) for name, found in times.items()}
    sent = sum(one.sent for one in of_shards)
    print(f"64 shards, 100 GB, 20 ms: {len(of_shards) / SHARDS:.2f} requests a shard (bound 2)")
    print(f"  bytes {sent:,} = {sent / headers:.2f} × the headers' {headers:,} (bound 2)")
    for name, found in times.items():
        ratio = found and best[name] / best["huggingface_hub"]
        print(f"  {name}: {best[name] * 1000:.0f} ms, {ratio:.2f} × get_safetensors_metadata (bound 0.7)")


def run_command(*words: str) -> int:
    """Run a command in a new process; returns its peak memory in megabytes."""
    words = (sys.executable, "-m", "convinspect", *words)
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def measure_zip(folder: Path) -> None:
    """A large `.pt` over HTTP."""
    layer = make_zip(folder / "large.pt")
    with serving(folder, latency=LATENCY) as server:
        address = f"{server.address}/large.pt"
        for words, most in ((("shapes", address), 10**6), (("weights", address, "head"), layer + 10**6)):
            server.forget()
            began = time.perf_counter()
            memory = run_command(*words)
            took = time.perf_counter() - began
            print(
                f"2 GB .pt, {words[0]}: {len(server.asked)} requests, {server.sent:,} bytes (bound {most:,}),", end=" "
            )
            print(f"peak {memory} MB, {took:.2f} s with starting")
        server.forget()
        print(f"  check: peak {run_command('check', address)} MB, {len(server.asked)} requests, {server.sent:,} bytes")
        target = folder / "converted.pt"
        server.forget()
        began = time.perf_counter()
        memory = run_command("convert", address, "--to", "linear", "-o", str(target))
        took = time.perf_counter() - began
        print(f"  convert: {took:.1f} s, peak {memory} MB, {len(server.asked)} requests, {server.sent:,} bytes")


def main() -> None:
    """Print all figures."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    with tempfile.TemporaryDirectory() as folder:
        measure_shards(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        measure_zip(Path(folder))


if __name__ == "__main__":
    main()
