//! The decoder: embedding, layers in stages, logits.
//!
//! A stage is a run of layers on one device with its own scratch and key-value pool; the hidden
//! state crosses devices only between stages.

use std::ops::Range;
use std::sync::Arc;

use super::rope::RopeSpec;
use super::rope_table::RopeTable;
use super::{Attention, AttentionStep, GatedMlp, Scratch, ScratchShape};
use crate::checkpoint::Checkpoint;
use crate::engine::LoadProgress;
use crate::kv::{PageGroup, group_of};
use crate::models::{DecoderSpec, LoadError};
use crate::ops::{
    AttendSpec, Batch, Delta, KvDtype, KvLayer, KvPool, KvSpec, Linear, Norm, Operand, Ops,
    OpsError, RopeRows, Rotation, SampleLimits, SampleRequest, Sampled, Select, Step, StepKey,
    StepLimits, Tensor, Weight,
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

/// A run of layers on one backend.
struct Stage {
    ops: Arc<dyn Ops>,
    /// Of the first stage.
    embedding: Option<Weight>,
    first_layer: usize,
    layers: Vec<DecoderLayer>,
    /// Of the last stage.
    head: Option<Head>,
    scratch: Scratch,
    kv: Option<KvPool>,
}

/// From the residual stream to logits.
struct Head {
    norm: Norm,
    /// The weight of `norm`, for hidden states that are read.
    norm_weight: Vec<f32>,
    lm_head: Linear,
    normed: Operand,
    logits: Tensor,
}

/// A model ready to run.
pub struct Decoder {
    spec: DecoderSpec,
    stages: Vec<Stage>,
    limits: BatchLimits,
    rope_tables: Vec<RopeTable>,
    /// Of the step under way.
    rope_rows: Vec<RopeRows>,
    transfer: Vec<f32>,
    /// Whether tokens are chosen where the logits are.
    samples: bool,
}

/// How large the batches of a decoder may get.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most rows of a step.
    pub rows: usize,
    /// Most rows whose logits are wanted at once.
    pub logit_rows: usize,
    /// Most sequences of a step.
    pub sequences: usize,
}

/// Layers that run on one backend, which serves no other decoder.
#[derive(Clone)]
pub struct Placement {
    /// The backend.
    pub ops: Arc<dyn Ops>,
    /// How many layers, after those of the placement before.
    pub layers: usize,
}

impl Decoder {
    /// Builds a stage for each placement, in order. The embedding goes to the first, the final
    /// norm and the matrix of the logits to the last; an embedding that is both is taken twice
    /// where their backends differ.
    ///
    /// # Errors
    /// A tensor missing, unknown or of the wrong shape; memory.
    ///
    /// # Panics
    /// When the placements do not have the model's number of layers.
    pub fn load(
        checkpoint: &Checkpoint,
        architecture: &'static str,
        spec: DecoderSpec,
        placements: &[Placement],
        limits: BatchLimits,
        progress: &mut dyn LoadProgress,
    ) -> Result<Self, LoadError> {
        assert_eq!(placements.iter().map(|p| p.layers).sum::<usize>(), spec.layers.len());
        let (first, last) = (&placements[0], &placements[placements.len() - 1]);
        let loader = Loader::new(checkpoint, &spec, progress);
        let is_shared = Arc::ptr_eq(&first.ops, &last.ops);
        let embedding = loader.embedding(&*first.ops, is_shared)?;
        let mut stages = Vec::with_capacity(placements.len());
        let mut first_layer = 0;
        for Placement { ops, layers } in placements {
            let own = first_layer..first_layer + layers;
            let layers = own.map(|i| loader.layer(&**ops, i)).collect::<Result<Vec<_>, _>>()?;
            let scratch = Scratch::new(&**ops, &spec.scratch_shape(), limits.rows)?;
            let (ops, embedding, head, kv) = (Arc::clone(ops), None, None, None);
            let count = layers.len();
            stages.push(Stage { ops, embedding, first_layer, layers, head, scratch, kv });
            first_layer += count;
        }
        let shared = is_shared.then_some(&embedding);
        let norm_weight = loader.final_norm()?;
        let norm = Norm { weight: last.ops.vector(norm_weight.clone())?, eps: spec.norm_eps };
        let head = Head {
            norm,
            norm_weight,
            lm_head: loader.lm_head(&*last.ops, shared)?,
            normed: last.ops.alloc_operand(limits.logit_rows, spec.hidden_size)?,
            logits: last.ops.alloc(limits.logit_rows, spec.vocab_size)?,
        };
        loader.finish(architecture)?;
        stages[0].embedding = Some(embedding);
        stages[placements.len() - 1].head = Some(head);
        let rope_tables = spec.ropes.iter().cloned().map(RopeTable::new).collect();
        let rope_rows = spec.ropes.iter().map(|_| RopeRows::default()).collect();
        let transfer = Vec::new();
        Ok(Self { spec, stages, limits, rope_tables, rope_rows, transfer, samples: false })
    }

