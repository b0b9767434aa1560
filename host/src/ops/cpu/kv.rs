//! Keys and values in host memory.
//!
//! A head's sixteen tokens of a page are one piece. Its values lie `[token][head_dim]`, its keys
//! `[head_dim][token]`: the scores of a page are then sixteen lanes that nothing has to sum up.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::zeroed;
use crate::kv::{PAGE_SIZE, PageMove, PagePlace};
use crate::ops::{Batch, HeadShape, KvDtype, KvLayer, KvSpec, OpsError, Tensor};

/// Keys and values of some layers.
#[derive(Debug)]
pub struct KvStorage {
    layers: Vec<LayerKv>,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct LayerKv {
    pub heads: HeadShape,
    /// Of its pages.
    pub group: usize,
    /// Pages before the slots of those that left the pool.
    pages: usize,
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
        let elements = |heads: HeadShape, pages: usize| {
            let len = [heads.heads, heads.head_dim, PAGE_SIZE]
                .iter()
                .try_fold(pages, |n, &m| n.checked_mul(m))
                .unwrap_or(usize::MAX);
            Ok::<_, OpsError>(match spec.dtype {
                KvDtype::F16 => Elements::F16(zeroed("KV pages", len)?),
                KvDtype::F32 => Elements::F32(zeroed("KV pages", len)?),
            })
        };
        let layer = |&KvLayer { heads, group }: &KvLayer| {
            let pages = spec.pages[group];
            let elements = || elements(heads, pages.saturating_add(spec.host_slots));
            Ok::<_, OpsError>(LayerKv { heads, group, pages, k: elements()?, v: elements()? })
        };
        Ok(Self { layers: spec.layers.iter().map(layer).collect::<Result<_, _>>()? })
    }

    /// One layer.
    pub fn layer(&self, layer: usize) -> &LayerKv {
        &self.layers[layer]
    }

    /// Copies a page in all layers of its group.
    pub fn copy(&mut self, PageMove { group, from, to }: PageMove) {
        for layer in self.layers.iter_mut().filter(|layer| layer.group == group) {
            let len = PAGE_SIZE * layer.heads.width();
            let [from, to] = [from, to].map(|place| match place {
                PagePlace::Pool(page) => page as usize * len,
                PagePlace::Host(slot) => (layer.pages + slot as usize) * len,
            });
            layer.k.copy(from..from + len, to);
            layer.v.copy(from..from + len, to);
        }
    }

    /// Fills a layer with NaN, as a broken sequence may leave it.
    #[cfg(test)]
    pub fn poison(&mut self, layer: usize) {
        let LayerKv { k, v, .. } = &mut self.layers[layer];
        for elements in [k, v] {
            match elements {
                Elements::F16(e) => e.fill(f16::NAN),
                Elements::F32(e) => e.fill(f32::NAN),
            }
        }
    }

    /// Stores the rows of a batch, `k` and `v` [rows, heads · head_dim].
    pub fn write(&mut self, layer: usize, k: &Tensor, v: &Tensor, batch: &Batch) {
        let LayerKv { heads, group, k: keys, v: values, .. } = &mut self.layers[layer];
        let HeadShape { heads, head_dim } = *heads;
        let width = heads * head_dim;
        assert_eq!(k.cols(), width);
        assert_eq!(v.cols(), width);
        let (k, v) = (k.host_rows(), v.host_rows());
        for span in &batch.spans {
            let start = span.context_len - span.rows;
            for i in 0..span.rows {
                let position = start + i;
                let page = span.pages[*group][position / PAGE_SIZE] as usize;
                for head in 0..heads {
                    let from = (span.first_row + i) * width + head * head_dim;
                    let (piece, token) =
                        (element(page, head, heads, head_dim), position % PAGE_SIZE);
                    keys.store(piece + token, PAGE_SIZE, &k[from..from + head_dim]);
                    values.store(piece + token * head_dim, 1, &v[from..from + head_dim]);
                }
            }
        }
    }
}

/// First element of a head's piece of a page.
#[inline(always)]
pub fn element(page: usize, head: usize, heads: usize, head_dim: usize) -> usize {
    (page * heads + head) * PAGE_SIZE * head_dim
}

impl Elements {
    /// Copies elements to those from `to` on.
    fn copy(&mut self, from: Range<usize>, to: usize) {
        match self {
            Elements::F16(e) => e.copy_within(from, to),
            Elements::F32(e) => e.copy_within(from, to),
        }
    }

    /// Stores values `stride` elements apart, from element `at` on.
    fn store(&mut self, at: usize, stride: usize, values: &[f32]) {
        match self {
            Elements::F16(e) => {
                // A slice at a time: what the processor can is asked once a slice.
                let mut halves = [f16::ZERO; 64];
                for (i, values) in values.chunks(64).enumerate() {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    let to = e[at + 64 * i * stride..].iter_mut().step_by(stride);
                    to.zip(halves).for_each(|(e, v)| *e = *v);
                }
            }
            Elements::F32(e) => {
                for (e, v) in e[at..].iter_mut().step_by(stride).zip(values) {
                    *e = *v;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_move_in_all_layers_of_their_group() {
        let heads = HeadShape { heads: 2, head_dim: 3 };
        let layers = [0, 1, 0].map(|group| KvLayer { heads, group }).to_vec();
        let (dtype, pages) = (KvDtype::F32, vec![3, 2]);
        let spec = KvSpec { layers, q_heads: 2, pages, host_slots: 2, dtype };
        let mut kv = KvStorage::new(&spec).unwrap();
        let len = PAGE_SIZE * heads.width();
        for layer in &mut kv.layers {
            for elements in [&mut layer.k, &mut layer.v] {
                let Elements::F32(values) = elements else { panic!("F32 was asked for") };
                values.iter_mut().enumerate().for_each(|(i, v)| *v = (i / len) as f32);
            }
        }
        use PagePlace::{Host, Pool};
        for (from, to) in [
            (Pool(2), Host(1)),
            (Pool(0), Pool(2)),
            (Pool(1), Host(0)),
            (Host(1), Pool(0)),
            (Host(0), Pool(2)),
        ] {
            kv.copy(PageMove { group: 0, from, to });
        }
        // The number that each page of the pool held at first.
        for (layer, expected) in kv.layers.iter().zip([&[2, 1, 1][..], &[0, 1], &[2, 1, 1]]) {
            for elements in [&layer.k, &layer.v] {
                let Elements::F32(values) = elements else { panic!("F32 was asked for") };
                for (page, &number) in values.chunks(len).zip(expected) {
                    assert!(page.iter().all(|v| *v == number as f32));
                }
            }
        }
    }
}
