"""The commands as Python functions: they take paths or checkpoints, and return the records that the commands show.

    open        a checkpoint, of which nothing is run
    find_layers its layers
    select      those that are meant
    sort_layers the same in the order of a listing
    module_tree its modules as a tree, with sums of what lies under each
    diff        how two checkpoints differ, or what a load_state_dict error asks for
    convert     a checkpoint with pointwise convolutions as Linear or back, other names, another format
    verify      whether a conversion changed shapes and nothing else
    compare     how fast and how exact Conv1d and Linear are on this machine
    explain     what one layer computes on a few rows of data
    recover     a file whose conversion in place was interrupted
    check       whether a file is whole, and what loading it elsewhere would call
    report      a checkpoint, or two, as one HTML page to look at

A command's options are keyword arguments of the same names (`--state-dict` is `state_dict`, `--from` is `from_`). What
can be fixed by the caller is a `ConvInspectError`.
"""

from __future__ import annotations

from convinspect.api.conversions import convert, verify
from convinspect.api.files import check, diff, recover
from convinspect.api.layers import compare, explain
from convinspect.api.pages import report
from convinspect.checkpoint import Checkpoint
from convinspect.checkpoint import open_checkpoint as open
from convinspect.errors import ConvInspectError
from convinspect.layers.find import find_layers
from convinspect.layers.order import sort_layers
from convinspect.layers.select import select
from convinspect.layers.tree import module_tree
from convinspect.records import Layer, Tensor
from convinspect.showing.notebook import checkpoint_table, layer_table, show_in_notebooks

__all__ = [
    "Checkpoint",
    "ConvInspectError",
    "Layer",
    "Tensor",
    "check",
    "compare",
    "convert",
    "diff",
    "explain",
    "find_layers",
    "module_tree",
    "open",
    "recover",
    "report",
    "select",
    "sort_layers",
    "verify",
]

show_in_notebooks(Checkpoint, checkpoint_table)
show_in_notebooks(Layer, layer_table)
