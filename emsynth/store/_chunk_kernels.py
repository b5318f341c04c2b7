"""Reading and checking many chunks in one call that holds no lock of the interpreter's."""

from __future__ import annotations

import platform
import sys
from typing import Any, cast

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_START = np.uint32(0xFFFFFFFF)
_STRETCH = 512  # words of 8 bytes
_I32, _I64 = ir.IntType(32), ir.IntType(64)

_pread: Any = types.ExternalFunction("pread", types.intp(types.int32, types.uintp, types.uintp, types.int64))
_preadv2: Any = types.ExternalFunction("preadv2", types.intp(types.int32, types.uintp, types.int32, types.int64,
                                                              types.int32))
_fadvise: Any = types.ExternalFunction("posix_fadvise", types.int32(types.int32, types.int64, types.int64,
                                                                     types.int32))
_NO_WAIT, _WILL_NEED = 8, 3  # RWF_NOWAIT, POSIX_FADV_WILLNEED
_ASKS = sys.platform == "linux"  # whether one can read without waiting for a disk, and ask it to begin


def _instruction() -> str:
    """The processor's own crc32c instruction for eight bytes, as LLVM names it; empty where it has none."""
    asked = cast(Any, config)
    if asked.CPU_NAME or asked.CPU_FEATURES:  # Numba makes code for another processor than this one
        return ""
    features: dict[str, bool] = binding.get_host_cpu_features()
    if platform.machine() in ("x86_64", "AMD64") and features.get("sse4.2"):
        return "llvm.x86.sse42.crc32.64.64"
    if platform.machine() in ("aarch64", "arm64") and features.get("crc"):
        return "llvm.aarch64.crc32cx"
    return ""


_NAME = _instruction()
# Whether `fetch` can be used; where not, chunks are read and checked one by one.
USABLE = bool(_NAME) and not cast(Any, config).DISABLE_JIT


