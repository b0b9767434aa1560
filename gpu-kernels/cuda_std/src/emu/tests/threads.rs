//! Barriers, operations of the warp, and how threads end.

use super::*;

#[test]
#[expect(clippy::if_same_then_else, reason = "two barriers are not one")]
fn a_barrier_that_some_skip_is_reported() {
    // By ending, in the same warp and in another.
    fails(FaultKind::Barrier, TWO_WARPS, |t, _| {
        if t.id() != 63 {
            t.sync();
        }
    });
    let fault = fails(FaultKind::Barrier, TWO_WARPS, |t, _| {
        if t.id() < 32 {
            t.sync();
        }
    });
    assert!(fault.detail.contains("32 of 64 threads wait"), "{fault}");
    // By waiting at another.
    let fault = fails(FaultKind::Barrier, TWO_WARPS, |t, _| {
        if t.id() % 2 == 0 {
            t.sync();
        } else {
            t.sync();
        }
    });
    assert!(fault.location.is_some());
    // Whole warps may.
    passes(TWO_WARPS, |t, _| {
        if t.id() < 32 {
            t.sync();
        } else {
            t.sync();
        }
    });
}

#[test]
fn a_warp_that_parts_is_reported() {
    fails(FaultKind::Divergence, ONE, |t, _| {
        if t.id() < 16 {
            t.shuffle_xor(0u32, 1);
        }
    });
    fails(FaultKind::Divergence, ONE, |t, _| {
        if t.id() < 16 {
            t.shuffle_xor(0u32, 1);
        } else {
            t.sync_warp();
        }
    });
    fails(FaultKind::Divergence, ONE, |t, _| {
        if t.id() < 16 {
            t.ballot(true);
        } else {
            t.sync();
        }
    });
    // The same operation at two places is one that half of the warp waits for in vain.
    fails(FaultKind::Divergence, ONE, |t, _| {
        if t.id() < 16 {
            t.warp_sum(1.0);
        } else {
            t.warp_sum(2.0);
        }
    });
    fails(FaultKind::Divergence, ONE, |t, _| {
        if t.id() < 31 {
            crate::mma::f16(t, &mut [0.0; 4], [0; 4], [0; 2]);
        }
    });
}

#[test]
fn lanes_that_are_not_there_are_reported() {
    fails(FaultKind::AbsentLane, ONE, |t, _| {
        t.shuffle(0u32, 32);
    });
    fails(FaultKind::AbsentLane, ONE, |t, _| {
        t.shuffle_xor(0u32, 32);
    });
    let fault = fails(FaultKind::AbsentLane, Launch::linear(1, 40), |t, _| {
        t.warp_sum(1.0);
    });
    assert_eq!(fault.thread, Some(32));
}

#[test]
fn words_travel_between_lanes() {
    let out = |body| run(TWO_WARPS, body).unwrap();
    let lanes = |f: fn(u32) -> u32| (0..64).map(f).collect::<Vec<u32>>();
    assert_eq!(
        out(|t, p| {
            t.wait_for_previous_kernel();
            p.out.set(t.id() as usize, t.shuffle_xor(t.id(), 5));
        }),
        lanes(|i| i ^ 5)
    );
    assert_eq!(
        out(|t, p| {
            t.wait_for_previous_kernel();
            p.out.set(t.id() as usize, t.shuffle(t.id(), 31 - t.lane()));
        }),
        lanes(|i| i ^ 31)
    );
    assert_eq!(
        out(|t, p| {
            t.wait_for_previous_kernel();
            p.out.set(t.id() as usize, t.shuffle_up(t.id(), 3));
        }),
        lanes(|i| if i % 32 < 3 { i } else { i - 3 })
    );
    assert_eq!(
        out(|t, p| {
            t.wait_for_previous_kernel();
            p.out.set(t.id() as usize, t.ballot(t.id() % 3 == 0));
        }),
        lanes(|i| (0..32).filter(|l| (i / 32 * 32 + l) % 3 == 0).fold(0, |b, l| b | 1 << l))
    );
    assert_eq!(
        out(|t, p| {
            t.wait_for_previous_kernel();
            let scratch = t.static_shared::<f32, 8>();
            let sum = t.cta_sum(t.id() as f32, scratch);
            let max = t.cta_max(t.id() as f32, scratch);
            p.out.set(t.id() as usize, sum as u32 * 100 + max as u32);
        }),
        [201_663; 64]
    );
}

#[test]
fn a_thread_knows_its_place() {
    passes(Launch { grid: [3, 2, 2], threads: 96, shared_bytes: 0 }, |t, _| {
        assert_eq!((t.count(), t.cta_count(), t.cta_count_y()), (96, 3, 2));
        assert!(t.id() < 96 && t.cta_id() < 3 && t.cta_id_y() < 2 && t.cta_id_z() < 2);
        assert_eq!(t.warp() * 32 + t.lane(), t.id());
    });
}

#[test]
fn a_panic_is_a_fault() {
    struct Dropped<'a>(&'a std::sync::atomic::AtomicU32);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let fault = fails(FaultKind::Panic, ONE, |t, _| {
        let _dropped = Dropped(&COUNT);
        t.sync();
        assert!(t.id() != 3, "thread three");
    });
    assert!(fault.detail.contains("thread three"), "{fault}");
    assert_eq!(fault.thread, Some(3));
    // Those that waited or had not run on are unwound too.
    assert_eq!(COUNT.load(std::sync::atomic::Ordering::Relaxed), 32);
    // And the next launch starts afresh.
    passes(ONE, |t, _| t.sync());
}

#[test]
fn a_thread_that_waits_for_another_cta_does_not_end() {
    fails(FaultKind::Endless, Launch::linear(2, 1), |t, p| {
        t.wait_for_previous_kernel();
        if t.cta_id() == 0 {
            while p.data.atomic_max(0, 0) == 0 {}
        } else {
            p.data.atomic_add(0, 1);
        }
    });
}

#[test]
fn launches_that_no_device_takes_are_reported() {
    for shape in [
        Launch::linear(0, 32),
        Launch::linear(1, 0),
        Launch::linear(1, 1025),
        Launch::plane(1, 65_536, 32),
        Launch::linear(1, 32).shared((99 << 10) + 1),
    ] {
        fails(FaultKind::Launch, shape, |_, _| ());
    }
    passes(Launch::linear(1, 1024).shared(99 << 10), |t, _| t.sync());
}
