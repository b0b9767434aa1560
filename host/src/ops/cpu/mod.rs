//! The CPU backend: all cores, weights multiplied as they lie in the file.

/// Keys and values in host memory.
#[derive(Debug)]
pub struct KvStorage {}
