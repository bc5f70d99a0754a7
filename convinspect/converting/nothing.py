"""Why a conversion would change nothing that it was asked for, or leave layers of other kinds, and what would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from convinspect.checkpoint import Checkpoint
from convinspect.converting.eligibility import Writing
from convinspect.converting.options import Options
from convinspect.converting.plan import Plan, Refusal, Request, plan
from convinspect.converting.reshape import edit_to
from convinspect.converting.selection import other_checkpoint, requested
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.formats.sources import short_name
from convinspect.kinds import option_of, shown_kind
from convinspect.layers.find import find_layers
from convinspect.layers.numberless import GATHER, emptied_line
from convinspect.records import Contents, Layer, Tensor
from convinspect.text import first_few, join_words, plural
from convinspect.writing.left_behind import unfused as unfused_parts


@dataclass(frozen=True, slots=True)
class Fruitless:
    """Why nothing that was asked for changes.

    Attributes:
        reason: Why; a `Wording` if it names options.
        remedy: The options that would help, with the number of layers that each would change; "" if there are none.
        already: The layers that were asked for are all as wanted.
    """

    reason: str
    remedy: str = ""
    already: bool = False

    @property
    def error(self) -> CannotConvert:
        """For a conversion that would only copy the source."""
        return CannotConvert(Wording("nothing can be converted: ", self.reason), self.remedy)


def check_named(planned: Plan, named: Collection[str]) -> None:
    """Refuse a conversion that leaves layers which the user named, whatever else it would do.

    Args:
        planned: What is decided.
        named: Names of the layers that were given by their own name, and by no glob.

    Raises:
        CannotConvert: One of them is left.
    """
    refused = planned.left_of(named)
    if not refused:
        return
    name = Option("layer", refused[0].name or ".")
    away = Wording(name) if planned.conversions else Wording(name, " and what it should become")
    problem = Wording(f"layer {refused[0].name or '(root)'} cannot be converted: ", refused[0].reason)
    remedies = [Wording("take away ", away, ", and the rest is done"), *_more_reasons(refused)]
    raise CannotConvert(problem, _joined(remedies))


def why_nothing(
    checkpoint: Checkpoint,
    options: Options,
    found: tuple[Sequence[Layer], Collection[str], Plan],
    names: Mapping[str, str],
    writing: Writing,
    unfused: Sequence[Refusal] = (),
) -> Fruitless | None:
    """Why nothing changes that the options ask for; None if something does, or if they ask for no layers.

    Args:
        checkpoint: The source.
        options: What is asked for.
        found: All layers of the source, the names of those that were chosen, and their plan.
        names: The source's clean names by stored key, as they will be.
        writing: What the way of writing asks of layers.
        unfused: Weights that are computed from several tensors and cannot be fused.
    """
    layers, chosen, planned = found
    if planned.conversions:
        return None
    if options.like is not None:
        return _unlike(options, planned, chosen, names, checkpoint)
    if options.kind is None:
        return _no_rename_or_fuse(checkpoint, options, unfused)
    request = requested(options, options.kind, writing)
    refused = planned.refused_of(chosen) or unfused
    remedies = [
        *_more_reasons(refused),
        *_other_kinds(layers, request),
        *_of_patches(layers, request, refused),
        *_by_name(layers, request, refused),
        *_without_exclude(layers, request),
    ]
    remedies += () if remedies else _other_roots(checkpoint, request)
    done = [layer for layer in layers if layer.name in chosen and layer.kind == options.kind]
    remedy = _joined(remedies)
    if refused:
        return Fruitless(_of_first(refused), remedy)
    if done:
        are = "is" if len(done) == 1 else "are"
        return Fruitless(f"{plural(len(done), 'layer')} {are} {options.kind} already", remedy, already=not remedy)
    reason = _no_layer(request)
    emptied = emptied_line(layers)
    return Fruitless(f"{reason}; {emptied}" if emptied else reason, remedy or (GATHER if emptied else ""))


@dataclass(frozen=True, slots=True)
class OtherKind:
    """Layers that could become what was asked for too, and are of a kind that is taken only where it is named.

    Attributes:
        kind: As PyTorch calls it: "Conv2d".
        shown: As a listing calls it.
        layers: How many there are.
    """

    kind: str
    shown: str
    layers: int

    @property
    def option(self) -> str:
        """As `from_` takes it: "conv2d"."""
        return option_of(self.kind)


def left_of_other_kinds(options: Options, layers: Sequence[Layer], writing: Writing) -> tuple[OtherKind, ...]:
    """What could be Linear too, and is of kinds that are taken only where they are named.

    The plan says nothing of such layers, and who asks for Linear means them more often than not. None where the kinds
    or the layers were chosen.

    Args:
        options: What is asked for.
        layers: All layers of the source.
        writing: What the way of writing asks of layers.
    """
    if options.kind != "Linear" or options.from_ or options.layer or options.like is not None:
        return ()
    request = requested(options, options.kind, writing)
    return () if request.of_patches else tuple(_of_other_kinds(layers, request))


def notes_on_other_kinds(options: Options, planned: Plan, left: Sequence[OtherKind]) -> tuple[str, ...]:
    """A note on these layers; none where nothing changes, which `why_nothing` explains.

    Args:
        options: What is asked for.
        planned: What is decided.
        left: Such layers.
    """
    if not left or not planned.conversions or options.kind is None:
        return ()
    origins = requested(options, options.kind, Writing()).origins
    kinds = tuple(dict.fromkeys((*map(option_of, origins), *(other.option for other in left))))
    what = join_words([f"{other.layers:,} {_pointwise(other.shown)}" for other in left])
    them = _them(sum(other.layers for other in left))
    return (Wording(f"not converted: {what}; ", Option("from_", kinds), f" takes {them} too"),)


def notes_beside_patches(options: Options, layers: Sequence[Layer], planned: Plan, writing: Writing) -> tuple[str, ...]:
    """A note on pointwise layers beside convolutions over patches, of which one run takes the one or the other.

    Args:
        options: What is asked for.
        layers: All layers of the source.
        planned: What is decided.
        writing: What the way of writing asks of layers.
    """
    if not options.patches or not planned.conversions or options.from_ or options.layer or options.like is not None:
        return ()
    pointwise = requested(replace(options, patches=False, from_=("any",)), "Linear", writing)
    counts = Counter((one.layer.kind, shown_kind(one.layer.kind, one.layer.tags))
                     for one in plan(layers, pointwise).conversions)  # fmt: skip
    if not counts:
        return ()
    what = join_words([f"{number:,} {_pointwise(shown)}" for (_, shown), number in counts.most_common()])
    kinds = tuple(dict.fromkeys(option_of(kind) for kind, _ in counts))
    without = Wording(Option("from_", kinds), " without ", Option("patches"))
    return (Wording(f"not converted: {what}; another run, with ", without, f", takes {_them(counts.total())}"),)


def _them(number: int) -> str:
    return "it" if number == 1 else "them"


def _no_layer(request: Request) -> str:
    if request.patch:
        return "no Linear's name says that it multiplies patches"
    what = "convolution that cuts patches" if request.patches and not request.kinds else " or ".join(request.origins)
    if request.patches:
        return f"no layer is a {what}" if not request.kinds else f"no {what} is known to cut patches"
    return f"no layer is a pointwise {what}".replace("pointwise Linear", "Linear")


def _no_rename_or_fuse(checkpoint: Checkpoint, options: Options, unfused: Sequence[Refusal]) -> Fruitless | None:
    if unfused:
        return Fruitless(_of_first(unfused), _joined(_more_reasons(unfused)))
    parts = unfused_parts(checkpoint.root, ()) if options.fuse else []
    if parts:
        single = Wording(first_few(parts), ": computed from several tensors, of which ", Option("fuse"))
        return Fruitless(Wording(single, " takes those of one known norm alone"))
    if options.fuse:
        return Fruitless("no weight is computed from several tensors, so there is none to fuse")
    return Fruitless("the new names are the old ones") if options.rename else None


def _of_first(refused: Sequence[Refusal]) -> Wording:
    return Wording(f"layer {refused[0].name or '(root)'}: ", refused[0].reason)


def _joined(remedies: Sequence[Wording]) -> str:
    parts = [part for remedy in remedies for part in ("; ", remedy)][1:]
    return Wording(*parts) if parts else ""


def _more_reasons(refused: Sequence[Refusal]) -> list[Wording]:
    more = len(refused) - 1
    return [Wording(Option("dry_run"), f" gives the reasons for {plural(more, 'more layer')}")] if more > 0 else []


def _other_kinds(layers: Sequence[Layer], request: Request) -> list[Wording]:
    """Options that take layers of other kinds, which would be converted then."""
    return [
        Wording(
            Option("from_", other.option),
            f" takes {other.layers:,} {other.kind if request.patches else _pointwise(other.shown)}",
        )
        for other in _of_other_kinds(layers, request)
    ]


def _of_other_kinds(layers: Sequence[Layer], request: Request) -> list[OtherKind]:
    """Kinds that are not asked for and would be converted."""
    if request.patch:
        return []
    every = Options(to=option_of(request.to), from_=("any",)).kinds
    others = tuple(kind for kind in every if kind not in request.origins)
    if not any(layer.kind in others for layer in layers):
        return []
    # One that a user named in full is converted where a layer that nobody named is left; this is about the latter.
    names = tuple(name for name in request.names if name.strip("*?."))
    could = plan(layers, replace(request, kinds=others, names=names))
    counts = Counter((one.layer.kind, shown_kind(one.layer.kind, one.layer.tags)) for one in could.conversions)
    return [OtherKind(kind, shown, number) for (kind, shown), number in counts.most_common()]


def _of_patches(layers: Sequence[Layer], request: Request, refused: Sequence[Refusal]) -> list[Wording]:
    """The option that takes convolutions which cut patches, unless the first reason names it."""
    patches = {layer.name for layer in layers if layer.patch}
    if request.to != "Linear" or request.of_patches or not patches or (refused and refused[0].name in patches):
        return []
    could = plan(
        layers, replace(request, patches=True, names=tuple(name for name in request.names if name.strip("*?.")))
    )
    number = len(could.conversions)
    return [Wording(Option("patches"), f" takes {number:,} that cut{'s' * (number == 1)} patches")] if number else []


def _pointwise(kind: str) -> str:
    return kind if kind.startswith(("Linear", "Conv1D (")) else f"pointwise {kind}"


def _by_name(layers: Sequence[Layer], request: Request, refused: Sequence[Refusal]) -> list[Wording]:
    """The option that takes refused layers whose full names are given, if more than one would be converted then."""
    # Of convolutions whose stride nothing records, most overlap: to name them all is no advice.
    if len(refused) < 2 or request.patches:
        return []
    could = plan(layers, replace(request, names=tuple(refusal.name or "." for refusal in refused)))
    number = len(could.conversions)
    return [Wording(Option("layer", None), f" takes {number:,} of them by their full names")] if number > 1 else []


def _without_exclude(layers: Sequence[Layer], request: Request) -> list[Wording]:
    if not request.exclude:
        return []
    number = len(plan(layers, replace(request, exclude=())).conversions)
    return [Wording(Option("exclude", None), f" holds back {plural(number, 'layer')}")] if number else []


def _other_roots(checkpoint: Checkpoint, request: Request) -> list[Wording]:
    """Options that choose other models in the file, in which layers would be converted."""
    remedies = []
    for root in checkpoint.roots:
        if root.role in ("model", "ema") and root is not checkpoint.root:
            alone = Checkpoint(Contents(checkpoint.path, checkpoint.container, (root,), 0))
            number = len(plan(find_layers(alone), replace(request, names=(), exclude=())).conversions)
            remedies += [Wording(Option("root", root.path), f" has {number:,}")] if number else []
    return remedies[:3]


# ------------------------------------------------------------------------------------------------- with `like`


def _unlike(
    options: Options, planned: Plan, chosen: Collection[str], names: Mapping[str, str], checkpoint: Checkpoint
) -> Fruitless:
    """Why no tensor gets the shape that it has in the other checkpoint."""
    refused = planned.refused_of(chosen)
    if refused:
        return Fruitless(_of_first(refused), _joined(_more_reasons(refused)))
    other = other_checkpoint(options)
    here = {names[tensor.key]: tensor for tensor in checkpoint.root.tensors}
    remedies = _renamed(here, other.tensors)
    if planned.refusals:
        differ = "differs was" if len(planned.refusals) == 1 else "differ were"
        remedies.append(Wording(f"{plural(len(planned.refusals), 'layer')} that {differ} not chosen"))
    remedy = _joined(remedies)
    if not any(name in other.tensors for name in here):
        hint = remedy or f"`convinspect diff` compares {short_name(checkpoint.path)} and {options.like_name}"
        return Fruitless(f"no tensor has the name of one in {options.like_name}", hint)
    return Fruitless(f"what is in both has the shapes of {options.like_name} already", remedy, already=not remedy)


def _renamed(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> list[Wording]:
    """The options that give tensors the names of the other checkpoint, if few rules do it for more than have them."""
    tensors = list(here.values()), list(there.values())
    stored = [tensor.key for tensor in tensors[0]], [tensor.key for tensor in tensors[1]]
    # Imported here, as what few conversions need.
    from convinspect.keys.pairing import pair_keys

    pairing = pair_keys(stored, (list(here), list(there)))
    if not pairing.rules:
        return []
    pairs = [(tensors[0][a], tensors[1][b]) for _, a, b in pairing.pairs]
    number = sum(ours.shape != theirs.shape and edit_to(ours, theirs.shape) is not None for ours, theirs in pairs)
    rules = [part for rule in pairing.rules for part in (Option("rename", rule), " ")][:-1]
    what = f"{plural(number, 'tensor')} that can be reshaped" if number else plural(len(pairs), "tensor")
    return [Wording(*rules, f" pairs {what}")]
