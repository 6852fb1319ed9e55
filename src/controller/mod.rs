//! The loop.

pub mod backoff;
pub mod trigger;
