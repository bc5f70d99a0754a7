"""What `check` finds and what it does not: torch and safetensors write the good files, and one thing is then broken."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from convinspect.checking.findings import CODES, Report
from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.formats.pickle.machine import Machine, Read
from convinspect.formats.pickle.safe_globals import ADMITTED, TAKEN_FROM, classify_global
from support.conversions import converted
from support.hostile import (
    BOMBS,
    HOSTILE,
    NOT_CHECKPOINTS,
    PAYLOAD,
    Member,
    beside_a_layer,
    bomb,
    call,
    cut,
    dict_of,
    flip_byte,
    integer,
    legacy_file,
    named,
    octets,
    pickled,
    raw_zip,
    storage,
    stored,
    tensor,
    text,
    zip_file,
    zip_of,
)
from support.in_process import run
from support.paths import FIXTURES
from support.sampling import some

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def codes(report: Report) -> set[str]:
    return {one.code for one in report.findings}


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"conv.weight": torch.randn(4, 6, 1), "conv.bias": torch.randn(4), "fc.weight": torch.randn(5, 4)}


def saved(folder: Path, thing: object = None, name: str = "model.pt", **options: Any) -> Path:
    path = folder / name
    torch.save(state() if thing is None else thing, path, **options)
    return path


class Small(nn.Module):
    """A model to script, trace and export."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).movedim(1, -1))  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------- no false alarm


def _training(folder: Path) -> Path:
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 6, 2)).sum().backward()
    optimizer.step()
    rng = torch.get_rng_state()
    content = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": rng, "args": [1.5]}
    return saved(folder, content)


def _odd_sizes(folder: Path) -> Path:
    big = torch.randn(64, 8)
    content = {"empty": torch.zeros(0), "view": big[:4, ::2], "turned": big.t(), "scalar": torch.tensor(3.0)}
    return saved(folder, {**content, **{str(n): torch.zeros(n, dtype=torch.uint8) for n in range(1, 70)}})


def _script(folder: Path) -> Path:
    torch.jit.save(torch.jit.script(Small()), folder / "script.pt")
    return folder / "script.pt"


