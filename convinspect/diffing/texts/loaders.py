"""The sentences of loaders, as data.

Taken from the packages' sources and from what they print (`tests/error_texts/`). Spaces are for the reader; `forms.py`
says what the places in braces stand for.
"""

from __future__ import annotations

from convinspect.diffing.texts.forms import Form, Rows
from convinspect.diffing.texts.items import Trouble

_SIZE, _MISSING, _UNEXPECTED, _NOT_COPIED = Trouble

_TORCH = (
    # Since 1.0.
    Form(
        _SIZE, r"size mismatch for {key}: copying a param with shape {checkpoint} from checkpoint, "
        r"the shape in current model is {model}\.?", headed=True,
    ),
    # 0.4.1, which names the two shapes the wrong way round.
    Form(
        _SIZE, r"size mismatch for {key}: copying a param of {model} from checkpoint, "
        r"where the shape is {checkpoint} in current model\.?", headed=True,
    ),
    # What the copying itself raised; until 0.3 the first one ended it.
    Form(
        _SIZE, r'While (?:copying|swapping) the parameter named "?{key}"?, whose dimensions in the model'
            r' are {model} and '
        r"whose dimensions in the checkpoint are {checkpoint}(?:, an exception occurred ?: \(.{0,3000}?\)\.|\.|(?!,))",
        headed=True,
    ),
    Form(
        _NOT_COPIED, r'While (?:copying|swapping) the parameter named "?{key}"?, expected torch\.Tensor '
        r"(?:or Tensor-like object )?from checkpoint but received (?:<class'[\w.]{1,200}'>?|[\w.]{1,200})\.?",
        headed=True,
    ),
    Form(_MISSING, r"Missing key\(s\) in state_dict: {quoted}"),
    Form(_UNEXPECTED, r"Unexpected key\(s\) in state_dict: {quoted}", headed=True),
    Form(_MISSING, r"Missing key\(s\) in state_dict: {single}\.?"),
    Form(_UNEXPECTED, r"Unexpected key\(s\) in state_dict: {single}\.?", headed=True),
    # What load_state_dict(strict=False) returns.
    Form(_MISSING, r"missing_keys= {maybe}"),
    Form(_UNEXPECTED, r"unexpected_keys= {maybe}"),
    # 0.3 and before.
    Form(_UNEXPECTED, r'unexpected key "{key}" in state_dict', stops="PyTorch 0.3"),
    Form(_MISSING, r'missing keys in state_dict: "?{single}"?', stops="PyTorch 0.3"),
    # torch.distributed.checkpoint
    Form(_SIZE, r"Size mismatch between saved {checkpoint} and current: {model} for {plain}",
         stops="torch.distributed.checkpoint"),
    Form(_MISSING, r"Missing key in checkpoint state_dict: {stopped}", stops="torch.distributed.checkpoint"),
)  # fmt: skip

_HUGGING_FACE = (
    Form(
        _SIZE, r"Cannot load {some} because {key} expected shape {model}, but got {checkpoint}\.?", stops="diffusers"
    ),
    Form(
        _SIZE, r"Cannot load {key} because it has shape {checkpoint} in the checkpoint but shape {model}"
            r" in {class}\. Pass",
        stops="diffusers",
    ),
    Form(
        _SIZE, r'Trying to set a tensor of shape {checkpoint} in "{part}" \(which has shape {model}\), '
        r"this looks? incorrect\.?", stops="accelerate",
    ),
    Form(
        _MISSING, r"Some weights of {class} were not initialized from the (?:\w{1,20} )?(?:model"
            r" )?checkpoint (?:at )?{some} "
        r"and are newly initialized: {single}",
    ),
    Form(
        _UNEXPECTED, r"Some weights of the (?:\w{1,20} )?(?:model )?checkpoint (?:at )?{some} were not used when "
        r"initializing {class}: {single}",
    ),
    # peft, and diffusers with it
    Form(_MISSING, r"Found missing adapter keys while loading the checkpoint: {single}\.?"),
    Form(_UNEXPECTED, r"Hot swapping the adapter did not succeed, unexpected keys found: {plain}"),
    Form(_UNEXPECTED, r"Loading adapter weights from state_dict led to unexpected keys found in the model: {plain}"),
    Form(_MISSING, r"Loading adapter weights from state_dict led to missing keys in the model: {plain}"),
)  # fmt: skip

