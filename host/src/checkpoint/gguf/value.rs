//! Typed values of a GGUF header.
//!
//! Strings and arrays stay where they are, as ranges of the mapped file: a vocabulary of 262k
//! pieces costs no allocation. Their structure was checked when the header was parsed; since the
//! file can change under the mapping, the iterators check every bound again.

use std::fmt;

use crate::checkpoint::Bytes;

/// Type of a value, with the number GGUF gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    /// 8-bit unsigned integer.
    U8 = 0,
    /// 8-bit integer.
    I8 = 1,
    /// 16-bit unsigned integer.
    U16 = 2,
    /// 16-bit integer.
    I16 = 3,
    /// 32-bit unsigned integer.
    U32 = 4,
    /// 32-bit integer.
    I32 = 5,
    /// 32-bit float.
    F32 = 6,
    /// Boolean, one byte.
    Bool = 7,
    /// Length and bytes.
    String = 8,
    /// Element type, length and elements.
    Array = 9,
    /// 64-bit unsigned integer.
    U64 = 10,
    /// 64-bit integer.
    I64 = 11,
    /// 64-bit float.
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type GGUF gives this number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&t| t as u32 == id)
    }

    /// Bytes of one value; `None` for strings and arrays, whose size varies.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// A value of a GGUF header.
#[derive(Clone, Debug)]
pub enum Value {
    /// 8-bit unsigned integer.
    U8(u8),
    /// 8-bit integer.
    I8(i8),
    /// 16-bit unsigned integer.
    U16(u16),
    /// 16-bit integer.
    I16(i16),
    /// 32-bit unsigned integer.
    U32(u32),
    /// 32-bit integer.
    I32(i32),
    /// 32-bit float.
    F32(f32),
    /// Boolean.
    Bool(bool),
    /// Text, usually UTF-8.
    String(Bytes),
    /// Many values of one type.
    Array(Array),
    /// 64-bit unsigned integer.
    U64(u64),
    /// 64-bit integer.
    I64(i64),
    /// 64-bit float.
    F64(f64),
}

impl Value {
    /// A string.
    pub fn string(text: &str) -> Self {
        Self::String(Bytes::owned(text.as_bytes().to_vec()))
    }
    /// An array of strings.
    pub fn strings<S: AsRef<[u8]>>(items: &[S]) -> Self {
        let mut bytes = Vec::new();
        for item in items {
            bytes.extend_from_slice(&(item.as_ref().len() as u64).to_le_bytes());
            bytes.extend_from_slice(item.as_ref());
        }
        Self::Array(Array::new(ValueType::String, items.len(), Bytes::owned(bytes)))
    }
    /// An array of 32-bit integers.
    pub fn i32s(items: &[i32]) -> Self {
        let bytes = items.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::Array(Array::new(ValueType::I32, items.len(), Bytes::owned(bytes)))
    }
    /// An array of 32-bit unsigned integers.
    pub fn u32s(items: &[u32]) -> Self {
        let bytes = items.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::Array(Array::new(ValueType::U32, items.len(), Bytes::owned(bytes)))
    }
    /// An array of 32-bit floats.
    pub fn f32s(items: &[f32]) -> Self {
        let bytes = items.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::Array(Array::new(ValueType::F32, items.len(), Bytes::owned(bytes)))
    }
    /// An array of booleans.
    pub fn bools(items: &[bool]) -> Self {
        let bytes = items.iter().map(|&v| v as u8).collect();
        Self::Array(Array::new(ValueType::Bool, items.len(), Bytes::owned(bytes)))
    }

    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Any integer type; `None` for the others.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// Either float type; `None` for the others.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// Whether both are the same, bit for bit.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::String(a), Self::String(b)) => **a == **b,
            (Self::Array(a), Self::Array(b)) => {
                a.element == b.element && a.len == b.len && *a.bytes == *b.bytes
            }
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (a, b) if a.value_type() == b.value_type() => {
                a.as_integer() == b.as_integer()
                    && a.as_f64().map(f64::to_bits) == b.as_f64().map(f64::to_bits)
            }
            _ => false,
        }
    }

    /// One value of a fixed size from its little-endian bytes; `None` when there are too few, the
    /// type has no fixed size, or a boolean is neither 0 nor 1.
    pub(super) fn from_le(value_type: ValueType, bytes: &[u8]) -> Option<Self> {
        let mut le = [0u8; 8];
        let bytes = bytes.get(..value_type.fixed_bytes()?)?;
        le[..bytes.len()].copy_from_slice(bytes);
        let wide = u64::from_le_bytes(le);
        Some(match value_type {
            ValueType::U8 => Self::U8(wide as u8),
            ValueType::I8 => Self::I8(wide as i8),
            ValueType::U16 => Self::U16(wide as u16),
            ValueType::I16 => Self::I16(wide as i16),
            ValueType::U32 => Self::U32(wide as u32),
            ValueType::I32 => Self::I32(wide as i32),
            ValueType::F32 => Self::F32(f32::from_bits(wide as u32)),
            ValueType::Bool if wide <= 1 => Self::Bool(wide == 1),
            ValueType::U64 => Self::U64(wide),
            ValueType::I64 => Self::I64(wide as i64),
            ValueType::F64 => Self::F64(f64::from_bits(wide)),
            ValueType::Bool | ValueType::String | ValueType::Array => return None,
        })
    }
}

