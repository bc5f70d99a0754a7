"""What `verify` is asked to do, and what of it contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass

from convinspect.errors import CannotConvert, Option, Wording


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How two checkpoints are to be compared. The fields have the names of the command's options.

    Attributes:
        layer: Layers or globs to report on; () for all that were converted or differ.
        rename: Rules OLD=NEW that turn the names of the file before into those of the file after, as given to convert.
        bits: Compare the stored bits alone, without PyTorch.
        grad: Also compare ∂x, ∂W and ∂b of each layer, and the model's gradients.
        model: `package.module:Class_or_factory` of the user's model, to run the whole of it too; None not to.
        model_after: The same for the file after; None to swap layers of `model`.
        input: The model's inputs, each a shape such as "2x64x1024" or "2x16:int64:1000", or a file.
        device: Where to run.
        dtype: In which rounding is measured; "" for the file's own.
        seed: Of the random inputs, and set before each run of a model.
        batch: Batch size of a layer's input; None for the default.
        length: Length of a layer's input; None for the default.
    """

    layer: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()
    bits: bool = False
    grad: bool = False
    model: str | None = None
    model_after: str | None = None
    input: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: str = ""
    seed: int = 0
    batch: int | None = None
    length: int | None = None

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(batch, length) of each input of a layer: the size asked for and a single position; () for the default."""
        if self.batch is None and self.length is None:
            return ()
        return tuple(dict.fromkeys(((1, 1), (self.batch or 2, self.length or 2))))

    def check(self) -> None:
        """See that no option contradicts another.

        Raises:
            CannotConvert: One does.
        """
        given, model = Option("input", None), Option("model", None)
        if self.model is None and (self.model_after is not None or self.input):
            after = Option("model_after", None)
            raise CannotConvert(Wording(given, " and ", after, " say how to run a model, and no ", model, " is given"))
        if self.model is not None and not self.input:
            raise CannotConvert(
                Wording(model, " is to be run and ", given, " does not say on what"),
                Wording("give one, as in ", Option("input", "2x3x1024")),
            )
        if self.bits and self.grad:
            raise CannotConvert(
                Wording(Option("bits"), " runs nothing, so ", Option("grad"), " has nothing to compare"),
                "drop one of them",
            )
