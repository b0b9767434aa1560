//! Global and shared memory.

use super::*;
use crate::SharedMemory;

#[test]
fn a_report_names_kernel_cta_thread_line_and_mistake() {
    const LINE: u32 = line!() + 5;
    let fault = fails(FaultKind::OutOfBounds, Launch::plane(2, 3, 32), |t, p| {
        t.wait_for_previous_kernel();
        let last = t.cta_id() == 1 && t.cta_id_y() == 2 && t.id() == 7;
        let at = if last { 64 } else { 0 };
        p.input.get(at);
    });
    assert_eq!((fault.cta, fault.thread), ([1, 2, 0], Some(7)));
    assert_eq!(fault.location.unwrap().line(), LINE);
    let text = fault.to_string();
    for part in ["test_kernel", "CTA (1, 2, 0)", "thread 7", "memory.rs", "offset 256"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn global_addresses_are_checked() {
    let one = Launch::linear(1, 1);
    fails(FaultKind::OutOfBounds, one, |_, p| {
        p.input.cast::<[u32; 4]>().get(16);
    });
    fails(FaultKind::OutOfBounds, one, |_, _| {
        Global::<u32>::from_address(77 << 40).get(0);
    });
    fails(FaultKind::Null, one, |_, _| {
        Global::<u32>::null().get(3);
    });
    fails(FaultKind::Misaligned, one, |_, p| {
        p.input.at(1).cast::<[u32; 4]>().stream(0);
    });
    fails(FaultKind::Misaligned, one, |_, p| {
        p.input.at(1).cast::<[f32; 2]>().get(0);
    });
    fails(FaultKind::Misaligned, one, |_, p| {
        p.input.cast::<u8>().at(1).cast::<u16>().get(0);
    });
    fails(FaultKind::ReadOnly, one, |t, p| {
        t.wait_for_previous_kernel();
        GlobalMut::<u32>::from_address(p.input.address()).set(0, 1);
    });
    fails(FaultKind::Uninitialized, one, |t, p| {
        t.wait_for_previous_kernel();
        p.out.cast::<u8>().set(0, 1);
        p.out.get(0);
    });
    fails(FaultKind::Uninitialized, one, |t, p| {
        t.wait_for_previous_kernel();
        p.out.atomic_add(0, 1);
    });
}

#[test]
fn memory_that_was_given_back_is_gone() {
    let mut mem = Memory::new();
    let data = data(&mut mem);
    mem.free(data.data);
    let read: fn(Thread, &Data) = |t, p| {
        t.wait_for_previous_kernel();
        p.data.get(0);
    };
    let fault = mem.launch(&entry(read), ONE, &data).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Freed);
}

#[test]
fn what_kernels_before_may_use_is_left_alone_until_the_wait() {
    fails(FaultKind::BeforeWait, ONE, |_, p| {
        p.data.get(0);
    });
    fails(FaultKind::BeforeWait, ONE, |t, p| p.out.set(t.id() as usize, 0));
    // One thread's wait is not another's.
    fails(FaultKind::BeforeWait, ONE, |t, p| {
        if t.id() == 0 {
            t.wait_for_previous_kernel();
        }
        p.data.get(0);
    });
}

#[test]
fn constants_are_not_written() {
    fails(FaultKind::NotConstant, ONE, |t, p| {
        t.wait_for_previous_kernel();
        p.data.set(t.id() as usize, 1);
        p.data.read().stream(t.id() as usize);
    });
    passes(ONE, |t, p| {
        t.wait_for_previous_kernel();
        p.data.read().stream(t.id() as usize);
    });
}

#[test]
fn threads_that_nothing_orders_race_on_global_memory() {
    // Of one CTA: write and write, write and read, read and write.
    fails(FaultKind::Race, ONE, |t, p| {
        t.wait_for_previous_kernel();
        p.out.set(0, t.id());
    });
    fails(FaultKind::Race, TWO_WARPS, |t, p| {
        t.wait_for_previous_kernel();
        if t.id() == 0 {
            p.data.set(40, 1);
        } else if t.id() == 40 {
            p.data.get(40);
        }
    });
    fails(FaultKind::Race, TWO_WARPS, |t, p| {
        t.wait_for_previous_kernel();
        p.data.get(0);
        if t.id() == 63 {
            p.data.set(0, 1);
        }
    });
    // Of two.
    let fault = fails(FaultKind::Race, Launch::linear(2, 1), |t, p| {
        t.wait_for_previous_kernel();
        p.out.set(0, t.cta_id());
    });
    assert!(fault.detail.contains("of CTA 0"), "{fault}");
    fails(FaultKind::Race, Launch::linear(2, 1), |t, p| {
        t.wait_for_previous_kernel();
        p.data.get(t.cta_id() as usize);
        p.data.set(1 - t.cta_id() as usize, 1);
    });
    // The first CTA's read is remembered beyond a read of the second.
    fails(FaultKind::Race, Launch::linear(2, 1), |t, p| {
        t.wait_for_previous_kernel();
        p.data.get(0);
        if t.cta_id() == 1 {
            p.data.set(0, 1);
        }
    });
    fails(FaultKind::Race, Launch::linear(2, 1), |t, p| {
        t.wait_for_previous_kernel();
        p.data.atomic_add(0, 1);
        p.data.set(0, 1);
        if t.cta_id() == 1 {
            p.data.get(0);
        }
    });
}

#[test]
fn barriers_and_launches_order_global_memory() {
    passes(TWO_WARPS, |t, p| {
        t.wait_for_previous_kernel();
        let i = t.id() as usize;
        p.out.set(i, t.id());
        t.sync();
        assert_eq!(p.out.get(63 - i), 63 - t.id());
        t.sync();
        p.out.set(63 - i, 0);
    });
    let mut mem = Memory::new();
    let data = data(&mut mem);
    let write: fn(Thread, &Data) = |t, p| {
        t.wait_for_previous_kernel();
        let i = (t.cta_id() * 32 + t.id()) as usize;
        p.out.set(i, p.data.get(1023 - i));
    };
    let swap: fn(Thread, &Data) = |t, p| {
        t.wait_for_previous_kernel();
        let i = (t.cta_id() * 32 + t.id()) as usize;
        p.data.set(i, p.out.get(1023 - i));
    };
    mem.launch(&entry(write), Launch::linear(32, 32), &data).unwrap();
    mem.launch(&entry(swap), Launch::linear(32, 32), &data).unwrap();
    assert_eq!(mem.read(data.data), (0..1024).collect::<Vec<u32>>());
}

#[test]
fn atomics_do_not_race_with_each_other() {
    let mut mem = Memory::new();
    let data = data(&mut mem);
    let sum = mem.upload_mut(&[0.0f32]);
    let data = Data { out: sum.cast(), ..data };
    let add: fn(Thread, &Data) = |t, p| {
        t.wait_for_previous_kernel();
        p.data.atomic_add(0, 1);
        p.data.atomic_max(1, t.id());
        p.out.cast::<f32>().atomic_add(0, 0.5);
    };
    mem.launch(&entry(add), Launch::linear(4, 64), &data).unwrap();
    assert_eq!(mem.read(data.data)[..2], [256, 63]);
    assert_eq!(mem.read(sum), [128.0]);
    // A plain read beside them does.
    fails(FaultKind::Race, TWO_WARPS, |t, p| {
        t.wait_for_previous_kernel();
        p.data.atomic_add(0, 1);
        p.data.get(0);
    });
}

/// The last CTA to come adds up what all wrote. `$fence` is done before the counter is raised.
macro_rules! last_cta {
    ($before:expr, $after:expr) => {
        |t: Thread, p: &Data| {
            t.wait_for_previous_kernel();
            let last = t.static_shared::<u32, 4>();
            let i = (t.cta_id() * 64 + t.id()) as usize;
            p.out.set(i, 1);
            $before(t);
            t.sync();
            if t.id() == 0 {
                $after(t);
                last.set(0, p.data.atomic_add(0, 1));
            }
            t.sync();
            if last.get(0) == t.cta_count() - 1 {
                let mut cta = 0;
                let mut sum = 0;
                while cta < t.cta_count() {
                    sum += p.out.get((cta * 64 + t.id()) as usize);
                    cta += 1;
                }
                t.sync();
                p.out.set(t.id() as usize, sum);
                if t.id() == 0 {
                    p.data.set(0, 0);
                }
            }
        }
    };
}

#[test]
fn a_fence_and_an_atomic_hand_over_to_another_cta() {
    let shape = Launch::linear(3, 64);
    // The counter's start, data[0], is 0.
    assert_eq!(run(shape, last_cta!(|t: Thread| t.fence(), |_| ())).unwrap(), [3; 64]);
    assert_eq!(run(shape, last_cta!(|_| (), |t: Thread| t.fence())).unwrap(), [3; 64]);
    fails(FaultKind::Race, shape, last_cta!(|_| (), |_| ()));
    // A fence of thread 0 ahead of the barrier says nothing of the others.
    let early = last_cta!(
        |t: Thread| if t.id() == 0 {
            t.fence()
        },
        |_| ()
    );
    fails(FaultKind::Race, shape, early);
}

#[test]
fn shared_addresses_are_checked() {
    let shape = Launch::linear(1, 1).shared(64);
    fails(FaultKind::OutOfBounds, shape, |t, _| {
        SharedMemory::dynamic(t).take::<u32>(17).set(16, 0);
    });
    fails(FaultKind::OutOfBounds, shape, |t, _| {
        t.static_shared::<u32, 16>().set(4, 0);
    });
    fails(FaultKind::Misaligned, shape, |t, _| {
        SharedMemory::dynamic(t).take::<u32>(16).at(2).cast::<[u32; 4]>().set(0, [0; 4]);
    });
    fails(FaultKind::Uninitialized, shape, |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(16);
        x.set(0, 1);
        x.cast::<[u32; 2]>().get(0);
    });
    fails(FaultKind::Uninitialized, shape, |t, _| {
        SharedMemory::dynamic(t).take::<u32>(16).atomic_add(0, 1);
    });
    // What the CTA before wrote is not there any more.
    fails(FaultKind::Uninitialized, Launch::linear(2, 1).shared(64), |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(16);
        if t.cta_id() == 0 {
            x.set(0, 1);
        }
        x.get(0);
    });
}