/// For tables: strings quoted and shortened, arrays as their type, length and first elements.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(v) => v.fmt(f),
            Self::I8(v) => v.fmt(f),
            Self::U16(v) => v.fmt(f),
            Self::I16(v) => v.fmt(f),
            Self::U32(v) => v.fmt(f),
            Self::I32(v) => v.fmt(f),
            Self::F32(v) => v.fmt(f),
            Self::Bool(v) => v.fmt(f),
            Self::String(v) => write_text(f, v),
            Self::Array(v) => v.fmt(f),
            Self::U64(v) => v.fmt(f),
            Self::I64(v) => v.fmt(f),
            Self::F64(v) => v.fmt(f),
        }
    }
}

/// Quoted and escaped, at most 60 characters of it.
fn write_text(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const SHOWN: usize = 60;
    // Four bytes a character at most; a multi-megabyte string is not decoded to show its start.
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]);
    let shown: String = head.chars().take(SHOWN).collect();
    write!(f, "{shown:?}")?;
    if shown.len() < bytes.len() { write!(f, "… ({} bytes)", bytes.len()) } else { Ok(()) }
}

/// Many values of one type, packed as in the file.
#[derive(Clone, Debug)]
pub struct Array {
    element: ValueType,
    len: usize,
    bytes: Bytes,
}

impl Array {
    /// `bytes` must hold `len` elements, which the caller has checked.
    pub(super) fn new(element: ValueType, len: usize, bytes: Bytes) -> Self {
        Self { element, len, bytes }
    }
    /// Type of the elements; never `Array`.
    pub fn element_type(&self) -> ValueType {
        self.element
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The elements as in the file.
    pub(in crate::checkpoint) fn encoded(&self) -> &[u8] {
        &self.bytes
    }
    /// The elements of a string array, in order; `None` for another type.
    pub fn strings(&self) -> Option<Strings<'_>> {
        (self.element == ValueType::String).then(|| Strings { left: self.len, rest: &self.bytes })
    }
    /// The elements of an array of numbers or booleans, in order; `None` for strings.
    pub fn numbers(&self) -> Option<impl ExactSizeIterator<Item = Value> + '_> {
        let (element, size) = (self.element, self.element.fixed_bytes()?);
        // `None` only when the file was changed after its booleans were checked.
        let value = move |bytes: &[u8]| Value::from_le(element, bytes).unwrap_or(Value::Bool(true));
        Some(self.bytes.chunks_exact(size).map(value))
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        write!(f, "{} × {} [", self.len, self.element)?;
        let separate = |f: &mut fmt::Formatter<'_>, i| f.write_str(if i > 0 { ", " } else { "" });
        for (i, text) in self.strings().into_iter().flatten().take(SHOWN).enumerate() {
            separate(f, i)?;
            write_text(f, text)?;
        }
        for (i, number) in self.numbers().into_iter().flatten().take(SHOWN).enumerate() {
            separate(f, i)?;
            number.fmt(f)?;
        }
        f.write_str(if self.len > SHOWN { ", …]" } else { "]" })
    }
}

