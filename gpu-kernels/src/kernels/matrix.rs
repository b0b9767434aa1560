//! Weight matrices in device memory.

use cuda_std::Global;

/// Planes a format may use.
pub const MAX_PLANES: usize = 4;

/// A weight matrix `[rows, cols]`: each block of the format is split over planes, and in plane `i` the
/// blocks lie row after row, `DeviceFormat::PLANES[i]` bytes each, so that a thread's part of a block
/// is one aligned load.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Where each plane starts, divisible by 256; null when unused.
    pub planes: [Global<u32>; MAX_PLANES],
    /// Output features.
    pub rows: u32,
    /// Input features.
    pub cols: u32,
}

impl Matrix {
    /// Pieces of 32 weights in the rows before `row`: rows lie one after the other. 32 bits count the
    /// pieces of 137 billion weights, and make an address in one instruction.
    #[inline(always)]
    pub fn first_piece(&self, row: u32) -> u32 {
        row * (self.cols / 32)
    }

    /// Element `i` of plane `P`, read once.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub(crate) fn stream16<const P: usize>(&self, i: u32) -> [u32; 4] {
        self.planes[P].cast::<[u32; 4]>().stream(i as usize)
    }
    /// Element `i` of plane `P`, read once.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub(crate) fn stream8<const P: usize>(&self, i: u32) -> [u32; 2] {
        self.planes[P].cast::<[u32; 2]>().stream(i as usize)
    }
    /// Element `i` of plane `P`, read once.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub(crate) fn stream4<const P: usize>(&self, i: u32) -> u32 {
        self.planes[P].stream(i as usize)
    }
    // What several pieces share, or what fills less than a sector of memory (32 bytes) for a warp, is
    // kept in the first-level cache: neighbours want the rest of it.

    /// Element `i` of plane `P`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub(crate) fn shared16<const P: usize>(&self, i: u32) -> [u32; 4] {
        self.planes[P].cast::<[u32; 4]>().constant(i as usize)
    }
    /// Element `i` of plane `P`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub(crate) fn shared8<const P: usize>(&self, i: u32) -> [u32; 2] {
        self.planes[P].cast::<[u32; 2]>().constant(i as usize)
    }
    /// Element `i` of plane `P`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub(crate) fn shared4<const P: usize>(&self, i: u32) -> u32 {
        self.planes[P].constant(i as usize)
    }
    /// Element `i` of plane `P`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub(crate) fn shared2<const P: usize>(&self, i: u32) -> u16 {
        self.planes[P].cast::<u16>().constant(i as usize)
    }
    /// Element `i` of plane `P`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub(crate) fn shared1<const P: usize>(&self, i: u32) -> u8 {
        self.planes[P].cast::<u8>().constant(i as usize)
    }
}