#[test]
fn static_pieces_are_apart() {
    #[inline(always)]
    fn piece(t: Thread, value: u32) -> crate::Shared<u32> {
        let x = t.static_shared::<u32, 128>();
        x.set(t.id(), value);
        x
    }
    let out = run(ONE, |t, p| {
        t.wait_for_previous_kernel();
        let a = piece(t, 1);
        let b = piece(t, 10);
        let c = t.static_shared::<u32, 128>();
        c.set(t.id(), 100);
        t.sync();
        let other = 31 - t.id();
        p.out.set(t.id() as usize, a.get(other) + b.get(other) + c.get(other));
    });
    assert_eq!(out.unwrap(), [111; 32]);
    fails(FaultKind::Launch, Launch::linear(1, 1), |t, _| {
        t.static_shared::<u32, { 49 << 10 }>();
    });
    fails(FaultKind::Launch, Launch::linear(1, 1).shared(99 << 10), |t, _| {
        t.static_shared::<u32, 16>();
    });
}

#[test]
fn threads_that_no_barrier_orders_race_on_shared_memory() {
    let shape = TWO_WARPS.shared(1024);
    fails(FaultKind::Race, shape, |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(64);
        x.set(t.id(), 1);
        x.get(t.id() & 31);
    });
    fails(FaultKind::Race, shape, |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(64);
        x.set(t.id(), 1);
        t.sync_warp();
        x.get(t.id() & 31);
    });
    // A missing second barrier: the next round overwrites what some have yet to read.
    fails(FaultKind::Race, shape, |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(64);
        let mut round = 0;
        while round < 2 {
            x.set(t.id(), round);
            t.sync();
            x.get(63 - t.id());
            round += 1;
        }
    });
    // A shuffle does not order memory.
    fails(FaultKind::Race, ONE.shared(1024), |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(64);
        x.set(t.id(), 1);
        t.shuffle_xor(0u32, 1);
        x.get(t.id() ^ 1);
    });
    // Atomics and plain writes.
    fails(FaultKind::Race, shape, |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(64);
        if t.id() == 0 {
            x.set(0, 0);
        }
        x.atomic_add(0, 1);
    });
}

