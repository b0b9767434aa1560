//! `layers`: described in the crate docs.
