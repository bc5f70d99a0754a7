"""Writes the contract of `--format json`: `python docs/json_contract.py`.

It makes `docs/json.schema.json`, a JSON Schema, and of the same records the tables in `docs/json.md`.
Words that a value may be are taken from the code.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias, get_args

from convinspect.checking.findings import CODES, Level
from convinspect.comparing.claims import Cause as ClaimCause
from convinspect.comparing.claims import Verdict as ClaimVerdict
from convinspect.converting.afterwards import Topic
from convinspect.converting.relations import How
from convinspect.converting.shape_seeing import Effect
from convinspect.diffing.differences import Kind, Square
from convinspect.diffing.differences import Verdict as DiffVerdict
from convinspect.diffing.fixes import Fix
from convinspect.diffing.missing_numbers import Lack
from convinspect.diffing.texts.items import Trouble
from convinspect.layouts import KnownFrom, Maker
from convinspect.records import Container, Evidence
from convinspect.verifying.findings import Strength
from convinspect.verifying.findings import Verdict as VerifyVerdict

DOCS = Path(__file__).resolve().parent
PAGE, SCHEMA = "json.md", "json.schema.json"
BEGIN, END = "<!-- made by json_contract.py -->\n", "<!-- end -->\n"

Schema: TypeAlias = dict[str, Any]


def kind(name: str, about: str = "") -> Schema:
    """A JSON type by its name."""
    return {"type": name, **_about(about)}


def text(about: str = "") -> Schema:
    """Any text."""
    return kind("string", about)


def integer(about: str = "") -> Schema:
    """A whole number that is not negative."""
    return {"type": "integer", "minimum": 0, **_about(about)}


def flag(about: str = "") -> Schema:
    """True or false."""
    return kind("boolean", about)


def one_of(words: Iterable[str], about: str = "") -> Schema:
    """One of these texts."""
    return {"enum": list(dict.fromkeys(words)), **_about(about)}


def ref(name: str, about: str = "") -> Schema:
    """What `$defs` has under this name."""
    return {"$ref": f"#/$defs/{name}", **_about(about)}


def number(about: str = "") -> Schema:
    """A number, or the text of one that JSON does not have."""
    return ref("number", about)


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    about = schema.get("description", "")
    bare = {key: value for key, value in schema.items() if key != "description"}
    return {"anyOf": [bare, {"type": "null"}], **_about(about)}


def several(schema: Schema, about: str = "") -> Schema:
    """A list of these."""
    return {"type": "array", "items": schema, **_about(about)}


def names(about: str = "") -> Schema:
    """A list of texts."""
    return several(text(), about)


def record(keys: Mapping[str, Schema], about: str = "", together: Iterable[Iterable[str]] = ()) -> Schema:
    """An object.

    Args:
        keys: Its keys; one whose name ends in "?" may be absent.
        about: What it is.
        together: Groups of such keys: where one is present, all of its group are.
    """
    dependent = {key: [one for one in group if one != key] for group in map(list, together) for key in group}
    return {
        "type": "object",
        "properties": {key.rstrip("?"): schema for key, schema in keys.items()},
        "required": [key for key in keys if not key.endswith("?")],
        **({"dependentRequired": dependent} if dependent else {}),
        **_about(about),
    }


def by_name(schema: Schema, about: str = "") -> Schema:
    """An object whose keys are names of the data, not of this contract."""
    return {"type": "object", "additionalProperties": schema, **_about(about)}


def values(words: type[Enum]) -> list[str]:
    """The texts of an enum's members."""
    return [str(member.value) for member in words]


def _about(about: str) -> Schema:
    return {"description": about} if about else {}


SHAPE = several(integer())
FORMATS = "|".join(re.escape(container.value) for container in Container)

