//! Every format against the published blocks in tests/data/quant, and the table's arithmetic.
//!
//! The blocks were decoded by two other implementations that agree bit for bit (numpy `gguf` 0.19
//! and ggml in C). Kind 0 are random bytes, kind 1 what ggml's quantizers made of the four rows in
//! `src`, kind 2 edge cases.

use std::format;
use std::vec;
use std::vec::Vec;

use serde_json::Value;

use super::*;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/quant/quant_vectors");

/// The tensors of the vector file.
struct Vectors {
    header: Value,
    data: Vec<u8>,
}

impl Vectors {
    fn load() -> Vectors {
        let mut file = std::fs::read(format!("{DATA}.safetensors")).unwrap();
        let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let data = file.split_off(8 + header_len);
        Vectors { header: serde_json::from_slice(&file[8..]).unwrap(), data }
    }
    fn bytes(&self, name: &str) -> &[u8] {
        let offset = |i: usize| self.header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        &self.data[offset(0)..offset(1)]
    }
    fn floats(&self, name: &str) -> Vec<f32> {
        let chunks = self.bytes(name).as_chunks::<4>().0;
        chunks.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }
}

fn types() -> Vec<(Format, Value)> {
    let json: Value =
        serde_json::from_slice(&std::fs::read(format!("{DATA}.json")).unwrap()).unwrap();
    let by_name = |name: &str| *Format::ALL.iter().find(|f| f.name() == name).expect(name);
    let types = json["types"].as_object().unwrap();
    types.iter().map(|(name, facts)| (by_name(name), facts.clone())).collect()
}

#[test]
fn published_blocks_decode_bit_for_bit() {
    let vectors = Vectors::load();
    let types = types();
    assert_eq!(types.len(), 27);
    for (format, facts) in types {
        assert_eq!(facts["type_id"], format.gguf_id(), "{format:?}");
        assert_eq!(facts["block_size"], format.block_len(), "{format:?}");
        assert_eq!(facts["type_size"], format.block_bytes(), "{format:?}");
        let bytes = vectors.bytes(&format!("{}.bytes", format.name()));
        let want = vectors.floats(&format!("{}.f32", format.name()));
        let mut got = vec![0.0; want.len()];
        format.decode(bytes, &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(
                same,
                "{format:?} block {} weight {i}: {got} not {want}",
                i / format.block_len()
            );
        }
    }
}

/// What ggml's quantizers made of the four source rows.
fn published_blocks(vectors: &Vectors, format: Format) -> Vec<u8> {
    let kinds = vectors.bytes(&format!("{}.kind", format.name()));
    let bytes = vectors.bytes(&format!("{}.bytes", format.name()));
    let blocks = kinds.iter().zip(bytes.chunks_exact(format.block_bytes()));
    blocks.filter(|(kind, _)| **kind == 1).flat_map(|(_, block)| block.to_vec()).collect()
}

fn quantized_types() -> Vec<(Format, Value)> {
    types().into_iter().filter(|(_, facts)| facts["quantized_from_src"] == true).collect()
}

fn encode_decode(format: Format, values: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
    format.encode(values, &mut bytes);
    let mut out = vec![0.0; values.len()];
    format.decode(&bytes, &mut out);
    out
}

/// Root of the mean squared error over the standard deviation of the row.
fn relative_error(row: &[f32], decoded: &[f32]) -> f64 {
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
    let variance: f64 = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    let error: f64 = row.iter().zip(decoded).map(|(&x, &y)| f64::from(x - y).powi(2)).sum();
    (error / variance).sqrt()
}

#[test]
fn dot_products_with_a_source_row_are_the_published_ones() {
    let vectors = Vectors::load();
    let source = vectors.floats("src.f32");
    let types = quantized_types();
    assert_eq!(types.len(), 25);
    for (format, facts) in types {
        let mut rows = vec![0.0; 1024];
        format.decode(&published_blocks(&vectors, format), &mut rows);
        for (r, row) in rows.chunks_exact(256).enumerate() {
            let products = row.iter().zip(&source[256..512]);
            let dot: f64 = products.map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            let want = facts["dot_f64_with_src_row1"][r].as_f64().unwrap();
            assert!((dot - want).abs() <= 1e-12 * want.abs().max(1.0), "{format:?} row {r}: {dot}");
        }
    }
}

