//! Pages by hand, and random sequences on a tiny pool.

use super::*;
use proptest::prelude::*;

/// Pages for layers without a window.
fn pool_of(pages: usize) -> PagePool {
    PagePool::new(vec![PageGroup { window: None, pages }])
}

fn tokens(kind: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i + 1000 * kind).collect()
}

/// A table that computed `tokens`.
fn computed(pool: &mut PagePool, tokens: &[u32]) -> PageTable {
    let mut table = PageTable::default();
    table.adopt(pool, tokens);
    table.reserve(pool, tokens.len()).unwrap();
    table.advance(tokens.len() - table.len());
    table.share(pool, tokens);
    table
}

/// How many of `tokens` the cache holds.
fn found(pool: &mut PagePool, tokens: &[u32]) -> usize {
    let mut table = PageTable::default();
    table.adopt(pool, tokens);
    let len = table.len();
    table.retire(pool, tokens);
    len
}

#[test]
fn sizes_around_a_page() {
    for (len, pages) in [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)] {
        assert_eq!(pages_for(len), pages, "{len} tokens");
        let mut pool = pool_of(4);
        let table = computed(&mut pool, &tokens(0, len));
        assert_eq!((table.pages(0).len(), pool.free()), (pages, 4 - pages));
        pool.check([&table].into_iter());
    }
}

#[test]
fn exhaustion_changes_nothing() {
    let mut pool = pool_of(3);
    let mut table = PageTable::default();
    table.reserve(&mut pool, 17).unwrap();
    let error = table.reserve(&mut pool, 65).unwrap_err();
    assert_eq!(error, PagesExhausted { wanted: 3, available: 1 });
    assert_eq!((table.pages(0).len(), pool.free()), (2, 1));
    table.reserve(&mut pool, 48).unwrap();
    assert_eq!(pool.free(), 0);
}

#[test]
fn what_a_finished_sequence_computed_is_found() {
    let all = tokens(0, 40);
    let other: Vec<u32> = all[..17].iter().copied().chain(tokens(9, 20)).collect();
    let beyond: Vec<u32> = all.iter().copied().chain([7, 8]).collect();
    for (prompt, cached) in [
        (&all[..], 40),
        (&beyond, 40),
        (&all[..39], 39),
        (&all[..32], 32),
        (&all[..31], 16), // the second page is full, and others may want all of it
        (&all[..15], 0),
        (&other, 16),
        (&tokens(1, 40), 0),
    ] {
        let mut pool = pool_of(4);
        let mut table = computed(&mut pool, &all);
        table.retire(&mut pool, &all);
        assert_eq!((pool.free(), pool.cached(), pool.held()), (1, 3, 0));
        assert_eq!(found(&mut pool, prompt), cached, "{prompt:?}");
        pool.check(std::iter::empty());
    }
}

#[test]
fn full_pages_have_several_holders_and_the_same_is_kept_once() {
    let mut pool = pool_of(8);
    let all = tokens(0, 32);
    // Two that computed the same at the same time.
    let mut tables = [PageTable::default(), PageTable::default()];
    for table in &mut tables {
        table.reserve(&mut pool, 32).unwrap();
        table.advance(32);
    }
    assert_eq!(pool.held(), 4);
    tables.iter_mut().for_each(|table| table.share(&mut pool, &all));
    assert_eq!(tables[0].pages(0), tables[1].pages(0));
    let third = computed(&mut pool, &all);
    assert_eq!((third.pages(0), pool.held()), (tables[0].pages(0), 2));
    pool.check(tables.iter().chain([&third]));
    let [mut a, mut b] = tables;
    a.release(&mut pool);
    b.release(&mut pool);
    assert_eq!((pool.held(), pool.cached()), (2, 0));
    pool.check([&third].into_iter());
}