def _trace(folder: Path) -> Path:
    traced = torch.jit.trace(Small(), torch.zeros(1, 6, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, folder / "trace.pt")
    return folder / "trace.pt"


def _exported(folder: Path) -> Path:
    torch.export.save(torch.export.export(Small(), (torch.zeros(1, 6, 2),)), folder / "model.pt2")
    return folder / "model.pt2"


def _safetensors(folder: Path) -> Path:
    save_file(state(), folder / "model.safetensors", {"format": "pt", "ü": "[bold]"})
    return folder / "model.safetensors"


def _sharded(folder: Path) -> Path:
    parts: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (key, value) in enumerate(state().items()):
        parts[f"{'ab'[number % 2]}.safetensors"][key] = value
    for name, part in parts.items():
        save_file(part, folder / name)
    total = sum(value.nbytes for value in state().values())
    weight_map = {key: name for name, part in parts.items() for key in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _distributed(folder: Path) -> Path:
    save_distributed({"model": state(), "step": 3, "names": ["a"]}, checkpoint_id=str(folder / "dcp"), no_dist=True)
    return folder / "dcp"


ORDINARY: dict[str, Callable[[Path], Path]] = {
    "zip": saved,
    "zip of an OrderedDict": lambda folder: saved(folder, OrderedDict(state())),
    "zip of a module's state": lambda folder: saved(folder, Small().state_dict()),
    "zip by protocol 3": lambda folder: saved(folder, pickle_protocol=3),
    "legacy": lambda folder: saved(folder, _use_new_zipfile_serialization=False),
    "training": _training,
    "odd sizes": _odd_sizes,
    "script": _script,
    "trace": _trace,
    "exported": _exported,
    "safetensors": _safetensors,
    "sharded": _sharded,
    "distributed": _distributed,
}


@pytest.mark.parametrize("values", [False, True], ids=["bytes", "values"])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_files_raise_no_alarm(tmp_path: Path, name: str, values: bool) -> None:
    report = check(ORDINARY[name](tmp_path), values)
    assert not report.findings
    assert report.exit_code == 0
    assert report.format


WEIGHTS_ONLY = sorted(path for path in FIXTURES.iterdir() if path.suffix in (".pt", ".ckpt") and path.is_file())


@pytest.mark.parametrize("path", WEIGHTS_ONLY, ids=lambda path: path.name)
def test_fixtures_name_nothing_more_exactly_where_safe_loading_takes_them(path: Path) -> None:
    report = check(path, values=path.name not in ("odd_tensors.pt",))
    if path.name.endswith(("_script.pt", "_trace.pt")):
        assert not report.findings
        return
    try:
        torch.load(path, weights_only=True)
        loads = True
    except Exception:
        loads = False
    # Before 1.6 a module's class is refused for its wrapping already.
    assert loads == (report.exit_code == 0)
    assert all(code.startswith("global-") for code in codes(report))


OTHERS = ["dtypes.safetensors", "gpt2_names.safetensors", "sharded", "sharded_bin", "distributed", "pointnet_stnkd.pt2",
          "sharded/model.safetensors.index.json"]  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_fixtures_are_whole(name: str) -> None:
    assert not check(FIXTURES / name, values=True).findings


@pytest.mark.parametrize("name", ["pointnet_stnkd.pt", "pointnet_stnkd_legacy.pt", "pointnet_stnkd.safetensors"])
def test_what_convert_writes_is_whole(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    converted(FIXTURES / name, target)
    assert not check(target, values=True).findings


def test_a_whole_module_is_named_as_beyond_the_safe_set_and_no_more(tmp_path: Path) -> None:
    report = check(saved(tmp_path, nn.Sequential(nn.Conv1d(6, 4, 1), nn.ReLU())))
    assert report.exit_code == 1
    assert codes(report) == {"global-library"}
    assert "no sign of malice" in CODES["global-library"].meaning
    found = {one.subject.removeprefix("torch.nn.modules.") for one in report.findings}
    assert found == {"container.Sequential", "conv.Conv1d", "activation.ReLU"}


# ------------------------------------------------------------------------------------------- names


def test_the_safe_set_is_that_of_pytorch() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    theirs = set(_get_allowed_globals())
    if torch.__version__.startswith(TAKEN_FROM):
        assert theirs == ADMITTED
    else:
        assert {name for name in theirs & ADMITTED if "_rebuild" in name}


_EXECUTES = """os.system posix.system nt.system subprocess.Popen builtins.eval builtins.exec __builtin__.eval
    builtins.getattr builtins.__import__ builtins.open runpy.run_path pty.spawn socket.create_connection
    webbrowser.open shutil.rmtree importlib.import_module operator.attrgetter operator.methodcaller
    functools.partial types.FunctionType types.CodeType code.interact pip.main pickle.loads _pickle.loads
    cPickle.loads torch.load torch.hub.load numpy.load commands.getoutput torch.storage._load_from_bytes
    torch.serialization.load shutil.os.system torch.os.system collections.abc.sys.modules
    torch.Tensor.__init__.__globals__ pathlib.PosixPath.unlink smtplib.SMTP
    torch.fx.graph_module.reduce_graph_module torch.storage.io.open
    torch.functional.operator.attrgetter numpy.testing._private.utils.runstring timeit.timeit bdb.Bdb.run
    torch.PyTorchFileWriter torch.PyTorchFileReader torch._C.PyTorchFileWriter torch._C.import_ir_module
    torch._C._VariableFunctions.from_file torch._C._distributed_c10d.TCPStore torch.from_file torch._VF.from_file
    torch.jit.save torch.jit._serialization.load torch.jit.jit_module_from_flatbuffer torch.export.load
    torch.export.pt2_archive._package.load_pt2 torch.UntypedStorage.from_file torch.FloatStorage.from_file
    torch.storage.TypedStorage.from_file torch.distributed.TCPStore torch.distributed.FileStore
    torch.distributed.distributed_c10d._tensor_to_object torch.distributed.broadcast_object_list
    torch.distributed.init_process_group torch.distributed.checkpoint.filesystem.FileSystemReader
    torch.distributed.nn.jit.instantiator._do_instantiate_remote_module_template torch.utils.file_baton.FileBaton
    torch.utils.model_zoo.load_url torch.utils._content_store.ContentStoreWriter torch.profiler.profile
    torch.cuda.memory._dump_snapshot torch.numa.binding.maybe_wrap_command_args_with_numa_binding
    torch._utils._import_dotted_name torch._utils_internal.get_writable_path torch.backends.xeon.run_cpu.main
    torchvision.datasets.utils.download_url torchvision.datasets.MNIST torchvision.io.read_image
    torchvision.utils.save_image torchvision.models.resnet50 torchvision.models.resnet.resnet18 torchaudio.load
    numpy.lib._npyio_impl.load numpy.lib.utils.safe_eval numpy.ndarray.tofile numpy.ndarray.dump numpy.memmap
    numpy.rec.fromfile numpy.core._ufunc_reconstruct numpy.test typing.operator typing.functools
    typing._eval_type typing.operator.attrgetter enum.bltns enum.bltns.eval collections._sys.modules
    collections._itemgetter fractions.operator ipaddress.functools torch.nn.functional.copy.copyreg
    torch.ao.__getattr__ torch.utils.data.random._os.system"""
EXECUTES = _EXECUTES.split()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torch._utils._rebuild_tensor_v2", "admitted"),
        ("__builtin__.set", "admitted"),
        ("builtins.long", "library"),
        ("numpy.random._pickle.__randomstate_ctor", "library"),
        ("torch.signal.windows.windows.hann", "library"),
        ("collections.abc.Callable", "library"),
        ("torch.nn.modules.conv.Conv1d", "library"),
        ("numpy.core.multiarray.scalar", "library"),
        ("argparse.Namespace", "library"),
        ("copy_reg._reconstructor", "library"),
        ("pathlib.PosixPath", "library"),
        ("torch._dynamo.decorators._DimRange", "library"),
        ("zoneinfo.ZoneInfo._unpickle", "library"),
        ("enum.Enum", "library"),
        ("datetime.datetime", "library"),
        ("typing.Any", "library"),
        ("torch._C._nn.gelu", "library"),
        ("torch._C.Generator", "library"),
        ("torch.distributed.tensor.DTensor", "library"),
        ("torch.distributed.device_mesh.DeviceMesh", "library"),
        ("torch.cuda.random.set_rng_state", "library"),
        ("torchvision.models.resnet.ResNet", "library"),
        ("torchvision.models.resnet.ResNet50_Weights", "library"),
        ("torch.nn.modules.fold.Unfold", "library"),
        ("numpy.ma.core._mareconstruct", "library"),
        ("__main__.Net", "unknown"),
        ("test.Net", "unknown"),
        ("models.os_net.Net", "unknown"),
        *[(name, "executes") for name in EXECUTES],
    ],
)
def test_names_are_judged(name: str, kind: str) -> None:
    assert classify_global(name).kind == kind


def test_no_class_of_a_model_is_said_to_execute() -> None:
    """Everything that people pickle: layers, optimizers, schedulers, distributions, quantizers, random states."""
    named: set[str] = set()
    for module in list(sys.modules.values()):
        here = getattr(module, "__name__", "")
        if here.startswith(("torch.nn.modules", "torch.optim", "torch.distributions", "torch.ao.nn", "numpy.random._")):
            named |= {f"{here}.{one.__qualname__}" for one in vars(module).values() if one_of(one, here)}
    assert len(named) > 300
    assert {name: classify_global(name).reason for name in named if classify_global(name).kind == "executes"} == {}


def one_of(thing: object, module: str) -> bool:
    return isinstance(thing, type) and thing.__module__ == module


def test_a_name_of_a_hundred_thousand_parts_is_judged_at_once() -> None:
    start = time.process_time()
    for part in ("torch", "a", "urllib2", "builtins"):
        classify_global(".".join([part] * 100_000))
    assert time.process_time() - start < 2


def test_names_past_those_that_are_listed_are_counted(tmp_path: Path) -> None:
    many = b"](" + b"".join(b"cmodels\nNet%d\n" % number for number in range(1_500)) + b"e"
    report = check(zip_file(tmp_path, beside_a_layer(many)))
    assert sum(one.code == "global-unknown" for one in report.findings) == 1_000
    assert report.looked["names"] - report.looked["admitted"] == 1_500
    assert any("500 more" in note for note in report.notes)


def test_a_long_name_is_shown_in_part(tmp_path: Path) -> None:
    report = check(zip_file(tmp_path, beside_a_layer(named("models", "N" * 100_000))))
    assert max(len(one.message) for one in report.findings) < 700


def in_bytes(report: Report, name: str) -> bytes:
    """The bytes of the file that a name's place says."""
    (one,) = [one for one in report.findings if one.subject == name]
    assert one.place.in_file is not None
    assert one.place.length is not None
    return one.path.read_bytes()[one.place.in_file :][: one.place.length]


def test_a_name_is_given_with_its_place(tmp_path: Path) -> None:
    path = zip_file(tmp_path, beside_a_layer(bomb(tmp_path / "marker")))
    report = check(path)
    assert in_bytes(report, "os.system") == b"cos\nsystem\n"
    (one,) = [one for one in report.findings if one.subject == "os.system"]
    assert one.place.record == "archive/data.pkl"
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/data.pkl")[one.place.offset :].startswith(b"cos\nsystem\n")
    old = legacy_file(tmp_path, object=beside_a_layer(bomb(tmp_path / "marker")))
    assert in_bytes(check(old), "os.system") == b"cos\nsystem\n"


CONTAINERS = ("zip", "legacy", "bare", "distributed")


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", BOMBS)
def test_every_bomb_is_named(tmp_path: Path, container: str, name: str) -> None:
    marker = tmp_path / "marker"
    report = check(HOSTILE[f"{container}_bomb_{name}"](tmp_path, marker))
    assert not marker.exists()
    assert report.exit_code in (1, 2)
    assert "global-executes" in codes(report)
    assert report.exit_code == 2 or container != "bare"


@pytest.mark.parametrize("part", ["magic", "protocol", "sys_info", "object", "keys"])
def test_bombs_in_every_pickle_of_an_old_file_are_named(tmp_path: Path, part: str) -> None:
    report = check(HOSTILE[f"legacy_bomb_as_{part}"](tmp_path, tmp_path / "marker"))
    assert report.exit_code in (1, 2)
    assert "os.system" in {one.subject for one in report.findings}


LETTERS = ["modülé.Klässe", "模型.网络", "mod\x1b[31mé.Net"]


@pytest.mark.parametrize("name", LETTERS)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_name_of_any_letters_is_listed(tmp_path: Path, name: str, old: bool, stacked: bool) -> None:
    """Python's unpickler takes them in GLOBAL as in STACK_GLOBAL, so a file with one is no broken file."""
    module, _, attribute = name.partition(".")
    pushed = text(module) + text(attribute) + b"\x93" if stacked else named(module, attribute)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"No module named {module!r}")):
        pickle.loads(b"\x80\x02" + pushed + b".")
    stream = beside_a_layer(pushed)
    path = legacy_file(tmp_path, object=stream) if old else zip_file(tmp_path, stream)
    report = check(path)
    assert report.exit_code == 1
    assert [one.subject for one in report.findings if one.code == "global-unknown"] == [name]
    assert in_bytes(report, name) == pushed
    assert list(open_checkpoint(path).tensors) == ["conv.weight"]
    done = run("check", path)
    assert done.returncode == 1
    assert name.replace("\x1b", "\\x1b") in done.stdout
    assert "\x1b" not in done.stdout


