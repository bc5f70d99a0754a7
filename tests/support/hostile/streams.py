"""Whole pickles that no pickler writes, and such that break after they have run.

STREAMS    name → a whole pickle
BROKEN     name → function from a call to a pickle that makes it and then breaks
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from support.hostile.opcodes import dict_of, integer, pickled, tensor, text

NAMES = (
    "\x1b[31mred\x1b[0m.weight",
    "\x1b]0;title\x07.weight",
    "\x9b31m.weight",
    "carriage\rreturn.weight",
    "new\nline.weight",
    "\u202egnihtemos.weight",
    "\u2066isolate\u2069.weight",
    "[bold]markup[/bold].weight",
    "[/]closing.weight",
    "[link=file:///etc/passwd]x[/link].weight",
    "back\bspace\x7f\x00.weight",
    "surrogate\ud800.weight",
    "wide\U000e0041\ufeff\u200b.weight",
    "a" * 4_000 + ".weight",
    "",
    ".",
    "..weight",
    ".weight",
    "weight",
)


def state_of_names() -> bytes:
    """A state_dict with every one of `NAMES`."""
    return pickled(dict_of(*((text(name), tensor()) for name in NAMES)))


STREAMS: dict[str, bytes] = {
    "memo_of_2_31_entries": b"\x80\x02}(X\x01\x00\x00\x00ar" + struct.pack("<I", 2**31) + b"K\x01u.",
    "memo_of_2_32_entries": b"\x80\x02}(X\x01\x00\x00\x00ar" + struct.pack("<I", 2**32 - 1) + b"K\x01u.",
    "memo_slot_in_text": b"\x80\x02}p99999999999999999999\n.",
    "memo_slot_negative": b"\x80\x02}p-1\n.",
    "memo_slot_absent": b"\x80\x02h\x07.",
    "memo_of_nothing": b"\x80\x02q\x00.",
    "bytes_of_2_62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "bytes_of_4_gb": b"\x80\x03B" + struct.pack("<I", 2**32 - 1) + b"x.",
    "text_of_2_63": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "bytearray_of_2_62": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x.",
    "string_of_2_31": b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"x.",
    "string_of_negative_length": b"\x80\x02T" + struct.pack("<i", -1) + b"x.",
    "long_of_2_31_bytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "long_of_negative_length": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
    "frame_of_2_62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "frame_too_short": b"\x80\x04\x95" + struct.pack("<Q", 1) + b"}(K\x01K\x02u.",
    "nothing": b"",
    "protocol_only": b"\x80\x02",
    "protocol_unfinished": b"\x80",
    "protocol_255": b"\x80\xff}.",
    "without_stop": b"\x80\x02}(" + text("conv.weight") + tensor() + b"u",
    "without_end_of_items": b"\x80\x02}(" + text("conv.weight") + tensor() + b".",
    "stop_on_empty_stack": b"\x80\x02.",
    "stop_on_mark": b"\x80\x02(.",
    "two_values_left": b"\x80\x02}}.",
    "trailing_bytes": b"\x80\x02}.\x00garbage",
    "unknown_opcode": b"\x80\x02}\xff.",
    "pop_on_empty_stack": b"\x80\x020.",
    "pop_of_nothing_marked": b"\x80\x021.",
    "duplicate_of_nothing": b"\x80\x022.",
    "items_without_mark": b"\x80\x02}u.",
    "items_of_odd_count": b"\x80\x02}(K\x01K\x02K\x03u.",
    "items_into_number": b"\x80\x02K\x01(K\x01K\x02u.",
    "item_into_nothing": b"\x80\x02s.",
    "append_to_number": b"\x80\x02K\x01K\x02a.",
    "tuple_of_too_few": b"\x80\x02K\x01\x87.",
    "build_on_nothing": b"\x80\x02Nb.",
    "build_on_number": b"\x80\x02K\x01}b.",
    "reduce_of_nothing": b"\x80\x02R.",
    "reduce_of_number": b"\x80\x02K\x01)R.",
    "object_without_class": b"\x80\x02(o.",
    "persistent_of_nothing": b"\x80\x02Q.",
    "persistent_in_text": b"\x80\x02Pstorage\n.",
    "stack_global_of_numbers": b"\x80\x04K\x01K\x02\x93.",
    "global_without_newline": b"\x80\x02c" + b"a" * 5_000_000,
    "global_without_name": b"\x80\x02cos\n.",
    "global_beyond_ascii": b"\x80\x02" + "cmod\x1b[31mü\nKlässe\n".encode() + b".",
    "inst_beyond_ascii": b"\x80\x02(" + "imodü\nKlässe\n".encode() + b".",
    "global_not_utf8": b"\x80\x02c\xff\xfe\n\x80\n.",
    "extension_0": b"\x80\x02\x82\x00.",
    "buffer_out_of_band": b"\x80\x05\x97\x98.",
    "number_not_decimal": b"\x80\x02Iabc\n.",
    "float_not_decimal": b"\x80\x02F1e\n.",
    "text_not_utf8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "text_bad_escape": b"\x80\x02V\\uZZZZ\n.",
    "string_unquoted": b"\x80\x02Sabc\n.",
    "names": state_of_names(),
    "only_a_number": pickled(integer(3)),
    "marks": b"\x80\x02" + b"(" * 100_000 + b".",
}


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "without_stop": lambda call: b"\x80\x02" + call,
    "then_no_instruction": lambda call: b"\x80\x02" + call + b"\xff.",
    "then_empty_stack": lambda call: b"\x80\x02" + call + b"0000.",
    "then_cut_text": lambda call: b"\x80\x02" + call + b"X\xff\xff\xff\x7fabc",
    "then_bad_memo": lambda call: b"\x80\x02" + call + b"h\xfe.",
    "then_bad_number": lambda call: b"\x80\x02" + call + b"Iabc\n.",
    "then_unhashable": lambda call: b"\x80\x02}" + b"]" + call + b"s.",
    "then_absent_class": lambda call: b"\x80\x02" + call + b"cno.such\nthing\n.",
    "then_sound_pickle": lambda call: b"\x80\x02" + call + b"0" + dict_of((text("conv.weight"), tensor())) + b".",
    "after_stop": lambda call: pickled(dict_of((text("conv.weight"), tensor()))) + pickled(call),
    "protocol_in_the_middle": lambda call: b"\x80\x02(" + b"\x80\x00" + call + b"\x80\x05t.",
    "protocol_0_with_newer": lambda call: b"\x80\x00" + call + b"\x94\x8f0.",
    "without_protocol": lambda call: call + b".",
    "protocol_unknown": lambda call: b"\x80\x63" + call + b".",
    "frame_that_lies": lambda call: b"\x80\x04\x95" + struct.pack("<Q", 3) + call + b".",
    "frame_past_the_end": lambda call: b"\x80\x04\x95" + struct.pack("<Q", 10_000) + call + b".",
    "frame_over_frame": lambda call: (
        b"\x80\x04\x95" + struct.pack("<Q", 20) + b"\x95" + struct.pack("<Q", 2) + call + b"."
    ),
}
