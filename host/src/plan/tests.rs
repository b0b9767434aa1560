//! Plans for made-up models, checked by hand-made arithmetic.

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// 4 layers of 8 heads of 64: 4 · 8 · 64 · 2 (k, v) · 2 bytes = 8 KiB a token.
const LAYERS: [LayerKv; 4] = [LayerKv { heads: HEADS, window: None }; 4];
const HEADS: HeadShape = HeadShape { heads: 8, head_dim: 64 };

/// Bytes of 4 equal layers.
fn layers_of(total: u64) -> &'static WeightBytes {
    let weights = WeightBytes { layers: vec![total / 4; 4], ..WeightBytes::default() };
    Box::leak(Box::new(weights))
}

fn demand<'a>() -> Demand<'a> {
    Demand {
        weights: layers_of(GIB),
        kv_layers: &LAYERS,
        kv_dtype: KvDtype::F16,
        activations: ActivationBytes {
            layers: &|rows| rows as u64 * 512,
            logits: &|rows| rows as u64 * 256,
        },
        host_bytes: &|rows| rows as u64 * 256,
        sequence_bytes: &|_| 0,
        spill_bytes: 0,
        prefill_chunk: Some(512),
        sequences: 1,
        trained_context: 8192,
        max_seq_len: None,
        min_kv_tokens: None,
        kv_pages: None,
        free_bytes: Some(16 * GIB),
        device: None,
    }
}

#[test]
fn the_trained_context_when_it_fits() {
    let plan = plan(&demand()).unwrap();
    assert_eq!((plan.max_seq_len, plan.kv_groups[0].pages, plan.max_batch_rows), (8192, 512, 512));
    assert_eq!(plan.rows[1].bytes, 8192 * 8 * 1024);
    assert_eq!(plan.host_bytes(), GIB + 64 * MIB + MIB / 2);
    assert_eq!((plan.device_layers, plan.device_bytes()), (0, 0));
    assert!(plan.notices.is_empty());
}

#[test]
fn layers_with_a_window_keep_little_more_than_it() {
    let windowed = LayerKv { heads: HEADS, window: Some(1000) };
    let full = LayerKv { heads: HEADS, window: None };
    // 1000 tokens that begin and end within a page, a page that the rows begin, 512 rows, and as many
    // tokens again.
    let group = PageGroup { window: Some(1000), pages: 63 + 2 + 32 + 63 };
    let all = |pages| PageGroup { window: None, pages };
    let with = |layers: [LayerKv; 4], max_seq_len| {
        let layers = Box::leak(Box::new(layers));
        plan(&Demand { kv_layers: layers, max_seq_len, ..demand() }).unwrap()
    };
    let mixed = with([windowed, full, windowed, windowed], None);
    assert_eq!(mixed.kv_groups, [all(512), group]);
    assert_eq!(mixed.rows[1].bytes, (512 + 3 * 160) * 16 * 2048);
    assert!(
        mixed.to_string().contains("512 pages of 16 tokens, 160 pages for layers that see 1000")
    );
    let alone = with([windowed; 4], None);
    assert_eq!(alone.kv_groups, [group]);
    assert!(alone.to_string().contains("KV cache F16, 160 pages for layers that see 1000"));
    // Where a group of their own would take as many pages, there is none.
    assert_eq!(with([windowed; 4], Some(160 * 16)).kv_groups, [all(160)]);
    assert_eq!(with([windowed; 4], Some(160 * 16 + 1)).kv_groups, [group]);
    let told = |plan: &MemoryPlan| plan.notices.iter().any(|n| n.contains("160 pages"));
    let bounded = Demand { kv_pages: Some(512), kv_layers: &[windowed; 4], ..demand() };
    assert!(told(&plan(&bounded).unwrap()) && !told(&alone));
    let several = Demand { sequences: 3, kv_layers: &[windowed; 4], ..demand() };
    assert_eq!(plan(&several).unwrap().kv_groups[0].pages, 3 * (65 + 63) + 32);
}

#[test]
fn pages_that_left_take_memory_of_the_host() {
    let asked = Demand { spill_bytes: GIB, ..demand() };
    let spilled = plan(&asked).unwrap();
    assert_eq!(spilled.host_bytes(), plan(&demand()).unwrap().host_bytes() + GIB);
    assert!(spilled.to_string().contains("KV pages of requests that wait"));
    let tight = Demand { free_bytes: Some(2 * GIB), ..asked };
    assert!(matches!(plan(&tight), Err(PlanError::OutOfMemory { .. })));
}

