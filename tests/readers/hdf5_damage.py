"""A program: damage NXtomo files in many ways and read them; prints what came of each, by its seed.

It runs apart from the tests because the HDF5 library is not proof against damage: it could crash or never return.
"""

from __future__ import annotations

import io
import random
import resource
import sys

import h5py

from marspipe.errors import RawFormatError
from marspipe.readers import nxtomo
from tests.readers.bad_files import SEVEN
from tests.readers.test_nxtomo import nxs

# Damage in the length of a text lets the library ask for up to 4 GiB at once.
_MOST_MEMORY_BYTES = 3 << 30


def sound_files() -> list[bytes]:
    """The same scan with text of fixed and variable length, old and new forms of metadata, plain and in chunks."""
    fixed = nxs(**{"instrument/detector/data": SEVEN}).getvalue()
    files = [fixed]
    for libver, options in (
        ("earliest", {}),
        ("earliest", {"chunks": (2, 4, 6), "compression": "gzip", "shuffle": True}),
        ("latest", {"chunks": (1, 4, 6), "compression": "gzip"}),
    ):
        file = io.BytesIO()
        with h5py.File(file, "w", libver=libver) as h5, h5py.File(io.BytesIO(fixed)) as source:
            source.copy("entry", h5)
            for path, kind in (
                ("", "NXentry"),
                ("/instrument", "NXinstrument"),
                ("/instrument/detector", "NXdetector"),
            ):
                h5[f"entry{path}"].attrs["NX_class"] = kind
            h5["entry/sample/rotation_angle"].attrs["units"] = "degree"
            detector = h5["entry/instrument/detector"]
            del detector["data"]
            detector.create_dataset("data", data=SEVEN, **options)
        files.append(file.getvalue())
    return files


def damaged(sound: bytes, seed: int) -> bytes:
    """A file with one to four places changed, more often where the metadata are."""
    chance = random.Random(seed)
    content = bytearray(sound)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content))
        while not any(content[max(0, place - 4) : place + 4]):
            place = chance.randrange(len(content))
        width = chance.choice([1, 1, 4, 8, 8])
        start = place - place % width
        content[start : start + width] = chance.choice(
            [bytes(width), b"\xff" * width, b"\xf0" + b"\xff" * (width - 1), chance.randbytes(width)]
        )
    return bytes(content)


def outcome(content: bytes) -> str:
    """What reading a file comes to."""
    file = io.BytesIO(content)
    try:
        entries = nxtomo.index(file, "x.nxs")
        for entry, frame in zip(entries, nxtomo.read_many(file, entries), strict=True):
            assert frame.shape == (entry.rows, entry.cols)
        nxtomo.describe(file, "x.nxs")
    except RawFormatError as error:
        str(error).encode()
        return "named" if str(error).startswith("x.nxs") else f"without a name: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))
    kinds = sound_files()
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        print(number, "begins", flush=True)
        print(number, outcome(damaged(kinds[number % len(kinds)], number)), flush=True)
