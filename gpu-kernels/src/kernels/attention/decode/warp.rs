//! What a warp does with a page of keys and values.
//!
//! Lane `4g + q` holds of the products' tiles, for head `g`:
//!
//! - queries and keys: elements `32b + 8q` to `32b + 8q + 7` of each block `b` of 32, of the queries
//!   both halves, of the keys those of slots `g` and `8 + g`. The order in which a product sums is
//!   free, so these 16 bytes serve two steps of it as they come from memory.
//! - scores and weights: keys `2q`, `2q + 1`, `2q + 8` and `2q + 9` of the page, which is how the second
//!   product wants its weights.
//! - values: of those four keys elements `64h + 8g` to `64h + 8g + 7`; tile `j` of each 64 takes
//!   element `8g + j`.
//! - sums: elements `64h + 16q` to `64h + 16q + 15`.

use cuda_std::{Global, Shared, Thread, math, mma};

use super::super::{AttendParams, LOG2_E, LOWEST, PAGE_SIZE, Row, SoftCap, page_start};
use super::{CELL_HEADS, Cell, PIECE};

/// Exponents of a query's scale: the greatest element comes to lie in [2¹⁴, 2¹⁵), so that a half's
/// least step, 2⁻²⁴, is 2⁻³⁸ of it.
const TOP_EXPONENT: u32 = 14;
/// Smaller queries are scaled no further: the scale would overflow.
const LEAST_EXPONENT: u32 = 40;
/// Greatest weight: far from the least half, so that small weights keep their digits.
const UNIT: f32 = 32768.0;

/// A chunk of keys: of two slots, of each 64 elements, of each 32 of those.
pub type KeyWords<const HALVES: usize> = [[[[u32; 4]; 2]; HALVES]; 2];
/// A chunk of values: of four slots, of each 64 elements.
pub type ValueWords<const HALVES: usize> = [[[u32; 4]; HALVES]; 4];
/// Scores before they are put together: of each eight keys, two independent sums, so that the
/// products need not wait for each other.
pub type Sums = [[[f32; 4]; 2]; 2];

/// Keys and values of a row: where they are.
#[derive(Clone, Copy)]
pub struct Keys {
    /// Of the key head: slot 0 of page 0.
    k: Global<[u32; 4]>,
    v: Global<[u32; 4]>,
    /// The sequence's.
    pub pages: Global<u32>,
    /// Pieces of a page with all heads, and of a slot.
    page_len: u32,
    pieces: u32,
    /// Keys that the row sees.
    first: u32,
    end: u32,
    lane: u32,
}

impl Keys {
    #[inline(always)]
    pub fn new(t: Thread, p: &AttendParams, cell: &Cell, row: &Row) -> Self {
        let pieces = p.kv.head_dim / PIECE;
        let at = page_start(&p.kv, 0, cell.kv_head) / PIECE as usize;
        Self {
            k: p.kv.k.read().cast::<[u32; 4]>().at(at),
            v: p.kv.v.read().cast::<[u32; 4]>().at(at),
            pages: p.step.pages.at(row.pages as usize),
            page_len: p.kv.kv_heads * PAGE_SIZE * pieces,
            pieces,
            first: row.first,
            end: row.end,
            lane: t.lane(),
        }
    }

    /// Where the lane's keys and values of a page are. Keys that the row does not see may be
    /// anything, so the nearest that it sees stands in.
    #[inline(always)]
    pub fn slots(&self, page: u32, step: u32) -> Slots {
        let slot = |slot: u32| {
            let key = step * PAGE_SIZE + slot;
            let key = if key < self.first { self.first } else { key };
            let key = if key < self.end { key } else { self.end - 1 };
            // 2³² pieces are 64 GiB of keys in a layer.
            page * self.page_len + key % PAGE_SIZE * self.pieces
        };
        let (g, q) = (self.lane / 4, self.lane % 4);
        Slots {
            keys: [0, 8].map(|more| slot(g + more)),
            values: [0, 1, 8, 9].map(|more| slot(2 * q + more)),
        }
    }

    /// A piece of the head; its last stands in for those beyond, where queries are zeros and sums
    /// are not wanted.
    #[inline(always)]
    fn piece(&self, piece: u32) -> u32 {
        if piece < self.pieces { piece } else { self.pieces - 1 }
    }

