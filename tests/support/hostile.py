"""Builders of files that mean harm, that are no checkpoint, or that end too early.

Each writes into `tmp_path` and returns what it wrote. Nothing here is kept on disk, for such files trip scanners.

    HOSTILE           name → builder(tmp_path, marker): to be refused, or shown safely. `marker` is a file that
                      appears only if something in the checkpoint was executed
    NOT_CHECKPOINTS   name → (builder(tmp_path), a word that the message must hold, in any case)
    cut, flip_byte    a damaged copy of a good file
"""

from __future__ import annotations

import io
import json
import lzma
import os
import pickle
import shlex
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

Builder = Callable[[Path, Path], Path]
Value = Callable[[Path], bytes]
"""From the marker to opcodes that push one value."""

SAMPLES = 24
PAYLOAD = struct.pack("<24f", *range(SAMPLES))
"""The bytes of the one storage that every checkpoint here has."""

# --- opcodes


def text(value: str) -> bytes:
    """Push a string; lone surrogates are let through, as pickle does."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def octets(value: bytes) -> bytes:
    """Push bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    """Push an integer of any size."""
    encoded = pickle.encode_long(value)
    if len(encoded) < 256:
        return b"\x8a" + bytes([len(encoded)]) + encoded
    return b"\x8b" + struct.pack("<i", len(encoded)) + encoded


def tuple_of(*items: bytes) -> bytes:
    """Push a tuple of pushed items."""
    return b"(" + b"".join(items) + b"t"


def dict_of(*pairs: tuple[bytes, bytes]) -> bytes:
    """Push a dict of pushed keys and values."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def named(module: str, name: str) -> bytes:
    """Push whatever `module` calls `name`."""
    return f"c{module}\n{name}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """Push the result of a call."""
    return function + tuple_of(*arguments) + b"R"


def instance(module: str, name: str, *state: tuple[str, bytes]) -> bytes:
    """Push a new object with the given attributes."""
    return named(module, name) + b")\x81" + dict_of(*((text(key), value) for key, value in state)) + b"b"


def put(slot: int) -> bytes:
    """Remember the top of the stack."""
    return b"r" + struct.pack("<I", slot)


def get(slot: int) -> bytes:
    """Push what was remembered."""
    return b"j" + struct.pack("<I", slot)


def pickled(value: bytes) -> bytes:
    """A whole pickle of one pushed value."""
    return b"\x80\x02" + value + b"."


def integers(*values: int) -> bytes:
    """Push a tuple of integers."""
    return tuple_of(*map(integer, values))


def storage(
    numel: bytes = integer(SAMPLES),
    kind: bytes = named("torch", "FloatStorage"),
    key: bytes = text("0"),
    device: bytes = text("cpu"),
) -> bytes:
    """Push a storage; the defaults are the one that is in the file."""
    return tuple_of(text("storage"), kind, key, device, numel) + b"Q"


def tensor(
    size: bytes = integers(4, 6, 1),
    stride: bytes = integers(6, 1, 1),
    offset: bytes = integer(0),
    held_in: bytes | None = None,
) -> bytes:
    """Push a tensor; the defaults are a sound one."""
    hooks = call(named("collections", "OrderedDict"))
    held_in = storage() if held_in is None else held_in
    return call(named("torch._utils", "_rebuild_tensor_v2"), held_in, offset, size, stride, b"\x89", hooks)


def beside_a_layer(value: bytes) -> bytes:
    """A pickle of a state_dict with one sound kernel and `value`."""
    return pickled(dict_of((text("conv.weight"), tensor()), (text("evil.weight"), value)))


# --- containers


def zip_file(tmp_path: Path, stream: bytes, suffix: str = ".pt") -> Path:
    """`stream` as the object of a `torch.save` since 1.6."""
    return zip_of(tmp_path / f"zip{suffix}", {"data.pkl": stream})


def zip_of(path: Path, records: Mapping[str, bytes]) -> Path:
    """A torch archive of these records, plus those that every one has."""
    usual = {"byteorder": b"little", "data/0": PAYLOAD, "version": b"3\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**usual, **records}.items():
            archive.writestr(f"archive/{name}", data)
    return path


LEGACY_PARTS = ("magic", "protocol", "sys_info", "object", "keys")


def legacy_file(tmp_path: Path, **parts: bytes) -> Path:
    """A file as torch wrote before 1.6; `parts` replaces any of its five pickles."""
    sizes = dict_of((text("short"), integer(2)), (text("int"), integer(4)), (text("long"), integer(4)))
    usual = {
        "magic": pickled(integer(0x1950A86A20F9469CFC6C)),
        "protocol": pickled(integer(1001)),
        "sys_info": pickled(
            dict_of(
                (text("protocol_version"), integer(1001)),
                (text("little_endian"), b"\x88"),
                (text("type_sizes"), sizes),
            )
        ),
        "object": pickled(dict_of((text("conv.weight"), tensor()))),
        "keys": pickled(b"](" + text("0") + b"e"),
    }
    stream = {**usual, **parts}
    # A storage's reference has one more item here: whether it is a view of another.
    stream["object"] = stream["object"].replace(b"tQ", b"NtQ")
    path = tmp_path / "legacy.pt"
    path.write_bytes(b"".join(stream[part] for part in LEGACY_PARTS) + struct.pack("<q", SAMPLES) + PAYLOAD)
    return path


def bare_file(tmp_path: Path, stream: bytes) -> Path:
    """A pickle and nothing else."""
    path = tmp_path / "bare.pt"
    path.write_bytes(stream)
    return path


def distributed_folder(tmp_path: Path, metadata: bytes) -> Path:
    """A torch.distributed.checkpoint folder with this `.metadata`."""
    folder = tmp_path / "distributed"
    folder.mkdir()
    (folder / ".metadata").write_bytes(metadata)
    (folder / "__0_0.distcp").write_bytes(PAYLOAD)
    return folder


def safetensors_file(tmp_path: Path, header: bytes, payload: bytes = PAYLOAD, length: int | None = None) -> Path:
    """A safetensors file whose header may lie about its own length."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + payload)
    return path


@dataclass
class Member:
    """A zip member whose description need not fit its bytes.

    Attributes:
        name: Full name inside the archive.
        packed: Its bytes as they lie in the file, in pieces.
        size: Unpacked size to claim.
        packed_size: Packed size to claim; what was written when None.
        method: 0 stored, 8 deflated, or any other number.
        flags: Bit 0 claims encryption.
        hole: Zero bytes that follow `packed` without taking room on the disk.
        offset: Where the directory says that it lies; where it does when None.
    """

    name: str
    packed: Iterable[bytes]
    size: int
    packed_size: int | None = None
    method: int = 0
    flags: int = 0
    hole: int = 0
    offset: int | None = None


def raw_zip(path: Path, members: Sequence[Member]) -> Path:
    """Write members as they are described, with zip64 sizes; checksums are left 0."""
    directory = bytearray()
    with path.open("wb") as file:
        for member in members:
            start = file.tell()
            name = member.name.encode()
            header_size = 30 + len(name) + 20
            file.seek(header_size, os.SEEK_CUR)
            written = sum(file.write(piece) for piece in member.packed) + member.hole
            file.seek(start + header_size + written)
            packed_size = written if member.packed_size is None else member.packed_size
            sizes = struct.pack("<HHQQ", 1, 16, member.size, packed_size)
            common = struct.pack(
                "<HHHHHIIIHH", 45, member.flags, member.method, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), 20
            )
            file.seek(start)
            file.write(b"PK\x03\x04" + common + name + sizes)
            file.seek(start + header_size + written)
            offset = start if member.offset is None else member.offset
            place = struct.pack("<HHHII", 0, 0, 0, 0, min(offset, 2**32 - 2))
            directory += b"PK\x01\x02" + struct.pack("<H", 45) + common + place + name + sizes
        end = file.tell()
        file.write(directory)
        count = len(members)
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), end, 0))
    return path


def stored(name: str, data: bytes) -> Member:
    """An honest member."""
    return Member(f"archive/{name}", [data], len(data))


def deflated_repeat(unit: bytes, times: int, last: bytes = b"") -> tuple[list[bytes], int]:
    """`unit` repeated and `last`, deflated without unpacked data ever being in memory; and its unpacked size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    ending = zlib.compressobj(9, zlib.DEFLATED, -15)
    return [block] * times + [ending.compress(last) + ending.flush()], len(unit) * times + len(last)


# --- what would run if the pickle were loaded


def command(marker: Path) -> bytes:
    """Push the shell command that writes the marker."""
    return text(f"touch {shlex.quote(str(marker))}")


def os_system() -> bytes:
    """Push the function that runs a command."""
    return named("os", "system")


def bomb(marker: Path) -> bytes:
    """The plain one: a reduce that runs a command."""
    return call(os_system(), command(marker))


def exec_call(marker: Path) -> bytes:
    """Python source for `exec`."""
    return call(named("builtins", "exec"), text(f"open({str(marker)!r}, 'w')"))


def protocol_0(marker: Path) -> bytes:
    """The oldest opcodes, all of them text."""
    return f"cos\nsystem\np0\n(Vtouch {shlex.quote(str(marker))}\np1\ntp2\nRp3\n".encode()


def stack_global_from_memo(marker: Path) -> bytes:
    """The function's name comes from strings that were remembered long before."""
    names = text("os") + put(700) + b"0" + text("system") + put(701) + b"0"
    return names + call(get(700) + get(701) + b"\x93", command(marker))


