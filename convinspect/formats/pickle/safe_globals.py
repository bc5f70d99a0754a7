"""Names that a pickle may ask for: those that PyTorch's safe loading admits, and those that are known to do harm.

Everything here is a list of words; nothing is imported to judge a name.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Sequence
from typing import Literal, NamedTuple

from convinspect.formats.pickle.state import EXTENSION


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TAKEN_FROM = "2.13"
"""The version of PyTorch that `ADMITTED` is of."""

ADMITTED = _words(
    """
_codecs.encode builtins.bytearray builtins.complex builtins.set collections.Counter collections.OrderedDict
torch.BFloat16Storage torch.BFloat16Tensor torch.BoolStorage torch.BoolTensor torch.ByteStorage torch.ByteTensor
torch.CharStorage torch.CharTensor torch.ComplexDoubleStorage torch.ComplexFloatStorage torch.DoubleStorage
torch.DoubleTensor torch.FloatStorage torch.FloatTensor torch.HalfStorage torch.HalfTensor torch.IntStorage
torch.IntTensor torch.LongStorage torch.LongTensor torch.QInt32Storage torch.QInt8Storage torch.QUInt2x4Storage
torch.QUInt4x2Storage torch.QUInt8Storage torch.ShortStorage torch.ShortTensor torch.Size torch.Tensor
torch._tensor._rebuild_from_type_v2 torch._utils._rebuild_device_tensor_from_cpu_tensor
torch._utils._rebuild_device_tensor_from_numpy torch._utils._rebuild_meta_tensor_no_storage
torch._utils._rebuild_nested_tensor torch._utils._rebuild_parameter torch._utils._rebuild_parameter_with_state
torch._utils._rebuild_qtensor torch._utils._rebuild_sparse_tensor torch._utils._rebuild_tensor
torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor_v3 torch._utils._rebuild_wrapper_subclass
torch.bfloat16 torch.bits16 torch.bits1x8 torch.bits2x4 torch.bits4x2 torch.bits8 torch.bool torch.complex128
torch.complex32 torch.complex64 torch.cuda.BFloat16Storage torch.cuda.BFloat16Tensor torch.cuda.BoolStorage
torch.cuda.BoolTensor torch.cuda.ByteStorage torch.cuda.ByteTensor torch.cuda.CharStorage torch.cuda.CharTensor
torch.cuda.ComplexDoubleStorage torch.cuda.ComplexFloatStorage torch.cuda.DoubleStorage torch.cuda.DoubleTensor
torch.cuda.FloatStorage torch.cuda.FloatTensor torch.cuda.HalfStorage torch.cuda.HalfTensor torch.cuda.IntStorage
torch.cuda.IntTensor torch.cuda.LongStorage torch.cuda.LongTensor torch.cuda.ShortStorage torch.cuda.ShortTensor
torch.cuda.sparse.BFloat16Tensor torch.cuda.sparse.ByteTensor torch.cuda.sparse.CharTensor
torch.cuda.sparse.DoubleTensor torch.cuda.sparse.FloatTensor torch.cuda.sparse.HalfTensor
torch.cuda.sparse.IntTensor torch.cuda.sparse.LongTensor torch.cuda.sparse.ShortTensor torch.device torch.float16
torch.float32 torch.float4_e2m1fn_x2 torch.float64 torch.float8_e4m3fn torch.float8_e4m3fnuz torch.float8_e5m2
torch.float8_e5m2fnuz torch.float8_e8m0fnu torch.int1 torch.int16 torch.int2 torch.int3 torch.int32 torch.int4
torch.int5 torch.int6 torch.int64 torch.int7 torch.int8 torch.nn.parameter.Parameter torch.per_channel_affine
torch.per_channel_affine_float_qparams torch.per_channel_symmetric torch.per_tensor_affine
torch.per_tensor_symmetric torch.qint32 torch.qint8 torch.quint2x4 torch.quint4x2 torch.quint8
torch.serialization._get_layout torch.sparse.BFloat16Tensor torch.sparse.ByteTensor torch.sparse.CharTensor
torch.sparse.DoubleTensor torch.sparse.FloatTensor torch.sparse.HalfTensor torch.sparse.IntTensor
torch.sparse.LongTensor torch.sparse.ShortTensor torch.storage.TypedStorage torch.storage.UntypedStorage torch.uint1
torch.uint16 torch.uint2 torch.uint3 torch.uint32 torch.uint4 torch.uint5 torch.uint6 torch.uint64 torch.uint7
torch.uint8
"""
)
"""What `torch.load(weights_only=True)` calls: `_get_allowed_globals` of `torch/_weights_only_unpickler.py`."""

SCRIPTED = ("__torch__.",)
"""What names in the pickles of TorchScript begin with where they are classes of the archive's own code."""

