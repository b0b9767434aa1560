//! Sixteen rows of unpacked weights.
//!
//! A *line* holds four consecutive weights of each row, `[row][4]`: 64 bytes, one AVX-512
//! register, of which an instruction makes sixteen sums of four products at once. Lines follow in
//! the order of the columns; scales and minima lie `[group][row]`.

use std::ops::Range;

use gpu_kernels::formats::Codec;

use crate::ops::Weight;
use crate::ops::cpu::simd::{Isa, Kernel, Level};

/// Weight rows of a panel.
pub const ROWS: usize = 16;
/// Columns of a line.
pub const LINE: usize = 4;

/// Four weights of each row.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [[i8; LINE]; ROWS]);

/// A value of each row.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct PerRow(pub [f32; ROWS]);

/// Sixteen rows of weights, `w[r, i] = scale · q − min`.
#[derive(Debug, Default)]
pub struct Panel {
    /// [cols / 4]. Where [`shifted`] says so, plus 128 (as unsigned bytes).
    pub q: Vec<Line>,
    /// [cols / GROUP_LEN].
    pub scale: Vec<PerRow>,
    /// [cols / GROUP_LEN]; left alone for formats without minima.
    pub min: Vec<PerRow>,
}

/// Whether a level wants the weights of a format plus 128: its instruction multiplies unsigned
/// with signed bytes, and these weights have a sign.
pub const fn shifted<C: Codec>(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matches!(level, Level::Avx512) {
        return C::Q_MIN < 0;
    }
    let _ = level;
    false
}

impl Panel {
    /// Unpacks rows `rows` of `w`, at most sixteen. The last one fills what is left.
    pub fn fill<C: Codec>(&mut self, level: Level, w: &Weight, rows: Range<usize>) {
        assert!(!rows.is_empty());
        assert!(rows.end <= w.rows());
        let (cols, groups) = (w.cols(), w.cols() / C::GROUP_LEN);
        self.q.resize(cols / LINE, Line([[0; LINE]; ROWS]));
        self.scale.resize(groups, PerRow([0.0; ROWS]));
        self.min.resize(groups, PerRow([0.0; ROWS]));
        let blocks: &[C::Block] = bytemuck::cast_slice(w.host_bytes());
        let row_blocks = cols / C::BLOCK_LEN;
        let sources: [&[C::Block]; ROWS] = std::array::from_fn(|i| {
            let row = (rows.start + i).min(rows.end - 1);
            &blocks[row * row_blocks..][..row_blocks]
        });
        #[cfg(target_arch = "x86_64")]
        if matches!(level, Level::Avx512) {
            // SAFETY: a level is only ever one that the machine has.
            if unsafe { super::unpack512::fill(self, w.format(), &sources) } {
                return;
            }
        }
        level.run(Fill::<C> { panel: self, sources });
    }
}

struct Fill<'a, C: Codec> {
    panel: &'a mut Panel,
    sources: [&'a [C::Block]; ROWS],
}

impl<C: Codec> Kernel for Fill<'_, C> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let lines = C::BLOCK_LEN / LINE;
        let groups = C::BLOCK_LEN / C::GROUP_LEN;
        let mut q = [[0i8; 256]; ROWS];
        let (mut scale, mut min) = ([[0.0; 16]; ROWS], [[0.0; 16]; ROWS]);
        for b in 0..self.sources[0].len() {
            for r in 0..ROWS {
                let (scale, min) = (&mut scale[r][..groups], &mut min[r][..groups]);
                C::unpack(&self.sources[r][b], &mut q[r][..C::BLOCK_LEN], scale, min);
            }
            interleave::<I, C>(&q, &mut self.panel.q[b * lines..][..lines]);
            for g in 0..groups {
                let at = b * groups + g;
                self.panel.scale[at] = PerRow(std::array::from_fn(|r| scale[r][g]));
                if C::HAS_MIN {
                    self.panel.min[at] = PerRow(std::array::from_fn(|r| min[r][g]));
                }
            }
        }
    }
}

/// Rows to lines.
#[inline(always)]
fn interleave<I: Isa, C: Codec>(q: &[[i8; 256]; ROWS], lines: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if matches!(I::LEVEL, Level::Avx512) {
        // SAFETY: a kernel for this level runs only where its instructions are.
        return unsafe { super::avx512::interleave(q, lines, shifted::<C>(I::LEVEL)) };
    }
    for (i, line) in lines.iter_mut().enumerate() {
        for r in 0..ROWS {
            line.0[r].copy_from_slice(&q[r][LINE * i..][..LINE]);
        }
    }
}
