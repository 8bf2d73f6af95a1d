r"""Volumes as DICOM objects.

World to patient
----------------
The patient coordinate system of every object written here *is* marspipe's world: patient (x, y, z) = world (x, y, z),
in mm, with the isocenter as origin. DICOM's patient axes are right-handed like ours and point to the patient's left
(+x), posterior (+y) and head (+z); so +z, the gantry axis, runs towards the head, and with the source at view angle 0
on the -y side the first view is an anterior-posterior one of a patient lying head first supine (HFS). For a specimen
the anatomical words are naming only.

The image plane is z = const: rows run along y, columns along x, so that pixel ``[row, column]`` of slice ``z`` is voxel
``[z, y, x]`` of the volume, without mirror or transposition. Image Orientation (Patient) is ``1\0\0\0\1\0``: the
row's direction is +x, the column's is +y, and their cross product +z is the direction in which slices follow. Image
Position (Patient) is the center of voxel ``[z, 0, 0]``. Any reader that honors these attributes finds a voxel at its
world coordinate.
"""