/// Iterates over the strings of an array, as bytes: vocabulary pieces need not be UTF-8.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    left: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let Some((len, rest)) = self.rest.split_first_chunk::<8>() else { return Some(&[]) };
        // Longer than the rest only when the file changed since it was checked.
        let len = u64::from_le_bytes(*len).min(rest.len() as u64) as usize;
        let (text, rest) = rest.split_at(len);
        self.rest = rest;
        Some(text)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_specification() {
        // The table of docs/gguf.md, gguf_metadata_value_type.
        let names = [
            "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64",
            "f64",
        ];
        for (id, name) in names.into_iter().enumerate() {
            assert_eq!(ValueType::from_id(id as u32).unwrap().to_string(), name);
        }
        assert_eq!(ValueType::from_id(13), None);
    }

    #[test]
    fn numbers_come_back_from_their_bytes() {
        let case = |t, bytes: &[u8]| Value::from_le(t, bytes).unwrap();
        assert_eq!(case(ValueType::I8, &[0xff]).as_integer(), Some(-1));
        assert_eq!(case(ValueType::U8, &[0xff]).as_integer(), Some(255));
        assert_eq!(case(ValueType::I16, &[0xfe, 0xff]).as_integer(), Some(-2));
        assert_eq!(case(ValueType::I32, &[0, 0, 0, 0x80]).as_integer(), Some(-(1 << 31)));
        assert_eq!(case(ValueType::U64, &[0xff; 8]).as_integer(), Some(u64::MAX.into()));
        assert_eq!(case(ValueType::I64, &[0xff; 8]).as_integer(), Some(-1));
        assert_eq!(case(ValueType::F32, &1.5f32.to_le_bytes()).as_f64(), Some(1.5));
        assert_eq!(case(ValueType::F64, &(-2.5f64).to_le_bytes()).as_f64(), Some(-2.5));
        assert!(Value::from_le(ValueType::Bool, &[2]).is_none());
        assert!(Value::from_le(ValueType::U32, &[1, 2, 3]).is_none());
    }

    #[test]
    fn strings_survive_a_file_that_changed_under_them() {
        let Value::Array(array) = Value::strings(&["one", "", "three"]) else { unreachable!() };
        let all: Vec<_> = array.strings().unwrap().collect();
        assert_eq!(all, [b"one" as &[u8], b"", b"three"]);

        for (bytes, expected) in [
            (vec![0xff; 30], [22, 0, 0]), // lengths beyond the end
            (vec![0; 30], [0, 0, 0]),     // zeros, as after a truncation
            (vec![0; 3], [0, 0, 0]),
        ] {
            let changed = Array::new(ValueType::String, 3, Bytes::owned(bytes));
            let lengths: Vec<_> = changed.strings().unwrap().map(<[u8]>::len).collect();
            assert_eq!(lengths, expected);
        }
    }

    #[test]
    fn values_print_short() {
        assert_eq!(Value::string("a\"b\n").to_string(), r#""a\"b\n""#);
        assert_eq!(Value::i32s(&[1, 2, 3, 4, 5]).to_string(), "5 × i32 [1, 2, 3, 4, …]");
        assert_eq!(Value::strings(&["x"]).to_string(), r#"1 × string ["x"]"#);
        let long = Value::string(&"é".repeat(1000)).to_string();
        assert_eq!(long, format!("{:?}… (2000 bytes)", "é".repeat(60)));
    }
}
