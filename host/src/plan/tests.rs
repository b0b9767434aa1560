//! Plans for made-up models, checked by hand-made arithmetic.

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// 4 layers of 8 heads of 64: 4 · 8 · 64 · 2 (k, v) · 2 bytes = 8 KiB a token.
const HEADS: [HeadShape; 4] = [HeadShape { heads: 8, head_dim: 64 }; 4];

fn demand<'a>() -> Demand<'a> {
    Demand {
        weight_bytes: GIB,
        kv_heads: &HEADS,
        kv_dtype: KvDtype::F16,
        activation_bytes: &|rows| rows as u64 * 1024,
        prefill_chunk: Some(512),
        trained_context: 8192,
        max_seq_len: None,
        min_kv_tokens: None,
        kv_pages: None,
        free_bytes: Some(16 * GIB),
    }
}

#[test]
fn the_trained_context_when_it_fits() {
    let plan = plan(&demand()).unwrap();
    assert_eq!((plan.max_seq_len, plan.kv_pages, plan.max_batch_rows), (8192, 512, 512));
    assert_eq!(plan.rows[1].bytes, 8192 * 8 * 1024);
    assert_eq!(plan.total_bytes(), GIB + 64 * MIB + MIB / 2);
    assert!(plan.notices.is_empty());
}

#[test]
fn the_table_of_mem_report() {
    let expected = "\
weights                                 mapped file     1.0 GiB
KV cache F16, 512 pages of 16 tokens    host           64.0 MiB
activations and logits, 512 rows        host          512.0 KiB
total                                                   1.1 GiB  of 16.0 GiB free
context: 8192 tokens (trained for 8192)";
    let text = plan(&demand()).unwrap().to_string();
    let squeeze = |s: &str| -> Vec<String> {
        s.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(squeeze(&text), squeeze(expected));
    let ends: Vec<_> = text.lines().take(3).map(|line| line.chars().count()).collect();
    assert!(ends.iter().all(|&end| end == ends[0]), "columns do not line up:\n{text}");
}

#[test]
fn a_long_trained_context_is_cut_at_the_ceiling_and_said() {
    let plan = plan(&Demand { trained_context: 1 << 20, ..demand() }).unwrap();
    assert_eq!(plan.max_seq_len, AUTO_CONTEXT_CEILING);
    assert!(plan.notices[0].contains("131072 of the 1048576"), "{:?}", plan.notices);
}

#[test]
fn automatic_takes_its_share_and_asking_takes_all() {
    // 100 MiB beside the weights: 60 of them hold 59.5 MiB of keys and values and 512 KiB of
    // activations, so 7616 tokens of 8 KiB.
    let tight = Demand { free_bytes: Some(GIB + 100 * MIB), trained_context: 1 << 16, ..demand() };
    let auto = plan(&tight).unwrap();
    assert_eq!(auto.max_seq_len, 7616);
    assert_eq!(auto.notices.len(), 1);
    let asked = plan(&Demand { max_seq_len: Some(12_000), ..tight }).unwrap();
    assert_eq!((asked.max_seq_len, asked.kv_pages), (12_000, 750));
    assert!(asked.notices.is_empty());
}

#[test]
fn failure_names_the_numbers_and_the_flag_that_helps() {
    let tight = Demand { free_bytes: Some(GIB + 100 * MIB), max_seq_len: Some(20_000), ..demand() };
    let error = plan(&tight).unwrap_err();
    assert_eq!(
        error.to_string(),
        "needs 1.2 GiB for 20000 tokens of context (1.0 GiB weights, 156.2 MiB KV cache, 512.0 KiB \
         activations), 1.1 GiB free; try --max-seq-len 12288"
    );
    let helped = Demand { max_seq_len: Some(12_288), ..tight };
    plan(&helped).unwrap();

    let pool = Demand { max_seq_len: Some(4096), min_kv_tokens: Some(20_000), ..helped };
    let text = plan(&pool).unwrap_err().to_string();
    assert!(text.ends_with("try --min-kv-tokens 12288"), "{text}");

    let weights = Demand { weight_bytes: 17 * GIB, ..demand() };
    let text = plan(&weights).unwrap_err().to_string();
    assert!(text.contains("17.0 GiB weights") && text.contains("smaller format"), "{text}");
}

#[test]
fn a_minimum_beyond_the_share_is_honoured() {
    let tight = Demand { free_bytes: Some(GIB + 20 * MIB), ..demand() };
    assert_eq!(plan(&tight).unwrap().max_seq_len, 1472);
    let held = plan(&Demand { min_kv_tokens: Some(2000), ..tight }).unwrap();
    assert_eq!((held.max_seq_len, held.kv_pages), (2000, 125));
    let beyond = plan(&Demand { min_kv_tokens: Some(100_000), ..demand() }).unwrap();
    assert_eq!((beyond.max_seq_len, beyond.kv_pages), (8192, 6250));
    let huge = Demand { min_kv_tokens: Some(200_000), trained_context: 1 << 20, ..demand() };
    assert_eq!(plan(&huge).unwrap().max_seq_len, 200_000);
}

#[test]
fn a_machine_too_small_for_a_useful_context_is_refused() {
    let tiny = Demand { free_bytes: Some(GIB + 2 * MIB), ..demand() };
    let error = plan(&tiny).unwrap_err();
    assert!(matches!(error, PlanError::OutOfMemory { tokens: AUTO_CONTEXT_FLOOR, .. }), "{error}");
    let short = Demand { trained_context: 64, ..tiny };
    assert_eq!(plan(&short).unwrap().max_seq_len, 64);
}

#[test]
fn beyond_the_trained_context_is_allowed_and_said() {
    let plan = plan(&Demand { max_seq_len: Some(10_000), ..demand() }).unwrap();
    assert_eq!(plan.max_seq_len, 10_000);
    assert!(plan.notices[0].contains("beyond the 8192"), "{:?}", plan.notices);
}

#[test]
fn a_whole_prompt_in_one_step_is_planned_for() {
    let whole = Demand { prefill_chunk: None, ..demand() };
    assert_eq!(plan(&whole).unwrap().max_batch_rows, 8192);
    // 9 KiB a token now: 60 MiB hold 6826, and pages are whole.
    let tight = Demand { free_bytes: Some(GIB + 100 * MIB), ..whole };
    let chosen = plan(&tight).unwrap().max_seq_len;
    assert!((6800..=6827).contains(&chosen), "{chosen}");
}

#[test]
fn an_unknown_amount_of_memory_limits_nothing_and_is_said() {
    let plan = plan(&Demand { free_bytes: None, ..demand() }).unwrap();
    assert_eq!(plan.max_seq_len, 8192);
    assert!(plan.to_string().contains("free memory unknown"));
}

#[test]
fn impossible_numbers_are_refused_by_flag() {
    for (seq, kv, flag) in
        [(Some(0), None, "--max-seq-len 0"), (None, Some(0), "--min-kv-tokens 0")]
    {
        let error = plan(&Demand { max_seq_len: seq, min_kv_tokens: kv, ..demand() }).unwrap_err();
        assert!(error.to_string().starts_with(flag), "{error}");
    }
    let error = plan(&Demand { max_seq_len: Some(usize::MAX), ..demand() }).unwrap_err();
    assert!(matches!(error, PlanError::Impossible { .. }), "{error}");
}

#[test]
fn a_chosen_number_of_pages_is_taken_as_it_is() {
    let pool = Demand { kv_pages: Some(100), ..demand() };
    let chosen = plan(&pool).unwrap();
    assert_eq!((chosen.max_seq_len, chosen.kv_pages), (1600, 100));
    let large = plan(&Demand { kv_pages: Some(1000), ..demand() }).unwrap();
    assert_eq!((large.max_seq_len, large.kv_pages), (8192, 1000));
    let error = plan(&Demand { max_seq_len: Some(1601), ..pool }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("1 to 1600 tokens (kv_cache.max_blocks is 100 pages"), "{text}");
    let tight = Demand { kv_pages: Some(1000), free_bytes: Some(GIB + 64 * MIB), ..demand() };
    let text = plan(&tight).unwrap_err().to_string();
    assert!(text.ends_with("try kv_cache.max_blocks = 448"), "{text}");
}

#[test]
fn sizes_in_words() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1000 * 1024, "1.0 MiB"),
        (GIB, "1.0 GiB"),
        (u64::MAX, "16384.0 PiB"),
    ] {
        assert_eq!(bytes_text(bytes), text);
    }
}

