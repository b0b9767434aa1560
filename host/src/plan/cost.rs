//! What a context costs in each place, and what to advise when it costs too much.
//!
//! Sums saturate: what a file claims can be near the end of `u64`, and such a sum is larger than
//! any memory.

use std::ops::Range;

use super::{
    AUTO_CONTEXT_CEILING, AUTO_CONTEXT_FLOOR, AUTO_DEVICE_KV_PERCENT, AUTO_KV_PERCENT,
    DEVICE_HEADROOM_BYTES, Demand, MAX_TOKENS, PlanError,
};
use crate::kv::{PAGE_SIZE, PageGroup, group_of, pages_for, window_pages};
use crate::ops::HeadShape;

/// A demand with so many layers on its device.
#[derive(Clone, Copy)]
pub(super) struct Cost<'a> {
    pub demand: &'a Demand<'a>,
    pub device_layers: usize,
}

/// Kinds of memory that are limited apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    Device,
}

impl Cost<'_> {
    /// Where anything lies.
    pub fn places(&self) -> &'static [Place] {
        if self.device_layers == 0 { &[Place::Host] } else { &[Place::Host, Place::Device] }
    }

    /// Layers there; embedding and logits are beside the first and the last.
    pub fn layers(&self, place: Place) -> Range<usize> {
        match place {
            Place::Host => self.device_layers..self.demand.kv_layers.len(),
            Place::Device => 0..self.device_layers,
        }
    }

    /// Whether tokens become vectors there.
    fn has_embedding(&self, place: Place) -> bool {
        place == *self.places().last().expect("the host is always a place")
    }

    /// Whether the logits are computed there.
    fn has_logits(&self, place: Place) -> bool {
        let all_on_device = self.device_layers > 0 && self.layers(Place::Host).is_empty();
        place == if all_on_device { Place::Device } else { Place::Host }
    }

    pub fn weights(&self, place: Place) -> u64 {
        let weights = self.demand.weights;
        let has_logits = self.has_logits(place);
        let head = if has_logits { weights.head } else { 0 };
        let has_embedding = self.has_embedding(place) || weights.tied && has_logits;
        let embedding = if has_embedding { weights.embedding } else { 0 };
        let layers = &weights.layers[self.layers(place)];
        layers.iter().fold(embedding.saturating_add(head), |sum, &bytes| sum.saturating_add(bytes))
    }

    /// The groups of pages of a cache of `capacity` tokens: layers with a window have their own
    /// where those take fewer.
    pub fn groups(&self, capacity: usize, max_seq_len: usize) -> Vec<PageGroup> {
        let all = PageGroup { window: None, pages: pages_for(capacity) };
        let layers = self.demand.kv_layers;
        let Some(window) = layers.iter().filter_map(|layer| layer.window).max() else {
            return vec![all];
        };
        let sequences = self.demand.sequences;
        // As many windows again for prefixes that are kept.
        let kept = sequences.saturating_mul(pages_for(window));
        let pages = window_pages(window, sequences, self.rows(max_seq_len)).saturating_add(kept);
        if pages >= all.pages {
            return vec![all];
        }
        let windowed = PageGroup { window: Some(window), pages };
        match layers.iter().any(|layer| layer.window.is_none()) {
            true => vec![all, windowed],
            false => vec![windowed],
        }
    }

    /// Bytes of the keys and values of a cache of `capacity` tokens, in whole pages.
    pub fn kv(&self, place: Place, capacity: usize, max_seq_len: usize) -> u64 {
        let groups = self.groups(capacity, max_seq_len);
        let layers = &self.demand.kv_layers[self.layers(place)];
        layers.iter().fold(0u64, |sum, layer| {
            let HeadShape { heads, head_dim } = layer.heads;
            let elements = (heads as u64).saturating_mul(head_dim as u64);
            let token_bytes = elements.saturating_mul(2 * self.demand.kv_dtype.bytes() as u64);
            let tokens = groups[group_of(&groups, layer.window)].pages * PAGE_SIZE;
            sum.saturating_add(token_bytes.saturating_mul(tokens as u64))
        })
    }

    /// Rows of the largest step of sequences of `max_seq_len`: one of each at least.
    pub fn rows(&self, max_seq_len: usize) -> usize {
        let sequences = self.demand.sequences;
        let chunk = self.demand.prefill_chunk.unwrap_or(max_seq_len);
        chunk.min(max_seq_len.saturating_mul(sequences)).max(sequences)
    }

    pub fn activations(&self, place: Place, max_seq_len: usize) -> u64 {
        let rows = self.rows(max_seq_len);
        let (bytes, beside) = match (place, &self.demand.device) {
            (Place::Device, Some(device)) => {
                (device.activations, (device.sequence_bytes)(max_seq_len))
            }
            _ => {
                let sequences = (self.demand.sequence_bytes)(max_seq_len);
                (self.demand.activations, (self.demand.host_bytes)(rows).saturating_add(sequences))
            }
        };
        let runs =
            self.has_embedding(place) || self.has_logits(place) || !self.layers(place).is_empty();
        let layers = if runs { (bytes.layers)(rows) } else { 0 };
        let logits = if self.has_logits(place) { (bytes.logits)(rows) } else { 0 };
        beside.saturating_add(layers).saturating_add(logits)
    }

    /// What is kept free beside all that is planned.
    pub fn headroom(&self, place: Place) -> u64 {
        match place {
            Place::Host => 0,
            Place::Device => DEVICE_HEADROOM_BYTES,
        }
    }

    pub fn free(&self, place: Place) -> Option<u64> {
        match place {
            Place::Host => self.demand.free_bytes,
            Place::Device => self.demand.device.as_ref().map(|device| device.free_bytes),
        }
    }

    /// Room for pages that left the pool.
    pub fn spill(&self, place: Place) -> u64 {
        if place == Place::Host { self.demand.spill_bytes } else { 0 }
    }

    /// What does not grow with the context.
    fn fixed(&self, place: Place) -> u64 {
        let beside = self.headroom(place).saturating_add(self.spill(place));
        self.weights(place).saturating_add(beside)
    }

    /// What grows with the context.
    fn context(&self, place: Place, capacity: usize, max_seq_len: usize) -> u64 {
        let kv = self.kv(place, capacity, max_seq_len);
        kv.saturating_add(self.activations(place, max_seq_len))
    }

    fn needed(&self, place: Place, capacity: usize, max_seq_len: usize) -> u64 {
        self.fixed(place).saturating_add(self.context(place, capacity, max_seq_len))
    }

    fn fits(&self, place: Place, capacity: usize, max_seq_len: usize) -> bool {
        let needed = self.needed(place, capacity, max_seq_len);
        self.free(place).is_none_or(|free| needed <= free)
    }

    fn fits_everywhere(&self, capacity: usize, max_seq_len: usize) -> bool {
        self.places().iter().all(|&place| self.fits(place, capacity, max_seq_len))
    }

    pub fn auto_context(&self) -> Result<usize, PlanError> {
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
        let fitting = largest(most, |tokens| {
            let within = |&place: &Place| {
                let budget = self.auto_budget(place);
                budget.is_none_or(|budget| self.context(place, tokens, tokens) <= budget)
            };
            self.places().iter().all(within)
        });
        // What must be held is taken from all memory, not from the share.
        let floor = most.min(demand.min_kv_tokens.unwrap_or(AUTO_CONTEXT_FLOOR));
        if fitting < floor {
            self.check(floor, floor)?;
        }
        Ok(fitting.max(floor))
    }

    /// Tokens of a cache for all sequences: what one of `max_seq_len` needs, more when it is in the
    /// share of an automatic cache.
    pub fn auto_capacity(&self, max_seq_len: usize) -> usize {
        let least = max_seq_len.max(self.demand.min_kv_tokens.unwrap_or(0));
        let wanted = max_seq_len.saturating_mul(self.demand.sequences).min(MAX_TOKENS);
        if wanted <= least {
            return least;
        }
        let fitting = largest(wanted, |tokens| {
            let within = |&place: &Place| {
                let budget = self.auto_budget(place);
                budget.is_none_or(|budget| self.context(place, tokens, max_seq_len) <= budget)
            };
            self.places().iter().all(within)
        });
        least.max(fitting)
    }

    /// What an automatic context may take; `None` is without limit.
    fn auto_budget(&self, place: Place) -> Option<u64> {
        let percent = match place {
            Place::Host => AUTO_KV_PERCENT,
            Place::Device => AUTO_DEVICE_KV_PERCENT,
        };
        let left = self.free(place)?.saturating_sub(self.fixed(place));
        Some((u128::from(left) * u128::from(percent) / 100) as u64)
    }

    pub fn check(&self, capacity: usize, max_seq_len: usize) -> Result<(), PlanError> {
        // The scarcer place is the device, where it does not fit.
        let short = |&&place: &&Place| !self.fits(place, capacity, max_seq_len);
        let Some(&place) = self.places().iter().rev().find(short) else { return Ok(()) };
        Err(PlanError::OutOfMemory {
            place: match (place, &self.demand.device) {
                (_, None) => "",
                (Place::Host, _) => " on the host",
                (Place::Device, _) => " on the GPU",
            },
            tokens: capacity,
            needed: self.needed(place, capacity, max_seq_len),
            weights: self.weights(place),
            kv: self.kv(place, capacity, max_seq_len).saturating_add(self.spill(place)),
            activations: self.activations(place, max_seq_len),
            headroom: self.headroom(place),
            free: self.free(place).unwrap_or(u64::MAX),
            advice: self.advice(capacity, max_seq_len),
        })
    }

    fn advice(&self, capacity: usize, max_seq_len: usize) -> String {
        if let Some(layers) = self.fitting_layers(capacity, max_seq_len) {
            return format!("try --gpu-layers {layers}");
        }
        let fitting = largest(capacity, |t| self.fits_everywhere(t, t.min(max_seq_len)));
        // A number that is a little smaller reads better, and leaves something to the system.
        let round = if fitting >= 1024 { fitting / 1024 * 1024 } else { fitting };
        let (flag, tokens_a_unit) = self.flag(capacity, max_seq_len);
        match round / tokens_a_unit {
            0 => "free some memory or choose a model file in a smaller format".to_owned(),
            units => format!("try {flag} {units}"),
        }
    }

    /// The most layers on the device with which everything fits. Each layer there takes more of the
    /// device and less of the host, so more than what the device holds help neither.
    fn fitting_layers(&self, capacity: usize, max_seq_len: usize) -> Option<usize> {
        self.demand.device.as_ref()?;
        let with = |device_layers| Cost { device_layers, ..*self };
        let fits = |layers| layers == 0 || with(layers).fits(Place::Device, capacity, max_seq_len);
        let layers = largest(self.demand.kv_layers.len(), fits);
        with(layers).fits(Place::Host, capacity, max_seq_len).then_some(layers)
    }

    /// What decided the size of the cache.
    fn flag(&self, capacity: usize, max_seq_len: usize) -> (&'static str, usize) {
        match self.demand.kv_pages {
            Some(_) => ("kv_cache.max_blocks =", PAGE_SIZE),
            None if capacity > max_seq_len => ("--min-kv-tokens", 1),
            None => ("--max-seq-len", 1),
        }
    }
}

/// The largest number in `0..=most` that fits, for a cost that never falls.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}
