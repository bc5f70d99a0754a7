"""`convinspect verify`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.completion import complete_layers
from convinspect.cli.options import FormatOption, OutputOption, RootOption, WidthOption, naming, opened_alike, whole
from convinspect.cli.output import Sink, reading_progress
from convinspect.cli.torch_options import check_device, check_dtype, check_dtype_on, tensor_in
from convinspect.errors import CannotConvert, CannotShow, NotThere
from convinspect.render.format import Format

if TYPE_CHECKING:
    import torch

    from convinspect.checkpoint import Checkpoint
    from convinspect.verifying.checkpoints import Report
    from convinspect.verifying.layers import Inputs
    from convinspect.verifying.model import ModelCheck
    from convinspect.verifying.model_runs import Trial


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="BEFORE", readable=False, help="The checkpoint before its conversion.")
    ],
    after: Annotated[
        Path | None,
        typer.Argument(
            metavar="[AFTER]", readable=False, help="The checkpoint after; without it BEFORE is converted in memory."
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", metavar="GLOB", help="Run only these layers.", autocompletion=complete_layers),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Names that the conversion changed, as given to convert."),
    ] = None,
    bits: Annotated[bool, typer.Option("--bits", help="Compare the stored bits only, without PyTorch.")] = False,
    grad: Annotated[bool, typer.Option("--grad", help="Also compare the gradients of input, weight and bias.")] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PACKAGE.MODULE:CLASS", help="Your model's code: also run the whole model."),
    ] = None,
    model_after: Annotated[
        str | None,
        typer.Option(
            "--model-after", metavar="PACKAGE.MODULE:CLASS", help="The code for AFTER; else MODEL's layers are swapped."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="SHAPE|FILE", help="The model's input: 2x64x1024, 2x16:int64:1000, x.npy, x.pt."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="Where to run, such as cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="NAME", help="In which dtype to tell rounding; the file's own by default.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="Of the random inputs.")] = 0,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=1,
            max=2**31 - 1,
            metavar="N",
            help="Batch size of a layer's input; 2 × 1 and 1 × 2 by default.",
        ),
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", min=1, max=2**31 - 1, metavar="L", help="Length of a layer's input.")
    ] = None,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
) -> None:
    """Check that a conversion changed shapes and nothing else. Exit code 0: equal, 1: something differs.

    Three strengths, and the report names the one it reached. bits: every number of every tensor is the same to the bit,
    every other tensor, key and object is unchanged. layer: each converted layer is run before and after on random
    inputs, in float64, within the bound that rounding analysis gives. model: with --model, the whole model is loaded
    strictly and run, before and after. Outputs in float32 differ by rounding; that is told, and is no fault.

    [bold]Examples[/bold]

      convinspect verify model.pt linear.pt

      convinspect verify model.pt

      convinspect verify model.pt linear.pt --model net:PointNet --model-after net:LinearPointNet -i 2x3x1024

      convinspect verify big.safetensors converted.safetensors --bits
    """
    from convinspect.checkpoint import open_checkpoint
    from convinspect.report.verify import verdict_payload, verdict_table
    from convinspect.verifying.checkpoints import verify as compare
    from convinspect.verifying.layers import VerifyOptions

    before = whole(open_checkpoint(path, root))
    if model is None and (model_after is not None or inputs):
        raise CannotConvert("--input and --model-after say how to run a model, and no --model is given")
    if model is not None and not inputs:
        raise CannotConvert("--model is to be run and --input does not say on what", "give one, as in --input 2x3x1024")
    notes: tuple[str, ...] = ()
    stored = before if rename else None
    if rename:
        before = _renamed(before, rename)
    if after is None:
        with naming(path):
            other, notes = _in_memory(before, tuple(layer or ()))
    else:
        other = whole(opened_alike(after, root))
    if bits and grad:
        raise CannotConvert("--bits runs nothing, so --grad has nothing to compare", "drop one of them")
    wish = VerifyOptions(
        tuple(layer or ()), None if bits else _inputs(batch, length, seed, device, dtype), grad, dtype, bool(rename)
    )
    total = before.nbytes_on_disk + (0 if after is None else other.nbytes_on_disk)
    with naming(path), reading_progress(total, "comparing") as advance:
        try:
            report = compare(before, other, wish, advance)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise CannotShow(
                f"PyTorch cannot run it ({reason[:200]})", "try another --device or size, or --bits"
            ) from None
    report = replace(report, notes=(*notes, *report.notes))
    if model is not None:
        from convinspect.verifying.model_runs import Trial

        drawn = tuple(_drawn(text, seed + n) for n, text in enumerate(inputs or []))
        trial = Trial(model, model_after or "", drawn, seed, device, grad)
        report = replace(report, model=_model(report, (before, other, stored), trial))
    names = (path.name, "converted in memory" if after is None else after.name)
    Sink(fmt, width, output, f"convinspect verify {path.name}").show(
        verdict_table(report, names), verdict_payload(report)
    )
    if not report.ok:
        raise typer.Exit(1)


def _in_memory(before: Checkpoint, names: tuple[str, ...]) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint as `convert --to linear --from any` would write it, and what that would leave.

    Raises:
        CannotConvert: There is nothing to convert.
    """
    from convinspect.converting.job import applied, select_layers
    from convinspect.converting.options import Options
    from convinspect.report.flags import flagged

    selection = select_layers(before, Options(to="linear", from_=("any",), layer=names))
    planned = selection.plan
    # Convolutions of larger kernels are not news; what looks convertible and is not, is.
    larger = {layer.name for layer in selection.layers if layer.kernel_size and not layer.pointwise and not names}
    left = [one for one in planned.refusals if not one.done and one.name not in larger]
    if not planned.conversions:
        why = f" ({left[0].name}: {flagged(left[0].reason)})" if left else ""
        raise CannotConvert(f"no layer can be converted to Linear{why}", "give the checkpoint to compare with")
    notes = tuple(f"left as it is: {one.name}: {flagged(one.reason)}" for one in left)
    return applied(before, planned.edits), notes


