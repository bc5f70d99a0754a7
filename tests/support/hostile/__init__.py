"""Builders of files that mean harm, that are no checkpoint, or that end too early.

Each writes into `tmp_path` and returns what it wrote. Nothing here is kept on disk, for such files trip scanners.

    HOSTILE           name → builder(tmp_path, marker): to be refused, or shown safely. `marker` is a file that
                      appears only if something in the checkpoint was executed
    LARGE             those of `HOSTILE` that are megabytes; HONEST, the names of those that are listed
    NOT_CHECKPOINTS   name → (builder(tmp_path), a word that the message must hold, in any case)
    cut, flip_byte    a damaged copy of a good file

`opcodes` and `containers` build what is sound too; the other modules hold the kinds of harm.
"""

from support.hostile.calls import BOMBS, bomb
from support.hostile.containers import Member, legacy_file, raw_zip, stored, zip_file, zip_of
from support.hostile.corpus import HOSTILE
from support.hostile.damaged import cut, flip_byte
from support.hostile.large import HONEST, LARGE
from support.hostile.not_checkpoints import NOT_CHECKPOINTS
from support.hostile.opcodes import (
    PAYLOAD,
    beside_a_layer,
    call,
    dict_of,
    get,
    instance,
    integer,
    integers,
    named,
    octets,
    pickled,
    put,
    storage,
    tensor,
    text,
    tuple_of,
)

__all__ = [
    "BOMBS", "HONEST", "HOSTILE", "LARGE", "NOT_CHECKPOINTS", "PAYLOAD", "Member", "beside_a_layer", "bomb", "call",
    "cut", "dict_of", "flip_byte", "get", "instance", "integer", "integers", "legacy_file", "named", "octets",
    "pickled", "put", "raw_zip", "storage", "stored", "tensor", "text", "tuple_of", "zip_file", "zip_of",
]  # fmt: skip