def dotted_global(marker: Path) -> bytes:
    """A harmless module whose attribute leads elsewhere, which protocol 4 brought."""
    return b"\x80\x04" + call(text("shutil") + text("os.system") + b"\x93", command(marker))


def inst(marker: Path) -> bytes:
    """INST: class and arguments in one opcode."""
    return b"(" + command(marker) + b"ios\nsystem\n"


def obj(marker: Path) -> bytes:
    """OBJ: the class is the first item after the mark."""
    return b"(" + os_system() + command(marker) + b"o"


def extension(marker: Path) -> bytes:
    """EXT1: a number that only the reading program's own registry explains."""
    return call(b"\x82\x01", command(marker))


def new_object(marker: Path) -> bytes:
    """NEWOBJ of a class that writes a file when made."""
    arguments = (text(str(marker)), text("uint8"), text("w+"), integer(0), integers(4))
    return named("numpy", "memmap") + tuple_of(*arguments) + b"\x81"


def new_object_with_keywords(marker: Path) -> bytes:
    """NEWOBJ_EX of the same class."""
    keywords = dict_of((text("mode"), text("w+")), (text("shape"), integers(4)))
    return named("numpy", "memmap") + tuple_of(text(str(marker))) + keywords + b"\x92"


def build_with_setstate(marker: Path) -> bytes:
    """The first BUILD plants a `__setstate__`, which the second one calls."""
    planted = instance("argparse", "Namespace", ("__setstate__", os_system()))
    return planted + command(marker) + b"b"


def build_partial(marker: Path) -> bytes:
    """BUILD turns a harmless partial into another, which is then called."""
    harmless = call(named("functools", "partial"), named("builtins", "print"))
    return harmless + tuple_of(os_system(), tuple_of(command(marker)), b"}", b"N") + b"b)R"


def append_to_object(marker: Path) -> bytes:
    """APPEND calls the method of that name, whatever the object."""
    return instance("argparse", "Namespace", ("append", os_system())) + command(marker) + b"a"


def add_to_object(marker: Path) -> bytes:
    """ADDITEMS does the same with `add`."""
    return instance("argparse", "Namespace", ("add", os_system())) + b"(" + command(marker) + b"\x90"


def attribute_chain(marker: Path) -> bytes:
    """No dangerous name in sight: `getattr(__import__("o" "s"), …)`."""
    module = call(named("builtins", "__import__"), text("os"))
    return call(call(named("builtins", "getattr"), module, text("system")), command(marker))


def nested_pickle(marker: Path) -> bytes:
    """A pickle in bytes, given to `pickle.loads`."""
    return call(named("pickle", "loads"), octets(pickled(bomb(marker))))


def nested_torch(marker: Path) -> bytes:
    """A pickle in bytes, given to torch's own loader."""
    return call(named("torch.storage", "_load_from_bytes"), octets(pickled(bomb(marker))))


def as_key(marker: Path) -> bytes:
    """A key of a dictionary."""
    return dict_of((bomb(marker), tensor()))


def as_state(marker: Path) -> bytes:
    """The `_metadata` of a state_dict."""
    return call(named("collections", "OrderedDict")) + dict_of((text("_metadata"), bomb(marker))) + b"b"


def as_rebuild(marker: Path) -> bytes:
    """The function that a subclass of Tensor is rebuilt by."""
    rebuild = named("torch._tensor", "_rebuild_from_type_v2")
    return call(rebuild, os_system(), named("torch", "Tensor"), tuple_of(command(marker)), b"}")


def popped(marker: Path) -> bytes:
    """The result is thrown away, so that what is loaded looks clean."""
    return bomb(marker) + b"0" + tensor()


def popped_with_mark(marker: Path) -> bytes:
    """The same, away with all behind a mark."""
    return b"(" + bomb(marker) + b"1" + tensor()


def inst_before_mark(marker: Path) -> bytes:
    """INST whose result is popped, with a dotted name."""
    return b"(" + command(marker) + b"ishutil\nos.system\n" + b"0" + tensor()


def dotted_in_global(marker: Path) -> bytes:
    """GLOBAL follows dots as STACK_GLOBAL does, from protocol 4 on."""
    return b"\x80\x04" + call(named("torch.serialization", "os.system"), command(marker))


def module_of_dots(marker: Path) -> bytes:
    """A name that is harmless, `path.join`, and one through the same module that is not."""
    harmless = call(text("os") + text("path.join") + b"\x93", text("a"), text("b"))
    evil = call(text("os") + text("path.os.system") + b"\x93", command(marker))
    return b"\x80\x04" + tuple_of(harmless, evil)


def memoized_names(marker: Path) -> bytes:
    """MEMOIZE numbers what it keeps itself; the names come back by BINGET after others took their place."""
    kept = b"\x80\x04" + text("os") + b"\x940" + text("print") + b"\x940" + text("system") + put(1) + b"0"
    return kept + call(b"h\0h\1\x93", command(marker))


def names_by_other_opcodes(marker: Path) -> bytes:
    """One name in octal by STRING, the other escaped by UNICODE."""
    return b"\x80\x04" + call(b"S'\\157\\163'\n" + b"V\\u0073ystem\n" + b"\x93", command(marker))


def names_by_call(marker: Path) -> bytes:
    """A name that only exists once something has run."""
    return b"\x80\x04" + call(
        call(named("builtins", "str.lower"), text("OS")) + text("system") + b"\x93", command(marker)
    )


def names_by_duplicate(marker: Path) -> bytes:
    """DUP gives the name of a module that holds itself."""
    return b"\x80\x04" + call(text("os") + b"2\x93" + b"0" + os_system(), command(marker))


def unicode_name(marker: Path) -> bytes:
    """Letters that an identifier may be written in, and that Python folds."""
    return call("c\uff4f\uff53\nｓystem\n".encode(), command(marker))


def carriage_return(marker: Path) -> bytes:
    """A line end that some readers strip."""
    return call(b"cos\r\nsystem\r\n", command(marker)) + b"0" + call(b"c os \nsystem \n", command(marker))


def name_with_space(marker: Path) -> bytes:
    """`genops` joins the two names by a space, so a space in the first moves their border."""
    return call(b"cos system\nx\n", command(marker))


def extension_registered(marker: Path) -> bytes:
    """An extension code that the pickle registers itself, then uses; EXT2 and EXT4 beside it."""
    added = call(named("copyreg", "add_extension"), text("os"), text("system"), integer(77))
    return added + b"0" + tuple_of(*(call(code, command(marker)) for code in (b"\x82M", b"\x83M\0", b"\x84M\0\0\0")))


def build_slots(marker: Path) -> bytes:
    """BUILD of a pair: a dictionary, and slots that are set by `setattr`."""
    planted = (
        named("argparse", "Namespace") + b")\x81" + tuple_of(b"N", dict_of((text("__setstate__"), os_system()))) + b"b"
    )
    return planted + command(marker) + b"b"


def build_reduce_ex(marker: Path) -> bytes:
    """A `__reduce_ex__` is planted, which copying calls."""
    planted = instance("argparse", "Namespace", ("__reduce_ex__", os_system()), ("__deepcopy__", os_system()))
    return call(named("copy", "deepcopy"), planted, command(marker))


def build_class(marker: Path) -> bytes:
    """BUILD on a class, a module's function and on what a call gave."""
    changed = named("collections", "OrderedDict") + dict_of((text("__reduce__"), os_system())) + b"b0"
    return changed + os_system() + dict_of((text("__code__"), bomb(marker))) + b"b"


def modules_overwritten(marker: Path) -> bytes:
    """SETITEM in `sys.modules` gives a harmless name another meaning."""
    table = named("sys", "modules") + text("torch._utils") + call(named("builtins", "__import__"), text("os")) + b"s0"
    return table + call(named("torch._utils", "system"), command(marker))


def lazy_call(marker: Path) -> bytes:
    """`bytes(map(os.system, …))`: the one call is made by another's constructor."""
    mapped = call(named("builtins", "map"), os_system(), b"](" + command(marker) + b"e")
    return named("builtins", "bytes") + tuple_of(mapped) + b"\x81"


def default_factory(marker: Path) -> bytes:
    """A dictionary whose missing keys are made by a call."""
    made = call(named("functools", "partial"), os_system(), command(marker))
    return call(
        call(named("builtins", "getattr"), call(named("collections", "defaultdict"), made), text("__getitem__")), b"N"
    )


def persistent_call(marker: Path) -> bytes:
    """A call's result as the persistent id, alone and within a storage's."""
    return tuple_of(bomb(marker) + b"Q", tuple_of(text("storage"), bomb(marker), text("0"), bomb(marker), b"N") + b"Q")


def nested_in_numpy(marker: Path) -> bytes:
    """An array of objects holds a pickle of its own."""
    return tuple_of(
        call(named("numpy", "load"), text(str(marker)), b"N", b"\x88"),
        call(named("joblib.numpy_pickle", "load"), text(str(marker))),
        call(named("dill._dill", "loads"), octets(pickled(bomb(marker)))),
        call(named("_pickle", "loads"), octets(pickled(nested_pickle(marker)))),
    )


