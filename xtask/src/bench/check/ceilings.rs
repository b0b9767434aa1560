//! The kernels that measure the device: that they end, and read what they say.

use gpu_kernels::kernels::ceilings::{
    EMPTY, EmptyParams, PEAK_BF16, PEAK_E4M3, PEAK_F16, PEAK_S8, PEAK_TF32, PeakParams, READ,
    ReadParams, launch,
};

use super::super::bed::BedError;
use super::super::ceilings::FIRST_WITH_FP8;
use super::Checker;

pub fn check(c: &mut Checker<'_>) -> Result<(), BedError> {
    let bed = c.bed;
    let launch = launch(bed.multiprocessors());
    let out = bed.zeros::<u32>(1)?;
    bed.run(&EMPTY, launch, &EmptyParams { out })?;
    let peaks = PeakParams { out, rounds: 3 };
    let mut entries = vec![PEAK_F16, PEAK_BF16, PEAK_TF32, PEAK_S8];
    if bed.gpu().is_none_or(|gpu| gpu.context.device().compute >= FIRST_WITH_FP8) {
        entries.push(PEAK_E4M3);
    } else {
        bed.skip(PEAK_E4M3.info.name);
    }
    for entry in entries {
        bed.run(&entry, launch, &peaks)?;
        c.require(entry.info.name, "writes nothing", "3 rounds", bed.read(out, 1)? == [0]);
    }
    for n in [1usize, 777, 1_000_003] {
        // The word comes out only if each of the other pairs cancels.
        const UNLIKELY: u32 = 0x1234_5678;
        let mut x: Vec<[u32; 4]> = (0..n as u32).map(|i| [i, i, !i, !i]).collect();
        x[n - 1][3] ^= UNLIKELY;
        // Only the thread that has the last word sees it.
        let out = bed.zeros::<u32>(1)?;
        let p = ReadParams { x: bed.upload(&x)?, out, n: n as u64 };
        bed.run(&READ, launch, &p)?;
        let holds = bed.read(out, 1)? == [UNLIKELY];
        c.require(READ.info.name, "reads all", &format!("{n} vectors"), holds);
    }
    Ok(())
}
