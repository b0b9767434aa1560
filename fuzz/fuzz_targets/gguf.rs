//! GGUF: any bytes end in a model or an error, and what opens can be read to the last byte.

#![no_main]

use std::hint::black_box;
use std::path::Path;

use host::checkpoint::{Bytes, Checkpoint, Metadata};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_gguf(Path::new("m.gguf"), Bytes::owned(data.to_vec()))
    else {
        return;
    };
    for tensor in checkpoint.tensors() {
        let bytes = checkpoint.bytes(tensor);
        assert_eq!(bytes.len(), tensor.bytes);
        let (&cols, rows) = tensor.shape.split_last().expect("a GGUF tensor has a dimension");
        let row_bytes = tensor.format.row_bytes(cols).expect("checked by the reader");
        assert_eq!(bytes.len(), rows.iter().product::<usize>() * row_bytes);
        black_box(bytes.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)));
        assert!(checkpoint.tensor(&tensor.name).is_some());
    }
    for other in checkpoint.others() {
        assert!(checkpoint.require(&other.name).is_err());
    }
    let Metadata::Gguf(metadata) = checkpoint.metadata() else { unreachable!("opened as GGUF") };
    for (key, value) in metadata.iter() {
        black_box(value.to_string());
        black_box((metadata.str(key).is_ok(), metadata.bool(key).is_ok()));
        black_box((
            metadata.u32(key).is_ok(),
            metadata.u64(key).is_ok(),
            metadata.i32(key).is_ok(),
        ));
        black_box((metadata.f32(key).is_ok(), metadata.f32s(key).is_ok()));
        black_box((
            metadata.u32s(key).is_ok(),
            metadata.i32s(key).is_ok(),
            metadata.bools(key).is_ok(),
        ));
        black_box(metadata.u32_per_layer(key, 3).is_ok());
        if let Ok(Some(strings)) = metadata.strings(key) {
            black_box(strings.map(<[u8]>::len).sum::<usize>());
        }
    }
});
