"""The folder in which a version of a volume is made: what an interrupted job left there is not done again.

Its name holds the content hash, so that nothing but the same frames and the same recipe goes on in it. Every task's
slab is a file that appears when the task has ended; the tables that come before carry a commit of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from marspipe.pipeline.planning.plan import ReconstructionPlan
from marspipe.pipeline.stock import SlabFile, slab_files
from marspipe.store import storage
from marspipe.store.commit import commit, committed
from marspipe.store.pixel_flags import PIXEL_FLAGS_FOLDER

_PREFIX = "_work-"
_CUT_FILE = "_cut.json"
# Tables of earlier stages that the finished volume does not need.
STRIPE_OFFSETS = "_stripe_offsets"
FILTERED = "_filtered"
_SCRATCH = (STRIPE_OFFSETS, FILTERED, _CUT_FILE, "_temporary")


@dataclass(frozen=True)
class WorkFolder:
    """A version of a volume in the making.

    Attributes
    ----------
    volume_uri : str
        The volume.
    name : str
        The folder's name in it.
    """

    volume_uri: str
    name: str

    @classmethod
    def of(cls, volume_uri: str, content_hash: str) -> WorkFolder:
        """Return the work folder of what has a content hash."""
        return cls(volume_uri, _PREFIX + content_hash)

    @property
    def uri(self) -> str:
        """URI of the folder."""
        return storage.join(self.volume_uri, self.name)

    @property
    def pixel_flags_uri(self) -> str:
        """URI of the flags of bad pixels."""
        return storage.join(self.uri, PIXEL_FLAGS_FOLDER)

    def table_uri(self, name: str) -> str:
        """Return the URI of a table of an earlier stage."""
        return storage.join(self.uri, name)

    def claim(self, *, anew: bool) -> None:
        """Make the folder, and remove those of other recipes; with ``anew`` what lies in this one too."""
        if storage.is_dir(self.volume_uri):
            for name in storage.list_dir(self.volume_uri):
                if name.startswith(_PREFIX) and (anew or name != self.name):
                    storage.remove_tree(storage.join(self.volume_uri, name))
        storage.make_dirs(self.uri)

    def once(self, name: str, make: Callable[[str], None]) -> bool:
        """Make a table of an earlier stage unless it is there; return whether it was made now.

        Parameters
        ----------
        name : str
            Its folder's name.
        make : callable
            Writes it to the URI it is given.
        """
        uri = self.table_uri(name)
        if committed(uri) is not None:
            return False
        make(uri)
        commit(uri, {"kind": name.strip("_")})
        return True

    def recorded_thickness(self) -> int | None:
        """Return the slices of a slab in the files of an interrupted job, or None if there are none."""
        uri = storage.join(self.uri, _CUT_FILE)
        if not storage.exists(uri):
            return None
        slices: int = json.loads(storage.read_bytes(uri))["slab_slices"]
        return slices

    def finished(self, plan: ReconstructionPlan) -> dict[int, SlabFile]:
        """Return the finished files of backprojection tasks by task number; files that do not fit the plan go."""
        cut = {"slab_slices": plan.slabs[0].slab.n_slices, "tile_rows": plan.tile_rows}
        storage.write_bytes(storage.join(self.uri, _CUT_FILE), json.dumps(cut).encode(), overwrite=True)
        found: dict[int, SlabFile] = {}
        for name, file in slab_files(self.uri, plan).items():
            # A task that was repeated after its end has written the same once more.
            if file is None or file.task in found:
                storage.remove(storage.join(self.uri, name))
            else:
                found[file.task] = file
        return found

    def clear_scratch(self) -> None:
        """Remove what the finished volume does not need."""
        for name in _SCRATCH:
            with suppress(FileNotFoundError):
                storage.remove_tree(storage.join(self.uri, name))
