//! How large the weights of a matrix get, and what they are multiplied by before they become halves.

use gpu_kernels::formats::{Codec, CodecVisitor, Format};
use gpu_kernels::kernels::gemm::WEIGHT_SCALE;

/// What a weight times its scale may be: the largest half, 65504, less the 2⁻¹¹ of it that rounding
/// a block's scale to a half may add.
const MOST: f32 = 65_472.0;

/// What no finite weight of whole blocks exceeds, or 0 for formats that no scale is chosen for.
/// Quantized weights are not decoded: their largest code is taken to stand beside each scale.
pub fn bound(format: Format, bytes: &[u8]) -> f32 {
    match format {
        Format::F32 | Format::F16 => 0.0,
        Format::BF16 => largest_bf16(bytes),
        _ => format.with_codec(LargestOfBlocks(bytes)).expect("the others are quantized"),
    }
}

/// Least scale. With it, ordinary weights down to 0.001 are still normal halves; a matrix with weights
/// above a million is broken, and says so by infinite sums, instead of taking all its others down to
/// zero.
const LEAST: f32 = 1.0 / 16.0;

/// The power of two that weights up to `bound` are multiplied by: as large as halves allow, no larger
/// than what keeps small weights exact, and at least [`LEAST`].
pub fn weight_scale(format: Format, bound: f32) -> f32 {
    if format == Format::F16 {
        return 1.0; // they are halves already
    }
    let mut scale = WEIGHT_SCALE;
    while bound * scale > MOST && scale > LEAST {
        scale *= 0.5;
    }
    scale
}

/// Magnitudes order as their bits do, up to infinity; as signed words, whose maximum is one
/// instruction on every CPU.
fn largest_bf16(bytes: &[u8]) -> f32 {
    const INFINITY: i16 = 0x7f80;
    let values: &[[u8; 2]] = bytemuck::cast_slice(bytes);
    let largest = values.iter().fold(0i16, |largest, value| {
        let magnitude = i16::from_le_bytes(*value) & 0x7fff;
        largest.max(if magnitude < INFINITY { magnitude } else { 0 })
    });
    f32::from_bits(u32::from(largest.unsigned_abs()) << 16)
}

struct LargestOfBlocks<'a>(&'a [u8]);

impl CodecVisitor for LargestOfBlocks<'_> {
    type Output = f32;
    fn visit<C: Codec>(self) -> f32 {
        let code = f32::from(C::Q_MIN.unsigned_abs().max(C::Q_MAX.unsigned_abs()));
        let groups = C::BLOCK_LEN / C::GROUP_LEN;
        // The codes are not looked at, and mostly not computed.
        let (q, scale, min) = (&mut [0; 256][..C::BLOCK_LEN], &mut [0.0; 16], &mut [0.0; 16]);
        let (scale, min) = (&mut scale[..groups], &mut min[..groups]);
        let blocks: &[C::Block] = bytemuck::cast_slice(self.0);
        let mut largest = 0.0f32;
        for block in blocks {
            C::unpack(block, q, scale, min);
            for (scale, min) in scale.iter().zip(&*min) {
                let bound = scale.abs() * code + min.abs();
                largest = largest.max(if bound < f32::INFINITY { bound } else { 0.0 });
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a format stores of `values`, and what that stands for.
    fn encoded(format: Format, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
        format.encode(values, &mut bytes);
        let mut decoded = vec![0.0; values.len()];
        format.decode(&bytes, &mut decoded);
        (bytes, decoded)
    }

    /// Small weights, and one far out.
    fn weights(outlier: f32) -> Vec<f32> {
        let mut values: Vec<f32> = (0..512).map(|i| (i * 37 % 101) as f32 * 1e-3 - 0.05).collect();
        values[300] = outlier;
        values
    }

    #[test]
    fn scaled_weights_are_finite_halves() {
        for &format in Format::ALL {
            for outlier in [0.05, -1.0, 255.0, -256.0, 1000.0, -40_000.0] {
                let (bytes, decoded) = encoded(format, &weights(outlier));
                let bound = bound(format, &bytes);
                let scale = weight_scale(format, bound);
                let largest = decoded.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                let name = format!("{format:?} {outlier}: bound {bound}, largest {largest}");
                if matches!(format, Format::F32 | Format::F16) {
                    assert_eq!(bound, 0.0);
                    continue;
                }
                assert!(largest.is_finite() && largest <= bound, "{name}");
                assert!(scale == WEIGHT_SCALE || outlier.abs() > 100.0, "{name}");
                let halves = decoded.iter().map(|&w| half::f16::from_f32(w * scale));
                assert!({ halves }.all(half::f16::is_finite), "{name}");
            }
        }
    }

    #[test]
    fn scales_are_as_large_as_they_may_be() {
        let scale = |outlier| {
            let (bytes, _) = encoded(Format::BF16, &weights(outlier));
            weight_scale(Format::BF16, bound(Format::BF16, &bytes))
        };
        let cases = [(0.5, 256.0), (255.0, 256.0), (256.0, 128.0), (1000.0, 64.0), (-1000.0, 64.0)];
        for (outlier, expected) in cases {
            assert_eq!(scale(outlier), expected, "{outlier}");
        }
        assert_eq!(scale(f32::MAX / 2.0), LEAST);
        assert_eq!(weight_scale(Format::F16, 1000.0), 1.0);
        // What is infinite stays so with any scale.
        assert_eq!(scale(f32::INFINITY), 256.0);
        assert_eq!(scale(f32::NAN), 256.0);
    }
}
