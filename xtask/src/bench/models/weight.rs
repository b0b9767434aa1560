//! What a token costs: bytes of weights to read, weights to multiply with.

use std::path::Path;

use host::checkpoint::Checkpoint;

use crate::TaskError;
use crate::bench::bed::chain;

/// Sizes of a model's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelWeight {
    /// Bytes that each generated token reads: all tensors but the embedding, of which it reads a row
    /// alone; the embedding too where it also makes the logits.
    pub read_bytes: u64,
    /// Weights in matrices of the layers, which each token of a prompt is multiplied with. The logits
    /// of a prompt are only computed for its last.
    pub layer_weights: u64,
}

impl ModelWeight {
    /// Of a file.
    ///
    /// # Errors
    /// When it is no checkpoint.
    pub fn of(path: &Path) -> Result<Self, TaskError> {
        let checkpoint = Checkpoint::open(path).map_err(|e| TaskError::Other(chain(&e)))?;
        let tensors = checkpoint.tensors();
        Ok(Self::sum(tensors.iter().map(|t| (t.name.as_str(), t.bytes, t.shape.as_slice()))))
    }

    /// Of names, bytes and shapes of tensors.
    fn sum<'a>(tensors: impl Iterator<Item = (&'a str, usize, &'a [usize])> + Clone) -> Self {
        let is_embedding =
            |name: &str| name.starts_with("token_embd.") || name.contains("embed_tokens");
        let is_head = |name: &str| name.starts_with("output.") || name.contains("lm_head");
        let tied = !tensors.clone().any(|(name, ..)| is_head(name));
        let mut sum = Self::default();
        for (name, bytes, shape) in tensors {
            if tied || !is_embedding(name) {
                sum.read_bytes += bytes as u64;
            }
            if shape.len() > 1 && !is_embedding(name) && !is_head(name) {
                sum.layer_weights += shape.iter().product::<usize>() as u64;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedding_is_read_only_where_it_makes_the_logits() {
        let embedding = ("token_embd.weight", 1000, &[100, 5][..]);
        let matrix = ("blk.0.attn_q.weight", 50, &[5, 5][..]);
        let norm = ("output_norm.weight", 20, &[5][..]);
        let tied = ModelWeight::sum([embedding, matrix, norm].into_iter());
        assert_eq!(tied, ModelWeight { read_bytes: 1070, layer_weights: 25 });
        let head = ("output.weight", 800, &[100, 5][..]);
        let untied = ModelWeight::sum([embedding, matrix, norm, head].into_iter());
        assert_eq!(untied, ModelWeight { read_bytes: 870, layer_weights: 25 });
    }
}
