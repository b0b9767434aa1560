//! Weights on their way to the device: cut into planes by all cores into one staging buffer, while the
//! other is being copied.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

use gpu_kernels::kernels::matrix::{MAX_PLANES, Matrix};

use super::arena::{Arena, Piece};
use super::magnitude::{bound, weight_scale};
use super::memory::DeviceWeight;
use crate::cuda::{Context, CudaError, PinnedBuffer, Stream};
use gpu_kernels::formats::Format;

/// Bytes of a staging buffer: large enough that cores and copies seldom wait for each other, small
/// enough to be page-locked quickly.
pub const STAGING_BYTES: usize = 32 << 20;
/// Staging buffers of an [`Uploader`].
pub const STAGING_BUFFERS: usize = 2;

/// Copies weights to the device. One thread at a time uses it.
#[derive(Debug)]
pub struct Uploader {
    stream: Stream,
    threads: usize,
    staging: Mutex<Staging>,
}

#[derive(Debug)]
struct Staging {
    buffers: [PinnedBuffer; STAGING_BUFFERS],
    next: usize,
}

impl Uploader {
    /// One that cuts with `threads` threads.
    pub fn new(context: &Context, threads: usize) -> Result<Self, CudaError> {
        let buffer = || context.alloc_pinned(STAGING_BYTES);
        let staging = Mutex::new(Staging { buffers: [buffer()?, buffer()?], next: 0 });
        Ok(Self { stream: context.stream()?, threads, staging })
    }

    /// Copies a matrix `[rows, cols]` as it lies in a file.
    pub fn weight(
        &self,
        arena: &Arena,
        format: Format,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<DeviceWeight, CudaError> {
        let layout = PlaneLayout::new(format, rows, cols);
        let piece = arena.take(self.stream.context(), layout.bytes)?;
        let row_bytes = bytes.len() / rows.max(1);
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let step = (STAGING_BYTES / layout.row_bytes()).clamp(1, rows.max(1));
        let (mut first, mut largest) = (0, 0.0f32);
        while first < rows {
            let count = step.min(rows - first);
            let source = &bytes[first * row_bytes..(first + count) * row_bytes];
            let bound =
                self.rows(&mut staging, format, cols, &layout, first, count, source, &piece)?;
            largest = largest.max(bound);
            first += count;
        }
        let planes = std::array::from_fn(|i| match layout.plane_rows[i] {
            0 => cuda_std::Global::null(),
            _ => piece.buffer.view(piece.start + layout.starts[i]),
        });
        let matrix = Matrix { planes, rows: rows as u32, cols: cols as u32 };
        Ok(DeviceWeight { matrix, scale: weight_scale(format, largest), _planes: piece })
    }

    /// Copies words as they are.
    pub fn words<T: bytemuck::Pod>(&self, arena: &Arena, values: &[T]) -> Result<Piece, CudaError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let piece = arena.take(self.stream.context(), bytes.len())?;
        self.stream.write(&piece.buffer, piece.start, bytes)?;
        Ok(piece)
    }

    /// Waits until everything is there.
    pub fn finish(&self) -> Result<(), CudaError> {
        self.stream.synchronize()
    }

    /// Cuts `count` rows from row `first` on, and starts copying them. Returns their [`bound`].
    #[allow(clippy::too_many_arguments, reason = "one step of a loop, named for its parts")]
    fn rows(
        &self,
        staging: &mut Staging,
        format: Format,
        cols: usize,
        layout: &PlaneLayout,
        first: usize,
        count: usize,
        source: &[u8],
        piece: &Piece,
    ) -> Result<f32, CudaError> {
        let buffer = &mut staging.buffers[staging.next];
        staging.next = 1 - staging.next;
        // `ModelShape::check` refused wider rows.
        assert!(layout.row_bytes() * count <= STAGING_BYTES, "rows fit the staging buffer");
        let mut parts: [Range<usize>; MAX_PLANES] = Default::default();
        let mut start = 0;
        for (part, plane_row) in parts.iter_mut().zip(layout.plane_rows) {
            *part = start..start + plane_row * count;
            start = part.end;
        }
        let out = &mut buffer.bytes_mut()?[..start];
        let bound = cut(format, cols, layout, count, source, out, self.threads);
        for (i, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let to = piece.start + layout.starts[i] + layout.plane_rows[i] * first;
            self.stream.upload(buffer, part.clone(), &piece.buffer, to)?;
        }
        Ok(bound)
    }
}

