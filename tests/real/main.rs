//! Tests against real servers. Each uses its own names, ports and folders, and takes down what it has started.

mod nginx;