CALLABLES = (
    *(
        "posix.system",
        "os.execv",
        "os.popen",
        "pty.spawn",
        "subprocess.Popen",
        "subprocess.getoutput",
        "runpy._run_code",
    ),
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.open", "builtins.breakpoint", "timeit.timeit"),
    *(
        "bdb.Bdb.run",
        "pdb.run",
        "cProfile.runctx",
        "profile.run",
        "trace.Trace.run",
        "code.InteractiveInterpreter.runcode",
    ),
    *(
        "pydoc.pipepager",
        "doctest.debug_script",
        "ensurepip._run_pip",
        "pip.main",
        "pkgutil.resolve_name",
        "imp.load_source",
    ),
    *(
        "logging.config._resolve",
        "operator.methodcaller",
        "operator.attrgetter",
        "importlib.import_module",
        "webbrowser.open",
    ),
    *("asyncio.unix_events._UnixSubprocessTransport._start", "ctypes.CDLL", "ctypes.cdll.LoadLibrary", "marshal.loads"),
    *(
        "types.FunctionType",
        "types.CodeType",
        "lib2to3.pgen2.grammar.Grammar.loads",
        "idlelib.pyshell.ModifiedInterpreter.runcode",
    ),
    *("numpy.testing._private.utils.runstring", "numpy.f2py.crackfortran.getlincoef", "shelve.open", "shutil.rmtree"),
    *(
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.utils.cpp_extension.load_inline",
        "torch.serialization.load",
    ),
    *(
        "torch.jit.unsupported_tensor_ops.execWrapper",
        "torch._dynamo.guards.GuardBuilder.get",
        "torch.ops.load_library",
    ),
    *("torch.utils.bottleneck.__main__.run_cprofile", "torch.utils.collect_env.run", "torch.classes.load_library"),
    *(
        "torch.fx.graph_module._forward_from_src",
        "torch.package.PackageImporter",
        "torch._inductor.codecache.compile_file",
    ),
    *("torch.utils._config_module.ConfigModule.load_config", "torch.distributed.rpc.internal.deserialize", "site.main"),
    *(
        "urllib.request.urlretrieve",
        "socket.create_connection",
        "http.client.HTTPSConnection",
        "smtplib.SMTP",
        "_pickle.loads",
    ),
    *("torch.jit.save", "torch.export.load", "torch.UntypedStorage.from_file", "torch._C.import_ir_module"),
    *("torch.distributed.distributed_c10d._tensor_to_object", "numpy.ndarray.tofile", "enum.bltns.eval"),
    *("numpy.core._ufunc_reconstruct", "collections._sys.modules", "torch.PyTorchFileWriter"),
)
"""Functions by which one or another scanner's list has been passed, or that torch's own list once admitted."""


def callables(marker: Path) -> bytes:
    """All of them, each called with a command."""
    return tuple_of(*(call(named(*name.rsplit(".", 1)), command(marker)) for name in CALLABLES))


BOMBS: dict[str, Value] = {
    "popped": popped,
    "popped_with_mark": popped_with_mark,
    "inst_popped": inst_before_mark,
    "dotted_in_global": dotted_in_global,
    "module_of_dots": module_of_dots,
    "memoized_names": memoized_names,
    "names_by_other_opcodes": names_by_other_opcodes,
    "names_by_call": names_by_call,
    "names_by_duplicate": names_by_duplicate,
    "unicode_name": unicode_name,
    "carriage_return": carriage_return,
    "name_with_space": name_with_space,
    "extension_registered": extension_registered,
    "build_slots": build_slots,
    "build_reduce_ex": build_reduce_ex,
    "build_class": build_class,
    "modules_overwritten": modules_overwritten,
    "lazy_call": lazy_call,
    "default_factory": default_factory,
    "persistent_call": persistent_call,
    "nested_in_numpy": nested_in_numpy,
    "callables": callables,
    "reduce": bomb,
    "exec": exec_call,
    "protocol_0": protocol_0,
    "stack_global_from_memo": stack_global_from_memo,
    "dotted_global": dotted_global,
    "inst": inst,
    "obj": obj,
    "extension": extension,
    "new_object": new_object,
    "new_object_with_keywords": new_object_with_keywords,
    "build_with_setstate": build_with_setstate,
    "build_partial": build_partial,
    "append_to_object": append_to_object,
    "add_to_object": add_to_object,
    "attribute_chain": attribute_chain,
    "nested_pickle": nested_pickle,
    "nested_torch": nested_torch,
    "as_key": as_key,
    "as_state": as_state,
    "as_rebuild": as_rebuild,
    "as_size": lambda marker: tensor(size=bomb(marker)),
    "as_offset": lambda marker: tensor(offset=bomb(marker)),
    "as_storage": lambda marker: tensor(held_in=bomb(marker)),
    "as_storage_key": lambda marker: tensor(held_in=storage(key=bomb(marker))),
    "as_storage_numel": lambda marker: tensor(held_in=storage(numel=bomb(marker))),
}

# --- values that are small to write down and endless to walk


def doubled(start: bytes, join: Callable[[int], bytes], times: int) -> bytes:
    """`start`, then `times` containers that each hold the one before twice; `join(slot)` pushes such a container."""
    steps = b"".join(put(slot) + b"0" + join(slot) for slot in range(times))
    return start + steps


def pair_in_list(slot: int) -> bytes:
    """A list of the remembered value, twice."""
    return b"(" + get(slot) * 2 + b"l"


def pair_in_dict(slot: int) -> bytes:
    """A dict of the remembered value under two names."""
    return dict_of((text("left"), get(slot)), (text("right"), get(slot)))


def doubled_tuple() -> bytes:
    """A tuple doubled 60 times."""
    return b"N" + b"2\x86" * 60


def module_in_itself() -> bytes:
    """A module that is its own child."""
    container = named("torch.nn.modules.container", "Sequential") + b")\x81" + put(9)
    empty = call(named("collections", "OrderedDict"))
    child = empty + text("child") + get(9) + b"s"
    state = {"training": b"\x88", "_parameters": empty, "_buffers": empty, "_modules": child}
    return container + dict_of(*((text(name), value) for name, value in state.items())) + b"b"


def nested_modules(depth: int) -> bytes:
    """Modules one within the other."""
    before = named("torch.nn.modules.container", "Sequential") + b")\x81}" + text("_modules") + b"}" + text("a")
    return before * depth + instance("torch.nn.modules.linear", "Linear") + b"ssb" * depth


def nested_dicts(depth: int) -> bytes:
    """Dictionaries one within the other, a tensor in the innermost."""
    return (b"}" + text("a")) * depth + tensor() + b"s" * depth


def nested_calls(depth: int) -> bytes:
    """f(f(f(…)))."""
    return named("package", "f") * depth + b"N" + b"\x85R" * depth


def odd_keys() -> bytes:
    """Keys that are no strings."""
    keys = (
        *(integer(3), b"N", b"\x88", octets(b"key"), b"G" + struct.pack(">d", float("nan")), integers(1, 2)),
        *(named("builtins", "print"), call(named("package", "Key"), text("a"))),
    )
    return dict_of(*((key, tensor()) for key in keys))


SHAPES: dict[str, bytes] = {
    "strings": tuple_of(text("4"), text("6"), text("1")),
    "nested": tuple_of(integers(4, 6), integer(1)),
    "none": b"N",
    "number": integer(24),
    "list": b"](" + integer(4) + integer(6) + b"e",
    "floats": tuple_of(*[b"G" + struct.pack(">d", 4.0)] * 3),
    "infinite": tuple_of(*[b"G" + struct.pack(">d", float("inf"))] * 3),
    "booleans": tuple_of(b"\x88", b"\x88", b"\x89"),
    "negative": integers(-4, 6, 1),
    "short": integers(4, 6),
    "long": integers(*[1] * 20_000),
    "huge": integers(10**400, 6, 1),
    "overflowing": integers(2**32, 2**32, 1),
    "int64_edge": integers(2**63 - 1, 2**63 - 1, 2**63 - 1),
    "escape": tuple_of(text("\x1b[31m"), integer(6), integer(1)),
    "of_no_arguments": call(named("torch", "Size")),
}

