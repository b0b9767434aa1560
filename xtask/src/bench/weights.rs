//! Random weight matrices as they lie on a device.

use std::collections::HashMap;

use cuda_std::Global;
use gpu_kernels::formats::Format;
use gpu_kernels::kernels::gemm;
use gpu_kernels::kernels::gemv::float::FloatLayout;
use gpu_kernels::kernels::matrix::{MAX_PLANES, Matrix};
use host::cuda::CudaError;

use super::bed::{Bed, BedError, Gpu};
use super::random::Random;

/// Bytes to which planes are aligned.
const ALIGN: usize = 256;

/// A matrix, as the device has it and as it is.
pub struct Weights {
    /// On the device.
    pub matrix: Matrix,
    /// [rows, cols], as the blocks decode.
    pub values: Vec<f32>,
}

/// Whether weights of the format lie in planes of blocks.
pub fn is_quantized(format: Format) -> bool {
    format.block_len() > 1
}

/// A few encoded blocks of each format, since codebook formats take long to encode.
#[derive(Default)]
pub struct Pools(HashMap<Format, Vec<u8>>);

impl Pools {
    /// Blocks of ordinary weights, each of another size, in which any bit may be set.
    fn of(&mut self, random: &mut Random, format: Format) -> &[u8] {
        const DISTINCT: usize = 32;
        self.0.entry(format).or_insert_with(|| {
            let mut encoded = vec![0; DISTINCT * format.block_bytes()];
            for block in encoded.chunks_mut(format.block_bytes()) {
                let scale = 2f32.powf(2.0 * random.number());
                format.encode(&random.numbers(format.block_len(), scale), block);
            }
            encoded
        })
    }

    /// `count` blocks, chosen at random.
    fn blocks(&mut self, random: &mut Random, format: Format, count: usize) -> Vec<u8> {
        let bytes = format.block_bytes();
        if !is_quantized(format) {
            let mut encoded = vec![0; count * bytes];
            format.encode(&random.numbers(count, 1.0), &mut encoded);
            return encoded;
        }
        let pool = self.of(random, format);
        let mut blocks = Vec::with_capacity(count * bytes);
        for _ in 0..count {
            let at = random.below(pool.len() / bytes) * bytes;
            blocks.extend_from_slice(&pool[at..at + bytes]);
        }
        blocks
    }
}

/// Bytes of a row in each plane.
fn plane_row_bytes(format: Format, cols: usize) -> [usize; MAX_PLANES] {
    match format.plane_bytes() {
        Some(planes) => planes.map(|bytes| bytes as usize * cols / format.block_len()),
        None => [FloatLayout::new(format, cols).map_or(0, |rows| rows.row_bytes), 0, 0, 0],
    }
}

/// The planes of rows as they lie in a file.
fn planes(format: Format, bytes: &[u8], rows: usize, cols: usize) -> [Vec<u8>; MAX_PLANES] {
    let mut planes = plane_row_bytes(format, cols).map(|row| vec![0u8; row * rows]);
    match FloatLayout::new(format, cols) {
        Some(floats) => floats.relay(bytes, &mut planes[0]),
        None => {
            let [a, b, c, d] = &mut planes;
            format.relay(bytes, [a, b, c, d]);
        }
    }
    planes
}

impl Weights {
    /// Random ones.
    ///
    /// # Panics
    /// When `cols` is not a whole number of blocks.
    pub fn random(
        bed: &Bed,
        (pools, random): (&mut Pools, &mut Random),
        format: Format,
        rows: usize,
        cols: usize,
    ) -> Result<Self, BedError> {
        assert!(cols.is_multiple_of(format.block_len()));
        let bytes = pools.blocks(random, format, rows * cols / format.block_len());
        let mut values = vec![0.0; rows * cols];
        format.decode(&bytes, &mut values);
        let mut on_device = [Global::null(); MAX_PLANES];
        for (view, plane) in on_device.iter_mut().zip(planes(format, &bytes, rows, cols)) {
            if !plane.is_empty() {
                *view = bed.upload(&plane)?.cast();
            }
        }
        let matrix = Matrix { planes: on_device, rows: rows as u32, cols: cols as u32 };
        Ok(Self { matrix, values })
    }
}

