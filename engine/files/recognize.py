"""What a file is, by its content and then by its name, and what takes it: for whoever was given another one.

Only the beginning of a file is read (of a zip also its directory), and only of regular files: nothing waits for a pipe.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import (
    CalibrationError,
    CheckpointError,
    ConfigError,
    DensePoseEngineError,
    EngineFileError,
    GraphFileError,
    ImageError,
)

_HEAD = 4096  # bytes that are looked at
_ZIP_LIMIT = 4 << 30  # bytes; zipfile reads the whole directory of what may be anything


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    ``name``: with its article, "an engine"; ``way_out``: the verb that takes it, or how it becomes what can be taken;
    ``error``: of whoever wanted this kind and got another; ``contrasted``: say what it is not.
    """

    name: str
    way_out: str
    error: type[DensePoseEngineError] = DensePoseEngineError
    contrasted: bool = True


ENGINE = FileKind("an engine", "infer, evaluate, bench and inspect take it", EngineFileError)
GRAPH = FileKind("an ONNX graph", "'densepose-engine build' makes an engine of it", GraphFileError)
CHECKPOINT = FileKind(
    "a PyTorch checkpoint", "'densepose-engine export --weights' makes a graph of it, and build an engine of that",
    CheckpointError,
)  # fmt: skip
PICKLE = FileKind(
    "a pickle, which is how detectron2 keeps checkpoints",
    "'densepose-engine export --weights' makes a graph of it, and build an engine of that",
    CheckpointError,
)
CONFIG = FileKind(
    "a YAML configuration", "'densepose-engine export --config' takes it, with the checkpoint as --weights", ConfigError
)
TABLE = FileKind(
    "a calibration table", "'densepose-engine build --precision int8 --calib' takes it, with its graph",
    CalibrationError,
)  # fmt: skip
RESULTS = FileKind(
    "an .npz of arrays", "results that infer saved are read by DensePoseResult.load and 'evaluate --predictions'"
)
PICTURE = FileKind("a picture", "'densepose-engine infer ENGINE PICTURE' takes it, and calibrate", ImageError)
HEIC = FileKind(
    "a HEIC picture",
    "Pillow reads it with a plugin alone: pip install pillow-heif; or save it as JPEG",
    contrasted=False,
)
RAW = FileKind("a camera's raw picture", "develop it first, to JPEG or PNG", contrasted=False)
VIDEO = FileKind("a video", "'densepose-engine infer ENGINE VIDEO' takes it, one at a time")
PLAN = FileKind(
    "a TensorRT plan", "trtexec and DeepStream take it; the engine that it was extracted from is what infer takes"
)
OPENVINO_IR = FileKind("an OpenVINO model", "an engine is made of the ONNX graph, by 'densepose-engine build'")
TORCHSCRIPT = FileKind(
    "a TorchScript program", "'densepose-engine export' takes the checkpoint, which holds weights alone"
)
SAFETENSORS = FileKind(
    "weights as safetensors", "save them with torch.save as .pth, with detectron2's names, for 'export --weights'"
)
HDF5 = FileKind("an HDF5 file", "no verb takes it")
TFLITE = FileKind("a TensorFlow Lite model", "no verb takes it; export begins with detectron2's checkpoint")
ANNOTATIONS = FileKind("JSON", "'densepose-engine evaluate --annotations' takes COCO DensePose annotations")
WEB_PAGE = FileKind("a web page", "was it meant to be a download? Fetch the file that the page links to")
LFS_POINTER = FileKind(
    "a pointer of Git LFS, without the file itself", "'git lfs pull' in its repository fetches that", contrasted=False
)
ARCHIVE = FileKind("an archive", "unpack it, and name what is in it")
ZIP = FileKind("a zip archive", "unpack it, and name what is in it")
PDF = FileKind("a PDF", "save its pictures as PNG or JPEG")
EMPTY = FileKind("empty", "copy it or make it again", contrasted=False)
FOLDER = FileKind("a folder", "name a file in it")
SPECIAL = FileKind("no regular file", "name one; a stream can be saved to a file first", contrasted=False)
CAMERA = FileKind(
    "a camera", "no verb reads one; frames from anywhere go to Engine.stream(frames), or record a video first"
)
ADDRESS = FileKind("an address", "download it first, and name the file")
STREAM = FileKind(
    "the address of a stream",
    "no verb reads one; frames from anywhere go to Engine.stream(frames), or save a part of it with ffmpeg first",
)

_MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (b"\xff\xd8\xff", PICTURE),
    (b"\x89PNG\r\n\x1a\n", PICTURE),
    (b"GIF8", PICTURE),
    (b"\0\0\0\x0cjP  \r\n\x87\n", PICTURE),
    (b"\xff\x4f\xff\x51", PICTURE),
    (b"\x1a\x45\xdf\xa3", VIDEO),
    (b"\0\0\x01\xba", VIDEO),
    (b"\0\0\x01\xb3", VIDEO),
    (b"FLV\x01", VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", VIDEO),
    (b"ftrt", PLAN),
    (b"ptrt", PLAN),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"%PDF-", PDF),
    (b"version https://git-lfs", LFS_POINTER),
    (b"\x1f\x8b", ARCHIVE),
    (b"BZh", ARCHIVE),
    (b"\xfd7zXZ\0", ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"(\xb5/\xfd", ARCHIVE),
    (b"Rar!", ARCHIVE),
)
_SUFFIXES: dict[str, FileKind] = {
    ".engine": ENGINE,
    ".onnx": GRAPH,
    **dict.fromkeys((".pth", ".pt", ".ckpt"), CHECKPOINT),
    **dict.fromkeys((".pkl", ".pickle"), PICKLE),
    **dict.fromkeys((".yaml", ".yml"), CONFIG),
    ".npz": RESULTS,
    **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"), PICTURE),
    **dict.fromkeys((".jp2", ".ppm", ".pgm"), PICTURE),
    **dict.fromkeys((".heic", ".heif", ".hif"), HEIC),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), RAW),
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"), VIDEO),
    **dict.fromkeys((".3gp", ".mts", ".m2ts", ".ogv"), VIDEO),
    ".plan": PLAN,
    ".safetensors": SAFETENSORS,
    **dict.fromkeys((".h5", ".hdf5", ".mat"), HDF5),
    ".tflite": TFLITE,
    **dict.fromkeys((".html", ".htm"), WEB_PAGE),
    **dict.fromkeys((".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"), ARCHIVE),
    ".zip": ZIP,
    ".pdf": PDF,
}
# What else nobody calls a folder: data, pictures, videos and sound of kinds that nothing here reads.
_OTHER_SUFFIXES = (
    *(".json", ".jsonl", ".csv", ".tsv", ".txt", ".log", ".md", ".xml", ".npy", ".parquet"),
    *(".svg", ".ico", ".jxl", ".tga", ".exr", ".psd", ".eps"),
    *(".asf", ".f4v", ".h264", ".h265", ".hevc", ".m2v", ".mxf", ".rm", ".vob", ".y4m"),
    *(".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp", "mms", "gst", "v4l2")


def recognize(path: str | os.PathLike[str]) -> FileKind | None:
    """The kind of the file at ``path``; None where it is none of those known here, or cannot be read.

    What is not there is recognized by its name alone: an address, a camera. A name's suffix says something only where
    the content does not.
    """
    text = os.fsdecode(path)
    try:
        status = Path(text).stat()
    except (OSError, ValueError):  # an embedded null character
        return of_address(text)
    if stat.S_ISDIR(status.st_mode):
        return FOLDER
    if stat.S_ISCHR(status.st_mode) and Path(os.path.realpath(text)).name.startswith("video"):
        return CAMERA
    if not stat.S_ISREG(status.st_mode):
        return SPECIAL
    if not status.st_size:
        return EMPTY
    suffix = Path(text).suffix.lower()
    try:
        with Path(text).open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return _SUFFIXES.get(suffix)
    if head[:4] == b"PK\x03\x04":
        return _of_zip(text) if status.st_size < _ZIP_LIMIT else ZIP
    found = recognize_content(head)
    if found is ANNOTATIONS and suffix in (".yaml", ".yml"):
        return CONFIG  # JSON is YAML
    return found or (_SUFFIXES.get(suffix) if _says_its_name(head, suffix) else None)


def kind_of_suffix(suffix: str) -> FileKind | None:
    """The kind of file that a suffix (".onnx", in small letters) promises."""
    return _SUFFIXES.get(suffix)


def names_a_file(path: str | os.PathLike[str]) -> bool:
    """Whether the name of an output is a file's: "result.png" is, "results.2" is not, nor is a folder that is there."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 (of text, too)
    known = suffix in _SUFFIXES or suffix in _OTHER_SUFFIXES
    return known and not os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises where a name is too long)


def _says_its_name(head: bytes, suffix: str) -> bool:
    """Whether a suffix may be believed although the content was not recognized: kinds with a signature had none."""
    kind = _SUFFIXES.get(suffix)
    if kind is CONFIG:
        return b"\0" not in head
    return kind in (HEIC, RAW, VIDEO, ARCHIVE, HDF5, PLAN)


def of_address(text: str) -> FileKind | None:
    """ADDRESS, STREAM or CAMERA, where a path that leads to no file is one of these; else None."""
    if re.fullmatch(r"camera:\S*|/dev/video\d+", text):
        return CAMERA
    # One slash is what pathlib leaves of two.
    scheme = re.match(r"([a-z][a-z0-9+.-]+):/", text, re.IGNORECASE) or re.match(r"(gst):", text)
    if scheme is None:
        return None
    return STREAM if scheme[1].lower() in _STREAMS else ADDRESS


def recognize_content(head: bytes) -> FileKind | None:
    """The kind of a file that begins with these bytes, a few thousand or all; None where they tell nothing."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return HEIC if brand in _HEIC_BRANDS else PICTURE if brand in (b"avif", b"avis") else VIDEO
    if head[4:8] == b"TFL3":
        return TFLITE
    if head[:4] == b"RIFF":
        return {b"WEBP": PICTURE, b"AVI ": VIDEO}.get(head[8:12])
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or (head[:2] == b"BM" and head[6:10] == bytes(4)):
        return PICTURE
    if re.match(rb"P[1-6][ \t\r\n]+\d", head):
        return PICTURE
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return VIDEO
    if head[257:262] == b"ustar":
        return ARCHIVE
    if head[4:9] == b"\0\0\0\0{":
        return SAFETENSORS
    if re.match(rb"\x80[\x02-\x05]", head):
        return CHECKPOINT if head[2:3] == b"\x8a" else PICKLE
    # ir_version, and one of ModelProto's other fields.
    if re.match(rb"\x08[\x03-\x20][\x12\x1a\x22\x28\x32\x3a\x42\x72]", head):
        return GRAPH
    return _of_text(head)


def _of_text(head: bytes) -> FileKind | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"(<!--.*?-->\s*)?<(!doctype html|html|head|body)\b", start[:1000], re.IGNORECASE | re.DOTALL):
        return WEB_PAGE
    if start.startswith(b"<?xml") and b"<net " in head:
        return OPENVINO_IR
    if re.match(rb'\{\s*["}]|\[\s*[{"\[\d\]-]', start):
        return TABLE if b'"densepose-engine calibration"' in start[:200] else ANNOTATIONS
    if re.search(rb"^(MODEL|_BASE_|INPUT|BOOTSTRAP_DATASETS)\s*:", head, re.MULTILINE) and b"\0" not in head:
        return CONFIG
    return None


