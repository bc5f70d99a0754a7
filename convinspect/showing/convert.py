"""The table, the JSON and the text lines of `convert`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from convinspect.converting.job import Job
from convinspect.converting.plan import Conversion
from convinspect.converting.remaining import Remaining
from convinspect.errors import Option, Wording
from convinspect.formats.journal import journal_of
from convinspect.formats.sources import short_name
from convinspect.kinds import shown_kind
from convinspect.layers.select import exactly_named
from convinspect.records import Edit
from convinspect.render.cells import count, shape
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import WHOLE, Cell, Column, Styled, Table, pieces, plain
from convinspect.showing.afterwards import afterwards_lines, afterwards_payload
from convinspect.showing.causes import by_cause
from convinspect.showing.code_changes import advice, advice_lines, called
from convinspect.showing.flags import by_reader, flagged
from convinspect.text import first_few, join_words, plural
from convinspect.writing.atomic import left_behind

_COLUMNS = (
    Column("layer", style=NAME, priority=100, elide=True, key="name", min_width=WHOLE, never_hidden=True),
    Column("from", priority=60, key="from", never_hidden=True),
    Column("to", priority=60, key="to", never_hidden=True),
    Column("old shape", priority=80, style=QUIET, key="old_shape", never_hidden=True),
    Column("new shape", priority=90, key="new_shape", never_hidden=True),
    Column("notes", priority=95, wrap=True, key="notes", min_width=14, never_hidden=True),
)


FOLD_FROM = 40
"""Of more rows than this there is one for repeated blocks, too; of layers that are left, from fewer rows on."""


class _Line(NamedTuple):
    """A row's cells, its machine values, and whether it is of a layer that is left."""

    cells: tuple[Cell, ...]
    raw: tuple[object, ...]
    left: bool = False


def plan_table(job: Job, every_row: bool = False) -> Table:
    """The counts, every layer that changes, and every one that is refused, with the reason.

    Args:
        job: A conversion that was written, or a dry run.
        every_row: Each layer and tensor by itself; otherwise, of many, those that say the same are one row.
    """
    folder = None if job.beside is None else job.checkpoint.folder
    given = folder or job.checkpoint.path
    source = short_name(given) or str(given)
    # "." has no name.
    written = None if job.target is None else job.target.name or str(job.target)
    lines = _lines(job, written is not None)
    shown = lines if every_row else _folded(lines)
    notes = _notes(job)
    if len(shown) < len(lines):
        notes.append(f"a row for repeated blocks or for each reason{by_reader('; --all lists every layer')}")
    return Table(
        _COLUMNS if shown else (),
        [line.cells for line in shown],
        title=f"{source}: plan, nothing was written" if written is None else f"{source} → {written}",
        lead=(_summary(job, written is not None),),
        notes=tuple(notes),
        raw=[line.raw for line in shown],
    )


def _lines(job: Job, written: bool) -> list[_Line]:
    names = _new_names(job)
    lines: list[_Line] = []
    for conversion in job.plan.conversions:
        new = names.pop(_module(conversion.layer.weight.key), None)
        more = () if new is None else (f"renamed {new}",)
        texts = (*conversion.assumed, *conversion.warnings, *more)
        name = conversion.layer.name or "(root)"
        raw = (name, conversion.layer.kind, conversion.to, conversion.old_shape, conversion.new_shape, "; ".join(texts))
        lines.append(_Line(_converted(conversion, more), raw))
    # What nobody asked for by name is left as a matter of course.
    asked = bool(job.options.layer) or job.options.like is not None
    for refusal in job.plan.refusals:
        reason, name = flagged(refusal.reason), refusal.name or "(root)"
        style = BAD if asked and not refusal.done else QUIET
        lines.append(_Line(_quiet(name, Styled(reason, style)), (name, "", "", "", "", reason), True))
    if not written:
        lines += [_follows(*follower) for follower in _following(job)]
    lines += [_Line(_quiet(old, Styled(f"renamed {new}")), (old, "", "", "", "", f"renamed {new}"))
              for old, new in names.items()]  # fmt: skip
    return lines


def _folded(lines: Sequence[_Line]) -> list[_Line]:
    """One line for all layers that are left for one reason; of very many, one for repeated blocks that change too."""
    names = [str(line.raw[0]) for line in lines]
    many = len(lines) > FOLD_FROM
    causes = [
        _cause(name, line.raw) if many or line.left else (place,)
        for place, (name, line) in enumerate(zip(names, lines, strict=True))
    ]
    return [_one(name, [lines[place] for place in places]) for name, places in by_cause(names, causes)]