COMMON: dict[str, Schema] = {
    "number": {
        "anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}],
        "description": "A number. What JSON has no number for is a text.",
    },
    "numbers": {
        "anyOf": [ref("number"), {"type": ["boolean", "null"]}, {"type": "string", "pattern": r"^\(?[-+.0-9a-z]+j\)?$"},
                  several(ref("numbers"))],
        "description": "A number, or lists of numbers to any depth. A complex one is a text as Python writes it.",
    },
    "format": {
        "type": "string",
        "pattern": rf"^({FORMATS})(, [\d,]+ shards?)?(, in .+)?$",
        "description": "What keeps the tensors, the number of shards, and the archive in which it lies.",
    },
    "checkpoint": record({
        "path": text("As given."),
        "format": ref("format", "What keeps the tensors."),
        "root": text("The dictionary in use, as dotted keys from the top of the file; `\"\"` is the top."),
    }),
    "missing": record({
        "how": one_of(values(Lack), "Room was made and the numbers were not written, they are on the meta device, or"
                                    " the tensors have shape (0,)."),
        "tensors": integer("How many tensors have none."),
    }),
    "prefix": record({
        "a": text("What the first side's keys begin with."),
        "b": text("What the second side's keys begin with instead."),
        "keys": integer("How many keys do."),
    }),
    "difference": record({
        "max_abs_diff": number("The largest absolute difference."),
        "bound": number("The most that rounding can do there."),
        "ok": flag("The first is not above the second."),
    }),
    "error": record({
        "max": number("The largest error against float64."),
        "rms": number("Its root mean square."),
    }),
    "time": record({
        "median": number("Seconds."),
        "spread": number("Half of the range of the middle half of the timings, in seconds."),
        "settled": flag("That range is no wider than the median; else the machine was busy: the figure says little."),
    }),
    "worst": record({
        "max_abs_diff": number("The largest difference of the two."),
        "max_abs": number("The largest value."),
    }),
}  # fmt: skip

LAYER = record({
    "name": text("Dotted path of the module, without the prefixes of wrappers."),
    "kind": text("PyTorch's name of the class (`Conv1d`, `Linear`, `Embedding`), or what else it is"
                 " (`Conv1D (transformers)`, `Linear (quantized)`, `Parameter`)."),
    "evidence": one_of(get_args(Evidence), "Where `kind` comes from: the file has the class, only this kind has such"
                                           " shapes, or several kinds have."),
    "pointwise": flag("A convolution whose kernel has one position: `Conv1d(in, out, 1)`, a 1×1 convolution."),
    "weight": record({"shape": several(integer(), "As stored."), "dtype": text("PyTorch's name, as `float32`.")}),
    "bias?": flag("Whether it has one. Absent for a parameter that belongs to no known layer."),
    "in_channels?": maybe(integer("Of convolutions. Null where it depends on groups, which the file does not record.")),
    "out_channels?": integer("Of convolutions."),
    "kernel_size?": several(integer(), "Of convolutions."),
    "patch?": flag("A convolution whose stride is its kernel size, as a patch embedding's."),
    "stride?": maybe(several(integer(), "Of convolutions.")),
    "padding?": {"anyOf": [SHAPE, {"enum": ["same", "valid"]}, {"type": "null"}], "description": "Of convolutions."},
    "dilation?": maybe(several(integer(), "Of convolutions.")),
    "groups?": maybe(integer("Of convolutions.")),
    "in_features?": integer("Of Linear and what is like it."),
    "out_features?": maybe(integer("Of Linear and what is like it.")),
    "norm?": text("`weight_norm`, `spectral_norm`, `pruned` or `parametrized`, where several tensors give the kernel."),
    "layout?": record({
        "maker": one_of(values(Maker), "The library whose order of axes it is."),
        "axes": several({"type": "string", "pattern": r"^(in|out|kernel_size\[\d+\])$"}, "The axes of `weight.shape`."),
        "known_from": one_of([one.name.lower() for one in KnownFrom], "Where that is known from."),
        "sure": flag("False where the layer must be named to be converted."),
    }, "Where the weight is not in PyTorch's order of axes."),
    "logical_parameters?": integer("Of packed weights: the parameters that they stand for."),
    "numel": integer("Elements of all its tensors, as stored."),
    "nbytes": integer("Bytes of these."),
    "tied_to": {**names("Other keys that are the same bytes, up to 100."), "maxItems": 100},
    "tied_to_more?": integer("How many more there are."),
    "notes": names("Sentences for people."),
}, together=[("in_channels", "out_channels", "kernel_size", "patch", "stride", "padding", "dilation", "groups"),
             ("in_features", "out_features")])  # fmt: skip

