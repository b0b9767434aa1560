//! The decoder: embedding, layers in stages, logits.
//!
//! A stage is a run of layers on one device with its own scratch and key-value pool; the hidden
//! state crosses devices only between stages.

use std::sync::Arc;

use super::rope::RopeSpec;
use super::{Attention, AttentionStep, GatedMlp, Norm, Scratch, ScratchShape};
use crate::checkpoint::Checkpoint;
use crate::engine::LoadProgress;
use crate::models::{DecoderSpec, LoadError};
use crate::ops::{
    AttendSpec, Batch, HeadShape, KvDtype, KvPool, KvSpec, Linear, Ops, OpsError, RopeRows, Tensor,
    Weight,
};
use crate::weights::Loader;

/// One decoder layer: `x += post(attention(norm(x)))`, then the same with the MLP.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct DecoderLayer {
    pub attn_norm: Option<Norm>,
    pub attention: Attention,
    pub post_attn_norm: Option<Norm>,
    pub ffn_norm: Option<Norm>,
    pub ffn: GatedMlp,
    pub post_ffn_norm: Option<Norm>,
}

struct Stage {
    ops: Arc<dyn Ops>,
    first_layer: usize,
    layers: Vec<DecoderLayer>,
    scratch: Scratch,
    kv: Option<KvPool>,
}

/// A model ready to run.
pub struct Decoder {
    spec: DecoderSpec,
    embedding: Weight,
    stages: Vec<Stage>,
    final_norm: Norm,
    lm_head: Linear,
    gathered: Tensor,
    logits: Tensor,
    rope_rows: Vec<RopeRows>,
    transfer: Vec<f32>,
}

/// How large the batches of a decoder may get.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most rows of a step.
    pub rows: usize,
    /// Most rows whose logits are wanted at once.
    pub logit_rows: usize,
}

impl Decoder {
    /// Builds all layers on one backend.
    ///
    /// # Errors
    /// A tensor missing, unknown or of the wrong shape; memory.
    pub fn load(
        checkpoint: &Checkpoint,
        architecture: &'static str,
        spec: DecoderSpec,
        ops: Arc<dyn Ops>,
        limits: BatchLimits,
        progress: &mut dyn LoadProgress,
    ) -> Result<Self, LoadError> {
        let loader = Loader::new(checkpoint, &spec, progress);
        let embedding = loader.embedding(&*ops)?;
        let layers = (0..spec.layers.len())
            .map(|i| loader.layer(&*ops, i))
            .collect::<Result<Vec<_>, _>>()?;
        let final_norm = loader.final_norm(&*ops)?;
        let lm_head = loader.lm_head(&*ops, &embedding)?;
        loader.finish(architecture)?;
        let scratch = Scratch::new(&*ops, &spec.scratch_shape(), limits.rows)?;
        let gathered = ops.alloc(limits.logit_rows, spec.hidden_size)?;
        let logits = ops.alloc(limits.logit_rows, spec.vocab_size)?;
        let rope_rows = spec.ropes.iter().map(|_| RopeRows::default()).collect();
        let stages = vec![Stage { ops, first_layer: 0, layers, scratch, kv: None }];
        let transfer = Vec::new();
        Ok(Self {
            spec,
            embedding,
            stages,
            final_norm,
            lm_head,
            gathered,
            logits,
            rope_rows,
            transfer,
        })
    }

    /// The description it was built from.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Makes the key-value pools.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn allocate_kv(&mut self, pages: usize, dtype: KvDtype) -> Result<(), OpsError> {
        let shape = self.spec.kv_shape();
        for stage in &mut self.stages {
            let layers = vec![shape; stage.layers.len()];
            stage.kv = Some(stage.ops.kv_pool(&KvSpec { layers, pages, dtype })?);
        }
        Ok(())
    }

    /// Runs a batch: `logits` becomes [batch.logit_rows, vocab_size].
    ///
    /// # Errors
    /// What the device reports.
    ///
    /// # Panics
    /// When the batch exceeds the limits given at load, or before [`Decoder::allocate_kv`].
    pub fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), OpsError> {
        for (rope, rows) in self.spec.ropes.iter().zip(&mut self.rope_rows) {
            RopeSpec::rows(rope, batch, rows);
        }
        let first = &mut self.stages[0];
        let scale = self.spec.embed_scale;
        first.ops.embed(&self.embedding, &batch.tokens, scale, &mut first.scratch.x)?;
        for i in 0..self.stages.len() {
            if i > 0 {
                let (before, after) = self.stages.split_at_mut(i);
                let (from, to) = (&before[i - 1], &mut after[0]);
                from.ops.read(&from.scratch.x, &mut self.transfer)?;
                to.ops.write(&mut to.scratch.x, batch.tokens.len(), &self.transfer)?;
            }
            self.stages[i].forward(&self.spec, batch, &self.rope_rows)?;
        }
        logits.clear();
        if batch.logit_rows.is_empty() {
            return Ok(());
        }
        let last = self.stages.last_mut().expect("a decoder has at least one stage");
        let ops = &*last.ops;
        ops.gather(&last.scratch.x, &batch.logit_rows, &mut self.gathered)?;
        ops.rms_norm_in_place(&mut self.gathered, &self.final_norm.weight, self.final_norm.eps)?;
        ops.linear(&[&self.lm_head], &self.gathered, &mut [&mut self.logits])?;
        if self.spec.logit_scale != 1.0 || self.spec.logit_softcap.is_some() {
            ops.scale_cap(&mut self.logits, self.spec.logit_scale, self.spec.logit_softcap)?;
        }
        ops.read(&self.logits, logits)
    }
}