#[test]
fn what_sequences_leave_is_on_the_host() {
    let kept = Demand { sequence_bytes: &|tokens| tokens as u64 * 512, ..demand() };
    assert_eq!(plan(&kept).unwrap().rows[2].bytes, MIB / 2 + 4 * MIB);
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
    assert_eq!((asked.max_seq_len, asked.kv_groups[0].pages), (12_000, 750));
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

    let weights = Demand { weights: layers_of(17 * GIB), ..demand() };
    let text = plan(&weights).unwrap_err().to_string();
    assert!(text.contains("17.0 GiB weights") && text.contains("smaller format"), "{text}");
}

#[test]
fn a_minimum_beyond_the_share_is_honoured() {
    let tight = Demand { free_bytes: Some(GIB + 20 * MIB), ..demand() };
    assert_eq!(plan(&tight).unwrap().max_seq_len, 1472);
    let held = plan(&Demand { min_kv_tokens: Some(2000), ..tight }).unwrap();
    assert_eq!((held.max_seq_len, held.kv_groups[0].pages), (2000, 125));
    let beyond = plan(&Demand { min_kv_tokens: Some(100_000), ..demand() }).unwrap();
    assert_eq!((beyond.max_seq_len, beyond.kv_groups[0].pages), (8192, 6250));
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
fn the_cache_holds_what_is_computed_together_as_far_as_the_share_goes() {
    let many = Demand { sequences: 4, ..demand() };
    let roomy = plan(&many).unwrap();
    assert_eq!(
        (roomy.max_seq_len, roomy.kv_groups[0].pages, roomy.max_batch_rows),
        (8192, 4 * 512, 512)
    );
    // As where an automatic context takes its share: 7616 tokens.
    let tight = Demand { free_bytes: Some(GIB + 100 * MIB), max_seq_len: Some(4000), ..many };
    let some = plan(&tight).unwrap();
    assert_eq!((some.max_seq_len, some.kv_groups[0].pages), (4000, 7616 / 16));
    // One of the longest kind may take all.
    let long = plan(&Demand { max_seq_len: Some(12_000), ..tight }).unwrap();
    assert_eq!((long.max_seq_len, long.kv_groups[0].pages), (12_000, 750));
    let small = plan(&Demand { prefill_chunk: Some(2), ..many }).unwrap();
    assert_eq!(small.max_batch_rows, 4, "one row of each");
    let short = plan(&Demand { max_seq_len: Some(100), ..many }).unwrap();
    assert_eq!((short.max_batch_rows, short.kv_groups[0].pages), (400, 25));
    let asked = plan(&Demand { kv_pages: Some(600), ..many }).unwrap();
    assert_eq!(asked.kv_groups[0].pages, 600);
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
    assert_eq!((chosen.max_seq_len, chosen.kv_groups[0].pages), (1600, 100));
    let large = plan(&Demand { kv_pages: Some(1000), ..demand() }).unwrap();
    assert_eq!((large.max_seq_len, large.kv_groups[0].pages), (8192, 1000));
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

/// Half a gibibyte of embedding and of head beside 4 layers of 256 MiB.
fn with_device<'a>(free_bytes: u64, layers: Option<usize>) -> Demand<'a> {
    let weights =
        WeightBytes { embedding: GIB / 2, layers: vec![GIB / 4; 4], head: GIB / 2, tied: false };
    let activations = ActivationBytes { layers: &|_| 7 * MIB, logits: &|_| MIB };
    let device =
        DeviceDemand { name: "Test GPU", free_bytes, layers, activations, sequence_bytes: &|_| 0 };
    Demand { weights: Box::leak(Box::new(weights)), device: Some(device), ..demand() }
}

/// What a device needs in [`with_device`] for so many of the layers and tokens.
fn needed_there(layers: u64, tokens: u64) -> u64 {
    let head = if layers == 4 { GIB / 2 + MIB } else { 0 };
    let weights = GIB / 2 + layers * GIB / 4;
    weights + head + layers * tokens * 2048 + 7 * MIB + DEVICE_HEADROOM_BYTES
}

#[test]
fn all_layers_on_a_device_that_holds_them() {
    let fitting = plan(&with_device(needed_there(4, 8192) + 8 * MIB, None)).unwrap();
    assert_eq!((fitting.device_layers, fitting.max_seq_len), (4, 8192));
    assert_eq!(fitting.device_bytes(), needed_there(4, 8192));
    assert_eq!(fitting.host_bytes(), 512 * 256);
    let more = plan(&with_device(16 * GIB, Some(99))).unwrap();
    assert_eq!(more.device_layers, 4);
    assert!(more.notices[0].contains("--gpu-layers 99"), "{:?}", more.notices);
}

#[test]
fn some_layers_on_a_device() {
    let text = plan(&with_device(4 * GIB, Some(3))).unwrap().to_string();
    let expected = "\
weights, 1 of 4 layers mapped file 768.0 MiB
weights, 3 of 4 layers GPU 1.2 GiB
KV cache F16, 512 pages of 16 tokens host 16.0 MiB
KV cache F16, 512 pages of 16 tokens GPU 48.0 MiB
activations and logits, 512 rows host 512.0 KiB
activations and logits, 512 rows GPU 7.0 MiB
headroom GPU 300.0 MiB
total host 784.5 MiB of 16.0 GiB free
total GPU 1.6 GiB of 4.0 GiB free on Test GPU
context: 8192 tokens (trained for 8192)";
    let squeezed: Vec<_> =
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(squeezed, expected.lines().collect::<Vec<_>>());
}

#[test]
fn no_layers_on_a_device_is_a_plan_without_it() {
    let none = plan(&with_device(0, Some(0))).unwrap();
    let demand = with_device(0, Some(0));
    assert_eq!(none, plan(&Demand { device: None, ..demand }).unwrap());
}

#[test]
fn an_embedding_that_is_the_head_lies_in_both_places() {
    let apart = with_device(4 * GIB, Some(1));
    let tied = WeightBytes { head: MIB, tied: true, ..apart.weights.clone() };
    let bytes = |layers| {
        let device = DeviceDemand { layers: Some(layers), ..apart.device.unwrap() };
        let plan = plan(&Demand { weights: &tied, device: Some(device), ..apart }).unwrap();
        let of = |place| {
            let mut rows = plan.rows.iter();
            rows.find(|r| r.what.starts_with("weights") && r.place == place).map_or(0, |r| r.bytes)
        };
        (of("mapped file"), of("GPU"))
    };
    let all = 3 * GIB / 2 + MIB;
    assert_eq!(bytes(0), (all, 0));
    assert_eq!(bytes(1), (GIB / 2 + 3 * GIB / 4 + MIB, GIB / 2 + GIB / 4));
    assert_eq!(bytes(4), (0, all));
}

#[test]
fn layers_that_a_device_does_not_hold_are_refused_with_the_number_that_fits() {
    let text = plan(&with_device(needed_there(3, 512), None)).unwrap_err().to_string();
    assert_eq!(
        text,
        "needs 2.3 GiB on the GPU for 512 tokens of context (2.0 GiB weights, 4.0 MiB KV cache, \
         8.0 MiB activations, 300.0 MiB headroom), 1.6 GiB free; try --gpu-layers 3"
    );
    for free in (0..3 * GIB).step_by(37 << 20) {
        for tokens in [None, Some(6000)] {
            let asked = |layers| {
                plan(&Demand { max_seq_len: tokens, ..with_device(free, layers) })
                    .map(|plan| plan.device_layers)
            };
            let Err(error) = asked(None) else { continue };
            let text = error.to_string();
            let advised = text.split("--gpu-layers ").nth(1).unwrap().parse().unwrap();
            assert_eq!(asked(Some(advised)), Ok(advised), "{text}");
            assert!(asked(Some(advised + 1)).is_err(), "{text}");
        }
    }
}

#[test]
fn a_host_that_is_too_small_is_helped_by_the_device() {
    let small = Demand { free_bytes: Some(GIB), ..with_device(16 * GIB, Some(1)) };
    let text = plan(&small).unwrap_err().to_string();
    assert!(text.contains("on the host") && text.ends_with("try --gpu-layers 4"), "{text}");
    // Neither holds its part of a long context: there is no number of layers that helps.
    let both = Demand { max_seq_len: Some(100_000), ..with_device(needed_there(1, 4096), Some(1)) };
    let both = Demand { free_bytes: Some(5 * GIB / 4 + 64 * MIB), ..both };
    let text = plan(&both).unwrap_err().to_string();
    assert!(text.ends_with("try --max-seq-len 4096"), "{text}");
    let helped = Demand { max_seq_len: Some(4096), ..both };
    plan(&helped).unwrap();
}

#[test]
fn an_automatic_context_is_what_the_device_holds() {
    // 90 % of 100 MiB, less 7 MiB of activations, at 6 KiB a token of 3 layers, in whole pages.
    let plan = plan(&with_device(needed_there(3, 0) + 93 * MIB, Some(3))).unwrap();
    assert_eq!(plan.max_seq_len, 8192);
    let long = |trained_context| Demand {
        trained_context,
        ..with_device(needed_there(3, 0) + 93 * MIB, Some(3))
    };
    let plan = super::plan(&long(1 << 16)).unwrap();
    assert_eq!(plan.max_seq_len, 83 * MIB as usize / 6144 / 16 * 16);
    assert_eq!(plan.kv_groups[0].pages, plan.max_seq_len / 16);
}

proptest! {
    /// Whatever a file or a user claims: an error or a plan that fits, never an overflow.
    #[test]
    fn hostile_numbers(
        (embedding, layer, head, tied) in (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()),
        small in any::<bool>(),
        (heads, head_dim, layers) in (any::<usize>(), any::<usize>(), 0usize..5),
        row_bytes in any::<u64>(),
        (chunk, sequences) in (prop::option::of(any::<usize>()), 1usize..2000),
        trained_context in any::<usize>(),
        max_seq_len in prop::option::of(any::<usize>()),
        min_kv_tokens in prop::option::of(any::<usize>()),
        window in prop::option::of(1usize..5000),
        kv_pages in prop::option::of(any::<usize>()),
        free in prop::option::of(any::<u64>()),
        device in prop::option::of((any::<u64>(), prop::option::of(0usize..7))),
    ) {
        // Sums of any numbers are nearly always too large; small ones reach the plans.
        let scale = |n: u64| if small { n >> 40 } else { n };
        let heads = HeadShape { heads, head_dim };
        let windows = [None, window, window, None];
        let kv_layers: Vec<LayerKv> =
            (0..layers).map(|i| LayerKv { heads, window: windows[i % 4] }).collect();
        let weights = WeightBytes {
            embedding: scale(embedding),
            layers: vec![scale(layer); layers],
            head: scale(head),
            tied,
        };
        let cost = |rows: usize| (rows as u64).saturating_mul(scale(row_bytes));
        let activations = ActivationBytes { layers: &cost, logits: &cost };
        let asked = Demand {
            weights: &weights,
            kv_layers: &kv_layers,
            kv_dtype: KvDtype::F32,
            activations,
            host_bytes: &cost,
            sequence_bytes: &cost,
            prefill_chunk: chunk,
            spill_bytes: scale(row_bytes),
            sequences,
            trained_context,
            max_seq_len,
            min_kv_tokens,
            kv_pages,
            free_bytes: free,
            device: device.map(|(free_bytes, layers)| DeviceDemand {
                name: "GPU",
                free_bytes,
                layers,
                activations,
                sequence_bytes: &|tokens| tokens as u64,
            }),
        };
        match plan(&asked) {
            Ok(plan) => {
                prop_assert!(plan.max_seq_len >= 1);
                prop_assert!(plan.kv_groups.len() == 1 || plan.kv_groups[1].window == window);
                prop_assert!(plan.kv_groups[0].pages * PAGE_SIZE >= plan.max_seq_len);
                let most = plan.max_seq_len.saturating_mul(sequences);
                prop_assert!((sequences..=most).contains(&plan.max_batch_rows));
                prop_assert!(max_seq_len.is_none_or(|asked| asked == plan.max_seq_len));
                prop_assert!(free.is_none_or(|free| plan.host_bytes() <= free));
                let asked = device.map_or(0, |(_, asked)| asked.unwrap_or(layers).min(layers));
                prop_assert_eq!(plan.device_layers, asked);
                prop_assert!(device.is_none_or(|(free, _)| plan.device_bytes() <= free));
                let _ = plan.to_string();
            }
            Err(error) => {
                let _ = error.to_string();
            }
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
