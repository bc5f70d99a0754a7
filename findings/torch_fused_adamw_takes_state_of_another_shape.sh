#!/usr/bin/env bash
# torch 2.13.0, CPU: AdamW(fused=True) goes on with state of another shape, where AdamW(foreach=False) refuses it.
#
# A training is resumed whose weight is stored the other way round: 8 → 4 as (in, out) at first, as (out, in) now, the
# weight turned over, the optimizer's state left as it was. `load_state_dict` takes the state without a look at shapes.
# The plain implementation raises "The size of tensor a (8) must match the size of tensor b (4)" at the first step. The
# fused one walks both memories in order: it pairs each weight with the running averages of another one, says nothing,
# keeps (8, 4) as the state's shape, and ends elsewhere. Trainers choose fused=True by themselves these days, so a
# conversion that forgets the optimizer is an error for one user and a silently different training for another.
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$folder/resumed.py" <<'PYTHON'
import copy
import sys

import torch

torch.manual_seed(0)
data, wanted = torch.randn(16, 8), torch.randn(16, 4)


def step(optimizer, weight, matrix):
    optimizer.zero_grad()
    (data @ matrix - wanted).square().mean().backward()
    optimizer.step()


def begun(**options):
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 32).reshape(8, 4).contiguous())
    optimizer = torch.optim.AdamW([weight], lr=0.01, **options)
    for _ in range(5):
        step(optimizer, weight, weight)
    return weight, optimizer


def resumed(turn_state, **options):
    """Five more steps with the weight turned over; how far it ends from the training that went on as it was."""
    weight, optimizer = begun(**options)
    state = copy.deepcopy(optimizer.state_dict())
    turned = torch.nn.Parameter(weight.detach().T.clone(memory_format=torch.contiguous_format))
    other = torch.optim.AdamW([turned], lr=0.01, **options)
    if turn_state:
        for key in ("exp_avg", "exp_avg_sq"):
            state["state"][0][key] = state["state"][0][key].T.contiguous()
    other.load_state_dict(state)
    for _ in range(5):
        step(optimizer, weight, weight)
        step(other, turned, turned.T)
    return float((turned.T - weight).detach().abs().max()), tuple(other.state[turned]["exp_avg"].shape)


right, _ = resumed(turn_state=True, fused=True)
silent, shape = resumed(turn_state=False, fused=True)
try:
    message = str(resumed(turn_state=False, foreach=False))
except RuntimeError as error:
    message = str(error)
print(f"fused, state turned too: {right:.1e} apart")
print(f"fused, state left: {silent:.1e} apart, state of shape {shape}, no message")
print("foreach=False, state left:", message)
sys.exit(0 if right < 1e-6 and silent > 1e-3 and shape == (8, 4) and message.startswith("The size of tensor") else 1)
PYTHON
"$folder/venv/bin/python" "$folder/resumed.py"