    /// The description it was built from.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Makes the key-value pools, of these groups of pages and with `host_slots` slots on the host for
    /// each, for sequences of up to `sequence_pages`.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn allocate_kv(
        &mut self,
        groups: &[PageGroup],
        host_slots: usize,
        sequence_pages: usize,
        dtype: KvDtype,
    ) -> Result<(), OpsError> {
        let heads = self.spec.kv_shape();
        let layers = &self.spec.layers;
        let layer = |i: usize| KvLayer { heads, group: group_of(groups, layers[i].window) };
        let limits = StepLimits {
            rows: self.limits.rows,
            logit_rows: self.limits.logit_rows,
            spans: self.limits.sequences,
            // Those that several sequences share are named by each.
            pages: self.limits.sequences.saturating_mul(sequence_pages),
            groups: groups.len(),
            pairs: self.spec.ropes.iter().map(RopeSpec::pairs).collect(),
        };
        for stage in &mut self.stages {
            let own = stage.first_layer..stage.first_layer + stage.layers.len();
            let layers = own.map(layer).collect();
            let q_heads = self.spec.heads.heads;
            let pages = groups.iter().map(|group| group.pages).collect();
            let spec = KvSpec { layers, q_heads, pages, host_slots, dtype };
            stage.kv = Some(stage.ops.kv_pool(&spec)?);
            stage.ops.reserve(&limits)?;
        }
        Ok(())
    }

    /// Makes room for choosing the tokens of all sequences of a step, where the backend of the logits
    /// can.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn reserve_sampling(&mut self) -> Result<(), OpsError> {
        let (rows, slots) = (self.limits.sequences, self.limits.sequences);
        let limits = SampleLimits { rows, slots, vocab: self.spec.vocab_size };
        self.samples = self.head().0.reserve_sampling(&limits)?;
        Ok(())
    }

    /// Whether [`Decoder::sample`] may be called.
    pub fn samples(&self) -> bool {
        self.samples
    }

    /// Runs a batch, whose logits can be read or sampled from afterwards. Nothing waits for it.
    ///
    /// # Errors
    /// What the device reports.
    ///
    /// # Panics
    /// When the batch exceeds the limits given at load, or before [`Decoder::allocate_kv`].
    pub fn forward(&mut self, batch: &Batch) -> Result<(), OpsError> {
        for (table, rows) in self.rope_tables.iter_mut().zip(&mut self.rope_rows) {
            table.rows(batch, rows);
        }
        let step = Step { batch, ropes: &self.rope_rows };
        for i in 0..self.stages.len() {
            let (before, stage) = self.stages.split_at_mut(i);
            let stage = &mut stage[0];
            if let Some(from) = before.last() {
                from.ops.read(&from.scratch.x, &mut self.transfer)?;
                stage.ops.write(&mut stage.scratch.x, batch.tokens.len(), &self.transfer)?;
            }
            stage.move_pages(batch)?;
            stage.ops.begin(&step)?;
            stage.forward(&self.spec, StepKey::new(i, batch), &step)?;
        }
        Ok(())
    }

    /// Some rows of the last batch's logits, in the order of `batch.logit_rows`: `out` becomes
    /// [rows, vocab_size].
    ///
    /// # Errors
    /// What the device reports, of the batch too.
    pub fn read_logits(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), OpsError> {
        let (ops, head) = self.head();
        ops.read_rows(&head.logits, rows, out)
    }

    /// Hidden states, which the logits are computed from, of rows of the last batch whose logits were
    /// wanted: `out` becomes [rows, hidden_size]. The stream is read, and normed here.
    ///
    /// # Errors
    /// As of [`Decoder::read_logits`].
    pub fn read_hidden(&mut self, rows: Range<usize>, out: &mut Vec<f64>) -> Result<(), OpsError> {
        let last = self.stages.last().expect("a decoder has at least one stage");
        last.ops.read_rows(&last.scratch.x, rows, &mut self.transfer)?;
        let (_, head) = self.head();
        out.clear();
        for x in self.transfer.chunks_exact(self.spec.hidden_size) {
            let squares: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
            let mean = squares / x.len() as f64;
            let factor = 1.0 / (mean + f64::from(head.norm.eps)).sqrt();
            let normed = x.iter().zip(&head.norm_weight);
            out.extend(normed.map(|(&v, &w)| f64::from(v) * f64::from(w) * factor));
        }
        Ok(())
    }

    /// Chooses the token after each of the rows of the last batch whose logits were wanted;
    /// only where [`Decoder::samples`].
    ///
    /// # Errors
    /// As of [`Decoder::read_logits`].
    pub fn sample(
        &self,
        requests: &[SampleRequest],
        out: &mut Vec<Sampled>,
    ) -> Result<(), OpsError> {
        let (ops, head) = self.head();
        ops.sample(&head.logits, requests, out)
    }

    fn head(&self) -> (&dyn Ops, &Head) {
        let last = self.stages.last().expect("a decoder has at least one stage");
        (&*last.ops, last.head.as_ref().expect("the last stage has the head"))
    }
}