#[test]
fn the_page_left_first_goes_first_and_the_end_before_the_beginning() {
    let mut pool = pool_of(4);
    for kind in [1, 2] {
        let all = tokens(kind, 32);
        computed(&mut pool, &all).retire(&mut pool, &all);
    }
    assert_eq!(found(&mut pool, &tokens(1, 32)), 32); // as if it were used
    let mut table = PageTable::default();
    table.reserve(&mut pool, 16).unwrap();
    assert_eq!(found(&mut pool, &tokens(2, 32)), 16);
    assert_eq!(found(&mut pool, &tokens(1, 32)), 32);
    table.reserve(&mut pool, 32).unwrap();
    assert_eq!(found(&mut pool, &tokens(2, 32)), 0);
    assert_eq!(found(&mut pool, &tokens(1, 32)), 32);
    pool.check([&table].into_iter());
}

#[test]
fn a_tail_serves_one_sequence() {
    let mut pool = pool_of(4);
    let all = tokens(0, 20);
    computed(&mut pool, &all).retire(&mut pool, &all);
    let (mut first, mut second) = (PageTable::default(), PageTable::default());
    first.adopt(&mut pool, &all[..18]);
    second.adopt(&mut pool, &all[..18]);
    assert_eq!((first.len(), second.len()), (18, 16));
    pool.check([&first, &second].into_iter());
}

#[test]
fn few_tails_are_kept_of_many() {
    let mut pool = pool_of(9);
    for kind in 0..9 {
        let all = tokens(kind, 5);
        computed(&mut pool, &all).retire(&mut pool, &all);
    }
    assert_eq!(pool.cached(), 4);
    assert_eq!(found(&mut pool, &tokens(8, 5)), 5);
    assert_eq!(found(&mut pool, &tokens(0, 5)), 0);
    pool.check(std::iter::empty());
}

#[test]
fn what_is_doubtful_is_forgotten_also_where_another_holds_it() {
    let mut pool = pool_of(4);
    let all = tokens(0, 40);
    let mut bad = computed(&mut pool, &all);
    let mut other = computed(&mut pool, &all[..32]);
    bad.forget(&mut pool);
    assert_eq!(found(&mut pool, &all), 0);
    pool.check([&other].into_iter());
    other.retire(&mut pool, &all[..32]);
    assert_eq!(found(&mut pool, &all), 0);
    assert_eq!(pool.free(), 4);
}

#[test]
fn what_was_computed_on_doubtful_keys_is_not_found() {
    let mut pool = pool_of(8);
    let all = tokens(0, 48);
    let mut bad = computed(&mut pool, &all[..32]);
    let mut follower = computed(&mut pool, &all);
    bad.forget(&mut pool);
    // Who computes the beginning anew does not find what followed the doubtful one.
    let mut good = PageTable::default();
    good.reserve(&mut pool, 32).unwrap();
    good.advance(32);
    good.share(&mut pool, &all[..32]);
    assert_eq!(found(&mut pool, &all), 32);
    pool.check([&follower, &good].into_iter());
    follower.retire(&mut pool, &all);
    assert_eq!(found(&mut pool, &all), 32);
}

#[test]
fn doubtful_pages_that_left_the_window_are_not_found() {
    let windowed = PageGroup { window: Some(20), pages: 8 };
    for mut pool in [PagePool::new(vec![windowed]), pool_of_both(8, 8)] {
        let all = tokens(0, 64);
        let mut bad = computed(&mut pool, &all);
        bad.leave_window(&mut pool);
        bad.forget(&mut pool);
        assert_eq!((pool.cached(), pool.held()), (0, 0));
        assert_eq!(found(&mut pool, &all[..32]), 0);
    }
}

#[test]
fn a_known_page_is_copied_for_whoever_wants_all_of_it_but_the_last_token() {
    let mut pool = pool_of_both(5, 4);
    let all = tokens(0, 48);
    computed(&mut pool, &all).retire(&mut pool, &all);
    for (prompt, len) in [(&all[..], 47), (&all[..32], 31), (&all[..40], 32)] {
        let mut table = PageTable::default();
        table.adopt(&mut pool, &prompt[..prompt.len() - 1]);
        let moves = table.fork_known(&mut pool, prompt).unwrap();
        assert_eq!((table.len(), moves.len()), (len, if len == 32 { 0 } else { 2 }));
        let known = len / PAGE_SIZE;
        assert!(moves.iter().all(|one| {
            one.to == PagePlace::Pool(table.pages(one.group)[known]) && one.from != one.to
        }));
        pool.check([&table].into_iter());
        table.release(&mut pool);
    }
}

