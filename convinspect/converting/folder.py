"""A folder in gives a folder out: the optimizers beside the weights follow them, and all else is carried along.

Optimizer state that cannot follow is refused, carried along or left out, as the user decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convinspect.checkpoint import Checkpoint
from convinspect.converting.options import Options
from convinspect.converting.training_state import WAYS_OUT
from convinspect.errors import CannotConvert, ConvInspectError, Option, Wording, named
from convinspect.formats.companions import is_companion, states_in
from convinspect.formats.sharded import SUFFIXES
from convinspect.records import Container
from convinspect.remote.addresses import Address
from convinspect.text import first_few
from convinspect.writing.archived import archive_of
from convinspect.writing.beside import Stuck, with_optimizers
from convinspect.writing.carried import Carried, carried_along, folder_of
from convinspect.writing.shards import Beside, own_names
from convinspect.writing.target import writes_folder


@dataclass(frozen=True, slots=True)
class Company:
    """A checkpoint and what lies beside it in its folder.

    Attributes:
        checkpoint: With the optimizers beside its weights as further roots, where a folder is written.
        beside: What goes into the new folder with it; None where none is written.
        stuck: Optimizer state beside it that cannot change.
    """

    checkpoint: Checkpoint
    beside: Beside | None = None
    stuck: tuple[Stuck, ...] = ()

    @property
    def carried(self) -> Carried | None:
        """What the new folder takes as it is, and what it does not take."""
        return None if self.beside is None else self.beside.carried


def company_of(checkpoint: Checkpoint, options: Options, output: Path | None, resaved: bool) -> Company:
    """Look at what lies beside a checkpoint.

    Args:
        checkpoint: The source.
        options: What to do.
        output: The new file or folder; None to leave it open, in a dry run.
        resaved: It becomes one file that is saved anew.

    Raises:
        BrokenFile: A folder cannot be listed.
    """
    folder = folder_of(checkpoint.path) if checkpoint.container is Container.DISTRIBUTED else checkpoint.folder
    if (
        folder is None
        or resaved
        or archive_of(folder) is not None
        or (output is not None and not writes_folder(output))
    ):
        return Company(checkpoint)
    together = with_optimizers(checkpoint)
    without = [stuck.name for stuck in together.stuck] if options.drop_optimizer else ()
    target = None if options.dry_run else output
    carried = carried_along(folder, {*own_names(checkpoint), *together.files}, without, target)
    return Company(together.checkpoint, Beside(together.files, carried), together.stuck)


def check_stuck(company: Company, options: Options, changes: bool) -> None:
    """Refuse to write a folder whose optimizer state would no longer fit its weights.

    Args:
        company: What lies beside the weights.
        options: What to do.
        changes: Weights get another shape, or another name by which state in pieces may be kept.

    Raises:
        CannotConvert: There is such state, and the options do not say what becomes of it.
    """
    if company.beside is None or not changes or options.keep_optimizer or options.drop_optimizer:
        return
    for stuck in company.stuck:
        raise CannotConvert(f"{stuck.name} beside the weights cannot be converted with them ({stuck.why})", WAYS_OUT)


def notes_on(company: Company, options: Options) -> tuple[str, ...]:
    """What a user should know of the folder's other files, one line each."""
    carried = company.carried
    if carried is None:
        return ()
    if options.in_place:
        return ()
    lines = []
    if isinstance(carried.folder, Address):
        lines.append(f"only the weights were fetched; what else belongs to them stays at {named(carried.folder)}")
    if company.stuck and options.keep_optimizer:
        there = {name.partition("/")[0] for name in carried.names}
        kept = [stuck.name for stuck in company.stuck if stuck.name in there]
        lines += [f"carried along, and not converted: {first_few(kept)}"] * bool(kept)
    for why in dict.fromkeys(item.left for item in carried.left):
        names = first_few([item.name for item in carried.left if item.left == why])
        lines.append(f"not in the new folder: {names} ({why})")
    stuck = {stuck.name for stuck in company.stuck}
    weights = [name for name in carried.names if _may_hold_weights(name) and name.partition("/")[0] not in stuck]
    if weights:
        lines.append(f"carried along unchanged, though weights may lie there too: {first_few(weights)}")
    return tuple(lines)


def _may_hold_weights(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not is_companion(path.name)


def left_behind(company: Company) -> str | None:
    """A warning of optimizer state beside weights that are written to a file alone; None if there is none."""
    checkpoint = company.checkpoint
    if company.beside is not None:
        return None
    folder = checkpoint.folder or checkpoint.path.parent
    try:
        states = states_in(folder)
    except ConvInspectError:
        # Whoever may read a file need not be allowed to list its folder.
        return None
    own = {path.name for path in checkpoint.versions}
    names = [name for name in (*states.files, *states.pieces) if name not in own]
    if not names:
        return None
    problem = f"{first_few(names)} beside {checkpoint.path.name}: optimizer state, which does not fit the new shapes; "
    remedy = "convert the folder to a folder (", Option("target", None), "), and it is converted too"
    return Wording(problem, *(remedy if states.files else ("a resumed run must start with empty state",)))