/// `count` matrices that do not share memory, made of the same few weights.
pub fn copies(
    gpu: &Gpu,
    (pools, random): (&mut Pools, &mut Random),
    format: Format,
    rows: usize,
    cols: usize,
    count: usize,
) -> Result<Vec<Matrix>, CudaError> {
    // Rows enough that caches of neither device nor instructions see a pattern.
    let pool_rows = (1usize << 20).div_ceil(cols).min(rows);
    let pool = pools.blocks(random, format, pool_rows * cols / format.block_len());
    let pool = planes(format, &pool, pool_rows, cols);
    let mut starts = [0u64; MAX_PLANES];
    let row_bytes = plane_row_bytes(format, cols);
    for ((start, pool), row_bytes) in starts.iter_mut().zip(&pool).zip(row_bytes) {
        if row_bytes > 0 {
            let bytes = (row_bytes * rows).next_multiple_of(ALIGN) * count;
            *start = gpu.repeated::<u8>(pool, bytes)?.address();
        }
    }
    let matrix = |i: usize| Matrix {
        planes: std::array::from_fn(|plane| {
            let offset = (row_bytes[plane] * rows).next_multiple_of(ALIGN) * i;
            match starts[plane] {
                0 => Global::null(),
                start => Global::from_address(start + offset as u64),
            }
        }),
        rows: rows as u32,
        cols: cols as u32,
    };
    Ok((0..count).map(matrix).collect())
}

/// What a product with many rows multiplies weights by.
pub fn weight_scale(format: Format) -> f32 {
    if format == Format::F16 { 1.0 } else { gemm::WEIGHT_SCALE }
}

/// The device, as the choice of tiles sees it.
pub fn gemm_device(bed: &Bed) -> gemm::Device {
    let (arch, shared_bytes) = bed.gpu().map_or(("sm_120f", 99 << 10), |gpu| {
        (gpu.context.arch(), gpu.context.device().shared_bytes_per_cta)
    });
    gemm::Device::new(arch, bed.multiprocessors(), shared_bytes)
}

/// The codebook of a format, for the kernels that ask for it.
pub fn tables(bed: &Bed, format: Format) -> Result<Global<u32>, BedError> {
    match format.table() {
        [] => Ok(Global::null()),
        table => bed.upload(table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_as_many_bytes_as_blocks_or_little_more() {
        for format in Format::ALL.iter().copied().filter(|f| is_quantized(*f)) {
            let blocks = 1024 * format.block_bytes() / format.block_len();
            let planes: usize = plane_row_bytes(format, 1024).iter().sum();
            // Q8_K's sums are left out, and some codes get room of their own.
            let range = blocks - blocks / 8..=blocks + blocks / 4;
            assert!(range.contains(&planes), "{format:?}: {planes}, {blocks}");
        }
    }
    #[test]
    fn rows_of_floats_are_filled_up() {
        assert_eq!(plane_row_bytes(Format::F16, 9), [32, 0, 0, 0]);
        let bytes: Vec<u8> = (1..=12).collect();
        let [plane, ..] = planes(Format::F16, &bytes, 2, 3);
        assert_eq!(plane[..7], [1, 2, 3, 4, 5, 6, 0]);
        assert_eq!(plane[16..23], [7, 8, 9, 10, 11, 12, 0]);
    }
    #[test]
    fn random_blocks_decode_to_numbers() {
        for format in Format::ALL.iter().copied() {
            let count = 512 / format.block_len();
            let bytes = Pools::default().blocks(&mut Random(3), format, count);
            let mut values = vec![0.0; 512];
            format.decode(&bytes, &mut values);
            assert!(values.iter().all(|x| x.is_finite() && x.abs() < 64.0), "{format:?}");
            assert!(values.iter().any(|x| *x != 0.0), "{format:?}");
        }
    }
}
