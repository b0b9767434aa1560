//! Memory for what lives as long as the model. The driver rounds every allocation up to 2 MiB, so
//! small pieces share chunks; large ones have an allocation of their own.

use std::sync::{Arc, Mutex, PoisonError};

use cuda_std::Global;

use crate::cuda::{Context, CudaError, DeviceBuffer};

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 16 << 20;
/// Pieces of at least so many bytes are allocations of their own, of which rounding up wastes half at
/// worst, and a few percent of what weights usually take.
const LARGE_BYTES: usize = 2 << 20;
/// Pieces start at its multiples.
const ALIGN: usize = 256;

/// Hands out pieces.
#[derive(Debug, Default)]
pub struct Arena {
    last: Mutex<Option<(Arc<DeviceBuffer>, usize)>>,
}

/// A part of a chunk, which lives as long as its pieces.
#[derive(Clone, Debug)]
pub struct Piece {
    pub buffer: Arc<DeviceBuffer>,
    pub start: usize,
}

impl Piece {
    /// It, as elements that a kernel reads.
    pub fn view<T>(&self) -> Global<T> {
        self.buffer.view(self.start)
    }
}

impl Arena {
    /// `bytes` bytes, aligned to 256.
    pub fn take(&self, context: &Context, bytes: usize) -> Result<Piece, CudaError> {
        if bytes >= LARGE_BYTES {
            return Ok(Piece { buffer: Arc::new(context.alloc(bytes)?), start: 0 });
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((buffer, used)) = &mut *last
            && bytes <= buffer.len() - *used
        {
            let piece = Piece { buffer: Arc::clone(buffer), start: *used };
            *used = (*used + bytes).next_multiple_of(ALIGN).min(buffer.len());
            return Ok(piece);
        }
        // What is left of the chunk before, less than a large piece, is given up.
        let buffer = Arc::new(context.alloc(CHUNK_BYTES)?);
        let used = bytes.next_multiple_of(ALIGN);
        let piece = Piece { buffer: Arc::clone(&buffer), start: 0 };
        *last = Some((buffer, used));
        Ok(piece)
    }
}
