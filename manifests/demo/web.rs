//! The demo web server.
fn main() {}