impl Stage {
    fn forward(
        &mut self,
        spec: &DecoderSpec,
        batch: &Batch,
        rope_rows: &[RopeRows],
    ) -> Result<(), OpsError> {
        let ops = &*self.ops;
        let s = &mut self.scratch;
        let kv = self.kv.as_mut().expect("allocate_kv runs before the first batch");
        for (i, layer) in self.layers.iter().enumerate() {
            let l = spec.layers[self.first_layer + i];
            let step = AttentionStep {
                layer: i,
                spec: AttendSpec {
                    q: spec.heads,
                    kv_heads: spec.kv_heads,
                    scale: spec.attn_scale,
                    window: l.window,
                    softcap: spec.attn_softcap,
                },
                rope: l.rope.map(|r| (spec.ropes[r].layout, &rope_rows[r])),
                batch,
            };
            if let Some(n) = &layer.attn_norm {
                ops.rms_norm(&s.x, &n.weight, n.eps, &mut s.normed)?;
            }
            layer.attention.forward(ops, &step, kv, layer.attn_norm.is_none(), s)?;
            if let Some(n) = &layer.post_attn_norm {
                ops.rms_norm_in_place(&mut s.out, &n.weight, n.eps)?;
            }
            ops.add(&mut s.x, &s.out, spec.residual_scale)?;
            if let Some(n) = &layer.ffn_norm {
                ops.rms_norm(&s.x, &n.weight, n.eps, &mut s.normed)?;
            }
            layer.ffn.forward(ops, spec.activation, layer.ffn_norm.is_none(), s)?;
            if let Some(n) = &layer.post_ffn_norm {
                ops.rms_norm_in_place(&mut s.out, &n.weight, n.eps)?;
            }
            ops.add(&mut s.x, &s.out, spec.residual_scale)?;
        }
        Ok(())
    }
}

impl DecoderSpec {
    /// Widths of the activations.
    pub fn scratch_shape(&self) -> ScratchShape {
        ScratchShape {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            q: self.heads,
            kv: self.kv_shape(),
        }
    }

    /// Bytes of all activations for batches within `limits`.
    pub fn activation_bytes(&self, limits: BatchLimits) -> u64 {
        let scratch = self.scratch_shape().elements() as u64 * limits.rows as u64;
        let heads = (self.hidden_size + self.vocab_size) as u64 * limits.logit_rows as u64;
        // The CPU's 16-bit copy of the widest input (about 3 bytes an element), and the rotations.
        let widest = self.hidden_size.max(self.intermediate_size).max(self.heads.width());
        let pairs: usize = self.ropes.iter().map(RopeSpec::pairs).sum();
        let beside = (3 * widest + 8 * pairs) as u64 * limits.rows.max(limits.logit_rows) as u64;
        4 * (scratch + heads) + beside
    }
}

impl HeadShape {
    /// Width of a row.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::models::describe;
    use crate::ops::Span;
    use crate::ops::cpu::CpuOps;

    const ROWS: usize = 4;

    struct Silent;

    impl LoadProgress for Silent {
        fn tensor(&mut self, _: &str, _: u64, _: u64) {}
    }

    fn load() -> Decoder {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny/llama");
        let checkpoint = Checkpoint::open(&path).unwrap();
        let (family, spec) = describe(&checkpoint, &config::RopeOverride::default()).unwrap();
        let limits = BatchLimits { rows: ROWS, logit_rows: 1 };
        let ops = Arc::new(CpuOps::new(1, true));
        Decoder::load(&checkpoint, family.name, spec, ops, limits, &mut Silent).unwrap()
    }

    /// Moves the layers from `first_layer` on to a backend of their own.
    fn split(decoder: &mut Decoder, first_layer: usize) {
        let ops = Arc::new(CpuOps::new(1, true));
        let scratch = Scratch::new(&*ops, &decoder.spec.scratch_shape(), ROWS).unwrap();
        let layers = decoder.stages[0].layers.split_off(first_layer);
        decoder.stages.push(Stage { ops, first_layer, layers, scratch, kv: None });
    }

    /// Logits after a prompt of four tokens and one more.
    fn run(decoder: &mut Decoder) -> Vec<f32> {
        decoder.allocate_kv(1, KvDtype::F32).unwrap();
        let (mut all, mut logits) = (vec![], vec![]);
        for (tokens, context_len) in [(vec![1, 501, 7, 20], 4), (vec![300], 5)] {
            let rows = tokens.len();
            let span = Span { first_row: 0, rows, context_len, rope_len: 5, pages: vec![0] };
            let batch = Batch { tokens, spans: vec![span], logit_rows: vec![rows - 1] };
            decoder.forward(&batch, &mut logits).unwrap();
            all.append(&mut logits);
        }
        all
    }

    #[test]
    fn the_hidden_state_crosses_stages_unchanged() {
        let whole = run(&mut load());
        assert!(whole.iter().any(|v| *v != 0.0));
        for first_layer in [1, 2] {
            let mut decoder = load();
            split(&mut decoder, first_layer);
            assert_eq!(run(&mut decoder), whole, "split before layer {first_layer}");
        }
    }
}
