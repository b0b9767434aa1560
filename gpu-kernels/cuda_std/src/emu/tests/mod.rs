//! Every kind of mistake, planted, is reported; what is right passes.

mod arithmetic;
mod copies;
mod matrices;
mod memory;
mod speed;
mod threads;

use super::{Fault, FaultKind, Memory};
use crate::{Entry, EntryInfo, Global, GlobalMut, Launch, Params, Thread, params};

params! {
    /// What the kernels of these tests get.
    pub(super) struct Data {
        /// 64 words, 0 to 63, read only.
        pub input: Global<u32>,
        /// 1024 words, 0 to 1023.
        pub data: GlobalMut<u32>,
        /// 1024 words that nothing wrote.
        pub out: GlobalMut<u32>,
    }
}

fn entry<P: Params>(body: fn(Thread, &P)) -> Entry<P> {
    let info = EntryInfo {
        name: "test_kernel",
        module: "test",
        max_threads: 1024,
        min_ctas: 1,
        layout: P::LAYOUT,
    };
    Entry { info, body }
}

/// Runs a kernel and gives the first word of `out` for each thread of CTA 0, 0 where not written.
fn run(shape: Launch, body: fn(Thread, &Data)) -> Result<Vec<u32>, Fault> {
    let mut mem = Memory::new();
    let data = data(&mut mem);
    mem.launch(&entry(body), shape, &data)?;
    let out = mem.read_written(data.out);
    Ok(out[..shape.threads as usize].iter().map(|word| word.unwrap_or(0)).collect())
}

fn data(mem: &mut Memory) -> Data {
    let numbers: Vec<u32> = (0..1024).collect();
    Data {
        input: mem.upload(&numbers[..64]),
        data: mem.upload_mut(&numbers),
        out: mem.uninit(1024),
    }
}

/// Runs a kernel that has to fail.
#[track_caller]
fn fails(kind: FaultKind, shape: Launch, body: fn(Thread, &Data)) -> Fault {
    match run(shape, body) {
        Ok(_) => panic!("{kind:?} was not reported"),
        Err(fault) => {
            assert_eq!(fault.kind, kind, "{fault}");
            fault
        }
    }
}

/// Runs a kernel that is right.
#[track_caller]
fn passes(shape: Launch, body: fn(Thread, &Data)) {
    if let Err(fault) = run(shape, body) {
        panic!("{fault}");
    }
}

const ONE: Launch = Launch::linear(1, 32);
const TWO_WARPS: Launch = Launch::linear(1, 64);
