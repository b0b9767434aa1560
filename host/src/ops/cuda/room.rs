//! What a [`CudaOps`](super::CudaOps) takes beside weights, activations and the KV cache: known before
//! anything is allocated, for the plan.

use super::shape::ModelShape;
use super::step::StepLayout;
use super::upload::{STAGING_BUFFERS, STAGING_BYTES};
use super::{READ_BYTES, attention, products, sample};
use crate::kv::MAX_GROUPS;
use crate::ops::{HeadShape, KvDtype, SampleLimits, StepLimits};

/// All that it depends on.
#[derive(Clone, Debug)]
pub struct Room {
    /// The model's widths.
    pub shape: ModelShape,
    /// Pairs of each of its RoPEs.
    pub pairs: Vec<usize>,
    /// Element type of the KV cache.
    pub kv_dtype: KvDtype,
    /// Whether activations are F32 and products plain.
    pub is_exact: bool,
    /// Of the device.
    pub multiprocessors: u32,
}

impl Room {
    /// Bytes on the device for steps of up to `rows` rows, but for the numbers of pages.
    pub fn step_bytes(&self, rows: usize) -> u64 {
        let kv = HeadShape { heads: self.shape.kv_heads, ..self.shape.heads };
        let heads = self.shape.heads.heads;
        let size = attention::Size::new(heads, kv, self.kv_dtype, rows, self.multiprocessors);
        let sums = products::sum_bytes(self.is_exact);
        (sums + size.bytes + 4 * size.counters + self.packed_bytes(rows)) as u64
    }

    /// Bytes on the device for choosing tokens there.
    pub fn sampling_bytes(limits: &SampleLimits) -> u64 {
        sample::workspace_bytes(limits) as u64
    }

    /// Page-locked bytes on the host for steps of up to `rows` rows, of which the upload of weights
    /// takes most.
    pub fn host_bytes(&self, rows: usize) -> u64 {
        (STAGING_BUFFERS * STAGING_BYTES + READ_BYTES + self.packed_bytes(rows)) as u64
    }

    /// Bytes of a step as it is copied.
    fn packed_bytes(&self, rows: usize) -> usize {
        let (pairs, groups) = (self.pairs.clone(), MAX_GROUPS);
        let limits = StepLimits { rows, logit_rows: rows, spans: rows, pages: 0, groups, pairs };
        StepLayout::new(&limits).bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_takes_what_its_kernels_use() {
        let shape = ModelShape {
            hidden_size: 4096,
            intermediate_size: 14336,
            heads: HeadShape { heads: 32, head_dim: 128 },
            kv_heads: 8,
            vocab_size: 128_256,
        };
        let room = Room {
            shape,
            pairs: vec![64],
            kv_dtype: KvDtype::F16,
            is_exact: false,
            multiprocessors: 132,
        };
        let exact = Room { kv_dtype: KvDtype::F32, is_exact: true, ..room.clone() };
        // Four words, a span of four more for each group, and 64 cosines and sines a row.
        let packed = |rows: u64| rows * 4 * (4 + 2 * 4 + 128);
        assert_eq!(exact.step_bytes(2048), packed(2048));
        let of_rows = [1, 256, 2048].map(|rows| room.step_bytes(rows) - packed(rows as u64));
        assert!(of_rows[0] > 16 << 20 && of_rows[1] > of_rows[0]);
        assert_eq!(of_rows[1], of_rows[2], "more rows attend in tiles");
        assert!(room.host_bytes(2048) >= (66 << 20) + packed(2048));
        let limits = SampleLimits { rows: 1, slots: 1, vocab: shape.vocab_size };
        assert!(Room::sampling_bytes(&limits) > 8 * 128_256);
    }
}
