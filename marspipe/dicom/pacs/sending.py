"""C-STORE: files sent as they are, over a few associations that are reused. PS3.4 B, PS3.7 9.1.1."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config

from marspipe.dicom.pacs.association import MAX_CONTEXTS, Associations, Context
from marspipe.dicom.pacs.client import Outgoing, Result
from marspipe.dicom.pacs.lanes import work_in_lanes
from marspipe.dicom.pacs.statuses import result_of
from marspipe.errors import InputError, RunError

# The two encodings that differ in the elements' heads alone; every peer takes the implicit one (PS3.5 10.1).
NATIVE = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_COPY_BYTES = 1 << 20


def send_instances(
    associations: Associations,
    instances: Sequence[Outgoing],
    report: Callable[[Outgoing, Result], None],
    *,
    lanes: int,
    decompress: bool,
) -> None:
    """Send instances over ``lanes`` associations; see :meth:`~marspipe.dicom.pacs.client.PacsClient.send`.

    A file goes from disk to the network in pieces, without being decoded. Only a peer that takes no explicit VR, or one
    that ``decompress`` is meant for, has it encoded anew, with pixels of the same values.

    Raises
    ------
    PeerUnavailableError, PeerRefusedError
        If the peer cannot be reached, or the last association broke, and instances are left.
    RunError
        If a file cannot be read.
    """
    # Read by send_c_store when it is given a path.
    _config.STORE_SEND_CHUNKED_DATASET = True
    contexts = _contexts(instances)

    def lane(mine: Iterator[Outgoing]) -> None:
        with associations.open(contexts) as association:
            accepted = {
                (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                for context in association.accepted_contexts
            }
            for instance in mine:
                report(instance, _store(associations, association, accepted, instance, decompress))

    work_in_lanes(instances, lanes, lane)


def _contexts(instances: Iterable[Outgoing]) -> list[Context]:
    """Return one context for each class and syntax, so that the peer says of each whether it takes it."""
    wanted: dict[tuple[str, str], None] = {}
    for facts in (instance.facts for instance in instances):
        # The native ones as well: a peer that takes none of the class's syntaxes would reject the whole association.
        wanted |= dict.fromkeys((facts.sop_class_uid, syntax) for syntax in (facts.syntax_uid, *NATIVE))
    if len(wanted) > MAX_CONTEXTS:
        raise InputError(
            f"{len(wanted)} combinations of SOP class and transfer syntax in one folder; an association has at most "
            f"{MAX_CONTEXTS}: publish its parts one by one"
        )
    return [(sop_class, (syntax,)) for sop_class, syntax in wanted]


def _store(
    associations: Associations, association: Any, accepted: set[tuple[str, str]], instance: Outgoing, decompress: bool
) -> Result:
    facts = instance.facts
    others = [syntax for syntax in NATIVE if (facts.sop_class_uid, syntax) in accepted]
    with _local(instance) as path:
        content: Any
        if (facts.sop_class_uid, facts.syntax_uid) in accepted:
            content = path
        elif others and facts.syntax_uid in NATIVE:
            content = pydicom.dcmread(path)
        elif others and decompress:
            try:
                content = pydicom.dcmread(path)
                content.decompress(generate_instance_uid=False)
            except Exception:  # of any decoder, whose words may hold values
                return Result("refused", f"{UID(facts.syntax_uid).name} cannot be decompressed")
        else:
            hint = "; --decompress sends it uncompressed" if others else ""
            what = f"{UID(facts.sop_class_uid).name} in {UID(facts.syntax_uid).name}"
            return Result("refused", f"{what} is not taken{hint}")
        try:
            status = association.send_c_store(content)
        except OSError as error:
            raise RunError(f"{instance.name}: cannot be read: {error.strerror}") from error
        except RuntimeError as error:  # no longer established
            raise associations.broken() from error
        except (ValueError, AttributeError):
            return Result("refused", "the data set cannot be encoded")
    if "Status" not in status:
        raise associations.broken()
    return result_of(status.Status)


@contextmanager
def _local(instance: Outgoing) -> Iterator[Path]:
    """Give the file on the local disk; one that lies elsewhere is copied there for the time being."""
    if instance.path is not None:
        yield instance.path
        return
    with tempfile.NamedTemporaryFile(suffix=".dcm") as copy:
        try:
            with instance.open() as file:
                shutil.copyfileobj(file, copy, _COPY_BYTES)
            copy.flush()
        except OSError as error:
            raise RunError(f"{instance.name}: cannot be read: {error.strerror or error}") from error
        yield Path(copy.name)
