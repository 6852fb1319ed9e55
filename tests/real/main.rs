//! Tests against real servers. One binary, one module for each area, so that it is linked once. Each test uses its own
//! names, ports and folders, and takes down what it has started.

mod consul;
mod docker;
mod nginx;
