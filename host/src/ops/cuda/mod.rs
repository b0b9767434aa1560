//! The CUDA backend: every operation one launch (a product on weights of several formats one each),
//! queued in one stream. Nothing waits for it but what reads back, and [`Ops::begin`] for the copy of the
//! step before.
//!
//! Shapes choose kernels when an operation is issued; a decode step is recorded once for each
//! [`StepKey`] and then repeated as a CUDA graph. Everything the launches of a step read besides
//! tensors comes from one buffer that [`Ops::begin`] fills.
//!
//! With [`CudaOptions::deterministic`] shapes choose nothing that rounds.
//!
//! In exact mode activations and the KV cache are F32, and products are the plain kernels.

mod arena;
mod attention;
mod magnitude;
mod memory;
mod products;
mod room;
mod sample;
mod shape;
mod step;
mod upload;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_std::Global;
use gpu_kernels::formats::Format;
use gpu_kernels::kernels::step::StepView;
use gpu_kernels::kernels::{gated, gemm, residual_norm, to_operand};

use self::arena::Arena;
pub(super) use self::memory::{DeviceKv, DeviceOperand, DeviceTensor, DeviceVector, DeviceWeight};
use self::memory::{Precision, WeightFormats, WeightKinds, optional};
use self::products::ProductMemory;
pub use self::room::Room;
#[cfg(test)]
pub(crate) use self::sample::Emulated;
pub use self::shape::ModelShape;
use self::step::StepLayout;
use self::upload::Uploader;
use super::{
    Activation, AttendSpec, AttentionInputs, Delta, KvPages, KvPool, KvSpec, Linear, Norm,
    OTHER_BACKEND, Operand, OperandStorage, Ops, OpsError, Qkv, SampleLimits, SampleRequest,
    Sampled, Select, Step, StepKey, StepLimits, Storage, Tensor, Vector, VectorStorage, Weight,
    WeightStorage, WeightUse,
};
use crate::checkpoint::Bytes;
use crate::cuda::{Context, CudaError, DeviceBuffer, GraphExec, PinnedBuffer, Stream};
use crate::kv::PageMove;

/// Bytes that are read back in one copy: the logits of one row of any vocabulary.
const READ_BYTES: usize = 2 << 20;

/// Most recorded steps that are kept, one for each number of sequences that decode together: beyond it
/// the one goes that was not used for longest.
const MAX_RECORDINGS: usize = 128;

/// The operations of [`Ops`] on one GPU.
#[derive(Debug)]
pub struct CudaOps {
    // Dropped first: recordings refer to the memory of everything below.
    /// The one used last is the last.
    recordings: Mutex<Vec<(StepKey, GraphExec)>>,
    stream: Stream,
    uploader: Uploader,
    arena: Arena,
    products: ProductMemory,
    step: Mutex<Option<StepBuffers>>,
    read: Mutex<PinnedBuffer>,
    attention: attention::Workspace,
    sampling: sample::Workspace,
    /// Of the weights taken.
    formats: Mutex<WeightFormats>,
    /// Rows that activations have room for.
    capacity: AtomicUsize,
    precision: Precision,
    graphs: bool,
    context: Context,
}

/// The step under way, on both sides.
#[derive(Debug)]
struct StepBuffers {
    staging: PinnedBuffer,
    device: DeviceBuffer,
    layout: StepLayout,
}

/// How a [`CudaOps`] computes.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// F32 activations and the plain products.
    pub exact: bool,
    /// Whether the results of a row do not depend on the other rows of its step: every operation
    /// takes the kernel, and the order of its sums, that it takes for many rows.
    pub deterministic: bool,
    /// Whether decode steps are recorded and repeated.
    pub graphs: bool,
    /// Threads that prepare weights for the upload.
    pub threads: usize,
}

impl CudaOps {
    /// A backend on an open device.
    ///
    /// # Errors
    /// `OutOfMemory`, `Device`.
    pub fn new(context: Context, options: CudaOptions) -> Result<Self, OpsError> {
        let arena = Arena::default();
        let uploader = Uploader::new(&context, options.threads.max(1))?;
        let stream = context.stream()?;
        Ok(Self {
            recordings: Mutex::default(),
            products: ProductMemory::new(&context, &stream, &uploader, &arena, options.exact)?,
            stream,
            uploader,
            arena,
            step: Mutex::default(),
            read: Mutex::new(context.alloc_pinned(READ_BYTES)?),
            attention: attention::Workspace::default(),
            sampling: sample::Workspace::default(),
            formats: Mutex::default(),
            capacity: AtomicUsize::new(0),
            precision: Precision { exact: options.exact, deterministic: options.deterministic },
            graphs: options.graphs,
            context,
        })
    }

