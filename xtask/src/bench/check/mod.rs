//! `cargo xtask bench check`: every kernel against plain loops in F64 on the host.
//!
//! Inputs are random, with a fresh seed each time, and outputs are poisoned before each launch. A
//! kernel that nothing here launches is an error: whoever adds one adds a check.

mod attention;
mod ceilings;
mod inputs;
mod products;
mod rows;
mod sampling;

use std::collections::BTreeMap;

use argh::FromArgs;
use gpu_kernels::formats::Format;
use gpu_kernels::kernels::ALL;

use super::bed::{Bed, BedError, chain};
use super::random::{Random, fresh_seed};
use super::table::Table;
use super::weights::Pools;
use crate::TaskError;

/// Greatest normalised mean square error of products and attention.
pub const PRODUCT: f64 = 5e-4;
/// The same where each element is computed from few others.
pub const ELEMENT: f64 = 1e-7;

/// The same of elements stored as halves: each may be off by 2⁻¹¹ of itself, and one may be all there is.
pub const HALF: f64 = 2.5e-7;

/// Bytes behind outputs in which nothing may be written.
const GUARD: usize = 4096;

/// Compare every kernel with plain loops on the host.
#[derive(FromArgs)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// a group (products, attention, inputs, rows, sampling, ceilings), may be repeated (default: all)
    #[argh(option)]
    op: Vec<String>,
    /// a weight format by its GGUF name, for products; may be repeated (default: all)
    #[argh(option)]
    format: Vec<String>,
    /// each kernel once and on little data, as for compute-sanitizer
    #[argh(switch)]
    small: bool,
    /// on the emulator instead of a GPU (slow: use it with --small)
    #[argh(switch)]
    emulate: bool,
    /// seed of the inputs (default: another one each time)
    #[argh(option)]
    seed: Option<u64>,
    /// number of the GPU (default: 0)
    #[argh(option, default = "0")]
    gpu: usize,
}

type Group = (&'static str, fn(&mut Checker<'_>) -> Result<(), BedError>);

/// What can be checked alone.
const GROUPS: [Group; 6] = [
    ("ceilings", ceilings::check),
    ("rows", rows::check),
    ("sampling", sampling::check),
    ("inputs", inputs::check),
    ("attention", attention::check),
    ("products", products::check),
];

/// Runs the task.
///
/// # Errors
/// When there is no GPU or a kernel is wrong.
pub fn run(options: &Check) -> Result<(), TaskError> {
    let known = GROUPS.map(|(name, _)| name);
    if let Some(op) = options.op.iter().find(|op| !known.contains(&op.as_str())) {
        let known = known.join(", ");
        return Err(TaskError::Other(format!("--op {op}: not one of {known}")));
    }
    let formats = formats(&options.format)?;
    // A memory checker sees what is behind an allocation only if nothing is there.
    let bed = match options.emulate {
        true => Bed::emulated(),
        false => Bed::open(options.gpu, if options.small { 0 } else { GUARD })?,
    };
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}");
    let all = options.op.is_empty() && options.format.is_empty();
    let mut lost = false;
    let mut checker = Checker::new(&bed, seed, options.small, formats);
    for (name, check) in GROUPS {
        if !options.op.is_empty() && !options.op.iter().any(|op| op == name) {
            continue;
        }
        eprintln!("xtask: {name}");
        lost = checker.attempt(check).is_err();
        if lost {
            break;
        }
    }
    if all && !lost {
        let launched = bed.launched();
        let unchecked = ALL.iter().copied().flatten().filter(|e| !launched.contains(e.name));
        checker.failures.extend(unchecked.map(|e| format!("{} is not checked", e.name)));
    }
    print!("{}", checker.table());
    match checker.failures.len() {
        0 => Ok(()),
        count => {
            let failures = checker.failures.join("\n  ");
            let hint = format!("run it again with --seed {seed}");
            Err(TaskError::Other(format!("{count} failures; {hint}:\n  {failures}")))
        }
    }
}

/// Formats by their names; all without.
fn formats(names: &[String]) -> Result<Vec<Format>, TaskError> {
    let find = |name: &String| {
        let found = Format::ALL.iter().find(|f| f.name().eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| TaskError::Other(format!("--format {name}: unknown")))
    };
    if names.is_empty() { Ok(Format::ALL.to_vec()) } else { names.iter().map(find).collect() }
}

/// Judges outputs, and keeps what it found.
pub struct Checker<'a> {
    /// Where kernels run.
    pub bed: &'a Bed,
    /// For inputs.
    pub random: Random,
    /// For weights.
    pub pools: Pools,
    /// Whether little is to be computed.
    pub small: bool,
    /// Formats of products.
    pub formats: Vec<Format>,
    found: BTreeMap<(&'static str, String), Found>,
    failures: Vec<String>,
}

/// What was found of one output of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Found {
    problems: usize,
    worst: f64,
    bound: f64,
    failed: usize,
}

impl<'a> Checker<'a> {
    fn new(bed: &'a Bed, seed: u64, small: bool, formats: Vec<Format>) -> Self {
        let (found, failures) = (BTreeMap::new(), vec![]);
        Self { bed, random: Random(seed), pools: Pools::default(), small, formats, found, failures }
    }

