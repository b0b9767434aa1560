//! How many bytes of a checkpoint go where, for the planner.

use super::is_tied;
use super::names::{Names, Role};
use crate::checkpoint::Checkpoint;
use crate::models::{DecoderSpec, LoadError};
use crate::plan::WeightBytes;

/// Bytes of all tensors: of the embedding, of each layer, and of the rest.
///
/// # Errors
/// A configuration that does not say properly whether the embedding is tied.
pub fn weight_bytes(c: &Checkpoint, spec: &DecoderSpec) -> Result<WeightBytes, LoadError> {
    let names = Names::of(c, spec.norms);
    let embedding = names.global(Role::Embed, "weight");
    let layers = vec![0; spec.layers.len()];
    let mut sizes = WeightBytes { embedding: 0, layers, head: 0, tied: is_tied(c, &names)? };
    for tensor in c.tensors() {
        let layer = names.layer_of(&tensor.name).and_then(|i| sizes.layers.get_mut(i));
        let sum = match layer {
            Some(layer) => layer,
            None if tensor.name == embedding => &mut sizes.embedding,
            None => &mut sizes.head,
        };
        *sum = sum.saturating_add(tensor.bytes as u64);
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::models::describe;

    #[test]
    fn every_byte_of_a_checkpoint_goes_somewhere() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny");
        for (file, tied) in [
            ("llama", false),
            ("llama/llama-q8_0.gguf", false),
            ("gemma2", true),
            ("gemma2/gemma2-f32.gguf", true),
        ] {
            let c = Checkpoint::open(&data.join(file)).unwrap();
            let (_, spec) = describe(&c, &config::RopeOverride::default()).unwrap();
            let sizes = weight_bytes(&c, &spec).unwrap();
            assert_eq!(sizes.tied, tied, "{file}");
            assert!(sizes.layers.iter().all(|&bytes| bytes == sizes.layers[0] && bytes > 0));
            let all: usize = c.tensors().iter().map(|t| t.bytes).sum();
            let sum = sizes.embedding + sizes.head + sizes.layers.iter().sum::<u64>();
            assert_eq!(sum, all as u64, "{file}");
            // The final norm, and where it has its own the matrix of the logits.
            assert!(sizes.head > 0, "{file}");
            assert_eq!(sizes.head > sizes.embedding, !tied, "{file}");
        }
    }
}
