//! Which models the kernels compute, asked before anything is loaded.

use gpu_kernels::kernels::attention::{Shape, decode, exact, inputs, prefill};
use gpu_kernels::kernels::residual_norm;
use gpu_kernels::kernels::sample::MAX_VOCAB;

use super::upload::STAGING_BYTES;
use crate::ops::{HeadShape, KvDtype};

/// Widths and heads of a model.
#[derive(Clone, Copy, Debug)]
pub struct ModelShape {
    /// Of the residual stream.
    pub hidden_size: usize,
    /// Of the MLP.
    pub intermediate_size: usize,
    /// Query heads.
    pub heads: HeadShape,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Tokens.
    pub vocab_size: usize,
}

impl ModelShape {
    /// Whether a GPU computes it; then what a user should hear about that, a sentence each.
    ///
    /// # Errors
    /// What it does not compute.
    pub fn check(&self, kv_dtype: KvDtype, is_exact: bool) -> Result<Vec<String>, String> {
        let fits = |n: usize| u32::try_from(n).is_ok_and(residual_norm::supports);
        if !fits(self.hidden_size) {
            return Err(format!("a hidden_size of {}, at most 16384 works", self.hidden_size));
        }
        let widest = self.intermediate_size.max(self.heads.width());
        if 4 * widest > STAGING_BYTES {
            return Err(format!("rows of {widest}, at most {} work", STAGING_BYTES / 4));
        }
        let shape = Shape {
            heads: self.heads.heads as u32,
            kv_heads: self.kv_heads as u32,
            head_dim: self.heads.head_dim as u32,
        };
        if !(exact::supports(shape) && inputs::supports(shape)) {
            return Err(format!(
                "a head_dim of {}, multiples of 8 up to 512 work",
                self.heads.head_dim
            ));
        }
        let mut notices = vec![];
        let fast = decode::supports(shape) && prefill::supports(shape, false);
        if !is_exact && (kv_dtype == KvDtype::F32 || !fast) {
            let why = match kv_dtype {
                KvDtype::F32 => "a KV cache in F32".to_owned(),
                KvDtype::F16 => format!("{} heads of {}", shape.heads, shape.head_dim),
            };
            notices
                .push(format!("with {why} attention is slow on the GPU: no fast kernel takes it"));
        }
        Ok(notices)
    }

    /// What a user should hear where a GPU computes the logits and cannot choose from them.
    pub fn sampling_notice(&self) -> Option<String> {
        let vocab_size = self.vocab_size;
        (vocab_size > MAX_VOCAB as usize).then(|| {
            format!(
                "a vocabulary of {vocab_size} tokens is more than the {MAX_VOCAB} that the GPU \
                 chooses from: the logits are read back and the host chooses, which is slower"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_computed_is_named() {
        let llama = ModelShape {
            hidden_size: 4096,
            intermediate_size: 14336,
            heads: HeadShape { heads: 32, head_dim: 128 },
            kv_heads: 8,
            vocab_size: 128_256,
        };
        let check = |shape: ModelShape| shape.check(KvDtype::F16, false);
        assert_eq!(check(llama), Ok(vec![]));
        assert_eq!(llama.check(KvDtype::F32, true), Ok(vec![]));
        assert!(llama.check(KvDtype::F32, false).unwrap()[0].contains("F32"));
        let wide = check(ModelShape { hidden_size: 20480, ..llama }).unwrap_err();
        assert!(wide.contains("20480"), "{wide}");
        let head = |head_dim| ModelShape { heads: HeadShape { heads: 32, head_dim }, ..llama };
        for head_dim in [1, 33, 100, 520] {
            assert!(check(head(head_dim)).unwrap_err().contains("head_dim"));
        }
        assert!(check(head(512)).unwrap()[0].contains("slow"));
        let huge = check(ModelShape { intermediate_size: 9 << 20, ..llama });
        assert!(huge.unwrap_err().contains("rows of"));
        assert_eq!(llama.sampling_notice(), None);
        let most = ModelShape { vocab_size: 1 << 20, ..llama };
        assert_eq!(most.sampling_notice(), None);
        let notice = ModelShape { vocab_size: (1 << 20) + 1, ..llama }.sampling_notice().unwrap();
        assert!(notice.contains("1048577") && notice.contains("host chooses"), "{notice}");
    }
}