def _one(name: str, alike: Sequence[_Line]) -> _Line:
    """The line for all of these, which say the same but for their names and shapes."""
    first = alike[0]
    if len(alike) == 1:
        return first
    shapes = {line.raw[3:5] for line in alike}
    both = (
        first.cells[3:5]
        if len(shapes) == 1
        else tuple(f"{text}, …" if text else "" for text in map(plain, first.cells[3:5]))
    )
    said = pieces(first.cells[5])
    note = (Styled(f"×{count(len(alike))}"), *((Styled(", "), *said) if plain(first.cells[5]) else ()))
    return first._replace(cells=(name, *first.cells[1:3], *both, note), raw=(name, *first.raw[1:]))


def _cause(name: str, raw: tuple[object, ...]) -> tuple[object, ...]:
    """What the layers of one row have in common: shapes and all but numbers of the name, or the reason."""
    changes = (_DIGITS.sub("0", name), raw[3], raw[4]) if raw[4] else ()
    return (*raw[1:3], *changes, str(raw[5]).replace(name, "…"))


_DIGITS = re.compile("[0-9]+")


def _following(job: Job) -> list[tuple[str, Edit, str]]:
    """Tensors that change with the layers: name in the file, edit, and description."""
    where = {id(tensor): root.path for root in job.checkpoint.roots for tensor in root.tensors}
    edits = [(edit, "copy") for edit in job.followers.copies]
    edits += [(edit, "optimizer state") for edit in job.followers.optimizer]
    # If several roots are opened as one (`--root .`), a tensor's key is its whole path.
    return [(f"{where.get(id(edit.tensor), '')}.{edit.tensor.key}".strip("."), edit, what) for edit, what in edits]


def _follows(name: str, edit: Edit, what: str) -> _Line:
    old, new = edit.tensor.shape, edit.shape
    return _Line((name, "", "", shape(old), shape(new), Styled(what, QUIET)), (name, "", "", old, new, what))


def _renamed(job: Job) -> list[tuple[str, str]]:
    """Old and new key of each renamed tensor of the root in use."""
    return [(edit.tensor.key, edit.key or "") for edit in job.renaming.edits]


def _renamed_others(job: Job) -> list[tuple[str, str]]:
    """Old and new key of what is renamed and no tensor; a plain state_dict is written without any."""
    return [] if job.resaved else list(job.renaming.others.get(job.checkpoint.root.path, {}).items())


def _new_names(job: Job) -> dict[str, str]:
    """Old → new names: of the module if the tensor's last level stays the same, else of the tensor."""
    names: dict[str, str] = {}
    for old, new in (*_renamed(job), *_renamed_others(job)):
        leaf = "." + old.rpartition(".")[2]
        if old.endswith(leaf) and new.endswith(leaf):
            names[old.removesuffix(leaf)] = new.removesuffix(leaf)
        else:
            names[old] = new
    return names


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def _converted(conversion: Conversion, more: tuple[str, ...]) -> tuple[Cell, ...]:
    notes = [Styled("assumed", WARN)] if conversion.assumed else []
    notes += [Styled(warning, WARN) for warning in conversion.warnings] + [Styled(text) for text in more]
    parted = [piece for note in notes for piece in (Styled(", "), note)][1:]
    name, old, new = conversion.layer.name or "(root)", conversion.old_shape, conversion.new_shape
    kind = shown_kind(conversion.layer.kind, conversion.layer.tags)
    return (name, kind, conversion.to, shape(old), shape(new), tuple(parted))


def _quiet(name: str, note: Styled) -> tuple[Cell, ...]:
    return (name, "", "", "", "", note)


