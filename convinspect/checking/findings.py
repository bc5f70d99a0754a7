"""Findings of `check`: a closed list of codes, each with its meaning and remedy; and the report.

A scan is a generator that yields each finding immediately, so that nothing is lost if the rest of a file cannot be
read, and returns what later scans need.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from convinspect.records import Container
from convinspect.text import plural, quoted

Level = Literal["error", "warning", "note"]
"""How bad it is. Notes alone leave the exit code at 0."""


class Code(NamedTuple):
    """A kind of finding.

    Attributes:
        name: As in the output and in SARIF's `ruleId`.
        level: How bad it is.
        meaning: One sentence for the documentation.
        remedy: What to do, unless a finding has its own remedy.
    """

    name: str
    level: Level
    meaning: str
    remedy: str


AGAIN = "download or copy it again"
ELSEWHERE = "do not load it elsewhere either"
RESAVE = "save it again"
TRUST = "load it only where you trust whoever made it"

_CODES = (
    # --- could not look
    Code("unreadable", "error", "The file, or a part of it, could not be read, so nothing is said of it.", AGAIN),
    # --- bytes
    Code("wrong-crc", "error", "A record's bytes do not give its stored CRC-32; PyTorch loads it anyway.", AGAIN),
    Code("no-crc", "warning", "A record was stored without a CRC-32 (it is 0), so damage would not show.",
         "save it with torch.serialization.set_crc32_options(True)"),
    Code("not-written", "warning", "No storage has a CRC-32, though the pickle has one, as"
         " torch.serialization.skip_data() leaves them: it makes room for the numbers and does not write them.",
         "write the numbers, or save the file again without skip_data"),
    Code("not-unpacked", "error", "A record cannot be unpacked: damaged, encrypted, a method that PyTorch does not"
         " know, or out of all proportion.", AGAIN),
    Code("end-records", "error", "The records at a zip's end disagree with each other or with its directory, so what"
         " it holds depends on who reads it.", ELSEWHERE),
    Code("header-differs", "error", "A record's own header says something else than the zip's directory.", ELSEWHERE),
    Code("record-outside", "error", "A record does not lie where the directory says, or reaches past the end.", AGAIN),
    Code("overlap", "error", "Two records or tensors share bytes.", ELSEWHERE),
    Code("gap", "warning", "Bytes that belong to no record or tensor, where something may be hidden.", RESAVE),
    Code("trailing-bytes", "warning", "Bytes behind the end of what is described.", RESAVE),
    Code("duplicate-name", "error", "Two records, JSON entries or files of a tar share a name, so what the file holds"
         " depends on who reads it.", ELSEWHERE),
    Code("several-pickles", "error", "More than one data.pkl, so what is loaded depends on who loads it.", ELSEWHERE),
    Code("record-name", "warning", "A record's name leads outside the archive's folder.", ELSEWHERE),
    Code("unnamed-record", "warning", "A record that the pickle does not name, so nothing loads it.", RESAVE),
    Code("record-missing", "error", "A record without which PyTorch refuses the archive is not there.", AGAIN),
    # --- tensors
    Code("storage-short", "error", "A tensor's bytes are not all there, or reach past its storage.", AGAIN),
    Code("storage-long", "warning", "A storage's record has more bytes than its pickle says.", RESAVE),
    Code("storage-misplaced", "warning", "A storage does not lie where the archive's `.storage_alignment` puts it;"
         " torch.load with torch.utils.serialization.config.load.calculate_storage_offsets reads other bytes.", RESAVE),
    Code("bad-metadata", "warning", "A field beside the tensors is not what its format asks for, so that some readers"
         " refuse the file.", RESAVE),
    Code("empty-weight", "warning", "A weight has shape (0,) and no numbers, as DeepSpeed's ZeRO-3 leaves parts that"
         " were not gathered before saving.", "save it again with stage3_gather_16bit_weights_on_model_save, or make it"
         " whole with DeepSpeed's zero_to_fp32.py"),
    Code("lost-state", "warning", "An optimizer's state is keyed by text, its parameters by numbers, as"
         " dcp_to_torch_save leaves them: load_state_dict finds none of it and starts with empty state, without an"
         " error.",
         "give it numbers again: optimizer['state'] = {int(key): value for key, value in optimizer['state'].items()}"),
    Code("piece", "warning", "The file holds parts of tensors, as torch.distributed.checkpoint writes them with"
         " save_distributed, and no whole ones.", "open the folder with all shards"),
    Code("piece-missing", "error", "Pieces of a tensor overlap, leave numbers out or contradict each other.",
         "get all shards of one save into the same folder"),
    Code("piece-differs", "error", "A piece of a distributed checkpoint is something else than its .metadata says:"
         " another shape, dtype or part.", RESAVE),
    Code("pieces-as-safetensors", "error", "The tensors of a distributed checkpoint lie as safetensors files, which"
         " torch.distributed.checkpoint does not load, though FileSystemWriter writes them.", "take the bytes from"
         " there on, which are a safetensors file, or save it again without serialization_format"),
    Code("not-loaded", "error", "A tensor for which safetensors.torch refuses the whole file, though its bytes are"
         " there: a dtype that PyTorch lacks, an empty tensor out of its place, a name that is no text.",
         "read it with what wrote it, and save it again without that tensor"),
    Code("stale-total", "warning", "An index's total_size is not what its shards hold.", "write the index again"),
    Code("tensor-twice", "error", "Two shards hold a tensor of the same name.", "write the shards again"),
    Code("tensor-missing", "error", "The index names a tensor that its shard does not hold.", "download both again"),
    Code("tensor-unexpected", "warning", "A shard holds a tensor that the index does not name.", "download both again"),
    Code("shard-missing", "error", "A file of a checkpoint in several files is not there.", "download it too"),
    Code("world-writable", "warning", "Anyone on this machine may change the file.", "chmod o-w it"),
    # --- numbers, with --values
    Code("nan", "warning", "A tensor holds NaN.", "look at the training that made it"),
    Code("inf", "warning", "A tensor holds an infinity; attention masks may mean it.", "see whether it is meant"),
    Code("values-not-read", "warning", "A tensor's numbers could not be read, so nothing is said of them.",
         "load it with PyTorch and look there"),
    # --- what loading it would call
    Code("global-executes", "error", "A name that is known to run commands or code, to open files or connections, or"
         " to reach others that do.", ELSEWHERE),
    Code("global-unknown", "warning", "A name of other code, most likely the author's own model class; loading the file"
         " imports and runs that code.", TRUST),
    Code("global-library", "warning", "A name of PyTorch, NumPy or a plain value of Python's own library, beyond what"
         " torch.load(weights_only=True) admits; by itself no sign of malice.", TRUST),
    Code("odd-instruction", "error", "An instruction by which pickles reach objects in unusual ways and which"
         " torch.load(weights_only=True) refuses.", ELSEWHERE),
    Code("refused-instruction", "warning", "An instruction that torch.save hardly ever writes and that torch.load("
         "weights_only=True) refuses; by itself no sign of malice.", TRUST),
    Code("native-code", "warning", "A record is machine code, as packages of compiled models hold it; loading such a"
         " package runs it.", TRUST),
    Code("script-opens", "warning", "TorchScript code that saves or opens files when it is run.", TRUST),
)  # fmt: skip
CODES = {code.name: code for code in _CODES}


MOST_LISTED = 1_000
"""Findings of one code that are kept for a path; a hostile file could ask for any number."""


class Place(NamedTuple):
    """Where in a file something was found.

    Attributes:
        record: Name of the zip record; "" is the file itself.
        offset: Byte offset in the unpacked record, or in the file; None if there is no single place.
        length: Number of bytes from there, or None.
        in_file: Byte offset in the file; None if the record is compressed.
    """

    record: str = ""
    offset: int | None = None
    length: int | None = None
    in_file: int | None = None


class Finding(NamedTuple):
    """Something that is wrong or worth knowing.

    Attributes:
        code: One of `CODES`.
        path: The file, possibly a shard of what was checked.
        place: The place in the file.
        message: What was found there.
        remedy: What to do.
        subject: The name that a pickle asks for, or the tensor; "" for other findings.
    """

    code: str
    path: Path
    place: Place
    message: str
    remedy: str
    subject: str = ""

    @property
    def level(self) -> Level:
        """How bad it is."""
        return CODES[self.code].level


NOWHERE = Place()
"""The file as a whole."""


def finding(
    code: str, path: Path, message: str, place: Place = NOWHERE, *, remedy: str = "", subject: str = ""
) -> Finding:
    """A finding, with the remedy of its code if none is given."""
    return Finding(code, path, place, message, remedy or CODES[code].remedy, subject)


class Note(NamedTuple):
    """A line that a reader must know to interpret the result."""

    line: str


class Held(NamedTuple):
    """What holds the checkpoint that is scanned, with its article: "a tar archive"."""

    kind: str


class Looked(NamedTuple):
    """A number of records, CRC-32s, bytes, pickles or tensors that were scanned; "spared" are bytes that were not
    fetched.
    """

    what: Literal["records", "crcs", "bytes", "pickles", "tensors", "spared"]
    number: int = 1


class Asked(NamedTuple):
    """A name that a pickle asks for, and whether safe loading admits it."""

    name: str
    admitted: bool


class Progress(NamedTuple):
    """A number of bytes that were read."""

    nbytes: int


Item: TypeAlias = Finding | Note | Held | Looked | Asked | Progress
"""What scans yield."""
T = TypeVar("T")
Scan: TypeAlias = Generator[Item, None, T]
"""A scan that returns a T."""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings for one path.

    Attributes:
        path: As given.
        container: The container of the tensors; None if it is not known.
        findings: In the order of their codes, the worst first.
        notes: Lines that a reader must know to interpret the result.
        looked: What was scanned, by name: "records", "crcs", "bytes", "pickles", "names", "admitted", "tensors".
        unlisted: Number of findings of a code beyond those that are listed.
        shards: Number of files into which the checkpoint is split; 0 if it is not split.
        within: What holds the checkpoint, where it lies in an archive, with its article; else "".
    """

    path: Path
    container: Container | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    looked: dict[str, int]
    unlisted: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    within: str = ""

    def __repr__(self) -> str:
        number = plural(len(self.findings) + sum(self.unlisted.values()), "finding")
        return f"<check report of {quoted(self.path.name or str(self.path))}: {number}, exit code {self.exit_code}>"

    @property
    def format(self) -> str:
        """Name of the container for display; "" if it is not known."""
        return "" if self.container is None else self.container.label(self.shards, self.within)

    @property
    def exit_code(self) -> int:
        """0 intact and no names beyond the safe set, 1 something found, 2 could not be read."""
        if any(finding.code == "unreadable" for finding in self.findings):
            return 2
        return 1 if any(finding.level != "note" for finding in self.findings) else 0


def worst(reports: Iterable[Report]) -> int:
    """The exit code for several reports: 2 if any could not be read, else 1 if any has findings, else 0."""
    return max((report.exit_code for report in reports), default=0)
