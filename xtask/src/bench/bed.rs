//! A test bed: a GPU or the emulator, data in its memory, launches one by one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use bytemuck::{AnyBitPattern, NoUninit};
use cuda_std::emu::{Fault, Memory};
use cuda_std::{Entry, EntryInfo, Global, GlobalMut, Launch, Params};
use host::cuda::{Context, CudaError, DeviceBuffer, Driver, Function, Stream};

use crate::TaskError;

/// What [`Bed::poisoned`] memory holds: NaN as F32 and as half, -1 as an integer.
const POISON: u8 = 0xff;

/// Why a launch, or what belongs to it, failed.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// On a GPU.
    #[error(transparent)]
    Gpu(#[from] CudaError),
    /// In the emulator.
    #[error(transparent)]
    Emulator(#[from] Fault),
    /// A kernel wrote where nothing is its own.
    #[error("{kernel} wrote behind the end of its output")]
    Overrun {
        /// The last that was launched.
        kernel: &'static str,
    },
}

impl BedError {
    /// Whether nothing more can be run.
    pub fn is_sticky(&self) -> bool {
        matches!(self, Self::Gpu(e) if e.is_sticky())
    }
}

/// Something that runs kernels, and what was allocated on it.
pub struct Bed {
    machine: Machine,
    launched: RefCell<BTreeSet<&'static str>>,
    last: Cell<&'static str>,
}

enum Machine {
    Gpu(Gpu),
    Emulator(RefCell<Memory>),
}

/// A GPU.
pub struct Gpu {
    // Dropped first: they are memory of the context.
    memory: RefCell<Vec<Allocation>>,
    /// Of all launches.
    pub stream: Stream,
    /// The device, opened.
    pub context: Context,
    /// Bytes behind each output in which nothing may be written; none under a memory checker, which
    /// sees more without.
    guard: usize,
}

struct Allocation {
    buffer: DeviceBuffer,
    guard: usize,
}

impl Bed {
    /// A GPU by its number, with `guard` bytes behind each output in which nothing may be written.
    ///
    /// # Errors
    /// One line: there is no driver, no such GPU, or it is too old.
    pub fn open(gpu: usize, guard: usize) -> Result<Self, TaskError> {
        let open = || {
            let context = Driver::load()?.open(gpu)?;
            Ok((context.stream()?, context))
        };
        let (stream, context) = open().map_err(|e: CudaError| {
            TaskError::Other(format!("bench needs a GPU: {}", chain(&e)))
        })?;
        let device = context.device();
        eprintln!(
            "xtask: GPU {} ({}, compute {}, {} multiprocessors), PTX for {}",
            device.ordinal,
            device.name,
            device.compute,
            device.multiprocessors,
            context.arch()
        );
        Ok(Self::of(Machine::Gpu(Gpu { memory: RefCell::default(), stream, context, guard })))
    }
    /// The emulator, which checks every access and takes its time.
    pub fn emulated() -> Self {
        Self::of(Machine::Emulator(RefCell::default()))
    }
    fn of(machine: Machine) -> Self {
        Self { machine, launched: RefCell::default(), last: Cell::new("nothing") }
    }

    /// The GPU, if it is one.
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.machine {
            Machine::Gpu(gpu) => Some(gpu),
            Machine::Emulator(_) => None,
        }
    }
    /// Its multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.gpu().map_or(4, |gpu| gpu.context.device().multiprocessors)
    }
    /// Names of the kernels launched so far.
    pub fn launched(&self) -> BTreeSet<&'static str> {
        self.launched.borrow().clone()
    }
    /// Leaves out a kernel that this device cannot run.
    pub fn skip(&self, name: &'static str) {
        eprintln!("xtask: {name} is skipped: this device cannot run it");
        self.launched.borrow_mut().insert(name);
    }
    /// The kernel launched last.
    pub fn last(&self) -> &'static str {
        self.last.get()
    }
    /// Frees everything that was allocated.
    pub fn clear(&self) {
        match &self.machine {
            Machine::Gpu(gpu) => gpu.memory.borrow_mut().clear(),
            Machine::Emulator(memory) => *memory.borrow_mut() = Memory::new(),
        }
    }

    /// Data for kernels to read.
    pub fn upload<T: NoUninit>(&self, data: &[T]) -> Result<Global<T>, BedError> {
        match &self.machine {
            Machine::Gpu(_) => Ok(self.upload_mut(data)?.read()),
            Machine::Emulator(memory) => Ok(memory.borrow_mut().upload(data)),
        }
    }
    /// Data for kernels to change.
    pub fn upload_mut<T: NoUninit>(&self, data: &[T]) -> Result<GlobalMut<T>, BedError> {
        match &self.machine {
            Machine::Gpu(gpu) => {
                let buffer = gpu.context.alloc(size_of_val(data))?;
                gpu.stream.write(&buffer, 0, bytemuck::cast_slice(data))?;
                Ok(gpu.keep(buffer, 0))
            }
            Machine::Emulator(memory) => Ok(memory.borrow_mut().upload_mut(data)),
        }
    }
    /// Room for `len` elements, each byte [`POISON`].
    pub fn poisoned<T>(&self, len: usize) -> Result<GlobalMut<T>, BedError> {
        match &self.machine {
            Machine::Gpu(gpu) => {
                let guard = if len > 0 { gpu.guard } else { 0 };
                Ok(gpu.filled(len * size_of::<T>(), guard, POISON)?)
            }
            Machine::Emulator(memory) => Ok(memory.borrow_mut().uninit(len)),
        }
    }
    /// Room for `len` elements, each byte zero.
    pub fn zeros<T>(&self, len: usize) -> Result<GlobalMut<T>, BedError> {
        let bytes = len * size_of::<T>();
        match &self.machine {
            Machine::Gpu(gpu) => Ok(gpu.filled(bytes, 0, 0)?),
            Machine::Emulator(memory) => {
                Ok(memory.borrow_mut().upload_mut(&vec![0u8; bytes]).cast())
            }
        }
    }

    /// `len` elements from `view` on; bytes that nothing wrote are [`POISON`].
    ///
    /// # Errors
    /// What failed on the device before; [`BedError::Overrun`].
    ///
    /// # Panics
    /// When they are not of one allocation.
    pub fn read<T: AnyBitPattern + NoUninit>(
        &self,
        view: GlobalMut<T>,
        len: usize,
    ) -> Result<Vec<T>, BedError> {
        let mut data = vec![T::zeroed(); len];
        if len == 0 {
            return Ok(data);
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
        bytes.fill(POISON);
        match &self.machine {
            Machine::Gpu(gpu) => gpu.read(view.address(), bytes, self.last())?,
            Machine::Emulator(memory) => {
                let written = memory.borrow().read_written::<u8>(view.cast());
                for (to, byte) in bytes.iter_mut().zip(written) {
                    *to = byte.unwrap_or(POISON);
                }
            }
        }
        Ok(data)
    }

    /// Launches, and waits for the end.
    pub fn run<P: Params>(
        &self,
        entry: &Entry<P>,
        launch: Launch,
        params: &P,
    ) -> Result<(), BedError> {
        self.last.set(entry.info.name);
        self.launched.borrow_mut().insert(entry.info.name);
        match &self.machine {
            Machine::Gpu(gpu) => {
                gpu.stream.launch(entry, launch, params)?;
                Ok(gpu.stream.synchronize()?)
            }
            Machine::Emulator(memory) => Ok(memory.borrow_mut().launch(entry, launch, params)?),
        }
    }
}

