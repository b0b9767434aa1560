//! The scheduler: threads of a CTA as coroutines, run until each waits for the others.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

use super::fault::{Fault, FaultKind, Mistake};
use super::global::GlobalMemory;
use super::memory::Memory;
use super::run::{self, Lane, Line, Op, Run, State, Stop, with};
use super::{matrix, shared};
use crate::thread::WARP;
use crate::{Entry, Launch, Params, Thread};

/// Bytes of a thread's stack; pages that are not touched cost nothing.
const STACK_BYTES: usize = 256 << 10;
const MOST_THREADS: u32 = 1024;

type Coro = Coroutine<(), (), (), DefaultStack>;

thread_local! {
    /// Stacks for reuse: making one costs more than running a small kernel on it.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// Gives the memory back when the launch ends, however it does.
struct Installed<'a>(&'a mut Memory);

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        if let Some(run) = run::uninstall() {
            self.0.allocations = run.global.0;
            self.0.order = run.order;
        }
    }
}

/// Runs a kernel.
pub(super) fn launch<P: Params>(
    memory: &mut Memory,
    entry: &Entry<P>,
    shape: Launch,
    params: &P,
) -> Result<(), Fault> {
    let mut order = std::mem::take(&mut memory.order);
    order.begin_launch();
    let global = GlobalMemory(std::mem::take(&mut memory.allocations));
    run::install(Run::new(entry.info.name, shape, order, global));
    let _installed = Installed(memory);

    check_shape(shape, entry.info.max_threads)
        .map_err(|mistake| with(|run| run.fault(mistake, None, None)))?;
    let [x, y, z] = shape.grid;
    for cta_z in 0..z {
        for cta_y in 0..y {
            for cta_x in 0..x {
                run_cta([cta_x, cta_y, cta_z], shape.threads, entry.body, params)?;
            }
        }
    }
    Ok(())
}

fn check_shape(shape: Launch, max_threads: u32) -> Result<(), Mistake> {
    let [x, y, z] = shape.grid;
    let reason = if x == 0 || y == 0 || z == 0 || shape.threads == 0 {
        "a launch of nothing is an error of the driver".to_string()
    } else if shape.threads > max_threads.min(MOST_THREADS) {
        format!("{} threads, the entry is for {max_threads}", shape.threads)
    } else if x > i32::MAX as u32 || y > 65_535 || z > 65_535 {
        format!("a grid of {x}, {y}, {z}; at most 2147483647, 65535, 65535")
    } else if shape.shared_bytes as usize > shared::MOST_BYTES {
        format!("{} bytes of shared memory; at most {}", shape.shared_bytes, shared::MOST_BYTES)
    } else {
        return Ok(());
    };
    Err((FaultKind::Launch, reason))
}

fn run_cta<P: Params>(
    cta: [u32; 3],
    threads: u32,
    body: fn(Thread, &P),
    params: &P,
) -> Result<(), Fault> {
    with(|run| {
        run.cta = cta;
        run.order.begin_cta(threads);
        run.lanes.clear();
        run.lanes.resize_with(threads as usize, Lane::new);
    });
    let params = *params;
    let mut coroutines: Vec<Option<Coro>> = (0..threads)
        .map(|_| {
            Some(Coroutine::with_stack(take_stack(), move |yielder, ()| {
                run::started(yielder);
                body(Thread::new(), &params);
            }))
        })
        .collect();
    let result = schedule(&mut coroutines, threads);
    // After a fault: unwinds the threads that still wait, which needs `with` once more.
    for coroutine in coroutines.iter_mut().filter_map(Option::take) {
        give_stack(coroutine);
    }
    result
}

fn take_stack() -> DefaultStack {
    STACKS
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a stack"))
}
fn give_stack(mut coroutine: Coro) {
    coroutine.force_unwind();
    STACKS.with_borrow_mut(|stacks| stacks.push(coroutine.into_stack()));
}

fn schedule(coroutines: &mut [Option<Coro>], threads: u32) -> Result<(), Fault> {
    loop {
        for first in (0..threads).step_by(WARP as usize) {
            let warp = first..threads.min(first + WARP);
            loop {
                for thread in warp.clone() {
                    resume(&mut coroutines[thread as usize], thread)?;
                }
                let lanes = warp.start as usize..warp.end as usize;
                if !with(|run| settle_warp(run, lanes))? {
                    break;
                }
            }
        }
        if !with(settle_cta)? {
            return Ok(());
        }
    }
}

/// Runs a thread that has something to do until it waits or ends.
fn resume(slot: &mut Option<Coro>, thread: u32) -> Result<(), Fault> {
    let ready = run::enter(thread);
    let Some(coroutine) = slot.as_mut().filter(|_| ready) else { return Ok(()) };
    match catch_unwind(AssertUnwindSafe(|| coroutine.resume(()))) {
        Ok(CoroutineResult::Yield(())) => Ok(()),
        Ok(CoroutineResult::Return(())) => {
            slot.take().into_iter().for_each(give_stack);
            with(|run| {
                let lane = &mut run.lanes[thread as usize];
                lane.state = State::Ended;
                if !lane.copies.under_way() {
                    return Ok(());
                }
                let detail = "the kernel ends with asynchronous copies under way".to_string();
                Err(run.fault((FaultKind::NotWaited, detail), Some(thread), None))
            })
        }
        Err(payload) => Err(with(|run| match run.fault.take() {
            Some(fault) if payload.is::<Stop>() => fault,
            _ => {
                let text = payload.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
                let detail = format!("panic: {}", text.unwrap_or("(no message)"));
                run.fault((FaultKind::Panic, detail), Some(thread), None)
            }
        })),
    }
}