impl Stage {
    /// From tokens, or the stream of the stage before, to the stream, or logits.
    fn forward(&mut self, spec: &DecoderSpec, key: StepKey, step: &Step) -> Result<(), OpsError> {
        // These are read afterwards, and a backend that replays does not set their rows.
        self.scratch.x.set_rows(key.rows);
        if let Some(head) = &mut self.head {
            head.logits.set_rows(key.logit_rows);
        }
        let ops = Arc::clone(&self.ops);
        ops.replay(key, &mut || self.issue(spec, step))
    }

    /// Copies the pages that the batch wants copied.
    fn move_pages(&mut self, batch: &Batch) -> Result<(), OpsError> {
        match &mut self.kv {
            Some(kv) if !batch.moves.is_empty() => self.ops.move_pages(kv, &batch.moves),
            _ => Ok(()),
        }
    }

    /// Issues every operation of the stage. What a block adds to the stream is carried to the norm
    /// that comes next, so that the two are one operation.
    fn issue(&mut self, spec: &DecoderSpec, step: &Step) -> Result<(), OpsError> {
        let ops = &*self.ops;
        let s = &mut self.scratch;
        let kv = self.kv.as_mut().expect("allocate_kv runs before the first batch");
        let scale = spec.residual_scale;
        if let Some(table) = &self.embedding {
            ops.embed(table, step, spec.embed_scale, &mut s.x)?;
        }
        let mut before: Option<&DecoderLayer> = None;
        for (i, layer) in self.layers.iter().enumerate() {
            let delta = before.map(|l| l.ffn_delta(&s.delta, scale));
            let norm = layer.attn_norm.as_ref();
            ops.residual_norm(&mut s.x, delta, norm, Select::All, &mut s.normed)?;
            let at = AttentionStep::new(spec, self.first_layer, i, step);
            layer.attention.forward(ops, &at, kv, s)?;

            let post_norm = layer.post_attn_norm.as_ref();
            let delta = Some(Delta { y: &s.delta, post_norm, scale });
            let norm = layer.ffn_norm.as_ref();
            ops.residual_norm(&mut s.x, delta, norm, Select::All, &mut s.normed)?;
            layer.ffn.forward(ops, spec.activation, s)?;
            before = Some(layer);
        }
        let delta = before.map(|l| l.ffn_delta(&s.delta, scale));
        match (&mut self.head, delta) {
            (Some(_), _) if step.batch.logit_rows.is_empty() => Ok(()),
            (Some(head), delta) => head.forward(ops, spec, step, delta, &mut s.x),
            (None, Some(delta)) => ops.add(&mut s.x, delta),
            (None, None) => Ok(()),
        }
    }
}

impl DecoderLayer {
    /// What its MLP, whose output is `y`, adds to the stream.
    fn ffn_delta<'a>(&'a self, y: &'a Tensor, scale: f32) -> Delta<'a> {
        Delta { y, post_norm: self.post_ffn_norm.as_ref(), scale }
    }
}