BREAKS = [b"\xff.", b"", b"K", b"0000000000.", b"u.", b"h\x63."]


@pytest.mark.parametrize("rest", BREAKS)
def test_a_stream_that_breaks_after_the_call_still_names_it(tmp_path: Path, rest: bytes) -> None:
    stream = b"\x80\x02" + bomb(tmp_path / "marker") + rest
    for path in (zip_file(tmp_path, stream), legacy_file(tmp_path, object=stream)):
        report = check(path)
        assert report.exit_code == 2
        assert "os.system" in {one.subject for one in report.findings}


@pytest.mark.parametrize("suffix", ["pt", "txt"])
def test_a_pickle_of_text_is_not_taken_for_text_alone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'touch /tmp/x'\ntR.")
    report = check(path)
    assert report.exit_code == 2
    assert "os.system" in {one.subject for one in report.findings}


def nested(inner: bytes) -> Iterator[tuple[str, bytes]]:
    """A pickle within a pickle, in every form in which picklers write bytes."""
    yield "bytes", call(named("numpy", "frombuffer"), octets(inner))
    yield "short bytes", b"C" + bytes([len(inner)]) + inner
    encoded = text(inner.decode("latin-1"))
    yield "text", call(named("_codecs", "encode"), encoded, text("latin1"))
    yield "twice", octets(pickled(octets(inner)))
    yield "list", b"](" + octets(inner) + b"e"


@pytest.mark.parametrize("number", range(5))
def test_pickles_within_pickles_are_looked_at(tmp_path: Path, number: int) -> None:
    name, value = list(nested(pickled(bomb(tmp_path / "m"))))[number]
    report = check(zip_file(tmp_path, beside_a_layer(value)))
    assert "os.system" in {one.subject for one in report.findings}, name
    place = next(one.place for one in report.findings if one.subject == "os.system")
    assert "a string in it" in place.record


def test_archives_and_old_files_within_pickles_are_looked_at(tmp_path: Path) -> None:
    for inner in (
        zip_file(tmp_path, pickled(bomb(tmp_path / "m"))),
        legacy_file(tmp_path, object=pickled(bomb(tmp_path))),
    ):
        outer = tmp_path / "outer"
        outer.mkdir(exist_ok=True)
        report = check(zip_file(outer, beside_a_layer(octets(inner.read_bytes()))))
        assert "os.system" in {one.subject for one in report.findings}


def test_bytes_that_only_begin_like_a_pickle_are_no_finding(tmp_path: Path) -> None:
    report = check(
        zip_file(tmp_path, beside_a_layer(b"](" + octets(b"\x80\x02\xff\xfe" * 9) + octets(b"PK\3\4no") + b"e"))
    )
    assert not report.findings


def test_names_in_other_records_are_found(tmp_path: Path) -> None:
    good = pickled(dict_of((text("conv.weight"), tensor())))
    for name in ("other.pkl", "extra/x.pkl", "code/x.py.debug_pkl", "data/7"):
        report = check(zip_of(tmp_path / "model.pt", {"data.pkl": good, name: pickled(bomb(tmp_path))}))
        assert "os.system" in {one.subject for one in report.findings}, name


OLD_BOMB = b"cposix\nsystem\n(S'touch /tmp/x'\ntR."
"""Of protocol 0, which begins by no header."""