    /// They hold addresses that may be given to others.
    fn forget_recordings(&self) {
        lock(&self.recordings).clear();
    }

    fn multiprocessors(&self) -> u32 {
        self.context.device().multiprocessors
    }

    fn gemm_device(&self) -> gemm::Device {
        let device = self.context.device();
        let (arch, shared_bytes) = (self.context.arch(), device.shared_bytes_per_cta);
        gemm::Device::new(arch, device.multiprocessors, shared_bytes)
    }

    /// The parts of the step under way, but for its pages.
    fn step_view(&self) -> StepView {
        self.step_view_of(0)
    }

    /// The same with the pages of a group.
    fn step_view_of(&self, group: usize) -> StepView {
        let step = lock(&self.step);
        let step = step.as_ref().expect("a step begins before its operations");
        step.layout.view(step.device.address(), group)
    }

    /// Cosines and sines of a RoPE of the step under way.
    fn rope(&self, rope: usize) -> [Global<f32>; 2] {
        let step = lock(&self.step);
        let step = step.as_ref().expect("a step begins before its operations");
        step.layout.rope(step.device.address(), rope)
    }

    fn launch<P: cuda_std::Params>(
        &self,
        (entry, launch): (cuda_std::Entry<P>, cuda_std::Launch),
        params: &P,
    ) -> Result<(), OpsError> {
        Ok(self.stream.launch(&entry, launch, params)?)
    }
}

impl Ops for CudaOps {
    fn name(&self) -> String {
        let device = self.context.device();
        format!("GPU {} ({}, {})", device.ordinal, device.name, self.context.arch())
    }

    fn alloc(&self, capacity: usize, cols: usize) -> Result<Tensor, OpsError> {
        self.capacity.fetch_max(capacity, Ordering::Relaxed);
        self.forget_recordings();
        let buffer = self.context.alloc(4 * capacity * cols)?;
        Ok(Tensor::new(Storage::Cuda(DeviceTensor { buffer }), capacity, cols))
    }

    fn alloc_operand(&self, capacity: usize, cols: usize) -> Result<Operand, OpsError> {
        self.forget_recordings();
        let kinds = WeightKinds::of(&lock(&self.formats).multiplied);
        let alloc = |bytes| self.context.alloc(bytes);
        let operand = DeviceOperand::new(capacity, cols, kinds, self.precision, alloc)?;
        Ok(Operand::new(OperandStorage::Cuda(operand), capacity, cols))
    }

