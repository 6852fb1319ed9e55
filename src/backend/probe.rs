//! One probe of a declared check, made by reeve itself.