    /// A chunk of the lane's keys.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn keys<const HALVES: usize>(&self, chunk: u32, slots: &Slots) -> KeyWords<HALVES> {
        let mut words = [[[[0; 4]; 2]; HALVES]; 2];
        unroll!(n < 2, 2, {
            unroll!(h < HALVES, 2, {
                unroll!(b < 2, 2, {
                    let piece = 8 * (chunk * HALVES as u32 + h as u32) + 4 * b as u32;
                    let at = slots.keys[n] + self.piece(piece + self.lane % 4);
                    words[n][h][b] = self.k.get(at as usize);
                });
            });
        });
        words
    }

    /// A chunk of the lane's values.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn values<const HALVES: usize>(&self, chunk: u32, slots: &Slots) -> ValueWords<HALVES> {
        let mut words = [[[0; 4]; HALVES]; 4];
        unroll!(i < 4, 4, {
            unroll!(h < HALVES, 2, {
                let piece = 8 * (chunk * HALVES as u32 + h as u32);
                let at = slots.values[i] + self.piece(piece + self.lane / 4);
                words[i][h] = self.v.get(at as usize);
            });
        });
        words
    }
}

/// First pieces of a lane's slots of a page.
#[derive(Clone, Copy)]
pub struct Slots {
    keys: [u32; 2],
    values: [u32; 4],
}

/// The queries of a cell in halves.
pub struct Queries<const HALVES: usize, const CHUNKS: usize> {
    /// Where they are, for each step of a product a word of each lane.
    shared: Shared<[u32; 4]>,
    /// Of one chunk; with more, registers have no room.
    words: [[[u32; 4]; 4]; HALVES],
    /// What a score of the lane's head is multiplied with.
    pub inverse: f32,
}

impl<const HALVES: usize, const CHUNKS: usize> Queries<HALVES, CHUNKS> {
    /// Words of the parts of `a` of 64 elements, in [u32; 4].
    const HALF_LEN: u32 = 4 * 32;

    /// Where the lane's eight elements of the warp's head are, in fours; `u32::MAX` for nowhere.
    #[inline(always)]
    pub fn place(t: Thread, p: &AttendParams, cell: &Cell) -> u32 {
        let (head, piece) = (t.warp(), t.lane());
        let live = head < cell.heads && piece < p.kv.head_dim / PIECE;
        let row = cell.row * p.heads + cell.head + head;
        if live { row * (p.kv.head_dim / 4) + 2 * piece } else { u32::MAX }
    }

    /// The lane's eight elements.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn load(p: &AttendParams, place: u32) -> [[f32; 4]; 2] {
        if place == u32::MAX {
            return [[0.0; 4]; 2];
        }
        let from = p.q.cast::<[f32; 4]>().at(place as usize);
        [from.get(0), from.get(1)]
    }

    /// Splits what the warps loaded into halves, for all of them. Weights are powers of two.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn share(
        t: Thread,
        p: &AttendParams,
        query: [[f32; 4]; 2],
        shared: Shared<[u32; 4]>,
    ) -> Self {
        let scale = if p.softcap == 0.0 { p.scale * LOG2_E } else { p.scale };
        let [a, b] = query.map(|four| four.map(|x| x * scale));
        let query = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]];
        let inverses = t.static_shared::<f32, { 4 * CELL_HEADS }>();
        let mut greatest = 0.0;
        unroll!(i < 8, 8, {
            greatest = math::max(greatest, math::abs(query[i]));
        });
        let exponent = t.warp_max(greatest).to_bits() >> 23;
        let exponent = if exponent < LEAST_EXPONENT { LEAST_EXPONENT } else { exponent };
        let exponent = if exponent < 254 { exponent } else { 254 };
        let scale = f32::from_bits((254 + TOP_EXPONENT - exponent) << 23);
        let (head, piece) = (t.warp(), t.lane());
        if t.lane() == 0 {
            inverses.set(head, f32::from_bits((exponent - TOP_EXPONENT) << 23));
        }
        if piece < 8 * (HALVES * CHUNKS) as u32 {
            let (mut high, mut low) = ([0; 4], [0; 4]);
            unroll!(i < 4, 4, {
                (high[i], low[i]) = split(query[2 * i] * scale, query[2 * i + 1] * scale);
            });
            let to = shared.at(piece / 4 * 64 + 4 * head + piece % 4);
            to.set(0, [high[0], low[0], high[1], low[1]]);
            to.set(32, [high[2], low[2], high[3], low[3]]);
        }
        t.sync();
        let mut words = [[[0; 4]; 4]; HALVES];
        if CHUNKS == 1 {
            unroll!(h < HALVES, 2, {
                unroll!(s < 4, 4, {
                    let at = h as u32 * Self::HALF_LEN + 32 * s as u32 + t.lane();
                    words[h][s] = shared.get(at);
                });
            });
        }
        Self { shared: shared.at(t.lane()), words, inverse: inverses.get(t.lane() / 4) }
    }

    /// Multiplies with a chunk of keys.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn multiply(&self, t: Thread, chunk: usize, k: &KeyWords<HALVES>, sums: &mut Sums) {
        // Loads that could leave the loop would, and take too many registers.
        let shared = self.shared.at(t.opaque((chunk * HALVES) as u32 * Self::HALF_LEN));
        unroll!(h < HALVES, 2, {
            unroll!(s < 4, 4, {
                let a = match CHUNKS {
                    1 => self.words[h][s],
                    _ => shared.get(h as u32 * Self::HALF_LEN + 32 * s as u32),
                };
                unroll!(n < 2, 2, {
                    let k = k[n][h][s / 2];
                    mma::f16(t, &mut sums[n][s % 2], a, [k[2 * (s % 2)], k[2 * (s % 2) + 1]]);
                });
            });
        });
    }
}