def _eight_more(context: Any, crc: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        state, data = arguments
        wide = _I64 if "x86" in _NAME else _I32
        function = builder.module.declare_intrinsic(_NAME, (), ir.FunctionType(wide, [wide, _I64]))
        found = builder.call(function, [builder.zext(state, wide) if wide is _I64 else state, data])
        return builder.trunc(found, _I32) if wide is _I64 else found

    return types.uint32(types.uint32, types.uint64), generate


_next: Any = intrinsic(_eight_more)  # crc32c of a state and eight more bytes


def _zeros_table(count: int) -> NDArray[np.uint32]:
    # What `count` zero bytes after a message do to its crc32c, by the bytes of that, (4, 256). The operation is linear
    # over bits, a matrix of 32 columns, and is squared for twice the bytes.
    power = np.array([1 << bit for bit in range(32)], np.uint64)
    for _ in range(8):
        power = (power >> np.uint64(1)) ^ (np.uint64(_POLYNOMIAL) * (power & np.uint64(1)))
    total = np.array([1 << bit for bit in range(32)], np.uint64)
    while count:
        if count & 1:
            total = _applied(power, total)
        power, count = _applied(power, power), count >> 1
    values = np.arange(256, dtype=np.uint64)
    return np.stack([_applied(total, values << np.uint64(8 * byte)) for byte in range(4)]).astype(np.uint32)


def _applied(columns: NDArray[np.uint64], words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    out = np.zeros_like(words)
    for bit, column in enumerate(columns):
        out ^= np.where(words >> np.uint64(bit) & np.uint64(1), column, np.uint64(0))
    return out


_TABLE = _zeros_table(8 * _STRETCH)


@njit(cache=True, nogil=True, error_model="numpy")
def _joined(crc: np.uint32, following: np.uint32) -> np.uint32:
    # The crc32c of two stretches from those of each, the second begun with 0.
    low = _TABLE[0, crc & np.uint32(255)] ^ _TABLE[1, (crc >> np.uint32(8)) & np.uint32(255)]
    high = _TABLE[2, (crc >> np.uint32(16)) & np.uint32(255)] ^ _TABLE[3, crc >> np.uint32(24)]
    return np.uint32(low ^ high ^ following)


@njit(cache=True, nogil=True, error_model="numpy")
def crc32c(data: NDArray[np.uint8]) -> np.uint32:
    """crc32c of bytes, three stretches at a time, which hides the instruction's latency."""
    words, crc, n = data[:data.size // 8 * 8].view(np.uint64), _START, 0
    while n + 3 * _STRETCH <= words.size:
        b, c = np.uint32(0), np.uint32(0)
        for m in range(n, n + _STRETCH):
            crc, b, c = _next(crc, words[m]), _next(b, words[m + _STRETCH]), _next(c, words[m + 2 * _STRETCH])
        crc = _joined(_joined(crc, b), c)
        n += 3 * _STRETCH
    for m in range(n, words.size):
        crc = _next(crc, words[m])
    for m in range(8 * words.size, data.size):
        crc ^= np.uint32(data[m])
        for _ in range(8):
            crc = (crc >> np.uint32(1)) ^ (np.uint32(_POLYNOMIAL) * (crc & np.uint32(1)))
    return np.uint32(crc ^ _START)


@njit(cache=True, nogil=True, error_model="numpy")
def _read(file: int, room: NDArray[np.uint8], offset: int) -> bool:
    done = 0
    while done < room.size:
        got = _pread(np.int32(file), np.uintp(room[done:].ctypes.data), np.uintp(room.size - done),
                     np.int64(offset + done))
        if got <= 0:
            return False
        done += got
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _read_cached(file: int, room: NDArray[np.uint8], offset: int) -> bool:
    # Whether all of it was in memory; where not, the disk begins to bring it, and nobody waits.
    if _ASKS:
        vector = np.array([np.uint64(room.ctypes.data), np.uint64(room.size)], np.uint64)
        if _preadv2(np.int32(file), np.uintp(vector.ctypes.data), np.int32(1), np.int64(offset),
                    np.int32(_NO_WAIT)) == room.size:
            return True
        _fadvise(np.int32(file), np.int64(offset), np.int64(room.size), np.int32(_WILL_NEED))
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _is_sound(file: int, body: NDArray[np.uint8], offset: int, tail: NDArray[np.uint8]) -> bool:
    return _read(file, tail, offset + body.size) and tail.view(np.uint32)[0] == crc32c(body)


@njit(cache=True, nogil=True, error_model="numpy")
def fetch(files: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int64], starts: NDArray[np.int64],
          checked: bool, room: NDArray[np.uint8], sound: NDArray[np.bool_]) -> int:
    """Read chunks, and compare each with the crc32c behind it.

    What the system has in memory is read at once; the rest is asked for all together, so that a disk with many heads
    or channels can use them, and read then.

    Parameters
    ----------
    files, offsets, lengths : (n,) int64
        File descriptor of each chunk, its place there, and its length in bytes without the checksum.
    starts : (n,) int64
        Where in `room` each is to lie, a multiple of 8.
    checked : bool
        Whether there are checksums.
    room : (m,) uint8
        Receives the bytes.
    sound : (n,) bool
        Receives whether each was read in full and has its checksum.

    Returns
    -------
    int
        How many the system did not have in memory.
    """
    tail, waiting = np.empty(4, np.uint8), np.empty(files.size, np.bool_)
    for k in range(files.size):
        body = room[starts[k]:starts[k] + lengths[k]]
        waiting[k] = not _read_cached(files[k], body, offsets[k])
        if not waiting[k]:
            sound[k] = not checked or _is_sound(files[k], body, offsets[k], tail)
    for k in range(files.size):
        if waiting[k]:
            body = room[starts[k]:starts[k] + lengths[k]]
            sound[k] = _read(files[k], body, offsets[k])
            if sound[k] and checked:
                sound[k] = _is_sound(files[k], body, offsets[k], tail)
    return int(waiting.sum()) if _ASKS else 0


@njit(cache=True, nogil=True, error_model="numpy")
def ask(files: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Have the system begin to bring chunks (n,) that will be read soon; see `fetch`."""
    for k in range(files.size):
        _fadvise(np.int32(files[k]), np.int64(offsets[k]), np.int64(lengths[k]), np.int32(_WILL_NEED))
