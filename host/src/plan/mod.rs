//! How much memory everything takes, decided before the first allocation. Pure code: what a model
//! needs and what the machine has come in as numbers, so that any machine can be planned for.
//!
//! ```text
//! host:    weights (mapped) + activations (rows of a step) + KV cache (tokens) ≤ free memory
//! device:  weights + activations + KV cache + headroom                         ≤ free memory
//!
//!          embedding  layers …  │  … layers  final norm, logits
//!          device ──────────────┴─ host ──────────────────────
//! ```
//!
//! A device takes the first layers and the embedding; the logits follow only when all layers are
//! there.

mod cost;
mod free;
mod report;

use crate::kv::{PAGE_SIZE, PageGroup};
use crate::ops::{HeadShape, KvDtype};
use cost::Cost;
pub use free::free_bytes;
pub use report::bytes_text;

/// Context that is taken at most when nobody asked for one. Longer ones cost gigabytes that few
/// conversations use; `--max-seq-len` goes beyond.
pub const AUTO_CONTEXT_CEILING: usize = 131_072;

/// Share of the memory left beside weights that an automatic KV cache may take, in percent.
pub const AUTO_KV_PERCENT: u64 = 60;

/// The same on a device, where little else wants the rest.
pub const AUTO_DEVICE_KV_PERCENT: u64 = 90;

/// An automatic context is at least this long, or the plan fails.
pub const AUTO_CONTEXT_FLOOR: usize = 512;

/// Kept free on a device for what is not counted: modules and recorded graphs, the rounding of each
/// allocation (to 2 MiB), the rows of operands where F32 weights stand beside others, and what other
/// programs draw on the same screen.
pub const DEVICE_HEADROOM_BYTES: u64 = 300 << 20;

/// What a model needs, and what was asked for.
pub struct Demand<'a> {
    /// Bytes of the tensors.
    pub weights: &'a WeightBytes,
    /// Keys (and as many values) of each layer.
    pub kv_layers: &'a [LayerKv],
    /// Element type of the KV cache.
    pub kv_dtype: KvDtype,
    /// Activations of layers and logits on the host.
    pub activations: ActivationBytes<'a>,
    /// What a step of so many rows takes on the host wherever the layers are; must not fall as
    /// rows grow.
    pub host_bytes: &'a dyn Fn(usize) -> u64,
    /// What sequences of so many tokens leave on the host beside the KV cache; must not fall as they
    /// grow.
    pub sequence_bytes: &'a dyn Fn(usize) -> u64,
    /// Memory of the host for pages that left the pool.
    pub spill_bytes: u64,
    /// Rows of a prefill step; `None` takes a whole prompt in one.
    pub prefill_chunk: Option<usize>,
    /// Sequences that are computed together, at least one.
    pub sequences: usize,
    /// Positions the model was trained for.
    pub trained_context: usize,
    /// Longest sequence asked for; `None` is automatic.
    pub max_seq_len: Option<usize>,
    /// Tokens the cache must hold at least; `None` is automatic.
    pub min_kv_tokens: Option<usize>,
    /// Pages of the cache; `None` is automatic.
    pub kv_pages: Option<usize>,
    /// Host memory that may be taken; `None` when the system does not say.
    pub free_bytes: Option<u64>,
    /// A GPU beside the host.
    pub device: Option<DeviceDemand<'a>>,
}

/// Keys and values of a layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerKv {
    /// Their heads.
    pub heads: HeadShape,
    /// Tokens that a token sees; `None` is all before it.
    pub window: Option<usize>,
}

/// What is asked of a GPU.
#[derive(Clone, Copy)]
pub struct DeviceDemand<'a> {
    /// Its name, for the report.
    pub name: &'a str,
    /// Memory that may be taken, [`DEVICE_HEADROOM_BYTES`] included.
    pub free_bytes: u64,
    /// Layers it is to take, the first ones; `None` is all.
    pub layers: Option<usize>,
    /// Activations of layers and logits there.
    pub activations: ActivationBytes<'a>,
    /// What sequences of so many tokens leave there beside the KV cache; must not fall as they grow.
    pub sequence_bytes: &'a dyn Fn(usize) -> u64,
}

/// Bytes of a model's tensors by where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// The token embedding: with the first layer.
    pub embedding: u64,
    /// Each layer.
    pub layers: Vec<u64>,
    /// Everything else, such as the matrix of the logits: with the last layer.
    pub head: u64,
    /// Whether the embedding is the matrix of the logits, too.
    pub tied: bool,
}

/// What a step of so many rows takes; must not fall as rows grow.
#[derive(Clone, Copy)]
pub struct ActivationBytes<'a> {
    /// For layers, however many.
    pub layers: &'a dyn Fn(usize) -> u64,
    /// For logits.
    pub logits: &'a dyn Fn(usize) -> u64,
}

/// Why no plan was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More memory is needed than there is.
    #[error(
        "needs {}{place} for {tokens} tokens of context ({} weights, {} KV cache, {} \
         activations{}), {} free; {advice}",
        bytes_text(*.needed), bytes_text(*.weights), bytes_text(*.kv), bytes_text(*.activations),
        report::headroom_text(*.headroom), bytes_text(*.free)
    )]
    OutOfMemory {
        /// Where, such as ` on the GPU`; nothing when there is only one place.
        place: &'static str,
        /// Context that was tried.
        tokens: usize,
        /// Bytes of everything.
        needed: u64,
        /// Bytes of weights.
        weights: u64,
        /// Bytes of the KV cache.
        kv: u64,
        /// Bytes of activations.
        activations: u64,
        /// Bytes kept free on a device.
        headroom: u64,
        /// Bytes there are.
        free: u64,
        /// The flag that helps.
        advice: String,
    },
    /// A number that was asked for is impossible on any machine.
    #[error("{flag} {value}: {reason}")]
    Impossible {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// What something takes, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRow {
    /// What it is.
    pub what: String,
    /// How much.
    pub bytes: u64,
    /// Kind of memory.
    pub place: &'static str,
}

