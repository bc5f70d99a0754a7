"""The fixed strings of `explain`, in English and in Chinese."""

from __future__ import annotations

from string import Formatter
from typing import Literal, TypeAlias

Language: TypeAlias = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


class Said(str):
    """A sentence in English that can be said in other languages too.

    Args:
        template: The sentence, with {names} in braces.
        values: What stands for the names; a `Said` among them is translated as well.
    """

    def __new__(cls, template: str, **values: object) -> Said:
        said = super().__new__(cls, template.format(**values))
        said.template, said.values = template, values
        return said

    template: str
    values: dict[str, object]


class Parts(str):
    """Several things in one sentence, in English.

    Args:
        english: As the sentence has them.
        parts: Each of them.
    """

    def __new__(cls, english: str, parts: list[str]) -> Parts:
        joined = super().__new__(cls, english)
        joined.parts = parts
        return joined

    parts: list[str]


class Words:
    """What says sentences in a language.

    Args:
        lang: "en", or "zh" for Chinese.
    """

    def __init__(self, lang: Language) -> None:
        self.lang = lang

    def __call__(self, template: str, **values: object) -> str:
        """The sentence with its values.

        Raises:
            KeyError: It has no translation, which a test excludes.
        """
        if self.lang == "en":
            return template.format(**values)
        told = {name: self.of(value) if isinstance(value, str) else value for name, value in values.items()}
        return CHINESE[template].format(**told)

    def of(self, said: str) -> str:
        """A `Said`, or the `Parts` of one, in this language; any other text unchanged."""
        if isinstance(said, Parts) and self.lang != "en":
            return self.listed([self.of(part) for part in said.parts])
        return self(said.template, **said.values) if isinstance(said, Said) else said

    def listed(self, parts: list[str]) -> str:
        """Parts with commas between them."""
        return (", " if self.lang == "en" else "、").join(parts)

    def ended(self, sentence: str) -> str:
        """A sentence with its full stop."""
        return f"{sentence}." if self.lang == "en" else f"{sentence}。"

    def joined(self, sentences: list[str]) -> str:
        """Sentences one after another."""
        return (" " if self.lang == "en" else "").join(sentences)


def names_in(template: str) -> set[str]:
    """The names in a template's braces."""
    return {name for _, name, _, _ in Formatter().parse(template) if name}


