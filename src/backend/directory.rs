//! reeve's own folder: pins.
