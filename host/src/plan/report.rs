//! The table of `--mem-report`.

use std::fmt;

use super::cost::{Cost, Place};
use super::{MemoryPlan, MemoryRow};
use crate::kv::{PAGE_SIZE, PageGroup};
use crate::ops::KvDtype;

/// Kind of memory of what a device holds.
const DEVICE: &str = "GPU";

/// Everything that a plan takes, kind by kind.
pub(super) fn rows(cost: &Cost, capacity: usize, max_seq_len: usize) -> Vec<MemoryRow> {
    let num_layers = cost.demand.kv_layers.len();
    let dtype = match cost.demand.kv_dtype {
        KvDtype::F16 => "F16",
        KvDtype::F32 => "F32",
    };
    let weights = |place| match cost.layers(place).len() {
        layers if layers == num_layers => "weights".to_owned(),
        layers => format!("weights, {layers} of {num_layers} layers"),
    };
    let pages = |group: &PageGroup| match group.window {
        None => format!("{} pages of {PAGE_SIZE} tokens", group.pages),
        Some(window) => format!("{} pages for layers that see {window}", group.pages),
    };
    let groups = cost.groups(capacity, max_seq_len);
    let pages: Vec<String> = groups.iter().map(pages).collect();
    let kv = format!("KV cache {dtype}, {}", pages.join(", "));
    let activations = format!("activations and logits, {} rows", cost.rows(max_seq_len));
    let mut rows = vec![];
    let mut push = |what: String, bytes, place: Place, on_host| {
        let only_place = cost.places().len() == 1;
        if bytes > 0 || only_place {
            let place = if place == Place::Device { DEVICE } else { on_host };
            rows.push(MemoryRow { what, bytes, place });
        }
    };
    for &place in cost.places() {
        push(weights(place), cost.weights(place), place, "mapped file");
    }
    for &place in cost.places() {
        push(kv.clone(), cost.kv(place, capacity, max_seq_len), place, "host");
    }
    if cost.spill(Place::Host) > 0 {
        let what = "KV pages of requests that wait".to_owned();
        push(what, cost.spill(Place::Host), Place::Host, "host");
    }
    for &place in cost.places() {
        push(activations.clone(), cost.activations(place, max_seq_len), place, "host");
    }
    if cost.places().contains(&Place::Device) {
        push("headroom".to_owned(), cost.headroom(Place::Device), Place::Device, "host");
    }
    rows
}

impl MemoryPlan {
    /// Bytes of all rows on the host, mapped ones included.
    pub fn host_bytes(&self) -> u64 {
        self.sum(|row| row.place != DEVICE)
    }

    /// Bytes of all rows on the device, the headroom included.
    pub fn device_bytes(&self) -> u64 {
        self.sum(|row| row.place == DEVICE)
    }

    fn sum(&self, counts: impl Fn(&MemoryRow) -> bool) -> u64 {
        let rows = self.rows.iter().filter(|row| counts(row));
        rows.fold(0, |sum, row| sum.saturating_add(row.bytes))
    }
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

/// Ends the list of what is needed, where anything is kept free.
pub(super) fn headroom_text(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!(", {} headroom", bytes_text(bytes)),
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
        for row in &self.rows {
            let size = bytes_text(row.bytes);
            writeln!(f, "{:<width$}  {:<11}  {size:>10}", row.what, row.place)?;
        }
        let mut total = |place, bytes, free: String| {
            let bytes = bytes_text(bytes);
            writeln!(f, "{:<width$}  {place:<11}  {bytes:>10}  {free}", "total")
        };
        let free = match self.free_bytes {
            Some(bytes) => format!("of {} free", bytes_text(bytes)),
            None => "free memory unknown".to_owned(),
        };
        match &self.device {
            None => total("", self.host_bytes(), free)?,
            Some((name, free_there)) => {
                total("host", self.host_bytes(), free)?;
                let free_there = format!("of {} free on {name}", bytes_text(*free_there));
                total(DEVICE, self.device_bytes(), free_there)?;
            }
        }
        let (context, trained) = (self.max_seq_len, self.trained_context);
        write!(f, "context: {context} tokens (trained for {trained})")
    }
}
