//! Published vocabularies for tests.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{Bytes, Checkpoint};
use crate::text::Tokenizer;

/// A published vocabulary of the test data.
pub(crate) fn tokenizer(name: &str) -> Arc<Tokenizer> {
    let path = format!("{}/../tests/data/tokenizer/{name}.gguf.gz", env!("CARGO_MANIFEST_DIR"));
    let packed = std::fs::read(path).unwrap();
    let mut bytes = vec![];
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut bytes).unwrap();
    let checkpoint = Checkpoint::from_gguf(Path::new(name), Bytes::owned(bytes)).unwrap();
    Arc::new(Tokenizer::from_checkpoint(&checkpoint).unwrap().unwrap())
}