NODE = record({
    "name": text("The last part of its path; `{0–11}` for repeated ones."),
    "path": text("From the root, with repeated parents as `{0–11}`; `\"\"` is the root."),
    "kind": text("The layer's kind, or the module's class; `\"\"` where neither is known."),
    "repeats": integer("How many modules are folded into it."),
    "layers": names("Names of its own layers."),
    "weight?": record({"shape": SHAPE, "dtype": text("PyTorch's name.")}, "Of the first layer."),
    "pointwise?": flag("As in `layers`."),
    "parameters": integer("Of all that lies under it, also what is not listed."),
    "share": maybe(number("Its part of all parameters, 0 to 1; null where there are none.")),
    "nbytes": integer("Bytes of all that lies under it."),
    "tensors": integer("Tensors under it."),
    "children": several(ref("module"), "The modules in it, each such an object."),
}, together=[("weight", "pointwise")])  # fmt: skip

SHAPES = record({
    "path": text("As given."),
    "format": ref("format", "What keeps the tensors."),
    "root": text("The dictionary in use, as dotted keys from the top of the file; `\"\"` is the top."),
    "roots": several(record({
        "path": text("Where it lies."),
        "role": one_of(("model", "ema", "optimizer", "other"), "What it is."),
        "tensors": integer("How many it has."),
    }), "All dictionaries of tensors in the file."),
    "layers": several(ref("layer"), "Those that were asked for."),
    "totals": record({
        "layers": integer("Convolutions and Linear of the whole root, whatever was asked for."),
        "pointwise": integer("Of these, with a kernel of one position."),
        "patch": integer("Of these, with a stride of the kernel's size."),
        "tensors": integer("Tensors, buffers among them."),
        "parameters": integer("Elements without buffers; ties count once, packed weights as what they stand for."),
        "packed_layers_counted_as_stored?": integer("Packed layers of which nothing tells what they stand for."),
        "tensor_nbytes": integer("Bytes of all tensors; ties count once."),
        "storage_nbytes": integer("Bytes of their storages."),
        "disk_nbytes": integer("Size of the file, or of all shards."),
    }),
    "not_shown?": integer("With `--limit`: how many layers more there are."),
    "tree?": ref("module", "With `--tree`: the modules, beginning with the root."),
    "without_shapes?": record({
        "uninitialized?": names("Keys of lazy layers."),
        "nested?": names("Keys of nested tensors."),
    }, "Keys that are a layer's and have no shape."),
    "problems": names("What is wrong with the file though it can be listed; the exit code is 2 then."),
    "notes": names("Sentences for people."),
})  # fmt: skip