def _renamed(before: Checkpoint, rules: list[str]) -> Checkpoint:
    from convinspect.converting.job import applied
    from convinspect.converting.rename import renaming

    with naming(before.path):
        found = renaming(before, rules)
        return applied(before, (*found.edits, *found.copies))


def _inputs(batch: int | None, length: int | None, seed: int, device: str, dtype: str) -> Inputs:
    """Two inputs for each layer: with a size asked for, that one and a single position.

    Raises:
        CannotShow: There is no such device or dtype.
    """
    from convinspect.verifying.layers import Inputs

    if dtype:
        check_dtype(dtype)
    if device != "cpu":
        check_device(device)
        check_dtype_on(device, "float64", ", in which outputs are judged", "cpu has; --bits needs no device")
    else:
        _load_torch_meanwhile()
    if batch is None and length is None:
        return Inputs(seed=seed, device=device)
    return Inputs(tuple(dict.fromkeys(((1, 1), (batch or 2, length or 2)))), seed, device)


def _load_torch_meanwhile() -> None:
    """Begin to load PyTorch, which takes a second, while the stored bits are compared."""

    def load() -> None:
        import torch  # noqa: F401

    # Where the system refuses a thread, it is loaded when it is needed.
    with suppress(RuntimeError):
        Thread(target=load).start()


def _model(report: Report, files: tuple[Checkpoint, Checkpoint, Checkpoint | None], trial: Trial) -> ModelCheck:
    """The whole model, before and after; the third file is the one before under its own names, if it was renamed."""
    from convinspect.verifying.model import try_models

    return try_models(files[0], files[1], report.kinds, trial, files[2])


def _drawn(text: str, seed: int) -> torch.Tensor:
    """A model's input, from a file or as random numbers of a shape.

    Raises:
        CannotShow: It is neither.
    """
    from convinspect.verifying.model import parse_input

    path = Path(text)
    if not path.suffix or not path.exists():
        if path.suffix in (".npy", ".pt", ".pth", ".safetensors"):
            raise NotThere("there is no such file", path=path)
        return parse_input(text, seed)
    import numpy as np
    import torch

    if path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
            return _widened(torch.from_numpy(array))
        except (ValueError, OSError, TypeError, EOFError) as error:
            raise CannotShow(f"it cannot be read as an array ({error})", "save it with numpy.save", path) from None
    return _widened(tensor_in(path))


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
