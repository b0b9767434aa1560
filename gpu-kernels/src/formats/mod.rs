//! Weight formats: one file each, one row each in the table below.
//!
//! Every quantized format unpacks into the same shape: 8-bit integers, and for each group of
//! [`Codec::GROUP_LEN`] weights a scale and a minimum, so that `w = scale · q − min`. Decoding to
//! F32, the CPU dot products and the GEMM panels are all written against that shape.

/// A quantized format: fixed-size blocks of [`BLOCK_LEN`](Self::BLOCK_LEN) weights.
pub trait Codec: 'static {
    /// One block as it lies in the file.
    type Block: bytemuck::Pod;
    /// Weights in a block.
    const BLOCK_LEN: usize;
    /// Weights that share one scale and minimum: 16 or 32.
    const GROUP_LEN: usize;

    /// Unpacks one block: weight `i` is `scale[i / GROUP_LEN] · q[i] − min[i / GROUP_LEN]`, in F32
    /// with one rounding after the product and one after the subtraction, and equals the
    /// reference decoder bit for bit.
    ///
    /// Shapes: `q` [BLOCK_LEN], `scale` and `min` [BLOCK_LEN / GROUP_LEN].
    fn unpack(block: &Self::Block, q: &mut [i8], scale: &mut [f32], min: &mut [f32]);

    /// Quantizes BLOCK_LEN values by the plain reference method (round to nearest).
    fn encode(values: &[f32]) -> Self::Block;
}
/// Receives the codec type of a [`Format`] chosen at run time; see [`Format::with_codec`].
pub trait CodecVisitor {
    /// What the visit returns.
    type Output;
    /// Called with the codec of the format.
    fn visit<C: Codec>(self) -> Self::Output;
}

/// How the weights of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
}

impl Format {
    /// Every format, in the order of the GGUF ids.
    pub const ALL: &'static [Format] = &[Format::F32, Format::F16, Format::BF16];

    /// The format of a GGUF tensor type id, if imp knows it.
    pub fn from_gguf_id(_id: u32) -> Option<Format> {
        None
    }
    /// The GGUF tensor type id.
    pub fn gguf_id(self) -> u32 {
        0
    }
    /// The name as GGUF tools print it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        ""
    }
    /// Weights in a block; 1 for float formats.
    pub fn block_len(self) -> usize {
        1
    }
    /// Bytes in a block.
    pub fn block_bytes(self) -> usize {
        1
    }
    /// Bytes of a row of `cols` weights; `None` when `cols` is not a whole number of blocks or
    /// the product overflows.
    pub fn row_bytes(self, _cols: usize) -> Option<usize> {
        None
    }
    /// Decodes whole blocks to F32, exactly as the reference does.
    ///
    /// # Panics
    /// When `bytes` is not exactly the blocks that `out` needs.
    pub fn decode(self, _bytes: &[u8], _out: &mut [f32]) {}
    /// Quantizes whole blocks by the reference method. Panics like [`Format::decode`].
    pub fn encode(self, _values: &[f32], _out: &mut [u8]) {}
    /// Calls `visitor` with the codec type; `None` for the float formats, which have none.
    pub fn with_codec<V: CodecVisitor>(self, _visitor: V) -> Option<V::Output> {
        None
    }
}