/// Ours are plain searches; the published figures are what ggml's quantizers reach.
#[test]
fn encoders_come_as_near_as_the_published_ones() {
    let vectors = Vectors::load();
    let source = vectors.floats("src.f32");
    for (format, facts) in quantized_types() {
        let decoded = encode_decode(format, &source);
        for r in 0..4 {
            let row = 256 * r..256 * (r + 1);
            let got = relative_error(&source[row.clone()], &decoded[row]);
            let want = facts["rmse_vs_src_rel"][r].as_f64().unwrap();
            assert!(got <= 1.15 * want, "{format:?} row {r}: {got:.5}, published {want}");
        }
    }
}

/// These formats are encoded without a search, so that there is one right answer.
#[test]
fn simple_formats_encode_to_the_published_bytes() {
    use Format::*;
    let vectors = Vectors::load();
    let source = vectors.floats("src.f32");
    for format in [Q8_0, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0] {
        let mut got = vec![0; format.row_bytes(source.len()).unwrap()];
        format.encode(&source, &mut got);
        assert_eq!(got, published_blocks(&vectors, format), "{format:?}");
    }
}

/// Q8_K has no published blocks: half a step of the largest of 256 is its bound.
#[test]
fn q8_k_is_within_half_a_step_and_sums_its_codes() {
    let source = Vectors::load().floats("src.f32");
    for row in source.chunks_exact(256) {
        let step = row.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
        for (x, y) in row.iter().zip(encode_decode(Format::Q8_K, row)) {
            assert!((x - y).abs() <= 0.5001 * step, "{x} {y}");
        }
        let block = q8_k::Q8K::encode(row);
        for (codes, sum) in block.qs.chunks_exact(16).zip(block.bsums) {
            assert_eq!(codes.iter().map(|&q| i16::from(q)).sum::<i16>(), i16::from_le_bytes(sum));
        }
    }
}

#[test]
fn floats_round_to_nearest_even_and_come_back() {
    let halves = [0x0000, 0x8000, 0x0001, 0x3c00, 0x7bff, 0x7c00, 0xfc00, 0x1234u16];
    for format in [Format::F16, Format::BF16, Format::F32] {
        let bytes: Vec<u8> = match format {
            Format::F32 => {
                halves.iter().flat_map(|&h| (u32::from(h) << 16).to_le_bytes()).collect()
            }
            _ => halves.iter().flat_map(|h| h.to_le_bytes()).collect(),
        };
        let (mut values, mut again) = ([0.0; 8], vec![0; bytes.len()]);
        format.decode(&bytes, &mut values);
        format.encode(&values, &mut again);
        assert_eq!(again, bytes, "{format:?}");
    }
    let tie = |format: Format, values: [f32; 2]| {
        let mut bytes = [0; 4];
        format.encode(&values, &mut bytes);
        [u16::from_le_bytes([bytes[0], bytes[1]]), u16::from_le_bytes([bytes[2], bytes[3]])]
    };
    // Half a step above 1 goes down to the even 1; half a step above the next goes up.
    assert_eq!(tie(Format::F16, [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0]), [0x3c00, 0x3c02]);
    assert_eq!(tie(Format::BF16, [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]), [0x3f80, 0x3f82]);
}

/// Decodes a block of `head` followed by `fill` and expects the same value in every weight.
fn assert_all(format: Format, head: &[u8], fill: u8, want: f32) {
    let mut bytes = vec![fill; format.block_bytes()];
    bytes[..head.len()].copy_from_slice(head);
    let mut out = vec![f32::NAN; format.block_len()];
    format.decode(&bytes, &mut out);
    assert!(out.iter().all(|&w| w == want), "{format:?} code {fill:#x}: {out:?}, not {want}");
}

