//! `plan`: described in the crate docs.