_RESTORE = "torch.jit._pickle."
RESTORED = _words(
    f"""{_RESTORE}build_intlist {_RESTORE}build_tensorlist {_RESTORE}build_doublelist {_RESTORE}build_boollist
    {_RESTORE}build_tensor_from_id {_RESTORE}restore_type_tag"""
)
"""What TorchScript's own pickler, which is C++, writes for lists and types."""

_METADATA, _FILES = "torch.distributed.checkpoint.metadata.", "torch.distributed.checkpoint.filesystem."
DISTRIBUTED = _words(
    f"""{_METADATA}Metadata {_METADATA}TensorStorageMetadata {_METADATA}BytesStorageMetadata {_METADATA}MetadataIndex
    {_METADATA}ChunkStorageMetadata {_METADATA}TensorProperties {_METADATA}StorageMeta {_METADATA}_MEM_FORMAT_ENCODING
    {_FILES}_StorageInfo {_FILES}_StorageWriterTransforms
    pathlib.Path pathlib.PosixPath pathlib.PurePosixPath pathlib.WindowsPath pathlib.PureWindowsPath
    pathlib._local.PosixPath pathlib._local.WindowsPath"""
)
"""What `torch.distributed.checkpoint` itself writes into `.metadata`."""

Kind = Literal["admitted", "executes", "library", "unknown"]


class Judgement(NamedTuple):
    """What is known of a name.

    Attributes:
        kind: "admitted" by PyTorch's safe loading; "executes": known to run commands or code, to open files or
            connections, or to look other names up; "library": of PyTorch, NumPy or a plain value of Python's own
            library; "unknown": anything else, most likely a class of the author's code.
        reason: What it does, of a name that executes; "" of others.
    """

    kind: Kind
    reason: str = ""


_RUNS, _OPENS, _CONNECTS = "runs commands or code", "opens, writes or deletes files", "opens connections"
_LOADS, _LOOKS_UP = "imports or loads other code", "reaches other names, so that what is called stands nowhere"

