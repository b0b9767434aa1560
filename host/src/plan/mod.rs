//! How much memory everything takes, decided before the first allocation. Pure code: what a model
//! needs and what the machine has come in as numbers, so that any machine can be planned for.
//!
//! ```text
//! weights (mapped) + activations (rows of a step) + KV cache (tokens) ≤ free memory
//! ```

mod free;

use std::fmt;

use crate::kv::{PAGE_SIZE, pages_for};
use crate::ops::{HeadShape, KvDtype};
pub use free::free_bytes;

/// Context that is taken at most when nobody asked for one. Longer ones cost gigabytes that few
/// conversations use; `--max-seq-len` goes beyond.
pub const AUTO_CONTEXT_CEILING: usize = 131_072;

/// Share of the memory left beside weights that an automatic KV cache may take, in percent.
pub const AUTO_KV_PERCENT: u64 = 60;

/// An automatic context is at least this long, or the plan fails.
pub const AUTO_CONTEXT_FLOOR: usize = 512;

/// What a model needs, and what was asked for.
pub struct Demand<'a> {
    /// Bytes of all tensors, in mapped files.
    pub weight_bytes: u64,
    /// Keys (and as many values) of each layer.
    pub kv_heads: &'a [HeadShape],
    /// Element type of the KV cache.
    pub kv_dtype: KvDtype,
    /// Activations and logits of a step of so many rows; must not fall as rows grow.
    pub activation_bytes: &'a dyn Fn(usize) -> u64,
    /// Rows of a prefill step; `None` takes a whole prompt in one.
    pub prefill_chunk: Option<usize>,
    /// Positions the model was trained for.
    pub trained_context: usize,
    /// Longest sequence asked for; `None` is automatic.
    pub max_seq_len: Option<usize>,
    /// Tokens the cache must hold at least; `None` is automatic.
    pub min_kv_tokens: Option<usize>,
    /// Pages of the cache; `None` is automatic.
    pub kv_pages: Option<usize>,
    /// Memory that may be taken; `None` when the system does not say.
    pub free_bytes: Option<u64>,
}

/// Why no plan was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More memory is needed than there is.
    #[error(
        "needs {} for {tokens} tokens of context ({} weights, {} KV cache, {} activations), {} \
         free; {advice}",
        bytes_text(*.needed), bytes_text(*.weights), bytes_text(*.kv), bytes_text(*.activations),
        bytes_text(*.free)
    )]
    OutOfMemory {
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
    /// Pages of the KV cache.
    pub kv_pages: usize,
    /// Most tokens of a sequence.
    pub max_seq_len: usize,
    /// Most rows of a step.
    pub max_batch_rows: usize,
    /// Memory that may be taken; `None` when the system does not say.
    pub free_bytes: Option<u64>,
    /// Choices a user should hear about, a sentence each.
    pub notices: Vec<String>,
    trained_context: usize,
}

impl MemoryPlan {
    /// Bytes of all rows.
    pub fn total_bytes(&self) -> u64 {
        self.rows.iter().fold(0, |sum, row| sum.saturating_add(row.bytes))
    }
}

