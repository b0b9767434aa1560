//! Keys and values in host memory.
//!
//! A layer's keys lie `[page][kv_head][PAGE_SIZE][head_dim]`, its values likewise, so a head's
//! sixteen tokens of a page are one contiguous piece.

use half::f16;

use super::zeroed;
use crate::kv::PAGE_SIZE;
use crate::ops::{Batch, HeadShape, KvDtype, KvSpec, OpsError, Tensor};

/// Keys and values of some layers.
#[derive(Debug)]
pub struct KvStorage {
    layers: Vec<LayerKv>,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct LayerKv {
    pub heads: HeadShape,
    pub k: Elements,
    pub v: Elements,
}

/// Elements in the pool's type.
#[derive(Debug)]
pub enum Elements {
    F16(Vec<f16>),
    F32(Vec<f32>),
}

impl KvStorage {
    /// Memory for every page of every layer; the system provides a page when it is first written.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(spec: &KvSpec) -> Result<Self, OpsError> {
        let elements = |heads: HeadShape| {
            let len = [heads.heads, heads.head_dim, PAGE_SIZE]
                .iter()
                .try_fold(spec.pages, |n, &m| n.checked_mul(m))
                .unwrap_or(usize::MAX);
            Ok(match spec.dtype {
                KvDtype::F16 => Elements::F16(zeroed("KV pages", len)?),
                KvDtype::F32 => Elements::F32(zeroed("KV pages", len)?),
            })
        };
        let layer = |&heads| Ok(LayerKv { heads, k: elements(heads)?, v: elements(heads)? });
        Ok(Self { layers: spec.layers.iter().map(layer).collect::<Result<_, _>>()? })
    }

    /// One layer.
    pub fn layer(&self, layer: usize) -> &LayerKv {
        &self.layers[layer]
    }

    /// Stores the rows of a batch, `k` and `v` [rows, heads · head_dim].
    pub fn write(&mut self, layer: usize, k: &Tensor, v: &Tensor, batch: &Batch) {
        let LayerKv { heads, k: keys, v: values } = &mut self.layers[layer];
        let HeadShape { heads, head_dim } = *heads;
        let width = heads * head_dim;
        assert_eq!(k.cols(), width);
        assert_eq!(v.cols(), width);
        for span in &batch.spans {
            assert!(span.first_row + span.rows <= k.rows().min(v.rows()));
            let start = span.context_len - span.rows;
            for i in 0..span.rows {
                let position = start + i;
                let page = span.pages[position / PAGE_SIZE] as usize;
                for head in 0..heads {
                    let from = (span.first_row + i) * width + head * head_dim;
                    let to = element(page, head, heads, head_dim) + position % PAGE_SIZE * head_dim;
                    keys.store(to, &k.host_rows()[from..from + head_dim]);
                    values.store(to, &v.host_rows()[from..from + head_dim]);
                }
            }
        }
    }
}

/// First element of a page's part of one head.
#[inline(always)]
pub fn element(page: usize, head: usize, heads: usize, head_dim: usize) -> usize {
    (page * heads + head) * PAGE_SIZE * head_dim
}

impl Elements {
    fn store(&mut self, at: usize, values: &[f32]) {
        match self {
            Elements::F16(e) => {
                for (e, v) in e[at..at + values.len()].iter_mut().zip(values) {
                    *e = f16::from_f32(*v);
                }
            }
            Elements::F32(e) => e[at..at + values.len()].copy_from_slice(values),
        }
    }
}