HEAD: dict[str, Schema] = {
    "name": text("The layer."),
    "kind": text("As in `shapes`."),
    "shape": several(integer(), "As stored."),
    "dtype": text("PyTorch's name."),
}
AXES = {"type": "string", "pattern": r"^(in|out|kernel_size\[\d+\])$"}
WEIGHTS = record({
    "path": text("As given."),
    "root": text("The dictionary in use."),
    "layers": several({"anyOf": [
        record({
            **HEAD,
            "stored_axes": several(AXES, "The axes of `shape`."),
            "axes": several(AXES, "The axes of `weight`: always `out`, `in`, and then the kernel's."),
            "notes": names("Sentences for people."),
            "rows": several(integer(), "The output channels that `weight` holds."),
            "columns": several(integer(), "The input channels that `weight` holds."),
            "weight": ref("numbers", "The numbers that a forward pass uses, in full precision."),
            "bias": maybe(ref("numbers", "One number for each row.")),
            "quantizer?": record({
                "scheme": text("PyTorch's name, as `per_channel_affine`."),
                "axis": maybe(integer("Along which scales are given; null for one scale.")),
                "scale": ref("numbers", "One, or one for each channel."),
                "zero_point": ref("numbers", "One, or one for each channel."),
            }, "Of a quantized weight, whose numbers are dequantized here."),
        }),
        record({
            **HEAD,
            "matrices": several(record({
                "title": text("Which of the layer's tensors."),
                "columns": text("What its first columns are called."),
                "values": ref("numbers", "Its numbers."),
            }), "Of a layer that is neither a convolution nor Linear: its tensors."),
        }),
    ]}, "Those that were asked for."),
    "not_shown?": integer("With `--limit`: how many layers more there are."),
})  # fmt: skip
WEIGHTS_STATS = record({
    "path": text("As given."),
    "root": text("The dictionary in use."),
    "layers": several(record({
        **HEAD,
        "numel": integer("Elements of the kernel."),
        **{name: maybe(number(about)) for name, about in (
            ("min", "The smallest; null where no value is finite, as with the next four."), ("max", "The largest."),
            ("mean", "Their mean."), ("std", "Their standard deviation."), ("l2", "The root of the sum of squares."),
        )},
        "zeros": integer("How many are 0."),
        "nan": integer("How many are NaN."),
        "inf": integer("How many are infinite."),
        "histogram": several(integer(), "16 counts from min to max; none where no value is finite."),
    }), "Those that were asked for."),
    "not_shown?": integer("With `--limit`: how many layers more there are."),
})  # fmt: skip

CONVERT = record({
    "source": text("What was opened."),
    "output": maybe(text("The new file or folder; null with `--dry-run`.")),
    "root": text("The dictionary in use."),
    "converted": several(record({
        "name": text("The layer."),
        "from": text("Its kind before."),
        "to": text("Its kind after."),
        "old_shape": several(integer(), "The weight's, as it was stored."),
        "new_shape": several(integer(), "The weight's, as it is stored now."),
        "assumed": names("What the file does not record, as `stride 1`."),
        "warnings": names("What to look at."),
    }), "Layers that changed, or would."),
    "followed": several(record({
        "name": text("The tensor, from the top of the file."),
        "what": one_of(("copy", "optimizer state"), "What it is."),
        "old_shape": several(integer(), "As it was stored."),
        "new_shape": several(integer(), "As it is stored now."),
    }), "Tensors that changed with the layers."),
    "refused": several(record({"name": text("The layer."), "reason": text("Why it was left.")}),
                       "Layers that were left."),
    "maybe_transposed": names("Of these, square matrices that may be stored transposed."),
    "only_here": names("With `--like`: names that only the source has."),
    "only_there": names("With `--like`: names that only the other has."),
    "already": names("Layers that were so already."),
    "other_kinds": several(record({
        "kind": text("As PyTorch calls it."),
        "from": text("As `--from` takes it."),
        "layers": integer("How many of them could be converted too."),
    }), "With `--to linear`: kinds of pointwise layers that are taken only where `--from` names them."),
    "renamed": several(record({"from": text("Old key."), "to": text("New key.")}), "With `--rename`."),
    "optimizer": record({
        "tensors": integer("Tensors of optimizer state that changed."),
        "copies": integer("Tensors of averages that changed."),
        "roots": names("Dictionaries that changed."),
        "left": names("Dictionaries that were left."),
        "dropped": flag("`--drop-optimizer` was given."),
    }),
    "carried": names("Of a folder: files that were copied unchanged."),
    "not_carried": several(record({"name": text("The file."), "reason": text("Why it was not copied.")}),
                           "Of a folder."),
    "warnings": names("What was asked for and not done."),
    "model_code": names("What changes in the model's code."),
    "afterwards": several(record({
        "topic": one_of(values(Topic), "What treats the new form in another way."),
        "where": text("Where it lies."),
        "name": text("What it is called."),
        "effect": maybe(one_of(values(Effect), "What an optimizer does.")),
        "layers": integer("How many layers it is about."),
    }), "Outputs are the same; what a training does next may not be."),
    "unchanged": integer("Tensors of all dictionaries that did not change."),
})  # fmt: skip

