"""What is made from a finished volume by tasks, so that the driver sees no pixels: DICOM objects and the preview."""