/// Two numbers as pairs of halves: what is nearest, and what is left.
#[inline(always)]
fn split(a: f32, b: f32) -> (u32, u32) {
    let high = math::pack_f16(a, b);
    let [near_a, near_b] = math::unpack_f16(high);
    (high, math::pack_f16(a - near_a, b - near_b))
}

/// A warp's running softmax.
pub struct Softmax<const HALVES: usize, const CHUNKS: usize> {
    /// Of the greater halves of the weights, two elements, then of the lesser.
    pub acc: [[[[f32; 4]; 8]; HALVES]; CHUNKS],
    /// Greatest score of the lane's head.
    pub greatest: f32,
    /// The lane's part of the total weight.
    pub total: f32,
}

impl<const HALVES: usize, const CHUNKS: usize> Softmax<HALVES, CHUNKS> {
    #[inline(always)]
    pub fn new() -> Self {
        Self { acc: [[[[0.0; 4]; 8]; HALVES]; CHUNKS], greatest: LOWEST, total: 0.0 }
    }

    /// Turns the scores of a page into weights relative to the greatest score up to now.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn weigh(
        &mut self,
        t: Thread,
        p: &AttendParams,
        row: &Row,
        step: u32,
        inverse: f32,
        sums: &Sums,
    ) -> [u32; 4] {
        let key = step * PAGE_SIZE + 2 * (t.lane() % 4);
        let mut scores = [[0.0f32; 2]; 2];
        let mut greatest = self.greatest;
        unroll!(n < 2, 2, {
            unroll!(e < 2, 2, {
                let [a, b] = sums[n];
                let mut score = ((a[e] + b[e]) + (a[2 + e] + b[2 + e])) * inverse;
                if p.softcap != 0.0 {
                    score = SoftCap::new(p.softcap).of(score);
                }
                let key = key + (8 * n + e) as u32;
                let seen = key >= row.first && key < row.end;
                scores[n][e] = if seen { score } else { f32::NEG_INFINITY };
                greatest = math::max(greatest, scores[n][e]);
            });
        });
        greatest = math::max(greatest, t.shuffle_xor(greatest, 1));
        greatest = math::max(greatest, t.shuffle_xor(greatest, 2));
        // After the first pages the greatest score rarely changes.
        if t.ballot(greatest > self.greatest) != 0 {
            let shrink = math::exp2(self.greatest - greatest);
            self.greatest = greatest;
            self.total *= shrink;
            unroll!(c < CHUNKS, 2, {
                unroll!(h < HALVES, 2, {
                    unroll!(j < 8, 8, {
                        self.acc[c][h][j] = self.acc[c][h][j].map(|x| x * shrink);
                    });
                });
            });
        }
        let mut weights = [0; 4];
        unroll!(n < 2, 2, {
            let [a, b] = scores[n].map(|score| math::exp2(score - greatest) * UNIT);
            self.total += a + b;
            (weights[2 * n], weights[2 * n + 1]) = split(a, b);
        });
        weights
    }

    /// Adds weights times a chunk of values.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    pub fn add(&mut self, t: Thread, chunk: usize, weights: &[u32; 4], v: &ValueWords<HALVES>) {
        unroll!(h < HALVES, 2, {
            unroll!(j < 8, 8, {
                let selector = [0x5410, 0x7632][j % 2];
                let pair =
                    |i: usize| math::permute_bytes(v[i][h][j / 2], v[i + 1][h][j / 2], selector);
                mma::f16(t, &mut self.acc[chunk][h][j], *weights, [pair(0), pair(2)]);
            });
        });
    }
}
