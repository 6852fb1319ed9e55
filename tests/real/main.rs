//! Tests against real servers. One binary, one module for each area, so that it is linked once.

mod consul;
mod docker;
