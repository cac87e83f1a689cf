"""Say what a file is that is not what its reader expects, so that a refusal can name it."""

import io
import zipfile
from pathlib import Path

from macer.files.reading import open_file

_BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: fetch it with git lfs pull",
    b"<!doctype html": "an HTML page, not the file itself: download it again, from its direct address",
    b"<html": "an HTML page, not the file itself: download it again, from its direct address",
    b"<?xml": "an XML document, such as the error message of a download",
    b"\x1f\x8b": "compressed with gzip: unpack it and give the file in it",
    b"bzh": "compressed with bzip2: unpack it and give the file in it",
    b"\xfd7zxz": "compressed with xz: unpack it and give the file in it",
    b"\x28\xb5\x2f\xfd": "compressed with zstandard: unpack it and give the file in it",
    b"7z\xbc\xaf": "a 7z archive: unpack it and give the file in it",
    b"rar!": "a RAR archive: unpack it and give the file in it",
    b"\x89hdf": "an HDF5 file, as Keras and MATLAB 7.3 write",
    b"\x93numpy": "a NumPy array (.npy)",
    b"gguf": "a GGUF file, which holds a language model",
}


def describe(file: Path) -> str | None:
    """Return what a file is by its content, and what to do, as part of one line; None if that is not known.

    Raises:
        OSError: the file cannot be read.
    """
    with open_file(file) as stream:
        start = stream.read(512)
        if start[257:262] == b"ustar":
            return "a tar archive: unpack it and give the file in it"
        if start.startswith(b"PK\x03\x04"):
            return _of_zip(stream)
    text = start.lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    return next((kind for beginning, kind in _BEGINNINGS.items() if text.startswith(beginning)), None)


def _of_zip(stream: io.BufferedReader) -> str | None:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
    except Exception:  # it raises many kinds on damaged files
        return None
    if any(name.endswith("data.pkl") for name in names):
        return None
    if all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz)"
    return (
        f"a zip archive of {len(names)} files, such as {names[0] if names else ''!r}: unpack it and give the file in it"
    )