/// Cuts rows into planes that lie one after the other in `out`. Returns their [`bound`].
fn cut(
    format: Format,
    cols: usize,
    layout: &PlaneLayout,
    rows: usize,
    source: &[u8],
    out: &mut [u8],
    threads: usize,
) -> f32 {
    let mut rest = out;
    let mut planes: [&mut [u8]; MAX_PLANES] = Default::default();
    for (plane, plane_row) in planes.iter_mut().zip(layout.plane_rows) {
        (*plane, rest) = rest.split_at_mut(plane_row * rows);
    }
    let row_bytes = source.len() / rows;
    // A thread for less would cost more than it does.
    let threads = threads.min(source.len() >> 18).clamp(1, rows);
    let share = rows.div_ceil(threads);
    std::thread::scope(|scope| {
        let (mut first, mut largest) = (0, 0.0f32);
        let mut others = vec![];
        while first < rows {
            let count = share.min(rows - first);
            let source = &source[first * row_bytes..(first + count) * row_bytes];
            let mut own: [&mut [u8]; MAX_PLANES] = Default::default();
            for ((own, plane), plane_row) in own.iter_mut().zip(&mut planes).zip(layout.plane_rows)
            {
                (*own, *plane) = std::mem::take(plane).split_at_mut(plane_row * count);
            }
            let work = move || {
                relay(format, cols, source, own);
                bound(format, source)
            };
            if first + count == rows {
                largest = work();
            } else {
                others.push(scope.spawn(work));
            }
            first += count;
        }
        let bounds = others.into_iter().map(|other| other.join());
        bounds.fold(largest, |largest, bound| match bound {
            Ok(bound) => largest.max(bound),
            Err(panic) => resume_unwind(panic),
        })
    })
}

/// Cuts rows, or pads those of floats.
fn relay(format: Format, cols: usize, source: &[u8], planes: [&mut [u8]; MAX_PLANES]) {
    if format.plane_bytes().is_some() {
        return format.relay(source, planes);
    }
    let [rows, ..] = planes;
    let row_bytes = format.block_bytes() * cols;
    let padded = row_bytes.next_multiple_of(FLOAT_ALIGN);
    for (to, from) in rows.chunks_exact_mut(padded).zip(source.chunks_exact(row_bytes)) {
        let (values, rest) = to.split_at_mut(row_bytes);
        values.copy_from_slice(from);
        rest.fill(0);
    }
}

/// Rows of float weights start at its multiples, so that every load is 16 bytes.
const FLOAT_ALIGN: usize = 16;

/// Where the planes of a matrix lie.
struct PlaneLayout {
    /// Bytes of a row in each plane.
    plane_rows: [usize; MAX_PLANES],
    /// Where each plane starts.
    starts: [usize; MAX_PLANES],
    bytes: usize,
}

impl PlaneLayout {
    fn new(format: Format, rows: usize, cols: usize) -> Self {
        let plane_rows = match format.plane_bytes() {
            Some(planes) => planes.map(|bytes| bytes as usize * (cols / format.block_len())),
            None => [(format.block_bytes() * cols).next_multiple_of(FLOAT_ALIGN), 0, 0, 0],
        };
        let (mut starts, mut bytes) = ([0; MAX_PLANES], 0usize);
        for (start, plane_row) in starts.iter_mut().zip(plane_rows) {
            *start = bytes;
            bytes += (plane_row * rows).next_multiple_of(256);
        }
        Self { plane_rows, starts, bytes }
    }
    fn row_bytes(&self) -> usize {
        self.plane_rows.iter().sum::<usize>().max(1)
    }
}
