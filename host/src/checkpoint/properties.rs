//! Damaged files, thousands of them: whatever the bytes, opening ends in a value or an error, and
//! what is opened can be read to the last byte.
//!
//! The same checks run for hours under `cargo fuzz` (see `fuzz/`).

use std::path::Path;

use proptest::prelude::*;

use super::testing::exercise;
use super::{Bytes, Checkpoint, Metadata};

const GGUF: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/data/checkpoint/every_type.gguf"
));
const SAFETENSORS: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/data/checkpoint/sharded/model-00001-of-00002.safetensors"
));

/// One way to damage a file; positions are taken modulo its length.
#[derive(Clone, Debug)]
enum Damage {
    Flip {
        at: usize,
        mask: u8,
    },
    Cut {
        at: usize,
    },
    Remove {
        at: usize,
        len: usize,
    },
    Repeat {
        at: usize,
        len: usize,
    },
    /// Numbers that hurt, where a count, length or offset may be.
    Number {
        at: usize,
        value: u64,
        wide: bool,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<usize>();
    let number = prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(1 << 63),
        Just((1 << 63) - 1),
        Just(1 << 32),
        Just(u32::MAX as u64),
        (0..64u32).prop_map(|n| 1u64 << n),
        0..64u64,
        any::<u64>(),
    ];
    prop_oneof![
        (at, 1..=255u8).prop_map(|(at, mask)| Damage::Flip { at, mask }),
        at.prop_map(|at| Damage::Cut { at }),
        (at, 1..40usize).prop_map(|(at, len)| Damage::Remove { at, len }),
        (at, 1..40usize).prop_map(|(at, len)| Damage::Repeat { at, len }),
        (at, number, any::<bool>()).prop_map(|(at, value, wide)| Damage::Number {
            at,
            value,
            wide
        }),
        (at, prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
    ]
}

fn apply(file: &mut Vec<u8>, damage: &Damage) {
    if file.is_empty() {
        return;
    }
    let len = file.len();
    match damage {
        Damage::Flip { at, mask } => file[at % len] ^= mask,
        Damage::Cut { at } => file.truncate(at % len),
        Damage::Remove { at, len: count } => {
            let at = at % len;
            file.drain(at..(at + count).min(len));
        }
        Damage::Repeat { at, len: count } => {
            let at = at % len;
            let part = file[at..(at + count).min(len)].to_vec();
            file.splice(at..at, part);
        }
        Damage::Number { at, value, wide } => {
            let at = at % len;
            let width = if *wide { 8 } else { 4 }.min(len - at);
            file[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        Damage::Insert { at, bytes } => {
            let at = at % len;
            file.splice(at..at, bytes.iter().copied());
        }
    }
}

fn damaged(original: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(damage(), 1..5).prop_map(move |damages| {
        let mut file = original.to_vec();
        damages.iter().for_each(|damage| apply(&mut file, damage));
        file
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_damaged_gguf_never_panics(file in damaged(GGUF)) {
        if let Ok(checkpoint) = Checkpoint::from_gguf(Path::new("m"), Bytes::owned(file)) {
            exercise(&checkpoint);
        }
    }

    /// The `safetensors` crate is the judge: what it refuses is refused here. (The other way
    /// round we are stricter: names that occur twice, unknown fields, more than 8 dimensions.)
    #[test]
    fn a_damaged_safetensors_file_never_panics(file in damaged(SAFETENSORS)) {
        let copy = file.clone();
        let accepted = safetensors::SafeTensors::read_metadata(&file).is_ok();
        if let Ok(checkpoint) = Checkpoint::from_safetensors(Path::new("m"), Bytes::owned(file)) {
            prop_assert!(accepted, "{:?}", String::from_utf8_lossy(&copy));
            exercise(&checkpoint);
        }
    }

    #[test]
    fn noise_is_no_model(file in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut gguf = b"GGUF\x03\0\0\0".to_vec();
        gguf.extend(&file);
        for bytes in [file, gguf] {
            if let Ok(c) = Checkpoint::from_gguf(Path::new("m"), Bytes::owned(bytes.clone())) {
                exercise(&c);
            }
            if let Ok(c) = Checkpoint::from_safetensors(Path::new("m"), Bytes::owned(bytes)) {
                exercise(&c);
            }
        }
    }
}

/// The damage must leave some files readable, or the tests above only see the first check.
#[test]
fn some_damaged_files_still_open() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let opened = (0..500)
        .filter(|_| {
            let file = damaged(GGUF).new_tree(&mut runner).unwrap().current();
            match Checkpoint::from_gguf(Path::new("m"), Bytes::owned(file)) {
                Ok(c) => matches!(c.metadata(), Metadata::Gguf(m) if m.iter().len() > 10),
                Err(_) => false,
            }
        })
        .count();
    assert!((10..450).contains(&opened), "{opened} of 500");
}
