//! What emulation costs: hundreds of launches run with the tests.

use std::fs;

use super::*;
use crate::SharedMemory;

/// Time this thread ran, in nanoseconds, where the system tells (Linux): others do not count.
fn cpu_time() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Prints with `--nocapture`; the bounds leave room for slow machines.
#[test]
fn emulation_is_fast_enough() {
    let mut mem = Memory::new();
    let data = data(&mut mem);
    let mut time = |what: &str, count: u32, shape: Launch, body: fn(Thread, &Data)| {
        let start = cpu_time();
        mem.launch(&entry(body), shape, &data).unwrap();
        let (Some(start), Some(end)) = (start, cpu_time()) else { return 0.0 };
        let each = (end - start) as f64 / f64::from(count);
        println!("{what}: {each:.1} ns");
        each
    };
    time("first CTA of 256 threads", 1, Launch::linear(1, 256), |t, _| t.sync());
    let cta = time("CTA of 256 threads", 100, Launch::linear(100, 256), |t, _| {
        let scratch = t.static_shared::<f32, 32>();
        t.cta_sum(1.0, scratch);
        t.cta_sum(1.0, scratch);
    });
    time("shuffle of a warp", 32 * 1000, Launch::linear(1, 1024), |t, _| {
        let mut i = 0;
        while i < 1000 {
            t.shuffle_xor(i, 1);
            i += 1;
        }
    });
    let load = time("global load", 32 * 10_000, ONE, |t, p| {
        t.wait_for_previous_kernel();
        let mut i = 0;
        while i < 10_000 {
            p.data.get((i + t.id() as usize) % 1024);
            i += 1;
        }
    });
    time("read-only load of 16 bytes", 32 * 10_000, ONE, |_, p| {
        let mut i = 0;
        while i < 10_000 {
            p.input.cast::<[u32; 4]>().get(i % 16);
            i += 1;
        }
    });
    let shared = time("shared store and load", 2 * 32 * 10_000, ONE.shared(4096), |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(1024);
        let mut i = 0;
        while i < 10_000 {
            let at = i % 32 * 32 + t.id();
            x.set(at, i);
            x.get(at);
            i += 1;
        }
    });
    time("shared store of a half", 32 * 10_000, ONE.shared(4096), |t, _| {
        let x = SharedMemory::dynamic(t).take::<u16>(1024);
        let mut i = 0;
        while i < 10_000 {
            x.set(i % 32 * 32 + t.id(), 1);
            i += 1;
        }
    });
    time("product of a warp", 1000, ONE, |t, _| {
        let mut d = [0.0; 4];
        let mut i = 0;
        while i < 1000 {
            crate::mma::f16(t, &mut d, [0x3c00_3c00; 4], [0x3c00_3c00; 2]);
            i += 1;
        }
    });
    assert!(cta < 4e6 && load < 1e3 && shared < 1e3, "{cta} {load} {shared} ns");
}