/// Chooses context, KV pages and rows of a step.
///
/// An automatic context is the smallest of the trained one, [`AUTO_CONTEXT_CEILING`] and what
/// [`AUTO_KV_PERCENT`] of the memory beside the weights hold. A size that was asked for may take
/// all memory, and is never cut.
///
/// # Errors
/// `OutOfMemory` with the numbers and the flag that helps; `Impossible` for zero.
pub fn plan(demand: &Demand) -> Result<MemoryPlan, PlanError> {
    let cost = Cost { demand };
    check_asked(demand)?;
    let max_seq_len = match demand.max_seq_len {
        Some(tokens) => tokens,
        None => cost.auto_context()?,
    };
    let capacity = match demand.kv_pages {
        Some(pages) => pages * PAGE_SIZE, // both numbers asked for are within, which was checked
        None => max_seq_len.max(demand.min_kv_tokens.unwrap_or(0)),
    };
    cost.check(capacity, max_seq_len)?;

    let kv_pages = pages_for(capacity);
    let max_batch_rows = cost.rows(max_seq_len);
    let mut notices = vec![];
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
    let dtype = match demand.kv_dtype {
        KvDtype::F16 => "F16",
        KvDtype::F32 => "F32",
    };
    let row = |what: String, bytes, place| MemoryRow { what, bytes, place };
    let rows = vec![
        row("weights".to_owned(), demand.weight_bytes, "mapped file"),
        row(
            format!("KV cache {dtype}, {kv_pages} pages of {PAGE_SIZE} tokens"),
            cost.kv(capacity),
            "host",
        ),
        row(
            format!("activations and logits, {max_batch_rows} rows"),
            (demand.activation_bytes)(max_batch_rows),
            "host",
        ),
    ];
    let (free_bytes, trained_context) = (demand.free_bytes, demand.trained_context);
    Ok(MemoryPlan {
        rows,
        kv_pages,
        max_seq_len,
        max_batch_rows,
        free_bytes,
        notices,
        trained_context,
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

/// What a context costs. Sums saturate: what a file claims can be near the end of `u64`, and such
/// a sum is larger than any memory.
struct Cost<'a> {
    demand: &'a Demand<'a>,
}

impl Cost<'_> {
    /// Bytes of the keys and values of a cache of `tokens`, in whole pages.
    fn kv(&self, tokens: usize) -> u64 {
        let token_bytes = self.demand.kv_heads.iter().fold(0u64, |sum, layer| {
            let elements = (layer.heads as u64).saturating_mul(layer.head_dim as u64);
            let kv_bytes = elements.saturating_mul(2 * self.demand.kv_dtype.bytes() as u64);
            sum.saturating_add(kv_bytes)
        });
        token_bytes.saturating_mul((pages_for(tokens) * PAGE_SIZE) as u64)
    }

    /// Rows of the largest step of a sequence of `max_seq_len`.
    fn rows(&self, max_seq_len: usize) -> usize {
        self.demand.prefill_chunk.unwrap_or(max_seq_len).clamp(1, max_seq_len)
    }

    fn activations(&self, max_seq_len: usize) -> u64 {
        (self.demand.activation_bytes)(self.rows(max_seq_len))
    }

    /// What grows with the context.
    fn context(&self, capacity: usize, max_seq_len: usize) -> u64 {
        self.kv(capacity).saturating_add(self.activations(max_seq_len))
    }

    fn auto_context(&self) -> Result<usize, PlanError> {
        let demand = self.demand;
        let pool = demand.kv_pages.map_or(MAX_TOKENS, |pages| pages * PAGE_SIZE);
        let trained = demand.trained_context.clamp(1, pool);
        if let Some(tokens) = demand.min_kv_tokens.filter(|&t| t >= AUTO_CONTEXT_CEILING) {
            return Ok(trained.min(tokens));
        }
        if demand.kv_pages.is_some() {
            return Ok(trained); // what the pool takes was chosen, whatever its share
        }
        let most = trained.min(AUTO_CONTEXT_CEILING);
        let Some(free) = demand.free_bytes else { return Ok(most) };
        let left = free.saturating_sub(demand.weight_bytes);
        let budget = (u128::from(left) * u128::from(AUTO_KV_PERCENT) / 100) as u64;
        let fitting = largest(most, |tokens| self.context(tokens, tokens) <= budget);
        // What must be held is taken from all memory, not from the share.
        let floor = most.min(demand.min_kv_tokens.unwrap_or(AUTO_CONTEXT_FLOOR));
        if fitting < floor {
            self.check(floor, floor)?;
        }
        Ok(fitting.max(floor))
    }

    fn check(&self, capacity: usize, max_seq_len: usize) -> Result<(), PlanError> {
        let demand = self.demand;
        let Some(free) = demand.free_bytes else { return Ok(()) };
        let weights = demand.weight_bytes;
        let needed = weights.saturating_add(self.context(capacity, max_seq_len));
        if needed <= free {
            return Ok(());
        }
        let left = free.saturating_sub(weights);
        let fitting = largest(capacity, |t| self.context(t, t.min(max_seq_len)) <= left);
        Err(PlanError::OutOfMemory {
            tokens: capacity,
            needed,
            weights,
            kv: self.kv(capacity),
            activations: self.activations(max_seq_len),
            free,
            advice: self.advice(self.flag(capacity, max_seq_len), fitting),
        })
    }

    /// What decided the size of the cache.
    fn flag(&self, capacity: usize, max_seq_len: usize) -> (&'static str, usize) {
        match self.demand.kv_pages {
            Some(_) => ("kv_cache.max_blocks =", PAGE_SIZE),
            None if capacity > max_seq_len => ("--min-kv-tokens", 1),
            None => ("--max-seq-len", 1),
        }
    }

    fn advice(&self, (flag, tokens_a_unit): (&str, usize), fitting: usize) -> String {
        // A number that is a little smaller reads better, and leaves something to the system.
        let round = if fitting >= 1024 { fitting / 1024 * 1024 } else { fitting };
        match round / tokens_a_unit {
            0 => "free some memory or choose a model file in a smaller format".to_owned(),
            units => format!("try {flag} {units}"),
        }
    }
}

/// The largest number of tokens in `0..=most` that fits, for a cost that never falls.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

/// `21.4 GiB`, `512 B`.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64 / 1024.0;
    if value < 1.0 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
        for row in &self.rows {
            let size = bytes_text(row.bytes);
            writeln!(f, "{:<width$}  {:<11}  {size:>10}", row.what, row.place)?;
        }
        let total = bytes_text(self.total_bytes());
        let free = match self.free_bytes {
            Some(bytes) => format!("of {} free", bytes_text(bytes)),
            None => "free memory unknown".to_owned(),
        };
        writeln!(f, "{:<width$}  {:<11}  {total:>10}  {free}", "total", "")?;
        let (context, trained) = (self.max_seq_len, self.trained_context);
        write!(f, "context: {context} tokens (trained for {trained})")
    }
}

#[cfg(test)]
mod tests;
