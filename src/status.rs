//! The status of every service and upstream, as data and as a table.