#[test]
fn every_code_of_the_small_types_has_its_value() {
    use Format::*;
    const HALF: [u8; 2] = [0x00, 0x38]; // 0.5
    const THREE: [u8; 2] = [0x00, 0x42];
    for code in 0..16u8 {
        let (fill, q) = (code * 0x11, f32::from(code));
        assert_all(Q4_0, &HALF, fill, (q - 8.0) / 2.0);
        assert_all(Q4_1, &[HALF, THREE].concat(), fill, q / 2.0 + 3.0);
        for (high, bits) in [(0.0, 0), (16.0, 255)] {
            assert_all(Q5_0, &[&HALF[..], &[bits; 4]].concat(), fill, (q + high - 16.0) / 2.0);
            let head = [&HALF[..], &THREE, &[bits; 4]].concat();
            assert_all(Q5_1, &head, fill, (q + high) / 2.0 + 3.0);
        }
        let level = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
        assert_all(IQ4_NL, &HALF, fill, level[usize::from(code)] as f32 / 2.0);
        // E2M1: a sign, two bits of exponent with bias 1, one of mantissa.
        let (exponent, mantissa) = (i32::from(code >> 1 & 3), f32::from(code & 1));
        let magnitude = match exponent {
            0 => mantissa / 2.0,
            e => (1.0 + mantissa / 2.0) * 2f32.powi(e - 1),
        };
        let fp4 = if code < 8 { magnitude } else { -magnitude };
        assert_all(MXFP4, &[128], fill, 2.0 * fp4);
        assert_all(NVFP4, &[0x30; 4], fill, fp4 / 2.0);
    }
    for code in 0..=255u8 {
        assert_all(Q8_0, &HALF, code, f32::from(code as i8) / 2.0);
    }
    for (code, fill) in [0x00, 0x55, 0xaa, 0xff].into_iter().enumerate() {
        assert_all(Q2_0, &HALF, fill, (code as f32 - 1.0) / 2.0);
        let mut tq2_0 = [fill; 66];
        tq2_0[64..].copy_from_slice(&HALF);
        assert_all(TQ2_0, &tq2_0, fill, (code as f32 - 1.0) / 2.0);
    }
    assert_all(Q1_0, &HALF, 0x00, -0.5);
    assert_all(Q1_0, &HALF, 0xff, 0.5);
}

/// One large weight among zeros comes back where it was put, in every position.
#[test]
fn weights_keep_their_order() {
    for &format in Format::ALL {
        let len = format.block_len();
        // The searching encoders are slow, and eights are alike: a stride that meets each residue.
        let stride = if format.name().starts_with("IQ") && len == 256 { 13 } else { 1 };
        for i in (0..len).step_by(stride) {
            let mut values = vec![0.0; len];
            values[i] = 2.0;
            let decoded = encode_decode(format, &values);
            let largest = (0..len).max_by(|&a, &b| decoded[a].total_cmp(&decoded[b])).unwrap();
            // Q1_0 knows no zero: all of its weights come back equal here.
            let found = if format == Format::Q1_0 { i } else { largest };
            assert_eq!(found, i, "{format:?}: {decoded:?}");
        }
    }
    let mut signs = [-1.0; 128];
    for i in 0..128 {
        signs[i] = 1.0;
        assert_eq!(encode_decode(Format::Q1_0, &signs), signs);
        signs[i] = -1.0;
    }
}

#[test]
fn zeros_encode_as_zeros() {
    for &format in Format::ALL {
        let decoded = encode_decode(format, &vec![0.0; format.block_len()]);
        assert!(decoded.iter().all(|&w| w == 0.0), "{format:?}: {decoded:?}");
    }
}

/// The ends of F32 need no good encoding, but a defined one.
#[test]
fn extreme_values_encode_without_panic() {
    let ends = [0.0, -0.0, 1e-45, -1e-45, f32::MIN_POSITIVE, 1e-20, 65504.0, 1e20, f32::MAX];
    for &format in Format::ALL {
        for (i, &big) in ends.iter().enumerate() {
            let mut values = vec![big; format.block_len()];
            for (j, value) in values.iter_mut().enumerate() {
                *value = if j % 3 == 0 { -big } else { ends[(i + j) % (i + 1)] };
            }
            encode_decode(format, &values);
        }
    }
}