def _summary(job: Job, written: bool) -> Cell:
    plan, followers = job.plan, job.followers
    number, renamed, others = len(plan.conversions), len(job.renaming.edits), len(_renamed_others(job))
    extra = []
    if followers.copies:
        extra.append(f"{count(len(followers.copies))} cop{'y' if len(followers.copies) == 1 else 'ies'}")
    if followers.optimizer:
        extra.append(plural(len(followers.optimizer), "optimizer tensor"))
    refused = sum(not refusal.done for refusal in plan.refusals)
    already = len(plan.refusals) - refused
    parts: list[Styled] = []
    if number or plan.refusals:
        verb = "converted" if written else "to convert"
        parts.append(Styled(f"{plural(number, 'layer')} {verb}", GOOD if number else "bold"))
    if extra:
        parts.append(Styled(f" with {' and '.join(extra)}"))
    if renamed or others:
        verb = "renamed" if written else "to rename"
        what = [plural(renamed, "tensor")] * bool(renamed) + [plural(others, "key") + " without a tensor"] * bool(
            others
        )
        parts.append(Styled(f"{' · ' * bool(parts)}{' and '.join(what)} {verb}", GOOD))
    if job.fused:
        verb = "as plain weights" if written else "to fuse"
        parts.append(Styled(f"{' · ' * bool(parts)}{plural(len(job.fused), 'layer')} {verb}"))
    if already:
        parts.append(Styled(f" · {count(already)} already so"))
    if refused:
        parts.append(Styled(f" · {count(refused)} left", WARN))
    if job.resaved and not parts:
        total = plural(len(job.checkpoint.root.tensors), "tensor")
        return f"{total} {'written' if written else 'to write'} as a plain state_dict, none reshaped"
    if not parts and job.options.to is None and job.options.like is None and not job.options.drop_optimizer:
        total = plural(len(job.checkpoint.root.tensors), "tensor")
        return f"{total} {'written' if written else 'to write'} unchanged"
    if not parts and not job.options.drop_optimizer:
        are = "is" if job.already == 1 else "are"
        more = f"; {count(job.already)} {are} so already" if job.already else ""
        return f"no layer is of a kind to convert, so nothing changes{more}"
    return tuple(parts)


def _notes(job: Job) -> list[str]:
    lines = []
    taken = [what for conversion in job.plan.conversions for what in conversion.assumed]
    if taken:
        lines.append(f"assumed: {join_words(taken)}, which a state_dict does not record")
    beside = () if job.beside is None else job.beside.optimizers
    if sum(root.path.partition(":")[0] not in beside for root in job.checkpoint.roots) > 1:
        lines.append(f"root in use: {job.checkpoint.root.path or '.'}")
    roots = dict.fromkeys([*job.followers.roots, *(() if job.resaved else job.renaming.roots)])
    if roots:
        lines.append(f"changed with them: {', '.join(path or '.' for path in roots)}")
    if job.followers.left:
        lines.append(
            f"left unchanged: {', '.join(path or '.' for path in job.followers.left)} (such weights are there too)"
        )
    if job.followers.others:
        lines.append(f"of other models, and left: {', '.join(path or '.' for path in job.followers.others)}")
    for names, where in ((job.selection.only_here, "here alone"), (job.selection.only_there, "there alone")):
        if names:
            lines.append(f"{where}: {first_few(names)}")
    if job.options.drop_optimizer and not job.resaved:
        lines.append(
            "left out: all optimizer state; its param_groups stay, so that a resumed run starts with empty state"
        )
    return lines


def plan_payload(job: Job) -> dict[str, Any]:
    """The JSON of `convert`; "unchanged" counts tensors of all roots that do not change."""
    plan, followers = job.plan, job.followers
    tensors = sum(len(root.tensors) for root in job.checkpoint.roots)
    carried = None if job.beside is None else job.beside.carried
    edits = [*plan.edits, *followers.copies, *followers.optimizer, *job.renaming.edits, *job.renaming.copies]
    return {
        "source": str(job.checkpoint.path),
        "output": None if job.target is None else str(job.target),
        "root": job.checkpoint.root.path,
        "converted": [
            {
                "name": conversion.layer.name,
                "from": conversion.layer.kind,
                "to": conversion.to,
                "old_shape": list(conversion.old_shape),
                "new_shape": list(conversion.new_shape),
                "assumed": list(conversion.assumed),
                "warnings": list(conversion.warnings),
            }
            for conversion in plan.conversions
        ],
        "followed": [
            {"name": name, "what": what, "old_shape": list(edit.tensor.shape), "new_shape": list(edit.shape)}
            for name, edit, what in _following(job)
        ],
        "refused": [
            {"name": refusal.name, "reason": flagged(refusal.reason)} for refusal in plan.refusals if not refusal.done
        ],
        "maybe_transposed": [refusal.name for refusal in plan.refusals if refusal.maybe_turned],
        "only_here": list(job.selection.only_here),
        "only_there": list(job.selection.only_there),
        "already": [refusal.name for refusal in plan.refusals if refusal.done],
        "other_kinds": [
            {"kind": other.kind, "from": other.option, "layers": other.layers} for other in job.other_kinds
        ],
        "renamed": [{"from": old, "to": new} for old, new in (*_renamed(job), *_renamed_others(job))],
        "optimizer": {"tensors": len(followers.optimizer), "copies": len(followers.copies),
                      "roots": list(followers.roots), "left": [*followers.left, *followers.others],
                      "dropped": job.options.drop_optimizer},
        "carried": [] if carried is None else list(carried.names),
        "not_carried": [] if carried is None else [{"name": one.name, "reason": one.left} for one in carried.left],
        "warnings": list(map(flagged, job.warnings)),
        "model_code": advice(plan, job.names),
        "afterwards": afterwards_payload(job.afterwards),
        "unchanged": tensors - len({id(edit.tensor) for edit in edits}),
    }  # fmt: skip