_KNOWN_BY_REASON = {
    _RUNS: """os posix nt subprocess pty builtins.eval builtins.exec builtins.compile builtins.breakpoint
        builtins.help builtins.input runpy code codeop pdb bdb timeit trace profile cProfile doctest pydoc idlelib
        lib2to3 asyncio multiprocessing concurrent threading _thread signal typing.get_type_hints
        dataclasses.make_dataclass collections.namedtuple sched atexit ctypes _ctypes cffi cgitb
        types.FunctionType types.CodeType types.MethodType types.LambdaType commands popen2 platform.popen
        _posixsubprocess _osx_support _aix_support venv ensurepip pip setuptools distutils pkg_resources IPython
        test.support sqlite3 curses tkinter turtle unittest webbrowser antigravity sys gc inspect faulthandler
        cloudpickle dill torch.hub torch.utils.cpp_extension torch.utils.collect_env torch.utils.bottleneck
        torch._vendor torch._strobelight torch.utils._strobelight torch.backends.xeon torch.utils._get_clean_triton
        torch.utils.hipify torch.utils._traceback torch.utils.data._utils.worker torch.utils.jit torch._guards
        torch.utils.data.dataloader._MultiProcessingDataLoaderIter torch.utils.mobile_optimizer torch._native
        torch._higher_order_ops torch._numpy.testing torch.cuda._memory_viz torch.cuda._utils
        torch.distributed.nn torch.distributed.debug torch.distributed.launcher torch.distributed.pipelining
        numpy.lib.utils numpy.lib._utils_impl numpy.safe_eval numpy._pytesttester numpy.conftest
        typing._eval_type typing.evaluate_forward_ref typing.NamedTuple
        torch.utils._config_module torch.utils.data.datapipes torch.utils.model_dump torch.utils.viz
        torch.fx torch.utils.benchmark torch.utils.data.backward_compatibility torch._weights_only_unpickler
        torch._sources torch._custom_op torch._custom_ops torch.library torch._library
        torch._dynamo torch._inductor torch._export torch._functorch torch._logging
        torch.jit.annotations torch.jit.unsupported_tensor_ops torch.jit.frontend torch.jit._script
        torch.jit.CompilationUnit torch.distributed.rpc torch.distributed.elastic torch.distributed.run
        torch.distributed.launch torch.multiprocessing torch.testing torch.onnx torch.cuda.jiterator
        numpy.f2py numpy.distutils numpy.testing
        numpy.ctypeslib pandas.eval pandas.core.computation numexpr transformers.dynamic_module_utils""",
    _OPENS: """io.open _io.open io.FileIO _io.FileIO io.open_code _io.open_code builtins.open shutil
        tempfile fileinput glob pathlib.Path.open codecs.open linecache tarfile zipfile gzip bz2 lzma zlib
        shelve dbm mmap fcntl logging.FileHandler logging.handlers logging.config logging.basicConfig
        distutils.file_util configparser plistlib mailbox
        numpy.load numpy.save numpy.savez numpy.savez_compressed numpy.savetxt numpy.loadtxt numpy.genfromtxt
        numpy.fromfile numpy.memmap numpy.core.memmap numpy._core.memmap numpy.lib.npyio numpy.lib.format
        numpy.DataSource numpy.lib._datasource numpy.lib._npyio_impl numpy.lib._format_impl
        torch.utils.tensorboard torch.autograd.profiler torch.autograd.profiler_legacy torch.autograd.profiler_util
        torch.profiler torch.numa torch.cuda.gds torch.cuda.tunable torch._appdirs
        torch.cuda._annotate_cuda_graph_trace torch.sparse._triton_ops_meta torch.utils._content_store
        torch.utils._cpp_embed_headers torch.utils._cpp_extension_versioner torch.utils._zip torch.utils._triton
        torch.utils.file_baton torch._utils_internal torch._utils._augment_memory_snapshot_stack_traces
        torch.distributed.tensor.debug torch.distributed.optim.zero_redundancy_optimizer
        torchvision.io torchaudio.io torchaudio.kaldi_io torchaudio.sox_effects
        torchaudio.backend""",
    _CONNECTS: """socket _socket ssl http httplib urllib urllib2 urllib3 ftplib smtplib poplib imaplib nntplib telnetlib
        xmlrpc socketserver SocketServer selectors select requests aiohttp httpx paramiko wsgiref
        torch.distributed torch.utils.model_zoo torchvision.datasets torchvision._internally_replaced_utils
        torchaudio.datasets torchaudio.pipelines torchaudio.prototype.pipelines torchaudio.utils""",
    _LOADS: """importlib imp pkgutil zipimport site builtins.__import__ pickle _pickle cPickle marshal torch.load
        torch.package torch.classes torch.ops torch._classes torch._ops torch.serialization joblib
        torch.jit torch.export torch._C torch.compiler._cache torch._utils._import_dotted_name torch._utils.try_import
        torch.nn.utils._deprecation_utils torch.utils._import_utils torch.utils._pytree.treespec_loads
        torch.utils._pytree._defaultdict_deserialize torch.utils._pytree.enum_object_hook torch.utils.data.graph
        torch.utils.show_pickle torch.cuda.CUDAPluggableAllocator torch.cuda.memory.CUDAPluggableAllocator
        torch.xpu.memory.XPUPluggableAllocator torch._preload_cuda_lib torch._register_device_module
        torch.nn.attention._fa3 torch.nn.attention._fa4 torch.nn.attention.flex_attention._reconstruct_closure_fn
        torchvision.extension torchaudio._extension numpy.core._ufunc_reconstruct numpy._core._ufunc_reconstruct
        pandas.read_pickle pandas.io.pickle numpy.core.multiarray.fromfile yaml jsonpickle shelve modulefinder""",
    _LOOKS_UP: """builtins.getattr builtins.setattr builtins.delattr builtins.globals builtins.locals builtins.vars
        builtins.apply builtins.map builtins.filter builtins.__build_class__ builtins.type builtins.classmethod
        builtins.staticmethod builtins.property builtins.super operator functools.partial functools.partialmethod
        functools.reduce functools.cmp_to_key functools.cached_property itertools _operator _functools
        weakref types.DynamicClassAttribute types.new_class types.prepare_class pydoc.locate
        enum.DynamicClassAttribute enum.reduce""",
    "": """torch.distributed.tensor torch.distributed._tensor torch.distributed.device_mesh.DeviceMesh
        torch.distributed.device_mesh._MeshLayout torch.distributed._mesh_layout torch.distributed._shard
        torch.distributed._sharded_tensor torch.distributed._sharding_spec torch.distributed.fsdp
        torch.distributed._composable torch.distributed.algorithms torch.distributed.optim
        torch.distributed.checkpoint.metadata torch.distributed.distributed_c10d.ReduceOp
        torch.distributed.ReduceOp torch.distributed.distributed_c10d.ProcessGroup torch.jit._pickle
        torch.jit.ScriptFunction torch._C._nn torch._C._special torch._C._fft torch._C._linalg torch._C._sparse
        torch._C._nested torch._C._return_types torch._C.Generator torch._C.TensorBase torch._C._TensorBase
        torch._C.StorageBase torch._C._VariableFunctions torch._C._VariableFunctionsClass torch._C.Size
        torch._C.device torch._C.dtype torch._C.layout torch._C.memory_format torch._C.qscheme torch._C.finfo
        torch._C.iinfo torch._C.Stream torch._C.Event torch._C._distributed_c10d.ReduceOp
        torch._C._distributed_c10d.RedOpType""",
}
"""Of names that begin alike the longest says it; without a reason it is nothing but values, whatever lies around it."""

