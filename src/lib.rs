//! reeve: a controller for Docker hosts that serve through Consul and nginx.
//!
//! ```text
//!  docker events · consul blocking queries · spec files · timer     (no data, they only wake)
//!    └─> controller::trigger   the first one fires at once, then coalesced
//!          └─> world::Observe  three backends and reeve's folder, each Known or Unknown
//!                └─> plan      pure: (spec, observed, now) -> one wave of steps, and what waits
//!                      └─> apply  objects in parallel, in order within one, no decisions
//!                            └─> backoff, metrics, status; steps were applied: go again at once
//! ```
//!
//! What holds everywhere:
//! - `spec`, `observed`, `plan`, `model` and `render` are pure: no async, no IO, no clock. They never import
//!   `backend`, `world`, `apply` or `controller`.
//! - Wire types (bollard's, Consul's JSON) do not leave their module under `backend`.
//! - A fact that must survive a crash lives in the world (labels, Consul's `Meta`, reeve's folder), never in memory.
//! - Nothing without our owner mark (`project@node`) is changed or removed.

#![forbid(unsafe_code)]

/// A pass over ten thousand containers asks for a hundred thousand small pieces and gives them back, while those that were
/// observed stay: with the C library's allocator what belongs together comes to lie far apart, and the plan waits for memory
/// a third longer (`make bench`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub mod apply;
pub mod backend;
pub mod cli;
pub mod controller;
#[cfg(debug_assertions)]
pub mod crash;
pub mod engine;
pub mod explain;
pub mod history;
pub mod http;
pub mod import;
pub mod live;
pub mod lock;
pub mod metrics;
pub mod model;
pub mod observed;
pub mod pass;
pub mod plan;
pub mod render;
pub mod settings;
pub mod spec;
pub mod status;
pub mod style;
pub mod template;
pub mod world;
