//! Asynchronous copies.

use super::*;
use crate::async_copy::{commit, copy16, copy16_whole, wait};
use crate::{Shared, SharedMemory};

const SHAPE: Launch = TWO_WARPS.shared(2048);

/// Room for 16 bytes a thread, twice.
fn room(t: Thread) -> Shared<u32> {
    SharedMemory::dynamic(t).take(512)
}

#[test]
fn copies_arrive_when_waited_for() {
    let out = run(SHAPE, |t, p| {
        t.wait_for_previous_kernel();
        let mine = room(t).at(4 * t.id());
        copy16_whole(t, mine, p.data.read().at(4 * t.id() as usize));
        commit(t);
        // Of the second, 4 bytes; the rest are zeros.
        copy16(t, mine.at(256), p.data.read().at(4 * t.id() as usize), 4);
        commit(t);
        wait::<1>(t);
        let first = mine.get(3);
        wait::<0>(t);
        t.sync();
        let other = room(t).at(256 + 4 * (63 - t.id()));
        assert_eq!([1, 2, 3].map(|i| other.get(i)), [0; 3]);
        p.out.set(t.id() as usize, 1000 * first + other.get(0));
    });
    let want: Vec<u32> = (0..64).map(|i| 1000 * (4 * i + 3) + 4 * (63 - i)).collect();
    assert_eq!(out.unwrap(), want);
}

#[test]
fn the_target_is_left_alone_until_the_wait() {
    fails(FaultKind::InFlight, SHAPE, |t, p| {
        let mine = room(t).at(4 * t.id());
        copy16_whole(t, mine, p.input);
        commit(t);
        mine.get(0);
    });
    fails(FaultKind::InFlight, SHAPE, |t, p| {
        let mine = room(t).at(4 * t.id());
        copy16_whole(t, mine, p.input);
        mine.set(3, 1);
    });
    // A group too few, and one that was never closed.
    fails(FaultKind::InFlight, SHAPE, |t, p| {
        let mine = room(t).at(4 * t.id());
        copy16_whole(t, mine, p.input);
        commit(t);
        wait::<1>(t);
        mine.get(0);
    });
    fails(FaultKind::InFlight, SHAPE, |t, p| {
        let mine = room(t).at(4 * t.id());
        copy16_whole(t, mine, p.input);
        wait::<0>(t);
        mine.get(0);
    });
    // Waiting is for one's own; a barrier alone is not enough, nor is the wait.
    fails(FaultKind::InFlight, SHAPE, |t, p| {
        copy16_whole(t, room(t).at(4 * t.id()), p.input);
        commit(t);
        t.sync();
        room(t).get(4 * (63 - t.id()));
    });
    fails(FaultKind::Race, ONE.shared(2048), |t, p| {
        copy16_whole(t, room(t).at(4 * t.id()), p.input);
        commit(t);
        wait::<0>(t);
        room(t).get(4 * (t.id() & 16));
    });
    // Threads that still read what a copy will overwrite: the missing barrier of a ring of buffers.
    fails(FaultKind::Race, SHAPE, |t, p| {
        let x = room(t);
        x.set(4 * t.id(), 1);
        t.sync();
        x.get(4 * (63 - t.id()));
        copy16_whole(t, x.at(4 * t.id()), p.input);
        commit(t);
        wait::<0>(t);
    });
}

#[test]
fn groups_may_be_empty() {
    passes(SHAPE, |t, p| {
        let mine = room(t).at(4 * t.id());
        commit(t);
        copy16_whole(t, mine, p.input);
        commit(t);
        commit(t);
        commit(t);
        wait::<2>(t);
        assert_eq!(mine.get(2), 2);
        wait::<0>(t);
    });
}

#[test]
fn sources_are_checked() {
    fails(FaultKind::Misaligned, SHAPE, |t, p| {
        copy16_whole(t, room(t).at(4 * t.id()), p.input.at(1));
    });
    fails(FaultKind::Misaligned, SHAPE, |t, p| {
        copy16_whole(t, room(t).at(4 * t.id() + 1), p.input);
    });
    fails(FaultKind::OutOfBounds, SHAPE, |t, p| {
        copy16(t, room(t).at(4 * t.id()), p.input.at(64), 4);
    });
    fails(FaultKind::OutOfBounds, SHAPE, |t, p| {
        copy16(t, room(t).at(4 * t.id()), p.input, 17);
    });
    fails(FaultKind::OutOfBounds, SHAPE, |t, p| {
        copy16_whole(t, room(t).at(512), p.input);
    });
    fails(FaultKind::Uninitialized, SHAPE, |t, p| {
        t.wait_for_previous_kernel();
        copy16_whole(t, room(t).at(4 * t.id()), p.out.read());
    });
    fails(FaultKind::InFlight, Launch::linear(1, 1).shared(2048), |t, p| {
        t.wait_for_previous_kernel();
        copy16_whole(t, room(t), p.data.read());
        p.data.set(2, 77);
        commit(t);
        wait::<0>(t);
    });
    // With no bytes from it, the source may be anywhere.
    passes(SHAPE, |t, p| {
        let mine = room(t).at(4 * t.id());
        copy16(t, mine, p.input.at(1 << 20), 0);
        commit(t);
        wait::<0>(t);
        assert_eq!(mine.cast::<[u32; 4]>().get(0), [0; 4]);
    });
}

#[test]
fn no_kernel_ends_with_copies_under_way() {
    fails(FaultKind::NotWaited, SHAPE, |t, p| {
        copy16_whole(t, room(t).at(4 * t.id()), p.input);
        commit(t);
    });
    fails(FaultKind::NotWaited, SHAPE, |t, p| {
        copy16_whole(t, room(t).at(4 * t.id()), p.input);
        wait::<0>(t);
    });
}