def replaced(path: Path, ending: str, content: bytes) -> Path:
    """The archive with one record's bytes put in place of its own."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = [name for name in records if name.endswith(ending)]
    with zipfile.ZipFile(path, "w") as archive:
        for record, data in records.items():
            archive.writestr(record, content if record == name else data)
    return path


@pytest.mark.parametrize("record", ["weights/weight_0", "sample_inputs/model.pt"])
def test_every_record_of_an_export_may_be_a_pickle(tmp_path: Path, record: str) -> None:
    """`torch.export.load` unpickles weights whose configuration asks for it, whatever their names are."""
    for content in (OLD_BOMB, pickled(bomb(tmp_path / "m")), legacy_file(tmp_path, object=pickled(bomb(tmp_path)))):
        data = content if isinstance(content, bytes) else content.read_bytes()
        report = check(replaced(_exported(tmp_path), record, data))
        assert "global-executes" in codes(report)
    broken = replaced(_exported(tmp_path), record, b"\x80\x02cmodels\nNet\n)R\xff")
    assert "models.Net" in {one.subject for one in check(broken).findings}


def test_a_pickle_of_protocol_0_beside_a_script(tmp_path: Path) -> None:
    for name in ("x.pkl", "x"):
        path = _script(tmp_path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"script/extra/{name}", OLD_BOMB)
        assert "posix.system" in {one.subject for one in check(path).findings}


def test_a_record_that_claims_to_be_a_pickle_and_is_none(tmp_path: Path) -> None:
    path = _script(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("script/extra/x.pkl", b"no pickle")
    assert check(path).exit_code == 2


def test_machine_code_is_told_of(tmp_path: Path) -> None:
    for name in ("data/aotinductor/model/x", "data/aotinductor/model/x.so"):
        path = _exported(tmp_path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"model/{name}", b"\x7fELF" + bytes(60) if not name.endswith("so") else b"code")
        assert codes(check(path)) == {"native-code"}


def test_archives_too_deep_to_follow_are_not_clean(tmp_path: Path) -> None:
    content = saved(tmp_path).read_bytes()
    for _ in range(7):
        path = tmp_path / "deep.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data/inner.pt", content)
        content = path.read_bytes()
    outer = _script(tmp_path)
    with zipfile.ZipFile(outer, "a") as archive:
        archive.writestr("script/extra/deep", content)
    report = check(outer)
    assert report.exit_code == 2
    assert any("too deeply" in one.message for one in report.findings)


def test_an_archive_within_a_pickle_that_python_cannot_read(tmp_path: Path) -> None:
    inner = zip_file(tmp_path, pickled(bomb(tmp_path / "m"))).read_bytes()
    damaged = inner.replace(b"system", b"systen", 1)
    outer = tmp_path / "outer"
    outer.mkdir()
    assert check(zip_file(outer, beside_a_layer(octets(damaged)))).exit_code == 2


def test_checkpoints_within_archives_are_looked_at(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    evil = zip_file(inner, pickled(bomb(tmp_path))).read_bytes()
    good = pickled(dict_of((text("conv.weight"), tensor())))
    report = check(zip_of(tmp_path / "model.pt", {"data.pkl": good, "data/inner.pt": evil}))
    assert in_bytes(report, "os.system") == b"cos\nsystem\n"
    assert "inner.pt > " in next(one.place.record for one in report.findings if one.subject == "os.system")


def test_instructions_that_reach_objects_in_odd_ways(tmp_path: Path) -> None:
    counter = named("collections", "Counter")
    for value in (b"(icollections\nCounter\n", b"(" + counter + b"o", counter + b"}b", b"Pstorage\n"):
        report = check(zip_file(tmp_path, beside_a_layer(value)))
        assert "odd-instruction" in codes(report)
        assert report.exit_code >= 1


REFUSED = [
    *(b"K\x012N00", b"N0N", b"(NN1N", b"(NNl", b"(NNd", b"\x8b\x01\0\0\0\x07"),
    *(b"I94000\n", b"L94000L\n", b"F0.5\n", b"S'key'\n", b"T\x03\0\0\0key", b"Vkey\n"),
]


@pytest.mark.parametrize("value", REFUSED)
def test_instructions_that_safe_loading_refuses(tmp_path: Path, value: bytes) -> None:
    path = zip_file(tmp_path, beside_a_layer(value))
    assert codes(check(path)) == {"refused-instruction"}
    with pytest.raises(pickle.UnpicklingError, match="Unsupported operand"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", ["tensors", "bytes", "sets"])
@pytest.mark.parametrize("protocol", range(1, 6))
def test_protocols_are_judged_as_safe_loading_does(tmp_path: Path, protocol: int, content: str, zipped: bool) -> None:
    contents: dict[str, dict[str, Any]] = {"bytes": {"b": b"abc"}, "sets": {"s": {1, 2}, "yes": True}}
    beside = contents.get(content, {})
    options: dict[str, Any] = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    path = saved(tmp_path, {**state(), **beside}, **options)
    try:
        torch.load(path, weights_only=True)
    except pickle.UnpicklingError:
        assert codes(check(path)) == {"refused-instruction"}
    else:
        assert check(path).findings == ()


def test_a_later_instruction_in_a_pickle_of_protocol_2(tmp_path: Path) -> None:
    path = zip_file(tmp_path, beside_a_layer(b"\x8c\x0bcollections\x8c\x0bOrderedDict\x93"))
    (one,) = check(path).findings
    assert (one.code, one.message[:12]) == ("refused-instruction", "STACK_GLOBAL")


def test_torchscript_that_saves_files_is_told_of(tmp_path: Path) -> None:
    path = _script(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("script/code/__torch__/evil.py", 'def f(x):\n  torch.save(x, "/tmp/x")\n')
    report = check(path)
    assert "script-opens" in codes(report)
    assert any("TorchScript" in note for note in report.notes)


# ------------------------------------------------------------------------------------------- zip


def payload_at(path: Path, record: str) -> int:
    with zipfile.ZipFile(path) as archive:
        offset = next(info.header_offset for info in archive.infolist() if info.filename.endswith(record))
    name, extra = struct.unpack_from("<HH", path.read_bytes(), offset + 26)
    return int(offset + 30 + name + extra)


def test_one_flipped_byte_that_torch_loads(tmp_path: Path) -> None:
    good = saved(tmp_path)
    bad = flip_byte(good, tmp_path, payload_at(good, "data/0") + 5)
    assert not torch.equal(torch.load(bad)["conv.weight"], state()["conv.weight"])
    report = check(bad)
    assert codes(report) == {"wrong-crc"}
    (one,) = report.findings
    assert one.place.record.endswith("data/0")
    assert report.exit_code == 1


def test_every_flipped_byte_of_a_small_file_is_found(tmp_path: Path) -> None:
    """Each byte of the file is part of something that is held against something else."""
    good = saved(tmp_path, {"w": torch.randn(3)})
    content = good.read_bytes()
    quiet = []
    offsets = some(range(len(content)), 400)
    for offset in offsets:
        bad = flip_byte(good, tmp_path, offset)
        if check(bad).exit_code == 0:
            quiet.append(offset)
    # Versions, times and attributes mean nothing to anyone who reads a checkpoint.
    assert len(quiet) < 0.13 * len(offsets)
    with zipfile.ZipFile(good) as archive:
        payloads = [(payload_at(good, info.filename), info.file_size) for info in archive.infolist()]
    assert not [at for at in quiet if any(start <= at < start + size for start, size in payloads)]


def test_a_wrong_crc_is_told_apart_from_none(tmp_path: Path) -> None:
    wrong = [stored("data.pkl", pickled(dict_of((text("w"), tensor())))), stored("data/0", PAYLOAD)]
    wrong.append(stored("version", b"3\n"))
    assert codes(check(raw_zip(tmp_path / "none.pt", wrong))) == {"no-crc"}
    good = saved(tmp_path)
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        crc = struct.pack("<L", next(one.CRC for one in archive.infolist() if one.filename.endswith("data/0")))
    assert content.count(crc) == 2
    bad = tmp_path / "bad.pt"
    bad.write_bytes(bytes(content).replace(crc, b"\1\2\3\4"))
    assert codes(check(bad)) == {"wrong-crc"}


def test_a_crc_that_is_zero_by_itself(tmp_path: Path) -> None:
    content = bytearray(b"\x9d\x0a\xd9\x6d")
    assert zlib.crc32(content) == 0
    path = saved(tmp_path, {"w": torch.frombuffer(content, dtype=torch.int32)})
    report = check(path)
    assert report.findings == ()
    assert report.looked["crcs"] == report.looked["records"]


def test_crcs_that_torch_did_not_compute(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        report = check(saved(tmp_path))
    finally:
        torch.serialization.set_crc32_options(True)
    assert codes(report) == {"no-crc"}
    assert len(report.findings) == 1
    assert report.exit_code == 1
    assert report.looked["crcs"] == 0


def rewritten(path: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        change(archive)
    return path


def _bytes_between(archive: zipfile.ZipFile) -> None:
    assert archive.fp is not None
    archive.fp.seek(archive.start_dir)
    archive.fp.write(b"hidden")
    archive.start_dir += 6
    archive._didModify = True  # type: ignore[attr-defined]


def test_bytes_between_records(tmp_path: Path) -> None:
    report = check(rewritten(saved(tmp_path), _bytes_between))
    assert codes(report) == {"gap"}
    (one,) = report.findings
    assert one.path.read_bytes()[one.place.in_file or 0 :][: one.place.length] == b"hidden"


@pytest.mark.parametrize("where", ["before", "behind", "comment"])
def test_bytes_around_an_archive(tmp_path: Path, where: str) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    if where == "comment":
        path.write_bytes(content[:-2] + b"\4\0evil")
    else:
        path.write_bytes(content + b"evil" if where == "behind" else b"PK\3\4evil" + content)
    assert check(path).exit_code in (1, 2)
    if where != "before":
        assert codes(check(path)) == {"trailing-bytes"}


def test_what_hides_in_padding(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    at = content.index(b"ZZZZZZZZ")
    path.write_bytes(content[:at] + b"hidden!!" + content[at + 8 :])
    assert codes(check(path)) == {"gap"}


def test_headers_that_disagree(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(b"data/0")
    content[at : at + 6] = b"data/9"
    path.write_bytes(content)
    report = check(path)
    assert "header-differs" in codes(report)
    assert "data/9" in report.findings[0].message


def test_end_records_that_disagree(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[-22 + 10] += 1
    content[-22 + 8] += 1
    path.write_bytes(content)
    assert "end-records" in codes(check(path))


def test_names_that_occur_twice(tmp_path: Path) -> None:
    report = check(HOSTILE["zip_two_data_pkl"](tmp_path, tmp_path / "m"))
    assert {"duplicate-name", "unreadable", "global-executes"} <= codes(report)
    assert report.exit_code == 2
    other = tmp_path / "other"
    other.mkdir()
    assert "several-pickles" in codes(check(HOSTILE["zip_two_archives"](other, tmp_path / "m")))


def test_names_that_differ_in_case_alone(tmp_path: Path) -> None:
    """To PyTorch they are one name, and it finds either."""
    path = saved(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/DATA.PKL", pickled(dict_of((text("w"), tensor()))))
    assert "duplicate-name" in codes(check(path))
    lone = tmp_path / "lone.pt"
    with zipfile.ZipFile(saved(tmp_path, name="other.pt")) as archive, zipfile.ZipFile(lone, "w") as upper:
        for info in archive.infolist():
            upper.writestr(info.filename.replace("data.pkl", "DATA.PKL"), archive.read(info))
    assert torch.load(lone).keys() == state().keys()


def repacked(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of a zip with records changed, or left out where None is given."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as changed:
        for name in archive.namelist():
            content = change(name.partition("/")[2], archive.read(name))
            if content is not None:
                changed.writestr(name, content)
    return target


def without(source: Path, target: Path, name: str, instead: bytes | None = None) -> Path:
    """A copy of a zip that lacks a record, or holds something else in it."""
    return repacked(source, target, lambda found, content: instead if found == name else content)


def loads(path: Path) -> bool:
    """Whether PyTorch reads it."""
    load: Any = {".pt2": torch.export.load, ".ts": torch.jit.load}.get(path.suffix, torch.load)
    try:
        load(path)
    except Exception:  # whatever it raises
        return False
    return True


@pytest.mark.parametrize("version", [b"0", b"1", b"10\n", b"11", b"99\n", b"-1", b"x", b"", b" 3", b"3 4", None])
@pytest.mark.parametrize(("make", "suffix"), [(saved, ".pt"), (_script, ".ts"), (_exported, ".pt2")])
def test_a_version_that_pytorch_refuses(
    tmp_path: Path, make: Callable[[Path], Path], suffix: str, version: bytes | None
) -> None:
    path = repacked(
        make(tmp_path),
        tmp_path / f"other{suffix}",
        lambda name, content: version if name in ("version", ".data/version") else content,
    )
    found = codes(check(path))
    assert (found == set()) == loads(path)
    assert found <= {"record-missing" if version is None else "bad-metadata"}


@pytest.mark.parametrize(("make", "suffix"), [(_script, ".ts"), (_trace, ".ts"), (_exported, ".pt2"), (saved, ".pt")])
def test_a_record_that_is_left_out_is_missed_where_pytorch_misses_it(
    tmp_path: Path, make: Callable[[Path], Path], suffix: str
) -> None:
    source = make(tmp_path)
    with zipfile.ZipFile(source) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    for gone in names:
        path = without(source, tmp_path / f"other{suffix}", gone)
        if gone != "code/__torch__/torch/nn/functional.py":
            assert (check(path).exit_code == 0) == loads(path), gone


class Constants(nn.Module):
    """A model with a weight, a constant tensor and a buffer that is not saved with the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("mask", torch.ones(3), persistent=False)
        self.register_buffer("mean", torch.zeros(3))
        self.scale = torch.full((3,), 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.fc(x) - self.mean) * self.mask * self.scale  # type: ignore[no-any-return]


