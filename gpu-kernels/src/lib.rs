//! Kernels and the formats they read: `no_std`, so that one source serves every target.
//!
//! [`formats`] holds the weight formats, one file each.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod formats;
