"""Archives of files in memory, made by Python's own modules."""

from __future__ import annotations

import io
import tarfile
import zipfile


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar of these files, by name; `mode` as `tarfile.open` takes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these files, by name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()