impl Gpu {
    fn filled<T>(&self, bytes: usize, guard: usize, byte: u8) -> Result<GlobalMut<T>, CudaError> {
        let buffer = self.context.alloc(bytes + guard)?;
        self.stream.fill(&buffer, 0..buffer.len(), byte)?;
        Ok(self.keep(buffer, guard))
    }
    /// Room for `bytes` bytes that repeat `pattern`, whose length they need not divide.
    pub fn repeated<T>(&self, pattern: &[u8], bytes: usize) -> Result<Global<T>, CudaError> {
        let buffer = self.context.alloc(bytes)?;
        let mut done = pattern.len().min(bytes);
        self.stream.write(&buffer, 0, &pattern[..done])?;
        while done > 0 && done < bytes {
            // Twice as much each time, so that no more than a few copies are needed.
            let more = done.min(bytes - done);
            self.stream.copy(&buffer, 0, &buffer, done, more)?;
            done += more;
        }
        Ok(self.keep(buffer, 0).read())
    }
    fn keep<T>(&self, buffer: DeviceBuffer, guard: usize) -> GlobalMut<T> {
        let view = GlobalMut::from_address(buffer.address());
        self.memory.borrow_mut().push(Allocation { buffer, guard });
        view
    }

    fn read(&self, address: u64, data: &mut [u8], kernel: &'static str) -> Result<(), BedError> {
        let memory = self.memory.borrow();
        let range = |a: &Allocation| a.buffer.address()..a.buffer.address() + a.buffer.len() as u64;
        let holds = |a: &&Allocation| range(a).contains(&address);
        let Allocation { buffer, guard } = memory.iter().find(holds).expect("a view of this bed");
        self.stream.read(buffer, (address - buffer.address()) as usize, data)?;
        let mut behind = vec![POISON; *guard];
        self.stream.read(buffer, buffer.len() - guard, &mut behind)?;
        match behind.iter().all(|&byte| byte == POISON) {
            true => Ok(()),
            false => Err(BedError::Overrun { kernel }),
        }
    }

    /// A kernel as the device sees it.
    pub fn function(&self, entry: &EntryInfo) -> Result<Function, CudaError> {
        self.context.function(entry)
    }

    /// Microseconds that one of `count` launches takes: the median of repetitions of a recording of
    /// all, in which kernels overlap as they do in a step.
    pub fn microseconds(
        &self,
        count: usize,
        mut launch: impl FnMut(usize) -> Result<(), CudaError>,
    ) -> Result<f64, CudaError> {
        const REPETITIONS: usize = 7;
        launch(0)?; // loads the module
        self.stream.synchronize()?;
        let graph = self.stream.capture(|| (0..count).try_for_each(&mut launch))?.instantiate()?;
        graph.upload(&self.stream)?;
        graph.launch(&self.stream)?;
        let mut times = Vec::with_capacity(REPETITIONS);
        for _ in 0..REPETITIONS {
            times.push(self.elapsed(|| graph.launch(&self.stream))?);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[REPETITIONS / 2] / count as f64)
    }
    /// Microseconds of what `work` queues.
    pub fn elapsed(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let (start, end) = (self.context.event()?, self.context.event()?);
        self.stream.record(&start)?;
        work()?;
        self.stream.record(&end)?;
        end.synchronize()?;
        Ok(f64::from(end.milliseconds_since(&start)?) * 1e3)
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line.replace('\n', " ")
}