#[test]
fn barriers_order_shared_memory() {
    let shape = TWO_WARPS.shared(1024);
    passes(shape, |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(64);
        let mut round = 0;
        while round < 3 {
            x.set(t.id(), round);
            t.sync_warp();
            assert_eq!(x.get(t.id() ^ 31), round);
            t.sync();
            assert_eq!(x.get(63 - t.id()), round);
            t.sync();
            round += 1;
        }
        // All read one, the one reads it, then writes it.
        x.get(0);
        t.sync();
        if t.id() == 5 {
            x.get(0);
            x.set(0, 9);
        }
    });
    passes(shape, |t, _| {
        let x = SharedMemory::dynamic(t).take::<u32>(64);
        if t.id() == 0 {
            x.set(0, 0);
        }
        t.sync();
        x.atomic_add(0, 1);
        t.sync();
        assert_eq!(x.get(0), 64);
    });
}

#[test]
fn bytes_of_one_word_are_apart() {
    passes(TWO_WARPS.shared(128), |t, p| {
        t.wait_for_previous_kernel();
        let x = SharedMemory::dynamic(t).take::<u8>(64);
        x.set(t.id(), t.id() as u8);
        p.out.cast::<u8>().set(t.id() as usize, t.id() as u8);
        t.sync();
        let word = x.cast::<u32>().get(t.id() % 16);
        assert_eq!(word, u32::from_le_bytes([0, 1, 2, 3].map(|i| (t.id() % 16 * 4) as u8 + i)));
        t.sync();
        if t.id() < 16 {
            x.cast::<u32>().set(t.id(), word + 0x0101_0101);
        }
        t.sync();
        assert_eq!(x.get(t.id()), t.id() as u8 + 1);
    });
    fails(FaultKind::Race, TWO_WARPS.shared(128), |t, _| {
        let x = SharedMemory::dynamic(t).take::<u16>(64);
        x.set(t.id(), 1);
        if t.id() == 63 {
            x.cast::<u32>().get(0);
        }
    });
}

#[test]
fn the_host_sees_what_was_written() {
    let mut mem = Memory::new();
    let data = data(&mut mem);
    let write: fn(Thread, &Data) = |t, p| {
        t.wait_for_previous_kernel();
        p.out.set(2 * t.id() as usize, 7);
    };
    mem.launch(&entry(write), ONE, &data).unwrap();
    let out = mem.read_written(data.out);
    assert_eq!(out.len(), 1024);
    assert!((0..64).all(|i| out[i] == (i % 2 == 0).then_some(7)) && out[64..] == [None; 960]);
    mem.write(data.out, &[1; 1024]);
    assert_eq!(mem.read(data.out.at(1022)), [1, 1]);
    let empty = mem.uninit::<f32>(0);
    assert!(mem.read(empty).is_empty());
    let never = mem.uninit::<f32>(3);
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mem.read(never)));
    let text = *read.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("3 of 3 elements were never written"), "{text}");
}
