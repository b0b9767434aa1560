//! Random answers under grammars, against checkers that are not ours.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::text::{ReasoningFormat, ToolFormat, testing};

/// How random logits are drawn.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    pub seed: u64,
    /// Whether the text shows control tokens.
    pub spelled: bool,
}

fn random(state: &mut u64) -> u64 {
    // SplitMix64.
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A text under random logits that have a liking for short tokens and for the end; `None` when it is not whole after
/// `most` tokens.
pub(super) fn generate(
    tokenizer: &Tokenizer,
    mut constraint: Constraint,
    most: usize,
    draw: Draw,
) -> Option<String> {
    let state = &mut draw.seed.clone();
    let liked = |id: u32| match tokenizer.piece(id) {
        b"\"" | b"}" | b"]" | b"\"}" => 12.0,
        b"\n" | b"</" | b">" => 6.0,
        piece if tokenizer.is_end_of_generation(id) || piece.len() < 2 => 3.0,
        _ => 0.0,
    };
    let bias: Vec<f32> = (0..tokenizer.vocab_size() as u32).map(liked).collect();
    let mut tokens = vec![];
    // Logits may have more rows than the vocabulary.
    let mut logits = vec![0.0; bias.len() + 7];
    for _ in 0..most {
        for (index, logit) in logits.iter_mut().enumerate() {
            let noise = (random(state) >> 40) as f32 / 16_777_216.0;
            *logit = 20.0 * noise + bias.get(index).unwrap_or(&30.0);
        }
        constraint.mask(&mut logits).unwrap();
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        assert!(logits[best].is_finite(), "nothing is allowed after {tokens:?}");
        let token = best as u32;
        if tokenizer.is_end_of_generation(token) {
            return Some(text(tokenizer, &tokens, draw.spelled));
        }
        tokens.push(token);
        constraint.accept(token).unwrap();
        if constraint.is_complete() {
            return Some(text(tokenizer, &tokens, draw.spelled));
        }
    }
    None
}

/// As an answer shows it, where a first space is part of the text.
fn text(tokenizer: &Tokenizer, tokens: &[u32], spelled: bool) -> String {
    let shown = tokens.iter().filter(|id| spelled || !tokenizer.is_special(**id));
    let bytes: Vec<u8> = shown.flat_map(|id| tokenizer.piece(*id)).copied().collect();
    String::from_utf8(bytes).unwrap()
}

/// Checks the texts of many seeds; some must come to their end.
fn check(vocabulary: &str, spec: &GrammarSpec, valid: &dyn Fn(&str) -> bool) {
    let tokenizer = testing::tokenizer(vocabulary);
    let constraint = Grammars::new(tokenizer.clone()).compile(spec).unwrap();
    let mut whole = 0;
    for seed in 0..24 {
        let draw = Draw { seed, spelled: false };
        if let Some(text) = generate(&tokenizer, constraint.clone(), 160, draw) {
            whole += 1;
            assert!(valid(&text), "{vocabulary}, seed {seed}: {text:?}");
        }
    }
    assert!(whole > 5, "{vocabulary}: {whole} answers came to their end");
}

const VOCABULARIES: [&str; 2] = ["smollm2", "llama-spm"];

#[test]
fn json_follows_its_schema() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["kind", "at"],
        "properties": {
            "kind": {"enum": ["a", "bé", 3]},
            "at": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 2},
            "name": {"type": "string", "maxLength": 5, "pattern": "^[a-f]+$"},
            "n": {"type": "integer", "minimum": -3, "maximum": 12},
            "or": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        },
        "$defs": {"point": {"type": "object", "additionalProperties": false,
            "properties": {"x": {"type": "number"}}, "required": ["x"]}},
    });
    for vocabulary in VOCABULARIES {
        check(vocabulary, &GrammarSpec::JsonSchema(schema.clone()), &|text| {
            let value: Value = serde_json::from_str(text).unwrap();
            jsonschema::is_valid(&schema, &value)
        });
        check(vocabulary, &GrammarSpec::JsonObject, &|text| {
            serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
        });
    }
}