#[test]
#[should_panic(expected = "holders of page")]
fn a_lost_page_is_noticed() {
    let mut pool = pool_of(2);
    PageTable::default().reserve(&mut pool, 1).unwrap();
    pool.check(std::iter::empty());
}

/// Pages for layers that see everything and for layers that see 20 tokens.
fn pool_of_both(all: usize, windowed: usize) -> PagePool {
    let windowed = PageGroup { window: Some(20), pages: windowed };
    PagePool::new(vec![PageGroup { window: None, pages: all }, windowed])
}

#[test]
fn a_window_is_counted_with_the_own_token() {
    let group = PageGroup { window: Some(20), pages: 9 };
    // Position 35 sees 16 to 35, position 36 from 17 on.
    for (position, page) in [(0, 0), (19, 0), (34, 0), (35, 1), (50, 1), (51, 2)] {
        assert_eq!(group.first_page(position), page, "{position}");
    }
    assert_eq!([1, 33, 100].map(|tokens| group.pages_of(tokens)), [1, 3, 3]);
}

#[test]
fn pages_before_the_window_are_given_back_and_found_while_they_last() {
    let mut pool = pool_of_both(8, 4);
    let all = tokens(0, 64);
    let mut table = computed(&mut pool, &all);
    assert_eq!((pool.held(), pool.free(), pool.cached()), (8, 4, 0));
    table.leave_window(&mut pool);
    assert_eq!((pool.held(), pool.cached()), (6, 2), "positions from 45 on are seen");
    assert!(table.holds(&pool, 32) && !table.holds(&pool, 31));
    pool.check([&table].into_iter());
    // A shorter prefix is found with the window's pages at its own end.
    assert_eq!(found(&mut pool, &all[..32]), 32);
    assert_eq!(found(&mut pool, &all), 64);
    // The pages left first are taken: the short prefix has no window any more, the long one has.
    let mut other = PageTable::default();
    other.reserve(&mut pool, 32).unwrap();
    assert_eq!((found(&mut pool, &all[..32]), found(&mut pool, &all)), (0, 64));
    pool.check([&table, &other].into_iter());
    other.release(&mut pool);
    table.retire(&mut pool, &all);
    assert_eq!((pool.held(), found(&mut pool, &all)), (0, 64));
}

#[test]
fn a_tail_has_a_page_in_each_group_and_goes_as_a_whole() {
    let mut pool = pool_of_both(8, 2);
    let all = tokens(0, 20);
    computed(&mut pool, &all).retire(&mut pool, &all);
    assert_eq!((pool.cached(), found(&mut pool, &all)), (4, 20));
    let mut other = PageTable::default();
    other.reserve(&mut pool, 1).unwrap(); // the tail was left first
    assert_eq!((pool.cached(), found(&mut pool, &all)), (2, 16));
    pool.check([&other].into_iter());
}

#[test]
fn a_fork_begins_a_page_of_its_own() {
    let mut pool = pool_of_both(8, 8);
    let all = tokens(0, 40);
    let first = computed(&mut pool, &all);
    let mut second = PageTable::default();
    second.adopt(&mut pool, &all[..39]);
    assert_eq!(second.len(), 32);
    let moves = second.fork(&mut pool, &first, 7).unwrap();
    let page = |table: &PageTable, group| PagePlace::Pool(table.pages(group)[2]);
    let copy = |group| PageMove { group, from: page(&first, group), to: page(&second, group) };
    assert_eq!((second.len(), moves), (39, vec![copy(0), copy(1)]));
    assert!((0..2).all(|group| page(&first, group) != page(&second, group)));
    assert!((0..2).all(|group| first.pages(group)[1] == second.pages(group)[1]));
    pool.check([&first, &second].into_iter());
}

