"""The end of the program: at once, where only PyTorch would have something left to do."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref

_BY_SIGNAL = 128
"""Exit codes above it are of signals."""


def leave(code: object) -> None:
    """End this process as Python would, but for its modules, which are not taken apart.

    With PyTorch loaded that takes 0.1 s, a tenth of a short command. What was registered to run at the end has run, and
    output is written. Nothing happens, and Python is to end as ever, where there is more to it: PyTorch was not loaded,
    threads are at work, output cannot be written, or a profiler or debugger runs the program and has the last word.

    Who interrupts the program does not wait for its threads, which only read, or load PyTorch.

    Args:
        code: That of `SystemExit`.
    """
    if "torch" not in sys.modules or not _is_alone() or not isinstance(code, (int, type(None))):
        return
    if threading.active_count() > 1 and (code or 0) <= _BY_SIGNAL:
        return
    spare_pytorch()
    # Python has no public name for it; `sys.exit` alone leads there and on to the modules.
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        # Python's own end tries again, and says what it says of that.
        return
    os._exit((code or 0) & 0xFF)


def spare_pytorch() -> None:
    """Let PyTorch keep its operators at the end: it takes them from its tables one by one, for 0.05 s."""
    # Python has no public name for all of them.
    for one in list(getattr(weakref.finalize, "_registry", ())):
        alive = one.peek()
        if alive is not None and str(getattr(alive[1], "__module__", "")).startswith("torch."):
            one.atexit = False


def _is_alone() -> bool:
    """Whether Python was started for this program, with nothing around it."""
    own = sys.argv[1:]
    started = sys.orig_argv[1:]
    by_script, by_module = started == sys.argv, started == ["-m", "convinspect", *own]
    return by_script or by_module
