//! Every format against the published blocks in tests/data/quant, and the table's arithmetic.
//!
//! The blocks were decoded by two other implementations that agree bit for bit (numpy `gguf` 0.19
//! and ggml in C). Kind 0 are random bytes, kind 1 what ggml's quantizers made of the four rows in
//! `src`, kind 2 edge cases.

use std::format;
use std::vec;
use std::vec::Vec;

use serde_json::Value;

use super::*;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/quant/quant_vectors");

/// The tensors of the vector file.
struct Vectors {
    header: Value,
    data: Vec<u8>,
}

impl Vectors {
    fn load() -> Vectors {
        let mut file = std::fs::read(format!("{DATA}.safetensors")).unwrap();
        let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let data = file.split_off(8 + header_len);
        Vectors { header: serde_json::from_slice(&file[8..]).unwrap(), data }
    }
    fn bytes(&self, name: &str) -> &[u8] {
        let offset = |i: usize| self.header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        &self.data[offset(0)..offset(1)]
    }
    fn floats(&self, name: &str) -> Vec<f32> {
        let chunks = self.bytes(name).as_chunks::<4>().0;
        chunks.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }
}

fn types() -> Vec<(Format, Value)> {
    let json: Value =
        serde_json::from_slice(&std::fs::read(format!("{DATA}.json")).unwrap()).unwrap();
    let by_name = |name: &str| *Format::ALL.iter().find(|f| f.name() == name).expect(name);
    let types = json["types"].as_object().unwrap();
    types.iter().map(|(name, facts)| (by_name(name), facts.clone())).collect()
}

#[test]
fn published_blocks_decode_bit_for_bit() {
    let vectors = Vectors::load();
    let types = types();
    assert_eq!(types.len(), 27);
    for (format, facts) in types {
        assert_eq!(facts["type_id"], format.gguf_id(), "{format:?}");
        assert_eq!(facts["block_size"], format.block_len(), "{format:?}");
        assert_eq!(facts["type_size"], format.block_bytes(), "{format:?}");
        let bytes = vectors.bytes(&format!("{}.bytes", format.name()));
        let want = vectors.floats(&format!("{}.f32", format.name()));
        let mut got = vec![0.0; want.len()];
        format.decode(bytes, &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(
                same,
                "{format:?} block {} weight {i}: {got} not {want}",
                i / format.block_len()
            );
        }
    }
}