LOADING: dict[str, Schema] = {
    "same": flag("No difference was found; then the exit code is 0."),
    "verdict": one_of(values(DiffVerdict), "Whether A loads, strictly. `undecided` is of an error's text alone."),
    "obstacles": names("Why it will not load, whatever is converted."),
    "rename": maybe(names("Rules for `--rename`; null where a few do not suffice.")),
    "commands": names("What to type, in order."),
    "pytorch": names("Lines on the state_dict `sd`, after these commands, for what no conversion does."),
    "loads_after_pytorch": flag("These lines are all that is left to do."),
    "numbers_missing": maybe(ref("missing", "What loads has no numbers.")),
    "prefixes": several(ref("prefix"), "What keys of one side alone begin with."),
}
SIDE = maybe(record({
    "key": text("Its key."),
    "shape": several(integer(), "As stored."),
    "dtype": text("PyTorch's name."),
}, "The tensor; null where there is none."))  # fmt: skip
NO_TENSOR = maybe(record({"key": text("Its key."), "type": text("What it is.")}, "A value that is no tensor."))
PERMUTED = record({
    "permute": several(integer(), "The order of axes, as `torch.Tensor.permute` takes it."),
    "others": several(SHAPE, "Orders that fit as well."),
    "proved": flag("The numbers prove the order."),
})  # fmt: skip
DIFF = record({
    "a": ref("checkpoint", "What is to be loaded."),
    "b": ref("checkpoint", "What loads."),
    **LOADING,
    "convert": names("Layers that converting fixes."),
    "maybe_transposed": names("Square matrices that may be stored transposed."),
    "counts": record({word: integer() for word in values(Kind)}, "Tensors by how they differ."),
    "values": flag("The numbers were compared too (`--values`)."),
    "tensors": several(record({
        "name": text("What the two keys have in common."),
        "difference": one_of(values(Kind), "How they differ."),
        "a": SIDE,
        "b": SIDE,
        "other_a": NO_TENSOR,
        "other_b": NO_TENSOR,
        "obstacle": maybe(text("Why it will not load, whatever is converted.")),
        "layer": maybe(text("The layer to convert.")),
        "square": maybe(one_of(values(Square), "Of a square matrix beside others that are stored transposed.")),
        "relation": {"anyOf": [one_of(word for word in values(How) if word != How.PERMUTE), PERMUTED, {"type": "null"}],
                     "description": "How the two shapes are related."},
        "pytorch": maybe(text("The call on A's tensor that fixes it.")),
        "unnoticed?": flag("It loads and computes something else. With `--values`, as the next two."),
        "compared?": flag("The numbers of both were compared."),
        "values?": record({
            "max_abs_diff": maybe(number("The largest absolute difference.")),
            "max_rel_diff": maybe(number("The largest relative difference.")),
            "differing": maybe(integer("How many numbers differ.")),
            "numel": integer("Of how many."),
            "nan": maybe(integer("How many are NaN on one side.")),
        }, "Where numbers differ; null where the bytes have no reading as numbers."),
    }, together=[("unnoticed", "compared")]), "All that differ; with `--all` also what is the same."),
    "notes": names("Sentences for people."),
})  # fmt: skip
DIFF_ERROR = record({
    "a": ref("checkpoint", "What is to be loaded."),
    **LOADING,
    "lines": several(record({
        "error": one_of(values(Trouble), "What the text says."),
        "name": text("The key."),
        "shape_checkpoint": maybe(several(integer(), "As the text has it.")),
        "shape_model": maybe(several(integer(), "What the model wants, as the text has it.")),
        "shape_a": maybe(several(integer(), "As A has it.")),
        "fix": one_of(values(Fix), "What fixes it."),
        "reason": text("A sentence."),
        "layer": maybe(text("The layer to convert.")),
    }), "What was understood."),
    "not_understood": names("Lines that look like an error and were not understood."),
    "stops_at_first": maybe(text("The loader that stops at its first error.")),
    "begins_in_the_middle": flag("The text's beginning is missing."),
    "ends_in_the_middle": flag("The text's end is missing."),
})  # fmt: skip

