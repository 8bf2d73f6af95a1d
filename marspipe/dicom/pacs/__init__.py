"""PACS: instances sent to and fetched from a peer, by DIMSE (PS3.4, PS3.7, PS3.8) or DICOMweb (PS3.18).

:func:`~marspipe.dicom.pacs.connect.connect` gives a client for a :class:`~marspipe.dicom.pacs.peer.Peer`; both kinds
of client do the same few things, :class:`~marspipe.dicom.pacs.client.PacsClient`. Data sets go through as they are:
nothing here looks at a patient, and nothing of a data set but UIDs reaches a log or a message.
"""
