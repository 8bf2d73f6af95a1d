"""Raw counts to line integrals: one module per correction, pure functions on arrays, composed in ``chain``."""
