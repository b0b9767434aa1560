//! Kernels and the formats they read: `no_std`, so that one source serves every target.
//!
//! [`formats`] holds the weight formats, one file each; [`kernels`] the GPU kernels, one folder an
//! operation, written against [`cuda_std`].

#![no_std]
#![cfg_attr(not(target_arch = "nvptx64"), forbid(unsafe_code))]
#![cfg_attr(target_arch = "nvptx64", feature(abi_ptx))]

#[cfg(test)]
extern crate std;

pub mod formats;
pub mod kernels;