VALUES: dict[str, bytes] = {
    **{f"size_{name}": tensor(size=size) for name, size in SHAPES.items()},
    **{f"stride_{name}": tensor(stride=size) for name, size in SHAPES.items()},
    "offset_negative": tensor(offset=integer(-1)),
    "offset_past_end": tensor(offset=integer(1)),
    "offset_huge": tensor(offset=integer(10**400)),
    "offset_text": tensor(offset=text("0")),
    "expanded_10_12": tensor(size=integers(10**6, 10**6), stride=integers(0, 0)),
    "expanded_10_12_in_rows": tensor(size=integers(10**12, 6), stride=integers(0, 1)),
    "storage_of_10_12": tensor(
        size=integers(10**6, 10**6), stride=integers(10**6, 1), held_in=storage(numel=integer(10**12))
    ),
    "storage_numel_negative": tensor(held_in=storage(numel=integer(-24))),
    "storage_numel_huge": tensor(held_in=storage(numel=integer(10**400))),
    "storage_numel_text": tensor(held_in=storage(numel=text("24"))),
    "storage_key_outside": tensor(held_in=storage(key=text("../../../../etc/passwd"))),
    "storage_key_absent": tensor(held_in=storage(key=text("1"))),
    "storage_key_number": tensor(held_in=storage(key=integer(0))),
    "storage_key_dict": tensor(held_in=storage(key=b"}")),
    "storage_key_escape": tensor(held_in=storage(key=text("\x1b[31m[bold]"))),
    "storage_kind_foreign": tensor(held_in=storage(kind=named("os", "system"))),
    "storage_kind_text": tensor(held_in=storage(kind=text("FloatStorage"))),
    "storage_device_escape": tensor(held_in=storage(device=text("\x1b[31mcuda\r\n"))),
    "storage_device_number": tensor(held_in=storage(device=integer(0))),
    "storage_is_text": tensor(held_in=text("0") + b"Q"),
    "storage_is_number": tensor(held_in=integer(7) + b"Q"),
    "storage_is_empty": tensor(held_in=b")Q"),
    "storage_is_cycle": tensor(held_in=b"]" + put(8) + get(8) + b"aQ"),
    "rebuild_without_arguments": call(named("torch._utils", "_rebuild_tensor_v2")),
    "rebuild_of_numbers": call(named("torch._utils", "_rebuild_tensor_v2"), *[integer(1)] * 6),
    "rebuild_argument_not_a_tuple": named("torch._utils", "_rebuild_tensor_v2") + integer(1) + b"R",
    "parameter_of_number": call(named("torch._utils", "_rebuild_parameter"), integer(1), b"\x88", b"N"),
    "parameter_chain": named("torch._utils", "_rebuild_parameter") * 20_000
    + tensor()
    + (b"\x88" + b"N" + b"\x87R") * 20_000,
    "tuple_doubled": doubled_tuple(),
    "tuple_doubled_as_key": dict_of((doubled_tuple(), tensor())),
    "tuple_doubled_as_size": tensor(size=doubled_tuple()),
    "tuple_doubled_as_metadata": call(named("collections", "OrderedDict"))
    + dict_of((text("_metadata"), doubled_tuple()))
    + b"b",
    "list_doubled": doubled(b"]", pair_in_list, 60),
    "dict_doubled": doubled(dict_of((text("w"), tensor())), pair_in_dict, 60),
    "list_in_itself": b"]" + put(9) + get(9) + b"a",
    "dict_in_itself": b"}" + put(9) + text("self") + get(9) + b"s" + text("w") + tensor() + b"s",
    "module_in_itself": module_in_itself(),
    "unhashable_key": dict_of((b"}", tensor())),
    "odd_keys": odd_keys(),
    "key_of_5_000_digits": dict_of((integer(10**5_000), tensor())),
    "escapes_in_class": instance("\x1b[31mevil\r", "[bold]Net[/bold]", ("a", integer(1))),
    "call_with_escapes": call(named("evil\x1b]0;title\x07", "f\u202e"), text("x")),
}

LARGE_VALUES: dict[str, Callable[[], bytes]] = {
    "nested_lists": lambda: b"]" * 100_000 + b"a" * 99_999,
    "nested_tuples": lambda: b")" + b"\x85" * 100_000,
    "nested_dicts": lambda: nested_dicts(20_000),
    "nested_calls": lambda: nested_calls(100_000),
    "nested_modules": lambda: nested_modules(5_000),
    "integer_of_a_million_digits": lambda: b"I" + b"9" * 1_000_000 + b"\n",
    "long_of_a_million_digits": lambda: b"L" + b"9" * 1_000_000 + b"L\n",
    "long_of_5_mb": lambda: integer(1 << 40_000_000),
    "size_of_5_mb": lambda: tensor(size=integers(1 << 40_000_000, 1)),
    "numel_of_5_mb": lambda: tensor(held_in=storage(numel=integer(1 << 40_000_000))),
    "name_of_5_mb": lambda: dict_of((text("\x1b[1m" * 1_250_000), tensor())),
}

# --- whole pickles that no pickler writes

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

# --- streams that break after they have run

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


def broken(tmp_path: Path, marker: Path, join: Callable[[bytes], bytes], place: str) -> Path:
    """A command and such an end, as the pickle of any container."""
    stream = join(bomb(marker))
    if place == "zip":
        return zip_file(tmp_path, stream)
    if place == "legacy":
        return legacy_file(tmp_path, object=stream)
    return bare_file(tmp_path, stream) if place == "bare" else distributed_folder(tmp_path, stream)


# --- zip archives


def disguised_pickle(tmp_path: Path, marker: Path, **claims: int) -> Path:
    """The evil pickle in a record with fields that PyTorch's reader passes over and a scanner's does not."""
    stream = beside_a_layer(bomb(marker))
    evil = Member("archive/data.pkl", [stream], len(stream), **claims)
    return raw_zip(tmp_path / "disguised.pt", [evil, stored("data/0", PAYLOAD), stored("version", b"3\n")])


def two_names(tmp_path: Path, marker: Path) -> Path:
    """The local header names another record than the directory does."""
    path = disguised_pickle(tmp_path, marker)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"archive/data.pkl", b"archive/data.txt", 1))
    return path


def name_by_extra(tmp_path: Path, marker: Path) -> Path:
    """Records beside a sound one whose names differ in case, by a null byte, by a separator or by code points."""
    sound = [stored("data.pkl", pickled(dict_of((text("conv.weight"), tensor())))), stored("data/0", PAYLOAD)]
    stream = beside_a_layer(bomb(marker))
    others = [
        stored(name, stream) for name in ("DATA.PKL", "data.pkl\0.txt", "./data.pkl", "data.pkl ", "dat\u0430.pkl")
    ]
    return raw_zip(tmp_path / "names.pt", sound + others)


def hidden_records(tmp_path: Path, marker: Path) -> Path:
    """Pickles in records that no one lists."""
    stream = beside_a_layer(bomb(marker))
    names = ("extra/evil.pkl", ".data/serialization_id", "constants.pkl", "data/9", "attributes.pkl", ".format_version")
    sound = pickled(dict_of((text("conv.weight"), tensor())))
    return zip_of(tmp_path / "hidden.pt", {"data.pkl": sound, **dict.fromkeys(names, stream)})


def evil_byteorder(tmp_path: Path, marker: Path) -> Path:
    """A pickle where the byte order stands, and in the archive's comment."""
    path = zip_of(tmp_path / "order.pt", {"data.pkl": beside_a_layer(bomb(marker)), "byteorder": pickled(bomb(marker))})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = pickled(bomb(marker))
    return path


def two_data_pkl(tmp_path: Path, marker: Path) -> Path:
    """Two records of one name: what is looked at need not be what is loaded."""
    harmless, evil = pickled(dict_of((text("conv.weight"), tensor()))), beside_a_layer(bomb(marker))
    members = [stored("data.pkl", harmless), stored("data.pkl", evil), stored("data/0", PAYLOAD)]
    return raw_zip(tmp_path / "two.pt", members)


def two_archives(tmp_path: Path, marker: Path) -> Path:
    """Two folders in one zip, each a checkpoint."""
    members = [stored("data.pkl", beside_a_layer(bomb(marker))), stored("data/0", PAYLOAD)]
    other = [Member(member.name.replace("archive", "other"), member.packed, member.size) for member in members]
    return raw_zip(tmp_path / "two.pt", members + other)


def deflated_data_pkl(tmp_path: Path, marker: Path, unit: bytes, times: int, last: bytes) -> Path:
    """A pickle that unpacks to far more than the file holds."""
    pieces, size = deflated_repeat(unit, times, last)
    members = [Member("archive/data.pkl", pieces, size, method=8), stored("data/0", PAYLOAD)]
    return raw_zip(tmp_path / "deflated.pt", members)


def deflated_with_small_claim(tmp_path: Path, marker: Path) -> Path:
    """The directory claims 100 bytes; the record unpacks to 1 GB."""
    pieces, _ = deflated_repeat(b"N0" * 2**19, 1024, b"}.")
    members = [Member("archive/data.pkl", pieces, 100, method=8), stored("data/0", PAYLOAD)]
    return raw_zip(tmp_path / "deflated.pt", members)


