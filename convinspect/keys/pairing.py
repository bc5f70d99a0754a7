"""Two lists of keys → pairs that name the same tensor, after removing wrappers' prefixes and a common root.

`load_state_dict` removes nothing, so the result lists the prefixes that were removed, with the rename rules that turn
the first side's keys into the second's.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

from convinspect.errors import CannotConvert
from convinspect.keys.adapters import bare_names, tails
from convinspect.keys.rules import new_keys
from convinspect.keys.weight_norms import norm_tails, with_old_norms
from convinspect.keys.wrappers import levels

_DEEPEST = 8
"""Levels of a name that a root may have."""
COUNT = "num_batches_tracked"
"""What batch norms call the one tensor that PyTorch supplies where a file lacks it."""
MOST_RULES = 4
"""With more rules than this, the difference is not a wrapper's prefix."""
_MOST_WITH_ADAPTERS = 16
"""The same where adapters' names are in the keys: a rule for each half of a pair, and for each kind of layer."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A difference in what precedes the names that two lists share.

    Attributes:
        a: On the first side, such as "module."; "" for nothing; "*._orig_mod.*" where it stands within names, and
            "*.lora_A.weight" where an adapter's name does.
        b: On the second side.
        keys: Pairs of which that is so.
    """

    a: str
    b: str
    keys: int

    @property
    def rule(self) -> str:
        """The rename rule that gives the first side's keys the second side's prefix."""
        return "=".join(front if "*" in front else f"{front}*" for front in (self.a, self.b))


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which keys belong together.

    Attributes:
        pairs: The name that two keys share, and their places in the two lists, in order of the first.
        only_a: Name and place of keys that the first list alone has.
        only_b: The same of the second.
        prefixes: What makes keys of pairs differ, the most frequent first.
        rules: Rename rules that give the first side the second's keys; () when nothing is to be done, None when
            no few rules do it.
    """

    pairs: tuple[tuple[str, int, int], ...]
    only_a: tuple[tuple[str, int], ...]
    only_b: tuple[tuple[str, int], ...]
    prefixes: tuple[Prefix, ...]
    rules: tuple[str, ...] | None


def pair_keys(keys: tuple[Sequence[str], Sequence[str]], names: tuple[Sequence[str], Sequence[str]]) -> Pairing:
    """Pair two lists of keys.

    Args:
        keys: As stored.
        names: The same without wrappers' levels, each list without repetitions.
    """
    if keys[0] == keys[1] and names[0] == names[1]:
        # As of two checkpoints of one model, of which a large one has many.
        return Pairing(tuple([(name, place, place) for place, name in enumerate(names[0])]), (), (), (), ())
    found = _paired(keys, names)
    if not (found.only_a and found.only_b):
        return found
    spelled = with_old_norms(*names)
    bare = (bare_names(spelled[0]), bare_names(spelled[1]))
    if bare == (list(names[0]), list(names[1])):
        return found
    without = _paired(keys, bare)
    return without if len(without.pairs) > len(found.pairs) else found


def _paired(keys: tuple[Sequence[str], Sequence[str]], names: tuple[Sequence[str], Sequence[str]]) -> Pairing:
    """As `pair_keys`, by these names alone."""
    roots = _roots(*names)
    bare = (_without_root(names[0], roots[0]), _without_root(names[1], roots[1]))
    places = {name: place for place, name in enumerate(bare[1])}
    pairs = tuple([(name, place, places[name]) for place, name in enumerate(bare[0]) if name in places])
    prefixes = _prefixes(keys, pairs)
    rules = _rules(prefixes, keys, pairs)
    paired = {name for name, _, _ in pairs} if len(pairs) < max(map(len, bare)) else set(places)
    only_a = tuple([(name, place) for place, name in enumerate(bare[0]) if name not in paired])
    only_b = tuple([(name, place) for place, name in enumerate(bare[1]) if name not in paired])
    found = Pairing(pairs, only_a, only_b, prefixes, rules)
    return _with_renamed(found, keys) if only_a and only_b and rules is not None else found


def _with_renamed(pairing: Pairing, keys: tuple[Sequence[str], Sequence[str]]) -> Pairing:
    """The pairing, with further pairs that its rules make: a module may have a wrapper's name, such as `module`."""
    more = _renamed_to_each_other(pairing, keys)
    if not more and pairing.prefixes and not any(prefix.rule in (pairing.rules or ()) for prefix in pairing.prefixes):
        # A key that is as the prefix, `module`, leaves no rule for all; the way back may have one.
        back = _turned(pairing, keys)
        names = {place: name for name, place in pairing.only_a}
        more = [(names[j], j, i) for _, i, j in _renamed_to_each_other(back, (keys[1], keys[0]))]
    if not more:
        return pairing
    here, there = {i for _, i, _ in more}, {j for _, _, j in more}
    changed = sum(keys[0][i] != keys[1][j] for _, i, j in more)
    prefixes = pairing.prefixes
    if len(prefixes) == 1:
        prefixes = (replace(prefixes[0], keys=prefixes[0].keys + changed),)
    pairs = tuple(sorted((*pairing.pairs, *more), key=lambda pair: pair[1]))
    return replace(
        pairing,
        pairs=pairs,
        rules=_rules(prefixes, keys, pairs),
        only_a=tuple(one for one in pairing.only_a if one[1] not in here),
        only_b=tuple(one for one in pairing.only_b if one[1] not in there),
        prefixes=prefixes,
    )