proptest! {
    /// Whatever a file or a user claims: an error or a plan that fits, never an overflow.
    #[test]
    fn hostile_numbers(
        weight_bytes in any::<u64>(),
        (heads, head_dim, layers) in (any::<usize>(), any::<usize>(), 0usize..5),
        row_bytes in any::<u64>(),
        chunk in prop::option::of(any::<usize>()),
        trained_context in any::<usize>(),
        max_seq_len in prop::option::of(any::<usize>()),
        min_kv_tokens in prop::option::of(any::<usize>()),
        kv_pages in prop::option::of(any::<usize>()),
        free in prop::option::of(any::<u64>()),
    ) {
        let heads = vec![HeadShape { heads, head_dim }; layers];
        let asked = Demand {
            weight_bytes,
            kv_heads: &heads,
            kv_dtype: KvDtype::F32,
            activation_bytes: &|rows| (rows as u64).saturating_mul(row_bytes),
            prefill_chunk: chunk,
            trained_context,
            max_seq_len,
            min_kv_tokens,
            kv_pages,
            free_bytes: free,
        };
        if let Ok(plan) = plan(&asked) {
            prop_assert!(plan.max_seq_len >= 1);
            prop_assert!(plan.kv_pages * PAGE_SIZE >= plan.max_seq_len);
            prop_assert!(plan.max_batch_rows >= 1 && plan.max_batch_rows <= plan.max_seq_len);
            prop_assert!(max_seq_len.is_none_or(|asked| asked == plan.max_seq_len));
            prop_assert!(free.is_none_or(|free| plan.total_bytes() <= free));
            let _ = plan.to_string();
        }
    }

    /// Small machines, where most plans are close to the edge.
    #[test]
    fn advice_can_be_followed(free in GIB..GIB + 64 * MIB, asked in 1usize..20_000) {
        let asked = Demand { free_bytes: Some(free), max_seq_len: Some(asked), ..demand() };
        if let Err(error) = plan(&asked) {
            let text = error.to_string();
            if let Some(tokens) = text.split("--max-seq-len ").nth(1) {
                let helped = Demand { max_seq_len: Some(tokens.parse().unwrap()), ..asked };
                prop_assert!(plan(&helped).is_ok(), "{text}");
            } else {
                prop_assert!(text.contains("smaller format"), "{text}");
            }
        }
    }
}
