//! Rendering: from routed upstreams to the text of a generation. Pure.