def test_what_an_exported_graph_takes_is_held_against_the_lists(tmp_path: Path) -> None:
    source = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Constants(), (torch.zeros(1, 4),)), source)
    assert check(source).findings == ()
    for what in ("weights", "constants"):
        config = f"data/{what}/model_{what}_config.json"
        path = without(source, tmp_path / "less.pt2", config, b'{"config": {}}')
        assert codes(check(path)) == {"storage-short"}
        assert not loads(path)
    path = repacked(source, tmp_path / "less.pt2", lambda name, c: None if name.endswith("tensor_0") else c)
    assert codes(check(path)) == {"storage-short"}
    path = repacked(source, tmp_path / "less.pt2", lambda name, c: b"{" if name.endswith("model.json") else c)
    assert check(path).exit_code == 2


def test_source_text_that_is_no_text(tmp_path: Path) -> None:
    path = repacked(
        _script(tmp_path), tmp_path / "x.ts", lambda name, c: b"\xff\xfe garbage(" if name.endswith(".py") else c
    )
    assert not loads(path)
    assert codes(check(path)) == {"bad-metadata"}


@pytest.mark.parametrize("dtype", [torch.quint4x2, torch.quint2x4])
@pytest.mark.parametrize("numel", [1, 4, 5, 13, 64])
@pytest.mark.parametrize("zipped", [True, False])
def test_values_that_share_a_byte(tmp_path: Path, dtype: torch.dtype, numel: int, zipped: bool) -> None:
    packed = torch._empty_affine_quantized((numel,), scale=0.1, zero_point=0, dtype=dtype)
    path = saved(tmp_path, {"q.weight": packed}, _use_new_zipfile_serialization=zipped)
    assert check(path).findings == ()
    (tensor,) = open_checkpoint(path).tensors.values()
    assert tensor.whole
    assert tensor.nbytes == packed.untyped_storage().nbytes()
    short = repacked(path, tmp_path / "short.pt", lambda name, c: c[:-1] if name == "data/0" else c) if zipped else path
    assert codes(check(short)) == ({"storage-short"} if zipped else set())