_OTHERS = (
    # mmcv and mmengine
    Form(_UNEXPECTED, r"unexpected key in source state_dict: {plain}", headed=True),
    Form(_MISSING, r"missing keys in source state_dict: {plain}", headed=True),
    # MLX
    Form(_MISSING, r"Missing {count} parameters: {stopped}", stops="MLX"),
    Form(_UNEXPECTED, r"Received {count} parameters not in model: {stopped}", stops="MLX"),
    Form(_SIZE, r"Expected shape {model} but received shape {checkpoint} for parameter {plain}", stops="MLX"),
    # tinygrad
    Form(
        _SIZE, r"Shape mismatch in layer `{key}`: Expected shape {model}, but found {checkpoint} in state dict\.?",
        stops="tinygrad",
    ),
    Form(_MISSING, r"KeyError: '{key}'", stops="tinygrad", needs="tinygrad"),
    # timm
    Form(_MISSING, r"Missing keys \({bare}\) discovered while loading pretrained weights"),
    Form(_UNEXPECTED, r"Unexpected keys \({bare}\) found while loading pretrained weights"),
    # Lightning
    Form(_MISSING, r"Found keys that are in the model state dict but not in the checkpoint: {single}"),
    Form(_UNEXPECTED, r"Found keys that are not in the model state dict but in the checkpoint: {single}"),
    # SpeechBrain
    Form(
        _MISSING, r"During parameter transfer to {some}, the transferred parameters did not have"
            r" parameters for the key: "
        r"{plain}",
    ),
    Form(
        _UNEXPECTED, r"During parameter transfer to {some}, the object could not use the parameters"
            r" loaded with the key: "
        r"{plain}",
    ),
    # detectron2 and fvcore
    Form(
        _SIZE, r"Skip loading parameter '{key}' to the model due to incompatible shapes: {checkpoint} in"
            r" the checkpoint but "
        r"{model} in the model!?",
    ),
)  # fmt: skip

FORMS = (*_TORCH, *_HUGGING_FACE, *_OTHERS)

TABLES = (
    # transformers 5
    Rows(
        r"Key \|+ Status (?:\|+ Details)? [-+|]*",
        (
            (_SIZE, r"{rare} \|+ MISMATCH \|+ Reinit due to size mismatch - ckpt: {checkpoint} vs model: {model} \|*"),
            (_MISSING, r"{rare} \|+ MISSING \|*"),
            (_UNEXPECTED, r"{rare} \|+ UNEXPECTED \|*"),
        ),
        folded=True,
    ),
    # transformers until 4, diffusers
    Rows(
        r"Some weights of {class} were not initialized from the (?:\w{1,20} )?(?:model )?checkpoint {some} because "
        r"(?:the shapes did not match:|you passed `ignore_mismatched_sizes=True`:)",
        ((_SIZE, r"- {rare} :found shape {checkpoint} in the checkpoint and {model} in the model instantiated \.?"),),
    ),
    # mmcv 0.2
    Rows(
        r"these keys have mismatched shape: [-+|]* key \|+ expected shape \|+ loaded shape [-+|]*",
        ((_SIZE, r"{rare} \|+ {model} \|+ {checkpoint} [-+|]*"),),
    ),
)  # fmt: skip

REMARKS = tuple(
    Form(None, sentence)
    for sentence in (
        r"You may consider adding `ignore_mismatched_sizes=True` (?:in the model `from_pretrained` method|"
        r"to `from_pretrained\(\.\.\.\)` if appropriate)\.?",
        r"You set `ignore_mismatched_sizes` to `False`, thus raising an error\. For details look at the above report!",
        r"ignore_mismatched_sizes(?:=True|=False)?",
        r"If you want to instead overwrite randomly initialized weights, please make sure to pass both "
        r"`low_cpu_mem_usage=False` and `ignore_mismatched_sizes=True`\.",
        r"Notes: (?:-? [A-Z]+: (?:can be ignored when loading from different"
        r" task/architecture;notokifyouexpectidenticalarch\.|"
        r"those params were newly initialized because missing from the"
        r" checkpoint\.Considertrainingonyourdownstreamtask\.|"
        r"ckpt weights were loaded, but they did not match the original empty weight shapes\.))+",
        r"Cannot load model parameters from checkpoint {some}; please ensure that the architectures match\.",
        # The source of PyTorch itself, in tracebacks.
        r"Error\(s\) in loading state_dict for \{\}",
        r"Missing key\(s\) in state_dict: \{",
        r"Unexpected key\(s\) in state_dict: \{",
        r"size mismatch for \{",
        r"Shape mismatch in layer `\{k\}`: Expected shape \{v\.shape\}, but found \{state_dict\[k\]\.shape\} in "
        r"state dict",
        r"Missing key in checkpoint state_dict: \{",
        r"KeyError: ['\"](?=unexpectedkey|missingkeys)",
        r"<All keys matched successfully>",
        r"Loaded \w{0,30} from checkpoint '[^']{1,400}'",
        r"IncompatibleKeys \((?=missing_keys=\[[^\]]*\],unexpected_keys=\[[^\]]*\]\))",
        r"All the weights of {class} were initialized from the model checkpoint",
        r"All model checkpoint weights were used when initializing",
    )
)
"""Sentences that are no complaints, though some of their words are those of complaints."""

OTHER_HEADING = Form(None, r"The model and loaded state dict do not match exactly")
"""What mmcv and MMEngine begin with."""
FIRST = Form(None, r"Missing key\(s\) in state_dict:")
"""What PyTorch says first below its heading."""
HEADING = Form(None, r"Error\(s\) in loading state_dict for [\w.\[\],<>]{1,300}?:")
"""What stands before all that PyTorch says. Something must follow it."""