def _renamed_to_each_other(pairing: Pairing, keys: tuple[Sequence[str], Sequence[str]]) -> list[tuple[str, int, int]]:
    """Pairs of keys that each side alone has, and of which the rules make one of the other."""
    alone = {keys[1][place]: place for _, place in pairing.only_b}
    renamed = new_keys(keys[0], pairing.rules or ()) if pairing.rules else keys[0]
    return [(name, i, alone[renamed[i]]) for name, i in pairing.only_a if renamed[i] in alone]


def _turned(pairing: Pairing, keys: tuple[Sequence[str], Sequence[str]]) -> Pairing:
    """The pairing of the second list with the first."""
    pairs = tuple((name, j, i) for name, i, j in pairing.pairs)
    prefixes = tuple(Prefix(prefix.b, prefix.a, prefix.keys) for prefix in pairing.prefixes)
    rules = _rules(prefixes, (keys[1], keys[0]), pairs)
    return Pairing(pairs, pairing.only_b, pairing.only_a, prefixes, rules)


# ------------------------------------------------------------------------------------------------- a common root


def _roots(a: Sequence[str], b: Sequence[str]) -> tuple[str, str]:
    """The roots to remove from each side so that more names agree; none where two choices are equally good.

    A root counts when it makes at least half of the shorter list agree.
    """
    names_a, names_b = set(a), set(b)
    agree, shorter = len(names_a & names_b), min(len(names_a), len(names_b))
    if agree == shorter:
        return "", ""
    least = max(agree + 1, (shorter + 1) // 2)
    candidates = {(root, "") for root in _fronts(a, names_b, least)} | {
        ("", root) for root in _fronts(b, names_a, least)
    }
    candidates.add(_without_common_end(_common_front(a), _common_front(b)))
    scores: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for roots in candidates:
        agreed = (set(_without_root(a, roots[0])) if roots[0] else names_a) & (
            set(_without_root(b, roots[1])) if roots[1] else names_b
        )
        # With both roots removed, a single remaining part such as `weight` is no evidence that two names agree.
        matches = len(agreed) if not all(roots) else sum("." in name for name in agreed)
        if matches >= least:
            scores.setdefault((matches, -len("".join(roots))), []).append(roots)
    best = scores[max(scores)] if scores else []
    return best[0] if len(best) == 1 else ("", "")


def _fronts(names: Iterable[str], others: set[str], least: int) -> list[str]:
    """Prefixes whose removal turns at least `least` of the names into one of the others."""
    # Names with one prefix are neighbours when sorted, so that as many of them as count hold one of these names.
    ordered = sorted(names)
    possible = {
        name[: dot.end()] for name in ordered[least - 1 :: least] for dot in islice(_DOT.finditer(name), _DEEPEST)
    }
    return [front for front in possible if _rests_among(ordered, front, others) >= least]


def _rests_among(ordered: Sequence[str], front: str, others: Container[str]) -> int:
    """How many of the sorted names are others behind a front, which ends with a dot."""
    begin, end = (bisect_left(ordered, edge) for edge in (front, front[:-1] + chr(ord(".") + 1)))
    return sum([name[len(front) :] in others for name in ordered[begin:end]])


_DOT = re.compile(r"\.")


def _common_front(names: Sequence[str]) -> str:
    """The levels that all names begin with; the last part of a name does not count."""
    if not names:
        return ""
    first, last = min(names).split(".")[:-1], max(names).split(".")[:-1]
    common = 0
    while common < min(len(first), len(last), _DEEPEST) and first[common] == last[common]:
        common += 1
    front = "".join(f"{part}." for part in first[:common])
    return front if all(name.startswith(front) for name in names) else ""


def _without_common_end(a: str, b: str) -> tuple[str, str]:
    """Two prefixes without the trailing levels that they share."""
    levels_a, levels_b = a.split(".")[:-1], b.split(".")[:-1]
    while levels_a and levels_b and levels_a[-1] == levels_b[-1]:
        levels_a, levels_b = levels_a[:-1], levels_b[:-1]
    return "".join(f"{part}." for part in levels_a), "".join(f"{part}." for part in levels_b)


def _without_root(names: Sequence[str], root: str) -> list[str]:
    """Names without a root; a name stays whole if its rest is already taken by another."""
    if not root:
        return list(names)
    taken = set(names)
    return [
        rest if name.startswith(root) and (rest := name[len(root) :]) and rest not in taken else name for name in names
    ]


# ------------------------------------------------------------------------------------------------------- renaming


def _prefixes(keys: tuple[Sequence[str], Sequence[str]], pairs: Iterable[tuple[str, int, int]]) -> tuple[Prefix, ...]:
    """How the keys of pairs differ, the most frequent first: in what precedes the name, or in wrappers' levels."""
    # Fronts repeat, so that each two are compared once.
    between = cache(_without_common_end)
    counts: Counter[tuple[str, str]] = Counter()
    for name, i, j in pairs:
        key, partner = keys[0][i], keys[1][j]
        if key == partner:
            continue
        if key.endswith(name) and partner.endswith(name):
            counts[between(key.removesuffix(name), partner.removesuffix(name))] += 1
        elif (ends := tails(key, partner) or norm_tails(key, partner)) is not None:
            fronts = between(key.removesuffix(ends[0]), partner.removesuffix(ends[1]))
            inner = "" if key == ends[0] or partner == ends[1] else "*."
            counts[f"{fronts[0]}{inner}{ends[0]}", f"{fronts[1]}{inner}{ends[1]}"] += 1
        else:
            counts[_patterns(key, partner, name)] += 1
    return tuple(Prefix(*fronts, number) for fronts, number in counts.most_common())


def _patterns(key: str, partner: str, name: str) -> tuple[str, str]:
    """How two keys of one tensor differ in wrappers' levels within its name."""
    fillers = [_wrappers_within(levels(each), name.count(".") + 1) for each in (key, partner)]
    cuts = sorted({place for filler in fillers for place in filler if place})
    patterns = ["".join(_starred(filler, cuts)) for filler in fillers]
    return patterns[0], patterns[1]


def _wrappers_within(parts: Sequence[tuple[str, bool]], own: int) -> dict[int, str]:
    """Wrappers' levels in a key, by the number of the name's `own` parts before them."""
    within: dict[int, str] = {}
    # Negative within a root, whose parts do not belong to the name.
    passed = own - sum(not wrapper for _, wrapper in parts)
    for part, wrapper in parts:
        if wrapper or passed < 0:
            place = max(passed, 0)
            within[place] = within.get(place, "") + f"{part}."
        passed += not wrapper
    return within


def _starred(within: dict[int, str], cuts: Sequence[int]) -> Iterable[str]:
    """The parts of a pattern for a key: `*` for the name's own parts, and the wrappers' levels at each cut."""
    yield within.get(0, "") + "*"
    for cut in cuts:
        yield f".{within.get(cut, '')}*"


def _rules(
    prefixes: Sequence[Prefix], keys: tuple[Sequence[str], Sequence[str]], pairs: Sequence[tuple[str, int, int]]
) -> tuple[str, ...] | None:
    """Rename rules that give every pair the second side's key, tried on all keys; None if there are none."""
    if not prefixes:
        return ()
    candidates = [_rules_by_prefix(prefixes, keys, pairs), _rules_by_key(keys, pairs)]
    return next((tuple(rules) for rules in candidates if rules and _suffice(rules, keys, pairs)), None)


def _rules_by_prefix(
    prefixes: Sequence[Prefix], keys: tuple[Sequence[str], Sequence[str]], pairs: Sequence[tuple[str, int, int]]
) -> list[str]:
    """A rule for each prefix, and one for keys that already have it; [] if there would be too many."""
    within = sum("*." in prefix.a for prefix in prefixes)
    if len(prefixes) - within > MOST_RULES or within > _MOST_WITH_ADAPTERS:
        return []
    # The first matching rule counts, so more specific rules come first.
    rules = [prefix.rule for prefix in sorted(prefixes, key=lambda prefix: (-len(prefix.a), prefix.a))]
    for prefix in prefixes:
        if not prefix.a and any(keys[0][i] == keys[1][j] and keys[0][i].startswith(prefix.b) for _, i, j in pairs):
            rules.insert(0, f"{prefix.b}*={prefix.b}*")
    return rules


def _rules_by_key(keys: tuple[Sequence[str], Sequence[str]], pairs: Sequence[tuple[str, int, int]]) -> list[str]:
    """A rule for each key that changes; [] if there would be too many."""
    changed = [(keys[0][i], keys[1][j]) for _, i, j in pairs if keys[0][i] != keys[1][j]]
    return [f"{old}={new}" for old, new in changed] if len(changed) <= MOST_RULES else []


def _suffice(
    rules: Sequence[str], keys: tuple[Sequence[str], Sequence[str]], pairs: Sequence[tuple[str, int, int]]
) -> bool:
    """Whether the rules, tried on all keys, give each pair one key."""
    try:
        new = new_keys(keys[0], rules)
    except CannotConvert:
        return False
    return all(new[i] == keys[1][j] for _, i, j in pairs)