@pytest.mark.parametrize("behind", [b"hello", b"PK\5\6hello", b"PK\5\6" + bytes(17), b"PK\5\6x" * 3])
def test_bytes_behind_the_end_that_pytorch_passes_over(tmp_path: Path, behind: bytes) -> None:
    path = saved(tmp_path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + behind)
    assert torch.load(path).keys() == state().keys()
    (one,) = check(path).findings
    assert (one.code, one.place.offset, one.place.length) == ("trailing-bytes", size, len(behind))
    checkpoint = open_checkpoint(path)
    assert (checkpoint.read("conv.weight") == state()["conv.weight"].numpy()).all()


def test_a_false_end_record_that_pytorch_takes_is_no_clean_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    for behind in (b"PK\5\6" + b"x" * 18, b"PK\5\6" + bytes(18)):
        other = tmp_path / "other.pt"
        other.write_bytes(path.read_bytes() + behind)
        assert not loads(other)
        assert check(other).exit_code >= 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_a_signalling_nan_is_found_without_a_warning(tmp_path: Path, dtype: torch.dtype) -> None:
    bits = {8: (torch.int64, 0x7FF0000000000001), 4: (torch.int32, 0x7F800001), 2: (torch.int16, 0x7C01)}
    part = torch.float32 if dtype == torch.complex64 else dtype
    kind, value = bits[part.itemsize]
    number = torch.tensor([1, 0x7F81 if dtype == torch.bfloat16 else value], dtype=kind).view(part)
    values = torch.view_as_complex(number) if dtype == torch.complex64 else number
    for content in (values, values.expand(3, *values.shape)):
        report = check(saved(tmp_path, {"w": content}), values=True)
        assert codes(report) == {"nan"}


def test_bytes_beside_the_fields_of_headers(tmp_path: Path) -> None:
    fields = b"".join(struct.pack("<HH", 0x7000 + number, 6) + b"hidden" for number in range(100))
    empty = b"".join(struct.pack("<HH", number, 0) for number in range(1000, 1100))
    again = struct.pack("<HH", 0x5455, 9) + b"hidden!!!"
    long = b"\x99\x99\x58\2" + b"hidden" * 100
    for comment, extra in ((b"hidden", b""), (b"", long), (b"", fields), (b"", empty), (b"", again * 8)):
        with zipfile.ZipFile(saved(tmp_path)) as archive, zipfile.ZipFile(tmp_path / "x.pt", "w") as changed:
            for info in archive.infolist():
                entry = zipfile.ZipInfo(info.filename)
                entry.comment, entry.extra = comment, extra
                changed.writestr(entry, archive.read(info))
        assert codes(check(tmp_path / "x.pt")) == {"gap"}


