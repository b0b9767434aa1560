//! Relaid blocks, unpacked by an emulated kernel, against the codecs.

use std::vec;
use std::vec::Vec;

use cuda_std::emu::Memory;
use cuda_std::{Entry, EntryInfo, GlobalMut, Launch, Params, Thread, params};

use super::*;
use crate::formats::tests::garbage;

params! {
    struct ProbeParams {
        matrix: Matrix,
        tables: Global<u32>,
        q: GlobalMut<u32>,
        scale: GlobalMut<f32>,
        min: GlobalMut<f32>,
    }
}

/// Writes every piece as it is unpacked.
fn probe<F: DeviceFormat>(t: Thread, p: &ProbeParams) {
    let pieces = p.matrix.cols / PIECE_LEN as u32;
    t.wait_for_previous_kernel();
    let i = t.cta_id() * t.count() + t.id();
    if i < p.matrix.rows * pieces {
        let first = p.matrix.first_piece(i / pieces);
        let piece = F::unpack_piece(F::load(&p.matrix, first, i % pieces), p.tables);
        for k in 0..8 {
            p.q.set(8 * i as usize + k, piece.q[k]);
        }
        for k in 0..2 {
            p.scale.set(2 * i as usize + k, piece.scale[k]);
            p.min.set(2 * i as usize + k, piece.min[k]);
        }
    }
}

/// A matrix in emulated memory.
pub(crate) fn upload(
    memory: &mut Memory,
    format: Format,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Matrix {
    let blocks = rows * cols / format.block_len();
    let mut planes: [Vec<u8>; MAX_PLANES] =
        format.plane_bytes().unwrap().map(|bytes| vec![0; blocks * bytes as usize]);
    format.relay(bytes, planes.each_mut().map(|plane| &mut plane[..]));
    let planes = planes.map(|plane| match plane.len() {
        0 => Global::null(),
        _ => memory.upload(&plane).cast(),
    });
    Matrix { planes, rows: rows as u32, cols: cols as u32 }
}

struct Check<'a> {
    format: Format,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
}

impl DeviceVisitor for Check<'_> {
    type Output = ();

    fn visit<F: DeviceFormat>(self) {
        let Check { format, bytes, rows, cols } = self;
        let weights = rows * cols;
        let mut memory = Memory::new();
        let matrix = upload(&mut memory, format, bytes, rows, cols);
        let params = ProbeParams {
            matrix,
            tables: memory.upload(F::table()),
            q: memory.uninit(weights / 4),
            scale: memory.uninit(weights / 16),
            min: memory.uninit(weights / 16),
        };
        let info = EntryInfo {
            name: "probe",
            module: "probe",
            max_threads: 64,
            min_ctas: 1,
            layout: ProbeParams::LAYOUT,
        };
        let ctas = (weights / 32).div_ceil(64) as u32;
        let entry = Entry { info, body: probe::<F> };
        memory.launch(&entry, Launch::linear(ctas, 64), &params).unwrap();
        let q: Vec<u32> = memory.read(params.q);
        let q: &[i8] = bytemuck::cast_slice(&q);
        let (scale, min): (Vec<f32>, Vec<f32>) =
            (memory.read(params.scale), memory.read(params.min));

        let blocks: &[F::Block] = bytemuck::cast_slice(bytes);
        let groups = F::BLOCK_LEN / F::GROUP_LEN;
        for (b, block) in blocks.iter().enumerate() {
            let mut want = (vec![0; F::BLOCK_LEN], vec![0.0; groups], vec![0.0; groups]);
            F::unpack(block, &mut want.0, &mut want.1, &mut want.2);
            assert_eq!(&q[b * F::BLOCK_LEN..][..F::BLOCK_LEN], want.0, "{format:?} block {b}");
            for i in 0..F::BLOCK_LEN / 16 {
                let at = b * F::BLOCK_LEN / 16 + i;
                let same = |got: f32, want: f32| {
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan()
                };
                let g = 16 * i / F::GROUP_LEN;
                assert!(same(scale[at], want.1[g]), "{format:?} block {b} scale {i}");
                assert!(same(min[at], want.2[g]), "{format:?} block {b} minimum {i}");
            }
        }
    }
}

/// Random blocks use every bit of the file; the fills reach the ends of codes and scales.
#[test]
fn relaid_pieces_are_those_of_the_codec() {
    for &format in Format::ALL.iter().filter(|f| f.block_len() > 1) {
        let (rows, cols) = (5, 3 * format.block_len());
        let len = rows * format.row_bytes(cols).unwrap();
        for bytes in
            [garbage(7, len), vec![0; len], vec![0xff; len], vec![0x7f; len], vec![0x80; len]]
        {
            format.with_device_format(Check { format, bytes: &bytes, rows, cols }).unwrap();
        }
    }
}

/// One copy in device memory, of about the bytes of the file.
#[test]
fn planes_are_about_as_large_as_the_file() {
    for &format in Format::ALL.iter().filter(|f| f.block_len() > 1) {
        let planes = format.plane_bytes().unwrap().iter().sum::<u32>() as f32;
        let more = planes / format.block_bytes() as f32;
        let most = if format == Format::TQ1_0 { 1.23 } else { 1.02 };
        assert!(more <= most, "{format:?}: {more}");
    }
}

#[test]
#[should_panic(expected = "a plane of another length than the blocks fill")]
fn a_short_plane_is_refused() {
    Format::Q4_0.relay(&[0; 36], [&mut [0; 16], &mut [0; 4], &mut [], &mut []]);
}
