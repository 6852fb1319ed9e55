#![forbid(unsafe_code)]
//! reeve.