ARCHIVERS = b"".join(
    struct.pack("<HH", kind, size) + b"x" * size
    for kind, size in ((0x5455, 9), (0x7875, 11), (0x000A, 32), (0xD935, 2))
)
"""Extra fields in which archivers keep times, owners and alignment."""


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_checkpoint_that_an_archiver_packed_again_is_whole(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "again.pt"
    with zipfile.ZipFile(saved(tmp_path)) as archive, zipfile.ZipFile(path, "w") as changed:
        for folder in ("model/", "model/data/", "model/.data/"):
            changed.writestr(folder, b"")
        for info in archive.infolist():
            entry = zipfile.ZipInfo(info.filename)
            entry.extra = ARCHIVERS
            changed.writestr(entry, archive.read(info), compression)
    assert check(path).findings == ()
    assert torch.load(path).keys() == state().keys()


def test_an_empty_record_has_a_crc_too(tmp_path: Path) -> None:
    report = check(saved(tmp_path, {"w": torch.zeros(0)}))
    assert report.looked["crcs"] == report.looked["records"]
    assert report.exit_code == 0


def test_records_that_share_bytes(tmp_path: Path) -> None:
    good = stored("data.pkl", pickled(dict_of((text("w"), tensor()))))
    first = stored("data/0", PAYLOAD)
    twin = Member("archive/data/0", [], len(PAYLOAD), len(PAYLOAD))
    offset = 30 + len(good.name) + 20 + len(b"".join(good.packed))
    twin.name, twin.offset = "archive/data/1", offset
    assert "overlap" in codes(check(raw_zip(tmp_path / "x.pt", [good, first, twin])))


@pytest.mark.parametrize("name", ["member_past_end", "member_larger_than_file", "member_of_2_63"])
def test_records_outside_the_file(tmp_path: Path, name: str) -> None:
    report = check(HOSTILE[f"zip_{name}"](tmp_path, tmp_path / "m"))
    assert report.exit_code in (1, 2)
    assert "record-outside" in codes(report)


@pytest.mark.parametrize(
    "name", ["member_encrypted", "member_by_unknown_method", "member_not_deflated", "deflated_storage"]
)
def test_records_that_cannot_be_unpacked(tmp_path: Path, name: str) -> None:
    report = check(HOSTILE[f"zip_{name}"](tmp_path, tmp_path / "m"))
    assert report.exit_code in (1, 2)
    assert "not-unpacked" in codes(report)


def test_a_storage_shorter_than_its_tensor(tmp_path: Path) -> None:
    stream = pickled(dict_of((text("w"), tensor())))
    assert codes(check(zip_of(tmp_path / "a.pt", {"data.pkl": stream, "data/0": PAYLOAD[:-4]}))) == {"storage-short"}
    assert codes(check(zip_of(tmp_path / "b.pt", {"data.pkl": stream, "data/0": PAYLOAD + b"more"}))) == {
        "storage-long"
    }
    small = pickled(dict_of((text("w"), tensor(held_in=storage(numel=integer(20))))))
    report = check(zip_of(tmp_path / "c.pt", {"data.pkl": small, "data/0": PAYLOAD[:80]}))
    assert codes(report) == {"storage-short"}
    assert "reaches to byte 96" in report.findings[0].message
    absent = pickled(dict_of((text("w"), tensor(held_in=storage(key=text("1"))))))
    assert "storage-short" in codes(check(zip_of(tmp_path / "d.pt", {"data.pkl": absent})))


def test_records_that_nobody_names(tmp_path: Path) -> None:
    stream = pickled(dict_of((text("w"), tensor())))
    for name in ("data/1", "payload.sh"):
        report = check(zip_of(tmp_path / "x.pt", {"data.pkl": stream, name: b"#!/bin/sh"}))
        assert codes(report) == {"unnamed-record"}
    assert "record-name" in codes(check(HOSTILE["zip_member_named_outside"](tmp_path, tmp_path / "m")))


def test_bytes_behind_the_pickle(tmp_path: Path) -> None:
    stream = pickled(dict_of((text("w"), tensor()))) + b"\0garbage"
    assert codes(check(zip_file(tmp_path, stream))) == {"trailing-bytes"}


# ------------------------------------------------------------------------------------------- other containers


def test_an_old_file_with_bytes_behind_or_missing(tmp_path: Path) -> None:
    good = saved(tmp_path, _use_new_zipfile_serialization=False)
    longer = tmp_path / "longer.pt"
    longer.write_bytes(good.read_bytes() + b"more")
    report = check(longer)
    assert codes(report) == {"trailing-bytes"}
    assert report.findings[0].place.in_file == good.stat().st_size
    assert codes(check(cut(good, tmp_path, minus=6))) == {"storage-short"}
    for name in ("legacy_claim_smaller", "legacy_claim_2_62", "legacy_keys_unknown", "legacy_keys_are_dicts"):
        assert check(HOSTILE[name](tmp_path, tmp_path / "m")).exit_code in (1, 2)


def safetensors(path: Path, header: bytes, payload: bytes = PAYLOAD) -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + payload)
    return path


def entry(begin: int, end: int) -> str:
    return f'{{"dtype":"F32","shape":[{(end - begin) // 4}],"data_offsets":[{begin},{end}]}}'


def test_a_json_key_that_occurs_twice(tmp_path: Path) -> None:
    header = f'{{"w":{entry(0, 96)},"w":{entry(0, 96)}}}'.encode()
    report = check(safetensors(tmp_path / "x.safetensors", header))
    assert report.exit_code == 2
    (one,) = [one for one in report.findings if one.code == "duplicate-name"]
    assert one.place.in_file is not None
    assert one.path.read_bytes()[one.place.in_file :].startswith(b'"w"')


def test_a_gap_an_overlap_and_bytes_behind_in_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    gap = f'{{"a":{entry(0, 24)},"b":{entry(48, 96)}}}'.encode()
    report = check(safetensors(path, gap))
    assert codes(report) == {"gap"}
    (one,) = report.findings
    assert (one.place.in_file, one.place.length) == (8 + len(gap) + 24, 24)
    overlap = f'{{"a":{entry(0, 60)},"b":{entry(48, 96)}}}'.encode()
    assert {"overlap", "unreadable"} == codes(check(safetensors(path, overlap)))
    assert codes(check(safetensors(path, f'{{"a":{entry(0, 96)}}}'.encode(), PAYLOAD + b"x"))) == {"trailing-bytes"}
    assert codes(check(safetensors(path, f'{{"a":{entry(0, 96)}}}'.encode(), PAYLOAD[:-1]))) == {"storage-short"}
    strange = f'{{"__metadata__":{{"n":1}},"a":{entry(0, 96)}}}'.encode()
    assert codes(check(safetensors(path, strange))) == {"bad-metadata"}


def changed_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    path = _sharded(folder) / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    return path


def test_an_index_that_does_not_fit_its_shards(tmp_path: Path) -> None:
    def stale(index: dict[str, Any]) -> None:
        index["metadata"]["total_size"] += 4

    assert codes(check(changed_index(tmp_path, stale))) == {"stale-total"}
    assert codes(check(changed_index(tmp_path, lambda index: index["metadata"].update(total_size="x")))) == {
        "stale-total"
    }
    assert codes(check(changed_index(tmp_path, lambda index: index["weight_map"].pop("fc.weight")))) == {
        "tensor-unexpected"
    }
    missing = changed_index(tmp_path, lambda index: index["weight_map"].update(gone="a.safetensors"))
    assert codes(check(missing)) == {"tensor-missing"}
    shard = changed_index(tmp_path, lambda index: index["weight_map"].update(gone="c.safetensors"))
    assert codes(check(shard)) == {"shard-missing"}
    twice = _sharded(tmp_path)
    save_file({"conv.bias": torch.zeros(4), "conv.weight": torch.zeros(4, 6, 1)}, tmp_path / "b.safetensors")
    assert "tensor-twice" in codes(check(twice))
    outside = changed_index(tmp_path, lambda index: index["weight_map"].update(gone="../c.safetensors"))
    assert check(outside).exit_code == 2