impl Head {
    /// Logits of the rows that want them.
    fn forward(
        &mut self,
        ops: &dyn Ops,
        spec: &DecoderSpec,
        step: &Step,
        delta: Option<Delta>,
        x: &mut Tensor,
    ) -> Result<(), OpsError> {
        let select = Select::LogitRows(step);
        ops.residual_norm(x, delta, Some(&self.norm), select, &mut self.normed)?;
        ops.linear(&[&self.lm_head], &self.normed, &mut [&mut self.logits])?;
        if spec.logit_scale != 1.0 || spec.logit_softcap.is_some() {
            ops.scale_cap(&mut self.logits, spec.logit_scale, spec.logit_softcap)?;
        }
        Ok(())
    }
}

impl<'a> AttentionStep<'a> {
    /// Layer `layer` of a stage whose first layer is the model's `first_layer`th.
    fn new(spec: &DecoderSpec, first_layer: usize, layer: usize, step: &'a Step<'a>) -> Self {
        let own = spec.layers[first_layer + layer];
        Self {
            layer,
            spec: AttendSpec {
                q: spec.heads,
                kv_heads: spec.kv_heads,
                scale: spec.attn_scale,
                window: own.window,
                softcap: spec.attn_softcap,
            },
            rotation: own.rope.map(|rope| Rotation { layout: spec.ropes[rope].layout, rope }),
            step,
        }
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

    /// Bytes of a stage's activations, a row.
    pub fn stage_row_bytes(&self) -> u64 {
        4 * self.scratch_shape().elements() as u64
    }

    /// Bytes of logits and of what they are computed from, a row.
    pub fn logit_row_bytes(&self) -> u64 {
        4 * (self.hidden_size + self.vocab_size) as u64
    }

    /// Bytes of the CPU's 16-bit copy of the widest input, about 3 an element, a row.
    pub fn cpu_row_bytes(&self) -> u64 {
        let widest = self.hidden_size.max(self.intermediate_size).max(self.heads.width());
        3 * widest as u64
    }

    /// Bytes of the rotations that are kept of sequences of up to `tokens` tokens: on the host,
    /// whatever computes.
    pub fn rotation_table_bytes(&self, tokens: usize) -> u64 {
        let tables = self.ropes.iter().map(|rope| rope.table_bytes(tokens));
        tables.fold(0, u64::saturating_add)
    }

    /// Bytes of the rotations, a row: on the host, whatever computes.
    pub fn rotation_row_bytes(&self) -> u64 {
        8 * self.ropes.iter().map(RopeSpec::pairs).sum::<usize>() as u64
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

    fn load(model: &str, layers: &[usize]) -> Decoder {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny").join(model);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let (family, spec) = describe(&checkpoint, &config::RopeOverride::default()).unwrap();
        let limits = BatchLimits { rows: ROWS, logit_rows: 1, sequences: 1 };
        let place = |&layers| Placement { ops: Arc::new(CpuOps::new(1, true)), layers };
        let placements: Vec<_> = layers.iter().map(place).collect();
        Decoder::load(&checkpoint, family.name, spec, &placements, limits, &mut Silent).unwrap()
    }

    /// Logits after a prompt of four tokens and one more.
    fn run(decoder: &mut Decoder) -> Vec<f32> {
        let groups = [PageGroup { window: None, pages: 1 }];
        decoder.allocate_kv(&groups, 0, 1, KvDtype::F32).unwrap();
        let (mut all, mut logits) = (vec![], vec![]);
        for (tokens, context_len) in [(vec![1, 501, 7, 20], 4), (vec![300], 5)] {
            let rows = tokens.len();
            let span = Span { first_row: 0, rows, context_len, rope_len: 5, pages: vec![vec![0]] };
            let (spans, logit_rows) = (vec![span], vec![rows - 1]);
            let batch = Batch { tokens, spans, logit_rows, moves: vec![] };
            decoder.forward(&batch).unwrap();
            decoder.read_logits(0..1, &mut logits).unwrap();
            all.append(&mut logits);
        }
        all
    }

    /// With a norm after the last block and without; Gemma's embedding is its head, too.
    #[test]
    fn the_hidden_state_crosses_stages_unchanged() {
        for (model, layers) in [("llama", 3), ("olmo2", 3), ("gemma2", 4)] {
            let whole = run(&mut load(model, &[layers]));
            assert!(whole.iter().any(|v| *v != 0.0));
            for first in 0..=layers {
                let mut split = load(model, &[first, layers - first]);
                assert_eq!(run(&mut split), whole, "{model} split before layer {first}");
            }
        }
    }
}
