//! The nginx backend.
