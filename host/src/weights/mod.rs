//! `weights`: described in the crate docs.