    fn weight(
        &self,
        usage: WeightUse,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: Bytes,
    ) -> Result<Weight, OpsError> {
        assert_eq!(format.row_bytes(cols).and_then(|b| b.checked_mul(rows)), Some(bytes.len()));
        let weight = self.uploader.weight(&self.arena, format, rows, cols, &bytes)?;
        lock(&self.formats).add(format, usage);
        Ok(Weight { format, rows, cols, storage: WeightStorage::Cuda(Arc::new(weight)) })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vector, OpsError> {
        let len = values.len();
        let values = self.uploader.words(&self.arena, &values)?;
        Ok(Vector { storage: VectorStorage::Cuda(Arc::new(DeviceVector { values })), len })
    }

    fn kv_pool(&self, spec: &KvSpec) -> Result<KvPool, OpsError> {
        self.forget_recordings();
        let alloc = |bytes| self.context.alloc(bytes);
        let kv = DeviceKv::new(spec, alloc, |bytes| self.context.alloc_pinned(bytes))?;
        self.attention.reserve(self, spec, self.capacity.load(Ordering::Relaxed))?;
        Ok(KvPool { storage: KvPages::Cuda(kv) })
    }

    fn move_pages(&self, pool: &mut KvPool, moves: &[PageMove]) -> Result<(), OpsError> {
        let KvPages::Cuda(kv) = &mut pool.storage else { panic!("{OTHER_BACKEND}") };
        Ok(moves.chunk_by(PageMove::goes_on).try_for_each(|run| kv.copy(&self.stream, run))?)
    }

    fn reserve(&self, limits: &StepLimits) -> Result<(), OpsError> {
        self.forget_recordings();
        self.uploader.finish()?;
        let formats = lock(&self.formats).clone();
        self.context.load_modules(&products::modules(&formats, self.precision.exact))?;
        let bytes = StepLayout::new(limits).bytes();
        let staging = self.context.alloc_pinned(bytes)?;
        let device = self.context.alloc(bytes)?;
        *lock(&self.step) = Some(StepBuffers { staging, device, layout: StepLayout::default() });
        Ok(())
    }

    fn begin(&self, step: &Step) -> Result<(), OpsError> {
        let mut buffers = lock(&self.step);
        let buffers = buffers.as_mut().expect("room was reserved when the model was loaded");
        let layout = StepLayout::of(step);
        assert!(layout.bytes() <= buffers.device.len(), "a step within the limits");
        layout.pack(step, buffers.staging.bytes_mut()?);
        self.stream.upload(&mut buffers.staging, 0..layout.bytes(), &buffers.device, 0)?;
        buffers.layout = layout;
        Ok(())
    }

    fn replay(
        &self,
        key: StepKey,
        body: &mut dyn FnMut() -> Result<(), OpsError>,
    ) -> Result<(), OpsError> {
        if !(self.graphs && key.decode) {
            return body();
        }
        let mut recordings = lock(&self.recordings);
        let recorded = match recordings.iter().position(|(other, _)| *other == key) {
            Some(at) => recordings.remove(at),
            None => {
                let recording = (key, self.stream.capture(body)?.instantiate()?);
                if recordings.len() == MAX_RECORDINGS {
                    recordings.remove(0);
                }
                recording
            }
        };
        let launched = recorded.1.launch(&self.stream);
        recordings.push(recorded);
        Ok(launched?)
    }

    fn embed(
        &self,
        table: &Weight,
        step: &Step,
        scale: f32,
        out: &mut Tensor,
    ) -> Result<(), OpsError> {
        out.set_rows(step.batch.tokens.len());
        products::embed(self, table, scale, out)
    }

    fn residual_norm(
        &self,
        x: &mut Tensor,
        delta: Option<Delta>,
        norm: Option<&Norm>,
        select: Select,
        out: &mut Operand,
    ) -> Result<(), OpsError> {
        let (rows, select) = match select {
            Select::All => (x.rows(), Global::null()),
            Select::LogitRows(step) => (step.batch.logit_rows.len(), self.step_view().logit_rows),
        };
        out.set_rows(rows);
        assert_eq!(out.cols(), x.cols());
        let cols = x.cols() as u32;
        let params = residual_norm::ResidualNormParams {
            select,
            norm: norm.map_or(Global::null(), |n| vector_view(&n.weight)),
            eps: norm.map_or(0.0, |n| n.eps),
            out: out.device().output(rows),
            ..self.stream_params(x, delta, cols)
        };
        self.launch(self.norm_launch(rows as u32, cols), &params)
    }

    fn add(&self, x: &mut Tensor, delta: Delta) -> Result<(), OpsError> {
        let (rows, cols) = (x.rows() as u32, x.cols() as u32);
        let params = self.stream_params(x, Some(delta), cols);
        self.launch(self.norm_launch(rows, cols), &params)
    }

    fn linear(&self, ws: &[&Linear], x: &Operand, ys: &mut [&mut Tensor]) -> Result<(), OpsError> {
        products::linear(self, ws, x, ys)
    }

    fn attention_inputs(
        &self,
        qkv: Qkv,
        spec: &AttentionInputs,
        pool: &mut KvPool,
        layer: usize,
        step: &Step,
    ) -> Result<(), OpsError> {
        attention::inputs(self, qkv, spec, pool.device(), layer, step)
    }

    fn attend(
        &self,
        q: &Tensor,
        pool: &KvPool,
        layer: usize,
        spec: &AttendSpec,
        step: &Step,
        out: &mut Operand,
    ) -> Result<(), OpsError> {
        out.set_rows(q.rows());
        attention::attend(self, q, pool.device(), layer, spec, step, out)
    }

    fn gated(
        &self,
        gate: &Tensor,
        up: &Tensor,
        act: Activation,
        out: &mut Operand,
    ) -> Result<(), OpsError> {
        let (rows, n) = (gate.rows(), gate.cols() as u32);
        assert_eq!((up.rows(), up.cols()), (rows, gate.cols()));
        out.set_rows(rows);
        let params = gated::GatedParams {
            gate: gate.device().view(),
            up: up.device().view(),
            out: out.device().output(rows),
            n,
            stride: n,
        };
        let halves = out.device().forms(rows).half;
        self.launch(gated::launch(act == Activation::GeluTanh, rows as u32, n, halves), &params)
    }

    fn scale_cap(&self, x: &mut Tensor, scale: f32, cap: Option<f32>) -> Result<(), OpsError> {
        let n = (x.rows() * x.cols()) as u32;
        let view = x.device().view_mut();
        let params = to_operand::ScaleCapParams { x: view, n, scale, cap: cap.unwrap_or(0.0) };
        self.launch((to_operand::SCALE_CAP, to_operand::scale_cap_launch(n)), &params)
    }

    fn reserve_sampling(&self, limits: &SampleLimits) -> Result<bool, OpsError> {
        self.sampling.reserve(self, limits)
    }

    fn sample(
        &self,
        logits: &Tensor,
        requests: &[SampleRequest],
        out: &mut Vec<Sampled>,
    ) -> Result<(), OpsError> {
        self.sampling.sample(self, logits, requests, out)
    }

    fn read_rows(
        &self,
        x: &Tensor,
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), OpsError> {
        assert!(rows.end <= x.rows());
        let [mut start, end] = [rows.start, rows.end].map(|row| 4 * row * x.cols());
        let mut pinned = lock(&self.read);
        out.clear();
        while start < end {
            let bytes = READ_BYTES.min(end - start);
            self.stream.download(&x.device().buffer, start, &mut pinned, 0..bytes)?;
            // Page-locked memory starts at a page, and a copy is a whole number of elements.
            out.extend_from_slice(bytemuck::cast_slice(&pinned.bytes()?[..bytes]));
            start += bytes;
        }
        Ok(())
    }

    fn write(&self, x: &mut Tensor, rows: usize, values: &[f32]) -> Result<(), OpsError> {
        assert_eq!(values.len(), rows * x.cols());
        x.set_rows(rows);
        Ok(self.stream.write(&x.device().buffer, 0, bytemuck::cast_slice(values))?)
    }
}

impl CudaOps {
    /// The launch that norms `rows` rows: how many threads share a row, and so the order of its sum,
    /// follows from how many there are, unless that must not matter.
    fn norm_launch(
        &self,
        rows: u32,
        cols: u32,
    ) -> (cuda_std::Entry<residual_norm::ResidualNormParams>, cuda_std::Launch) {
        let many = if self.precision.deterministic { u32::MAX } else { rows };
        let (entry, mut launch) = residual_norm::launch(many, cols);
        launch.grid[0] = rows;
        (entry, launch)
    }

