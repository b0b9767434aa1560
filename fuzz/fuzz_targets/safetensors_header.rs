//! SafeTensors: any bytes end in a file or an error, and its tensors fill the data exactly.

#![no_main]

use std::path::Path;

use host::checkpoint::{Bytes, Checkpoint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("m.safetensors");
    let Ok(checkpoint) = Checkpoint::from_safetensors(path, Bytes::owned(data.to_vec())) else {
        return;
    };
    let header_bytes = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
    let weights = checkpoint.tensors().iter().map(|tensor| {
        assert!(checkpoint.tensor(&tensor.name).is_some());
        checkpoint.bytes(tensor).len()
    });
    let others = checkpoint.others().iter().map(|other| {
        assert!(checkpoint.require(&other.name).is_err());
        other.bytes
    });
    assert_eq!(weights.chain(others).sum::<usize>(), data.len() - 8 - header_bytes);
});