#[test]
fn text_follows_its_regex_and_grammar() {
    let pattern = r"(\d{1,3}\.){3}\d{1,3}|[a-zé]{2,4}(, ?[A-Z]+)*!?|/\w/";
    let whole = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
    let gbnf = "root ::= ip | word (\", \" word)* [!?]?\nip ::= ([0-9]{1,3} \".\"){3} [0-9]{1,3}\n\
                word ::= \"ab\" \"c\" | [a-f] word? | \"(\" word \")\"";
    let lark = "start: WORD (\", \" WORD)*\nWORD: /[a-f]{1,4}/";
    let gbnf_shape = r"^(([0-9]{1,3}\.){3}[0-9]{1,3}|[a-f()]+(, [a-f()]+)*[!?]?)$";
    let gbnf_shape = regex::Regex::new(gbnf_shape).unwrap();
    let lark_shape = regex::Regex::new("^[a-f]{1,4}(, [a-f]{1,4})*$").unwrap();
    for vocabulary in VOCABULARIES {
        let spec = GrammarSpec::Regex(pattern.to_owned());
        check(vocabulary, &spec, &|text| whole.is_match(text));
        let spec = GrammarSpec::Gbnf(gbnf.to_owned());
        check(vocabulary, &spec, &|text| gbnf_shape.is_match(text));
        let spec = GrammarSpec::Lark(lark.to_owned());
        check(vocabulary, &spec, &|text| lark_shape.is_match(text));
    }
}

#[test]
fn an_answer_is_one_of_the_choices() {
    // One is the head of another, one is no text of a grammar's notation, one has what a regex would read.
    let choices = ["yes", "yes, but", "a\"b\\n/\n", "[é.*]", "7"].map(str::to_owned);
    for vocabulary in VOCABULARIES {
        let spec = GrammarSpec::Choice(choices.to_vec());
        check(vocabulary, &spec, &|text| choices.iter().any(|choice| choice == text));
    }
    let tokenizer = testing::tokenizer("smollm2");
    let grammars = Grammars::new(tokenizer.clone());
    let spec = GrammarSpec::Choice(choices.to_vec());
    let constraint = grammars.compile(&spec).unwrap();
    let seen: std::collections::HashSet<String> = (0..200)
        .filter_map(|seed| {
            generate(&tokenizer, constraint.clone(), 40, Draw { seed, spelled: false })
        })
        .collect();
    assert!(seen.contains("yes") && seen.contains("yes, but"), "{seen:?}");
    let many = GrammarSpec::Choice(vec!["x".repeat(1000); 100]);
    let error = grammars.compile(&many).unwrap_err().to_string();
    assert!(error.contains("choices' size in bytes is"), "{error}");
}

/// Both ways through an ambiguous literal stay open, which a longest match would close.
#[test]
fn gbnf_alternatives_do_not_hide_each_other() {
    let tokenizer = testing::tokenizer("smollm2");
    let gbnf = "root ::= \"a\" \"b\" \"x\" | \"ab\" \"y\"";
    let grammars = Grammars::new(tokenizer.clone());
    let constraint = grammars.compile(&GrammarSpec::Gbnf(gbnf.to_owned())).unwrap();
    for text in ["abx", "aby"] {
        let mut constraint = constraint.clone();
        for token in
            text.chars().flat_map(|c| tokenizer.encode(&c.to_string(), false, false).unwrap())
        {
            assert!(!constraint.is_complete());
            constraint.accept(token).unwrap();
        }
        assert!(constraint.is_complete(), "{text}");
    }
    let mut other = constraint;
    let z = tokenizer.encode("z", false, false).unwrap()[0];
    assert!(matches!(other.accept(z), Err(ConstraintError::Failed(_))));
}

fn refused(spec: &GrammarSpec) -> ConstraintError {
    refusal(spec).unwrap_or_else(|| panic!("{spec:?} was compiled"))
}

fn refusal(spec: &GrammarSpec) -> Option<ConstraintError> {
    static TOKENIZER: OnceLock<Grammars> = OnceLock::new();
    let grammars = TOKENIZER.get_or_init(|| Grammars::new(testing::tokenizer("smollm2")));
    grammars.compile(spec).err()
}

