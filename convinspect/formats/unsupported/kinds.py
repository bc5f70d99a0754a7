"""What convinspect recognizes and does not read, as tables: how it is recognized, what it is, and what to do.

The tables are also printed, as `docs/what-is-this-file.md`. Sources are the formats' own specifications; the words of a
remedy name the tool that belongs to the format.
"""

from __future__ import annotations

from typing import NamedTuple

WEIGHTS = "give the file that holds the weights"
READS = "convinspect reads files of torch.save, torch.jit.save, torch.export, safetensors, NumPy and pickle"


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        what: What it is, with its article.
        remedy: What to do.
    """

    what: str
    remedy: str


class Magic(NamedTuple):
    """A kind that is known by bytes at a fixed offset.

    Attributes:
        magic: The bytes.
        what: As of `Kind`.
        remedy: As of `Kind`.
        at: Offset of the bytes in the file.
    """

    magic: bytes
    what: str
    remedy: str
    at: int = 0


class Named(NamedTuple):
    """A kind that is known by names: of a zip's records, or of a folder's entries.

    Attributes:
        pattern: Regular expression that one of the names matches as a whole.
        what: As of `Kind`.
        remedy: As of `Kind`; `{name}` stands for the name that matched.
    """

    pattern: str
    what: str
    remedy: str


MAGICS = (
    Magic(b"GGUF", "a GGUF model", f"gguf-dump shows it; {READS}"),
    *(
        Magic(magic, "a GGML model, of the time before GGUF", READS)
        for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg", b"ggml")
    ),
    Magic(b"TFL3", "a TensorFlow Lite model", "open it with a viewer for it, such as netron", 4),
    Magic(b"ET12", "an ExecuTorch program (.pte)", "give the model from which it was exported", 4),
    Magic(b"FT01", "the numbers of an ExecuTorch program (.ptd)", "give the model from which it was exported", 4),
    Magic(b"PTMF", "a model for PyTorch Mobile in its flatbuffer format", "give the model from which it was made", 4),
    Magic(b"ftrt", "a TensorRT engine", "give the model from which it was built"),
    Magic(b"7767517\n", "the graph of an ncnn model", "open it with a viewer for it, such as netron"),
    Magic(b"\x89HDF\r\n", "an HDF5 file, as Keras writes", "open it with h5py or Keras"),
    Magic(b"MATLAB 7.3 MAT-file", "a MATLAB file", "open it with h5py"),
    Magic(b"MATLAB 5.0 MAT-file", "a MATLAB file", "open it with scipy.io.loadmat"),
    Magic(b"PAR1", "a Parquet table", WEIGHTS),
    Magic(b"ARROW1", "an Arrow table", WEIGHTS),
    Magic(b"7z\xbc\xaf", "a 7-Zip archive", "unpack it first"),
    Magic(b"Rar!", "a RAR archive", "unpack it first"),
    Magic(b"%PDF", "a PDF document", WEIGHTS),
    Magic(b"\x89PNG", "a PNG picture", WEIGHTS),
    Magic(b"\xff\xd8\xff", "a JPEG picture", WEIGHTS),
    Magic(b"\x7fELF", "a program or library (ELF)", WEIGHTS),
    Magic(b"SQLite format 3", "an SQLite database", WEIGHTS),
)
"""In this order: PyTorch's and other libraries' models, tables of numbers, archives, and what is no model."""

LFS = Kind("a git-lfs pointer: the real file was not fetched", "run: git lfs pull")
HTML = Kind("an HTML page, not a model", "the download was redirected (login or error page?): fetch it again")
XML = Kind("an XML document, not a model", WEIGHTS)
OPENVINO = Kind("the graph of an OpenVINO model", "open it with openvino.Core().read_model")
OLDEST = Kind(
    "a checkpoint of PyTorch 0.1.9 or older, in the tar format of that time",
    "where you trust it, torch.load it with weights_only=False and torch.save it again",
)
TAR = Kind(
    "a tar archive with nothing in it that is named as a checkpoint",
    "see what it holds (tar -tf {name}), and give one of its files as {name}!FILE",
)
JSON = Kind("a JSON text, not a checkpoint", "a shard index must be named *.index.json")
TEXT = Kind("a text file, not a checkpoint", WEIGHTS)
MESSAGE_PACK = Kind(
    "a MessagePack file, as Flax writes",
    "restore it with flax.serialization and write it with safetensors.flax.save_file",
)
KERAS_INDEX = Kind("the index of a Keras model in several HDF5 files", "open it with Keras")
UNKNOWN = Kind("no format that is known here", READS)

DISTCP = Kind(
    "a part of a distributed checkpoint, whose .metadata says what lies where",
    "give its folder, with .metadata in it",
)
ONNX = Kind("an ONNX model, not a PyTorch checkpoint", "open it with a viewer for ONNX, such as netron")
CORE_ML = Kind("a Core ML model", "open it with coremltools")
SAVED_MODEL = Kind("the graph of a TensorFlow SavedModel", "load its folder with tf.saved_model.load")
FINGERPRINT = Kind(
    "the fingerprint of a TensorFlow SavedModel, which has no weights", "load its folder with tf.saved_model.load"
)
TF_INDEX = Kind(
    "the index of a TensorFlow checkpoint", "give its path without .index to tf.train.load_checkpoint, which loads it"
)
TF_PART = Kind(
    "a file with the values of a TensorFlow checkpoint, whose .index says what lies where",
    "give its path without .data-… to tf.train.load_checkpoint, which loads it",
)
TF_PART_ALONE = Kind(
    "a file with the values of a TensorFlow checkpoint without its .index, which says what lies where",
    "copy the .index too, and give the path of both without their ends to tf.train.load_checkpoint",
)
FROZEN_GRAPH = Kind("a frozen TensorFlow graph", "open it with TensorFlow, or a viewer such as netron")
PROTOBUFS = (ONNX, CORE_ML, SAVED_MODEL, FINGERPRINT, FROZEN_GRAPH)
"""Told apart by the numbers and kinds of a protobuf message's fields."""

