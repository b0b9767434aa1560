//! Vocabularies that lie, and arbitrary ones: a clear error or a tokenizer, never a panic.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{TokenKind, Tokenizer, TokenizerError, VocabSource, hf};
use crate::checkpoint::HfMetadata;

use TokenKind::{Byte, Control, Normal, Unknown, UserDefined};

/// Byte-level BPE over "a", "b", "ab".
fn bpe<'a>() -> VocabSource<'a> {
    VocabSource {
        origin: "v.gguf".into(),
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: vec!["<s>", "a", "b", "ab", "</s>"],
        kinds: vec![Control, Normal, Normal, Normal, Control],
        merges: Some(vec!["a b"]),
        bos: Some(0),
        eos: Some(4),
        ..VocabSource::default()
    }
}

/// SentencePiece over the same.
fn spm<'a>() -> VocabSource<'a> {
    VocabSource {
        origin: "v.gguf".into(),
        model: "llama",
        tokens: vec!["<unk>", "<s>", "</s>", "a", "b", "ab", "\u{2581}", "<0x0A>"],
        kinds: vec![Unknown, Control, Control, Normal, Normal, Normal, Normal, Byte],
        scores: vec![0.0, 0.0, 0.0, -3.0, -3.0, -1.0, -2.0, 0.0],
        ..VocabSource::default()
    }
}

/// The message of the error that `change` causes.
fn error<'a>(mut source: VocabSource<'a>, change: impl FnOnce(&mut VocabSource<'a>)) -> String {
    change(&mut source);
    source.build().unwrap_err().to_string()
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[test]
fn the_plain_ones_work() {
    let t = bpe().build().unwrap();
    assert_eq!(t.encode("ab<s>", false, true).unwrap(), [3, 0]);
    let t = spm().build().unwrap();
    assert_eq!(t.encode("ab\n", true, false).unwrap(), [1, 6, 5, 7]);
    assert_eq!(t.decode(&[1, 6, 5, 7], true), "ab\n");
    // No byte token for it: the unknown one.
    assert_eq!(t.encode("é", false, false).unwrap(), [6, 0]);
}

#[test]
fn names_that_nobody_knows_are_listed_with_those_known() {
    assert_says(&error(bpe(), |s| s.model = "rwkv"), &["v.gguf", "\"rwkv\"", "bert, gemma4"]);
    assert_says(
        &error(bpe(), |s| s.pre = Some("mystery")),
        &["\"mystery\"", "llama-bpe", "smollm"],
    );
}

#[test]
fn lengths_and_ids_must_fit() {
    assert_says(&error(bpe(), |s| s.tokens.clear()), &["tokens", "is empty"]);
    let message = error(bpe(), |s| s.kinds.truncate(3));
    assert_says(&message, &["token_type", "has 3 elements", "tokens has 5"]);
    assert_says(&error(spm(), |s| s.scores.push(0.0)), &["scores", "has 9", "tokens has 8"]);
    assert_says(&error(spm(), |s| s.scores.clear()), &["scores", "is missing"]);
    assert_says(&error(spm(), |s| s.scores[4] = f32::NAN), &["scores", "element 4"]);
    assert_says(&error(bpe(), |s| s.eos = Some(5)), &["eos_token_id", "is 5", "5 tokens"]);
    assert_says(&error(bpe(), |s| s.bos = Some(u32::MAX)), &["bos_token_id", "4294967295"]);
    let message = error(bpe(), |s| (s.add_bos, s.bos) = (Some(true), None));
    assert_says(&message, &["bos_token_id", "is missing"]);
    assert_says(&error(bpe(), |s| s.merges = None), &["merges", "is missing"]);
}

#[test]
fn tokens_and_merges_must_make_sense() {
    for wrong in ["<0x-1>", "<0xGG>", "<0x0>"] {
        let message = error(spm(), |s| s.tokens[7] = wrong);
        assert_says(&message, &["element 7", wrong, "expected <0xHH>"]);
    }
    assert_says(&error(bpe(), |s| s.tokens[2] = "a"), &["element 2", "\"a\"", "there before"]);
    assert_says(&error(spm(), |s| s.tokens[4] = "a"), &["element 4", "\"a\"", "there before"]);
    assert_says(&error(bpe(), |s| s.merges = Some(vec!["a x"])), &["merges", "x"]);
    assert_says(&error(bpe(), |s| s.merges = Some(vec!["b a"])), &["merges", "ba"]);
    assert_says(&error(bpe(), |s| s.merges = Some(vec!["a b", "ab"])), &["element 1", "\"ab\""]);
    // Longer than any token: the library would copy it past the end of its buffer.
    let message = error(bpe(), |s| s.merges = Some(vec!["</s> </s>"]));
    assert_says(&message, &["merges", "0 joins \"</s>\""]);
    let blob = Some(vec![0xff; 8]);
    let message = error(spm(), |s| (s.model, s.precompiled_charsmap) = ("t5", blob));
    assert_says(&message, &["precompiled_charsmap", "claims a trie"]);
}

#[test]
fn harmless_oddities_are_accepted() {
    let mut source = bpe();
    source.tokens.extend(["a\0b", "", ""]);
    source.kinds.extend([UserDefined, Normal, Normal]);
    let t = source.build().unwrap();
    assert_eq!(t.encode("ba\0bab", false, false).unwrap(), [2, 5, 3]);
    assert_eq!(t.piece(5), b"a\0b");
    assert_eq!(t.piece(6), b"");
    assert_eq!(t.decode(&[2, 99, u32::MAX, 3], false), "bab");
}

#[test]
fn text_that_no_token_expresses_is_an_error() {
    let t = bpe().build().unwrap();
    let found = t.encode("abc", false, false);
    assert!(matches!(found, Err(TokenizerError::Inexpressible { .. })), "{found:?}");
}

#[test]
fn control_tokens_spelled_in_text_are_text() {
    let mut source = bpe();
    source.tokens.extend(["<", ">", "s", "/", "[T]", "[", "T", "]"]);
    source.kinds.extend([Normal; 4]);
    source.kinds.extend([UserDefined, Normal, Normal, Normal]);
    let t = source.build().unwrap();
    assert_eq!(t.encode("<s>[T]</s>", false, false).unwrap(), [5, 7, 6, 9, 5, 8, 7, 6]);
    assert_eq!(t.encode("<s>[T]</s>", false, true).unwrap(), [0, 9, 4]);
    assert!(t.is_special(0) && t.is_special(4) && !t.is_special(9) && !t.is_special(99));
}

/// Loads a `tokenizer.json` made of `json`.
fn load(json: &Value) -> Result<Option<Tokenizer>, TokenizerError> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("imp-tokenizer-{}-{count}.json", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, json.to_string()).unwrap();
    let metadata = HfMetadata { tokenizer_json: Some(path.clone()), ..HfMetadata::default() };
    let loaded = hf::load(&metadata);
    std::fs::remove_file(path).unwrap();
    loaded
}

