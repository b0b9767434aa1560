//! The walk of a warp through its groups: loads ahead, products behind.

use cuda_std::{Global, Thread};

use super::GemvParams;
use super::reduce::{Group, MAX_VALUES, SHARED_BYTES, Teams};
use crate::kernels::matrix::Matrix;
use crate::kernels::operand::OperandIn;

/// How weights of some kind are read and multiplied, a piece of a row at a time.
pub trait Weights: 'static {
    /// A piece between loading and unpacking.
    type Raw: Copy + Default;
    /// A piece, unpacked.
    type Piece: Copy;
    /// The part of a row of `x` that meets a piece.
    type X: Copy;

    /// Pieces of a row of `cols` weights.
    fn pieces(cols: u32) -> u32;
    /// Loads a piece of row `row`.
    fn load(matrix: &Matrix, row: u32, piece: u32) -> Self::Raw;
    /// Unpacks it.
    fn unpack(raw: Self::Raw, tables: Global<u32>) -> Self::Piece;
    /// Loads the part of row `token` of `x` for a piece; `M` rows are going to be read.
    fn load_x<const M: usize>(
        t: Thread,
        x: &OperandIn,
        cols: u32,
        token: u32,
        piece: u32,
    ) -> Self::X;
    /// `acc + w · x`.
    fn dot(acc: f32, w: &Self::Piece, x: &Self::X) -> f32;
}

/// Rows of weights that are in registers or under way at a time.
const PAIR: usize = 2;

/// `M` rows of `x`, of which `p.tokens` are there, with groups of `R` rows of weights.
///
/// Lanes walk along `k` together; a lane past the end works on the last piece and throws the result
/// away. The loads run ahead of the products by a pair of rows, past the ends of pieces and groups.
#[inline(always)]
pub fn gemv<W: Weights, const R: usize, const M: usize>(t: Thread, p: &GemvParams) {
    const { assert!(R * M <= MAX_VALUES && R.is_multiple_of(PAIR)) };
    let scratch = t.static_shared::<f32, SHARED_BYTES>();
    let teams = Teams::<R>::new(t, p.split_log2);
    let units = teams.units(p);
    let cols = p.targets[0].weights.cols;
    let pieces = W::pieces(cols);
    let (start, stride) = (teams.part * 32 + t.lane(), 32 << p.split_log2);

    t.launch_next_kernel();
    let mut unit = t.cta_id();
    if unit >= units {
        return;
    }
    let mut loads = Cursor { group: teams.first(p, unit), piece: start, pieces };
    let mut raw = [W::Raw::default(); PAIR];
    repeat!(PAIR, i, {
        raw[i] = loads.load::<W>(i);
    });
    t.wait_for_previous_kernel();

    let mut turn = 0;
    while unit < units {
        let group = loads.group;
        let mut acc = [0.0; MAX_VALUES];
        let mut piece = start;
        // The first lane's piece is never past the end.
        while piece - t.lane() < pieces {
            let there = piece < pieces;
            let x_piece = piece.min(pieces - 1);
            piece += stride;
            let last = piece - t.lane() >= pieces;
            if M == 1 {
                let x = W::load_x::<M>(t, &p.x, cols, 0, x_piece);
                repeat!(R, r, {
                    let w = W::unpack(raw[r % PAIR], p.tables);
                    if r == R - PAIR {
                        loads.next(teams, t, p, &mut unit, start, piece, last);
                    }
                    if unit < units {
                        raw[r % PAIR] = loads.load::<W>((r + PAIR) % R);
                    }
                    let sum = W::dot(acc[r], &w, &x);
                    acc[r] = if there { sum } else { acc[r] };
                });
            } else {
                repeat!(R / PAIR, half, {
                    let w = [W::unpack(raw[0], p.tables), W::unpack(raw[1], p.tables)];
                    if half == R / PAIR - 1 {
                        loads.next(teams, t, p, &mut unit, start, piece, last);
                    }
                    if unit < units {
                        repeat!(PAIR, i, {
                            raw[i] = loads.load::<W>((PAIR * half + PAIR + i) % R);
                        });
                    }
                    repeat!(M, m, {
                        let token = (m as u32).min(p.tokens - 1);
                        let x = W::load_x::<M>(t, &p.x, cols, token, x_piece);
                        repeat!(PAIR, i, {
                            let k = (PAIR * half + i) * M + m;
                            let sum = W::dot(acc[k], &w[i], &x);
                            acc[k] = if there { sum } else { acc[k] };
                        });
                    });
                });
            }
        }
        let sum = teams.add_up(t, scratch, turn, acc, R * M);
        turn ^= 1;
        let (row, token) = (group.row() + t.lane() / M as u32, t.lane() % M as u32);
        let output = group.output(p);
        let wanted = t.lane() < (R * M) as u32 && token < p.tokens && row < group.weights.rows;
        if teams.part == 0 && wanted {
            let bias = if output.bias.is_null() { 0.0 } else { output.bias.get(row as usize) };
            output.y.set(token as usize * output.stride as usize + row as usize, sum + bias);
        }
    }
}

/// Where loading is.
struct Cursor<const R: usize> {
    group: Group<R>,
    piece: u32,
    pieces: u32,
}

impl<const R: usize> Cursor<R> {
    /// Goes on to `piece`, or where it was the group's last, to the start of the warp's next group, in
    /// the CTA's next unit.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the state of one loop")]
    fn next(
        &mut self,
        teams: Teams<R>,
        t: Thread,
        p: &GemvParams,
        unit: &mut u32,
        start: u32,
        piece: u32,
        last: bool,
    ) {
        self.piece = if last { start } else { piece };
        if last {
            *unit += t.cta_count();
            teams.advance(p, &mut self.group, t.cta_count());
        }
    }
    /// The piece of the group's row `r`; of the last row, or the last piece, where that is past it.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load<W: Weights>(&self, r: usize) -> W::Raw {
        let weights = &self.group.weights;
        let row = (self.group.row() + r as u32).min(weights.rows - 1);
        W::load(weights, row, self.piece.min(self.pieces - 1))
    }
}