/// Does the operation that a warp waits at. `false` if it waits for the CTA, or has ended.
fn settle_warp(run: &mut Run, lanes: std::ops::Range<usize>) -> Result<bool, Fault> {
    let state = run.lanes[lanes.start].state;
    let differs = |s: &State| match (state, s) {
        (State::Waiting(op, _, at), State::Waiting(other, _, there)) => {
            // One line is one place in memory, except for what is compiled twice.
            op != *other || !(std::ptr::eq(at, *there) || at == *there)
        }
        (State::Ended, State::Ended) => false,
        _ => true,
    };
    if let Some(odd) = lanes.clone().find(|&i| differs(&run.lanes[i].state)) {
        return Err(divergence(run, lanes.start, odd));
    }
    let State::Waiting(op, _, at) = state else { return Ok(false) };
    if op == Op::Barrier {
        return Ok(false);
    }
    let first = lanes.start;
    if lanes.len() < WARP as usize {
        let detail = format!("{op:?} of a warp with {} lanes; all 32 take part", lanes.len());
        return Err(run.fault((FaultKind::AbsentLane, detail), Some(first as u32), Some(at)));
    }
    run.order.thread = first as u16;
    let operands: [[u32; 10]; 32] = std::array::from_fn(|i| match run.lanes[first + i].state {
        State::Waiting(_, words, _) => words,
        _ => [0; 10],
    });
    let results = warp_operation(run, op, first, &operands)
        .map_err(|(lane, mistake)| run.fault(mistake, Some((first + lane) as u32), Some(at)))?;
    for (lane, result) in run.lanes[lanes].iter_mut().zip(results) {
        lane.state = State::Ready;
        lane.result = result;
    }
    Ok(true)
}

fn warp_operation(
    run: &mut Run,
    op: Op,
    first: usize,
    operands: &[[u32; 10]; 32],
) -> Result<[[u32; 4]; 32], (usize, Mistake)> {
    let mut results = [[0; 4]; 32];
    match op {
        Op::Barrier => {}
        Op::WarpBarrier => run.order.warp_barrier(first / WARP as usize),
        Op::ShuffleXor | Op::Shuffle | Op::ShuffleUp => {
            for lane in 0..32 {
                let [_, argument, ..] = operands[lane];
                let from = match op {
                    Op::ShuffleXor => lane as u32 ^ argument,
                    Op::Shuffle => argument,
                    _ => (lane as u32).checked_sub(argument).unwrap_or(lane as u32),
                };
                if from >= WARP {
                    let detail = format!("{op:?} from lane {from}");
                    return Err((lane, (FaultKind::AbsentLane, detail)));
                }
                results[lane][0] = operands[from as usize][0];
            }
        }
        Op::Ballot => {
            let bits = (0..32).fold(0, |bits, lane| bits | operands[lane][0] << lane);
            results.fill([bits, 0, 0, 0]);
        }
        Op::MmaF16 | Op::MmaBf16 | Op::MmaTf32 | Op::MmaS8 | Op::MmaE4m3 => {
            matrix::multiply(op, operands, &mut results);
        }
        Op::LoadMatrix2 | Op::LoadMatrix4 | Op::LoadMatrix4Transposed => {
            let count = if op == Op::LoadMatrix2 { 2 } else { 4 };
            let transposed = op == Op::LoadMatrix4Transposed;
            matrix::load(run, first, count, transposed, operands, &mut results)?;
        }
    }
    Ok(results)
}

/// Lets the threads of a CTA pass the barrier they all wait at. `false` if all have ended.
fn settle_cta(run: &mut Run) -> Result<bool, Fault> {
    let waiting = |lane: &Lane| matches!(lane.state, State::Waiting(..));
    let Some(first) = run.lanes.iter().position(waiting) else { return Ok(false) };
    if let Some(ended) = run.lanes.iter().position(|lane| !waiting(lane)) {
        let count = run.lanes.iter().filter(|lane| waiting(lane)).count();
        let detail = format!(
            "{count} of {} threads wait at a barrier, thread {ended} has ended",
            run.lanes.len()
        );
        let at = line(&run.lanes[first].state);
        return Err(run.fault((FaultKind::Barrier, detail), Some(first as u32), at));
    }
    run.order.barrier();
    for lane in &mut run.lanes {
        lane.state = State::Ready;
    }
    Ok(true)
}

fn line(state: &State) -> Option<Line> {
    match state {
        State::Waiting(_, _, at) => Some(at),
        _ => None,
    }
}

/// Two lanes of a warp that are not at the same operation.
fn divergence(run: &Run, first: usize, odd: usize) -> Fault {
    let place = |state: &State| match state {
        State::Waiting(op, _, at) => format!("is at {op:?} in line {}", at.line()),
        _ => "has ended".to_string(),
    };
    let (a, b) = (&run.lanes[first].state, &run.lanes[odd].state);
    let only_barriers =
        [a, b].iter().all(|s| matches!(s, State::Ended | State::Waiting(Op::Barrier, ..)));
    let kind = if only_barriers { FaultKind::Barrier } else { FaultKind::Divergence };
    let detail = format!("thread {first} {}, thread {odd} of its warp {}", place(a), place(b));
    // Whoever waits is where the reader has to look.
    let (blamed, at) = if line(b).is_some() { (odd, line(b)) } else { (first, line(a)) };
    run.fault((kind, detail), Some(blamed as u32), at)
}
