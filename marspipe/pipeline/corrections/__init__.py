"""From the counts of a view to its line integrals, on Spark: calibrations, bad pixels, stripes."""