VERIFY = record({
    "before": text("What was opened."),
    "after": text("What it was compared with."),
    "ok": flag("The verdict is `equal`."),
    "verdict": one_of(get_args(VerifyVerdict), "What was found."),
    "strength": one_of(get_args(Strength), "The strongest proof that covers all that was converted."),
    "cause": text("The first thing that is wrong, or `\"\"`."),
    "layers": several(record({
        "name": text("The layer."),
        "before": text("Its kind before."),
        "after": text("Its kind after; `\"\"` where it is gone."),
        "weights_equal": flag("All its tensors hold the same bits."),
        "max_abs_diff": maybe(number("Of the outputs in float64; null where they were not run, as the next two.")),
        "bound": maybe(number("The most that rounding can do there.")),
        "share": maybe(number("The largest part of the bound that a difference takes.")),
        "ok": flag("No difference was found, and all was compared."),
        "compared": flag("False where numbers could not be read."),
        "cause": text("What is wrong, or `\"\"`."),
        "assumed": names("What the file does not record."),
        "note": text("Why outputs were not compared, or `\"\"`."),
        "gradients?": by_name(ref("difference"), "Of `input`, `weight` and `bias`, with `--grad`."),
        "rounding?": record({
            "dtype": text("PyTorch's name."),
            "max_abs_diff": number("Of the outputs in this dtype."),
            "before": ref("error", "Of the first file's layer."),
            "after": ref("error", "Of the second file's layer."),
        }, "For information; no verdict depends on it."),
    }), "Layers that were converted or differ."),
    "missing": names("Tensors of the first alone."),
    "unexpected": names("Tensors of the second alone."),
    "changed": several(record({"name": text("What should be as it was."), "cause": text("What is wrong.")})),
    "unchanged": integer("Tensors that are the same in bits and shape."),
    "not_compared": names("Tensors whose numbers could not be read."),
    "not_verified": names("Of these, those with another shape."),
    "reshaped": several(record({
        "name": text("The tensor."),
        "before": several(integer(), "Its shape before."),
        "after": several(integer(), "Its shape after."),
    }), "The same numbers in another shape, of no layer that can be converted."),
    "notes": names("Sentences for people."),
    "model?": record({
        "outputs": several(record({
            "name": text("Where in the model's output."),
            "max_abs_diff": number("The largest difference."),
            "bound": number("The most that rounding may do."),
            "ok": flag("The first is not above the second."),
        })),
        "plain": several(record({"name": text("Where."), "ok": flag("The two are equal.")}),
                         "Outputs that are no tensors."),
        "not_compared": several(record({"name": text("Where."), "kind": text("Its class.")})),
        "cause": text("What is wrong, or `\"\"`."),
        "notes": names("Sentences for people."),
    }, "With `--model`."),
})  # fmt: skip

LOOKED = ("records", "crcs", "bytes", "pickles", "names", "admitted", "tensors")
CHECK = record({
    "exit_code": one_of(()),
    "admitted_by": text("The release whose list of names is used."),
    "files": several(record({
        "path": text("As given."),
        "format": {"anyOf": [ref("format"), {"const": ""}], "description": "`\"\"` where it is not known."},
        "exit_code": one_of(()),
        "findings": several(record({
            "code": one_of(CODES, "As in [checking.md](checking.md#what-can-be-found)."),
            "level": one_of(get_args(Level), "How bad it is."),
            "path": text("The file; of a folder, one of its files."),
            "record": text("The zip record, `\"\"` for the file itself; ` > ` leads into an archive within."),
            "offset": maybe(integer("Byte within the unpacked record, or within the file; null where it is no one"
                                    " place.")),
            "length": maybe(integer("In bytes.")),
            "file_offset": maybe(integer("Byte within the file; null where the record is compressed.")),
            "name": text("The name that a pickle asks for, or the tensor."),
            "message": text("What was found."),
            "remedy": text("What to do."),
        })),
        "looked_at": record({f"{word}?": integer(about) for word, about in zip(LOOKED, (
            "Zip records.", "CRC-32 sums that were compared.", "Bytes that were read.", "Pickles.",
            "Names that pickles ask for.", "Of these, names that safe loading admits.",
            "Tensors whose numbers were read."), strict=True)}),
        "notes": names("Sentences for people."),
    })),
})  # fmt: skip
EXIT = {"enum": [0, 1, 2], "description": "0 nothing found, 1 something found, 2 not read."}
CHECK["properties"]["exit_code"] = {**EXIT, "description": "The worst of all files'."}
CHECK["properties"]["files"]["items"]["properties"]["exit_code"] = EXIT