#[test]
fn a_tokenizer_json_that_lies_is_refused() {
    let bpe = |vocab, merges| json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}});
    let decoder = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "decoder": {"type": "Mystery"}});
    let added = json!({"model": {"type": "BPE", "vocab": {}, "merges": []},
        "added_tokens": [{"id": 1u64 << 40, "content": "x", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}]});
    let framed = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "post_processor": {"type": "BertProcessing", "sep": ["x", 0], "cls": ["y", 9]}});
    let fixed = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer":
        {"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 0}]}});
    let words = json!({"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 1_000_000}});
    let cases = [
        (json!({}), "model is missing"),
        (json!({"model": {"type": "Mystery"}}), "\"Mystery\""),
        (json!({"model": {"type": "Unigram", "vocab": 1}}), "not the JSON of a tokenizer"),
        (bpe(json!([]), json!([])), "model.vocab is missing"),
        (bpe(json!({"a": -1}), json!([])), "has the id -1"),
        (bpe(json!({"a": 0, "b": 0}), json!([])), "gives id 0"),
        (bpe(json!({"a": 0}), json!(["a"])), "expected two tokens"),
        (bpe(json!({"a": 0}), json!([["a", "a"]])), "is not a token"),
        (bpe(json!({"a": 0, "b": 1 << 20}), json!([])), "has the id 1048576, but 2 tokens"),
        (decoder, "\"Mystery\""),
        (added, "added_tokens has the id 1099511627776"),
        (fixed, "pre_tokenizer has the type \"FixedLength\""),
        (words, "max_input_chars_per_word is 1000000, expected at most 512"),
        (framed, "post_processor adds the id 9, the vocabulary has 1 tokens"),
    ];
    for (json, says) in cases {
        assert_says(&load(&json).unwrap_err().to_string(), &[says]);
    }
    assert!(load(&bpe(json!({"a": 0}), json!([]))).is_ok());
}

#[test]
fn normalizers_that_let_the_text_grow_without_end_are_stopped() {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let twice = vec![replace(json!({"String": "a"}), "aa"); 40];
    let long = "x".repeat(1 << 20);
    for normalizer in [
        json!({"type": "Sequence", "normalizers": twice}),
        replace(json!({"Regex": "."}), &long),
        replace(json!({"Regex": ""}), &long),
        json!({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": twice}]}),
    ] {
        let json = json!({"model": {"type": "BPE", "vocab": {"a": 0, "u": 1}, "merges": [],
            "unk_token": "u", "fuse_unk": true}, "normalizer": normalizer});
        let tokenizer = load(&json).unwrap().unwrap();
        let error = tokenizer.encode(&"a".repeat(1000), false, false).unwrap_err();
        assert_says(&error.to_string(), &["normalizer", "grows too long"]);
    }
}

/// What a vocabulary may hold: short texts over few characters, so that they meet.
fn text() -> impl Strategy<Value = String> {
    let spice = prop::sample::select(vec![
        "",
        "<s>",
        "</s>",
        "<|im_end|>",
        "<0x0A>",
        "<0xGG>",
        "\u{2581}",
        "\u{2581}a",
        "a b",
        " ",
        "\0",
        "é",
        "Ġ",
        "ab",
        "😀",
    ]);
    prop_oneof![2 => "[ab\u{2581} Ġé\n<>]{0,4}", 1 => spice.prop_map(str::to_owned)]
}

fn kind() -> impl Strategy<Value = TokenKind> {
    prop_oneof![4 => Just(1), 1 => 0..=6i32].prop_map(|n| TokenKind::from_gguf(n).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_vocabulary_and_no_text_makes_it_panic(
        model in prop::sample::select(vec!["gpt2", "llama", "t5", "bert", "gemma4", "x"]),
        pre in prop::option::of(prop::sample::select(vec!["gpt-2", "llama-bpe", "gemma4", "deepseek-llm", "x"])),
        mut tokens in prop::collection::vec(text(), 1..40),
        mut kinds in prop::collection::vec(kind(), 60),
        scores in prop::collection::vec(prop_oneof![99 => -20f32..20.0, 1 => any::<f32>()], 60),
        merges in prop::collection::vec((0..40usize, 0..40usize), 0..20),
        mut ids in prop::collection::vec(prop::option::of(0..45u32), 6),
        flags in any::<[Option<bool>; 4]>(),
        charsmap in prop::option::of(prop::collection::vec(any::<u8>(), 0..64)),
        trie_units in 0..16u8,
        prompt in prop_oneof![text(), any::<String>(), prop::collection::vec(text(), 0..20).prop_map(|v| v.concat())],
        lists in 0..8u8,
    ) {
        // Most vocabularies are to get past the checks: merged tokens exist, spellings differ,
        // byte tokens are such, ids are in range.
        let sound = lists != 3;
        let n = tokens.len();
        let pairs: Vec<_> = merges.iter().map(|(a, b)| (&tokens[a % n], &tokens[b % n])).collect();
        let merges: Vec<String> = pairs.iter().map(|(a, b)| format!("{a} {b}")).collect();
        let joined: Vec<String> = pairs.iter().map(|(a, b)| format!("{a}{b}")).collect();
        if sound {
            tokens.extend(joined);
            let mut seen = std::collections::HashSet::new();
            tokens.retain(|token| seen.insert(token.clone()));
            kinds.truncate(tokens.len());
            for (kind, text) in kinds.iter_mut().zip(&tokens) {
                if *kind == Byte && super::alphabet::parse_byte_token(text).is_none() {
                    *kind = Normal;
                }
            }
            ids.iter_mut().flatten().for_each(|id| *id %= tokens.len() as u32);
        }
        let n = tokens.len();
        let source = VocabSource {
            origin: "arbitrary".into(),
            model,
            pre,
            tokens: tokens.iter().map(String::as_str).collect(),
            kinds: if lists == 0 { vec![] } else { kinds[..n].to_vec() },
            scores: if lists == 1 { vec![] } else { scores[..n].to_vec() },
            merges: (lists != 2).then(|| merges.iter().map(String::as_str).collect()),
            bos: ids[0], eos: ids[1], eot: ids[2], eom: ids[3], unk: ids[4], sep: ids[5],
            add_bos: flags[0],
            add_eos: flags[1],
            add_space_prefix: flags[2],
            remove_extra_whitespaces: flags[3] == Some(true),
            precompiled_charsmap: charsmap.map(|tail| [&[trie_units * 4, 0, 0, 0], &tail[..]].concat()),
            ..VocabSource::default()
        };
        if let Ok(tokenizer) = source.build() {
            for flags in 0..4 {
                if let Ok(ids) = tokenizer.encode(&prompt, flags & 1 > 0, flags & 2 > 0) {
                    for &id in &ids {
                        prop_assert!((id as usize) < tokenizer.vocab_size());
                    }
                    tokenizer.decode(&ids, flags & 1 > 0);
                }
            }
        }
    }
}

/// All places in a document, as JSON pointers.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{at}/{key}"), all);
            }
        }
        Value::Array(list) => {
            // The ends of a long list stand for the rest.
            for (i, value) in list.iter().enumerate().filter(|(i, _)| *i < 4 || i + 2 > list.len())
            {
                places(value, &format!("{at}/{i}"), all);
            }
        }
        _ => {}
    }
}

fn junk() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(1u64 << 33),
        json!(1.5),
        json!(""),
        json!("a"),
        json!("\u{2581}"),
        json!([]),
        json!({}),
        json!([[]]),
        json!("first"),
        json!("BPE"),
        json!("Unigram"),
        json!("WordPiece"),
        json!("WordLevel"),
        json!("Removed"),
        json!("AAAAAAAAAA=="),
        json!({"Regex": "("}),
        json!({"Regex": ""}),
        json!({"Regex": "(?=a)|b*"}),
        json!({"String": ""}),
        json!([["a", -1.0]]),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        json!({"type": "Replace", "pattern": {"Regex": "a*"}, "content": "b"}),
        json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA="}),
        json!({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}),
        json!({"type": "Split", "pattern": {"Regex": "(?<=a)b|"}, "behavior": "Isolated",
            "invert": false}),
        json!({"type": "Whitespace"}),
        json!({"type": "Punctuation", "behavior": "Contiguous"}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}),
        json!({"type": "FixedLength", "length": 0}),
        json!({"type": "UnicodeScripts"}),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_tokenizer_json_makes_it_panic(
        base in 0..3usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), junk()), 1..4),
        prompt in prop_oneof![text(), any::<String>()],
    ) {
        let mut json = small_files()[base].clone();
        for (place, value) in changes {
            let mut all = vec![];
            places(&json, "", &mut all);
            let place = &all[place.index(all.len())];
            if let Some(node) = json.pointer_mut(place) {
                *node = value;
            }
        }
        if let Ok(Some(tokenizer)) = load(&json) {
            for flags in [(false, false), (true, true)] {
                if let Ok(ids) = tokenizer.encode(&prompt, flags.0, flags.1) {
                    tokenizer.decode(&ids, true);
                }
            }
        }
    }
}

/// A small `tokenizer.json` of each kind.
fn small_files() -> [Value; 3] {
    let added = json!([{"id": 5, "content": "<s>", "single_word": false, "lstrip": true,
        "rstrip": false, "normalized": false, "special": true}]);
    let bpe = json!({
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|\\s+"}, "behavior": "Isolated",
             "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true, "trim_offsets": true}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": null, "byte_fallback": false, "ignore_merges": true,
            "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": [["a", "b"]]}});
    let unigram = json!({
        "added_tokens": added,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true},
        "decoder": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true,
            "vocab": [["<unk>", 0.0], ["a", -1.0], ["\u{2581}", -2.0], ["ab", -1.5]]}});
    let wordpiece = json!({
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
            {"type": "Prepend", "prepend": "\u{2581}"}]},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"<unk>": 0, "a": 1, "##b": 2}}});
    [bpe, unigram, wordpiece]
}

#[test]
fn the_small_files_load() {
    for json in small_files() {
        let tokenizer = load(&json).unwrap().unwrap();
        assert!(tokenizer.encode("ab", true, true).is_ok());
    }
}