    /// All of the problems, or the first of them.
    pub fn some<'p, T>(&self, problems: &'p [T]) -> &'p [T] {
        if self.small { &problems[..problems.len().min(1)] } else { problems }
    }

    /// Runs a part of the checks, and frees what it allocated. When it cannot be run to its end, that is
    /// a failure, and the others go on.
    ///
    /// # Errors
    /// When nothing more can be run.
    pub fn attempt(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<(), BedError>,
    ) -> Result<(), BedError> {
        let result = part(self);
        let Err(e) = result else {
            self.bed.clear();
            return Ok(());
        };
        let failure = format!("after {}: {}", self.bed.last(), chain(&e));
        // Once, and not by each part that it ends.
        if self.failures.last() != Some(&failure) {
            self.failures.push(failure);
        }
        if e.is_sticky() {
            return Err(e);
        }
        self.bed.clear();
        Ok(())
    }

    /// Compares what the kernel `entry` made with what it should have.
    pub fn judge(
        &mut self,
        entry: &'static str,
        output: &str,
        problem: &str,
        (found, expected): (&[f64], &[f64]),
        bound: f64,
    ) {
        let compared = compare(found, expected, bound);
        let row = self.found.entry((entry, output.to_owned())).or_default();
        row.problems += 1;
        row.bound = bound;
        row.worst = row.worst.max(compared.nmse);
        if let Some(what) = compared.wrong {
            row.failed += 1;
            // The first tell what the others would.
            if row.failed <= 3 {
                self.failures.push(format!("{entry}, {output} of {problem}: {what}"));
            }
        }
    }

    /// Fails unless something that needs no tolerance holds.
    pub fn require(&mut self, entry: &'static str, what: &str, problem: &str, holds: bool) {
        let row = self.found.entry((entry, what.to_owned())).or_default();
        row.problems += 1;
        if !holds {
            row.failed += 1;
            self.failures.push(format!("{entry}: {what}: not so for {problem}"));
        }
    }

    fn table(&self) -> Table {
        let mut table =
            Table::new(&["kernel", "output", "problems", "worst NMSE", "bound", "verdict"]);
        for ((entry, output), found) in &self.found {
            let verdict = match found.failed {
                0 => "ok".into(),
                count => format!("{count} WRONG"),
            };
            let number = |x: f64| if found.bound > 0.0 { format!("{x:.1e}") } else { "-".into() };
            table.row(vec![
                (*entry).into(),
                output.clone(),
                found.problems.to_string(),
                number(found.worst),
                number(found.bound),
                verdict,
            ]);
        }
        table
    }
}

struct Compared {
    nmse: f64,
    wrong: Option<String>,
}

/// The error of all elements together over their size, and of single elements: one that is wrong in
/// many would not show in the first.
fn compare(found: &[f64], expected: &[f64], bound: f64) -> Compared {
    if found.len() != expected.len() {
        let wrong = Some(format!("{} elements, expected {}", found.len(), expected.len()));
        return Compared { nmse: f64::INFINITY, wrong };
    }
    let size: f64 = expected.iter().map(|x| x * x).sum();
    let error: f64 = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2)).sum();
    let nmse = match (error, size) {
        (0.0, _) => 0.0,
        (error, _) if !error.is_finite() => f64::INFINITY,
        (error, size) => error / size,
    };
    let mean_square = size / expected.len().max(1) as f64;
    let far = |(f, e): (&f64, &f64)| {
        let error = (f - e).powi(2);
        error.is_nan() || error > 400.0 * bound * (mean_square + e * e)
    };
    let wrong = match found.iter().zip(expected).position(far) {
        Some(i) => Some(format!("element {i} is {}, expected {}", found[i], expected[i])),
        None if nmse > bound => Some(format!("NMSE {nmse:.2e}, at most {bound:.0e}")),
        None => None,
    };
    Compared { nmse, wrong }
}

/// As F64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_element_of_many_is_found() {
        let expected: Vec<f64> = (0..100_000).map(|i| f64::from(i % 7) - 3.0).collect();
        let mut found = expected.clone();
        assert!(compare(&found, &expected, PRODUCT).wrong.is_none());
        found[777] += 1e-4;
        assert!(compare(&found, &expected, ELEMENT).wrong.is_none());
        found[777] += 5.0;
        let compared = compare(&found, &expected, PRODUCT);
        assert!(compared.nmse < PRODUCT && compared.wrong.unwrap().starts_with("element 777"));
        found[777] = f64::NAN;
        let compared = compare(&found, &expected, PRODUCT);
        assert!(compared.nmse.is_infinite() && compared.wrong.is_some());
    }
    #[test]
    fn zeros_are_compared_exactly() {
        assert!(compare(&[0.0, 0.0], &[0.0, 0.0], ELEMENT).wrong.is_none());
        assert!(compare(&[0.0, 1e-30], &[0.0, 0.0], ELEMENT).wrong.is_some());
        assert!(compare(&[], &[], ELEMENT).wrong.is_none());
        assert!(compare(&[0.0], &[], ELEMENT).wrong.is_some());
    }
}