    /// What adds `delta` to the stream `x`, and makes nothing of the sum yet.
    fn stream_params(
        &self,
        x: &Tensor,
        delta: Option<Delta>,
        cols: u32,
    ) -> residual_norm::ResidualNormParams {
        let post_norm = delta.and_then(|d| d.post_norm);
        residual_norm::ResidualNormParams {
            x: x.device().view_mut(),
            y: delta.map_or(Global::null(), |d| {
                assert_eq!((d.y.rows(), d.y.cols()), (x.rows(), x.cols()));
                d.y.device().view()
            }),
            post_norm: post_norm.map_or(Global::null(), |n| vector_view(&n.weight)),
            post_eps: post_norm.map_or(0.0, |n| n.eps),
            scale: delta.map_or(0.0, |d| d.scale),
            select: Global::null(),
            norm: Global::null(),
            eps: 0.0,
            out: gpu_kernels::kernels::operand::OperandOut::NONE,
            cols,
        }
    }
}

impl Tensor {
    fn device(&self) -> &DeviceTensor {
        match &self.storage {
            Storage::Cuda(tensor) => tensor,
            Storage::Host(_) => panic!("{OTHER_BACKEND}"),
        }
    }
}

impl Operand {
    fn device(&self) -> &DeviceOperand {
        match &self.storage {
            OperandStorage::Cuda(operand) => operand,
            OperandStorage::Host(_) => panic!("{OTHER_BACKEND}"),
        }
    }
}

impl Weight {
    fn device(&self) -> &DeviceWeight {
        match &self.storage {
            WeightStorage::Cuda(weight) => weight,
            WeightStorage::Host(_) => panic!("{OTHER_BACKEND}"),
        }
    }
}

impl KvPool {
    fn device(&self) -> &DeviceKv {
        match &self.storage {
            KvPages::Cuda(kv) => kv,
            KvPages::Host(_) => panic!("{OTHER_BACKEND}"),
        }
    }
}

/// A vector of parameters, as kernels see it.
fn vector_view(vector: &Vector) -> Global<f32> {
    match &vector.storage {
        VectorStorage::Cuda(vector) => optional(Some(vector)),
        VectorStorage::Host(_) => panic!("{OTHER_BACKEND}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<CudaError> for OpsError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::OutOfMemory { .. } => OpsError::DeviceOutOfMemory(chain(&error)),
            CudaError::NoPinnedMemory { bytes, .. } => {
                OpsError::OutOfMemory { what: "page-locked memory", bytes }
            }
            other => OpsError::Device(chain(&other)),
        }
    }
}

/// An error with what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
