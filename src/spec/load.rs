//! From the text of spec files to a `Spec`.