/// Sizes chosen for a load. `Display` is the table of `--mem-report`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Everything that is taken.
    pub rows: Vec<MemoryRow>,
    /// Layers on the device, the first ones.
    pub device_layers: usize,
    /// Pages of the KV cache: of all layers, or of those without a window and those with one apart,
    /// where that saves memory.
    pub kv_groups: Vec<PageGroup>,
    /// Most tokens of a sequence.
    pub max_seq_len: usize,
    /// Most rows of a step.
    pub max_batch_rows: usize,
    /// Host memory that may be taken; `None` when the system does not say.
    pub free_bytes: Option<u64>,
    /// Name of the device that has layers, and memory that may be taken there.
    pub device: Option<(String, u64)>,
    /// Choices a user should hear about, a sentence each.
    pub notices: Vec<String>,
    trained_context: usize,
}

/// Chooses context, KV pages and rows of a step.
///
/// An automatic context is the smallest of the trained one, [`AUTO_CONTEXT_CEILING`] and what
/// [`AUTO_KV_PERCENT`] of the memory beside the weights hold, [`AUTO_DEVICE_KV_PERCENT`] on a
/// device. A size that was asked for may take all memory, and neither it nor a number of layers is
/// ever cut. The cache holds one sequence of that length, and as much of one for each sequence that is
/// computed beside it as the same share holds.
///
/// # Errors
/// `OutOfMemory` with the numbers and the flag that helps; `Impossible` for zero.
pub fn plan(demand: &Demand) -> Result<MemoryPlan, PlanError> {
    let num_layers = demand.kv_layers.len();
    assert_eq!(demand.weights.layers.len(), num_layers);
    check_asked(demand)?;
    let asked = demand.device.as_ref().map_or(0, |d| d.layers.unwrap_or(num_layers));
    let device_layers = asked.min(num_layers);
    let cost = Cost { demand, device_layers };
    let max_seq_len = match demand.max_seq_len {
        Some(tokens) => tokens,
        None => cost.auto_context()?,
    };
    let capacity = match demand.kv_pages {
        Some(pages) => pages * PAGE_SIZE, // both numbers asked for are within, which was checked
        None => cost.auto_capacity(max_seq_len),
    };
    cost.check(capacity, max_seq_len)?;

    let mut notices = vec![];
    if asked > num_layers {
        notices.push(format!(
            "--gpu-layers {asked}: the model has {num_layers} layers, and all of them are on the \
             GPU"
        ));
    }
    if max_seq_len > demand.trained_context {
        notices.push(format!(
            "a context of {max_seq_len} tokens is beyond the {} the model was trained for; answers \
             may degrade there",
            demand.trained_context
        ));
    }
    if demand.max_seq_len.is_none() && max_seq_len < demand.trained_context {
        notices.push(format!(
            "the context is {max_seq_len} of the {} tokens the model was trained for, to save \
             memory; --max-seq-len sets it",
            demand.trained_context
        ));
    }
    let kv_groups = cost.groups(capacity, max_seq_len);
    let windowed = kv_groups.iter().find_map(|group| Some((group.window?, group.pages)));
    if let Some((window, pages)) = windowed
        && (demand.kv_pages.is_some() || demand.min_kv_tokens.is_some())
    {
        notices.push(format!(
            "the size asked for the KV cache is that of layers that see everything; those that see \
             {window} tokens take {pages} pages"
        ));
    }
    let device = demand.device.as_ref().filter(|_| device_layers > 0);
    Ok(MemoryPlan {
        rows: report::rows(&cost, capacity, max_seq_len),
        device_layers,
        kv_groups,
        max_seq_len,
        max_batch_rows: cost.rows(max_seq_len),
        free_bytes: demand.free_bytes,
        device: device.map(|d| (d.name.to_owned(), d.free_bytes)),
        notices,
        trained_context: demand.trained_context,
    })
}

/// Page numbers are `u32`, and so are positions in kernels.
const MAX_TOKENS: usize = i32::MAX as usize;

fn check_asked(demand: &Demand) -> Result<(), PlanError> {
    let impossible = |flag, value, reason| Err(PlanError::Impossible { flag, value, reason });
    let mut most = MAX_TOKENS;
    let mut limit = "kernels count tokens in 31 bits".to_owned();
    if let Some(pages) = demand.kv_pages {
        if pages == 0 || pages > MAX_TOKENS / PAGE_SIZE {
            let reason = format!("expected 1 to {} pages", MAX_TOKENS / PAGE_SIZE);
            return impossible("kv_cache.max_blocks", pages, reason);
        }
        most = pages * PAGE_SIZE;
        limit = format!("kv_cache.max_blocks is {pages} pages of {PAGE_SIZE}");
    }
    let asked = [("--max-seq-len", demand.max_seq_len), ("--min-kv-tokens", demand.min_kv_tokens)];
    for (flag, value) in asked.into_iter().filter_map(|(flag, v)| Some((flag, v?))) {
        if value == 0 || value > most {
            return impossible(flag, value, format!("expected 1 to {most} tokens ({limit})"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