KNOWN = {name: reason for reason, names in _KNOWN_BY_REASON.items() for name in _words(names)}
_LONGEST = max(name.count(".") for name in (*KNOWN, *IMPORT_MAPPING)) + 1
"""Parts of the longest of them: a hostile name may have a million."""

_TELLING = re.compile(
    r"_?(?:load|save|dump|open|read|write|download|import|exec|eval|compile|unpickle|test)(?:s|_\w*)?"
    r"|add_newdoc|add_docstring|\w*(?:from|to|open|text)_?files?|\w*_from_url|\w*memmap"
    r"|\w*(?:File\w*(?:Reader|Writer|Opener|Lock|Baton|System)|Store|Unpickler|DataSource)"
)
_LOADING = "loads, saves, fetches or runs something, as its name says"
"""What functions of a library are called that do more than compute, wherever in it they stand."""

_PLAIN_MODULES = _words("collections datetime decimal fractions enum ipaddress zoneinfo numbers typing abc")
_PLAIN_NAMES = _words(
    """argparse.Namespace uuid.UUID uuid.SafeUUID types.SimpleNamespace types.MappingProxyType types.GenericAlias
    types.NoneType copyreg._reconstructor copyreg.__newobj__ array.array array._array_reconstructor random.Random
    time.struct_time re._compile logging.getLogger logging.Logger _io.BytesIO io.BytesIO _io.StringIO io.StringIO
    pathlib.Path pathlib.PosixPath pathlib.WindowsPath pathlib.PurePath pathlib.PurePosixPath pathlib.PureWindowsPath
    pathlib._local.Path pathlib._local.PosixPath pathlib._local.WindowsPath string.Template
    builtins.object builtins.dict builtins.list builtins.tuple builtins.set builtins.frozenset builtins.int
    builtins.float builtins.complex builtins.bool builtins.str builtins.bytes builtins.bytearray builtins.slice
    builtins.range builtins.Ellipsis builtins.NotImplemented builtins.print builtins.reversed builtins.enumerate
    builtins.zip builtins.len builtins.sum builtins.min builtins.max builtins.abs builtins.sorted
    zoneinfo.ZoneInfo._unpickle torch._dynamo.decorators._DimRange"""
)
"""Plain values of Python's own library or of modules that do more, and modules of nothing else."""

_LIBRARIES = frozenset(["torch", "numpy", "torchvision", "torchaudio"])

_SUBPACKAGES = _words("torch.signal torch.types torch.jit._pickle numpy.random._pickle")
_SUBMODULES = _words("random typing types numbers")
"""Modules of libraries that are called like one of Python's own; the latter in several places, and harmless there."""