/// A fixed linear congruential sequence of bytes. Source: Knuth, MMIX.
pub(crate) fn garbage(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Unpacks garbage and holds the codec to what its constants promise.
struct KeepsItsPromises;

impl CodecVisitor for KeepsItsPromises {
    type Output = ();

    fn visit<C: Codec>(self) {
        assert!([16, 32].contains(&C::GROUP_LEN));
        assert!([32, 64, 128, 256].contains(&C::BLOCK_LEN));
        let mut least_and_greatest = (i8::MAX, i8::MIN);
        for seed in 0..300 {
            let bytes = garbage(seed, size_of::<C::Block>());
            let groups = C::BLOCK_LEN / C::GROUP_LEN;
            let mut q = vec![99; C::BLOCK_LEN];
            let (mut scale, mut min) = (vec![9.9; groups], vec![9.9; groups]);
            C::unpack(bytemuck::from_bytes(&bytes), &mut q, &mut scale, &mut min);
            for q in q {
                least_and_greatest.0 = q.min(least_and_greatest.0);
                least_and_greatest.1 = q.max(least_and_greatest.1);
            }
            assert!(C::HAS_MIN || min.iter().all(|m| m.to_bits() == 0));
        }
        assert_eq!(least_and_greatest, (C::Q_MIN, C::Q_MAX));
    }
}

#[test]
fn garbage_decodes_to_something_and_codes_keep_to_their_range() {
    for &format in Format::ALL {
        let blocks = 8;
        let mut out = vec![0.0; blocks * format.block_len()];
        for seed in 0..100 {
            format.decode(&garbage(seed, blocks * format.block_bytes()), &mut out);
        }
        for fill in [0x00, 0xff, 0x7f, 0x80] {
            format.decode(&vec![fill; blocks * format.block_bytes()], &mut out);
        }
        let is_float = format.block_len() == 1;
        assert_eq!(format.with_codec(KeepsItsPromises).is_none(), is_float, "{format:?}");
    }
}

#[test]
fn blocks_decode_at_any_address() {
    for &format in Format::ALL {
        let bytes = garbage(1, 2 * format.block_bytes() + 1);
        let (mut odd, mut even) = (vec![0.0; 2 * format.block_len()], vec![]);
        even.resize(odd.len(), 0.0);
        format.decode(&bytes[1..], &mut odd);
        let moved = bytes[1..].to_vec();
        format.decode(&moved, &mut even);
        let bits = |v: &[f32]| v.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&odd), bits(&even), "{format:?}");
    }
}

#[test]
fn the_table_is_consistent() {
    assert_eq!(Format::ALL.len(), 29);
    assert!(Format::ALL.windows(2).all(|w| w[0].gguf_id() < w[1].gguf_id()));
    for &format in Format::ALL {
        assert_eq!(Format::from_gguf_id(format.gguf_id()), Some(format));
        assert_eq!(format.name(), format!("{format:?}"));
    }
    let sizes = |f: Format| (f.gguf_id(), f.block_len(), f.block_bytes());
    assert_eq!(sizes(Format::F32), (0, 1, 4));
    assert_eq!(sizes(Format::Q8_K), (15, 256, 292)); // the two without published blocks
    for unknown in [4, 5, 9, 24, 36, 43, 1000, u32::MAX] {
        assert_eq!(Format::from_gguf_id(unknown), None);
    }
}

#[test]
fn row_bytes_refuses_part_blocks_and_overflow() {
    for &format in Format::ALL {
        let (len, bytes) = (format.block_len(), format.block_bytes());
        assert_eq!(format.row_bytes(0), Some(0));
        assert_eq!(format.row_bytes(len), Some(bytes));
        assert_eq!(format.row_bytes(33 * len), Some(33 * bytes));
        if len > 1 {
            for part in [1, len - 1, len + 1, 31, 33] {
                assert_eq!(format.row_bytes(part), None, "{format:?} {part}");
            }
        }
    }
    assert_eq!(Format::F32.row_bytes(usize::MAX / 4), Some(usize::MAX / 4 * 4));
    assert_eq!(Format::F32.row_bytes(usize::MAX / 4 + 1), None);
    assert_eq!(Format::Q8_0.row_bytes(usize::MAX / 32 * 32), None);
    assert_eq!(Format::Q8_K.row_bytes(usize::MAX / 256 * 256), None);
}

#[test]
#[should_panic(expected = "64 Q4_0 weights need Some(36) bytes: 35")]
fn truncated_input_is_refused() {
    Format::Q4_0.decode(&[0; 35], &mut [0.0; 64]);
}

#[test]
#[should_panic(expected = "64 Q4_K weights need None bytes: 36")]
fn part_of_a_block_is_refused() {
    Format::Q4_K.encode(&[0.0; 64], &mut [0; 36]);
}

#[test]
#[should_panic(expected = "unpacking a block fills a slice of 32, not of 31")]
fn unpacking_into_a_short_slice_is_refused() {
    q4_0::Q4_0::unpack(&bytemuck::Zeroable::zeroed(), &mut [0; 31], &mut [0.0], &mut [0.0]);
}
