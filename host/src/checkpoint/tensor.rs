//! What is known of a tensor before its bytes are touched.

use std::ops::Range;

use gpu_kernels::formats::Format;

/// Name, shape, format and place of one tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// How its weights are stored.
    pub format: Format,
    /// Dimensions, outermost first: a matrix is [rows, cols], cols contiguous.
    pub shape: Vec<usize>,
    /// Bytes it occupies.
    pub bytes: usize,
    /// Index of the file (split checkpoints have several).
    pub(crate) file: usize,
    /// First byte in that file.
    pub(crate) offset: usize,
}

/// A tensor whose type is not a weight format.
#[derive(Clone, Debug)]
pub struct OtherTensor {
    /// Name in the file.
    pub name: String,
    /// Its type as the container names it: `I32`, `F8_E4M3`.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Bytes it occupies.
    pub bytes: usize,
    /// Index of the file.
    pub(super) file: usize,
}

/// A tensor as the readers find it; its range lies within its file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) storage: Storage,
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
}

/// How the elements of a tensor are stored.
#[derive(Debug)]
pub(super) enum Storage {
    /// In a format that weights can have.
    Weights(Format),
    /// As something else, of a known size.
    Other {
        /// The container's name for it.
        name: String,
        /// Bits of an element.
        bits: usize,
    },
}

impl Storage {
    /// Bytes that a tensor of this shape takes, or what is wrong with the shape.
    pub(super) fn bytes(&self, shape: &[usize]) -> Result<usize, String> {
        if shape.contains(&0) {
            return Ok(0);
        }
        let too_large = || format!("has shape {shape:?}, whose size overflows");
        let product = |dims: &[usize]| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        match self {
            Self::Weights(format) => {
                let (&cols, rows) = shape.split_last().unwrap_or((&1, &[]));
                let block = format.block_len();
                if !cols.is_multiple_of(block) {
                    let name = format.name();
                    return Err(format!(
                        "has rows of {cols} weights, expected a multiple of {block} for {name}"
                    ));
                }
                let row = format.row_bytes(cols).ok_or_else(too_large)?;
                let bytes = product(rows).and_then(|rows| rows.checked_mul(row));
                bytes.ok_or_else(too_large)
            }
            Self::Other { name, bits } => {
                let bits = product(shape).and_then(|n| n.checked_mul(*bits));
                let bits = bits.ok_or_else(too_large)?;
                if !bits.is_multiple_of(8) {
                    return Err(format!("has {bits} bits of {name}, expected whole bytes"));
                }
                Ok(bits / 8)
            }
        }
    }
}