COMPARE = record({
    "setting": record({
        "device": text("Its name."),
        "dtypes": names("What was measured."),
        "batch": maybe(integer("N of the input; null where each layer has its own.")),
        "lengths": several(integer(), "L of the input, or patches; none where each layer has its own."),
        "threads": integer("Of PyTorch's operators on the CPU."),
        "repeats": integer("Timings of each."),
        "torch": text("Its version."),
        "oneDNN": flag("Whether it is used."),
        "MKL": flag("Whether it is used."),
        "cuDNN": maybe(integer("Its version.")),
        "tf32": flag("Whether float32 is rounded in products."),
        "load": number("Processes that wanted to run just before."),
        "busy": flag("Other work was running, so times say little."),
    }, "What the figures depend on."),
    "layers": several(record({
        "name": text("The layer."),
        "in_channels": integer("Channels in."),
        "out_channels": integer("Channels out."),
        "dtype": text("PyTorch's name."),
        "length": integer("Positions, or patches, of each example."),
        "alike": integer("Other layers of the file with these sizes."),
        "forward": by_name(ref("time"), "By the way it is computed: the convolution, the Linear in its place, and"
                                        " another Linear."),
        "forward_backward": by_name(ref("time"), "The same, with all gradients."),
        "errors": by_name(ref("error"), "By the same names."),
        "gradients": by_name(ref("worst"), "Of `input`, `weight` and `bias`."),
        "output": ref("worst", "Of the outputs."),
        "share_of_bound": by_name(number(), "Of outputs and gradients in float64: difference ÷ what rounding can do."),
        "patch": maybe(several(integer(), "Kernel size with `--patches`.")),
        "input_shape": several(integer(), "The input's."),
    }), "One for each layer, dtype and length."),
    "claims": several(record({
        "claim": text("What is said."),
        "verdict": one_of(get_args(ClaimVerdict), "What was measured."),
        "figures": names("Sentences with the figures."),
        "cause": maybe(one_of(get_args(ClaimCause), "Why it is not told; null where it is.")),
    })),
    "differs": flag("A layer's two forms differ in float64 by more than rounding; then the exit code is 1."),
    "not_run": several(record({
        "name": text("The layer."), "dtype": text("PyTorch's name."), "length": integer("Positions."),
        "reason": text("Why PyTorch does not run it."),
    })),
    "stride_assumed": names("Layers whose stride is taken to be the kernel's size."),
})  # fmt: skip

EXPLAIN = record({
    "layer": text("Its name, or `example`."),
    "kind": text("As in `shapes`."),
    "x": ref("numbers", "The data: rows × inputs."),
    "weight": ref("numbers", "Kernels × inputs × positions of the kernel."),
    "bias": maybe(ref("numbers", "One for each kernel.")),
    "result": ref("numbers", "Rows × kernels, as PyTorch computes it in float64."),
    "image?": ref("numbers", "Channels × time × rows × columns. With `--patches`, as the next four."),
    "patch?": several(integer(), "Sizes of a patch."),
    "grid?": several(integer(), "Patches along each axis."),
    "linear_result?": ref("numbers", "The same as `result`, by a Linear over flattened patches."),
    "largest_difference?": number("Of the two results."),
}, together=[("image", "patch", "grid", "linear_result", "largest_difference")])  # fmt: skip

