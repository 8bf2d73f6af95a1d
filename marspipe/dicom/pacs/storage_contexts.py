"""Presentation contexts of the receiver: what may be stored, and in which transfer syntaxes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContext, build_context

_VERIFICATION = "1.2.840.10008.1.1"
_STORAGE_SERVICE = "1.2.840.10008.4.2"
# Deflated data sets cannot be walked, and grow without bound; of JPIP the pixels are elsewhere.
_NOT_TAKEN = (
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.94",
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.204",
    "1.2.840.10008.1.2.4.205",
)
TRANSFER_SYNTAXES = tuple(syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax not in _NOT_TAKEN)


def supported_contexts(requested: Iterable[str]) -> list[PresentationContext]:
    """Return what is accepted of the abstract syntaxes that a peer asks for, and verification."""
    contexts = [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in sorted(set(requested)) if is_storage(uid)]
    return [*contexts, build_context(_VERIFICATION, list(TRANSFER_SYNTAXES))]


def is_storage(uid: str) -> bool:
    """Return whether a SOP class is one that is stored: a standard one, or one that the standard does not know."""
    return uid in _storage_classes() or not UID(uid).keyword


def private_service_items(event: Any) -> dict[UID, SOPClassCommonExtendedNegotiation]:
    """Let instances of private SOP classes be handled by the storage service; of ``evt.EVT_SOP_COMMON``."""
    requested = event.assoc.requestor.primitive.presentation_context_definition_list
    uids = {UID(context.abstract_syntax) for context in requested}
    return {uid: _stored(uid) for uid in uids if is_storage(uid)}


def _stored(uid: UID) -> SOPClassCommonExtendedNegotiation:
    item = SOPClassCommonExtendedNegotiation()
    item.sop_class_uid, item.service_class_uid = uid, UID(_STORAGE_SERVICE)
    return item


@cache
def _storage_classes() -> frozenset[str]:
    return frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
