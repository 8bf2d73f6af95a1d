"""What people look at: previews, the drawing of the axes, progress."""