def deflated_storage(tmp_path: Path, marker: Path) -> Path:
    """A storage record of 10 GB in 10 MB, by a tensor of that size."""
    pieces, size = deflated_repeat(bytes(2**20), 10 * 1024)
    count = size // 4
    held = storage(numel=integer(count))
    weight = tensor(integers(count // 64, 64, 1), integers(64, 1, 1), held_in=held)
    stream = pickled(dict_of((text("conv.weight"), weight)))
    members = [stored("data.pkl", stream), Member("archive/data/0", pieces, size, method=8)]
    return raw_zip(tmp_path / "deflated.pt", members)


def stored_hole(tmp_path: Path, marker: Path) -> Path:
    """A `data.pkl` of 3 GB that takes no room on the disk."""
    size = 3 * 2**30
    members = [Member("archive/data.pkl", [b"\x80\x02}"], size, hole=size - 3), stored("data/0", PAYLOAD)]
    return raw_zip(tmp_path / "hole.pt", members)


def odd_zip(tmp_path: Path, marker: Path, member: Member) -> Path:
    """An archive with one record that is not what it should be."""
    stream = pickled(dict_of((text("conv.weight"), tensor())))
    honest = {"archive/data.pkl": stored("data.pkl", stream), "archive/data/0": stored("data/0", PAYLOAD)}
    return raw_zip(tmp_path / "odd.pt", list({**honest, member.name: member}.values()))


def many_members(tmp_path: Path, marker: Path) -> Path:
    """60,000 empty records beside the real ones."""
    stream = pickled(dict_of((text("conv.weight"), tensor())))
    empty = [Member(f"archive/data/{index}", [], 0) for index in range(1, 60_000)]
    return raw_zip(tmp_path / "many.pt", [stored("data.pkl", stream), stored("data/0", PAYLOAD), *empty])


def much_of(tmp_path: Path, marker: Path, opcodes: bytes, times: int = 5_000_000) -> Path:
    """A sound kernel, and megabytes of instructions of one byte."""
    return zip_file(tmp_path, beside_a_layer(b"(" + opcodes * (times // len(opcodes)) + b"t"))


def marks(tmp_path: Path, marker: Path) -> Path:
    """A tuple in a tuple, a million deep."""
    return zip_file(tmp_path, beside_a_layer(b"(" * 1_000_000 + b"t" * 1_000_000))


def header_of_nothing(tmp_path: Path, marker: Path) -> Path:
    """A safetensors header of 800,000 empty tensors."""
    entry = '"dtype":"F32","shape":[0],"data_offsets":[0,0]'
    header = ",".join(f'"t{index}":{{{entry}}}' for index in range(800_000))
    return safetensors_file(tmp_path, f"{{{header}}}".encode(), b"")


def header_that_repeats(tmp_path: Path, marker: Path) -> Path:
    """A safetensors header whose last of many names occurs twice."""
    entry = '"dtype":"F32","shape":[0],"data_offsets":[0,0]'
    header = ",".join(f'"t{min(index, 59_998)}":{{{entry}}}' for index in range(60_000))
    return safetensors_file(tmp_path, f"{{{header}}}".encode(), b"")


def script_of(tmp_path: Path, marker: Path, line: bytes, times: int, records: int = 1, method: int = 8) -> Path:
    """A TorchScript archive with a sound kernel and source texts that repeat a line; deflated, they are small."""
    module = instance("__torch__", "Net", ("training", b"\x88"), ("weight", tensor()))
    path = zip_of(tmp_path / "script.pt", {"data.pkl": pickled(module)})
    with zipfile.ZipFile(path, "a", method) as archive:
        for index in range(records):
            archive.writestr(f"archive/code/__torch__/source{index}.py", b"class Net(Module):\n" + line * times)
    return path


def exported_much_of(
    tmp_path: Path, marker: Path, items: bytes, times: int, before: bytes = b'{"graph_module": [', method: int = 0
) -> Path:
    """A `.pt2` archive with one sound weight, whose graph repeats items; stored as they are, or deflated."""
    path = exported(tmp_path, marker, exported_weight(), model=b"")
    records = {name: data for name, data in _members(path).items() if name != "archive/models/model.json"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
        archive.writestr("archive/models/model.json", before + items * times + b"0]}", method)
    return path


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def exported_weights(tmp_path: Path, marker: Path, times: int) -> Path:
    """A `.pt2` archive that lists so many tensors over one record."""
    weight = next(iter(json.loads(exported_weight())["config"].values()))
    config = json.dumps({"config": dict.fromkeys(map(str, range(times)), weight)}).encode()
    return exported(tmp_path, marker, config)


_VARIED = b"".join(b'{"%d":{}},' % number for number in range(1_000))
"""Packs thirtyfold, which is less than gives a record away."""


def frozen_of(tmp_path: Path, marker: Path, code: bytes, times: int) -> Path:
    """Frozen TorchScript with one sound constant and code that repeats a text."""
    records = {
        "data.pkl": pickled(instance("__torch__", "Net", ("training", b"\x88"))),
        "constants.pkl": pickled(tuple_of(tensor())),
        "constants/0": PAYLOAD,
    }
    path = zip_of(tmp_path / "frozen.pt", records)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/__torch__.py", code * times)
    return path


MUCH = {
    "nones": b"N", "lists": b"]", "dicts": b"}", "empty_tuples": b")", "pushed_and_popped": b"N0",
    "numbers": b"J\1\2\3\4", "nested_tuples": b"N\x85", "floats": b"G" + bytes(8),
}  # fmt: skip
FROZEN_CODE = {
    "brackets": b"((", "commas": b"torch.linear(" + b"," * 80,
    "uses": b"torch.conv1d(x, CONSTANTS.c0, None, [1], [7])\n",
    "different_uses": b"".join(b"torch.linear(x, CONSTANTS.c%d, CONSTANTS.c1)" % number for number in range(1_000)),
}  # fmt: skip
LARGE: dict[str, Builder] = {
    **{f"zip_much_of_{name}": partial(much_of, opcodes=opcodes) for name, opcodes in MUCH.items()},
    **{f"zip_half_much_of_{name}": partial(much_of, opcodes=opcodes, times=490_000) for name, opcodes in MUCH.items()},
    "zip_marks": marks,
    "script_of_many_sources": partial(script_of, line=b" " * 1_000, times=1_000, records=500),
    "script_of_many_names": partial(script_of, line=b"  a\n", times=250_000),
    "script_of_many_statements": partial(script_of, line=b"  a;a;a;a;a\n", times=300_000, method=0),
    "script_of_many_classes": partial(script_of, line=b"class A:\n a\n", times=80_000),
    **{
        f"frozen_script_of_{name}": partial(frozen_of, code=code, times=4_000_000 // len(code))
        for name, code in FROZEN_CODE.items()
    },
    "exported_much_of_dicts": partial(exported_much_of, items=b'{"":0},', times=1_500_000),
    "exported_half_much_of_dicts": partial(exported_much_of, items=b'{"":0},', times=500_000),
    "exported_much_packed": partial(exported_much_of, items=_VARIED, times=1_000, method=8),
    "exported_long_text": partial(
        exported_much_of, items=bytes(range(65, 91)) * 10 + b"%", times=100_000, before=b'{"a": ["', method=8
    ),
    "exported_many_weights": partial(exported_weights, times=30_000),
    "safetensors_header_of_nothing": header_of_nothing,
    "safetensors_header_that_repeats": header_that_repeats,
}
HONEST = {"zip_much_of_numbers", "zip_much_of_floats", *(name for name in LARGE if "half" in name or "script" in name)}
"""Of these, what may as well be a long list that someone keeps beside the weights, or long code: listed, within the
same limits."""


def byteorder(tmp_path: Path, marker: Path, order: bytes) -> Path:
    """A byte order that no machine has."""
    stream = pickled(dict_of((text("conv.weight"), tensor())))
    return zip_of(tmp_path / "order.pt", {"data.pkl": stream, "byteorder": order})


def torchscript(tmp_path: Path, marker: Path) -> Path:
    """A TorchScript archive with a bomb in each of its pickles, and evil text for code."""
    module = instance("__torch__", "Net", ("training", b"\x88"), ("weight", tensor()), ("evil", bomb(marker)))
    records = {
        "data.pkl": pickled(module),
        "constants.pkl": pickled(tuple_of(bomb(marker))),
        "code/__torch__.py": f"open({str(marker)!r}, 'w')\n\x1b[31m[bold]".encode() + b"(" * 200_000,
        "code/__torch__.py.debug_pkl": pickled(bomb(marker)),
    }
    return zip_of(tmp_path / "script.pt", records)


def exported(tmp_path: Path, marker: Path, config: bytes, model: bytes = b"{}") -> Path:
    """A `.pt2` archive with these two JSON texts, and a bomb where sample inputs are."""
    records = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "models/model.json": model,
        "data/weights/model_weights_config.json": config,
        "data/weights/weight_0": PAYLOAD,
        "data/sample_inputs/model.pt": pickled(bomb(marker)),
    }
    return zip_of(tmp_path / "exported.pt2", records)


def exported_weight(size: object = 4, path_name: object = "weight_0", dtype: object = 7) -> bytes:
    """The weights' configuration of a `.pt2` archive with one tensor."""
    sizes, strides = [{"as_int": size}, {"as_int": 6}], [{"as_int": 6}, {"as_int": 1}]
    meta = {"dtype": dtype, "sizes": sizes, "strides": strides, "storage_offset": {"as_int": 0}, "layout": 7}
    weight = {"path_name": path_name, "is_param": True, "use_pickle": False, "tensor_meta": meta}
    return json.dumps({"config": {"\x1b[31m[bold]fc.weight": weight}}).encode()


NESTED_JSON = b"[" * 100_000
NESTED_OBJECTS = b'{"a":' * 100_000

ZIPS: dict[str, Builder] = {
    "flag_encrypted": partial(disguised_pickle, flags=1),
    "flag_patched": partial(disguised_pickle, flags=1 << 5),
    "flag_strongly_encrypted": partial(disguised_pickle, flags=1 << 6 | 1),
    "flag_utf8": partial(disguised_pickle, flags=1 << 11),
    "flag_masked": partial(disguised_pickle, flags=1 << 13),
    "flag_descriptor": partial(disguised_pickle, flags=1 << 3),
    "size_claimed_smaller": partial(disguised_pickle, packed_size=5),
    "two_names": two_names,
    "names_alike": name_by_extra,
    "hidden_records": hidden_records,
    "evil_byteorder": evil_byteorder,
    "two_data_pkl": two_data_pkl,
    "two_archives": two_archives,
    "deflated_10_gb": partial(deflated_data_pkl, unit=b"N0" * 2**19, times=10 * 1024, last=b"}."),
    "deflated_zeros": partial(deflated_data_pkl, unit=bytes(2**20), times=10 * 1024, last=b"."),
    "deflated_64_mb_of_dicts": partial(deflated_data_pkl, unit=b"}" * 2**20, times=64, last=b"."),
    "deflated_with_small_claim": deflated_with_small_claim,
    "deflated_storage": deflated_storage,
    "stored_hole": stored_hole,
    "many_members": many_members,
    "member_past_end": partial(odd_zip, member=Member("archive/data/0", [PAYLOAD], 96, offset=2**31)),
    "member_larger_than_file": partial(odd_zip, member=Member("archive/data/0", [PAYLOAD], 2**40, 2**40)),
    "pickle_larger_than_file": partial(odd_zip, member=Member("archive/data.pkl", [b"\x80\x02}."], 2**40, 2**40)),
    "member_of_2_63": partial(odd_zip, member=Member("archive/data/0", [PAYLOAD], 2**63, 2**63)),
    "member_encrypted": partial(odd_zip, member=Member("archive/data.pkl", [b"\x80\x02}."], 4, flags=1)),
    "member_by_unknown_method": partial(odd_zip, member=Member("archive/data.pkl", [b"\x80\x02}."], 4, method=99)),
    "member_not_deflated": partial(odd_zip, member=Member("archive/data.pkl", [b"\xff" * 64], 64, method=8)),
    "member_without_name": partial(odd_zip, member=Member("", [b"x"], 1)),
    "member_named_outside": partial(odd_zip, member=Member("archive/../../evil", [b"x"], 1)),
    "member_named_with_escapes": partial(odd_zip, member=Member("archive/\x1b[31m[bold]\n", [b"x"], 1)),
    "byteorder_middle": partial(byteorder, order=b"middle"),
    "byteorder_escape": partial(byteorder, order=b"\x1b[31m\xff[bold]"),
    "byteorder_5_mb": partial(byteorder, order=b"little" * 800_000),
    "torchscript": torchscript,
    "exported": partial(exported, config=exported_weight()),
    "exported_outside": partial(exported, config=exported_weight(path_name="../../../../../etc/passwd")),
    "exported_path_number": partial(exported, config=exported_weight(path_name=7)),
    "exported_size_huge": partial(exported, config=exported_weight(size=10**30)),
    "exported_size_text": partial(exported, config=exported_weight(size="\x1b[31m")),
    "exported_size_negative": partial(exported, config=exported_weight(size=-4)),
    "exported_dtype_unknown": partial(exported, config=exported_weight(dtype=10**6)),
    "exported_dtype_text": partial(exported, config=exported_weight(dtype="\x1b[31m")),
    "exported_config_nested": partial(exported, config=NESTED_JSON),
    "exported_config_list": partial(exported, config=b"[1, 2]"),
    "exported_config_text": partial(exported, config=b'{"config": "x"}'),
    "exported_model_nested": partial(exported, config=exported_weight(), model=NESTED_OBJECTS),
    "exported_model_list": partial(exported, config=exported_weight(), model=b'{"graph_module": [1]}'),
}

# --- pre-1.6 and distributed


def legacy_part(tmp_path: Path, marker: Path, part: str) -> Path:
    """A bomb in place of one of the stream's pickles."""
    return legacy_file(tmp_path, **{part: pickled(bomb(marker))})


def legacy_with(tmp_path: Path, marker: Path, part: str, stream: bytes) -> Path:
    """Anything in place of one of the stream's pickles."""
    return legacy_file(tmp_path, **{part: stream})


def legacy_sources(tmp_path: Path, marker: Path) -> Path:
    """A saved source that would run, with escapes in its file name."""
    source = (text("module"), named("evil", "Net"), text("\x1b[31m[bold].py"), text(f"open({str(marker)!r}, 'w')"))
    net = tuple_of(*source) + b"Q)\x81" + dict_of((text("training"), b"\x88")) + b"b"
    return legacy_file(tmp_path, object=beside_a_layer(net))


def legacy_claim(tmp_path: Path, marker: Path, numel: int) -> Path:
    """The storage's own count says something else than the pickle."""
    path = legacy_file(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good.replace(struct.pack("<q", SAMPLES) + PAYLOAD, struct.pack("<q", numel) + PAYLOAD))
    return path


DISTRIBUTED = "torch.distributed.checkpoint.metadata"


def described_tensor(size: bytes, *chunks: bytes) -> bytes:
    """What `.metadata` says of a tensor."""
    layout = call(named("torch.serialization", "_get_layout"), text("torch.strided"))
    memory = call(named(DISTRIBUTED, "_MEM_FORMAT_ENCODING"), integer(0))
    state = tuple_of(named("torch", "float32"), layout, b"\x89", memory, b"\x89")
    properties = named(DISTRIBUTED, "TensorProperties") + b")\x81" + state + b"b"
    listed = b"](" + b"".join(chunks) + b"e"
    return instance(
        DISTRIBUTED, "TensorStorageMetadata", ("properties", properties), ("size", size), ("chunks", listed)
    )


def metadata_with(value: bytes, key: bytes = text("\x1b[31m[bold]evil.weight")) -> bytes:
    """A `.metadata` that describes one sound tensor and `value` under `key`."""
    chunk = instance(DISTRIBUTED, "ChunkStorageMetadata", ("offsets", integers(0, 0)), ("sizes", integers(4, 6)))
    sound = described_tensor(call(named("torch", "Size"), integers(4, 6)), chunk)
    entries = dict_of((text("fc.weight"), sound), (key, value))
    state = (("state_dict_metadata", entries), ("planner_data", value), ("storage_data", b"}"))
    return pickled(instance(DISTRIBUTED, "Metadata", *state))


def distributed(tmp_path: Path, marker: Path, make: Value) -> Path:
    """A distributed checkpoint with a value that does not belong there."""
    return distributed_folder(tmp_path, metadata_with(make(marker)))


def distributed_key(tmp_path: Path, marker: Path, key: bytes) -> Path:
    """A distributed checkpoint with a tensor under such a key."""
    return distributed_folder(tmp_path, metadata_with(described_tensor(integers(4, 6)), key))


# --- safetensors


def header(tensors: Mapping[str, object]) -> bytes:
    """A safetensors header."""
    return json.dumps(tensors).encode()


def entry(shape: object = (4, 6, 1), offsets: object = (0, 96), dtype: object = "F32") -> dict[str, object]:
    """One tensor of such a header; the defaults are sound."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(**changes: object) -> bytes:
    """A header of one tensor, changed."""
    return header({"conv.weight": {**entry(), **changes}})


def sparse_safetensors(tmp_path: Path, marker: Path) -> Path:
    """A header of 4 GB that takes no room on the disk."""
    path = safetensors_file(tmp_path, b"", length=4 * 2**30)
    os.truncate(path, 5 * 2**30)
    return path


HALVES = {"a.weight": entry((2, 6), (0, 48)), "b.weight": entry((2, 6), (48, 96))}

SAFETENSORS: dict[str, bytes] = {
    "overlapping": header({"a.weight": entry((2, 6), (0, 48)), "b.weight": entry((3, 6), (24, 96))}),
    "same_bytes_twice": header({"a.weight": entry(), "b.weight": entry()}),
    "gap": header({"a.weight": entry((1, 6), (0, 24)), "b.weight": entry((2, 6), (48, 96))}),
    "bytes_left": header({"a.weight": entry((2, 6), (0, 48))}),
    "past_end": header({"a.weight": entry((8, 6), (0, 192))}),
    "offsets_negative": one(data_offsets=[-96, 0]),
    "offsets_reversed": one(data_offsets=[96, 0]),
    "offsets_huge": one(data_offsets=[2**62, 2**62 + 96]),
    "offsets_beyond_int64": one(data_offsets=[10**400, 10**400 + 96]),
    "offsets_three": one(data_offsets=[0, 48, 96]),
    "offsets_text": one(data_offsets=["0", "96"]),
    "offsets_float": one(data_offsets=[0.0, 96.0]),
    "offsets_null": one(data_offsets=None),
    "shape_too_large_for_offsets": one(shape=[5, 6, 1]),
    "shape_overflowing": one(shape=[2**32, 2**32, 1]),
    "shape_overflowing_to_fit": one(shape=[2**62, 6, 4]),
    "shape_beyond_int64": one(shape=[10**400]),
    "shape_negative": one(shape=[-4, -6, 1]),
    "shape_booleans": one(shape=[True, True, True]),
    "shape_float": one(shape=[4.0, 6.0, 1.0]),
    "shape_nan": one(shape=[float("nan"), float("inf"), 1]),
    "shape_text": one(shape=["\x1b[31m", "[bold]", 1]),
    "shape_nested": one(shape=[[4, 6], 1]),
    "shape_null": one(shape=None),
    "shape_of_20_000_dims": one(shape=[1] * 20_000),
    "dtype_unknown": one(dtype="F33"),
    "dtype_escape": one(dtype="\x1b[31m[bold]"),
    "dtype_number": one(dtype=7),
    "dtype_null": one(dtype=None),
    "entry_null": header({"conv.weight": None}),
    "entry_list": header({"conv.weight": [1, 2]}),
    "entry_empty": header({"conv.weight": {}}),
    "duplicate_keys": b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry((24,))).encode() + b"}",
    "metadata_not_strings": header({"__metadata__": {"a": 1, "b": [2]}, "conv.weight": entry()}),
    "metadata_list": header({"__metadata__": [1], "conv.weight": entry()}),
    "metadata_escapes": header({"__metadata__": {"\x1b[31m": "[bold]\r\n"}, "conv.weight": entry()}),
    "not_json": b"{not json at all     }",
    "not_utf8": b'{"\xff\xfe": 1}',
    "empty_header": b"",
    "list": b'["F32", [4, 6, 1]]',
    "number": b"7",
    "null": b"null",
    "two_values": b"{} {}",
    "nested_lists": NESTED_JSON,
    "nested_objects": NESTED_OBJECTS,
    "number_of_a_million_digits": b'{"w":{"dtype":"F32","shape":[' + b"9" * 10**6 + b'],"data_offsets":[0,96]}}',
    "utf16": '{"w": {}}'.encode("utf-16"),
}

LENGTHS: dict[str, int] = {"length_2_63": 2**63, "length_2_64": 2**64 - 1, "length_past_end": 10_000, "length_0": 0}


def safetensors_names(tmp_path: Path, marker: Path) -> Path:
    """Every one of `NAMES`, each over its own element."""
    entries = {name: entry((1,), (4 * index, 4 * index + 4)) for index, name in enumerate(NAMES)}
    return safetensors_file(tmp_path, header(entries), bytes(4 * len(NAMES)))


# --- shards


def shard_index(tmp_path: Path, marker: Path, index: bytes) -> Path:
    """A folder with two good shards, a file outside it, and this index."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    for name, key in (("one", "a.weight"), ("two", "b.weight")):
        safetensors_file(folder, header({key: entry()})).rename(folder / f"{name}.safetensors")
    safetensors_file(tmp_path, header({"a.weight": entry()})).rename(tmp_path / "outside.safetensors")
    (folder / "folder.safetensors").mkdir()
    path = folder / "model.safetensors.index.json"
    # An absolute path can be told only when the folder is there.
    path.write_bytes(index.replace(b"@", str(tmp_path).encode()))
    return path


def weight_map(**shards: object) -> bytes:
    """An index that sends the two tensors elsewhere."""
    names = {"a.weight": shards.get("a", "one.safetensors"), "b.weight": shards.get("b", "two.safetensors")}
    return json.dumps({"metadata": {"total_size": 192}, "weight_map": names}).encode()


INDEXES: dict[str, bytes] = {
    "outside": weight_map(a="../outside.safetensors"),
    "outside_by_detour": weight_map(a="folder.safetensors/../../outside.safetensors"),
    "outside_by_backslash": weight_map(a="..\\outside.safetensors"),
    "absolute": weight_map(a="@/outside.safetensors"),
    "shard_missing": weight_map(a="three.safetensors"),
    "tensor_missing": weight_map(a="two.safetensors"),
    "shard_is_folder": weight_map(a="folder.safetensors"),
    "shard_is_index": weight_map(a="model.safetensors.index.json"),
    "shard_is_here": weight_map(a="."),
    "shard_is_empty": weight_map(a=""),
    "shard_is_number": weight_map(a=7),
    "shard_is_null": weight_map(a=None),
    "shard_with_null_byte": weight_map(a="one\0.safetensors"),
    "shard_with_surrogate": weight_map(a="\ud800.safetensors"),
    "shard_with_escapes": weight_map(a="\x1b[31m[bold]\r\n.safetensors"),
    "shard_with_long_name": weight_map(a="a" * 5_000),
    "map_is_list": b'{"weight_map": ["one.safetensors"]}',
    "map_is_absent": b'{"metadata": {}}',
    "map_is_empty": b'{"weight_map": {}}',
    "index_is_list": b"[]",
    "index_is_nested": NESTED_JSON,
    "index_is_cut": weight_map()[:-20],
    "index_is_not_utf8": b"\xff\xfe{}",
    "index_is_empty": b"",
    "total_size_is_text": weight_map().replace(b"192", b'"\\u001b[31m"'),
    "names": json.dumps({"weight_map": dict.fromkeys(NAMES, "one.safetensors")}).encode(),
}


def shard_by_link(tmp_path: Path, marker: Path) -> Path:
    """A shard that is a link to a file outside; a download cache is made of such links."""
    path = shard_index(tmp_path, marker, weight_map(a="link.safetensors"))
    (path.parent / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    return path


# --- archives of other kinds


def tar_block(kind: bytes, size: int) -> bytes:
    """A tar header of before POSIX, which has no magic number, only a sum."""
    head = bytearray(512)
    head[:4], head[100:108], head[124:136], head[156:157] = b"evil", b"0000644\0", b"%011o\0" % size, kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def tar_of_records(tmp_path: Path, marker: Path) -> Path:
    """A PAX record that a regular expression is slow on."""
    content = b"1" * 500_000
    return plain_file(tmp_path, "model.pt", tar_block(b"x", len(content)) + content + bytes(12 + 1024))


def tar_in_lzma(tmp_path: Path, marker: Path) -> Path:
    """The same of a gigabyte, packed by a method without a magic number."""
    packer = lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)
    pieces = [packer.compress(tar_block(b"x", 2**30))]
    pieces += [packer.compress(bytes(2**20)) for _ in range(300)]
    return plain_file(tmp_path, "model.pt", b"".join([*pieces, packer.flush()]))


def archive_in(tmp_path: Path, marker: Path, magic: bytes) -> Path:
    """A pickle behind another archive's first bytes, for scanners that go by names or by magic numbers."""
    return plain_file(tmp_path, "model.pt", magic + beside_a_layer(bomb(marker)))


def zip_in_zip(tmp_path: Path, marker: Path) -> Path:
    """A checkpoint in a zip."""
    inner = zip_file(tmp_path, beside_a_layer(bomb(marker))).read_bytes()
    return zip_of(tmp_path / "nested.pt", {"model.pt": inner})


def pickle_then_zip(tmp_path: Path, marker: Path) -> Path:
    """A pickle to one reader, a zip to another, which goes by the end."""
    inner = zip_file(tmp_path, beside_a_layer(bomb(marker))).read_bytes()
    return plain_file(tmp_path, "model.pt", beside_a_layer(bomb(marker)) + inner)


def legacy_then_zip(tmp_path: Path, marker: Path) -> Path:
    """A sound stream of before 1.6 with a zip of another at its end."""
    inner = zip_file(tmp_path, beside_a_layer(bomb(marker))).read_bytes()
    return plain_file(tmp_path, "model.pt", legacy_file(tmp_path).read_bytes() + inner)


def tar_with_pickles(tmp_path: Path, marker: Path, form: int) -> Path:
    """What torch wrote before 0.1.10: a tar of pickles."""
    path = tmp_path / "model.pt"
    with tarfile.open(path, "w", format=form) as archive:
        for name in ("sys_info", "pickle", "storages", "tensors", "é" * 40):
            member = tarfile.TarInfo(name)
            member.size = len(beside_a_layer(bomb(marker)))
            archive.addfile(member, io.BytesIO(beside_a_layer(bomb(marker))))
    return path


# --- things that are no plain file


def pipe(tmp_path: Path, marker: Path) -> Path:
    """A named pipe, on which reading would wait for ever."""
    path = tmp_path / "pipe.pt"
    os.mkfifo(path)
    return path


def link_to_itself(tmp_path: Path, marker: Path) -> Path:
    """A symbolic link that leads nowhere but back."""
    path = tmp_path / "link.pt"
    path.symlink_to(path)
    return path


def nested_folders(tmp_path: Path, marker: Path) -> Path:
    """A folder that holds a link to itself."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inner").symlink_to(folder)
    return folder


# --- all of them


def in_zip(tmp_path: Path, marker: Path, make: Value) -> Path:
    """A value beside a sound kernel, in a zip."""
    return zip_file(tmp_path, beside_a_layer(make(marker)))


def in_legacy(tmp_path: Path, marker: Path, make: Value) -> Path:
    """The same before 1.6."""
    return legacy_file(tmp_path, object=beside_a_layer(make(marker)))


def in_bare(tmp_path: Path, marker: Path, make: Value) -> Path:
    """The same as a bare pickle."""
    return bare_file(tmp_path, beside_a_layer(make(marker)))


def alone_in_zip(tmp_path: Path, marker: Path, make: Value) -> Path:
    """A value that is all the checkpoint."""
    return zip_file(tmp_path, pickled(make(marker)))


def stream_in_zip(tmp_path: Path, marker: Path, stream: bytes) -> Path:
    """A whole pickle in a zip."""
    return zip_file(tmp_path, stream)


def stream_in_bare(tmp_path: Path, marker: Path, stream: bytes) -> Path:
    """A whole pickle as the file."""
    return bare_file(tmp_path, stream)


def stream_in_metadata(tmp_path: Path, marker: Path, stream: bytes) -> Path:
    """A whole pickle as a distributed checkpoint's `.metadata`."""
    return distributed_folder(tmp_path, stream)


def as_safetensors(tmp_path: Path, marker: Path, text: bytes, length: int | None = None) -> Path:
    """A header in a safetensors file with 96 bytes of data."""
    return safetensors_file(tmp_path, text, length=length)


def always(value: bytes) -> Value:
    """A value that needs no marker."""
    return lambda marker: value


def later(make: Callable[[], bytes]) -> Value:
    """The same, made only when asked for."""
    return lambda marker: make()


def _everywhere() -> dict[str, Builder]:
    """Each value and each stream in each container that it says something about."""
    found: dict[str, Builder] = {}
    for name, make in BOMBS.items():
        found[f"zip_bomb_{name}"] = partial(in_zip, make=make)
        found[f"legacy_bomb_{name}"] = partial(in_legacy, make=make)
        found[f"bare_bomb_{name}"] = partial(in_bare, make=make)
        found[f"distributed_bomb_{name}"] = partial(distributed, make=make)
    values = {name: always(value) for name, value in VALUES.items()}
    for name, make in {**values, **{name: later(make) for name, make in LARGE_VALUES.items()}}.items():
        found[f"zip_{name}"] = partial(in_zip, make=make)
        found[f"legacy_{name}"] = partial(in_legacy, make=make)
        found[f"alone_{name}"] = partial(alone_in_zip, make=make)
    for name in ("tuple_doubled", "dict_doubled", "list_in_itself", "dict_in_itself", "odd_keys", "escapes_in_class"):
        found[f"distributed_{name}"] = partial(distributed, make=values[name])
    for name, size in SHAPES.items():
        found[f"distributed_size_{name}"] = partial(distributed, make=always(described_tensor(size)))
    for name, stream in STREAMS.items():
        found[f"zip_stream_{name}"] = partial(stream_in_zip, stream=stream)
        found[f"bare_stream_{name}"] = partial(stream_in_bare, stream=stream)
        found[f"distributed_stream_{name}"] = partial(stream_in_metadata, stream=stream)
        found[f"legacy_stream_{name}"] = partial(legacy_with, part="object", stream=stream)
    for name, join in BROKEN.items():
        for place in ("zip", "legacy", "bare", "distributed"):
            found[f"{place}_broken_{name}"] = partial(broken, join=join, place=place)
    return found


HOSTILE: dict[str, Builder] = {
    **_everywhere(),
    **{f"zip_{name}": build for name, build in ZIPS.items()},
    **LARGE,
    **{f"legacy_bomb_as_{part}": partial(legacy_part, part=part) for part in LEGACY_PARTS},
    **{
        f"legacy_{part}_is_{name}": partial(legacy_with, part=part, stream=pickled(value))
        for part in LEGACY_PARTS[1:]
        for name, value in (("none", b"N"), ("huge", integer(10**400)), ("escape", text("\x1b[31m")))
    },
    "legacy_keys_are_numbers": partial(legacy_with, part="keys", stream=pickled(b"](K\x00K\x01e")),
    "legacy_keys_are_dicts": partial(legacy_with, part="keys", stream=pickled(b"](}}e")),
    "legacy_keys_repeat": partial(legacy_with, part="keys", stream=pickled(b"](" + text("0") * 1_000 + b"e")),
    "legacy_keys_unknown": partial(legacy_with, part="keys", stream=pickled(b"](" + text("7") + b"e")),
    "legacy_keys_in_themselves": partial(legacy_with, part="keys", stream=pickled(b"]" + put(1) + get(1) + b"a")),
    "legacy_sources": legacy_sources,
    "legacy_claim_2_62": partial(legacy_claim, numel=2**62),
    "legacy_claim_negative": partial(legacy_claim, numel=-24),
    "legacy_claim_smaller": partial(legacy_claim, numel=3),
    **{f"safetensors_{name}": partial(as_safetensors, text=raw) for name, raw in SAFETENSORS.items()},
    **{f"safetensors_{name}": partial(as_safetensors, text=one(), length=n) for name, n in LENGTHS.items()},
    "safetensors_names": safetensors_names,
    "safetensors_header_of_4_gb": sparse_safetensors,
    **{f"index_{name}": partial(shard_index, index=index) for name, index in INDEXES.items()},
    "index_shard_by_link": shard_by_link,
    "distributed_key_of_5_000_digits": partial(distributed_key, key=integer(10**5_000)),
    "distributed_key_is_none": partial(distributed_key, key=b"N"),
    "tar_of_records": tar_of_records,
    "tar_in_lzma": tar_in_lzma,
    "tar_of_pickles": partial(tar_with_pickles, form=tarfile.USTAR_FORMAT),
    "tar_of_pickles_pax": partial(tar_with_pickles, form=tarfile.PAX_FORMAT),
    "archive_7z": partial(archive_in, magic=b"7z\xbc\xaf\x27\x1c\0\4"),
    "archive_rar": partial(archive_in, magic=b"Rar!\x1a\7\1\0"),
    "archive_xz": partial(archive_in, magic=b"\xfd7zXZ\0"),
    "zip_in_zip": zip_in_zip,
    "pickle_then_zip": pickle_then_zip,
    "legacy_then_zip": legacy_then_zip,
    "pipe": pipe,
    "link_to_itself": link_to_itself,
    "nested_folders": nested_folders,
}

# --- what is no checkpoint at all


def plain_file(tmp_path: Path, name: str, content: bytes) -> Path:
    """A file of the given bytes."""
    path = tmp_path / name
    path.write_bytes(content)
    return path


LFS_SIZE = 1_234_567_890
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size " + str(LFS_SIZE).encode() + b"\n"
)
HTML_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n"
ONNX_MODEL = (
    b'\x08\x07\x12\x07pytorch\x1a\x051.13.0:\x83\x01\n\x1b\n\x01x\n\x01w\x12\x01y\x1a\x04conv"\x04Conv' + bytes(64)
)
GGUF_MODEL = b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(64)
HDF5_FILE = b"\x89HDF\r\n\x1a\n" + bytes(8) + b"\x00\x08\x08\x00\x04\x00\x10\x00" + bytes(64)


def tar_file(tmp_path: Path, suffix: str = ".pth.tar", mode: str = "w") -> Path:
    """A real tar with a checkpoint inside."""
    path = tmp_path / f"model{suffix}"
    content = pickled(dict_of((text("conv.weight"), integer(1))))
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("model/weights.pth")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


def npz_file(tmp_path: Path) -> Path:
    """NumPy's archive, a zip as torch's is."""
    path = tmp_path / "weights.npz"
    array = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (24,), }".ljust(117)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weight.npy", array + b"\n" + PAYLOAD)
    return path


def other_zip(tmp_path: Path) -> Path:
    """A zip of something else."""
    path = tmp_path / "notes.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no weights here")
    return path


def folder_without_weights(tmp_path: Path) -> Path:
    """A folder of a model's other files."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# A model\n")
    return folder


def empty_folder(tmp_path: Path) -> Path:
    """A folder of nothing."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


NOT_CHECKPOINTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "lfs_pointer_pt": (partial(plain_file, name="model.pt", content=LFS_POINTER), "git-lfs"),
    "lfs_pointer_safetensors": (partial(plain_file, name="model.safetensors", content=LFS_POINTER), "git-lfs"),
    "lfs_pointer_size": (partial(plain_file, name="model.pt", content=LFS_POINTER), f"{LFS_SIZE:,}"),
    "html": (partial(plain_file, name="model.pth", content=HTML_PAGE), "HTML"),
    "html_safetensors": (partial(plain_file, name="model.safetensors", content=b"\n " + HTML_PAGE.lower()), "HTML"),
    "empty": (partial(plain_file, name="model.pt", content=b""), "empty"),
    "zeros": (partial(plain_file, name="model.pt", content=bytes(4096)), "zero"),
    "zeros_safetensors": (partial(plain_file, name="model.safetensors", content=bytes(4096)), "zero"),
    "tar": (tar_file, "tar"),
    "tar_gz": (partial(tar_file, suffix=".tar.gz", mode="w:gz"), "gzip"),
    "onnx": (partial(plain_file, name="model.onnx", content=ONNX_MODEL), "ONNX"),
    "gguf": (partial(plain_file, name="model.gguf", content=GGUF_MODEL), "GGUF"),
    "hdf5": (partial(plain_file, name="model.h5", content=HDF5_FILE), "HDF5"),
    "npz": (npz_file, "NumPy"),
    "other_zip": (other_zip, "zip"),
    "json": (partial(plain_file, name="config.json", content=b'{"hidden_size": 8}'), "JSON"),
    "text": (partial(plain_file, name="model.pt", content=b"see the wiki for the weights\n"), "text"),
    "folder_without_weights": (folder_without_weights, "folder"),
    "empty_folder": (empty_folder, "folder"),
}

# --- damaged copies


def cut(path: Path, tmp_path: Path, *, fraction: float = 1.0, minus: int = 0) -> Path:
    """A copy in `tmp_path` of `path`'s first `fraction`, then without its last `minus` bytes."""
    content = path.read_bytes()
    target = tmp_path / f"cut_{path.name}"
    target.write_bytes(content[: int(len(content) * fraction) - minus])
    return target


def flip_byte(path: Path, tmp_path: Path, offset: int) -> Path:
    """A copy in `tmp_path` with the byte at `offset` inverted."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    target = tmp_path / f"flipped_{path.name}"
    target.write_bytes(content)
    return target