RECURSIVE = ("numbers", "module")
"""What holds more of its own kind, so that a table shows it once."""
COMMANDS: dict[str, tuple[str, Schema]] = {
    "shapes": ("shapes", SHAPES),
    "weights": ("weights LAYER", WEIGHTS),
    "weights-stats": ("weights --stats", WEIGHTS_STATS),
    "convert": ("convert", CONVERT),
    "diff": ("diff A B", DIFF),
    "diff-error": ("diff A --error", DIFF_ERROR),
    "verify": ("verify", VERIFY),
    "check": ("check", CHECK),
    "compare": ("compare", COMPARE),
    "explain": ("explain -o FILE.json", EXPLAIN),
}
"""By the name in `$defs`: how the command is typed, and its schema."""


def schema() -> Schema:
    """The whole contract."""
    commands = {name: {**one, "title": f"convinspect {typed}"} for name, (typed, one) in COMMANDS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What convinspect writes with --format json",
        "description": "Each command's is under its name in $defs. Keys are only ever added.",
        "anyOf": [ref(name) for name in COMMANDS],
        "$defs": {**commands, "layer": LAYER, "module": NODE, **COMMON},
    }


def page() -> str:
    """The page, in Markdown: what is written by hand stays, and there is a table for each command."""
    defs = schema()["$defs"]
    tables = []
    for name, (typed, one) in COMMANDS.items():
        rows = "\n".join(f"| {' | '.join(cells)} |" for cells in _rows(one, "", defs))
        tables.append(f"### {typed}\n\n`#/$defs/{name}`\n\n| key | type | |\n|---|---|---|\n{rows}\n")
    front, _, made = (DOCS / PAGE).read_text(encoding="utf-8").partition(BEGIN)
    return f"{front}{BEGIN}\n{chr(10).join(tables)}\n{END}{made.partition(END)[2]}"


def _rows(one: Schema, before: str, defs: Mapping[str, Schema]) -> Iterator[tuple[str, str, str]]:
    """A row for each key, and below it those of what it holds."""
    needed = one.get("required", ())
    for key, held in one["properties"].items():
        absent = "" if key in needed else " (may be absent)"
        about = held.get("description") or (defs[_name(held)].get("description", "") if "$ref" in held else "")
        yield f"`{before}{key}`", f"{_type(held)}{absent}", about.replace("|", "\\|")
        for inner, mark in _records(held, defs):
            yield from _rows(inner, f"{before}{key}{mark}.", defs)


def _records(held: Schema, defs: Mapping[str, Schema]) -> Iterator[tuple[Schema, str]]:
    """The objects that a value may be or hold, each with what stands behind its key."""
    if "$ref" in held:
        held = defs[_name(held)]
    if "properties" in held:
        yield held, ""
    for part in held.get("anyOf", ()):
        yield from ((inner, mark) for inner, mark in _records(part, defs) if "$ref" not in part)
        if "$ref" in part and _name(part) not in RECURSIVE:
            yield from _records(defs[_name(part)], defs)
    if "items" in held and _name(held["items"]) not in RECURSIVE:
        yield from ((inner, f"[]{mark}") for inner, mark in _records(held["items"], defs))
    if isinstance(held.get("additionalProperties"), dict):
        yield from ((inner, f".*{mark}") for inner, mark in _records(held["additionalProperties"], defs))


def _name(held: Schema) -> str:
    return str(held.get("$ref", "")).removeprefix("#/$defs/")


def _type(held: Schema) -> str:
    """What a value is, in words."""
    if "$ref" in held:
        return {"number": "number", "numbers": "numbers", "format": "string"}.get(_name(held), "object")
    if "enum" in held:
        return ", ".join(f"`{json.dumps(word)}`" for word in held["enum"])
    if "anyOf" in held:
        return " or ".join(dict.fromkeys(_type(part) for part in held["anyOf"]))
    if "const" in held:
        return f"`{json.dumps(held['const'])}`"
    if held["type"] == "array":
        items = _type(held["items"])
        plural = {"string": "strings", "integer": "integers", "object": "objects", "numbers": "numbers"}
        return f"list of {plural.get(items, items)}"
    return {"boolean": "true or false"}.get(held["type"], held["type"])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / PAGE
    target.write_text(page(), encoding="utf-8")
    whole = json.dumps(schema(), indent=2, ensure_ascii=False)
    (target.parent / SCHEMA).write_text(f"{whole}\n", encoding="utf-8")