def _of_zip(path: str) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile does not say what it raises on damaged files
        # Truncated: the first member's name is in the first bytes.
        with Path(path).open("rb") as stream:
            head = stream.read(256)
        return ENGINE if head[30:43] == b"manifest.json" else CHECKPOINT if b"/data.pkl" in head[30:] else ZIP
    if "manifest.json" in names:
        return ENGINE
    if any(name.endswith("/data.pkl") for name in names):
        return TORCHSCRIPT if any(name.endswith("/constants.pkl") for name in names) else CHECKPOINT
    return RESULTS if names and all(name.endswith(".npy") for name in names) else ZIP


def mismatch(path: str | os.PathLike[str], *wanted: FileKind) -> str | None:
    """A sentence that says what the file at ``path`` is and what takes it, where it is of another kind than ``wanted``.

    None where it is of a wanted kind, or nothing is known about it.
    """
    return _contrast(recognize(path), os.fsdecode(path), wanted)


def content_mismatch(content: bytes, name: str, *wanted: FileKind) -> str | None:
    """The same of the content of a file, or its first kilobytes, that is called ``name``."""
    return _contrast(recognize_content(content) if content else EMPTY, name, wanted)


def _contrast(kind: FileKind | None, text: str, wanted: tuple[FileKind, ...]) -> str | None:
    if kind is None or kind in wanted:
        return None
    if kind in (ADDRESS, STREAM):
        scheme, _, rest = text.partition(":")
        text = f"{scheme}://{rest.lstrip('/')}"  # as it was before it was a path
        if scheme.lower() == "file":
            return f"{text} is an address; name the file itself, /{rest.lstrip('/')}"
    contrast = f", not {wanted[0].name}" if kind.contrasted else ""
    return f"{text} is {kind.name}{contrast}; {kind.way_out}"


def refuse_other(
    path: str | os.PathLike[str], *wanted: FileKind, error: type[DensePoseEngineError] | None = None
) -> None:
    """Raise ``error``, by default ``wanted[0].error``, with the sentence of ``mismatch``, where there is one.

    What is not there, empty or unknown is let through: the reader says what is wrong with it.
    """
    if (sentence := mismatch(path, *wanted, EMPTY)) is not None:
        raise (error or wanted[0].error)(sentence)


def expect(path: str | os.PathLike[str], *wanted: FileKind) -> None:
    """``refuse_other`` for a verb, before it does anything: also ``FileNotFoundError`` where there is no such file."""
    refuse_other(path, *wanted)
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no {wanted[0].name.rpartition(' ')[2]} {os.fspath(path)}")
