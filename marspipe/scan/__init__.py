"""What was measured: geometry, energy bins, spectra and phantoms, as values and pure functions.

Conventions used everywhere in marspipe
---------------------------------------
Lengths are mm, angles rad, attenuation 1/mm, energies keV. The world is right-handed, its origin the
isocenter, **z the rotation axis**. At view angle ``t`` the source stands at ``SOD (sin t, -cos t, 0)``, the
detector's column axis is ``u = (cos t, sin t, 0)`` and its row axis ``v = (0, 0, 1)`` (ASTRA's cone convention).
Frames are indexed ``[row v, column u]``, stacks ``[view, v, u]``, volumes ``[z, y, x]``; every index grows with
its coordinate, and a voxel's or pixel's coordinate is its center.
"""
