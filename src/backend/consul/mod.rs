//! The consul backend.