_ANYWHERE = _words(
    """os posix nt sys subprocess pty builtins importlib socket shutil runpy ctypes __builtins__ __globals__ __import__
    __subclasses__ __code__ __getattribute__ __dict__ __class__ __mro__ __bases__ __init__ __reduce__
    __loader__ __spec__ __closure__ __getattr__ _os _sys bltns"""
)
"""Parts that no class of a model has in its name: a dotted name leads through them to something else."""


def classify_global(name: str, extra: frozenset[str] = frozenset()) -> Judgement:
    """What is known of a name that a pickle asks for.

    Args:
        name: As the pickle gives it, module and attribute joined by a dot; names of Python 2 count as today's.
        extra: Names that are ordinary where this pickle comes from, such as `DISTRIBUTED`.
    """
    # Some readers strip blanks and line ends, and some letters are others to Python's own parser.
    plain_letters = name if name.isascii() else unicodedata.normalize("NFKC", name)
    for spelling in dict.fromkeys((name, _of_today(name), "".join(name.split()), plain_letters)):
        reason = _reason(spelling)
        if reason and not any(spelling in plain for plain in (ADMITTED, _PLAIN_NAMES, extra)):
            return Judgement("executes", reason)
    today = _of_today(name)
    if today in ADMITTED or today in extra:
        return Judgement("admitted")
    package, _, attribute = today.partition(".")
    if package in _LIBRARIES or today in _PLAIN_NAMES or (package in _PLAIN_MODULES and _is_own(package, attribute)):
        return Judgement("library")
    if package in sys.stdlib_module_names:
        return Judgement("executes", "is of Python's own library and no plain value, so it may do anything")
    return Judgement("unknown")


def _is_own(module: str, attribute: str) -> bool:
    """Whether an attribute of a module of plain values is one itself, and no module that it imports."""
    attribute = attribute.removeprefix("abc.")
    foreign = attribute in sys.stdlib_module_names and attribute != module  # datetime.datetime is a class
    return not foreign and "." not in attribute and not attribute.startswith("_")


def _reason(name: str) -> str:
    """Why a name is known to do more than build a value; "" when it is not."""
    if name.startswith(EXTENSION):
        return "stands for whatever the reading program registered under that number"
    parts = name.split(".")
    reason = _known(parts)
    if parts[0] in _LIBRARIES and not reason:
        reason = _reason_within(parts)
    if reason:
        return reason
    inside = next((part for part in parts[1:] if part in _ANYWHERE), None)
    return f"leads through {inside} to something else" if inside else ""


def _reason_within(parts: Sequence[str]) -> str:
    """Why a library's name does more than build a value, by its parts behind the library's own."""
    for start in range(1, len(parts)):
        if start < _LONGEST and ".".join(parts[: start + 1]) in _SUBPACKAGES:
            continue
        # A library's module holds whatever it imports itself: torch.storage.io.open is io.open.
        reason = _known(parts[start : start + _LONGEST])
        if reason:
            return reason
        module = parts[start] if start < len(parts) - 1 else ""
        if module in sys.stdlib_module_names and module not in _PLAIN_MODULES | _SUBMODULES:
            return f"leads through {module} to something else"
        if _TELLING.fullmatch(parts[start]):
            return _LOADING
    models = list(parts[:2]) == ["torchvision", "models"]
    return f"{_CONNECTS}, to fetch weights" if models and len(parts) > 2 and parts[-1][:1].islower() else ""


def _known(parts: Sequence[str]) -> str:
    """Why a name is known that these parts begin with."""
    for end in range(min(len(parts), _LONGEST), 0, -1):
        reason = KNOWN.get(".".join(parts[:end]))
        if reason is not None:
            return reason
    return ""


def _of_today(name: str) -> str:
    """A name of Python 2 as Python 3 reads it, which PyTorch's safe loading does too."""
    module, _, attribute = name.rpartition(".")
    # The pickle walker calls Python 2's builtins by today's module already.
    renamed = NAME_MAPPING.get(("__builtin__" if module == "builtins" else module, attribute))
    if renamed is not None:
        return ".".join(renamed)
    parts = name.split(".")
    for end in range(min(len(parts) - 1, _LONGEST), 0, -1):
        moved = IMPORT_MAPPING.get(".".join(parts[:end]))
        if moved is not None:
            return ".".join([moved, *parts[end:]])
    return name