def code_lines(job: Job, width: int | None = None) -> list[str]:
    """Changes that the model's code needs, and whether the result will load where the checkpoint of `like` does.

    Args:
        job: What was done.
        width: Cells of a line of what changes; None for lines of any length.
    """
    lines = list(advice_lines(job.plan, job.names, width))
    if job.fused:
        names = ", ".join(called(layer, job.names).name or "(root)" for layer in job.fused)
        lines += ["", f"Plain weights now: {names}; drop the wrapper in the model's code."]
    selection = job.selection
    if job.options.like is not None:
        left = [refusal for refusal in job.plan.refusals if not (refusal.done or refusal.fits)]
        differs = selection.only_here or selection.only_there or left
        still = f"The result and {job.options.like_name} still differ as said above, so it will still not load there."
        lines += _remaining_lines(selection.remaining) if selection.remaining else ["", still] if differs else []
    return lines


def _remaining_lines(left: Remaining) -> list[str]:
    """What is to be done, in order, for the result to load where the checkpoint of `like` does."""
    # Imported here, as what few conversions need.
    from convinspect.showing.pytorch_lines import lines_of

    before = "the --rename that `convinspect diff` gives, and then " if left.rename else ""
    first = f"The result loads there after {before}these lines of PyTorch"
    if not left.sure:
        first = f"The shapes are those there after {before}these lines of PyTorch (`convinspect diff` says if it loads)"
    return ["", f"{first}, on its state_dict `sd`:", *(f"  {line}" for line in lines_of(left.calls))]


def _square_lines(job: Job) -> list[str]:
    """That square matrices may be stored transposed, which no loading shows."""
    doubtful = [refusal for refusal in job.plan.refusals if refusal.maybe_turned]
    if not doubtful:
        return []
    one = len(doubtful) == 1
    what = (
        f"{count(len(doubtful))} square {'matrix' if one else 'matrices'} may be stored transposed as others here are"
    )
    risk = f"if {'it is' if one else 'they are'}, the result loads and computes something else"
    names = first_few([refusal.name or "(root)" for refusal in doubtful])
    it = "it" if one else "them"
    ways = Wording(Option("turn_square"), f" turns {it}, ", Option("exclude"), f" leaves {it}")
    return [f"{what} ({names}): {risk}; {flagged(ways)}"]


def note_lines(job: Job) -> list[str]:
    """What the new file does not keep, and temporary folders that another run left beside the target."""
    target = job.target
    leftovers = () if target is None else (*left_behind(target), *left_behind(journal_of(target)))
    return [
        *map(flagged, job.notes),
        *afterwards_lines(job.afterwards),
        *(
            f"{path} is of another run, which is under way or was killed; if none is under way, remove it"
            for path in leftovers
        ),
    ]


def warning_lines(job: Job) -> list[str]:
    """What the user asked for and was not done."""
    fruitless = job.fruitless
    remedy = f"; {flagged(fruitless.remedy)}" if fruitless is not None and fruitless.remedy else ""
    if fruitless is not None and job.idle:
        return [f"nothing can be converted: {flagged(fruitless.reason)}; so nothing would be written{remedy}"]
    named = exactly_named(job.layers, job.options.layer) if job.options.layer else ()
    lines = [
        *map(flagged, job.warnings),
        *_square_lines(job),
        *(
            f"layer {refusal.name or '(root)'} cannot be converted: {flagged(refusal.reason)}; nothing would be written"
            for refusal in job.plan.left_of(named)
        ),
    ]
    asked = job.options.kind is not None or job.options.like is not None
    if len(lines) > len(job.warnings) or not asked or fruitless is None or fruitless.already:
        return lines
    return [f"no layer is converted: {flagged(fruitless.reason)}{remedy}"]
