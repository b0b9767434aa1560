//! `models`: described in the crate docs.