CHINESE = {
    # Rows, columns and kernels.
    "row {n}": "行 {n}",
    "kernel {n}": "卷积核 {n}",
    "tap {n}": "位置 {n}",
    "patch {n}": "图像块 {n}",
    "channel {n}": "通道 {n}",
    "channel {n}, t {t}": "通道 {n}, t {t}",
    # Titles of a step, and of its panels.
    "row {n} of 0–{last}: {cell}": "行 {n}（0–{last}）：{cell}",
    "X, data ({rows} × {columns})": "X，数据 ({rows} × {columns})",
    "{letter}, result ({rows} × {columns})": "{letter}，结果 ({rows} × {columns})",
    "A, weight ({rows} × {columns})": "A，权重 ({rows} × {columns})",
    "W, kernels {shape}": "W，卷积核 {shape}",
    "kernel {n} of W {shape}": "卷积核 {n}，取自 W {shape}",
    "kernel {n} of W {shape}, b{n} = {bias}": "卷积核 {n}，取自 W {shape}，偏置 b{n} = {bias}",
    " · left out: {parts}": " · 未画出：{parts}",
    "{count} rows of X": "X 的 {count} 行",
    "{count} row of X": "X 的 {count} 行",
    "{count} columns of X": "X 的 {count} 列",
    "{count} column of X": "X 的 {count} 列",
    "{count} kernels": "{count} 个卷积核",
    "{count} kernel": "{count} 个卷积核",
    "{count} patches": "{count} 个图像块",
    "{count} patch": "{count} 个图像块",
    # The arithmetic.
    "({count} more)": "(另 {count} 项)",
    "running sum": "逐项累加",
    # What the drawing shows.
    ", plus the kernel's bias": "，再加该核的偏置",
    "{kernels}, so {columns}: each number is the dot product of a row of X and a kernel{bias}.": (
        "{outs} 个卷积核，就有 {outs} 个输出通道，也就是结果的 {outs} 列：每个数都是 X 的一行与一个卷积核的点积{bias}。"
    ),
    "{kernels}, so {columns}: each number is the dot product of a window of {taps} neighbouring rows and a "
    "kernel{bias}.": (
        "{outs} 个卷积核，就有 {outs} 个输出通道，也就是结果的 {outs} 列："
        "每 {taps} 个相邻的行是一个窗口，每个数都是一个窗口与一个卷积核的点积{bias}。"
    ),
    "{kernels}, so {columns}: each number is the dot product of a patch and a kernel{bias}.": (
        "{outs} 个卷积核，就有 {outs} 个输出通道，也就是结果的 {outs} 列："
        "每个数都是一个图像块与一个卷积核的点积{bias}。"
    ),
    "Windows never overlap, so a patch is a row by itself, and the convolution is a Linear on these rows.": (
        "窗口互不重叠，所以每个图像块自成一行，这个卷积就是作用在这些行上的 Linear。"
    ),
    "Both were computed by PyTorch just now: the same to within {within}, which is rounding.": (
        "两者都由 PyTorch 当场算出：相差不超过 {within}，只是舍入误差。"
    ),
    "the first {shown} of {count} numbers": "前 {shown} 个数，共 {count} 个",
    # The two layouts.
    "the two layouts": "两种排列方式",
    "Conv1d takes (C, L) = ({channels}, {length})": "Conv1d 的输入 (C, L) = ({channels}, {length})",
    "kernel {n}, sliding along L": "卷积核 {n}，沿 L 滑动",
    "and gives (O, L) = ({channels}, {length})": "输出 (O, L) = ({channels}, {length})",
    "Linear takes (L, C) = ({length}, {channels})": "Linear 的输入 (L, C) = ({length}, {channels})",
    "row {n} of A ({outs}, {ins})": "A ({outs}, {ins}) 的行 {n}",
    "and gives (L, O) = ({length}, {channels})": "输出 (L, O) = ({length}, {channels})",
    "Conv1d lays the data on their side: channels down, positions across. Its weight is ({outs}, {ins}, 1):": (
        "Conv1d 把数据横过来放：通道从上到下，位置从左到右。它的权重是 ({outs}, {ins}, 1)："
    ),
    "{outs} kernels, each {ins} channels high and 1 position wide, sliding along L.": (
        "{outs} 个卷积核，每个高 {ins} 个通道、宽 1 个位置，沿 L 滑动。"
    ),
    "Linear keeps one row per position, (L, C), and its weight is ({outs}, {ins}): Y = X·Aᵀ + b.": (
        "Linear 每个位置占一行，即 (L, C)，权重是 ({outs}, {ins})：Y = X·Aᵀ + b。"
    ),
    "A kernel 1 position wide sees one position at a time, so both compute the same numbers;": (
        "宽 1 个位置的卷积核每次只看一个位置，所以两者算出同样的数，这就是“共享 MLP”；"
    ),
    "the 1 at the end of (out, in, 1) is the kernel's width, and holds no number of its own.": (
        "(out, in, 1) 末尾的 1 是卷积核的宽度，并不多存任何数。"
    ),
    "This kernel is {taps} positions wide: each result sees {taps} neighbouring rows at once.": (
        "这个卷积核宽 {taps} 个位置：每个结果同时看 {taps} 个相邻的行。"
    ),
    "A Linear on one row cannot do that; only a kernel of size 1 is a Linear at each position.": (
        "作用在单独一行上的 Linear 做不到；只有大小为 1 的卷积核才等于在每个位置上用同一个 Linear。"
    ),
    # Convolutions over patches.
    "patch {n} of 0–{last}: {place}": "图像块 {n}（0–{last}）：{place}",
    "{place} of the sequence": "序列的{place}",
    "{place} of the image": "图像的{place}",
    "{place} of the video": "视频的{place}",
    "positions {first}–{last}": "位置 {first}–{last}",
    "times {first}–{last}": "帧 {first}–{last}",
    "rows {first}–{last}": "行 {first}–{last}",
    "columns {first}–{last}": "列 {first}–{last}",
    "position {first}": "位置 {first}",
    "time {first}": "帧 {first}",
    "row {first}": "行 {first}",
    "column {first}": "列 {first}",
    "{kind} takes the sequence (C, {axes}) = {sizes}; its window, {patch}, moves by its own size": (
        "{kind} 的输入：序列 (C, {axes}) = {sizes}；窗口 {patch} 每次移动自身的大小"
    ),
    "{kind} takes the image (C, {axes}) = {sizes}; its window, {patch}, moves by its own size": (
        "{kind} 的输入：图像 (C, {axes}) = {sizes}；窗口 {patch} 每次移动自身的大小"
    ),
    "{kind} takes the video (C, {axes}) = {sizes}; its window, {patch}, moves by its own size": (
        "{kind} 的输入：视频 (C, {axes}) = {sizes}；窗口 {patch} 每次移动自身的大小"
    ),
    "and gives (O, {axes}) = {sizes}": "输出 (O, {axes}) = {sizes}",
    "Linear takes X ({rows} × {columns}), a row {order} per patch": (
        "Linear 的输入 X ({rows} × {columns})，每个图像块一行 {order}"
    ),
    "A ({rows} × {columns}), a row {order} per kernel": "A ({rows} × {columns})，每个卷积核一行 {order}",
    "and gives Y = X·Aᵀ + b ({rows} × {columns})": "输出 Y = X·Aᵀ + b ({rows} × {columns})",
    "the last {count} times": "最后 {count} 帧",
    "the last {count} rows": "最后 {count} 行",
    "the last {count} columns": "最后 {count} 列",
    "the last {count} positions": "最后 {count} 个位置",
    "the last {count} time": "最后 {count} 帧",
    "the last {count} row": "最后 {count} 行",
    "the last {count} column": "最后 {count} 列",
    "the last {count} position": "最后 {count} 个位置",
    "{parts} of the sequence fill no patch, and neither form sees them": "序列的{parts}不够一块，两种写法都看不到",
    "{parts} of the image fill no patch, and neither form sees them": "图像的{parts}不够一块，两种写法都看不到",
    "{parts} of the video fill no patch, and neither form sees them": "视频的{parts}不够一块，两种写法都看不到",
    # What is assumed, or left out.
    "stride 1, padding 0 and groups 1 are assumed, which a state_dict does not record": (
        "假定步长 stride 为 1、填充 padding 为 0、分组 groups 为 1，state_dict 不记录这些"
    ),
    "left out of the drawing: its {settings}; the layer itself gives other rows": (
        "图中没有画出它的 {settings}；这一层本身的输出行会不同"
    ),
    "assumed, since the file does not record it: {settings}": "文件没有记录，所以假定：{settings}",
    "stride as the kernel's size": "步长 stride 等于卷积核的大小",
    # Keys and buttons.
    "→ next · ← back · a row's number goes to that row · q leaves": "→ 下一步 · ← 上一步 · 输入行号跳到该行 · q 退出",
    "◀ back": "◀ 上一步",
    "next ▶": "下一步 ▶",
    "play": "播放",
    "{at} of {count}": "第 {at} 步，共 {count} 步",
}
"""Each sentence in Chinese. 点积: dot product, 卷积核: kernel, 图像块: patch, 偏置: bias, 输出通道: output channel."""
