//! Inputs of products on a device, and what they say.

use bytemuck::cast_slice;
use cuda_std::{GlobalMut, f16};
use gpu_kernels::kernels::operand::{
    OperandIn, OperandOut, SCALE_LEN, SUM_LEN, half_stride, plane_stride,
};
use gpu_kernels::kernels::to_operand::{self, ToOperandParams};

use super::bed::{Bed, BedError};

/// Which forms of an operand are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// F32.
    pub float: bool,
    /// Integers.
    pub planes: bool,
    /// Halves.
    pub half: bool,
}

impl Wanted {
    /// Every form.
    pub const ALL: Self = Self { float: true, planes: true, half: true };
    /// No form.
    pub const NONE: Self = Self { float: false, planes: false, half: false };
    /// What kernels without the magnitude of a row write.
    pub const SPREAD: Self = Self { float: true, planes: true, half: false };
}

/// Room for an operand.
#[derive(Clone, Copy, Debug)]
pub struct Forms {
    /// Where each form is.
    pub out: OperandOut,
    rows: usize,
    cols: usize,
}

impl Forms {
    /// Poisoned room.
    pub fn new(bed: &Bed, rows: usize, cols: usize, wanted: Wanted) -> Result<Self, BedError> {
        let mut out = OperandOut::NONE;
        let plane = plane_stride(cols as u32) as usize;
        if wanted.float {
            out.float = bed.poisoned(rows * cols)?;
        }
        if wanted.planes {
            out.high = bed.poisoned(rows * plane / 4)?;
            out.low = bed.poisoned(rows * plane / 4)?;
            out.scale = bed.poisoned(rows * plane / SCALE_LEN)?;
            out.sums = bed.poisoned(rows * plane / SUM_LEN)?;
        }
        if wanted.half {
            out.half = bed.poisoned(rows * half_stride(cols as u32) as usize / 2)?;
            out.row_scale = bed.poisoned(rows)?;
        }
        Ok(Self { out, rows, cols })
    }

    /// As a product reads it.
    pub fn input(&self) -> OperandIn {
        let o = &self.out;
        OperandIn {
            float: o.float.read(),
            high: o.high.read(),
            low: o.low.read(),
            scale: o.scale.read(),
            sums: o.sums.read(),
            half: o.half.read(),
            row_scale: o.row_scale.read(),
        }
    }

    /// Each form that was asked for, with its name: [rows, cols]. NaN where padding is not zero.
    pub fn read(&self, bed: &Bed) -> Result<Vec<(&'static str, Vec<f64>)>, BedError> {
        let (o, rows, cols) = (&self.out, self.rows, self.cols);
        let mut forms = vec![];
        if !o.float.is_null() {
            let x = bed.read(o.float, rows * cols)?;
            forms.push(("F32", x.into_iter().map(f64::from).collect()));
        }
        if !o.high.is_null() {
            let stride = plane_stride(cols as u32) as usize;
            let bytes = |plane: GlobalMut<u32>| -> Result<Vec<i8>, BedError> {
                Ok(cast_slice(&bed.read(plane, rows * stride / 4)?).to_vec())
            };
            let (high, low) = (bytes(o.high)?, bytes(o.low)?);
            let q: Vec<i32> =
                high.iter().zip(&low).map(|(h, l)| 256 * i32::from(*h) + i32::from(*l)).collect();
            let scale = bed.read(o.scale, rows * stride / SCALE_LEN)?;
            let value = |i: usize| f64::from(scale[i / SCALE_LEN]) * f64::from(q[i]);
            forms.push(("integers", unpadded(rows, cols, stride, value)));
            let sums = bed.read(o.sums, rows * stride / SUM_LEN)?;
            // A sum is right when it makes the last of its 16.
            let last = |i: usize| {
                let first = i / SUM_LEN * SUM_LEN;
                let others: f64 = (first..first + SUM_LEN).filter(|j| *j != i).map(value).sum();
                if i % SUM_LEN == SUM_LEN - 1 {
                    f64::from(sums[i / SUM_LEN]) - others
                } else {
                    value(i)
                }
            };
            forms.push(("sums", unpadded(rows, cols, stride, last)));
        }
        if !o.half.is_null() {
            let stride = half_stride(cols as u32) as usize;
            let words = bed.read(o.half, rows * stride / 2)?;
            let halves: &[u16] = cast_slice(&words);
            let scale = bed.read(o.row_scale, rows)?;
            let value =
                |i: usize| f16::from_bits(halves[i]).to_f64() * f64::from(scale[i / stride]);
            forms.push(("halves", unpadded(rows, cols, stride, value)));
        }
        Ok(forms)
    }
}

fn unpadded(rows: usize, cols: usize, stride: usize, value: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut values = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        let padded = (cols..stride).any(|col| value(row * stride + col).abs() > 1e-3);
        let of = |col| if padded { f64::NAN } else { value(row * stride + col) };
        values.extend((0..cols).map(of));
    }
    values
}

/// Every form of `x`, made by the device.
pub fn operand(bed: &Bed, x: &[f32], rows: usize, cols: usize) -> Result<OperandIn, BedError> {
    let forms = Forms::new(bed, rows, cols, Wanted::ALL)?;
    let params = ToOperandParams { x: bed.upload(x)?, out: forms.out, cols: cols as u32 };
    let (entry, launch) = to_operand::launch(rows as u32, cols as u32, true);
    bed.run(&entry, launch, &params)?;
    Ok(forms.input())
}