#[test]
fn limits_are_named() {
    let mut deep = json!({"type": "string"});
    for _ in 0..100 {
        deep = json!({ "items": deep });
    }
    let wide: Vec<String> = (0..40_000).map(|n| format!("value {n}")).collect();
    let regex = |text: String| GrammarSpec::Regex(text);
    let cases = [
        (GrammarSpec::JsonSchema(deep), "depth in levels"),
        (GrammarSpec::JsonSchema(json!({ "enum": wide })), "size in bytes"),
        (regex("a".repeat(MAX_REGEX_BYTES + 1)), "regular expression's size"),
        (regex("a{1,100000}".to_owned()), "repetition count"),
        (GrammarSpec::Lark("(".repeat(500)), "depth in brackets"),
        (GrammarSpec::Gbnf(" ".repeat(MAX_GRAMMAR_BYTES + 1)), "grammar's size"),
        (GrammarSpec::Gbnf("root ::= \"a\"{20000}".to_owned()), "repetition count"),
    ];
    for (spec, what) in cases {
        let error = refused(&spec);
        assert!(matches!(error, ConstraintError::Limit { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn what_cannot_be_compiled_is_refused() {
    let specs = [
        GrammarSpec::JsonSchema(json!("string")),
        GrammarSpec::Gbnf(format!("root ::= {}", "(\":\"".repeat(10_000))),
        GrammarSpec::Gbnf("root ::= \"a\"{+90000000}".to_owned()),
        GrammarSpec::JsonSchema(json!({"type": "text"})),
        GrammarSpec::JsonSchema(json!(false)),
        GrammarSpec::JsonSchema(json!({"$ref": "#/$defs/a", "$defs": {
            "a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})),
        GrammarSpec::JsonSchema(json!({"$ref": "#/$defs/none"})),
        GrammarSpec::JsonSchema(json!({"$ref": "https://example.com/schema.json"})),
        GrammarSpec::JsonSchema(json!({"type": "string", "pattern": "a(?=b)"})),
        GrammarSpec::JsonSchema(json!({"type": "string", "pattern": "("})),
        GrammarSpec::JsonSchema(json!({"not": {"type": "string"}})),
        GrammarSpec::Regex("a(?!b)".to_owned()),
        GrammarSpec::Regex(r"(a)\1".to_owned()),
        GrammarSpec::Regex("[".to_owned()),
        GrammarSpec::Lark("begin: \"a\"".to_owned()),
        GrammarSpec::Lark("start: other".to_owned()),
        GrammarSpec::Lark(String::new()),
        GrammarSpec::Gbnf("root ::= other".to_owned()),
        GrammarSpec::Gbnf("root ::= root".to_owned()),
    ];
    let accepted: Vec<_> = specs.iter().filter(|spec| refusal(spec).is_none()).collect();
    assert!(accepted.is_empty(), "{accepted:?}");
    for spec in specs {
        let error = refused(&spec);
        assert!(matches!(error, ConstraintError::Invalid { .. }), "{spec:?}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
}

/// Grammars that would be huge when written out are refused or cheap, and come to an error in the worst case.
#[test]
fn hostile_grammars_cost_little() {
    let grammars = Grammars::new(testing::tokenizer("smollm2"));
    let any: Vec<Value> = (0..24)
        .map(|n| json!({"anyOf": [{"required": [format!("a{n}")]}, {"required": [format!("b{n}")]}]}))
        .collect();
    let many: serde_json::Map<String, Value> =
        (0..2000).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
    let specs = [
        GrammarSpec::JsonSchema(json!({"type": "object", "allOf": any})),
        GrammarSpec::JsonSchema(json!({"type": "object", "properties": many})),
        GrammarSpec::JsonSchema(json!({"type": "array", "minItems": 1_000_000_000})),
        GrammarSpec::JsonSchema(json!({"type": "string", "maxLength": 1_000_000_000})),
        GrammarSpec::JsonSchema(json!({"type": "string", "pattern": "(a+)+b(.*c){900}"})),
        GrammarSpec::Regex("((a{1,900}){1,900}){1,900}".to_owned()),
        GrammarSpec::Regex("(.*a.{2000}){2000}".to_owned()),
        GrammarSpec::Gbnf("root ::= ((\"a\"?){0,9000}){0,9000}".to_owned()),
        GrammarSpec::Gbnf("root ::= root root | \"a\" | ".to_owned()),
        GrammarSpec::Lark("start: A\nA: /(.*a.{100}){20}/ & ~/.*c.{50}/".to_owned()),
    ];
    for spec in specs {
        let began = std::time::Instant::now();
        let Ok(mut constraint) = grammars.compile(&spec) else { continue };
        let mut logits = vec![0.0; grammars.tokenizer().vocab_size()];
        for _ in 0..20 {
            logits.fill(0.0);
            if constraint.mask(&mut logits).is_err() || constraint.is_complete() {
                break;
            }
            let token = logits.iter().rposition(|logit| logit.is_finite()).unwrap();
            if constraint.accept(token as u32).is_err() {
                break;
            }
        }
        // A hundred times what it takes.
        assert!(began.elapsed().as_secs() < 30, "{spec:?}");
    }
}

/// In gpt-oss's format the answer is a message of its own; a grammar of calls lets reasoning through by itself.
#[test]
fn the_grammar_of_an_answer_waits_for_its_channel() {
    let tokenizer = testing::tokenizer("smollm2");
    let grammars = Grammars::new(tokenizer.clone());
    let harmony = ToolFormat::named("harmony").unwrap();
    let markers = ThinkMarkers::choose(ReasoningFormat::Auto, "", harmony).unwrap();
    let spec = GrammarSpec::Regex("ok".to_owned());
    let mut constraint = grammars.compile(&spec).unwrap().after_reasoning(&markers, false);
    let text =
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>";
    let tokens = tokenizer.encode(text, false, true).unwrap();
    tokens.into_iter().for_each(|token| constraint.accept(token).unwrap());
    for token in tokenizer.encode("ok", false, false).unwrap() {
        assert!(!constraint.is_complete());
        constraint.accept(token).unwrap();
    }
    assert!(constraint.is_complete());
    let tool = crate::text::output::Tool { name: "add".to_owned(), parameters: Value::Null };
    let choice = tools::ToolChoice::Required;
    let calls = tools::grammar(&[tool], &choice, false, harmony, &tokenizer).unwrap().unwrap();
    let calls = grammars.compile(&GrammarSpec::ToolCalls(calls)).unwrap();
    let mut calls = calls.after_reasoning(&markers, false);
    let text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant\
                <|channel|>commentary to=functions.add <|constrain|>json<|message|>{}";
    for token in tokenizer.encode(text, false, true).unwrap() {
        calls.accept(token).unwrap();
    }
    assert!(calls.is_complete());
}

#[test]
fn recursive_schemas_and_grammars_work() {
    let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object", "additionalProperties": false, "required": ["v"],
        "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}});
    check("smollm2", &GrammarSpec::JsonSchema(tree.clone()), &|text| {
        jsonschema::is_valid(&tree, &serde_json::from_str(text).unwrap())
    });
}

/// The grammar begins behind the reasoning, which cannot end the answer.
#[test]
fn reasoning_comes_before_the_grammar() {
    let tokenizer = testing::tokenizer("smollm2");
    let grammars = Grammars::new(tokenizer.clone());
    let constraint = grammars.compile(&GrammarSpec::Regex("ok".to_owned())).unwrap();
    let markers = ThinkMarkers::choose(ReasoningFormat::DeepSeek, "", ToolFormat::NONE).unwrap();
    let encode = |text: &str| tokenizer.encode(text, false, true).unwrap();
    let mut opened = constraint.clone().after_reasoning(&markers, true);
    let mut logits = vec![1.0; tokenizer.vocab_size()];
    for token in encode("anything <b> goes</think>") {
        opened.mask(&mut logits).unwrap();
        for (id, logit) in logits.iter().enumerate() {
            let ends = tokenizer.is_end_of_generation(id as u32);
            assert_eq!(*logit == f32::NEG_INFINITY, ends);
        }
        opened.accept(token).unwrap();
    }
    for token in encode("ok") {
        opened.accept(token).unwrap();
    }
    assert!(opened.is_complete());
    // Nothing that opens reasoning is one token here.
    let mut closed = constraint.after_reasoning(&markers, false);
    closed.mask(&mut logits).unwrap();
    let allowed: Vec<usize> = (0..logits.len()).filter(|id| logits[*id].is_finite()).collect();
    assert!(allowed.iter().all(|id| b"ok".starts_with(tokenizer.piece(*id as u32))));
    assert!(!allowed.is_empty());
}

/// Reasoning that the answer opens itself, in a vocabulary that has a token for it.
#[test]
fn an_answer_may_open_reasoning() {
    let tokenizer: Arc<Tokenizer> = testing::tokenizer("gemma-4");
    let grammars = Grammars::new(tokenizer.clone());
    let constraint = grammars.compile(&GrammarSpec::Regex("ok".to_owned())).unwrap();
    let template = "<|channel>thought\n<channel|>";
    let markers = ThinkMarkers::choose(ReasoningFormat::Auto, template, ToolFormat::NONE).unwrap();
    let constraint = constraint.after_reasoning(&markers, false);
    for (text, complete) in [("ok", true), ("<|channel>thought\nhm<channel|>ok", true)] {
        let mut constraint = constraint.clone();
        let mut logits = vec![1.0; tokenizer.vocab_size()];
        for token in tokenizer.encode(text, false, true).unwrap() {
            logits.fill(1.0);
            constraint.mask(&mut logits).unwrap();
            assert!(logits[token as usize].is_finite(), "{text}");
            constraint.accept(token).unwrap();
        }
        assert_eq!(constraint.is_complete(), complete, "{text}");
    }
}