OLD_JOBLIB = Kind(
    "a file of joblib before 0.10, whose arrays lie in files beside it",
    "where you trust it, load it with joblib.load and joblib.dump it again, or give one of these files (.npy)",
)
PICKLED_ARRAYS = Kind(
    "a plain pickle of NumPy arrays, of which none is of plain numbers", "where you trust it, load it with pickle.load"
)
PICKLED_ARRAYS_SAVED = Kind(
    "a torch.save file of NumPy arrays, without tensors",
    "where you trust it, torch.load it with weights_only=False, and write its arrays with safetensors.numpy.save_file",
)
PLAIN_PICKLE = Kind(
    "a plain pickle, without tensors or arrays of numbers", "where you trust it, load it and torch.save its state_dict"
)
PICKLES = (OLD_JOBLIB, PICKLED_ARRAYS, PICKLED_ARRAYS_SAVED, PLAIN_PICKLE)
"""Told apart by the names that they ask for."""


class Compression(NamedTuple):
    """A compression of a whole file.

    Attributes:
        magic: The first bytes.
        name: As in "it is gzip-compressed".
        command: Unpacks to its standard output.
        suffix: Of files' names.
        tar: Unpacks a compressed tar.
    """

    magic: bytes
    name: str
    command: str
    suffix: str
    tar: str


COMPRESSIONS = (
    Compression(b"\x1f\x8b", "gzip", "gzip -dc", ".gz", "tar -xzf"),
    Compression(b"\xfd7zXZ", "xz", "xz -dc", ".xz", "tar -xJf"),
    Compression(b"BZh", "bzip2", "bzip2 -dc", ".bz2", "tar -xjf"),
    Compression(b"(\xb5/\xfd", "zstd", "zstd -dc", ".zst", "tar --zstd -xf"),
    Compression(b"]\x00\x00", "lzma", "xz -dc --format=lzma", ".lzma", "tar --lzma -xf"),
    Compression(b"\x04\x22\x4d\x18", "lz4", "lz4 -dc", ".lz4", "tar -I lz4 -xf"),
)
ZLIB = Compression(b"\x78", "zlib", "zlib-flate -uncompress <", ".z", "")
"""Has no magic of its own: two bytes whose sum is a multiple of 31, and whatever follows unpacks."""

ZIPS = (
    Named(
        r"(?:[^/]+/)?data/aotinductor/.*",
        "a package of a compiled model (AOTInductor), whose weights lie in its machine code",
        "give the .pt2 of torch.export.save, or the state_dict, from which it was compiled",
    ),
    Named(
        r"(?:[^/]+/)?\.data/extern_modules",
        "a torch.package archive, which brings its model's code along",
        "where you trust it, load it with torch.package.PackageImporter and torch.save the model's state_dict",
    ),
    Named(
        r"(?:.*/)?model\.json",
        "a TorchScript archive of PyTorch 1.3 or older",
        "load and save it once with PyTorch 1.4 or newer",
    ),
    Named(r"(?:.*/)?model\.weights\.h5", "a Keras archive", "open it with Keras"),
    Named(r"\[Content_Types\]\.xml", "a Microsoft Office document", WEIGHTS),
    Named(r"mimetype", "a document (OpenDocument or EPUB)", WEIGHTS),
)
PACKAGES = (
    Named(r"AndroidManifest\.xml", "an Android app", WEIGHTS),
    Named(r"META-INF/MANIFEST\.MF", "a Java archive", WEIGHTS),
    Named(r"[^/]+\.dist-info/.*", "a Python package", WEIGHTS),
)
"""Kinds of archives that may contain weights."""

TF_PART_NAME = r"(.*)\.data-\d{5}-of-\d{5}"
FOLDERS = (
    Named(
        r".*\.distcp",
        "a distributed checkpoint without its .metadata, which says what its files hold",
        "copy .metadata too (names with a dot in front are easily left behind), or give {name} to see the pieces in it",
    ),
    Named(r"saved_model\.pb", "a TensorFlow SavedModel", "load it with tf.saved_model.load"),
    Named(
        TF_PART_NAME,
        "a TensorFlow checkpoint",
        "load it with tf.train.load_checkpoint",
    ),
    Named(r"Data/com\.apple\.CoreML|coremldata\.bin", "a Core ML model", "open it with coremltools"),
    Named(r"manifest\.ocdbt|_CHECKPOINT_METADATA", "a checkpoint of JAX (Orbax)", "restore it with orbax.checkpoint"),
    Named(r".*\.(?:onnx|gguf|tflite|h5|hdf5|msgpack|pte|mlmodel|pb)", "", "give {name} to see what it is"),
)
"""Folders without a checkpoint that is read here. The last kind is only known to hold another library's model."""
