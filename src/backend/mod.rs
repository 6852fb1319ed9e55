//! The edges: one module for each thing that really exists. Wire types do not leave them, and they decide nothing: they
//! read, and they do what an action says.

pub mod consul;
pub mod directory;
pub mod docker;
pub mod flapping;
pub mod history;
pub mod host;
pub mod nginx;
pub mod probe;
pub mod templates;