#[test]
fn what_was_saved_comes_back_behind_what_the_cache_has() {
    let mut pool = pool_of_both(8, 8);
    let mut spill = Spill::new(6);
    let all = tokens(0, 60);
    let mut table = computed(&mut pool, &all);
    table.leave_window(&mut pool); // positions from 41 on are seen
    let (saved, moves) = spill.save(pool.groups(), &table).unwrap();
    assert_eq!(moves.len(), 4 + 2);
    let host = moves.iter().map(|one| one.to);
    assert!(host.clone().all(|place| matches!(place, PagePlace::Host(_))));
    spill.check([&saved].into_iter());
    assert!(spill.save(pool.groups(), &table).is_none(), "there are two slots");
    table.retire(&mut pool, &all);
    // Somebody takes all but two pages of the first group, which go on holding the beginning.
    let mut other = PageTable::default();
    other.reserve(&mut pool, 6 * PAGE_SIZE).unwrap();
    let mut again = PageTable::default();
    again.adopt(&mut pool, &all[..59]);
    let adopted = again.len();
    assert!(adopted < 60);
    other.release(&mut pool);
    let moves = spill.load(saved, &mut again, &mut pool).unwrap();
    assert_eq!(again.len(), 60);
    let restored = moves.iter().filter(|one| one.group == 0).count();
    assert_eq!(restored, 4 - adopted / PAGE_SIZE);
    assert!(again.holds(&pool, 41) && again.holds(&pool, 59) && !again.holds(&pool, 31));
    spill.check(std::iter::empty());
    pool.check([&again].into_iter());
    again.retire(&mut pool, &all);
    assert_eq!(found(&mut pool, &all), 60);
}

proptest! {
    /// Random sequences of few different tokens on a tiny pool: after each step the accounts are
    /// right, and each page that a table has holds what the table says.
    #[test]
    fn accounts_and_contents(
        window in 1usize..40,
        steps in prop::collection::vec((0usize..4, 0u8..6, 0usize..70, 0u32..3), 1..300)
    ) {
        let groups = [None, Some(window)].map(|window| PageGroup { window, pages: 9 });
        let mut pool = PagePool::new(groups.to_vec());
        let mut tables: [(PageTable, Vec<u32>); 4] = Default::default();
        // What was written to each slot of each page of each group: all tokens up to there.
        let mut written = vec![vec![vec![vec![]; PAGE_SIZE]; 9]; 2];
        for (who, what, len, kind) in steps {
            let (table, tokens) = &mut tables[who];
            match what {
                0 if table.holds_nothing() => {
                    *tokens = (0..96).map(|i| if i < 20 { i % 2 } else { kind }).collect();
                    table.adopt(&mut pool, &tokens[..len]);
                }
                0 | 1 => {
                    let wanted = pages_for(len).saturating_sub(table.pages(0).len());
                    let fits = wanted <= pool.available(0).min(pool.available(1));
                    prop_assert_eq!(table.reserve(&mut pool, len).is_ok(), fits);
                }
                2 => {
                    let room = (table.pages(0).len() * PAGE_SIZE).min(tokens.len());
                    let first = table.len();
                    table.advance(len.min(room.saturating_sub(first)));
                    for (group, p) in (0..2).flat_map(|g| (first..table.len()).map(move |p| (g, p))) {
                        let page = table.pages(group)[p / PAGE_SIZE] as usize;
                        written[group][page][p % PAGE_SIZE] = tokens[..=p].to_vec();
                    }
                    table.share(&mut pool, tokens);
                    table.leave_window(&mut pool);
                }
                3 => table.retire(&mut pool, tokens),
                4 => table.release(&mut pool),
                _ => table.forget(&mut pool),
            }
            pool.check(tables.iter().map(|(table, _)| table));
            for (table, tokens) in &tables {
                for (group, shape) in groups.iter().enumerate() {
                    for p in shape.first_page(table.len()) * PAGE_SIZE..table.len() {
                        let page = table.pages(group)[p / PAGE_SIZE] as usize;
                        prop_assert_eq!(&written[group][page][p % PAGE_SIZE], &tokens[..=p]);
                    }
                }
            }
        }
    }
}
