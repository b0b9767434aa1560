//! Pages of the key-value cache: who holds which. Pure code: no device, clock or thread.

/// Tokens in a page.
pub const PAGE_SIZE: usize = 16;