def test_faults_of_a_shard_are_those_of_the_whole(tmp_path: Path) -> None:
    folder = _sharded(tmp_path)
    shard = folder / "a.safetensors"
    shard.write_bytes(shard.read_bytes()[:-3])
    report = check(folder)
    assert "storage-short" in codes(report)
    assert report.findings[0].path == shard
    shard.write_bytes(b"<!doctype html>")
    assert check(folder).exit_code == 2


def test_other_files_of_a_folder_are_told_of(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert not any("not looked at" in note for note in check(tmp_path).notes)
    (tmp_path / "training_args.bin").write_bytes(b"x")
    assert "not looked at, though in the same folder: training_args.bin" in check(tmp_path).notes


def test_numbered_shards_without_an_index(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model-00001-of-00003.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "model-00003-of-00003.safetensors")
    assert codes(check(tmp_path)) == {"shard-missing", "tensor-twice"}


def test_pieces_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    folder = _distributed(tmp_path)
    (piece,) = folder.glob("*.distcp")
    good = piece.read_bytes()
    bad = bytearray(good)
    bad[good.index(state()["fc.weight"].numpy().tobytes()) + 3] ^= 0xFF
    piece.write_bytes(bad)
    assert codes(check(folder)) == {"wrong-crc"}
    piece.write_bytes(good[:-30])
    assert "storage-short" in codes(check(folder))
    piece.write_bytes(good + b"more")
    assert codes(check(folder)) == {"trailing-bytes"}
    piece.unlink()
    assert codes(check(folder)) == {"shard-missing"}


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_that_anyone_may_change(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.chmod(0o666)
    assert codes(check(path)) == {"world-writable"}


# ------------------------------------------------------------------------------------------- could not look


@pytest.mark.parametrize("name", sorted(NOT_CHECKPOINTS))
def test_what_is_no_checkpoint_is_never_clean(tmp_path: Path, name: str) -> None:
    build, word = NOT_CHECKPOINTS[name]
    report = check(build(tmp_path))
    assert report.exit_code == 2
    assert word.lower() in next(one.message for one in report.findings if one.code == "unreadable").lower()


@pytest.mark.parametrize("name", [path.name for path in WEIGHTS_ONLY if path.stat().st_size < 9_000])
def test_a_file_cut_anywhere_is_never_clean(tmp_path: Path, name: str) -> None:
    for fraction in (0.05, 0.3, 0.6, 0.9, 0.99):
        report = check(cut(FIXTURES / name, tmp_path, fraction=fraction))
        assert report.exit_code == 2 or codes(report) & {"storage-short"}, fraction


def test_names_in_what_is_left_of_a_cut_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    members = [stored("data.pkl", beside_a_layer(bomb(tmp_path / "m"))), stored("data/0", PAYLOAD)]
    content = raw_zip(path, members).read_bytes()
    path.write_bytes(content[: content.index(PAYLOAD) + 10])
    report = check(path)
    assert report.exit_code == 2
    assert "os.system" in {one.subject for one in report.findings}


def test_what_is_not_there(tmp_path: Path) -> None:
    assert check(tmp_path / "absent.pt").exit_code == 2
    assert check(tmp_path).exit_code == 2
    (tmp_path / "x\0y").parent.mkdir(exist_ok=True)
    assert check(Path("x\0y")).exit_code == 2


# ------------------------------------------------------------------------------------------- numbers

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
          torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.complex64, torch.complex128]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.zeros(3, 5).to(dtype)
    assert not check(saved(tmp_path, {"w": value}), values=True).findings
    value[1, 2] = float("nan")
    report = check(saved(tmp_path, {"w": value}), values=True)
    assert [one.message for one in report.findings] == ["w: 1 of 15 is NaN, the first at [1, 2]"]
    assert report.exit_code == 1
    assert check(saved(tmp_path, {"w": value})).exit_code == 0


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2], ids=str
)
def test_infinities(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.zeros(300_000).to(dtype)
    value[-3], value[-1] = float("inf"), float("-inf")
    report = check(saved(tmp_path, {"a": {"w": value}, "n": torch.arange(4)}), values=True)
    assert [one.message for one in report.findings] == ["a.w: 2 of 300,000 are infinite, the first at [299997]"]


def test_the_first_index_of_views(tmp_path: Path) -> None:
    base = torch.zeros(6, 8)
    base[2, 5] = float("nan")
    views = {"turned": base.t(), "stepped": base[::2, 1::2], "part": base[1:4], "scalar": base[2, 5]}
    report = check(saved(tmp_path, views), values=True)
    found = {one.subject: one.message.partition("first at ")[2] for one in report.findings}
    assert found == {"turned": "[5, 2]", "stepped": "[1, 2]", "part": "[1, 5]", "scalar": ""}


def test_numbers_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    report = check(saved(tmp_path, {"w": torch.eye(3).to_sparse()}), values=True)
    assert codes(report) == {"values-not-read"}
    assert report.exit_code == 1


def test_nan_in_safetensors_shards_and_pieces(tmp_path: Path) -> None:
    folder = _sharded(tmp_path)
    save_file({"conv.bias": torch.full((4,), float("nan"))}, folder / "b.safetensors")
    assert codes(check(folder, values=True)) == {"nan"}
    bad = {"model": {"w": torch.tensor([1.0, float("inf")])}}
    save_distributed(bad, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    report = check(tmp_path / "dcp", values=True)
    assert codes(report) == {"inf"}
    assert report.findings[0].subject == "model.w"
    shutil.rmtree(tmp_path / "dcp")


def test_a_pickle_that_is_run_in_no_way(tmp_path: Path) -> None:
    """The marker of an honest trial: what check leaves alone, pickle.loads runs."""
    marker = tmp_path / "marker"
    path = zip_file(tmp_path, pickled(bomb(marker)))
    check(path, values=True)
    assert not marker.exists()
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_each_pickle_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    path = saved(tmp_path, _use_new_zipfile_serialization=zipped)
    walks = []
    carry_out = Machine.carry_out

    def counted(machine: Machine, read: Read, start: int, end: int) -> int:
        # Whether a file is of the old format is seen from its first 64 bytes.
        walks.extend([start] * (end > 64))
        return carry_out(machine, read, start, end)

    monkeypatch.setattr(Machine, "carry_out", counted)
    assert check(path).findings == ()
    assert len(walks) == len(set(walks)) == (1 if zipped else 5)


def test_the_limits_of_the_reader_hold_for_what_was_walked_before(tmp_path: Path) -> None:
    """A check allows the first pickles of an old file more work than their reader does, which then refuses the file."""
    path = legacy_file(tmp_path, sys_info=pickled(b"]" + b"N0" * 310_000))
    with path.open("ab") as file:
        file.truncate(10_000_000)
    assert check(path).exit_code == 2
